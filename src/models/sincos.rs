//! Sinusoidal embeddings: of places on a grid, and of numbers such as the timestep.

use crate::error::Result;
use crate::graph::{GraphBuilder, ValueId};
use crate::tensor::{DType, HostTensor};

/// Base of the geometric series of frequencies, everywhere.
const MAX_PERIOD: f64 = 10_000.0;

/// The position embedding of PixArt (MAE's, stretched) for a grid of `rows`×`columns` tokens:
/// f32 `[1, rows·columns, channels]`, channels `[sin x, cos x, sin y, cos y]` in quarters.
///
/// A whole side always spans `base / stretch` units, however many tokens it has. The column comes
/// first, although the official code calls it `h` (quirk 4).
pub fn positions(rows: usize, columns: usize, channels: usize, base: usize, stretch: f64) -> HostTensor {
    let quarter = channels / 4;
    let omega: Vec<f64> =
        (0..quarter).map(|k| 1.0 / MAX_PERIOD.powf(k as f64 / (channels as f64 / 4.0))).collect();
    // One coordinate: sines, then cosines. The first division is an f32 one, as NumPy's.
    let axis = |count: usize| -> Vec<f32> {
        let step = (count as f64 / base as f64) as f32;
        (0..count)
            .flat_map(|i| {
                let u = f64::from(i as f32 / step) / stretch;
                let (sin, cos): (Vec<_>, Vec<_>) =
                    omega.iter().map(|w| (u * w).sin_cos()).map(|(s, c)| (s as f32, c as f32)).unzip();
                sin.into_iter().chain(cos)
            })
            .collect()
    };
    let (xs, ys) = (axis(columns), axis(rows));
    let mut values = Vec::with_capacity(rows * columns * channels);
    for y in ys.chunks_exact(2 * quarter) {
        for x in xs.chunks_exact(2 * quarter) {
            values.extend_from_slice(x);
            values.extend_from_slice(y);
        }
    }
    HostTensor::from_f32([1, rows * columns, channels], values)
}

/// `[cos(t·f), sin(t·f)]` of f32 numbers `[n]`: f32 `[n, channels]`, frequencies from 1 down to
/// nearly 1/10000.
///
/// The products are rounded to f32, as in the official code: at t = 999 one unit in the last place
/// of a frequency is a phase of up to 6e-5, so computing "better" would differ.
pub fn embed(b: &mut GraphBuilder, t: ValueId, channels: usize) -> Result<ValueId> {
    let ([n], half) = (b.dims(t, "sinusoidal embedding")?, channels / 2);
    let frequency = |k: usize| {
        let exponent = -MAX_PERIOD.ln() as f32 * k as f32 / half as f32;
        f64::from(exponent).exp() as f32
    };
    let frequencies = HostTensor::from_f32([1, half], (0..half).map(frequency).collect());
    let frequencies = b.constant(frequencies);
    debug_assert_eq!(b.ty(t).dtype, DType::F32);
    let t = b.reshape(t, [n, 1])?;
    let phase = b.mul(t, frequencies)?;
    let (cos, sin) = (b.cos(phase)?, b.sin(phase)?);
    b.concat(&[cos, sin], 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_comes_first_and_a_side_spans_base_over_stretch() {
        let p = positions(2, 4, 8, 64, 2.0);
        let token = |i: usize, j: usize| p.to_f32()[(i * 4 + j) * 8..][..8].to_vec();
        let close = |a: &[f32], b: [f64; 8]| a.iter().zip(b).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6);
        assert!(close(&token(0, 0), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]));
        // Column 1 of 4 lies at 8 of 32, row 1 of 2 at 16 of 32; frequencies 1 and 1/100.
        let (x, y) = (8.0f64, 16.0f64);
        let sc = |u: f64| [u.sin(), (u / 100.0).sin(), u.cos(), (u / 100.0).cos()];
        let want: Vec<f64> = sc(x).into_iter().chain(sc(y)).collect();
        assert!(close(&token(1, 1), want.try_into().unwrap()));
    }
}
