//! What a plan is made for.

use crate::device::kernel::DeviceFacts;
use crate::device::{Device, cpu};
use crate::tensor::DType;

/// What a plan is made for: everything about a device that decides steps and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The CPU with this many threads (ops may need scratch per thread). Arithmetic is f32.
    Cpu {
        /// Worker threads.
        threads: usize,
    },
    /// A CUDA device, or its simulation.
    Cuda {
        /// The type that operands of matrix products, convolutions and attention are kept in: f32,
        /// bf16 or f16.
        compute: DType,
        /// The device.
        facts: DeviceFacts,
    },
}

impl Target {
    /// Alignment of buffers in the arena, in bytes.
    pub fn align(self) -> usize {
        match self {
            Target::Cpu { .. } => cpu::ALIGN,
            // Of cudaMalloc: whole vectors and TMA boxes start anywhere a buffer does.
            Target::Cuda { .. } => 256,
        }
    }
}

impl From<usize> for Target {
    fn from(threads: usize) -> Self {
        Target::Cpu { threads }
    }
}

impl From<&Device> for Target {
    fn from(device: &Device) -> Self {
        match device.as_kernels() {
            None => Target::Cpu { threads: device.threads() },
            Some(k) => Target::Cuda { compute: k.compute, facts: k.device.facts() },
        }
    }
}
