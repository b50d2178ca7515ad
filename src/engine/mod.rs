//! Compiles a graph to steps over one arena and runs it.
//!
//! Everything that depends on the graph and the image size is decided once ([`Engine::new`]): batch normalisation is
//! folded into the kernels, the kernels are packed, sums run in the epilogue of a convolution, tensors get fixed
//! addresses in one arena. A run then allocates nothing and starts no thread. [`plan_memory`] computes how many bytes
//! an engine will hold without making one.
//!
//! A run takes a batch of images ([`Options::batch`]), which go through the same tensors one after the other: a batch
//! needs the memory of one image, and that of all inputs and outputs.
//!
//! Inside, tensors are pixel-major (see [`crate::kernels`]); the caller sees `[C, h, w]`. With [`Options::device`] the
//! same steps run on a CUDA device instead, where the program was built for one ([`HAS_CUDA`]) and there is one
//! ([`DeviceChoice::open`]).

pub mod arena;
mod arithmetic;
mod cells;
mod compile;
mod cpu;
#[cfg(all(feature = "cuda", not(test)))]
mod cuda;
#[cfg(not(any(feature = "cuda", test)))]
#[path = "no_cuda.rs"]
mod cuda;
#[cfg(test)]
#[path = "emulated_cuda.rs"]
mod cuda;
mod device;
mod fold;
mod given;
mod gpu;
mod place;
pub mod reference;
mod rounds;
mod spec;

pub use crate::kernels::cuda::GpuPeaks;
pub use cells::Cells;
pub use cpu::Cpu;
pub use cuda::{HAS_CUDA, count as count_cuda, nccl as open_nccl, open as open_cuda};
pub use device::{Device, DeviceChoice, OpenDevice};
pub use gpu::gpu_peaks;
pub use rounds::{LeastTimes, time_round};

use crate::graph::{Graph, GraphError, NodeId, Shape};
use crate::kernels::{Buffer, Isa, Kernels};
use crate::model::Model;
use compile::Slot;
use place::{Program, compile};
use thiserror::Error;

/// A network that cannot be run, or an input that does not fit it.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The graph contradicts itself or does not fit the image size.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The input has the wrong number of values.
    #[error("the input has {found} values, expected {expected} (images x channels x height x width)")]
    Input {
        /// Values given.
        found: usize,
        /// Values needed.
        expected: usize,
    },
    /// An option names a node that the graph does not have.
    #[error("there is no layer {node}, the graph has {nodes}")]
    NoSuchNode {
        /// Position asked for.
        node: u32,
        /// Number of nodes.
        nodes: usize,
    },
    /// There is not enough memory.
    #[error("not enough memory: {bytes} bytes are needed")]
    OutOfMemory {
        /// Bytes needed in all.
        bytes: usize,
    },
    /// The options want an instruction set that the CPU does not have.
    #[error("this CPU does not have {0}")]
    NoIsa(Isa),
    /// There is no CUDA device, or it failed.
    #[error("CUDA: {0}")]
    Cuda(String),
}

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Threads that compute together; 0 means 1.
    pub threads: usize,
    /// Further nodes whose tensors [`Engine::kept`] gives. Nothing is fused across them.
    pub keep: Vec<NodeId>,
    /// Nodes whose tensors the caller gives in place of the image: the input of a run is all of them, each `[C, h, w]`,
    /// one after the other. What only leads to them is not computed, and no weight of it is packed, so that networks that
    /// differ late share what comes before. Empty: the image is given.
    pub given: Vec<NodeId>,
    /// Binds the threads, the caller's included, to a CPU core each.
    pub pin: bool,
    /// What computes.
    pub device: Device,
    /// The instruction set of the CPU's kernels; `None`: the best that it has.
    pub isa: Option<Isa>,
    /// Images per run; 0 means 1. They go through the same tensors one after the other, on every device: their values are
    /// those of single runs to the bit, and a run takes as long as all of them.
    pub batch: usize,
}

impl Options {
    fn isa(&self) -> Isa {
        self.isa.unwrap_or_else(Isa::detect)
    }

    fn images(&self) -> usize {
        self.batch.max(1)
    }
}

/// Bytes that an engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Packed kernels and biases.
    pub weights: usize,
    /// Tensors between the layers.
    pub arena: usize,
    /// Input, outputs and working space of the kernels.
    pub scratch: usize,
}

