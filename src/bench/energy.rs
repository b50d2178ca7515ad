//! Millijoules per frame, by the power rails of the machine.
//!
//! Rails say little about a single frame: they are averaged over milliseconds. A network therefore runs in blocks of
//! its own, in turn with the other one's, each long enough for the rails; a block gives one figure, and what differs
//! between blocks is the spread. It is the energy of everything behind the rails, the machine's idle draw included.

use super::distribution::{median, upper_bound};
use crate::board::{Rails, Reading};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Blocks of each network in a window.
const BLOCKS: usize = 4;

/// The least milliseconds of a block: many times what an INA3221 averages over, or RAPL counts at once.
const BLOCK_MS: f64 = 250.0;

/// The most frames of a block, whatever a frame takes.
const MOST_FRAMES: usize = 10_000;

/// Energy of one network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    /// Median over all blocks, millijoules per frame.
    pub p50_mj: f64,
    /// What the median is at most with 95 % confidence, where there are blocks enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_bound_mj: Option<f64>,
    /// The least of a block.
    pub least_mj: f64,
    /// The most of a block.
    pub most_mj: f64,
    /// Blocks.
    pub blocks: usize,
}

impl Energy {
    /// Of millijoules per frame, block after block in the order they ran; none without any, or where one is no energy.
    pub fn of(blocks: &[f64]) -> Option<Self> {
        let possible = blocks.iter().all(|mj| mj.is_finite() && *mj > 0.0);
        let least = blocks.iter().copied().min_by(f64::total_cmp).filter(|_| possible)?;
        let most = blocks.iter().copied().max_by(f64::total_cmp)?;
        let p50_bound_mj = upper_bound(blocks, 50);
        Some(Self { p50_mj: median(blocks), p50_bound_mj, least_mj: least, most_mj: most, blocks: blocks.len() })
    }

    /// What a budget is judged by: the bound, where there is one.
    pub fn judged_mj(&self) -> f64 {
        self.p50_bound_mj.unwrap_or(self.p50_mj)
    }
}

/// Energy of two networks whose blocks ran in turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedEnergy {
    /// The rails that were read.
    pub rails: String,
    /// Of the baseline network.
    #[serde(rename = "uncut")]
    pub baseline: Energy,
    /// Of the other one.
    #[serde(rename = "cut")]
    pub pruned: Energy,
}

/// Runs blocks of every kind of frames in turn, and gives the millijoules per frame of each block of each; none where a
/// rail could not be read all the time.
///
/// # Errors
/// The first that a frame gives.
pub fn energy<E>(rails: &Rails, frames: &mut [&mut dyn FnMut() -> Result<(), E>]) -> Result<Option<Vec<Vec<f64>>>, E> {
    let mut found = vec![Vec::new(); frames.len()];
    for block in 0..BLOCKS {
        for at in 0..frames.len() {
            // A B B A: neither always follows the other.
            let at = if block % 2 == 0 { at } else { frames.len() - 1 - at };
            match one_block(rails, frames[at])? {
                Some(millijoules) => found[at].push(millijoules),
                None => return Ok(None),
            }
        }
    }
    Ok(Some(found))
}

/// Millijoules per frame of one block.
fn one_block<E>(rails: &Rails, frame: &mut dyn FnMut() -> Result<(), E>) -> Result<Option<f64>, E> {
    let millis = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    // What ran before still shows in the averages.
    let settling = Instant::now();
    for _ in 0..MOST_FRAMES {
        frame()?;
        if millis(settling) >= BLOCK_MS / 4.0 {
            break;
        }
    }
    let (start, mut readings): (Instant, Vec<Option<Reading>>) = (Instant::now(), vec![rails.read()]);
    let mut ran = 0;
    while ran < MOST_FRAMES && (ran == 0 || millis(start) < BLOCK_MS) {
        frame()?;
        ran += 1;
        readings.push(rails.read());
    }
    let elapsed = millis(start);
    Ok(rails.millijoules(&readings, elapsed).map(|millijoules| millijoules / ran as f64))
}
