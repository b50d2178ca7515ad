//! A short job whose results are the same to the bit in every run: a small detector, six drawn pictures, and a board
//! that cannot be reached, so that latency is estimated and nothing depends on a clock.
#![allow(dead_code)]

use secateurs::data::demo;
use secateurs::engine::{Options, plan_memory};
use secateurs::graph::{Activation, Builder, Conv, Graph, Head, NodeId, Norm, Op};
use secateurs::model::{self, Info, Model};
use secateurs::train::init;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Side of the images, pixels.
pub const SIDE: usize = 64;

/// Bins of the box distribution.
const REG_MAX: usize = 16;

/// Channels of the layers that are pruned: the two first ones, the third, and one of either branch.
const WIDTHS: [usize; 5] = [16, 16, 24, 16, 16];

/// The same, as narrow as the default grid allows.
const NARROWEST: [usize; 5] = [8; 5];

/// A detector of three classes with a residual block and one level at stride 8.
pub fn graph() -> Graph {
    graph_of(WIDTHS)
}

fn graph_of([wa, wb, wc, wd, we]: [usize; 5]) -> Graph {
    let mut graph = Builder::default();
    let conv = |graph: &mut Builder, name: &str, from: NodeId, [c_in, c_out, kernel, stride]: [usize; 4]| {
        let op = Op::Conv(Conv {
            weight: format!("{name}.conv.weight"),
            bias: None,
            norm: Some(Norm { prefix: format!("{name}.bn"), eps: 1e-3 }),
            c_in,
            c_out,
            kernel,
            stride,
            padding: kernel / 2,
            groups: 1,
            act: Activation::Silu,
        });
        graph.push(name, op, &[from])
    };
    let last = |graph: &mut Builder, name: &str, from: NodeId, [c_in, c_out]: [usize; 2]| {
        let (weight, bias) = (format!("{name}.weight"), Some(format!("{name}.bias")));
        let (kernel, stride, padding, groups, act) = (1, 1, 0, 1, Activation::Identity);
        let op = Op::Conv(Conv { weight, bias, norm: None, c_in, c_out, kernel, stride, padding, groups, act });
        graph.push(name, op, &[from])
    };
    let image = graph.push("images", Op::Input { channels: 3 }, &[]);
    let a = conv(&mut graph, "a", image, [3, wa, 3, 2]);
    let b = conv(&mut graph, "b", a, [wa, wb, 3, 2]);
    let b1 = conv(&mut graph, "b1", b, [wb, wb, 3, 1]);
    let b2 = graph.push("b2", Op::Add, &[b, b1]);
    let c = conv(&mut graph, "c", b2, [wb, wc, 3, 2]);
    let box0 = conv(&mut graph, "box0", c, [wc, wd, 3, 1]);
    let boxes = last(&mut graph, "box1", box0, [wd, 4 * REG_MAX]);
    let class0 = conv(&mut graph, "class0", c, [wc, we, 1, 1]);
    let classes = last(&mut graph, "class1", class0, [we, 3]);
    graph.finish(vec![boxes, classes], Head::Detect { nc: 3, reg_max: REG_MAX, strides: vec![8] }).unwrap()
}

/// A memory budget, MiB: such a share of the way from the narrowest network to the whole one. How much either takes depends on
/// the kernels of this processor.
pub fn memory(share: f64) -> f64 {
    let options = Options { threads: 1, ..Options::default() };
    let bytes = |widths| plan_memory(&graph_of(widths), SIDE, SIDE, &options).unwrap().total() as f64;
    let [least, whole] = [NARROWEST, WIDTHS].map(|widths| bytes(widths) / f64::from(1 << 20));
    least + share * (whole - least)
}

/// The detector with fresh weights.
pub fn model() -> Model {
    let graph = graph();
    let weights = init(&graph, 1);
    let names = demo::NAMES.map(str::to_owned).to_vec();
    Model::new(graph, weights, Info { names, imgsz: Some(SIDE.into()), ..Info::default() }).unwrap()
}

