//! Devices: memory, threads, launches. They know no op and no graph.

pub mod cpu;
pub mod kernel;
pub mod sim;
