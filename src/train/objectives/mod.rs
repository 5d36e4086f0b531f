//! The objectives: one file a network.

pub mod swinir;
