//! The bill of materials: what it says, that it says it again, and that it is CycloneDX 1.6.
//!
//! The schema is that of the Python library of the CycloneDX project, which validates with it: a JSON Schema crate with
//! its sixty dependencies, one of them under a licence that is not on our list, and 300 KB of schema would serve this
//! one test.

use crate::bundles::{CRATES, copy};
use secateurs::bundle::sbom::{Crates, Materials, compose};
use secateurs::bundle::{BINARY, MODEL, SBOM, verify};
use secateurs::model;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_bundle_names_its_crates_and_the_figures_of_its_model() {
    let folder = copy();
    let out = folder.path().join("out");
    let whole = verify(&out).unwrap();
    let bill = read(&out.join(SBOM));
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&json!("CycloneDX"), &json!("1.6")));
    assert!(bill["metadata"].get("timestamp").is_none(), "a time makes every run another");
    let main = &bill["metadata"]["component"];
    assert_eq!((&main["name"], &main["purl"]), (&json!(BINARY), &json!("pkg:cargo/secateurs@0.1.0")));
    assert_eq!(main["hashes"][0]["content"], whole.listed.files[BINARY].as_str());
    let components = bill["components"].as_array().unwrap();
    let of = |name: &str| components.iter().find(|one| one["name"] == name).unwrap();
    let serde = of("serde");
    assert_eq!(serde["licenses"][0]["expression"], "MIT OR Apache-2.0");
    assert_eq!((&serde["scope"], &of("serde_derive")["scope"]), (&json!("required"), &json!("excluded")));
    assert!(serde["hashes"][0]["content"].as_str().unwrap().starts_with("0123"));

    let model = components.iter().find(|one| one["type"] == "machine-learning-model").unwrap();
    assert_eq!(model["hashes"][0]["content"], whole.listed.files[MODEL].as_str());
    let card = &model["modelCard"];
    assert_eq!(card["modelParameters"]["task"], "object-detection");
    assert_eq!(card["modelParameters"]["architectureFamily"], "YOLO11");
    let side = whole.report.imgsz;
    assert_eq!(card["modelParameters"]["inputs"][0]["format"], format!("image, RGB, f32 [1, 3, {side}, {side}]"));
    let metrics = card["quantitativeAnalysis"]["performanceMetrics"].as_array().unwrap();
    let metric = |kind: &str, slice: &str| {
        let found =
            metrics.iter().find(|one| one["type"] == kind && one["slice"].as_str().unwrap_or("").starts_with(slice));
        found.unwrap_or_else(|| panic!("{kind} {slice}"))["value"].as_str().unwrap().parse::<f64>().unwrap()
    };
    let last = whole.report.last();
    assert_eq!(metric("mAP50-95", "repaired"), last.map50_95);
    assert_eq!(metric("mAP50-95", "baseline"), whole.report.baseline.map50_95);
    assert_eq!(metric("latency p99, ms", &whole.report.device), last.latency.as_ref().unwrap().p99_ms);
    assert_eq!(metric("peak memory, bytes", ""), last.peak_memory_bytes as f64);

    // Every reference leads somewhere.
    let known: Vec<&Value> = components.iter().chain([main]).map(|one| &one["bom-ref"]).collect();
    for one in bill["dependencies"].as_array().unwrap() {
        let on = one["dependsOn"].as_array().unwrap();
        assert!(known.contains(&&one["ref"]) && on.iter().all(|to| known.contains(&to)), "{one}");
    }
}

#[test]
fn the_same_bundle_has_the_same_bill_and_a_time_only_where_one_is_given() {
    let folder = copy();
    let out = folder.path().join("out");
    let whole = verify(&out).unwrap();
    let (crates, model) =
        (Crates::parse(CRATES.as_bytes()).unwrap(), model::from_bytes(&out.join(MODEL), &whole.model).unwrap());
    let mut files = whole.listed.files.clone();
    files.remove(SBOM);
    let bill = |files: &_, epoch| {
        let (crates, report, model) = (&crates, &whole.report, &model);
        compose(&Materials { crates, files, inputs: &whole.listed.inputs, report, model, epoch }).unwrap()
    };
    assert_eq!(bill(&files, None), fs::read(out.join(SBOM)).unwrap());
    let serial = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap()["serialNumber"].clone();
    let timed = bill(&files, Some(1_700_000_000));
    assert_eq!(serde_json::from_slice::<Value>(&timed).unwrap()["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
    assert_eq!(serial(&timed), serial(&bill(&files, None)));
    files.insert(BINARY.into(), "0".repeat(64));
    assert_ne!(serial(&timed), serial(&bill(&files, None)), "the bill of another binary");
}

const VALIDATE: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1], encoding='utf-8').read())
sys.exit(f'not valid: {error}' if error else 0)
";

#[test]
fn the_bill_holds_the_schema_of_cyclonedx() {
    let Some(python) = std::env::var_os("SECATEURS_PYTHON") else {
        assert!(std::env::var_os("CI").is_none(), "SECATEURS_PYTHON is not set, and in CI nothing skips");
        eprintln!("skipped: no CycloneDX (set SECATEURS_PYTHON to the interpreter that benches/peers/setup.sh made)");
        crate::notes::add("CycloneDX's library (SECATEURS_PYTHON)");
        return;
    };
    let folder = copy();
    let path = folder.path().join("out").join(SBOM);
    let validate = |bill: &Value| {
        let changed = folder.path().join("bill.json");
        fs::write(&changed, serde_json::to_vec(bill).unwrap()).unwrap();
        let output = Command::new(&python).args(["-c", VALIDATE]).arg(&changed).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let bill = read(&path);
    let (valid, text) = validate(&bill);
    assert!(valid, "{text}");
    let mut timed = bill.clone();
    timed["metadata"]["timestamp"] = "2023-11-14T22:13:20Z".into();
    assert!(validate(&timed).0);
    // The validator sees what is wrong.
    let at = bill["components"].as_array().unwrap().iter().position(|one| one.get("modelCard").is_some()).unwrap();
    for (what, wrong) in
        [("serialNumber", json!("urn:uuid:1")), ("version", json!("one")), ("bomFormat", json!("SPDX"))]
    {
        let mut bad = bill.clone();
        bad[what] = wrong;
        let (valid, text) = validate(&bad);
        assert!(!valid && text.contains("not valid"), "{what}: {text}");
    }
    let mut bad = bill.clone();
    bad["components"][at]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]["value"] = json!(0.5);
    let (valid, text) = validate(&bad);
    assert!(!valid && text.contains("not valid"), "a figure that is no text: {text}");
}
