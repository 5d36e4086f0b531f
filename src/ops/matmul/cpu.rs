//! Fast path: one packed GEMM for each item of the batch.

use super::MatMul;
use crate::device::cpu::gemm::{Epilogue, MatrixA, MatrixB, gemm, gemm_batch};
use crate::device::cpu::simd::Level;
use crate::graph::op::CpuCall;
use crate::ops::weight;

pub(super) fn forward(op: &MatMul, mut call: CpuCall) -> Result<(), String> {
    let (mut d, _) = op.dims(&call.inputs[0].ty.shape, &call.inputs[1].ty.shape)?;
    if d.step_b == 0 && !op.trans_a && d.step_a == d.m * d.k {
        // A B for the whole batch, and rows of A without gaps: one tall product.
        d.m *= d.batch;
        d.batch = 1;
    }
    let (a_stride, b_stride) = (if op.trans_a { d.m } else { d.k }, if op.trans_b { d.k } else { d.n });
    let (a, b) = (call.inputs[0].f32(), weight::values(&call.inputs[1]));
    let a = |i| MatrixA { values: &a[i * d.step_a..], stride: a_stride, transposed: op.trans_a };
    let b = |i| MatrixB { values: b.skip(i * d.step_b), stride: b_stride, transposed: op.trans_b };
    let (out, plain) = (call.outputs[0].f32(), Epilogue::default());
    if d.batch == 1 {
        gemm(Level::best(), (d.m, d.k, d.n), a(0), b(0), out, d.n, &plain);
    } else {
        gemm_batch(Level::best(), (d.batch, d.m, d.k, d.n), a, b, out, d.m * d.n, &plain);
    }
    Ok(())
}