/// Everything a job needs, in a folder that goes with it.
pub struct Bench {
    pub folder: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("in")).unwrap();
        model::save(&model(), &path("in/model.safetensors")).unwrap();
        demo::write(&path("in/data"), 4, 2).unwrap();
        let board = "[device]\ncore-gflops = 8.0\nbandwidth-gb-s = 8.0\n[connect]\nkind = 'command'\n\
                     command = ['qemu-x']\n[finetune]\ncontrol = false\n";
        fs::write(path("in/board.toml"), board).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        // Where temporary folders are links, the kernel names the place behind them.
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// `prune` within a share of the memory, as [`memory`] counts it, into a folder, with a cache.
    pub fn prune(&self, share: f64, out: &str, cache: &str) -> Command {
        self.prune_at("64", memory(share), out, cache)
    }

    /// As [`Bench::prune`], for images of a size, within so many MiB.
    pub fn prune_at(&self, imgsz: &str, memory_mib: f64, out: &str, cache: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
        command.args(["prune", "--imgsz", imgsz, "--epochs", "1", "--calibration-images", "4", "--memory-mib"]);
        command.arg(memory_mib.to_string());
        let data = demo_yaml(&self.path("in/data"));
        let paths = [("--profile", self.path("in/board.toml")), ("--model", self.path("in/model.safetensors"))];
        for (flag, path) in paths.into_iter().chain([("--data", data)]) {
            command.arg(flag).arg(path);
        }
        command.arg("--out").arg(self.path(out)).arg("--cache").arg(self.path(cache));
        command.env("CANDLE_NUM_THREADS", "1").env_remove("CI").current_dir(self.path("in"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

fn demo_yaml(folder: &Path) -> PathBuf {
    let found = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    found.into_iter().find(|path| path.extension().is_some_and(|e| e == "yaml")).unwrap()
}

/// Exit code (128 and the signal, where it ended by one), and what was printed.
pub fn ended(output: &Output) -> (i32, String) {
    use std::os::unix::process::ExitStatusExt;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let status = output.status;
    (status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)), text)
}

/// What a job left behind: the files that are the same in every run, and whether the manifest agrees with all.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    /// Content hashes by name; of the report without the seconds that its stages took.
    pub files: BTreeMap<String, String>,
    /// What the manifest says wrongly, or nothing.
    pub wrong: Vec<String>,
}

/// The results in a folder; none where there are no files in it.
pub fn results(out: &Path) -> Option<Results> {
    let mut files = BTreeMap::new();
    for name in ["model.safetensors", "uncut.safetensors", "plan.toml", "report.json"] {
        let Ok(bytes) = fs::read(out.join(name)) else { continue };
        let bytes = match name {
            "report.json" => match serde_json::from_slice::<Value>(&bytes) {
                Ok(mut report) => {
                    report.as_object_mut().and_then(|fields| fields.remove("seconds"));
                    report.to_string().into_bytes()
                }
                Err(_) => bytes,
            },
            _ => bytes,
        };
        files.insert(name.to_owned(), sha256(&bytes));
    }
    if !out.join("manifest.json").exists() && files.is_empty() {
        return None;
    }
    let manifest = fs::read(out.join("manifest.json")).unwrap_or_default();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap_or_default();
    let mut wrong = Vec::new();
    let listed = manifest["files"].as_object().cloned().unwrap_or_default();
    for name in ["model.safetensors", "uncut.safetensors", "plan.toml", "report.json", "report.html"] {
        let found = fs::read(out.join(name)).map(|bytes| sha256(&bytes)).unwrap_or_default();
        let said = listed.get(name).and_then(Value::as_str).unwrap_or_default();
        if found.is_empty() || said != found {
            wrong.push(format!("{name}: manifest says `{said:.8}`, the file is `{found:.8}`"));
        }
    }
    Some(Results { files, wrong })
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The names of everything below a folder, in order.
pub fn listing(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                waiting.push(entry.path());
            }
            names.push(entry.path().strip_prefix(folder).unwrap().to_string_lossy().into_owned());
        }
    }
    names.sort();
    names
}

/// Compiles the preload shim that makes file operations fail.
pub fn shim(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
    let library = folder.join("shim.so");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(&compiler).args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    assert!(status.expect("a C compiler (cc) compiles the shim").success(), "the shim does not compile");
    library
}

/// A fault that the shim shall make.
pub struct Fault<'a> {
    pub library: &'a Path,
    /// Operations below this folder count.
    pub root: &'a Path,
    pub op: &'a str,
    /// Which one, from 1; 0 only counts.
    pub number: usize,
    pub errno: &'a str,
    /// Whether all that follow fail too.
    pub sticky: bool,
    pub log: &'a Path,
}

impl Fault<'_> {
    /// Runs a command under the shim; every operation that was counted.
    pub fn run(&self, mut command: Command) -> (i32, String, Vec<String>) {
        let _ = fs::remove_file(self.log);
        command
            .env("LD_PRELOAD", self.library)
            .env("SECATEURS_FAULT_ROOT", self.root)
            .env("SECATEURS_FAULT_OP", self.op);
        command.env("SECATEURS_FAULT_N", self.number.to_string()).env("SECATEURS_FAULT_ERRNO", self.errno);
        command.env("SECATEURS_FAULT_LOG", self.log);
        if self.sticky {
            command.env("SECATEURS_FAULT_STICKY", "1");
        }
        let (code, text) = ended(&command.output().unwrap());
        let log = fs::read_to_string(self.log).unwrap_or_default();
        (code, text, log.lines().map(str::to_owned).collect())
    }
}
