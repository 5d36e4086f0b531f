//! Which kernels of `cuda/rms_norm.cu` run, and with what.

use super::{RmsNorm, RmsNormGrad};
use crate::device::kernel::Launch;
use crate::ffi::{RmsNormFwd, RmsNormGradRows};
use crate::graph::cuda::CudaCall;
use crate::ops::rows::column_sums;

/// Rows of a block, one a warp: `THREADS / 32` of the kernels named `any`.
const ROWS: usize = 4;
/// Rows that a block keeps in its registers: shorter ones would leave most of its threads idle.
const KEPT: std::ops::RangeInclusive<usize> = 512..=4096;

pub(super) fn forward(op: &RmsNorm, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let (x, y) = (&call.inputs[0], &call.outputs[0]);
    let (rows, cols, x_step) = x.layout.as_rows().expect("accepts() asks for rows");
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let params = RmsNormFwd {
        x: x.address,
        weight: call.inputs.get(1).map_or(0, |o| o.address),
        y: y.address,
        x_step: x_step as i64,
        rows: rows as i32,
        cols: cols as i32,
        eps: op.eps,
        reserved: 0,
    };
    let kept = KEPT.contains(&cols) && call.inputs.iter().all(|o| o.vectors(4));
    let (form, blocks) = if kept { ("b4096", rows) } else { ("any", rows.div_ceil(ROWS)) };
    let kernel = format!("rms_norm_fwd_{form}_{}_{}", x.ty.dtype, y.ty.dtype);
    Ok(vec![Launch::new(kernel, [blocks as u32, 1, 1], &params)])
}

pub(super) fn backward(op: &RmsNormGrad, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let (x, dy, weight) = (&call.inputs[0], &call.inputs[1], call.inputs.get(2));
    let (rows, cols, x_step) = x.layout.as_rows().expect("accepts() asks for rows");
    let (_, _, dy_step) = dy.layout.as_rows().expect("accepts() asks for rows");
    let params = RmsNormGradRows {
        x: x.address,
        dy: dy.address,
        weight: weight.map_or(0, |o| o.address),
        dx: call.outputs[0].address,
        moments: if weight.is_some() { call.scratch } else { 0 },
        x_step: x_step as i64,
        dy_step: dy_step as i64,
        rows: rows as i32,
        cols: cols as i32,
        eps: op.eps,
        reserved: 0,
    };
    let mut launches = Vec::new();
    if rows > 0 && cols > 0 {
        let grid = [rows.div_ceil(ROWS) as u32, 1, 1];
        launches.push(Launch::new("rms_norm_grad_rows_any_f32", grid, &params));
    }
    if let [_, d_weight] = &call.outputs[..]
        && cols > 0
    {
        launches.extend(column_sums::launches("rms_norm", (x, dy), call.scratch, d_weight.address, None));
    }
    Ok(launches)
}
