//! Noise of camera sensors: Gaussian and Poisson, of each channel or shared by all.
//!
//! Source: `random_add_gaussian_noise_pt` and `random_add_poisson_noise_pt` of `basicsr/data/degradations.py`,
//! as called there: clipped to 0..1, not rounded.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::stream::{BLOCK, Field};
use crate::data::pixels::FloatImage;

/// Noise by its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "lowercase", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum Noise {
    /// x + n·sigma/255 with standard normal n; `grey`: one n a pixel.
    Gaussian { sigma: f64, grey: bool },
    /// x + (Poisson(q·v)/v − q)·scale, where q is x in whole levels and v the number of levels in the picture,
    /// rounded up to a power of two; `grey`: of the luminance, one value a pixel.
    Poisson { scale: f64, grey: bool },
}

/// Where noise takes its random numbers from: a field of them, or in tests those that PyTorch drew.
pub trait Source {
    /// Standard normals from element `start` on, a multiple of [`BLOCK`].
    fn normals(&self, start: usize, out: &mut [f32]);
    /// Poisson counts of mean `level`·`most`/255 for each of `levels`, which lie from element `start` on.
    fn counts(&self, start: usize, levels: &[u8], most: usize, out: &mut [f32]);
}

/// Elements at a time: whole blocks, and a third of it too.
const PIECE: usize = 6 * BLOCK;

impl Noise {
    /// The noisy picture, clipped to 0..1.
    pub fn apply(&self, mut image: FloatImage, source: &dyn Source) -> FloatImage {
        match *self {
            Noise::Gaussian { sigma, grey } => add_gaussian(&mut image, sigma as f32, grey, source),
            Noise::Poisson { scale, grey } => add_poisson(&mut image, scale as f32, grey, source),
        }
        image
    }
}

fn add_gaussian(image: &mut FloatImage, sigma: f32, grey: bool, source: &dyn Source) {
    let shared = if grey { image.channels } else { 1 };
    let mut normals = [0.0; PIECE];
    for (i, values) in image.data.chunks_mut(PIECE * shared).enumerate() {
        let normals = &mut normals[..values.len() / shared];
        source.normals(i * PIECE, normals);
        for (x, n) in values.chunks_exact_mut(shared).zip(normals) {
            x.iter_mut().for_each(|x| *x = (*x + *n * sigma / 255.0).clamp(0.0, 1.0));
        }
    }
}

fn add_poisson(image: &mut FloatImage, scale: f32, grey: bool, source: &dyn Source) {
    let shared = if grey { image.channels } else { 1 };
    let levels: Vec<u8> = if grey {
        image.data.chunks_exact(image.channels).map(|p| level(luminance(p))).collect()
    } else {
        image.data.iter().map(|&x| level(x)).collect()
    };
    let most = distinct(&levels).next_power_of_two();
    let mut counts = [0.0; PIECE];
    let pieces = image.data.chunks_mut(PIECE * shared).zip(levels.chunks(PIECE));
    for (i, (values, levels)) in pieces.enumerate() {
        let counts = &mut counts[..levels.len()];
        source.counts(i * PIECE, levels, most, counts);
        for ((x, count), q) in values.chunks_exact_mut(shared).zip(counts).zip(levels) {
            let noise = (*count / most as f32 - f32::from(*q) / 255.0) * scale;
            x.iter_mut().for_each(|x| *x = (*x + noise).clamp(0.0, 1.0));
        }
    }
}

/// Of 255, ties to even.
#[inline]
fn level(x: f32) -> u8 {
    // Adding 1.5·2^23 rounds; `round_ties_even` is a library call on processors without SSE4.1.
    const ROUND: f32 = 12_582_912.0;
    ((x * 255.0).clamp(0.0, 255.0) + ROUND - ROUND) as u8
}

/// torchvision's `rgb_to_grayscale`.
fn luminance(pixel: &[f32]) -> f32 {
    match pixel {
        [r, g, b] => 0.2989 * r + 0.587 * g + 0.114 * b,
        other => other[0],
    }
}

