//! What the mutations start from: real inputs of every kind, made in code, and some of the data folder where there is
//! one.

use crate::harness;
use crate::pickle;
use secateurs::bench::{Phases, Recording, Samples, TableSpec, Window};
use secateurs::board::{Board, State};
use secateurs::bundle::{self, Input, LockedGroup, LockedInputs, LockedTarget, Measured};
use secateurs::data::demo;
use secateurs::engine::LeastTimes;
use secateurs::graph::{Activation, Attention, Builder, Conv, ConvTranspose, Dtype, Graph, Head, NodeId, Op};
use secateurs::model::{self, Info, Model};
use secateurs::train::init;
use secateurs::vision::Image;
use secateurs::zoo::yolo11::{self, Scale};
use secateurs::zoo::{Task, simple_cnn, yolo26};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use zip::CompressionMethod;

/// A file of the data folder, if there is one.
fn real(path: &str) -> Option<Vec<u8>> {
    std::fs::read(PathBuf::from(std::env::var_os("SECATEURS_DATA")?).join(path)).ok()
}

pub fn pickles() -> Vec<Vec<u8>> {
    let scale = Scale { depth: 0.33, width: 0.0312, max_channels: 64, c3k_everywhere: false };
    let graph = yolo11::network(scale, Task::Detect, 3).unwrap();
    let params: Vec<(String, Vec<usize>)> = yolo11::state_dict(&graph).into_iter().collect();
    vec![pickle::modules(), pickle::state_dict(&params[..6]), pickle::state_dict(&params)]
}

pub fn archives() -> Vec<Vec<u8>> {
    let of =
        |pickle: &Vec<u8>| [CompressionMethod::Stored, CompressionMethod::Deflated].map(|m| pickle::archive(pickle, m));
    pickles().iter().flat_map(of).chain(real("models/yolo11n-bccd.pt")).collect()
}

fn conv(name: &str, c_in: usize, c_out: usize, kernel: usize, groups: usize) -> Op {
    Op::Conv(Conv {
        weight: format!("{name}.weight"),
        bias: Some(format!("{name}.bias")),
        norm: None,
        c_in,
        c_out,
        kernel,
        stride: 1,
        padding: kernel / 2,
        groups,
        act: Activation::Silu,
    })
}

/// A graph with every operator, and a head of the given task.
fn everything(task: &str) -> Graph {
    let mut graph = Builder::default();
    let attention = Attention { heads: 2, key_dim: 4, head_dim: 8, scale: 0.5, areas: 2 };
    let up = ConvTranspose { weight: "up.weight".into(), bias: Some("up.bias".into()), c_in: 8, c_out: 8, factor: 2 };
    let x = graph.push("images", Op::Input { channels: 3 }, &[]);
    let a = graph.push("a", conv("a", 3, 8, 3, 1), &[x]);
    let depth = graph.push("depth", conv("depth", 8, 8, 3, 8), &[a]);
    let pool = graph.push("pool", Op::MaxPool { kernel: 2, stride: 2, padding: 0 }, &[depth]);
    let pool = graph.push("pool2", Op::MaxPool { kernel: 4, stride: 4, padding: 0 }, &[pool]);
    let qkv = graph.push("qkv", conv("qkv", 8, 2 * attention.packed(), 1, 1), &[pool]);
    let mixed = graph.push("mixed", Op::Attention(attention), &[qkv]);
    let values = graph.push("values", Op::AttentionValues(attention), &[qkv]);
    let sum = graph.push("sum", Op::Add, &[mixed, values]);
    let part = graph.push("part", Op::Slice { start: 0, len: 8 }, &[sum]);
    let act = graph.push("act", Op::Activate { act: Activation::Relu }, &[part]);
    let mean = graph.push("means", Op::AvgPool { kernel: 1, stride: 1 }, &[pool]);
    let join = graph.push("join", Op::Concat, &[act, mean]);
    let large = graph.push("large", Op::Upsample { factor: 2 }, &[act]);
    let larger = graph.push("up", Op::ConvTranspose(up), &[act]);
    let proto = graph.push("proto", Op::Add, &[large, larger]);
    let mut out = |name: &str, from: NodeId, channels: [usize; 2]| {
        graph.push(name, conv(name, channels[0], channels[1], 1, 1), &[from])
    };
    let (boxes, classes) = (out("boxes", join, [16, 16]), out("classes", join, [16, 2]));
    let (nc, reg_max, strides) = (2, 4, vec![8]);
    match task {
        "segment" => {
            let (coefficients, masks) = (out("extra", join, [16, 4]), out("masks", proto, [8, 4]));
            graph.finish(vec![boxes, classes, coefficients, masks], Head::Segment { nc, reg_max, strides, masks: 4 })
        }
        "pose" => {
            let points = out("extra", join, [16, 6]);
            graph.finish(vec![boxes, classes, points], Head::Pose { nc, reg_max, strides, keypoints: 2, dims: 3 })
        }
        "end-to-end" => {
            let outputs = vec![boxes, classes, boxes, classes];
            let branch = Box::new(Head::Detect { nc, reg_max, strides });
            graph.finish(outputs, Head::EndToEnd { one2many: true, branch })
        }
        "obb" => {
            let angle = out("extra", join, [16, 1]);
            graph.finish(vec![boxes, classes, angle], Head::Obb { nc, reg_max, strides })
        }
        _ => {
            let mean = graph.push("mean", Op::GlobalAvgPool, &[classes]);
            graph.finish(vec![mean], Head::Classify { nc })
        }
    }
    .unwrap()
}

