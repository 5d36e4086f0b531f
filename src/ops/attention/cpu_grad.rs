//! Fast path of the gradient. A task is a range of queries of one head (of all heads that share a
//! bias, if that wants its gradient): block by block it computes the weights again from the
//! log-sum-exp and adds into its own dK and dV. Ranges follow from the extents alone, and their
//! sums are added in order, so the bytes do not depend on the number of threads.

use rayon::prelude::*;

use super::cpu::{Bias, block, key_count, mask_causal};
use super::pack::{KEYS, Source, packed_size, tile_size};
use super::strip::{
    Heads, STRIP, carve, column_dots, columns_from_rows, rows_from_columns, score_gradients, strips,
    weights_from_scores,
};
use super::{AttentionGrad, Extents};
use crate::device::cpu::share::{Disjoint, work};
use crate::device::cpu::simd::Level;
use crate::device::cpu::tile::{Before, Broadcast, Rows, padded, pitch, product};
use crate::graph::TensorType;
use crate::graph::op::CpuCall;

/// Tasks to aim for: enough for a large machine, few enough that the sums of the ranges stay
/// small beside the operands.
const TASKS: usize = 16;
/// Bytes that those sums may take.
const SUMS: usize = 64 << 20;

/// How the work is split.
struct Split {
    /// Ranges of queries.
    ranges: usize,
    /// Queries of a range, a multiple of the block.
    queries: usize,
    /// Heads (over all batch entries) whose gradients one task computes.
    members: usize,
}

impl Split {
    fn of(op: &AttentionGrad, inputs: &[&TensorType]) -> Self {
        let e = op.forward.extents(inputs);
        let mut members = 1;
        if op.d_bias {
            let bias = &inputs[3].shape;
            members = e.batch * e.heads / (bias[0] * bias[1]).max(1);
        }
        let all_sums = e.batch * e.heads * sums_size(e) * 4;
        let groups = (e.batch * e.heads / members.max(1)).max(1);
        let blocks = e.queries.div_ceil(block(e)).max(1);
        let wanted = TASKS.div_ceil(groups).min(SUMS / all_sums.max(1)).clamp(1, blocks);
        let per_range = blocks.div_ceil(wanted);
        Split { ranges: blocks.div_ceil(per_range), queries: per_range * block(e), members }
    }

    /// With one range each task keeps its sums in its worker's memory.
    fn shared_sums(&self) -> bool {
        self.ranges > 1
    }
}

/// Floats of dK and dV of one head, rows padded.
fn sums_size(e: Extents) -> usize {
    2 * e.keys * padded(e.depth)
}

/// Tasks that read the same keys, counting each block of queries.
fn readers(e: Extents) -> usize {
    e.queries.div_ceil(block(e))
}

/// Sizes of a worker's blocks in floats: transposed queries, gradients of results and dQ; queries
/// and gradients of results by rows; tiles; weights and their gradients; log-sum-exp, mean; dK
/// and dV, if not shared.
fn sizes(e: Extents, split: &Split) -> [usize; 11] {
    let n = block(e);
    let (columns, rows, scores) = (n * e.depth, n * padded(e.depth), KEYS * STRIP);
    let own = if split.shared_sums() { 0 } else { sums_size(e) };
    [columns, columns, columns, rows, rows, tile_size(e, readers(e)), scores, scores, n, n, own]
}

/// Floats of memory that all workers share: packed keys and values, and sums.
fn shared_sizes(e: Extents, split: &Split) -> [usize; 2] {
    let sums = if split.shared_sums() { e.batch * e.heads * split.ranges * sums_size(e) } else { 0 };
    [packed_size(e, readers(e)), sums]
}

pub(super) fn scratch(op: &AttentionGrad, inputs: &[&TensorType], threads: usize) -> usize {
    let (e, split) = (op.forward.extents(inputs), Split::of(op, inputs));
    let shared: usize = shared_sizes(e, &split).iter().sum();
    4 * (shared + sizes(e, &split).iter().sum::<usize>() * threads)
}

