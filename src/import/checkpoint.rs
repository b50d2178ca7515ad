//! Finds the network in a checkpoint: its modules by path, its tensors by state-dict name, its facts.
//!
//! A module is an inert object whose attributes hold `_modules`, `_parameters` and `_buffers`; the walk over them gives
//! the names of a state dict. Shared or circular modules cannot make the walk grow: its depth, its number of visits and
//! the number of entries it looks at are bounded.

use super::error::Fault;
use super::pickle::{Heap, Ref, TensorView, Value};
use std::cell::Cell;
use std::collections::BTreeMap;

const MAX_DEPTH: usize = 32;
const MAX_VISITS: usize = 50_000;
/// Dictionary entries that may be looked at.
const MAX_LOOKS: u64 = 50_000_000;

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
        };
        let mut candidates = vec![("checkpoint", root)];
        // As the reference does: the moving average where it is kept, otherwise the model.
        for key in ["ema", "model", "state_dict"] {
            candidates.extend(found.entry(root, key).map(|at| (key, at)));
        }
        let network = candidates.iter().find(|(_, at)| found.attributes(*at).is_some());
        if let Some((place, at)) = network.copied() {
            found.network = Some(at);
            found.walk(place, at)?;
        } else {
            let bare = candidates.iter().find_map(|(_, at)| found.bare(*at));
            let Some(bare) = bare else {
                return Err(Fault::checkpoint(
                    "data.pkl",
                    format!(
                        "holds {}, expected a dictionary with a network under `model` or `ema`",
                        heap.describe(root)
                    ),
                ));
            };
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

    /// A dictionary of names and tensors, as `state_dict()` gives it.
    fn bare(&self, at: Ref) -> Option<BTreeMap<String, &'a TensorView>> {
        let entries = self.heap.dict(at)?;
        let tensors = entries.iter().filter_map(|(key, value)| match self.heap.at(*value) {
            Value::Tensor(view) => Some((self.heap.text(*key)?.to_owned(), &**view)),
            _ => None,
        });
        Some(tensors.collect::<BTreeMap<_, _>>()).filter(|found| !found.is_empty())
    }

    fn walk(&mut self, place: &str, network: Ref) -> Result<(), Fault> {
        let mut todo = vec![(String::new(), network, 0)];
        while let Some((path, module, depth)) = todo.pop() {
            let shown = || if path.is_empty() { place.to_owned() } else { path.clone() };
            if depth > MAX_DEPTH || self.modules.len() >= MAX_VISITS || self.looks.get() == 0 {
                return Err(Fault::checkpoint(shown(), "modules are nested without end"));
            }
            let Some(attributes) = self.attributes(module) else {
                return Err(Fault::checkpoint(
                    shown(),
                    format!("is {}, expected a module", self.heap.describe(module)),
                ));
            };
            let below = |key: Ref| match (self.heap.text(key), path.as_str()) {
                (Some(name), _) if name.len() > 200 => Err("a module's name is longer than 200 bytes".to_owned()),
                (Some(name), "") => Ok(name.to_owned()),
                (Some(name), path) => Ok(format!("{path}.{name}")),
                (None, _) => Err("a module's name is not a text".to_owned()),
            };
            for group in ["_parameters", "_buffers"] {
                for (key, value) in self.entries(attributes, group) {
                    if let Value::Tensor(view) = self.heap.at(*value) {
                        let name = below(*key).map_err(|p| Fault::checkpoint(shown(), p))?;
                        self.tensors.insert(name, view);
                    }
                }
            }
            for (key, value) in self.entries(attributes, "_modules") {
                if !matches!(self.heap.at(*value), Value::None) {
                    let name = below(*key).map_err(|p| Fault::checkpoint(shown(), p))?;
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
        self.heap.class(*module).map(|class| class.name.as_str())
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

    /// Whole numbers among a module's attributes: one, or a list.
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
