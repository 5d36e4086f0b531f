//! Weights: reading every container that the models are published in, writing safetensors.
//!
//! [`WeightSet::open`] is the way in. It tells containers apart by content, maps files instead
//! of reading them, and executes nothing: a `.pth` is a program, and is read by a machine that
//! can only build tensors (see [`torch`]).

mod blob;
mod finite;
mod join;
mod open;
mod set;
mod signature;
mod strict;
#[cfg(test)]
mod tests;
mod zip;

pub mod bundle;
pub mod embedded;
pub mod hub;
pub mod ncnn;
mod npy;
pub mod npz;
pub mod safetensors;
pub mod sharded;
pub mod torch;

pub use crate::atomic_file::AtomicFile;
pub use blob::Blob;
pub use join::Part;
pub use set::{Container, NamedTensors, WeightSet};
pub use signature::{Guess, guess};
