//! What is done with an input of each kind, as the programs do it. An error is an answer; a panic, a wrong exit code or
//! endless work is a finding.

use crate::harness::{self, Bench, ended, results};
use crate::mutate::{Rng, mutate};
use crate::{json, pickle, seeds};
use secateurs::bench::{TableSpec, time_table};
use secateurs::data::Dataset;
use secateurs::detector::{Predictor, input_side};
use secateurs::device::{DeviceError, Limits, Runner, Word};
use secateurs::emit::onnx;
use secateurs::engine::{Device, Options, plan_memory};
use secateurs::eval::Prepared;
use secateurs::group::groups;
use secateurs::import;
use secateurs::model::{self, Model};
use secateurs::pipeline::{Bundle, Evidence, Outcome, PlanFile, Results};
use secateurs::profile::{self, Profile};
use secateurs::report::{self, Report};
use secateurs::session::{Frames, Session};
use secateurs::vision::{Image, Letterbox};
use std::fs;
use std::path::{Path, PathBuf};
use zip::CompressionMethod;

/// A kind of input.
pub struct Target {
    pub name: &'static str,
    /// What the mutations start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of the format.
    tokens: &'static [&'static [u8]],
    how: How,
    /// Uses an input, with a folder for files.
    pub run: fn(&mut Place, &[u8]),
}

enum How {
    Bytes,
    Pickle,
    Json,
    /// A length of eight bytes, then JSON (with more JSON in its texts), then the rest.
    Safetensors,
}

/// Where a target keeps its files, made once.
#[derive(Default)]
pub struct Place {
    folder: PathBuf,
    bench: Option<Bench>,
    model: Vec<u8>,
}

impl Place {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, ..Self::default() }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.join(name);
        if !path.parent().unwrap().exists() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A dataset with one picture.
    fn dataset(&self) -> PathBuf {
        let yaml = self.folder.join("set/data.yaml");
        if !yaml.exists() {
            self.file("set/images/train/0.png", &seeds::images()[2]);
            self.file("set/labels/train/0.txt", &seeds::labels()[0]);
            self.file("set/list.txt", &seeds::lists()[0]);
            self.file("set/data.yaml", &seeds::datasets()[0]);
        }
        yaml
    }

    /// A job's results, and its cache.
    fn bench(&mut self) -> &Bench {
        if self.bench.is_none() {
            let bench = Bench::new();
            let (code, text) = ended(&bench.prune(0.36, "out", "cache").output().unwrap());
            assert_eq!(code, 0, "{text}");
            self.model = fs::read(bench.path("out/model.safetensors")).unwrap();
            self.bench = Some(bench);
        }
        self.bench.as_ref().unwrap()
    }
}

impl Target {
    /// Input number `input`: the same for the same seed.
    pub fn input(&self, seeds: &[Vec<u8>], seed: u64, input: u64) -> Vec<u8> {
        let mut rng = Rng::of(seed, self.name, input);
        // The first inputs are the seeds themselves.
        if let Some(seed) = seeds.get(input as usize) {
            return seed.clone();
        }
        let mut bytes = seeds[rng.below(seeds.len())].clone();
        match self.how {
            How::Pickle => pickle::mutate(&mut bytes, seeds, &mut rng),
            How::Safetensors if rng.below(4) > 0 => {
                let length = bytes.first_chunk().map_or(0, |n| u64::from_le_bytes(*n) as usize);
                let header = bytes.get(8..8 + length).unwrap_or_default().to_vec();
                let header = if rng.below(2) == 0 {
                    let mut header = header;
                    mutate(&mut header, &[], self.tokens, &mut rng);
                    header
                } else {
                    header_as_json(&header, &mut rng)
                };
                let body = bytes.split_off((8 + length).min(bytes.len()));
                bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &body].concat();
            }
            How::Json if rng.below(2) == 0 => {
                if let Ok(mut value) = serde_json::from_slice(&bytes) {
                    json::mutate(&mut value, &mut rng);
                    bytes = value.to_string().into_bytes();
                }
            }
            _ => mutate(&mut bytes, seeds, self.tokens, &mut rng),
        }
        bytes
    }
}

