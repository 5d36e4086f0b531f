//! Fast paths: the direct convolutions of `device::cpu::conv`.

use rayon::prelude::*;

use super::{Conv2d, Conv2dGradInput, Conv2dGradWeight, ConvSpec};
use crate::device::cpu::conv::{self, ConvShape, ConvWeights, Geometry, Input, Sampling};
use crate::device::cpu::simd::{Level, simd_fn};
use crate::device::cpu::{ALIGN, math};
use crate::graph::TensorType;
use crate::graph::op::CpuCall;
use crate::ops::rows::{Rows, rows_per_task};
use crate::ops::{group_norm, weight};

fn geometry(spec: &ConvSpec, kernel: [usize; 2]) -> Geometry {
    let ConvSpec { stride, pad, dilation, groups } = *spec;
    Geometry { kernel, stride, dilation, padding: pad.map(|p| p as isize), groups }
}

/// Bytes of the normalised input.
fn normalised(op: &Conv2d, inputs: &[&TensorType]) -> usize {
    op.norm.map_or(0, |_| (inputs[0].len() * size_of::<f32>()).next_multiple_of(ALIGN))
}

pub(super) fn scratch(op: &Conv2d, inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
    normalised(op, inputs) + op.affine.map_or(0, |_| group_norm::affine_scratch(outputs[0]))
}

simd_fn! {
    /// y = f(x·scale + shift) on rows of channels.
    fn rescale(y: &mut [f32], x: &[f32], scale: &[f32], shift: &[f32], silu: bool) {
        let c = scale.len();
        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            let columns = x.iter().zip(scale).zip(shift);
            if silu {
                y.iter_mut().zip(columns).for_each(|(y, ((&x, &a), &b))| *y = math::silu(x * a + b));
            } else {
                y.iter_mut().zip(columns).for_each(|(y, ((&x, &a), &b))| *y = x * a + b);
            }
        }
    }
}

pub(super) fn forward(op: &Conv2d, mut call: CpuCall) -> Result<(), String> {
    let types: Vec<_> = call.inputs.iter().map(|i| i.ty).collect();
    let d = op.dims(&types)?;
    let (seen, scratch) = call.scratch.split_at_mut(normalised(op, &types));
    // Without a norm there may be no scratch, and no alignment of it.
    let seen: &mut [f32] = if op.norm.is_some() { bytemuck::cast_slice_mut(seen) } else { &mut [] };
    if let Some(norm) = op.norm {
        let (x, affine) = (call.inputs[0].f32(), call.inputs[1].f32());
        let sample = (d.height * d.width * d.cin).max(1);
        let task = rows_per_task(d.cin) * d.cin.max(1);
        seen.par_chunks_mut(sample)
            .zip(x.par_chunks(sample))
            .zip(affine.par_chunks(2 * d.cin.max(1)))
            .for_each(|((y, x), affine)| {
                let (scale, shift) = affine.split_at(d.cin);
                y.par_chunks_mut(task)
                    .zip(x.par_chunks(task))
                    .for_each(|(y, x)| rescale(Level::best(), y, x, scale, shift, norm.silu));
            });
    }
    let seen = &*seen;
    let bias = op.bias().map(|k| call.inputs[k].f32());
    let epilogue = op.epilogue.on_cpu(bias, op.residual().map(|k| &call.inputs[k]), d.cout);
    let sampling = if op.upsample == 1 { Sampling::Direct } else { Sampling::Nearest(op.upsample) };
    let inputs: Vec<_> = call.inputs[..op.sources]
        .iter()
        .map(|x| Input {
            values: if op.norm.is_some() { seen } else { x.f32() },
            size: [d.height, d.width],
            channels: x.ty.last(),
            stride: x.layout.as_rows().expect("accepts checked").2,
            sampling,
        })
        .collect();
    let weights = weight::values(&call.inputs[op.weight()]);
    let weights = ConvWeights::new(Level::best(), geometry(&op.spec, d.kernel), d.cin, d.cout, weights);
    let [y, affine @ ..] = &mut call.outputs[..] else { unreachable!("infer gives a result") };
    conv::conv2d(d.batch, &inputs, &weights, y.f32(), d.cout, &epilogue);
    if let (Some(norm), [affine]) = (op.affine, affine) {
        let k = op.before_affine();
        let weights = (call.inputs[k].f32(), call.inputs[k + 1].f32());
        group_norm::affine_on_cpu(&norm, y.ty, Rows::dense(y.f32(), d.cout), weights, scratch, affine.f32());
    }
    Ok(())
}

pub(super) fn grad_input(op: &Conv2dGradInput, mut call: CpuCall) {
    let (dy, w) = (&call.inputs[0].ty.shape, &call.inputs[1].ty.shape);
    let shape = ConvShape {
        geometry: geometry(&op.spec, [w[2], w[3]]),
        batch: dy[0],
        input: op.size,
        in_channels: w[1] * op.spec.groups,
        out_channels: w[0],
    };
    let (dy, w) = (call.inputs[0].f32(), weight::values(&call.inputs[1]));
    conv::conv2d_grad_input(Level::best(), &shape, w, dy, call.outputs[0].f32());
}

pub(super) fn grad_weight(op: &Conv2dGradWeight, mut call: CpuCall) {
    let (x, dy) = (&call.inputs[0].ty.shape, &call.inputs[1].ty.shape);
    let shape = ConvShape {
        geometry: geometry(&op.spec, op.kernel),
        batch: x[0],
        input: [x[1], x[2]],
        in_channels: x[3],
        out_channels: dy[3],
    };
    let (x, dy) = (call.inputs[0].f32(), call.inputs[1].f32());
    conv::conv2d_grad_weight(Level::best(), &shape, x, dy, call.outputs[0].f32());
}
