//! Which kernels of `cuda/window_attention.cu` and `cuda/window_attention_f32.cu` run, and with what.

use super::{WindowAttention, Windows};
use crate::device::kernel::Launch;
use crate::ffi::{
    WindowAttentionFwd, WindowAttentionGrad, WindowAttentionGradTable, WindowGrid, WindowSteps,
};
use crate::graph::TensorType;
use crate::graph::cuda::{CudaCall, CudaOperand, Storage};
use crate::tensor::DType;

/// Queries (or keys) of a block of the `any` kernels, entries of one of `grad_table`: one a warp.
const ANY_ROWS: usize = 4;
/// Windows are summed in up to this many groups for the gradient of the bias table: with six heads three
/// blocks a multiprocessor of an A100.
const GROUPS: usize = 54;
/// Windows of a group at least, so that what a block does once is done for more than one.
const PER_GROUP: usize = 2;
/// Heads and tokens of a block of the `tile` kernels, and greatest depth.
const TILE_HEADS: usize = 2;
const TILE: usize = 64;
const TILE_DEPTH: usize = 32;
/// Side of a window, and greatest depth, of the tensor-core kernels.
const MMA_WINDOW: usize = 8;
const MMA_DEPTH: usize = 32;
/// Heads of a block of `fwd_8x8`.
const MMA_HEADS: usize = 3;

/// Whether the tensor-core kernels fit; all else is computed in f32.
fn is_mma(op: &WindowAttention, qkv: &TensorType) -> bool {
    op.window == MMA_WINDOW && qkv.last() / (3 * op.heads) <= MMA_DEPTH
}

/// Operands and results in the compute type, the bias table in f32.
pub(super) fn storage(
    op: &WindowAttention,
    inputs: &[&TensorType],
    outputs: &[&TensorType],
    compute: DType,
) -> Storage {
    if !is_mma(op, inputs[0]) {
        return Storage::of_graph(inputs, outputs);
    }
    let table = &inputs[1].shape;
    let of = |t: &&TensorType| if t.shape == *table { DType::F32 } else { compute };
    Storage { inputs: inputs.iter().map(of).collect(), outputs: outputs.iter().map(of).collect() }
}

impl Windows {
    fn grid(&self) -> WindowGrid {
        WindowGrid {
            height: self.height as i32,
            width: self.width as i32,
            window: self.window as i32,
            shift: self.shift as i32,
            heads: self.heads as i32,
            depth: self.depth as i32,
        }
    }

    /// Windows of a group, and the number of groups.
    fn groups(&self) -> (usize, usize) {
        let per_group = self.count().div_ceil(GROUPS).max(PER_GROUP);
        (per_group, self.count().div_ceil(per_group))
    }

    /// Bytes of the scores' gradient, summed over the windows of each group.
    fn d_bias_bytes(&self) -> usize {
        (4 * self.groups().1 * self.heads * self.tokens() * self.tokens()).next_multiple_of(256)
    }

    /// Bytes of the statistics of every row of scores.
    fn stats_bytes(&self) -> usize {
        4 * self.count() * self.heads * 3 * self.tokens()
    }
}

fn steps(o: &CudaOperand) -> WindowSteps {
    let s = &o.layout.strides;
    WindowSteps { image: s[0] as i64, row: s[1] as i64, column: s[2] as i64 }
}

pub(super) fn forward(op: &WindowAttention, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [qkv, table] = &call.inputs[..] else { unreachable!("infer takes two operands") };
    let out = &call.outputs[0];
    if out.ty.is_empty() {
        return Ok(vec![]);
    }
    let g = Windows::of(op, &qkv.ty.shape);
    let half = qkv.ty.dtype != DType::F32;
    let params = WindowAttentionFwd {
        qkv: qkv.address,
        table: table.address,
        out: out.address,
        steps: steps(qkv),
        grid: g.grid(),
        scale: op.scale,
        pairs: (half && g.depth.is_multiple_of(2) && qkv.vectors(2)) as i32,
    };
    if half {
        let grid = [g.count(), g.heads.div_ceil(MMA_HEADS), 1].map(|n| n as u32);
        return Ok(vec![Launch::new(format!("window_attention_fwd_8x8_{}", qkv.ty.dtype), grid, &params)]);
    }
    if g.depth <= TILE_DEPTH {
        let grid = [g.count(), g.heads.div_ceil(TILE_HEADS), g.tokens().div_ceil(TILE)].map(|n| n as u32);
        return Ok(vec![Launch::new("window_attention_fwd_tile_f32", grid, &params)]);
    }
    let grid = [g.count(), g.heads, g.tokens().div_ceil(ANY_ROWS)].map(|n| n as u32);
    Ok(vec![Launch::new("window_attention_fwd_any_f32", grid, &params)])
}

pub(super) fn backward_scratch(op: &WindowAttention, qkv: &TensorType) -> usize {
    let g = Windows::of(op, &qkv.shape);
    g.d_bias_bytes() + g.stats_bytes()
}

pub(super) fn backward(op: &WindowAttention, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [qkv, table, d_out] = &call.inputs[..] else { unreachable!("infer takes three operands") };
    let [d_qkv, d_table] = &call.outputs[..] else { unreachable!("infer gives two results") };
    let g = Windows::of(op, &qkv.ty.shape);
    let (per_group, mut groups) = g.groups();
    let half = qkv.ty.dtype != DType::F32;
    let params = WindowAttentionGrad {
        qkv: qkv.address,
        table: table.address,
        d_out: d_out.address,
        d_qkv: d_qkv.address,
        d_bias: call.scratch,
        stats: call.scratch + g.d_bias_bytes() as u64,
        steps: steps(qkv),
        d_out_steps: steps(d_out),
        grid: g.grid(),
        windows: g.count() as i32,
        per_group: per_group as i32,
        scale: op.scale,
        pairs: (half && g.depth.is_multiple_of(2) && qkv.vectors(2) && d_out.vectors(2)) as i32,
    };
    let mut launches = Vec::new();
    if d_qkv.ty.is_empty() {
        groups = 0; // the table's gradient is zero
    } else if half {
        let grid = [groups as u32, g.heads as u32, 1];
        launches.push(Launch::new(format!("window_attention_grad_8x8_{}", qkv.ty.dtype), grid, &params));
    } else if g.depth <= TILE_DEPTH && g.tokens() <= TILE {
        let grid = [groups, g.heads.div_ceil(TILE_HEADS), 1].map(|n| n as u32);
        launches.push(Launch::new("window_attention_grad_tile_f32", grid, &params));
    } else {
        let launch = |what: &str, blocks: usize| {
            let grid = [blocks, g.heads, g.tokens().div_ceil(ANY_ROWS)].map(|n| n as u32);
            Launch::new(format!("window_attention_grad_any_{what}_f32"), grid, &params)
        };
        launches.extend([launch("queries", groups), launch("keys", g.count())]);
    }
    let sums = WindowAttentionGradTable {
        d_bias: params.d_bias,
        d_table: d_table.address,
        groups: groups as i32,
        heads: g.heads as i32,
        window: g.window as i32,
        reserved: 0,
    };
    let blocks = d_table.ty.len().div_ceil(ANY_ROWS) as u32;
    launches.push(Launch::new("window_attention_grad_table_f32", [blocks, 1, 1], &sums));
    Ok(launches)
}
