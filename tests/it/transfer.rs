//! A network is trained further on other classes, and a job whose model and data disagree says so with the command line
//! that helps.

use assert_cmd::Command;
use secateurs::data::demo;
use secateurs::graph::Head;
use secateurs::import;
use secateurs::model::{self, Info, Model};
use secateurs::train::init;
use secateurs::zoo::{Purpose, Task, published, rebuild, resnet, yolo11, yolo26};
use std::path::Path;

const SCALE: yolo11::Scale = yolo11::Scale { depth: 0.25, width: 0.0625, max_channels: 256, c3k_everywhere: false };

fn worker(folder: &Path, words: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_secateurs")).current_dir(folder).args(words).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

#[test]
fn the_way_out_that_is_printed_leads_out() {
    let folder = tempfile::tempdir().unwrap();
    demo::write(&folder.path().join("drawn"), 16, 8).unwrap();
    for (name, graph) in [
        ("eleven.safetensors", yolo11::network(SCALE, Task::Detect, 80).unwrap()),
        ("twentysix.safetensors", yolo26::network(SCALE, Task::Detect, 80).unwrap()),
    ] {
        let weights = init(&graph, 4);
        let before = Model::new(graph, weights, Info { imgsz: Some(64.into()), ..Info::default() }).unwrap();
        model::save(&before, &folder.path().join(name)).unwrap();
        let judged = ["--model", name, "--data", "drawn/data.yaml"];
        let (code, text) = worker(folder.path(), &[&["eval"][..], &judged].concat());
        assert!(code == 9 && text.contains("knows 80") && text.contains("cargo xtask train --arch"), "{code} {text}");
        let prune = |model: &str| {
            let words = ["prune", "--model", model, "--data", "drawn/data.yaml", "--memory-mib", "4", "--epochs", "0"];
            worker(folder.path(), &[&words[..], &["--calibration-images", "16", "--cache", "cache"]].concat())
        };
        let (code, text) = prune(name);
        assert!(code == 9 && text.contains("names 3 classes"), "{code} {text}");
        let line = text.lines().find_map(|line| line.trim().strip_prefix("cargo xtask ")).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let (code, text) = worker(folder.path(), &[&words[..], &["--epochs", "1", "--batch", "8"]].concat());
        assert_eq!(code, 0, "{line}\n{text}");
        assert!(text.contains("from 80 to 3 classes: ") && text.contains("are new, in model.23."), "{text}");
        let after = model::load(&folder.path().join(words[words.len() - 1])).unwrap();
        assert_eq!((after.graph.classes(), &after.info.names[..]), (3, &demo::NAMES.map(String::from)[..]));
        let pair = |head: &Head| matches!(head, Head::EndToEnd { one2many: true, .. });
        assert_eq!(pair(&after.graph.head), pair(&before.graph.head), "both branches are kept");
        let (code, text) = prune(words[words.len() - 1]);
        assert_eq!(code, 0, "{text}");
    }
}

#[test]
fn channels_of_the_data_decide_those_of_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = demo::write(&folder.path().join("drawn"), 16, 8).unwrap();
    let text = std::fs::read_to_string(&yaml).unwrap();
    let data = |channels: usize| {
        let path = folder.path().join("drawn").join(format!("{channels}.yaml"));
        std::fs::write(&path, format!("{text}\nchannels: {channels}\n")).unwrap();
        path.display().to_string()
    };
    let (grey, colour, many) = (data(1), data(3), data(4));
    let train = |arch: &str, data: &str, out: &str| {
        let words =
            ["train", "--arch", arch, "--data", data, "--imgsz", "64", "--epochs", "1", "--batch", "8", "-o", out];
        worker(folder.path(), &words)
    };
    let channels = |name: &str| model::load(&folder.path().join(name)).unwrap().graph.input_channels();
    let (code, text) = train("yolo11:0.25,0.0625,256", &grey, "grey.safetensors");
    assert_eq!((code, channels("grey.safetensors")), (0, 1), "{text}");
    let (code, text) = train("grey.safetensors", &colour, "colour.safetensors");
    assert!(code == 0 && text.contains("made over for 3 channels: model.0.conv.weight"), "{text}");
    assert_eq!(channels("colour.safetensors"), 3);
    let (code, text) = train("colour.safetensors", &grey, "again.safetensors");
    assert!(code == 0 && text.contains("made over for 1 channel: model.0.conv.weight"), "{text}");

    // A grey network goes through everything.
    let photo = folder.path().join("drawn/images/val").read_dir().unwrap().next().unwrap().unwrap().path();
    let photo = photo.display().to_string();
    let commands: [&[&str]; 7] = [
        &["inspect", "--model", "grey.safetensors"],
        &["bench", "--model", "grey.safetensors", "--runs", "2"],
        &["detect", "--model", "grey.safetensors", "--save", "saved", &photo],
        &["eval", "--model", "grey.safetensors", "--data", &grey],
        &["export", "--model", "grey.safetensors", "--format", "onnx", "-o", "grey.onnx"],
        &["quantise", "--model", "grey.safetensors", "--data", &grey, "--images", "4", "-o", "int8.safetensors"],
        &[
            "prune",
            "--model",
            "grey.safetensors",
            "--data",
            &grey,
            "--memory-mib",
            "2",
            "--epochs",
            "1",
            "--calibration-images",
            "16",
            "--out",
            "out",
        ],
    ];
    for words in commands {
        let (code, text) = worker(folder.path(), words);
        assert_eq!(code, 0, "{words:?}\n{text}");
    }
    assert_eq!(channels("out/model.safetensors"), 1);
    // Bands that no image has are refused by name, from the data and from the model.
    for words in [
        &["train", "--arch", "yolo11n", "--data", &many, "-o", "x.safetensors"][..],
        &["prune", "--model", "grey.safetensors", "--data", &many, "--memory-mib", "2"],
        &["eval", "--model", "grey.safetensors", "--data", &many],
    ] {
        let (code, text) = worker(folder.path(), words);
        assert!(code == 9 && text.contains("`channels` is 4") && text.contains("4.yaml"), "{code} {text}");
    }
    let graph = yolo11::network(SCALE, Task::Detect, 3).unwrap();
    let purpose = Purpose { classes: 3, keypoints: None, channels: Some(5) };
    let graph = rebuild(&graph, purpose).unwrap();
    let weights = init(&graph, 1);
    let five = Model::new(graph, weights, Info { imgsz: Some(64.into()), ..Info::default() }).unwrap();
    model::save(&five, &folder.path().join("five.safetensors")).unwrap();
    for words in [
        &["detect", "--model", "five.safetensors", &photo][..],
        &["eval", "--model", "five.safetensors", "--data", &grey],
        &["prune", "--model", "five.safetensors", "--data", &colour, "--memory-mib", "2"],
        &["quantise", "--model", "five.safetensors", "--data", &colour, "-o", "x.safetensors"],
    ] {
        let (code, text) = worker(folder.path(), words);
        assert!(code == 9 && text.contains("the network reads 5 channels"), "{words:?}: {code} {text}");
    }
}

