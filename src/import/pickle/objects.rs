//! Names, and what "calling" them gives: an inert value, never a call.

use super::globals::{self, Origin};
use super::limits::{MAX_AXES, MAX_NAME};
use super::opcode::GLOBAL;
use super::stack::{Machine, Stop};
use super::value::{Heap, Kind, Object, Ref, Storage, TensorView, Value};
use std::sync::Arc;

impl Machine<'_> {
    /// Pushes a name of the allow-list.
    pub(super) fn global(&mut self, op: u8) -> Result<(), Stop> {
        let (module, name): (Arc<str>, Arc<str>) = if op == GLOBAL {
            (self.line()?.into(), self.line()?.into())
        } else {
            let name = self.pop()?;
            let module = self.pop()?;
            match (self.heap.shared_text(module), self.heap.shared_text(name)) {
                (Some(module), Some(name)) => (module.clone(), name.clone()),
                _ => return Err("a global whose name is not a text".into()),
            }
        };
        if module.len() > MAX_NAME || name.len() > MAX_NAME {
            return Err(Stop::Broken(format!("the name of a global is longer than {MAX_NAME} bytes")));
        }
        let shown = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
        let global = globals::allowed(&module, &name).ok_or_else(|| {
            let global = format!("{}.{}", shown(&module), shown(&name));
            match globals::origin(&module, &name) {
                Origin::Code => Stop::Refused(global),
                Origin::Foreign => Stop::Foreign(global),
                Origin::Yolov5 => Stop::Yolov5(global),
            }
        })?;
        self.push(Value::Global(global.into()))
    }

    /// Records that the callable below the top would have been applied to `args`.
    pub(super) fn apply(&mut self, args: Ref) -> Result<(), Stop> {
        let class = self.pop()?;
        let Value::Global(global) = self.heap.at(class) else {
            return Err(Stop::Broken(format!("calls {}", self.heap.describe(class))));
        };
        let Some(given) = self.heap.list(args) else {
            return Err("calls with arguments that are not a tuple".into());
        };
        let first = given.first().copied();
        match global.kind {
            Kind::Dict => self.push(Value::Dict(Vec::new())),
            Kind::Items => {
                let items = first.and_then(|f| self.heap.list(f)).map(<[Ref]>::to_vec).unwrap_or_default();
                self.push_list(items)
            }
            Kind::First => self.push_ref(first.ok_or("rebuilds a parameter from nothing")?),
            Kind::Tensor => {
                let view = tensor(&self.heap, given)?;
                self.push(Value::Tensor(view.into()))
            }
            Kind::Storage(_) => Err("makes a storage of its own".into()),
            Kind::Class => self.push(Value::Object(Object { class, state: None }.into())),
        }
    }

    pub(super) fn build(&mut self) -> Result<(), Stop> {
        let state = self.pop()?;
        let object = self.top()?;
        match &mut self.heap.values[object.0 as usize] {
            Value::Object(object) => object.state = Some(state),
            // Attributes of an ordered dictionary or of a tensor: of no interest.
            Value::Dict(_) | Value::List(_) | Value::Tensor(_) => {}
            _ => return Err(Stop::Broken(format!("gives attributes to {}", self.heap.describe(object)))),
        }
        Ok(())
    }

    /// A storage: `("storage", class, key, device, length)`.
    pub(super) fn persistent(&mut self) -> Result<(), Stop> {
        let id = self.pop()?;
        let storage = match self.heap.list(id) {
            Some([tag, class, key, _, len]) if self.heap.text(*tag) == Some("storage") => {
                let dtype = match self.heap.at(*class) {
                    Value::Global(global) => match global.kind {
                        Kind::Storage(dtype) => Some(dtype),
                        _ => None,
                    },
                    _ => None,
                };
                let key = self.heap.shared_text(*key).cloned();
                if key.as_ref().is_some_and(|key| key.len() > MAX_NAME) {
                    return Err(Stop::Broken(format!("the name of a storage is longer than {MAX_NAME} bytes")));
                }
                let len = self.heap.int(*len).and_then(|n| u64::try_from(n).ok());
                dtype.zip(key).zip(len).map(|((dtype, key), len)| Storage { dtype, key, len })
            }
            _ => None,
        };
        self.push(Value::Storage(storage.ok_or("a persistent id that is not a storage")?.into()))
    }
}

/// The view that `_rebuild_tensor_v2(storage, offset, size, stride, …)` describes; bounds are checked when it is read.
fn tensor(heap: &Heap, args: &[Ref]) -> Result<TensorView, Stop> {
    let [storage, offset, shape, strides, ..] = args else {
        return Err("rebuilds a tensor from too few arguments".into());
    };
    let Value::Storage(storage) = heap.at(*storage) else {
        return Err(Stop::Broken(format!("rebuilds a tensor from {}", heap.describe(*storage))));
    };
    let natural = |at: Ref| heap.int(at).and_then(|n| u64::try_from(n).ok());
    let naturals = |at: Ref| {
        let items = heap.list(at).filter(|items| items.len() <= MAX_AXES)?;
        items.iter().map(|i| natural(*i)).collect::<Option<Vec<_>>>()
    };
    let (Some(offset), Some(shape), Some(strides)) = (natural(*offset), naturals(*shape), naturals(*strides)) else {
        return Err(Stop::Broken(format!(
            "a tensor whose offset, sizes or strides are not at most {MAX_AXES} natural numbers"
        )));
    };
    if shape.len() != strides.len() {
        return Err(Stop::Broken(format!("a tensor with {} sizes and {} strides", shape.len(), strides.len())));
    }
    Ok(TensorView { storage: (**storage).clone(), offset, shape, strides })
}
