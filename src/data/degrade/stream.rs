//! Random numbers of a picture: functions of (seed, epoch, picture, purpose, position) and nothing else.

use serde::{Deserialize, Serialize};

use crate::device::cpu::simd::simd_fn;
use crate::philox::{halves, philox, philox_lanes};

/// Whose random numbers they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Seed of the job.
    pub seed: u64,
    /// Pass over the pictures, below 2^24.
    pub epoch: u32,
    /// The picture's number, or a batch's.
    pub index: u64,
}

/// What random numbers are for. Each purpose has numbers of its own, so that a draw that is added to one
/// shifts no other. Values must never change: a seed means the same pictures in every release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Purpose {
    Framing = 0,
    FirstBlur = 1,
    FirstResize = 2,
    FirstNoise = 3,
    FirstNoiseModel = 4,
    FirstCompression = 5,
    SecondBlur = 6,
    SecondResize = 7,
    SecondNoise = 8,
    SecondNoiseModel = 9,
    SecondCompression = 10,
    SecondBlurAtAll = 11,
    Last = 12,
    LastSinc = 13,
    FirstPixels = 14,
    SecondPixels = 15,
    FirstBlurAtAll = 16,
}

/// Set in the purpose of numbers that a batch of pictures shares.
const SHARED: u32 = 0x80;

impl Key {
    fn counter(&self, purpose: u32) -> [u32; 3] {
        assert!(self.epoch < 1 << 24, "epoch {} is not below 2^24", self.epoch);
        let [low, high] = halves(self.index);
        [self.epoch << 8 | purpose, low, high]
    }
}

/// Single draws for one purpose, one after the other.
pub struct Draws {
    key: [u32; 2],
    counter: [u32; 3],
    next: u32,
}

impl Draws {
    /// The draws of a picture.
    ///
    /// # Panics
    /// If the epoch is 2^24 or more.
    pub fn new(key: Key, purpose: Purpose) -> Self {
        Draws { key: halves(key.seed), counter: key.counter(purpose as u32), next: 0 }
    }

    /// The draws of a batch, whose number is the key's index: others than those of the picture of that number.
    ///
    /// # Panics
    /// As [`Draws::new`].
    pub fn shared(key: Key, purpose: Purpose) -> Self {
        Draws { key: halves(key.seed), counter: key.counter(purpose as u32 | SHARED), next: 0 }
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        let [a, b, c] = self.counter;
        let bits = philox([self.next, a, b, c], self.key);
        self.next += 1;
        let whole = u64::from(bits[0] >> 5) << 26 | u64::from(bits[1] >> 6);
        whole as f64 * 2f64.powi(-53)
    }

    /// Uniform in [low, high).
    pub fn between(&mut self, [low, high]: [f64; 2]) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// An index of `weights`, each as likely as its share of their sum.
    ///
    /// # Panics
    /// If there is none.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.uniform() * weights.iter().sum::<f64>();
        for (i, w) in weights.iter().enumerate() {
            if left < *w {
                return i;
            }
            left -= w;
        }
        // Rounding used the last bit of the sum: the last one that can be drawn at all.
        weights.iter().rposition(|w| *w > 0.0).expect("a weight above 0")
    }

    /// One of `all`, equally likely.
    ///
    /// # Panics
    /// If there is none.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[((self.uniform() * all.len() as f64) as usize).min(all.len() - 1)]
    }
}

/// A field of random numbers, one an element: of a picture's pixels, or of a batch's.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    key: [u32; 2],
    counter: [u32; 3],
}

/// Counters that are computed side by side, and elements that they give: element `e` of a block is word
/// `e / LANES` of the block's counter `e % LANES`.
const LANES: usize = 32;

/// Elements must be asked for from a multiple of this.
pub const BLOCK: usize = 4 * LANES;

impl Field {
    /// The field of a picture.
    pub fn new(key: Key, purpose: Purpose) -> Self {
        Field { key: halves(key.seed), counter: key.counter(purpose as u32) }
    }

    /// The field of a batch, whose number is the key's index.
    pub fn shared(key: Key, purpose: Purpose) -> Self {
        Field { key: halves(key.seed), counter: key.counter(purpose as u32 | SHARED) }
    }

    /// Uniform bits of the elements from `start` on.
    ///
    /// # Panics
    /// If `start` is not a multiple of [`BLOCK`], or an element number reaches 2^34.
    pub fn bits(&self, start: usize, out: &mut [u32]) {
        self.blocks(start, out, |bits, out| out.copy_from_slice(&bits.as_flattened()[..out.len()]));
    }

