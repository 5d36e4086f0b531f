//! The three interpolations of `torch.nn.functional.interpolate` that degradations draw from, as PyTorch computes
//! them without antialiasing.
//!
//! Positions are computed in f32 as there: at column 1000 they are known to 6e-5 pixels only, and a more exact
//! position would give other pixels. Rows are resized when they are first needed, so shrinking skips those
//! that no output sees.

use serde::{Deserialize, Serialize};

use crate::data::pixels::FloatImage;
use crate::data::resize_torch::{bicubic_taps, mix_columns, mix_rows};
use crate::device::cpu::simd::{Level, simd_fn};

/// How values between pixels come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The mean of all pixels that an output touches (adaptive average pooling).
    Area,
    /// Between the nearest two along each axis.
    Bilinear,
    /// By Keys' kernel with a = −0.75 from four along each axis; may leave the input's range.
    Bicubic,
}

/// `interpolate(size=(height, width))`: pixels of the result are in/out pixels apart.
///
/// # Panics
/// If a size is 0 or the picture has not 3 channels.
pub fn interpolate(image: &FloatImage, height: usize, width: usize, mode: Interpolation) -> FloatImage {
    let apart = |input: usize, output: usize| input as f32 / output as f32;
    resize(image, (height, width), (apart(image.height, height), apart(image.width, width)), mode)
}

/// `interpolate(scale_factor=factor)`: sides are rounded down (to at least 1), and pixels of the result are
/// 1/factor apart, whatever the rounded sides say.
///
/// # Panics
/// If the picture is empty or has not 3 channels, or the factor is not above 0.
pub fn interpolate_by(image: &FloatImage, factor: f64, mode: Interpolation) -> FloatImage {
    assert!(factor > 0.0, "a factor above 0");
    let side = |n: usize| ((n as f64 * factor).floor() as usize).max(1);
    let apart = (1.0 / factor) as f32;
    resize(image, (side(image.height), side(image.width)), (apart, apart), mode)
}

fn resize(
    image: &FloatImage,
    (height, width): (usize, usize),
    (down, across): (f32, f32),
    mode: Interpolation,
) -> FloatImage {
    assert!(image.height * image.width * height * width > 0, "sizes are at least 1");
    assert_eq!(image.channels, 3, "channels of a colour picture");
    match mode {
        Interpolation::Bicubic => separable(
            image,
            &bicubic_taps(image.height, height, down),
            &bicubic_taps(image.width, width, across),
            |level, row, taps, out| mix_columns(level, row, taps, 3, out),
            mix_rows,
        ),
        Interpolation::Bilinear => separable(
            image,
            &bilinear_taps(image.height, height, down),
            &bilinear_taps(image.width, width, across),
            mix_two_columns,
            mix_two_rows,
        ),
        Interpolation::Area => area(image, height, width),
    }
}

/// Source indices and weights of each output index.
fn bilinear_taps(input: usize, output: usize, apart: f32) -> Vec<([usize; 2], [f32; 2])> {
    (0..output)
        .map(|i| {
            let position = apart.mul_add(i as f32 + 0.5, -0.5).max(0.0);
            let low = (position as usize).min(input - 1);
            let t = (position - low as f32).clamp(0.0, 1.0);
            ([low, (low + 1).min(input - 1)], [1.0 - t, t])
        })
        .collect()
}

/// Resizes along rows by `columns`, then along columns by `rows`.
fn separable<const N: usize>(
    image: &FloatImage,
    down: &[([usize; N], [f32; N])],
    across: &[([usize; N], [f32; N])],
    columns: impl Fn(Level, &[f32], &[([usize; N], [f32; N])], &mut [f32]),
    rows: impl Fn(Level, [&[f32]; N], [f32; N], &mut [f32]),
) -> FloatImage {
    let level = Level::best();
    let mut out = FloatImage::zeros(down.len(), across.len(), 3);
    // Taps of an output lie in N rows side by side: resized source rows by their number modulo N.
    let mut wide: [(Option<usize>, Vec<f32>); N] =
        std::array::from_fn(|_| (None, vec![0.0; across.len() * 3]));
    for (y, (sources, weights)) in down.iter().enumerate() {
        for &source in sources {
            let (held, values) = &mut wide[source % N];
            if *held != Some(source) {
                columns(level, image.row(source), across, values);
                *held = Some(source);
            }
        }
        rows(level, sources.map(|source| wide[source % N].1.as_slice()), *weights, out.row_mut(y));
    }
    out
}

