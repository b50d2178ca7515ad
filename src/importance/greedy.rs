//! From scores to an order of removal.

/// Ascending order of scores; with several heads, rounds that take the lowest of every head.
pub(super) fn order(scores: &[f64], heads: usize) -> Vec<usize> {
    let size = scores.len() / heads.max(1);
    let per_head = (0..heads).map(|head| {
        let mut positions: Vec<usize> = (head * size..(head + 1) * size).collect();
        positions.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        positions
    });
    interleave(&per_head.collect::<Vec<_>>())
}

/// Group Fisher order: each step removes the channel that adds the least to
/// `mean_n (sum of the removed channels' gradients)^2`. `gradients` has one row per channel, one entry per image.
pub(super) fn fisher_order(gradients: &[Vec<f64>], heads: usize) -> Vec<usize> {
    let images = gradients.first().map_or(0, Vec::len);
    let size = gradients.len() / heads.max(1);
    let mut removed = vec![0.0; images];
    let mut left: Vec<Vec<usize>> = (0..heads).map(|head| (head * size..(head + 1) * size).collect()).collect();
    let mut order = Vec::with_capacity(gradients.len());
    for _ in 0..size {
        for head in &mut left {
            let cost = |channel: &usize| {
                let g = &gradients[*channel];
                g.iter().zip(&removed).map(|(g, r)| (g + r) * (g + r) - r * r).sum::<f64>()
            };
            let costs = head.iter().map(cost).enumerate();
            let Some((at, _)) = costs.min_by(|a, b| a.1.total_cmp(&b.1)) else { continue };
            let channel = head.remove(at);
            removed.iter_mut().zip(&gradients[channel]).for_each(|(r, g)| *r += g);
            order.push(channel);
        }
    }
    order
}

fn interleave(per_head: &[Vec<usize>]) -> Vec<usize> {
    let rounds = per_head.first().map_or(0, Vec::len);
    (0..rounds).flat_map(|round| per_head.iter().map(move |head| head[round])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_goes_first_and_heads_take_turns() {
        let cases: &[(&[f64], usize, &[usize])] =
            &[(&[3.0, 1.0, 2.0], 1, &[1, 2, 0]), (&[4.0, 3.0, 1.0, 2.0], 2, &[1, 2, 0, 3]), (&[], 1, &[])];
        for (scores, heads, expected) in cases {
            assert_eq!(order(scores, *heads), *expected);
        }
    }

    #[test]
    fn fisher_sees_that_two_channels_cancel() {
        // Channels 1 and 2 hurt alone, but their gradients cancel; channel 0 hurts a little.
        let gradients = vec![vec![1.0, 1.0], vec![1.1, -1.1], vec![-1.1, 1.1], vec![9.0, 9.0]];
        assert_eq!(fisher_order(&gradients, 1), [0, 1, 2, 3]);
        let gradients = vec![vec![1.2, 1.2], vec![1.1, -1.1], vec![-1.1, 1.1], vec![9.0, 9.0]];
        assert_eq!(fisher_order(&gradients, 1), [1, 2, 0, 3]);
    }
}
