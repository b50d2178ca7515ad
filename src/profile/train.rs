//! The keys of `[finetune]` that say how images are varied, learning rates run, and epochs are chosen.

use super::section::Section;
use super::{Ratio, UnitError};
use serde::Serialize;
use toml::Value;

/// The images that choose between the epochs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum HoldOut {
    /// A share of the training images; 0 holds none back.
    Share(Ratio),
    /// A split of the dataset.
    Split(String),
}

impl HoldOut {
    /// Reads a share or the name of a split, as a flag gives it.
    ///
    /// # Errors
    /// If it is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim().parse::<f64>() {
            Ok(number) => below_one(number).map(Self::Share).map_err(|e| e.to_string()),
            Err(_) => Self::split(text.trim()),
        }
    }

    /// A split of its own: not the one that is trained on, and not the one that judges.
    fn split(name: &str) -> Result<Self, String> {
        let taken = ["train", "val", "valid", "validation"].contains(&name);
        let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
        match (plain, taken) {
            (true, false) => Ok(Self::Split(name.to_owned())),
            (true, true) => Err(format!(
                "is the split `{name}`, expected another one: images that choose must neither be trained on nor judge"
            )),
            _ => Err(format!("is `{name}`, expected a share from 0 to less than 1 or the name of a split")),
        }
    }
}

/// How the learning rate falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Along a cosine.
    #[default]
    Cosine,
    /// Along a straight line.
    Linear,
}

impl Schedule {
    /// Every schedule with the name users type.
    pub const ALL: [(&'static str, Self); 2] = [("cosine", Self::Cosine), ("linear", Self::Linear)];
}

/// How images are varied and learning rates run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrainRecipe {
    /// Probability that an image is a mosaic of four.
    pub mosaic: Ratio,
    /// Last epochs without mosaics.
    pub close_mosaic: usize,
    /// Probability of a mirror image; without one 0.5, and 0 where classes have sides.
    pub mirror: Option<Ratio>,
    /// Share by which sizes vary; that of the network without one.
    pub scale: Option<f64>,
    /// Share of the canvas by which positions vary; that of the network without one.
    pub translate: Option<f64>,
    /// Shares by which hue, saturation and brightness vary; those of the network without them.
    pub hsv: Option<[f64; 3]>,
    /// Epochs in which the learning rate rises.
    pub warmup: f64,
    /// How it falls.
    pub schedule: Schedule,
    /// First modules that keep their weights.
    pub freeze: usize,
    /// Share of a classifier's target that all classes get.
    pub label_smoothing: Ratio,
    /// Whether normalisations have the statistics of the whole batch where ranks with GPUs share it.
    pub sync_batch_norm: bool,
    /// Threads that prepare images; 0 lets those do it that train.
    pub workers: usize,
    /// Share of the epochs, the last ones, that train for int8 where that is the dtype.
    pub int8_epochs: Ratio,
}

impl Default for TrainRecipe {
    fn default() -> Self {
        Self {
            mosaic: Ratio::ZERO,
            close_mosaic: 2,
            mirror: None,
            scale: None,
            translate: None,
            hsv: None,
            warmup: 0.5,
            schedule: Schedule::Cosine,
            freeze: 0,
            label_smoothing: Ratio::ZERO,
            sync_batch_norm: false,
            workers: 0,
            int8_epochs: Ratio::HALF,
        }
    }
}

impl TrainRecipe {
    /// Reads its keys.
    pub(super) fn read(s: &mut Section, default: Self) -> Self {
        Self {
            mosaic: s.number("mosaic", Ratio::new).unwrap_or(default.mosaic),
            close_mosaic: s.count("close-mosaic", 0..=1_000_000).unwrap_or(default.close_mosaic),
            mirror: s.number("mirror", Ratio::new).or(default.mirror),
            scale: s.number("scale", up_to_four).or(default.scale),
            translate: s.number("translate", up_to_one).or(default.translate),
            hsv: s.list("hsv", up_to_one).or(default.hsv),
            warmup: s.number("warmup", epochs).unwrap_or(default.warmup),
            schedule: s.choice("schedule", &Schedule::ALL).unwrap_or(default.schedule),
            freeze: s.count("freeze", 0..=1000).unwrap_or(default.freeze),
            label_smoothing: s.number("label-smoothing", Ratio::new).unwrap_or(default.label_smoothing),
            sync_batch_norm: s.flag("sync-batch-norm").unwrap_or(default.sync_batch_norm),
            workers: s.count("workers", 0..=1024).unwrap_or(default.workers),
            int8_epochs: s.number("int8-epochs", Ratio::new).unwrap_or(default.int8_epochs),
        }
    }

