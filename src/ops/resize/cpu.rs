//! Fast path: for each new row, a weighted sum of source rows (long contiguous vectors), then
//! the new columns of that one row. Rows and columns that are mere copies are copied.

use rayon::prelude::*;

use super::taps::Taps;
use crate::device::cpu::simd::{Level, simd_fn};
use crate::ops::rows::rows_per_task;

simd_fn! {
    /// sum = Σ weight·row, four rows at a time so that the sum is loaded and stored less often.
    fn mix_rows(x: &[f32], taps: &[(usize, f32)], sum: &mut [f32]) {
        let width = sum.len();
        let row = |tap: &(usize, f32)| &x[tap.0 * width..(tap.0 + 1) * width];
        sum.fill(0.0);
        let (fours, rest) = taps.as_chunks::<4>();
        for four in fours {
            let [a, b, c, d] = four.each_ref().map(row);
            let [wa, wb, wc, wd] = four.map(|tap| tap.1);
            for ((((s, &a), &b), &c), &d) in sum.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *s += (wa * a + wb * b) + (wc * c + wd * d);
            }
        }
        for tap in rest {
            sum.iter_mut().zip(row(tap)).for_each(|(s, &x)| *s += tap.1 * x);
        }
    }

    /// New pixels of any number of channels from a row of pixels.
    fn mix_columns(x: &[f32], taps: &Taps, channels: usize, y: &mut [f32]) {
        for (i, y) in y.chunks_exact_mut(channels).enumerate() {
            y.fill(0.0);
            for &(pixel, weight) in taps.of(i) {
                y.iter_mut().zip(&x[pixel * channels..]).for_each(|(y, &x)| *y += weight * x);
            }
        }
    }
}

/// [`mix_columns`] for few channels, whose sums stay in registers.
fn mix_few_columns<const C: usize>(x: &[f32], taps: &Taps, y: &mut [f32]) {
    let (x, y) = (x.as_chunks::<C>().0, y.as_chunks_mut::<C>().0);
    for (i, y) in y.iter_mut().enumerate() {
        let mut sum = [0.0; C];
        for &(pixel, weight) in taps.of(i) {
            sum.iter_mut().zip(&x[pixel]).for_each(|(s, x)| *s += weight * x);
        }
        *y = sum;
    }
}

/// Copies pixels; every new one is a source pixel.
fn copy_columns(x: &[f32], taps: &Taps, channels: usize, y: &mut [f32]) {
    for (i, y) in y.chunks_exact_mut(channels).enumerate() {
        let pixel = taps.of(i)[0].0;
        y.copy_from_slice(&x[pixel * channels..(pixel + 1) * channels]);
    }
}

fn copied(taps: &[(usize, f32)]) -> Option<usize> {
    match taps {
        [(pixel, 1.0)] => Some(*pixel),
        _ => None,
    }
}

/// Images of height and width `from` in `x` to those of the taps in `y`.
pub(super) fn resize(taps: &[Taps; 2], from: [usize; 2], channels: usize, x: &[f32], y: &mut [f32]) {
    if y.is_empty() {
        return;
    }
    let [rows, columns] = taps;
    let copies = (0..columns.len()).all(|i| copied(columns.of(i)).is_some());
    let identity = copies && columns.len() == from[1] && (0..from[1]).all(|i| columns.of(i)[0].0 == i);
    let (old, new) = (from[1] * channels, columns.len() * channels);
    // At least some rows a task: neighbours that show the same source row are computed once.
    let per_task = rows_per_task(old.max(new)).max(4);
    let level = Level::best();
    y.par_chunks_mut(rows.len() * new).zip(x.par_chunks(from[0] * old)).for_each(|(y, x)| {
        y.par_chunks_mut(per_task * new).enumerate().for_each_init(
            || vec![0.0; old],
            |mixed, (task, y)| {
                let first = task * per_task;
                for r in 0..y.len() / new {
                    let (done, y) = y.split_at_mut(r * new);
                    let (row, y) = (rows.of(first + r), &mut y[..new]);
                    if r > 0 && row == rows.of(first + r - 1) {
                        y.copy_from_slice(&done[(r - 1) * new..]);
                        continue;
                    }
                    let x = match copied(row) {
                        Some(row) => &x[row * old..(row + 1) * old],
                        None if identity => {
                            mix_rows(level, x, row, y);
                            continue;
                        }
                        None => {
                            mix_rows(level, x, row, mixed);
                            &mixed[..]
                        }
                    };
                    match channels {
                        _ if identity => y.copy_from_slice(x),
                        _ if copies => copy_columns(x, columns, channels, y),
                        1 => mix_few_columns::<1>(x, columns, y),
                        3 => mix_few_columns::<3>(x, columns, y),
                        4 => mix_few_columns::<4>(x, columns, y),
                        _ => mix_columns(level, x, columns, channels, y),
                    }
                }
            },
        );
    });
}
