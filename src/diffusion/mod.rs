//! Diffusion without networks: schedules, samplers, guidance, noise.
//!
//! A sampler knows nothing of images or batches. It says which timestep the network wants at each
//! call and turns the network's answer into the next state, element by element; the caller owns
//! the loop (see [`Sampler`]).

pub mod cuda;
mod ddim;
mod dpm_solver;
pub mod guidance;
mod iddpm;
mod noise;
mod sa_solver;
pub mod sampler;
pub mod schedule;

pub use ddim::Ddim;
pub use dpm_solver::DpmSolver;
pub use guidance::Guided;
pub use iddpm::Iddpm;
pub use noise::{Noise, image_key};
pub use sa_solver::SaSolver;
pub use sampler::Sampler;
pub use schedule::Schedule;
