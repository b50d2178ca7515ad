//! Finds the network in a checkpoint: its modules by path, its tensors by state-dict name, its facts.
//!
//! A module is an inert object whose attributes hold `_modules`, `_parameters` and `_buffers`; the walk over them gives
//! the names of a state dict. Shared or circular modules cannot make the walk grow: its depth, its number of visits,
//! the number of entries it looks at and the bytes of all names are bounded.

use super::error::{self, Fault};
use super::pickle::{Heap, MAX_NAME, Ref, TensorView, Value};
use std::cell::Cell;
use std::collections::BTreeMap;

const MAX_DEPTH: usize = 32;
const MAX_VISITS: usize = 50_000;
/// The most tensors, and the most bytes that the paths of all modules and tensors may take together.
const MAX_TENSORS: usize = 50_000;
const MAX_PATHS: usize = 16 << 20;
/// The most classes that names are looked up for.
const MAX_CLASSES: usize = 100_000;
/// Dictionary entries that may be looked at.
const MAX_LOOKS: u64 = 50_000_000;

/// Under which keys training scripts keep a network or its tensors, averages first.
const KEYS: [&str; 10] = [
    "ema",
    "state_dict_ema",
    "model_ema",
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "net",
    "module",
    "weights",
];

/// What a checkpoint holds.
pub struct Checkpoint<'a> {
    heap: &'a Heap,
    root: Ref,
    /// The network's object; a checkpoint may also hold bare tensors.
    network: Option<Ref>,
    /// Modules by path; the network itself has the empty path.
    pub modules: BTreeMap<String, Ref>,
    /// Floating-point and integer tensors by state-dict name.
    pub tensors: BTreeMap<String, &'a TensorView>,
    looks: Cell<u64>,
    /// Bytes that further paths may take.
    paths_left: Cell<usize>,
}

impl<'a> Checkpoint<'a> {
    /// Finds the network or the bare tensors below the pickle's result.
    ///
    /// # Errors
    /// If there is neither.
    pub fn find(heap: &'a Heap, root: Ref) -> Result<Self, Fault> {
        let mut found = Self {
            heap,
            root,
            network: None,
            modules: BTreeMap::new(),
            tensors: BTreeMap::new(),
            looks: Cell::new(MAX_LOOKS),
            paths_left: Cell::new(MAX_PATHS),
        };
        let mut candidates = vec![("checkpoint", root)];
        // As the reference does: the moving average where it is kept, otherwise the model.
        for key in KEYS {
            candidates.extend(found.entry(root, key).map(|at| (key, at)));
        }
        // Some wrap what they keep once more.
        let inside = candidates[1..].iter().flat_map(|(_, at)| KEYS.iter().map(move |key| (*key, *at)));
        let wrapped: Vec<_> = inside.filter_map(|(key, at)| Some((key, found.entry(at, key)?))).collect();
        candidates.extend(wrapped);
        let network = candidates.iter().find(|(_, at)| found.attributes(*at).is_some());
        if let Some((place, at)) = network.copied() {
            found.network = Some(at);
            found.walk(place, at)?;
        } else {
            // Beside the tensors that are looked for a loss or a step may stand at the top: the largest set counts.
            let mut bare = BTreeMap::new();
            for (_, at) in &candidates {
                let tensors = found.bare(*at)?;
                if tensors.len() > bare.len() {
                    bare = tensors;
                }
            }
            if bare.is_empty() {
                return Err(Fault::checkpoint(
                    "data.pkl",
                    format!(
                        "holds {}, expected a dictionary with a network under `model` or `ema`, or with tensors by name{}",
                        heap.describe(root),
                        found.keys(root)
                    ),
                ));
            }
            found.tensors = bare;
        }
        found.check_bounds()?;
        Ok(found)
    }

    /// Whether every look-up so far was carried out.
    ///
    /// # Errors
    /// If the bound on looks was reached: what was not found may be there all the same.
    pub fn check_bounds(&self) -> Result<(), Fault> {
        if self.looks.get() == 0 {
            return Err(Fault::checkpoint("data.pkl", "has far more entries than a checkpoint"));
        }
        Ok(())
    }