fn distinct(levels: &[u8]) -> usize {
    let mut seen = [false; 256];
    levels.iter().for_each(|&q| seen[usize::from(q)] = true);
    seen.iter().filter(|&&s| s).count()
}

impl Source for Field {
    fn normals(&self, start: usize, out: &mut [f32]) {
        Field::normals(self, start, out);
    }

    fn counts(&self, start: usize, levels: &[u8], most: usize, out: &mut [f32]) {
        let tables = PoissonTables::of(most);
        let mut bits = [0; PIECE];
        for (i, (levels, out)) in levels.chunks(PIECE).zip(out.chunks_mut(PIECE)).enumerate() {
            let bits = &mut bits[..levels.len()];
            self.bits(start + i * PIECE, bits);
            for ((out, q), bits) in out.iter_mut().zip(levels).zip(bits) {
                *out = tables.count(*q, *bits) as f32;
            }
        }
    }
}

/// Inverse distribution functions of Poisson variables of mean q·most/255, one for each level q.
struct PoissonTables {
    /// For each level, where its thresholds start and which count the first one is for.
    levels: Vec<(usize, u32)>,
    /// 2³²·P(X ≤ k), rounded, for all k whose probability can be told from 0 or 1; the last is the greatest u32.
    thresholds: Vec<u32>,
    /// For each level and each value of the first 8 bits: how many thresholds no such number reaches.
    guide: Vec<[u16; 256]>,
}

impl PoissonTables {
    /// Tables for 2ⁿ levels, made once.
    ///
    /// # Panics
    /// If `most` is no power of two of at most 256.
    fn of(most: usize) -> &'static PoissonTables {
        static ALL: [OnceLock<PoissonTables>; 9] = [const { OnceLock::new() }; 9];
        assert!(most.is_power_of_two() && most <= 256, "levels of 8 bits");
        ALL[most.trailing_zeros() as usize].get_or_init(|| PoissonTables::new(most))
    }

    fn new(most: usize) -> Self {
        let mut tables = PoissonTables { levels: Vec::new(), thresholds: Vec::new(), guide: Vec::new() };
        for q in 0..256 {
            tables.add(q as f64 * most as f64 / 255.0);
        }
        tables
    }

    fn add(&mut self, mean: f64) {
        let start = self.thresholds.len();
        let (mut first, mut below) = (0, 0.0);
        for k in 0u32.. {
            // 0·ln 0 is 0 here: a mean of 0 gives 0 for certain.
            let log = if mean > 0.0 { f64::from(k) * libm::log(mean) } else { 0.0 };
            below += libm::exp(log - mean - libm::lgamma(f64::from(k) + 1.0));
            let threshold = (below * 2f64.powi(32)).round();
            if threshold < 1.0 {
                first = k + 1;
                continue;
            }
            if threshold >= f64::from(u32::MAX) {
                self.thresholds.push(u32::MAX);
                break;
            }
            self.thresholds.push(threshold as u32);
        }
        let own = &self.thresholds[start..];
        self.guide.push(std::array::from_fn(|bits| {
            own.partition_point(|&t| u64::from(t) <= (bits as u64) << 24) as u16
        }));
        self.levels.push((start, first));
    }

    /// The count of level `q` for uniform bits.
    #[inline]
    fn count(&self, q: u8, bits: u32) -> u32 {
        let (start, first) = self.levels[usize::from(q)];
        let mut k = usize::from(self.guide[usize::from(q)][(bits >> 24) as usize]);
        let own = &self.thresholds[start..];
        // Ends at the last threshold of this level: only the greatest number reaches it.
        while own[k] <= bits && own[k] != u32::MAX {
            k += 1;
        }
        first + k as u32
    }
}

#[cfg(test)]
mod tests {
    use super::super::stream::{Key, Purpose};
    use super::*;

