//! A restricted pickle reader: builds inert values and runs nothing.
//!
//! A pickle is a program for a small stack machine. The dangerous instructions are those that look a name up and call
//! it; here a name must be on an allow-list (`globals`), and "calling" it only records that it would have been called.
//! Memory is bounded, however the pickle repeats itself: values are shared by position and texts by reference, names and
//! keys have a greatest length, and all values together may take [`MAX_VALUES`] places and [`MAX_BYTES`]. Protocols 2 to 5, the instructions that PyTorch and Python's own pickler write.

mod globals;
mod value;

pub use value::{Dtype, Heap, Ref, Storage, TensorView, Value};

use super::error::Fault;
use globals::{Kind, Origin};
use std::collections::HashMap;
use std::sync::Arc;
use value::Object;

/// The longest pickle that is read.
pub const MAX_PICKLE: usize = 32 << 20;

/// The most values, and the most references between them, in one pickle.
pub const MAX_VALUES: usize = 2 << 20;

/// The most bytes that all values and their references may take.
pub const MAX_BYTES: usize = 256 << 20;

/// The longest name of a module, a class, a storage or a tensor, bytes.
pub const MAX_NAME: usize = 200;

/// The most axes of a tensor.
const MAX_AXES: usize = 8;

/// Reads a pickle: all its values, and which of them is the result.
///
/// # Errors
/// Names the byte at which the pickle is broken, too large, or asks for a name that is not allowed.
pub fn parse(bytes: &[u8]) -> Result<(Heap, Ref), Fault> {
    if bytes.len() > MAX_PICKLE {
        return Err(Fault::Pickle {
            offset: 0,
            problem: format!("is {} bytes, the limit is {MAX_PICKLE}", bytes.len()),
        });
    }
    let mut machine = Machine { bytes, ..Machine::default() };
    loop {
        let start = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(result)) => return Ok((machine.heap, result)),
            Err(Stop::Refused(global)) => return Err(Fault::Refused { offset: start, global }),
            Err(Stop::Foreign(global)) => return Err(Fault::Foreign { offset: start, global }),
            Err(Stop::Yolov5(global)) => {
                let found = format!("a checkpoint of the programs of YOLOv5 and YOLOv7 (it asks for `{global}`)");
                return Err(Fault::Unsupported { found });
            }
            Err(Stop::Broken(problem)) => return Err(Fault::Pickle { offset: start, problem }),
        }
    }
}

enum Stop {
    Broken(String),
    Refused(String),
    Foreign(String),
    Yolov5(String),
}

impl From<&str> for Stop {
    fn from(problem: &str) -> Self {
        Self::Broken(problem.into())
    }
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    heap: Heap,
    stack: Vec<Ref>,
    marks: Vec<usize>,
    memo: HashMap<u32, Ref>,
    /// References held by containers.
    links: usize,
    /// Bytes that values and references take.
    held: usize,
}

