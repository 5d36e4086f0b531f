//! The static graph: what a model is, before it is decided how to run it.
//!
//! * [`ir`] holds values and nodes; [`builder`] adds to them with shape checks that name the
//!   node's path in the model.
//! * [`op`] is the contract that every operation keeps ([`Op`]); this module knows no operation
//!   by name.
//! * [`cuda`] is an op's face towards CUDA devices and their simulation.
//! * [`mod@reference`] runs a graph slowly and plainly in f32 or f64, for tests and gradient checks.
//! * [`autodiff`] appends the gradient nodes; [`passes`] rewrites by small named rules;
//!   [`plan`] fixes order, layouts and memory, and runs.

pub mod autodiff;
pub mod builder;
pub mod cuda;
pub mod dump;
pub mod ir;
pub mod layout;
pub mod op;
pub mod passes;
pub mod plan;
pub mod reference;
pub mod strided;

pub use builder::GraphBuilder;
pub use ir::{Graph, NodeId, TensorType, ValueId};
pub use layout::Layout;
pub use op::{Cost, Gradient, GradientContext, Op};
pub use plan::{Executable, Outputs, Plan, Workspace};
pub use reference::{Array, Real, Reference};
