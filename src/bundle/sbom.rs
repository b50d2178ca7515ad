//! The bill of materials of a bundle: `sbom.cdx.json`, CycloneDX 1.6 as JSON.
//!
//! The inference binary is the main component, with the crates that it was built of: which those are, the driver has
//! asked cargo. The model is a `machine-learning-model` with a model card: task, family, shapes, dataset, and the
//! figures of the report. The same bundle gives the same bytes: the serial number follows from the hashes of its files,
//! and there is a time only where one is given. The format: <https://cyclonedx.org/docs/1.6/json/>.

mod card;

use super::{BASELINE, BINARY, MODEL, digest::sha256};
use crate::model::Model;
use crate::report::Report;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The largest list of crates that is read.
pub const MAX_CRATES: u64 = 16 << 20;

/// The crates that an inference binary was built of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Crates {
    /// Triple of the machine that it was built for.
    pub target: String,
    /// Features of `secateurs` that it was built with.
    pub features: Vec<String>,
    /// The crates; the first is the package of the binary.
    pub crates: Vec<Crate>,
}

/// A crate of an inference binary.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, an SPDX expression, where the package names one.
    pub license: Option<String>,
    /// Where it comes from as in `Cargo.lock`; none for a folder.
    pub source: Option<String>,
    /// SHA-256 of the package's archive, from `Cargo.lock`; none for a folder or a repository.
    pub sha256: Option<String>,
    /// Whether it ran while the binary was built, and is not part of it: a procedural macro, and what only those need.
    pub build_only: bool,
    /// Positions of the crates that it depends on.
    pub dependencies: Vec<usize>,
}

impl Crates {
    /// Reads the list that the driver wrote.
    ///
    /// # Errors
    /// If it is no such list, is empty, or points outside of itself.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(json).map_err(|e| format!("is no list of crates: {e}"))?;
        if read.crates.is_empty() {
            return Err("has no crates: the first must be the package of the binary".into());
        }
        let count = read.crates.len();
        for one in &read.crates {
            if let Some(wrong) = one.dependencies.iter().find(|at| **at >= count) {
                return Err(format!("{} depends on crate {wrong}, but there are {count}", one.name.escape_debug()));
            }
            let digits = |text: &String| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            if one.sha256.as_ref().is_some_and(|text| !digits(text)) {
                return Err(format!("the SHA-256 of {} is none: expected 64 hex digits", one.name.escape_debug()));
            }
        }
        Ok(read)
    }
}

/// What a bill of materials is made of.
pub struct Materials<'a> {
    /// The crates of the inference binary.
    pub crates: &'a Crates,
    /// SHA-256 by name of the other files of the bundle.
    pub files: &'a BTreeMap<String, String>,
    /// SHA-256 of what went in, by `model` and `data`.
    pub inputs: &'a BTreeMap<String, String>,
    /// The figures.
    pub report: &'a Report,
    /// The model that ships.
    pub model: &'a Model,
    /// When it is made, seconds since 1970; without it the bill has no time (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<u64>,
}

/// Writes the bill of materials.
///
/// # Errors
/// Those of the serialiser.
pub fn compose(materials: &Materials) -> Result<Vec<u8>, serde_json::Error> {
    let Materials { crates, files, report, .. } = *materials;
    let mut metadata = json!({
        "lifecycles": [{ "phase": "build" }],
        "tools": { "components": [{ "type": "application", "name": "secateurs", "version": report.version }] },
        "component": binary(materials),
    });
    if let (Some(epoch), Some(metadata)) = (materials.epoch, metadata.as_object_mut()) {
        metadata.insert("timestamp".into(), timestamp(epoch).into());
    }
    let mut components: Vec<Value> = crates.crates.iter().skip(1).map(library).collect();
    components.extend(card::components(materials));
    let mut dependencies: Vec<Value> = (0..crates.crates.len()).map(|at| dependency(crates, at)).collect();
    dependencies.push(json!({ "ref": MODEL, "dependsOn": [card::DATASET] }));
    dependencies.push(json!({ "ref": card::DATASET, "dependsOn": [] }));
    let bill = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", serial(files, crates)),
        "version": 1,
        "metadata": metadata,
        "components": components,
        "dependencies": dependencies,
        "compositions": [{ "aggregate": "complete", "dependencies": [BINARY] }],
    });
    serde_json::to_vec_pretty(&bill)
}

/// The main component.
fn binary(materials: &Materials) -> Value {
    let Materials { crates, files, report, .. } = *materials;
    let package = &crates.crates[0];
    let mut component = described(package, "application");
    component.insert("bom-ref".into(), BINARY.into());
    component.insert("name".into(), BINARY.into());
    component
        .insert("description".into(), format!("inference binary for {} with the model embedded", report.target).into());
    component.insert("hashes".into(), hashes(files.get(BINARY)));
    component.insert(
        "properties".into(),
        json!([
            { "name": "secateurs:target", "value": report.target },
            { "name": "secateurs:triple", "value": crates.target },
            { "name": "secateurs:features", "value": crates.features.join(",") },
        ]),
    );
    component.into()
}

