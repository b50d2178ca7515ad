//! The report as one HTML page that needs nothing else: no script, no font, no request.
//!
//! The verdict comes first, then what it rests on: the stages side by side, what the search can prove, where the
//! channels and the time went, class by class accuracy, and what the run was made of.

mod chart;
pub mod comparison;
mod drawings;
pub mod index;
mod text;
mod training;

use super::{Budget, Report, Search, Stage};
use crate::eval::Metric;
use crate::quantise::Kept;
use crate::size::ImageSize;
use chart::{Bars, Scale};
use std::collections::BTreeMap;
use text::{NOTHING, change, count, escape, mib, millis, number, signed};

const STYLE: &str = include_str!("page.css");

/// The page of a report.
pub fn render(report: &Report) -> String {
    let title = format!("{}: {}", report.target, headline(report));
    let sections = [
        verdict(report),
        tiles(report),
        stages(report),
        controls(report),
        in_runtime(report),
        training::training(report),
        search(report),
        drawings::front(report),
        widths(report),
        layers(report),
        full_precision(report),
        drawings::memory(report),
        classes(report),
        drawings::photos(report),
        provenance(report),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}\
         <footer>Written by secateurs {}.</footer>\n</main>\n</body>\n</html>\n",
        escape(&title),
        sections.concat(),
        escape(&report.version)
    )
}

/// The verdict in one line.
fn headline(report: &Report) -> String {
    let verdict = &report.verdict;
    let latency = if report.budget.energy_mj.is_some() { "latency or energy budget" } else { "latency budget" };
    let missed: Vec<&str> =
        [(latency, verdict.latency_ok), ("memory budget", verdict.memory_ok), ("accuracy floor", verdict.accuracy_ok)]
            .into_iter()
            .filter_map(|(what, ok)| (!ok).then_some(what))
            .collect();
    if !missed.is_empty() {
        return format!("{} missed", missed.join(" and "));
    }
    if report.budget == (Budget { percentile: report.budget.percentile, ..Budget::default() }) {
        return "no budget was given".into();
    }
    match report.verdict.simulated {
        Some(_) => "simulated: no latency is claimed".into(),
        None => "every budget holds".into(),
    }
}

fn verdict(report: &Report) -> String {
    let ok = report.verdict.latency_ok && report.verdict.memory_ok && report.verdict.accuracy_ok;
    let headline = headline(report);
    let mut letters = headline.chars();
    let headline: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
    let sentences: String = report.verdict.sentences.iter().map(|s| format!("<li>{}</li>\n", escape(s))).collect();
    let list = if sentences.is_empty() { String::new() } else { format!("<ul>\n{sentences}</ul>\n") };
    format!(
        "<p class=\"soft\">{} for <b>{}</b> on {}</p>\n<section class=\"verdict{}\">\n<h1>{}</h1>\n{list}</section>\n",
        escape(&report.model),
        escape(&report.target),
        escape(&report.device),
        if ok { "" } else { " missed" },
        escape(&headline)
    )
}

fn tiles(report: &Report) -> String {
    let (from, to) = (&report.baseline, report.last());
    let tile = |name: &str, big: String, small: String| {
        format!("<div class=\"tile\"><span class=\"soft\">{name}</span><b>{big}</b><small>{small}</small></div>\n")
    };
    let arrow = |a: String, b: String| format!("{a} \u{2192} {b}");
    let p50 = |stage: &Stage| stage.latency.as_ref().map_or(NOTHING.into(), |d| millis(d.p50_ms));
    let ratio = if report.verdict.latency_ratio > 0.0 {
        format!("{}\u{d7}", number(report.verdict.latency_ratio, 3))
    } else {
        NOTHING.into()
    };
    let memory = |stage: &Stage| mib(stage.peak_memory_bytes as f64);
    let share = |a: usize, b: usize| change(a as f64, b as f64);
    [
        "<div class=\"tiles\">\n".into(),
        tile("latency", ratio, arrow(p50(from), p50(to)) + ", median" + &report.per_batch()),
        tile("peak memory", share(from.peak_memory_bytes, to.peak_memory_bytes), arrow(memory(from), memory(to))),
        tile(
            from.score_name(),
            signed(to.score() - from.score(), 3),
            arrow(number(from.score(), 3), number(to.score(), 3)),
        ),
        tile("parameters", share(from.params, to.params), arrow(count(from.params as f64), count(to.params as f64))),
        tile("MACs", share(from.macs, to.macs), arrow(count(from.macs as f64), count(to.macs as f64))),
        "</div>\n".into(),
    ]
    .concat()
}

/// How a row of the table shows its figures.
enum Unit {
    /// Between 0 and 1; differences are absolute.
    Accuracy,
    Millis,
    Millijoules,
    Bytes,
    Count,
}

