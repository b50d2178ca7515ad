//! Polygons: area, and what of one lies inside a window.

/// The area of a polygon without crossings.
pub fn area(points: &[[f32; 2]]) -> f64 {
    let pairs = points.iter().zip(points.iter().cycle().skip(1));
    let cross = |([ax, ay], [bx, by]): (&[f32; 2], &[f32; 2])| {
        f64::from(*ax) * f64::from(*by) - f64::from(*bx) * f64::from(*ay)
    };
    pairs.map(cross).sum::<f64>().abs() / 2.0
}

/// The part of a polygon inside a window: left, top, right, bottom (Sutherland and Hodgman, "Reentrant Polygon
/// Clipping", 1974).
pub fn clip(points: Vec<[f32; 2]>, [left, top, right, bottom]: [f32; 4]) -> Vec<[f32; 2]> {
    let mut points = points;
    for (axis, bound, sign) in [(0, left, 1.0), (1, top, 1.0), (0, right, -1.0), (1, bottom, -1.0f32)] {
        let depth = |point: &[f32; 2]| sign * (point[axis] - bound);
        let mut kept = Vec::with_capacity(points.len() + 4);
        for (i, point) in points.iter().enumerate() {
            let before = &points[(i + points.len() - 1) % points.len()];
            let (from, to) = (depth(before), depth(point));
            if (from < 0.0) != (to < 0.0) {
                let share = from / (from - to);
                let mut crossing: [f32; 2] = std::array::from_fn(|k| before[k] + share * (point[k] - before[k]));
                crossing[axis] = bound;
                kept.push(crossing);
            }
            if to >= 0.0 {
                kept.push(*point);
            }
        }
        points = kept;
    }
    points
}

/// The points of a polygon that lie furthest left, top, right and bottom; `None` of one without points.
pub fn extremes(points: &[[f32; 2]]) -> Option<[[f32; 2]; 4]> {
    let most =
        |axis: usize, sign: f32| points.iter().copied().max_by(|a, b| (sign * a[axis]).total_cmp(&(sign * b[axis])));
    Some([most(0, -1.0)?, most(1, -1.0)?, most(0, 1.0)?, most(1, 1.0)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polygons_are_cut_at_the_window() {
        let square = vec![[0.0, 0.0], [10.0, 0.0], [10.0, 10.0], [0.0, 10.0]];
        assert_eq!(area(&clip(square.clone(), [-1.0, -1.0, 11.0, 11.0])), 100.0);
        assert_eq!(area(&clip(square.clone(), [5.0, 2.0, 20.0, 20.0])), 40.0);
        assert_eq!(area(&clip(square.clone(), [2.0, 3.0, 4.0, 5.0])), 4.0);
        assert!(clip(square, [20.0, 0.0, 30.0, 10.0]).is_empty());
        let triangle = vec![[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]];
        assert!((area(&clip(triangle, [0.0, 0.0, 5.0, 5.0])) - 25.0).abs() < 1e-4);
    }
}
