//! A layer's time over its widths: `a + b in + c out' + d in out'`, all coefficients at least zero, where `out'` is the
//! output width rounded up to the tile that explains the measurements best (the staircase of vector units).

use serde::{Deserialize, Serialize};

/// Tiles that are tried.
pub(super) const TILES: [usize; 8] = [1, 4, 6, 8, 12, 16, 24, 32];

/// The fitted time of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerTime {
    /// Output widths count as the next multiple of this.
    pub tile: usize,
    /// Milliseconds: constant, per input channel, per output channel, per product of both.
    pub coefficients: [f64; 4],
}

/// One observation: input width, output width, milliseconds.
pub(super) type Sample = (usize, usize, f64);

impl LayerTime {
    /// Milliseconds at an input and an output width; a layer without channels on either side is not there.
    pub fn millis(&self, c_in: usize, c_out: usize) -> f64 {
        if c_in == 0 || c_out == 0 {
            return 0.0;
        }
        let features = features(self.tile, c_in, c_out);
        self.coefficients.iter().zip(features).map(|(c, f)| c * f).sum()
    }

    /// The least relative squared error over all samples; `None` without samples.
    pub(super) fn fit(samples: &[Sample]) -> Option<Self> {
        let candidates = TILES.iter().map(|tile| {
            let (coefficients, error) = least_squares(*tile, samples);
            (Self { tile: *tile, coefficients }, error)
        });
        let best = candidates.min_by(|a, b| a.1.total_cmp(&b.1));
        best.filter(|_| !samples.is_empty()).map(|(layer, _)| layer)
    }
}

fn features(tile: usize, c_in: usize, c_out: usize) -> [f64; 4] {
    let (c_in, c_out) = (c_in as f64, c_out.next_multiple_of(tile) as f64);
    [1.0, c_in, c_out, c_in * c_out]
}

/// Relative least squares with non-negative coefficients: all 15 sets of features are tried, which for four is both
/// exact and quick.
fn least_squares(tile: usize, samples: &[Sample]) -> ([f64; 4], f64) {
    let mut best = ([0.0; 4], f64::INFINITY);
    // Scaled so that the normal equations are well conditioned.
    let scale = samples.iter().map(|(i, o, _)| features(tile, *i, *o)).fold([1e-300; 4], |mut top, f| {
        top.iter_mut().zip(f).for_each(|(t, f)| *t = f64::max(*t, f));
        top
    });
    let rows: Vec<([f64; 4], f64)> = samples
        .iter()
        .map(|(i, o, t)| {
            let weight = 1.0 / t.max(1e-9);
            let mut row = features(tile, *i, *o);
            row.iter_mut().zip(scale).for_each(|(f, s)| *f *= weight / s);
            (row, t * weight)
        })
        .collect();
    for set in 1u32..16 {
        let chosen: Vec<usize> = (0..4).filter(|i| set & (1 << i) != 0).collect();
        let Some(solution) = normal_equations(&rows, &chosen) else { continue };
        if solution.iter().any(|c| *c < 0.0) {
            continue;
        }
        let mut all = [0.0; 4];
        chosen.iter().zip(&solution).for_each(|(i, c)| all[*i] = *c);
        let error: f64 =
            rows.iter().map(|(row, t)| (row.iter().zip(all).map(|(f, c)| f * c).sum::<f64>() - t).powi(2)).sum();
        // A smaller set wins unless the larger one explains clearly more.
        if error < best.1 * 0.999 {
            best = (all, error);
        }
    }
    best.0.iter_mut().zip(scale).for_each(|(c, s)| *c /= s);
    best
}

/// Solves for the chosen features by Gaussian elimination with pivoting; `None` where they are dependent.
fn normal_equations(rows: &[([f64; 4], f64)], chosen: &[usize]) -> Option<Vec<f64>> {
    let n = chosen.len();
    let mut system = vec![vec![0.0; n + 1]; n];
    for (row, target) in rows {
        for (a, i) in chosen.iter().enumerate() {
            for (b, j) in chosen.iter().enumerate() {
                system[a][b] += row[*i] * row[*j];
            }
            system[a][n] += row[*i] * target;
        }
    }
    let top = system.iter().flatten().fold(0.0f64, |m, v| m.max(v.abs()));
    for step in 0..n {
        let pivot = (step..n).max_by(|a, b| system[*a][step].abs().total_cmp(&system[*b][step].abs()))?;
        system.swap(step, pivot);
        if system[step][step].abs() <= 1e-10 * top {
            return None;
        }
        let head = system[step].clone();
        for row in system.iter_mut().skip(step + 1) {
            let factor = row[step] / head[step];
            row.iter_mut().zip(&head).for_each(|(v, h)| *v -= factor * h);
        }
    }
    let mut solution = vec![0.0; n];
    for step in (0..n).rev() {
        let known: f64 = (step + 1..n).map(|j| system[step][j] * solution[j]).sum();
        solution[step] = (system[step][n] - known) / system[step][step];
    }
    Some(solution)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staircase_is_found_again() {
        let truth = LayerTime { tile: 8, coefficients: [0.01, 0.0005, 0.0002, 0.00003] };
        let widths = [3, 8, 16, 21, 30, 33, 48, 64];
        let samples: Vec<Sample> = widths.iter().flat_map(|i| widths.map(|o| (*i, o, truth.millis(*i, o)))).collect();
        let fitted = LayerTime::fit(&samples).unwrap();
        assert_eq!(fitted.tile, 8);
        for (c_in, c_out) in [(5, 7), (64, 64), (40, 9)] {
            let (a, b) = (fitted.millis(c_in, c_out), truth.millis(c_in, c_out));
            assert!((a - b).abs() < 1e-6 * b, "{c_in} -> {c_out}: {a} for {b}");
        }
    }

    #[test]
    fn coefficients_are_never_negative() {
        let samples = [(8, 8, 2.0), (16, 16, 1.0), (32, 32, 1.5)];
        assert!(LayerTime::fit(&samples).unwrap().coefficients.iter().all(|c| *c >= 0.0));
        assert_eq!(LayerTime::fit(&[]), None);
    }
}
