//! Fast path: copies of rows; for the gradient every task owns a range of the table and reads
//! all indices in order, so that sums do not depend on the number of threads.

use rayon::prelude::*;

use crate::graph::op::CpuCall;
use crate::ops::rows::{rows_per_block, rows_per_task};
use crate::ops::weight;

fn check(indices: &[i64], rows: usize) -> Result<(), String> {
    match indices.iter().position(|&i| i < 0 || i as usize >= rows) {
        Some(k) => Err(format!("index {} at position {k} is outside the table of {rows} rows", indices[k])),
        None => Ok(()),
    }
}

pub(super) fn forward(mut call: CpuCall) -> Result<(), String> {
    let (table, indices) = (weight::values(&call.inputs[0]), call.inputs[1].i64());
    let [rows, d] = call.inputs[0].ty.shape[..] else { unreachable!("infer takes two axes") };
    check(indices, rows)?;
    let y = call.outputs[0].f32();
    if y.is_empty() {
        return Ok(());
    }
    let per_task = rows_per_task(d);
    y.par_chunks_mut(per_task * d).zip(indices.par_chunks(per_task)).for_each(|(y, indices)| {
        for (y, &i) in y.chunks_exact_mut(d).zip(indices) {
            table.read(i as usize * d, y);
        }
    });
    Ok(())
}

pub(super) fn backward(mut call: CpuCall) -> Result<(), String> {
    let (indices, dy) = (call.inputs[0].i64(), call.inputs[1].f32());
    let [rows, d] = call.outputs[0].ty.shape[..] else { unreachable!("infer gives two axes") };
    check(indices, rows)?;
    let table = call.outputs[0].f32();
    if table.is_empty() {
        return Ok(());
    }
    let per_task = rows_per_block(rows, d);
    table.par_chunks_mut(per_task * d).enumerate().for_each(|(task, table)| {
        table.fill(0.0);
        let first = task * per_task;
        for (k, &i) in indices.iter().enumerate() {
            let Some(at) = (i as usize).checked_sub(first).map(|r| r * d).filter(|&at| at < table.len())
            else {
                continue;
            };
            table[at..at + d].iter_mut().zip(&dy[k * d..]).for_each(|(t, d)| *t += d);
        }
    });
    Ok(())
}
