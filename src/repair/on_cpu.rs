//! Samples of a convolution's regressions from tensors in memory.

use super::error::PassError;
use super::inputs::Inputs;
use super::positions::Position;
use super::samples::{Samples, Sums};
use super::shared::{Pivots, Source};
use crate::graph::Conv;
use crate::model::Tensor;
use faer::MatRef;
use rayon::prelude::*;

/// Rows of samples that are multiplied at once.
const CHUNK: usize = 1024;

/// What has the outputs: the original convolution, what it reads, and the rows of its kernel that are kept,
/// `[m, c_in / groups, k, k]`, with their positions.
pub(super) type Target<'a> = (&'a Conv, Inputs<'a>, &'a Tensor, &'a [usize]);

/// The regressions of a convolution: one over all channels that it reads or, where it is depthwise, one of each.
pub(super) struct OnCpu<'a> {
    /// The convolution whose windows are the inputs.
    pub conv: &'a Conv,
    /// What it reads.
    pub inputs: Inputs<'a>,
    /// What has the outputs; without it there are none.
    pub target: Option<Target<'a>>,
}

impl OnCpu<'_> {
    fn lanes(&self) -> usize {
        if self.conv.is_depthwise() { self.conv.c_in } else { 1 }
    }

    fn sampled(&self, lane: usize, positions: &[Position]) -> [Samples; 2] {
        let depthwise = self.conv.is_depthwise();
        let channels = if depthwise { lane..lane + 1 } else { 0..self.conv.c_in };
        let inputs = Samples::patches(self.conv, self.inputs, channels, positions);
        let Some((original, before, kernel, rows)) = self.target else {
            return [inputs, Samples::none(positions.len())];
        };
        let whole = MatRef::from_column_major_slice(kernel.data(), kernel.data().len() / rows.len().max(1), rows.len());
        let (channels, columns) = match depthwise {
            true => (rows[lane]..rows[lane] + 1, whole.subcols(lane, 1)),
            false => (0..original.c_in, whole),
        };
        [inputs, Samples::patches(original, before, channels, positions).times(columns)]
    }
}

impl Source for OnCpu<'_> {
    fn samples(&self, positions: &[Position]) -> Result<Vec<[Samples; 2]>, PassError> {
        Ok((0..self.lanes()).into_par_iter().map(|lane| self.sampled(lane, positions)).collect())
    }

    fn sums(&self, pivots: &[Pivots], positions: &[Position]) -> Result<Vec<Sums>, PassError> {
        let of_lane = |(lane, [x, y]): (usize, &Pivots)| {
            let mut sums = Sums::around(x.clone(), y.clone());
            for chunk in positions.chunks(CHUNK) {
                let [x, y] = self.sampled(lane, chunk);
                sums.add(x, y, chunk);
            }
            sums
        };
        Ok(pivots.par_iter().enumerate().map(of_lane).collect())
    }
}
