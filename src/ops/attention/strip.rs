//! What attention kernels do to a strip of queries.
//!
//! Scores are kept transposed: a row is one key, a column one query. The softmax then runs down
//! columns, sixteen queries at a time, with no sum across a vector; and both products take their
//! vectors along queries, so that any head dimension fits without a tail.

use crate::device::cpu::math::exp;
use crate::device::cpu::simd::simd_fn;
use crate::device::cpu::tile::{LANES, padded};
use crate::graph::op::Operand;

/// Queries of one strip: three AVX-512 vectors.
pub(in crate::ops) const STRIP: usize = 48;

/// One head of one token within an operand `[batch, tokens, heads, depth]` of any layout whose
/// last axis is dense.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    data: &'a [f32],
    strides: [usize; 3],
    depth: usize,
}

impl<'a> Heads<'a> {
    pub(super) fn new(operand: &Operand<'a>) -> Self {
        let l = operand.layout;
        Heads {
            data: operand.f32(),
            strides: [l.strides[0], l.strides[1], l.strides[2]],
            depth: operand.ty.shape[3],
        }
    }

    /// The elements of head `h` of token `i` of batch entry `b`.
    #[inline(always)]
    pub(super) fn row(&self, b: usize, i: usize, h: usize) -> &'a [f32] {
        let at = b * self.strides[0] + i * self.strides[1] + h * self.strides[2];
        &self.data[at..at + self.depth]
    }
}

/// Splits `memory` into blocks of these many floats (multiples of a cache line).
pub(in crate::ops) fn carve<const N: usize>(mut memory: &mut [f32], sizes: [usize; N]) -> [&mut [f32]; N] {
    sizes.map(|n| {
        let (block, rest) = std::mem::take(&mut memory).split_at_mut(n);
        memory = rest;
        block
    })
}

/// Widths of the strips that cover `queries`, each padded to whole vectors: `(first, count, width)`.
pub(in crate::ops) fn strips(queries: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..queries).step_by(STRIP).map(move |first| {
        let count = STRIP.min(queries - first);
        (first, count, padded(count))
    })
}

/// Transposes rows into columns of `width`, scaled; columns beyond the rows become zero.
pub(in crate::ops) fn columns_from_rows<'r>(
    rows: impl Iterator<Item = &'r [f32]>,
    factor: f32,
    columns: &mut [f32],
    width: usize,
) {
    let mut count = 0;
    for (i, row) in rows.enumerate() {
        count += 1;
        for (column, &x) in columns[i..].iter_mut().step_by(width).zip(row) {
            *column = factor * x;
        }
    }
    if count < width {
        columns.chunks_exact_mut(width).for_each(|c| c[count..].fill(0.0));
    }
}

/// The inverse: column `i` of `columns`, scaled, becomes `row`.
pub(in crate::ops) fn row_from_column(columns: &[f32], width: usize, i: usize, factor: f32, row: &mut [f32]) {
    for (x, &column) in row.iter_mut().zip(columns[i..].iter().step_by(width)) {
        *x = factor * column;
    }
}

/// The state of a softmax that sees its scores tile by tile, one entry a query.
pub(in crate::ops) struct Running<'a> {
    /// Largest score so far; −∞ before the first.
    pub max: &'a mut [f32],
    /// Σ exp(score − max)
    pub sum: &'a mut [f32],
    /// Set by each step: what earlier sums must be multiplied by.
    pub rescale: &'a mut [f32],
}

simd_fn! {
    /// Turns a tile of scores (rows of `width` queries) into exp(score − max), and updates the
    /// state of its queries. A query that has seen nothing but −∞ gets zeros.
    pub(in crate::ops) fn softmax_step(scores: &mut [f32], width: usize, running: &mut Running) {
        for q in (0..width).step_by(LANES) {
            let old: [f32; LANES] = lanes(&running.max[q..]);
            let mut max = old;
            for row in scores.chunks_exact(width) {
                let s: [f32; LANES] = lanes(&row[q..]);
                for i in 0..LANES {
                    max[i] = if s[i] > max[i] { s[i] } else { max[i] };
                }
            }
            let mut shift = max;
            let mut rescale = [0.0; LANES];
            let mut sum: [f32; LANES] = lanes(&running.sum[q..]);
            for i in 0..LANES {
                // −∞ − −∞ would be NaN
                shift[i] = if max[i] == f32::NEG_INFINITY { 0.0 } else { max[i] };
                rescale[i] = exp(old[i] - shift[i]);
                sum[i] *= rescale[i];
            }
            for row in scores.chunks_exact_mut(width) {
                let row: &mut [f32; LANES] = (&mut row[q..q + LANES]).try_into().expect("a vector");
                for i in 0..LANES {
                    row[i] = exp(row[i] - shift[i]);
                    sum[i] += row[i];
                }
            }
            running.max[q..q + LANES].copy_from_slice(&max);
            running.sum[q..q + LANES].copy_from_slice(&sum);
            running.rescale[q..q + LANES].copy_from_slice(&rescale);
        }
    }

    /// scores ← exp(score − lse), rows of `lse.len()` queries.
    pub(super) fn weights_from_scores(scores: &mut [f32], lse: &[f32]) {
        for row in scores.chunks_exact_mut(lse.len()) {
            let pairs = row.as_chunks_mut::<LANES>().0.iter_mut().zip(lse.as_chunks::<LANES>().0);
            for (row, lse) in pairs {
                for i in 0..LANES {
                    row[i] = exp(row[i] - lse[i]);
                }
            }
        }
    }

    /// d ← weight·(d − mean): from gradients of weights to gradients of scores.
    pub(in crate::ops) fn score_gradients(d: &mut [f32], weights: &[f32], mean: &[f32]) {
        let width = mean.len();
        for (d, weights) in d.chunks_exact_mut(width).zip(weights.chunks_exact(width)) {
            for ((d, &w), &mean) in d.iter_mut().zip(weights).zip(mean) {
                *d = w * (*d - mean);
            }
        }
    }
}

#[inline(always)]
fn lanes(x: &[f32]) -> [f32; LANES] {
    x[..LANES].try_into().expect("a vector")
}
