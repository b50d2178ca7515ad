//! A blueprint whose widths and depths come from a checkpoint's tensors.

use super::blocks::{Blueprint, Unknown, ZooError};
use crate::graph::Activation;
use std::collections::BTreeMap;

/// Kernels of the layers that read the image, by family: YOLO (YOLOv9e's layer 0 has none), ResNet, MobileNet, VGG.
const FIRST: [&str; 5] =
    ["model.0.conv.weight", "model.1.conv.weight", "conv1.weight", "conv_stem.weight", "features.0.weight"];

/// The most channels of an image that are taken for such.
const MAX_CHANNELS: usize = 1024;

/// What a checkpoint tells about its network.
#[derive(Clone, Debug, Default)]
pub struct Shapes {
    /// Shape of every tensor; kernels of fully connected layers as `[out, in, 1, 1]`.
    pub tensors: BTreeMap<String, Vec<usize>>,
    /// Activation of convolution blocks by module name, where known.
    pub activations: BTreeMap<String, Activation>,
    /// Attention heads by module name, where known.
    pub heads: BTreeMap<String, usize>,
    /// Keypoints and values of each, where known.
    pub keypoints: Option<[usize; 2]>,
}

impl Shapes {
    /// The shape `[a, b, k, k]` of a kernel.
    ///
    /// # Errors
    /// If there is no such tensor, or it is no kernel.
    pub fn kernel(&self, key: &str) -> Result<[usize; 4], Unknown> {
        let fail = |problem: String| Unknown { key: key.into(), problem };
        let shape = self.tensors.get(key).ok_or_else(|| fail("is missing".into()))?;
        match shape[..] {
            [a, b, c, d] if a > 0 && a <= 1 << 16 => Ok([a, b, c, d]),
            _ => Err(fail(format!("has shape {shape:?}, expected [c_out, c_in, k, k]"))),
        }
    }
}

impl Blueprint for Shapes {
    fn width(&self, weight_key: &str, _rule: usize) -> Result<usize, ZooError> {
        Ok(self.kernel(weight_key)?[0])
    }

    fn repeats(&self, prefix: &str, _rule: usize) -> usize {
        (0..1000).take_while(|i| self.has(&format!("{prefix}.{i}"), false)).count()
    }

    fn has(&self, module: &str, _rule: bool) -> bool {
        let prefix = format!("{module}.");
        self.tensors.range(prefix.clone()..).next().is_some_and(|(key, _)| key.starts_with(&prefix))
    }

    fn image_channels(&self, rule: usize) -> usize {
        let first = FIRST.iter().find_map(|key| self.tensors.get(*key));
        first
            .and_then(|shape| shape.get(1).copied())
            .filter(|channels| (1..=MAX_CHANNELS).contains(channels))
            .unwrap_or(rule)
    }

    fn tensor(&self, key: &str, _rule: bool) -> bool {
        self.tensors.contains_key(key)
    }

    fn window(&self, weight_key: &str, rule: usize) -> usize {
        self.kernel(weight_key).map_or(rule, |[.., side]| side)
    }

    fn fused(&self, module: &str) -> bool {
        self.tensors.contains_key(&format!("{module}.conv.bias")) && !self.has(&format!("{module}.bn"), false)
    }

    fn activation(&self, module: &str, rule: Activation) -> Activation {
        self.activations.get(module).copied().unwrap_or(rule)
    }

    fn heads(&self, module: &str, rule: usize) -> usize {
        self.heads.get(module).copied().unwrap_or(rule)
    }
}

/// Answers every question with the published rule.
pub(super) struct Published;

impl Blueprint for Published {
    fn width(&self, _weight_key: &str, rule: usize) -> Result<usize, ZooError> {
        Ok(rule)
    }

    fn repeats(&self, _prefix: &str, rule: usize) -> usize {
        rule
    }

    fn has(&self, _module: &str, rule: bool) -> bool {
        rule
    }
}
