//! Training: what is learned, how a step is made, and the run around it.
//!
//! An [`Objective`] records a network with its loss. A [`TrainStep`] differentiates it once, plans it once, and
//! then runs: [`accumulate`](TrainStep::accumulate) forwards and backwards over one batch,
//! [`update`](TrainStep::update) changes the parameters. With a [`reduce::Reduce`] the gradients of several
//! processes are added up meanwhile. [`trainers`] make batches of samples, [`run()`](run::run()) repeats all that by
//! its [`settings`], with [`checkpoint`]s and a [`log`].

pub mod adamw;
pub mod checkpoint;
pub mod config;
pub mod drop_path;
pub mod init;
pub mod launch;
pub mod log;
pub mod objective;
pub mod objectives;
pub mod reduce;
pub mod run;
pub mod schedule;
pub mod settings;
pub mod step;
pub mod tensorboard;
pub mod trainers;

pub use objective::{Objective, Recorded};
pub use step::{StepOptions, Terms, TrainStep, Update};