    /// A dictionary of names and tensors, as `state_dict()` gives it; nothing where there is none.
    fn bare(&self, at: Ref) -> Result<BTreeMap<String, &'a TensorView>, Fault> {
        let mut found = BTreeMap::new();
        for (key, value) in self.heap.dict(at).unwrap_or_default() {
            let (Some(name), Value::Tensor(view)) = (self.heap.text(*key), self.heap.at(*value)) else { continue };
            let name = self.path("", name).map_err(|problem| Fault::checkpoint("data.pkl", problem))?;
            found.insert(name, &**view);
            check_count(found.len())?;
        }
        Ok(found)
    }

    /// A few keys of a dictionary, for a message.
    fn keys(&self, at: Ref) -> String {
        let texts = self.heap.dict(at).unwrap_or_default().iter().filter_map(|(key, _)| self.heap.text(*key));
        let keys: Vec<String> = texts.take(6).map(|key| format!("`{}`", error::shown(key))).collect();
        if keys.is_empty() { String::new() } else { format!("; its keys are {}", keys.join(", ")) }
    }

    /// The path of something below a module. All paths together are bounded, as a few shared modules can have any
    /// number.
    fn path(&self, module: &str, name: &str) -> Result<String, String> {
        let name_limit = MAX_NAME * if module.is_empty() { MAX_DEPTH } else { 1 };
        if name.len() > name_limit {
            return Err(format!("has a name of {} bytes, the limit is {name_limit}", name.len()));
        }
        let left = self.paths_left.get().checked_sub(module.len() + 1 + name.len());
        let left = left.ok_or_else(|| format!("has names of more than {MAX_PATHS} bytes in all"))?;
        self.paths_left.set(left);
        Ok(if module.is_empty() { name.to_owned() } else { format!("{module}.{name}") })
    }

    fn walk(&mut self, place: &str, network: Ref) -> Result<(), Fault> {
        let mut todo = vec![(String::new(), network, 0)];
        while let Some((path, module, depth)) = todo.pop() {
            let shown = || if path.is_empty() { place.to_owned() } else { error::shown(&path) };
            if depth > MAX_DEPTH || self.modules.len() >= MAX_VISITS || self.looks.get() == 0 {
                return Err(Fault::checkpoint(shown(), "modules are nested without end"));
            }
            let Some(attributes) = self.attributes(module) else {
                return Err(Fault::checkpoint(
                    shown(),
                    format!("is {}, expected a module", self.heap.describe(module)),
                ));
            };
            let below = |found: &Self, key: Ref| match found.heap.text(key) {
                Some(name) => found.path(&path, name),
                None => Err("has a name that is not a text".to_owned()),
            };
            for group in ["_parameters", "_buffers"] {
                for (key, value) in self.entries(attributes, group) {
                    if let Value::Tensor(view) = self.heap.at(*value) {
                        let name = below(self, *key).map_err(|p| Fault::checkpoint(shown(), p))?;
                        self.tensors.insert(name, view);
                        check_count(self.tensors.len())?;
                    }
                }
            }
            for (key, value) in self.entries(attributes, "_modules") {
                if !matches!(self.heap.at(*value), Value::None) {
                    let name = below(self, *key).map_err(|p| Fault::checkpoint(shown(), p))?;
                    todo.push((name, *value, depth + 1));
                }
                if todo.len() > MAX_VISITS {
                    return Err(Fault::checkpoint(shown(), format!("has more than {MAX_VISITS} modules")));
                }
            }
            self.modules.insert(path, module);
        }
        Ok(())
    }

    /// The attributes of a module, if the value is one.
    fn attributes(&self, at: Ref) -> Option<Ref> {
        let Value::Object(object) = self.heap.at(at) else { return None };
        let state = object.state?;
        self.entry(state, "_modules").map(|_| state)
    }

    fn entries(&self, dict: Ref, key: &str) -> &'a [(Ref, Ref)] {
        let found = self.entry(dict, key).and_then(|at| self.heap.dict(at)).unwrap_or_default();
        self.looks.set(self.looks.get().saturating_sub(found.len() as u64));
        found
    }

    /// The value of a key; the last one where a key comes twice.
    fn entry(&self, dict: Ref, key: &str) -> Option<Ref> {
        let entries = self.heap.dict(dict)?;
        self.looks.set(self.looks.get().saturating_sub(entries.len() as u64));
        if self.looks.get() == 0 {
            return None;
        }
        entries.iter().rev().find(|(k, _)| self.heap.text(*k) == Some(key)).map(|(_, value)| *value)
    }

    /// Name of a module's class.
    pub fn class(&self, path: &str) -> Option<&str> {
        let module = self.modules.get(path)?;
        self.heap.class(*module).map(|class| &*class.name)
    }

    /// An attribute of a module.
    fn attribute(&self, path: &str, name: &str) -> Option<Ref> {
        let Value::Object(object) = self.heap.at(*self.modules.get(path)?) else { return None };
        self.entry(object.state?, name)
    }

    /// A number among a module's attributes; a pair of equal numbers counts as one.
    pub fn number(&self, path: &str, name: &str) -> Option<f64> {
        let at = self.attribute(path, name)?;
        match self.heap.list(at) {
            Some([a, b]) => self.heap.number(*a).filter(|a| self.heap.number(*b) == Some(*a)),
            Some(_) => None,
            None => self.heap.number(at),
        }
    }

    /// Integers among a module's attributes: one, or a list.
    pub fn numbers(&self, path: &str, name: &str) -> Option<Vec<i64>> {
        let at = self.attribute(path, name)?;
        match self.heap.list(at) {
            Some(items) if items.len() <= 16 => items.iter().map(|i| self.heap.int(*i)).collect(),
            Some(_) => None,
            None => self.heap.int(at).map(|n| vec![n]),
        }
    }

    /// A truth value among a module's attributes.
    pub fn flag(&self, path: &str, name: &str) -> Option<bool> {
        match self.heap.at(self.attribute(path, name)?) {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A text among a module's attributes.
    pub fn text(&self, path: &str, name: &str) -> Option<&str> {
        self.heap.text(self.attribute(path, name)?)
    }

    /// A tensor among a module's attributes.
    pub fn view(&self, path: &str, name: &str) -> Option<&'a TensorView> {
        match self.heap.at(self.attribute(path, name)?) {
            Value::Tensor(view) => Some(view),
            _ => None,
        }
    }

    /// A text at the top of the checkpoint.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.heap.text(self.entry(self.root, key)?)
    }

    /// A value of the training arguments, which are a dictionary or a namespace.
    fn argument(&self, key: &str) -> Option<Ref> {
        let groups = [self.entry(self.root, "train_args"), self.network.and_then(|_| self.attribute("", "args"))];
        groups.into_iter().flatten().find_map(|group| match self.heap.at(group) {
            Value::Object(object) => self.entry(object.state?, key),
            _ => self.entry(group, key),
        })
    }

    /// The image side it was trained with.
    pub fn imgsz(&self) -> Option<usize> {
        let at = self.argument("imgsz")?;
        let one = |at| self.heap.int(at).and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=16384).contains(n));
        match self.heap.list(at) {
            Some(sides) => sides.iter().take(2).filter_map(|s| one(*s)).max(),
            None => one(at),
        }
    }

    /// The task it was trained for.
    pub fn task(&self) -> Option<&str> {
        let own = self.network.and_then(|_| self.text("", "task"));
        own.or_else(|| self.argument("task").and_then(|at| self.heap.text(at)))
    }

    /// The configuration file of the architecture.
    pub fn architecture(&self) -> Option<&str> {
        let yaml = self.network.and_then(|_| self.attribute("", "yaml"))?;
        self.heap.text(self.entry(yaml, "yaml_file")?)
    }

    /// Class names in class order for `nc` classes; a class without a name gets its number.
    pub fn names(&self, nc: usize) -> Vec<String> {
        if nc > MAX_CLASSES {
            return Vec::new();
        }
        let mut names = vec![None; nc];
        let Some(at) = self.network.and_then(|_| self.attribute("", "names")) else { return Vec::new() };
        let text = |at| self.heap.text(at).map(|t| t.chars().take(200).collect::<String>());
        if let Some(entries) = self.heap.dict(at) {
            for (key, value) in entries {
                let class = self.heap.int(*key).and_then(|k| usize::try_from(k).ok());
                if let Some(slot) = class.and_then(|k| names.get_mut(k)) {
                    *slot = text(*value);
                }
            }
        } else if let Some(items) = self.heap.list(at) {
            names.iter_mut().zip(items).for_each(|(slot, item)| *slot = text(*item));
        }
        names.into_iter().enumerate().map(|(class, name)| name.unwrap_or_else(|| format!("class {class}"))).collect()
    }
}

fn check_count(tensors: usize) -> Result<(), Fault> {
    if tensors > MAX_TENSORS {
        return Err(Fault::checkpoint("data.pkl", format!("has more than {MAX_TENSORS} tensors")));
    }
    Ok(())
}
