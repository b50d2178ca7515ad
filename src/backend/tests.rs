//! Every operation against finite differences, ours against the composition of candle's, and one test for every
//! candle operation whose gradient is wrong.

use super::*;
use crate::graph::{Activation, Dtype, Graph, Head, Node};
use crate::model::{Info, Weights};
use std::collections::BTreeMap;

/// Values in -1..1 without a pattern that a layout error could hide in; no two of a small tensor are close.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 10_007) as f32 / 5003.0 - 1.0).collect()
}

fn values(shape: &[usize], seed: usize) -> Var {
    let values = numbers(shape.iter().product(), seed);
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The sum of `y * r` over all outputs with a fixed `r`.
fn weighted(outputs: &[Tensor]) -> Tensor {
    let term =
        |(i, y): (usize, &Tensor)| (y * values(y.dims(), 99 + i).as_detached_tensor()).unwrap().sum_all().unwrap();
    outputs.iter().enumerate().map(term).reduce(|a, b| (a + b).unwrap()).unwrap()
}

fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    // Below a tenth, single precision leaves finite differences no digits.
    let size = expected.iter().fold(1e-1f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * size, "{what}, {i}: {a}, expected {b}");
    }
}

/// Finite differences of `sum(y * r)` by every entry of `x`.
fn differences(what: &str, x: &Var, f: impl Fn() -> Vec<Tensor>) {
    let found = flat(weighted(&f()).backward().unwrap().get(x).unwrap_or_else(|| panic!("{what}: no gradient")));
    let base = x.copy().unwrap();
    let weights: Vec<Vec<f32>> = f().iter().enumerate().map(|(i, y)| numbers(y.elem_count(), 99 + i)).collect();
    let at = |i: usize, step: f32| {
        let mut moved = flat(&base);
        moved[i] += step;
        x.set(&Tensor::from_vec(moved, x.shape(), &Device::Cpu).unwrap()).unwrap();
        let product = |(y, r): (&Tensor, &Vec<f32>)| -> f64 {
            flat(y).iter().zip(r).map(|(y, r)| f64::from(*y) * f64::from(*r)).sum()
        };
        f().iter().zip(&weights).map(product).sum::<f64>()
    };
    let size = found.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    for (i, found) in found.iter().enumerate() {
        let difference = (at(i, 1.0 / 1024.0) - at(i, -1.0 / 1024.0)) * 512.0;
        let error = (difference - f64::from(*found)).abs();
        assert!(error < 2e-3 * f64::from(size), "{what}, {i}: gradient {found}, difference {difference}");
    }
    x.set(&base).unwrap();
}

/// A convolution with everything named after `name`.
fn conv(name: &str, [c_in, c_out]: [usize; 2], [kernel, stride]: [usize; 2], groups: usize) -> Conv {
    Conv {
        weight: format!("{name}.weight"),
        bias: None,
        norm: Some(Norm { prefix: format!("{name}.bn"), eps: 1e-3 }),
        c_in,
        c_out,
        kernel,
        stride,
        padding: kernel / 2,
        groups,
        act: Activation::Silu,
    }
}

/// A network of nodes, each with the numbers of those that it reads (the image is 0), with made-up weights.
fn model(channels: usize, nodes: Vec<(Op, Vec<u32>)>, outputs: &[u32]) -> Model {
    let mut all = vec![(Op::Input { channels }, Vec::new())];
    all.extend(nodes);
    let node = |(i, (op, inputs)): (usize, (Op, Vec<u32>))| Node {
        name: i.to_string(),
        op,
        inputs: inputs.into_iter().map(NodeId).collect(),
    };
    let graph = Graph {
        nodes: all.into_iter().enumerate().map(node).collect(),
        outputs: outputs.iter().copied().map(NodeId).collect(),
        head: Head::Classify { nc: 1 },
        dtype: Dtype::F32,
        exceptions: BTreeMap::new(),
    };
    let mut weights = Weights::new();
    for (seed, param) in graph.params().into_iter().enumerate() {
        let mut data = numbers(param.shape.iter().product(), seed);
        let fan_in = param.shape[1..].iter().product::<usize>() as f32;
        data.iter_mut().for_each(|v| {
            *v = match &param.key {
                key if key.ends_with("running_var") => 0.6 + 0.5 * *v,
                key if key.ends_with("bn.weight") => 1.0 + 0.5 * *v,
                _ => *v / fan_in.sqrt(),
            }
        });
        weights.insert(param.key, model::Tensor::new(param.shape, data));
    }
    Model { graph, weights, info: Info::default() }
}

