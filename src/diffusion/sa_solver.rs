//! SA-Solver, predictor and corrector of second order (Xue et al., "SA-Solver: Stochastic Adams
//! Solver for Fast Sampling of Diffusion Models", 2023).

use super::cuda::Steps;
use super::dpm_solver::solver_times;
use super::sampler::{check_lengths, predict_clean};
use super::schedule::{Level, Span};
use super::{Guided, Sampler, Schedule};
use crate::ffi::DiffusionSaRow;
use crate::{Error, Result};

/// `SASolverSampler.sample(S=steps, eta)` of the official repository: data prediction, uniform
/// times, mode "few_steps" (PEC: one network call a step, no correction after the last). The
/// noise strength τ is `eta` at times 0.2..=0.8, else 0.
///
/// The official loop draws one noise before its first network call and never uses it: step `k`
/// here takes the noise that the loop draws at its step `k` + 1.
#[derive(Clone, Debug)]
pub struct SaSolver {
    times: Vec<f64>,
    schedule: Schedule,
    eta: f64,
    /// The corrected state that the latest prediction started from; empty before the first.
    corrected: Vec<f32>,
    /// The clean latent that the previous call predicted.
    last: Vec<f32>,
    /// The noise of the latest prediction, used again by its correction; empty if there was none.
    noise: Vec<f32>,
}

impl SaSolver {
    /// DreamClear's schedule in `steps` steps; `eta` 0 is the ODE, 1 the SDE of ancestral sampling.
    ///
    /// # Errors
    /// `Error::Usage` unless 2 ≤ `steps` ≤ 1000 and `eta` is a finite number of at least 0.
    pub fn new(span: impl Into<Span>, eta: f64) -> Result<Self> {
        if !(eta >= 0.0 && eta.is_finite()) {
            return Err(Error::Usage(format!("expected an eta of at least 0 for SA-Solver, found {eta}")));
        }
        let schedule = Schedule::dreamclear();
        let times = solver_times(&schedule, span.into())?;
        Ok(SaSolver { times, schedule, eta, corrected: vec![], last: vec![], noise: vec![] })
    }

    fn level(&self, k: usize) -> Level {
        self.schedule.at(self.times[k])
    }

    /// τ of the update that arrives at time `k`.
    fn tau(&self, k: usize) -> f64 {
        if k < self.len() && (0.2..=0.8).contains(&self.times[k]) { self.eta } else { 0.0 }
    }

    /// Whether the prediction of step `k` uses the clean latent before the latest.
    fn second_order(&self, k: usize) -> bool {
        k > 0 && k + 1 < self.len()
    }

    /// What step `k` does to the prediction of the step before, if there was one.
    fn corrector(&self, k: usize) -> Option<Update> {
        let from = self.level(k.checked_sub(1)?);
        let (now, tau) = (self.level(k), self.tau(k));
        let h = now.lambda - from.lambda;
        let extra = h / 2.0 - remainder(h, tau) / h;
        Some(Update::new(from, now, tau, &[now.lambda, from.lambda], extra))
    }

    /// The prediction of step `k`.
    fn predictor(&self, k: usize) -> Update {
        let (now, next, tau) = (self.level(k), self.level(k + 1), self.tau(k + 1));
        if !self.second_order(k) {
            return Update::new(now, next, tau, &[now.lambda], 0.0);
        }
        let before = self.level(k - 1);
        let h = next.lambda - now.lambda;
        let extra = (h * h / 2.0 - remainder(h, tau)) / (now.lambda - before.lambda);
        Update::new(now, next, tau, &[now.lambda, before.lambda], extra)
    }

    fn row(&self, k: usize) -> DiffusionSaRow {
        let now = self.level(k);
        let none = Update { keep: 0.0, towards: [0.0; 2], sigma: 0.0 };
        let (corrector, predictor) = (self.corrector(k).unwrap_or(none), self.predictor(k));
        DiffusionSaRow {
            timestep: self.timestep(k) as f32,
            noise: u32::from(self.wants_noise(k)),
            correct: u32::from(k > 0),
            had_noise: u32::from(k > 0 && self.wants_noise(k - 1)),
            second: u32::from(self.second_order(k)),
            signal_level: now.alpha as f32,
            noise_level: now.sigma as f32,
            corrector_keep: corrector.keep,
            corrector_towards: corrector.towards,
            corrector_sigma: corrector.sigma,
            keep: predictor.keep,
            towards: predictor.towards,
            sigma: predictor.sigma,
        }
    }
}

