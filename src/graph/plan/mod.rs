//! From a graph to a runnable list: layouts, order, memory, all decided ahead of time.
//!
//! * [`Plan::new`] resolves view ops into layouts over shared buffers, adds copies where an op
//!   does not read a layout, lets ops overwrite dying operands, and hands every buffer an offset
//!   in one arena ([`memory`]). The peak is known before the first run.
//! * [`Executable`] is a plan with its parameters bound; it runs on the CPU device.

mod exec;
pub mod memory;
mod steps;

pub use exec::{Executable, Outputs, StepResult, StepTime, Workspace};
pub use steps::{Buffer, Place, Plan, Source, Step};
