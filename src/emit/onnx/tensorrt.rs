//! What TensorRT's parser would refuse in an ONNX file.
//!
//! The rules are those of its support matrix (onnx-tensorrt, docs/operators.md) for versions 8.5 to 10, which take
//! operator sets up to 17: of each operator that an export may have, and of types and shapes in general. An operator
//! without a rule here counts as refused.

use super::OPSET;
use super::proto::{AttributeProto, FLOAT, GraphProto, INT8, INT64, ModelProto, NodeProto, TensorProto, ValueInfo};
use std::collections::{BTreeMap, BTreeSet};

/// The most axes of a tensor, and the most elements.
const MAX_RANK: usize = 8;
const MAX_VOLUME: i64 = i32::MAX as i64;

/// Operators that are taken whatever their inputs.
const FREE: [&str; 14] = [
    "Add",
    "Concat",
    "Cos",
    "Flatten",
    "GlobalAveragePool",
    "Identity",
    "MatMul",
    "Mul",
    "Relu",
    "Sigmoid",
    "Sin",
    "Softmax",
    "Sub",
    "Transpose",
];

/// What quantizes a tensor and dequantizes it again.
const PAIR: [&str; 2] = ["QuantizeLinear", "DequantizeLinear"];

const MODES: [&str; 2] = ["nearest", "linear"];
const PLACES: [&str; 5] = ["half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"];
const ROUNDINGS: [&str; 4] = ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"];

/// Everything that would be refused, one sentence each; nothing for a file that TensorRT can parse.
pub fn refused(file: &ModelProto) -> Vec<String> {
    let mut found = Vec::new();
    for set in file.opset_import.iter().filter(|set| !set.domain.is_empty() || set.version > OPSET) {
        found.push(format!("operator set `{}` {}, expected ONNX's own up to {OPSET}", set.domain, set.version));
    }
    let Some(graph) = &file.graph else {
        found.push("no graph".into());
        return found;
    };
    let ends = graph.input.iter().chain(&graph.output);
    found.extend(ends.filter_map(|end| open_end(end).map(|why| format!("`{}`: {why}", end.name))));
    found.extend(
        graph.initializer.iter().filter_map(|c| constant(c).map(|why| format!("constant `{}`: {why}", c.name))),
    );
    let constants: BTreeMap<&str, &TensorProto> = graph.initializer.iter().map(|c| (c.name.as_str(), c)).collect();
    found.extend(operators(graph, &constants));
    found
}

/// What is wrong with an input or output of the network: shapes must be known, values 32-bit floats.
fn open_end(value: &ValueInfo) -> Option<String> {
    let tensor = value.r#type.as_ref()?.tensor_type.as_ref()?;
    if tensor.elem_type != FLOAT {
        return Some(format!("elements of type {}, expected 32-bit floats", tensor.elem_type));
    }
    let dims: Option<Vec<i64>> =
        tensor.shape.as_ref().map(|shape| shape.dim.iter().map(|dim| dim.dim_value.unwrap_or(0)).collect());
    volume(&dims?)
}

fn constant(tensor: &TensorProto) -> Option<String> {
    match tensor.data_type {
        FLOAT | INT8 => {}
        INT64 => {
            let values = tensor.raw_data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default()));
            if let Some(large) = values.into_iter().find(|value| i32::try_from(*value).is_err()) {
                return Some(format!("{large} does not fit into 32 bits, to which integers are cast"));
            }
        }
        other => return Some(format!("elements of type {other}, expected 32-bit floats, 8-bit or 64-bit integers")),
    }
    volume(&tensor.dims)
}

fn volume(dims: &[i64]) -> Option<String> {
    if dims.len() > MAX_RANK {
        return Some(format!("{} axes, at most {MAX_RANK} are taken", dims.len()));
    }
    if let Some(open) = dims.iter().find(|n| **n < 1) {
        return Some(format!("an axis of {open}, expected sizes that are known and more than 0"));
    }
    let volume = dims.iter().try_fold(1i64, |product, n| product.checked_mul(*n).filter(|p| *p <= MAX_VOLUME));
    volume.is_none().then(|| format!("{dims:?} are more than {MAX_VOLUME} elements"))
}

