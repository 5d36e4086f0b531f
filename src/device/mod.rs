//! Devices: memory and threads. They know no op and no graph.

pub mod cpu;