type Figure = fn(&Stage) -> Option<f64>;

const FIGURES: [(&str, Unit, Figure); 19] = [
    ("mAP50-95", Unit::Accuracy, |s| Some(s.map50_95).filter(|v| v.is_finite())),
    ("mAP50", Unit::Accuracy, |s| Some(s.map50).filter(|v| v.is_finite())),
    ("mAP50-95, rules of ultralytics", Unit::Accuracy, |s| Some(s.map50_95_ultralytics).filter(|v| v.is_finite())),
    ("mAP50-95 of boxes", Unit::Accuracy, |s| Some(s.boxes.as_ref()?.map50_95)),
    ("mAP50 of boxes", Unit::Accuracy, |s| Some(s.boxes.as_ref()?.map50)),
    ("mAP50-95 of boxes, rules of ultralytics", Unit::Accuracy, |s| Some(s.boxes.as_ref()?.map50_95_ultralytics)),
    ("accuracy", Unit::Accuracy, |s| s.accuracy),
    ("accuracy on training images", Unit::Accuracy, |s| s.train_accuracy),
    ("gap between the two", Unit::Accuracy, |s| Some(s.train_accuracy? - s.accuracy?)),
    ("latency p50", Unit::Millis, |s| s.latency.as_ref().map(|d| d.p50_ms)),
    ("latency p95", Unit::Millis, |s| s.latency.as_ref().map(|d| d.p95_ms)),
    ("latency p99", Unit::Millis, |s| s.latency.as_ref().map(|d| d.p99_ms)),
    ("CPU time p50", Unit::Millis, |s| s.latency.as_ref().map(|d| d.cpu_p50_ms)),
    ("energy per frame, p50", Unit::Millijoules, |s| s.energy.map(|e| e.p50_mj)),
    ("peak memory", Unit::Bytes, |s| Some(s.peak_memory_bytes as f64)),
    ("model file", Unit::Bytes, |s| (s.file_bytes > 0).then_some(s.file_bytes as f64)),
    ("parameters", Unit::Count, |s| Some(s.params as f64)),
    ("of those zero", Unit::Count, |s| (s.zeros > 0).then_some(s.zeros as f64)),
    ("MACs", Unit::Count, |s| Some(s.macs as f64)),
];

fn cell(unit: &Unit, baseline: Option<f64>, here: Option<f64>, is_baseline: bool) -> String {
    let Some(value) = here else { return format!("<td>{NOTHING}</td>") };
    let text = match unit {
        Unit::Accuracy => number(value, 4),
        Unit::Millis => millis(value),
        Unit::Millijoules => format!("{} mJ", number(value, 2)),
        Unit::Bytes => mib(value),
        Unit::Count => count(value),
    };
    let difference = match (baseline, unit) {
        (Some(baseline), Unit::Accuracy) if !is_baseline => signed(value - baseline, 4),
        (Some(baseline), _) if !is_baseline => change(baseline, value),
        _ => return format!("<td>{text}</td>"),
    };
    format!("<td>{text}<small>{difference}</small></td>")
}

/// A table with a column per stage; the first is what the others are compared with.
fn table<'a>(columns: &[(String, &Stage)], figures: impl Iterator<Item = &'a (&'a str, Unit, Figure)>) -> String {
    let head: String = columns.iter().map(|(name, _)| format!("<th scope=\"col\">{}</th>", escape(name))).collect();
    // A detector has other figures than a classifier.
    let metric = columns.first().map_or(Metric::Boxes, |(_, stage)| stage.metric);
    let known = |figure: &&'a (&'a str, Unit, Figure)| columns.iter().any(|(_, stage)| figure.2(stage).is_some());
    let rows: String = figures
        .filter(known)
        .map(|(name, unit, figure)| {
            let baseline = columns.first().and_then(|(_, stage)| figure(stage));
            let cells: String =
                columns.iter().enumerate().map(|(i, (_, stage))| cell(unit, baseline, figure(stage), i == 0)).collect();
            format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", of_metric(name, metric))
        })
        .collect();
    format!("<div class=\"scroll\"><table>\n<tr><th></th>{head}</tr>\n{rows}</table></div>\n")
}

/// The name of a row: its mAP is that of what is judged.
fn of_metric(name: &str, metric: Metric) -> String {
    let judged = metric.name().strip_suffix("mAP50-95").unwrap_or_default();
    match name {
        "mAP50-95" | "mAP50" | "mAP50-95, rules of ultralytics" => format!("{judged}{name}"),
        _ => name.to_owned(),
    }
}

