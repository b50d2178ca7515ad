//! The loss of end-to-end heads (Wang et al., "YOLOv10", 2024; YOLO26): the branch in which many cells answer for an
//! object and the branch in which one does are trained at once, at first the one, later the other.

use super::LossError;
use super::Target;
use super::batch::{Branch, Outputs, Shapes};
use super::task::{Gradients, Terms, branch};

/// Weight of the one-to-many branch in the first epoch.
const FIRST: f64 = 0.8;
/// Its weight in the last.
const LAST: f64 = 0.1;

/// The weight of the one-to-many branch in epoch `epoch` of `epochs`, both counted from the first as 0; that of the
/// other is 1 less it.
pub fn one2many_weight(epoch: usize, epochs: usize) -> f64 {
    let left = 1.0 - epoch as f64 / epochs.saturating_sub(1).max(1) as f64;
    left.max(0.0) * (FIRST - LAST) + LAST
}

/// The loss of both branches, and its gradients.
#[derive(Clone, Debug)]
pub struct EndToEnd {
    /// Terms of the one-to-many branch, gains included, weight not.
    pub one2many: Terms,
    /// Terms of the one-to-one branch.
    pub one2one: Terms,
    /// Weighted sum of the totals of both.
    pub total: f64,
    /// `d total / d output` of the one-to-many branch; its prototypes and its flow have the gradients of what both
    /// branches share, as far as the one-to-one branch trains it: the flow, but not prototypes and semantic logits.
    pub one2many_grads: Gradients,
    /// `d total / d output` of the one-to-one branch.
    pub one2one_grads: Gradients,
}

impl EndToEnd {
    /// The terms of both branches, weighted; `weight` is that of the one-to-many branch.
    pub fn terms(&self, weight: f64) -> Terms {
        let mut sum = Terms::default();
        sum.add(self.one2many, weight);
        sum.add(self.one2one, 1.0 - weight);
        sum
    }
}

/// The loss of an end-to-end head. `outputs` are those of the one-to-many and the one-to-one branch; `weight` is that
/// of the former.
///
/// # Errors
/// As [`branch`].
pub fn end_to_end(
    kind: &Branch,
    outputs: [Outputs<'_>; 2],
    targets: &[Target],
    shapes: Shapes<'_>,
    weight: f64,
) -> Result<EndToEnd, LossError> {
    let many = branch(kind, outputs[0], targets, shapes)?;
    let one = branch(&kind.one2one(), outputs[1], targets, shapes)?;
    let weights = [weight, 1.0 - weight];
    let total = weights[0] * many.total + weights[1] * one.total;
    let (mut one2many_grads, mut one2one_grads) = (many.grads, one.grads);
    one2many_grads.scale(weights[0]);
    one2one_grads.scale(weights[1]);
    // The one-to-one branch reads prototypes and semantic logits, and does not train them.
    one2one_grads.prototypes.clear();
    one2one_grads.semantic.clear();
    if let (Some(shared), Some(flow)) = (&mut one2many_grads.flow, one2one_grads.flow.take()) {
        shared.add(&flow, 1.0);
    }
    Ok(EndToEnd { one2many: many.terms, one2one: one.terms, total, one2many_grads, one2one_grads })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_falls_linearly_and_stays() {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(near(one2many_weight(0, 10), 0.8) && near(one2many_weight(9, 10), 0.1));
        assert!(near(one2many_weight(3, 7), 0.45) && near(one2many_weight(20, 10), 0.1));
        assert!(near(one2many_weight(0, 1), 0.8) && near(one2many_weight(0, 0), 0.8));
    }
}