impl Memory {
    /// All bytes.
    pub fn total(&self) -> usize {
        self.weights + self.arena + self.scratch
    }
}

/// Time that one node took in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepTime {
    /// The node.
    pub node: NodeId,
    /// What the step does: a kernel's name, `import`, `copy` or `export`.
    pub kernel: &'static str,
    /// Nanoseconds: of the wall clock, on a CUDA device of the device's own.
    pub nanos: u64,
    /// On a CUDA device, the bytes of tensors that it reads and writes; 0 on the CPU.
    pub bytes: u64,
}

/// A network made ready for one image size.
pub struct Engine {
    executor: Executor,
    slots: Vec<Slot>,
    /// By output of the graph: its slot.
    outputs: Vec<usize>,
    input: Buffer,
    /// What the caller reads, image after image, slot after slot.
    results: Buffer,
    one: OneImage,
    batch: usize,
    memory: Memory,
}

/// Values of one image of a batch.
#[derive(Clone, Copy)]
struct OneImage {
    input: usize,
    results: usize,
}

/// The compiled network, on the device that runs it.
enum Executor {
    Cpu(cpu::Network),
    /// Holds the images and the results itself, in memory that the device copies from and to.
    Cuda(Box<gpu::Network>),
}

impl Engine {
    /// Makes a model ready for images of `height` x `width`.
    ///
    /// # Errors
    /// If the graph does not fit the size, an option names a node that is not there, memory runs out, or the device
    /// or the instruction set that the options want cannot be used.
    pub fn new(model: &Model, height: usize, width: usize, options: &Options) -> Result<Self, EngineError> {
        match options.device {
            Device::Cpu => Self::with_cpu(model, height, width, options),
            Device::Cuda(ordinal) => Self::with_cuda(ordinal, model, (height, width), options),
        }
    }

    fn with_cpu(model: &Model, height: usize, width: usize, options: &Options) -> Result<Self, EngineError> {
        let isa = options.isa();
        if !Isa::all().any(|available| available == isa) {
            return Err(EngineError::NoIsa(isa));
        }
        let cpu = Cpu::from(isa);
        let program = compile(&model.graph, height, width, options, &cpu)?;
        let memory = memory_of(&program, options);
        let none = || EngineError::OutOfMemory { bytes: memory.total() };
        let buffer = |len: usize| Buffer::zeroed(len).ok_or_else(none);
        let network = cpu::Network::new(isa, model, &program, options).ok_or_else(none)?;
        let (batch, one) = (options.images(), OneImage { input: program.input, results: program.outputs });
        Ok(Self {
            executor: Executor::Cpu(network),
            outputs: outputs(model, &program.slots),
            input: buffer(batch * one.input)?,
            results: buffer(batch * one.results)?,
            one,
            batch,
            memory,
            slots: program.slots,
        })
    }

    fn with_cuda(ordinal: u32, model: &Model, size: (usize, usize), options: &Options) -> Result<Self, EngineError> {
        let network = gpu::Network::new(open_cuda(ordinal)?, model, size, options)?;
        let (input, results) = network.one_image();
        let one = OneImage { input, results };
        let empty = || Buffer::zeroed(0).ok_or(EngineError::OutOfMemory { bytes: 0 });
        Ok(Self {
            outputs: outputs(model, network.slots()),
            slots: network.slots().to_vec(),
            input: empty()?,
            results: empty()?,
            one,
            batch: options.images(),
            memory: network.memory(),
            executor: Executor::Cuda(Box::new(network)),
        })
    }

    /// Another engine for the same network, which shares the packed weights with this one: both may run at the same
    /// time. Its threads are not bound to CPU cores.
    ///
    /// # Errors
    /// If memory runs out, or the network runs on a CUDA device.
    pub fn twin(&self) -> Result<Self, EngineError> {
        let Executor::Cpu(network) = &self.executor else {
            return Err(EngineError::Cuda("an engine there shares no weights with another one".into()));
        };
        let none = || EngineError::OutOfMemory { bytes: self.memory.total() - self.memory.weights };
        let buffer = |len: usize| Buffer::zeroed(len).ok_or_else(none);
        Ok(Self {
            executor: Executor::Cpu(network.twin().ok_or_else(none)?),
            slots: self.slots.clone(),
            outputs: self.outputs.clone(),
            input: buffer(self.batch * self.one.input)?,
            results: buffer(self.batch * self.one.results)?,
            ..*self
        })
    }

