//! A model as an ONNX file that answers what the reference's own export answers.
//!
//! Input `images` `[1, 3, height, width]`, RGB in 0..1. A detector's output `output0` is `[1, 4 + nc, anchors]`: centre
//! and size of every box in pixels of the input, then the class scores after the sigmoid. A classifier's `output0` is
//! its logits `[1, nc]`. All shapes are static, batch normalisation is folded, and only long-standing operators (opset
//! 17) with constant arguments occur, which is what TensorRT and the other runtimes want. Names, stride and size travel
//! in the metadata under the keys that the reference writes.

pub mod proto;

use crate::graph::{Activation, Attention, Conv, GraphError, Head, Op, Shape};
use crate::model::{Model, fold};
use prost::Message;
use proto::{
    AttributeProto, Dimension, FLOAT, GraphProto, INT64, ModelProto, NodeProto, OperatorSetId, ShapeProto, StringEntry,
    TensorProto, TensorType, TypeProto, ValueInfo,
};
use std::collections::HashSet;
use thiserror::Error;

/// The operator set that is written.
pub const OPSET: i64 = 17;

/// Protobuf's own limit on a message.
const MAX_BYTES: usize = i32::MAX as usize;

/// A model that cannot be exported.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The image size does not suit the network.
    #[error("at {height} x {width} pixels: {source}")]
    Graph {
        /// Height of the input.
        height: usize,
        /// Width of the input.
        width: usize,
        /// The layer at fault.
        source: GraphError,
    },
    /// The file would be larger than protobuf allows.
    #[error("the file would have {0} bytes, ONNX allows {MAX_BYTES}")]
    TooLarge(usize),
    /// Two tensors would have the same name.
    #[error("two tensors would be called `{0}`")]
    Name(String),
}

/// The bytes of an ONNX file for images of `height` x `width`.
///
/// # Errors
/// If the image size does not suit the network, or the file would be too large.
pub fn export(model: &Model, height: usize, width: usize) -> Result<Vec<u8>, ExportError> {
    let fail = |source| ExportError::Graph { height, width, source };
    let graph = &model.graph;
    let shapes = graph.shapes(height, width).map_err(fail)?;
    let mut writer = Writer::default();
    for (i, node) in graph.nodes.iter().enumerate() {
        let inputs: Vec<&str> = node.inputs.iter().map(|id| name_of(&graph.node(*id).name, id.index())).collect();
        let first = node.inputs.first().map_or(shapes[i], |id| shapes[id.index()]);
        writer.operator(model, name_of(&node.name, i), &node.op, &inputs, first, shapes[i]);
    }
    let outputs: Vec<(&str, Shape)> =
        graph.outputs.iter().map(|id| (name_of(&graph.node(*id).name, id.index()), shapes[id.index()])).collect();
    let result = match &graph.head {
        Head::Detect { nc, reg_max, strides } => writer.detect(&outputs, *nc, *reg_max, strides),
        Head::Classify { nc } => {
            writer.node("Flatten", "output0", &[outputs[0].0], vec![int("axis", 1)]);
            vec![1, *nc as i64]
        }
    };
    writer.check_names()?;
    let image = [1, graph.input_channels(), height, width].map(|n| n as i64);
    let file = ModelProto {
        ir_version: 8,
        producer_name: "secateurs".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import: vec![OperatorSetId { domain: String::new(), version: OPSET }],
        metadata_props: metadata(model, height, width),
        graph: Some(GraphProto {
            name: "network".into(),
            node: writer.nodes,
            initializer: writer.constants,
            input: vec![value("images", &image)],
            output: vec![value("output0", &result)],
        }),
    };
    let bytes = file.encoded_len();
    if bytes > MAX_BYTES { Err(ExportError::TooLarge(bytes)) } else { Ok(file.encode_to_vec()) }
}

