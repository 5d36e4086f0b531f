//! Fast path: a row of blocks is a task; both sides of it are contiguous.

use rayon::prelude::*;

use crate::graph::op::CpuCall;

pub(super) fn shuffle(r: usize, mut call: CpuCall) {
    let (w, c) = (call.inputs[0].ty.shape[2], call.outputs[0].ty.shape[3]);
    let x = call.inputs[0].f32();
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    let row = w * c * r * r;
    y.par_chunks_mut(row).zip(x.par_chunks(row)).for_each(|(y, x)| {
        for (dy, y) in y.chunks_exact_mut(w * r * c).enumerate() {
            for (y, x) in y.chunks_exact_mut(r * c).zip(x.chunks_exact(c * r * r)) {
                for (dx, y) in y.chunks_exact_mut(c).enumerate() {
                    let x = x[dy * r + dx..].iter().step_by(r * r);
                    y.iter_mut().zip(x).for_each(|(y, &x)| *y = x);
                }
            }
        }
    });
}

pub(super) fn unshuffle(r: usize, mut call: CpuCall) {
    let (w, c) = (call.outputs[0].ty.shape[2], call.inputs[0].ty.shape[3]);
    let x = call.inputs[0].f32();
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    let row = w * c * r * r;
    y.par_chunks_mut(row).zip(x.par_chunks(row)).for_each(|(y, x)| {
        for (dy, x) in x.chunks_exact(w * r * c).enumerate() {
            for (y, x) in y.chunks_exact_mut(c * r * r).zip(x.chunks_exact(r * c)) {
                for (dx, x) in x.chunks_exact(c).enumerate() {
                    let y = y[dy * r + dx..].iter_mut().step_by(r * r);
                    y.zip(x).for_each(|(y, &x)| *y = x);
                }
            }
        }
    });
}
