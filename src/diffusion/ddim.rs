//! Denoising diffusion implicit models (Song, Meng and Ermon, 2021).

use super::cuda::Steps;
use super::sampler::check_lengths;
use super::schedule::{Respaced, Span};
use super::{Guided, Sampler};
use crate::ffi::DiffusionDdimRow;
use crate::{Error, Result};

/// `IDDPM(str(steps)).ddim_sample_loop(clip_denoised=False, eta)`.
#[derive(Clone, Debug)]
pub struct Ddim {
    steps: Respaced,
    eta: f64,
}

impl Ddim {
    /// DreamClear's schedule in `steps` steps; `eta` from 0 (no noise after the start) to 1 (the
    /// noise of ancestral sampling).
    ///
    /// # Errors
    /// `Error::Usage` unless 2 ≤ `steps` ≤ 1000 and 0 ≤ `eta` ≤ 1.
    pub fn new(span: impl Into<Span>, eta: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&eta) {
            return Err(Error::Usage(format!("expected an eta of 0 to 1 for DDIM, found {eta}")));
        }
        Ok(Ddim { steps: Respaced::dreamclear(span.into())?, eta })
    }

    fn row(&self, k: usize) -> DiffusionDdimRow {
        let i = self.steps.entry(k);
        let (a, previous) = (self.steps.schedule.alphas_cumprod[i], self.steps.previous(i));
        let (from_x, from_eps) = self.steps.clean(i);
        let sigma = self.eta * ((1.0 - previous) / (1.0 - a)).sqrt() * (1.0 - a / previous).sqrt();
        DiffusionDdimRow {
            timestep: self.timestep(k) as f32,
            noise: u32::from(self.wants_noise(k)),
            from_x,
            from_eps,
            signal: previous.sqrt() as f32,
            direction: (1.0 - previous - sigma * sigma).max(0.0).sqrt() as f32,
            sigma: sigma as f32,
            reserved: 0,
        }
    }
}

impl Sampler for Ddim {
    fn len(&self) -> usize {
        self.steps.timesteps.len()
    }

    fn timestep(&self, k: usize) -> f64 {
        self.steps.timesteps[self.steps.entry(k)] as f64
    }

    fn wants_noise(&self, k: usize) -> bool {
        self.eta > 0.0 && self.steps.entry(k) != 0
    }

    fn guided(&self) -> Guided {
        Guided::FirstThree
    }

    fn step(&mut self, k: usize, x: &mut [f32], eps: &[f32], variance: &[f32], noise: Option<&[f32]>) {
        check_lengths(x, eps, variance, noise);
        let DiffusionDdimRow { from_x, from_eps, signal, direction, sigma, .. } = self.row(k);
        let noise = if self.wants_noise(k) { Some(noise.expect("noise for this step")) } else { None };
        for (j, (x, &e)) in x.iter_mut().zip(eps).enumerate() {
            let clean = from_x * *x - from_eps * e;
            // The official code derives eps back from the clean latent; so its rounding is kept.
            let e = (from_x * *x - clean) / from_eps;
            *x = clean * signal + direction * e;
            if let Some(noise) = noise {
                *x += sigma * noise[j];
            }
        }
    }

    fn device_steps(&self) -> Steps {
        Steps::new(self, "ddim", 0, |k| self.row(k))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eta_is_checked() {
        for eta in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(Ddim::new(50, eta), Err(Error::Usage(_))), "{eta}");
        }
        assert!(Ddim::new(50, 1.0).unwrap().wants_noise(0));
        assert!(!Ddim::new(50, 0.0).unwrap().wants_noise(0));
    }
}