    /// Standard normals of the elements from `start` on, by Box and Muller's transform in f32: the same bytes
    /// on every machine, errors below 1e-6 of the exact transform, tails to ±6.7.
    ///
    /// # Panics
    /// As [`Field::bits`].
    pub fn normals(&self, start: usize, out: &mut [f32]) {
        let level = crate::device::cpu::simd::Level::best();
        self.blocks(start, out, |bits, out| {
            let mut block = [[0.0; LANES]; 4];
            box_muller(level, bits, &mut block);
            out.copy_from_slice(&block.as_flattened()[..out.len()]);
        });
    }

    fn blocks<T>(&self, start: usize, out: &mut [T], mut block: impl FnMut(&[[u32; LANES]; 4], &mut [T])) {
        assert!(start.is_multiple_of(BLOCK), "elements from a whole block on");
        let level = crate::device::cpu::simd::Level::best();
        for (i, out) in out.chunks_mut(BLOCK).enumerate() {
            let first = u32::try_from((start / BLOCK + i) * LANES).expect("fewer than 2^34 elements");
            let mut bits = [[0; LANES]; 4];
            lanes(level, first, self.counter, self.key, &mut bits);
            block(&bits, out);
        }
    }
}

simd_fn! {
    fn lanes(first: u32, counter: [u32; 3], key: [u32; 2], out: &mut [[u32; LANES]; 4]) {
        let [a, b, c] = counter;
        let mut counters = [[0; LANES], [a; LANES], [b; LANES], [c; LANES]];
        for (n, x) in counters[0].iter_mut().enumerate() {
            *x = first + n as u32;
        }
        *out = philox_lanes(counters, key);
    }

    fn box_muller(bits: &[[u32; LANES]; 4], out: &mut [[f32; LANES]; 4]) {
        for pair in 0..2 {
            for n in 0..LANES {
                let radius = (-2.0 * ln_unit(bits[2 * pair][n])).sqrt();
                let (sin, cos) = sin_cos_turns(bits[2 * pair + 1][n]);
                out[2 * pair][n] = radius * cos;
                out[2 * pair + 1][n] = radius * sin;
            }
        }
    }
}

/// ln((u + 1)·2^-32), never of 0. Plain products and sums only, as in [`crate::device::cpu::math`].
#[inline(always)]
fn ln_unit(u: u32) -> f32 {
    // Above 2^24 the conversion rounds; at the end that gives 1, whose logarithm is 0.
    let x = (u as f32 + 1.0) * 2.328_306_4e-10;
    // x = m·2^e with m in [sqrt(1/2), sqrt(2)).
    let bits = x.to_bits().wrapping_sub(0x3f35_04f3);
    let e = (bits as i32) >> 23;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3)) - 1.0;
    // Minimax polynomial of Cephes' logf.
    let z = m * m;
    let p = 7.037_683_6e-2;
    let p = p * m - 1.151_461e-1;
    let p = p * m + 1.167_699_8e-1;
    let p = p * m - 1.242_014_1e-1;
    let p = p * m + 1.424_932_3e-1;
    let p = p * m - 1.666_805_8e-1;
    let p = p * m + 2.000_071_5e-1;
    let p = p * m - 2.499_999_4e-1;
    let p = p * m + 3.333_333e-1;
    let e = e as f32;
    m * z * p + e * -2.121_944_4e-4 - 0.5 * z + m + e * 0.693_359_4
}

