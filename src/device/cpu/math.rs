//! Transcendental functions in f32 that vectorise.
//!
//! Every function is branch-free (selects only) and uses plain multiply and add, never a fused
//! one: a loop over it inside [`simd_fn!`](super::simd) becomes vector code, and the results are
//! the same bytes at every instruction level. Errors stated are against f64, over all of f32.

/// Adding and subtracting 1.5·2^23 rounds to the nearest integer and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0;

/// Where e^x is the smallest normal number, 2^−126.
const SMALLEST: f32 = -87.336;

/// e^x to 2 ulp; 0 below −87.336, +∞ above 88.73.
///
/// Below lie the subnormal numbers. Masked weights of attention would be such (e^−100), and a multiply-add that meets
/// one is slow on Intel's processors (a training step of SwinIR-nano 173 ms instead of 118).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Beyond these the result is 0 or ∞ anyway; the comparisons let NaN through.
    let vanishes = x < SMALLEST;
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if vanishes { SMALLEST } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first exact in few bits, so that n·ln 2 loses nothing.
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    // 2^n as two factors: n reaches 128.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let y = p * power_of_two(half) * power_of_two(n.wrapping_sub(half));
    if vanishes { 0.0 } else { y }
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// erfc(z)·e^(z²) for z ≥ 0, relative error 5e-7: a polynomial in 1/(1 + 0.4 z), fitted to f64
/// values of the scaled function on [0, 30].
#[inline(always)]
fn scaled_erfc(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.4 * z);
    let p = 4.972_812e-2;
    let p = p * t - 1.804_991_8e-1;
    let p = p * t + 1.645_660_1e-1;
    let p = p * t - 9.968_891e-4;
    let p = p * t + 1.386_665_1e-1;
    let p = p * t + 1.695_288_3e-1;
    let p = p * t + 2.076_408_7e-1;
    let p = p * t + 2.256_908_4e-1;
    let p = p * t + 2.256_75e-1;
    p * t
}

/// tanh x, relative error 5e-7: x·P(x²)/Q(x²), constant beyond ±9.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let x = if x > 9.02 { 9.02 } else { x };
    let x = if x < -9.02 { -9.02 } else { x };
    let s = x * x;
    let p = -1.220_329e-11;
    let p = p * s + 3.058_477_6e-8;
    let p = p * s + 2.800_735_5e-5;
    let p = p * s + 3.868_322_6e-3;
    let p = p * s + 1.367_991_1e-1;
    let p = p * s + 1.0;
    let q = 1.287_359_4e-6;
    let q = q * s + 3.938_622e-4;
    let q = q * s + 2.724_582e-2;
    let q = q * s + 4.701_324_4e-1;
    let q = q * s + 1.0;
    x * p / q
}

/// 1/(1 + e^−x), absolute error 1.2e-7.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x·sigmoid(x) (also called swish), error 2e-7·max(1, |x|); −0 at −∞.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    above(x, -120.0) / (1.0 + exp(-x))
}

/// The part of a normal distribution above a ≥ 0, with its relative precision because it is computed from erfc, not
/// from 1 − erf; and e^(−a²/2). Both are 0 beyond 13.2.
#[inline(always)]
fn normal_tail(a: f32) -> (f32, f32) {
    let bell = exp(-0.5 * a * a);
    (0.5 * scaled_erfc(a * std::f32::consts::FRAC_1_SQRT_2) * bell, bell)
}

/// Φ(x), the part of a normal distribution below x, and e^(−x²/2): absolute errors 3e-7 and 1e-7.
#[inline(always)]
pub fn normal_cdf(x: f32) -> (f32, f32) {
    let a = x.abs();
    let (tail, bell) = normal_tail(if a > 15.0 { 15.0 } else { a });
    (if x < 0.0 { tail } else { 1.0 - tail }, bell)
}

/// GELU with the error function, x·Φ(x): error 1e-7·max(1, |x|), and the left tail keeps its
/// relative precision.
#[inline(always)]
pub fn gelu_erf(x: f32) -> f32 {
    let a = x.abs();
    let a = if a > 15.0 { 15.0 } else { a };
    let (tail, _) = normal_tail(a);
    let positive = if x < 0.0 { 0.0 } else { x };
    positive - a * tail
}

/// GELU by its tanh approximation, ½x(1 + tanh(√(2/π)(x + 0.044715x³))): error 2e-7·max(1, |x|).
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    // ½(1 + tanh u) = sigmoid(2u), which has no cancellation on the left.
    let y = above(x, -15.0);
    let u2 = 1.595_769 * (y + 0.044_715 * (y * y * y));
    y / (1.0 + exp(-u2))
}

