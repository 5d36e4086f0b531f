//! A gather along the padded axes.

use super::Pad;
use crate::device::kernel::Launch;
use crate::graph::cuda::CudaCall;
use crate::graph::strided::{Gather, gather};

pub(super) fn forward(pad: &Pad, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
    let (x, y) = (&call.inputs[0], &call.outputs[0]);
    let axes = |(i, &extent): (usize, &usize)| {
        let (before, after) = (pad.before[i], pad.after[i]);
        if before + after == 0 {
            return vec![Gather::All { extent }];
        }
        // In whole blocks, whose elements stay together.
        let block = gcd(gcd(before, after), extent);
        let (before, extent, after) = (before / block, extent / block, after / block);
        let source = |at: usize| at.checked_sub(before).filter(|&at| at < extent).map_or(-1, |at| at as i32);
        let table = (0..before + extent + after).map(source).collect();
        vec![Gather::Table { extent, table }, Gather::All { extent: block }]
    };
    let axes = x.ty.shape.iter().enumerate().flat_map(axes).collect();
    gather(x.address, y.address, y.ty.dtype, axes, call.constants)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