/// Our operations and the composition of candle's on the same model.
fn both(model: &Model) -> [Net; 2] {
    [true, false].map(|own| Net { own, ..Net::new(model, &Device::Cpu).unwrap() })
}

/// Outputs, gradients of image and parameters, running statistics: equal on both paths, and right.
fn check(what: &str, model: &Model, shape: [usize; 4], mode: Mode) {
    check_at(what, model, &values(&shape, 1), mode);
}

fn check_at(what: &str, model: &Model, x: &Var, mode: Mode) {
    let results = both(model).map(|net| {
        let outputs = net.forward(x, mode).unwrap();
        let grads = weighted(&outputs).backward().unwrap();
        let mut parts: Vec<(String, Vec<f32>)> = outputs.iter().map(|y| ("an output".into(), flat(y))).collect();
        parts.push(("the image's gradient".into(), flat(grads.get(x).unwrap())));
        parts.extend(net.params().iter().map(|(key, var)| (key.clone(), flat(grads.get(var).unwrap()))));
        parts.extend(net.running().iter().map(|(key, values)| (key.clone(), flat(values))));
        let seen = |key: &str| format!("{what}, {mode:?}, own {}, by {key}", net.own);
        differences(&seen("the image"), x, || net.forward(x, mode).unwrap());
        for (key, var) in net.params() {
            differences(&seen(key), var, || net.forward(x, mode).unwrap());
        }
        parts
    });
    let [own, composed] = results;
    assert_eq!(own.len(), composed.len());
    for ((key, found), (_, expected)) in own.iter().zip(&composed) {
        assert_close(&format!("{what}, {mode:?}: {key}"), found, expected, 1e-4);
    }
}

#[test]
fn convolutions_have_right_gradients_on_both_paths() {
    let bare = |conv: Conv| Conv { norm: None, act: Activation::Identity, ..conv };
    let cases = [
        (bare(conv("c", [3, 4], [3, 1], 1)), [2, 3, 4, 5]),
        (bare(conv("c", [2, 3], [3, 2], 1)), [1, 2, 4, 6]),
        (bare(conv("c", [2, 3], [3, 2], 1)), [1, 2, 5, 4]),
        (bare(conv("c", [4, 3], [1, 1], 1)), [2, 4, 3, 3]),
        (bare(conv("c", [3, 2], [1, 2], 1)), [1, 3, 4, 3]),
        (bare(conv("c", [2, 2], [5, 1], 1)), [1, 2, 3, 4]),
        (bare(conv("c", [2, 2], [7, 2], 1)), [1, 2, 7, 8]),
        (bare(conv("c", [3, 3], [3, 1], 3)), [2, 3, 4, 5]),
        (bare(conv("c", [3, 3], [3, 2], 3)), [1, 3, 6, 5]),
        (bare(conv("c", [2, 2], [5, 1], 2)), [1, 2, 1, 2]),
        (Conv { padding: 0, ..bare(conv("c", [2, 3], [3, 1], 1)) }, [1, 2, 3, 5]),
    ];
    for (conv, shape) in cases {
        let what = format!("{conv:?} on {shape:?}");
        check(&what, &model(conv.c_in, vec![(Op::Conv(conv), vec![0])], &[1]), shape, Mode::Eval);
    }
}

