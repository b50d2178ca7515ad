//! The section about fine-tuning.

use super::text::{escape, number};
use crate::report::Report;

/// What ships and why, and the epochs.
pub fn training(report: &Report) -> String {
    let Some(training) = &report.training else { return String::new() };
    let row = |(at, epoch): (usize, &crate::report::Epoch)| {
        let ships = if training.epoch == Some(at + 1) { ", ships" } else { "" };
        let held = epoch.held_back.map_or(String::new(), |figure| number(figure, 4));
        let (number, loss) = (at + 1, number(epoch.loss, 4));
        format!("<tr><td>{number}{ships}</td><td>{loss}</td><td>{held}</td><td>{:.1e}</td></tr>\n", epoch.lr)
    };
    let rows: String = training.epochs.iter().enumerate().map(row).collect();
    let metric = if training.metric.is_empty() { "held-back images" } else { &training.metric };
    let table = format!(
        "<table>\n<tr><th>epoch</th><th>loss</th><th>{}, held back</th><th>learning rate</th></tr>\n{rows}</table>\n",
        escape(metric)
    );
    let table = if rows.is_empty() { String::new() } else { table };
    format!("<section>\n<h2>Fine-tuning</h2>\n<p>{}</p>\n{table}</section>\n", escape(&training.sentence()))
}
