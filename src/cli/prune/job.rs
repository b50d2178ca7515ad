//! The job of the pipeline that a profile describes.

use crate::importance::{Criterion, Pattern};
use crate::pipeline::{Job, Timing, Tune};
use crate::profile::{Finetune, HoldOut, Mib, Millijoules, Millis, Optimizer, Profile, Ratio, Schedule, Strategy};
use crate::repair::Method;
use crate::report::Budget;
use crate::train::optim::Rule;
use crate::train::{self, Decay, Recipe};
use std::path::Path;

/// The budgets of a profile, in the units of the report.
pub fn budget(profile: &Profile) -> Budget {
    let budget = &profile.budget;
    Budget {
        latency_ms: budget.latency.map(Millis::get),
        latency_ratio: budget.latency_ratio.map(Ratio::get),
        percentile: budget.percentile,
        energy_mj: budget.energy.map(Millijoules::get),
        memory_mib: budget.memory.map(Mib::get),
        params: budget.params,
        file_mib: budget.file.map(Mib::get),
        min_map: budget.min_map.map(Ratio::get),
        max_map_drop: budget.max_map_drop.map(Ratio::get),
    }
}

/// The job of a profile.
pub fn job(profile: &Profile, out: &Path, cache: &Path) -> Job {
    let (budget, search, tune) = (&profile.budget, &profile.search, &profile.finetune);
    Job {
        target: profile.device.name.clone(),
        model: profile.model.path.clone(),
        data: profile.data.clone(),
        imgsz: profile.model.imgsz,
        sizes: profile.model.sizes.clone(),
        batch: profile.model.batch,
        dtype: profile.model.dtype,
        head: profile.model.head,
        threads: profile.device.threads,
        budget: self::budget(profile),
        floors: budget.floors.iter().map(|(name, share)| (name.clone(), share.get())).collect(),
        pattern: match search.strategy {
            Strategy::Structured => None,
            Strategy::Unstructured => Some(Pattern::Unstructured(search.sparsity.get())),
            Strategy::TwoOfFour => Some(Pattern::TwoOfFour),
        },
        grid: search.grid,
        min_keep: search.min_keep.get(),
        criterion: Criterion::from_name(&search.importance).unwrap_or_default(),
        calibration_images: search.calibration_images,
        skip_bad_images: false,
        seed: search.seed,
        repair: Method::LeastSquares,
        tune: Tune {
            epochs: tune.epochs,
            batch: tune.batch,
            lr: tune.lr,
            rule: match tune.optimizer {
                Optimizer::Adamw => Rule::ADAM_W,
                Optimizer::Sgd => Rule::Sgd { momentum: 0.937, nesterov: true },
            },
            distill: tune.distill,
            sparsity: tune.sparsity,
            control: tune.control,
            recipe: recipe(tune),
            held_split: match &tune.hold_out {
                HoldOut::Split(name) => Some(name.clone()),
                HoldOut::Share(_) => None,
            },
            ..Tune::default()
        },
        warmup: profile.bench.warmup,
        runs: profile.bench.runs,
        timing: Timing::Here,
        locking: None,
        ranks: Default::default(),
        device: Default::default(),
        out: out.to_path_buf(),
        cache: cache.to_path_buf(),
    }
}

/// How the profile trains.
fn recipe(tune: &Finetune) -> Recipe {
    let recipe = &tune.recipe;
    Recipe {
        mosaic: recipe.mosaic.get(),
        close_mosaic: recipe.close_mosaic,
        mirror: recipe.mirror.map(Ratio::get),
        scale: recipe.scale,
        translate: recipe.translate,
        hsv: recipe.hsv,
        warmup: recipe.warmup,
        schedule: match recipe.schedule {
            Schedule::Cosine => Decay::Cosine,
            Schedule::Linear => Decay::Linear,
        },
        freeze: recipe.freeze,
        label_smoothing: recipe.label_smoothing.get(),
        sync_batch_norm: recipe.sync_batch_norm,
        workers: recipe.workers,
        hold_out: match &tune.hold_out {
            HoldOut::Share(share) if share.get() > 0.0 => train::HoldOut::Share(share.get()),
            _ => train::HoldOut::None,
        },
        int8_epochs: recipe.int8_epochs.get(),
        patience: tune.patience,
    }
}