/// A header that stays JSON; often it is the graph in it that changes.
fn header_as_json(header: &[u8], rng: &mut Rng) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(header) else { return header.to_vec() };
    let key = ["secateurs.graph", "secateurs.graph", "secateurs.graph", "secateurs.info", ""][rng.below(5)];
    let inner = value.pointer_mut(&format!("/__metadata__/{key}"));
    match inner.and_then(|text| serde_json::from_str(text.as_str()?).ok().map(|parsed| (text, parsed))) {
        Some((text, mut parsed)) => {
            json::mutate(&mut parsed, rng);
            *text = parsed.to_string().into();
        }
        None => json::mutate(&mut value, rng),
    }
    value.to_string().into_bytes()
}

const JSON: &[&[u8]] = &[
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"\"a\":1,",
    b"1e400",
    b"-1",
    b"\"\\ud800\"",
    b"\"\\u0000\"",
    b"[0,0]",
    b"[[",
    b"{\"a\":",
];
const GRAPH: &[&[u8]] = &[
    b"\\\"inputs\\\":[]",
    b"\\\"inputs\\\":[0]",
    b"\\\"inputs\\\":[4294967295]",
    b"\\\"op\\\":\\\"concat\\\"",
    b"\\\"op\\\":\\\"add\\\"",
    b"\\\"int8\\\"",
    b"\\\"f16\\\"",
    b"\\\"outputs\\\":[]",
    b"18446744073709551615",
    b"\\\"stride\\\":0",
    b"\\\"groups\\\":0",
    b"1048576",
    b"[[",
    b"\\u0000",
];
const TOML: &[&[u8]] = &[
    b"[budget]\n",
    b"[model]\n",
    b"latency-ratio = 0\n",
    b"[[",
    b"]]",
    b"''' ",
    b"\"\"\"",
    b"inf",
    b"nan",
    b"1979-05-27",
    b"a.b.c = ",
    b"{ x = ",
    b"imgsz = [",
    b"-9223372036854775808",
    b"\\u0000",
];
const YAML: &[&[u8]] = &[
    b"names:\n",
    b"names: null\n",
    b"- ",
    b"? ",
    b"&a [*a]",
    b"<<: *a\n",
    b"!!binary ",
    b"|\n",
    b">-\n",
    b"---\n",
    b"...\n",
    b"{",
    b"[",
    b"~",
    b"nc: ",
    b"train: ",
    b"0: ",
    b"path: ../",
    b"\t",
];
const LABELS: &[&[u8]] =
    &[b"0 0.5 0.5 0.5 0.5\n", b"NaN ", b"inf ", b"-1 ", b"1e-45 ", b", ", b"\0", b"99999999999999999999 ", b"0.5 "];
const LISTS: &[&[u8]] = &[b"images/train/0.png\n", b"./", b"../", b"\n\n", b"0.png", b".txt", b"\0"];
const IMAGE: &[&[u8]] = &[
    b"IHDR",
    b"IDAT",
    b"IEND",
    b"PLTE",
    b"tRNS",
    b"\xff\xd8",
    b"\xff\xc0",
    b"\xff\xda",
    b"\xff\xc4",
    b"\xff\xdd\x00\x04",
    b"Exif\0\0",
];
const IDX: &[&[u8]] = &[b"\0\0\x08\x03", b"\x10\0\0\0", b"\0\0\0\x01", b"\x1f\x8b\x08\0"];

