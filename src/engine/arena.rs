//! Offsets for tensors that live at different times.

/// When a tensor lives, in steps, both ends included, and its length in values.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// First step.
    pub first: usize,
    /// Last step.
    pub last: usize,
    /// Values.
    pub len: usize,
}

/// Offsets are multiples of this many values (a cache line).
const ALIGN: usize = 16;

/// An offset for every tensor such that tensors that live at the same time do not overlap, and the length of the
/// whole. Largest first, each in the smallest gap that it fits (Pisarchyk & Lee, "Efficient Memory Management for Deep
/// Neural Net Inference", 2020).
pub fn assign(spans: &[Option<Span>]) -> (Vec<usize>, usize) {
    let mut order: Vec<(usize, Span)> = spans.iter().enumerate().filter_map(|(i, s)| s.map(|s| (i, s))).collect();
    order.sort_by_key(|(i, s)| (std::cmp::Reverse(s.len), s.first, *i));
    let mut offsets = vec![0; spans.len()];
    let mut placed: Vec<(usize, usize, Span)> = Vec::new();
    let mut total = 0;
    for (index, span) in order {
        let len = span.len.next_multiple_of(ALIGN);
        let mut gap_start = 0;
        let mut best: Option<(usize, usize)> = None;
        // `placed` is sorted by offset.
        for (start, end, _) in placed.iter().filter(|(_, _, o)| o.first <= span.last && span.first <= o.last) {
            if *start >= gap_start + len && best.is_none_or(|(gap, _)| start - gap_start < gap) {
                best = Some((start - gap_start, gap_start));
            }
            gap_start = gap_start.max(*end);
        }
        let offset = best.map_or(gap_start, |(_, at)| at);
        offsets[index] = offset;
        total = total.max(offset + len);
        let at = placed.partition_point(|(start, _, _)| *start <= offset);
        placed.insert(at, (offset, offset + len, span));
    }
    (offsets, total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tensors_that_live_together_do_not_overlap(
            raw in prop::collection::vec((0usize..20, 0usize..6, 1usize..500), 1..40)
        ) {
            let spans: Vec<Option<Span>> =
                raw.iter().map(|(first, more, len)| Some(Span { first: *first, last: first + more, len: *len })).collect();
            let (offsets, total) = assign(&spans);
            for (i, a) in spans.iter().flatten().enumerate() {
                prop_assert!(offsets[i] % ALIGN == 0 && offsets[i] + a.len <= total);
                for (j, b) in spans.iter().flatten().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = offsets[i] + a.len <= offsets[j] || offsets[j] + b.len <= offsets[i];
                    prop_assert!(!together || apart, "{i} and {j}");
                }
            }
            // Never below what lives at one time, never above one after the other.
            let live = |t: usize| spans.iter().flatten().filter(|s| s.first <= t && t <= s.last).map(|s| s.len).sum::<usize>();
            prop_assert!((0..30).all(|t| live(t) <= total));
            prop_assert!(total <= spans.iter().flatten().map(|s| s.len.next_multiple_of(ALIGN)).sum());
        }
    }
}
