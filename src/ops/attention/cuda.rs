//! Which kernels of `cuda/attention.cu` and `cuda/attention_grad.cu` run, and with what, unless those of
//! [`super::cuda_sm90`] do.

use super::cuda_sm90;
use super::{Attention, AttentionGrad, Extents};
use crate::device::kernel::Launch;
use crate::ffi::{AttentionBwd, AttentionFwd, AttentionProblem, AttentionTensor};
use crate::graph::TensorType;
use crate::graph::cuda::{CudaCall, CudaOperand};
use crate::tensor::DType;

/// Rows of a block of `attention_delta_*`.
const DELTA_ROWS: usize = 16;
/// Side of the tile of the bias that a block of `attention_dbias_*` owns.
const BIAS_TILE: usize = 32;

/// A form of a kernel: what its name says of it, the tokens that a block owns, and the columns of its results.
struct Form {
    name: &'static str,
    tokens: usize,
    width: usize,
}

impl Form {
    /// The FMA units, for every depth and layout.
    const ANY: Form = Form { name: "any_w128", tokens: 64, width: 128 };
    /// The same for deep heads in f32: no block repeats the scores of another.
    const ANY_DEEP: Form = Form { name: "any_w512", tokens: 32, width: 512 };

    /// Tensor cores for deep heads: needs the shared memory of an A100 or H100.
    const WIDE: Form = Form { name: "mma_d512", tokens: 64, width: 512 };

    /// Tensor cores for depths up to 64 and up to 72, for a kernel whose blocks own so many tokens.
    fn tensor_cores(depth: usize, tokens: usize) -> Form {
        Form { name: if depth <= 64 { "mma_d64" } else { "mma_d72" }, tokens, width: 72 }
    }

    /// Blocks along x: one a tile of tokens, head and batch entry; along y: columns of the results.
    fn grid(&self, tokens: usize, p: &AttentionProblem) -> [u32; 3] {
        let tiles = tokens.div_ceil(self.tokens) * p.heads as usize * p.batch as usize;
        [tiles as u32, (p.depth as usize).div_ceil(self.width).max(1) as u32, 1]
    }
}

/// Whether the tensor-core kernels take these operands (queries, keys, values and what is like them): half
/// precision, rows that start at and consist of 16-byte units, and a factor that keeps the order of the dot
/// products.
pub(super) fn for_tensor_cores(op: &Attention, operands: &[&CudaOperand]) -> bool {
    op.scale > 0.0 && operands.iter().all(|o| o.ty.dtype.size() == 2 && o.vectors(8))
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

pub(super) fn forward(op: &Attention, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
    let p = problem(op, call);
    let dtype = call.inputs[0].ty.dtype;
    if call.outputs[1].ty.is_empty() {
        return Ok(vec![]);
    }
    let params = AttentionFwd { problem: p, out: call.outputs[0].address, lse: call.outputs[1].address };
    if let Some(launch) = cuda_sm90::forward(op, &params, call) {
        return Ok(vec![launch?]);
    }
    let [q, k, v] = [0, 1, 2].map(|i| &call.inputs[i]);
    let depth = p.depth as usize;
    let form = match for_tensor_cores(op, &[q, k, v]) {
        true if depth <= 72 => Form::tensor_cores(depth, 128),
        true if (257..=512).contains(&depth) && !matches!(call.device.arch, 86 | 89) => Form::WIDE,
        _ if depth > 128 && dtype == DType::F32 => Form::ANY_DEEP,
        _ => Form::ANY,
    };
    let kernel = format!("attention_fwd_{}_{dtype}", form.name);
    Ok(vec![Launch::new(kernel, form.grid(p.queries as usize, &p), &params)])
}

/// Bytes of `delta`.
pub(super) fn backward_scratch(op: &AttentionGrad, inputs: &[&TensorType]) -> usize {
    inputs[op.out_at() + 1].bytes()
}

pub(super) fn backward(op: &AttentionGrad, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
    let p = problem(&op.forward, call);
    let dtype = call.inputs[0].ty.dtype;
    let at = op.out_at();
    let [q, k, v, out, lse, d_out] = [0, 1, 2, at, at + 1, at + 2].map(|i| &call.inputs[i]);
    let bias_shape = if op.d_bias { &call.inputs[3].ty.shape[..2] } else { &[0, 0] };
    let result = |k: usize| call.outputs.get(k).map_or(0, |o| o.address);
    let params = AttentionBwd {
        problem: p,
        out: tensor(out),
        d_out: tensor(d_out),
        lse: lse.address,
        d_lse: if op.d_lse { call.inputs[at + 3].address } else { 0 },
        delta: call.scratch,
        dq: result(0),
        dk: result(1),
        dv: result(2),
        d_bias: result(3),
        bias_batch: bias_shape[0] as i32,
        bias_heads: bias_shape[1] as i32,
    };
    let depth = p.depth as usize;
    let tiles = |n: i32| (n as usize).div_ceil(BIAS_TILE);
    let bias_tiles = tiles(p.queries) * tiles(p.keys) * bias_shape.iter().product::<usize>();
    let launch = |name: String, blocks: [u32; 3]| {
        (blocks[0] > 0).then(|| Launch::new(format!("attention_{name}"), blocks, &params))
    };
    let delta = launch(format!("delta_{dtype}"), [lse.ty.len().div_ceil(DELTA_ROWS) as u32, 1, 1]);
    let d_bias = launch(format!("dbias_any_{dtype}"), [bias_tiles as u32, 1, 1]);
    let products = match cuda_sm90::backward(&op.forward, &params, call, d_out) {
        Some(launches) => launches?.map(Some),
        None => {
            let tensor_cores = depth <= 72 && for_tensor_cores(&op.forward, &[q, k, v, d_out]);
            let form = if tensor_cores { Form::tensor_cores(depth, 64) } else { Form::ANY };
            [
                launch(format!("dkv_{}_{dtype}", form.name), form.grid(p.keys as usize, &p)),
                launch(format!("dq_{}_{dtype}", form.name), form.grid(p.queries as usize, &p)),
            ]
        }
    };
    Ok(delta.into_iter().chain(products.into_iter().flatten()).chain(d_bias).collect())
}
