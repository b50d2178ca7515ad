//! Terms over the levels of a few variables, as the search stores them.

/// A term over few variables: latency and weight bytes at every combination of levels.
#[derive(Clone)]
pub(super) struct Table {
    /// Variables, the one eliminated first comes last and runs fastest.
    pub scope: Vec<usize>,
    pub strides: Vec<usize>,
    pub latency: Vec<f64>,
    pub weight: Vec<f64>,
}

impl Table {
    /// Where the entry of these levels is.
    pub fn entry(&self, levels: &[usize]) -> usize {
        self.scope.iter().zip(&self.strides).map(|(v, stride)| levels[*v] * stride).sum()
    }
}

/// A memory step: bytes per level instead of per channel.
#[derive(Clone)]
pub(super) struct Step {
    pub constant: f64,
    /// Variable and bytes at every level.
    pub terms: Vec<(usize, Vec<f64>)>,
}

/// What a plan costs, without constants of latency and weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    pub loss: f64,
    pub latency: f64,
    pub weight: f64,
    pub steps: Vec<f64>,
}

impl Figures {
    /// Weights and the greatest step.
    pub fn memory(&self) -> f64 {
        self.weight + self.steps.iter().copied().fold(0.0, f64::max)
    }
}

/// Strides of a table whose last variable runs fastest.
pub(super) fn strides(scope: &[usize], sizes: &[usize]) -> Vec<usize> {
    let mut all = vec![1; scope.len()];
    for i in (0..scope.len().saturating_sub(1)).rev() {
        all[i] = all[i + 1] * sizes[scope[i + 1]];
    }
    all
}
