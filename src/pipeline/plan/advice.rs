//! Explains the figures of the search in the user's units and flags.

use super::target::LEAST_UTILISATION;
use crate::pipeline::context::Context;
use crate::report::Budget;
use crate::search::Infeasible;

/// The budgets for people.
pub fn describe(budget: &Budget) -> String {
    let parts = [
        budget.latency_ms.map(|ms| format!("p{} within {ms} ms", budget.percentile)),
        budget.latency_ratio.map(|r| format!("{r}x the baseline latency")),
        budget.energy_mj.map(|mj| format!("{mj} mJ per frame")),
        budget.memory_mib.map(|mib| format!("{mib} MiB")),
        budget.params.map(|params| format!("{params} parameters")),
        budget.file_mib.map(|mib| format!("a file of {mib} MiB")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "no budget".into() } else { parts.join(", ") }
}

/// The flags of the budgets that so many bytes exceed, with values that allow them: those that the user gave.
pub fn enough(bytes: f64, budget: &Budget) -> String {
    let mib = bytes / f64::from(1 << 20);
    let mib = |flag: &str| format!("{flag} {:.2}", (mib * 100.0).ceil() / 100.0);
    if budget.memory_mib.is_some() {
        return mib("--memory-mib");
    }
    // As where the search's limit is made: four bytes per trained value.
    let params =
        budget.params.filter(|n| 4.0 * (*n as f64) < bytes).map(|_| format!("--params {}", (bytes / 4.0).ceil()));
    let file = budget.file_mib.filter(|most| most * f64::from(1 << 20) < bytes).map(|_| mib("--file-mib"));
    params.into_iter().chain(file).collect::<Vec<_>>().join(" with ")
}

/// The KL divergence of a plan's outputs from the baseline network's, for people.
pub fn distance(loss: f64) -> String {
    if loss.is_finite() {
        format!("{loss:.4} nats per confident prediction")
    } else {
        "set aside: its outputs are no finite numbers".into()
    }
}

/// How far the predictions are from what was measured of the least plans.
pub struct Missed {
    /// How much longer the fastest plan was measured to take than predicted, as a factor.
    pub longer: f64,
    /// How much more memory the smallest plan takes than predicted, bytes.
    pub more: f64,
    /// The baseline network's predicted latency, milliseconds.
    pub baseline_ms: f64,
}

/// What can least be reached, and what would do, in the user's units: all predictions are corrected by what was measured.
pub fn explain(why: &Infeasible, missed: &Missed, ctx: &Context) -> String {
    let (job, baseline) = (ctx.job, &ctx.inputs.baseline);
    let baseline_ms = missed.baseline_ms / missed.longer;
    // A measured plan must be below what is asked for by more than noise.
    let room = if ctx.timing.measures() { 1.0 / LEAST_UTILISATION } else { 1.0 };
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let mut text = format!("no widths meet {}", describe(&job.budget));
    if let Some(least) = &why.least_latency {
        text += &format!(
            "; the least latency is {:.3}x of the baseline model's",
            least.evaluation.latency_ms / baseline_ms
        );
    }
    // Where memory has no limit of its own, the search's limit is that of the weights.
    let weights_only = job.budget.memory_mib.is_none();
    if let Some(least) = &why.least_memory {
        let what = if weights_only { "weights take" } else { "memory is" };
        text += &format!("; the least {what} {:.2} MiB", mib(least.evaluation.memory_bytes + missed.more));
    }
    for way in &why.relaxations {
        let parts = [
            way.latency_ms
                .map(|ms| format!("--latency-ratio {:.3}", (ms * room / baseline_ms * 1000.0).ceil() / 1000.0)),
            way.memory_bytes.map(|bytes| enough(bytes + missed.more, &job.budget)),
        ];
        text += &format!("; {} would do", parts.into_iter().flatten().collect::<Vec<_>>().join(" with "));
    }
    let smaller = baseline.imgsz.map(|side| side.saturating_sub(baseline.model.graph.stride()));
    if smaller.area() > 0 {
        text +=
            &format!("; a smaller image (--imgsz {smaller}) or a lower min-keep than {} may do as well", job.min_keep);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_the_flags_that_were_given() {
        let bytes = f64::from(3 << 20);
        let asked = |memory_mib, params, file_mib| Budget { memory_mib, params, file_mib, ..Budget::default() };
        let cases = [
            (asked(None, Some(10), None), "--params 786432"),
            (asked(None, None, Some(0.1)), "--file-mib 3.00"),
            (asked(Some(1.0), None, None), "--memory-mib 3.00"),
            (asked(None, Some(10), Some(0.1)), "--params 786432 with --file-mib 3.00"),
            // A budget that holds already is kept.
            (asked(None, Some(10), Some(5.0)), "--params 786432"),
            (asked(None, Some(1_000_000), Some(0.1)), "--file-mib 3.00"),
        ];
        for (asked, expected) in cases {
            assert_eq!(enough(bytes, &asked), expected);
        }
    }

    #[test]
    fn no_plan_is_said_to_be_nan_nats_away() {
        assert_eq!(distance(0.5), "0.5000 nats per confident prediction");
        for loss in [f64::NAN, f64::INFINITY] {
            assert!(distance(loss).contains("no finite numbers") && !distance(loss).contains("NaN"));
        }
    }
}
