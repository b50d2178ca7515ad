//! `secateurs inspect`: what a model is made of.

use super::failure::Failure;
use super::input::{ModelArgs, ThreadArgs};
use crate::engine::{self, Memory};
use crate::graph::{Activation, Cost, Op, Shape};
use crate::group::{self, Groups};
use crate::model::Model;
use crate::output;
use crate::size::ImageSize;
use serde::Serialize;
use std::fmt;

/// What to look at.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    threads: ThreadArgs,
    /// Also list the channel groups: layers whose channels must be pruned together
    #[arg(long)]
    groups: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything that is shown.
#[derive(Serialize)]
struct Inspected {
    imgsz: ImageSize,
    classes: usize,
    names: Vec<String>,
    params: usize,
    /// The numbers of the convolutions inside.
    dtype: &'static str,
    macs: usize,
    peak_memory_bytes: usize,
    memory: Parts,
    layers: Vec<Layer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<GroupRow>>,
}

/// The parts of the peak memory, bytes.
#[derive(Serialize)]
struct Parts {
    weights: usize,
    activations: usize,
    workspace: usize,
}

#[derive(Serialize)]
struct Layer {
    name: String,
    op: String,
    /// Channels, height, width.
    shape: [usize; 3],
    params: usize,
    macs: usize,
}

#[derive(Serialize)]
struct GroupRow {
    name: String,
    width: usize,
    heads: usize,
    /// Whether width 0 is allowed.
    removable: bool,
    producers: Vec<String>,
    consumers: Vec<String>,
}

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let model = args.model.load()?;
    let size = args.model.imgsz(&model)?;
    let ImageSize { height, width } = size;
    let shapes = model.graph.shapes(height, width)?;
    let cost = model.graph.cost(height, width)?;
    let options = engine::Options { threads: args.threads.threads.into(), ..engine::Options::default() };
    let memory = engine::plan_memory(&model.graph, height, width, &options).map_err(Failure::input)?;
    let groups = args.groups.then(|| rows(&model, &group::groups(&model.graph)));
    let inspected = gather(&model, size, cost, memory, &shapes, groups);
    if args.json {
        output::print_json(&inspected)?
    } else {
        output::print(&inspected.to_string())
    }
    Ok(())
}

fn gather(
    model: &Model,
    imgsz: ImageSize,
    cost: Cost,
    memory: Memory,
    shapes: &[Shape],
    groups: Option<Vec<GroupRow>>,
) -> Inspected {
    let macs = model.graph.macs(shapes);
    let layers = model.graph.nodes.iter().zip(shapes).zip(macs).map(|((node, shape), macs)| Layer {
        name: node.name.clone(),
        op: describe(&node.op),
        shape: [shape.c, shape.h, shape.w],
        params: node.op.params().iter().filter(|p| p.trainable).map(|p| p.shape.iter().product::<usize>()).sum(),
        macs,
    });
    Inspected {
        imgsz,
        classes: model.graph.classes(),
        names: model.info.names.clone(),
        params: cost.params,
        dtype: model.graph.dtype.name(),
        macs: cost.macs,
        peak_memory_bytes: memory.total(),
        memory: Parts { weights: memory.weights, activations: memory.arena, workspace: memory.scratch },
        layers: layers.collect(),
        groups,
    }
}

fn rows(model: &Model, groups: &Groups) -> Vec<GroupRow> {
    let names = |ids: &[crate::graph::NodeId]| ids.iter().map(|id| model.graph.node(*id).name.clone()).collect();
    let row = |group: &group::Group| GroupRow {
        name: group.name.clone(),
        width: group.width(),
        heads: group.heads,
        removable: group.removable,
        producers: names(&group.producers),
        consumers: names(&group.consumers),
    };
    groups.groups.iter().map(row).collect()
}

fn describe(op: &Op) -> String {
    match op {
        Op::Input { .. } => "input".into(),
        Op::Conv(conv) => {
            let kind = if conv.is_depthwise() { "dwconv" } else { "conv" };
            format!("{kind} {k}x{k} /{}{}", conv.stride, name_of(conv.act), k = conv.kernel)
        }
        Op::ConvTranspose(conv) => format!("deconv {k}x{k} /{k}", k = conv.factor),
        Op::Activate { act } => format!("act{}", name_of(*act)),
        Op::MaxPool { kernel, stride, .. } => format!("maxpool {kernel}x{kernel} /{stride}"),
        Op::AvgPool { kernel, stride } => format!("avgpool {kernel}x{kernel} /{stride}"),
        Op::Upsample { factor } => format!("upsample x{factor}"),
        Op::Concat => "concat".into(),
        Op::Slice { start, len } => format!("slice {start}..{}", start + len),
        Op::Add => "add".into(),
        Op::Attention(a) if a.areas > 1 => format!("attention {} heads, {} areas", a.heads, a.areas),
        Op::Attention(a) => format!("attention {} heads", a.heads),
        Op::AttentionValues(a) => format!("values {} heads", a.heads),
        Op::GlobalAvgPool => "average".into(),
    }
}

fn name_of(act: Activation) -> &'static str {
    match act {
        Activation::Identity => "",
        Activation::Silu => " silu",
        Activation::Relu => " relu",
    }
}

impl fmt::Display for Inspected {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        writeln!(f, "{:<28} {:<20} {:>16} {:>10} {:>14}", "layer", "operator", "output", "params", "MACs")?;
        for layer in &self.layers {
            let [c, h, w] = layer.shape;
            let shape = format!("{c}x{h}x{w}");
            let name = output::line(&layer.name);
            writeln!(f, "{name:<28} {:<20} {shape:>16} {:>10} {:>14}", layer.op, layer.params, layer.macs)?;
        }
        if let Some(groups) = &self.groups {
            writeln!(f, "\n{:<28} {:>6}  pruned with it", "group", "width")?;
            for group in groups {
                let heads = if group.heads > 1 { format!(" ({} heads)", group.heads) } else { String::new() };
                let removable = if group.removable { " (removable)" } else { "" };
                let others: Vec<String> =
                    group.producers.iter().filter(|name| **name != group.name).map(|name| output::line(name)).collect();
                let (name, others) = (output::line(&group.name), others.join(", "));
                writeln!(f, "{name:<28} {:>6}  {others}{heads}{removable}", group.width)?;
            }
            let channels: usize = groups.iter().map(|group| group.width).sum();
            writeln!(f, "{} groups, {channels} channels", groups.len())?;
        }
        writeln!(f)?;
        writeln!(f, "  classes     {:>12}  {}", self.classes, abridged(&self.names))?;
        writeln!(f, "  parameters  {:>12}  {}", self.params, self.dtype)?;
        writeln!(f, "  MACs        {:>12}  at {} px", self.macs, self.imgsz)?;
        writeln!(
            f,
            "  peak memory {:>8.2} MiB  weights {:.2}, activations {:.2}, workspace {:.2}",
            mib(self.peak_memory_bytes),
            mib(self.memory.weights),
            mib(self.memory.activations),
            mib(self.memory.workspace)
        )
    }
}

fn abridged(names: &[String]) -> String {
    let shown = names.iter().take(8).map(|name| output::line(name)).collect::<Vec<_>>().join(", ");
    if names.len() > 8 { format!("{shown}, ...") } else { shown }
}
