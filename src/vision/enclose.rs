//! The smallest rotated rectangle around points: one of its sides lies on a side of their convex hull (Freeman and
//! Shapira, "Determining the minimum-area encasing rectangle for an arbitrary closed curve", 1975).

use super::boxes::Rotated;
use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, PI};

impl Rotated {
    /// The rectangle of the smallest area around points: its longer side is the width, its angle lies in -pi/4 to 3
    /// pi/4. Without points, or with values that are not finite, an empty one.
    pub fn around(points: &[[f32; 2]]) -> Self {
        let none = Self { centre: [0.0; 2], size: [0.0; 2], angle: 0.0 };
        let points: Vec<[f64; 2]> = points.iter().map(|point| point.map(f64::from)).collect();
        if points.is_empty() || points.iter().flatten().any(|v| !v.is_finite()) {
            return none;
        }
        let hull = hull(points);
        let mut best: Option<(f64, Self)> = None;
        for (i, [x, y]) in hull.iter().enumerate() {
            let [u, v] = hull[(i + 1) % hull.len()];
            let angle = (v - y).atan2(u - x);
            let found = at_angle(&hull, angle);
            let area = f64::from(found.size[0]) * f64::from(found.size[1]);
            if best.as_ref().is_none_or(|(least, _)| area < *least) {
                best = Some((area, found));
            }
        }
        best.map_or(none, |(_, found)| found)
    }
}

/// The rectangle around points with a side in this direction.
fn at_angle(points: &[[f64; 2]], angle: f64) -> Rotated {
    let (sin, cos) = angle.sin_cos();
    let range = |along: [f64; 2]| {
        let of = points.iter().map(|[x, y]| x * along[0] + y * along[1]);
        (of.clone().fold(f64::INFINITY, f64::min), of.fold(f64::NEG_INFINITY, f64::max))
    };
    let ((u0, u1), (v0, v1)) = (range([cos, sin]), range([-sin, cos]));
    let (u, v) = ((u0 + u1) / 2.0, (v0 + v1) / 2.0);
    let centre = [u * cos - v * sin, u * sin + v * cos];
    let (size, angle) =
        if u1 - u0 >= v1 - v0 { ([u1 - u0, v1 - v0], angle) } else { ([v1 - v0, u1 - u0], angle + FRAC_PI_2) };
    // Half turns change nothing.
    let angle = (angle + FRAC_PI_4).rem_euclid(PI) - FRAC_PI_4;
    Rotated { centre: centre.map(|v| v as f32), size: size.map(|v| v as f32), angle: angle as f32 }
}

/// The corners of the convex hull, in order (Andrew's monotone chain).
fn hull(mut points: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    points.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    points.dedup();
    if points.len() < 3 {
        return points;
    }
    let turns = |a: [f64; 2], b: [f64; 2], c: [f64; 2]| (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
    let chain = |points: &mut dyn Iterator<Item = [f64; 2]>| {
        let mut chain: Vec<[f64; 2]> = Vec::new();
        for point in points {
            while let [.., a, b] = chain[..] {
                if turns(a, b, point) > 0.0 {
                    break;
                }
                chain.pop();
            }
            chain.push(point);
        }
        chain.pop();
        chain
    };
    let mut hull = chain(&mut points.iter().copied());
    hull.extend(chain(&mut points.iter().rev().copied()));
    hull
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rectangles_come_back_and_others_get_the_smallest() {
        for i in 0..40 {
            let angle = i as f32 * 0.157 - 3.0;
            let given = Rotated { centre: [30.0, -20.0], size: [14.0, 5.0], angle };
            let found = Rotated::around(&given.corners());
            assert!(found.overlap(&given) > 0.99 && found.size[0] >= found.size[1], "{given:?} {found:?}");
            assert!(
                (-std::f32::consts::FRAC_PI_4..3.0 * std::f32::consts::FRAC_PI_4).contains(&found.angle),
                "{found:?}"
            );
        }
        let triangle = Rotated::around(&[[0.0, 0.0], [4.0, 0.0], [1.0, 2.0], [1.5, 0.5]]);
        assert!((triangle.size[0] * triangle.size[1] - 8.0).abs() < 1e-4, "{triangle:?}");
        assert_eq!(Rotated::around(&[]).size, [0.0; 2]);
        assert_eq!(Rotated::around(&[[3.0, 4.0]; 4]).size, [0.0; 2]);
        let line = Rotated::around(&[[0.0, 0.0], [3.0, 4.0]]).size;
        assert!((line[0] - 5.0).abs() < 1e-5 && line[1].abs() < 1e-5, "{line:?}");
        assert_eq!(Rotated::around(&[[f32::NAN, 0.0], [3.0, 4.0]]).size, [0.0; 2]);
    }
}
