//! The engine's vocabulary: one folder an op, one registry for all.
//!
//! A folder `ops/<op>/` holds `mod.rs` (the op: shape rule, gradient rule, cost, cases, and the
//! `GraphBuilder` method that adds it), `reference.rs` (reads like the maths), `cpu.rs` (the
//! fast path) and `cuda.rs` (which kernel of `cuda/<op>.cu` runs, and with what). Gradient kernels that deserve an op of their own stand beside their forward.

use crate::error::Result;
use crate::graph::{GraphBuilder, ValueId};

pub mod activation;
pub mod adaln;
pub mod attention;
pub mod binary;
pub mod case;
pub mod check;
pub mod check_cuda;
pub mod concat;
pub mod conv2d;
pub mod embedding;
pub mod epilogue;
pub mod fuse;
pub mod gated_residual;
pub mod group_norm;
pub mod layer_norm;
pub mod linear;
pub mod linear_group;
pub mod linear_modulate;
pub mod linear_norm;
pub mod matmul;
pub mod max_pool;
pub mod moe_modulate;
pub mod pad;
pub mod pad_edges;
pub mod pixel_shuffle;
pub mod prelu;
pub mod reduce;
pub mod resize;
pub mod rms_norm;
mod rows;
pub mod softmax;
pub mod sum_to;
pub mod view;
mod weight;
pub mod window_attention;

pub use case::{Case, CaseInput, Fill};

/// One row of the registry: an op by name, what it is, and the cases that test and bench it.
pub struct OpEntry {
    /// The op's one name; its folder, unless `family` says otherwise.
    pub name: &'static str,
    /// The folder under `src/ops/`.
    pub family: &'static str,
    /// One line for `dreamclear ops`.
    pub about: &'static str,
    /// Test and bench cases.
    pub cases: fn() -> Vec<Case>,
}

/// Every op. A plain slice: tests, benches and `dreamclear ops` walk it.
#[rustfmt::skip] // one op a line
pub static REGISTRY: &[&[OpEntry]] = &[
    activation::ENTRIES,
    adaln::ENTRIES,
    attention::ENTRIES,
    binary::ENTRIES,
    concat::ENTRIES,
    conv2d::ENTRIES,
    embedding::ENTRIES,
    gated_residual::ENTRIES,
    group_norm::ENTRIES,
    layer_norm::ENTRIES,
    linear::ENTRIES,
    linear_group::ENTRIES,
    linear_modulate::ENTRIES,
    linear_norm::ENTRIES,
    matmul::ENTRIES,
    max_pool::ENTRIES,
    moe_modulate::ENTRIES,
    pad::ENTRIES,
    pad_edges::ENTRIES,
    pixel_shuffle::ENTRIES,
    prelu::ENTRIES,
    reduce::ENTRIES,
    resize::ENTRIES,
    rms_norm::ENTRIES,
    softmax::ENTRIES,
    sum_to::ENTRIES,
    view::ENTRIES,
    window_attention::ENTRIES,
];

/// All rows of the registry.
pub fn registry() -> impl Iterator<Item = &'static OpEntry> {
    REGISTRY.iter().flat_map(|rows| rows.iter())
}

/// x + y: how autodiff sums gradients.
pub(crate) fn add_values(b: &mut GraphBuilder, x: ValueId, y: ValueId) -> Result<ValueId> {
    b.add(x, y)
}

/// Appends gradient nodes; see [`crate::graph::autodiff::gradients`].
pub fn gradients(
    b: &mut GraphBuilder,
    seeds: &[(ValueId, ValueId)],
    wrt: &[ValueId],
) -> Result<Vec<Option<ValueId>>> {
    crate::graph::autodiff::gradients(b, seeds, wrt, add_values)
}
