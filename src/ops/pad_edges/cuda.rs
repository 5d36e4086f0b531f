//! Forward a gather along the padded axes; the gradient a sum along each of them.

use super::PadEdges;
use crate::device::kernel::Launch;
use crate::graph::TensorType;
use crate::graph::cuda::CudaCall;
use crate::graph::strided::{Gather, copy, gather};
use crate::ops::resize::cuda::{Along, Tables, along};
use crate::tensor::DType;

pub(super) fn forward(pad: &PadEdges, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
    let (x, y) = (&call.inputs[0], &call.outputs[0]);
    let tables = pad.sources(&x.ty.shape);
    let axis = |(&extent, sources): (&usize, &Vec<usize>)| match sources.len() == extent {
        true => Gather::All { extent },
        false => Gather::Table { extent, table: sources.iter().map(|&s| s as i32).collect() },
    };
    let axes = x.ty.shape.iter().zip(&tables).map(axis).collect();
    gather(x.address, y.address, y.ty.dtype, axes, call.constants)
}

/// Room for two tensors between passes, none of which is larger than dy.
pub(super) fn backward_scratch(dy: &TensorType) -> usize {
    2 * (dy.len() * DType::F32.size()).next_multiple_of(256)
}

pub(super) fn backward(pad: &PadEdges, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
    let (dy, dx) = (&call.inputs[0], &call.outputs[0]);
    if dx.ty.is_empty() {
        return Ok(vec![]);
    }
    let sources = pad.sources(&dx.ty.shape);
    let padded: Vec<usize> = (0..dx.ty.rank()).filter(|&a| sources[a].len() != dx.ty.shape[a]).collect();
    let (mut shape, mut from) = (dy.ty.shape.clone(), dy.address);
    let mut launches = Vec::new();
    for (i, &axis) in padded.iter().enumerate() {
        let to = if i + 1 == padded.len() {
            dx.address
        } else {
            call.scratch + (i % 2 * backward_scratch(&dy.ty) / 2) as u64
        };
        let n = dx.ty.shape[axis];
        let mut places = vec![Vec::new(); n];
        sources[axis].iter().enumerate().for_each(|(place, &source)| places[source].push((place, 1.0)));
        let pass = Along {
            outer: shape[..axis].iter().product(),
            from: shape[axis],
            inner: shape[axis + 1..].iter().product(),
        };
        let tables = Tables::new(places.iter().map(Vec::as_slice), call.constants);
        launches.extend(along(&pass, &tables, (from, DType::F32), (to, DType::F32))?);
        shape[axis] = n;
        from = to;
    }
    if padded.is_empty() {
        return copy(dy, dx);
    }
    Ok(launches)
}
