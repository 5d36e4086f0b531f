//! Which item comes when, and the numbers drawn for it: functions of counters, nothing stored.

use crate::data::random::Draw;

/// Rounds of the Feistel network. Four make a permutation of random functions hard to tell from a random
/// one (Luby and Rackoff, 1988); more make up for the small halves of small datasets.
const ROUNDS: u64 = 8;
/// Bits of each half, at least: of very small halves there are too few functions.
const LEAST_BITS: u32 = 4;

/// A permutation of `0..len` for one epoch, computed place by place: a Feistel network over the next
/// larger square of a power of two, walked along until the result is in range (Black and Rogaway, 2002).
#[derive(Clone, Copy, Debug)]
pub struct Order {
    len: u64,
    bits: u32,
    seed: u64,
    epoch: u64,
}

impl Order {
    /// The order of epoch `epoch` (from 0) of a dataset of `len` items, shuffled by `seed`.
    ///
    /// # Panics
    /// If there are no items.
    pub fn new(seed: u64, epoch: u64, len: usize) -> Self {
        assert!(len > 0, "an order of no items");
        let len = len as u64;
        let bits = (u64::BITS - (len - 1).leading_zeros()).div_ceil(2).max(LEAST_BITS);
        Order { len, bits, seed, epoch }
    }

    /// The item at `position`, which counts from 0 and starts over at the end.
    pub fn at(&self, position: u64) -> usize {
        let mut at = position % self.len;
        loop {
            at = self.permuted(at);
            if at < self.len {
                return at as usize;
            }
        }
    }

    fn permuted(&self, x: u64) -> u64 {
        let mask = (1 << self.bits) - 1;
        let (mut left, mut right) = (x >> self.bits, x & mask);
        for round in 0..ROUNDS {
            let mixed = Draw::new(self.seed, "order").at(self.epoch, (round << 48) | right).bits();
            (left, right) = (right, left ^ (mixed & mask));
        }
        left << self.bits | right
    }
}

/// The random numbers of one sample: functions of seed, epoch, item and what each is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    /// Seed of the run.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// The item's index in its dataset.
    pub index: u64,
}

impl Draws {
    /// Those of a validation picture: the same whenever it is looked at.
    pub fn fixed(index: usize) -> Self {
        Draws { seed: 0, epoch: 0, index: index as u64 }
    }

    /// A whole number below `n`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&self, what: &'static str, n: usize) -> usize {
        Draw::new(self.seed, what).at(self.epoch, self.index).below(n as u64) as usize
    }

    /// Heads or tails.
    pub fn coin(&self, what: &'static str) -> bool {
        self.below(what, 2) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Orders that must never change: a resumed run goes through its data as it began.
    #[test]
    fn orders_are_frozen() {
        let first = |seed, epoch, n| (0..6).map(|i| Order::new(seed, epoch, n).at(i)).collect::<Vec<_>>();
        // The same from Python's integers.
        assert_eq!(first(0, 0, 6), [4, 1, 5, 3, 0, 2]);
        assert_eq!(first(7, 3, 1_000_000), [551_796, 810_543, 370_074, 346_005, 561_108, 465_869]);
    }

    #[test]
    fn every_item_comes_equally_often_to_every_place() {
        for n in [2usize, 3, 10, 64, 100] {
            let epochs = 4000;
            let mut counts = vec![0u32; n];
            for epoch in 0..epochs {
                counts[Order::new(1, epoch, n).at(0)] += 1;
            }
            // Chi-squared has mean n−1 and variance 2(n−1): five standard deviations.
            let expected = epochs as f64 / n as f64;
            let chi: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
            let free = (n - 1) as f64;
            assert!(chi <= free + 5.0 * (2.0 * free).sqrt(), "{n} items: {chi}");
        }
    }

    #[test]
    fn draws_of_different_purposes_are_apart() {
        let draws = |index| Draws { seed: 5, epoch: 2, index };
        let same = (0..4000).filter(|&i| draws(i).coin("flip") == draws(i).coin("crop")).count();
        assert!((1842..=2158).contains(&same), "{same} of 4000");
        assert!((0..1000).all(|i| draws(i).below("crop", 3) < 3));
    }

    proptest! {
        #[test]
        fn an_order_has_every_item_once(seed: u64, epoch in 0u64..1 << 40, n in 1usize..700) {
            let order = Order::new(seed, epoch, n);
            let mut items: Vec<_> = (0..n as u64).map(|i| order.at(i)).collect();
            prop_assert_eq!(order.at(n as u64), items[0]);
            items.sort_unstable();
            prop_assert_eq!(items, (0..n).collect::<Vec<_>>());
        }
    }
}
