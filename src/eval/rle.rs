//! Masks as run lengths, column after column, as COCO stores them, and how COCO turns an outline into one (Lin et al.,
//! "Microsoft COCO: Common Objects in Context", ECCV 2014; the figures depend on every pixel of it).

use serde::{Deserialize, Serialize};

/// Pixels of an image: lengths of alternating runs outside and inside, column after column, beginning outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rle {
    counts: Vec<usize>,
}

/// The steps per pixel in which outlines are followed.
const SCALE: f64 = 5.0;

/// The most pixels of an image whose masks are made.
const MAX_PIXELS: usize = 1 << 28;

impl Rle {
    /// Of run lengths; what exceeds `pixels`, the image's number of pixels, is cut off.
    pub fn from_counts(counts: impl IntoIterator<Item = usize>, pixels: usize) -> Self {
        let mut left = pixels;
        let cut = |count: usize| {
            let kept = count.min(left);
            left -= kept;
            kept
        };
        Self { counts: counts.into_iter().map(cut).collect() }
    }

    /// Of COCO's compressed text; `None` where it is none.
    pub fn from_text(text: &str, pixels: usize) -> Option<Self> {
        let (mut counts, mut bytes): (Vec<i64>, _) = (Vec::new(), text.bytes());
        while let Some(mut byte) = bytes.next() {
            let (mut value, mut shift) = (0i64, 0);
            loop {
                let bits = i64::from(byte.checked_sub(48).filter(|bits| *bits < 64)?);
                value |= (bits & 0x1f) << shift;
                shift += 5;
                if bits & 0x20 == 0 {
                    // The highest bit of the last group is the sign.
                    if bits & 0x10 != 0 {
                        value |= -1 << shift;
                    }
                    break;
                }
                byte = bytes.next().filter(|_| shift < 50)?;
            }
            // From the third on, runs are stored as differences from the one two before.
            if counts.len() > 2 {
                value = value.checked_add(counts[counts.len() - 2])?;
            }
            counts.push(value);
        }
        let counts: Option<Vec<usize>> = counts.into_iter().map(|count| usize::try_from(count).ok()).collect();
        Some(Self::from_counts(counts?, pixels))
    }

    /// The lengths of the runs.
    pub fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// Number of pixels inside.
    pub fn area(&self) -> usize {
        self.counts.iter().skip(1).step_by(2).sum()
    }

    /// First and last pixel (exclusive) of every run inside.
    fn runs(&self) -> impl Iterator<Item = (usize, usize)> {
        let mut end = 0;
        self.counts.chunks(2).filter_map(move |pair| {
            let start = end + pair[0];
            end = start + pair.get(1).copied().unwrap_or_default();
            (end > start).then_some((start, end))
        })
    }

    fn from_runs(mut runs: Vec<(usize, usize)>, pixels: usize) -> Self {
        runs.sort_unstable();
        let (mut counts, mut at) = (Vec::new(), 0);
        for (start, end) in runs {
            match counts.last_mut() {
                // Runs that touch or overlap are one.
                Some(last) if start <= at => *last += end.saturating_sub(at),
                _ => counts.extend([start - at, end - start]),
            }
            at = at.max(end);
        }
        counts.push(pixels.saturating_sub(at));
        Self { counts }
    }

    /// Number of pixels that two masks of one image have in common.
    pub fn intersection(&self, other: &Self) -> usize {
        let (mut ours, mut theirs) = (self.runs().peekable(), other.runs().peekable());
        let mut both = 0;
        while let (Some((a, b)), Some((c, d))) = (ours.peek().copied(), theirs.peek().copied()) {
            both += b.min(d).saturating_sub(a.max(c));
            if b <= d {
                ours.next();
            } else {
                theirs.next();
            }
        }
        both
    }

    /// The pixels that are in any of the masks of an image of that many pixels.
    pub fn union<'a>(masks: impl IntoIterator<Item = &'a Self>, pixels: usize) -> Self {
        Self::from_runs(masks.into_iter().flat_map(Self::runs).collect(), pixels)
    }

    /// The pixels inside an outline (pixels, closed by itself) in an image of this width and height, by COCO's rules.
    /// An image of more than 2^28 pixels, or an outline with other than finite values, has none.
    pub fn from_outline(outline: &[[f64; 2]], [width, height]: [usize; 2]) -> Self {
        let pixels = width.saturating_mul(height);
        if pixels > MAX_PIXELS || outline.iter().flatten().any(|v| !v.is_finite()) || outline.is_empty() {
            return Self { counts: vec![pixels] };
        }
        // Where the outline enters and leaves the pixels of a column, as numbers of pixels.
        let mut crossings: Vec<usize> = boundary(outline, [width, height]);
        crossings.push(pixels);
        crossings.sort_unstable();
        let mut last = 0;
        let lengths: Vec<usize> = crossings.into_iter().map(|at| at - std::mem::replace(&mut last, at)).collect();
        // A run of no length joins its neighbours.
        let mut counts: Vec<usize> = Vec::with_capacity(lengths.len());
        let mut lengths = lengths.into_iter();
        counts.extend(lengths.next());
        while let Some(length) = lengths.next() {
            match length {
                0 => {
                    let next = lengths.next().unwrap_or_default();
                    if let Some(last) = counts.last_mut() {
                        *last += next;
                    }
                }
                length => counts.push(length),
            }
        }
        Self { counts }
    }
}