#[test]
fn normalisations_and_activations_have_right_gradients_on_both_paths() {
    for act in [Activation::Identity, Activation::Relu, Activation::Silu] {
        for (bias, norm) in [(true, true), (false, true), (true, false), (false, false)] {
            for mode in [Mode::Eval, Mode::Train] {
                let mut conv = Conv { act, ..conv("c", [2, 3], [1, 1], 1) };
                conv.norm = conv.norm.filter(|_| norm);
                conv.bias = bias.then(|| "c.bias".to_owned());
                // No value comes near the kink of the rectifier.
                let x = values(&[3, 2, 3, 2], 31);
                let what = format!("{act:?}, bias {bias}, norm {norm}");
                check_at(&what, &model(2, vec![(Op::Conv(conv), vec![0])], &[1]), &x, mode);
            }
        }
    }
}

#[test]
fn the_other_operations_have_right_gradients_on_both_paths() {
    let attention = Attention { heads: 2, key_dim: 2, head_dim: 3, scale: 0.7, areas: 1 };
    let pool = |kernel, stride, padding| Op::MaxPool { kernel, stride, padding };
    let deconv = |bias: bool, factor| {
        let (weight, bias) = ("t.weight".into(), bias.then(|| "t.bias".into()));
        Op::ConvTranspose(ConvTranspose { weight, bias, c_in: 3, c_out: 2, factor })
    };
    let cases = [
        (pool(2, 2, 0), [2, 2, 4, 6]),
        (pool(5, 1, 2), [1, 2, 5, 4]),
        (pool(3, 2, 1), [1, 2, 7, 6]),
        (pool(3, 3, 0), [1, 1, 7, 6]),
        (Op::AvgPool { kernel: 2, stride: 1 }, [2, 2, 3, 4]),
        (Op::AvgPool { kernel: 3, stride: 2 }, [1, 2, 6, 7]),
        (Op::Upsample { factor: 1 }, [1, 2, 2, 3]),
        (Op::Upsample { factor: 3 }, [2, 2, 2, 3]),
        (Op::Slice { start: 1, len: 2 }, [2, 4, 2, 3]),
        (Op::Attention(attention), [2, 14, 2, 3]),
        (Op::Attention(Attention { areas: 3, ..attention }), [2, 14, 2, 3]),
        (Op::AttentionValues(attention), [2, 14, 2, 3]),
        (Op::GlobalAvgPool, [2, 3, 2, 3]),
        (deconv(true, 2), [2, 3, 2, 3]),
        (deconv(false, 3), [1, 3, 1, 2]),
        (Op::Activate { act: Activation::Silu }, [2, 3, 2, 3]),
        // No value comes near the kink of the rectifier.
        (Op::Activate { act: Activation::Relu }, [1, 3, 2, 3]),
    ];
    for (op, shape) in cases {
        check(&format!("{op:?}"), &model(shape[1], vec![(op, vec![0])], &[1]), shape, Mode::Eval);
    }
}

/// Every operator in one network, tensors read several times.
#[test]
fn a_whole_network_has_right_gradients_on_both_paths() {
    let attention = Attention { heads: 2, key_dim: 1, head_dim: 2, scale: 0.8, areas: 1 };
    let identity = |conv: Conv| Conv { act: Activation::Identity, ..conv };
    let last = Conv { bias: Some("l.bias".into()), norm: None, ..identity(conv("l", [8, 2], [1, 1], 1)) };
    let nodes = vec![
        (Op::Conv(conv("a", [2, 4], [3, 2], 1)), vec![0]),            // 1
        (Op::Slice { start: 0, len: 2 }, vec![1]),                    // 2
        (Op::Slice { start: 2, len: 2 }, vec![1]),                    // 3
        (Op::Conv(conv("b", [2, 2], [3, 1], 1)), vec![3]),            // 4
        (Op::Add, vec![3, 4]),                                        // 5
        (Op::Concat, vec![2, 3, 5, 5]),                               // 6
        (Op::Conv(identity(conv("q", [8, 8], [1, 1], 1))), vec![6]),  // 7
        (Op::Attention(attention), vec![7]),                          // 8
        (Op::AttentionValues(attention), vec![7]),                    // 9
        (Op::Conv(identity(conv("p", [4, 4], [3, 1], 4))), vec![9]),  // 10
        (Op::Add, vec![8, 10]),                                       // 11
        (Op::MaxPool { kernel: 2, stride: 2, padding: 0 }, vec![11]), // 12
        (Op::Upsample { factor: 2 }, vec![12]),                       // 13
        (Op::Concat, vec![13, 1]),                                    // 14
        (Op::Conv(last), vec![14]),                                   // 15
        (Op::GlobalAvgPool, vec![12]),                                // 16
    ];
    let model = model(2, nodes, &[15, 16, 15]);
    for mode in [Mode::Eval, Mode::Train] {
        check("the network", &model, [2, 2, 8, 4], mode);
    }
}

