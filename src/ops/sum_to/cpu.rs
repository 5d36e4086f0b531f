//! Fast path: partial sums over fixed blocks of rows, added in order, so that the result does
//! not depend on the number of threads.

use rayon::prelude::*;

use crate::graph::Layout;
use crate::graph::op::CpuCall;

/// Elements per block.
const BLOCK: usize = 64 * 1024;

pub(super) fn forward(mut call: CpuCall) {
    let shape = &call.inputs[0].ty.shape;
    let to = Layout::dense(&call.outputs[0].ty.shape).broadcast(shape).expect("infer checked");
    let x = call.inputs[0].f32();
    let y = call.outputs[0].f32();
    y.fill(0.0);
    if x.is_empty() {
        return;
    }
    let cols = *shape.last().unwrap_or(&1);
    let sum_row = *to.strides.last().unwrap_or(&0) == 0;
    let rows_per_block = (BLOCK / cols).max(1);
    // Each block adds its rows into sums of its own; memory is bounded by doing a few at a time.
    let add_rows = |first: usize, x: &[f32], y: &mut [f32]| {
        for (r, row) in x.chunks_exact(cols).enumerate() {
            let at = to.position((first + r) * cols);
            if sum_row {
                y[at] += pairwise(row);
            } else {
                y[at..at + cols].iter_mut().zip(row).for_each(|(y, x)| *y += x);
            }
        }
    };
    let blocks: Vec<_> = x.chunks(rows_per_block * cols).enumerate().collect();
    for group in blocks.chunks(16) {
        let partial: Vec<Vec<f32>> = group
            .par_iter()
            .map(|&(i, x)| {
                let mut sums = vec![0.0; y.len()];
                add_rows(i * rows_per_block, x, &mut sums);
                sums
            })
            .collect();
        for sums in partial {
            y.iter_mut().zip(sums).for_each(|(y, s)| *y += s);
        }
    }
}

/// Sum with error growing like the logarithm of the length.
fn pairwise(x: &[f32]) -> f32 {
    if x.len() <= 64 {
        return x.iter().sum();
    }
    let (a, b) = x.split_at(x.len() / 2);
    pairwise(a) + pairwise(b)
}
