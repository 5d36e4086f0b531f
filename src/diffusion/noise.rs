//! Normally distributed noise as a pure function of seed, image, step and element.
//!
//! The counter of [`philox`] is made of what the noise belongs to, so it is the same bytes whatever the
//! batch, the tiles, the shard, the threads or the machine.

use crate::philox::{halves, philox};

/// Noise of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    pub(super) seed: u64,
    pub(super) image: u64,
}

/// A key for the noise of an image from its name relative to the job's input folder
/// (64-bit FNV-1a of the UTF-8 bytes).
pub fn image_key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

impl Noise {
    /// The step number of the noise that sampling starts from.
    pub const START: u32 = u32::MAX;

    /// Noise of the image called `image` (see [`image_key`]) in a job seeded with `seed`.
    pub fn new(seed: u64, image: u64) -> Self {
        Noise { seed, image }
    }

    /// Standard normals for step `step`: element i depends on seed, image, step and i alone.
    ///
    /// # Panics
    /// If more than 2³⁴ elements are asked for.
    pub fn fill(&self, step: u32, out: &mut [f32]) {
        let [low, high] = halves(self.image);
        for (block, out) in out.chunks_mut(4).enumerate() {
            let block = u32::try_from(block).expect("at most 2^34 elements");
            let bits = philox([block, step, low, high], halves(self.seed));
            let [a, b] = box_muller(bits[0], bits[1]);
            let [c, d] = box_muller(bits[2], bits[3]);
            out.copy_from_slice(&[a, b, c, d][..out.len()]);
        }
    }
}

/// Two normals from 64 random bits (Box and Muller, 1958). In f64 with the portable functions of
/// `libm`, rounded to f32 once.
fn box_muller(radius: u32, angle: u32) -> [f32; 2] {
    // In (0, 1), symmetric: never the logarithm of 0. The greatest magnitude is 6.76.
    let uniform = |u: u32| (f64::from(u) + 0.5) * 2f64.powi(-32);
    let radius = libm::sqrt(-2.0 * libm::log(uniform(radius)));
    let (sin, cos) = libm::sincos(std::f64::consts::TAU * uniform(angle));
    [(radius * cos) as f32, (radius * sin) as f32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_give_the_keys_of_fnv1a() {
        assert_eq!(image_key(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(image_key("a"), 0xaf63_dc4c_8601_ec8c);
    }

    /// Bits that must never change: a seed means the same picture in every release.
    #[test]
    fn noise_is_frozen() {
        let mut out = [0.0; 6];
        Noise::new(0, image_key("photo.png")).fill(Noise::START, &mut out);
        // The same six from Python's integers and `math`.
        assert_eq!(
            out.map(f32::to_bits),
            [0x3edd4e58, 0x3e97e84e, 0x3d4bcccb, 0x3f5ced00, 0xbf1308ef, 0xbdf71b91]
        );
    }

    #[test]
    fn extremes_are_finite() {
        for bits in [[0, 0], [u32::MAX, u32::MAX], [0, u32::MAX], [u32::MAX, 0]] {
            assert!(box_muller(bits[0], bits[1]).iter().all(|x| x.is_finite() && x.abs() < 6.77));
        }
    }

    #[test]
    fn moments_are_those_of_normals() {
        let mut x = vec![0.0; 1 << 18];
        Noise::new(7, 42).fill(3, &mut x);
        let n = x.len() as f64;
        let moment = |p: i32| x.iter().map(|&v| f64::from(v).powi(p)).sum::<f64>() / n;
        // Five standard errors of each estimate.
        for (p, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0f64)] {
            let bound = 5.0 * (variance / n).sqrt();
            assert!((moment(p) - expected).abs() <= bound, "moment {p}: {}", moment(p));
        }
        let neighbours = x.windows(2).map(|w| f64::from(w[0]) * f64::from(w[1])).sum::<f64>() / n;
        assert!(neighbours.abs() <= 5.0 / n.sqrt(), "correlation {neighbours}");
    }

    proptest! {
        /// A longer fill starts with the shorter one; other seeds, images and steps differ.
        #[test]
        fn an_element_depends_on_its_index_alone(seed: u64, image: u64, step: u32, n in 1usize..70) {
            let fill = |seed, image, step, n| {
                let mut out = vec![0.0f32; n];
                Noise::new(seed, image).fill(step, &mut out);
                out
            };
            let x = fill(seed, image, step, 70);
            prop_assert_eq!(&fill(seed, image, step, n)[..], &x[..n]);
            prop_assert_ne!(&fill(seed ^ 1, image, step, 70), &x);
            prop_assert_ne!(&fill(seed ^ (1 << 40), image, step, 70), &x);
            prop_assert_ne!(&fill(seed, image ^ 1, step, 70), &x);
            prop_assert_ne!(&fill(seed, image ^ (1 << 40), step, 70), &x);
            prop_assert_ne!(&fill(seed, image, step ^ 1, 70), &x);
        }
    }
}