/// The crossings of an outline with the middles of the columns: the outline is drawn on a grid of five steps per pixel,
/// and looked at where it goes from one column of pixels to the next.
fn boundary(outline: &[[f64; 2]], [width, height]: [usize; 2]) -> Vec<usize> {
    // Further out lies no pixel, and numbers stay exact.
    let limit = SCALE * 4.0 * (width.max(height) as f64 + 1e4);
    let grid = |v: f64| (SCALE * v + 0.5).clamp(-limit, limit) as i64;
    let corners: Vec<[i64; 2]> = outline.iter().map(|[x, y]| [grid(*x), grid(*y)]).collect();
    let mut crossings = Vec::new();
    let mut before: Option<[i64; 2]> = None;
    let mut visit = |[u, v]: [i64; 2]| {
        if let Some([pu, pv]) = before.filter(|[pu, _]| *pu != u) {
            let x = (if u < pu { u } else { u - 1 }) as f64;
            let x = (x + 0.5) / SCALE - 0.5;
            if x.floor() == x && x >= 0.0 && x <= width as f64 - 1.0 {
                let y = (if v < pv { v } else { pv }) as f64;
                let y = ((y + 0.5) / SCALE - 0.5).clamp(0.0, height as f64).ceil();
                crossings.push(x as usize * height + y as usize);
            }
        }
        before = Some([u, v]);
    };
    for (i, from) in corners.iter().enumerate() {
        let to = corners[(i + 1) % corners.len()];
        edge(*from, to, &mut visit);
    }
    crossings
}

/// Visits the grid points of an edge, both ends included: one per step along its longer axis.
fn edge([mut xs, mut ys]: [i64; 2], [mut xe, mut ye]: [i64; 2], visit: &mut dyn FnMut([i64; 2])) {
    let (dx, dy) = ((xe - xs).abs(), (ye - ys).abs());
    let flip = (dx >= dy && xs > xe) || (dx < dy && ys > ye);
    if flip {
        std::mem::swap(&mut xs, &mut xe);
        std::mem::swap(&mut ys, &mut ye);
    }
    let slope = if dx >= dy { (ye - ys) as f64 / dx as f64 } else { (xe - xs) as f64 / dy as f64 };
    let steps = dx.max(dy);
    for step in 0..=steps {
        let t = if flip { steps - step } else { step };
        let other = |start: i64| if steps == 0 { start } else { (start as f64 + slope * t as f64 + 0.5) as i64 };
        visit(if dx >= dy { [xs + t, other(ys)] } else { [other(xs), ys + t] });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_meet_where_their_pixels_do() {
        let mask = |inside: &[usize]| Rle::from_runs(inside.iter().map(|p| (*p, p + 1)).collect(), 20);
        let sets: [&[usize]; 5] = [&[], &[0, 1, 2, 7], &[2, 3, 7, 8, 19], &[5], &[0, 19]];
        for a in sets {
            assert_eq!(mask(a).area(), a.len());
            assert_eq!(mask(a).counts().iter().sum::<usize>(), 20, "{:?}", mask(a));
            for b in sets {
                let both = a.iter().filter(|p| b.contains(p)).count();
                assert_eq!(mask(a).intersection(&mask(b)), both, "{a:?} {b:?}");
                assert_eq!(Rle::union([&mask(a), &mask(b)], 20).area(), a.len() + b.len() - both, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn outlines_that_are_none_have_no_pixel() {
        for outline in
            [&[][..], &[[f64::NAN, 0.0], [1.0, 1.0], [0.0, 1.0]], &[[1e300, -1e300], [2.0, 2.0], [5.0, 1e300]]]
        {
            let mask = Rle::from_outline(outline, [6, 4]);
            assert_eq!(mask.counts().iter().sum::<usize>(), 24, "{outline:?}");
        }
        let square = Rle::from_outline(&[[1.0, 1.0], [4.0, 1.0], [4.0, 3.0], [1.0, 3.0]], [6, 4]);
        assert_eq!(square.area(), 6, "{square:?}");
        assert!(Rle::from_text("\u{7f}", 9).is_none() && Rle::from_text("oooooooooooooooo", 9).is_none());
    }
}
