//! Fast path. A task is a window. Its tokens are read from where they lie; the bias of each head
//! is spread out once per call, transposed like the scores.

use super::{MASKED, WindowAttention, Windows};
use crate::device::cpu::share::{Disjoint, work};
use crate::device::cpu::simd::Level;
use crate::device::cpu::tile::{Before, Broadcast, Rows, pitch, product};
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

/// Sizes of a worker's blocks in floats: queries and sums transposed, keys, values, scores,
/// maximum, sum, rescaling.
fn sizes(g: Windows) -> [usize; 8] {
    let (n, strip) = (g.tokens() * pitch(g.depth), STRIP * g.depth);
    [strip, strip, n, n, g.tokens() * STRIP, STRIP, STRIP, STRIP]
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

    /// Index of the first channel of a token.
    pub(super) fn start(&self, [b, y, x]: [usize; 3]) -> usize {
        b * self.strides[0] + y * self.strides[1] + x * self.strides[2]
    }

    #[inline(always)]
    pub(super) fn run(&self, start: usize, len: usize) -> &'a [f32] {
        &self.data[start..start + len]
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

/// Copies one head of every token of a window into rows of `pitch`.
pub(super) fn gather(
    x: &Image,
    starts: &[usize],
    channel: usize,
    depth: usize,
    pitch: usize,
    to: &mut [f32],
) {
    for (to, &start) in to.chunks_exact_mut(pitch).zip(starts) {
        to[..depth].copy_from_slice(x.run(start + channel, depth));
    }
}

pub(super) fn forward(op: &WindowAttention, mut call: CpuCall) {
    let g = Windows::of(op, &call.inputs[0].ty.shape);
    let (d, p, tokens, channels) = (g.depth, pitch(g.depth), g.tokens(), g.heads * g.depth);
    let qkv = Image::new(&call.inputs[0]);
    let out = Disjoint::new(call.outputs[0].f32());
    let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
    let (bias, scratch) = scratch.split_at_mut(bias_size(g));
    spread_bias(g, call.inputs[1].f32(), bias);
    let bias = &*bias;
    let level = Level::best();
    let sizes = sizes(g);
    work(g.count(), scratch, sizes.iter().sum(), |n, memory| {
        let [qt, sums, k, v, scores, max, sum, rescale] = carve(memory, sizes);
        let places: Vec<_> = (0..tokens).map(|i| g.token(n, i)).collect();
        let starts: Vec<_> = places.iter().map(|p| qkv.start(p.0)).collect();
        let regions: Vec<_> = places.iter().map(|p| p.1).collect();
        for head in 0..g.heads {
            let channel = head * d;
            gather(&qkv, &starts, channels + channel, d, p, k);
            gather(&qkv, &starts, 2 * channels + channel, d, p, v);
            let mut bias = &bias[head * tokens * columns(g)..];
            for (first, count, width) in strips(tokens, STRIP) {
                let (scores, sums) = (&mut scores[..tokens * width], &mut sums[..width * d]);
                let row = |i: usize| qkv.run(starts[first + i] + channel, d);
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