fn filled(graph: Graph) -> Model {
    let weights = init(&graph, 3);
    let ranges = graph.nodes.iter().map(|node| (node.name.clone(), [-1.0, 1.0])).collect();
    let info =
        Info { names: vec!["a".into(), "b".into(), "c".into()], imgsz: Some(32.into()), ranges, ..Info::default() };
    Model::new(graph, weights, info).unwrap()
}

/// Model files of every task and of every way to store a kernel.
pub fn models() -> Vec<Vec<u8>> {
    let mut models: Vec<Model> =
        ["segment", "pose", "obb", "classify", "end-to-end"].map(|task| filled(everything(task))).into();
    models.push(harness::model());
    for dtype in [Dtype::Int8, Dtype::F16] {
        models.push(filled(Graph { dtype, ..harness::graph() }));
    }
    let mut sparse = harness::model();
    for tensor in sparse.weights.values_mut() {
        tensor.data_mut().iter_mut().step_by(2).for_each(|value| *value = 0.0);
    }
    models.push(sparse);
    models.iter().map(|model| model::to_bytes(model).unwrap()).collect()
}

/// Safetensors with the names of others, and without a graph.
pub fn tensors() -> Vec<Vec<u8>> {
    let plain = |graph: &Graph| {
        let weights = init(graph, 2);
        let views = weights.iter().map(|(key, tensor)| {
            let bytes = bytemuck::cast_slice::<f32, u8>(tensor.data());
            (
                key,
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, tensor.shape().to_vec(), bytes).unwrap(),
            )
        });
        safetensors::serialize(views, None).unwrap()
    };
    let scale = Scale { depth: 0.33, width: 0.0312, max_channels: 64, c3k_everywhere: false };
    vec![
        plain(&yolo11::network(scale, Task::Detect, 3).unwrap()),
        plain(&yolo26::network(scale, Task::Pose { keypoints: 5, dims: 2 }, 3).unwrap()),
        plain(&simple_cnn::simple_cnn(2).unwrap()),
    ]
}

pub fn profiles() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    paths.sort();
    let full = b"[device]\nname = 'x'\nthreads = 2\n[connect]\nkind = 'ssh'\nhost = 'pi'\nfolder = 'f'\noptions = ['-p', '2']\n\
        [budget]\nlatency-ratio = 0.5\npercentile = 95\nfloors = { person = 0.95, \"stop sign\" = 1.0 }\nmemory-mib = 3.5\n\
        [model]\nimgsz = [384, 640]\ndtype = 'int8'\n[search]\nstrategy = '2:4'\nsparsity = 0.5\n[finetune]\nlr = 1e-3\n";
    paths.iter().map(|path| std::fs::read(path).unwrap()).chain([full.to_vec()]).collect()
}