impl Machine<'_> {
    /// Executes one instruction; the result of the pickle at its end.
    fn step(&mut self) -> Result<Option<Ref>, Stop> {
        let op = self.byte()?;
        match op {
            // PROTO, FRAME: nothing to do, the limits hold anyway.
            0x80 => match self.byte()? {
                2..=5 => {}
                other => return Err(Stop::Broken(format!("protocol {other}, expected 2 to 5"))),
            },
            0x95 => {
                self.take(8)?;
            }
            b'.' => return self.pop().map(Some),
            b'(' => {
                if self.marks.len() >= MAX_VALUES {
                    return Err("more marks than a checkpoint has".into());
                }
                self.marks.push(self.stack.len());
            }
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?;
                self.push_ref(top)?;
            }
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'K' | b'M' | b'J' | 0x8a | 0x8b | b'G' => self.number(op)?,
            b'X' | 0x8c | 0x8d | b'U' | b'T' => self.text(op)?,
            b'C' | b'B' | 0x8e | 0x96 => {
                let len = self.length(op)?;
                self.take(len)?;
                self.push(Value::Bytes)?;
            }
            b'q' | b'r' | 0x94 => self.memo_put(op)?,
            b'h' | b'j' => {
                let key = if op == b'h' { u32::from(self.byte()?) } else { self.u32()? };
                let value = *self.memo.get(&key).ok_or_else(|| Stop::Broken(format!("memo {key} was never set")))?;
                self.push_ref(value)?;
            }
            b']' | b')' | 0x8f => self.push(Value::List(Vec::new()))?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b't' | b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.push_list(items)?;
            }
            0x85..=0x87 => {
                let count = usize::from(op - 0x84);
                let from = self.room(count)?;
                let items = self.stack.split_off(from);
                self.push_list(items)?;
            }
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Value::Dict(Vec::new()))?;
                self.set_items(items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let from = self.room(2)?;
                let items = self.stack.split_off(from);
                self.set_items(items)?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(items)?;
            }
            b'c' | 0x93 => self.global(op)?,
            b'R' | 0x81 => {
                let args = self.pop()?;
                self.apply(args)?;
            }
            0x92 => {
                // NEWOBJ_EX: keyword arguments are of no interest.
                self.pop()?;
                let args = self.pop()?;
                self.apply(args)?;
            }
            b'b' => self.build()?,
            b'Q' => self.persistent()?,
            other => {
                let shown = if other.is_ascii_graphic() { format!(" (`{}`)", other as char) } else { String::new() };
                return Err(Stop::Broken(format!("instruction 0x{other:02x}{shown}, which checkpoints do not use")));
            }
        }
        Ok(None)
    }

    fn take(&mut self, len: usize) -> Result<&[u8], Stop> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            let left = self.bytes.len() - self.at;
            return Err(Stop::Broken(format!("ends early: {len} more bytes expected, {left} are left")));
        };
        let found = &self.bytes[self.at..end];
        self.at = end;
        Ok(found)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, Stop> {
        self.array().map(u32::from_le_bytes)
    }

    /// The length prefix of a text or of bytes.
    fn length(&mut self, op: u8) -> Result<usize, Stop> {
        let length = match op {
            0x8c | b'U' | b'C' => u64::from(self.byte()?),
            b'X' | b'T' | b'B' => u64::from(self.u32()?),
            _ => u64::from_le_bytes(self.array()?),
        };
        usize::try_from(length).map_err(|_| Stop::Broken(format!("a length of {length}")))
    }

    fn number(&mut self, op: u8) -> Result<(), Stop> {
        let value = match op {
            b'K' => Value::Int(i64::from(self.byte()?)),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            b'G' => Value::Float(f64::from_be_bytes(self.array()?)),
            _ => {
                let len = if op == 0x8a { u32::from(self.byte()?) } else { self.u32()? };
                long(self.take(len as usize)?)
            }
        };
        self.push(value)
    }

    fn text(&mut self, op: u8) -> Result<(), Stop> {
        let len = self.length(op)?;
        let text = String::from_utf8_lossy(self.take(len)?).into_owned();
        self.push(Value::Str(text.into()))
    }

    fn memo_put(&mut self, op: u8) -> Result<(), Stop> {
        let key = match op {
            b'q' => u32::from(self.byte()?),
            b'r' => self.u32()?,
            _ => self.memo.len() as u32,
        };
        if self.memo.len() >= MAX_VALUES {
            return Err("more memo entries than a checkpoint has".into());
        }
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn push(&mut self, value: Value) -> Result<(), Stop> {
        if self.heap.values.len() >= MAX_VALUES {
            return Err(Stop::Broken(format!("more than {MAX_VALUES} values")));
        }
        self.hold(value.bytes())?;
        let at = Ref(self.heap.values.len() as u32);
        self.heap.values.push(value);
        self.push_ref(at)
    }

    fn push_ref(&mut self, value: Ref) -> Result<(), Stop> {
        if self.stack.len() >= MAX_VALUES {
            return Err(Stop::Broken(format!("more than {MAX_VALUES} values on the stack")));
        }
        self.stack.push(value);
        Ok(())
    }

    fn push_list(&mut self, items: Vec<Ref>) -> Result<(), Stop> {
        self.link(items.len())?;
        self.push(Value::List(items))
    }

    fn link(&mut self, count: usize) -> Result<(), Stop> {
        self.links += count;
        if self.links > MAX_VALUES {
            return Err(Stop::Broken(format!("more than {MAX_VALUES} references between values")));
        }
        // A growing list has up to twice the room that it needs.
        self.hold(2 * count * size_of::<Ref>())
    }

    /// Counts bytes before they are allocated for good.
    fn hold(&mut self, bytes: usize) -> Result<(), Stop> {
        self.held = self.held.saturating_add(bytes);
        if self.held > MAX_BYTES {
            return Err(Stop::Broken(format!("values of more than {MAX_BYTES} bytes")));
        }
        Ok(())
    }

    /// The stack's length without its last `count` values, which lie above the last mark.
    fn room(&self, count: usize) -> Result<usize, Stop> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let from = self.stack.len().checked_sub(count).filter(|from| *from >= floor);
        from.ok_or_else(|| "the stack is empty".into())
    }

    fn pop(&mut self) -> Result<Ref, Stop> {
        self.room(1)?;
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn top(&self) -> Result<Ref, Stop> {
        let from = self.room(1)?;
        Ok(self.stack[from])
    }

    fn pop_mark(&mut self) -> Result<Vec<Ref>, Stop> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        if mark > self.stack.len() {
            return Err("a mark lies above the stack".into());
        }
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, items: Vec<Ref>) -> Result<(), Stop> {
        self.link(items.len())?;
        let list = self.top()?;
        match &mut self.heap.values[list.0 as usize] {
            Value::List(all) => all.extend(items),
            Value::Object(_) => {}
            _ => return Err(Stop::Broken(format!("appends to {}", self.heap.describe(list)))),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Ref>) -> Result<(), Stop> {
        self.link(items.len())?;
        if !items.len().is_multiple_of(2) {
            return Err("a key without a value".into());
        }
        let dict = self.top()?;
        match &mut self.heap.values[dict.0 as usize] {
            Value::Dict(all) => all.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            Value::Object(_) => {}
            _ => return Err(Stop::Broken(format!("sets an item of {}", self.heap.describe(dict)))),
        }
        Ok(())
    }

    fn global(&mut self, op: u8) -> Result<(), Stop> {
        let (module, name): (Arc<str>, Arc<str>) = if op == b'c' {
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

    fn line(&mut self) -> Result<String, Stop> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(MAX_NAME + 1).position(|b| *b == b'\n').ok_or_else(|| {
            Stop::Broken(format!("the name of a global has no end, or is longer than {MAX_NAME} bytes"))
        })?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        self.at += end + 1;
        Ok(line)
    }

    /// Records that the callable below the top would have been applied to `args`.
    fn apply(&mut self, args: Ref) -> Result<(), Stop> {
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

    fn build(&mut self) -> Result<(), Stop> {
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
    fn persistent(&mut self) -> Result<(), Stop> {
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

/// A little-endian two's-complement integer of any length.
fn long(bytes: &[u8]) -> Value {
    let negative = bytes.last().is_some_and(|b| *b >= 0x80);
    if bytes.len() <= 8 {
        let mut full = [if negative { 0xff } else { 0 }; 8];
        full[..bytes.len()].copy_from_slice(bytes);
        return Value::Int(i64::from_le_bytes(full));
    }
    let unsigned = bytes.iter().rev().fold(0.0, |sum, b| sum * 256.0 + f64::from(*b));
    let modulus = 256f64.powi(bytes.len().min(1000) as i32);
    Value::Float(if negative { unsigned - modulus } else { unsigned })
}

#[cfg(test)]
mod tests;
