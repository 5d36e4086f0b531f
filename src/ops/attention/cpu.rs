//! Fast path. A task is a block of queries of one head. Its queries are transposed once; then,
//! tile by tile of keys: scores, one step of the running softmax, weighted sum of values. Nothing
//! but a tile of scores is ever held. The order of sums depends on the extents only.

use super::pack::{KEYS, Source, packed_size, tile_size};
use super::strip::{
    Heads, Running, STRIP, carve, columns_from_rows, rows_from_columns, softmax_step, strips,
};
use super::{Attention, Extents};
use crate::device::cpu::share::{Disjoint, work};
use crate::device::cpu::simd::Level;
use crate::device::cpu::tile::{Before, Broadcast, LANES, Rows, pitch, product};
use crate::graph::op::{CpuCall, Operand};

/// Queries of a task: enough that reading each tile of keys and values costs little beside using
/// it, few enough that the transposed queries and sums (8 bytes per query and channel) stay in
/// half of a 1 MiB L2 beside one tile.
pub(super) fn block(e: Extents) -> usize {
    let fit = 448 * 1024 / (8 * STRIP * e.depth.max(1));
    STRIP * fit.clamp(1, 8).min(e.queries.div_ceil(STRIP).max(1))
}

/// Tasks that read the same keys.
fn readers(e: Extents) -> usize {
    e.queries.div_ceil(block(e)) * e.batch.div_ceil(e.kv_batch.max(1))
}

/// Sizes of a worker's blocks in floats: queries and sums transposed, tiles, scores, running
/// maximum, sum and rescaling.
fn sizes(e: Extents) -> [usize; 7] {
    let n = block(e);
    [n * e.depth, n * e.depth, tile_size(e, readers(e)), KEYS * STRIP, n, n, STRIP]
}

pub(super) fn scratch(e: Extents, threads: usize) -> usize {
    4 * (packed_size(e, readers(e)) + sizes(e).iter().sum::<usize>() * threads)
}

/// Keys that entry `row` of k has.
pub(super) fn key_count(lengths: Option<&[i64]>, row: usize, keys: usize) -> usize {
    lengths.map_or(keys, |l| l[row].clamp(0, keys as i64) as usize)
}

/// The bias operand with its strides; extents of 1 repeat.
#[derive(Clone, Copy)]
pub(super) struct Bias<'a> {
    data: &'a [f32],
    strides: [usize; 3],
}

impl<'a> Bias<'a> {
    pub(super) fn new(operand: &Operand<'a>) -> Self {
        let l = operand.layout;
        let stride = |axis: usize| if l.shape[axis] == 1 { 0 } else { l.strides[axis] };
        Bias { data: operand.f32(), strides: [stride(0), stride(1), stride(2)] }
    }

    /// Adds to a transposed tile of scores: keys from `key`, queries from `query`.
    pub(super) fn add(
        &self,
        (b, h): (usize, usize),
        (key, keys): (usize, usize),
        (query, queries): (usize, usize),
        scores: &mut [f32],
        width: usize,
    ) {
        let at = b * self.strides[0] + h * self.strides[1] + query * self.strides[2] + key;
        let row = |q: usize| &self.data[at + q * self.strides[2]..][..keys];
        // In blocks that stay in registers and L1 while they are transposed.
        for first in (0..queries).step_by(LANES) {
            let rows = LANES.min(queries - first);
            for (k, scores) in scores.chunks_mut(LANES * width).enumerate() {
                for q in first..first + rows {
                    let part = &row(q)[k * LANES..];
                    for (s, x) in scores[q..].iter_mut().step_by(width).zip(part) {
                        *s += x;
                    }
                }
            }
        }
    }
}

/// Hides keys that come after their query.
pub(super) fn mask_causal(key: usize, query: usize, scores: &mut [f32], width: usize) {
    for (k, row) in scores.chunks_exact_mut(width).enumerate() {
        let hidden = (key + k).saturating_sub(query).min(width);
        row[..hidden].fill(f32::NEG_INFINITY);
    }
}

