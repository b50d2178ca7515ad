//! `secateurs eval`: mean average precision of boxes, masks, keypoints or rotated boxes, accuracy of a classifier.

use super::failure::Failure;
use super::input::{ModelArgs, figure, figures, task_figures, warn};
use super::terminal;
use super::together::together;
use crate::data::{Dataset, LabelTask, OpenOptions, names_differ};
use crate::eval::{self, Accuracy, EvalResult, Figures, Score, TaskResult};
use crate::output;
use crate::ranks::Ranks;
use crate::size::ImageSize;
use crate::train::transfer_command;
use indicatif::ProgressBar;
use std::fmt::Write;
use std::path::PathBuf;

/// The model, and the images to evaluate it on.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// YAML file of the dataset, in the format of ultralytics; for classifiers also a folder of MNIST's files,
    /// or one with a folder of pictures per class
    #[arg(long, value_name = "YAML")]
    data: PathBuf,
    /// Split of the dataset: train, val (also valid and validation) or test
    #[arg(long, value_name = "NAME", default_value = "val")]
    split: String,
    /// COCO annotations of the split [default: annotations/instances_<split>.json of the dataset, else its label files]
    #[arg(long, value_name = "FILE")]
    annotations: Option<PathBuf>,
    /// Leave out images that cannot be read and report how many, instead of ending at the first
    #[arg(long)]
    skip_bad_images: bool,
    /// Images evaluated at a time; 0 takes one per CPU. Results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it, on all ranks that were started.
pub fn run(args: &Args) -> Result<(), Failure> {
    together(false, None, |ranks| run_on(ranks, args))
}

fn run_on(ranks: &Ranks, args: &Args) -> Result<(), Failure> {
    let model = args.model.deployed()?;
    let size = args.model.imgsz(&model)?;
    let task = LabelTask::named(model.graph.head.task());
    if let Some(annotations) = args.annotations.as_ref().filter(|_| task != LabelTask::Detect) {
        let (annotations, task) = (annotations.display(), task.name());
        return Err(Failure::Input(format!("{annotations}: for the task `{task}` label files are the truth")));
    }
    let options = OpenOptions { annotations: args.annotations.clone(), task, ..OpenOptions::default() };
    let mut dataset = Dataset::open_with(&args.data, &args.split, &options).map_err(Failure::input)?;
    if dataset.names.len() != model.graph.classes() {
        return Err(Failure::Input(format!(
            "{} names {} classes, {} knows {}; both must agree: to train the model for this data, which keeps all but its \
             class branch:\n  {}",
            args.data.display(),
            dataset.names.len(),
            args.model.model.display(),
            model.graph.classes(),
            transfer_command(&args.model.model, &args.data)
        )));
    }
    if args.skip_bad_images {
        dataset.skip_unreadable().map_err(Failure::input)?;
    }
    if ranks.is_first() {
        warn(names_differ(&model.info.names, &dataset.names).iter().chain(&dataset.notes));
    }
    let threads = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads.into(),
    };
    let bar = if ranks.is_first() { terminal::bar("Evaluating") } else { ProgressBar::hidden() };
    bar.set_length(dataset.items.len().div_ceil(ranks.size()) as u64);
    let progress = |more: usize| bar.inc(more as u64);
    let validator = eval::Validator::shared(&model.graph.head, &dataset, size, ranks).map_err(Failure::input)?;
    let found = validator.find(&model, threads, &progress).and_then(|found| validator.score(&found));
    bar.finish_and_clear();
    let found = found.map_err(Failure::input)?;
    if !ranks.is_first() {
        return Ok(());
    }
    match found {
        Score::Boxes(result) => show_boxes(&result, size, args.json),
        Score::Shapes(result) => show_task(&result, size, args.json),
        Score::Classes(result) => show(&result, size, args.json),
    }
}

/// Prints the figures of a detector.
fn show_boxes(result: &EvalResult, size: ImageSize, json: bool) -> Result<(), Failure> {
    if json {
        return Ok(output::print_json(&figures(result)?)?);
    }
    let mut out = String::new();
    let _ = writeln!(out, "{} images at {size} px", result.images);
    if result.map50_95 < 0.0 {
        let _ = writeln!(out, "  mAP       {}", figure(result.map50_95));
        output::print(&out);
        return Ok(());
    }
    let _ =
        writeln!(out, "  mAP50-95  {:.4}  (rules of ultralytics: {:.4})", result.map50_95, result.map50_95_ultralytics);
    let _ = writeln!(out, "  mAP50     {:.4}", result.map50);
    for class in &result.per_class {
        let _ = writeln!(out, "    {:<20} {:.4}", output::line(&class.name), class.map50_95);
    }
    output::print(&out);
    Ok(())
}

/// Prints the figures of a model with masks, keypoints or rotated boxes.
fn show_task(result: &TaskResult, size: ImageSize, json: bool) -> Result<(), Failure> {
    if json {
        return Ok(output::print_json(&task_figures(result)?)?);
    }
    let mut out = String::new();
    let _ = writeln!(out, "{} images at {size} px", result.images);
    let rows: [(&str, Option<Figures>); 2] = [("boxes", result.boxes), (result.metric().judged(), Some(result.shapes))];
    for (of, row) in rows.into_iter().filter_map(|(of, row)| Some((of, row?))) {
        let (all, half) = (figure(row.map50_95), figure(row.map50));
        let _ = write!(out, "  {of:<14} mAP50-95 {all}, mAP50 {half}");
        let _ =
            writeln!(out, "  (rules of ultralytics: {:.4}, {:.4})", row.map50_95_ultralytics, row.map50_ultralytics);
    }
    for class in &result.per_class {
        let boxes = class.boxes.map_or(String::new(), |ap| format!("  (boxes {})", figure(ap)));
        let _ = writeln!(out, "    {:<20} {}{boxes}", output::line(&class.name), figure(class.shapes));
    }
    output::print(&out);
    Ok(())
}

/// Prints the figures of a classifier.
fn show(result: &Accuracy, size: ImageSize, json: bool) -> Result<(), Failure> {
    if json {
        return Ok(output::print_json(result)?);
    }
    let mut out = String::new();
    let _ = writeln!(out, "{} images at {size} px", result.images);
    let _ = writeln!(out, "  accuracy  {:.4}  (among the first five: {:.4})", result.accuracy, result.top5);
    let _ = writeln!(out, "  loss      {:.4}", result.loss);
    for (name, accuracy) in &result.per_class {
        let _ = writeln!(out, "    {:<20} {accuracy:.4}", output::line(name));
    }
    output::print(&out);
    Ok(())
}
