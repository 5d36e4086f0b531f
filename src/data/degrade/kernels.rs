//! Blur kernels: three families of Gaussian-like bumps, each round or stretched, and the sinc filter.
//!
//! Source: `basicsr/data/degradations.py` of Real-ESRGAN and DreamClear. Weights are computed in f64 with the
//! portable functions of `libm`, so they are the same on every machine.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::filter::Filter;

/// A kernel by its parameters. `size` is the side of its square in pixels, odd; `sigma` a standard deviation in
/// pixels; `rotation` the angle of the first axis in radians; `beta` a shape, 1 being the plainest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum Kernel {
    /// exp(−½ r²/σ²)
    Iso { size: usize, sigma: f64 },
    /// exp(−½ gᵀΣ⁻¹g) with Σ = R·diag(σ₀², σ₁²)·Rᵀ
    Aniso { size: usize, sigma: [f64; 2], rotation: f64 },
    /// exp(−½ (r²/σ²)^β)
    GeneralizedIso { size: usize, sigma: f64, beta: f64 },
    /// exp(−½ (gᵀΣ⁻¹g)^β)
    GeneralizedAniso { size: usize, sigma: [f64; 2], rotation: f64, beta: f64 },
    /// 1/((r²/σ²)^β + 1)
    PlateauIso { size: usize, sigma: f64, beta: f64 },
    /// 1/((gᵀΣ⁻¹g)^β + 1)
    PlateauAniso { size: usize, sigma: [f64; 2], rotation: f64, beta: f64 },
    /// The circular low-pass filter ω·J₁(ωr)/(2πr) of cut-off ω in radians per pixel, cut to a square.
    Sinc { size: usize, cutoff: f64 },
}

impl Kernel {
    /// Side of the square in pixels.
    pub fn size(&self) -> usize {
        match *self {
            Kernel::Iso { size, .. }
            | Kernel::Aniso { size, .. }
            | Kernel::GeneralizedIso { size, .. }
            | Kernel::GeneralizedAniso { size, .. }
            | Kernel::PlateauIso { size, .. }
            | Kernel::PlateauAniso { size, .. }
            | Kernel::Sinc { size, .. } => size,
        }
    }

    /// Whether all parameters are finite, the size odd and at most 255, and standard deviations, shape and
    /// cut-off above 0.
    pub fn is_valid(&self) -> bool {
        let (sigma, rotation, shape) = match *self {
            Kernel::Iso { sigma, .. } => ([sigma; 2], 0.0, 1.0),
            Kernel::Aniso { sigma, rotation, .. } => (sigma, rotation, 1.0),
            Kernel::GeneralizedIso { sigma, beta, .. } | Kernel::PlateauIso { sigma, beta, .. } => {
                ([sigma; 2], 0.0, beta)
            }
            Kernel::GeneralizedAniso { sigma, rotation, beta, .. }
            | Kernel::PlateauAniso { sigma, rotation, beta, .. } => (sigma, rotation, beta),
            Kernel::Sinc { cutoff, .. } => ([1.0; 2], 0.0, cutoff),
        };
        let positive = |x: f64| x > 0.0 && x.is_finite();
        sigma.into_iter().all(positive)
            && rotation.is_finite()
            && positive(shape)
            && self.size() % 2 == 1
            && self.size() <= 255
    }

    /// The `size`×`size` weights, row by row, of sum 1.
    pub fn weights(&self) -> Vec<f64> {
        let round = |sigma: f64| [1.0 / (sigma * sigma), 0.0, 1.0 / (sigma * sigma)];
        match *self {
            Kernel::Iso { size, sigma } => bump(size, round(sigma), |q| libm::exp(-0.5 * q)),
            Kernel::Aniso { size, sigma, rotation } => {
                bump(size, inverse_covariance(sigma, rotation), |q| libm::exp(-0.5 * q))
            }
            Kernel::GeneralizedIso { size, sigma, beta } => {
                bump(size, round(sigma), |q| libm::exp(-0.5 * libm::pow(q, beta)))
            }
            Kernel::GeneralizedAniso { size, sigma, rotation, beta } => {
                bump(size, inverse_covariance(sigma, rotation), |q| libm::exp(-0.5 * libm::pow(q, beta)))
            }
            Kernel::PlateauIso { size, sigma, beta } => {
                bump(size, round(sigma), |q| 1.0 / (libm::pow(q, beta) + 1.0))
            }
            Kernel::PlateauAniso { size, sigma, rotation, beta } => {
                bump(size, inverse_covariance(sigma, rotation), |q| 1.0 / (libm::pow(q, beta) + 1.0))
            }
            Kernel::Sinc { size, cutoff } => sinc(size, cutoff),
        }
    }

    /// The filter of these weights: by rows and columns where the kernel is their product.
    pub fn filter(&self) -> Filter {
        match *self {
            Kernel::Iso { size, sigma } => Filter::separable(&gaussian(size, sigma)),
            _ => Filter::square(self.size(), &self.weights()),
        }
    }
}

