//! Outputs of chosen cells against all outputs.

use super::*;
use crate::graph::Shape;

/// Sides of an image, of which the strides are no divisors.
const SIZE: (usize, usize) = (45, 58);

/// Pixels per cell.
const STRIDES: [usize; 2] = [4, 8];

fn conv(key: &str, c_in: usize, c_out: usize, kernel: usize, stride: usize) -> Op {
    Op::Conv(Conv {
        weight: format!("{key}.w"),
        bias: Some(format!("{key}.b")),
        norm: None,
        c_in,
        c_out,
        kernel,
        stride,
        padding: kernel / 2,
        groups: 1,
        act: if kernel > 1 { Activation::Silu } else { Activation::Identity },
    })
}

/// A network with such a head, of which what belongs to no cell comes first.
fn detector(head: Head, seed: u64) -> Model {
    let mut graph = Builder::default();
    let input = graph.push("input", Op::Input { channels: 3 }, &[]);
    let fine = graph.push("fine", conv("fine", 3, 8, 3, STRIDES[0]), &[input]);
    let prototypes = match head.branch() {
        Head::Segment { masks, .. } => Some(graph.push("proto", conv("proto", 3, *masks, 3, 2), &[input])),
        _ => None,
    };
    let coarse = graph.push("coarse", conv("coarse", 8, 8, 3, 2), &[fine]);
    let (reg_max, extra) = (head.boxes().unwrap().reg_max, head.extra());
    let mut outputs = Vec::new();
    let mut push = |key: String, level: NodeId, channels: usize| {
        let op = conv(&key, 8, channels, 1, 1);
        outputs.push(graph.push(key, op, &[level]));
    };
    for (number, level) in [fine, coarse].into_iter().enumerate() {
        push(format!("box{number}"), level, 4 * reg_max);
        push(format!("class{number}"), level, head.classes());
    }
    if extra > 0 {
        [fine, coarse].into_iter().enumerate().for_each(|(number, level)| push(format!("more{number}"), level, extra));
    }
    outputs.extend(prototypes);
    let graph = graph.finish(outputs, head).unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut weights = Weights::default();
    for param in graph.params() {
        let len: usize = param.shape.iter().product();
        let values = (0..len).map(|_| rng.random_range(-0.7..0.7f32)).collect();
        weights.insert(param.key.clone(), Tensor::new(param.shape.clone(), values));
    }
    Model::new(graph, weights, Info::default()).unwrap()
}

