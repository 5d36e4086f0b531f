//! Filtering with small kernels: cross-correlation with mirrored borders, all channels alike.
//!
//! Equal to `filter2D` of `basicsr/utils/img_process_util.py`. Sums run over the taps in a fixed order, with
//! separate products and sums, so the result is the same bytes at every instruction level.

use crate::data::pixels::FloatImage;
use crate::device::cpu::simd::{Level, simd_fn};

/// Output values that are summed in registers at a time.
const CHUNK: usize = 64;

/// A kernel ready to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    size: usize,
    taps: Taps,
}

#[derive(Clone, Debug, PartialEq)]
enum Taps {
    /// `size`² weights, row by row.
    Square(Vec<f32>),
    /// `size` weights, applied along columns, then along rows.
    Separable(Vec<f32>),
}

impl Filter {
    /// A square kernel of `size`² weights, row by row.
    ///
    /// # Panics
    /// If `size` is even or the number of weights another.
    pub fn square(size: usize, weights: &[f64]) -> Self {
        assert!(size % 2 == 1 && weights.len() == size * size, "weights of a kernel with a centre");
        Filter { size, taps: Taps::Square(weights.iter().map(|&w| w as f32).collect()) }
    }

    /// The product of a column and a row, both of these weights.
    ///
    /// # Panics
    /// If their number is even.
    pub fn separable(weights: &[f64]) -> Self {
        assert!(weights.len() % 2 == 1, "weights of a kernel with a centre");
        Filter { size: weights.len(), taps: Taps::Separable(weights.iter().map(|&w| w as f32).collect()) }
    }

    /// The filtered picture, of the same size. Beyond its borders a picture goes on as its mirror image about
    /// the outermost pixels, which are not repeated.
    pub fn apply(&self, image: &FloatImage) -> FloatImage {
        match &self.taps {
            Taps::Square(weights) => self.square_taps(image, weights),
            Taps::Separable(weights) => self.separable_taps(image, weights),
        }
    }

    fn square_taps(&self, image: &FloatImage, weights: &[f32]) -> FloatImage {
        let (level, n) = (Level::best(), self.size);
        let (row, step) = (image.width * image.channels, image.channels);
        let mut out = FloatImage::zeros(image.height, image.width, image.channels);
        // The last `n` rows of the padded picture, by their number modulo `n`.
        let mut window: Vec<Vec<f32>> = vec![Vec::new(); n];
        let mut filled = 0;
        for y in 0..image.height {
            while filled < y + n {
                let source = mirrored(filled as isize - (n / 2) as isize, image.height);
                pad_row(image.row(source), step, n / 2, &mut window[filled % n]);
                filled += 1;
            }
            let taps: Vec<(&[f32], f32)> = weights
                .iter()
                .enumerate()
                .map(|(i, &w)| (&window[(y + i / n) % n][i % n * step..][..row], w))
                .collect();
            weighted_sum(level, &taps, out.row_mut(y));
        }
        out
    }

    fn separable_taps(&self, image: &FloatImage, weights: &[f32]) -> FloatImage {
        let (level, reach) = (Level::best(), self.size / 2);
        let (row, step) = (image.width * image.channels, image.channels);
        let mut out = FloatImage::zeros(image.height, image.width, image.channels);
        let (mut column, mut padded) = (vec![0.0; row], Vec::new());
        for y in 0..image.height {
            let source = |i: usize| mirrored((y + i) as isize - reach as isize, image.height);
            let taps: Vec<_> = weights.iter().enumerate().map(|(i, &w)| (image.row(source(i)), w)).collect();
            weighted_sum(level, &taps, &mut column);
            pad_row(&column, step, reach, &mut padded);
            let taps: Vec<_> =
                weights.iter().enumerate().map(|(i, &w)| (&padded[i * step..][..row], w)).collect();
            weighted_sum(level, &taps, out.row_mut(y));
        }
        out
    }
}

/// The element that lies at `i` when `0..n` is continued by mirroring about its first and last element.
pub fn mirrored(i: isize, n: usize) -> usize {
    let period = 2 * (n as isize - 1);
    if period == 0 {
        return 0;
    }
    let i = i.rem_euclid(period);
    (if i < n as isize { i } else { period - i }) as usize
}

