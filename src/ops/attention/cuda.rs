//! Which kernels of `cuda/attention.cu` and `cuda/attention_grad.cu` run, and with what.

use super::{Attention, AttentionGrad, Extents};
use crate::device::kernel::Launch;
use crate::ffi::{AttentionBwd, AttentionFwd, AttentionProblem, AttentionTensor};
use crate::graph::TensorType;
use crate::graph::cuda::{CudaCall, CudaOperand};
use crate::tensor::DType;

/// Deepest head of the `any` kernels.
const DEEPEST: usize = 512;

/// Rows of a block of `attention_delta_*`, one a warp.
const DELTA_ROWS: usize = 4;
/// Side of the tile of the bias that a block of `attention_dbias_*` owns.
const BIAS_TILE: usize = 32;

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

/// Whether the tensor-core kernels take these operands: half precision, depths of whole 16-byte units up to
/// 72, rows that start at such units, and a factor that keeps the order of the dot products.
fn tensor_cores(op: &Attention, operands: &[CudaOperand]) -> bool {
    let q = &operands[0];
    q.ty.dtype.size() == 2 && q.ty.last() <= 72 && operands.iter().all(|o| o.vectors(8)) && op.scale > 0.0
}

pub(super) fn forward(op: &Attention, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
    let p = problem(op, call);
    let dtype = call.inputs[0].ty.dtype;
    let depth = p.depth as usize;
    too_deep(depth)?;
    if call.outputs[1].ty.is_empty() {
        return Ok(vec![]);
    }
    let form = if tensor_cores(op, &call.inputs[..3]) {
        Form { name: if depth <= 64 { "mma_d64" } else { "mma_d72" }, rows: 128 }
    } else {
        any(depth, dtype)
    };
    let params = AttentionFwd { problem: p, out: call.outputs[0].address, lse: call.outputs[1].address };
    let kernel = format!("attention_fwd_{}_{dtype}", form.name);
    Ok(vec![Launch::new(kernel, blocks(p.queries as usize, form.rows, &p), &params)])
}

/// Bytes of `delta`.
pub(super) fn backward_scratch(op: &AttentionGrad, inputs: &[&TensorType]) -> usize {
    inputs[op.out_at() + 1].bytes()
}

pub(super) fn backward(op: &AttentionGrad, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
    let p = problem(&op.forward, call);
    let dtype = call.inputs[0].ty.dtype;
    let depth = p.depth as usize;
    too_deep(depth)?;
    let at = op.out_at();
    let bias_shape = if op.forward.bias { &call.inputs[3].ty.shape[..2] } else { &[0, 0] };
    let result = |k: usize| call.outputs.get(k).map_or(0, |o| o.address);
    let params = AttentionBwd {
        problem: p,
        out: tensor(&call.inputs[at]),
        d_out: tensor(&call.inputs[at + 2]),
        lse: call.inputs[at + 1].address,
        d_lse: if op.d_lse { call.inputs[at + 3].address } else { 0 },
        delta: call.scratch,
        dq: result(0),
        dk: result(1),
        dv: result(2),
        d_bias: result(3),
        bias_batch: bias_shape[0] as i32,
        bias_heads: bias_shape[1] as i32,
    };
    let form = any(depth, dtype);
    let mut launches = Vec::new();
    let mut launch = |what: &str, form: &str, grid: [u32; 3]| {
        if grid[0] > 0 {
            launches.push(Launch::new(format!("attention_{what}_{form}{dtype}"), grid, &params));
        }
    };
    launch("delta", "", [call.inputs[at + 1].ty.len().div_ceil(DELTA_ROWS) as u32, 1, 1]);
    let name = format!("{}_", form.name);
    launch("dkv", &name, blocks(p.keys as usize, form.rows, &p));
    launch("dq", &name, blocks(p.queries as usize, form.rows, &p));
    if op.d_bias {
        let tiles = |n: i32| (n as usize).div_ceil(BIAS_TILE);
        let entries = bias_shape.iter().product::<usize>();
        launch("dbias", "any_", [(tiles(p.queries) * tiles(p.keys) * entries) as u32, 1, 1]);
    }
    Ok(launches)
}
