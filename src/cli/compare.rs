//! `secateurs compare`: several ways to prune one model, side by side.

use super::cache::Cache;
use super::device::DeviceArgs;
use super::failure::Failure;
use super::prune;
use super::terminal::{Terminal, TerminalArgs};
use super::together::together;
use crate::graph::Dtype;
use crate::pipeline::{self, Event, Job, Scheme};
use crate::profile::{ModelFlags, Overrides, Profile, Ratio, RunFlags, heading};
use crate::ranks::Ranks;
use crate::repair::Method;
use crate::report::comparison::Comparison;
use crate::{files, report};
use std::cell::RefCell;
use std::fmt::Write;
use std::path::PathBuf;

/// What to compare.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Maximum time per frame as a share of the baseline model's; each share is compared
    #[arg(long, value_name = "R,...", value_delimiter = ',', default_value = "0.8",
        value_parser = Ratio::parse_above_zero,
        allow_negative_numbers = true, help_heading = heading::BUDGETS)]
    latency_ratio: Vec<Ratio>,
    /// Importance criteria. A criterion by itself searches the widths; with `-global` behind it the widths follow one
    /// threshold, with `-uniform` one share. The others are compared with the first; `uniform` always takes part
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = scheme,
        default_value = "reconstruction,l1-global,taylor-global", help_heading = heading::SEARCH)]
    importance: Vec<Scheme>,
    /// Repairs: none; merge, without images; bn, statistics of the normalisations; lsq, least squares
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = method, default_value = "none,bn,lsq",
        help_heading = heading::SEARCH)]
    repair: Vec<Method>,
    #[command(flatten)]
    run: RunFlags,
    #[command(flatten, next_help_heading = heading::SEARCH)]
    device: DeviceArgs,
    /// Folder of compare.html and compare.json
    #[arg(long, value_name = "DIR", default_value = "dist/compare", help_heading = heading::OUTPUT)]
    out: PathBuf,
    /// Folder that keeps measurements for the next run [default: .cache in the folder of the results]
    #[arg(long, value_name = "DIR", help_heading = heading::OUTPUT)]
    cache: Option<PathBuf>,
    #[command(flatten, next_help_heading = heading::OUTPUT)]
    pub terminal: TerminalArgs,
}

fn scheme(name: &str) -> Result<Scheme, String> {
    Scheme::from_name(name).ok_or_else(|| {
        let names = crate::profile::IMPORTANCE.join(", ");
        format!("expected uniform or one of {names}, alone or with -global or -uniform behind it")
    })
}

fn method(name: &str) -> Result<Method, String> {
    Method::from_name(name).ok_or_else(|| "expected none, merge, bn or lsq".into())
}

/// Runs it, on all ranks that were started.
pub fn run(args: &Args) -> Result<(), Failure> {
    together(args.terminal.is_json(), |ranks| run_on(ranks, args))
}

fn run_on(ranks: &Ranks, args: &Args) -> Result<(), Failure> {
    let overrides = Overrides { model: args.model.clone(), run: args.run.clone(), ..Overrides::default() };
    let profile = overrides.apply(Profile::default());
    prune::refuse_model_without_data(&profile)?;
    let mut terminal = Terminal::of_rank(args.terminal, ranks);
    let opened = args.device.open_first(&mut terminal)?;
    if ranks.is_first() {
        files::check_folder(&args.out).map_err(|e| Failure::writing(&args.out, &e))?;
    }
    let cache = Cache::shared(&args.cache.clone().unwrap_or_else(|| args.out.join(".cache")), ranks, &mut terminal)?;
    // Ways to prune are compared in f32.
    let (device, ranks_of_job) = (opened.device, ranks.clone());
    let job = prune::job(&profile, &args.out, &cache.folder);
    let job = Job { dtype: Dtype::F32, device, ranks: ranks_of_job, ..job };
    let mut schemes = args.importance.clone();
    if !schemes.contains(&Scheme::UNIFORM) {
        schemes.push(Scheme::UNIFORM);
    }
    let ratios: Vec<f64> = args.latency_ratio.iter().map(|r| r.get()).collect();
    let progress = RefCell::new(|event: Event| match event {
        Event::Stage(verb, what) => terminal.stage(verb, &what),
        Event::Progress(done, all) => terminal.progress(done, all),
        Event::Message(text) => terminal.note(&text),
    });
    let found = pipeline::compare(&job, &schemes, &ratios, &args.repair, &progress)?;
    if !ranks.is_first() {
        return Ok(());
    }
    let page = report::render_comparison(&found);
    for (name, bytes) in [("compare.json", serde_json::to_vec_pretty(&found)?), ("compare.html", page.into_bytes())] {
        let path = args.out.join(name);
        files::write_atomic(&path, &bytes).map_err(|e| Failure::writing(&path, &e))?;
    }
    terminal.stage("Writing", &args.out.display().to_string());
    let value = serde_json::json!({ "reason": "compared", "out": args.out.to_string_lossy(), "comparison": found });
    terminal.result(&table(&found), value);
    Ok(())
}

fn table(found: &Comparison) -> String {
    let (baseline, width) = (&found.baseline, found.metric.len() + 2);
    let mut text = format!(
        "{:<24}{:<7}{:>7}{:>10}{:>12}{:>width$}  {:<16}  {}\n{:<24}{:<7}{:>7}{:>10}{:>12}{:>width$.4}  {:.3} to {:.3}\n",
        "importance",
        "repair",
        "asked",
        "measured",
        "parameters",
        found.metric,
        "95 % interval",
        "first less this",
        "baseline",
        "",
        "",
        "1.000x",
        "",
        baseline.map50_95,
        baseline.low,
        baseline.high
    );
    for row in &found.rows {
        let behind = row.behind.map_or(String::new(), |b| format!("{:+.4} \u{b1} {:.4}", b.difference, b.deviation));
        let _ = writeln!(
            text,
            "{:<24}{:<7}{:>6.2}x{:>9.3}x{:>12}{:>width$.4}  {:.3} to {:.3}    {behind}",
            row.scheme,
            row.repair,
            row.asked_ratio,
            row.latency_ratio,
            row.params,
            row.score.map50_95,
            row.score.low,
            row.score.high
        );
    }
    text
}