    fn field() -> Field {
        Field::new(Key { seed: 1, epoch: 0, index: 9 }, Purpose::FirstPixels)
    }

    fn flat(x: f32, side: usize) -> FloatImage {
        FloatImage::new(side, side, 3, vec![x; side * side * 3])
    }

    #[test]
    fn gaussian_noise_has_its_deviation() {
        let noisy = Noise::Gaussian { sigma: 20.0, grey: false }.apply(flat(0.5, 128), &field());
        let n = noisy.data.len() as f64;
        let variance = noisy.data.iter().map(|x| (f64::from(*x) - 0.5).powi(2)).sum::<f64>() / n;
        assert!((variance.sqrt() / (20.0 / 255.0) - 1.0).abs() <= 0.01, "{}", variance.sqrt() * 255.0);
    }

    #[test]
    fn grey_noise_is_the_same_in_all_channels() {
        for noise in [Noise::Gaussian { sigma: 9.0, grey: true }, Noise::Poisson { scale: 0.7, grey: true }] {
            let noisy = noise.apply(flat(0.5, 40), &field());
            assert!(noisy.data.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]), "{noise:?}");
            assert!(noisy.data.iter().any(|&x| x != 0.5), "{noise:?}");
        }
    }

    /// Mean 0 and variance q/v·scale², in a picture of 64 levels around the one measured.
    #[test]
    fn poisson_noise_has_its_moments() {
        let side = 160;
        let mut image = flat(102.0 / 255.0, side);
        for q in 0..63 {
            image.data[q] = q as f32 / 255.0;
        }
        let scale = 0.5;
        let noisy = Noise::Poisson { scale, grey: false }.apply(image.clone(), &field());
        let errors: Vec<f64> =
            noisy.data[63..].iter().zip(&image.data[63..]).map(|(a, b)| f64::from(a - b)).collect();
        let n = errors.len() as f64;
        let expected = 0.4 / 64.0 * scale * scale;
        let mean = errors.iter().sum::<f64>() / n;
        let variance = errors.iter().map(|e| e * e).sum::<f64>() / n;
        assert!(mean.abs() <= 4.0 * (expected / n).sqrt(), "mean {mean}");
        assert!((variance / expected - 1.0).abs() <= 0.02, "variance {variance}, expected {expected}");
    }

    /// Thresholds are the distribution function, as the recurrence p(k) = p(k−1)·mean/k gives it.
    #[test]
    fn tables_invert_the_distribution() {
        for most in [1, 16, 256] {
            let tables = PoissonTables::of(most);
            for q in [0u8, 1, 77, 255] {
                let mean = f64::from(q) * most as f64 / 255.0;
                let (mut p, mut below) = ((-mean).exp(), 0.0);
                let mut k = 0u32;
                while below < 1.0 - 1e-7 && k < 600 {
                    below += p;
                    k += 1;
                    p *= mean / f64::from(k);
                    // The count of a number just below P(X < k)·2³² is less than k, that of one above is not.
                    let edge = below * 2f64.powi(32);
                    if edge > 64.0 {
                        assert!(tables.count(q, (edge - 32.0) as u32) < k, "{most} {q} {k}");
                    }
                    if edge < f64::from(u32::MAX - 64) {
                        assert!(tables.count(q, (edge + 32.0) as u32) >= k, "{most} {q} {k}");
                    }
                }
            }
            assert_eq!(tables.count(0, u32::MAX), 0);
        }
    }

    #[test]
    fn values_stay_in_range_and_levels_are_counted() {
        let noisy = Noise::Gaussian { sigma: 300.0, grey: false }.apply(flat(0.5, 30), &field());
        assert!(noisy.data.iter().all(|x| (0.0..=1.0).contains(x)));
        assert_eq!(distinct(&[3, 3, 7, 255, 0]), 4);
        assert_eq!((level(-0.1), level(0.5 / 255.0), level(1.5 / 255.0), level(1.2)), (0, 0, 2, 255));
    }
}
