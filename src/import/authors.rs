//! The layout that the authors' own program of YOLOv12 writes, as that of ultralytics' YOLO12.
//!
//! It keeps queries and keys in one convolution, all queries first, and the values in another; the graph wants them head
//! after head in one. And it convolves the channels of two early layers in groups: each group becomes a convolution of
//! its own. Neither changes what the network computes.

use super::error::Fault;
use crate::model::{Tensor, Weights};
use crate::zoo::yolo12::GROUPED;

/// Channels of an attention head, where no module tells the number of heads.
const HEAD_DIM: usize = 32;

/// The path of the module that a layer's tensors come from.
pub(super) fn module_of(path: &str) -> String {
    match path.split_once(".groups.") {
        Some((layer, rest)) => format!("{layer}{}", rest.find('.').map_or("", |at| &rest[at..])),
        None => path.to_owned(),
    }
}

/// The tensors of a YOLO12 under ultralytics' names; `heads` tells the number of heads of an attention module.
///
/// # Errors
/// If the parts of an attention do not fit together.
pub(super) fn join(mut weights: Weights, heads: &dyn Fn(&str) -> Option<usize>) -> Result<Weights, Fault> {
    for (layer, groups) in GROUPED {
        split(&mut weights, layer, groups);
    }
    let modules: Vec<String> =
        weights.keys().filter_map(|key| Some(key.strip_suffix(".qk.conv.weight")?.to_owned())).collect();
    for module in modules {
        let rows = |part: &str| weights.get(&format!("{module}.{part}.conv.weight")).map_or(0, |t| t.shape()[0]);
        let dim = rows("v");
        let heads = heads(&module).unwrap_or((dim / HEAD_DIM).max(1));
        if dim == 0 || rows("qk") != 2 * dim || heads == 0 || !dim.is_multiple_of(heads) {
            return Err(Fault::checkpoint(
                format!("tensor `{module}.qk.conv.weight`"),
                format!("has {} rows, beside {dim} of `v` in {heads} heads", rows("qk")),
            ));
        }
        let per_head = dim / heads;
        let order: Vec<usize> = (0..heads)
            .flat_map(|head| [0, dim, 2 * dim].map(|part| part + head * per_head))
            .flat_map(|start| start..start + per_head)
            .collect();
        for part in PARTS {
            let mut take = |from: &str| weights.remove(&format!("{module}.{from}.{part}"));
            let (Some(first), Some(second)) = (take("qk"), take("v")) else { continue };
            if let Some(both) = stacked(first, second) {
                weights.insert(format!("{module}.qkv.{part}"), both.select(0, &order));
            }
        }
        weights.retain(|key, _| {
            let rest = key.strip_prefix(&module).unwrap_or("");
            !(rest.ends_with("num_batches_tracked") && (rest.starts_with(".qk.") || rest.starts_with(".v.")))
        });
    }
    Ok(weights)
}

/// The tensors of a convolution block.
const PARTS: [&str; 6] = ["conv.weight", "conv.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"];

/// Two tensors one after the other, if all axes but the first agree.
fn stacked(first: Tensor, second: Tensor) -> Option<Tensor> {
    let mut shape = first.shape().to_vec();
    if shape.is_empty() || second.shape().is_empty() || shape[1..] != second.shape()[1..] {
        return None;
    }
    shape[0] += second.shape()[0];
    let mut data = first.into_data();
    data.extend(second.into_data());
    Some(Tensor::new(shape, data))
}

/// Splits the block of a layer into one for each group, if its kernel shows that it is convolved in groups.
fn split(weights: &mut Weights, layer: usize, groups: usize) {
    let before = format!("model.{}.", layer - 1);
    let last = [format!("{before}cv2.conv.weight"), format!("{before}conv.weight")];
    let Some(c_in) = last.iter().find_map(|key| weights.get(key)).map(|kernel| kernel.shape()[0]) else { return };
    let name = format!("model.{layer}.");
    let grouped = weights.get(&format!("{name}conv.weight")).is_some_and(|kernel| match *kernel.shape() {
        [c_out, per_group, ..] => per_group * groups == c_in && c_out.is_multiple_of(groups),
        _ => false,
    });
    if !grouped {
        return;
    }
    weights.remove(&format!("{name}bn.num_batches_tracked"));
    for part in PARTS {
        let Some(all) = weights.remove(&format!("{name}{part}")) else { continue };
        let rows = all.shape()[0] / groups;
        for group in 0..groups {
            let own: Vec<usize> = (group * rows..(group + 1) * rows).collect();
            weights.insert(format!("{name}groups.{group}.{part}"), all.select(0, &own));
        }
    }
}
