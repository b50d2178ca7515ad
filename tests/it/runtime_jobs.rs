//! Whole jobs whose networks run in another runtime: table, plan, verdict and accuracy are those of a stand-in for
//! `trtexec` on a device that a stand-in for `ssh` reaches, and what fails there ends the job with its code.

use crate::onnx::python;
use crate::results::built;
use crate::runtimes::Device;
use prost::Message;
use secateurs::data::demo;
use secateurs::emit::onnx::proto::ModelProto;
use secateurs::emit::onnx::tensorrt::refused;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A device behind `ssh`: its last argument is the script. Calls of the program that drives trtexec are counted, and those
/// whose number is in a file are dropped; a file `gone` drops everything.
struct Board {
    device: Device,
    yaml: PathBuf,
}

impl Board {
    fn new() -> Self {
        let device = Device::new();
        let ssh = format!(
            "#!/bin/sh\nfor last; do :; done\n[ -e '{0}/gone' ] && exit 255\ncase \"$last\" in *--fp16*|*build*|*\"'time'\"*)\n  \
             n=$(($(cat '{0}/count' 2>/dev/null || echo 0) + 1)); echo $n > '{0}/count'\n  grep -qx $n '{0}/drops' 2>/dev/null \
             && exit 255 ;;\nesac\ncd '{0}/home' && exec sh -c \"$last\"\n",
            device.folder.path().display()
        );
        for name in ["bin", "home"] {
            fs::create_dir_all(device.path(name)).unwrap();
        }
        fs::write(device.path("bin/ssh"), ssh).unwrap();
        fs::set_permissions(device.path("bin/ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        // Few validation pictures: each is a run of trtexec.
        let yaml = demo::write(&device.path("set"), 24, 12).unwrap();
        Self { device, yaml }
    }

    /// A profile with this for its model and budgets.
    fn profile(&self, more: &str) {
        let text = format!("[device]\nname = 'board'\n[connect]\nkind = 'ssh'\nhost = 'board'\n{more}");
        fs::write(self.device.path("board.toml"), text + &self.device.bench()).unwrap();
    }

    fn run(&self, line: &str) -> (i32, String) {
        let path = format!("{}:{}", self.device.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_secateurs"));
        command.current_dir(self.device.folder.path()).env("PATH", path).args(line.split_whitespace());
        let output = command.output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), text)
    }

    fn prune(&self, more: &str) -> (i32, String) {
        let infer = env!("CARGO_BIN_EXE_secateurs-infer");
        let job = "prune --profile board.toml --epochs 0 --calibration-images 16 --out out --cache cache";
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pipeline/demo.safetensors");
        self.run(&format!("{job} --binary {infer} --model {model} --data {} {more}", self.yaml.display()))
    }

    fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(self.device.path("out/report.json")).unwrap()).unwrap()
    }
}

