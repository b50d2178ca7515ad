//! The page that compares the bundles of several targets, by the worker's own command.

use super::report::sample;
use assert_cmd::Command;
use std::fs;

#[test]
fn every_target_has_its_row_whether_it_left_a_bundle_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("host")).unwrap();
    fs::write(path("host/report.json"), serde_json::to_vec(&sample(true)).unwrap()).unwrap();
    let bundle = |name: &str, code: u8, at: &str| format!("{name}={code}={}", path(at).display());
    let page = path("index.html");
    let mut index = Command::new(env!("CARGO_BIN_EXE_secateurs"));
    index.arg("index").arg("--out").arg(&page);
    index.args(["--bundle", &bundle("host", 5, "host"), "--bundle", &bundle("<b>pi", 7, "pi")]);
    index.assert().success();
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.starts_with("<!doctype html>") && text.contains("2 targets: 2 failed"), "{text}");
    for part in ["href=\"host/report.html\"", "exit code 5; the bundle:", "&lt;b&gt;pi", "no bundle (exit code 7)"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The figures are those of the report: 27.0 and 21.3 ms at p50, scaled by the sample's own spread.
    let latency = |stage: Option<&secateurs::report::Stage>| stage.unwrap().latency.as_ref().unwrap().p50_ms;
    let report = sample(true);
    for stage in [Some(&report.baseline), report.tuned.as_ref()] {
        assert!(text.contains(&format!("{:.1} ms", latency(stage))), "{text}");
    }
    fs::write(path("host/report.json"), "{").unwrap();
    let mut damaged = Command::new(env!("CARGO_BIN_EXE_secateurs"));
    damaged.arg("index").arg("--out").arg(&page).args(["--bundle", &bundle("host", 0, "host")]);
    let failed = damaged.assert().code(9);
    assert!(String::from_utf8_lossy(&failed.get_output().stderr).contains("report.json"));
    assert!(fs::read_to_string(&page).unwrap() == text, "a failure leaves the page as it was");
}
