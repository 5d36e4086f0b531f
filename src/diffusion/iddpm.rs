//! Ancestral sampling with learned variances (Nichol and Dhariwal, "Improved Denoising Diffusion
//! Probabilistic Models", 2021): DreamClear's own sampler.

use super::cuda::Steps;
use super::sampler::check_lengths;
use super::schedule::{Respaced, Span};
use super::{Guided, Sampler};
use crate::Result;
use crate::ffi::DiffusionIddpmRow;

/// `IDDPM(str(steps)).p_sample_loop(clip_denoised=False)`. The network's variance channels
/// interpolate, in log space, between the least and the greatest variance that a step may have;
/// without them each step takes the greatest.
#[derive(Clone, Debug)]
pub struct Iddpm {
    steps: Respaced,
}

impl Iddpm {
    /// DreamClear's schedule in `steps` steps.
    ///
    /// # Errors
    /// `Error::Usage` unless 2 ≤ `steps` ≤ 1000.
    pub fn new(span: impl Into<Span>) -> Result<Self> {
        Ok(Iddpm { steps: Respaced::dreamclear(span.into())? })
    }

    /// Variance of q(x_{t−1} | x_t, x_0), the least that entry `i` may have.
    fn posterior_variance(&self, i: usize) -> f64 {
        let s = &self.steps;
        s.schedule.betas[i] * (1.0 - s.previous(i)) / (1.0 - s.schedule.alphas_cumprod[i])
    }

    fn row(&self, k: usize) -> DiffusionIddpmRow {
        let i = self.steps.entry(k);
        let (beta, a, previous) =
            (self.steps.schedule.betas[i], self.steps.schedule.alphas_cumprod[i], self.steps.previous(i));
        let (from_x, from_eps) = self.steps.clean(i);
        DiffusionIddpmRow {
            timestep: self.timestep(k) as f32,
            noise: u32::from(self.wants_noise(k)),
            from_x,
            from_eps,
            mean_clean: (beta * previous.sqrt() / (1.0 - a)) as f32,
            mean_x: ((1.0 - previous) * (1.0 - beta).sqrt() / (1.0 - a)) as f32,
            // The posterior variance of the last step is 0; its logarithm is that of the step before.
            least: self.posterior_variance(i.max(1)).ln() as f32,
            greatest: beta.ln() as f32,
        }
    }
}

impl Sampler for Iddpm {
    fn len(&self) -> usize {
        self.steps.timesteps.len()
    }

    fn timestep(&self, k: usize) -> f64 {
        self.steps.timesteps[self.steps.entry(k)] as f64
    }

    fn wants_noise(&self, k: usize) -> bool {
        self.steps.entry(k) != 0
    }

    fn guided(&self) -> Guided {
        Guided::FirstThree
    }

    fn step(&mut self, k: usize, x: &mut [f32], eps: &[f32], variance: &[f32], noise: Option<&[f32]>) {
        check_lengths(x, eps, variance, noise);
        let DiffusionIddpmRow { from_x, from_eps, mean_clean, mean_x, least, greatest, .. } = self.row(k);
        let mean = |x: f32, e: f32| mean_clean * (from_x * x - from_eps * e) + mean_x * x;

        if !self.wants_noise(k) {
            x.iter_mut().zip(eps).for_each(|(x, &e)| *x = mean(*x, e));
            return;
        }
        let noise = noise.expect("noise for this step");
        // exp in f64: the same bits on every machine, whatever its f32 library.
        let sigma = |log_variance: f32| libm::exp(f64::from(0.5 * log_variance)) as f32;
        if variance.is_empty() {
            let sigma = sigma(greatest);
            for ((x, &e), &n) in x.iter_mut().zip(eps).zip(noise) {
                *x = mean(*x, e) + sigma * n;
            }
            return;
        }
        for (((x, &e), &v), &n) in x.iter_mut().zip(eps).zip(variance).zip(noise) {
            let share = (v + 1.0) / 2.0;
            *x = mean(*x, e) + sigma(share * greatest + (1.0 - share) * least) * n;
        }
    }

    fn device_steps(&self) -> Steps {
        Steps::new(self, "iddpm", 0, |k| self.row(k))
    }
}
