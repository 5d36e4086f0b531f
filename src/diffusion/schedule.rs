//! Noise schedules in f64: discrete tables, respacing, and the continuous-time view of them.

use crate::{Error, Result};

/// How much signal and noise a state holds at each timestep: x_t = √ᾱ_t·x_0 + √(1−ᾱ_t)·n.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// β_t, the variance that step t adds.
    pub betas: Vec<f64>,
    /// ᾱ_t = ∏_{s≤t} (1 − β_s), the share of the signal's variance that is left.
    pub alphas_cumprod: Vec<f64>,
}

impl Schedule {
    /// The schedule of the given variances.
    pub fn from_betas(betas: Vec<f64>) -> Self {
        let product = |left: &mut f64, beta: &f64| {
            *left *= 1.0 - beta;
            Some(*left)
        };
        let alphas_cumprod = betas.iter().scan(1.0, product).collect();
        Schedule { betas, alphas_cumprod }
    }

    /// Variances from `start` to `end` in `n` ≥ 2 equal steps, as `numpy.linspace` rounds them.
    pub fn linear(start: f64, end: f64, n: usize) -> Self {
        let step = (end - start) / (n - 1) as f64;
        let mut betas: Vec<f64> = (0..n).map(|i| i as f64 * step + start).collect();
        betas[n - 1] = end;
        Self::from_betas(betas)
    }

    /// What PixArt-α and DreamClear were trained with: 1e-4 to 0.02 in 1000 steps.
    pub fn dreamclear() -> Self {
        Self::linear(1e-4, 0.02, 1000)
    }

    /// Number of timesteps.
    #[allow(clippy::len_without_is_empty)] // a schedule without steps is of no use to anyone
    pub fn len(&self) -> usize {
        self.betas.len()
    }

    /// Noises a clean latent to timestep `t`: the start of restoration near the low-quality
    /// picture (LRE) is `q_sample(latent_pre, 999, noise)`. Coefficients and sums are f32, as in
    /// `GaussianDiffusion.q_sample`.
    ///
    /// # Panics
    /// If `t` is no timestep of this schedule or the lengths differ.
    pub fn q_sample(&self, latent: &[f32], t: usize, noise: &[f32]) -> Vec<f32> {
        assert_eq!(latent.len(), noise.len(), "as much noise as latent");
        let (signal, sigma) =
            (self.alphas_cumprod[t].sqrt() as f32, (1.0 - self.alphas_cumprod[t]).sqrt() as f32);
        latent.iter().zip(noise).map(|(x, n)| signal * x + sigma * n).collect()
    }

    /// The schedule that visits only the timesteps `kept` (ascending) of this one.
    pub fn respaced(&self, kept: &[usize]) -> Self {
        let mut last = 1.0;
        let beta = |&t: &usize| {
            let beta = 1.0 - self.alphas_cumprod[t] / last;
            last = self.alphas_cumprod[t];
            beta
        };
        Self::from_betas(kept.iter().map(beta).collect())
    }

    /// Continuous time: log √ᾱ at `t` in (0, 1], where timestep i lies at (i + 1)/N; linear
    /// between timesteps, and beyond the first and last with the slope of the nearest two.
    pub fn log_alpha(&self, t: f64) -> f64 {
        let n = self.len();
        let at = t * n as f64 - 1.0;
        let i = (at.floor().max(0.0) as usize).min(n - 2);
        let (a, b) = (0.5 * self.alphas_cumprod[i].ln(), 0.5 * self.alphas_cumprod[i + 1].ln());
        a + (at - i as f64) * (b - a)
    }

    /// Signal, noise and their log ratio at continuous time `t`.
    pub fn at(&self, t: f64) -> Level {
        let log_alpha = self.log_alpha(t);
        let sigma = (-(2.0 * log_alpha).exp_m1()).sqrt();
        Level { alpha: log_alpha.exp(), sigma, lambda: log_alpha - sigma.ln() }
    }

