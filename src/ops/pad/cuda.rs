//! A gather along the padded axes.

use super::Pad;
use crate::device::kernel::Launch;
use crate::graph::cuda::CudaCall;
use crate::ops::view::cuda::{Gather, gather};

pub(super) fn forward(pad: &Pad, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
    let (x, y) = (&call.inputs[0], &call.outputs[0]);
    let axis = |(i, &extent): (usize, &usize)| match (pad.before[i], pad.after[i]) {
        (0, 0) => Gather::All { extent },
        (before, after) => Gather::Table {
            extent,
            table: (0..before + extent + after)
                .map(|at| at.checked_sub(before).filter(|&at| at < extent).map_or(-1, |at| at as i32))
                .collect(),
        },
    };
    let axes = x.ty.shape.iter().enumerate().map(axis).collect();
    gather(x.address, y.address, y.ty.dtype, axes, call.constants)
}
