//! Where the targets keep their files.

use crate::harness::{Bench, ended};
use crate::seeds;
use std::fs;
use std::path::PathBuf;

/// Where a target keeps its files, made once.
#[derive(Default)]
pub struct Place {
    pub folder: PathBuf,
    bench: Option<Bench>,
    model: Vec<u8>,
}

impl Place {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, ..Self::default() }
    }

    /// Writes a file, and says where it is.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.join(name);
        if !path.parent().unwrap().exists() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A dataset with one picture.
    pub fn dataset(&self) -> PathBuf {
        let yaml = self.folder.join("set/data.yaml");
        if !yaml.exists() {
            self.file("set/images/train/0.png", &seeds::images()[2]);
            self.file("set/labels/train/0.txt", &seeds::labels()[0]);
            self.file("set/list.txt", &seeds::lists()[0]);
            self.file("set/data.yaml", &seeds::datasets()[0]);
        }
        yaml
    }

    /// A job's results and its cache, and the model file that the job wrote.
    pub fn bench(&mut self) -> (&Bench, &[u8]) {
        if self.bench.is_none() {
            let bench = Bench::new();
            let (code, text) = ended(&bench.prune(0.3, "out", "cache").output().unwrap());
            assert_eq!(code, 0, "{text}");
            self.model = fs::read(bench.path("out/model.safetensors")).unwrap();
            self.bench = Some(bench);
        }
        (self.bench.as_ref().unwrap(), &self.model)
    }
}