/// All kinds.
pub const TARGETS: &[Target] = &[
    Target { name: "checkpoint", seeds: seeds::pickles, tokens: &[], how: How::Pickle, run: checkpoint },
    Target {
        name: "zip",
        seeds: seeds::archives,
        tokens: &[b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"m/data.pkl"],
        how: How::Bytes,
        run: foreign,
    },
    Target { name: "tensors", seeds: seeds::tensors, tokens: JSON, how: How::Safetensors, run: foreign },
    Target { name: "model", seeds: seeds::models, tokens: GRAPH, how: How::Safetensors, run: own },
    Target { name: "profile", seeds: seeds::profiles, tokens: TOML, how: How::Bytes, run: profile },
    Target { name: "dataset", seeds: seeds::datasets, tokens: YAML, how: How::Bytes, run: dataset },
    Target { name: "labels", seeds: seeds::labels, tokens: LABELS, how: How::Bytes, run: labels },
    Target { name: "list", seeds: seeds::lists, tokens: LISTS, how: How::Bytes, run: list },
    Target { name: "annotations", seeds: seeds::annotations, tokens: JSON, how: How::Json, run: annotations },
    Target { name: "idx", seeds: seeds::idx, tokens: IDX, how: How::Bytes, run: idx },
    Target { name: "image", seeds: seeds::images, tokens: IMAGE, how: How::Bytes, run: image },
    Target { name: "device", seeds: seeds::devices, tokens: JSON, how: How::Json, run: device },
    Target { name: "window", seeds: seeds::windows, tokens: JSON, how: How::Json, run: window },
    Target { name: "times", seeds: seeds::times, tokens: JSON, how: How::Json, run: times },
    Target { name: "table", seeds: seeds::tables, tokens: JSON, how: How::Json, run: table },
    Target {
        name: "plan",
        seeds: plans,
        tokens: TOML,
        how: How::Bytes,
        run: |place, bytes| finished(place, "plan.toml", bytes),
    },
    Target {
        name: "report",
        seeds: reports,
        tokens: JSON,
        how: How::Json,
        run: |place, bytes| finished(place, "report.json", bytes),
    },
    Target {
        name: "manifest",
        seeds: manifests,
        tokens: JSON,
        how: How::Json,
        run: |place, bytes| finished(place, "manifest.json", bytes),
    },
    Target {
        name: "cache-importance",
        seeds: || cached("importance-"),
        tokens: JSON,
        how: How::Json,
        run: |place, bytes| cache(place, "importance-", bytes),
    },
    Target {
        name: "cache-latency",
        seeds: || cached("latency-"),
        tokens: JSON,
        how: How::Json,
        run: |place, bytes| cache(place, "latency-", bytes),
    },
    Target {
        name: "cache-tuned",
        seeds: || cached("tuned-"),
        tokens: JSON,
        how: How::Safetensors,
        run: |place, bytes| cache(place, "tuned-", bytes),
    },
];

/// The sizes up to which a network is also run: what is larger takes long by right.
const MAX_BYTES: usize = 64 << 20;
const MAX_MACS: usize = 20_000_000;

fn checkpoint(_: &mut Place, bytes: &[u8]) {
    foreign(&mut Place::default(), &pickle::archive(bytes, CompressionMethod::Stored));
}

fn foreign(_: &mut Place, bytes: &[u8]) {
    if let Ok(model) = import::from_bytes(Path::new("fuzz.pt"), bytes) {
        look(&model);
    }
}

fn own(_: &mut Place, bytes: &[u8]) {
    if let Ok(model) = model::from_bytes(Path::new("fuzz.safetensors"), bytes) {
        let again = model::to_bytes(&model).expect("what was read can be written");
        model::from_bytes(Path::new("again.safetensors"), &again).expect("what was written can be read");
        look(&model);
        use_it(&model);
    }
}

/// What `inspect` does.
fn look(model: &Model) {
    let _ = groups(&model.graph);
    let _ = model.graph.cost(32, 32);
    let _ = input_side(model, Some(32)).is_ok() && input_side(model, None).is_ok();
}

/// What `detect` and `export` do.
fn use_it(model: &Model) {
    let options = Options { threads: 1, ..Options::default() };
    let (Ok(memory), Ok(cost)) = (plan_memory(&model.graph, 32, 32, &options), model.graph.cost(32, 32)) else {
        return;
    };
    if memory.total() > MAX_BYTES || cost.macs > MAX_MACS {
        return;
    }
    let _ = onnx::export(model, 32, 32);
    if let Ok(mut predictor) = Predictor::new(model, 32, &options) {
        predictor.set_thresholds(0.1, 0.7);
        let image = Image::new(40, 30, (0..3 * 40 * 30).map(|i| (i % 251) as u8).collect());
        if let Ok(found) = predictor.find(Path::new("x.png"), &image, model) {
            let _ = serde_json::to_string(&found);
        }
    }
}

