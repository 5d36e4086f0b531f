//! Which kernel of `cuda/adaln.cu` runs, and with what.

use super::Adaln;
use crate::device::kernel::Launch;
use crate::ffi::AdalnFwd;
use crate::graph::cuda::CudaCall;
use crate::ops::rows::sample_step;

/// Rows of a block, one a warp: `THREADS / 32` of the kernel.
const ROWS: usize = 4;
/// Longest row that a warp keeps in registers.
const LONGEST: usize = 1280;

pub(super) fn forward(op: &Adaln, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [x, shift, scale] = &call.inputs[..] else { unreachable!("infer takes three operands") };
    let y = &call.outputs[0];
    let (rows, cols, x_step) = x.layout.as_rows().expect("accepts() asks for rows");
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let params = AdalnFwd {
        x: x.address,
        shift: shift.address,
        scale: scale.address,
        y: y.address,
        x_step: x_step as i64,
        shift_step: sample_step(shift),
        scale_step: sample_step(scale),
        rows: rows as i32,
        cols: cols as i32,
        tokens: x.ty.shape[1] as i32,
        eps: op.eps,
    };
    let vectors = cols <= LONGEST && [x, shift, scale].iter().all(|o| o.vectors(4));
    let form = if vectors { "w1280" } else { "any" };
    let kernel = format!("adaln_fwd_{form}_{}_{}", x.ty.dtype, y.ty.dtype);
    Ok(vec![Launch::new(kernel, [rows.div_ceil(ROWS) as u32, 1, 1], &params)])
}