/// A crate as a component.
fn library(one: &Crate) -> Value {
    let mut component = described(one, "library");
    component.insert("bom-ref".into(), reference(one).into());
    component.insert("name".into(), one.name.clone().into());
    // Those that only ran at build time are named, and are not in the binary.
    component.insert("scope".into(), if one.build_only { "excluded" } else { "required" }.into());
    if one.sha256.is_some() {
        component.insert("hashes".into(), hashes(one.sha256.as_ref()));
    }
    component.into()
}

/// What a package says about itself.
fn described(one: &Crate, kind: &str) -> Map<String, Value> {
    let mut component = Map::new();
    component.insert("type".into(), kind.into());
    component.insert("version".into(), one.version.clone().into());
    component.insert("purl".into(), purl(one).into());
    if let Some(license) = &one.license {
        // `/` is the old way to write `OR`.
        let expression = license.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ");
        component.insert("licenses".into(), json!([{ "expression": expression }]));
    }
    component
}

/// The package URL: <https://github.com/package-url/purl-spec>. A source that is not crates.io is a qualifier.
fn purl(one: &Crate) -> String {
    let escape = |text: &str| -> String {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_~".contains(&b);
        text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
    };
    let plain = format!("pkg:cargo/{}@{}", escape(&one.name), escape(&one.version));
    match one.source.as_deref() {
        Some(git) if git.starts_with("git+") => format!("{plain}?vcs_url={}", escape(git)),
        Some(other) if !other.contains("crates.io") => format!("{plain}?repository_url={}", escape(other)),
        _ => plain,
    }
}

/// A name that no other component has: two versions, and two sources, of a crate can be in one binary.
fn reference(one: &Crate) -> String {
    match &one.source {
        Some(source) => format!("{source}#{}@{}", one.name, one.version),
        None => format!("path#{}@{}", one.name, one.version),
    }
}

fn dependency(crates: &Crates, at: usize) -> Value {
    let reference = |at: usize| if at == 0 { BINARY.to_owned() } else { reference(&crates.crates[at]) };
    let mut on: Vec<String> = crates.crates[at].dependencies.iter().map(|at| reference(*at)).collect();
    if at == 0 {
        on.push(MODEL.into());
    }
    on.sort();
    on.dedup();
    json!({ "ref": reference(at), "dependsOn": on })
}

fn hashes(sha256: Option<&String>) -> Value {
    sha256.map_or_else(|| json!([]), |hash| json!([{ "alg": "SHA-256", "content": hash }]))
}

/// A UUID of version 8 (RFC 9562) from the hashes of everything that the bill is about.
fn serial(files: &BTreeMap<String, String>, crates: &Crates) -> String {
    let files = files.iter().map(|(name, hash)| format!("{name} {hash}\n"));
    let crates =
        crates.crates.iter().map(|one| format!("{} {}\n", reference(one), one.sha256.as_deref().unwrap_or("-")));
    let digest = sha256(files.chain(crates).collect::<String>().as_bytes());
    let (a, b, c, d, e) = (&digest[..8], &digest[8..12], &digest[13..16], &digest[17..20], &digest[20..32]);
    // Version and variant stand in the places of two digits.
    format!("{a}-{b}-8{c}-8{d}-{e}")
}

/// A time as RFC 3339 has it, by the civil calendar: <https://howardhinnant.github.io/date_algorithms.html>.
fn timestamp(epoch: u64) -> String {
    let (days, second) = ((epoch / 86_400) as i64, epoch % 86_400);
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (epoch, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(epoch), expected);
        }
    }

    #[test]
    fn a_list_of_crates_points_into_itself() {
        let one = |dependencies: &str, sha256: &str| {
            let json = format!(
                r#"{{"target": "t", "features": [], "crates": [{{"name": "a", "version": "1.0.0+b", "license": null,
                "source": null, "sha256": {sha256}, "build-only": false, "dependencies": {dependencies}}}]}}"#
            );
            Crates::parse(json.as_bytes())
        };
        let read = one("[0]", "null").unwrap();
        assert_eq!(purl(&read.crates[0]), "pkg:cargo/a@1.0.0%2Bb");
        assert!(one("[1]", "null").unwrap_err().contains("a depends on crate 1, but there are 1"));
        assert!(one("[]", r#""abc""#).unwrap_err().contains("expected 64 hex digits"));
        assert!(Crates::parse(b"{}").unwrap_err().contains("is no list of crates"));
        let none = br#"{"target": "t", "features": [], "crates": []}"#;
        assert!(Crates::parse(none).unwrap_err().contains("has no crates"));
    }
}
