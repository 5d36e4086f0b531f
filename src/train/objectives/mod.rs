//! The objectives: one file a network; and losses that have a network of their own.

pub mod autoencoder;
pub mod classifier;
pub mod dreamclear;
pub mod perceptual;
pub mod swinir;
