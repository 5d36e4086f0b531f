//! Fast path: chunks over threads, each a plain loop that the compiler vectorises.

use rayon::prelude::*;

use super::{Kind, reference};
use crate::graph::op::CpuCall;

/// Elements per task: large enough to be worth a thread's while, small enough to share.
const CHUNK: usize = 16 * 1024;

pub(super) fn forward(kind: Kind, mut call: CpuCall) {
    let y = call.outputs[0].f32();
    if !call.inputs[0].in_output() {
        y.copy_from_slice(call.inputs[0].f32());
    }
    y.par_chunks_mut(CHUNK).for_each(|y| y.iter_mut().for_each(|y| *y = reference::value(kind, *y)));
}

pub(super) fn backward(kind: Kind, mut call: CpuCall) {
    let dx = call.outputs[0].f32();
    if !call.inputs[1].in_output() {
        dx.copy_from_slice(call.inputs[1].f32());
    }
    let x = call.inputs[0].f32();
    dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(dx, x)| {
        dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx *= reference::slope(kind, x));
    });
}
