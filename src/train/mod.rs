//! Training: objectives, the optimiser and its step, weights to begin with.
//!
//! An [`Objective`] records a network with its loss. A [`TrainStep`] differentiates it once, plans it once, and
//! then runs: [`accumulate`](TrainStep::accumulate) forwards and backwards over one batch,
//! [`update`](TrainStep::update) changes the parameters.

pub mod adamw;
pub mod init;
pub mod objective;
pub mod objectives;
pub mod step;

pub use objective::{Objective, Recorded};
pub use step::{StepOptions, Terms, TrainStep, Update};
