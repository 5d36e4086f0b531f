//! Fast path of the gradient: windows in a fixed number of groups, each group adding the gradient
//! of the bias into sums of its own, which are then added in order.

use super::cpu::{Image, STRIP, add_bias, bias_size, columns, spread_bias, token_pitch};
use super::{WindowAttention, Windows};
use crate::device::cpu::share::{Disjoint, work};
use crate::device::cpu::simd::{Level, simd_fn};
use crate::device::cpu::tile::{Before, Broadcast, Rows, padded, product};
use crate::graph::op::CpuCall;
use crate::ops::attention::strip::{
    Running, carve, columns_from_rows, rows_from_columns, score_gradients, softmax_step, strips,
};

/// Groups of windows: enough for the threads of a large machine.
const GROUPS: usize = 32;

fn groups(g: Windows) -> usize {
    GROUPS.min(g.count()).max(1)
}

/// Sizes of a worker's blocks in floats: tokens of qkv and of the result's gradient; queries,
/// gradients of results and dQ, transposed; weights and their gradients; dK, dV; maximum, sum,
/// rescaling, mean.
fn sizes(g: Windows) -> [usize; 13] {
    let (tokens, channels, strip) = (g.tokens(), g.heads * g.depth, STRIP * g.depth);
    let rows = |channels| tokens * token_pitch(channels);
    let (scores, sums) = (tokens * STRIP, tokens * padded(g.depth));
    [
        rows(3 * channels),
        rows(channels),
        strip,
        strip,
        strip,
        scores,
        scores,
        sums,
        sums,
        STRIP,
        STRIP,
        STRIP,
        STRIP,
    ]
}

pub(super) fn scratch(g: Windows, threads: usize) -> usize {
    4 * (bias_size(g) * (1 + groups(g)) + sizes(g).iter().sum::<usize>() * threads)
}

simd_fn! {
    /// weights ← weights·diag(factors); mean[q] = Σ over keys of weights·d
    fn normalise(weights: &mut [f32], d: &[f32], factors: &[f32], mean: &mut [f32]) {
        let width = mean.len();
        mean.fill(0.0);
        for (weights, d) in weights.chunks_exact_mut(width).zip(d.chunks_exact(width)) {
            for (((w, &d), &factor), mean) in weights.iter_mut().zip(d).zip(factors).zip(&mut *mean) {
                *w *= factor;
                *mean += *w * d;
            }
        }
    }
}

