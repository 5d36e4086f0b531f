//! Fast path: rows over threads, found through one index table per axis.

use rayon::prelude::*;

use super::PadEdges;
use crate::graph::op::CpuCall;
use crate::ops::rows::rows_per_task;

/// Mixed-radix digits of a row number over the leading extents.
fn digits(mut row: usize, lead: &[usize], out: &mut [usize]) {
    for (digit, &n) in out.iter_mut().zip(lead).rev() {
        *digit = row % n;
        row /= n;
    }
}

pub(super) fn forward(pad: &PadEdges, mut call: CpuCall) {
    let from = call.inputs[0].ty.shape.clone();
    let x = call.inputs[0].f32();
    let sources = pad.sources(&from);
    let Some((columns, lead)) = sources.split_last() else {
        return call.outputs[0].f32().copy_from_slice(x);
    };
    let (cols, width) = (columns.len(), from[lead.len()]);
    let extents: Vec<usize> = lead.iter().map(Vec::len).collect();
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return;
    }
    let per_task = rows_per_task(cols);
    y.par_chunks_mut(per_task * cols).enumerate().for_each(|(task, y)| {
        let mut at = vec![0; lead.len()];
        for (r, y) in y.chunks_exact_mut(cols).enumerate() {
            digits(task * per_task + r, &extents, &mut at);
            let row = at.iter().zip(lead).zip(&from).fold(0, |row, ((&i, s), &n)| row * n + s[i]);
            let x = &x[row * width..(row + 1) * width];
            if cols == width {
                y.copy_from_slice(x);
            } else {
                y.iter_mut().zip(columns).for_each(|(y, &c)| *y = x[c]);
            }
        }
    });
}

pub(super) fn backward(pad: &PadEdges, mut call: CpuCall) {
    let shape = call.outputs[0].ty.shape.clone();
    let dy = call.inputs[0].f32();
    let sources = pad.sources(&shape);
    let Some((columns, lead)) = sources.split_last() else {
        return call.outputs[0].f32().copy_from_slice(dy);
    };
    let (cols, width) = (columns.len(), shape[lead.len()]);
    // Where each index of each leading axis went.
    let places: Vec<Vec<Vec<usize>>> = lead
        .iter()
        .zip(&shape)
        .map(|(s, &n)| {
            let mut places = vec![Vec::new(); n];
            s.iter().enumerate().for_each(|(to, &from)| places[from].push(to));
            places
        })
        .collect();
    let dx = call.outputs[0].f32();
    if dx.is_empty() {
        return;
    }
    let per_task = rows_per_task(width);
    dx.par_chunks_mut(per_task * width).enumerate().for_each(|(task, dx)| {
        let mut at = vec![0; lead.len()];
        let mut rows = Vec::new();
        for (r, dx) in dx.chunks_exact_mut(width).enumerate() {
            digits(task * per_task + r, &shape[..lead.len()], &mut at);
            // All rows of dy that show this row, in order.
            rows.clear();
            rows.push(0);
            for ((&i, places), s) in at.iter().zip(&places).zip(lead) {
                rows =
                    rows.iter().flat_map(|row| places[i].iter().map(move |to| row * s.len() + to)).collect();
            }
            dx.fill(0.0);
            for row in &rows {
                let dy = &dy[row * cols..(row + 1) * cols];
                if cols == width {
                    dx.iter_mut().zip(dy).for_each(|(dx, d)| *dx += d);
                } else {
                    dy.iter().zip(columns).for_each(|(d, &c)| dx[c] += d);
                }
            }
        }
    });
}
