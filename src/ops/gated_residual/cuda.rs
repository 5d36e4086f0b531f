//! Which kernel of `cuda/gated_residual.cu` runs, and with what.

use crate::device::kernel::Launch;
use crate::ffi::GatedResidualFwd;
use crate::graph::cuda::CudaCall;
use crate::ops::rows::sample_step;

/// Rows of a block, one a warp: `THREADS / 32` of the kernel.
const ROWS: usize = 4;

pub(super) fn forward(call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [x, gate, y] = &call.inputs[..] else { unreachable!("infer takes three operands") };
    let z = &call.outputs[0];
    let (rows, cols, x_step) = x.layout.as_rows().expect("accepts() asks for rows");
    let (_, _, y_step) = y.layout.as_rows().expect("accepts() asks for rows");
    if z.ty.is_empty() {
        return Ok(vec![]);
    }
    let params = GatedResidualFwd {
        x: x.address,
        gate: gate.address,
        y: y.address,
        z: z.address,
        x_step: x_step as i64,
        gate_step: sample_step(gate),
        y_step: y_step as i64,
        rows: rows as i32,
        cols: cols as i32,
        tokens: x.ty.shape[1] as i32,
        reserved: 0,
    };
    let form = if call.inputs.iter().all(|o| o.vectors(4)) { "v4" } else { "any" };
    let kernel = format!("gated_residual_{form}_{}_f32", y.ty.dtype);
    Ok(vec![Launch::new(kernel, [rows.div_ceil(ROWS) as u32, 1, 1], &params)])
}
