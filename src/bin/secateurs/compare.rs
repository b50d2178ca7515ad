//! `secateurs compare`: several ways to prune one model, side by side.

use super::cache::Cache;
use super::failure::Failure;
use super::prune;
use super::terminal::{Terminal, TerminalArgs};
use secateurs::graph::Dtype;
use secateurs::pipeline::{self, Event, Job, Scheme};
use secateurs::profile::{Overrides, Profile, Ratio};
use secateurs::repair::Method;
use secateurs::report::comparison::Comparison;
use secateurs::{files, report};
use std::cell::RefCell;
use std::fmt::Write;
use std::path::PathBuf;

/// What to compare.
#[derive(clap::Args)]
pub struct Args {
    /// Model file [default: the embedded demo]
    #[arg(long, value_name = "FILE", requires = "data")]
    model: Option<PathBuf>,
    /// The dataset's YAML file
    #[arg(long, value_name = "YAML")]
    data: Option<PathBuf>,
    /// Side of the square input image, pixels
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    imgsz: Option<u16>,
    /// Latency budgets as shares of the baseline model's latency
    #[arg(long, value_name = "R,...", value_delimiter = ',', default_value = "0.8", value_parser = Ratio::parse_above_zero,
        allow_negative_numbers = true)]
    latency_ratio: Vec<Ratio>,
    /// Ways to choose: a criterion by itself searches the widths, with `-global` or `-uniform` behind it the widths follow a
    /// threshold or one share. The first is what the others are compared with; `uniform` always takes part
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = scheme,
        default_value = "reconstruction,l1-global,taylor-global")]
    importance: Vec<Scheme>,
    /// Repairs: none; merge, without images; bn, statistics; lsq, least squares
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = method, default_value = "none,bn,lsq")]
    repair: Vec<Method>,
    /// Threads of the network
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Folder of compare.html and compare.json
    #[arg(long, value_name = "DIR", default_value = "dist/compare")]
    out: PathBuf,
    /// Folder where measurements are kept for the next run [default: .cache in the folder of the results]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    pub terminal: TerminalArgs,
}

fn scheme(name: &str) -> Result<Scheme, String> {
    Scheme::from_name(name).ok_or_else(|| {
        let names = secateurs::profile::IMPORTANCE.join(", ");
        format!("expected uniform or one of {names}, alone or with -global or -uniform behind it")
    })
}

fn method(name: &str) -> Result<Method, String> {
    Method::from_name(name).ok_or_else(|| "expected none, merge, bn or lsq".into())
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    let overrides = Overrides {
        model: args.model,
        data: args.data,
        imgsz: args.imgsz.map(usize::from),
        threads: Some(usize::from(args.threads)),
        seed: Some(args.seed),
        ..Overrides::default()
    };
    let profile = overrides.apply(Profile::default());
    let mut terminal = Terminal::new(args.terminal);
    files::check_folder(&args.out).map_err(|e| Failure::writing(&args.out, &e))?;
    let cache = Cache::open(&args.cache.unwrap_or_else(|| args.out.join(".cache")), &mut terminal)?;
    // Ways to prune are compared in f32.
    let job = Job { dtype: Dtype::F32, ..prune::job(&profile, &args.out, &cache.folder) };
    let mut schemes = args.importance;
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
    let baseline = &found.baseline;
    let mut text = format!(
        "{:<24}{:<7}{:>7}{:>10}{:>12}{:>10}  {:<16}  {}\n{:<24}{:<7}{:>7}{:>10}{:>12}{:>10.4}  {:.3} to {:.3}\n",
        "importance",
        "repair",
        "asked",
        "measured",
        "parameters",
        "mAP50-95",
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
            "{:<24}{:<7}{:>6.2}x{:>9.3}x{:>12}{:>10.4}  {:.3} to {:.3}    {behind}",
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
