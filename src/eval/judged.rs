//! How sure it is that one model is better than another, by what both find on the same few images.

use serde::{Deserialize, Serialize};

/// Parts of the images that are left out, one at a time.
pub(super) const PARTS: usize = 20;

/// A figure of a model on some images, and what it is without each of up to twenty parts of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// mAP50-95, or the accuracy.
    pub figure: f64,
    /// By part the figure without it.
    pub without: Vec<f64>,
}

impl Judged {
    /// The standard error of the difference to another model's figure on the same images, by the jackknife over parts
    /// of them (Tukey, "Bias and confidence in not-quite large samples", 1958; Kott, "The delete-a-group
    /// jackknife", 2001); 0 where there are fewer than two parts.
    pub fn noise(&self, other: &Self) -> f64 {
        let parts = self.without.len().min(other.without.len());
        if parts < 2 {
            return 0.0;
        }
        let differences: Vec<f64> = self.without.iter().zip(&other.without).map(|(a, b)| a - b).collect();
        let mean = differences.iter().sum::<f64>() / parts as f64;
        let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
        (squares * (parts - 1) as f64 / parts as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::bootstrap;

    /// Of a mean the jackknife's error is the textbook's, and near the bootstrap's.
    #[test]
    fn the_noise_of_a_mean_is_its_standard_error() {
        let (n, value) = (20, |i: usize| f64::from((i * 37 % 101) as u32) / 101.0);
        let mean = |images: &[usize]| images.iter().map(|i| value(*i)).sum::<f64>() / images.len() as f64;
        let all: Vec<usize> = (0..n).collect();
        let without = |part: usize| mean(&all.iter().copied().filter(|i| *i != part).collect::<Vec<_>>());
        let one = Judged { figure: mean(&all), without: (0..n).map(without).collect() };
        let none = Judged { figure: 0.0, without: vec![0.0; n] };
        let variance = all.iter().map(|i| (value(*i) - mean(&all)).powi(2)).sum::<f64>() / (n - 1) as f64;
        let expected = (variance / n as f64).sqrt();
        assert!((one.noise(&none) - expected).abs() < 1e-12, "{} {expected}", one.noise(&none));
        let resampled = bootstrap(n, 2000, 1, mean).deviation;
        assert!((resampled / expected - 1.0).abs() < 0.1, "{resampled} {expected}");
        assert_eq!(one.noise(&one), 0.0, "what both find alike is no noise");
        assert_eq!(one.noise(&Judged::default()), 0.0);
    }
}
