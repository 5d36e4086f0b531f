//! Stochastic depth (Huang et al., ECCV 2016, arXiv 1603.09382): in training, residual branches are left out at
//! random, each by itself and for each sample by itself.

use crate::data::random::Draw;
use crate::tensor::HostTensor;
use crate::{Error, Result};

/// Residual branches of a transformer block: attention and MLP.
const BRANCHES: usize = 2;

/// Stochastic depth as SwinIR is officially trained with it: timm's `DropPath`, with rates that rise linearly over
/// all blocks, from 0 at the first.
#[derive(Clone, Debug, PartialEq)]
pub struct DropPath {
    /// How often a branch of each block is left out.
    rates: Vec<f64>,
    draw: Draw,
}

impl DropPath {
    /// For a network of so many blocks whose last one has this rate; `None` if nothing is ever left out.
    ///
    /// # Errors
    /// `Error::Usage` for a rate that is not in 0..1.
    pub fn new(rate: f64, blocks: usize, seed: u64) -> Result<Option<Self>> {
        if !(0.0..1.0).contains(&rate) {
            return Err(Error::Usage(format!(
                "model.drop_path: expected how often the last block is left out, from 0 to below 1, found {rate}"
            )));
        }
        let of_block = |i| rate * i as f64 / (blocks.max(2) - 1) as f64;
        let rates: Vec<f64> = (0..blocks).map(of_block).collect();
        let ever = rates.iter().any(|&rate| rate > 0.0);
        Ok(ever.then(|| DropPath { rates, draw: Draw::new(seed, "drop path") }))
    }

    /// What the branches of a batch are multiplied by, f32 `[B, 2 · blocks]`: 0 where one is left out, else what
    /// keeps the mean, 1 / (1 − rate). A row is a function of seed and sample number alone.
    pub fn factors(&self, numbers: impl Iterator<Item = u64>) -> HostTensor {
        let branches = self.rates.iter().flat_map(|rate| [rate; BRANCHES]);
        let row = |number| {
            (0..).zip(branches.clone()).map(move |(branch, &rate)| {
                let left_out = self.draw.at(number, branch).uniform() < rate;
                if left_out { 0.0 } else { (1.0 / (1.0 - rate)) as f32 }
            })
        };
        let factors: Vec<f32> = numbers.flat_map(row).collect();
        let columns = BRANCHES * self.rates.len();
        HostTensor::from_f32([factors.len() / columns, columns], factors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_from_none_to_the_last_blocks() {
        let drop = DropPath::new(0.3, 4, 0).unwrap().unwrap();
        let expected = [0.0, 0.1, 0.2, 0.3];
        assert!(drop.rates.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{:?}", drop.rates);
        assert_eq!(DropPath::new(0.0, 4, 0).unwrap(), None);
        assert_eq!(DropPath::new(0.5, 1, 0).unwrap(), None, "the first block always stays");
        for rate in [1.0, -0.1, f64::NAN] {
            let e = DropPath::new(rate, 4, 0).unwrap_err().to_string();
            assert!(e.contains("model.drop_path") && e.contains(&format!("found {rate}")), "{e}");
        }
    }

    #[test]
    fn branches_are_left_out_as_often_as_they_should_and_keep_their_mean() {
        let n = 20_000;
        let drop = DropPath::new(0.4, 3, 7).unwrap().unwrap();
        let factors = drop.factors(0..n).to_f32().into_owned();
        for (branch, rate) in [0.0, 0.0, 0.2, 0.2, 0.4, 0.4].into_iter().enumerate() {
            let column: Vec<f32> = factors.iter().skip(branch).step_by(6).copied().collect();
            let kept = (1.0 / (1.0 - rate)) as f32;
            assert!(column.iter().all(|&f| f == 0.0 || f == kept), "branch {branch}");
            let zeros = column.iter().filter(|&&f| f == 0.0).count() as f64;
            let deviation = (n as f64 * rate * (1.0 - rate)).sqrt();
            assert!((zeros - n as f64 * rate).abs() <= 4.0 * deviation, "branch {branch}: {zeros} of {n}");
        }
        // Attention and MLP of a block do not share their draws: both are left out at 0.4² only.
        let both = factors.chunks_exact(6).filter(|row| row[4] == 0.0 && row[5] == 0.0).count() as f64;
        let expected = n as f64 * 0.16;
        assert!((both - expected).abs() <= 4.0 * (expected * 0.84).sqrt(), "{both} of {n}");
    }

    /// Resuming and sharing a batch among processes rest on this.
    #[test]
    fn factors_belong_to_a_sample_not_to_its_batch() {
        let drop = DropPath::new(0.5, 6, 3).unwrap().unwrap();
        let whole = drop.factors(40..48).to_f32().into_owned();
        let halves = [drop.factors(40..44), drop.factors(44..48)].map(|t| t.to_f32().into_owned());
        assert_eq!(whole, halves.concat());
        let other = DropPath::new(0.5, 6, 4).unwrap().unwrap();
        assert_ne!(whole, other.factors(40..48).to_f32().into_owned());
        assert_ne!(whole, drop.factors(48..56).to_f32().into_owned());
    }
}