fn stages(report: &Report) -> String {
    let columns: Vec<(String, &Stage)> = report.stages().map(|(name, stage)| (name.to_owned(), stage)).collect();
    let runs = report.baseline.latency.as_ref().map_or(String::new(), |d| {
        format!(
            " Latency{}: {} interleaved frames of each network, {} thread{}, {} px; only the baseline model and the one that ships are measured.",
            report.per_batch(),
            d.runs,
            report.threads,
            if report.threads == 1 { "" } else { "s" },
            report.imgsz
        )
    });
    format!(
        "<h2>Stage by stage</h2>\n<p class=\"soft\">Below each figure its difference from the baseline model.{runs}{}</p>\n{}",
        bounds(report),
        table(&columns, FIGURES.iter())
    )
}

/// What the runs can promise about the tail, where they can.
fn bounds(report: &Report) -> String {
    let Some(latency) = &report.last().latency else { return String::new() };
    let bound = |name: &str, value: Option<f64>| value.map(|ms| format!("{name} at most {}", millis(ms)));
    let known: Vec<String> =
        [bound("p50", latency.p50_bound_ms), bound("p95", latency.p95_bound_ms), bound("p99", latency.p99_bound_ms)]
            .into_iter()
            .flatten()
            .collect();
    if known.is_empty() {
        String::new()
    } else {
        format!(" With 95 % confidence the model that ships has {}.", known.join(", "))
    }
}

fn controls(report: &Report) -> String {
    if report.controls.is_empty() {
        return String::new();
    }
    let mut columns: Vec<(String, &Stage)> = vec![("baseline".into(), &report.baseline)];
    columns.extend(report.controls());
    format!(
        "<h2>Controls</h2>\n<p class=\"soft\">The baseline model given the same treatment: what the treatment alone changes.</p>\n{}",
        table(&columns, FIGURES.iter().take(9))
    )
}

/// The accuracy in the runtime that latencies are of, where that is another one.
fn in_runtime(report: &Report) -> String {
    let Some(other) = &report.runtime else { return String::new() };
    let columns = [("baseline".to_owned(), &other.baseline), ("shipped".to_owned(), &other.shipped)];
    format!(
        "<h2>In {}</h2>\n<p class=\"soft\">Accuracy of the outputs that this runtime computes on the device for the \
         validation images. Latency is its own, and the budgets of accuracy are judged by these figures; all others \
         are of the runtime of secateurs.</p>\n{}",
        escape(&other.name),
        table(&columns, FIGURES.iter().take(4))
    )
}

fn list(rows: &[(&str, String)]) -> String {
    let rows: String =
        rows.iter().map(|(name, text)| format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(text))).collect();
    format!("<dl>\n{rows}</dl>\n")
}

fn search(report: &Report) -> String {
    let search = &report.search;
    let mut errors = report.table_errors.clone();
    errors.sort_by(f64::total_cmp);
    let percent = |value: f64| format!("{} %", number(100.0 * value, 2));
    let worst = errors.last().map_or(NOTHING.into(), |e| percent(*e));
    let middle = errors.get(errors.len() / 2).map_or(NOTHING.into(), |e| percent(*e));
    let figure = |value: Option<f64>| value.map_or(NOTHING.into(), |value| number(value, 6));
    let mut rows = Vec::new();
    if let Some(gap) = search.gap {
        rows = vec![
            ("certified gap", format!("{}: {}", percent(gap), Search::COVERS)),
            ("loss of the plan", figure(search.loss)),
            ("lower bound", figure(search.lower_bound)),
            ("predicted latency", search.predicted_ms.map_or(NOTHING.into(), millis)),
            ("rounds", format!("{} of search, surgery and measurement", search.rounds)),
        ];
    }
    rows.extend([
        (
            "latency table",
            format!("{middle} median and {worst} largest error on {} networks it has not seen", errors.len()),
        ),
        ("importance", report.importance.clone()),
    ]);
    format!("<h2>Search</h2>\n{}", list(&rows))
}

fn widths(report: &Report) -> String {
    if report.groups.is_empty() {
        return String::new();
    }
    let bars = report.groups.iter().map(|group| Bars {
        name: group.name.clone(),
        before: group.before as f64,
        after: group.after as f64,
        label: format!("{} \u{2192} {}", group.before, group.after),
    });
    let bars: Vec<Bars> = bars.collect();
    let changed = report.groups.iter().filter(|g| g.before != g.after).count();
    format!(
        "<h2>Widths</h2>\n<p class=\"soft\">Channels per group in the order of the network, and the share that is kept; {changed} of {} groups changed.</p>\n{}{}",
        bars.len(),
        chart::key("before", "after"),
        chart::paired(&bars, Scale::Row)
    )
}

