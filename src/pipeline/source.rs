//! The inputs of a job, checked: model, groups, datasets, calibration images.

use super::PipelineError;
use super::cache::{self, sha256};
use super::check;
use super::floors;
use super::job::{Event, Job, Listener, Timing};
use crate::data::{DataError, Dataset, demo};
use crate::detector::check_side;
use crate::engine::{Cpu, Options, plan_memory_for};
use crate::graph::{Dtype, Graph, Head};
use crate::group::{Groups, groups};
use crate::importance::{Batches, Criterion, Sampling, sensitivity};
use crate::model::{self, Model};
use crate::quantise::{self, Ranges};
use crate::repair::{Calibration, Sensitivity};
use crate::report::Report;
use crate::train::Augment;
use crate::train::loss::Target;
use crate::vision::{NormalisedXywh, Preprocess, Xyxy};
use crate::{board, files, import, memory, train};
use candle_core::Device;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index::sample;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The model of the embedded demo: a narrow YOLO11 trained on the drawn set of [`demo`].
pub const DEMO_MODEL: &[u8] = include_bytes!("demo.safetensors");

/// Training and validation images of the demo.
const DEMO_IMAGES: (usize, usize) = (256, 100);

/// Weight of the pull toward the cut weights in the repair, as a share of the inputs' mean variance.
const RIDGE: f64 = 0.03;

/// Images per batch while the outputs' curvature is sent back.
const PROBE_BATCH: usize = 4;

/// Calibration images that show how large the layers' inputs get.
const RANGE_IMAGES: usize = 64;

/// Networks that walk through the calibration images side by side.
const NETWORKS: f64 = 2.0;

/// The share of this machine's memory that calibration may take, and the images that are used whatever memory there is.
const CALIBRATION_SHARE: f64 = 0.4;
const LEAST_IMAGES: usize = 16;

/// The inputs of a job.
pub struct Source {
    /// The model as it came, in f32.
    pub model: Model,
    /// Where it came from, for people.
    pub model_name: String,
    /// SHA-256 of its file.
    pub model_hash: String,
    /// What can be cut together.
    pub groups: Groups,
    /// Training images and labels.
    pub train: Dataset,
    /// Validation images and labels.
    pub val: Dataset,
    /// Where the data came from, for people.
    pub data_name: String,
    /// Side of the square image, pixels.
    pub imgsz: usize,
    /// Letterboxed calibration images; those that are mirrored stand in pairs, original first, before the others.
    pub images: Vec<Vec<f32>>,
    /// Labels of the calibration images: class and box, normalised to the letterboxed image.
    labels: Vec<Vec<Target>>,
    /// Which training images those are, ascending.
    pub calibration_items: Vec<usize>,
    /// The class of every calibration image; empty for a detector.
    classes: Vec<usize>,
    /// Identifies the calibration images, without their labels.
    pub calibration_hash: String,
    /// Identifies the training data, once it has been asked for.
    train_content: OnceLock<String>,
    /// Where the model's outputs depend on its layers, on the calibration images.
    pub sensitivity: Sensitivity,
    /// The numbers that the device computes with.
    dtype: Dtype,
    /// The processor that memory is planned for.
    cpu: Cpu,
    /// What the inputs of its layers are rounded to where these are 8-bit whole numbers; else empty.
    ranges: Ranges,
}

impl Source {
    /// Reads and checks everything the job names, and makes ready what the stages need of it.
    ///
    /// # Errors
    /// Names the first file or setting that cannot be used.
    pub fn gather(job: &Job, tell: Listener) -> Result<Self, PipelineError> {
        let source = Self::open(job, tell)?;
        check::inputs(&source, job, tell)?;
        source.prepare(job, tell)
    }

