//! The flags that several commands share, and the files behind them.

use super::failure::Failure;
use crate::detector::input_size;
use crate::eval::{EvalResult, TaskResult};
use crate::graph::{Branch, Head};
use crate::import;
use crate::kernels::available;
use crate::model::{Model, ModelError, Removed};
use crate::output;
use crate::ranks::Ranks;
use crate::size::ImageSize;
use clap::Args;
use std::path::{Path, PathBuf};

/// Which model, at which size.
#[derive(Args)]
pub struct ModelArgs {
    /// Model file: an ultralytics .pt, safetensors, or a model file of secateurs
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Size of the input image, pixels: one side of a square, or height and width, such as 384,640 [default: the model's
    /// own, else 640]
    #[arg(long, value_name = "N|H,W")]
    pub imgsz: Option<ImageSize>,
    /// Branch of an end-to-end head (YOLO26, YOLOv10): one2many needs duplicates suppressed, one2one does not [default:
    /// of two branches one2one, where the model is run]
    #[arg(long, value_name = "NAME", value_parser = ["one2many", "one2one"])]
    pub head: Option<String>,
}

impl ModelArgs {
    /// Reads the model; with `--head` it has that branch alone.
    pub fn load(&self) -> Result<Model, Failure> {
        let model = import::load(&self.model)?;
        if self.head.is_some() { self.as_deployed(&self.model, model) } else { Ok(model) }
    }

    /// Reads the model as it is deployed: with one branch, one2one unless `--head` says otherwise.
    pub fn deployed(&self) -> Result<Model, Failure> {
        self.as_deployed(&self.model, import::load(&self.model)?)
    }

    /// Reads another model as this one is deployed, where it has two branches.
    pub fn deployed_from(&self, path: &Path) -> Result<Model, Failure> {
        let model = import::load(path)?;
        match model.graph.head {
            Head::EndToEnd { one2many: true, .. } => self.as_deployed(path, model),
            _ => Ok(model),
        }
    }

    /// The model with one branch; says what that saves.
    fn as_deployed(&self, path: &Path, model: Model) -> Result<Model, Failure> {
        let fail = |e: ModelError| Failure::Input(format!("{}: {e}", path.display()));
        let asked = self.head.as_deref().and_then(Branch::from_name);
        let alone = model.deployed(asked).map_err(fail)?;
        if let Head::EndToEnd { one2many: true, .. } = model.graph.head {
            let size = self.imgsz(&model)?;
            let removed = Removed::between(&model, &alone, size).map_err(fail)?;
            let name = asked.unwrap_or_default().name();
            output::message("", "note", &format!(": --head {name}: without the other branch it has {removed}"));
        }
        Ok(alone)
    }

    /// The size of the image.
    pub fn imgsz(&self, model: &Model) -> Result<ImageSize, Failure> {
        input_size(model, self.imgsz).map_err(|e| Failure::Usage(e.to_string()))
    }
}

/// Threads of the runtime.
#[derive(Args)]
pub struct ThreadArgs {
    /// Threads of the network
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,
    /// Start as many threads as asked for, even if there are fewer CPUs
    #[arg(long)]
    pub force_threads: bool,
}

impl ThreadArgs {
    /// As many threads as asked for, but at most one for each CPU: threads that wait for a CPU only
    /// delay the others.
    pub fn count(&self) -> usize {
        let (asked, most) = (usize::from(self.threads), available());
        if asked <= most || self.force_threads {
            return asked;
        }
        let note =
            format!(": --threads {asked}: there are {most} CPUs, {most} threads are used (--force-threads: {asked})");
        output::message("", "note", &note);
        most
    }
}

/// Writes to standard error what the user should know and what does not end the command.
pub fn warn(notes: impl IntoIterator<Item = impl std::fmt::Display>) {
    for note in notes {
        output::message("", "warning", &format!(": {note}"));
    }
}

/// Writes to standard error what computes; of several ranks the first one does.
pub fn using(what: &str, ranks: &Ranks) {
    if ranks.is_first() {
        output::message("", "note", &format!(": using {what}"));
    }
}

/// A figure for people: where there was nothing to judge by, -1 stands for none.
pub fn figure(value: f64) -> String {
    if value < 0.0 { "undefined: the split has no objects".into() } else { format!("{value:.4}") }
}

/// Figures of a detector as JSON, where undefined ones are null.
pub fn figures(result: &EvalResult) -> Result<serde_json::Value, serde_json::Error> {
    let mut value = serde_json::to_value(result)?;
    if result.map50_95 < 0.0 {
        for key in ["map50_95", "map50", "map50_95_ultralytics", "map50_ultralytics"] {
            value[key] = serde_json::Value::Null;
        }
    }
    Ok(value)
}

/// Figures of a model with masks, keypoints or rotated boxes as JSON, where undefined ones are null.
pub fn task_figures(result: &TaskResult) -> Result<serde_json::Value, serde_json::Error> {
    let mut value = serde_json::to_value(result)?;
    for kind in ["boxes", "shapes"] {
        let figures = value.get_mut(kind).and_then(|figures| figures.as_object_mut());
        for figure in figures.into_iter().flat_map(|figures| figures.values_mut()) {
            if figure.as_f64().is_some_and(|figure| figure < 0.0) {
                *figure = serde_json::Value::Null;
            }
        }
    }
    Ok(value)
}
