//! JPEG compression there and back: the real-valued one of the official code, and a real encoder.

use image::codecs::jpeg::JpegDecoder;
use image::{DynamicImage, ImageDecoder};
use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};
use serde::{Deserialize, Serialize};

use crate::data::pixels::FloatImage;
use crate::device::cpu::simd::{Level, simd_fn};
use crate::{Error, Result};

/// Which JPEG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum JpegKind {
    /// Quantised DCT coefficients and nothing else: real-valued quality, no rounding to 8 bits.
    Diff,
    /// A baseline encoder (4:2:0, whole qualities) and a decoder.
    Real,
}

impl JpegKind {
    /// The picture after compression with this quality (1 to 100) and decompression, in 0..1. Values outside 0..1
    /// are clipped before.
    ///
    /// # Errors
    /// `Error::Run` if a real encoder cannot hold the picture (a side above 65535).
    ///
    /// # Panics
    /// If the picture has not 3 channels.
    pub fn apply(self, mut image: FloatImage, quality: f64) -> Result<FloatImage> {
        assert_eq!(image.channels, 3, "channels of a colour picture");
        image.data.iter_mut().for_each(|x| *x = x.clamp(0.0, 1.0));
        match self {
            JpegKind::Diff => Ok(compress(&image, quality as f32)),
            JpegKind::Real => encode_and_decode(&image, quality as u8),
        }
    }
}

/// Annex K's table for luminance, transposed as in the official code: the element in row u, column v divides
/// the coefficient of vertical frequency u and horizontal frequency v.
const LUMA: [[f32; 8]; 8] = [
    [16.0, 12.0, 14.0, 14.0, 18.0, 24.0, 49.0, 72.0],
    [11.0, 12.0, 13.0, 17.0, 22.0, 35.0, 64.0, 92.0],
    [10.0, 14.0, 16.0, 22.0, 37.0, 55.0, 78.0, 95.0],
    [16.0, 19.0, 24.0, 29.0, 56.0, 64.0, 87.0, 98.0],
    [24.0, 26.0, 40.0, 51.0, 68.0, 81.0, 103.0, 112.0],
    [40.0, 58.0, 57.0, 87.0, 109.0, 104.0, 121.0, 100.0],
    [51.0, 60.0, 69.0, 80.0, 103.0, 113.0, 120.0, 103.0],
    [61.0, 55.0, 56.0, 62.0, 77.0, 92.0, 101.0, 99.0],
];

/// Annex K's table for chrominance.
const CHROMA: [[f32; 8]; 8] = {
    let mut table = [[99.0; 8]; 8];
    table[0] = [17.0, 18.0, 24.0, 47.0, 99.0, 99.0, 99.0, 99.0];
    table[1] = [18.0, 21.0, 26.0, 66.0, 99.0, 99.0, 99.0, 99.0];
    table[2] = [24.0, 26.0, 56.0, 99.0, 99.0, 99.0, 99.0, 99.0];
    table[3] = [47.0, 66.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0];
    table
};

type Block = [[f32; 8]; 8];

