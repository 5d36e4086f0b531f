//! Fast path. Long reductions are cut into fixed blocks whose partial results are combined in
//! order, so that the result does not depend on the number of threads.

use rayon::prelude::*;

use super::{Kind, Reduce, ReduceMaxGrad, fold};
use crate::device::cpu::simd::{Level, simd_fn};
use crate::graph::op::CpuCall;
use crate::ops::rows::{CHUNK, larger, max_of, rows_per_block, rows_per_task, sum_by};

/// Sum or maximum; the mean is a scaled sum.
trait Combine: Copy + Sync {
    const START: f32;
    fn two(a: f32, b: f32) -> f32;
    fn many(x: &[f32]) -> f32;
}

#[derive(Clone, Copy)]
struct Sum;

impl Combine for Sum {
    const START: f32 = 0.0;
    #[inline(always)]
    fn two(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn many(x: &[f32]) -> f32 {
        sum_by(x, |x| x)
    }
}

#[derive(Clone, Copy)]
struct Max;

impl Combine for Max {
    const START: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn two(a: f32, b: f32) -> f32 {
        larger(a, b)
    }
    #[inline(always)]
    fn many(x: &[f32]) -> f32 {
        max_of(x)
    }
}

simd_fn! {
    /// One result per row of `n`.
    fn rows<C: Combine>(_c: C, x: &[f32], n: usize, y: &mut [f32]) {
        x.chunks_exact(n).zip(y).for_each(|(x, y)| *y = C::many(x));
    }

    /// All rows of `x` into one row.
    fn columns<C: Combine>(_c: C, x: &[f32], y: &mut [f32]) {
        y.fill(C::START);
        for x in x.chunks_exact(y.len()) {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = C::two(*y, x));
        }
    }
}

/// Elements of a long row that are reduced at once, so that sums stay precise.
const LONG: usize = 8 * CHUNK;

/// How a problem is run, decided by its shape alone.
enum Way {
    /// Whole rows (`inner` is 1) of moderate length.
    Rows,
    /// Partial results of so many of the `n` slices each, per outer index.
    Blocks(usize),
}

fn way((_, n, inner): (usize, usize, usize)) -> Way {
    match inner {
        1 if n <= LONG => Way::Rows,
        1 => Way::Blocks(CHUNK),
        _ => Way::Blocks(rows_per_block(n, inner)),
    }
}

/// Scratch for the partial results.
pub(super) fn scratch_bytes(shape: (usize, usize, usize)) -> usize {
    match way(shape) {
        Way::Rows => 0,
        Way::Blocks(size) => shape.0 * shape.1.div_ceil(size) * shape.2 * size_of::<f32>(),
    }
}

fn reduce<C: Combine>(c: C, shape: (usize, usize, usize), x: &[f32], y: &mut [f32], scratch: &mut [u8]) {
    let (_, n, inner) = shape;
    let level = Level::best();
    match way(shape) {
        Way::Rows => {
            let per_task = rows_per_task(n);
            y.par_chunks_mut(per_task)
                .zip(x.par_chunks(per_task * n))
                .for_each(|(y, x)| rows(level, c, x, n, y));
        }
        Way::Blocks(size) => {
            let partial: &mut [f32] = bytemuck::cast_slice_mut(scratch);
            let blocks = n.div_ceil(size);
            partial.par_chunks_mut(inner).enumerate().for_each(|(i, partial)| {
                let (o, first) = (i / blocks, i % blocks * size);
                let x = &x[(o * n + first) * inner..(o * n + n.min(first + size)) * inner];
                match inner {
                    1 => rows(level, c, x, x.len(), partial),
                    _ => columns(level, c, x, partial),
                }
            });
            y.par_chunks_mut(inner)
                .zip(partial.par_chunks(blocks * inner))
                .for_each(|(y, partial)| columns(level, c, partial, y));
        }
    }
}

pub(super) fn forward(op: &Reduce, mut call: CpuCall) {
    let shape = fold(&call.inputs[0].ty.shape, op.axis, op.count);
    let x = call.inputs[0].f32();
    let y = call.outputs[0].f32();
    if x.is_empty() {
        return y.fill(0.0); // infer allows only sums of nothing
    }
    match op.kind {
        Kind::Sum | Kind::Mean => reduce(Sum, shape, x, y, call.scratch),
        Kind::Max => reduce(Max, shape, x, y, call.scratch),
    }
    if op.kind == Kind::Mean {
        let scale = 1.0 / shape.1 as f32;
        y.iter_mut().for_each(|y| *y *= scale);
    }
}

pub(super) fn max_backward(op: &ReduceMaxGrad, mut call: CpuCall) {
    let (_, n, inner) = fold(&call.inputs[0].ty.shape, op.axis, op.count);
    let (x, y, dy) = (call.inputs[0].f32(), call.inputs[1].f32(), call.inputs[2].f32());
    let dx = call.outputs[0].f32();
    if dx.is_empty() {
        return;
    }
    dx.par_chunks_mut(n * inner).zip(x.par_chunks(n * inner)).enumerate().for_each(|(o, (dx, x))| {
        dx.fill(0.0);
        for i in 0..inner {
            let most = y[o * inner + i];
            if let Some(k) = (0..n).find(|k| x[k * inner + i] == most) {
                dx[k * inner + i] = dy[o * inner + i];
            }
        }
    });
}
