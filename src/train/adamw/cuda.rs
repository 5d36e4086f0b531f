//! Launches of `cuda/adamw.cu`. Addresses are device memory, tensors are f32 unless it is said otherwise.

use super::Factors;
use crate::device::kernel::Launch;
use crate::ffi::{AdamwAccumulate, AdamwFactors, AdamwNormParts, AdamwNormTotal, AdamwStep};
use crate::tensor::DType;

/// Threads of a block.
const THREADS: usize = 256;
/// Elements whose squares one block sums.
const NORM_BLOCK: usize = 16384;

/// One tensor of parameters with what belongs to it, each of the same length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tensor {
    /// Parameters.
    pub param: u64,
    /// Sums of gradients.
    pub grad: u64,
    /// First and second moments; zeros before the first step.
    pub moments: [u64; 2],
    /// The moving average of the parameters, if one is kept, and how much it keeps.
    pub ema: Option<(u64, f32)>,
    /// The parameters in half precision, where kernels read them so.
    pub copy: Option<(u64, DType)>,
    /// Number of parameters.
    pub len: usize,
}

/// Bytes of the factors of a group as [`step`] reads them.
pub const FACTORS: usize = size_of::<AdamwFactors>();

impl Factors {
    /// As they lie in device memory.
    pub fn on_device(&self) -> [u8; FACTORS] {
        let factors = AdamwFactors {
            keep: self.keep,
            along: self.along,
            correct: self.correct,
            first: self.first,
            second: self.second[0],
            second_rest: self.second[1],
            eps: self.eps,
            reserved: 0,
        };
        bytemuck::cast(factors)
    }
}

/// One step for one tensor. `factors` and `scale` are addresses: of [`Factors::on_device`], and of the number that
/// [`GlobalNorm`] leaves, if gradients are to be scaled; if that is not finite, nothing changes.
pub fn step(tensor: &Tensor, factors: u64, scale: Option<u64>) -> Option<Launch> {
    let params = AdamwStep {
        param: tensor.param,
        grad: tensor.grad,
        first: tensor.moments[0],
        second: tensor.moments[1],
        ema: tensor.ema.map_or(0, |(address, _)| address),
        copy: tensor.copy.map_or(0, |(address, _)| address),
        factors,
        grad_scale: scale.unwrap_or(0),
        len: tensor.len as i64,
        ema_keep: tensor.ema.map_or(0.0, |(_, keep)| keep),
        reserved: 0,
    };
    let addresses = [params.param, params.grad, params.first, params.second, params.ema, params.copy];
    let copy = tensor.copy.map_or(DType::F32, |(_, dtype)| dtype);
    launch("adamw_step", copy, tensor.len, &addresses, &params)
}

/// Adds a gradient in this element type to a sum of as many numbers; where the f32 number at `add` is 0, it takes
/// its place.
pub fn accumulate(sum: u64, (grad, dtype): (u64, DType), len: usize, add: u64) -> Option<Launch> {
    let params = AdamwAccumulate { sum, grad, add, len: len as i64 };
    launch("adamw_accumulate", dtype, len, &[sum, grad], &params)
}

/// A launch of one thread for each vector; none for no elements.
fn launch<P: bytemuck::Pod>(
    kernel: &str,
    dtype: DType,
    len: usize,
    addresses: &[u64],
    params: &P,
) -> Option<Launch> {
    let (form, n) = form(len, addresses);
    let blocks = len.div_ceil(THREADS * n) as u32;
    (blocks > 0).then(|| Launch::new(format!("{kernel}_{form}{dtype}"), [blocks, 1, 1], params))
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
    /// Address of the number that makes means of the sums of gradients, if these are not means already.
    pub unit: Option<u64>,
}

impl GlobalNorm {
    /// How many f32 sums the launches for tensors of these lengths write.
    pub fn parts(lengths: &[usize]) -> usize {
        lengths.iter().map(|len| len.div_ceil(NORM_BLOCK)).sum()
    }

    /// Leaves two f32 numbers at `out`: the norm of tensors (address, length), and the factor that makes clipped
    /// means of them, whose address (`out + 4`) [`step`] takes. `parts` has room for [`GlobalNorm::parts`].
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
        let (unit, most) = (self.unit.unwrap_or(0), self.most);
        let params = AdamwNormTotal { parts, unit, out, len: done as i64, most, reserved: 0 };
        launches.push(Launch::new("adamw_norm_total_f32", [1, 1, 1], &params));
        launches
    }
}
