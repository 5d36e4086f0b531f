//! Launches of `cuda/adamw.cu`. Addresses are device memory, tensors are f32.

use super::AdamW;
use crate::device::kernel::Launch;
use crate::ffi::{AdamwNormParts, AdamwNormTotal, AdamwStep};

/// Threads of a block.
const THREADS: usize = 256;
/// Elements whose squares one block sums.
const NORM_BLOCK: usize = 16384;

/// One tensor of parameters with what belongs to it, each of the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Parameters.
    pub param: u64,
    /// Gradients.
    pub grad: u64,
    /// First and second moments; zeros before the first step.
    pub moments: [u64; 2],
    /// Number of parameters.
    pub len: usize,
}

impl AdamW {
    /// Step `t` (the first is 1) at this learning rate for one tensor. `clip` is the address of the clipping
    /// factor that [`GlobalNorm`] leaves, if gradients are to be clipped.
    pub fn launch(&self, t: u64, rate: f64, tensor: &Tensor, clip: Option<u64>) -> Option<Launch> {
        let correction = self.betas.map(|b| 1.0 / (1.0 - b.powf(t as f64)));
        let params = AdamwStep {
            param: tensor.param,
            grad: tensor.grad,
            first: tensor.moments[0],
            second: tensor.moments[1],
            grad_scale: clip.unwrap_or(0),
            len: tensor.len as i64,
            rate: rate as f32,
            beta1: self.betas[0] as f32,
            beta2: self.betas[1] as f32,
            eps: self.eps as f32,
            keep: (1.0 - rate * self.decay) as f32,
            correct1: correction[0] as f32,
            correct2: correction[1].sqrt() as f32,
            reserved: 0,
        };
        let (form, n) = form(tensor.len, &[params.param, params.grad, params.first, params.second]);
        let blocks = tensor.len.div_ceil(THREADS * n) as u32;
        (blocks > 0).then(|| Launch::new(format!("adamw_step_{form}f32"), [blocks, 1, 1], &params))
    }
}

/// What a kernel's name has for the vectors that length and addresses allow, and how long these are.
fn form(len: usize, addresses: &[u64]) -> (&'static str, usize) {
    let whole = len.is_multiple_of(4) && addresses.iter().all(|a| a.is_multiple_of(16));
    if whole { ("", 4) } else { ("any_", 1) }
}

/// The norm of all gradients together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GlobalNorm {
    /// What the norm shall not exceed.
    pub most: f32,
}

impl GlobalNorm {
    /// How many f32 sums the launches for tensors of these lengths write.
    pub fn parts(lengths: &[usize]) -> usize {
        lengths.iter().map(|len| len.div_ceil(NORM_BLOCK)).sum()
    }

    /// Leaves two f32 numbers at `out`: the norm of tensors (address, length), and the factor that clips it,
    /// whose address (`out + 4`) [`AdamW::step`] takes. `parts` has room for [`GlobalNorm::parts`].
    pub fn launches(&self, tensors: &[(u64, usize)], parts: u64, out: u64) -> Vec<Launch> {
        let mut launches = Vec::new();
        let mut done = 0;
        for &(x, len) in tensors.iter().filter(|t| t.1 > 0) {
            let blocks = len.div_ceil(NORM_BLOCK);
            let params = AdamwNormParts { x, parts: parts + 4 * done as u64, len: len as i64 };
            let kernel = format!("adamw_norm_parts_{}f32", form(len, &[x]).0);
            launches.push(Launch::new(kernel, [blocks as u32, 1, 1], &params));
            done += blocks;
        }
        let params = AdamwNormTotal { parts, out, len: done as i64, most: self.most, reserved: 0 };
        launches.push(Launch::new("adamw_norm_total_f32", [1, 1, 1], &params));
        launches
    }
}
