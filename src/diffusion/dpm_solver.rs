//! DPM-Solver++, second order, multistep (Lu et al., "DPM-Solver++: Fast Solver for Guided
//! Sampling of Diffusion Probabilistic Models", 2022), for the ODE and for the SDE.

use super::cuda::Steps;
use super::sampler::{check_lengths, predict_clean};
use super::schedule::{Level, Span};
use super::{Guided, Sampler, Schedule};
use crate::Result;
use crate::ffi::DiffusionDpmRow;

/// The ODE solver is `DPMS(...).sample(order=2, skip_type="time_uniform", method="multistep")`
/// of the official repository: times from 1 to 1/1000, the first update and, below ten steps,
/// also the last are of first order. The SDE solver takes the same times and orders and the
/// updates of diffusers' `sde-dpmsolver++`; its last step adds no noise and is that of the ODE.
#[derive(Clone, Debug)]
pub struct DpmSolver {
    times: Vec<f64>,
    schedule: Schedule,
    sde: bool,
    /// The clean latent that the previous call predicted.
    last: Vec<f32>,
}

impl DpmSolver {
    /// Deterministic after the start.
    ///
    /// # Errors
    /// `Error::Usage` unless 2 ≤ `steps` ≤ 1000.
    pub fn ode(span: impl Into<Span>) -> Result<Self> {
        Self::new(span.into(), false)
    }

    /// With fresh noise at all steps but the last.
    ///
    /// # Errors
    /// `Error::Usage` unless 2 ≤ `steps` ≤ 1000.
    pub fn sde(span: impl Into<Span>) -> Result<Self> {
        Self::new(span.into(), true)
    }

    fn new(span: Span, sde: bool) -> Result<Self> {
        let schedule = Schedule::dreamclear();
        let times = solver_times(&schedule, span)?;
        Ok(DpmSolver { times, schedule, sde, last: Vec::new() })
    }

    fn level(&self, k: usize) -> Level {
        self.schedule.at(self.times[k])
    }

    /// Whether step `k` uses the prediction before the latest.
    fn second_order(&self, k: usize) -> bool {
        k > 0 && !(self.len() < 10 && k + 1 == self.len())
    }

    fn row(&self, k: usize) -> DiffusionDpmRow {
        let (from, to) = (self.level(k), self.level(k + 1));
        let h = to.lambda - from.lambda;
        // The SDE forgets the state e^{−h} times faster and replaces what it forgot by noise.
        let (keep, towards, sigma) = if self.wants_noise(k) {
            (
                to.sigma / from.sigma * (-h).exp(),
                -to.alpha * (-2.0 * h).exp_m1(),
                to.sigma * (-(-2.0 * h).exp_m1()).sqrt(),
            )
        } else {
            (to.sigma / from.sigma, -to.alpha * (-h).exp_m1(), 0.0)
        };
        let inverse = match self.second_order(k) {
            true => 1.0 / ((from.lambda - self.level(k - 1).lambda) / h),
            false => 0.0,
        };
        DiffusionDpmRow {
            timestep: self.timestep(k) as f32,
            noise: u32::from(self.wants_noise(k)),
            second: u32::from(self.second_order(k)),
            signal_level: from.alpha as f32,
            noise_level: from.sigma as f32,
            keep: keep as f32,
            towards: towards as f32,
            half: (0.5 * towards) as f32,
            inverse: inverse as f32,
            sigma: sigma as f32,
        }
    }
}

/// Times of a solver that walks `span` of `schedule`.
pub(super) fn solver_times(schedule: &Schedule, span: Span) -> Result<Vec<f64>> {
    span.check(schedule)?;
    Ok(schedule.uniform_times((span.first + 1) as f64 / schedule.len() as f64, span.calls))
}

impl Sampler for DpmSolver {
    fn len(&self) -> usize {
        self.times.len() - 1
    }

    fn timestep(&self, k: usize) -> f64 {
        self.schedule.timestep(self.times[k])
    }

    fn wants_noise(&self, k: usize) -> bool {
        self.sde && k + 1 < self.len()
    }

    fn guided(&self) -> Guided {
        Guided::All
    }

    fn step(&mut self, k: usize, x: &mut [f32], eps: &[f32], variance: &[f32], noise: Option<&[f32]>) {
        check_lengths(x, eps, variance, noise);
        let row = self.row(k);
        let clean = predict_clean(x, eps, row.signal_level, row.noise_level);
        let DiffusionDpmRow { keep, towards, half, inverse, sigma, .. } = row;
        let noise = if self.wants_noise(k) { Some(noise.expect("noise for this step")) } else { None };
        if self.second_order(k) {
            assert_eq!(self.last.len(), x.len(), "steps are taken in order");
            for ((x, &m0), &m1) in x.iter_mut().zip(&clean).zip(&self.last) {
                *x = keep * *x + towards * m0 + half * (inverse * (m0 - m1));
            }
        } else {
            x.iter_mut().zip(&clean).for_each(|(x, &m0)| *x = keep * *x + towards * m0);
        }
        if let Some(noise) = noise {
            x.iter_mut().zip(noise).for_each(|(x, &n)| *x += sigma * n);
        }
        self.last = clean;
    }

    fn device_steps(&self) -> Steps {
        Steps::new(self, "dpm", 1, |k| self.row(k))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_is_of_first_order_only_below_ten_steps() {
        let orders = |steps| {
            let solver = DpmSolver::ode(steps).unwrap();
            (0..steps).map(|k| 1 + u8::from(solver.second_order(k))).collect::<Vec<_>>()
        };
        assert_eq!(orders(2), [1, 1]);
        assert_eq!(orders(4), [1, 2, 2, 1]);
        assert_eq!(orders(9), [1, 2, 2, 2, 2, 2, 2, 2, 1]);
        assert_eq!(orders(10), [1, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
    }

    #[test]
    #[should_panic(expected = "steps are taken in order")]
    fn steps_out_of_order_are_refused() {
        DpmSolver::ode(10).unwrap().step(3, &mut [0.0], &[0.0], &[], None);
    }
}
