//! The state of the stack machine that a pickle programs, and its limits: every value, reference and byte is counted
//! before it is kept.

use super::limits::{MAX_BYTES, MAX_NAME, MAX_VALUES};
use super::value::{Heap, Ref, Value};
use std::collections::HashMap;

/// Why reading ends.
pub(super) enum Stop {
    /// The pickle is damaged, or over a limit.
    Broken(String),
    /// Asks for a name that could run something.
    Refused(String),
    /// Asks for a class of another program.
    Foreign(String),
    /// Asks for a class of YOLOv5's programs.
    Yolov5(String),
}

impl From<&str> for Stop {
    fn from(problem: &str) -> Self {
        Self::Broken(problem.into())
    }
}

/// What the reader has read so far: values, stack, marks and memo.
#[derive(Default)]
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    /// The next byte to read.
    pub at: usize,
    pub heap: Heap,
    pub stack: Vec<Ref>,
    /// Lengths of the stack where marks were set.
    pub marks: Vec<usize>,
    pub memo: HashMap<u32, Ref>,
    /// References held by containers.
    links: usize,
    /// Bytes that values and references take.
    held: usize,
}

impl<'a> Machine<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, ..Self::default() }
    }
}

impl Machine<'_> {
    pub(super) fn take(&mut self, len: usize) -> Result<&[u8], Stop> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else {
            let left = self.bytes.len() - self.at;
            return Err(Stop::Broken(format!("ends early: {len} more bytes expected, {left} are left")));
        };
        let found = &self.bytes[self.at..end];
        self.at = end;
        Ok(found)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Stop> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Stop> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn push(&mut self, value: Value) -> Result<(), Stop> {
        if self.heap.values.len() >= MAX_VALUES {
            return Err(Stop::Broken(format!("more than {MAX_VALUES} values")));
        }
        self.hold(value.bytes())?;
        let at = Ref(self.heap.values.len() as u32);
        self.heap.values.push(value);
        self.push_ref(at)
    }

    pub(super) fn push_ref(&mut self, value: Ref) -> Result<(), Stop> {
        if self.stack.len() >= MAX_VALUES {
            return Err(Stop::Broken(format!("more than {MAX_VALUES} values on the stack")));
        }
        self.stack.push(value);
        Ok(())
    }

    pub(super) fn push_list(&mut self, items: Vec<Ref>) -> Result<(), Stop> {
        self.link(items.len())?;
        self.push(Value::List(items))
    }

    pub(super) fn link(&mut self, count: usize) -> Result<(), Stop> {
        self.links += count;
        if self.links > MAX_VALUES {
            return Err(Stop::Broken(format!("more than {MAX_VALUES} references between values")));
        }
        // A growing list has up to twice the room that it needs.
        self.hold(2 * count * size_of::<Ref>())
    }

    /// Counts bytes before they are allocated for good.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), Stop> {
        self.held = self.held.saturating_add(bytes);
        if self.held > MAX_BYTES {
            return Err(Stop::Broken(format!("values of more than {MAX_BYTES} bytes")));
        }
        Ok(())
    }

    /// The stack's length without its last `count` values, which lie above the last mark.
    pub(super) fn room(&self, count: usize) -> Result<usize, Stop> {
        let mark = self.marks.last().copied().unwrap_or(0);
        let from = self.stack.len().checked_sub(count).filter(|from| *from >= mark);
        from.ok_or_else(|| "the stack is empty".into())
    }

    pub(super) fn pop(&mut self) -> Result<Ref, Stop> {
        self.room(1)?;
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    pub(super) fn top(&self) -> Result<Ref, Stop> {
        let from = self.room(1)?;
        Ok(self.stack[from])
    }

    pub(super) fn pop_mark(&mut self) -> Result<Vec<Ref>, Stop> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        if mark > self.stack.len() {
            return Err("a mark lies above the stack".into());
        }
        Ok(self.stack.split_off(mark))
    }

    /// A text up to the end of its line.
    pub(super) fn line(&mut self) -> Result<String, Stop> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(MAX_NAME + 1).position(|b| *b == b'\n').ok_or_else(|| {
            Stop::Broken(format!("the name of a global has no end, or is longer than {MAX_NAME} bytes"))
        })?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        self.at += end + 1;
        Ok(line)
    }
}
