//! Fast path: a row of blocks is a task; both sides of it are contiguous.

use rayon::prelude::*;

use crate::device::cpu::simd::{Level, simd_fn};
use crate::graph::op::CpuCall;

/// Calls `$f(r, …)` with r a constant for the factors that models use, so that it is unrolled.
macro_rules! with_constant {
    ($r:expr, $f:ident($($arg:expr),*)) => {
        match $r {
            2 => $f(2, $($arg),*),
            3 => $f(3, $($arg),*),
            4 => $f(4, $($arg),*),
            8 => $f(8, $($arg),*),
            r => $f(r, $($arg),*),
        }
    };
}

simd_fn! {
    fn shuffle_row(r: usize, x: &[f32], c: usize, y: &mut [f32]) {
        with_constant!(r, spread(x, c, y));
    }

    fn unshuffle_row(r: usize, x: &[f32], c: usize, y: &mut [f32]) {
        with_constant!(r, gather(x, c, y));
    }
}

/// Pixels of C·r² channels to r rows of pixels.
#[inline(always)]
fn spread(r: usize, x: &[f32], c: usize, y: &mut [f32]) {
    let width = y.len() / r;
    for (column, x) in x.chunks_exact(c * r * r).enumerate() {
        for dy in 0..r {
            for dx in 0..r {
                let y = &mut y[dy * width + (column * r + dx) * c..][..c];
                for (y, x) in y.iter_mut().zip(x.chunks_exact(r * r)) {
                    *y = x[dy * r + dx];
                }
            }
        }
    }
}

/// r rows of pixels to pixels of C·r² channels.
#[inline(always)]
fn gather(r: usize, x: &[f32], c: usize, y: &mut [f32]) {
    let width = x.len() / r;
    for (column, y) in y.chunks_exact_mut(c * r * r).enumerate() {
        for dy in 0..r {
            for dx in 0..r {
                let x = &x[dy * width + (column * r + dx) * c..][..c];
                for (y, x) in y.chunks_exact_mut(r * r).zip(x) {
                    y[dy * r + dx] = *x;
                }
            }
        }
    }
}

pub(super) fn shuffle(r: usize, mut call: CpuCall) {
    let (w, c) = (call.inputs[0].ty.shape[2], call.outputs[0].ty.shape[3]);
    let x = call.inputs[0].f32();
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    let row = w * c * r * r;
    y.par_chunks_mut(row).zip(x.par_chunks(row)).for_each(|(y, x)| shuffle_row(Level::best(), r, x, c, y));
}

pub(super) fn unshuffle(r: usize, mut call: CpuCall) {
    let (w, c) = (call.outputs[0].ty.shape[2], call.inputs[0].ty.shape[3]);
    let x = call.inputs[0].f32();
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    let row = w * c * r * r;
    y.par_chunks_mut(row).zip(x.par_chunks(row)).for_each(|(y, x)| unshuffle_row(Level::best(), r, x, c, y));
}
