//! The page that compares the bundles of several targets.

use super::STYLE;
use super::text::{NOTHING, count, escape, mib, millis, number};
use crate::report::{Report, Stage};

/// One target of a run for several.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// How its run ended: 0, or the exit code.
    pub code: u8,
    /// Its bundle's folder, as a link from the page: relative, with `/`.
    pub link: String,
    /// What is in the bundle; none where no run has left one.
    pub report: Option<Report>,
}

/// The page.
pub fn render(targets: &[Target]) -> String {
    let title = match targets.iter().filter(|target| target.code != 0).count() {
        0 => format!("{} targets: every one is done", targets.len()),
        failed => format!("{} targets: {failed} failed", targets.len()),
    };
    let names = ["target", "latency", "p50", "peak memory", "score", "parameters", "MACs", "verdict"];
    let head: String = names.iter().map(|name| format!("<th>{name}</th>")).collect();
    let rows: String = targets.iter().map(row).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n\
         <p class=\"soft\">Each model before and after; latency is that of the pruned model as a share of the baseline's, measured \
         interleaved on the target's own device.</p>\n\
         <div class=\"scroll\"><table>\n<tr>{head}</tr>\n{rows}</table></div>\n\
         <footer>Written by secateurs {}.</footer>\n</main>\n</body>\n</html>\n",
        escape(env!("CARGO_PKG_VERSION")),
    )
}

fn row(target: &Target) -> String {
    let name = escape(&target.name);
    let Some(report) = &target.report else {
        let end = format!("<td>no bundle (exit code {})</td>", target.code);
        return format!("<tr><th>{name}</th>{}{end}</tr>\n", format!("<td>{NOTHING}</td>").repeat(6));
    };
    let (from, to) = (&report.baseline, report.last());
    let pair = |figure: &dyn Fn(&Stage) -> String| format!("<td>{} \u{2192} {}</td>", figure(from), figure(to));
    let ratio = match report.verdict.latency_ratio {
        ratio if ratio > 0.0 => format!("{}\u{d7}", number(ratio, 3)),
        _ => NOTHING.into(),
    };
    let verdict = match target.code {
        0 => escape(&super::headline(report)),
        // Those figures are of the run before, or of one that missed a budget.
        code => format!("exit code {code}; the bundle: {}", escape(&super::headline(report))),
    };
    [
        format!(
            "<tr><th><a href=\"{}\">{name}</a></th><td>{ratio}</td>",
            escape(&format!("{}/report.html", target.link))
        ),
        pair(&|stage| stage.latency.as_ref().map_or(NOTHING.into(), |latency| millis(latency.p50_ms))),
        pair(&|stage| mib(stage.peak_memory_bytes as f64)),
        pair(&|stage| format!("{} {}", escape(stage.score_name()), number(stage.score(), 3))),
        pair(&|stage| count(stage.params as f64)),
        pair(&|stage| count(stage.macs as f64)),
        format!("<td>{verdict}</td></tr>\n"),
    ]
    .concat()
}