    /// Images of a run.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Runs on the images of a batch, `[batch, C, height, width]` (`[C, height, width]` without one), values 0..1; with
    /// [`Options::given`] on the given tensors.
    ///
    /// # Errors
    /// If the input has the wrong length, or a CUDA device fails.
    pub fn run(&mut self, input: &[f32]) -> Result<(), EngineError> {
        self.check(input.len())?;
        match &mut self.executor {
            Executor::Cpu(network) => {
                run_all(network, input, self.results.as_mut_slice(), self.one);
                Ok(())
            }
            Executor::Cuda(network) => {
                network.input_mut().copy_from_slice(input);
                network.run(self.batch)
            }
        }
    }

    /// The input tensor of a run, to be filled before [`Engine::run_in_place`].
    pub fn input_mut(&mut self) -> &mut [f32] {
        match &mut self.executor {
            Executor::Cpu(_) => self.input.as_mut_slice(),
            Executor::Cuda(network) => network.input_mut(),
        }
    }

    /// The input tensor `[C, height, width]` of one image of the batch.
    ///
    /// # Panics
    /// If the batch has no such image.
    pub fn image_mut(&mut self, image: usize) -> &mut [f32] {
        let len = self.one.input;
        match &mut self.executor {
            Executor::Cpu(_) => &mut self.input.as_mut_slice()[image * len..(image + 1) * len],
            Executor::Cuda(network) => network.image_mut(image),
        }
    }

    /// The bytes `[C, height, width]` of one image of the batch, in place of its values, which are the 255th part of them:
    /// where a device makes the values, a quarter is copied to it. `None` on the CPU, which reads values.
    ///
    /// # Panics
    /// As [`Engine::image_mut`].
    pub fn bytes_mut(&mut self, image: usize) -> Option<&mut [u8]> {
        match &mut self.executor {
            Executor::Cpu(_) => None,
            Executor::Cuda(network) => Some(network.bytes_mut(image)),
        }
    }

    /// Runs on what was last written to [`Engine::input_mut`], [`Engine::image_mut`] or [`Engine::bytes_mut`], and does
    /// not change it.
    ///
    /// # Errors
    /// If a CUDA device fails.
    pub fn run_in_place(&mut self) -> Result<(), EngineError> {
        self.run_images(self.batch)
    }

    /// As [`Engine::run_in_place`], on the first `count` images of the batch alone.
    ///
    /// # Errors
    /// If a CUDA device fails.
    pub fn run_images(&mut self, count: usize) -> Result<(), EngineError> {
        let count = count.min(self.batch);
        match &mut self.executor {
            Executor::Cpu(network) => {
                let images = &self.input.as_slice()[..count * self.one.input];
                run_all(network, images, self.results.as_mut_slice(), self.one);
                Ok(())
            }
            Executor::Cuda(network) => network.run(count),
        }
    }