/// max(x, floor) that keeps NaN: functions that vanish at −∞ would otherwise compute −∞ · 0.
#[inline(always)]
fn above(x: f32, floor: f32) -> f32 {
    if x < floor { floor } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::simd::{Level, simd_fn};

    /// erf in f64: the series 2/√π·e^(−x²)·Σ 2ⁿx^(2n+1)/(2n+1)!!, all terms positive.
    fn erf64(x: f64) -> f64 {
        if x.abs() > 6.0 {
            return x.signum();
        }
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
    }

    fn sweep() -> impl Iterator<Item = f32> {
        let dense = (-200_000..=200_000).map(|i| i as f32 * 1e-4);
        let wide = (0..4000).map(|i| 1e-38 * 1.05f32.powi(i)).filter(|x| x.is_finite());
        dense.chain(wide.clone()).chain(wide.map(|x| -x))
    }

    /// Largest error of `f` in units of 1e-7, measured against `scale(x, exact)`.
    fn worst(f: fn(f32) -> f32, exact: impl Fn(f64) -> f64, scale: impl Fn(f64, f64) -> f64) -> f64 {
        let mut worst = 0.0f64;
        for x in sweep() {
            let (got, want) = (f(x) as f64, exact(x as f64));
            let err = if got == want { 0.0 } else { (got - want).abs() / scale(x as f64, want) };
            assert!(err.is_finite(), "at {x}: {got} instead of {want}");
            worst = worst.max(err);
        }
        worst * 1e7
    }

    #[test]
    fn exp_is_good_to_two_ulp() {
        let mut worst = 0.0f64;
        for i in -873_360..=887_000 {
            let x = i as f32 * 1e-4;
            let want = (x as f64).exp();
            let ulp = (want as f32).next_up() as f64 - want as f32 as f64;
            worst = worst.max((exp(x) as f64 - want).abs() / ulp);
        }
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(SMALLEST) >= f32::MIN_POSITIVE && exp(SMALLEST.next_down()) == 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(88.8), f32::INFINITY);
        assert!(exp(88.7).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn functions_agree_with_f64() {
        let cdf = |x: f64| 0.5 * (1.0 + erf64(x * std::f64::consts::FRAC_1_SQRT_2));
        let gelu = |x: f64| 0.5 * x * (1.0 + erf64(x * std::f64::consts::FRAC_1_SQRT_2));
        let gelu_t = |x: f64| {
            x / (1.0 + (-2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).exp())
        };
        let relative_above_one = |x: f64, _: f64| x.abs().max(1.0);
        for (name, error, limit) in [
            ("tanh", worst(tanh, f64::tanh, |_, y| y.abs().max(1e-37)), 5.0),
            ("sigmoid", worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), |_, _| 1.0), 1.2),
            ("silu", worst(silu, |x| x / (1.0 + (-x).exp()), relative_above_one), 2.0),
            ("normal_cdf", worst(|x| normal_cdf(x).0, cdf, |_, _| 1.0), 3.0),
            ("bell of normal_cdf", worst(|x| normal_cdf(x).1, |x| (-0.5 * x * x).exp(), |_, _| 1.0), 1.0),
            ("gelu_erf", worst(gelu_erf, gelu, relative_above_one), 1.2),
            ("gelu_tanh", worst(gelu_tanh, gelu_t, relative_above_one), 2.0),
        ] {
            assert!(error <= limit, "{name}: {error}e-7, limit {limit}e-7");
        }
    }

    #[test]
    fn limits_and_nan() {
        let inf = f32::INFINITY;
        for (name, f, left, right) in [
            ("normal_cdf", (|x| normal_cdf(x).0) as fn(f32) -> f32, 0.0, 1.0),
            ("sigmoid", sigmoid, 0.0, 1.0),
            ("silu", silu, 0.0, inf),
            ("gelu_erf", gelu_erf, 0.0, inf),
            ("gelu_tanh", gelu_tanh, 0.0, inf),
        ] {
            assert_eq!((f(-inf), f(inf)), (left, right), "{name}");
            assert!(f(f32::NAN).is_nan(), "{name}");
        }
        assert!((tanh(inf) - 1.0).abs() < 2e-7 && (tanh(-inf) + 1.0).abs() < 2e-7 && tanh(f32::NAN).is_nan());
    }

    simd_fn! {
        fn gelu_all(x: &mut [f32]) {
            x.iter_mut().for_each(|x| *x = gelu_erf(*x));
        }
    }

    #[test]
    fn every_level_gives_the_same_bytes() {
        let x: Vec<f32> = sweep().collect();
        let want: Vec<u32> = x.iter().map(|&x| gelu_erf(x).to_bits()).collect();
        for level in Level::available() {
            let mut y = x.clone();
            gelu_all(level, &mut y);
            assert!(y.iter().zip(&want).all(|(y, &w)| y.to_bits() == w), "{}", level.name());
        }
    }
}
