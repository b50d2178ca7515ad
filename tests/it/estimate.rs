//! Latency tables without a device: what an operator may cost, and an estimate of a GPU against one that was measured.

use secateurs::engine::{Engine, Options};
use secateurs::graph::{Activation, Attention, Builder, Conv, Dtype, Graph, Head, Op};
use secateurs::group::groups;
use secateurs::latency::{Gpu, LatencyTable, Speed, estimate, estimate_gpu};
use secateurs::model::{Info, Model, Tensor};
use secateurs::profile::{self, Profile};
use secateurs::zoo::{Task, yolo11, yolov8};
use std::path::Path;

const CPU: Speed = Speed { gflops: 10.0, bandwidth: 10.0 };

/// An NVIDIA H200, by its own peaks and those that were measured.
const H200: Gpu = Gpu {
    multiprocessors: 132.0,
    clock_ghz: 1.98,
    f32_tflops: 59.0,
    f16_tflops: 635.0,
    int8_tops: 1269.0,
    l2_mib: 50.0,
    bandwidth: 4800.0,
    node_us: 0.54,
};

/// The same on 8 multiprocessors, as many as a Jetson Orin Nano has.
const EIGHT: Gpu = Gpu { multiprocessors: 8.0, f32_tflops: 3.6, f16_tflops: 38.5, int8_tops: 76.8, ..H200 };

fn nano(task: Task) -> Graph {
    yolo11::network(yolo11::Scale::of('n').unwrap(), task, 80).unwrap()
}

/// Milliseconds of every node at full width.
fn full(graph: &Graph, table: &LatencyTable) -> Vec<f64> {
    let groups = groups(graph);
    let mut times = vec![0.0; graph.nodes.len()];
    for term in table.terms(graph, &groups) {
        times[term.node.index()] = term.millis(|group| groups.groups[group.index()].width());
    }
    times
}

fn total(graph: &Graph, table: &LatencyTable) -> f64 {
    full(graph, table).iter().sum()
}

/// Whatever the engine has a step for costs something, on a CPU and on a GPU.
#[test]
fn no_operator_of_a_network_is_free() {
    let mut graphs: Vec<Graph> = Task::PUBLISHED.map(nano).into();
    let scale = |task| yolov8::Scale::of('n', task).unwrap();
    let tasks = [Task::Segment { masks: 32 }, Task::Pose { keypoints: 17, dims: 3 }];
    graphs.extend(tasks.map(|task| yolov8::network(scale(task), task, 3).unwrap()));
    let mut seen = std::collections::BTreeSet::new();
    for graph in graphs {
        let weights = graph.params().into_iter().map(|p| (p.key, Tensor::filled(p.shape, 0.01))).collect();
        let model = Model::new(graph.clone(), weights, Info::default()).unwrap();
        let mut engine = Engine::new(&model, 64, 64, &Options::default()).unwrap();
        let steps = engine.profile(&vec![0.5; 3 * 64 * 64]).unwrap();
        let mut tables = vec![full(&graph, &estimate(&graph, (64, 64), &CPU, "cpu").unwrap())];
        for (_, dtype) in Dtype::ALL {
            tables.push(full(&graph, &estimate_gpu(&graph, (64, 64), &EIGHT, dtype, "gpu").unwrap()));
        }
        for step in steps {
            let node = graph.node(step.node);
            if matches!(node.op, Op::Input { .. }) {
                continue;
            }
            seen.insert(serde_json::to_value(&node.op).unwrap()["op"].to_string());
            for (table, times) in tables.iter().enumerate() {
                let time = times[step.node.index()];
                assert!(time > 0.0, "{} ({}) is free in table {table}", node.name, step.kernel);
            }
        }
    }
    for op in ["conv-transpose", "attention", "values", "max-pool", "upsample"] {
        assert!(seen.contains(&format!("\"{op}\"")), "{op} is in none of {seen:?}");
    }
}

