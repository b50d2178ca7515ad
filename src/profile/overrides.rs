//! Flags of the command line that replace values of a profile. This is the one place that defines them: name, help
//! text, allowed values, and the key that each replaces.

use super::sources::Sources;
use super::{HoldOut, IMPORTANCE, Mib, Millijoules, Millis, Profile, Ratio, Strategy};
use crate::graph::{Branch, Dtype};
use crate::size::ImageSize;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::value_parser;
use std::path::PathBuf;

/// Headings of the groups of flags in a command's help, in the order in which they are shown.
pub mod heading {
    /// What the pruned network must keep to.
    pub const BUDGETS: &str = "Budgets";
    /// What is pruned, and the images that it learns from and is judged by.
    pub const MODEL: &str = "Model and data";
    /// How widths are chosen.
    pub const SEARCH: &str = "Search";
    /// How the pruned network is trained.
    pub const FINETUNE: &str = "Fine-tuning";
    /// How latency is measured.
    pub const MEASURING: &str = "Measuring";
    /// What is written where, and how progress is reported.
    pub const OUTPUT: &str = "Output";
}

/// Values that replace those of a profile. A latency budget of either kind replaces both kinds.
#[derive(clap::Args, Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// Maximum time per frame, milliseconds
    #[arg(long = "latency-ms", value_name = "X", conflicts_with = "latency_ratio", allow_negative_numbers = true,
        help_heading = heading::BUDGETS)]
    pub latency: Option<Millis>,
    /// Maximum time per frame as a share of the baseline model's, more than 0, up to 1
    #[arg(long, value_name = "R", value_parser = Ratio::parse_above_zero, allow_negative_numbers = true,
        help_heading = heading::BUDGETS)]
    pub latency_ratio: Option<Ratio>,
    /// Maximum energy per frame, millijoules, measured on a device that shows its power rails
    #[arg(long = "energy-mj", value_name = "X", allow_negative_numbers = true, help_heading = heading::BUDGETS)]
    pub energy: Option<Millijoules>,
    /// Maximum peak memory: weights, activations and workspace together, MiB
    #[arg(long = "memory-mib", value_name = "X", allow_negative_numbers = true, help_heading = heading::BUDGETS)]
    pub memory: Option<Mib>,
    /// Maximum number of parameters
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=i64::MAX as u64).map(|n| n as usize),
        allow_negative_numbers = true, help_heading = heading::BUDGETS)]
    pub params: Option<usize>,
    /// Maximum size of the model file, MiB
    #[arg(long = "file-mib", value_name = "X", allow_negative_numbers = true, help_heading = heading::BUDGETS)]
    pub file: Option<Mib>,
    /// Minimum recall of a class, as a share of the baseline model's: `--floor person=0.95`; may be repeated
    #[arg(long = "floor", value_name = "CLASS=R", value_parser = minimum_recall, help_heading = heading::BUDGETS)]
    pub floors: Vec<(String, Ratio)>,
    /// The network and its images.
    #[command(flatten)]
    pub model: ModelFlags,
    /// Arithmetic of the network on the device: int8 is fastest and a quarter of the size; f16 is half the size and as
    /// accurate as f32
    #[arg(long, value_name = "NAME", value_parser = named(Dtype::ALL), help_heading = heading::MODEL)]
    pub dtype: Option<Dtype>,
    /// What is pruned: structured removes whole channels; unstructured and 2:4 set single weights to zero, which
    /// shrinks the file but not the latency
    #[arg(long, value_name = "NAME", value_parser = named(Strategy::ALL), help_heading = heading::SEARCH)]
    pub strategy: Option<Strategy>,
    /// Importance criterion that ranks the channels of a group
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(IMPORTANCE),
        help_heading = heading::SEARCH)]
    pub importance: Option<String>,
    /// Training images for sensitivity, importance and repair; fewer are faster and prune worse
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000_000).map(|n| n as usize),
        help_heading = heading::SEARCH)]
    pub calibration_images: Option<usize>,
    /// Epochs of fine-tuning; 0 skips it
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(..=1_000_000).map(|n| n as usize),
        allow_negative_numbers = true, help_heading = heading::FINETUNE)]
    pub epochs: Option<usize>,
    /// Images that choose the best epoch and are not trained on: a share of the training images, or a split of the
    /// dataset other than val; 0 takes the last epoch
    #[arg(long, value_name = "X|SPLIT", value_parser = HoldOut::parse, allow_negative_numbers = true,
        help_heading = heading::FINETUNE)]
    pub hold_out: Option<HoldOut>,
    /// With the dtype int8 the share of the epochs, the last ones, that train for it: with weights and inputs rounded as
    /// in the int8 network, which held-back images then judge. 0 rounds after training only [default: the profile's, if
    /// any, else 0.5]
    #[arg(long, value_name = "R", allow_negative_numbers = true, help_heading = heading::FINETUNE)]
    pub int8_epochs: Option<Ratio>,
    /// How ranks train together.
    #[command(flatten, next_help_heading = heading::FINETUNE)]
    pub together: TogetherFlags,
    /// Threads and seed.
    #[command(flatten)]
    pub run: RunFlags,
}

