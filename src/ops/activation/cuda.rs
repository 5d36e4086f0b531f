//! Which kernel of `cuda/activation.cu` runs, and with what.

use super::Kind;
use crate::ffi;

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