#[inline(always)]
fn mix_two([a, b]: [f32; 2], [wa, wb]: [f32; 2]) -> f32 {
    a * wa + b * wb
}

simd_fn! {
    fn mix_two_columns(row: &[f32], taps: &[([usize; 2], [f32; 2])], out: &mut [f32]) {
        let (pixels, _) = row.as_chunks::<3>();
        let (out, _) = out.as_chunks_mut::<3>();
        for (o, (at, weights)) in out.iter_mut().zip(taps) {
            let (a, b) = (pixels[at[0]], pixels[at[1]]);
            for c in 0..3 {
                o[c] = mix_two([a[c], b[c]], *weights);
            }
        }
    }

    fn mix_two_rows(rows: [&[f32]; 2], weights: [f32; 2], out: &mut [f32]) {
        for ((o, &a), &b) in out.iter_mut().zip(rows[0]).zip(rows[1]) {
            *o = mix_two([a, b], weights);
        }
    }
}

/// `adaptive_avg_pool2d`: output i is the mean of inputs from ⌊i·in/out⌋ up to ⌈(i+1)·in/out⌉.
fn area(image: &FloatImage, height: usize, width: usize) -> FloatImage {
    let window =
        |i: usize, input: usize, output: usize| i * input / output..((i + 1) * input).div_ceil(output);
    let columns: Vec<_> = (0..width).map(|x| window(x, image.width, width)).collect();
    let level = Level::best();
    let mut out = FloatImage::zeros(height, width, 3);
    let mut sums = vec![0.0; image.width * 3];
    for y in 0..height {
        let rows = window(y, image.height, height);
        sums.copy_from_slice(image.row(rows.start));
        for source in rows.start + 1..rows.end {
            add(level, &mut sums, image.row(source));
        }
        let (pixels, _) = sums.as_chunks::<3>();
        let (out, _) = out.row_mut(y).as_chunks_mut::<3>();
        for (o, columns) in out.iter_mut().zip(&columns) {
            let mut sum = [0.0; 3];
            for pixel in &pixels[columns.clone()] {
                sum = std::array::from_fn(|c| sum[c] + pixel[c]);
            }
            *o = sum.map(|s| s / rows.len() as f32 / columns.len() as f32);
        }
    }
    out
}

simd_fn! {
    fn add(sums: &mut [f32], row: &[f32]) {
        sums.iter_mut().zip(row).for_each(|(s, x)| *s += x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::resize::bicubic_torch;

    fn picture(height: usize, width: usize) -> FloatImage {
        let data = (0..height * width * 3).map(|i| ((i * 7919) % 1009) as f32 / 1009.0).collect();
        FloatImage::new(height, width, 3, data)
    }

    #[test]
    fn a_factor_of_1_leaves_every_bit() {
        let image = picture(13, 17);
        for mode in [Interpolation::Area, Interpolation::Bilinear, Interpolation::Bicubic] {
            assert_eq!(interpolate_by(&image, 1.0, mode), image, "{mode:?}");
            assert_eq!(interpolate(&image, 13, 17, mode), image, "{mode:?}");
        }
    }

    #[test]
    fn bicubic_is_the_one_that_restore_uses() {
        let image = picture(11, 9);
        for (h, w) in [(44, 36), (5, 4), (11, 30), (1, 1)] {
            let got = interpolate(&image, h, w, Interpolation::Bicubic);
            assert_eq!(got, bicubic_torch(&image, h, w), "{w}×{h}");
        }
    }

    #[test]
    fn a_constant_picture_stays_constant_at_any_size() {
        let image = FloatImage::new(7, 5, 3, vec![0.25; 105]);
        for mode in [Interpolation::Area, Interpolation::Bilinear, Interpolation::Bicubic] {
            for factor in [0.01, 0.15, 0.999, 1.3, 4.0] {
                let out = interpolate_by(&image, factor, mode);
                assert!(out.data.iter().all(|x| (x - 0.25).abs() <= 1e-6), "{mode:?} {factor}");
            }
        }
    }

    /// A whole factor: the mean of whole blocks.
    #[test]
    fn area_averages() {
        let image = picture(6, 4);
        let out = interpolate(&image, 3, 2, Interpolation::Area);
        let mean = (image.data[0] + image.data[3] + image.data[12] + image.data[15]) / 4.0;
        assert!((out.data[0] - mean).abs() <= 1e-7);
    }
}
