//! The product with its norms in one launch where its kernel can; else the norms' own kernels behind it.

use super::{LinearNorm, MOST_NORMS, Norm, Producer};
use crate::device::kernel::Launch;
use crate::ffi::{RowNorm, RowNorms};
use crate::graph::cuda::{CudaCall, CudaOperand};
use crate::graph::{Layout, TensorType};
use crate::ops::rows::sample_step;
use crate::ops::{linear, linear_modulate};

/// Longest row that a warp of the kernels keeps in registers.
const LONGEST: usize = 1280;

pub(super) fn forward(op: &LinearNorm, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
    let norms = in_product(op, call);
    let (own, rest) = call.inputs.split_at(op.producer.arity());
    let (results, also) = call.outputs.split_at(1 + op.norms.len());
    let mut product = CudaCall {
        inputs: own.to_vec(),
        outputs: results[..1].iter().chain(also).cloned().collect(),
        scratch: call.scratch,
        device: call.device,
        constants: &mut *call.constants,
        tensor_map: call.tensor_map,
    };
    let (given, apart) = (norms.unwrap_or_default(), norms.is_none());
    let mut launches = match &op.producer {
        Producer::Linear(op) => linear::cuda::forward(op, &product, given)?,
        Producer::Modulate(op) => linear_modulate::cuda::forward(op, &mut product, given)?,
    };
    let y = &results[0];
    let dense = Layout::dense(&y.ty.shape);
    for ((norm, vectors), result) in op.norms.iter().zip(rest.chunks(2)).zip(&results[1..]).filter(|_| apart)
    {
        let x = CudaOperand { ty: y.ty.clone(), layout: &dense, address: y.address };
        launches.extend(norm.op().cuda(&mut CudaCall {
            inputs: [&[x][..], vectors].concat(),
            outputs: vec![result.clone()],
            scratch: 0,
            device: call.device,
            constants: &mut *call.constants,
            tensor_map: call.tensor_map,
        })?);
    }
    Ok(launches)
}

/// The norms as the product's kernel takes them, if it can: rows that a warp holds, of whole vectors.
fn in_product(op: &LinearNorm, call: &mut CudaCall) -> Option<RowNorms> {
    let (y, n) = (&call.outputs[0], call.outputs[0].ty.last());
    let (own, vectors) = call.inputs.split_at(op.producer.arity());
    let types: Vec<&TensorType> = own.iter().map(|o| &o.ty).collect();
    let rows = match &op.producer {
        // Hopper's own products leave norms to the norms' kernels.
        Producer::Linear(_) if !call.device.hopper && linear::cuda::in_tiles(&types) => {
            linear::cuda::extents(types[0], types[1]).tile_rows()
        }
        Producer::Modulate(op) if linear_modulate::cuda::in_tiles(op, &types) => {
            linear_modulate::cuda::tile_rows(&y.ty)
        }
        _ => return None,
    };
    if y.ty.is_empty() || n > LONGEST || !vectors.iter().all(|v| v.vectors(4)) {
        return None;
    }
    let mut norms = RowNorms {
        counters: (call.constants)(&vec![0; rows * size_of::<u32>()]),
        count: op.norms.len() as i32,
        tokens: y.ty.shape[y.ty.rank().saturating_sub(2)].max(1) as i32,
        norms: [RowNorm::default(); MOST_NORMS],
    };
    for (i, (norm, vectors)) in op.norms.iter().zip(vectors.chunks(2)).enumerate() {
        let y = call.outputs[1 + i].address;
        norms.norms[i] = match norm {
            Norm::Adaln(norm) => RowNorm {
                y,
                shift: vectors[0].address,
                scale: vectors[1].address,
                shift_step: sample_step(&vectors[0]),
                scale_step: sample_step(&vectors[1]),
                eps: norm.eps,
                plus: 1.0,
            },
            Norm::LayerNorm(norm) => RowNorm {
                y,
                scale: vectors[0].address,
                shift: vectors[1].address,
                shift_step: 0,
                scale_step: 0,
                eps: norm.eps,
                plus: 0.0,
            },
        };
    }
    Some(norms)
}
