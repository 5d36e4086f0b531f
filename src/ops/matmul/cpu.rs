//! Fast path: rows of all batch items over threads, each a sum of rows of B.

use rayon::prelude::*;

use super::MatMul;
use crate::graph::op::CpuCall;

pub(super) fn forward(op: &MatMul, mut call: CpuCall) -> Result<(), String> {
    let (d, _) = op.dims(&call.inputs[0].ty.shape, &call.inputs[1].ty.shape)?;
    let (a, b) = (call.inputs[0].f32(), call.inputs[1].f32());
    call.outputs[0].f32().par_chunks_mut(d.n.max(1)).enumerate().for_each(|(row, c)| {
        let (item, i) = (row / d.m, row % d.m);
        let (a, b) = (&a[item * d.step_a..], &b[item * d.step_b..]);
        c.fill(0.0);
        for p in 0..d.k {
            let x = if op.trans_a { a[p * d.m + i] } else { a[i * d.k + p] };
            if op.trans_b {
                c.iter_mut().enumerate().for_each(|(j, c)| *c += x * b[j * d.k + p]);
            } else {
                c.iter_mut().zip(&b[p * d.n..]).for_each(|(c, &y)| *c += x * y);
            }
        }
    });
    Ok(())
}
