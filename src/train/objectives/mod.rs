//! The objectives: one file a network.

pub mod classifier;
pub mod swinir;
