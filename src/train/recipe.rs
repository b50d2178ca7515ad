//! The settings of a training that people know by name, for whatever network: they become a [`FitConfig`] together with
//! what the network and the classes ask for.

use super::config::{FitConfig, HoldOut, Int8Epochs};
use super::schedule::Decay;
use super::variation::{Augment, sided};

/// How images are varied, learning rates run, and epochs are chosen. What is left out follows the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Probability that an image is a mosaic of four.
    pub mosaic: f64,
    /// Last epochs without mosaics.
    pub close_mosaic: usize,
    /// Probability of a mirror image; without one that of the network, and 0 where classes have sides.
    pub mirror: Option<f64>,
    /// Share by which the size of an image varies.
    pub scale: Option<f64>,
    /// Share of the canvas by which its position varies.
    pub translate: Option<f64>,
    /// Shares by which hue, saturation and brightness vary.
    pub hsv: Option<[f64; 3]>,
    /// Epochs in which the learning rate rises.
    pub warmup: f64,
    /// How it falls.
    pub schedule: Decay,
    /// First modules that keep their weights.
    pub freeze: usize,
    /// Share of a classifier's target that all classes get.
    pub label_smoothing: f64,
    /// Whether normalisations have the statistics of the whole batch where ranks with GPUs share it.
    pub sync_batch_norm: bool,
    /// Threads that prepare images; 0 lets those do it that train.
    pub workers: usize,
    /// The images that choose between epochs.
    pub hold_out: HoldOut,
    /// Share of the epochs, the last ones, that train for int8.
    pub int8_epochs: f64,
    /// Epochs to wait for a better one; 0 waits for all.
    pub patience: usize,
}

impl Default for Recipe {
    fn default() -> Self {
        let config = FitConfig::default();
        Self {
            mosaic: 0.0,
            close_mosaic: 2,
            mirror: None,
            scale: None,
            translate: None,
            hsv: None,
            warmup: config.warmup,
            schedule: config.decay,
            freeze: 0,
            label_smoothing: 0.0,
            sync_batch_norm: false,
            workers: 0,
            hold_out: HoldOut::None,
            int8_epochs: 0.0,
            patience: 0,
        }
    }
}

impl Recipe {
    /// Enters the settings into those of a training on classes of these names; also gives what people should know.
    pub fn apply(&self, config: FitConfig, names: &[String]) -> (FitConfig, Option<String>) {
        let usual = config.augment;
        let side = sided(names).filter(|_| self.mirror.is_none() && usual.mirror > 0.0);
        let mirror = self.mirror.unwrap_or(if side.is_some() { 0.0 } else { usual.mirror });
        let [hue, saturation, brightness] = self.hsv.unwrap_or([usual.hue, usual.saturation, usual.brightness]);
        let augment = Augment {
            mirror,
            scale: self.scale.unwrap_or(usual.scale),
            translate: self.translate.unwrap_or(usual.translate),
            hue,
            saturation,
            brightness,
            ..usual
        };
        let note = side.map(|name| {
            format!(
                "images are not mirrored: a mirror would make class `{name}` another one (`mirror` decides otherwise)"
            )
        });
        let mosaic_until = if self.mosaic > 0.0 { config.epochs.saturating_sub(self.close_mosaic) } else { 0 };
        // Without the last bits of the product, which would round up.
        let int8 = (self.int8_epochs * config.epochs as f64 - 1e-9).ceil() as usize;
        let config = FitConfig {
            augment,
            int8: Int8Epochs { epochs: int8, ..config.int8 },
            mosaic: if self.mosaic > 0.0 { self.mosaic } else { 1.0 },
            mosaic_until,
            warmup: self.warmup,
            decay: self.schedule,
            freeze: self.freeze,
            label_smoothing: self.label_smoothing,
            sync_batch_norm: self.sync_batch_norm,
            workers: self.workers,
            hold_out: self.hold_out.clone(),
            patience: self.patience,
            ..config
        };
        (config, note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_settings_nothing_changes_and_sides_turn_the_mirror_off() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let usual = FitConfig { epochs: 9, ..FitConfig::default() };
        let (config, note) = Recipe::default().apply(usual.clone(), &names(&["disc"]));
        assert_eq!((FitConfig { stop: usual.stop.clone(), ..config }, note), (usual.clone(), None));
        let (config, note) = Recipe::default().apply(usual.clone(), &names(&["disc", "turn left"]));
        assert!(config.augment.mirror == 0.0 && note.unwrap().contains("`turn left`"));
        let asked =
            Recipe { mirror: Some(0.3), mosaic: 0.5, close_mosaic: 4, hsv: Some([0.1, 0.2, 0.3]), ..Recipe::default() };
        let (config, note) = asked.apply(usual, &names(&["turn left"]));
        let Augment { mirror, hue, saturation, brightness, scale, .. } = config.augment;
        assert_eq!((note, mirror, hue, saturation, brightness), (None, 0.3, 0.1, 0.2, 0.3));
        assert_eq!((config.mosaic, config.mosaic_until, scale), (0.5, 5, Augment::default().scale));
        for (share, all, expected) in [(0.0, 9, 0), (0.5, 1, 1), (0.5, 9, 5), (0.55, 100, 55), (1.0, 9, 9)] {
            let recipe = Recipe { int8_epochs: share, ..Recipe::default() };
            let config = FitConfig { epochs: all, ..FitConfig::default() };
            assert_eq!(recipe.apply(config, &[]).0.int8.epochs, expected, "{share} of {all}");
        }
    }
}
