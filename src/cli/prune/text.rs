//! What people read of a job: its steps before it begins, and its figures at the end.

use crate::graph::Dtype;
use crate::profile::{HoldOut, Profile};
use crate::report::{BranchChoice, Report, Stage};
use std::path::{Path, PathBuf};

/// What the job will do, in order.
pub fn steps(profile: &Profile, out: &Path) -> Vec<String> {
    let or = |path: &Option<PathBuf>, other: &str| path.as_ref().map_or(other.to_owned(), |p| p.display().to_string());
    let (budget, search, tune) = (&profile.budget, &profile.search, &profile.finetune);
    let budgets = [
        budget.latency.map(|ms| format!("p{} within {ms}", budget.percentile)),
        budget.latency_ratio.map(|ratio| format!("{ratio} the baseline latency")),
        budget.energy.map(|mj| format!("{mj} per frame")),
        budget.memory.map(|mib| format!("{mib} of memory")),
        budget.params.map(|params| format!("{params} parameters")),
        budget.file.map(|mib| format!("a file of {mib}")),
    ];
    let size = profile.model.imgsz.map_or("its own size".to_owned(), |size| format!("{size} px"));
    let batches = if profile.model.batch > 1 { format!(", batches of {}", profile.model.batch) } else { String::new() };
    let teacher = if tune.distill > 0.0 { ", the baseline model as teacher" } else { "" };
    let head = profile.model.head.map_or(String::new(), |head| format!(", the branch {} of its head", head.name()));
    let mut steps = vec![
        format!("import {} for images of {size}{head}", or(&profile.model.path, "the embedded demo")),
        format!("read {}", or(&profile.data, "the embedded drawn set")),
        format!("rank the channels ({}, {} images)", search.importance, search.calibration_images),
        format!("measure the latency of every layer, {} thread(s){batches}", profile.device.threads),
        format!(
            "search widths in steps of {} (at least {} kept): {}",
            search.grid,
            search.min_keep,
            budgets.into_iter().flatten().collect::<Vec<_>>().join(", ")
        ),
        "prune, and repair by least squares".to_owned(),
    ];
    if profile.model.sizes.len() > 1 {
        let sizes: Vec<String> = profile.model.sizes.iter().map(ToString::to_string).collect();
        steps.insert(2, format!("do steps 3 to 6 at {} px and keep the size that finds most", sizes.join(", ")));
    }
    if tune.epochs > 0 {
        let held = match &tune.hold_out {
            HoldOut::Share(share) if share.get() == 0.0 => String::new(),
            HoldOut::Share(share) => format!("; {:.0} % of the training images choose the best", 100.0 * share.get()),
            HoldOut::Split(name) => format!("; the images of the split `{name}` choose the best"),
        };
        let share = if profile.model.dtype == Dtype::Int8 { tune.recipe.int8_epochs.get() } else { 0.0 };
        let int8 = if share > 0.0 { format!(", the last {:.0} % for int8", 100.0 * share) } else { String::new() };
        steps.push(format!("train {} epochs{int8}, batches of {}{teacher}{held}", tune.epochs, tune.batch));
    }
    match profile.model.dtype {
        Dtype::F32 => {}
        Dtype::F16 => steps.push("quantize the weights of the layers to f16".to_owned()),
        Dtype::Int8 => steps.push("quantize the weights and inputs of the layers to int8".to_owned()),
    }
    steps.push("evaluate the baseline, the pruned, the repaired and the tuned model".to_owned());
    if profile.bench.runtime.is_driven() {
        steps.push(format!("evaluate the baseline and the shipped model in {}", profile.bench.runtime.name()));
    }
    steps.push(format!("measure baseline and pruned model, interleaved, {} frames each", profile.bench.runs));
    steps.push(format!("write model, plan, reports and manifest to {}", out.display()));
    steps
}

/// The verdict in a few lines.
pub fn summary(report: &Report) -> String {
    let mib = |stage: &Stage| stage.peak_memory_bytes as f64 / f64::from(1 << 20);
    let (baseline, last) = (&report.baseline, report.last());
    let mut lines = Vec::new();
    if let (Some(a), Some(b)) = (&baseline.latency, &last.latency) {
        let row = |name: &str, a: f64, b: f64| format!("  {name:<12}{a:>10.2} -> {b:.2} ms ({:.3}x)", b / a);
        lines.extend([row("p50", a.p50_ms, b.p50_ms), row("p95", a.p95_ms, b.p95_ms), row("p99", a.p99_ms, b.p99_ms)]);
    }
    lines.push(format!("  {:<12}{:>10.2} -> {:.2} MiB", "peak memory", mib(baseline), mib(last)));
    lines.push(format!("  {:<12}{:>10} -> {}", "parameters", baseline.params, last.params));
    lines.push(format!(
        "  {:<12}{:>10.1} -> {:.1} million",
        "MACs",
        baseline.macs as f64 / 1e6,
        last.macs as f64 / 1e6
    ));
    if let Some(BranchChoice { branch, removed: Some(removed) }) = &report.head {
        lines.push(format!("  {:<12}{}: without the other branch {removed}", "head", branch.name()));
    }
    let maps = report.stages().map(|(name, stage)| format!("{name} {:.4}", stage.score()));
    lines.push(format!("  {:<11} {}", baseline.score_name(), maps.collect::<Vec<_>>().join(", ")));
    let boxes =
        report.stages().filter_map(|(name, stage)| Some(format!("{name} {:.4}", stage.boxes.as_ref()?.map50_95)));
    let boxes = boxes.collect::<Vec<_>>().join(", ");
    if !boxes.is_empty() {
        lines.push(format!("  {:<11} {boxes}", "box mAP50-95"));
    }
    lines.extend(report.controls().map(|(name, stage)| format!("  {:<12}{name} {:.4}", "  control", stage.score())));
    if let Some(other) = &report.runtime {
        let (before, after) = (other.baseline.score(), other.shipped.score());
        lines.push(format!("  {:<12}baseline {before:.4}, shipped {after:.4} in {}", "  there", other.name));
    }
    let gaps = report.stages().filter_map(|(name, stage)| {
        let (test, train) = stage.accuracy.zip(stage.train_accuracy)?;
        Some(format!("{name} {:+.4}", train - test))
    });
    let gaps = gaps.collect::<Vec<_>>().join(", ");
    if !gaps.is_empty() {
        lines.push(format!("  {:<12}{gaps}", "train gap"));
    }
    if let Some(training) = &report.training {
        lines.push(format!("  {:<12}{}", "tuning", training.sentence()));
    }
    if let Some(gap) = report.search.gap {
        let covers = "offered widths, measured losses added up, predicted latency";
        lines.push(format!("  {:<12}{:.2} % certified gap ({covers})", "plan", 100.0 * gap));
    }
    lines.extend(report.verdict.sentences.iter().map(|sentence| format!("  {:<12}{sentence}", "budget")));
    if let Some(why) = &report.verdict.simulated {
        lines.push(format!("  {:<12}nothing was measured on the device ({why}): no latency is claimed", "note"));
    }
    lines.join("\n")
}
