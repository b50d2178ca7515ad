//! What `finish` and a job do with damaged results and a damaged cache.

use crate::harness::{self, Bench, ended, results};
use crate::place::Place;
use secateurs::pipeline::{Bundle, Measurement, Outcome, PlanFile, Release, Results};
use secateurs::report::{self, Report};
use std::fs;
use std::path::PathBuf;

/// A file of a job's results, without what differs from run to run.
fn result(name: &str) -> Vec<Vec<u8>> {
    let mut place = Place::default();
    let bytes = fs::read(place.bench().0.path("out").join(name)).unwrap();
    if name != "report.json" {
        return vec![bytes];
    }
    let mut report: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    report["seconds"] = serde_json::json!({ "gather": 0.5 });
    vec![serde_json::to_vec_pretty(&report).unwrap()]
}

pub fn plans() -> Vec<Vec<u8>> {
    result("plan.toml")
}

pub fn reports() -> Vec<Vec<u8>> {
    result("report.json")
}

pub fn manifests() -> Vec<Vec<u8>> {
    result("manifest.json")
}

/// What `finish` does with a folder of which one file is another.
pub fn finished(place: &mut Place, name: &str, bytes: &[u8]) {
    let from = place.bench().0.path("out");
    for file in harness::listing(&from) {
        let content = if file == name { bytes.to_vec() } else { fs::read(from.join(&file)).unwrap() };
        place.file(&format!("out/{file}"), &content);
    }
    let out = place.folder.join("out");
    if name == "plan.toml" {
        let _ = std::str::from_utf8(bytes).is_ok_and(|text| toml::from_str::<PlanFile>(text).is_ok());
    }
    if name == "report.json"
        && let Ok(report) = serde_json::from_slice::<Report>(bytes)
    {
        let _ = report::render(&report);
    }
    let model = fs::read(out.join("model.safetensors")).unwrap();
    let binary = place.file("built", &[b"program ", model.as_slice()].concat());
    drop(secateurs::bundle::verify(&out));
    let Ok(results) = Results::open(&out, false) else { return };
    if let Ok(bundle) = Bundle::open(&results, &binary) {
        let outcome = Outcome::Simulated("fuzzed".into());
        let measurement = Measurement { outcome, bench: Vec::new(), onnx: None };
        let _ = bundle.finish(&results, &measurement, None, Release::default());
    }
}

fn cache_file(bench: &Bench, kind: &str) -> PathBuf {
    let names = harness::listing(&bench.path("cache"));
    let name = names.iter().find(|name| name.starts_with(kind)).unwrap_or_else(|| panic!("no {kind} in {names:?}"));
    bench.path("cache").join(name)
}

pub fn cached(kind: &str) -> Vec<Vec<u8>> {
    let mut place = Place::default();
    vec![fs::read(cache_file(place.bench().0, kind)).unwrap()]
}

/// A job whose cache has a damaged entry: it costs time, and nothing else.
pub fn cache(place: &mut Place, kind: &str, bytes: &[u8]) {
    let (bench, expected) = place.bench();
    fs::write(cache_file(bench, kind), bytes).unwrap();
    let (code, text) = ended(&bench.prune(0.3, "out", "cache").output().unwrap());
    assert_eq!(code, 0, "a damaged cache entry ends the job: {}", text.lines().last().unwrap_or_default());
    let model = fs::read(bench.path("out/model.safetensors")).unwrap();
    assert!(model == expected, "a damaged cache entry gives another model");
    assert!(results(&bench.path("out")).is_some_and(|results| results.wrong.is_empty()), "the manifest is wrong");
}
