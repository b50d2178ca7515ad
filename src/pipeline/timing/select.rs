//! Where a job times networks.

use super::command::Command;
use super::estimate::{Estimate, EstimateGpu};
use super::here::ThisMachine;
use super::runtime::OtherRuntime;
use super::source::LatencySource;
use crate::graph::Dtype;
use crate::latency::{Gpu, Speed};
use crate::runtimes::Runtime;
use crate::session::Session;
use std::sync::Arc;

/// Where networks are timed.
#[derive(Clone, Debug, Default)]
pub enum Timing {
    /// On this machine.
    #[default]
    Here,
    /// On a device.
    Device(Arc<Session>),
    /// In another runtime on a device; the figures of a CPU say how layers share a frame where that does not.
    Runtime(Arc<Runtime>, Speed),
    /// By a benchmark command of the user, which gives whole frames; the figures of a CPU say how layers share them.
    Command(Vec<String>, Speed),
    /// Nowhere: latencies are predicted from two figures of the device's CPU.
    Estimate(Speed),
    /// Nowhere: latencies are predicted from the figures of the device's GPU, in the dtype that it computes in.
    EstimateGpu(Gpu, Dtype),
}

impl Timing {
    /// The source of latencies.
    pub(in crate::pipeline) fn source(&self) -> Box<dyn LatencySource + '_> {
        match self {
            Self::Here => Box::new(ThisMachine),
            Self::Device(session) => Box::new(&**session),
            Self::Runtime(runtime, speed) => Box::new(OtherRuntime { runtime, speed }),
            Self::Command(command, speed) => Box::new(Command { command, speed }),
            Self::Estimate(speed) => Box::new(Estimate { speed }),
            Self::EstimateGpu(gpu, dtype) => Box::new(EstimateGpu { gpu, dtype: *dtype }),
        }
    }
}
