//! Which kernels of `cuda/group_norm.cu` run, and with what.

use super::{GroupNorm, GroupNormAffine, GroupNormGrad, extents};
use crate::device::kernel::Launch;
use crate::ffi::{
    self, GroupNormApply, GroupNormBackward, GroupNormCombine, GroupNormGradCombine, GroupNormMoments,
    GroupNormPieces, GroupNormRescale, GroupNormTiles,
};
use crate::graph::TensorType;
use crate::graph::cuda::{CudaCall, CudaOperand, CudaResult};

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

pub(super) fn scratch_bytes(groups: usize, x: &TensorType) -> usize {
    Scratch::of(groups, extents(x)).bytes
}

/// Bytes of what [`moments_launch`] writes for x, whatever its layout will be.
pub(in crate::ops) fn partials_bytes(groups: usize, x: &TensorType) -> usize {
    Scratch::of(groups, extents(x)).moments
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
    fn new(groups: usize, images: &[CudaOperand], scratch: u64) -> Result<Self, String> {
        let extents = extents(&images[0].ty);
        let samples = extents.0;
        if samples > MOST_SAMPLES {
            return Err(format!(
                "the kernels of group_norm take up to {MOST_SAMPLES} samples, found {samples}"
            ));
        }
        let vectors = images.iter().all(|o| o.vectors(4));
        let (tiles, count) = tiles(groups, extents, if vectors { 4 } else { 1 });
        let at = Scratch::of(groups, extents);
        Ok(Plan {
            form: if vectors { "v4" } else { "v1" },
            samples,
            pixels: [tiles.slabs as u32, count as u32, samples as u32],
            groups: [groups as u32, samples as u32, 1],
            tiles,
            partials: scratch,
            moments: scratch + at.moments as u64,
            means: scratch + at.means as u64,
        })
    }

    /// The launch that leaves the moments of every channel over every slab in scratch.
    fn moments(&self, x: &CudaOperand) -> Launch {
        let moments =
            GroupNormMoments { x: x.address, partials: self.partials, x_step: step(x), tiles: self.tiles };
        Launch::new(format!("group_norm_moments_{}_{}", self.form, x.ty.dtype), self.pixels, &moments)
    }

    /// The launches that leave mean and rstd of every group in scratch.
    fn statistics(&self, op: &GroupNorm, x: &CudaOperand) -> [Launch; 2] {
        let combine = GroupNormCombine {
            partials: self.partials,
            moments: self.moments,
            tiles: self.tiles,
            eps: op.eps,
            reserved: 0,
        };
        [self.moments(x), Launch::new("group_norm_combine_f32", self.groups, &combine)]
    }
}

/// Elements between pixels.
fn step(o: &CudaOperand) -> i64 {
    o.layout.as_rows().expect("accepts() asks for rows").2 as i64
}

/// The launch that leaves moments of every channel of x at `partials` ([`partials_bytes`] of them), and how x was cut
/// into pieces for that.
pub(in crate::ops) fn moments_launch(
    groups: usize,
    x: &CudaOperand,
    partials: u64,
) -> Result<(Launch, GroupNormPieces), String> {
    let plan = Plan::new(groups, std::slice::from_ref(x), partials)?;
    let GroupNormTiles { pixels, channels, groups, slab, .. } = plan.tiles;
    let pieces = GroupNormPieces { height: 1, width: pixels, piece_h: 1, piece_w: slab, channels, groups };
    Ok((plan.moments(x), pieces))
}

/// The launch that makes scale and shift of every channel of moments at `partials`.
pub(in crate::ops) fn affine_launch(
    op: &GroupNormAffine,
    partials: u64,
    pieces: GroupNormPieces,
    (gamma, beta): (&CudaOperand, &CudaOperand),
    out: &CudaResult,
) -> Launch {
    let params = ffi::GroupNormAffine {
        partials,
        gamma: gamma.address,
        beta: beta.address,
        affine: out.address,
        pieces,
        eps: op.eps,
        reserved: 0,
    };
    Launch::new("group_norm_affine_f32", [op.groups as u32, out.ty.shape[0] as u32, 1], &params)
}

/// The launch that writes f(x·scale + shift) to `y`, dense and of x's element type.
pub(in crate::ops) fn rescale_launch(
    x: &CudaOperand,
    affine: &CudaOperand,
    y: u64,
    silu: bool,
) -> Result<Launch, String> {
    let plan = Plan::new(1, std::slice::from_ref(x), 0)?;
    let params = GroupNormRescale {
        x: x.address,
        affine: affine.address,
        y,
        x_step: step(x),
        tiles: plan.tiles,
        silu: silu.into(),
        reserved: 0,
    };
    Ok(Launch::new(format!("group_norm_rescale_{}_{}", plan.form, x.ty.dtype), plan.pixels, &params))
}

pub(super) fn affine(op: &GroupNormAffine, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [x, gamma, beta] = &call.inputs[..] else { unreachable!("infer takes three operands") };
    let (moments, pieces) = moments_launch(op.groups, x, call.scratch)?;
    Ok(vec![moments, affine_launch(op, call.scratch, pieces, (gamma, beta), &call.outputs[0])])
}

pub(super) fn forward(op: &GroupNorm, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [x, gamma, beta] = &call.inputs[..] else { unreachable!("infer takes three operands") };
    let y = &call.outputs[0];
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let plan = Plan::new(op.groups, &call.inputs[..1], call.scratch)?;
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
    let plan = Plan::new(op.groups, &call.inputs[..2], call.scratch)?;
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
