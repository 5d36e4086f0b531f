//! Which kernels of `cuda/attention.cu` and `cuda/attention_grad.cu` run, and with what.

use super::{Attention, Extents};
use crate::device::kernel::Launch;
use crate::ffi::{AttentionFwd, AttentionProblem, AttentionTensor};
use crate::graph::TensorType;
use crate::graph::cuda::{CudaCall, CudaOperand};
use crate::tensor::DType;

/// Deepest head of the `any` kernels.
const DEEPEST: usize = 512;

/// A tile of a kernel's form: the name that stands in the kernel's, and rows of its own tile.
struct Form {
    name: &'static str,
    rows: usize,
}

/// Element types of operands of these types in a plan: `compute` for those at `heads` (queries, keys, values
/// and what is like them), f32 or integers for the others.
pub(super) fn stored(inputs: &[&TensorType], heads: &[usize], compute: DType) -> Vec<DType> {
    let of = |(k, t): (usize, &&TensorType)| if heads.contains(&k) { compute } else { t.dtype };
    inputs.iter().enumerate().map(of).collect()
}

fn tensor(o: &CudaOperand) -> AttentionTensor {
    steps(o.address, &o.layout.shape, &o.layout.strides)
}

fn steps(data: u64, shape: &[usize], strides: &[usize]) -> AttentionTensor {
    let step = |axis: usize| if shape[axis] == 1 { 0 } else { strides[axis] as i64 };
    AttentionTensor { data, batch_step: step(0), token_step: step(1), head_step: step(2) }
}

fn problem(op: &Attention, call: &mut CudaCall) -> AttentionProblem {
    let e = Extents::of(&call.inputs[0].ty.shape, &call.inputs[1].ty.shape);
    let bias = op.bias.then(|| {
        let o = &call.inputs[3];
        steps(o.address, &o.layout.shape, &o.layout.strides)
    });
    let bias = bias.unwrap_or_default();
    let kv_rows = op.kv_rows.as_ref().map_or(0, |rows| {
        let rows: Vec<i32> = rows.iter().map(|&r| r as i32).collect();
        (call.constants)(bytemuck::cast_slice(&rows))
    });
    AttentionProblem {
        q: tensor(&call.inputs[0]),
        k: tensor(&call.inputs[1]),
        v: tensor(&call.inputs[2]),
        bias: bias.data,
        // The bias is [batch, heads, queries, keys]: its second axis is heads, its third queries.
        bias_batch_step: bias.batch_step,
        bias_head_step: bias.token_step,
        bias_query_step: bias.head_step,
        key_lengths: if op.key_lengths { call.inputs[op.lengths_at()].address } else { 0 },
        kv_rows,
        batch: e.batch as i32,
        heads: e.heads as i32,
        queries: e.queries as i32,
        keys: e.keys as i32,
        depth: e.depth as i32,
        causal: i32::from(op.causal),
        scale: op.scale,
        scale_log2: op.scale * std::f32::consts::LOG2_E,
    }
}

fn too_deep(depth: usize) -> Result<(), String> {
    if depth > DEEPEST {
        return Err(format!("attention kernels hold heads of up to {DEEPEST} elements, found {depth}"));
    }
    Ok(())
}

/// Blocks: one a tile of `rows` of `tokens`, head and batch entry.
fn blocks(tokens: usize, rows: usize, e: &AttentionProblem) -> [u32; 3] {
    [(tokens.div_ceil(rows) * e.heads as usize * e.batch as usize) as u32, 1, 1]
}

/// The form of the `any` kernels for a depth in a type.
fn any(depth: usize, dtype: DType) -> Form {
    if depth <= 128 && dtype == DType::F32 {
        Form { name: "any_d128", rows: 64 }
    } else {
        Form { name: "any_d512", rows: 32 }
    }
}

pub(super) fn forward(op: &Attention, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
    let p = problem(op, call);
    let dtype = call.inputs[0].ty.dtype;
    let depth = p.depth as usize;
    too_deep(depth)?;
    if call.outputs[1].ty.is_empty() {
        return Ok(vec![]);
    }
    let form = any(depth, dtype);
    let params = AttentionFwd { problem: p, out: call.outputs[0].address, lse: call.outputs[1].address };
    let kernel = format!("attention_fwd_{}_{dtype}", form.name);
    Ok(vec![Launch::new(kernel, blocks(p.queries as usize, form.rows, &p), &params)])
}
