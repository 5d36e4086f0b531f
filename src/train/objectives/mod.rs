//! The objectives: one file a network.

pub mod autoencoder;
pub mod classifier;
pub mod dreamclear;
pub mod swinir;
