//! What happens between two calls of the network, as launches of `cuda/diffusion.cu`: the same numbers as
//! the host's, bit for bit. Addresses are device memory.

use super::{Noise, Sampler};
use crate::device::kernel::Launch;
use crate::ffi::{DiffusionBegin, DiffusionGuide, DiffusionNoise, DiffusionStep, DiffusionSum};

/// Threads of a block.
const THREADS: usize = 256;

fn grid(len: usize, samples: usize) -> [u32; 3] {
    [len.div_ceil(THREADS) as u32, samples as u32, 1]
}

/// Which step's noise a launch draws.
#[derive(Clone, Copy, Debug)]
pub enum NoiseStep {
    /// This one.
    Of(u32),
    /// The one whose number lies at this device address when the launch runs.
    At(u64),
}

/// [`Noise::fill`] of `len` f32 elements at `out`, which is a multiple of 16.
pub fn fill(noise: &Noise, step: NoiseStep, out: u64, len: usize) -> Option<Launch> {
    assert!(len <= 1 << 34, "at most 2^34 elements");
    let (counter, step) = match step {
        NoiseStep::Of(step) => (0, step),
        NoiseStep::At(counter) => (counter, 0),
    };
    let params = DiffusionNoise {
        out,
        len: len as i64,
        seed: noise.seed,
        image: noise.image,
        counter,
        step,
        reserved: 0,
    };
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

/// All steps of a sampler, as numbers that kernels read from device memory.
#[derive(Clone, Debug)]
pub struct Steps {
    kernel: &'static str,
    /// One row a step, to be put into device memory.
    pub rows: Vec<u8>,
    row_bytes: usize,
    /// Whether some step adds noise.
    pub noise: bool,
    /// How many tensors as long as the latent the sampler remembers from step to step.
    pub history: usize,
}

impl Steps {
    pub(super) fn new<Row: bytemuck::Pod>(
        sampler: &dyn Sampler,
        kernel: &'static str,
        history: usize,
        row: impl Fn(usize) -> Row,
    ) -> Self {
        let rows: Vec<Row> = (0..sampler.len()).map(row).collect();
        Steps {
            kernel,
            rows: bytemuck::cast_slice(&rows).to_vec(),
            row_bytes: size_of::<Row>(),
            noise: (0..sampler.len()).any(|k| sampler.wants_noise(k)),
            history,
        }
    }

    /// Goes on to the next step: `counter` (a u32, all ones before the first) is its number, `timestep` (one
    /// f32) what the network is given.
    pub fn begin(&self, rows: u64, counter: u64, timestep: u64) -> Launch {
        let params =
            DiffusionBegin { counter, rows, timestep, row_bytes: self.row_bytes as u32, reserved: 0 };
        Launch::new("diffusion_begin", [1, 1, 1], &params)
    }

    /// [`Sampler::step`] whose number is in `at.counter`.
    ///
    /// # Panics
    /// If what the sampler needs is missing.
    pub fn step(&self, at: &StepAddresses) -> Option<Launch> {
        assert!(at.noise.is_some() || !self.noise, "noise for this sampler");
        assert!(at.history.len() >= self.history, "{} tensors of history", self.history);
        let remembered = |k: usize| if k < self.history { at.history[k] } else { 0 };
        let (noise, noise_step) = at.noise.unwrap_or_default();
        let params = DiffusionStep {
            x: at.x,
            eps: at.eps,
            variance: at.variance.unwrap_or(0),
            noise,
            clean: remembered(0),
            corrected: remembered(1),
            kept: remembered(2),
            counter: at.counter,
            rows: at.rows,
            fault: at.fault,
            len: at.len as i64,
            noise_step: noise_step as i64,
        };
        (at.len > 0)
            .then(|| Launch::new(format!("diffusion_step_{}_f32", self.kernel), grid(at.len, 1), &params))
    }
}

/// Where the operands of a step are: device addresses.
#[derive(Clone, Debug)]
pub struct StepAddresses {
    /// The latent, f32, changed in place.
    pub x: u64,
    /// Predicted noise, f32.
    pub eps: u64,
    /// The network's variance channels, f32, if it has any.
    pub variance: Option<u64>,
    /// Fresh normals, f32, and how many elements further those of the next step are.
    pub noise: Option<(u64, usize)>,
    /// What the sampler remembers: [`Steps::history`] tensors.
    pub history: Vec<u64>,
    /// Number of the step, u32.
    pub counter: u64,
    /// [`Steps::rows`].
    pub rows: u64,
    /// u32, 0 at first: 1 + the number of the first step that left a value that is not finite.
    pub fault: u64,
    /// Elements of the latent.
    pub len: usize,
}