    /// Its keys with their values, as they are written.
    pub(super) fn keys(&self) -> [(&'static str, Option<Value>); 13] {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX).into();
        let schedule = Schedule::ALL.iter().find(|(_, schedule)| *schedule == self.schedule);
        let list = |values: [f64; 3]| Value::Array(values.map(Value::from).to_vec());
        [
            ("mosaic", Some(self.mosaic.get().into())),
            ("close-mosaic", Some(count(self.close_mosaic))),
            ("mirror", self.mirror.map(|share| share.get().into())),
            ("scale", self.scale.map(Value::from)),
            ("translate", self.translate.map(Value::from)),
            ("hsv", self.hsv.map(list)),
            ("warmup", Some(self.warmup.into())),
            ("schedule", schedule.map(|(name, _)| Value::from(*name))),
            ("freeze", Some(count(self.freeze))),
            ("label-smoothing", Some(self.label_smoothing.get().into())),
            ("sync-batch-norm", Some(self.sync_batch_norm.into())),
            ("workers", Some(count(self.workers))),
            ("int8-epochs", Some(self.int8_epochs.get().into())),
        ]
    }
}

/// Reads `hold-out`.
pub(super) fn hold_out(s: &mut Section) -> Option<HoldOut> {
    s.number_or_text("hold-out", |number| below_one(number).map(HoldOut::Share), HoldOut::split)
}

fn below_one(value: f64) -> Result<Ratio, UnitError> {
    let expected = "a share from 0 to less than 1, or the name of a split";
    Ratio::new(value).ok().filter(|share| share.get() < 1.0).ok_or(UnitError { found: value.to_string(), expected })
}

fn up_to_one(value: f64) -> Result<f64, UnitError> {
    within(value, 1.0, "a number from 0 to 1")
}

fn up_to_four(value: f64) -> Result<f64, UnitError> {
    within(value, 4.0, "a number from 0 to 4")
}

fn epochs(value: f64) -> Result<f64, UnitError> {
    within(value, 1e6, "a number of epochs, 0 or more")
}

fn within(value: f64, most: f64, expected: &'static str) -> Result<f64, UnitError> {
    (0.0..=most).contains(&value).then_some(value).ok_or_else(|| UnitError { found: value.to_string(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{parse, write};
    use std::path::Path;

    fn tune(text: &str) -> Result<crate::profile::Finetune, String> {
        let profile = parse(Path::new("p.toml"), &format!("[finetune]\n{text}\n")).map_err(|e| format!("{e:?}"))?;
        let again = parse(Path::new("p.toml"), &write(&profile)).map_err(|e| format!("{e:?}"))?;
        assert_eq!(again.finetune, profile.finetune, "{text}");
        Ok(profile.finetune)
    }

    #[test]
    fn every_key_is_read_and_written_and_checked() {
        let found = tune(
            "hold-out = 'test'\npatience = 3\nmosaic = 0.5\nclose-mosaic = 4\nmirror = 0.0\nscale = 0.5\ntranslate = 0.2\n\
             hsv = [0.01, 0.7, 0.4]\nwarmup = 3\nschedule = 'linear'\nfreeze = 10\nlabel-smoothing = 0.1\n\
             sync-batch-norm = true\nworkers = 2\nint8-epochs = 0.3",
        )
        .unwrap();
        assert_eq!((found.hold_out, found.patience), (HoldOut::Split("test".into()), 3));
        assert_eq!((found.recipe.hsv, found.recipe.int8_epochs.get()), (Some([0.01, 0.7, 0.4]), 0.3));
        assert!(found.recipe.sync_batch_norm);
        assert_eq!((found.recipe.mirror, found.recipe.schedule), (Some(Ratio::ZERO), Schedule::Linear));
        assert_eq!(tune("").unwrap().hold_out, HoldOut::Share(Ratio::TENTH));
        for (text, expected) in [
            ("hold-out = 1", "less than 1, or the name of a split"),
            ("hold-out = 'val'", "neither be trained on nor judge"),
            ("hold-out = '../x'", "is `../x`"),
            ("hsv = [0.1]", "is a list of 1, expected 3 numbers"),
            ("hsv = [0.1, 2.0, 0.1]", "from 0 to 1"),
            ("mosaic = 1.5", "mosaic"),
            ("int8-epochs = 2", "int8-epochs"),
            ("warmup = -1", "epochs"),
            ("schedule = 'step'", "cosine, linear"),
        ] {
            let problem = tune(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
        assert_eq!(HoldOut::parse("0.25"), Ok(HoldOut::Share(Ratio::new(0.25).unwrap())));
        assert!(HoldOut::parse("val").is_err() && HoldOut::parse("1.0").is_err() && HoldOut::parse("").is_err());
    }
}