#[test]
fn masks_on_channels_pass_gradients_to_both() {
    let (x, mask) = (values(&[2, 3, 4, 2], 1), values(&[2, 3, 1, 1], 2));
    let own = || vec![ops::channel_scale(&x, &mask).unwrap()];
    differences("the tensor", &x, own);
    differences("the mask", &mask, own);
    assert_close("the product", &flat(&own()[0]), &flat(&x.broadcast_mul(&mask).unwrap()), 1e-6);
    assert!(ops::channel_scale(&x, &values(&[3, 1, 1], 2)).is_err());
}

#[test]
fn a_frozen_net_gives_gradients_of_masks_and_image_alone() {
    let model = model(
        2,
        vec![(Op::Conv(conv("a", [2, 3], [3, 1], 1)), vec![0]), (Op::Conv(conv("b", [3, 2], [1, 1], 1)), vec![1])],
        &[2],
    );
    let x = values(&[2, 2, 3, 4], 1);
    let mask = values(&[2, 3, 1, 1], 2);
    let run = |net: &Net| {
        let hook: Hook<'_> = &mut |id, y| if id == NodeId(1) { ops::channel_scale(&y, &mask) } else { Ok(y) };
        let outputs = net.forward_with(&x, Mode::Eval, hook).unwrap();
        weighted(&outputs).backward().unwrap()
    };
    let (net, frozen) = (Net::new(&model, &Device::Cpu).unwrap(), Net::new(&model, &Device::Cpu).unwrap().frozen());
    let (grads, found) = (run(&net), run(&frozen));
    for var in [&x, &mask] {
        assert_close("a gradient", &flat(found.get(var).unwrap()), &flat(grads.get(var).unwrap()), 1e-6);
    }
    for (key, var) in frozen.params() {
        assert!(found.get(var).is_none(), "{key} has a gradient");
    }
    let image = x.as_detached_tensor();
    assert!(!frozen.forward(&image, Mode::Eval).unwrap()[0].track_op());
}

// From here one test for each trap of candle.

/// Candle's own gradient of an upsampling overwrites what came from the input's other readers.
#[test]
fn trap_an_upsampled_tensor_is_used_again() {
    let nodes =
        vec![(Op::Upsample { factor: 2 }, vec![0]), (Op::Slice { start: 0, len: 2 }, vec![0]), (Op::Add, vec![2, 0])];
    check("upsampling", &model(2, nodes, &[1, 3]), [1, 2, 2, 3], Mode::Eval);
}

/// Candle's gradient of a pooling with windows of 2 and step 2 is off by a factor.
#[test]
fn trap_pooling_by_two() {
    let x = values(&[1, 1, 4, 4], 3);
    for net in both(&model(1, vec![(Op::MaxPool { kernel: 2, stride: 2, padding: 0 }, vec![0])], &[1])) {
        let y = net.forward(&x, Mode::Eval).unwrap().swap_remove(0);
        let grad = flat(y.sum_all().unwrap().backward().unwrap().get(&x).unwrap());
        assert_eq!(grad.iter().filter(|g| **g == 1.0).count(), 4);
        assert_eq!(grad.iter().sum::<f32>(), 4.0);
    }
}

/// Candle has no gradient of overlapping windows, and zeros in the padding would win over negative values.
#[test]
fn trap_pooling_overlaps_and_padding_never_wins() {
    let x = Var::from_tensor(&(values(&[1, 2, 4, 5], 3).as_tensor() - 2.0).unwrap()).unwrap();
    for net in both(&model(2, vec![(Op::MaxPool { kernel: 5, stride: 1, padding: 2 }, vec![0])], &[1])) {
        assert!(flat(&net.forward(&x, Mode::Eval).unwrap()[0]).iter().all(|v| *v < 0.0));
        differences("pooling", &x, || net.forward(&x, Mode::Eval).unwrap());
    }
}