fn layers(report: &Report) -> String {
    if report.layers.is_empty() {
        return String::new();
    }
    let total = |of: fn(&super::LayerTimes) -> f64| report.layers.iter().map(of).sum::<f64>();
    let (before, after) = (total(|l| l.before_ms), total(|l| l.after_ms));
    let segments = |of: fn(&super::LayerTimes) -> f64| -> Vec<(String, f64)> {
        report.layers.iter().map(|l| (format!("{}: {}", l.name, millis(of(l))), of(l))).collect()
    };
    let whole = before.max(after);
    let bars = report.layers.iter().map(|layer| Bars {
        name: layer.name.clone(),
        before: layer.before_ms,
        after: layer.after_ms,
        label: format!("{} \u{2192} {}", number(layer.before_ms, 3), number(layer.after_ms, 3)),
    });
    let bars: Vec<Bars> = bars.collect();
    format!(
        "<h2>Time per layer</h2>\n<p class=\"soft\">Milliseconds as the latency table predicts them, in the order of the network: \
         {} before, {} after.</p>\n{}{}{}{}",
        millis(before),
        millis(after),
        chart::key("before", "after"),
        chart::strip("before", &segments(|l| l.before_ms), whole),
        chart::strip("after", &segments(|l| l.after_ms), whole),
        chart::paired(&bars, Scale::Common)
    )
}

/// The layers that stay out of int8.
fn full_precision(report: &Report) -> String {
    if report.full_precision.is_empty() {
        return String::new();
    }
    let row = |kept: &Kept| {
        let (name, dtype) = (escape(&kept.layer), kept.dtype.name());
        format!("<dt>{name}</dt><dd>{dtype}; int8 alone here: divergence {}</dd>\n", number(kept.divergence, 5))
    };
    let rows: String = report.full_precision.iter().map(row).collect();
    format!(
        "<h2>Layers out of int8</h2>\n<p class=\"soft\">Their quantization would cost more accuracy than is allowed, on \
         training images that were held back.</p>\n<dl>\n{rows}</dl>\n"
    )
}

fn classes(report: &Report) -> String {
    let (first, last) = (&report.baseline, report.last());
    let own = class_bars(last.score_name(), &first.per_class, &last.per_class);
    let boxes = first.boxes.as_ref().zip(last.boxes.as_ref());
    let boxes = boxes.map(|(from, to)| class_bars("box mAP50-95", &from.per_class, &to.per_class)).unwrap_or_default();
    if own.is_empty() {
        return String::new();
    }
    format!("<h2>Class by class</h2>\n{own}{boxes}")
}

/// A figure of every class before and after; nothing where no class has one.
fn class_bars(name: &str, before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> String {
    let both = before.iter().filter_map(|(name, before)| Some((name, *before, *after.get(name)?)));
    let mut found: Vec<(&String, f64, f64)> = both.collect();
    if found.is_empty() {
        return String::new();
    }
    found.sort_by(|a, b| (a.2 - a.1).total_cmp(&(b.2 - b.1)));
    let bars = found.into_iter().map(|(name, before, after)| Bars {
        name: name.clone(),
        before,
        after,
        label: format!("{} \u{2192} {}", number(before, 3), number(after, 3)),
    });
    let bars: Vec<Bars> = bars.collect();
    format!(
        "<p class=\"soft\">{name} of every class that the validation images show; the largest loss first.</p>\n{}{}",
        chart::key("baseline", "shipped"),
        chart::paired(&bars, Scale::Common)
    )
}

/// Height and width, and how many images, for people.
fn input(report: &Report) -> String {
    let ImageSize { height, width } = report.imgsz;
    let names = if height == width { "" } else { " (height \u{d7} width)" };
    let batch = if report.batch > 1 { format!(", batches of {}", report.batch) } else { String::new() };
    format!("{height} \u{d7} {width}{names}{batch}")
}

fn provenance(report: &Report) -> String {
    let head = report.head.map(|head| {
        let removed = head.removed.map_or(String::new(), |removed| format!("; without the other branch {removed}"));
        ("head", format!("{}{removed}", head.branch.name()))
    });
    let mut rows = vec![
        ("secateurs", report.version.clone()),
        ("target", report.target.clone()),
        ("device", report.device.clone()),
        ("model", report.model.clone()),
        ("data", report.data.clone()),
        ("image size", input(report)),
        ("threads", report.threads.to_string()),
        ("seed", report.seed.to_string()),
    ];
    rows.extend(head);
    let mut seconds: Vec<(&str, String)> =
        report.seconds.iter().map(|(stage, s)| (stage.as_str(), format!("{} s", number(*s, 1)))).collect();
    if !seconds.is_empty() {
        seconds.push(("together", format!("{} s", number(report.seconds.values().sum(), 1))));
    }
    let took = if seconds.is_empty() { String::new() } else { format!("<h2>What it took</h2>\n{}", list(&seconds)) };
    format!("<h2>Provenance</h2>\n{}{took}", list(&rows))
}
