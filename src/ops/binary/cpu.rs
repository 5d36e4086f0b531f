//! Fast path: rows over threads. Each operand row is dense or one repeated number, so the inner
//! loops vectorise; where rows start follows from the broadcast strides.

use rayon::prelude::*;

use super::{Kind, reference::value};
use crate::graph::Layout;
use crate::graph::op::{CpuCall, Operand};

/// Elements per task.
const CHUNK: usize = 16 * 1024;

/// One operand along a result row.
#[derive(Clone, Copy)]
enum Row<'a> {
    Dense(&'a [f32]),
    Repeat(f32),
    /// Already in the result's memory.
    There,
}

/// An operand broadcast to the result: elements, and strides of its view.
struct Source<'a> {
    data: Option<&'a [f32]>,
    layout: Layout,
}

impl<'a> Source<'a> {
    fn new(operand: &Operand<'a>, shape: &[usize]) -> Self {
        let layout = operand.layout.broadcast(shape).expect("infer checked");
        let data = if operand.in_output() { None } else { Some(operand.f32()) };
        Source { data, layout }
    }

    fn row(&self, start: usize, cols: usize) -> Row<'a> {
        let Some(data) = self.data else { return Row::There };
        let at = self.layout.position(start);
        match self.layout.strides.last() {
            Some(1) => Row::Dense(&data[at..at + cols]),
            _ => Row::Repeat(data[at]), // stride 0, or a scalar
        }
    }

    /// Whether the whole operand is dense in the result's shape: rows may then be any length.
    fn flat(&self) -> bool {
        self.data.is_none() || self.layout.is_dense() || self.layout.strides.iter().all(|&s| s == 0)
    }
}

pub(super) fn forward(kind: Kind, mut call: CpuCall) {
    let shape = call.outputs[0].ty.shape.clone();
    let x = Source::new(&call.inputs[0], &shape);
    let y = Source::new(&call.inputs[1], &shape);
    let z = call.outputs[0].f32();
    if z.is_empty() {
        return;
    }
    let cols = if x.flat() && y.flat() { z.len().min(CHUNK) } else { *shape.last().unwrap_or(&1) };
    let rows_per_task = (CHUNK / cols).max(1);
    z.par_chunks_mut(rows_per_task * cols).enumerate().for_each(|(task, chunk)| {
        for (r, z) in chunk.chunks_mut(cols).enumerate() {
            let start = (task * rows_per_task + r) * cols;
            row(kind, x.row(start, z.len()), y.row(start, z.len()), z);
        }
    });
}

fn row(kind: Kind, x: Row, y: Row, z: &mut [f32]) {
    match kind {
        Kind::Add => apply(x, y, z, |x, y| value(Kind::Add, x, y)),
        Kind::Sub => apply(x, y, z, |x, y| value(Kind::Sub, x, y)),
        Kind::Mul => apply(x, y, z, |x, y| value(Kind::Mul, x, y)),
        Kind::Div => apply(x, y, z, |x, y| value(Kind::Div, x, y)),
    }
}

#[inline(always)]
fn apply(x: Row, y: Row, z: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    use Row::*;
    match (x, y) {
        (Dense(x), Dense(y)) => z.iter_mut().zip(x).zip(y).for_each(|((z, &x), &y)| *z = f(x, y)),
        (Dense(x), Repeat(y)) => z.iter_mut().zip(x).for_each(|(z, &x)| *z = f(x, y)),
        (Repeat(x), Dense(y)) => z.iter_mut().zip(y).for_each(|(z, &y)| *z = f(x, y)),
        (Repeat(x), Repeat(y)) => z.fill(f(x, y)),
        (There, Dense(y)) => z.iter_mut().zip(y).for_each(|(z, &y)| *z = f(*z, y)),
        (There, Repeat(y)) => z.iter_mut().for_each(|z| *z = f(*z, y)),
        (Dense(x), There) => z.iter_mut().zip(x).for_each(|(z, &x)| *z = f(x, *z)),
        (Repeat(x), There) => z.iter_mut().for_each(|z| *z = f(x, *z)),
        (There, There) => unreachable!("at most one operand shares the result's memory"),
    }
}
