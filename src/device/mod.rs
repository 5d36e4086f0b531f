//! device
pub mod cpu;
