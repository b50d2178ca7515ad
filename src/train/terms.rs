//! The terms of the loss that a training minimises.

use crate::ranks::{RankError, Ranks};
use serde::{Deserialize, Serialize};

/// Terms of a loss, per image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Box term of the detection loss.
    pub box_: f64,
    /// Class term.
    pub cls: f64,
    /// Distribution focal term.
    pub dfl: f64,
    /// What masks, keypoints or angles add.
    pub task: f64,
    /// Both distillation terms.
    pub distill: f64,
}

impl Terms {
    /// The sums over all ranks, of what each of them has computed for its images.
    pub(super) fn over(self, ranks: &Ranks) -> Result<Self, RankError> {
        let Self { box_, cls, dfl, task, distill } = self;
        let mut all = [box_, cls, dfl, task, distill];
        ranks.sum_f64(&mut all)?;
        let [box_, cls, dfl, task, distill] = all;
        Ok(Self { box_, cls, dfl, task, distill })
    }

    pub(super) fn add(&mut self, other: &Self, factor: f64) {
        self.box_ += factor * other.box_;
        self.cls += factor * other.cls;
        self.dfl += factor * other.dfl;
        self.task += factor * other.task;
        self.distill += factor * other.distill;
    }

    /// All terms by name, those that the task does not have left out.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let Self { box_, cls, dfl, task, distill } = *self;
        let all = [("box", box_), ("class", cls), ("dfl", dfl), ("task", task), ("teacher", distill)];
        all.into_iter().filter(|(_, value)| *value != 0.0)
    }

    /// All terms together.
    pub fn sum(&self) -> f64 {
        self.box_ + self.cls + self.dfl + self.task + self.distill
    }
}