/// A head of every task.
fn heads() -> [Head; 5] {
    let strides = STRIDES.to_vec();
    [
        Head::Detect { nc: 5, reg_max: 4, strides: strides.clone() },
        Head::Detect { nc: 1, reg_max: 1, strides: strides.clone() },
        Head::Segment { nc: 3, reg_max: 4, strides: strides.clone(), masks: 6 },
        Head::Pose { nc: 2, reg_max: 2, strides: strides.clone(), keypoints: 3, dims: 3 },
        Head::Obb { nc: 4, reg_max: 4, strides },
    ]
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn outputs(engine: &Engine, image: usize) -> Vec<Vec<f32>> {
    (0..engine.outputs.len()).map(|i| engine.output_of(image, i).to_vec()).collect()
}

/// The greatest class of every cell.
fn best(head: &Head, whole: &[Vec<f32>]) -> Vec<f32> {
    let of_level = |level: usize| {
        let classes = &whole[2 * level + 1];
        let area = classes.len() / head.classes();
        let greatest = move |cell: usize| classes.iter().skip(cell).step_by(area).copied().fold(f32::MIN, f32::max);
        (0..area).map(greatest)
    };
    (0..STRIDES.len()).flat_map(of_level).collect()
}

/// Holds what an image gave against all of its outputs: whether it gave a table.
fn check(case: &str, head: &Head, engine: &Engine, image: usize, whole: &[Vec<f32>], least: f32) -> bool {
    let best = best(head, whole);
    let wanted: Vec<usize> = (0..best.len()).filter(|cell| best[*cell] > least).collect();
    let found = outputs(engine, image);
    let Some(cells) = engine.cells_of(image) else {
        assert!(found.iter().zip(whole).all(|(a, b)| bits(a) == bits(b)), "{case}: all outputs");
        assert!(wanted.len() > best.len() / 4, "{case}: {} of {}", wanted.len(), best.len());
        return false;
    };
    assert_eq!(cells.numbers.iter().map(|number| *number as usize).collect::<Vec<_>>(), wanted, "{case}");
    let pairs = 2 * STRIDES.len();
    let of_cells = pairs + if head.extra() > 0 { STRIDES.len() } else { 0 };
    for (i, (found, whole)) in found.iter().zip(whole).enumerate() {
        if i >= of_cells {
            assert!(bits(found) == bits(whole), "{case}: output {i}");
            continue;
        }
        let Shape { c, h, w } = engine.output_shape(i);
        assert_eq!((found.len(), whole.len()), (c * cells.columns, c * h * w), "{case}: output {i}");
        // Boxes and classes level by level, then what the task adds.
        let level = if i < pairs { i / 2 } else { i - pairs };
        let first: usize = (0..level).map(|level| engine.output_shape(2 * level).area()).sum();
        for (column, cell) in wanted.iter().enumerate().filter(|(_, cell)| (first..first + h * w).contains(*cell)) {
            let of_cell = |values: &[f32], pitch: usize, at: usize| {
                (0..c).map(|row| values[row * pitch + at].to_bits()).collect::<Vec<u32>>()
            };
            let (found, whole) = (of_cell(found, cells.columns, column), of_cell(whole, h * w, cell - first));
            assert_eq!(found, whole, "{case}: output {i}, cell {cell}");
        }
    }
    true
}

#[test]
fn chosen_cells_have_the_values_of_all_outputs() {
    let (mut tables, mut whole_ones) = (0, 0);
    for (seed, dtype) in (0..15).zip([Dtype::F32, Dtype::F16, Dtype::Int8].into_iter().cycle()) {
        if emulated::device().is_none() {
            return;
        }
        let head = heads()[seed as usize % 5].clone();
        let model = in_dtype(&detector(head.clone(), seed), dtype);
        let options = Options { device: engine::Device::Cuda(0), batch: 3, ..Options::default() };
        let mut engine = Engine::new(&model, SIZE.0, SIZE.1, &options).unwrap();
        assert_eq!(engine.memory(), plan_memory(&model.graph, SIZE.0, SIZE.1, &options).unwrap());
        let images: Vec<f32> = (0..3).flat_map(|i| image(&model, SIZE.0, SIZE.1, 3 * seed + i)).collect();
        engine.run(&images).unwrap();
        let whole = [0, 1, 2].map(|i| outputs(&engine, i));
        assert!((0..3).all(|i| engine.cells_of(i).is_none()));
        let mut sorted = best(&head, &whole[0]);
        sorted.sort_by(f32::total_cmp);
        let last = sorted.len() - 1;
        // None, the best alone, those above the value of a cell, and more than a table has room for.
        for (turn, cell) in [last, last - 1, last - 20, last * 4 / 5, last / 2, 0].into_iter().enumerate() {
            let case = format!("seed {seed} in {dtype:?}, {turn}");
            engine.select_cells(Some(sorted[cell])).unwrap();
            match turn % 2 {
                0 => engine.run(&images).unwrap(),
                _ => engine.run_in_place().unwrap(),
            }
            for (i, whole) in whole.iter().enumerate() {
                match check(&case, &head, &engine, i, whole, sorted[cell]) {
                    true => tables += 1,
                    false => whole_ones += 1,
                }
            }
            // Step by step, all images one after the other.
            let steps = engine.profile_in_place().unwrap();
            let names: Vec<&str> = steps[steps.len() - 3..].iter().map(|step| step.kernel).collect();
            assert_eq!(names, ["find-cells", "take-cells", "download"], "{case}");
            for (i, whole) in whole.iter().enumerate() {
                check(&case, &head, &engine, i, whole, sorted[cell]);
            }
        }
        engine.select_cells(None).unwrap();
        engine.run_in_place().unwrap();
        assert!((0..3).all(|i| engine.cells_of(i).is_none() && outputs(&engine, i) == whole[i]));
    }
    assert!(tables > 50 && whole_ones > 50, "{tables} tables, {whole_ones} whole");
}

#[test]
fn an_image_that_overflows_runs_again_and_the_others_keep_their_tables() {
    if emulated::device().is_none() {
        return;
    }
    let head = heads()[2].clone();
    let model = detector(head.clone(), 3);
    let options = Options { device: engine::Device::Cuda(0), batch: 4, ..Options::default() };
    let mut engine = Engine::new(&model, SIZE.0, SIZE.1, &options).unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    let len = 3 * SIZE.0 * SIZE.1;
    let photos: Vec<Vec<u8>> = (0..4).map(|_| (0..len).map(|_| rng.random_range(0..=255)).collect()).collect();
    // Each in its own way: bytes and values.
    let enter = |engine: &mut Engine| {
        for (i, photo) in photos.iter().enumerate() {
            match i % 2 {
                0 => engine.bytes_mut(i).unwrap().copy_from_slice(photo),
                _ => engine
                    .image_mut(i)
                    .iter_mut()
                    .zip(photo)
                    .for_each(|(value, byte)| *value = f32::from(*byte) / 255.0),
            }
        }
    };
    enter(&mut engine);
    engine.run_images(4).unwrap();
    let whole: Vec<_> = (0..4).map(|i| outputs(&engine, i)).collect();
    // A quarter of the cells fits: between the images' quantiles some overflow and some do not.
    let mut quantiles: Vec<f32> = whole
        .iter()
        .map(|whole| {
            let mut best = best(&head, whole);
            best.sort_by(f32::total_cmp);
            best[best.len() * 3 / 4]
        })
        .collect();
    quantiles.sort_by(f32::total_cmp);
    for least in quantiles {
        engine.select_cells(Some(least)).unwrap();
        for images in [4, 2, 3] {
            enter(&mut engine);
            engine.run_images(images).unwrap();
            for (i, whole) in whole.iter().enumerate().take(images) {
                check(&format!("above {least}, {images} images"), &head, &engine, i, whole, least);
            }
        }
    }
}

#[test]
fn whoever_needs_all_outputs_gets_them() {
    if emulated::device().is_none() {
        return;
    }
    let [detect, ..] = heads();
    let one2one = Head::EndToEnd { one2many: false, branch: Box::new(detect.clone()) };
    let options = Options { device: engine::Device::Cuda(0), ..Options::default() };
    for (head, size, keep, chooses) in [
        (detect.clone(), SIZE, vec![], true),
        (detect.clone(), SIZE, vec![NodeId(1)], false),
        (one2one, SIZE, vec![], false),
        // Three cells.
        (detect, (4, 8), vec![], false),
    ] {
        let model = detector(head, 1);
        let options = Options { keep, ..options.clone() };
        let mut engine = Engine::new(&model, size.0, size.1, &options).unwrap();
        engine.select_cells(Some(f32::INFINITY)).unwrap();
        engine.run(&vec![0.5; 3 * size.0 * size.1]).unwrap();
        assert_eq!(engine.cells_of(0).map(|cells| cells.numbers.len()), chooses.then_some(0));
    }
}