/// One update of a state from one time to another: x ← keep·x + Σ towards·(clean latents) + sigma·noise.
struct Update {
    keep: f32,
    /// Factors of the clean latents, the one of the latest time first; one or two are used.
    towards: [f32; 2],
    sigma: f32,
}

impl Update {
    /// `lambdas`: where the clean latents were predicted, the latest first. `extra` goes from the
    /// second to the first factor: the term of order h³ that the official code adds.
    fn new(from: Level, to: Level, tau: f64, lambdas: &[f64], extra: f64) -> Self {
        let h = to.lambda - from.lambda;
        let c = 1.0 + tau * tau;
        // ∫ e^{cλ} λ^n dλ from `from` to `to`, without the factor e^{c·to}.
        let (a, b) = (c * from.lambda, c * to.lambda);
        let decay = (a - b).exp();
        let constant = -(a - b).exp_m1() / c;
        let linear = ((b - 1.0) - (a - 1.0) * decay) / (c * c);
        // Lagrange polynomials through the clean latents, integrated.
        let integrals = match *lambdas {
            [_] => [constant, 0.0],
            [l0, l1] => {
                let d = l0 - l1;
                [(linear - l1 * constant) / d + extra, (l0 * constant - linear) / d - extra]
            }
            _ => unreachable!("orders 1 and 2"),
        };
        // σ·e^{−τ²λ}·e^{cλ} = σ·e^λ = α.
        let scale = c * to.alpha;
        Update {
            keep: ((-tau * tau * h).exp() * (to.sigma / from.sigma)) as f32,
            towards: integrals.map(|i| (scale * i) as f32),
            sigma: (to.sigma * (-(-2.0 * tau * tau * h).exp_m1()).sqrt()) as f32,
        }
    }

    fn apply(&self, x: &mut [f32], latest: &[f32], before: Option<&[f32]>, noise: &[f32]) {
        for (i, x) in x.iter_mut().enumerate() {
            let mut towards = self.towards[0] * latest[i];
            if let Some(before) = before {
                towards += self.towards[1] * before[i];
            }
            *x = self.keep * *x + towards;
            if !noise.is_empty() {
                *x += self.sigma * noise[i];
            }
        }
    }
}

/// h(1+τ²) − 1 + e^{−(1+τ²)h} over (1+τ²)²: what both extra terms subtract.
fn remainder(h: f64, tau: f64) -> f64 {
    let c = 1.0 + tau * tau;
    (h * c + (-c * h).exp_m1()) / (c * c)
}

impl Sampler for SaSolver {
    fn len(&self) -> usize {
        self.times.len() - 1
    }

    fn timestep(&self, k: usize) -> f64 {
        self.schedule.timestep(self.times[k])
    }

    fn wants_noise(&self, k: usize) -> bool {
        self.tau(k + 1) > 0.0
    }

    fn guided(&self) -> Guided {
        Guided::All
    }

    fn step(&mut self, k: usize, x: &mut [f32], eps: &[f32], variance: &[f32], noise: Option<&[f32]>) {
        check_lengths(x, eps, variance, noise);
        let now = self.level(k);
        let clean = predict_clean(x, eps, now.alpha as f32, now.sigma as f32);
        if let Some(corrector) = self.corrector(k) {
            // Correct the prediction that brought x here: the same update once more from where it
            // started, now that the clean latent at its end is known.
            assert_eq!(self.corrected.len(), x.len(), "steps are taken in order");
            x.copy_from_slice(&self.corrected);
            corrector.apply(x, &clean, Some(&self.last), &self.noise);
        }
        self.corrected = x.to_vec();
        self.noise.clear();
        if self.wants_noise(k) {
            self.noise.extend_from_slice(noise.expect("noise for this step"));
        }
        let before = self.second_order(k).then_some(&self.last[..]);
        self.predictor(k).apply(x, &clean, before, &self.noise);
        self.last = clean;
    }

    fn device_steps(&self) -> Steps {
        Steps::new(self, "sa", 3, |k| self.row(k))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_wanted_only_in_the_middle_and_eta_is_checked() {
        let solver = SaSolver::new(20, 1.0).unwrap();
        // Step k arrives at time 1 − 0.999·(k + 1)/20.
        let wanted: Vec<_> = (0..20).filter(|&k| solver.wants_noise(k)).collect();
        assert_eq!(wanted, (4..=15).collect::<Vec<_>>());
        assert!((0..20).all(|k| !SaSolver::new(20, 0.0).unwrap().wants_noise(k)));
        for eta in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(SaSolver::new(20, eta), Err(Error::Usage(_))), "{eta}");
        }
    }
}
