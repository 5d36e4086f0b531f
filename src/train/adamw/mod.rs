//! AdamW (Loshchilov and Hutter, 2019) and the clipping of gradients by their global norm, as PyTorch defines
//! them: `torch.optim.AdamW` without AMSGrad, `torch.nn.utils.clip_grad_norm_`.

mod cpu;
pub mod cuda;

pub use cpu::{Part, clip_factor, norm, step};

/// What the optimiser is set to, but for the learning rate, which may change from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay rates of the first and second moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay, apart from the gradient.
    pub decay: f64,
}

impl Default for AdamW {
    /// PyTorch's defaults.
    fn default() -> Self {
        AdamW { betas: [0.9, 0.999], eps: 1e-8, decay: 0.01 }
    }
}

/// The factors of one step, each rounded once from f64 as PyTorch hands Python's numbers to its kernels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// 1 − rate·decay: what is kept of a parameter.
    pub keep: f32,
    /// −rate / (1 − β₁ᵗ): how far along the first moment.
    pub along: f32,
    /// √(1 − β₂ᵗ): what the root of the second moment is divided by.
    pub correct: f32,
    /// 1 − β₁.
    pub first: f32,
    /// β₂ and 1 − β₂.
    pub second: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
}

impl AdamW {
    /// The factors of step `t` (the first is 1) at this learning rate.
    pub fn factors(&self, t: u64, rate: f64) -> Factors {
        let [b1, b2] = self.betas;
        let correction = |b: f64| 1.0 - b.powf(t as f64);
        Factors {
            keep: (1.0 - rate * self.decay) as f32,
            along: -(rate / correction(b1)) as f32,
            correct: correction(b2).sqrt() as f32,
            first: (1.0 - b1) as f32,
            second: [b2 as f32, (1.0 - b2) as f32],
            eps: self.eps as f32,
        }
    }
}
