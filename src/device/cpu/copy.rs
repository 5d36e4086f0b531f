//! Strided to dense copies.

use rayon::prelude::*;

/// Copies a strided view (from `src`'s start) into dense row-major `dst`. `size` is the element
/// size in bytes, strides are in elements.
///
/// # Panics
/// If `dst` does not hold exactly the elements of `shape`, or the view leaves `src`.
pub fn copy_strided(src: &[u8], shape: &[usize], strides: &[usize], size: usize, dst: &mut [u8]) {
    assert_eq!(dst.len(), shape.iter().product::<usize>() * size, "destination size");
    if dst.is_empty() {
        return;
    }
    // Fold axes that continue each other, so that the inner run is as long as possible.
    let mut axes: Vec<(usize, usize)> = Vec::new();
    for (&n, &s) in shape.iter().zip(strides) {
        match axes.last_mut() {
            _ if n == 1 => {}
            Some((m, t)) if *t == s * n => {
                *m *= n;
                *t = s;
            }
            _ => axes.push((n, s)),
        }
    }
    let (inner, inner_stride) = axes.pop().unwrap_or((1, 1));
    let run = inner * size;
    // Rows are grouped so that a task is worth a thread's while.
    let rows_per_task = (64 * 1024 / run).max(1);
    dst.par_chunks_mut(rows_per_task * run).enumerate().for_each(|(task, chunk)| {
        for (r, row) in chunk.chunks_exact_mut(run).enumerate() {
            let mut i = task * rows_per_task + r;
            let mut at = 0;
            for &(n, s) in axes.iter().rev() {
                at += (i % n) * s;
                i /= n;
            }
            match (inner_stride, size) {
                (1, _) => row.copy_from_slice(&src[at * size..at * size + run]),
                (s, 4) => gather::<4>(&src[at * 4..], s, row),
                (s, 2) => gather::<2>(&src[at * 2..], s, row),
                (s, 8) => gather::<8>(&src[at * 8..], s, row),
                (s, 1) => gather::<1>(&src[at..], s, row),
                _ => unreachable!("element sizes are 1, 2, 4 and 8"),
            }
        }
    });
}

fn gather<const N: usize>(src: &[u8], stride: usize, row: &mut [u8]) {
    for (k, out) in row.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        let at = k * stride * N;
        *out = src[at..at + N].try_into().expect("N bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::copy_strided;

    #[test]
    fn transposes_slices_and_broadcasts() {
        let src: Vec<u32> = (0..24).collect();
        let bytes = bytemuck::cast_slice(&src);
        let mut out = vec![0u32; 24];
        copy_strided(bytes, &[4, 3, 2], &[1, 4, 12], 4, bytemuck::cast_slice_mut(&mut out));
        assert_eq!(out[..6], [0, 12, 4, 16, 8, 20]);
        let mut out = vec![0u32; 6];
        copy_strided(bytes, &[2, 3], &[0, 1], 4, bytemuck::cast_slice_mut(&mut out));
        assert_eq!(out, [0, 1, 2, 0, 1, 2]);
    }
}
