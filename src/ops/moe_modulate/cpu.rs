//! Fast paths: one pass over all operands, rows over threads. The factor and the summand of a block
//! of columns are mixed in registers.

use rayon::prelude::*;

use crate::device::cpu::math::exp;
use crate::device::cpu::share::Disjoint;
use crate::device::cpu::simd::{Level, simd_fn};
use crate::graph::op::CpuCall;
use crate::ops::rows::{Rows, rows_of, rows_per_task};

/// Columns mixed at a time: four AVX-512 vectors of factors and four of summands.
const BLOCK: usize = 64;

/// Partial sums of a gradient's dot products.
const LANES: usize = 16;

/// y ← y·(1 + Σ wₖγₖ) + Σ wₖβₖ for columns of row `row` from `at` on.
#[inline(always)]
fn mix_block(y: &mut [f32], at: usize, row: usize, weights: &[f32], gammas: &[Rows], betas: &[Rows]) {
    let (mut factor, mut summand) = ([1.0; BLOCK], [0.0; BLOCK]);
    let n = y.len();
    for ((&w, gamma), beta) in weights.iter().zip(gammas).zip(betas) {
        let (gamma, beta) = (&gamma.row(row)[at..at + n], &beta.row(row)[at..at + n]);
        factor.iter_mut().zip(gamma).for_each(|(f, &x)| *f += w * x);
        summand.iter_mut().zip(beta).for_each(|(s, &x)| *s += w * x);
    }
    for ((y, f), s) in y.iter_mut().zip(&factor).zip(&summand) {
        *y = *y * f + s;
    }
}

simd_fn! {
    /// y ← y·(1 + Σ wₖγₖ) + Σ wₖβₖ, all of row `row`.
    fn mix(y: &mut [f32], row: usize, weights: &[f32], gammas: &[Rows], betas: &[Rows]) {
        let whole = y.len() / BLOCK * BLOCK;
        let (blocks, rest) = y.as_chunks_mut::<BLOCK>();
        for (i, y) in blocks.iter_mut().enumerate() {
            mix_block(y, i * BLOCK, row, weights, gammas, betas);
        }
        mix_block(rest, whole, row, weights, gammas, betas);
    }

    /// Σ dy·(x·γ + β), in a fixed order.
    fn weight_gradient(x: &[f32], gamma: &[f32], beta: &[f32], dy: &[f32]) -> f32 {
        let mut sums = [0.0f32; LANES];
        let all = x.chunks(LANES).zip(gamma.chunks(LANES)).zip(beta.chunks(LANES)).zip(dy.chunks(LANES));
        for (((x, gamma), beta), dy) in all {
            for ((((s, x), gamma), beta), dy) in sums.iter_mut().zip(x).zip(gamma).zip(beta).zip(dy) {
                *s += dy * (x * gamma + beta);
            }
        }
        sums.iter().sum()
    }

    /// One expert's share of dx, and its dγ and dβ.
    fn expert_gradient(
        weight: f32, x: &[f32], gamma: &[f32], dy: &[f32],
        dx: &mut [f32], d_gamma: &mut [f32], d_beta: &mut [f32],
    ) {
        for (((d_beta, d_gamma), &dy), &x) in d_beta.iter_mut().zip(d_gamma).zip(dy).zip(x) {
            *d_beta = weight * dy;
            *d_gamma = *d_beta * x;
        }
        for ((dx, d_beta), gamma) in dx.iter_mut().zip(&*d_beta).zip(gamma) {
            *dx += d_beta * gamma;
        }
    }
}

/// softmax(logits)
fn softmax(logits: &[f32], weights: &mut [f32]) {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    weights.iter_mut().zip(logits).for_each(|(w, &l)| *w = exp(l - most));
    let sum: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
}

/// Mixes into the result, where x lies already if it shares that memory; `weights(row, out)` gives
/// the weights of a row.
fn run(mut call: CpuCall, first: usize, experts: usize, weights: impl Fn(usize, &mut [f32]) + Sync) {
    let (_, cols) = rows_of(call.inputs[0].ty);
    let x = (!call.inputs[0].in_output()).then(|| Rows::new(&call.inputs[0]));
    let pairs: Vec<_> = call.inputs[first..].iter().map(Rows::new).collect();
    let (gammas, betas) = pairs.split_at(experts);
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    let per_task = rows_per_task(cols);
    y.par_chunks_mut(per_task * cols).enumerate().for_each(|(task, y)| {
        let mut w = vec![1.0; experts];
        for (r, y) in y.chunks_exact_mut(cols).enumerate() {
            let row = task * per_task + r;
            if let Some(x) = &x {
                y.copy_from_slice(x.row(row));
            }
            weights(row, &mut w);
            mix(Level::best(), y, row, &w, gammas, betas);
        }
    });
}

pub(super) fn modulate(call: CpuCall) {
    run(call, 1, 1, |_, _| {});
}

pub(super) fn forward(experts: usize, call: CpuCall) {
    let logits = Rows::new(&call.inputs[1]);
    run(call, 2, experts, |row, w| softmax(logits.row(row), w));
}

pub(super) fn backward(experts: usize, mut call: CpuCall) {
    let (rows, cols) = rows_of(call.inputs[0].ty);
    let all: Vec<_> = call.inputs.iter().map(Rows::new).collect();
    let [x, logits, pairs @ .., dy] = &all[..] else { unreachable!("infer counts operands") };
    let outputs: Vec<_> = call.outputs.iter_mut().map(|o| Disjoint::new(o.f32())).collect();
    let [dx, d_logits, d_pairs @ ..] = &outputs[..] else { unreachable!("infer counts results") };
    let level = Level::best();
    let per_task = rows_per_task(cols);
    (0..rows.div_ceil(per_task)).into_par_iter().for_each(|task| {
        let (mut g, mut dg) = (vec![0.0; experts], vec![0.0; experts]);
        for row in task * per_task..rows.min((task + 1) * per_task) {
            let (x, dy) = (x.row(row), dy.row(row));
            fn row_of<'a>(of: &'a Disjoint<f32>, row: usize, n: usize) -> &'a mut [f32] {
                // SAFETY: the rows of a task belong to it alone, in every result.
                unsafe { of.part(row * n, n) }
            }
            softmax(logits.row(row), &mut g);
            let dx = row_of(dx, row, cols);
            dx.copy_from_slice(dy);
            for k in 0..experts {
                let (gamma, beta) = (pairs[k].row(row), pairs[experts + k].row(row));
                dg[k] = weight_gradient(level, x, gamma, beta, dy);
                let (d_gamma, d_beta) =
                    (row_of(&d_pairs[k], row, cols), row_of(&d_pairs[experts + k], row, cols));
                expert_gradient(level, g[k], x, gamma, dy, dx, d_gamma, d_beta);
            }
            let mean: f32 = g.iter().zip(&dg).map(|(g, dg)| g * dg).sum();
            for ((d, g), dg) in row_of(d_logits, row, experts).iter_mut().zip(&g).zip(&dg) {
                *d = g * (dg - mean);
            }
        }
    });
}
