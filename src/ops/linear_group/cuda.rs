//! One launch of `cuda/gemm.cu` for all members: see [`crate::ops::matmul`] for the choice of the kernel.

use super::LinearGroup;
use crate::device::kernel::Launch;
use crate::ffi::{GemmMember, RowNorms};
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{Op, TensorType};
use crate::ops::linear;
use crate::ops::matmul::cuda::{Extents, Matrix, Product};
use crate::tensor::DType;

/// As a member wants it, all alike: where x or W are kept in different types, as if in f32.
pub(super) fn storage(
    op: &LinearGroup,
    inputs: &[&TensorType],
    outputs: &[&TensorType],
    kept: &[DType],
    compute: DType,
) -> Storage {
    let arity = op.arity();
    let common = |k: usize| {
        let mut all = kept[k..].iter().step_by(arity);
        let first = *all.next().expect("infer counted");
        if all.all(|&d| d == first) { first } else { DType::F32 }
    };
    let kept: Vec<_> = (0..arity).map(common).collect();
    let one = op.member().cuda_storage(&inputs[..arity], &outputs[..1], &kept, compute);
    Storage { inputs: one.inputs.repeat(op.members), outputs: one.outputs.repeat(op.members) }
}

pub(super) fn forward(op: &LinearGroup, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let members: Vec<_> = call.inputs.chunks(op.arity()).zip(&call.outputs).collect();
    let step = |i: usize| members[i].0[0].layout.as_rows().expect("accepts() asks for rows").2;
    let (x, w, y) = (&call.inputs[0], &call.inputs[1], &call.outputs[0]);
    let matrices = |operand: usize, step: &dyn Fn(usize) -> usize| {
        let all = members.iter().enumerate();
        all.map(|(i, m)| Matrix::new(&m.0[operand], step(i), 0)).collect::<Vec<_>>()
    };
    let k = w.ty.shape[1];
    let (a, b) = (matrices(0, &step), matrices(1, &|_| k));
    let group = members.iter().enumerate().map(|(i, (inputs, y))| GemmMember {
        a: inputs[0].address,
        b: inputs[1].address,
        y: y.address,
        bias: inputs.get(2).map_or(0, |b| b.address),
        a_step: step(i) as i64,
    });
    let product = Product {
        extents: Extents { batch: op.members, grouped: true, ..linear::cuda::extents(&x.ty, &w.ty) },
        a: Matrix::aligned_as(&a),
        b: Matrix::aligned_as(&b),
        y: y.address,
        y_dtype: y.ty.dtype,
        epilogue: op.epilogue.on_cuda(op.bias.then(|| &call.inputs[2]), None),
        norms: RowNorms::default(),
        scratch: 0,
        group: group.collect(),
    };
    product.launches(call)
}