fn profile(_: &mut Place, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match profile::parse(Path::new("fuzz.toml"), &text) {
        Ok(profile) => drop(serde_json::to_string(&profile)),
        Err(error) => error.problems().iter().for_each(|problem| drop(problem.to_string())),
    }
}

/// Paths that lead out of the set's folder may name anything of this machine.
fn leads_out(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let parts = text.split(|c: char| c.is_whitespace() || "\"'[]{},:&*!|>-".contains(c));
    text.matches("..").count() > 1 || text.contains('\\') || parts.into_iter().any(|part| part.starts_with('/'))
}

fn dataset(place: &mut Place, bytes: &[u8]) {
    if leads_out(bytes) {
        return;
    }
    let yaml = place.dataset();
    fs::write(&yaml, bytes).unwrap();
    for split in ["train", "val", "test"] {
        read(&yaml, split);
    }
}

fn labels(place: &mut Place, bytes: &[u8]) {
    let yaml = place.dataset();
    place.file("set/labels/train/0.txt", bytes);
    read(&yaml, "train");
}

fn list(place: &mut Place, bytes: &[u8]) {
    if leads_out(bytes) {
        return;
    }
    place.dataset();
    let yaml = place.file("set/listed.yaml", b"path: .\ntrain: list.txt\nnames: [a, b, c]\n");
    place.file("set/list.txt", bytes);
    read(&yaml, "train");
}

fn read(place: &Path, split: &str) {
    if let Ok(set) = Dataset::open(place, split) {
        for item in set.items.iter().take(3) {
            let _ = item.image.load();
            for label in &item.labels {
                assert!(label.class < set.names.len().max(1), "class {} of {}", label.class, set.names.len());
                assert!([label.cx, label.cy, label.w, label.h].iter().all(|v| (0.0..=1.0).contains(v)), "{label:?}");
            }
        }
    }
}

fn annotations(place: &mut Place, bytes: &[u8]) {
    let yaml = place.dataset();
    place.file("set/annotations/instances_train.json", bytes);
    if let Ok(set) = Dataset::open(&yaml, "train") {
        let _ = Prepared::new(&set, 32);
    }
}

