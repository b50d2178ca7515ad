//! Pictures of the report: loss over latency, memory over the layers, photos with detections.

use super::super::{MemoryStep, Report};
use super::chart::key;
use super::text::{escape, mib, number};
use std::fmt::Write;

/// Size of a drawing, in its own units.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 220.0;
const MARGIN: f64 = 56.0;

/// A drawing with a frame of two values on the left and one text per side below.
fn drawing(label: &str, top: &str, [left, right]: [&str; 2], inside: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\" style=\"height:auto;font:12px sans-serif\">\n\
         <path d=\"M{MARGIN} 16V{bottom}H{end}\" fill=\"none\" stroke=\"currentColor\" opacity=\"0.4\"/>\
         <g fill=\"currentColor\"><text x=\"{beside}\" y=\"22\" text-anchor=\"end\">{}</text>\
         <text x=\"{beside}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\
         <text x=\"{MARGIN}\" y=\"{below}\">{}</text><text x=\"{end}\" y=\"{below}\" text-anchor=\"end\">{}</text></g>\n{inside}</svg>\n",
        escape(label),
        escape(top),
        escape(left),
        escape(right),
        bottom = HEIGHT - 30.0,
        end = WIDTH - 16.0,
        beside = MARGIN - 6.0,
        below = HEIGHT - 12.0,
    )
}

/// A share of the drawing's width and height as its coordinates; shares outside 0 to 1, and what is no number, are
/// moved to the nearest side.
fn at(x: f64, y: f64) -> (f64, f64) {
    let share = |v: f64| if v.is_finite() { v.clamp(0.0, 1.0) } else { 0.0 };
    (MARGIN + share(x) * (WIDTH - 16.0 - MARGIN), HEIGHT - 30.0 - share(y) * (HEIGHT - 46.0))
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    points.enumerate().fold(String::new(), |mut path, (i, (x, y))| {
        let _ = write!(path, "{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" });
        path
    })
}

/// What can be had at other latencies.
pub fn front(report: &Report) -> String {
    let points = &report.front;
    if points.len() < 2 {
        return String::new();
    }
    let finite = |v: f64| if v.is_finite() { v } else { 0.0 };
    let (least, most) =
        points.iter().map(|p| finite(p.latency_ratio)).fold((1.0, 0.0), |(a, b), r| (f64::min(a, r), f64::max(b, r)));
    let top = points.iter().map(|p| finite(p.loss)).fold(1e-12, f64::max);
    let place = |ratio: f64, loss: f64| at((ratio - least) / (most - least).max(1e-12), loss / top);
    let line = path(points.iter().map(|p| place(p.latency_ratio, p.loss)));
    let mut inside = format!("<path d=\"{line}\" fill=\"none\" stroke=\"var(--after)\" stroke-width=\"2\"/>\n");
    for point in points {
        let (x, y) = place(point.latency_ratio, point.loss);
        let _ = writeln!(
            inside,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" class=\"after\"><title>{}\u{d7}: loss {}, at least {}</title></circle>",
            number(point.latency_ratio, 3),
            number(point.loss, 4),
            number(point.lower_bound, 4)
        );
    }
    if let Some(loss) = report.search.loss {
        let (x, y) = place(report.verdict.latency_ratio, loss);
        let _ = writeln!(
            inside,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"2\"><title>the plan that was taken, where it was measured</title></circle>"
        );
    }
    format!(
        "<h2>What other latencies would cost</h2>\n<p class=\"soft\">The least loss over predicted latency, as a share of the baseline model\u{2019}s. \
         The ring is the plan that was taken, at its measured latency.</p>\n{}",
        drawing(
            "loss over latency",
            &number(top, 3),
            [&format!("{}\u{d7}", number(least, 2)), &format!("{}\u{d7} latency", number(most, 2))],
            &inside
        )
    )
}

/// Live activations over the layers.
pub fn memory(report: &Report) -> String {
    let steps = &report.memory;
    let peak = |of: fn(&MemoryStep) -> f64| {
        // The first of equal ones.
        steps.iter().rev().filter(|s| of(s).is_finite()).max_by(|a, b| of(a).total_cmp(&of(b))).map(|s| (s, of(s)))
    };
    let (Some(before), Some(after)) = (peak(|s| s.before_bytes), peak(|s| s.after_bytes)) else {
        return String::new();
    };
    let top = before.1.max(after.1).max(1.0);
    let count = steps.len().max(2) as f64;
    let stairs = |of: fn(&MemoryStep) -> f64| {
        let corners = steps.iter().enumerate().flat_map(|(i, step)| {
            let height = of(step) / top;
            [at(i as f64 / count, height), at((i + 1) as f64 / count, height)]
        });
        path(corners)
    };
    let ground = |line: String| {
        let ((end, bottom), (start, _)) = (at(steps.len() as f64 / count, 0.0), at(0.0, 0.0));
        format!("{line}L{end:.1} {bottom:.1}L{start:.1} {bottom:.1}Z")
    };
    let inside = format!(
        "<path d=\"{}\" class=\"before\"/>\n<path d=\"{}\" class=\"after\" opacity=\"0.85\"/>\n",
        ground(stairs(|s| s.before_bytes)),
        ground(stairs(|s| s.after_bytes))
    );
    format!(
        "<h2>Memory over the layers</h2>\n<p class=\"soft\">Activations that live while each layer runs, in the order of the network; weights and \
         working space come on top. The peak is at <b>{}</b> before ({}) and at <b>{}</b> after ({}).</p>\n{}{}",
        escape(&before.0.name),
        mib(before.1),
        escape(&after.0.name),
        mib(after.1),
        key("before", "after"),
        drawing("live activations over the layers", &mib(top), ["first layer", "last layer"], &inside)
    )
}

/// Photos side by side.
pub fn photos(report: &Report) -> String {
    if report.photos.is_empty() {
        return String::new();
    }
    let image = |data: &str, what: &str, name: &str, found: usize| {
        // Base64 has no characters that HTML would read; anything else is refused.
        let clean = data.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
        let data = if clean { data } else { "" };
        format!(
            "<figure><img alt=\"{what}: {found} objects in {name}\" src=\"data:image/jpeg;base64,{data}\">\
             <figcaption class=\"soft\">{what}: {found} objects</figcaption></figure>"
        )
    };
    let rows: String = report
        .photos
        .iter()
        .map(|photo| {
            let name = escape(&photo.name);
            format!(
                "<div class=\"photos\" title=\"{name}\">{}{}</div>\n",
                image(&photo.before, "baseline", &name, photo.found_before),
                image(&photo.after, "shipped", &name, photo.found_after)
            )
        })
        .collect();
    format!(
        "<h2>Where the models disagree most</h2>\n<p class=\"soft\">Validation images with the most confident detections that only one of the \
         two models has.</p>\n{rows}"
    )
}