    /// Reads model and dataset, and checks that they and the job's settings go together.
    pub(super) fn open(job: &Job, tell: Listener) -> Result<Self, PipelineError> {
        let input = |e: &dyn std::fmt::Display| PipelineError::Input(e.to_string());
        let model_name = job.model.as_ref().map_or("the embedded demo".to_owned(), |path| path.display().to_string());
        tell(Event::Stage("Importing", model_name.clone()));
        let (model, model_hash) = match &job.model {
            Some(path) => {
                let model = import::load(path).map_err(|e| input(&e))?;
                let bytes =
                    files::read(path, model::MAX_FILE).map_err(|e| input(&format!("{}: {e}", path.display())))?;
                (model, sha256(&bytes))
            }
            None => (
                model::from_bytes(Path::new("demo.safetensors"), DEMO_MODEL).map_err(|e| input(&e))?,
                sha256(DEMO_MODEL),
            ),
        };
        if model.graph.dtype != Dtype::F32 {
            tell(Event::Note(format!("{model_name} is in {}: its values are taken as f32", model.graph.dtype.name())));
        }
        let model = model.into_f32();
        let nc = match model.graph.head {
            Head::Detect { nc, .. } | Head::Classify { nc } => nc,
            _ => {
                let task = model.graph.head.task();
                return Err(PipelineError::Input(format!(
                    "{model_name}: its task is `{task}`; the job prunes detectors and classifiers"
                )));
            }
        };
        Preprocess::new(&model).map_err(|e| input(&format!("{model_name}: {e}")))?;
        let name = job.data.as_ref().and_then(|path| path.to_str());
        let drawn_here = name.and_then(|name| demo::named(name, DEMO_IMAGES.0)).transpose();
        let drawn_here = drawn_here.map_err(|e| PipelineError::Setting(format!("data: {e}")))?;
        let yaml = match (&job.data, drawn_here) {
            (_, Some(count)) => drawn(&job.cache, count, DEMO_IMAGES.1, tell)?,
            (Some(path), None) => path.clone(),
            (None, None) if job.model.is_some() => {
                return Err(PipelineError::Input(
                    "a model without data: name its dataset with --data data.yaml".into(),
                ));
            }
            (None, None) => drawn(&job.cache, DEMO_IMAGES.0, DEMO_IMAGES.1, tell)?,
        };
        let data_name =
            job.data.as_ref().map_or("the embedded drawn set".to_owned(), |path| path.display().to_string());
        let open = |split: &str| {
            let mut set = Dataset::open(&yaml, split)?;
            if job.skip_bad_images {
                set.skip_unreadable()?;
            }
            Ok::<_, DataError>(set)
        };
        let (train, val) = (open("train").map_err(|e| input(&e))?, open("val").map_err(|e| input(&e))?);
        if train.names.len() != nc {
            return Err(PipelineError::Input(format!(
                "{data_name} names {} classes, {model_name} knows {nc}; both must agree",
                train.names.len()
            )));
        }
        floors::check(&job.floors, &val)?;
        let default = if job.model.is_none() { demo::SIDE } else { model.info.imgsz.unwrap_or(640) };
        let imgsz = check_side(job.imgsz.unwrap_or(default), model.graph.stride())
            .map_err(|e| PipelineError::Setting(e.to_string()))?;
        let groups = groups(&model.graph);
        Ok(Self {
            model,
            model_name,
            model_hash,
            groups,
            train,
            val,
            data_name,
            imgsz,
            images: Vec::new(),
            labels: Vec::new(),
            calibration_items: Vec::new(),
            classes: Vec::new(),
            calibration_hash: String::new(),
            train_content: OnceLock::new(),
            sensitivity: Sensitivity::default(),
            dtype: job.dtype,
            cpu: cpu(job),
            ranges: Ranges::default(),
        })
    }

    /// Loads the calibration images, and finds out how the outputs depend on the layers.
    pub(super) fn prepare(mut self, job: &Job, tell: Listener) -> Result<Self, PipelineError> {
        let source = &mut self;
        let preprocess =
            Preprocess::new(&source.model).map_err(|e| PipelineError::Input(format!("{}: {e}", source.model_name)))?;
        source.calibrate(job, &preprocess, tell)?;
        if job.dtype == Dtype::F16 && !source.cpu.f16 {
            tell(Event::Note(
                "the processor has no half-precision arithmetic: f16 is stored, and computed as f32".into(),
            ));
        }
        if job.dtype == Dtype::Int8 {
            source.ranges = source.ranges_of(&source.model)?;
        }
        tell(Event::Stage(
            "Probing",
            format!("how the outputs depend on {} layers", source.model.graph.convs().count()),
        ));
        let mut progress = |done, all| tell(Event::Progress(done, all));
        let (height, width) = (source.imgsz, source.imgsz);
        let images = Batches { images: &source.images, height, width, batch: PROBE_BATCH, device: &Device::Cpu };
        source.sensitivity = sensitivity(&source.model, &images, job.seed, &mut progress)
            .map_err(PipelineError::stage("sensitivity"))?;
        Ok(self)
    }

