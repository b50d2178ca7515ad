//! Checks that cached rankings and loss curves fit a network.

use super::curves::{LossCurves, Sampling};
use super::ranking::Ranking;
use crate::group::Groups;

impl Ranking {
    /// Says what is wrong: every group has each of its channels once, and one channel of every head per round.
    ///
    /// # Errors
    /// Names the group.
    pub fn check(&self, groups: &Groups) -> Result<(), String> {
        if self.0.len() != groups.groups.len() {
            return Err(format!("ranks {} groups, the network has {}", self.0.len(), groups.groups.len()));
        }
        for (group, order) in groups.groups.iter().zip(&self.0) {
            let (full, name) = (group.width(), &group.name);
            if order.len() != full {
                return Err(format!("group `{name}`: ranks {} channels of {full}", order.len()));
            }
            let mut seen = vec![false; full];
            for position in order {
                if seen.get(*position) != Some(&false) {
                    return Err(format!("group `{name}`: position {position} is ranked twice or is not there"));
                }
                seen[*position] = true;
            }
            let size = full / group.heads.max(1);
            let interleaved = order.chunks(group.heads.max(1)).all(|turn| {
                let mut heads: Vec<usize> = turn.iter().map(|position| position / size.max(1)).collect();
                heads.sort_unstable();
                heads.iter().enumerate().all(|(at, head)| at == *head)
            });
            if !interleaved {
                return Err(format!("group `{name}`: its {} heads are not interleaved", group.heads));
            }
        }
        Ok(())
    }
}

impl LossCurves {
    /// Says what is wrong: every group has a finite loss of at least 0 at every width that is measured.
    ///
    /// # Errors
    /// Names the group.
    pub fn check(&self, groups: &Groups, sampling: &Sampling) -> Result<(), String> {
        if self.0.len() != groups.groups.len() {
            return Err(format!("has losses of {} groups, the network has {}", self.0.len(), groups.groups.len()));
        }
        for (group, curve) in groups.groups.iter().zip(&self.0) {
            let mut widths = sampling.widths(group);
            widths.sort_unstable();
            if !curve.keys().eq(&widths) {
                let found: Vec<&usize> = curve.keys().collect();
                return Err(format!("group `{}`: has losses at the widths {found:?}, expected {widths:?}", group.name));
            }
            if let Some((width, loss)) = curve.iter().find(|(_, loss)| !(loss.is_finite() && **loss >= 0.0)) {
                return Err(format!("group `{}`: its loss at width {width} is {loss}", group.name));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Device;
    use crate::group::groups;
    use crate::zoo::simple_cnn::simple_cnn;
    use std::collections::BTreeMap;

    /// Breaks something that is right.
    type Break<T> = fn(&mut Vec<T>);

    #[test]
    fn what_cannot_be_a_ranking_or_a_curve_is_told_by_its_group() {
        let groups = groups(&simple_cnn(10).unwrap());
        let sampling = Sampling { shares: vec![0.75, 0.5, 0.25], grid: 4, images: 4, device: Device::Cpu };
        let ranking = Ranking(groups.groups.iter().map(|g| (0..g.width()).rev().collect()).collect());
        let curve = |g| sampling.widths(g).into_iter().map(|w| (w, 1.0 / (w + 1) as f64)).collect();
        let curves = LossCurves(groups.groups.iter().map(curve).collect());
        assert_eq!(ranking.check(&groups), Ok(()));
        assert_eq!(curves.check(&groups, &sampling), Ok(()));

        let broken: [(Break<Vec<usize>>, &str); 5] = [
            (|r| drop(r.pop()), "groups"),
            (|r| r[1].truncate(1), "channels of"),
            (|r| r[0][0] = r[0][1], "twice"),
            (|r| r[0][0] = 1 << 40, "twice or is not there"),
            (|r| r[0].clear(), "ranks 0 channels"),
        ];
        for (harm, expected) in broken {
            let mut ranking = ranking.clone();
            harm(&mut ranking.0);
            let problem = ranking.check(&groups).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
        let broken: [(Break<BTreeMap<usize, f64>>, &str); 6] = [
            (|c| drop(c.pop()), "losses of"),
            (|c| c[0].clear(), "at the widths []"),
            (
                |c| {
                    c[0].pop_first();
                },
                "expected",
            ),
            (|c| *c[0].values_mut().next().unwrap() = -0.5, "is -0.5"),
            (|c| *c[1].values_mut().next().unwrap() = f64::NAN, "is NaN"),
            (|c| *c[1].values_mut().next().unwrap() = f64::INFINITY, "is inf"),
        ];
        for (harm, expected) in broken {
            let mut curves = curves.clone();
            harm(&mut curves.0);
            let problem = curves.check(&groups, &sampling).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
