//! Training: so far the optimiser's kernels.

pub mod adamw;