/// With memory for nothing, a CPU takes the operations over its peak, whatever the task.
#[test]
fn all_arithmetic_of_a_network_counts() {
    let speed = Speed { bandwidth: 1e12, ..CPU };
    for task in Task::PUBLISHED {
        let graph = nano(task);
        let table = estimate(&graph, (320, 320), &speed, "cpu").unwrap();
        let arithmetic = graph.cost(320, 320).unwrap().macs as f64 * 2.0 / 10e9 * 1e3 * table.frame_factor;
        let found = total(&graph, &table);
        assert!((found / arithmetic - 1.0).abs() < 0.06, "{task:?}: {found} ms for {arithmetic} ms");
    }
}

/// Input channels, output channels, window, stride and side of the output of a layer of YOLO11n at 640 pixels, and its
/// microseconds in a chain of 20 in one graph: on an H200 in f32, f16 and int8, and in f16 on 8 of its multiprocessors.
/// f32 is three products of TF32 values; in the first layer, the depthwise one and the attention, the f32 units.
/// A window of 0 is the attention (2 heads, keys of 32, values of 64), a negative one a depthwise convolution.
type Row = (usize, usize, i64, usize, usize, [f64; 4]);

const MEASURED: [Row; 14] = [
    (3, 16, 3, 2, 320, [16.2, 4.3, 4.7, 31.4]),
    (16, 32, 3, 2, 160, [10.6, 4.6, 4.8, 25.0]),
    (16, 8, 3, 1, 160, [8.2, 3.9, 4.3, 17.8]),
    (48, 64, 1, 1, 160, [8.7, 3.7, 4.1, 25.0]),
    (64, 64, 3, 2, 80, [16.4, 6.1, 4.8, 32.8]),
    (128, 128, 3, 2, 40, [20.0, 7.0, 4.8, 35.2]),
    (32, 32, 3, 1, 40, [5.8, 2.9, 2.8, 5.3]),
    (128, 256, 3, 2, 20, [13.0, 5.8, 4.3, 19.3]),
    (384, 256, 1, 1, 20, [6.2, 3.2, 2.9, 8.0]),
    (256, 64, 1, 1, 80, [8.7, 3.9, 3.5, 17.2]),
    (64, 64, 3, 1, 80, [16.4, 6.1, 4.7, 32.7]),
    (256, 64, 3, 1, 20, [9.8, 6.2, 5.4, 15.4]),
    (64, 64, -3, 1, 80, [9.4, 3.5, 5.2, 10.7]),
    (256, 128, 0, 1, 20, [148.6, 4.5, f64::NAN, 14.8]),
];

fn layer((c_in, c_out, window, stride, side, _): Row) -> Graph {
    let mut builder = Builder::default();
    let input = builder.push("image", Op::Input { channels: c_in }, &[]);
    let op = match window {
        0 => Op::Attention(Attention { heads: 2, key_dim: 32, head_dim: 64, scale: 0.2, areas: 1 }),
        _ => Op::Conv(Conv {
            weight: "w".into(),
            bias: None,
            norm: None,
            c_in,
            c_out,
            kernel: window.unsigned_abs() as usize,
            stride,
            padding: window.unsigned_abs() as usize / 2,
            groups: if window < 0 { c_in } else { 1 },
            act: Activation::Silu,
        }),
    };
    let node = builder.push("layer", op, &[input]);
    let pooled = builder.push("pool", Op::GlobalAvgPool, &[node]);
    let graph = builder.finish(vec![pooled], Head::Classify { nc: c_out }).unwrap();
    assert_eq!(graph.shapes(side * stride, side * stride).unwrap()[1].h, side);
    graph
}

#[test]
fn the_estimate_of_a_gpu_agrees_with_what_was_measured_on_one() {
    let columns = [
        ("f32", H200, Dtype::F32),
        ("f16", H200, Dtype::F16),
        ("int8", H200, Dtype::Int8),
        ("f16, 8", EIGHT, Dtype::F16),
    ];
    for (column, (name, gpu, dtype)) in columns.into_iter().enumerate() {
        let mut errors = Vec::new();
        for row in MEASURED.into_iter().filter(|row| row.5[column].is_finite()) {
            let (c_in, c_out, _, stride, side, measured) = row;
            let table = estimate_gpu(&layer(row), (side * stride, side * stride), &gpu, dtype, "gpu").unwrap();
            let found = table.layers[1].as_ref().unwrap().millis(c_in, c_out) * 1e3;
            let error = found / measured[column] - 1.0;
            println!("{name}: {c_in} -> {c_out} at {side}: {found:.1} us for {} ({error:+.2})", measured[column]);
            errors.push(error.abs());
        }
        errors.sort_by(f64::total_cmp);
        let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
        println!("{name}: median {median:.3}, worst {worst:.3}");
        assert!(median <= 0.15, "{name}: the median error is {median}");
        assert!(worst <= 0.40, "{name}: an error of {worst}");
    }
}

