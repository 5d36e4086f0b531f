//! Which kernels of `cuda/prelu.cu` run, and with what.

use crate::device::kernel::Launch;
use crate::ffi::{PreluBwd, PreluFwd};
use crate::graph::TensorType;
use crate::graph::cuda::CudaCall;
use crate::graph::strided::{divisor, grid};
use crate::ops::rows::rows_of;

/// Elements of a block, forward.
const BLOCK: usize = 256 * 8;
/// Threads of a block, columns of a block, and the most blocks of rows, in the gradient.
const THREADS: usize = 256;
const COLS: usize = 32;
const MOST_BLOCKS: usize = 512;
/// Fewest rows of a block in the gradient.
const FEWEST_ROWS: usize = 64;

pub(super) fn forward(call: &CudaCall) -> Vec<Launch> {
    let [x, w] = &call.inputs[..] else { unreachable!("infer takes two operands") };
    let y = &call.outputs[0];
    if y.ty.is_empty() {
        return vec![];
    }
    let (rows, cols, step) = x.layout.as_rows().expect("accepts() asks for rows");
    let size = y.ty.dtype.size();
    let n = if x.vectors(16 / size) { 16 / size } else { 1 };
    let form = if n == 1 { "any_" } else { "" };
    // A launch counts its units in 31 bits.
    let most = ((1 << 31) - 1) / (cols / n);
    let launch = |first: usize| {
        let units = (rows - first).min(most) * (cols / n);
        let params = PreluFwd {
            x: x.address + (first * step * size) as u64,
            w: w.address,
            y: y.address + (first * cols * size) as u64,
            x_step: step as i64,
            cols: divisor(cols / n),
            units: units as u32,
            reserved: 0,
        };
        Launch::new(format!("prelu_fwd_{form}{}", y.ty.dtype), grid(units * n, BLOCK), &params)
    };
    (0..rows).step_by(most).map(launch).collect()
}

/// Rows of a block of the gradient, and how many blocks.
fn blocks(rows: usize) -> (usize, usize) {
    let each = FEWEST_ROWS.max(rows.div_ceil(MOST_BLOCKS));
    (each, rows.div_ceil(each))
}

/// Scratch for dw of every block.
pub(super) fn partial_sums_bytes(x: &TensorType) -> usize {
    let (rows, cols) = rows_of(x);
    blocks(rows).1 * cols * size_of::<f32>()
}

pub(super) fn backward(call: &CudaCall) -> Vec<Launch> {
    let [x, dy, w] = &call.inputs[..] else { unreachable!("infer takes three operands") };
    let [dx, dw] = &call.outputs[..] else { unreachable!("infer gives dx and dw") };
    if dw.ty.is_empty() {
        return vec![];
    }
    let step =
        |o: &crate::graph::cuda::CudaOperand| o.layout.as_rows().expect("accepts() asks for rows").2 as i64;
    let (rows, cols) = rows_of(&x.ty);
    let (rows_per_block, blocks) = blocks(rows);
    let params = PreluBwd {
        x: x.address,
        dy: dy.address,
        w: w.address,
        dx: dx.address,
        partial: call.scratch,
        dw: dw.address,
        x_step: step(x),
        dy_step: step(dy),
        rows: rows as i64,
        rows_per_block: rows_per_block as i64,
        cols: cols as i32,
        blocks: blocks as i32,
    };
    let parts = Launch::new("prelu_bwd_f32", [cols.div_ceil(COLS) as u32, blocks as u32, 1], &params);
    let sum = Launch::new("prelu_bwd_sum_f32", grid(cols, THREADS), &params);
    // Without rows dw is 0, and there are no parts.
    if rows == 0 { vec![sum] } else { vec![parts, sum] }
}
