//! PyTorch's bicubic enlargement, operation for operation.
//!
//! The last step of a restoration truncates to integers: where a picture is saturated, one unit in
//! the last place decides between 254 and 255. So positions, weights and sums are rounded exactly
//! where PyTorch's CPU kernel (`upsample_bicubic2d`, compiled with fused multiply-adds) rounds.

use rayon::prelude::*;

use super::pixels::FloatImage;
use crate::device::cpu::simd::{Level, simd_fn};

/// Keys' parameter in PyTorch.
const A: f32 = -0.75;

/// Source indices (clamped to the border) and weights of one output index.
pub(super) type Taps = ([usize; 4], [f32; 4]);

/// `torch.nn.functional.interpolate(mode="bicubic", size=(height, width))`: a = −0.75, no
/// antialiasing; the identity where sizes agree. Equal to PyTorch 2.11 on the golden
/// pictures (`tests/golden/resize.safetensors`); PyTorch has several code paths, which differ in the last
/// place.
///
/// # Panics
/// If a size is 0.
pub fn bicubic_torch(image: &FloatImage, height: usize, width: usize) -> FloatImage {
    assert!(image.height * image.width * height * width > 0, "sizes are at least 1");
    let channels = image.channels;
    let level = Level::best();
    let mut wide = std::borrow::Cow::Borrowed(image);
    if width != image.width {
        let taps = axis(image.width, width);
        let mut out = FloatImage::zeros(image.height, width, channels);
        out.data
            .par_chunks_mut(width * channels)
            .enumerate()
            .for_each(|(y, out)| mix_columns(level, image.row(y), &taps, channels, out));
        wide = std::borrow::Cow::Owned(out);
    }
    if height != image.height {
        let taps = axis(image.height, height);
        let mut out = FloatImage::zeros(height, width, channels);
        out.data.par_chunks_mut(width * channels).zip(&taps).for_each(|(out, (rows, weights))| {
            mix_rows(level, rows.map(|y| wide.row(y)), *weights, out);
        });
        wide = std::borrow::Cow::Owned(out);
    }
    wide.into_owned()
}

fn axis(input: usize, output: usize) -> Vec<Taps> {
    bicubic_taps(input, output, input as f32 / output as f32)
}

/// Taps of `output` indices that lie `scale` source pixels apart.
pub(super) fn bicubic_taps(input: usize, output: usize, scale: f32) -> Vec<Taps> {
    (0..output)
        .map(|i| {
            let position = scale.mul_add(i as f32 + 0.5, -0.5);
            let floor = position.floor();
            let t = (position - floor).clamp(0.0, 1.0);
            let at = |k: i64| (floor as i64 - 1 + k).clamp(0, input as i64 - 1) as usize;
            ([at(0), at(1), at(2), at(3)], [outer(t + 1.0), inner(t), inner(1.0 - t), outer(1.0 - t + 1.0)])
        })
        .collect()
}

/// The kernel for distances up to 1.
fn inner(x: f32) -> f32 {
    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
}

/// The kernel for distances from 1 to 2.
fn outer(x: f32) -> f32 {
    (A * x - 5.0 * A).mul_add(x, 8.0 * A) * x - 4.0 * A
}

/// Σ weight·value in PyTorch's order: the second product alone, the others fused onto it.
#[inline(always)]
fn mix([a, b, c, d]: [f32; 4], [wa, wb, wc, wd]: [f32; 4]) -> f32 {
    d.mul_add(wd, c.mul_add(wc, a.mul_add(wa, b * wb)))
}

simd_fn! {
    pub(super) fn mix_rows(rows: [&[f32]; 4], weights: [f32; 4], out: &mut [f32]) {
        let [a, b, c, d] = rows;
        for ((((o, &a), &b), &c), &d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *o = mix([a, b, c, d], weights);
        }
    }

    pub(super) fn mix_columns(row: &[f32], taps: &[Taps], channels: usize, out: &mut [f32]) {
        for (o, (at, weights)) in out.chunks_exact_mut(channels).zip(taps) {
            for (c, o) in o.iter_mut().enumerate() {
                *o = mix(at.map(|x| row[x * channels + c]), *weights);
            }
        }
    }
}
