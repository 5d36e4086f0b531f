//! What all samplers have in common, and how one is chosen by name.

use super::cuda::Steps;
use super::schedule::Span;
use super::{Ddim, DpmSolver, Guided, Iddpm, SaSolver};
use crate::{Error, Result};

/// Walks one latent from noise to picture. One instance an image: solvers remember earlier
/// network outputs.
///
/// ```text
/// for k in 0..sampler.len():
///     eps, variance = network(x, sampler.timestep(k))
///     noise = fresh normals if sampler.wants_noise(k)
///     sampler.step(k, x, eps, variance, noise)
/// ```
///
/// After the last step `x` is the result. Coefficients come from f64 tables; the arithmetic on
/// elements is f32 in the order of the official code.
#[allow(clippy::len_without_is_empty)] // never empty: constructors refuse fewer than 2 steps
pub trait Sampler: Send + std::fmt::Debug {
    /// Number of network calls.
    fn len(&self) -> usize;

    /// The timestep that the network is given at call `k`, in 0..=999, possibly fractional.
    fn timestep(&self, k: usize) -> f64;

    /// Whether step `k` adds noise.
    fn wants_noise(&self, k: usize) -> bool;

    /// Which channels of the network's noise prediction the official code of this sampler guides.
    fn guided(&self) -> Guided;

    /// Advances `x` by the network's answer to call `k`. All slices are elements of the same
    /// latent in the same order; `variance` holds the raw variance channels (in −1..1 at trained
    /// weights) and may be empty where the network has none. Samplers without learned variance
    /// ignore it; noise that is not wanted is ignored too.
    ///
    /// # Panics
    /// If lengths differ, if wanted noise is missing, or if steps are not taken in order.
    fn step(&mut self, k: usize, x: &mut [f32], eps: &[f32], variance: &[f32], noise: Option<&[f32]>);

    /// All its steps, for kernels that do what [`Sampler::step`] does.
    fn device_steps(&self) -> Steps;
}

/// The names that [`from_name`] knows.
pub const NAMES: [&str; 5] = ["iddpm", "ddim", "dpm++", "dpm++sde", "sa"];

/// A sampler of DreamClear's schedule, of all of it for a number of network calls:
///
/// | name | sampler |
/// | --- | --- |
/// | `iddpm` | [`Iddpm`], DreamClear's own choice with 50 steps |
/// | `ddim` | [`Ddim`] with η = 0 |
/// | `dpm++` | [`DpmSolver`], the ODE |
/// | `dpm++sde` | [`DpmSolver`], the SDE |
/// | `sa` | [`SaSolver`] with η = 0, the official default |
///
/// # Errors
/// `Error::Usage` for another name, or unless 1 ≤ first ≤ 999 and 2 ≤ calls ≤ first + 1.
pub fn from_name(name: &str, span: impl Into<Span>) -> Result<Box<dyn Sampler>> {
    let span = span.into();
    Ok(match name {
        "iddpm" => Box::new(Iddpm::new(span)?),
        "ddim" => Box::new(Ddim::new(span, 0.0)?),
        "dpm++" => Box::new(DpmSolver::ode(span)?),
        "dpm++sde" => Box::new(DpmSolver::sde(span)?),
        "sa" => Box::new(SaSolver::new(span, 0.0)?),
        _ => {
            return Err(Error::Usage(format!(
                "expected a sampler of {}, found \"{name}\"",
                NAMES.join(", ")
            )));
        }
    })
}

/// The lengths that every `step` relies on.
pub(super) fn check_lengths(x: &[f32], eps: &[f32], variance: &[f32], noise: Option<&[f32]>) {
    assert_eq!(eps.len(), x.len(), "as much predicted noise as latent");
    assert!(variance.is_empty() || variance.len() == x.len(), "as many variances as latent values, or none");
    assert!(noise.is_none_or(|n| n.len() == x.len()), "as much noise as latent");
}

/// Data prediction of the solvers: what the state would be without its noise, given its share of signal and
/// of noise.
pub(super) fn predict_clean(x: &[f32], eps: &[f32], alpha: f32, sigma: f32) -> Vec<f32> {
    x.iter().zip(eps).map(|(x, e)| (x - sigma * e) / alpha).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_steps_are_checked() {
        for name in NAMES {
            for steps in [2, 4, 50, 1000] {
                for first in [999, 998, 399, 49, 4, 1].into_iter().filter(|&first| first + 1 >= steps) {
                    let sampler = from_name(name, Span { first, calls: steps }).unwrap();
                    assert_eq!(sampler.len(), steps, "{name}");
                    assert!((sampler.timestep(0) - first as f64).abs() < 1e-9, "{name}");
                    let times: Vec<_> = (0..steps).map(|k| sampler.timestep(k)).collect();
                    assert!(
                        times.windows(2).all(|w| w[0] > w[1]) && times[steps - 1] >= 0.0,
                        "{name}: {times:?}"
                    );
                    assert!(!sampler.wants_noise(steps - 1), "{name}: the result is not noised");
                }
            }
            for (first, calls) in [(999, 0), (999, 1), (999, 1001), (399, 401), (0, 2), (1000, 2)] {
                let refused = matches!(from_name(name, Span { first, calls }), Err(Error::Usage(_)));
                assert!(refused, "{name} {calls} from {first}");
            }
        }
        let e = from_name("euler", 50).unwrap_err().to_string();
        assert!(e.contains("iddpm") && e.contains("euler"), "{e}");
    }

    /// With the exact noise as the network's answer, every sampler without noise of its own
    /// recovers the clean latent (up to what is left at the last timestep), from wherever it begins.
    #[test]
    fn a_perfect_network_gives_back_the_clean_latent() {
        let full = super::super::Schedule::dreamclear();
        let (clean, direction) = ([0.7f32, -1.3, 0.0, 2.5], [0.3f32, -0.2, 1.4, -0.9]);
        let walks = ["ddim", "dpm++", "sa"].map(|name| [(name, 999), (name, 399), (name, 100)]);
        for (name, first) in walks.into_iter().flatten() {
            let mut sampler = from_name(name, Span { first, calls: 20 }).unwrap();
            let mut x = full.q_sample(&clean, first, &direction);
            for k in 0..20 {
                let level = full.at((sampler.timestep(k) + 1.0) / 1000.0);
                let eps: Vec<f32> = x
                    .iter()
                    .zip(clean)
                    .map(|(x, c)| ((f64::from(*x) - level.alpha * f64::from(c)) / level.sigma) as f32)
                    .collect();
                sampler.step(k, &mut x, &eps, &[], None);
            }
            for ((x, c), n) in x.iter().zip(clean).zip(direction) {
                // The solvers end at timestep 0, where σ = 0.01 is left.
                let left = if name == "ddim" { 0.0 } else { 0.01 * n };
                assert!((x - c - left).abs() < 2e-3, "{name} from {first}: {x} for {c}");
            }
        }
    }
}
