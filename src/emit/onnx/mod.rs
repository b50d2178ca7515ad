//! Exports a model as an ONNX file with the same outputs as ultralytics' own export.
//!
//! Input `images` `[batch, 3, height, width]`, RGB in 0..1. A detector's output `output0` is `[batch, 4 + nc, anchors]`:
//! centre and size of every box in pixels of the input, then the class scores after the sigmoid. Rows of the task follow: mask
//! coefficients (the prototypes are `output1`, `[batch, masks, H, W]`), keypoints in pixels with the probability of being
//! visible, or the angle in radians. A one-to-one branch is exported like any other: its boxes are the best scores, with
//! nothing to suppress. A classifier's `output0` is its logits `[batch, nc]`. All shapes are static, batch
//! normalisation is folded, and only long-standing operators (opset 17) with constant arguments occur, which
//! TensorRT and the other runtimes support. int8 layers are pairs of `QuantizeLinear` and `DequantizeLinear`; layers in
//! f16 are written in f32, for the runtime to choose. Names, stride and size travel in the metadata under the keys that
//! the reference writes.

mod decode;
pub mod proto;
mod qdq;
pub mod tensorrt;

pub use qdq::calibration_cache;

use crate::graph::{Activation, Attention, Conv, ConvTranspose, Dtype, GraphError, Head, Op, Shape};
use crate::model::{Model, ModelError, fold};
use crate::size::ImageSize;
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
        /// The layer that is wrong.
        source: GraphError,
    },
    /// The file would be larger than protobuf allows.
    #[error("the file would have {0} bytes, ONNX allows {MAX_BYTES}")]
    TooLarge(usize),
    /// A classifier at a size that its last layers do not suit.
    #[error("at {height} x {width} pixels the classifier answers for several positions, expected one")]
    Positions {
        /// Height of the input.
        height: usize,
        /// Width of the input.
        width: usize,
    },
    /// One branch of its head is no model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Two tensors would have the same name.
    #[error("two tensors would be called `{0}`")]
    Name(String),
}

/// The bytes of an ONNX file for images of `height` x `width`, as [`file()`] makes it.
///
/// ```
/// use secateurs::emit::onnx;
/// # let demo = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/pipeline/demo.safetensors"));
/// # let model = secateurs::model::from_bytes(std::path::Path::new("demo.safetensors"), demo)?;
///
/// let bytes = onnx::export(&model, 160, 160)?;
/// assert!(bytes.len() > model.weight_bytes() / 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`file()`].
pub fn export(model: &Model, height: usize, width: usize) -> Result<Vec<u8>, ExportError> {
    Ok(file(model, height, width)?.encode_to_vec())
}

/// An ONNX file for images of `height` x `width`.
///
/// # Errors
/// If the image size does not suit the network, or the file would be too large.
pub fn file(model: &Model, height: usize, width: usize) -> Result<ModelProto, ExportError> {
    batch_file(model, ImageSize { height, width }, 1)
}

/// An ONNX file for batches of so many images of a size: input and outputs have them along axis 0.
///
/// # Errors
/// As [`file()`].
pub fn batch_file(model: &Model, size: ImageSize, batch: usize) -> Result<ModelProto, ExportError> {
    if let Head::EndToEnd { one2many: true, .. } = model.graph.head {
        return batch_file(&model.deployed(None)?, size, batch);
    }
    let (ImageSize { height, width }, batch) = (size, batch.max(1));
    let fail = |source| ExportError::Graph { height, width, source };
    let graph = &model.graph;
    let shapes = graph.shapes(height, width).map_err(fail)?;
    let int8 = graph.convs_in(Dtype::Int8).map(|(id, _)| graph.node(id).name.clone()).collect();
    let mut writer = Writer { int8, batch, ..Writer::default() };
    for (i, node) in graph.nodes.iter().enumerate() {
        let inputs: Vec<&str> = node.inputs.iter().map(|id| name_of(&graph.node(*id).name, id.index())).collect();
        let first = node.inputs.first().map_or(shapes[i], |id| shapes[id.index()]);
        writer.operator(model, name_of(&node.name, i), &node.op, &inputs, first, shapes[i]);
    }
    let outputs: Vec<(&str, Shape)> =
        graph.outputs.iter().map(|id| (name_of(&graph.node(*id).name, id.index()), shapes[id.index()])).collect();
    let results = match graph.head.boxes() {
        Some(boxes) => writer.decode(&graph.head, boxes, &outputs),
        None if outputs[0].1.area() != 1 => return Err(ExportError::Positions { height, width }),
        None => {
            writer.node("Flatten", "output0", &[outputs[0].0], vec![int("axis", 1)]);
            vec![vec![batch, graph.classes()]]
        }
    };
    let results = results.iter().enumerate().map(|(i, shape)| value(&format!("output{i}"), shape)).collect();
    writer.check_names()?;
    let image = [batch, graph.input_channels(), height, width];
    let file = ModelProto {
        ir_version: 8,
        producer_name: "secateurs".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import: vec![OperatorSetId { domain: String::new(), version: OPSET }],
        metadata_props: metadata(model, size, batch),
        graph: Some(GraphProto {
            name: "network".into(),
            node: writer.nodes,
            initializer: writer.constants,
            input: vec![value("images", &image)],
            output: results,
        }),
    };
    let bytes = file.encoded_len();
    if bytes > MAX_BYTES { Err(ExportError::TooLarge(bytes)) } else { Ok(file) }
}

