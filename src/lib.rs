//! `dreamclear` restores real-world low-quality photos.
//!
//! The modules below stand in the order in which data flows through them, from a photo on disk
//! to a kernel; each imports only from modules further down its own branch (see
//! `docs/architecture.md`).
#![warn(missing_docs)]

pub mod atomic_file;
pub mod bench;
pub mod cancel;
pub mod cli;
pub mod data;
pub mod device;
pub mod diffusion;
pub mod error;
pub mod ffi;
pub mod graph;
pub mod models;
pub mod nn;
pub mod ops;
pub mod philox;
pub mod pipelines;
pub mod tensor;
pub mod text;
pub mod trace;
pub mod train;
pub mod verify;
pub mod weights;

pub use error::{Error, Result};
