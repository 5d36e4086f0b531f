//! What happens between two calls of the network, as launches of `cuda/diffusion.cu`: the same numbers as
//! the host's, bit for bit. Addresses are device memory.

use super::{Iddpm, Noise, Sampler};
use crate::device::kernel::Launch;
use crate::ffi::{DiffusionGuide, DiffusionIddpm, DiffusionNoise, DiffusionSum};

/// Threads of a block.
const THREADS: usize = 256;

fn grid(len: usize, samples: usize) -> [u32; 3] {
    [len.div_ceil(THREADS) as u32, samples as u32, 1]
}

/// [`Noise::fill`] of `len` f32 elements at `out`, which is a multiple of 16.
pub fn fill(noise: &Noise, step: u32, out: u64, len: usize) -> Option<Launch> {
    assert!(len <= 1 << 34, "at most 2^34 elements");
    let params =
        DiffusionNoise { out, len: len as i64, seed: noise.seed, image: noise.image, step, reserved: 0 };
    (len > 0).then(|| Launch::new("diffusion_noise_f32", grid(len.div_ceil(4), 1), &params))
}

/// [`super::guidance::combine`] for `samples` outputs of `sample` f32 elements each, one after another;
/// `guided` is how many elements of each are guided: [`super::Guided::count`] planes.
pub fn combine(
    cond: u64,
    uncond: u64,
    samples: usize,
    sample: usize,
    guided: usize,
    scale: f32,
) -> Option<Launch> {
    assert!(guided <= sample && samples <= 65535, "{guided} of {sample} elements of {samples} samples");
    let params =
        DiffusionGuide { cond, uncond, guided: guided as i64, sample: sample as i64, scale, reserved: 0 };
    (guided * samples > 0).then(|| Launch::new("diffusion_guide_f32", grid(guided, samples), &params))
}

/// y = Σ factor·x over one to four f32 tensors of `len` elements, in their order; y may be one of them.
pub fn weighted_sum(terms: &[(f32, u64)], y: u64, len: usize) -> Option<Launch> {
    assert!((1..=4).contains(&terms.len()), "one to four terms, found {}", terms.len());
    let term = |k: usize| terms.get(k).copied().unwrap_or((0.0, 0));
    let params = DiffusionSum {
        x: std::array::from_fn(|k| term(k).1),
        y,
        len: len as i64,
        factors: std::array::from_fn(|k| term(k).0),
        count: terms.len() as i32,
        reserved: 0,
    };
    (len > 0).then(|| Launch::new("diffusion_sum_f32", grid(len, 1), &params))
}

/// [`Iddpm`]'s [`Sampler::step`] number `k` for `len` f32 elements; as there, the last step takes no noise and
/// a network without learned variances has no `variance`.
pub fn iddpm(
    sampler: &Iddpm,
    k: usize,
    x: u64,
    eps: u64,
    variance: Option<u64>,
    noise: Option<u64>,
    len: usize,
) -> Option<Launch> {
    let noise = noise.filter(|_| sampler.wants_noise(k));
    assert_eq!(noise.is_some(), sampler.wants_noise(k), "noise for this step");
    let f = sampler.factors(k);
    let params = DiffusionIddpm {
        x,
        eps,
        variance: variance.unwrap_or(0),
        noise: noise.unwrap_or(0),
        len: len as i64,
        from_x: f.from_x,
        from_eps: f.from_eps,
        mean_clean: f.mean_clean,
        mean_x: f.mean_x,
        least: f.least,
        greatest: f.greatest,
    };
    (len > 0).then(|| Launch::new("diffusion_iddpm_f32", grid(len, 1), &params))
}
