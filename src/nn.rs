//! Layers: an op with its parameters under their checkpoint keys.
//!
//! Each function enters the scope `name`, declares the parameters it needs there (`weight`,
//! `bias`) and records one op. Images are NHWC, tokens `[B, N, C]`.

use crate::error::Result;
use crate::graph::{GraphBuilder, ValueId};
use crate::ops::conv2d::ConvSpec;

/// `nn.Linear(in, out)` over the last axis: keys `weight [out, in]` and, if `bias`, `bias [out]`.
pub fn linear(b: &mut GraphBuilder, name: &str, x: ValueId, out: usize, bias: bool) -> Result<ValueId> {
    b.scope(name, |b| {
        let inputs = b.ty(x).last();
        let weight = b.matrix("weight", [out, inputs])?;
        let bias = if bias { Some(b.param("bias", [out])?) } else { None };
        b.linear(x, weight, bias)
    })
}

/// `nn.Conv2d(in, out, kernel, stride 1, padding kernel/2)` on NHWC: keys `weight [out, in, k, k]`
/// and `bias [out]`.
pub fn conv2d(b: &mut GraphBuilder, name: &str, x: ValueId, out: usize, kernel: usize) -> Result<ValueId> {
    b.scope(name, |b| {
        let inputs = b.ty(x).last();
        let weight = b.matrix("weight", [out, inputs, kernel, kernel])?;
        let bias = b.param("bias", [out])?;
        b.conv2d(x, weight, Some(bias), ConvSpec::same(kernel))
    })
}

/// `nn.LayerNorm` over the last axis: keys `weight` and `bias`.
pub fn layer_norm(b: &mut GraphBuilder, name: &str, x: ValueId, eps: f32) -> Result<ValueId> {
    b.scope(name, |b| {
        let c = b.ty(x).last();
        let (gamma, beta) = (b.param("weight", [c])?, b.param("bias", [c])?);
        b.layer_norm(x, Some((gamma, beta)), eps)
    })
}

/// `nn.PReLU(channels)` over the last axis: key `weight`.
pub fn prelu(b: &mut GraphBuilder, name: &str, x: ValueId) -> Result<ValueId> {
    b.scope(name, |b| {
        let c = b.ty(x).last();
        let weight = b.param("weight", [c])?;
        b.prelu(x, weight)
    })
}
