//! Sums over broadcast axes by the kernels of `cuda/reduce.cu`, a run of adjacent axes at a time.

use super::SumTo;
use crate::device::kernel::Launch;
use crate::graph::cuda::CudaCall;
use crate::ops::reduce::{Kind, cuda::launches, cuda::scratch_bytes};

/// The `[outer, n, inner]` of which the middle axis goes, one after another: the last run of summed axes
/// first. Axes of extent 1 do not count.
fn stages(op: &SumTo, shape: &[usize]) -> Vec<(usize, usize, usize)> {
    let lead = shape.len() - op.shape.len();
    let mut runs: Vec<(usize, bool)> = Vec::new(); // extent, whether it is summed
    for (axis, &extent) in shape.iter().enumerate().filter(|(_, extent)| **extent != 1) {
        let summed = axis < lead || op.shape[axis - lead] == 1;
        match runs.last_mut() {
            Some((all, s)) if *s == summed => *all *= extent,
            _ => runs.push((extent, summed)),
        }
    }
    let mut inner = 1;
    let mut stages = Vec::new();
    for (i, &(extent, summed)) in runs.iter().enumerate().rev() {
        if summed {
            stages.push((runs[..i].iter().map(|r| r.0).product(), extent, inner));
        } else {
            inner *= extent;
        }
    }
    if stages.is_empty() {
        stages.push((1, 1, inner)); // the same elements under another shape
    }
    stages
}

/// Room of a stage in scratch: its partial results, then its result.
fn rooms(axes: (usize, usize, usize)) -> (usize, usize) {
    (scratch_bytes(axes).next_multiple_of(256), (axes.0 * axes.2 * 4).next_multiple_of(256))
}

pub(super) fn scratch(op: &SumTo, shape: &[usize]) -> usize {
    stages(op, shape).into_iter().map(rooms).map(|(partial, result)| partial + result).sum()
}

pub(super) fn forward(op: &SumTo, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let stages = stages(op, &call.inputs[0].ty.shape);
    let (mut x, mut scratch) = (call.inputs[0].address, call.scratch);
    let mut all = Vec::new();
    for (i, &axes) in stages.iter().enumerate() {
        let (partial, result) = rooms(axes);
        let y = if i + 1 == stages.len() { call.outputs[0].address } else { scratch + partial as u64 };
        all.extend(launches(Kind::Sum, axes, (x, y), scratch));
        x = y;
        scratch += (partial + result) as u64;
    }
    Ok(all)
}
