//! Which kernels of `cuda/group_norm.cu` run, and with what.

use super::{GroupNorm, GroupNormGrad, extents};
use crate::device::kernel::Launch;
use crate::ffi::{
    GroupNormApply, GroupNormBackward, GroupNormCombine, GroupNormGradCombine, GroupNormMoments,
    GroupNormTiles,
};
use crate::graph::TensorType;
use crate::graph::cuda::{CudaCall, CudaOperand};

/// Threads of a block over pixels, and channels of a block that adds up their weights' gradients.
const THREADS: usize = 256;
const CHANNELS: usize = 32;
/// Blocks that keep a large GPU busy. A constant, since results must not depend on the device.
const BUSY: usize = 864;
/// Extent of a grid along z, at most.
const MOST_SAMPLES: usize = 65535;

/// How the kernels with vectors of `vector` channels share out images of these extents: the struct, and the
/// number of tiles.
fn tiles(
    groups: usize,
    (samples, pixels, channels): (usize, usize, usize),
    vector: usize,
) -> (GroupNormTiles, usize) {
    let vectors = channels.div_ceil(vector);
    // As many tiles as leave the fewest threads idle, none narrower than 16 vectors for the sake of
    // contiguous reads.
    let busy = |count: &usize| {
        let tile = vectors.div_ceil(*count);
        (THREADS / tile * tile * 1000) * vectors / (count * tile)
    };
    let fewest = vectors.div_ceil(THREADS);
    let count = (fewest..=(vectors / 16).max(fewest)).rev().max_by_key(busy).expect("not empty");
    let tile = vectors.div_ceil(count);
    // At least 8 pixels a thread.
    let slab = (pixels * samples * count).div_ceil(BUSY).max(THREADS / tile * 8);
    let tiles = GroupNormTiles {
        pixels: pixels as i32,
        channels: channels as i32,
        groups: groups as i32,
        tile: tile as i32,
        slab: slab as i32,
        slabs: pixels.div_ceil(slab) as i32,
    };
    (tiles, count)
}

/// Where things are in scratch: partial results, then moments, then means of the gradient. The partial
/// results have room for those of either vector size, since alignment is not known when memory is planned.
struct Scratch {
    moments: usize,
    means: usize,
    bytes: usize,
}

impl Scratch {
    fn of(groups: usize, extents: (usize, usize, usize)) -> Self {
        let (samples, _, channels) = extents;
        if channels == 0 {
            return Scratch { moments: 0, means: 0, bytes: 0 };
        }
        let slabs =
            [1, 4].map(|vector| tiles(groups, extents, vector).0.slabs).into_iter().max().unwrap_or(0);
        let moments = (samples * slabs as usize * channels * 8).next_multiple_of(256);
        let means = moments + (samples * groups * 8).next_multiple_of(256);
        Scratch { moments, means, bytes: means + samples * groups * 8 }
    }
}

pub(super) fn scratch_bytes(op: &GroupNorm, x: &TensorType) -> usize {
    Scratch::of(op.groups, extents(x)).bytes
}

/// What all launches of one call share.
struct Plan {
    tiles: GroupNormTiles,
    /// "v4" or "v1".
    form: &'static str,
    samples: usize,
    /// Grid of launches over pixels, and of those over groups.
    pixels: [u32; 3],
    groups: [u32; 3],
    partials: u64,
    moments: u64,
    means: u64,
}

impl Plan {
    /// `images` are the operands that are read in vectors of channels.
    fn new(op: &GroupNorm, images: &[CudaOperand], scratch: u64) -> Result<Self, String> {
        let extents = extents(&images[0].ty);
        let samples = extents.0;
        if samples > MOST_SAMPLES {
            return Err(format!(
                "the kernels of group_norm take up to {MOST_SAMPLES} samples, found {samples}"
            ));
        }
        let vectors = images.iter().all(|o| o.vectors(4));
        let (tiles, count) = tiles(op.groups, extents, if vectors { 4 } else { 1 });
        let at = Scratch::of(op.groups, extents);
        Ok(Plan {
            form: if vectors { "v4" } else { "v1" },
            samples,
            pixels: [tiles.slabs as u32, count as u32, samples as u32],
            groups: [op.groups as u32, samples as u32, 1],
            tiles,
            partials: scratch,
            moments: scratch + at.moments as u64,
            means: scratch + at.means as u64,
        })
    }