pub(super) fn backward(op: &AttentionGrad, mut call: CpuCall) {
    let types: Vec<_> = call.inputs.iter().map(|i| i.ty).collect();
    let (f, e, split) = (&op.forward, op.forward.extents(&types), Split::of(op, &types));
    let at = op.out_at();
    let [q, k, v, out, d_out] = [0, 1, 2, at, at + 2].map(|i| Heads::new(&call.inputs[i]));
    let bias = f.bias.then(|| Bias::new(&call.inputs[3]));
    let lengths = f.key_lengths.then(|| call.inputs[f.lengths_at()].i64());
    let lse = call.inputs[at + 1].f32();
    let d_lse = op.d_lse.then(|| call.inputs[at + 3].f32());
    let bias_heads = if op.d_bias { [types[3].shape[0], types[3].shape[1]] } else { [e.batch, e.heads] };

    let mut results = call.outputs.iter_mut();
    let mut next = || Disjoint::new(results.next().expect("infer gives them").f32());
    let (dq, dk, dv) = (next(), next(), next());
    let d_bias = op.d_bias.then(next);

    let (d, n, p, wide) = (e.depth, block(e), pitch(e.depth), padded(e.depth));
    let level = Level::best();
    let sizes = sizes(e, &split);
    let scratch: &mut [f32] = bytemuck::cast_slice_mut(call.scratch);
    let [packed_len, sums_len] = shared_sizes(e, &split);
    let (packed, scratch) = scratch.split_at_mut(packed_len);
    let (shared, scratch) = scratch.split_at_mut(sums_len);
    let source = Source::new(k, v, e, packed);
    let shared = Disjoint::new(shared);

    // Rows of the result from padded sums; `sums` holds dK, then dV.
    let store = |b: usize, h: usize, sums: &[f32]| {
        for (d_rows, sums) in [&dk, &dv].into_iter().zip(sums.chunks_exact((sums.len() / 2).max(1))) {
            for (j, sum) in sums.chunks_exact(wide).enumerate() {
                // SAFETY: rows of one head, which one task stores.
                let row = unsafe { d_rows.part(((b * e.keys + j) * e.heads + h) * d, d) };
                row.copy_from_slice(&sum[..d]);
            }
        }
    };

    let groups = bias_heads[0] * bias_heads[1];
    debug_assert_eq!(groups * split.members, e.batch * e.heads);
    work(groups * split.ranges, scratch, sizes.iter().sum(), |task, memory| {
        let (group, range) = (task / split.ranges, task % split.ranges);
        let (group_b, group_h) = (group / bias_heads[1], group % bias_heads[1]);
        let queries = range * split.queries..e.queries.min((range + 1) * split.queries);
        let [qt, dout_t, dqt, q_rows, do_rows, tiles, weights, d_weights, lse_block, mean, own] =
            carve(memory, sizes);
        if let Some(d_bias) = &d_bias {
            // SAFETY: the rows of this range of the bias shared by this group.
            unsafe { d_bias.part((group * e.queries + queries.start) * e.keys, queries.len() * e.keys) }
                .fill(0.0);
        }
        let members = (0..e.batch * e.heads)
            .map(|m| (m / e.heads, m % e.heads))
            .filter(|&(b, h)| (bias_heads[0] == 1 || b == group_b) && (bias_heads[1] == 1 || h == group_h));
        for (b, h) in members {
            let sums: &mut [f32] = if split.shared_sums() {
                let unit = (b * e.heads + h) * split.ranges + range;
                // SAFETY: a block for every head and range.
                unsafe { shared.part(unit * sums_size(e), sums_size(e)) }
            } else {
                own
            };
            sums.fill(0.0);
            let (dk_sums, dv_sums) = sums.split_at_mut(e.keys * wide);
            for first in queries.clone().step_by(n) {
                let queries = n.min(queries.end - first);
                for (s, count, width) in strips(queries, STRIP) {
                    let token = |i: usize| first + s + i;
                    let part = s * d..(s + width) * d;
                    let (q_of, do_of) = (|i| q.row(b, token(i), h), |i| d_out.row(b, token(i), h));
                    columns_from_rows((count, d), q_of, f.scale, &mut qt[part.clone()], width);
                    columns_from_rows((count, d), do_of, 1.0, &mut dout_t[part.clone()], width);
                    let out_of = |i| out.row(b, token(i), h);
                    let out_t = &mut dqt[part.clone()]; // free until the sums begin
                    columns_from_rows((count, d), out_of, 1.0, out_t, width);
                    column_dots(level, level.fuses(), out_t, &dout_t[part], &mut mean[s..s + width]);
                    for i in 0..width {
                        let rows = (s + i) * wide..(s + i + 1) * wide;
                        let (q_row, do_row) = (&mut q_rows[rows.clone()], &mut do_rows[rows]);
                        q_row.fill(0.0);
                        do_row.fill(0.0);
                        lse_block[s + i] = 0.0;
                        if i >= count {
                            continue;
                        }
                        q_row.iter_mut().zip(q_of(i)).for_each(|(y, x)| *y = f.scale * x);
                        do_row[..d].copy_from_slice(do_of(i));
                        let row = (b * e.heads + h) * e.queries + token(i);
                        lse_block[s + i] = lse[row];
                        mean[s + i] -= d_lse.map_or(0.0, |d| d[row]);
                    }
                }
                dqt.fill(0.0);
                let mut keys = key_count(lengths, b, e.keys);
                if f.causal {
                    keys = keys.min(first + queries);
                }
                for key in (0..keys).step_by(KEYS) {
                    let count = KEYS.min(keys - key);
                    let (k_tile, v_tile) = source.tiles((b, h), key, count, tiles);
                    for (s, queries, width) in strips(queries, STRIP) {
                        if f.causal && key >= first + s + queries {
                            continue;
                        }
                        let columns = s * d..(s + width) * d;
                        let (w, dw) = (&mut weights[..count * width], &mut d_weights[..count * width]);
                        let extents = (count, width, d);
                        let by_rows = |data| Broadcast { data, row: p, col: 1 };
                        let right = |data| Rows { data, row: width };
                        product(
                            level,
                            extents,
                            by_rows(k_tile),
                            right(&qt[columns.clone()]),
                            Before::Overwrite,
                            w,
                            width,
                        );
                        if let Some(bias) = &bias {
                            bias.add((b, h), (key, count), (first + s, queries), w, width);
                        }
                        if f.causal && key + count > first + s {
                            mask_causal(key, first + s, w, width);
                        }
                        weights_from_scores(level, w, &lse_block[s..s + width]);
                        product(
                            level,
                            extents,
                            by_rows(v_tile),
                            right(&dout_t[columns.clone()]),
                            Before::Overwrite,
                            dw,
                            width,
                        );
                        score_gradients(level, dw, w, &mean[s..s + width]);
                        if let Some(d_bias) = &d_bias {
                            for i in 0..queries {
                                let row = group * e.queries + first + s + i;
                                // SAFETY: a row of this task's range of the bias.
                                let row = unsafe { d_bias.part(row * e.keys + key, count) };
                                row.iter_mut().zip(dw[i..].iter().step_by(width)).for_each(|(y, x)| *y += x);
                            }
                        }
                        let rows = s * wide..(s + width) * wide;
                        let transposed = |data| Broadcast { data, row: width, col: 1 };
                        let right = |data| Rows { data, row: wide };
                        let extents = (count, wide, width);
                        let sums = key * wide..(key + count) * wide;
                        product(
                            level,
                            extents,
                            transposed(&*w),
                            right(&do_rows[rows.clone()]),
                            Before::Keep,
                            &mut dv_sums[sums.clone()],
                            wide,
                        );
                        product(
                            level,
                            extents,
                            transposed(&*dw),
                            right(&q_rows[rows]),
                            Before::Keep,
                            &mut dk_sums[sums],
                            wide,
                        );
                        let k_columns = Broadcast { data: k_tile, row: 1, col: p };
                        let d_scores = Rows { data: dw, row: width };
                        product(
                            level,
                            (d, width, count),
                            k_columns,
                            d_scores,
                            Before::Keep,
                            &mut dqt[columns],
                            width,
                        );
                    }
                }
                for (s, count, width) in strips(queries, STRIP) {
                    let factors = [f.scale; STRIP];
                    rows_from_columns((count, d), &dqt[s * d..], width, &factors, |i, part, values| {
                        let row = ((b * e.queries + first + s + i) * e.heads + h) * d;
                        // SAFETY: rows of this head and range.
                        unsafe { dq.part(row + part, values.len()) }.copy_from_slice(values);
                    });
                }
            }
            if !split.shared_sums() {
                store(b, h, sums);
            }
        }
    });

    if split.shared_sums() {
        (0..e.batch * e.heads).into_par_iter().for_each(|unit| {
            let size = sums_size(e);
            // SAFETY: the blocks of one head, which nobody else reads or writes now.
            let blocks = unsafe { shared.part(unit * split.ranges * size, split.ranges * size) };
            let (sum, others) = blocks.split_at_mut(size);
            for other in others.chunks_exact(size) {
                sum.iter_mut().zip(other).for_each(|(y, x)| *y += x);
            }
            store(unit / e.heads, unit % e.heads, sum);
        });
    }
}
