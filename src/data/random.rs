//! Random numbers as pure functions of a seed and of what they are for: no generator, no state.
//!
//! Who needs a number names its purpose and its place; [`philox`](crate::philox) makes bits of these, so the
//! number is the same whatever the order, the threads or the machine.

use super::shard::stable_hash;
use crate::philox::{halves, philox};

/// Numbers for one purpose under one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    key: [u32; 2],
}

impl Draw {
    /// Numbers for `purpose`: other purposes get others. Its name is part of what makes the numbers, so
    /// it may never change.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Draw { key: halves(seed ^ stable_hash(purpose.as_bytes())) }
    }

    /// The number at place (`a`, `b`).
    pub fn at(self, a: u64, b: u64) -> Drawn {
        let ([a0, a1], [b0, b1]) = (halves(a), halves(b));
        Drawn(philox([a0, a1, b0, b1], self.key))
    }
}

/// 128 random bits, to be read as one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn([u32; 4]);

impl Drawn {
    /// 64 bits.
    pub fn bits(self) -> u64 {
        u64::from(self.0[1]) << 32 | u64::from(self.0[0])
    }

    /// A whole number below `n`; some come more often than others by n/2⁶⁴.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(self, n: u64) -> u64 {
        assert!(n > 0, "a number below 0");
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform in [0, 1), all 53 bits of it.
    pub fn uniform(self) -> f64 {
        (self.bits() >> 11) as f64 * 2f64.powi(-53)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_range_and_spread() {
        let draw = Draw::new(3, "test");
        let n = 20_000;
        let mean = (0..n).map(|i| draw.at(1, i).uniform()).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() <= 5.0 * (1.0 / 12.0 / n as f64).sqrt(), "mean {mean}");
        let mut counts = [0u32; 7];
        (0..n).for_each(|i| counts[draw.at(i, 0).below(7) as usize] += 1);
        let expected = n as f64 / 7.0;
        assert!(
            counts.iter().all(|&c| (f64::from(c) - expected).abs() <= 5.0 * expected.sqrt()),
            "{counts:?}"
        );
    }

    #[test]
    fn seed_purpose_and_place_all_count() {
        let base = Draw::new(1, "a").at(2, 3);
        for other in [
            Draw::new(2, "a").at(2, 3),
            Draw::new(1, "b").at(2, 3),
            Draw::new(1, "a").at(3, 3),
            Draw::new(1, "a").at(2, 4),
            Draw::new(1, "a").at(2 | 1 << 40, 3),
            Draw::new(1 | 1 << 40, "a").at(2, 3),
        ] {
            assert_ne!(base.bits(), other.bits());
        }
    }
}
