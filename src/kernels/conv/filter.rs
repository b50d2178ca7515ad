//! The kernels of minimal filtering: the interpolation points, and 3 x 3 windows transformed to 6 x 6 values.
//!
//! At stride 1, F(4, 3) has the points 0, +-3/4, +-3/2 and infinity, which round half as much as the usual 0, +-1, +-2
//! and infinity; all their powers that are needed are exact in f32. At stride 2 the inputs of even and of odd columns
//! are filtered apart (polyphase decomposition): the even ones with the outer two taps by F(4, 2) at the points +-3/4,
//! +-3/2 and infinity, the odd ones with the middle tap as it is; likewise the rows. The last of the six values is the
//! middle tap.

use super::spec::{WINOGRAD_POSITIONS as POSITIONS, WINOGRAD_SIDE as SIDE};

/// The nearer and the farther pair of interpolation points, and their squares.
pub(super) const NEAR: f32 = 0.75;
pub(super) const FAR: f32 = 1.5;
pub(super) const NEAR_2: f32 = NEAR * NEAR;
pub(super) const FAR_2: f32 = FAR * FAR;

/// The values of a transformed 3 x 3 window.
pub(super) fn transform_kernel(window: &[f32], stride: usize) -> [f32; POSITIONS] {
    let pass = if stride == 1 { pass } else { pass_of_phases };
    let columns: [[f64; SIDE]; 3] =
        std::array::from_fn(|x| pass(std::array::from_fn(|y| f64::from(window[3 * y + x]))));
    let rows: [[f64; SIDE]; SIDE] = std::array::from_fn(|y| pass(std::array::from_fn(|x| columns[x][y])));
    std::array::from_fn(|p| rows[p / SIDE][p % SIDE] as f32)
}

/// The pairs of points, and for each the square of the other.
fn pairs() -> [(f64, f64); 2] {
    let [a, b] = [f64::from(NEAR), f64::from(FAR)];
    [(a, b * b), (b, a * a)]
}

/// One dimension at stride 1.
fn pass(g: [f64; 3]) -> [f64; SIDE] {
    let [[near, minus_near], [far, minus_far]] = pairs().map(|(point, other)| {
        let (even, odd) = (g[0] + point * point * g[2], point * g[1]);
        let over = 2.0 * point * point * (point * point - other);
        [(even + odd) / over, (even - odd) / over]
    });
    [g[0] / f64::from(NEAR_2 * FAR_2), near, minus_near, far, minus_far, g[2]]
}

/// One dimension at stride 2.
fn pass_of_phases(g: [f64; 3]) -> [f64; SIDE] {
    let [[near, minus_near], [far, minus_far]] = pairs().map(|(point, other)| {
        let over = 2.0 * point * (point * point - other);
        [(g[0] + point * g[2]) / over, (point * g[2] - g[0]) / over]
    });
    [near, minus_near, far, minus_far, g[2], g[1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_one_tap_is_transformed_as_its_definition_says() {
        // Rows of powers of the points, over the product of the differences from the other points.
        let points = [0.0f64, 0.75, -0.75, 1.5, -1.5];
        let mut g = [[0.0; 3]; SIDE];
        for (i, p) in points.iter().enumerate() {
            let over: f64 = points.iter().filter(|q| *q != p).map(|q| p - q).product();
            g[i] = [1.0 / over, p / over, p * p / over];
        }
        g[SIDE - 1] = [0.0, 0.0, 1.0];
        for tap in 0..9 {
            let mut window = [0.0; 9];
            window[tap] = 1.0;
            for (p, found) in transform_kernel(&window, 1).into_iter().enumerate() {
                let wanted = g[p / SIDE][tap / 3] * g[p % SIDE][tap % 3];
                assert!((f64::from(found) - wanted).abs() < 1e-7, "tap {tap}, position {p}");
            }
        }
    }

    #[test]
    fn at_stride_2_the_outer_taps_are_transformed_and_the_middle_one_is_kept() {
        let points = [0.75f64, -0.75, 1.5, -1.5];
        let mut g = [[0.0; 3]; SIDE];
        for (i, p) in points.iter().enumerate() {
            let over: f64 = points.iter().filter(|q| *q != p).map(|q| p - q).product();
            g[i] = [1.0 / over, 0.0, p / over];
        }
        (g[SIDE - 2], g[SIDE - 1]) = ([0.0, 0.0, 1.0], [0.0, 1.0, 0.0]);
        for tap in 0..9 {
            let mut window = [0.0; 9];
            window[tap] = 1.0;
            for (p, found) in transform_kernel(&window, 2).into_iter().enumerate() {
                let wanted = g[p / SIDE][tap / 3] * g[p % SIDE][tap % 3];
                assert!((f64::from(found) - wanted).abs() < 1e-7, "tap {tap}, position {p}");
            }
        }
    }
}
