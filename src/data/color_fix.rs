//! Gives a restored picture the colours of a reference (DreamClear's `align_color.py`).

pub mod cuda;

use rayon::prelude::*;

use super::pixels::FloatImage;

/// How colours are taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorFix {
    /// The low frequencies of the reference with the high frequencies of the picture: the official
    /// default.
    #[default]
    Wavelet,
    /// Mean and standard deviation of each channel (adaptive instance normalisation).
    Adain,
    /// The picture as it is.
    None,
}

impl ColorFix {
    /// `picture` with the colours of `reference`; nothing is clipped.
    ///
    /// # Panics
    /// If the two have different sizes.
    pub fn apply(self, picture: FloatImage, reference: &FloatImage) -> FloatImage {
        match self {
            ColorFix::Wavelet => wavelet(picture, reference),
            ColorFix::Adain => adain(picture, reference),
            ColorFix::None => picture,
        }
    }
}

/// Levels of the wavelet decomposition; level i blurs with taps 2^i pixels apart.
const LEVELS: u32 = 5;

/// `wavelet_reconstruction(picture, reference)`: high(picture) + low(reference), where low is five
/// blurs with growing holes (à trous) and high is what they take away.
///
/// Both parts are linear, so the sum is picture + low(reference − picture): one chain of blurs
/// instead of two, and rounding relative to the difference of the two. Needs twice the memory of
/// a picture.
///
/// # Panics
/// If the two have different sizes.
pub fn wavelet(mut picture: FloatImage, reference: &FloatImage) -> FloatImage {
    check_sizes(&picture, reference);
    let mut low = reference.clone();
    low.data.par_iter_mut().zip(&picture.data).for_each(|(r, p)| *r -= p);
    let mut next = FloatImage::zeros(low.height, low.width, low.channels);
    for level in 0..LEVELS - 1 {
        blur(&low, 1 << level, &mut next, |out, low| *out = low);
        std::mem::swap(&mut low, &mut next);
    }
    blur(&low, 1 << (LEVELS - 1), &mut picture, |out, low| *out += low);
    picture
}

/// The kernel [1 2 1]ᵀ·[1 2 1]/16 with taps `radius` pixels apart, the border repeated; `put`
/// receives each element of `out` with the blurred value that belongs there.
fn blur(image: &FloatImage, radius: usize, out: &mut FloatImage, put: impl Fn(&mut f32, f32) + Sync) {
    let (height, width, channels) = (image.height, image.width, image.channels);
    let n = width * channels;
    if n == 0 {
        return;
    }
    // Three taps; powers of two: only the two additions round.
    let taps = |a: f32, b: f32, c: f32| 0.25 * (a + c) + 0.5 * b;
    let edge = radius.min(width);
    out.data.par_chunks_mut(n).enumerate().for_each_init(
        || vec![0.0f32; n],
        |column, (y, out)| {
            let (above, here) = (image.row(y.saturating_sub(radius)), image.row(y));
            let below = image.row((y + radius).min(height - 1));
            for (((v, &a), &b), &c) in column.iter_mut().zip(above).zip(here).zip(below) {
                *v = taps(a, b, c);
            }
            let at_border = |x: usize, out: &mut [f32]| {
                let (left, right) = (x.saturating_sub(radius), (x + radius).min(width - 1));
                for (c, o) in out[x * channels..(x + 1) * channels].iter_mut().enumerate() {
                    let column = |x: usize| column[x * channels + c];
                    put(o, taps(column(left), column(x), column(right)));
                }
            };
            (0..edge).for_each(|x| at_border(x, out));
            (edge.max(width.saturating_sub(edge))..width).for_each(|x| at_border(x, out));
            if width > 2 * edge {
                let step = radius * channels;
                let inside = &mut out[step..n - step];
                let taps = column
                    .iter()
                    .zip(&column[step..])
                    .zip(&column[2 * step..])
                    .map(|((&a, &b), &c)| taps(a, b, c));
                inside.iter_mut().zip(taps).for_each(|(o, low)| put(o, low));
            }
        },
    );
}

/// `adaptive_instance_normalization(picture, reference)`: each channel gets the reference's mean
/// and standard deviation, √(unbiased variance + 1e-5).
///
/// # Panics
/// If the two have different sizes.
pub fn adain(mut picture: FloatImage, reference: &FloatImage) -> FloatImage {
    check_sizes(&picture, reference);
    let channels = picture.channels;
    let (from, to) = (statistics(&picture), statistics(reference));
    picture.data.par_chunks_mut(channels * 4096).for_each(|pixels| {
        for pixel in pixels.chunks_exact_mut(channels) {
            for ((x, from), to) in pixel.iter_mut().zip(&from).zip(&to) {
                *x = (*x - from.0) / from.1 * to.1 + to.0;
            }
        }
    });
    picture
}