    /// `steps` + 1 equidistant continuous times from `first`, at most 1, to 1/N, where the last timestep lies.
    pub fn uniform_times(&self, first: f64, steps: usize) -> Vec<f64> {
        let end = 1.0 / self.len() as f64;
        (0..=steps).map(|i| first + (end - first) * i as f64 / steps as f64).collect()
    }

    /// The timestep that a network trained on this schedule is given at continuous time `t`:
    /// N − 1 at 1, 0 at 1/N, fractions between.
    pub fn timestep(&self, t: f64) -> f64 {
        t * self.len() as f64 - 1.0
    }
}

/// What a state consists of at one time: x = `alpha`·x_0 + `sigma`·noise.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// Factor of the signal, √ᾱ.
    pub alpha: f64,
    /// Factor of the noise, √(1 − ᾱ).
    pub sigma: f64,
    /// log(alpha / sigma), half the log signal-to-noise ratio.
    pub lambda: f64,
}

/// `count` of the timesteps 0..`total`, the first and the last among them, in ascending order:
/// `space_timesteps(total, str(count))`, which adds up the stride and rounds halves to even.
///
/// # Errors
/// `Error::Usage` unless 2 ≤ `count` ≤ `total`.
pub fn space_timesteps(total: usize, count: usize) -> Result<Vec<usize>> {
    if !(2..=total).contains(&count) {
        return Err(Error::Usage(format!("expected 2 to {total} sampling steps, found {count}")));
    }
    let stride = (total - 1) as f64 / (count - 1) as f64;
    let mut at = 0.0f64;
    let next = |_| {
        let step = at.round_ties_even() as usize;
        at += stride;
        step
    };
    Ok((0..count).map(next).collect())
}

/// The part of DreamClear's schedule that a sampler walks, down to timestep 0. From a number of calls: all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Timestep of the first network call: 999, or less for a walk that begins with less noise.
    pub first: usize,
    /// Number of network calls.
    pub calls: usize,
}

impl From<usize> for Span {
    fn from(calls: usize) -> Self {
        Span { first: 999, calls }
    }
}

impl Span {
    /// # Errors
    /// `Error::Usage` unless `first` is a timestep of `schedule` and 2 ≤ `calls` ≤ `first` + 1.
    pub(super) fn check(self, schedule: &Schedule) -> Result<()> {
        let Span { first, calls } = self;
        let last = schedule.len() - 1;
        if !(1..=last).contains(&first) {
            return Err(Error::Usage(format!("expected a first timestep of 1 to {last}, found {first}")));
        }
        if !(2..=first + 1).contains(&calls) {
            let most = first + 1;
            return Err(Error::Usage(format!("expected 2 to {most} sampling steps, found {calls}")));
        }
        Ok(())
    }
}

/// A schedule that visits some timesteps of another: what the ancestral samplers walk over,
/// from the last entry to the first.
#[derive(Clone, Debug)]
pub(super) struct Respaced {
    /// For each entry the timestep that the network was trained with.
    pub(super) timesteps: Vec<usize>,
    pub(super) schedule: Schedule,
}

impl Respaced {
    /// `span` of DreamClear's schedule.
    pub(super) fn dreamclear(span: Span) -> Result<Self> {
        let full = Schedule::dreamclear();
        span.check(&full)?;
        let timesteps = space_timesteps(span.first + 1, span.calls)?;
        let schedule = full.respaced(&timesteps);
        Ok(Respaced { timesteps, schedule })
    }

    /// The entry that network call `k` works on.
    pub(super) fn entry(&self, k: usize) -> usize {
        self.timesteps.len() - 1 - k
    }

    /// ᾱ of the entry after `i` in sampling order; 1 after the last.
    pub(super) fn previous(&self, i: usize) -> f64 {
        if i == 0 { 1.0 } else { self.schedule.alphas_cumprod[i - 1] }
    }

