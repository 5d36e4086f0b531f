//! Which kernel of `cuda/activation.cu` runs, and with what.

use super::Kind;
use crate::device::kernel::Launch;
use crate::ffi;
use crate::graph::cuda::{CudaCall, CudaOperand, CudaResult};
use crate::graph::strided::grid;

/// A function as kernels know it (`ffi/activation.h`): its number, and what it is given.
pub(in crate::ops) fn code(kind: Kind) -> (i32, f32, f32) {
    let (code, a, b) = match kind {
        Kind::Relu => (ffi::ACTIVATION_RELU, 0.0, 0.0),
        Kind::LeakyRelu(slope) => (ffi::ACTIVATION_LEAKY_RELU, slope, 0.0),
        Kind::Gelu => (ffi::ACTIVATION_GELU, 0.0, 0.0),
        Kind::GeluTanh => (ffi::ACTIVATION_GELU_TANH, 0.0, 0.0),
        Kind::Silu => (ffi::ACTIVATION_SILU, 0.0, 0.0),
        Kind::Sigmoid => (ffi::ACTIVATION_SIGMOID, 0.0, 0.0),
        Kind::Tanh => (ffi::ACTIVATION_TANH, 0.0, 0.0),
        Kind::Exp => (ffi::ACTIVATION_EXP, 0.0, 0.0),
        Kind::Ln => (ffi::ACTIVATION_LN, 0.0, 0.0),
        Kind::Sqrt => (ffi::ACTIVATION_SQRT, 0.0, 0.0),
        Kind::Sin => (ffi::ACTIVATION_SIN, 0.0, 0.0),
        Kind::Cos => (ffi::ACTIVATION_COS, 0.0, 0.0),
        Kind::Abs => (ffi::ACTIVATION_ABS, 0.0, 0.0),
        Kind::Clamp(lo, hi) => (ffi::ACTIVATION_CLAMP, lo, hi),
    };
    (code as i32, a, b)
}

/// Elements of a block.
const BLOCK: usize = 256 * 8;

pub(super) fn forward(kind: Kind, call: &CudaCall) -> Vec<Launch> {
    map("fwd", kind, &call.inputs[0], None, &call.outputs[0])
}

pub(super) fn backward(kind: Kind, call: &CudaCall) -> Vec<Launch> {
    map("bwd", kind, &call.inputs[0], Some(&call.inputs[1]), &call.outputs[0])
}

fn map(way: &str, kind: Kind, x: &CudaOperand, dy: Option<&CudaOperand>, y: &CudaResult) -> Vec<Launch> {
    if y.ty.is_empty() {
        return vec![];
    }
    let (kind, a, b) = code(kind);
    let params = ffi::ActivationMap {
        x: x.address,
        dy: dy.map_or(0, |dy| dy.address),
        y: y.address,
        len: y.ty.len() as i64,
        kind,
        a,
        b,
        reserved: 0,
    };
    let aligned = [params.x, params.dy].iter().all(|a| a.is_multiple_of(16));
    let form = if aligned { "" } else { "any_" };
    let kernel = format!("activation_{way}_{form}{}", y.ty.dtype);
    vec![Launch::new(kernel, grid(y.ty.len(), BLOCK), &params)]
}
