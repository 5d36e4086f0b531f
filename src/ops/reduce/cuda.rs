//! Which kernels of `cuda/reduce.cu` run, and with what.

use super::{Kind, Reduce, ReduceMaxGrad, fold};
use crate::device::kernel::Launch;
use crate::ffi::{ReduceFwd, ReduceMaxBwd};
use crate::graph::cuda::CudaCall;

/// Threads of a block: `THREADS` of the kernels.
const THREADS: usize = 256;
const WARPS: usize = THREADS / 32;
/// Warps and blocks that keep a large GPU busy. Constants, since the sums must not depend on the device.
const BUSY_WARPS: usize = 4096;
const BUSY_BLOCKS: usize = 864;

/// How `[outer, n, inner]` is cut: columns of a block (where `inner` > 1) and length of a slab of n.
fn cut((outer, n, inner): (usize, usize, usize)) -> (usize, usize) {
    if inner == 1 {
        // A warp a slab; 256 is one round of its loads.
        let slabs = (BUSY_WARPS / outer.max(1)).max(1);
        return (1, n.div_ceil(slabs).next_multiple_of(256).max(1024));
    }
    // Threads that share out the axis have 8 numbers each at least.
    let down = (n / 8).clamp(1, 8).next_power_of_two();
    let tile = inner.next_power_of_two().min(THREADS / down);
    let slabs = BUSY_BLOCKS.div_ceil((outer * inner.div_ceil(tile)).max(1));
    (tile, n.div_ceil(slabs).max(THREADS / tile * 16))
}

/// Scratch of [`launches`].
pub(in crate::ops) fn scratch_bytes(axes: (usize, usize, usize)) -> usize {
    let (outer, n, inner) = axes;
    let slabs = n.div_ceil(cut(axes).1);
    if slabs > 1 { outer * slabs * inner * 4 } else { 0 }
}

/// Reduces the middle axis of x `[outer, n, inner]`, f32 and dense, into y.
pub(in crate::ops) fn launches(
    kind: Kind,
    axes: (usize, usize, usize),
    (x, y): (u64, u64),
    scratch: u64,
) -> Vec<Launch> {
    let (outer, n, inner) = axes;
    if outer * inner == 0 {
        return vec![];
    }
    let launch = |x: u64, n: usize, slab: usize, y: u64, scale: f32| {
        let slabs = n.div_ceil(slab).max(1);
        let tile = cut((outer, n, inner)).0;
        let params = ReduceFwd {
            x,
            y,
            outer: outer as i64,
            n: n as i64,
            inner: inner as i64,
            slab: slab as i64,
            slabs: slabs as i64,
            tile: tile as i32,
            scale,
        };
        let (form, blocks) = match inner {
            1 => ("rows", (outer * slabs).div_ceil(WARPS)),
            _ => ("columns", outer * slabs * inner.div_ceil(tile)),
        };
        let what = if kind == Kind::Max { "max" } else { "sum" };
        Launch::new(format!("reduce_{form}_{what}_f32"), [blocks as u32, 1, 1], &params)
    };
    let scale = if kind == Kind::Mean { 1.0 / n as f32 } else { 1.0 };
    let slab = cut(axes).1;
    let slabs = n.div_ceil(slab);
    if slabs <= 1 {
        return vec![launch(x, n, slab, y, scale)];
    }
    vec![launch(x, n, slab, scratch, 1.0), launch(scratch, slabs, slabs, y, scale)]
}

pub(super) fn forward(op: &Reduce, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let x = &call.inputs[0];
    let axes = fold(&x.ty.shape, op.axis, op.count);
    Ok(launches(op.kind, axes, (x.address, call.outputs[0].address), call.scratch))
}

pub(super) fn max_backward(op: &ReduceMaxGrad, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [x, y, dy] = &call.inputs[..] else { unreachable!("infer takes three operands") };
    let (outer, n, inner) = fold(&x.ty.shape, op.axis, op.count);
    if x.ty.is_empty() {
        return Ok(vec![]);
    }
    let params = ReduceMaxBwd {
        x: x.address,
        y: y.address,
        dy: dy.address,
        dx: call.outputs[0].address,
        outer: outer as i64,
        n: n as i64,
        inner: inner as i64,
    };
    let (kernel, blocks) = match inner {
        1 => ("reduce_max_grad_rows_f32", outer.div_ceil(WARPS)),
        _ => ("reduce_max_grad_columns_f32", (outer * inner).div_ceil(THREADS)),
    };
    Ok(vec![Launch::new(kernel, [blocks as u32, 1, 1], &params)])
}
