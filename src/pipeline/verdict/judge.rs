//! Whether the budgets hold, by the figures of the report and a measurement.

use crate::pipeline::job::MinRecall;
use crate::pipeline::timing::{PairedLatency, bound, percentile};
use crate::report::{Budget, Report, Stage, Verdict};

/// Enters a measurement into the report and judges the budgets by it.
pub fn enter(report: &mut Report, pair: &PairedLatency) {
    report.baseline.latency = Some(pair.baseline.clone());
    report.last_mut().latency = Some(pair.pruned.clone());
    report.baseline.energy = pair.energy.as_ref().map(|energy| energy.baseline);
    report.last_mut().energy = pair.energy.as_ref().map(|energy| energy.pruned);
    report.verdict = judge(report, pair);
}

/// Enters that the device was simulated: no stage has a latency or an energy, and no budget of either is judged.
pub fn enter_simulated(report: &mut Report, why: &str) {
    report.baseline.latency = None;
    report.last_mut().latency = None;
    (report.baseline.energy, report.last_mut().energy) = (None, None);
    report.verdict = judge_simulated(report, why);
}

/// Whether the budgets hold that need no measurement, in sentences.
pub fn judge_simulated(report: &Report, why: &str) -> Verdict {
    let mut verdict = judge_rest(report);
    verdict.simulated = Some(why.into());
    if report.budget.energy_mj.is_some() {
        verdict.sentences.insert(0, format!("energy: not measured on the device ({why}), nothing is claimed"));
    }
    if report.budget.latency_ms.is_some() || report.budget.latency_ratio.is_some() {
        verdict.sentences.insert(0, format!("latency: not measured on the device ({why}), nothing is claimed"));
    }
    verdict
}

/// Whether the budgets hold, in sentences. Milliseconds are judged by the bound of their percentile where there are frames
/// enough for one: the claim is about frames that were not measured, too.
pub fn judge(report: &Report, pair: &PairedLatency) -> Verdict {
    let budget = &report.budget;
    let mut verdict = Verdict { latency_ratio: pair.ratio, ..judge_rest(report) };
    let mut sentences = Vec::new();
    let last = report.last();
    if 4 * last.zeros > last.params {
        sentences.push(format!(
            "{:.0} % of the weights are zero: the file is {:.2}x as large, but this engine multiplies by zeros too, so the latency \
             is {:.3}x",
            100.0 * last.zeros as f64 / last.params.max(1) as f64,
            last.file_bytes as f64 / report.baseline.file_bytes.max(1) as f64,
            pair.ratio
        ));
    }
    let mut check = |what: String, ok: bool| {
        verdict.latency_ok &= ok;
        sentences.push(sentence(&what, ok));
    };
    if let Some(limit) = budget.latency_ms {
        let sure = bound(&pair.pruned, budget.percentile);
        let measured = sure.unwrap_or_else(|| percentile(&pair.pruned, budget.percentile));
        let sure = if sure.is_some() { " with 95 % confidence" } else { "" };
        let every = pair.all_windows.as_ref().map_or(String::new(), |all| {
            let ms = bound(all, budget.percentile).unwrap_or_else(|| percentile(all, budget.percentile));
            format!(" ({ms:.2} ms with the windows that were discarded)")
        });
        let per = report.per_batch();
        check(format!("p{} {measured:.2} ms{per}{sure}{every} of {limit:.2} ms", budget.percentile), measured <= limit);
    }
    if let Some(limit) = budget.latency_ratio {
        check(format!("{:.3}x of {limit:.3}x latency{}", pair.ratio, report.per_batch()), pair.ratio <= limit);
    }
    if let Some(limit) = budget.energy_mj {
        match &pair.energy {
            Some(energy) => {
                let found = &energy.pruned;
                let sure = if found.p50_bound_mj.is_some() { " with 95 % confidence" } else { "" };
                let (mj, least, most) = (found.judged_mj(), found.least_mj, found.most_mj);
                let spread = format!("{least:.2} to {most:.2} in {} blocks of {}", found.blocks, energy.rails);
                let what = if report.batch > 1 { report.per_batch() } else { " per frame".into() };
                check(format!("{mj:.2} mJ{what}{sure} ({spread}) of {limit:.2} mJ"), mj <= limit);
            }
            None => check(format!("energy: no power rails could be read, at most {limit:.2} mJ per frame"), false),
        }
    }
    verdict.sentences.splice(0..0, sentences);
    verdict
}

fn sentence(what: &str, ok: bool) -> String {
    format!("{what}: {}", if ok { "holds" } else { "is missed" })
}

/// Whether the budgets of memory and accuracy hold.
fn judge_rest(report: &Report) -> Verdict {
    let budget = &report.budget;
    let last: &Stage = report.last();
    let mut verdict = Verdict { latency_ok: true, memory_ok: true, accuracy_ok: true, ..Verdict::default() };
    let mut check = |slot: &mut bool, what: String, ok: bool| {
        *slot &= ok;
        verdict.sentences.push(sentence(&what, ok));
    };
    if let Some(limit) = budget.memory_mib {
        let mib = last.peak_memory_bytes as f64 / f64::from(1 << 20);
        check(&mut verdict.memory_ok, format!("{mib:.2} MiB of {limit:.2} MiB"), mib <= limit);
    }
    if let Some(limit) = budget.params {
        check(&mut verdict.memory_ok, format!("{} of {limit} parameters", last.params), last.params <= limit);
    }
    if let Some(limit) = budget.file_mib {
        let mib = last.file_bytes as f64 / f64::from(1 << 20);
        check(&mut verdict.memory_ok, format!("file of {mib:.2} MiB, {limit:.2} MiB allowed"), mib <= limit);
    }
    verdict.diverged = report.training.as_ref().and_then(|training| training.diverged.clone());
    let (before, after) = report.judged_accuracy();
    let place = report.runtime.as_ref().map_or(String::new(), |other| format!(" in {}", other.name));
    for (what, ok) in accuracy(budget, &report.floors, before, after) {
        check(&mut verdict.accuracy_ok, what + &place, ok);
    }
    verdict
}

/// Whether the last stage holds the budgets of accuracy: each as a sentence, with whether it holds. Where the accuracy is
/// undefined, none holds.
pub fn accuracy(budget: &Budget, floors: &MinRecall, baseline: &Stage, last: &Stage) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let name = last.score_name();
    let undefined = format!("{name} is undefined, because no validation image shows a labelled object");
    if let Some(floor) = budget.min_map {
        found.push(match last.defined_score() {
            Some(score) => (format!("{name} {score:.4}, at least {floor:.4}"), score >= floor),
            None => (format!("{undefined}: at least {floor:.4}"), false),
        });
    }
    for (class, share) in floors {
        let of = |stage: &Stage| stage.recall.get(class).copied().filter(|recall| *recall >= 0.0);
        found.push(match (of(baseline), of(last)) {
            (Some(before), Some(after)) if before > 0.0 => {
                (format!("recall of {class} {after:.4}, at least {share} of {before:.4}"), after >= share * before)
            }
            (Some(_), Some(_)) => {
                (format!("recall of {class}: the baseline network finds none, so a share of that says nothing"), false)
            }
            _ => (
                format!("recall of {class} is undefined, because no validation image shows one: at least {share}"),
                false,
            ),
        });
    }
    if let Some(most) = budget.max_map_drop {
        found.push(match baseline.defined_score().zip(last.defined_score()) {
            Some((before, after)) => {
                (format!("{name} {:.4} lower, at most {most:.4}", before - after), before - after <= most)
            }
            None => (format!("{undefined}: at most {most:.4} lower"), false),
        });
    }
    found
}