/// Milliseconds of all launches of YOLO11n, one after the other, as they were measured. In f32 that was with the attention
/// in f16; what its kernel in f32 takes longer is added to each (0.144 ms at 640 pixels on 132 multiprocessors).
#[test]
fn the_layers_of_a_network_add_up_to_what_was_measured() {
    let cases = [
        (640, H200, Dtype::F32, 0.726),
        (640, EIGHT, Dtype::F32, 3.34),
        (320, H200, Dtype::F32, 0.489),
        (640, H200, Dtype::F16, 0.384),
        (640, EIGHT, Dtype::F16, 0.889),
        (320, H200, Dtype::F16, 0.266),
        (320, EIGHT, Dtype::F16, 0.402),
        (640, H200, Dtype::Int8, 0.323),
        (640, EIGHT, Dtype::Int8, 0.796),
    ];
    let graph = nano(Task::Detect);
    let mut problems = Vec::new();
    for (side, gpu, dtype, measured) in cases {
        let table = estimate_gpu(&graph, (side, side), &gpu, dtype, "gpu").unwrap();
        let found = total(&graph, &table) / table.frame_factor;
        let error = found / measured - 1.0;
        println!("{} at {side} on {}: {found:.3} ms for {measured} ({error:+.2})", dtype.name(), gpu.multiprocessors);
        if error.abs() > 0.25 {
            problems.push(format!("{} at {side}: {found} ms for {measured}", dtype.name()));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

/// The figures of a GPU act as they should: each better one makes a network faster, and narrower layers are no slower.
#[test]
fn a_better_gpu_is_faster_and_a_narrower_network_no_slower() {
    let graph = nano(Task::Detect);
    let of = |gpu: &Gpu, dtype| total(&graph, &estimate_gpu(&graph, (640, 640), gpu, dtype, "gpu").unwrap());
    let start = Gpu { bandwidth: 100.0, l2_mib: 1.0, ..EIGHT };
    let better: [(&str, Gpu, Dtype); 6] = [
        ("multiprocessors", Gpu { multiprocessors: 16.0, f16_tflops: 77.0, ..start }, Dtype::F16),
        ("bandwidth", Gpu { bandwidth: 200.0, ..start }, Dtype::F16),
        ("L2", Gpu { l2_mib: 50.0, ..start }, Dtype::F16),
        ("nodes", Gpu { node_us: 0.1, ..start }, Dtype::F16),
        ("tensor cores", Gpu { f16_tflops: 10.0, ..start }, Dtype::F16),
        ("f32 units", Gpu { f32_tflops: 0.5, ..start }, Dtype::F32),
    ];
    for (name, gpu, dtype) in better {
        let (one, other) = (of(&start, dtype), of(&gpu, dtype));
        let (fast, slow) = if name.contains("cores") || name.contains("units") { (one, other) } else { (other, one) };
        assert!(fast < 0.99 * slow, "{name}: {fast} ms and {slow} ms");
    }
    assert!(of(&start, Dtype::Int8) < of(&start, Dtype::F16) && of(&start, Dtype::F16) < of(&start, Dtype::F32));
    let table = estimate_gpu(&graph, (640, 640), &EIGHT, Dtype::F16, "gpu").unwrap();
    let groups = groups(&graph);
    let at = |eighths: usize| {
        let widths: Vec<usize> = groups.groups.iter().map(|g| (g.width() * eighths).div_ceil(8)).collect();
        table.predict(&graph, &groups, &widths)
    };
    let times: Vec<f64> = (1..=8).map(at).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(times[3] < 0.8 * times[7], "half the channels take {} of {} ms", times[3], times[7]);
}

fn device(text: &str) -> Result<Gpu, String> {
    let profile = profile::parse(Path::new("board.toml"), &format!("[device]\n{text}")).map_err(|e| e.to_string())?;
    Gpu::of(&profile.device)
}

#[test]
fn a_gpu_is_known_by_its_architecture_and_by_what_the_profile_says() {
    let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
    let orin = device("cuda = 'sm_87'").unwrap();
    assert_eq!((orin.multiprocessors, orin.l2_mib), (8.0, 2.0));
    let faster =
        device("cuda = 'sm_87'\ngpu-multiprocessors = 16\ngpu-clock-ghz = 1.3\nbandwidth-gb-s = 204.8").unwrap();
    assert!(near(faster.f16_tflops, 2048.0 * 16.0 * 1.3e-3) && near(faster.int8_tops, 2.0 * faster.f16_tflops));
    assert!(near(faster.f32_tflops, 256.0 * 16.0 * 1.3e-3) && near(faster.bandwidth, 204.8));
    assert!(near(faster.node_us, 0.54 * 1.98 / 1.3));
    let figures = "gpu-multiprocessors = 10\ngpu-clock-ghz = 1\ngpu-f32-tflops = 2\ngpu-f16-tflops = 3\n\
                   gpu-int8-tops = 4\ngpu-l2-mib = 5\nbandwidth-gb-s = 6\ngpu-node-us = 7";
    let own = Gpu {
        multiprocessors: 10.0,
        clock_ghz: 1.0,
        f32_tflops: 2.0,
        f16_tflops: 3.0,
        int8_tops: 4.0,
        l2_mib: 5.0,
        bandwidth: 6.0,
        node_us: 7.0,
    };
    assert_eq!(device(&format!("cuda = 'sm_87'\n{figures}")), Ok(own));
    assert_eq!(device(&format!("cuda = 'sm_121'\n{figures}")), Ok(own));
    let cases = [
        ("threads = 1", "no `cuda`"),
        ("cuda = 'sm_121'\ngpu-clock-ghz = 2", "nothing is known of sm_121: give gpu-multiprocessors, gpu-f32-tflops"),
        ("gpu-clock-ghz = 2", "`gpu-clock-ghz` is a figure of a GPU: name its architecture"),
        ("cuda = 'sm_87'\ngpu-clock-ghz = 0", "`gpu-clock-ghz` is 0, expected a number, more than 0"),
        ("cuda = 'sm_87'\ngpu-multiprocessors = 0", "expected an integer from 1 to 1024"),
    ];
    for (text, expected) in cases {
        let problem = device(text).unwrap_err();
        assert!(problem.contains(expected), "{text}: {problem}");
    }
}

/// The budgets of the shipped profiles ask for something of YOLO11n on that GPU, and nothing impossible.
#[test]
fn the_budgets_of_the_shipped_jetsons_are_their_gpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets");
    for name in ["jetson", "jetson-orin-nano", "jetson-agx-orin"] {
        let Profile { device, budget, model, search, .. } =
            profile::read(&folder.join(format!("{name}.toml"))).unwrap();
        let (gpu, size) = (Gpu::of(&device).unwrap(), model.imgsz.unwrap());
        let graph = nano(Task::Detect);
        let groups = groups(&graph);
        let table = estimate_gpu(&graph, (size.height, size.width), &gpu, model.dtype, name).unwrap();
        let at = |share: f64| {
            let kept = |full: usize| ((full as f64 * share) as usize).next_multiple_of(search.grid).clamp(1, full);
            let widths: Vec<usize> = groups.groups.iter().map(|group| kept(group.width())).collect();
            table.predict(&graph, &groups, &widths)
        };
        let (full, half, asked) = (at(1.0), at(0.5), budget.latency.unwrap().get());
        println!("{name}: {full:.2} ms, {half:.2} with half of the channels; the budget is {asked}");
        assert!(asked < full && asked > half, "{name}: {asked} ms of {full}, {half} with half of the channels");
    }
}
