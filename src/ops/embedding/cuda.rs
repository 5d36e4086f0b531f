//! Which kernel of `cuda/embedding.cu` runs, and with what.

use crate::device::kernel::Launch;
use crate::ffi;
use crate::graph::cuda::CudaCall;

/// Rows of a block, one a warp.
const ROWS: usize = 4;
/// Columns of a warp in the gradient.
const COLS: usize = 1024;

pub(super) fn forward(call: &CudaCall) -> Vec<Launch> {
    let [table, indices] = &call.inputs[..] else { unreachable!("infer takes two operands") };
    let y = &call.outputs[0];
    if y.ty.is_empty() {
        return vec![];
    }
    let params = ffi::Embedding {
        x: table.address,
        indices: indices.address,
        y: y.address,
        count: indices.ty.len() as i64,
        rows: table.ty.shape[0] as i64,
        cols: table.ty.last() as i64,
    };
    let form = if table.vectors(4) { "" } else { "any_" };
    let grid = [indices.ty.len().div_ceil(ROWS) as u32, 1, 1];
    vec![Launch::new(format!("embedding_fwd_{form}{}", table.ty.dtype), grid, &params)]
}

pub(super) fn backward(call: &CudaCall) -> Vec<Launch> {
    let [indices, dy] = &call.inputs[..] else { unreachable!("infer takes two operands") };
    let y = &call.outputs[0];
    if y.ty.is_empty() {
        return vec![];
    }
    let (rows, cols) = (y.ty.shape[0], y.ty.last());
    let params = ffi::Embedding {
        x: dy.address,
        indices: indices.address,
        y: y.address,
        count: indices.ty.len() as i64,
        rows: rows as i64,
        cols: cols as i64,
    };
    let grid = [rows.div_ceil(ROWS) as u32, cols.div_ceil(COLS) as u32, 1];
    vec![Launch::new("embedding_bwd_f32", grid, &params)]
}