fn operators(graph: &GraphProto, constants: &BTreeMap<&str, &TensorProto>) -> Vec<String> {
    // A kernel may stand behind its pair: what a pair makes of a constant is one.
    let mut kernels: BTreeSet<&str> = constants.keys().copied().collect();
    for node in graph.node.iter().filter(|node| PAIR.contains(&node.op_type.as_str())) {
        if node.input.first().is_some_and(|input| kernels.contains(input.as_str())) {
            kernels.extend(node.output.iter().map(String::as_str));
        }
    }
    let of = |node: &NodeProto| {
        operator(node, constants, &kernels).map(|why| format!("{} `{}`: {why}", node.op_type, node.name))
    };
    graph.node.iter().filter_map(of).collect()
}

/// What is wrong with an operator. `kernels` are the tensors that may be the kernel of one.
fn operator(node: &NodeProto, constants: &BTreeMap<&str, &TensorProto>, kernels: &BTreeSet<&str>) -> Option<String> {
    if node.output.len() != 1 {
        return Some(format!("{} outputs, expected 1", node.output.len()));
    }
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name);
    let fixed = |at: usize| node.input.get(at).is_some_and(|input| constants.contains_key(input.as_str()));
    let must_be_fixed = |at: usize, what: &str| (!fixed(at)).then(|| format!("its {what} must be a constant"));
    let one_of = |name: &str, allowed: &[&str], default: &str| {
        let value = attribute(name).and_then(text).unwrap_or(default);
        (!allowed.contains(&value)).then(|| format!("{name} is `{value}`, expected one of {}", allowed.join(", ")))
    };
    let window = || {
        let axes = attribute("kernel_shape").map(|a| a.ints.len());
        axes.filter(|n| !(2..=3).contains(n)).map(|n| format!("a window of {n} axes, expected 2 or 3"))
    };
    match node.op_type.as_str() {
        "Conv" | "ConvTranspose" => {
            let fixed = node.input.get(1).is_some_and(|input| kernels.contains(input.as_str()));
            (!fixed).then(|| "its kernel must be a constant".into()).or_else(window)
        }
        "MaxPool" | "AveragePool" => window(),
        "QuantizeLinear" | "DequantizeLinear" => {
            let constant = |at: usize| node.input.get(at).and_then(|input| constants.get(input.as_str()));
            quantization(constant(1).copied(), constant(2).copied())
        }
        "Reshape" => must_be_fixed(1, "shape"),
        "Slice" => (1..=3).find_map(|at| must_be_fixed(at, ["start", "end", "axis"][at - 1])),
        "Resize" => (!fixed(2) && !fixed(3))
            .then(|| "its scales must be constants".into())
            .or_else(|| one_of("mode", &MODES, "nearest"))
            .or_else(|| one_of("coordinate_transformation_mode", &PLACES, "half_pixel"))
            .or_else(|| one_of("nearest_mode", &ROUNDINGS, "round_prefer_floor")),
        free if FREE.contains(&free) => None,
        _ => Some("not among the operators that are known to be taken".into()),
    }
}

/// What is wrong with the scale and the zero point of a quantized tensor.
fn quantization(scale: Option<&TensorProto>, zero: Option<&TensorProto>) -> Option<String> {
    let Some((scale, zero)) = scale.zip(zero) else {
        return Some("its scale and its zero point must be constants".into());
    };
    let mut scales = scale.raw_data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap_or_default()));
    if !scales.all(|scale| scale.is_finite() && scale > 0.0) {
        return Some("its scales must be more than 0".into());
    }
    if zero.data_type != INT8 {
        return Some(format!("its zero point is of type {}, expected signed 8-bit integers", zero.data_type));
    }
    let shifted = zero.raw_data.iter().any(|value| *value != 0);
    shifted.then(|| "its zero point must be 0: quantise with --symmetric".into())
}

fn text(attribute: &AttributeProto) -> Option<&str> {
    std::str::from_utf8(attribute.s.as_deref()?).ok()
}
