//! Which kernels of `cuda/layer_norm.cu` run, and with what.

use super::{LayerNorm, LayerNormGrad};
use crate::device::kernel::Launch;
use crate::ffi::{LayerNormFwd, LayerNormGradRows};
use crate::graph::cuda::{CudaCall, CudaOperand};
use crate::ops::rows::column_sums;

/// Rows of a block, one a warp: `THREADS / 32` of the kernels.
const ROWS: usize = 4;

/// How the kernels share out these rows: kept in the registers of a warp where they are whole vectors.
fn form(cols: usize, operands: &[CudaOperand]) -> &'static str {
    let vectors = operands.iter().all(|o| o.vectors(4));
    match cols {
        ..=256 if vectors => "w256",
        ..=1280 if vectors => "w1280",
        _ => "any",
    }
}

pub(super) fn forward(op: &LayerNorm, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let (x, y) = (&call.inputs[0], &call.outputs[0]);
    let (rows, cols, x_step) = x.layout.as_rows().expect("accepts() asks for rows");
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let weight = |i: usize| call.inputs.get(i).map_or(0, |o| o.address);
    let params = LayerNormFwd {
        x: x.address,
        gamma: weight(1),
        beta: weight(2),
        y: y.address,
        x_step: x_step as i64,
        rows: rows as i32,
        cols: cols as i32,
        eps: op.eps,
        reserved: 0,
    };
    let form = form(cols, &call.inputs);
    let kernel = format!("layer_norm_fwd_{form}_{}_{}", x.ty.dtype, y.ty.dtype);
    Ok(vec![Launch::new(kernel, [rows.div_ceil(ROWS) as u32, 1, 1], &params)])
}

pub(super) fn backward(op: &LayerNormGrad, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let (x, dy, gamma) = (&call.inputs[0], &call.inputs[1], call.inputs.get(2));
    let (rows, cols, x_step) = x.layout.as_rows().expect("accepts() asks for rows");
    let (_, _, dy_step) = dy.layout.as_rows().expect("accepts() asks for rows");
    let params = LayerNormGradRows {
        x: x.address,
        dy: dy.address,
        gamma: gamma.map_or(0, |o| o.address),
        dx: call.outputs[0].address,
        moments: if gamma.is_some() { call.scratch } else { 0 },
        x_step: x_step as i64,
        dy_step: dy_step as i64,
        rows: rows as i32,
        cols: cols as i32,
        eps: op.eps,
        reserved: 0,
    };
    let mut launches = Vec::new();
    if rows > 0 && cols > 0 {
        let kernel = format!("layer_norm_grad_rows_{}_f32", form(cols, &call.inputs));
        launches.push(Launch::new(kernel, [rows.div_ceil(ROWS) as u32, 1, 1], &params));
    }
    if let [_, d_gamma, d_beta] = &call.outputs[..]
        && cols > 0
    {
        let weights = (d_gamma.address, Some(d_beta.address));
        launches.extend(column_sums::launches("layer_norm", (x, dy), call.scratch, weights.0, weights.1));
    }
    Ok(launches)
}
