//! Fast path: rows over threads, each a sum of weight columns.

use rayon::prelude::*;

use super::Linear;
use crate::graph::op::CpuCall;

pub(super) fn forward(op: &Linear, mut call: CpuCall) {
    let (rows, k, step) = call.inputs[0].layout.as_rows().expect("accepts checked");
    let n = call.inputs[1].ty.shape[0];
    let (x, w) = (call.inputs[0].f32(), call.inputs[1].f32());
    let bias = op.bias.then(|| call.inputs[2].f32());
    let residual = op.epilogue.residual.then(|| call.inputs.last().expect("infer checked"));
    let residual = residual.filter(|r| !r.in_output()).map(|r| r.f32());
    let mut wt = vec![0.0f32; k * n];
    wt.par_chunks_mut(n).enumerate().for_each(|(p, row)| {
        row.iter_mut().enumerate().for_each(|(j, t)| *t = w[j * k + p]);
    });
    debug_assert!(rows > 0);
    call.outputs[0].f32().par_chunks_mut(n).enumerate().for_each(|(i, y)| {
        let mut sum = vec![0.0f32; n];
        for (p, &a) in x[i * step..i * step + k].iter().enumerate() {
            sum.iter_mut().zip(&wt[p * n..]).for_each(|(s, &w)| *s += a * w);
        }
        for j in 0..n {
            let s = sum[j] + bias.map_or(0.0, |b| b[j]);
            let r = residual.map_or(y[j], |r| r[i * n + j]);
            y[j] = op.epilogue.apply(s, r);
        }
    });
}