/// The tensor of a node; the image is always called `images`.
fn name_of(name: &str, index: usize) -> &str {
    if index == 0 { "images" } else { name }
}

/// What a runtime needs beyond the network, under the keys of the reference.
fn metadata(model: &Model, height: usize, width: usize) -> Vec<StringEntry> {
    let names = (0..model.graph.classes()).map(|class| {
        let name = model.info.class_name(class).replace('\\', "\\\\").replace('\'', "\\'");
        format!("{class}: '{name}'")
    });
    let task = match model.graph.head {
        Head::Detect { .. } => "detect",
        Head::Classify { .. } => "classify",
    };
    let entries = [
        ("task", task.to_owned()),
        ("batch", "1".to_owned()),
        ("stride", model.graph.stride().to_string()),
        ("imgsz", format!("[{height}, {width}]")),
        ("names", format!("{{{}}}", names.collect::<Vec<_>>().join(", "))),
    ];
    let provenance = model.info.provenance.iter().map(|(key, value)| (key.as_str(), value.clone()));
    entries.into_iter().chain(provenance).map(|(key, value)| StringEntry { key: key.into(), value }).collect()
}

#[derive(Default)]
struct Writer {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
}

impl Writer {
    /// Appends the nodes of one operator; the last of them makes `name`.
    fn operator(&mut self, model: &Model, name: &str, op: &Op, inputs: &[&str], input: Shape, output: Shape) {
        match op {
            Op::Input { .. } => {}
            Op::Conv(conv) => self.conv(model, name, conv, inputs[0]),
            Op::MaxPool { kernel, stride, padding } => {
                self.node("MaxPool", name, inputs, window(*kernel, *stride, *padding));
            }
            Op::Upsample { factor } => {
                let scales =
                    self.floats(format!("{name}/scales"), &[4], vec![1.0, 1.0, *factor as f32, *factor as f32]);
                let settings = vec![
                    text("mode", "nearest"),
                    text("coordinate_transformation_mode", "asymmetric"),
                    text("nearest_mode", "floor"),
                ];
                self.node("Resize", name, &[inputs[0], "", &scales], settings);
            }
            Op::Concat => self.node("Concat", name, inputs, vec![int("axis", 1)]),
            Op::Slice { start, len } => self.slice(name, inputs[0], 1, *start, *len),
            Op::Add => self.node("Add", name, inputs, vec![]),
            Op::Attention(attention) => self.attention(name, attention, inputs[0], input),
            Op::Values(attention) => {
                let values = self.packed(name, attention, inputs[0], input.area());
                let values = self.part(name, "v", &values, 2 * attention.key_dim, attention.head_dim);
                self.reshape(name, &values, &[1, output.c, output.h, output.w]);
            }
            Op::GlobalAvgPool => self.node("GlobalAveragePool", name, inputs, vec![]),
        }
    }

    fn conv(&mut self, model: &Model, name: &str, conv: &Conv, input: &str) {
        let (kernel, bias) = fold(model, conv);
        let kernel = self.floats(format!("{name}/weight"), &conv.weight_shape(), kernel);
        let bias = self.floats(format!("{name}/bias"), &[conv.c_out], bias);
        let mut settings = window(conv.kernel, conv.stride, conv.padding);
        settings.push(int("group", conv.groups as i64));
        let linear = if conv.act == Activation::Identity { name.to_owned() } else { format!("{name}/linear") };
        self.node("Conv", &linear, &[input, &kernel, &bias], settings);
        match conv.act {
            Activation::Identity => {}
            Activation::Relu => self.node("Relu", name, &[&linear], vec![]),
            Activation::Silu => {
                let gate = self.step("Sigmoid", name, "gate", &[&linear], vec![]);
                self.node("Mul", name, &[&linear, &gate], vec![]);
            }
        }
    }

