//! Fast path: rows over threads; the gradient of the slopes is summed per fixed block of rows,
//! and the blocks added in order.

use rayon::prelude::*;

use crate::device::cpu::simd::{Level, simd_fn};
use crate::graph::op::CpuCall;
use crate::ops::rows::{Rows, rows_per_block, rows_per_task};

simd_fn! {
    fn apply(y: &mut [f32], w: &[f32]) {
        for y in y.chunks_exact_mut(w.len()) {
            y.iter_mut().zip(w).for_each(|(y, &w)| *y = if *y > 0.0 { *y } else { w * *y });
        }
    }

    fn differentiate(x: &Rows, dy: &Rows, first: usize, w: &[f32], dx: &mut [f32], dw: &mut [f32]) {
        for (r, dx) in dx.chunks_exact_mut(x.cols).enumerate() {
            let (x, dy) = (x.row(first + r), dy.row(first + r));
            for ((((dx, dw), &x), &d), &w) in dx.iter_mut().zip(dw.iter_mut()).zip(x).zip(dy).zip(w) {
                *dx = if x > 0.0 { d } else { d * w };
                *dw += if x > 0.0 { 0.0 } else { d * x };
            }
        }
    }
}

pub(super) fn forward(mut call: CpuCall) {
    let w = call.inputs[1].f32();
    let x = if call.inputs[0].in_output() { None } else { Some(Rows::new(&call.inputs[0])) };
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    let (cols, rows) = (w.len(), rows_per_task(w.len()));
    y.par_chunks_mut(rows * cols).enumerate().for_each(|(i, y)| {
        if let Some(x) = x {
            y.chunks_exact_mut(cols).enumerate().for_each(|(r, y)| y.copy_from_slice(x.row(i * rows + r)));
        }
        apply(Level::best(), y, w);
    });
}

/// Scratch for dw of every block.
pub(super) fn partial_sums_bytes((rows, cols): (usize, usize)) -> usize {
    rows.div_ceil(rows_per_block(rows, cols)) * cols * size_of::<f32>()
}

pub(super) fn backward(mut call: CpuCall) {
    let (x, dy) = (Rows::new(&call.inputs[0]), Rows::new(&call.inputs[1]));
    let w = call.inputs[2].f32();
    let [dx, dw] = &mut call.outputs[..] else { unreachable!("infer gives dx and dw") };
    let (dx, dw) = (dx.f32(), dw.f32());
    dw.fill(0.0);
    if dx.is_empty() {
        return;
    }
    let sums: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
    let rows = rows_per_block(x.rows, x.cols);
    dx.par_chunks_mut(rows * x.cols).zip(sums.par_chunks_mut(x.cols)).enumerate().for_each(
        |(i, (dx, sums))| {
            sums.fill(0.0);
            differentiate(Level::best(), &x, &dy, i * rows, w, dx, sums);
        },
    );
    for block in sums.chunks_exact(x.cols) {
        dw.iter_mut().zip(block).for_each(|(d, s)| *d += s);
    }
}