/// `DiffJPEG(differentiable=False)` of `basicsr/utils/diffjpeg.py`: zero padding to multiples of 16 at the right
/// and bottom, full-range BT.601, chroma averaged over 2×2 pixels, tables scaled without rounding. `image` is
/// RGB in 0..1, the result too.
pub fn compress(image: &FloatImage, quality: f32) -> FloatImage {
    let factor = if quality < 50.0 { 5000.0 / quality / 100.0 } else { (200.0 - quality * 2.0) / 100.0 };
    // As coefficients lie below: transposed.
    let tables = [LUMA, CHROMA].map(|table| transposed(&table.map(|row| row.map(|t| t * factor))));
    let forward = cosines();
    let inverse = transposed(&forward);
    let level = Level::best();
    let (height, width) = (image.height, image.width);
    let (wide, half) = (width.next_multiple_of(16), width.next_multiple_of(16) / 2);
    let mut out = FloatImage::zeros(height, width, 3);
    // A row of macroblocks at a time: 16 rows of luminance, 8 of each chrominance.
    let mut luma = vec![0.0; 16 * wide];
    let mut full = [vec![0.0; 16 * wide], vec![0.0; 16 * wide]];
    let mut chroma = [vec![0.0; 8 * half], vec![0.0; 8 * half]];
    for top in (0..height).step_by(16) {
        let rows = 16.min(height - top);
        let [blue, red] = &mut full;
        // Black, where the picture has ended.
        luma.fill(0.0);
        blue.fill(128.0);
        red.fill(128.0);
        for y in 0..rows {
            let at = y * wide..y * wide + width;
            let planes = (&mut luma[at.clone()], &mut blue[at.clone()], &mut red[at]);
            to_ycbcr(level, image.row(top + y), planes.0, planes.1, planes.2);
        }
        for (full, small) in full.iter().zip(&mut chroma) {
            for (y, small) in small.chunks_exact_mut(half).enumerate() {
                let (above, below) = full[2 * y * wide..2 * (y + 1) * wide].split_at(wide);
                for ((s, a), b) in small.iter_mut().zip(above.chunks_exact(2)).zip(below.chunks_exact(2)) {
                    *s = (a[0] + a[1] + b[0] + b[1]) / 4.0;
                }
            }
        }
        // Of quality 100 the factor is 0: then nothing is quantised (the official code divides by it).
        if factor > 0.0 {
            for rows in luma.chunks_exact_mut(8 * wide) {
                quantise(level, rows, wide, &tables[0], &forward, &inverse);
            }
            for plane in &mut chroma {
                quantise(level, plane, half, &tables[1], &forward, &inverse);
            }
        }
        let [blue, red] = &chroma;
        for y in 0..rows {
            let luma = &luma[y * wide..][..width];
            to_rgb(level, luma, &blue[y / 2 * half..], &red[y / 2 * half..], out.row_mut(top + y));
        }
    }
    out
}

/// The orthonormal DCT-II: row u holds the cosine of frequency u.
fn cosines() -> Block {
    let entry = |u: usize, x: usize| {
        let scale = if u == 0 { std::f64::consts::FRAC_1_SQRT_2 } else { 1.0 };
        0.5 * scale * libm::cos((2 * x + 1) as f64 * u as f64 * std::f64::consts::PI / 16.0)
    };
    std::array::from_fn(|u| std::array::from_fn(|x| entry(u, x) as f32))
}

#[inline(always)]
fn transposed(block: &Block) -> Block {
    let mut out = [[0.0; 8]; 8];
    for (i, row) in block.iter().enumerate() {
        for (j, x) in row.iter().enumerate() {
            out[j][i] = *x;
        }
    }
    out
}

/// matrix·block
#[inline(always)]
fn product(matrix: &Block, block: &Block) -> Block {
    let mut out = [[0.0; 8]; 8];
    for (out, weights) in out.iter_mut().zip(matrix) {
        for (weight, row) in weights.iter().zip(block) {
            for (o, x) in out.iter_mut().zip(row) {
                *o += weight * x;
            }
        }
    }
    out
}

simd_fn! {
    /// Eight rows of blocks to quantised coefficients and back, in place.
    fn quantise(rows: &mut [f32], width: usize, table: &Block, forward: &Block, inverse: &Block) {
        for left in (0..width).step_by(8) {
            let mut block = [[0.0; 8]; 8];
            for (y, row) in block.iter_mut().enumerate() {
                for (value, x) in row.iter_mut().zip(&rows[y * width + left..][..8]) {
                    *value = x - 128.0;
                }
            }
            // Along columns, then, on the transposed block, along rows: coefficients lie transposed.
            let mut coefficients = product(forward, &transposed(&product(forward, &block)));
            for (row, table) in coefficients.iter_mut().zip(table) {
                for (c, t) in row.iter_mut().zip(table) {
                    *c = (*c / t).round_ties_even() * t;
                }
            }
            let block = product(inverse, &transposed(&product(inverse, &coefficients)));
            for (y, row) in block.iter().enumerate() {
                for (value, x) in row.iter().zip(&mut rows[y * width + left..][..8]) {
                    *x = value + 128.0;
                }
            }
        }
    }

    fn to_ycbcr(rgb: &[f32], luma: &mut [f32], blue: &mut [f32], red: &mut [f32]) {
        for (((p, y), cb), cr) in rgb.chunks_exact(3).zip(luma).zip(blue).zip(red) {
            let (r, g, b) = (p[0] * 255.0, p[1] * 255.0, p[2] * 255.0);
            *y = 0.299 * r + 0.587 * g + 0.114 * b;
            *cb = -0.168_736 * r - 0.331_264 * g + 0.5 * b + 128.0;
            *cr = 0.5 * r - 0.418_688 * g - 0.081_312 * b + 128.0;
        }
    }

    /// A row of luminance with the rows of chrominance of half the size.
    fn to_rgb(luma: &[f32], blue: &[f32], red: &[f32], rgb: &mut [f32]) {
        for (x, (p, y)) in rgb.chunks_exact_mut(3).zip(luma).enumerate() {
            let (cb, cr) = (blue[x / 2] - 128.0, red[x / 2] - 128.0);
            p[0] = (y + 1.402 * cr).clamp(0.0, 255.0) / 255.0;
            p[1] = (y - 0.344_136 * cb - 0.714_136 * cr).clamp(0.0, 255.0) / 255.0;
            p[2] = (y + 1.772 * cb).clamp(0.0, 255.0) / 255.0;
        }
    }
}

