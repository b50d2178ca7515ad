//! Samples of a convolution's regressions on a CUDA device: what comes from there are sums, and a few samples.

use super::error::PassError;
use super::positions::Position;
use super::samples::{Samples, Sums, roots};
use super::shared::{Pivots, Source};
use crate::training::{LayerWalk, Regression, Sample};
use std::cell::RefCell;

/// The regressions of a convolution of networks that walk on a device.
pub(super) struct OnGpu<'a> {
    pub walk: RefCell<&'a mut LayerWalk>,
    pub regression: Regression<'a>,
    /// Number of the walk's first image among those of all ranks.
    pub first: usize,
    /// Inputs and outputs of a regression.
    pub widths: [usize; 2],
    /// By lane and output what the device has in it, but the outputs have not: the bias.
    pub biases: Vec<f32>,
}

impl OnGpu<'_> {
    fn of(&self, positions: &[Position]) -> Vec<Sample> {
        let sample = |(Position { image, y, x, .. }, root): (&Position, f32)| Sample {
            image: image - self.first,
            y: *y,
            x: *x,
            root,
        };
        positions.iter().zip(roots(positions)).map(sample).collect()
    }

    /// The biases of a lane.
    fn biases(&self, lane: usize) -> &[f32] {
        let outputs = self.widths[1];
        &self.biases[lane * outputs..(lane + 1) * outputs]
    }
}

impl Source for OnGpu<'_> {
    fn samples(&self, positions: &[Position]) -> Result<Vec<[Samples; 2]>, PassError> {
        let values = self.walk.borrow_mut().values(&self.regression, &self.of(positions))?;
        let rows = positions.len().max(1);
        let [inputs, outputs] = self.widths;
        let of_lane = |(lane, values): (usize, &[f32])| {
            let (x, y) = values.split_at(inputs * rows);
            let less = |(column, bias): (&[f32], &f32)| column.iter().map(|v| v - bias).collect::<Vec<f32>>();
            let y = y.chunks(rows).zip(self.biases(lane)).flat_map(less).collect();
            [Samples::new(rows, x.to_vec()), Samples::new(rows, y)]
        };
        Ok(values.chunks((inputs + outputs) * rows).enumerate().map(of_lane).collect())
    }

    fn sums(&self, pivots: &[Pivots], positions: &[Position]) -> Result<Vec<Sums>, PassError> {
        let of_lane = |(lane, [x, y]): (usize, &Pivots)| {
            let y = y.iter().zip(self.biases(lane)).map(|(pivot, bias)| pivot + bias);
            x.iter().copied().chain(y).collect::<Vec<f32>>()
        };
        let raised: Vec<f32> = pivots.iter().enumerate().flat_map(of_lane).collect();
        let found = self.walk.borrow_mut().sums(&self.regression, &raised, &self.of(positions))?;
        let count = roots(positions).map(|root| f64::from(root).powi(2)).sum();
        let sums = pivots.iter().zip(found);
        Ok(sums.map(|(pivots, found)| Sums::found(pivots, count, &found.sums, &found.products)).collect())
    }
}
