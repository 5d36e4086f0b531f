//! The learning rate of each update.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Stays as it is.
    Constant,
    /// Falls along half a cosine (Loshchilov and Hutter, "SGDR", ICLR 2017), without restarts.
    Cosine,
    /// Falls along a straight line.
    Linear,
}

/// Factors of the learning rate by update.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Schedule {
    /// How it goes on after the warm-up.
    pub kind: Shape,
    /// Updates over which the rate rises to its value in equal parts; 0 for none.
    pub warmup: u64,
    /// What is left at the end, as a part of the full rate: 0 to 1.
    pub floor: f64,
}

impl Schedule {
    /// Whether the numbers make sense for a run of `steps` updates.
    ///
    /// # Errors
    /// `Error::Usage` naming the value.
    pub fn check(&self, steps: u64) -> Result<()> {
        if !(0.0..=1.0).contains(&self.floor) {
            return Err(Error::Usage(format!(
                "schedule.floor: expected a part of the learning rate from 0 to 1, found {}",
                self.floor
            )));
        }
        if self.warmup > steps {
            return Err(Error::Usage(format!(
                "schedule.warmup: {} updates are more than the {steps} of the run (`steps`)",
                self.warmup
            )));
        }
        Ok(())
    }

    /// The factor of update `step` (from 0) among `steps`.
    pub fn factor(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let rest = (steps.saturating_sub(self.warmup)).max(1) as f64;
        let done = ((step - self.warmup) as f64 / rest).min(1.0);
        let left = match self.kind {
            Shape::Constant => return 1.0,
            // The portable cosine: the same bits on every machine.
            Shape::Cosine => 0.5 * (1.0 + libm::cos(PI * done)),
            Shape::Linear => 1.0 - done,
        };
        self.floor + (1.0 - self.floor) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_stay_and_fall() {
        let schedule = |kind| Schedule { kind, warmup: 4, floor: 0.1 };
        let at = |kind, step| schedule(kind).factor(step, 104);
        for kind in [Shape::Constant, Shape::Cosine, Shape::Linear] {
            assert_eq!([0, 1, 2, 3].map(|s| at(kind, s)), [0.25, 0.5, 0.75, 1.0]);
            assert_eq!(at(kind, 4), 1.0);
        }
        assert_eq!(at(Shape::Constant, 103), 1.0);
        assert!((at(Shape::Cosine, 54) - 0.55).abs() < 1e-12 && (at(Shape::Linear, 54) - 0.55).abs() < 1e-12);
        assert!((at(Shape::Cosine, 104) - 0.1).abs() < 1e-12 && (at(Shape::Linear, 500) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn impossible_numbers_are_named() {
        let check = |warmup, floor| Schedule { kind: Shape::Cosine, warmup, floor }.check(100);
        assert!(check(100, 0.0).is_ok());
        assert!(check(101, 0.0).unwrap_err().to_string().contains("schedule.warmup"));
        assert!(check(0, f64::NAN).unwrap_err().to_string().contains("schedule.floor"));
    }
}