pub(super) fn backward(op: &WindowAttention, mut call: CpuCall) {
    let g = Windows::of(op, &call.inputs[0].ty.shape);
    let (d, wide) = (g.depth, padded(g.depth));
    let (tokens, channels) = (g.tokens(), g.heads * g.depth);
    let (p, do_p) = (token_pitch(3 * channels), token_pitch(channels));
    let (qkv, d_out) = (Image::new(&call.inputs[0]), Image::new(&call.inputs[2]));
    let [d_qkv, d_table] = &mut call.outputs[..] else { unreachable!("infer gives two results") };
    let (d_qkv, d_table) = (Disjoint::new(d_qkv.f32()), d_table.f32());
    let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
    let (bias, scratch) = scratch.split_at_mut(bias_size(g));
    let (d_bias, scratch) = scratch.split_at_mut(bias_size(g) * groups(g));
    spread_bias(g, call.inputs[1].f32(), bias);
    let bias = &*bias;
    d_bias.fill(0.0);
    let d_biases = Disjoint::new(d_bias);
    let level = Level::best();
    let sizes = sizes(g);
    let per_group = g.count().div_ceil(groups(g));
    work(groups(g), scratch, sizes.iter().sum(), |group, memory| {
        let [qkv_rows, do_rows, qt, dout_t, dqt, weights, d_weights, dk, dv, max, sum, rescale, mean] =
            carve(memory, sizes);
        // What stands after a token's channels reaches only columns that nobody reads, but it
        // shall be numbers, not whatever the memory held.
        qkv_rows.fill(0.0);
        do_rows.fill(0.0);
        // SAFETY: the sums of this group.
        let d_bias = unsafe { d_biases.part(group * bias_size(g), bias_size(g)) };
        for n in group * per_group..g.count().min((group + 1) * per_group) {
            let places: Vec<_> = (0..tokens).map(|i| g.token(n, i)).collect();
            let regions: Vec<_> = places.iter().map(|p| p.1).collect();
            qkv.gather(g, n, 3 * channels, qkv_rows);
            d_out.gather(g, n, channels, do_rows);
            let store = |i: usize, channel: usize, values: &[f32]| {
                let [b, y, x] = places[i].0;
                let at = ((b * g.height + y) * g.width + x) * 3 * channels + channel;
                // SAFETY: each token is in one window, and each window in one group.
                unsafe { d_qkv.part(at, values.len()) }.copy_from_slice(values);
            };
            for head in 0..g.heads {
                let channel = head * d;
                let (q, d_out) = (&qkv_rows[channel..], &do_rows[channel..]);
                let (k, v) = (&q[channels..], &q[2 * channels..]);
                let mut at = head * tokens * columns(g);
                for (first, count, width) in strips(tokens, STRIP) {
                    let spread = at..at + tokens * width;
                    at = spread.end;
                    let (w, dw) = (&mut weights[..tokens * width], &mut d_weights[..tokens * width]);
                    let (max, sum, mean) = (&mut max[..width], &mut sum[..width], &mut mean[..width]);
                    columns_from_rows((count, d), |i| &q[(first + i) * p..][..d], op.scale, qt, width);
                    columns_from_rows((count, d), |i| &d_out[(first + i) * do_p..][..d], 1.0, dout_t, width);
                    let by_rows = |data| Broadcast { data, row: p, col: 1 };
                    let right = |data| Rows { data, row: width };
                    let extents = (tokens, width, d);
                    product(level, extents, by_rows(k), right(&*qt), Before::Overwrite, w, width);
                    add_bias(&bias[spread.clone()], &regions, (first, count, width), w);
                    max.fill(f32::NEG_INFINITY);
                    sum.fill(0.0);
                    softmax_step(level, w, width, &mut Running { max, sum, rescale });
                    sum.iter_mut().for_each(|x| *x = 1.0 / *x);
                    product(level, extents, by_rows(v), right(&*dout_t), Before::Overwrite, dw, width);
                    normalise(level, w, dw, sum, mean);
                    score_gradients(level, dw, w, mean);
                    d_bias[spread].iter_mut().zip(&*dw).for_each(|(y, x)| *y += x);
                    let transposed = |data| Broadcast { data, row: width, col: 1 };
                    let before = if first == 0 { Before::Overwrite } else { Before::Keep };
                    let extents = (tokens, wide, count);
                    let right = Rows { data: &d_out[first * do_p..], row: do_p };
                    product(level, extents, transposed(&*w), right, before, dv, wide);
                    let right = Rows { data: &q[first * p..], row: p };
                    product(level, extents, transposed(&*dw), right, before, dk, wide);
                    let k_columns = Broadcast { data: k, row: 1, col: p };
                    let d_scores = Rows { data: dw, row: width };
                    product(level, (d, width, tokens), k_columns, d_scores, Before::Overwrite, dqt, width);
                    rows_from_columns((count, d), dqt, width, &[op.scale; STRIP], |i, part, values| {
                        store(first + i, channel + part, values);
                    });
                }
                dk.iter_mut().for_each(|x| *x *= op.scale);
                for i in 0..tokens {
                    store(i, channels + channel, &dk[i * wide..i * wide + d]);
                    store(i, 2 * channels + channel, &dv[i * wide..i * wide + d]);
                }
            }
        }
    });

    let (d_bias, others) = d_biases.into_slice().split_at_mut(bias_size(g));
    for other in others.chunks_exact(bias_size(g)) {
        d_bias.iter_mut().zip(other).for_each(|(y, x)| *y += x);
    }
    let mut sums = vec![0.0f64; d_table.len()];
    let mut from = d_bias.iter();
    for head in 0..g.heads {
        for (first, count, width) in strips(tokens, STRIP) {
            for key in 0..tokens {
                for (q, &x) in from.by_ref().take(width).enumerate() {
                    if q < count {
                        sums[g.table_row(first + q, key) * g.heads + head] += x as f64;
                    }
                }
            }
        }
    }
    d_table.iter_mut().zip(sums).for_each(|(y, x)| *y = x as f32);
}