/// Mean and standard deviation of each channel; sums in f64, row by row, so that they do not
/// depend on the threads.
fn statistics(image: &FloatImage) -> Vec<(f32, f32)> {
    let (channels, pixels) = (image.channels, (image.height * image.width) as f64);
    let sum = |term: &(dyn Fn(usize, f64) -> f64 + Sync)| -> Vec<f64> {
        let of_row = |row: &[f32]| {
            let mut sums = vec![0.0f64; channels];
            for pixel in row.chunks_exact(channels) {
                for (c, (sum, &x)) in sums.iter_mut().zip(pixel).enumerate() {
                    *sum += term(c, f64::from(x));
                }
            }
            sums
        };
        let rows: Vec<_> = image.data.par_chunks((image.width * channels).max(1)).map(of_row).collect();
        (0..channels).map(|c| rows.iter().map(|row| row[c]).sum()).collect()
    };
    let means: Vec<f64> = sum(&|_, x| x).iter().map(|s| s / pixels).collect();
    let squares = sum(&|c, x| (x - means[c]) * (x - means[c]));
    // A single pixel has no variance; PyTorch says NaN there.
    let deviation = |s: f64| (s / (pixels - 1.0).max(1.0) + 1e-5).sqrt() as f32;
    means.iter().zip(squares).map(|(&m, s)| (m as f32, deviation(s))).collect()
}

fn check_sizes(picture: &FloatImage, reference: &FloatImage) {
    let size = |x: &FloatImage| (x.height, x.width, x.channels);
    assert_eq!(size(picture), size(reference), "the picture and its colour reference have one size");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The kernel written down as in the official code: nine taps, clamped coordinates.
    fn blurred(image: &FloatImage, radius: usize) -> Vec<f64> {
        let (h, w, n) = (image.height as isize, image.width as isize, image.channels as isize);
        let mut out = Vec::new();
        for i in 0..h * w * n {
            let (y, x, c) = (i / n / w, i / n % w, i % n);
            let mut sum = 0.0;
            for (dy, dx) in (-1isize..=1).flat_map(|dy| (-1isize..=1).map(move |dx| (dy, dx))) {
                let weight = f64::from((2 - dy.abs() as i32) * (2 - dx.abs() as i32)) / 16.0;
                let (y, x) = (y + dy * radius as isize, x + dx * radius as isize);
                let at = (y.clamp(0, h - 1) * w + x.clamp(0, w - 1)) * n + c;
                sum += weight * f64::from(image.data[at as usize]);
            }
            out.push(sum);
        }
        out
    }

    proptest! {
        #[test]
        fn blur_has_nine_taps_whatever_the_size(h in 1usize..20, w in 1usize..20, level in 0u32..5, seed: u64) {
            let value = |i: usize| ((i as u64 + 1).wrapping_mul(seed | 1) >> 40) as f32 / (1 << 24) as f32;
            let image = FloatImage::new(h, w, 3, (0..h * w * 3).map(value).collect());
            let mut out = FloatImage::zeros(h, w, 3);
            blur(&image, 1 << level, &mut out, |o, low| *o = low);
            for (a, b) in out.data.iter().zip(blurred(&image, 1 << level)) {
                prop_assert!((f64::from(*a) - b).abs() <= 2e-7, "{a} against {b}");
            }
        }
    }

    #[test]
    fn a_picture_is_its_own_reference() {
        let image = FloatImage::new(9, 7, 3, (0..189).map(|i| (i * 37 % 101) as f32 / 100.0 - 0.1).collect());
        assert_eq!(ColorFix::Wavelet.apply(image.clone(), &image), image);
        assert_eq!(ColorFix::None.apply(image.clone(), &FloatImage::zeros(9, 7, 3)), image);
        for (a, b) in ColorFix::Adain.apply(image.clone(), &image).data.iter().zip(&image.data) {
            assert!((a - b).abs() <= 2e-7);
        }
    }

    #[test]
    fn a_cast_is_removed() {
        let picture =
            FloatImage::new(64, 64, 3, (0..64 * 64 * 3).map(|i| (i * 61 % 97) as f32 / 97.0).collect());
        let mut tinted = picture.clone();
        tinted.data.iter_mut().skip(2).step_by(3).for_each(|blue| *blue += 0.25);
        for fix in [ColorFix::Wavelet, ColorFix::Adain] {
            for (a, b) in fix.apply(tinted.clone(), &picture).data.iter().zip(&picture.data) {
                assert!((a - b).abs() <= 1e-6, "{fix:?}: {a} for {b}");
            }
        }
    }
}