/// A lock of two targets.
pub fn locks() -> Vec<Vec<u8>> {
    let hash = "0123456789abcdef".repeat(4);
    let input = |path: &str| Input { path: path.into(), sha256: hash.clone() };
    let group = LockedGroup { before: 8, width: 3, kept: vec![0, 2, 5] };
    let profile = [("budget.latency-ratio", 0.7), ("budget.floors.\"stop sign\"", 0.95)];
    let target = LockedTarget {
        inputs: LockedInputs {
            version: "0.1.0".into(),
            seed: 7,
            features: vec!["cuda".into()],
            compiler: Some("rustc 1.95.0".into()),
            cuda: false,
            skip_bad_images: true,
            model: input("best.pt"),
            data: Some(input("data/data.yaml")),
            profile_file: input("targets/host.toml"),
            profile: profile.map(|(name, value)| (name.to_owned(), value.into())).into(),
        },
        imgsz: 640.into(),
        board: "Some \"board\"".into(),
        plan: [("a".to_owned(), group.clone()), ("b.c[0..8]".to_owned(), group)].into(),
        files: [("model.safetensors".to_owned(), hash.clone())].into(),
        manifest: hash.clone(),
        measured: Measured {
            p50_ms: Some(1.5),
            map50_95: Some(0.4),
            peak_memory_bytes: 1 << 20,
            ..Measured::default()
        },
    };
    let one = bundle::lock_text("host", &target);
    let other = bundle::lock_text("my board", &target);
    let both = format!("{one}\n{}", &other[other.find("[target").unwrap_or_default()..]);
    vec![one.into_bytes(), both.into_bytes()]
}

pub fn datasets() -> Vec<Vec<u8>> {
    [
        "path: .\ntrain: images/train\nval: images/train\nnames: [disc, square, triangle]\n",
        "train: [images/train, list.txt]\nval:\n  - images/train\nnc: 3\nnames:\n  0: disc\n  1: 'square'\n  2: \"y\"\n",
        "# comment\npath: ./\ntrain: ../images/train # here\nvalidation: list.txt\ntest:\nnames: {0: a, 1: b}\ndownload: |\n  x\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

pub fn labels() -> Vec<Vec<u8>> {
    let lines =
        |n: usize| (0..n).map(|i| format!("{} 0.5 0.{:04} 0.25 0.1\n", i % 3, i % 5000 + 1)).collect::<String>();
    let outline = "0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\r\n2\t0.5 0.5  1 1\n\n1 1e-3 .5 .1 .1";
    [lines(3), lines(2000), outline.into(), "\u{feff}0 0.5 0.5 0.1 0.1\n".into()].map(String::into_bytes).into()
}

pub fn lists() -> Vec<Vec<u8>> {
    ["images/train/0.png\n./images/train/0.png\n", "\u{feff}images/train/0.png\r\n\r\n"]
        .map(|t| t.as_bytes().to_vec())
        .into()
}

/// Files of pictures in MNIST's form, plain and compressed.
pub fn idx() -> Vec<Vec<u8>> {
    let plain = [&[0, 0, 8, 3][..], &4u32.to_be_bytes(), &6u32.to_be_bytes(), &5u32.to_be_bytes(), &[7; 120]].concat();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&plain).unwrap();
    vec![plain, gz.finish().unwrap()]
}

/// Small pictures in the formats that are read.
pub fn images() -> Vec<Vec<u8>> {
    let drawn: Image = demo::draw(1, 2, 48).0;
    let rgb = image::RgbImage::from_raw(48, 48, drawn.data().to_vec()).unwrap();
    let dynamic = image::DynamicImage::ImageRgb8(rgb);
    let png = |image: &image::DynamicImage| {
        let mut bytes = Vec::new();
        image.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
        bytes
    };
    let formats = [image::ImageFormat::WebP, image::ImageFormat::Bmp, image::ImageFormat::Tiff];
    // Only those that this build knows.
    let more = formats.into_iter().filter_map(|format| {
        let mut bytes = Vec::new();
        dynamic.write_to(&mut Cursor::new(&mut bytes), format).ok().map(|()| bytes)
    });
    let grey16 = image::DynamicImage::ImageLuma16(dynamic.to_luma16());
    let rgba = image::DynamicImage::ImageRgba8(dynamic.to_rgba8());
    vec![drawn.jpeg(80).unwrap(), drawn.jpeg(20).unwrap(), png(&dynamic), png(&grey16), png(&rgba)]
        .into_iter()
        .chain(more)
        .collect()
}

pub fn annotations() -> Vec<Vec<u8>> {
    let text = r#"{"images":[{"id":7,"file_name":"0.png","width":48,"height":48}],"categories":[{"id":1,"name":"disc"},
{"id":2,"name":"square"},{"id":9,"name":"triangle"}],"annotations":[{"id":1,"image_id":7,"category_id":2,"bbox":[1,2.5,20,10],
"area":200,"iscrowd":0},{"id":2,"image_id":7,"category_id":9,"bbox":[0,0,48,48],"iscrowd":1,"segmentation":{"counts":"x"}}]}"#;
    vec![text.as_bytes().to_vec()]
}