/// The tensor of a node; the image is always called `images`.
fn name_of(name: &str, index: usize) -> &str {
    if index == 0 { "images" } else { name }
}

/// What a runtime needs beyond the network, under the keys of the reference.
fn metadata(model: &Model, ImageSize { height, width }: ImageSize, batch: usize) -> Vec<StringEntry> {
    let names = (0..model.graph.classes()).map(|class| {
        let name = model.info.class_name(class).replace('\\', "\\\\").replace('\'', "\\'");
        format!("{class}: '{name}'")
    });
    let entries = [
        ("task", model.graph.head.task().to_owned()),
        ("batch", batch.to_string()),
        ("stride", model.graph.stride().to_string()),
        ("imgsz", format!("[{height}, {width}]")),
        ("names", format!("{{{}}}", names.collect::<Vec<_>>().join(", "))),
    ];
    let keypoints = match *model.graph.head.branch() {
        Head::Pose { keypoints, dims, .. } => Some(("kpt_shape", format!("[{keypoints}, {dims}]"))),
        _ => None,
    };
    let provenance = model.info.provenance.iter().map(|(key, value)| (key.as_str(), value.clone()));
    entries
        .into_iter()
        .chain(keypoints)
        .chain(provenance)
        .map(|(key, value)| StringEntry { key: key.into(), value })
        .collect()
}

#[derive(Default)]
struct Writer {
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    /// Images of a batch.
    batch: usize,
    /// The int8 layers.
    int8: HashSet<String>,
    pairs: qdq::Pairs,
}

impl Writer {
    /// Appends the nodes of one operator; the last of them makes `name`.
    fn operator(&mut self, model: &Model, name: &str, op: &Op, inputs: &[&str], input: Shape, output: Shape) {
        match op {
            Op::Input { .. } => {}
            Op::Conv(conv) => self.conv(model, name, conv, inputs[0]),
            Op::ConvTranspose(conv) => self.conv_transpose(model, name, conv, inputs[0]),
            Op::Activate { act } => self.activate(*act, name, inputs[0]),
            Op::MaxPool { kernel, stride, padding } => {
                self.node("MaxPool", name, inputs, window(*kernel, *stride, *padding));
            }
            Op::AvgPool { kernel, stride } => self.node("AveragePool", name, inputs, window(*kernel, *stride, 0)),
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
            Op::AttentionValues(attention) => {
                let values = self.packed(name, attention, inputs[0], input.area());
                let values = self.part(name, "v", &values, 2 * attention.key_dim, attention.head_dim);
                self.reshape(name, &values, &[self.batch, output.c, output.h, output.w]);
            }
            Op::GlobalAvgPool => self.node("GlobalAveragePool", name, inputs, vec![]),
        }
    }

    fn conv(&mut self, model: &Model, name: &str, conv: &Conv, input: &str) {
        let (kernel, bias) = fold(model, conv);
        let (input, kernel) = if self.int8.contains(name) {
            let input = self.quantized_input(name, input, model.range(name));
            (input, self.quantized_kernel(name, conv, kernel))
        } else {
            (input.to_owned(), self.floats(format!("{name}/weight"), &conv.weight_shape(), kernel))
        };
        let bias = self.floats(format!("{name}/bias"), &[conv.c_out], bias);
        let mut settings = window(conv.kernel, conv.stride, conv.padding);
        settings.push(int("group", conv.groups as i64));
        let linear = if conv.act == Activation::Identity { name.to_owned() } else { format!("{name}/linear") };
        self.node("Conv", &linear, &[&input, &kernel, &bias], settings);
        if conv.act != Activation::Identity {
            self.activate(conv.act, name, &linear);
        }
    }

