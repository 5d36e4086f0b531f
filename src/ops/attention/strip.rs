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

/// The strips that cover `queries`, of at most `most` each: first query, count, and the width,
/// padded to whole vectors.
pub(in crate::ops) fn strips(queries: usize, most: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..queries).step_by(most).map(move |first| {
        let count = most.min(queries - first);
        (first, count, padded(count))
    })
}

/// Transposes `count` rows of `depth` elements into columns `width` apart, scaled; columns beyond
/// the rows, up to `width`, become zero.
///
/// Rows of a head lie on different pages, so sixteen are loaded at a time: their cache misses then
/// overlap, which element-wise scattering would not allow.
pub(in crate::ops) fn columns_from_rows<'r>(
    (count, depth): (usize, usize),
    row: impl Fn(usize) -> &'r [f32],
    factor: f32,
    columns: &mut [f32],
    width: usize,
) {
    for first in (0..width).step_by(LANES) {
        let mut rows: [&[f32]; LANES] = [&[]; LANES];
        let rows = &mut rows[..LANES.min(count.saturating_sub(first))];
        rows.iter_mut().enumerate().for_each(|(i, r)| *r = row(first + i));
        for at in (0..depth).step_by(LANES) {
            let len = LANES.min(depth - at);
            let mut tile = [[0.0; LANES]; LANES];
            for (tile, row) in tile.iter_mut().zip(&*rows) {
                copy_up_to_lanes(&row[at..at + len], tile);
            }
            for (c, to) in columns[at * width..].chunks_exact_mut(width).take(len).enumerate() {
                for (to, tile) in to[first..first + LANES].iter_mut().zip(&tile) {
                    *to = factor * tile[c];
                }
            }
        }
    }
}

/// The inverse: `store(i, part, values)` is given `values`, up to sixteen elements of row `i` from
/// element `part`, already multiplied by `factors[i]`.
pub(in crate::ops) fn rows_from_columns(
    (count, depth): (usize, usize),
    columns: &[f32],
    width: usize,
    factors: &[f32],
    mut store: impl FnMut(usize, usize, &[f32]),
) {
    for first in (0..count).step_by(LANES) {
        for at in (0..depth).step_by(LANES) {
            let len = LANES.min(depth - at);
            let mut tile = [[0.0; LANES]; LANES];
            for (c, from) in columns[at * width..].chunks_exact(width).take(len).enumerate() {
                for (tile, &x) in tile.iter_mut().zip(&from[first..first + LANES]) {
                    tile[c] = x;
                }
            }
            for (i, tile) in tile.iter_mut().enumerate().take(count - first) {
                tile.iter_mut().for_each(|x| *x *= factors[first + i]);
                store(first + i, at, &tile[..len]);
            }
        }
    }
}

/// A copy of fixed length where possible: one vector instead of a call.
#[inline(always)]
fn copy_up_to_lanes(from: &[f32], to: &mut [f32; LANES]) {
    match <&[f32; LANES]>::try_from(from) {
        Ok(from) => *to = *from,
        Err(_) => to[..from.len()].copy_from_slice(from),
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

    /// `sums[q]` = Σ x·y down column q, rounded like a product of `tile` (fused or not): where a
    /// query sees one key only, its mean gradient then cancels that key's to exactly zero.
    pub(super) fn column_dots(fused: bool, x: &[f32], y: &[f32], sums: &mut [f32]) {
        let width = sums.len();
        sums.fill(0.0);
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact(width)) {
            for ((sum, &x), &y) in sums.iter_mut().zip(x).zip(y) {
                *sum = if fused { x.mul_add(y, *sum) } else { *sum + x * y };
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