    /// The launches that leave mean and rstd of every group in scratch.
    fn statistics(&self, op: &GroupNorm, x: &CudaOperand) -> [Launch; 2] {
        let moments =
            GroupNormMoments { x: x.address, partials: self.partials, x_step: step(x), tiles: self.tiles };
        let combine = GroupNormCombine {
            partials: self.partials,
            moments: self.moments,
            tiles: self.tiles,
            eps: op.eps,
            reserved: 0,
        };
        [
            Launch::new(format!("group_norm_moments_{}_{}", self.form, x.ty.dtype), self.pixels, &moments),
            Launch::new("group_norm_combine_f32", self.groups, &combine),
        ]
    }
}

/// Elements between pixels.
fn step(o: &CudaOperand) -> i64 {
    o.layout.as_rows().expect("accepts() asks for rows").2 as i64
}

pub(super) fn forward(op: &GroupNorm, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [x, gamma, beta] = &call.inputs[..] else { unreachable!("infer takes three operands") };
    let y = &call.outputs[0];
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let plan = Plan::new(op, &call.inputs[..1], call.scratch)?;
    let params = GroupNormApply {
        x: x.address,
        moments: plan.moments,
        gamma: gamma.address,
        beta: beta.address,
        y: y.address,
        x_step: step(x),
        tiles: plan.tiles,
        silu: i32::from(op.silu),
        reserved: 0,
    };
    let kernel = format!("group_norm_apply_{}_{}_{}", plan.form, x.ty.dtype, y.ty.dtype);
    let mut launches = plan.statistics(op, x).to_vec();
    launches.push(Launch::new(kernel, plan.pixels, &params));
    Ok(launches)
}

pub(super) fn backward(op: &GroupNormGrad, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [x, dy, gamma, beta] = &call.inputs[..] else { unreachable!("infer takes four operands") };
    let [dx, d_gamma, d_beta] = &call.outputs[..] else { unreachable!("infer gives three results") };
    let op = &op.0;
    if d_gamma.ty.is_empty() {
        return Ok(vec![]);
    }
    let plan = Plan::new(op, &call.inputs[..2], call.scratch)?;
    let params = GroupNormBackward {
        x: x.address,
        dy: dy.address,
        moments: plan.moments,
        gamma: gamma.address,
        beta: beta.address,
        partials: plan.partials,
        means: plan.means,
        dx: dx.address,
        x_step: step(x),
        dy_step: step(dy),
        tiles: plan.tiles,
        silu: i32::from(op.silu),
        reserved: 0,
    };
    let combine = GroupNormGradCombine {
        partials: plan.partials,
        gamma: gamma.address,
        means: plan.means,
        d_gamma: d_gamma.address,
        d_beta: d_beta.address,
        tiles: plan.tiles,
        samples: plan.samples as i32,
        reserved: 0,
    };
    let channels = [d_gamma.ty.len().div_ceil(CHANNELS) as u32, 1, 1];
    let weights = Launch::new("group_norm_grad_weights_f32", channels, &combine);
    if dx.ty.is_empty() {
        return Ok(vec![weights]); // sums of nothing
    }
    let mut launches = plan.statistics(op, x).to_vec();
    launches.extend([
        Launch::new(format!("group_norm_grad_sums_{}_f32", plan.form), plan.pixels, &params),
        Launch::new("group_norm_grad_means_f32", plan.groups, &combine),
        weights,
        Launch::new(format!("group_norm_grad_apply_{}_f32", plan.form), plan.pixels, &params),
    ]);
    Ok(launches)
}