#[test]
fn a_job_is_planned_judged_and_evaluated_in_the_runtime() {
    let Some(python) = python() else { return };
    let board = Board::new();
    board.device.computes_by(&python);
    board.profile("[budget]\nlatency-ratio = 0.8\nmax-map-drop = 0.9\n");
    // The connection drops in two builds and a measurement.
    fs::write(board.device.path("drops"), "2\n5\n9\n").unwrap();
    let (code, text) = board.prune("");
    assert_eq!(code, 0, "{text}");
    let report = board.report();
    assert!(report["device"].as_str().unwrap().contains("TensorRT 10.3.0"), "{}", report["device"]);
    let runtime = &report["runtime"];
    assert_eq!(runtime["name"], "TensorRT 10.3.0");
    for (there, here) in [(&runtime["uncut"], &report["uncut"]), (&runtime["last"], &report["repaired"])] {
        let [there, here] = [there, here].map(|stage| stage["map50_95"].as_f64().unwrap());
        assert!((there - here).abs() < 0.003, "{there} there, {here} here");
    }
    // The stand-in is as fast as its file is small.
    let ratio = report["verdict"]["latency_ratio"].as_f64().unwrap();
    assert!(ratio > 0.4 && ratio <= 0.8, "{ratio}");
    assert!(report["verdict"]["sentences"].to_string().contains("lower, at most 0.9000 in TensorRT 10.3.0"));
    assert!(report["layers"].as_array().unwrap().len() > 30 && report["table_errors"][0].as_f64().unwrap() < 0.5);
    assert!(fs::read_to_string(board.device.path("out/report.html")).unwrap().contains("<h2>In TensorRT 10.3.0</h2>"));
    // A second run takes table and engines from the first.
    let built_first = board.device.calls("--saveEngine").len();
    assert!(built_first > 15, "{built_first}");
    let (code, text) = board.prune("");
    assert!(code == 0 && text.contains("kept from an earlier run"), "{text}");
    assert_eq!(board.device.calls("--saveEngine").len(), built_first, "every engine was kept");
    // The bundle is measured there as well, and ships what TensorRT reads.
    built(&board.device.path("built"), &board.device.path("out/model.safetensors"));
    let (code, text) = board.run("finish --out out --binary built");
    assert_eq!(code, 0, "{text}");
    let report = board.report();
    assert!(report["runtime"]["last"]["map50_95"].is_number() && report["repaired"]["p50_ms"].is_number());
    let onnx = ModelProto::decode(&fs::read(board.device.path("out/model.onnx")).unwrap()[..]).unwrap();
    assert_eq!(refused(&onnx), Vec::<String>::new());
    // Nothing stays on the board but its engines.
    let home: Vec<_> = fs::read_dir(board.device.path("home")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(home.is_empty(), "{home:?}");
}

#[test]
fn int8_is_judged_by_what_tensorrt_makes_of_it() {
    let Some(python) = python() else { return };
    let board = Board::new();
    board.device.computes_by(&python);
    board.profile("[budget]\nlatency-ratio = 0.5\nmax-map-drop = 0.9\n[model]\ndtype = 'int8'\n");
    let (code, text) = board.prune("");
    assert_eq!(code, 0, "{text}");
    let report = board.report();
    let [there, here] = [&report["runtime"]["last"], &report["rounded"]].map(|s| s["map50_95"].as_f64().unwrap());
    assert!(here > 0.1 && (there - here).abs() < 0.003, "{there} there, {here} here");
    assert!(board.device.calls("--int8").iter().all(|call| call.contains("--fp16")));
    let model = secateurs::model::load(&board.device.path("out/model.safetensors")).unwrap();
    let ranges = &model.info.ranges;
    let centred = |[low, high]: &[f32; 2]| (low * 127.0 + high * 128.0).abs() <= 1e-3 * high.abs();
    assert!(!ranges.is_empty() && ranges.values().all(centred), "TensorRT takes zero points of zero only");
}

#[test]
fn what_fails_on_the_board_ends_the_job_with_its_code() {
    let board = Board::new();
    board.profile("[budget]\nlatency-ratio = 0.8\n");
    let fails = |mode: &str, code: i32, expected: &str| {
        board.device.is(&[mode]);
        let _ = fs::remove_dir_all(board.device.path("engines"));
        let (found, text) = board.prune("");
        assert!(found == code && text.contains(expected), "{mode}: {found}, expected {code} `{expected}`\n{text}");
        assert!(!board.device.path("out/report.json").exists() && !text.contains("internal error"), "{mode}\n{text}");
    };
    fails("unsupported", 9, "TensorRT does not take the layer `model.0/gate` (Sigmoid)");
    fails("memory-build", 7, "TensorRT ran out of memory on the device");
    fails("broken", 7, "TensorRT builds no engine of the network");
    fails("garbage", 7, "TensorRT: its output cannot be read");
    fs::write(board.device.path("gone"), "").unwrap();
    fails("version v8601", 7, "board: cannot be reached");
    fs::remove_file(board.device.path("gone")).unwrap();
    fs::remove_file(board.device.path("trtexec")).unwrap();
    for dry in ["", "--dry-run"] {
        let (code, text) = board.prune(dry);
        assert!(code == 7 && text.contains("TensorRT is not on the device"), "{dry}: {code} {text}");
    }
    // A board that is only emulated runs no TensorRT: plans rest on the estimate, and nothing is claimed.
    let text = fs::read_to_string(board.device.path("board.toml")).unwrap();
    let text = text.replace("kind = 'ssh'\nhost = 'board'", "kind = 'command'\ncommand = ['qemu-x']");
    let figures = "name = 'board'\ncore-gflops = 8.0\nbandwidth-gb-s = 8.0\n";
    fs::write(board.device.path("board.toml"), text.replace("name = 'board'\n", figures)).unwrap();
    let (code, text) = board.run("prune --profile board.toml --epochs 0 --calibration-images 16 --out out --dry-run");
    assert!(code == 0 && text.contains("it is emulated; latency is estimated"), "{code} {text}");
}