    /// Chooses and loads the calibration images. Where there are fewer than asked for, mirrored ones join them, if objects
    /// may be mirrored.
    fn calibrate(&mut self, job: &Job, preprocess: &Preprocess, tell: Listener) -> Result<(), PipelineError> {
        let all = self.train.items.len();
        let asked = self.affordable(job.calibration_images, tell)?.max(1);
        let count = asked.min(all);
        tell(Event::Stage("Loading", format!("{count} of {all} training images for calibration")));
        let mut chosen = sample(&mut StdRng::seed_from_u64(job.seed), all, count).into_vec();
        chosen.sort_unstable();
        self.calibration_items.clone_from(&chosen);
        for (done, index) in chosen.iter().enumerate() {
            let item = &self.train.items[*index];
            let image = item.image.load().map_err(|e| PipelineError::Input(e.to_string()))?;
            let side = self.imgsz;
            let mut tensor = vec![0.0; preprocess.channels() * side * side];
            let letterbox = preprocess.write(&image, side, &mut tensor);
            if matches!(self.model.graph.head, Head::Classify { .. }) {
                self.classes.push(item.class().ok_or_else(|| {
                    PipelineError::Input(format!("{} has no class as a whole", item.image.display()))
                })?);
            }
            let (w, h, n) = (image.width() as f32, image.height() as f32, side as f32);
            let labels = item.labels.iter().map(|label| {
                let half = [label.w / 2.0, label.h / 2.0];
                let corners = [
                    (label.cx - half[0]) * w,
                    (label.cy - half[1]) * h,
                    (label.cx + half[0]) * w,
                    (label.cy + half[1]) * h,
                ];
                let [x0, y0, x1, y1] = letterbox.to_input(Xyxy(corners)).0;
                Target {
                    image: 0,
                    class: label.class,
                    bbox: NormalisedXywh([(x0 + x1) / 2.0 / n, (y0 + y1) / 2.0 / n, (x1 - x0) / n, (y1 - y0) / n]),
                }
            });
            self.labels.push(labels.collect());
            self.images.push(tensor);
            tell(Event::Progress(done + 1, count));
        }
        if self.augment().mirror > 0.0 && self.classes.is_empty() {
            self.mirror(asked - count);
        }
        let mut digest = Sha256::new();
        self.images.iter().for_each(|image| digest.update(bytemuck::cast_slice::<f32, u8>(image)));
        self.calibration_hash = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(())
    }

    /// Puts the mirror image behind each of the first `more` calibration images, or behind all if there are fewer.
    fn mirror(&mut self, more: usize) {
        let (images, labels) = (std::mem::take(&mut self.images), std::mem::take(&mut self.labels));
        for (number, (image, labels)) in images.into_iter().zip(labels).enumerate() {
            let mirrored = (number < more).then(|| {
                let rows = image.chunks_exact(self.imgsz);
                let other_side = |target: &Target| Target { bbox: target.bbox.mirrored(), ..*target };
                let image: Vec<f32> = rows.flat_map(|row| row.iter().rev().copied()).collect();
                (image, labels.iter().map(other_side).collect::<Vec<_>>())
            });
            for (image, labels) in std::iter::once((image, labels)).chain(mirrored) {
                self.images.push(image);
                self.labels.push(labels);
            }
        }
    }

    /// How many of the images that are asked for this machine's memory can hold, with the tensors that live at one time while
    /// the baseline and the cut network walk through all of them.
    fn affordable(&self, asked: usize, tell: Listener) -> Result<usize, PipelineError> {
        let live = memory::live_sets(&self.model.graph, &self.groups, self.imgsz, self.imgsz)
            .map_err(PipelineError::stage("memory"))?;
        let full = |group| self.groups.group(group).width();
        let tensors = live.iter().map(|set| set.bytes(full)).fold(0.0, f64::max);
        let image = (size_of::<f32>() * self.model.graph.input_channels() * self.imgsz * self.imgsz) as f64;
        let each = NETWORKS * tensors + image;
        let Some(total) = board::total_memory(Path::new("/")) else { return Ok(asked) };
        let most = ((CALIBRATION_SHARE * total / each) as usize).max(LEAST_IMAGES);
        if most < asked {
            tell(Event::Note(format!("{most} calibration images in place of {asked}: more would not fit into memory")));
        }
        Ok(asked.min(most))
    }

    fn ranges_of(&self, model: &Model) -> Result<Ranges, PipelineError> {
        let step = (self.images.len() / RANGE_IMAGES).max(1);
        let images: Vec<_> = self.images.iter().step_by(step).take(RANGE_IMAGES).cloned().collect();
        quantise::ranges(model, &images, (self.imgsz, self.imgsz), &mut |_, _| ())
            .map_err(PipelineError::stage("ranges"))
    }

