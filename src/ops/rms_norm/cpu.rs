//! Fast path: rows over threads; the gradient of the weight is summed per fixed block of rows,
//! and the blocks added in order.

use rayon::prelude::*;

use crate::device::cpu::simd::{Level, simd_fn};
use crate::graph::op::CpuCall;
use crate::ops::rows::{Rows, rows_per_block, rows_per_task, sum_by, sum_by2};

#[inline(always)]
fn reciprocal_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_by(x, |x| x * x) / x.len() as f32 + eps).sqrt()
}

simd_fn! {
    fn normalise(x: &Rows, first: usize, y: &mut [f32], weight: Option<&[f32]>, eps: f32) {
        for (i, y) in y.chunks_exact_mut(x.cols).enumerate() {
            let x = x.row(first + i);
            let r = reciprocal_rms(x, eps);
            match weight {
                None => y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * r),
                Some(w) => y.iter_mut().zip(x).zip(w).for_each(|((y, &x), &w)| *y = x * r * w),
            }
        }
    }

    fn differentiate(x: &Rows, dy: &Rows, first: usize, dx: &mut [f32], eps: f32) {
        for (i, dx) in dx.chunks_exact_mut(x.cols).enumerate() {
            let (x, dy) = (x.row(first + i), dy.row(first + i));
            let r = reciprocal_rms(x, eps);
            let mean_dn = sum_by2(dy, x, |d, x| d * (x * r)) / x.len() as f32;
            dx.iter_mut().zip(x).zip(dy).for_each(|((dx, &x), &d)| *dx = (d - x * r * mean_dn) * r);
        }
    }

    fn differentiate_weighted(
        x: &Rows, dy: &Rows, first: usize, weight: &[f32], dx: &mut [f32], dw: &mut [f32], eps: f32,
    ) {
        for (i, dx) in dx.chunks_exact_mut(x.cols).enumerate() {
            let (x, dy) = (x.row(first + i), dy.row(first + i));
            let r = reciprocal_rms(x, eps);
            dx.iter_mut().zip(dy).zip(weight).for_each(|((dx, &d), &w)| *dx = d * w);
            let mean_dn = sum_by2(dx, x, |d, x| d * (x * r)) / x.len() as f32;
            for (((dx, &x), &d), dw) in dx.iter_mut().zip(x).zip(dy).zip(dw.iter_mut()) {
                let normal = x * r;
                *dx = (*dx - normal * mean_dn) * r;
                *dw += d * normal;
            }
        }
    }
}

pub(super) fn forward(eps: f32, mut call: CpuCall) {
    let x = Rows::new(&call.inputs[0]);
    let weight = call.inputs.get(1).map(|w| w.f32());
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    let rows = rows_per_task(x.cols);
    y.par_chunks_mut(rows * x.cols)
        .enumerate()
        .for_each(|(i, y)| normalise(Level::best(), &x, i * rows, y, weight, eps));
}

/// Scratch for dw of every block.
pub(super) fn partial_sums_bytes((rows, cols): (usize, usize)) -> usize {
    rows.div_ceil(rows_per_block(rows, cols)) * cols * size_of::<f32>()
}

pub(super) fn backward(eps: f32, mut call: CpuCall) {
    let (x, dy) = (Rows::new(&call.inputs[0]), Rows::new(&call.inputs[1]));
    let (dx, dw) = call.outputs.split_first_mut().expect("dx");
    let dx = dx.f32();
    let Some(weight) = call.inputs.get(2) else {
        if !dx.is_empty() {
            let rows = rows_per_task(x.cols);
            dx.par_chunks_mut(rows * x.cols)
                .enumerate()
                .for_each(|(i, dx)| differentiate(Level::best(), &x, &dy, i * rows, dx, eps));
        }
        return;
    };
    let (weight, dw) = (weight.f32(), dw[0].f32());
    dw.fill(0.0);
    if dx.is_empty() {
        return;
    }
    let sums: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
    let rows = rows_per_block(x.rows, x.cols);
    dx.par_chunks_mut(rows * x.cols).zip(sums.par_chunks_mut(x.cols)).enumerate().for_each(
        |(i, (dx, sums))| {
            sums.fill(0.0);
            differentiate_weighted(Level::best(), &x, &dy, i * rows, weight, dx, sums, eps);
        },
    );
    for block in sums.chunks_exact(x.cols) {
        dw.iter_mut().zip(block).for_each(|(d, s)| *d += s);
    }
}
