//! Training: the optimiser, and weights to begin with.

pub mod adamw;
pub mod init;