/// Candle convolves depthwise one channel at a time; the result must be the same.
#[test]
fn trap_depthwise_convolution() {
    let conv = Conv { norm: None, act: Activation::Identity, ..conv("c", [4, 4], [3, 1], 4) };
    let x = values(&[2, 4, 5, 3], 1);
    for net in both(&model(4, vec![(Op::Conv(conv), vec![0])], &[1])) {
        let expected = x.conv2d(&net.param("c.weight"), 1, 1, 1, 4).unwrap();
        assert_close("depthwise", &flat(&net.forward(&x, Mode::Eval).unwrap()[0]), &flat(&expected), 1e-5);
    }
}

/// Candle's softmax over the last axis passes no gradient on.
#[test]
fn trap_attention_passes_the_softmax_gradient() {
    let attention = Attention { heads: 1, key_dim: 1, head_dim: 1, scale: 1.5, areas: 1 };
    let x = values(&[1, 3, 2, 3], 7);
    let y = attend(&attention, &x).unwrap();
    let grad = flat(y.sqr().unwrap().sum_all().unwrap().backward().unwrap().get(&x).unwrap());
    assert!(grad[..12].iter().all(|g| *g != 0.0), "queries and keys get {grad:?}");
    differences("attention", &x, || vec![attend(&attention, &x).unwrap()]);
}

/// Candle's gradient of a convolution with step 2 fails where one side is even and the other odd.
#[test]
fn trap_step_two_on_an_even_and_an_odd_side() {
    for shape in [[1, 2, 4, 5], [1, 2, 5, 4], [2, 2, 6, 3]] {
        let nodes = vec![(Op::Conv(conv("c", [2, 3], [3, 2], 1)), vec![0])];
        check("step 2", &model(2, nodes, &[1]), shape, Mode::Train);
    }
}

/// Candle's normalisation has other constants than YOLO's: here 1e-3 under the root, and 3 % of the batch.
#[test]
fn trap_constants_of_the_normalisation() {
    let conv = Conv { act: Activation::Identity, ..conv("c", [1, 1], [1, 1], 1) };
    let mut model = model(1, vec![(Op::Conv(conv), vec![0])], &[1]);
    for (key, value) in
        [("weight", 1.0), ("bn.weight", 1.0), ("bn.bias", 0.0), ("bn.running_mean", 2.0), ("bn.running_var", 5.0)]
    {
        model.weights.get_mut(&format!("c.{key}")).unwrap().data_mut().fill(value);
    }
    // Mean 0.02, biased variance 5e-4, unbiased 2e-3 / 3: of the size of the constant.
    let image = Tensor::from_vec(vec![-0.01f32, 0.01, 0.03, 0.05], (1, 1, 2, 2), &Device::Cpu).unwrap();
    for net in both(&model) {
        let y = flat(&net.forward(&image, Mode::Train).unwrap()[0]);
        let expected = [-0.03, -0.01, 0.01, 0.03f32].map(|v| v / (5e-4f32 + 1e-3).sqrt());
        assert_close("the batch's statistics", &y, &expected, 1e-5);
        let weights = net.to_model().unwrap().weights;
        assert_close("mean", weights["c.bn.running_mean"].data(), &[0.97 * 2.0 + 0.03 * 0.02], 1e-6);
        assert_close("variance", weights["c.bn.running_var"].data(), &[0.97 * 5.0 + 0.03 * 2e-3 / 3.0], 1e-6);
        let y = flat(&net.forward(&image, Mode::Eval).unwrap()[0]);
        let (mean, var) = (1.9406f32, 4.85002f32);
        let expected = [-0.01, 0.01, 0.03, 0.05f32].map(|v| (v - mean) / (var + 1e-3).sqrt());
        assert_close("the running statistics", &y, &expected, 1e-5);
    }
}