/// A row of pixels of `step` values with `reach` mirrored pixels at either end.
fn pad_row(row: &[f32], step: usize, reach: usize, out: &mut Vec<f32>) {
    let width = row.len() / step;
    out.clear();
    let mirrored_pixels = |out: &mut Vec<f32>, range: std::ops::Range<isize>| {
        for x in range {
            out.extend_from_slice(&row[mirrored(x, width) * step..][..step]);
        }
    };
    mirrored_pixels(out, -(reach as isize)..0);
    out.extend_from_slice(row);
    mirrored_pixels(out, width as isize..(width + reach) as isize);
}

simd_fn! {
    /// out[i] = Σ weight·values[i] over the taps, in their order.
    fn weighted_sum(taps: &[(&[f32], f32)], out: &mut [f32]) {
        let (chunks, rest) = out.as_chunks_mut::<CHUNK>();
        let done = chunks.len() * CHUNK;
        for (c, out) in chunks.iter_mut().enumerate() {
            let mut sums = [0.0f32; CHUNK];
            for (values, weight) in taps {
                let values: &[f32; CHUNK] = values[c * CHUNK..][..CHUNK].try_into().expect("a chunk");
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += weight * value;
                }
            }
            *out = sums;
        }
        rest.fill(0.0);
        for (values, weight) in taps {
            for (sum, value) in rest.iter_mut().zip(&values[done..]) {
                *sum += weight * value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(height: usize, width: usize) -> FloatImage {
        let data = (0..height * width * 3).map(|i| ((i * 7919) % 1009) as f32 / 1009.0).collect();
        FloatImage::new(height, width, 3, data)
    }

    #[test]
    fn borders_are_mirrored_without_repeating_them() {
        let at = |n: usize| (-5..6).map(|i| mirrored(i, n)).collect::<Vec<_>>();
        assert_eq!(at(4), [1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1]);
        assert_eq!(at(1), [0; 11]);
        assert_eq!(at(2), [1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
    }

    /// The definition, element by element, in f64; also where the kernel is larger than the picture.
    #[test]
    fn equals_its_definition() {
        for (h, w, n) in [(9, 30, 5), (30, 7, 7), (3, 4, 9), (1, 1, 3)] {
            let image = picture(h, w);
            let weights: Vec<f64> = (0..n * n).map(|i| ((i * 37) % 11) as f64 / (5 * n * n) as f64).collect();
            let got = Filter::square(n, &weights).apply(&image);
            for y in 0..h {
                for x in 0..w {
                    for c in 0..3 {
                        let mut want = 0.0;
                        for (i, weight) in weights.iter().enumerate() {
                            let at = |p: usize, tap: usize, n_all| {
                                mirrored((p + tap) as isize - (n / 2) as isize, n_all)
                            };
                            let (sy, sx) = (at(y, i / n, h), at(x, i % n, w));
                            want += weight * f64::from(image.row(sy)[sx * 3 + c]);
                        }
                        let found = f64::from(got.row(y)[x * 3 + c]);
                        assert!((found - want).abs() <= 2e-6, "{h}×{w} by {n} at {y},{x}: {found} {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_separable_filter_is_its_square() {
        let section = [0.1, 0.25, 0.3, 0.25, 0.1];
        let square: Vec<f64> = (0..25).map(|i| section[i / 5] * section[i % 5]).collect();
        let image = picture(12, 41);
        let (a, b) = (Filter::separable(&section).apply(&image), Filter::square(5, &square).apply(&image));
        assert!(a.data.iter().zip(&b.data).all(|(a, b)| (a - b).abs() <= 1e-6));
    }

    #[test]
    fn a_single_centre_leaves_every_bit() {
        let mut weights = [0.0; 49];
        weights[24] = 1.0;
        let image = picture(10, 33);
        assert_eq!(Filter::square(7, &weights).apply(&image), image);
    }

    #[test]
    fn every_level_gives_the_same_bytes() {
        let values = picture(1, 100).data;
        let taps: Vec<(&[f32], f32)> = (0..9).map(|i| (&values[i..][..211], 0.07 * i as f32)).collect();
        let sums = |level| {
            let mut out = vec![0.0; 211];
            weighted_sum(level, &taps, &mut out);
            out.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        let all: Vec<_> = Level::available().into_iter().map(sums).collect();
        assert!(all.iter().all(|bits| *bits == all[0]));
    }
}
