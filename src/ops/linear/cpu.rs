//! Fast path: the packed GEMM, everything after it in its epilogue.

use super::Linear;
use crate::device::cpu::gemm::{Epilogue, Gate, MatrixA, MatrixB, gemm};
use crate::device::cpu::simd::Level;
use crate::graph::op::CpuCall;
use crate::ops::rows::PerSample;
use crate::ops::weight;

pub(super) fn forward(op: &Linear, mut call: CpuCall) {
    let (m, k, stride) = call.inputs[0].layout.as_rows().expect("accepts checked");
    let n = call.inputs[1].ty.shape[0];
    let bias = op.bias.then(|| call.inputs[2].f32());
    let gate = op.gate().map(|i| {
        let gate = PerSample::new(&call.inputs[i]);
        Gate { values: gate.data, step: gate.step, rows: call.outputs[0].ty.shape[1].max(1) }
    });
    let epilogue = Epilogue { gate, ..op.epilogue.on_cpu(bias, call.inputs.last(), n) };
    let a = MatrixA { values: call.inputs[0].f32(), stride, transposed: false };
    let b = MatrixB { values: weight::values(&call.inputs[1]), stride: k, transposed: true };
    gemm(Level::best(), (m, k, n), a, b, call.outputs[0].f32(), n, &epilogue);
}