    /// A model of the job as the device runs it, for its time and its size: its layers' inputs are rounded as the baseline
    /// model's are.
    pub fn on_device<'a>(&self, model: &'a Model) -> Cow<'a, Model> {
        match self.dtype {
            Dtype::F32 => Cow::Borrowed(model),
            Dtype::F16 => Cow::Owned(quantise::to_f16(model)),
            Dtype::Int8 => Cow::Owned(quantise::quantise(model, &self.ranges)),
        }
    }

    /// The structure of the baseline model as the device runs it.
    pub fn graph_on_device(&self) -> Graph {
        let stored = self.dtype == Dtype::F16 && !self.cpu.f16;
        Graph { dtype: if stored { Dtype::F32 } else { self.dtype }, ..self.model.graph.clone() }
    }

    /// What the engine will hold for a model in the numbers that it ships in, bytes.
    pub fn memory(&self, model: &Model, threads: usize) -> Result<usize, PipelineError> {
        let options = Options { threads, ..Options::default() };
        let memory = plan_memory_for(&model.graph, self.imgsz, self.imgsz, &options, self.cpu);
        Ok(memory.map_err(PipelineError::stage("memory"))?.total())
    }

    /// A model of the job in the numbers that it ships in, rounded as its own layers need it; none where that is f32.
    pub fn rounded(&self, model: &Model) -> Result<Option<Model>, PipelineError> {
        Ok(match self.dtype {
            Dtype::F32 => None,
            Dtype::F16 => Some(quantise::to_f16(model)),
            Dtype::Int8 => Some(quantise::quantise(model, &self.ranges_of(model)?)),
        })
    }

    /// The labels of a calibration image, as of a batch of one.
    pub fn targets(&self, image: usize) -> Vec<Target> {
        self.labels[image].clone()
    }

    /// The class of a calibration image; none for a detector.
    pub fn class(&self, image: usize) -> Option<usize> {
        self.classes.get(image).copied()
    }

    /// How training images are varied.
    pub fn augment(&self) -> Augment {
        if self.model.graph.input_channels() == 1 { Augment::SIGNS } else { Augment::default() }
    }

    /// The calibration images as the repair wants them.
    pub fn calibration(&self, job: &Job) -> Calibration<'_> {
        Calibration {
            images: &self.images,
            height: self.imgsz,
            width: self.imgsz,
            ridge: RIDGE,
            seed: job.seed,
            sensitivity: Some(&self.sensitivity),
        }
    }

    /// Identifies the training data, pictures and labels.
    ///
    /// # Errors
    /// Names the picture that cannot be read.
    pub fn train_content(&self) -> Result<String, PipelineError> {
        if let Some(known) = self.train_content.get() {
            return Ok(known.clone());
        }
        let found = self.train.content().map_err(|e| PipelineError::Input(e.to_string()))?;
        Ok(self.train_content.get_or_init(|| found).clone())
    }

    /// What a ranking and its losses depend on: the model, the calibration images, their labels where the criterion reads
    /// them, and how it is done.
    pub(super) fn importance_key(&self, job: &Job, criterion: Criterion, sampling: &Sampling) -> String {
        let labels = criterion.needs_gradients().then(|| format!("{:?} {:?}", self.labels, self.classes));
        let labels = labels.map(|text| sha256(text.as_bytes()));
        let model = train::content(&self.model);
        cache::key(&[&model, &self.imgsz, &self.calibration_hash, &labels, &criterion, &job.seed, sampling, &RIDGE])
    }

    /// Writes into a model where it came from and what was done to it.
    pub fn sign(&self, mut model: Model, job: &Job, report: &Report) -> Model {
        let facts = [
            ("source", self.model_name.clone()),
            ("source-sha256", self.model_hash.clone()),
            ("secateurs", report.version.clone()),
            ("target", job.target.clone()),
            ("importance", report.importance.clone()),
            ("seed", job.seed.to_string()),
        ];
        model.info.provenance.extend(facts.map(|(key, value)| (key.to_owned(), value)));
        model.info.imgsz = Some(self.imgsz);
        if model.info.names.is_empty() {
            model.info.names = self.train.names.clone();
        }
        model
    }
}

/// The processor that memory is planned for. Whether it computes in halves a board tells itself; without one, a profile
/// that asks for them is taken at its word.
fn cpu(job: &Job) -> Cpu {
    let halves = match &job.timing {
        Timing::Here => return Cpu::here(),
        Timing::Device(session) => session.board().halves,
        Timing::Command(..) | Timing::Estimate(_) => true,
    };
    Cpu { f16: halves, ..Cpu::here() }
}

/// A drawn dataset, made once in a folder that is kept: its `data.yaml`. Pictures and labels that are not as they were
/// drawn are drawn again.
///
/// # Errors
/// If the folder cannot be written.
pub fn drawn(cache: &Path, train: usize, val: usize, tell: Listener) -> Result<PathBuf, PipelineError> {
    let folder = cache.join(format!("drawn-{}-{train}-{val}", demo::SIDE));
    let (yaml, again) = demo::ensure(&folder, train, val).map_err(|e| match e {
        DataError::Io { path, source } => PipelineError::writing(&path, &source),
        other => PipelineError::Input(other.to_string()),
    })?;
    if again > 0 {
        let place = folder.display();
        tell(Event::Note(format!("{place}: {again} pictures were missing or changed; they are drawn again")));
    }
    Ok(yaml)
}
