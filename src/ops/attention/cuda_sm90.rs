//! Kernels of `cuda/attention_sm90.cu` and `cuda/attention_grad_sm90.cu`: when they run, and with what.

use super::Attention;
use super::cuda::for_tensor_cores;
use crate::device::kernel::{Launch, Swizzle, TensorMapSpec};
use crate::ffi::{
    AttentionBwd, AttentionBwdSm90, AttentionFwd, AttentionFwdSm90, AttentionProblem, TensorMap,
};
use crate::graph::cuda::{CudaCall, CudaOperand};

/// Deepest heads that they take.
const DEEPEST: usize = 72;
/// Tokens of a tensor copy: `BOX_ROWS` of `cuda/include/attention_sm90.cuh`.
const BOX_ROWS: usize = 64;
/// Tokens that a block works on at a time: `OWN_ROWS` there.
const OWN_ROWS: usize = 128;

/// Whether the device has these kernels and they take these operands (queries, keys, values and what is like
/// them): what tensor cores take, and no empty or repeated axis, of which there are no tensor maps.
fn takes(op: &Attention, call: &CudaCall, operands: &[&CudaOperand]) -> bool {
    let mapped = |o: &&CudaOperand| {
        let steps = o.layout.shape.iter().zip(&o.layout.strides);
        !o.ty.is_empty() && steps.into_iter().all(|(&extent, &step)| extent == 1 || step > 0)
    };
    call.device.hopper
        && operands[0].ty.shape[3] <= DEEPEST
        && for_tensor_cores(op, operands)
        && operands.iter().all(mapped)
}

/// The variant of a kernel for heads of this depth.
fn variant(depth: usize) -> &'static str {
    if depth <= 64 { "d64" } else { "d72" }
}

/// A tensor `[entries, tokens, heads, depth]` by boxes of 64 tokens of one head: `Columns` of
/// `cuda/include/attention_sm90.cuh`.
fn map(o: &CudaOperand, call: &CudaCall) -> Result<TensorMap, String> {
    let [entries, tokens, heads, depth] = o.layout.shape[..] else {
        unreachable!("infer has seen four axes")
    };
    // The step along an axis of one element is never taken, but must look like one.
    let step =
        |axis: usize| if o.layout.shape[axis] == 1 { 16 } else { o.layout.strides[axis] * o.ty.dtype.size() };
    let (columns, swizzle) = if depth <= 64 { (64, Swizzle::Bytes128) } else { (32, Swizzle::Bytes64) };
    (call.tensor_map)(&TensorMapSpec {
        address: o.address,
        dtype: o.ty.dtype,
        extents: vec![depth, tokens, heads, entries],
        strides: vec![step(1), step(2), step(0)],
        boxed: vec![columns, BOX_ROWS, 1, 1],
        swizzle,
    })
}

/// Blocks stay on their multiprocessors: as many as there are, or as there are tiles of tokens.
fn grid(tokens: usize, p: &AttentionProblem, call: &CudaCall) -> [u32; 3] {
    let tiles = tokens.div_ceil(OWN_ROWS) * p.heads as usize * p.batch as usize;
    [(tiles as u32).min(call.device.multiprocessors), 1, 1]
}

/// The forward pass, if it runs here.
pub(super) fn forward(
    op: &Attention,
    params: &AttentionFwd,
    call: &CudaCall,
) -> Option<Result<Launch, String>> {
    let [q, k, v] = [0, 1, 2].map(|i| &call.inputs[i]);
    takes(op, call, &[q, k, v]).then(|| {
        let p = &params.problem;
        let kernel = format!("attention_fwd_{}_{}_sm90", variant(p.depth as usize), q.ty.dtype);
        let params =
            AttentionFwdSm90 { q: map(q, call)?, k: map(k, call)?, v: map(v, call)?, forward: *params };
        Ok(Launch::new(kernel, grid(p.queries as usize, p, call), &params))
    })
}

/// The launches of the backward pass that make dk and dv, and dq, if they run here; `d_out` is that operand.
pub(super) fn backward(
    op: &Attention,
    params: &AttentionBwd,
    call: &CudaCall,
    d_out: &CudaOperand,
) -> Option<Result<[Launch; 2], String>> {
    let [q, k, v] = [0, 1, 2].map(|i| &call.inputs[i]);
    takes(op, call, &[q, k, v, d_out]).then(|| {
        let p = &params.problem;
        let [to_keys, to_queries] = ["dkv", "dq"]
            .map(|what| format!("attention_{what}_{}_{}_sm90", variant(p.depth as usize), q.ty.dtype));
        let params = AttentionBwdSm90 {
            q: map(q, call)?,
            k: map(k, call)?,
            v: map(v, call)?,
            d_out: map(d_out, call)?,
            backward: *params,
            reserved: [0; 2],
        };
        Ok([
            Launch::new(to_keys, grid(p.keys as usize, p, call), &params),
            Launch::new(to_queries, grid(p.queries as usize, p, call), &params),
        ])
    })
}