    fn attention(&mut self, name: &str, attention: &Attention, input: &str, shape: Shape) {
        let Attention { heads, key_dim, head_dim, scale } = *attention;
        let packed = self.packed(name, attention, input, shape.area());
        let queries = self.part(name, "q", &packed, 0, key_dim);
        let keys = self.part(name, "k", &packed, key_dim, key_dim);
        let values = self.part(name, "v", &packed, 2 * key_dim, head_dim);
        let turned = || vec![ints("perm", &[0, 1, 3, 2])];
        let queries = self.step("Transpose", name, "qt", &[&queries], turned());
        let logits = self.step("MatMul", name, "qk", &[&queries, &keys], vec![]);
        let scale = self.floats(format!("{name}/scale"), &[], vec![scale]);
        let logits = self.step("Mul", name, "scaled", &[&logits, &scale], vec![]);
        let shares = self.step("Softmax", name, "softmax", &[&logits], vec![int("axis", -1)]);
        let shares = self.step("Transpose", name, "shares", &[&shares], turned());
        let mixed = self.step("MatMul", name, "mixed", &[&values, &shares], vec![]);
        self.reshape(name, &mixed, &[1, heads * head_dim, shape.h, shape.w]);
    }

    /// The packed input by head: `[1, heads, packed, positions]`.
    fn packed(&mut self, name: &str, attention: &Attention, input: &str, positions: usize) -> String {
        let packed = format!("{name}/packed");
        self.reshape(&packed, input, &[1, attention.heads, attention.packed(), positions]);
        packed
    }

    fn part(&mut self, name: &str, part: &str, packed: &str, start: usize, len: usize) -> String {
        let part = format!("{name}/{part}");
        self.slice(&part, packed, 2, start, len);
        part
    }

    /// Boxes and scores from the raw levels; the shape of `output0`.
    fn detect(&mut self, outputs: &[(&str, Shape)], nc: usize, reg_max: usize, strides: &[usize]) -> Vec<i64> {
        let (mut centres, mut pixels) = ([Vec::new(), Vec::new()], Vec::new());
        for (pair, stride) in outputs.chunks(2).zip(strides) {
            let shape = pair[0].1;
            for i in 0..shape.area() {
                centres[0].push((i % shape.w) as f32 + 0.5);
                centres[1].push((i / shape.w) as f32 + 0.5);
                pixels.push(*stride as f32);
            }
        }
        let anchors = pixels.len();
        let mut joined = |what: &str, at: usize| {
            let flat: Vec<String> = outputs
                .chunks(2)
                .enumerate()
                .map(|(level, pair)| {
                    let flat = format!("decode/{what}.{level}");
                    self.reshape(&flat, pair[at].0, &[1, pair[at].1.c, pair[at].1.area()]);
                    flat
                })
                .collect();
            let flat: Vec<&str> = flat.iter().map(String::as_str).collect();
            self.step("Concat", "decode", what, &flat, vec![int("axis", 2)])
        };
        let (boxes, classes) = (joined("boxes", 0), joined("classes", 1));

        // Expected distance per side: softmax over the bins, then their mean as a convolution with 0, 1, 2, ….
        self.reshape("decode/sides", &boxes, &[1, 4, reg_max, anchors]);
        let bins = self.step("Transpose", "decode", "bins", &["decode/sides"], vec![ints("perm", &[0, 2, 1, 3])]);
        let shares = self.step("Softmax", "decode", "shares", &[&bins], vec![int("axis", 1)]);
        let counts = self.floats("decode/counts".into(), &[1, reg_max, 1, 1], (0..reg_max).map(|b| b as f32).collect());
        let mean = self.step("Conv", "decode", "mean", &[&shares, &counts], window(1, 1, 0));
        self.reshape("decode/distances", &mean, &[1, 4, anchors]);
        self.slice("decode/lt", "decode/distances", 1, 0, 2);
        self.slice("decode/rb", "decode/distances", 1, 2, 2);

        let centres = self.floats("decode/anchors".into(), &[1, 2, anchors], centres.concat());
        let first = self.step("Sub", "decode", "first", &[&centres, "decode/lt"], vec![]);
        let last = self.step("Add", "decode", "last", &[&centres, "decode/rb"], vec![]);
        let sum = self.step("Add", "decode", "sum", &[&first, &last], vec![]);
        let half = self.floats("decode/half".into(), &[], vec![0.5]);
        let centre = self.step("Mul", "decode", "centre", &[&sum, &half], vec![]);
        let size = self.step("Sub", "decode", "size", &[&last, &first], vec![]);
        let cells = self.step("Concat", "decode", "cells", &[&centre, &size], vec![int("axis", 1)]);
        let pixels = self.floats("decode/strides".into(), &[1, 1, anchors], pixels);
        let boxes = self.step("Mul", "decode", "pixels", &[&cells, &pixels], vec![]);
        let scores = self.step("Sigmoid", "decode", "scores", &[&classes], vec![]);
        self.node("Concat", "output0", &[&boxes, &scores], vec![int("axis", 1)]);
        vec![1, 4 + nc as i64, anchors as i64]
    }

