//! The same on the processor: pieces of all tensors over the threads of the pool.

use rayon::prelude::*;

use super::Factors;
use crate::device::cpu::simd::{Level, simd_fn};

/// Elements that a thread takes at a time.
const PIECE: usize = 16 * 1024;

/// One tensor of parameters with what belongs to it, each of the same length.
#[derive(Debug)]
pub struct Part<'a> {
    /// Parameters.
    pub param: &'a mut [f32],
    /// Gradients.
    pub grad: &'a [f32],
    /// First and second moments; zeros before the first step.
    pub moments: [&'a mut [f32]; 2],
    /// The moving average of the parameters, if one is kept.
    pub ema: Option<&'a mut [f32]>,
    /// The factors of this tensor's group.
    pub factors: Factors,
}

/// One step for all tensors. Gradients are multiplied by `scale` first; of a moving average this much is kept.
pub fn step(parts: Vec<Part>, scale: f32, ema_keep: f32) {
    let level = Level::best();
    let pieces: Vec<Part> = parts.into_iter().flat_map(cut).collect();
    pieces.into_par_iter().for_each(|p| {
        let Part { param, grad, moments: [first, second], ema, factors } = p;
        update(level, param, grad, first, second, scale, factors);
        if let Some(ema) = ema {
            average(level, ema, param, ema_keep);
        }
    });
}

fn cut(part: Part) -> Vec<Part> {
    let Part { param, grad, moments: [first, second], ema, factors } = part;
    let mut emas: Vec<Option<&mut [f32]>> = match ema {
        Some(ema) => ema.chunks_mut(PIECE).map(Some).collect(),
        None => grad.chunks(PIECE).map(|_| None).collect(),
    };
    let moments = first.chunks_mut(PIECE).zip(second.chunks_mut(PIECE));
    param
        .chunks_mut(PIECE)
        .zip(grad.chunks(PIECE))
        .zip(moments)
        .zip(emas.drain(..))
        .map(|(((param, grad), (first, second)), ema)| Part {
            param,
            grad,
            moments: [first, second],
            ema,
            factors,
        })
        .collect()
}

simd_fn! {
    /// In PyTorch's order of operations, each of which rounds.
    fn update(
        param: &mut [f32],
        grad: &[f32],
        first: &mut [f32],
        second: &mut [f32],
        scale: f32,
        f: Factors,
    ) {
        for (((w, g), m), v) in param.iter_mut().zip(grad).zip(first).zip(second) {
            let g = g * scale;
            *m += f.first * (g - *m);
            *v = f.second[0] * *v + f.second[1] * g * g;
            let root = v.sqrt() / f.correct + f.eps;
            *w = f.keep * *w + f.along * *m / root;
        }
    }

    fn average(ema: &mut [f32], param: &[f32], keep: f32) {
        for (e, w) in ema.iter_mut().zip(param) {
            *e = keep * *e + (1.0 - keep) * w;
        }
    }

    fn squares(x: &[f32]) -> f64 {
        // Sixteen sums side by side, in f64: the order is fixed, and nothing overflows.
        let mut sums = [0.0f64; 16];
        let (whole, rest) = x.as_chunks::<16>();
        for x in whole {
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
    }
}

/// The L2 norm of all numbers together.
pub fn norm<'a>(all: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    let level = Level::best();
    let pieces: Vec<&[f32]> = all.into_iter().flat_map(|x| x.chunks(PIECE)).collect();
    let sums: Vec<f64> = pieces.into_par_iter().map(|x| squares(level, x)).collect();
    sums.iter().sum::<f64>().sqrt()
}

/// By what gradients of this norm are multiplied, so that it does not exceed `most`.
pub fn clip_factor(norm: f64, most: f64) -> f64 {
    (most / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::super::AdamW;
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32)
            .map(|i| ((i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)) >> 8) as f32 / 8e6 - 1.0)
            .collect()
    }

    /// Three steps against the paper's formulas in f64, over more than one piece.
    #[test]
    fn three_steps_follow_the_paper() {
        let adamw = AdamW { betas: [0.9, 0.999], eps: 1e-8, decay: 0.1 };
        let n = PIECE + 333;
        let mut w = numbers(n, 1);
        let (mut m, mut v, mut ema) = (vec![0.0; n], vec![0.0; n], w.clone());
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (mut w64, mut m64, mut v64, mut ema64) = (wide(&w), vec![0.0; n], vec![0.0; n], wide(&ema));
        for t in 1..=3 {
            let grad = numbers(n, 100 * t as u32);
            let part = Part {
                param: &mut w,
                grad: &grad,
                moments: [&mut m, &mut v],
                ema: Some(&mut ema),
                factors: adamw.factors(t, 1e-2),
            };
            step(vec![part], 0.5, 0.75);
            for i in 0..n {
                let g = 0.5 * f64::from(grad[i]);
                m64[i] = 0.9 * m64[i] + 0.1 * g;
                v64[i] = 0.999 * v64[i] + 0.001 * g * g;
                let m = m64[i] / (1.0 - 0.9f64.powi(t as i32));
                let v = v64[i] / (1.0 - 0.999f64.powi(t as i32));
                w64[i] -= 1e-2 * (0.1 * w64[i] + m / (v.sqrt() + 1e-8));
                ema64[i] = 0.75 * ema64[i] + 0.25 * w64[i];
            }
        }
        for i in 0..n {
            assert!((f64::from(w[i]) - w64[i]).abs() <= 5e-7, "parameter {i}: {} for {}", w[i], w64[i]);
            assert!((f64::from(ema[i]) - ema64[i]).abs() <= 5e-7, "average {i}: {} for {}", ema[i], ema64[i]);
        }
    }

    #[test]
    fn the_norm_is_of_all_tensors_and_clips() {
        let (a, b) = (numbers(40_000, 1), numbers(7, 2));
        let want = a.iter().chain(&b).map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        let got = norm([&a[..], &[], &b[..]]);
        assert!((got - want).abs() <= 1e-12 * want, "{got} for {want}");
        assert!((clip_factor(got, 1.0) - 1.0 / (want + 1e-6)).abs() < 1e-12 && clip_factor(got, 1e9) == 1.0);
        let huge = [f32::MAX; 3];
        assert!(norm([&huge[..]]).is_finite(), "squares do not overflow");
    }
}