/// `size` samples of a Gaussian around its centre, of sum 1.
pub fn gaussian(size: usize, sigma: f64) -> Vec<f64> {
    let centre = (size - 1) as f64 / 2.0;
    let weight = |i: usize| libm::exp(-0.5 * ((i as f64 - centre) / sigma) * ((i as f64 - centre) / sigma));
    normalised((0..size).map(weight).collect())
}

/// Σ⁻¹ as its entries xx, xy, yy.
fn inverse_covariance(sigma: [f64; 2], rotation: f64) -> [f64; 3] {
    let (sin, cos) = libm::sincos(rotation);
    let [a, b] = sigma.map(|s| 1.0 / (s * s));
    [cos * cos * a + sin * sin * b, sin * cos * (a - b), sin * sin * a + cos * cos * b]
}

/// Weights that depend on q = gᵀΣ⁻¹g alone.
fn bump(size: usize, [xx, xy, yy]: [f64; 3], value: impl Fn(f64) -> f64) -> Vec<f64> {
    let centre = (size - 1) as f64 / 2.0;
    let at = |x: f64, y: f64| value(xx * x * x + 2.0 * xy * x * y + yy * y * y);
    let weights = (0..size * size).map(|i| at((i % size) as f64 - centre, (i / size) as f64 - centre));
    normalised(weights.collect())
}

fn sinc(size: usize, cutoff: f64) -> Vec<f64> {
    let centre = (size - 1) as f64 / 2.0;
    let at = |x: f64, y: f64| match libm::sqrt(x * x + y * y) {
        0.0 => cutoff * cutoff / (4.0 * PI),
        r => cutoff * libm::j1(cutoff * r) / (2.0 * PI * r),
    };
    let weights = (0..size * size).map(|i| at((i % size) as f64 - centre, (i / size) as f64 - centre));
    normalised(weights.collect())
}

fn normalised(mut weights: Vec<f64>) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_kernel() -> impl Strategy<Value = Kernel> {
        let (size, sigma, rotation) = ((1usize..=20).prop_map(|n| 2 * n + 1), 0.2..3.0, -PI..PI);
        (0..7, size, [sigma.clone(), sigma], rotation, 0.5..4.0, PI / 5.0..PI).prop_map(
            |(family, size, pair, rotation, beta, cutoff)| {
                let sigma = pair[0];
                match family {
                    0 => Kernel::Iso { size, sigma },
                    1 => Kernel::Aniso { size, sigma: pair, rotation },
                    2 => Kernel::GeneralizedIso { size, sigma, beta },
                    3 => Kernel::GeneralizedAniso { size, sigma: pair, rotation, beta },
                    4 => Kernel::PlateauIso { size, sigma, beta },
                    5 => Kernel::PlateauAniso { size, sigma: pair, rotation, beta },
                    _ => Kernel::Sinc { size, cutoff },
                }
            },
        )
    }

    proptest! {
        #[test]
        fn weights_sum_to_1_and_are_symmetric_about_the_centre(kernel in any_kernel()) {
            prop_assert!(kernel.is_valid());
            let w = kernel.weights();
            prop_assert_eq!(w.len(), kernel.size() * kernel.size());
            prop_assert!((w.iter().sum::<f64>() - 1.0).abs() <= 1e-12);
            for (a, b) in w.iter().zip(w.iter().rev()) {
                prop_assert!((a - b).abs() <= 1e-15, "{} against {}", a, b);
            }
        }
    }

    /// Before it is normalised, the centre is the limit of the formula beside it.
    #[test]
    fn the_centre_of_a_sinc_is_its_limit() {
        let cutoff = 1.7;
        let r = 1e-5;
        let beside = cutoff * libm::j1(cutoff * r) / (2.0 * PI * r);
        assert!((beside - cutoff * cutoff / (4.0 * PI)).abs() <= 1e-9);
        let w = Kernel::Sinc { size: 3, cutoff }.weights();
        let ratio = cutoff * libm::j1(cutoff) / (2.0 * PI) / (cutoff * cutoff / (4.0 * PI));
        assert!((w[1] / w[4] - ratio).abs() <= 1e-14);
    }

    /// Abramowitz and Stegun, table 9.1, and SciPy 1.17 where the table ends.
    #[test]
    fn bessel_function_has_its_published_values() {
        for (x, value) in [
            (0.5, 0.242_268_457_674_873_87),
            (1.0, 0.440_050_585_744_933_5),
            (2.0, 0.576_724_807_756_873_4),
            (3.831_705_970_207_512_5, 0.0),
            (5.0, -0.327_579_137_591_465_3),
            (10.0, 0.043_472_746_168_861_44),
            (17.5, -0.163_419_969_425_755),
            (44.428_829_381_583_66, -0.038_841_231_218_487_14),
        ] {
            assert!((libm::j1(x) - value).abs() <= 1e-12, "J1({x}) = {:e}", libm::j1(x));
        }
    }

    #[test]
    fn the_round_gaussian_is_the_product_of_its_sections() {
        let w = Kernel::Iso { size: 9, sigma: 1.3 }.weights();
        let g = gaussian(9, 1.3);
        for (i, w) in w.iter().enumerate() {
            assert!((w - g[i / 9] * g[i % 9]).abs() <= 1e-16);
        }
    }
}