/// Through a baseline JPEG file in memory, as OpenCV writes it: 4:2:0, Annex K's tables, 8 bits.
fn encode_and_decode(image: &FloatImage, quality: u8) -> Result<FloatImage> {
    let fail = |what: &str, e: &dyn std::fmt::Display| {
        let (w, h) = (image.width, image.height);
        Error::Run(format!("cannot {what} a {w}×{h} picture as JPEG: {e}"))
    };
    let sides = [image.width, image.height].map(u16::try_from);
    let [Ok(width), Ok(height)] = sides else {
        return Err(fail("write", &"a side has at most 65535 pixels"));
    };
    let pixels: Vec<u8> = image.data.iter().map(|x| (x * 255.0).round_ties_even() as u8).collect();
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, quality.clamp(1, 100));
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder.encode(&pixels, width, height, ColorType::Rgb).map_err(|e| fail("write", &e))?;
    let decoder = JpegDecoder::new(std::io::Cursor::new(&bytes)).map_err(|e| fail("read back", &e))?;
    debug_assert_eq!(decoder.dimensions(), (u32::from(width), u32::from(height)));
    let decoded = DynamicImage::from_decoder(decoder).map_err(|e| fail("read back", &e))?.into_rgb8();
    let data = decoded.into_raw().into_iter().map(|x| f32::from(x) / 255.0).collect();
    Ok(FloatImage::new(image.height, image.width, 3, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A smooth picture with colours.
    fn picture(height: usize, width: usize) -> FloatImage {
        let wave = |f: f32, x: usize, y: usize| 0.5 + 0.4 * (f * x as f32 + 0.5 * f * y as f32).sin();
        let pixel = |i: usize| [0.03, 0.06, 0.02].map(|f| wave(f, i % width, i / width));
        FloatImage::new(height, width, 3, (0..height * width).flat_map(pixel).collect())
    }

    fn rms(a: &FloatImage, b: &FloatImage) -> f64 {
        let sum: f64 = a.data.iter().zip(&b.data).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        (sum / a.data.len() as f64).sqrt() * 255.0
    }

    #[test]
    fn the_transform_is_orthonormal() {
        let c = cosines();
        let unit = product(&c, &transposed(&c));
        for (i, row) in unit.iter().enumerate() {
            for (j, x) in row.iter().enumerate() {
                assert!((x - f32::from(i == j)).abs() <= 1e-6, "{i} {j}: {x}");
            }
        }
    }

    #[test]
    fn better_quality_is_nearer_for_both_kinds() {
        let image = picture(48, 64);
        for kind in [JpegKind::Diff, JpegKind::Real] {
            let error = |q| rms(&kind.apply(image.clone(), q).unwrap(), &image);
            let errors = [error(10.0), error(50.0), error(95.0)];
            assert!(errors[0] > errors[1] && errors[1] > errors[2], "{kind:?}: {errors:?}");
            assert!(errors[2] < 3.0 && errors[0] > 2.0, "{kind:?}: {errors:?}");
        }
    }

    /// Where the picture ends inside a macroblock, black is mixed in, as officially; a real encoder repeats
    /// the last pixel.
    #[test]
    fn sizes_need_no_multiples() {
        for (h, w) in [(1, 1), (16, 16), (17, 31), (8, 40)] {
            for kind in [JpegKind::Diff, JpegKind::Real] {
                let out = kind.apply(picture(h, w), 90.0).unwrap();
                assert_eq!((out.height, out.width), (h, w));
                assert!(out.data.iter().all(|x| (0.0..=1.0).contains(x)));
            }
        }
    }

    #[test]
    fn quality_100_only_averages_chroma() {
        let image = picture(32, 32);
        let (most, nearly) = (compress(&image, 100.0), compress(&image, 99.99));
        assert!(rms(&most, &nearly) <= 0.1 && rms(&most, &image) > 0.0);
    }
}
