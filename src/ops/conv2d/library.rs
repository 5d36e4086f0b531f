//! Convolutions that cuDNN can compute.

use super::{Conv2d, Conv2dGradInput, ConvSpec};
use crate::device::library::{Conv, LibraryCall, Parameter, Picture};
use crate::graph::cuda::{CudaCall, CudaOperand, CudaResult};
use crate::tensor::DType;

fn read(o: &CudaOperand) -> Option<Picture> {
    let (_, channels, step) = o.layout.as_rows()?;
    let repeated = step < channels;
    let shape = o.ty.shape[..].try_into().ok()?;
    (!repeated && !o.ty.is_empty()).then_some(Picture { address: o.address, dtype: o.ty.dtype, shape, step })
}

fn written(r: &CudaResult) -> Option<Picture> {
    let shape: [usize; 4] = r.ty.shape[..].try_into().ok()?;
    (!r.ty.is_empty()).then_some(Picture { address: r.address, dtype: r.ty.dtype, shape, step: shape[3] })
}

/// The call without an epilogue. The weight in the order of tensor cores, and in the type of what it meets: both
/// are exact copies.
fn plain(
    spec: &ConvSpec,
    [x, y]: [Picture; 2],
    (operand, weight): (usize, &CudaOperand),
    meets: DType,
) -> Option<Conv> {
    let weight_shape: [usize; 4] = weight.ty.shape[..].try_into().ok()?;
    let order = vec![0, 2, 3, 1];
    Some(Conv {
        gradient: false,
        x,
        weight: Parameter { operand, address: weight.address, order, dtype: meets },
        weight_shape,
        y,
        stride: spec.stride,
        pad: spec.pad,
        dilation: spec.dilation,
        bias: None,
        act: None,
        residual: None,
    })
}

/// A convolution of one input as it is, with the epilogues that cuDNN has.
pub(super) fn forward(op: &Conv2d, call: &CudaCall) -> Option<LibraryCall> {
    let fused = op.sources != 1 || op.upsample != 1 || op.norm.is_some() || op.affine.is_some();
    if fused || op.epilogue.alpha != 1.0 {
        return None;
    }
    let (x, y) = (read(&call.inputs[0])?, written(&call.outputs[0])?);
    let residual = op.residual().map(|k| call.inputs[k].address);
    if residual == Some(y.address) {
        return None; // cuDNN does not say that a fused operand may lie in the result
    }
    let bias = |k: usize| Parameter {
        operand: k,
        address: call.inputs[k].address,
        order: vec![0],
        dtype: DType::F32,
    };
    Some(LibraryCall::Conv(Conv {
        bias: op.bias().map(bias),
        act: op.epilogue.on_library()?,
        residual,
        ..plain(&op.spec, [x, y], (op.weight(), &call.inputs[op.weight()]), x.dtype)?
    }))
}

/// The gradient by the input.
pub(super) fn grad_input(op: &Conv2dGradInput, call: &CudaCall) -> Option<LibraryCall> {
    let (y, x) = (read(&call.inputs[0])?, written(&call.outputs[0])?);
    let conv = plain(&op.spec, [x, y], (1, &call.inputs[1]), y.dtype)?;
    Some(LibraryCall::Conv(Conv { gradient: true, ..conv }))
}