pub(super) fn forward(op: &Attention, mut call: CpuCall) {
    let e = Extents::of(&call.inputs[0].ty.shape, &call.inputs[1].ty.shape);
    let [q, k, v] = [0, 1, 2].map(|i| Heads::new(&call.inputs[i]));
    let bias = op.bias.then(|| Bias::new(&call.inputs[3]));
    let lengths = op.key_lengths.then(|| call.inputs[op.lengths_at()].i64());
    let [out, lse] = &mut call.outputs[..] else { unreachable!("infer gives two results") };
    let (out, lse) = (Disjoint::new(out.f32()), Disjoint::new(lse.f32()));
    let level = Level::best();
    let (n, p, d) = (block(e), pitch(e.depth), e.depth);
    let blocks = e.queries.div_ceil(n);
    let sizes = sizes(e);
    let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
    let (packed, scratch) = scratch.split_at_mut(packed_size(e, readers(e)));
    let source = Source::new(k, v, e, packed);
    work(e.batch * e.heads * blocks, scratch, sizes.iter().sum(), |task, memory| {
        let (b, h, first) = (task / blocks / e.heads, task / blocks % e.heads, task % blocks * n);
        let queries = n.min(e.queries - first);
        let [qt, sums, tiles, scores, max, sum, rescale] = carve(memory, sizes);
        for (s, count, width) in strips(queries, STRIP) {
            let row = |i| q.row(b, first + s + i, h);
            columns_from_rows((count, d), row, op.scale, &mut qt[s * d..(s + width) * d], width);
        }
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        let kv_row = op.kv_row(b);
        let mut keys = key_count(lengths, kv_row, e.keys);
        if op.causal {
            keys = keys.min(first + queries);
        }
        for key in (0..keys).step_by(KEYS) {
            let count = KEYS.min(keys - key);
            let (k_tile, v_tile) = source.tiles((kv_row, h), key, count, tiles);
            for (s, queries, width) in strips(queries, STRIP) {
                if op.causal && key >= first + s + queries {
                    continue;
                }
                let scores = &mut scores[..count * width];
                let columns = s * d..(s + width) * d;
                let k_rows = Broadcast { data: k_tile, row: p, col: 1 };
                let q_columns = Rows { data: &qt[columns.clone()], row: width };
                product(level, (count, width, d), k_rows, q_columns, Before::Overwrite, scores, width);
                if let Some(bias) = &bias {
                    bias.add((b, h), (key, count), (first + s, queries), scores, width);
                }
                if op.causal && key + count > first + s {
                    mask_causal(key, first + s, scores, width);
                }
                let mut running = Running {
                    max: &mut max[s..s + width],
                    sum: &mut sum[s..s + width],
                    rescale: &mut rescale[..width],
                };
                softmax_step(level, scores, width, &mut running);
                let before = if key == 0 { Before::Overwrite } else { Before::Scale(rescale) };
                let v_columns = Broadcast { data: v_tile, row: 1, col: p };
                let weights = Rows { data: scores, row: width };
                product(level, (d, width, count), v_columns, weights, before, &mut sums[columns], width);
            }
        }
        if keys == 0 {
            sums.fill(0.0);
        }
        // SAFETY: each task has the log-sum-exps and the rows of its queries for itself.
        let lse = unsafe { lse.part((b * e.heads + h) * e.queries + first, queries) };
        for (s, count, width) in strips(queries, STRIP) {
            for i in s..s + count {
                let seen = sum[i] != 0.0;
                lse[i] = if seen { max[i] + sum[i].ln() } else { 0.0 };
                sum[i] = if seen { 1.0 / sum[i] } else { 0.0 };
            }
            rows_from_columns((count, d), &sums[s * d..], width, &sum[s..], |i, part, values| {
                let row = ((b * e.queries + first + s + i) * e.heads + h) * d;
                // SAFETY: as above.
                unsafe { out.part(row + part, values.len()) }.copy_from_slice(values);
            });
        }
    });
}
