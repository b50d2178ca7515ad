//! A restricted pickle reader: builds inert values and runs nothing.
//!
//! A pickle is a program for a small stack machine (`stack` is its state, `step` what each instruction does,
//! `opcode` their names). The dangerous instructions are those that look a name up and call it (`objects`); here a name
//! must be on an allow-list (`globals`), and "calling" it only records that it would have been called. Memory is
//! bounded (`limits`): values are shared by position and texts by reference, names and keys have a greatest length, and
//! all values together may take `MAX_VALUES` places and `MAX_BYTES`. Reads protocols 2 to 5, the instructions that
//! PyTorch and Python's own pickler write.

mod globals;
mod limits;
mod objects;
mod opcode;
mod stack;
mod step;
mod value;

pub use limits::{MAX_NAME, MAX_PICKLE};
pub use value::{Dtype, Heap, Ref, Storage, TensorView, Value};

use super::error::Fault;
use stack::{Machine, Stop};

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
    let mut machine = Machine::new(bytes);
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

#[cfg(test)]
mod tests;
