//! Charts as inline SVG with widths in per cent: they scale with the page while their text does not.

use super::text::{escape, number};

/// A pair of bars with its name and what stands beside them.
pub struct Bars {
    /// The name, not yet escaped.
    pub name: String,
    /// Length before.
    pub before: f64,
    /// Length after.
    pub after: f64,
    /// The figures as text, not yet escaped.
    pub label: String,
}

/// The meaning of the two colours.
pub fn key(before: &str, after: &str) -> String {
    format!(
        "<p class=\"key\"><span><i class=\"before\"></i>{}</span><span><i class=\"after\"></i>{}</span></p>",
        escape(before),
        escape(after)
    )
}

/// What the full length of a bar stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// The longest bar of all rows.
    Common,
    /// The longer bar of the row: for rows that only compare with themselves.
    Row,
}

/// Paired bars.
pub fn paired(rows: &[Bars], scale: Scale) -> String {
    let longest = rows.iter().flat_map(|row| [row.before, row.after]).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let items: String = rows
        .iter()
        .map(|row| {
            let name = escape(&row.name);
            let whole = if scale == Scale::Row { row.before.max(row.after) } else { longest };
            format!(
                "<li><span title=\"{name}\">{name}</span><svg height=\"13\" aria-hidden=\"true\">\
                 <rect class=\"before\" width=\"{}\" height=\"5\" y=\"1\"/>\
                 <rect class=\"after\" width=\"{}\" height=\"5\" y=\"7\"/></svg><span>{}</span></li>\n",
                share(row.before, whole),
                share(row.after, whole),
                escape(&row.label)
            )
        })
        .collect();
    format!("<ol class=\"bars\">\n{items}</ol>\n")
}

/// One bar whose segments follow each other; `whole` is the length of the full width.
pub fn strip(class: &str, segments: &[(String, f64)], whole: f64) -> String {
    let mut at = 0.0;
    let rects: String = segments
        .iter()
        .filter(|(_, length)| length.is_finite() && *length > 0.0)
        .map(|(title, length)| {
            let rect = format!(
                "<rect class=\"{class}\" x=\"{}\" width=\"{}\" height=\"22\"><title>{}</title></rect>",
                share(at, whole),
                share(*length, whole),
                escape(title)
            );
            at += length;
            rect
        })
        .collect();
    format!("<svg class=\"strip\" height=\"22\" role=\"img\">{rects}</svg>\n")
}

fn share(length: f64, whole: f64) -> String {
    let share = 100.0 * length / whole;
    if share.is_finite() && share > 0.0 { format!("{}%", number(share, 2)) } else { "0".into() }
}
