//! The identity of a training: all that its result depends on, by content. Only a training of the same identity resumes
//! a checkpoint, and results are cached under its key.

use super::config::{FitConfig, HoldOut, TrainError};
use crate::data::{Dataset, Item};
use crate::model::{Info, Model};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Everything that decides the result of a training, by name. Threads, ranks and memory do not; nor does the device,
/// which changes the last bits only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(BTreeMap<String, String>);

/// Names of the entries that are digests.
const START: &str = "start";
const TEACHER: &str = "teacher";
const DATA: &str = "data";

impl Identity {
    /// Of a training of `model` on data with the digest `data` ([`Dataset::content`](crate::data::Dataset::content)).
    pub fn of(model: &Model, teacher: Option<&Model>, data: &str, config: &FitConfig) -> Self {
        // Without `..`, so that a new setting cannot be forgotten.
        let FitConfig {
            epochs,
            batch,
            imgsz,
            lr,
            lr_last,
            decay,
            warmup,
            optimizer,
            weight_decay,
            ema_decay,
            clip,
            augment,
            mosaic_until,
            mosaic,
            freeze,
            label_smoothing,
            sync_batch_norm,
            hold_out,
            patience,
            sparsity,
            distill,
            distillation,
            int8,
            seed,
            threads: _,
            workers: _,
            cache_bytes: _,
            keep_zeros,
            content: _,
            checkpoint: _,
            save_seconds: _,
            stop: _,
            ranks: _,
        } = config;
        let held = match hold_out {
            HoldOut::None => "none".to_owned(),
            HoldOut::Share(share) => share.to_string(),
            HoldOut::Split { content, .. } => content.clone(),
        };
        let settings: [(&str, &dyn std::fmt::Debug); 25] = [
            ("epochs", epochs),
            ("batch", batch),
            ("imgsz", imgsz),
            ("lr", lr),
            ("lr-last", lr_last),
            ("decay", decay),
            ("warmup", warmup),
            ("optimizer", optimizer),
            ("weight-decay", weight_decay),
            ("ema-decay", ema_decay),
            ("clip", clip),
            ("augment", augment),
            ("mosaic", mosaic_until),
            ("mosaic-share", mosaic),
            ("freeze", freeze),
            ("label-smoothing", label_smoothing),
            ("sync-batch-norm", sync_batch_norm),
            ("hold-out", &held),
            ("patience", patience),
            ("sparsity", sparsity),
            ("distill", distill),
            ("distillation", distillation),
            ("int8", int8),
            ("seed", seed),
            ("keep-zeros", keep_zeros),
        ];
        let teacher = teacher.filter(|_| *distill > 0.0).map_or("none".into(), content);
        let digests = [(START, content(model)), (TEACHER, teacher), (DATA, data.to_owned())];
        let settings = settings.map(|(name, value)| (name, format!("{value:?}")));
        Self(settings.into_iter().chain(digests).map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// Refuses ranks of which one has other settings, another network or other labels than the first: its machine may
    /// have another file. Pictures are not looked at.
    ///
    /// # Errors
    /// If there is one, or it cannot be reached.
    pub(super) fn check_ranks(
        model: &Model,
        teacher: Option<&Model>,
        dataset: &Dataset,
        config: &FitConfig,
    ) -> Result<(), TrainError> {
        if config.ranks.size() == 1 {
            return Ok(());
        }
        let mut labels = Sha256::new();
        for Item { image, labels: objects, shapes, .. } in &dataset.items {
            let name = image.display().to_string();
            let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
            labels.update(format!("{name} {objects:?} {shapes:?}\n"));
        }
        let own = Self::of(model, teacher, &hex(&labels.finalize()), config).text();
        let all = config.ranks.gather(own.as_bytes())?;
        if let Some((rank, text)) = all.iter().enumerate().find(|(_, text)| **text != all[0]) {
            let read = |bytes: &[u8]| serde_json::from_slice::<Self>(bytes).ok();
            let differences = read(&all[0]).zip(read(text)).map(|(first, other)| first.differences(&other));
            let differences = differences.unwrap_or_default();
            return Err(TrainError::Unfit(format!("rank {rank} has other inputs than rank 0 ({differences})")));
        }
        Ok(())
    }

    /// A key for names of files.
    pub fn key(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(env!("CARGO_PKG_VERSION"));
        digest.update(self.text());
        hex(&digest.finalize()[..8])
    }

    /// As it is stored.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What differs in another one, for people.
    pub(super) fn differences(&self, other: &Self) -> String {
        let differing = self.0.iter().filter(|(name, value)| other.0.get(*name) != Some(value));
        let parts = differing.map(|(name, value)| match name.as_str() {
            START => "another network to start from".into(),
            TEACHER => "another teacher".into(),
            DATA => "other data (pictures, labels or class names)".into(),
            _ => format!("{name} {} instead of {value}", other.0.get(name).map_or("unknown", String::as_str)),
        });
        parts.collect::<Vec<_>>().join(", ")
    }
}

/// SHA-256 in hex digits of all of a model that decides what it computes; where it came from does not.
pub fn content(model: &Model) -> String {
    let info = Info { provenance: BTreeMap::new(), ..model.info.clone() };
    let mut digest = Sha256::new();
    let mut part = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    part(&serde_json::to_vec(&model.graph).unwrap_or_default());
    part(&serde_json::to_vec(&info).unwrap_or_default());
    for (key, tensor) in &model.weights {
        part(key.as_bytes());
        part(format!("{:?}", tensor.shape()).as_bytes());
        part(bytemuck::cast_slice(tensor.data()));
    }
    hex(&digest.finalize())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::init;
    use crate::zoo::simple_cnn::simple_cnn;

    fn model(seed: u64) -> Model {
        let graph = simple_cnn(10).unwrap();
        let weights = init(&graph, seed);
        Model::new(graph, weights, Info::default()).unwrap()
    }

    #[test]
    fn every_input_of_a_training_changes_its_key_and_is_named() {
        let (start, teacher, config) = (model(1), model(2), FitConfig::default());
        let base = Identity::of(&start, Some(&teacher), "d", &config);
        let same = FitConfig { threads: 7, workers: 3, cache_bytes: 1, save_seconds: 1.0, ..config.clone() };
        let same = FitConfig { checkpoint: Some("x".into()), stop: Default::default(), ..same };
        assert_eq!(Identity::of(&start, Some(&teacher), "d", &same).key(), base.key());
        let mut nudged = model(1);
        nudged.weights.values_mut().next().unwrap().data_mut()[0] += 1e-6;
        let mut named = model(1);
        named.info.names = vec!["zero".into()];
        let with = |change: fn(&mut FitConfig)| {
            let mut config = FitConfig::default();
            change(&mut config);
            Identity::of(&start, Some(&teacher), "d", &config)
        };
        let cases = [
            (Identity::of(&nudged, Some(&teacher), "d", &config), "another network"),
            (Identity::of(&named, Some(&teacher), "d", &config), "another network"),
            (Identity::of(&start, Some(&start), "d", &config), "another teacher"),
            (Identity::of(&start, None, "d", &config), "another teacher"),
            (Identity::of(&start, Some(&teacher), "e", &config), "other data"),
            (with(|c| c.epochs = 9), "epochs 9 instead of 6"),
            (with(|c| c.batch = 9), "batch 9"),
            (with(|c| c.imgsz = 64.into()), "imgsz 64"),
            (with(|c| c.lr = 0.5), "lr 0.5"),
            (with(|c| c.lr_last = 0.5), "lr-last 0.5"),
            (with(|c| c.warmup = 2.0), "warmup 2"),
            (with(|c| c.optimizer = crate::train::optim::Rule::Sgd { momentum: 0.5, nesterov: true }), "optimizer Sgd"),
            (with(|c| c.weight_decay = 0.5), "weight-decay"),
            (with(|c| c.ema_decay = 0.5), "ema-decay"),
            (with(|c| c.clip = 1.0), "clip 1"),
            (with(|c| c.augment = crate::train::Augment::NONE), "augment"),
            (with(|c| c.mosaic_until = 3), "mosaic 3"),
            (with(|c| c.mosaic = 0.5), "mosaic-share 0.5"),
            (with(|c| c.freeze = 2), "freeze 2"),
            (with(|c| c.label_smoothing = 0.1), "label-smoothing 0.1"),
            (with(|c| c.sync_batch_norm = true), "sync-batch-norm true"),
            (with(|c| c.hold_out = HoldOut::Share(0.1)), "hold-out \"0.1\""),
            (with(|c| c.patience = 5), "patience 5"),
            (with(|c| c.sparsity = 0.5), "sparsity 0.5"),
            (with(|c| c.distill = 0.5), "distill 0.5"),
            (with(|c| c.distillation.class = 9.0), "distillation"),
            (with(|c| c.int8.epochs = 2), "int8 Int8Epochs { epochs: 2"),
            (with(|c| c.seed = 3), "seed 3"),
            (with(|c| c.keep_zeros = true), "keep-zeros true"),
        ];
        let mut keys = std::collections::HashSet::from([base.key()]);
        for (other, parts) in cases {
            let differences = base.differences(&other);
            assert!(differences.contains(parts), "{parts}: {differences}");
            keys.insert(other.key());
        }
        // Two of the cases differ in the same way: the two networks to start from are different ones.
        assert_eq!(keys.len(), 30);
    }
}
