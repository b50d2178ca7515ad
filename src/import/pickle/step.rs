//! What each instruction does to the stack.

use super::limits::MAX_VALUES;
use super::opcode::*;
use super::stack::{Machine, Stop};
use super::value::{Ref, Value};

impl Machine<'_> {
    /// Executes one instruction; the result of the pickle at its end.
    pub(super) fn step(&mut self) -> Result<Option<Ref>, Stop> {
        let op = self.byte()?;
        match op {
            // The limits hold whatever PROTO and FRAME announce.
            PROTO => match self.byte()? {
                2..=5 => {}
                other => return Err(Stop::Broken(format!("protocol {other}, expected 2 to 5"))),
            },
            FRAME => {
                self.take(8)?;
            }
            STOP => return self.pop().map(Some),
            MARK => {
                if self.marks.len() >= MAX_VALUES {
                    return Err("more marks than a checkpoint has".into());
                }
                self.marks.push(self.stack.len());
            }
            POP => drop(self.pop()?),
            POP_MARK => drop(self.pop_mark()?),
            DUP => {
                let top = self.top()?;
                self.push_ref(top)?;
            }
            NONE | NEWTRUE | NEWFALSE | BININT | BININT1 | BININT2 | LONG1 | LONG4 | BINFLOAT => self.scalar(op)?,
            BINUNICODE | SHORT_BINUNICODE | BINUNICODE8 | SHORT_BINSTRING | BINSTRING => self.text(op)?,
            SHORT_BINBYTES | BINBYTES | BINBYTES8 | BYTEARRAY8 => {
                let len = self.length(op)?;
                self.take(len)?;
                self.push(Value::Bytes)?;
            }
            BINPUT | LONG_BINPUT | MEMOIZE => self.memo_put(op)?,
            BINGET | LONG_BINGET => self.memo_get(op)?,
            EMPTY_LIST | EMPTY_TUPLE | EMPTY_SET | EMPTY_DICT | LIST | TUPLE | TUPLE1 | TUPLE2 | TUPLE3 | FROZENSET
            | DICT => self.container(op)?,
            APPEND | APPENDS | ADDITEMS | SETITEM | SETITEMS => self.fill(op)?,
            GLOBAL | STACK_GLOBAL => self.global(op)?,
            REDUCE | NEWOBJ | NEWOBJ_EX => {
                // The keyword arguments of NEWOBJ_EX are of no interest.
                if op == NEWOBJ_EX {
                    self.pop()?;
                }
                let args = self.pop()?;
                self.apply(args)?;
            }
            BUILD => self.build()?,
            BINPERSID => self.persistent()?,
            other => {
                let shown = if other.is_ascii_graphic() { format!(" (`{}`)", other as char) } else { String::new() };
                return Err(Stop::Broken(format!("instruction 0x{other:02x}{shown}, which checkpoints do not use")));
            }
        }
        Ok(None)
    }

    /// Pushes a new list, tuple, set or dictionary.
    fn container(&mut self, op: u8) -> Result<(), Stop> {
        match op {
            EMPTY_LIST | EMPTY_TUPLE | EMPTY_SET => self.push(Value::List(Vec::new())),
            EMPTY_DICT => self.push(Value::Dict(Vec::new())),
            TUPLE1 | TUPLE2 | TUPLE3 => {
                let from = self.room(usize::from(op - TUPLE1) + 1)?;
                let items = self.stack.split_off(from);
                self.push_list(items)
            }
            DICT => {
                let items = self.pop_mark()?;
                self.push(Value::Dict(Vec::new()))?;
                self.set_items(items)
            }
            _ => {
                let items = self.pop_mark()?;
                self.push_list(items)
            }
        }
    }

    /// Adds items to the container below them.
    fn fill(&mut self, op: u8) -> Result<(), Stop> {
        match op {
            APPEND => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            SETITEM => {
                let from = self.room(2)?;
                let items = self.stack.split_off(from);
                self.set_items(items)
            }
            SETITEMS => {
                let items = self.pop_mark()?;
                self.set_items(items)
            }
            _ => {
                let items = self.pop_mark()?;
                self.append(items)
            }
        }
    }

    /// Pushes `None`, a boolean or a number.
    fn scalar(&mut self, op: u8) -> Result<(), Stop> {
        let value = match op {
            NONE => Value::None,
            NEWTRUE | NEWFALSE => Value::Bool(op == NEWTRUE),
            BININT1 => Value::Int(i64::from(self.byte()?)),
            BININT2 => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            BININT => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            BINFLOAT => Value::Float(f64::from_be_bytes(self.array()?)),
            _ => {
                let len = if op == LONG1 { u32::from(self.byte()?) } else { self.u32()? };
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
            BINPUT => u32::from(self.byte()?),
            LONG_BINPUT => self.u32()?,
            _ => self.memo.len() as u32,
        };
        if self.memo.len() >= MAX_VALUES {
            return Err("more memo entries than a checkpoint has".into());
        }
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn memo_get(&mut self, op: u8) -> Result<(), Stop> {
        let key = if op == BINGET { u32::from(self.byte()?) } else { self.u32()? };
        let value = *self.memo.get(&key).ok_or_else(|| Stop::Broken(format!("memo {key} was never set")))?;
        self.push_ref(value)
    }

    /// The length prefix of a text or of bytes.
    fn length(&mut self, op: u8) -> Result<usize, Stop> {
        let length = match op {
            SHORT_BINUNICODE | SHORT_BINSTRING | SHORT_BINBYTES => u64::from(self.byte()?),
            BINUNICODE | BINSTRING | BINBYTES => u64::from(self.u32()?),
            _ => u64::from_le_bytes(self.array()?),
        };
        usize::try_from(length).map_err(|_| Stop::Broken(format!("a length of {length}")))
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