fn idx(place: &mut Place, bytes: &[u8]) {
    let packed = bytes.starts_with(&[0x1f, 0x8b]);
    let _ = fs::remove_dir_all(place.folder.join("idx"));
    place.file(&format!("idx/train-images-idx3-ubyte{}", if packed { ".gz" } else { "" }), bytes);
    place.file("idx/train-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 4, 0, 1, 2, 0]);
    read(&place.folder.join("idx"), "train");
    place.file("idx/train-images-idx3-ubyte", &seeds::idx()[0]);
    place.file("idx/train-labels-idx1-ubyte", bytes);
    read(&place.folder.join("idx"), "train");
}

fn image(_: &mut Place, bytes: &[u8]) {
    if let Ok(image) = Image::decode(Path::new("fuzz.png"), bytes) {
        assert_eq!(image.data().len(), 3 * image.width() * image.height());
        Letterbox::new(image.width(), image.height(), 32, 32).forward(&image, &mut vec![0.0; 3 * 32 * 32]);
        let _ = (image.shrunk(16), image.centre_square());
    }
}

/// A device that gives prepared answers.
struct Canned {
    device: Vec<u8>,
    window: Vec<u8>,
    times: Vec<u8>,
}

impl Canned {
    fn new() -> Self {
        let first = |seeds: Vec<Vec<u8>>| seeds.into_iter().next().unwrap_or_default();
        Self { device: first(seeds::devices()), window: first(seeds::windows()), times: first(seeds::times()) }
    }

    /// What a session does with these answers.
    fn ask(self, folder: &Path) {
        let Ok(session) = Session::with_runner(Box::new(self), &Profile::default(), Path::new("infer")) else { return };
        let _ = session.fingerprint();
        let frames = Frames { imgsz: 32, warmup: 0, runs: 8, phases: true, percentile: None };
        if let Ok(record) = session.versus(None, Path::new("other"), &frames, &mut |_, _| {}) {
            let _ = serde_json::to_string(&record);
        }
        let networks = vec![harness::graph(), harness::graph()];
        let spec = TableSpec { size: (32, 32), threads: 1, networks, rounds: 2, seed: 1 };
        let _ = session.table(&spec, folder, &mut |_, _| {});
    }
}

impl Runner for Canned {
    fn run_within(&self, _: &Path, words: &[Word], _: &Limits) -> Result<Vec<u8>, DeviceError> {
        Ok(match words.first() {
            Some(Word::Text(word)) if word == "window" => self.window.clone(),
            Some(Word::Text(word)) if word == "table" => self.times.clone(),
            _ => self.device.clone(),
        })
    }
}

fn device(place: &mut Place, bytes: &[u8]) {
    Canned { device: bytes.to_vec(), ..Canned::new() }.ask(&place.folder);
}

fn window(place: &mut Place, bytes: &[u8]) {
    Canned { window: bytes.to_vec(), ..Canned::new() }.ask(&place.folder);
}

fn times(place: &mut Place, bytes: &[u8]) {
    Canned { times: bytes.to_vec(), ..Canned::new() }.ask(&place.folder);
}

fn table(_: &mut Place, bytes: &[u8]) {
    if let Ok(spec) = serde_json::from_slice::<TableSpec>(bytes) {
        let _ = time_table(&spec, Device::Cpu);
    }
}

/// A file of a job's results, without what differs from run to run.
fn result(name: &str) -> Vec<Vec<u8>> {
    let mut place = Place::default();
    let bytes = fs::read(place.bench().path("out").join(name)).unwrap();
    if name != "report.json" {
        return vec![bytes];
    }
    let mut report: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    report["seconds"] = serde_json::json!({ "gather": 0.5 });
    vec![serde_json::to_vec_pretty(&report).unwrap()]
}

fn plans() -> Vec<Vec<u8>> {
    result("plan.toml")
}

fn reports() -> Vec<Vec<u8>> {
    result("report.json")
}

fn manifests() -> Vec<Vec<u8>> {
    result("manifest.json")
}

/// What `finish` does with a folder of which one file is another.
fn finished(place: &mut Place, name: &str, bytes: &[u8]) {
    let from = place.bench().path("out");
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
    let Ok(results) = Results::open(&out, false) else { return };
    if let Ok(bundle) = Bundle::open(&results, &binary) {
        let _ = bundle.finish(&results, &Outcome::Simulated("fuzzed"), &Evidence { bench: Vec::new(), onnx: None });
    }
}

fn cache_file(bench: &Bench, kind: &str) -> PathBuf {
    let names = harness::listing(&bench.path("cache"));
    let name = names.iter().find(|name| name.starts_with(kind)).unwrap_or_else(|| panic!("no {kind} in {names:?}"));
    bench.path("cache").join(name)
}

fn cached(kind: &str) -> Vec<Vec<u8>> {
    let mut place = Place::default();
    vec![fs::read(cache_file(place.bench(), kind)).unwrap()]
}

/// A job whose cache has a damaged entry: it costs time, and nothing else.
fn cache(place: &mut Place, kind: &str, bytes: &[u8]) {
    place.bench();
    let bench = place.bench.as_ref().unwrap();
    fs::write(cache_file(bench, kind), bytes).unwrap();
    let (code, text) = ended(&bench.prune(0.36, "out", "cache").output().unwrap());
    assert_eq!(code, 0, "a damaged cache entry ends the job: {}", text.lines().last().unwrap_or_default());
    let model = fs::read(bench.path("out/model.safetensors")).unwrap();
    assert!(model == place.model, "a damaged cache entry gives another model");
    assert!(results(&bench.path("out")).is_some_and(|results| results.wrong.is_empty()), "the manifest is wrong");
}
