//! Fast path: copies of rows, over threads.

use rayon::prelude::*;

use crate::graph::op::CpuCall;
use crate::ops::rows::{Rows, rows_per_task};

pub(super) fn forward(axis: usize, mut call: CpuCall) {
    let shape = &call.outputs[0].ty.shape;
    let cols = shape[shape.len() - 1];
    let last = axis + 1 == shape.len();
    // Rows of the result that one index of the axis spans, and rows from one outer index to the next.
    let inner: usize = if last { 1 } else { shape[axis + 1..shape.len() - 1].iter().product() };
    let outer = shape[axis] * inner;
    let parts: Vec<(Rows, usize)> =
        call.inputs.iter().map(|x| (Rows::new(x), x.ty.shape[axis] * inner)).collect();
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    let per_task = rows_per_task(cols);
    y.par_chunks_mut(per_task * cols).enumerate().for_each(|(task, y)| {
        for (r, y) in y.chunks_exact_mut(cols).enumerate() {
            let row = task * per_task + r;
            if last {
                let mut left = y;
                for (x, _) in parts.iter().filter(|(x, _)| x.cols > 0) {
                    let (part, rest) = left.split_at_mut(x.cols);
                    part.copy_from_slice(x.row(row));
                    left = rest;
                }
            } else {
                let (o, mut k) = (row / outer, row % outer);
                for (x, rows) in &parts {
                    if k < *rows {
                        y.copy_from_slice(x.row(o * rows + k));
                        break;
                    }
                    k -= rows;
                }
            }
        }
    });
}
