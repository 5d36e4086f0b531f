//! Fast path: rows over threads, each read from memory once (the passes over a row find it in the
//! first-level cache).

use rayon::prelude::*;

use crate::device::cpu::simd::{Level, simd_fn};
use crate::graph::op::CpuCall;
use crate::ops::layer_norm::statistics;
use crate::ops::rows::{PerSample, Rows, rows_per_task};

simd_fn! {
    fn normalise(x: &Rows, first: usize, tokens: usize, shift: &PerSample, scale: &PerSample, y: &mut [f32], eps: f32) {
        for (r, y) in y.chunks_exact_mut(x.cols).enumerate() {
            let sample = (first + r) / tokens;
            let (x, shift, scale) = (x.row(first + r), shift.of(sample), scale.of(sample));
            let (mean, rstd) = statistics(x, eps);
            for (((y, &x), &a), &b) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                *y = (x - mean) * rstd * (1.0 + a) + b;
            }
        }
    }
}

pub(super) fn forward(eps: f32, mut call: CpuCall) {
    let x = Rows::new(&call.inputs[0]);
    let (shift, scale) = (PerSample::new(&call.inputs[1]), PerSample::new(&call.inputs[2]));
    let tokens = call.inputs[0].ty.shape[1];
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    let rows = rows_per_task(x.cols);
    y.par_chunks_mut(rows * x.cols)
        .enumerate()
        .for_each(|(i, y)| normalise(Level::best(), &x, i * rows, tokens, &shift, &scale, y, eps));
}
