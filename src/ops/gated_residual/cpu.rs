//! Fast path: one pass, rows over threads.

use rayon::prelude::*;

use crate::device::cpu::simd::{Level, simd_fn};
use crate::graph::op::{CpuCall, Operand};
use crate::ops::rows::{PerSample, Rows, rows_per_task};

/// An operand's rows; `None` if they are in the result's memory.
fn rows<'a>(operand: &Operand<'a>) -> Option<Rows<'a>> {
    (!operand.in_output()).then(|| Rows::new(operand))
}

simd_fn! {
    fn add_gated(x: &Option<Rows>, gate: &PerSample, y: &Option<Rows>, first: usize, tokens: usize, cols: usize, z: &mut [f32]) {
        for (r, z) in z.chunks_exact_mut(cols).enumerate() {
            let row = first + r;
            let gate = gate.of(row / tokens);
            match (x, y) {
                (Some(x), Some(y)) => {
                    for (((z, &x), &g), &y) in z.iter_mut().zip(x.row(row)).zip(gate).zip(y.row(row)) {
                        *z = x + g * y;
                    }
                }
                (None, Some(y)) => z.iter_mut().zip(gate).zip(y.row(row)).for_each(|((z, &g), &y)| *z += g * y),
                (Some(x), None) => {
                    z.iter_mut().zip(gate).zip(x.row(row)).for_each(|((z, &g), &x)| *z = x + g * *z)
                }
                (None, None) => unreachable!("at most one operand shares the result's memory"),
            }
        }
    }
}

pub(super) fn forward(mut call: CpuCall) {
    let [_, tokens, cols] = call.inputs[0].ty.shape[..] else { unreachable!("infer takes three axes") };
    let (x, y) = (rows(&call.inputs[0]), rows(&call.inputs[2]));
    let gate = PerSample::new(&call.inputs[1]);
    let z = call.outputs[0].f32();
    if z.is_empty() {
        return;
    }
    let rows = rows_per_task(cols);
    z.par_chunks_mut(rows * cols)
        .enumerate()
        .for_each(|(i, z)| add_gated(Level::best(), &x, &gate, &y, i * rows, tokens, cols, z));
}
