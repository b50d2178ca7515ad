//! `secateurs eval`: mean average precision of boxes, masks, keypoints or rotated boxes, accuracy of a classifier.

use super::device::DeviceArgs;
use super::failure::Failure;
use super::input::{ModelArgs, figure, figures, task_figures, using, warn};
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
    #[command(flatten)]
    device: DeviceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it, on all ranks that were started.
pub fn run(args: &Args) -> Result<(), Failure> {
    together(false, |ranks| run_on(ranks, args))
}

fn run_on(ranks: &Ranks, args: &Args) -> Result<(), Failure> {
    let (found, size) = evaluate(ranks, args)?;
    if !ranks.is_first() {
        return Ok(());
    }
    match found {
        Score::Boxes(result) => show_boxes(&result, size, args.json),
        Score::Shapes(result) => show_task(&result, size, args.json),
        Score::Classes(result) => show(&result, size, args.json),
    }
}

/// The figures, at images of which size.
fn evaluate(ranks: &Ranks, args: &Args) -> Result<(Score, ImageSize), Failure> {
    let opened = args.device.open(&mut |what| using(what, ranks))?;
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
    let validator = eval::Validator::shared(&model.graph.head, &dataset, size, ranks)?;
    let validator = validator.on(opened.device);
    let found = validator.find(&model, threads, &progress).and_then(|found| validator.score(&found));
    bar.finish_and_clear();
    Ok((found?, size))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::demo;
    use crate::kernels::cuda::emulated;
    use crate::pipeline::DEMO_MODEL;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// Every figure of JSON, by its path.
    fn figures_of(path: &str, value: &serde_json::Value, all: &mut Vec<(String, f64)>) {
        match value {
            serde_json::Value::Object(map) => map.iter().for_each(|(k, v)| figures_of(&format!("{path}.{k}"), v, all)),
            serde_json::Value::Array(list) => list.iter().for_each(|v| figures_of(path, v, all)),
            other => all.extend(other.as_f64().map(|figure| (path.to_owned(), figure))),
        }
    }

    #[test]
    fn a_gpu_finds_what_the_cpu_finds() {
        if emulated::device().is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (set, file) = (folder.path().join("set"), folder.path().join("demo.safetensors"));
        demo::write(&set, 1, 6).unwrap();
        std::fs::write(&file, DEMO_MODEL).unwrap();
        let eval = |device: &[&str]| {
            let line = ["eval", "--imgsz", "160", "--threads", "2", "--model"].map(std::ffi::OsString::from);
            let yaml = set.join("data.yaml");
            let paths = [file.clone().into_os_string(), "--data".into(), yaml.into_os_string()];
            let device = device.iter().map(std::ffi::OsString::from);
            let args = Line::try_parse_from(line.into_iter().chain(paths).chain(device)).unwrap().args;
            match evaluate(&Ranks::default(), &args)?.0 {
                Score::Boxes(result) => Ok(figures(&result)?),
                other => panic!("{other:?}"),
            }
        };
        let read = |value: Result<serde_json::Value, Failure>| {
            let mut all = Vec::new();
            figures_of("", &value.unwrap(), &mut all);
            all
        };
        let (cpu, gpu) = (read(eval(&[])), read(eval(&["--device", "cuda"])));
        assert_eq!(read(eval(&["--device", "cpu"])), cpu);
        assert!(cpu.len() > 8 && cpu.iter().any(|(key, map)| key == ".map50_95" && *map > 0.2), "{cpu:?}");
        for ((key, found), (_, wanted)) in gpu.iter().zip(&cpu) {
            assert!((found - wanted).abs() <= 1e-3, "{key} is {found}, on the CPU {wanted}");
        }
        assert_eq!(gpu.len(), cpu.len());
        let missing = eval(&["--device", "cuda:4"]).unwrap_err();
        assert_eq!(missing.code(), 7);
        let text = format!("{missing:?}");
        assert!(text.contains("--device cuda:4: the NVIDIA driver has no device of number 4: it has 2"), "{text}");
    }
}
