//! Fast paths: the direct convolutions of `device::cpu::conv`.

use super::{Conv2d, Conv2dGradInput, Conv2dGradWeight, ConvSpec};
use crate::device::cpu::conv::{self, ConvShape, ConvWeights, Geometry, Input, Sampling};
use crate::device::cpu::simd::Level;
use crate::graph::op::CpuCall;
use crate::ops::weight;

fn geometry(spec: &ConvSpec, kernel: [usize; 2]) -> Geometry {
    let ConvSpec { stride, pad, dilation, groups } = *spec;
    Geometry { kernel, stride, dilation, padding: pad.map(|p| p as isize), groups }
}

pub(super) fn forward(op: &Conv2d, mut call: CpuCall) -> Result<(), String> {
    let types: Vec<_> = call.inputs.iter().map(|i| i.ty).collect();
    let d = op.dims(&types)?;
    let bias = op.bias.then(|| call.inputs[op.sources + 1].f32());
    let epilogue = op.epilogue.on_cpu(bias, call.inputs.last(), d.cout);
    let sampling = if op.upsample == 1 { Sampling::Direct } else { Sampling::Nearest(op.upsample) };
    let inputs: Vec<_> = call.inputs[..op.sources]
        .iter()
        .map(|x| Input {
            values: x.f32(),
            size: [d.height, d.width],
            channels: x.ty.last(),
            stride: x.layout.as_rows().expect("accepts checked").2,
            sampling,
        })
        .collect();
    let weights = weight::values(&call.inputs[op.sources]);
    let weights = ConvWeights::new(Level::best(), geometry(&op.spec, d.kernel), d.cin, d.cout, weights);
    conv::conv2d(d.batch, &inputs, &weights, call.outputs[0].f32(), d.cout, &epilogue);
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