/// What a device says about itself.
pub fn devices() -> Vec<Vec<u8>> {
    let board = Board {
        model: "Some Board".into(),
        arch: std::env::consts::ARCH.into(),
        cores: "0-3".into(),
        ..Board::default()
    };
    let text = serde_json::json!({ "board": board, "state": state(1) }).to_string();
    vec![text.into_bytes()]
}

fn state(at: u64) -> State {
    let mut value = serde_json::to_value(State::default()).unwrap();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("busy_ms".into(), (at * 1000).into());
    }
    serde_json::from_value(value).unwrap_or_default()
}

/// Windows of frames as a device sends them.
pub fn windows() -> Vec<Vec<u8>> {
    let samples = Samples { wall: vec![1.0, 1.5, 1.2, 1.1], cpu: vec![1.0, 1.5, 1.2, 1.1] };
    let recording = Recording { peak_memory_bytes: 1000, samples, energy_mj: vec![3.5, 3.25] };
    let phases: Option<Phases> = None;
    let window = Window {
        board: Board::default(),
        states: vec![state(1), state(2)],
        elapsed_ms: 5.0,
        own_cpu_ms: 5.0,
        network: recording.clone(),
        against: Some(recording),
        peak_resident_bytes: Some(1 << 20),
        rails: Some("VDD_IN".into()),
        phases,
    };
    vec![serde_json::to_vec(&window).unwrap()]
}

/// Times of layers as a device sends them.
pub fn times() -> Vec<Vec<u8>> {
    let nodes = harness::graph().nodes.len();
    let times = LeastTimes { nodes: vec![0.25; nodes], frame: 0.25 * nodes as f64, frames: vec![0.5; 4] };
    vec![serde_json::to_vec(&[times.clone(), times]).unwrap()]
}

/// What a device is asked to time.
pub fn tables() -> Vec<Vec<u8>> {
    let spec = TableSpec {
        size: (32, 32),
        threads: 1,
        networks: vec![harness::graph(), everything("obb")],
        rounds: 2,
        seed: 3,
    };
    vec![serde_json::to_vec(&spec).unwrap()]
}

/// The public half of the key that [`signatures`] are made with.
pub const PUBLIC_KEY: &str = "RWQulcUzIhRFiBl0ZEPxHPtkxP/6xISJVz58LrPw8yrcVXj05xdP1B6L";

/// Lists of the crates of a binary, as the driver writes them.
pub fn crates() -> Vec<Vec<u8>> {
    let one = r#"{"target": "t", "features": ["runtime"], "crates": [{"name": "a", "version": "1.0.0", "license": "MIT",
        "source": "registry+x", "sha256": null, "build-only": false, "dependencies": [0]}]}"#;
    vec![one.into()]
}

/// What minisign writes: a signature, a public key, and a secret key without a password, which signs nothing else.
pub fn signatures() -> Vec<Vec<u8>> {
    let signature = "untrusted comment: an untrusted comment\n\
        RUQulcUzIhRFiGJGB9PDUqwCOmOPlovlroKa+fwa14CL9SO4gC9sU6isW41r+NzSCvvK//hmpTFkXC0aVVcy2zEI907OOJZiuwA=\n\
        trusted comment: a trusted comment\n\
        nnfCpbR8mZPcQvht/DXp3fVXAnqh6kQvDRzXvPWcOx8MV8XzvaIBosyO4XAq6qIEL/+XFt8PnbL9WrJbLU9qAQ==\n";
    let public = format!("untrusted comment: minisign public key\n{PUBLIC_KEY}\n");
    let secret = "untrusted comment: a key for tests\n\
        RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAALpXFMyIURYjVN/vOC+qJKHWIQhNQHLKPacm+h8hp\
        tdp80mVPGHgUxBl0ZEPxHPtkxP/6xISJVz58LrPw8yrcVXj05xdP1B6LAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    vec![signature.into(), public.into(), secret.into()]
}
