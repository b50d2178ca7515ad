//! The page of a comparison: a plot of accuracy over latency, and a table.

use super::super::comparison::{Comparison, Row};
use super::STYLE;
use super::text::{count, escape, millis, number, signed};
use std::fmt::Write;

/// Size of the plot and its margins, in units of the drawing.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 52.0;

/// Colours of the schemes, in their order; further ones start over.
const COLOURS: [&str; 8] = ["#1a7f5a", "#c2571a", "#3b62c4", "#a3368f", "#8a7a00", "#5b5b5b", "#0f8ea3", "#b3263a"];

/// The page.
pub fn render(comparison: &Comparison) -> String {
    let title = format!("{} ways to prune {}", schemes(comparison).len(), comparison.model);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n\
         <p class=\"soft\">{} validation images of {}, {}. Whiskers are the middle 95 % of {} resamples of the images; latency is \
         measured interleaved with the baseline model.</p>\n{}{}<footer>Written by secateurs {}.</footer>\n</main>\n</body>\n</html>\n",
        comparison.images,
        escape(&comparison.data),
        escape(&comparison.device),
        comparison.resamples,
        plot(comparison),
        table(comparison),
        escape(&comparison.version),
        title = escape(&title),
    )
}

fn schemes(comparison: &Comparison) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for row in &comparison.rows {
        if !names.contains(&row.scheme.as_str()) {
            names.push(&row.scheme);
        }
    }
    names
}

/// mAP over latency: a colour per scheme, a shape per repair.
fn plot(comparison: &Comparison) -> String {
    let finite = |v: f64| if v.is_finite() { v } else { 0.0 };
    let ratios = comparison.rows.iter().map(|row| finite(row.latency_ratio));
    let left = ratios.clone().fold(1.0, f64::min) - 0.02;
    let right = ratios.fold(1.0, f64::max) + 0.02;
    let top = comparison.rows.iter().map(|row| finite(row.score.high)).fold(finite(comparison.baseline.high), f64::max)
        * 1.05;
    let top = top.max(1e-3);
    let x = |ratio: f64| MARGIN + (finite(ratio) - left) / (right - left) * (WIDTH - 2.0 * MARGIN);
    let y = |map: f64| HEIGHT - MARGIN - finite(map) / top * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} over latency\" \
         style=\"width:100%;height:auto;font:12px sans-serif\">\n",
        escape(&comparison.metric)
    );
    let mut put = |text: String| svg.push_str(&text);
    for step in 0..=4 {
        let (map, ratio) = (top * f64::from(step) / 4.0, left + (right - left) * f64::from(step) / 4.0);
        put(format!(
            "<line x1=\"{MARGIN}\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"currentColor\" opacity=\"0.15\"/>\
             <text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\" fill=\"currentColor\">{4}</text>\
             <text x=\"{5:.1}\" y=\"{6:.1}\" text-anchor=\"middle\" fill=\"currentColor\">{7}\u{d7}</text>\n",
            WIDTH - MARGIN,
            y(map),
            MARGIN - 6.0,
            y(map) + 4.0,
            number(map, 3),
            x(ratio),
            HEIGHT - MARGIN + 18.0,
            number(ratio, 2)
        ));
    }
    put(format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"currentColor\">latency of the baseline model</text>\n",
        WIDTH / 2.0,
        HEIGHT - 12.0
    ));
    let names = schemes(comparison);
    let colour = |name: &str| COLOURS[names.iter().position(|n| *n == name).unwrap_or(0) % COLOURS.len()];
    put(mark((x(1.0), y(comparison.baseline.map50_95)), "lsq", "currentColor", "baseline"));
    for row in &comparison.rows {
        let at = (x(row.latency_ratio), y(row.score.map50_95));
        let paint = colour(&row.scheme);
        put(format!(
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1:.1}\" y2=\"{2:.1}\" stroke=\"{paint}\" opacity=\"0.5\"/>\n",
            at.0,
            y(row.score.low),
            y(row.score.high)
        ));
        put(mark(at, &row.repair, paint, &format!("{}, {}", row.scheme, row.repair)));
    }
    svg.push_str("</svg>\n");
    let legend = names.iter().fold(String::new(), |mut all, name| {
        let _ = write!(all, "<span style=\"color:{}\">\u{25cf} {}</span> ", colour(name), escape(name));
        all
    });
    format!("{svg}<p class=\"soft\">{legend} \u{2013} repair: \u{25cf} lsq, \u{25a0} bn, \u{25c6} none</p>\n")
}

/// A mark with a title: a disc after least squares, a square after batch-norm, a diamond without repair.
fn mark((x, y): (f64, f64), repair: &str, colour: &str, title: &str) -> String {
    let title = escape(title);
    let shape = match repair {
        "lsq" => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\">"),
        "bn" => format!("<rect x=\"{:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\" fill=\"{colour}\">", x - 4.5, y - 4.5),
        _ => format!("<path d=\"M{x:.1} {:.1}l6 6l-6 6l-6 -6z\" fill=\"{colour}\">", y - 6.0),
    };
    let end = match repair {
        "lsq" => "circle",
        "bn" => "rect",
        _ => "path",
    };
    format!("{shape}<title>{title}</title></{end}>\n")
}

fn table(comparison: &Comparison) -> String {
    let row = |row: &Row| {
        let behind = row
            .behind
            .map_or(String::new(), |b| format!("{} \u{b1} {}", signed(-b.difference, 4), number(b.deviation, 4)));
        format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}\u{d7}</td><td>{}\u{d7}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}<small>{} to {}</small></td><td>{behind}</td></tr>\n",
            escape(&row.scheme),
            escape(&row.repair),
            number(row.asked_ratio, 2),
            number(row.latency_ratio, 3),
            millis(row.p50_ms),
            count(row.params as f64),
            count(row.macs as f64),
            number(row.score.map50_95, 4),
            number(row.score.low, 3),
            number(row.score.high, 3),
        )
    };
    let rows: String = comparison.rows.iter().map(row).collect();
    format!(
        "<div class=\"scroll\"><table>\n<tr><th></th><th>repair</th><th>asked</th><th>measured</th><th>p50</th>\
         <th>parameters</th><th>MACs</th><th>{}</th><th>against the first \u{b1} paired deviation</th></tr>\n{rows}</table></div>\n\
         <p class=\"soft\">The baseline model has {}, {} to {}.</p>\n",
        escape(&comparison.metric),
        number(comparison.baseline.map50_95, 4),
        number(comparison.baseline.low, 3),
        number(comparison.baseline.high, 3)
    )
}
