//! Which kernels of `cuda/softmax.cu` run, and with what.

use crate::device::kernel::Launch;
use crate::ffi::{SoftmaxFwd, SoftmaxGradRows};
use crate::graph::cuda::CudaCall;

/// Threads of a block that deals its rows to threads or warps: `THREADS` of the kernels.
const THREADS: usize = 128;
/// Rows of a block with one warp a row.
const WARPS: usize = THREADS / 32;

pub(super) fn forward(call: &CudaCall) -> Result<Vec<Launch>, String> {
    let (x, y) = (&call.inputs[0], &call.outputs[0]);
    let (rows, cols, x_step) = x.layout.as_rows().expect("accepts() asks for rows");
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let params = SoftmaxFwd {
        x: x.address,
        y: y.address,
        x_step: x_step as i64,
        rows: rows as i64,
        cols: cols as i32,
        reserved: 0,
    };
    let (form, rows_of_block) = match cols {
        ..=16 => ("short", THREADS),
        ..=256 if x.vectors(4) => ("w256", WARPS),
        ..=4096 if x.vectors(4) => ("b4096", 1),
        _ => ("any", WARPS),
    };
    let kernel = format!("softmax_fwd_{form}_{}", x.ty.dtype);
    Ok(vec![Launch::new(kernel, [rows.div_ceil(rows_of_block) as u32, 1, 1], &params)])
}

pub(super) fn backward(call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [y, dy] = &call.inputs[..] else { unreachable!("infer takes two operands") };
    let (rows, cols, y_step) = y.layout.as_rows().expect("accepts() asks for rows");
    let (_, _, dy_step) = dy.layout.as_rows().expect("accepts() asks for rows");
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let params = SoftmaxGradRows {
        y: y.address,
        dy: dy.address,
        dx: call.outputs[0].address,
        y_step: y_step as i64,
        dy_step: dy_step as i64,
        rows: rows as i64,
        cols: cols as i32,
        reserved: 0,
    };
    let form = if cols <= 256 && y.vectors(4) && dy.vectors(4) { "w256" } else { "any" };
    let kernel = format!("softmax_grad_{form}_f32");
    Ok(vec![Launch::new(kernel, [rows.div_ceil(WARPS) as u32, 1, 1], &params)])
}