    fn node(&mut self, op: &str, output: &str, inputs: &[&str], attribute: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|i| (*i).to_owned()).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: op.to_owned(),
            attribute,
        });
    }

    /// A node whose tensor is an inner one of `name`.
    fn step(&mut self, op: &str, name: &str, what: &str, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        let output = format!("{name}/{what}");
        self.node(op, &output, inputs, attribute);
        output
    }

    fn reshape(&mut self, output: &str, input: &str, shape: &[usize]) {
        let shape = self.integers(format!("{output}/shape"), shape);
        self.node("Reshape", output, &[input, &shape], vec![]);
    }

    fn slice(&mut self, output: &str, input: &str, axis: usize, start: usize, len: usize) {
        let arguments = [("start", start), ("end", start + len), ("axis", axis)];
        let [start, end, axis] = arguments.map(|(what, value)| self.integers(format!("{output}/{what}"), &[value]));
        self.node("Slice", output, &[input, &start, &end, &axis], vec![]);
    }

    fn floats(&mut self, name: String, shape: &[usize], values: Vec<f32>) -> String {
        let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let dims = shape.iter().map(|n| *n as i64).collect();
        self.constants.push(TensorProto { dims, data_type: FLOAT, name: name.clone(), raw_data });
        name
    }

    fn integers(&mut self, name: String, values: &[usize]) -> String {
        let raw_data = values.iter().flat_map(|v| (*v as i64).to_le_bytes()).collect();
        let dims = vec![values.len() as i64];
        self.constants.push(TensorProto { dims, data_type: INT64, name: name.clone(), raw_data });
        name
    }

    fn check_names(&self) -> Result<(), ExportError> {
        let mut seen = HashSet::from(["images"]);
        let made = self.nodes.iter().flat_map(|n| &n.output).chain(self.constants.iter().map(|c| &c.name));
        for name in made {
            if !seen.insert(name) {
                return Err(ExportError::Name(name.clone()));
            }
        }
        Ok(())
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: Some(value), kind: 2, ..Default::default() }
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { name: name.into(), s: Some(value.as_bytes().to_vec()), kind: 3, ..Default::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: values.to_vec(), kind: 7, ..Default::default() }
}

fn window(kernel: usize, stride: usize, padding: usize) -> Vec<AttributeProto> {
    let all = |name, value: usize, count| ints(name, &vec![value as i64; count]);
    vec![all("kernel_shape", kernel, 2), all("strides", stride, 2), all("pads", padding, 4)]
}

fn value(name: &str, shape: &[i64]) -> ValueInfo {
    let dim = shape.iter().map(|n| Dimension { dim_value: Some(*n) }).collect();
    let tensor_type = Some(TensorType { elem_type: FLOAT, shape: Some(ShapeProto { dim }) });
    ValueInfo { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
}
