//! Fast path: a row of the result is a task, channels are vectors.

use rayon::prelude::*;

use super::MaxPool;
use crate::device::cpu::simd::{Level, simd_fn};
use crate::graph::op::CpuCall;
use crate::ops::rows::larger;

/// Channels whose largest values are looked for at once.
const CHANNELS: usize = 64;

/// An image in memory.
#[derive(Clone, Copy)]
struct Image<'a> {
    at: &'a [f32],
    height: usize,
    width: usize,
    channels: usize,
}

impl<'a> Image<'a> {
    fn new(at: &'a [f32], shape: &[usize]) -> Self {
        Image { at, height: shape[1], width: shape[2], channels: shape[3] }
    }

    /// Pixel `(row, column)`, where rows count on from sample to sample.
    #[inline(always)]
    fn pixel(&self, row: usize, column: usize) -> &'a [f32] {
        &self.at[(row * self.width + column) * self.channels..][..self.channels]
    }
}

simd_fn! {
    /// Row `row` (of all samples) of the result.
    fn pool_row(pool: MaxPool, x: Image, rows: usize, row: usize, y: &mut [f32]) {
        let first = row / rows * x.height;
        for (column, y) in y.chunks_exact_mut(x.channels).enumerate() {
            y.fill(f32::NEG_INFINITY);
            for r in pool.covered(row % rows, x.height) {
                for c in pool.covered(column, x.width) {
                    y.iter_mut().zip(x.pixel(first + r, c)).for_each(|(y, &x)| *y = larger(*y, x));
                }
            }
        }
    }

    /// Row `row` (of all samples) of dx: every window that covers it is looked through, and gives its dy where the
    /// first of its largest values lies in this row.
    fn grad_row(pool: MaxPool, x: Image, dy: Image, row: usize, dx: &mut [f32]) {
        dx.fill(0.0);
        let (sample, row) = (row / x.height, row % x.height);
        for window_row in pool.covering(row, dy.height) {
            let covered = pool.covered(window_row, x.height);
            for window in 0..dy.width {
                let columns = pool.covered(window, x.width);
                let dy = dy.pixel(sample * dy.height + window_row, window);
                for (block, dy) in dy.chunks(CHANNELS).enumerate() {
                    let start = block * CHANNELS;
                    let mut best = [f32::NEG_INFINITY; CHANNELS];
                    // Which pixel of the window, row by row; the first unless another is larger.
                    let mut place = [0u32; CHANNELS];
                    let mut number = 0u32;
                    for r in covered.clone() {
                        for c in columns.clone() {
                            let x = &x.pixel(sample * x.height + r, c)[start..][..dy.len()];
                            for ((best, place), &x) in best.iter_mut().zip(&mut place).zip(x) {
                                let larger = x > *best || (x.is_nan() && !best.is_nan());
                                *best = if larger { x } else { *best };
                                *place = if larger { number } else { *place };
                            }
                            number += 1;
                        }
                    }
                    let before = ((row - covered.start) * columns.len()) as u32;
                    for (i, c) in columns.clone().enumerate() {
                        let number = before + i as u32;
                        let dx = &mut dx[c * x.channels + start..][..dy.len()];
                        for ((dx, &dy), &place) in dx.iter_mut().zip(dy).zip(&place) {
                            *dx += if place == number { dy } else { 0.0 };
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn forward(pool: &MaxPool, mut call: CpuCall) {
    let x = Image::new(call.inputs[0].f32(), &call.inputs[0].ty.shape);
    let (rows, columns) = (call.outputs[0].ty.shape[1], call.outputs[0].ty.shape[2]);
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    y.par_chunks_mut(columns * x.channels)
        .enumerate()
        .for_each(|(row, y)| pool_row(Level::best(), *pool, x, rows, row, y));
}

pub(super) fn backward(pool: &MaxPool, mut call: CpuCall) {
    let [x, dy] = [0, 1].map(|i| Image::new(call.inputs[i].f32(), &call.inputs[i].ty.shape));
    let dx = call.outputs[0].f32();
    if dx.is_empty() {
        return;
    }
    dx.par_chunks_mut(x.width * x.channels)
        .enumerate()
        .for_each(|(row, dx)| grad_row(Level::best(), *pool, x, dy, row, dx));
}