    /// Runs once and returns how long every step took, all images of the batch together, in the order of the steps. A node
    /// may have several steps (its copies, its export) or none (it is a view, or fused into another node). On a CUDA device
    /// the transfers count as steps.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn profile(&mut self, input: &[f32]) -> Result<Vec<StepTime>, EngineError> {
        self.check(input.len())?;
        self.input_mut().copy_from_slice(input);
        self.profile_in_place()
    }

    /// As [`Engine::profile`], on what [`Engine::run_in_place`] would run on.
    ///
    /// # Errors
    /// As [`Engine::run_in_place`].
    pub fn profile_in_place(&mut self) -> Result<Vec<StepTime>, EngineError> {
        let OneImage { input, results } = self.one;
        let mut steps: Vec<StepTime> = Vec::new();
        for index in 0..self.batch {
            let times = match &mut self.executor {
                Executor::Cpu(network) => {
                    let image = &self.input.as_slice()[index * input..(index + 1) * input];
                    network.profile(image, &mut self.results.as_mut_slice()[index * results..(index + 1) * results])
                }
                Executor::Cuda(network) => network.profile(index)?,
            };
            for (all, step) in steps.iter_mut().zip(&times) {
                (all.nanos, all.bytes) = (all.nanos + step.nanos, all.bytes + step.bytes);
            }
            if steps.is_empty() {
                steps = times;
            }
        }
        Ok(steps)
    }

    /// The graph's output `i`, `[C, h, w]`, of the last run; of a batch, that of its first image.
    ///
    /// # Panics
    /// If the graph has no output `i`.
    pub fn output(&self, i: usize) -> &[f32] {
        self.output_of(0, i)
    }

    /// The graph's output `i` for one image of the last run: `[C, h, w]`, unless [`Engine::cells_of`] says otherwise.
    ///
    /// # Panics
    /// If the graph has no output `i`, or the batch no such image.
    pub fn output_of(&self, image: usize, i: usize) -> &[f32] {
        self.result(image, self.outputs[i])
    }

    /// The shape of the graph's output `i`.
    ///
    /// # Panics
    /// If the graph has no output `i`.
    pub fn output_shape(&self, i: usize) -> Shape {
        self.slots[self.outputs[i]].shape
    }

    /// The tensor `[C, h, w]` of a node that [`Options::keep`] names; of a batch, that of its first image.
    ///
    /// # Panics
    /// If the options did not name the node and it is no output of the graph.
    pub fn kept(&self, node: NodeId) -> &[f32] {
        let slot = self.slots.iter().position(|s| s.node == node);
        self.result(0, slot.unwrap_or_else(|| panic!("layer {} was not asked for in `Options::keep`", node.0)))
    }

    /// The instruction set of the CPU's kernels; where a CUDA device runs the network, the one that they would use.
    pub fn isa(&self) -> Isa {
        match &self.executor {
            Executor::Cpu(network) => network.isa(),
            Executor::Cuda(_) => Isa::detect(),
        }
    }

    /// Bytes held.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    fn check(&self, found: usize) -> Result<(), EngineError> {
        let expected = self.batch * self.one.input;
        if found == expected { Ok(()) } else { Err(EngineError::Input { found, expected }) }
    }

    fn result(&self, image: usize, slot: usize) -> &[f32] {
        let len = self.one.results;
        match &self.executor {
            Executor::Cpu(_) => &self.results.as_slice()[image * len..(image + 1) * len][self.slots[slot].range()],
            Executor::Cuda(network) => network.output(image, slot),
        }
    }
}

/// Runs on images, one after the other, and writes the results of each.
fn run_all(network: &mut cpu::Network, images: &[f32], results: &mut [f32], one: OneImage) {
    let images = images.chunks_exact(one.input.max(1));
    images.zip(results.chunks_exact_mut(one.results.max(1))).for_each(|(image, results)| network.run(image, results));
}

/// By output of the graph: its slot.
fn outputs(model: &Model, slots: &[Slot]) -> Vec<usize> {
    let slot = |id: &NodeId| slots.iter().position(|s| s.node == *id).unwrap_or(0);
    model.graph.outputs.iter().map(slot).collect()
}

/// The bytes that an [`Engine`] of this graph will hold on this machine's CPU, or with a [`Device::Cuda`] on any GPU and its
/// host together: the same figures as [`Engine::memory`].
///
/// # Errors
/// If the graph does not fit the size, or an option names a node that is not there.
pub fn plan_memory(graph: &Graph, height: usize, width: usize, options: &Options) -> Result<Memory, EngineError> {
    plan_memory_for(graph, height, width, options, options.isa())
}

/// As [`plan_memory`], on a given CPU, whatever instruction set the options name.
///
/// # Errors
/// As [`plan_memory`].
pub fn plan_memory_for(
    graph: &Graph,
    height: usize,
    width: usize,
    options: &Options,
    cpu: impl Into<Cpu>,
) -> Result<Memory, EngineError> {
    match options.device {
        Device::Cpu => Ok(memory_of(&compile(graph, height, width, options, &cpu.into())?, options)),
        Device::Cuda(_) => gpu::memory(graph, (height, width), options),
    }
}

fn memory_of(program: &Program, options: &Options) -> Memory {
    Memory {
        weights: Buffer::bytes(program.weights),
        arena: Buffer::bytes(program.arena),
        scratch: Buffer::bytes(options.images() * program.input)
            + Buffer::bytes(options.images() * program.outputs)
            + Kernels::bytes(options.threads.max(1), program.space, program.zeros),
    }
}
