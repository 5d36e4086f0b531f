//! Fast path: rows over threads, each read from memory once.

use rayon::prelude::*;

use crate::device::cpu::math::exp;
use crate::device::cpu::simd::{Level, simd_fn};
use crate::graph::op::CpuCall;
use crate::ops::rows::{Rows, max_number_of, rows_per_task, sum_by, sum_by2};

/// Rows shorter than this are not worth a vector each.
const SHORT: usize = 16;

/// Exponentials over many rows at once, the rest row by row.
#[inline(always)]
fn softmax_short(y: &mut [f32], cols: usize) {
    for y in y.chunks_exact_mut(cols) {
        let most = y.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        y.iter_mut().for_each(|y| *y -= most);
    }
    y.iter_mut().for_each(|y| *y = exp(*y));
    for y in y.chunks_exact_mut(cols) {
        let scale = 1.0 / y.iter().sum::<f32>();
        y.iter_mut().for_each(|y| *y *= scale);
    }
}

simd_fn! {
    /// Rows of `y` hold x before and the result after. (NaN comes through the exponentials.)
    fn softmax(y: &mut [f32], cols: usize) {
        if cols < SHORT {
            return softmax_short(y, cols);
        }
        for y in y.chunks_exact_mut(cols) {
            let most = max_number_of(y);
            y.iter_mut().for_each(|y| *y = exp(*y - most));
            let scale = 1.0 / sum_by(y, |y| y);
            y.iter_mut().for_each(|y| *y *= scale);
        }
    }

    fn differentiate(y: &Rows, dy: &Rows, first: usize, dx: &mut [f32]) {
        for (i, dx) in dx.chunks_exact_mut(y.cols).enumerate() {
            let (y, dy) = (y.row(first + i), dy.row(first + i));
            let dot = sum_by2(y, dy, |y, d| y * d);
            dx.iter_mut().zip(y).zip(dy).for_each(|((dx, &y), &d)| *dx = y * (d - dot));
        }
    }
}

pub(super) fn forward(mut call: CpuCall) {
    let cols = call.outputs[0].ty.last();
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    let x = if call.inputs[0].in_output() { None } else { Some(Rows::new(&call.inputs[0])) };
    let rows = rows_per_task(cols);
    y.par_chunks_mut(rows * cols).enumerate().for_each(|(i, y)| {
        if let Some(x) = x {
            y.chunks_exact_mut(cols).enumerate().for_each(|(r, y)| y.copy_from_slice(x.row(i * rows + r)));
        }
        softmax(Level::best(), y, cols);
    });
}

pub(super) fn backward(mut call: CpuCall) {
    let (y, dy) = (Rows::new(&call.inputs[0]), Rows::new(&call.inputs[1]));
    let dx = call.outputs[0].f32();
    if dx.is_empty() {
        return;
    }
    let rows = rows_per_task(y.cols);
    dx.par_chunks_mut(rows * y.cols)
        .enumerate()
        .for_each(|(i, dx)| differentiate(Level::best(), &y, &dy, i * rows, dx));
}
