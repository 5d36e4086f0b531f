//! Fast path: rows over threads, each read from memory once (the passes over a row find it in
//! the first-level cache). The gradients of weight and bias are summed per fixed block of rows,
//! and the blocks added in order.

use rayon::prelude::*;

use crate::device::cpu::simd::{Level, simd_fn};
use crate::graph::op::CpuCall;
use crate::ops::rows::{Rows, rows_per_block, rows_per_task, sum_by, sum_by2};

/// Mean and reciprocal standard deviation.
#[inline(always)]
pub(in crate::ops) fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum_by(x, |x| x) / n;
    let variance = sum_by(x, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

simd_fn! {
    fn normalise(x: &Rows, first: usize, y: &mut [f32], affine: Option<(&[f32], &[f32])>, eps: f32) {
        for (r, y) in y.chunks_exact_mut(x.cols).enumerate() {
            let x = x.row(first + r);
            let (mean, rstd) = statistics(x, eps);
            match affine {
                None => y.iter_mut().zip(x).for_each(|(y, &x)| *y = (x - mean) * rstd),
                Some((gamma, beta)) => {
                    for (((y, &x), &g), &b) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                        *y = (x - mean) * rstd * g + b;
                    }
                }
            }
        }
    }

    fn differentiate(x: &Rows, dy: &Rows, first: usize, dx: &mut [f32], eps: f32) {
        let n = x.cols as f32;
        for (r, dx) in dx.chunks_exact_mut(x.cols).enumerate() {
            let (x, dy) = (x.row(first + r), dy.row(first + r));
            let (mean, rstd) = statistics(x, eps);
            let mean_d = sum_by(dy, |d| d) / n;
            let mean_dn = sum_by2(dy, x, |d, x| d * ((x - mean) * rstd)) / n;
            for ((dx, &x), &d) in dx.iter_mut().zip(x).zip(dy) {
                *dx = (d - mean_d - (x - mean) * rstd * mean_dn) * rstd;
            }
        }
    }

    fn differentiate_affine(
        x: &Rows, dy: &Rows, first: usize, gamma: &[f32], dx: &mut [f32], sums: &mut [f32], eps: f32,
    ) {
        let n = x.cols as f32;
        let (dgamma, dbeta) = sums.split_at_mut(x.cols);
        for (r, dx) in dx.chunks_exact_mut(x.cols).enumerate() {
            let (x, dy) = (x.row(first + r), dy.row(first + r));
            let (mean, rstd) = statistics(x, eps);
            for (((dx, &d), &g), b) in dx.iter_mut().zip(dy).zip(gamma).zip(dbeta.iter_mut()) {
                *dx = d * g;
                *b += d;
            }
            let mean_d = sum_by(dx, |d| d) / n;
            let mean_dn = sum_by2(dx, x, |d, x| d * ((x - mean) * rstd)) / n;
            for (((dx, &x), &d), s) in dx.iter_mut().zip(x).zip(dy).zip(dgamma.iter_mut()) {
                let normal = (x - mean) * rstd;
                *dx = (*dx - mean_d - normal * mean_dn) * rstd;
                *s += d * normal;
            }
        }
    }
}

pub(super) fn forward(eps: f32, mut call: CpuCall) {
    let x = Rows::new(&call.inputs[0]);
    let affine = match &call.inputs[..] {
        [_, gamma, beta] => Some((gamma.f32(), beta.f32())),
        _ => None,
    };
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    let rows = rows_per_task(x.cols);
    y.par_chunks_mut(rows * x.cols)
        .enumerate()
        .for_each(|(i, y)| normalise(Level::best(), &x, i * rows, y, affine, eps));
}

/// Scratch for dγ and dβ of every block.
pub(super) fn partial_sums_bytes((rows, cols): (usize, usize)) -> usize {
    rows.div_ceil(rows_per_block(rows, cols)) * 2 * cols * size_of::<f32>()
}

pub(super) fn backward(eps: f32, mut call: CpuCall) {
    let (x, dy) = (Rows::new(&call.inputs[0]), Rows::new(&call.inputs[1]));
    let (dx, weights) = call.outputs.split_first_mut().expect("dx");
    let dx = dx.f32();
    let Some(gamma) = call.inputs.get(2) else {
        if !dx.is_empty() {
            let rows = rows_per_task(x.cols);
            dx.par_chunks_mut(rows * x.cols)
                .enumerate()
                .for_each(|(i, dx)| differentiate(Level::best(), &x, &dy, i * rows, dx, eps));
        }
        return;
    };
    let [dgamma, dbeta] = weights else { unreachable!("infer gives dx, dγ and dβ") };
    let (gamma, dgamma, dbeta) = (gamma.f32(), dgamma.f32(), dbeta.f32());
    dgamma.fill(0.0);
    dbeta.fill(0.0);
    if dx.is_empty() {
        return;
    }
    let sums: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
    let rows = rows_per_block(x.rows, x.cols);
    dx.par_chunks_mut(rows * x.cols).zip(sums.par_chunks_mut(2 * x.cols)).enumerate().for_each(
        |(i, (dx, sums))| {
            sums.fill(0.0);
            differentiate_affine(Level::best(), &x, &dy, i * rows, gamma, dx, sums, eps);
        },
    );
    for block in sums.chunks_exact(2 * x.cols) {
        dgamma.iter_mut().zip(&block[..x.cols]).for_each(|(d, s)| *d += s);
        dbeta.iter_mut().zip(&block[x.cols..]).for_each(|(d, s)| *d += s);
    }
}
