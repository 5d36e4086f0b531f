//! One filter a channel: nothing to reduce over but the taps, so channels are the vector.

use super::strip::Strip;
use super::{Geometry, Output, Target};
use crate::device::cpu::scratch::Scratch;
use crate::device::cpu::simd::simd_fn;

/// Computes one rectangle; `weights` are `[tap][channel]`.
///
/// # Safety
/// As [`Output::write`], for the whole rectangle.
pub(super) unsafe fn rectangle(strip: &Strip, g: &Geometry, weights: &[f32], target: Target, output: Output) {
    let channels = strip.channels;
    let mut pixel = Scratch::new(channels);
    for y in 0..target.rows {
        for x in 0..target.columns {
            pixel.fill(0.0);
            for ky in 0..g.kernel[0] {
                for kx in 0..g.kernel[1] {
                    let row = y * g.stride[0] + ky * g.dilation[0];
                    let column = x * g.stride[1] + kx * g.dilation[1];
                    let seen = &strip.values[(row * strip.columns + column) * channels..][..channels];
                    let tap = &weights[(ky * g.kernel[1] + kx) * channels..][..channels];
                    multiply_add(output.level, &mut pixel, seen, tap);
                }
            }
            // SAFETY: passed on to the caller.
            unsafe { output.write(&mut pixel, channels, target.first + y * target.line + x, 1, 0, channels) };
        }
    }
}

simd_fn! {
    /// `sum += a · b`, element by element.
    fn multiply_add(sum: &mut [f32], a: &[f32], b: &[f32]) {
        for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
}