    fn conv_transpose(&mut self, model: &Model, name: &str, conv: &ConvTranspose, input: &str) {
        let kernel = model.tensor(&conv.weight).data().to_vec();
        let kernel = self.floats(format!("{name}/weight"), &conv.weight_shape(), kernel);
        let bias = conv.bias.as_ref().map_or_else(|| vec![0.0; conv.c_out], |key| model.tensor(key).data().to_vec());
        let bias = self.floats(format!("{name}/bias"), &[conv.c_out], bias);
        self.node("ConvTranspose", name, &[input, &kernel, &bias], window(conv.factor, conv.factor, 0));
    }

    fn activate(&mut self, act: Activation, name: &str, input: &str) {
        match act {
            Activation::Identity => self.node("Identity", name, &[input], vec![]),
            Activation::Relu => self.node("Relu", name, &[input], vec![]),
            Activation::Silu => {
                let gate = self.step("Sigmoid", name, "gate", &[input], vec![]);
                self.node("Mul", name, &[input, &gate], vec![]);
            }
        }
    }

    fn attention(&mut self, name: &str, attention: &Attention, input: &str, shape: Shape) {
        let Attention { heads, key_dim, head_dim, scale, areas } = *attention;
        let packed = self.packed(name, attention, input, shape.area());
        let mut part = |part: &str, start: usize, len: usize| {
            let part = self.part(name, part, &packed, start, len);
            self.in_areas(&part, [heads * len, areas, shape.area()], len)
        };
        let queries = part("q", 0, key_dim);
        let keys = part("k", key_dim, key_dim);
        let values = part("v", 2 * key_dim, head_dim);
        // Areas stand where a batch would: each is an image of its own.
        let turned = || vec![ints("perm", &[0, 1, 3, 2])];
        let queries = self.step("Transpose", name, "qt", &[&queries], turned());
        let logits = self.step("MatMul", name, "qk", &[&queries, &keys], vec![]);
        let scale = self.floats(format!("{name}/scale"), &[], vec![scale]);
        let logits = self.step("Mul", name, "scaled", &[&logits, &scale], vec![]);
        let shares = self.step("Softmax", name, "softmax", &[&logits], vec![int("axis", -1)]);
        let shares = self.step("Transpose", name, "shares", &[&shares], turned());
        let mut mixed = self.step("MatMul", name, "mixed", &[&values, &shares], vec![]);
        if areas > 1 {
            // From area after area back to head after head.
            let run = shape.area() / areas;
            let split = format!("{name}/mixed.areas");
            self.reshape(&split, &mixed, &[self.batch, areas, heads * head_dim, run]);
            mixed = self.step("Transpose", name, "whole", &[&split], vec![ints("perm", &[0, 2, 1, 3])]);
        }
        self.reshape(name, &mixed, &[self.batch, heads * head_dim, shape.h, shape.w]);
    }

    /// Queries, keys or values `[batch, heads, len, positions]` as `[batch * areas, heads, len, positions / areas]`.
    fn in_areas(&mut self, part: &str, [channels, areas, positions]: [usize; 3], len: usize) -> String {
        if areas == 1 {
            return part.to_owned();
        }
        let (flat, cut, first) = (format!("{part}.flat"), format!("{part}.first"), format!("{part}.areas"));
        let run = positions / areas;
        self.reshape(&flat, part, &[self.batch, channels, areas, run]);
        self.node("Transpose", &cut, &[&flat], vec![ints("perm", &[0, 2, 1, 3])]);
        self.reshape(&first, &cut, &[self.batch * areas, channels / len, len, run]);
        first
    }

    /// The packed input by head: `[batch, heads, packed, positions]`.
    fn packed(&mut self, name: &str, attention: &Attention, input: &str, positions: usize) -> String {
        let packed = format!("{name}/packed");
        self.reshape(&packed, input, &[self.batch, attention.heads, attention.packed(), positions]);
        packed
    }

    fn part(&mut self, name: &str, part: &str, packed: &str, start: usize, len: usize) -> String {
        let part = format!("{name}/{part}");
        self.slice(&part, packed, 2, start, len);
        part
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
        self.constant(name, shape, FLOAT, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn integers(&mut self, name: String, values: &[usize]) -> String {
        let raw_data = values.iter().flat_map(|v| (*v as i64).to_le_bytes()).collect();
        self.constant(name, &[values.len()], INT64, raw_data)
    }

    fn constant(&mut self, name: String, shape: &[usize], data_type: i32, raw_data: Vec<u8>) -> String {
        let dims = shape.iter().map(|n| *n as i64).collect();
        self.constants.push(TensorProto { dims, data_type, name: name.clone(), raw_data });
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

fn value(name: &str, shape: &[usize]) -> ValueInfo {
    let dim = shape.iter().map(|n| Dimension { dim_value: Some(*n as i64) }).collect();
    let tensor_type = Some(TensorType { elem_type: FLOAT, shape: Some(ShapeProto { dim }) });
    ValueInfo { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
}