/// The network to prune and its images: flags of every command that prunes.
#[derive(clap::Args, Clone, Debug, Default, PartialEq)]
pub struct ModelFlags {
    /// Model file: an ultralytics .pt, safetensors, or a model file of secateurs; `demo:segment` (also detect, pose,
    /// obb, classify) is the embedded model of a task, with its own pictures [default: the profile's, if any, else the
    /// demo]
    #[arg(long = "model", value_name = "FILE", help_heading = heading::MODEL)]
    pub path: Option<PathBuf>,
    /// YAML file of the dataset; `demo` or `drawn:N` draws N pictures instead [default: the profile's, if any, else the
    /// demo's]
    #[arg(long, value_name = "YAML", help_heading = heading::MODEL)]
    pub data: Option<PathBuf>,
    /// Size of the input image, pixels: one side of a square, or height and width, such as 384,640
    #[arg(long, value_name = "N|H,W", allow_negative_numbers = true, help_heading = heading::MODEL)]
    pub imgsz: Option<ImageSize>,
    /// Branch of an end-to-end head (YOLO26, YOLOv10) to prune and deploy: one2one needs no suppression of duplicates;
    /// the other branch is removed [default: the profile's, if any, else of two branches one2one]
    #[arg(long, value_name = "NAME", value_parser = named(Branch::ALL), help_heading = heading::MODEL)]
    pub head: Option<Branch>,
}

/// How ranks train together: flags of every command that trains.
#[derive(clap::Args, Clone, Copy, Debug, Default, PartialEq)]
pub struct TogetherFlags {
    /// Let normalisations have the statistics of the whole batch where several GPUs share it, not of each GPU's own
    /// images; on CPUs, and on one GPU, they always have
    #[arg(long)]
    pub sync_batch_norm: bool,
}

/// Threads and seed: flags of every command that prunes.
#[derive(clap::Args, Clone, Debug, Default, PartialEq)]
pub struct RunFlags {
    /// Threads of the network on the device
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1024).map(usize::from),
        help_heading = heading::MEASURING)]
    pub threads: Option<usize>,
    /// Seed of every random choice
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(..=i64::MAX as u64),
        allow_negative_numbers = true, help_heading = heading::SEARCH)]
    pub seed: Option<u64>,
}

impl Overrides {
    /// The profile with these values in place of its own.
    pub fn apply(self, profile: Profile) -> Profile {
        self.apply_to(profile, &mut Sources::default())
    }