    /// Factors (of x, of eps) in the clean latent x/√ᾱ − √(1/ᾱ − 1)·eps that entry `i` predicts.
    pub(super) fn clean(&self, i: usize) -> (f32, f32) {
        let recip = 1.0 / self.schedule.alphas_cumprod[i];
        (recip.sqrt() as f32, (recip - 1.0).sqrt() as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fifty_steps_are_those_of_dreamclear() {
        // restore.md §10, from the official code; 22.5-type ties round to even.
        let expected = [
            0, 20, 41, 61, 82, 102, 122, 143, 163, 183, 204, 224, 245, 265, 285, 306, 326, 347, 367, 387,
            408, 428, 449, 469, 489, 510, 530, 550, 571, 591, 612, 632, 652, 673, 693, 714, 734, 754, 775,
            795, 816, 836, 856, 877, 897, 917, 938, 958, 979, 999,
        ];
        assert_eq!(space_timesteps(1000, 50).unwrap(), expected);
        // 999/2 = 499.5 lies between: even wins.
        assert_eq!(space_timesteps(1000, 3).unwrap(), [0, 500, 999]);
        assert_eq!(space_timesteps(12, 3).unwrap(), [0, 6, 11]);
        assert_eq!(space_timesteps(10, 3).unwrap(), [0, 4, 9]);
        for count in [0, 1, 1001] {
            let e = space_timesteps(1000, count).unwrap_err();
            assert!(matches!(e, Error::Usage(_)) && e.to_string().contains(&count.to_string()), "{e}");
        }
    }

    #[test]
    fn tables_have_the_published_values() {
        let full = Schedule::dreamclear();
        assert_eq!((full.betas[0], full.betas[999], full.len()), (1e-4, 0.02, 1000));
        assert!((full.alphas_cumprod[999] - 4.0358e-5).abs() < 5e-10);
        let fifty = Respaced::dreamclear(50.into()).unwrap();
        assert!((fifty.schedule.betas[0] - 1e-4).abs() < 1e-15);
        assert!((fifty.schedule.betas[49] - 0.32981).abs() < 5e-6);
        assert!((f64::from(fifty.clean(49).0) - 157.41).abs() < 5e-3);
    }

    #[test]
    fn continuous_time_meets_the_tables_at_every_timestep() {
        let full = Schedule::dreamclear();
        for i in 0..1000 {
            let t = (i + 1) as f64 / 1000.0;
            let level = full.at(t);
            let expected = full.alphas_cumprod[i];
            assert!((level.alpha.powi(2) - expected).abs() <= 1e-12 * expected, "timestep {i}");
            assert!((full.timestep(t) - i as f64).abs() < 1e-9);
        }
        let times = full.uniform_times(1.0, 40);
        assert_eq!((times[0], times.len()), (1.0, 41));
        assert!((times[40] - 1e-3).abs() < 1e-15);
        // DPM-Solver cuts schedules off at λ = −5.1; this one ends before.
        assert!(full.at(1.0).lambda > -5.1);
    }

    #[test]
    fn q_sample_mixes_by_the_tables() {
        let full = Schedule::dreamclear();
        let start = full.q_sample(&[1.0, 0.0], 999, &[0.0, 1.0]);
        assert!((start[0] - 0.0063528).abs() < 5e-8 && (start[1] - 0.99998).abs() < 5e-6, "{start:?}");
    }

    proptest! {
        #[test]
        fn respacing_keeps_the_signal(count in 2usize..=1000) {
            let full = Schedule::dreamclear();
            let kept = space_timesteps(1000, count).unwrap();
            prop_assert!(kept.windows(2).all(|w| w[0] < w[1]) && kept[0] == 0 && kept[count - 1] == 999);
            let respaced = full.respaced(&kept);
            for (a, &t) in respaced.alphas_cumprod.iter().zip(&kept) {
                prop_assert!((a / full.alphas_cumprod[t] - 1.0).abs() < 1e-12);
            }
        }
    }
}
