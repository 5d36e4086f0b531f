//! From a graph to a runnable list: layouts, order, memory, all decided ahead of time.
//!
//! * [`Plan::new`] resolves view ops into layouts over shared buffers, adds copies where an op
//!   does not read a layout, lets ops overwrite dying operands, and hands every buffer an offset
//!   in one arena ([`memory`]). The peak is known before the first run.
//! * [`Target`] is what a plan is made for: a CPU, or a CUDA device with a compute type, for which values
//!   are kept in half precision where their ops want it.
//! * [`Executable`] is a plan with its parameters bound, ready to run on a [`crate::device::Device`].

mod exec;
mod exec_cpu;
mod exec_kernels;
pub mod memory;
mod steps;
mod target;

pub use exec::{Executable, HeldMemory, Outputs, StepResult, StepTime, Workspace};
pub use exec_kernels::BoundPlan;
pub use steps::{Buffer, EarlyOutput, Place, Plan, Source, Step};
pub use target::Target;