/// Checkpoints tell the channels of their image by the first kernel.
#[test]
fn grey_checkpoints_are_imported() {
    let folder = tempfile::tempdir().unwrap();
    for (name, graph) in [
        ("yolo11", yolo11::network(SCALE, Task::Detect, 3).unwrap()),
        ("yolo26", yolo26::network(SCALE, Task::Obb, 3).unwrap()),
        ("resnet", resnet::network(resnet::Depth::of(18).unwrap(), 3).unwrap()),
        ("yolov9e", published("yolov9e", 3).unwrap().unwrap()),
    ] {
        let grey = rebuild(&graph, Purpose { classes: 3, keypoints: None, channels: Some(1) }).unwrap();
        let tensors = grey.params().into_iter().map(|param| (param.key, param.shape)).collect();
        assert_eq!(import::identify(&tensors).unwrap().graph, grey, "{name}");
        if name != "yolo11" {
            continue;
        }
        let weights = init(&grey, 1);
        let views = weights.iter().map(|(key, tensor)| {
            let bytes = bytemuck::cast_slice::<f32, u8>(tensor.data());
            (
                key,
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, tensor.shape().to_vec(), bytes).unwrap(),
            )
        });
        let file = folder.path().join("grey.safetensors");
        std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
        assert_eq!(import::load(&file).unwrap().graph, grey);
    }
}
