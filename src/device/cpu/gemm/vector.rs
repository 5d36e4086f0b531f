//! Products with very few rows: memory-bound, so B is read once, where it lies.

use super::{Epilogue, MatrixA, MatrixB, Place, Values, check, finish_tile, for_each_task};
use crate::device::cpu::scratch::{Scratch, Shared};
use crate::device::cpu::simd::{Level, simd_fn};

/// Most rows for which reading B unpacked pays.
pub const MAX_M: usize = 4;

/// Columns a task computes.
const COLUMNS: usize = 64;

/// Columns whose half-precision weights are widened at a time.
const WIDENED: usize = 8;

/// Computes the product if A is row-major and B is f32, or stored by columns; says whether it did.
pub fn gemv(
    level: Level,
    (m, k, n): (usize, usize, usize),
    a: MatrixA,
    b: MatrixB,
    out: &mut [f32],
    ldo: usize,
    epilogue: &Epilogue,
) -> bool {
    if a.transposed || k == 0 || !(b.transposed || matches!(b.values, Values::F32(_))) {
        return false;
    }
    if m == 0 || n == 0 {
        return true;
    }
    check(a, m, k, n, out.len(), ldo);
    b.check(k, n);
    let finish = epilogue.resolve(m, n, out.as_ptr(), ldo);
    let out = Shared::new(out);
    for_each_task(n.div_ceil(COLUMNS), k * n > 1 << 14, |task| {
        let j = task * COLUMNS;
        let columns = COLUMNS.min(n - j);
        let mut tile = Scratch::new(m * COLUMNS);
        let x = |i| &a.values[i * a.stride..][..k];
        if let Values::F32(values) = b.values {
            for (i, row) in tile.chunks_exact_mut(COLUMNS).enumerate() {
                let row = &mut row[..columns];
                if b.transposed {
                    dot_rows(level, x(i), &values[j * b.stride..], b.stride, row);
                } else {
                    add_rows(level, x(i), &values[j..], b.stride, row);
                }
            }
        } else {
            let mut wide = Scratch::new(WIDENED * k);
            for first in (0..columns).step_by(WIDENED) {
                let some = WIDENED.min(columns - first);
                for (c, column) in wide.chunks_exact_mut(k).take(some).enumerate() {
                    b.values.read((j + first + c) * b.stride, column);
                }
                for (i, row) in tile.chunks_exact_mut(COLUMNS).enumerate() {
                    dot_rows(level, x(i), &wide, k, &mut row[first..first + some]);
                }
            }
        }
        // SAFETY: `check` and `resolve` have seen to the bounds; these columns are this task's.
        let first = unsafe { out.get().add(j) };
        let place = Place { out: first, ldo, residual_offset: j, row: 0, rows: m, column: j, columns };
        finish_tile(level, &mut tile, COLUMNS, place, finish);
    });
    true
}

simd_fn! {
    /// `out[j] = x · b[j]` for rows b[j] that are `stride` apart.
    fn dot_rows(x: &[f32], b: &[f32], stride: usize, out: &mut [f32]) {
        // 64 partial sums: enough independent chains to hide the latency of addition.
        const SUMS: usize = 64;
        for (j, out) in out.iter_mut().enumerate() {
            let row = &b[j * stride..][..x.len()];
            let mut sums = [0.0f32; SUMS];
            let (xs, rows) = (x.chunks_exact(SUMS), row.chunks_exact(SUMS));
            let rest: f32 = xs.remainder().iter().zip(rows.remainder()).map(|(x, b)| x * b).sum();
            for (x, b) in xs.zip(rows) {
                for i in 0..SUMS {
                    sums[i] += x[i] * b[i];
                }
            }
            let mut half = SUMS / 2;
            while half > 0 {
                for i in 0..half {
                    sums[i] += sums[i + half];
                }
                half /= 2;
            }
            *out = sums[0] + rest;
        }
    }

    /// `out[j] = Σ x[i]·b[i][j]` for rows b[i] that are `stride` apart.
    fn add_rows(x: &[f32], b: &[f32], stride: usize, out: &mut [f32]) {
        out.fill(0.0);
        for (i, &x) in x.iter().enumerate() {
            for (out, b) in out.iter_mut().zip(&b[i * stride..]) {
                *out += x * b;
            }
        }
    }
}