    /// As [`Overrides::apply`]; enters each flag as the source of the key that it replaces.
    pub(super) fn apply_to(self, mut profile: Profile, sources: &mut Sources) -> Profile {
        let Profile { device, budget, model, search, finetune, data, .. } = &mut profile;
        if self.latency.is_some() || self.latency_ratio.is_some() {
            (budget.latency, budget.latency_ratio) = (self.latency, self.latency_ratio);
        }
        let had_floors = !budget.floors.is_empty() && !self.floors.is_empty();
        let floors =
            if had_floors { sources.of("budget", "floors").to_owned() + ", --floor" } else { "--floor".into() };
        let mut flag = |section, key, flag: &str, given: Option<()>| {
            if given.is_some() {
                sources.set(section, key, flag);
            }
        };
        flag("budget", "latency-ms", "--latency-ms", self.latency.map(|_| ()));
        flag("budget", "latency-ratio", "--latency-ratio", self.latency_ratio.map(|_| ()));
        flag("budget", "energy-mj", "--energy-mj", self.energy.map(|mj| budget.energy = Some(mj)));
        flag("budget", "memory-mib", "--memory-mib", self.memory.map(|mib| budget.memory = Some(mib)));
        flag("budget", "params", "--params", self.params.map(|n| budget.params = Some(n)));
        flag("budget", "file-mib", "--file-mib", self.file.map(|mib| budget.file = Some(mib)));
        let given = (!self.floors.is_empty()).then(|| budget.floors.extend(self.floors));
        flag("budget", "floors", &floors, given);
        let ModelFlags { path, data: yaml, imgsz, head } = self.model;
        let RunFlags { threads, seed } = self.run;
        flag("model", "path", "--model", path.map(|path| model.path = Some(path)));
        flag("data", "path", "--data", yaml.map(|path| *data = Some(path)));
        flag("model", "imgsz", "--imgsz", imgsz.map(|size| (model.imgsz, model.sizes) = (Some(size), vec![size])));
        flag("model", "head", "--head", head.map(|branch| model.head = Some(branch)));
        flag("model", "dtype", "--dtype", self.dtype.map(|dtype| model.dtype = dtype));
        flag("search", "strategy", "--strategy", self.strategy.map(|strategy| search.strategy = strategy));
        flag("search", "importance", "--importance", self.importance.map(|name| search.importance = name));
        let images = self.calibration_images.map(|n| search.calibration_images = n);
        flag("search", "calibration-images", "--calibration-images", images);
        flag("search", "seed", "--seed", seed.map(|seed| search.seed = seed));
        flag("finetune", "epochs", "--epochs", self.epochs.map(|n| finetune.epochs = n));
        flag("finetune", "hold-out", "--hold-out", self.hold_out.map(|choice| finetune.hold_out = choice));
        let share = self.int8_epochs.map(|share| finetune.recipe.int8_epochs = share);
        flag("finetune", "int8-epochs", "--int8-epochs", share);
        let sync = self.together.sync_batch_norm.then(|| finetune.recipe.sync_batch_norm = true);
        flag("finetune", "sync-batch-norm", "--sync-batch-norm", sync);
        flag("device", "threads", "--threads", threads.map(|n| device.threads = n));
        profile
    }
}

/// Reads one of a few names; clap lists them where another one is typed.
fn named<T, const N: usize>(values: [(&'static str, T); N]) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let parser = PossibleValuesParser::new(values.map(|(name, _)| name));
    parser.try_map(move |typed| {
        let found = values.iter().find(|(name, _)| *name == typed).map(|(_, value)| *value);
        found.ok_or_else(|| format!("expected one of {}", values.map(|(name, _)| name).join(", ")))
    })
}

/// Reads `CLASS=R`; names may have any character.
fn minimum_recall(text: &str) -> Result<(String, Ratio), String> {
    let (name, share) = text.rsplit_once('=').ok_or("expected CLASS=R, such as person=0.95")?;
    let share = share.parse().and_then(|share: Ratio| Ratio::above_zero(share.get()));
    Ok((name.to_owned(), share.map_err(|e| e.to_string())?))
}