/// The gradient of `x * sigmoid(x)` is finite far from zero.
#[test]
fn trap_silu_far_out() {
    let conv = Conv { norm: None, ..conv("c", [1, 1], [1, 1], 1) };
    let mut model = model(1, vec![(Op::Conv(conv), vec![0])], &[1]);
    model.weights.insert("c.weight".into(), model::Tensor::filled([1, 1, 1, 1], 1.0));
    let x = Tensor::from_vec(vec![-200.0f32, -90.0, 90.0, 200.0], (1, 1, 2, 2), &Device::Cpu).unwrap();
    let x = Var::from_tensor(&x).unwrap();
    for net in both(&model) {
        let y = net.forward(&x, Mode::Eval).unwrap().swap_remove(0);
        assert_close("value", &flat(&y), &[0.0, 0.0, 90.0, 200.0], 1e-6);
        let grad = y.sum_all().unwrap().backward().unwrap();
        assert_close("gradient", &flat(grad.get(&x).unwrap()), &[0.0, 0.0, 1.0, 1.0], 1e-6);
    }
}

/// A convolution that computes as in int8 is one of a rounded kernel and a rounded image; its gradients are those of
/// the convolution there, but where the image leaves the range it gets none.
#[test]
fn a_layer_in_int8_computes_with_rounded_values_and_gradients_pass_the_rounding() {
    let range = [-0.4f32, 0.7];
    let step = f64::from(range[1] - range[0]) / 255.0;
    let zero = (f64::from(-range[0]) / step).round();
    let given = model(3, vec![(Op::Conv(conv("a", [3, 4], [3, 1], 1)), vec![0])], &[1]);
    let mut rounded = given.clone();
    let kernel = rounded.weights.get_mut("a.weight").unwrap();
    let before = kernel.data().to_vec();
    for (channel, before) in kernel.data_mut().chunks_mut(27).zip(before.chunks(27)) {
        let most = before.iter().fold(0.0f32, |most, w| w.abs().max(most));
        crate::kernels::quantize_kernel(channel, 1);
        for (w, before) in channel.iter().zip(before) {
            let steps = w / most * 127.0;
            assert!(
                (steps - steps.round()).abs() < 0.01 && (w - before).abs() <= 0.505 * most / 127.0,
                "{before}: {w}"
            );
        }
    }
    let image = values(&[2, 3, 6, 5], 1);
    let steps: Vec<f64> = flat(&image).iter().map(|v| f64::from(*v) / step + zero).collect();
    let inside: Vec<bool> = steps.iter().map(|steps| (0.0..=255.0).contains(steps)).collect();
    assert!(inside.contains(&true) && inside.contains(&false));
    let ideal = steps.iter().map(|steps| ((steps.clamp(0.0, 255.0).round() - zero) * step) as f32).collect();
    let ideal = Var::from_tensor(&Tensor::from_vec(ideal, image.shape(), &Device::Cpu).unwrap()).unwrap();
    for own in [true, false] {
        let net = |model: &Model| Net { own, ..Net::new(model, &Device::Cpu).unwrap() };
        let (mut int8, plain) = (net(&given), net(&rounded));
        int8.set_int8(&BTreeMap::from([("1".to_owned(), range)]));
        for mode in [Mode::Eval, Mode::Train] {
            let [found, wanted] = [(&int8, &image), (&plain, &ideal)].map(|(net, x)| {
                let y = net.forward(x, mode).unwrap();
                let grads = weighted(&y).backward().unwrap();
                let params = net.params().iter().map(|(_, var)| flat(grads.get(var).unwrap())).collect::<Vec<_>>();
                (flat(&y[0]), flat(grads.get(x).unwrap()), params)
            });
            assert_close("outputs", &found.0, &wanted.0, 1e-5);
            let passed = wanted.1.iter().zip(&inside).map(|(d, inside)| if *inside { *d } else { 0.0 });
            assert_close("the image's gradient", &found.1, &passed.collect::<Vec<_>>(), 1e-4);
            for ((key, _), (found, wanted)) in int8.params().iter().zip(found.2.iter().zip(&wanted.2)) {
                assert_close(key, found, wanted, 1e-4);
            }
        }
    }
}
