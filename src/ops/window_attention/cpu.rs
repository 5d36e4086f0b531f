//! Fast path. A task is a window. Its tokens are copied whole from where they lie, a long run
//! each; heads are then read in place. The bias of each head is spread out once per call,
//! transposed like the scores.

use super::{MASKED, WindowAttention, Windows};
use crate::device::cpu::share::{Disjoint, work};
use crate::device::cpu::simd::Level;
use crate::device::cpu::tile::{Before, Broadcast, LANES, Rows, pitch, product};
use crate::graph::op::{CpuCall, Operand};
use crate::ops::attention::strip::{
    Running, carve, columns_from_rows, rows_from_columns, softmax_step, strips,
};

/// Queries of a strip: an 8×8 window.
pub(super) const STRIP: usize = 64;

/// Tokens of a window and padding, over all strips.
pub(super) fn columns(g: Windows) -> usize {
    strips(g.tokens(), STRIP).map(|s| s.2).sum()
}

/// Floats of the spread bias, `[heads][strip][key][query of strip]`.
pub(super) fn bias_size(g: Windows) -> usize {
    g.heads * g.tokens() * columns(g)
}

/// Floats from token to token of a window when `channels` of each are copied: a vector that starts
/// at any channel stays within the row, and rows spread over the sets of the L1 cache.
pub(super) fn token_pitch(channels: usize) -> usize {
    pitch(channels + LANES)
}

/// Sizes of a worker's blocks in floats: tokens, queries and sums transposed, scores, maximum, sum,
/// rescaling.
fn sizes(g: Windows) -> [usize; 7] {
    let (strip, tokens) = (STRIP * g.depth, g.tokens() * token_pitch(3 * g.heads * g.depth));
    [tokens, strip, strip, g.tokens() * STRIP, STRIP, STRIP, STRIP]
}

pub(super) fn scratch(g: Windows, threads: usize) -> usize {
    4 * (bias_size(g) + sizes(g).iter().sum::<usize>() * threads)
}

/// An operand `[batch, height, width, channels]` of any layout whose last axis is dense.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    data: &'a [f32],
    strides: [usize; 3],
}

impl<'a> Image<'a> {
    pub(super) fn new(operand: &Operand<'a>) -> Self {
        let s = &operand.layout.strides;
        Image { data: operand.f32(), strides: [s[0], s[1], s[2]] }
    }

    /// Copies `channels` of every token of window `n` into rows of [`token_pitch`].
    pub(super) fn gather(&self, g: Windows, n: usize, channels: usize, to: &mut [f32]) {
        for (i, to) in to.chunks_exact_mut(token_pitch(channels)).enumerate() {
            let [b, y, x] = g.token(n, i).0;
            let at = b * self.strides[0] + y * self.strides[1] + x * self.strides[2];
            to[..channels].copy_from_slice(&self.data[at..at + channels]);
        }
    }
}

/// Spreads the table over pairs of tokens.
pub(super) fn spread_bias(g: Windows, table: &[f32], bias: &mut [f32]) {
    let mut to = bias.iter_mut();
    for head in 0..g.heads {
        for (first, count, width) in strips(g.tokens(), STRIP) {
            for key in 0..g.tokens() {
                for q in 0..width {
                    let x = if q < count { table[g.table_row(first + q, key) * g.heads + head] } else { 0.0 };
                    *to.next().expect("bias_size") = x;
                }
            }
        }
    }
}

/// Adds the bias and the mask to a strip of scores.
pub(super) fn add_bias(
    bias: &[f32],
    regions: &[usize],
    (first, count, width): (usize, usize, usize),
    scores: &mut [f32],
) {
    scores.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
    if regions.iter().all(|&r| r == regions[0]) {
        return;
    }
    for (row, key) in scores.chunks_exact_mut(width).zip(regions) {
        for (s, query) in row.iter_mut().zip(&regions[first..first + count]) {
            *s += if query == key { 0.0 } else { MASKED };
        }
    }
}

pub(super) fn forward(op: &WindowAttention, mut call: CpuCall) {
    let g = Windows::of(op, &call.inputs[0].ty.shape);
    let (d, tokens, channels) = (g.depth, g.tokens(), g.heads * g.depth);
    let p = token_pitch(3 * channels);
    let qkv = Image::new(&call.inputs[0]);
    let out = Disjoint::new(call.outputs[0].f32());
    let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
    let (bias, scratch) = scratch.split_at_mut(bias_size(g));
    spread_bias(g, call.inputs[1].f32(), bias);
    let bias = &*bias;
    let level = Level::best();
    let sizes = sizes(g);
    work(g.count(), scratch, sizes.iter().sum(), |n, memory| {
        let [qkv_rows, qt, sums, scores, max, sum, rescale] = carve(memory, sizes);
        let places: Vec<_> = (0..tokens).map(|i| g.token(n, i)).collect();
        let regions: Vec<_> = places.iter().map(|p| p.1).collect();
        qkv.gather(g, n, 3 * channels, qkv_rows);
        for head in 0..g.heads {
            let channel = head * d;
            let (k, v) = (&qkv_rows[channels + channel..], &qkv_rows[2 * channels + channel..]);
            let mut bias = &bias[head * tokens * columns(g)..];
            for (first, count, width) in strips(tokens, STRIP) {
                let (scores, sums) = (&mut scores[..tokens * width], &mut sums[..width * d]);
                let row = |i: usize| &qkv_rows[(first + i) * p + channel..][..d];
                columns_from_rows((count, d), row, op.scale, qt, width);
                let k_rows = Broadcast { data: k, row: p, col: 1 };
                let q_columns = Rows { data: qt, row: width };
                product(level, (tokens, width, d), k_rows, q_columns, Before::Overwrite, scores, width);
                add_bias(bias, &regions, (first, count, width), scores);
                bias = &bias[scores.len()..];
                max.fill(f32::NEG_INFINITY);
                sum.fill(0.0);
                let (max, sum) = (&mut max[..width], &mut sum[..width]);
                softmax_step(level, scores, width, &mut Running { max, sum, rescale });
                let v_columns = Broadcast { data: v, row: 1, col: p };
                let weights = Rows { data: scores, row: width };
                product(level, (d, width, tokens), v_columns, weights, Before::Overwrite, sums, width);
                sum.iter_mut().for_each(|x| *x = 1.0 / *x);
                rows_from_columns((count, d), sums, width, sum, |i, part, values| {
                    let [b, y, x] = places[first + i].0;
                    let at = ((b * g.height + y) * g.width + x) * channels + channel + part;
                    // SAFETY: each token is in one window, and each window one task.
                    unsafe { out.part(at, values.len()) }.copy_from_slice(values);
                });
            }
        }
    });
}