/// Sine and cosine of 2π·u·2^-32.
#[inline(always)]
fn sin_cos_turns(u: u32) -> (f32, f32) {
    // The nearest quarter turn, and what is left of at most an eighth.
    let quarter = u.wrapping_add(1 << 29) >> 30;
    let rest = u.wrapping_sub(quarter << 30) as i32;
    let x = rest as f32 * 1.462_918_1e-9;
    let z = x * x;
    // Minimax polynomials of Cephes' sinf and cosf.
    let s = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z - 1.666_665_5e-1) * z * x + x;
    let c = ((2.443_315_7e-5 * z - 1.388_731_6e-3) * z + 4.166_664_6e-2) * z * z - 0.5 * z + 1.0;
    let (s, c) = if quarter & 1 == 0 { (s, c) } else { (c, s) };
    let sin = if quarter & 2 == 0 { s } else { -s };
    let cos = if quarter.wrapping_add(1) & 2 == 0 { c } else { -c };
    (sin, cos)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { seed: 7, epoch: 3, index: 5 };

    #[test]
    fn draws_are_frozen_and_uniform() {
        let mut draws = Draws::new(KEY, Purpose::FirstBlur);
        let bits = philox([0, 3 << 8 | 1, 5, 0], [7, 0]);
        let want = (u64::from(bits[0]) << 32 | u64::from(bits[1])) as f64 * 2f64.powi(-64);
        assert!((draws.uniform() - want).abs() < 2f64.powi(-26));
        let n = 20_000;
        let all: Vec<f64> = (0..n).map(|_| draws.uniform()).collect();
        assert!(all.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = all.iter().sum::<f64>() / f64::from(n);
        // Three standard errors.
        assert!((mean - 0.5).abs() <= 3.0 * (1.0f64 / 12.0 / f64::from(n)).sqrt(), "{mean}");
    }

    #[test]
    fn purposes_pictures_epochs_and_batches_differ() {
        let first = |key, purpose| Draws::new(key, purpose).uniform();
        let mut all = vec![first(KEY, Purpose::Framing), Draws::shared(KEY, Purpose::Framing).uniform()];
        all.push(first(KEY, Purpose::SecondPixels));
        all.push(first(Key { epoch: 4, ..KEY }, Purpose::Framing));
        all.push(first(Key { index: 6, ..KEY }, Purpose::Framing));
        all.push(first(Key { index: 5 + (1 << 32), ..KEY }, Purpose::Framing));
        all.push(first(Key { seed: 7 + (1 << 32), ..KEY }, Purpose::Framing));
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b), "draw {i}");
        }
    }

    #[test]
    fn weights_that_are_0_are_never_drawn() {
        let mut draws = Draws::new(KEY, Purpose::Last);
        for _ in 0..1000 {
            assert_eq!(draws.weighted(&[0.0, 0.3, 0.0]), 1);
        }
    }

    /// An element is the same wherever a request for it begins, and so is it at every instruction level.
    #[test]
    fn elements_depend_on_their_number_alone() {
        let field = Field::new(KEY, Purpose::FirstPixels);
        let mut whole = vec![0.0; 5 * BLOCK + 17];
        field.normals(0, &mut whole);
        let mut part = vec![0.0; 2 * BLOCK];
        field.normals(2 * BLOCK, &mut part);
        assert_eq!(part, whole[2 * BLOCK..4 * BLOCK]);
        let mut bits = vec![0; BLOCK + 3];
        field.bits(0, &mut bits);
        for e in [0, 1, LANES, 3 * LANES + 5, BLOCK, BLOCK + 2] {
            let (block, e_in) = (e / BLOCK, e % BLOCK);
            let counter = (block * LANES + e_in % LANES) as u32;
            assert_eq!(bits[e], philox([counter, 3 << 8 | 14, 5, 0], [7, 0])[e_in / LANES], "element {e}");
        }
        for level in crate::device::cpu::simd::Level::available() {
            let (mut bits, mut out) = ([[0; LANES]; 4], [[0.0; LANES]; 4]);
            lanes(level, 0, field.counter, field.key, &mut bits);
            box_muller(level, &bits, &mut out);
            assert_eq!(out.as_flattened(), &whole[..BLOCK], "{}", level.name());
        }
    }

    #[test]
    fn the_transform_is_that_of_f64() {
        let mut worst = 0.0f64;
        let extremes = [0, 1, 2, u32::MAX, u32::MAX - 1, 1 << 29, (1 << 29) - 1, 1 << 30, 3 << 30, 1 << 31];
        let some = (0..40_000u32).map(|i| i.wrapping_mul(2_654_435_761));
        for u in extremes.into_iter().chain(some) {
            let exact = ((f64::from(u) + 1.0) * 2f64.powi(-32)).ln();
            // Near 1 the argument itself has only 24 bits.
            assert!((f64::from(ln_unit(u)) - exact).abs() <= 1e-6 * exact.abs() + 1e-7, "ln of {u}");
            let angle = f64::from(u) * 2f64.powi(-32) * std::f64::consts::TAU;
            let (s, c) = sin_cos_turns(u);
            worst = worst.max((f64::from(s) - angle.sin()).abs()).max((f64::from(c) - angle.cos()).abs());
        }
        assert!(worst <= 2e-7, "sine and cosine err by {worst:e}");
    }

    #[test]
    fn moments_are_those_of_normals() {
        let mut x = vec![0.0; 1 << 17];
        Field::new(KEY, Purpose::SecondPixels).normals(0, &mut x);
        let n = x.len() as f64;
        let moment = |p: i32| x.iter().map(|&v| f64::from(v).powi(p)).sum::<f64>() / n;
        // Four standard errors of each estimate.
        for (p, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0f64)] {
            let found = moment(p);
            assert!((found - expected).abs() <= 4.0 * (variance / n).sqrt(), "moment {p}: {found}");
        }
        // The two normals of a pair, and neighbours.
        for distance in [1, LANES] {
            let products = x.iter().zip(&x[distance..]).map(|(a, b)| f64::from(a * b)).sum::<f64>() / n;
            assert!(products.abs() <= 4.0 / n.sqrt(), "correlation at {distance}: {products}");
        }
    }
}
