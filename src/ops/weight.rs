//! Weights of products, convolutions and embeddings: stored in f32, bf16 or f16.
//!
//! Half-precision weights are widened, exactly, where a kernel packs or reads them; all arithmetic
//! is f32, and so is the gradient of such a weight.

use crate::device::cpu::gemm::Values;
use crate::graph::TensorType;
use crate::graph::op::Operand;
use crate::tensor::DType;

/// Refuses a weight in another dtype than f32, bf16 or f16.
pub(super) fn expect_weight(what: &str, t: &TensorType) -> Result<(), String> {
    match t.dtype {
        DType::F32 | DType::BF16 | DType::F16 => Ok(()),
        _ => Err(format!("{what} must be f32, bf16 or f16, found {t}")),
    }
}

/// The stored values of a weight that `expect_weight` has let through.
pub(super) fn values<'a>(operand: &Operand<'a>) -> Values<'a> {
    match operand.ty.dtype {
        DType::BF16 => Values::Bf16(operand.cast(DType::BF16)),
        DType::F16 => Values::F16(operand.cast(DType::F16)),
        _ => Values::F32(operand.f32()),
    }
}
