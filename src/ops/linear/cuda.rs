//! A product with an epilogue: see [`crate::ops::matmul`] for the choice of the kernel.

use super::Linear;
use crate::device::kernel::Launch;
use crate::ffi::RowNorms;
use crate::graph::TensorType;
use crate::graph::cuda::{CudaCall, Storage};
use crate::ops::matmul::cuda::{Extents, FEW_ROWS, Matrix, Product};
use crate::ops::rows::sample_step;
use crate::tensor::DType;

/// x and W in the compute type; an f32 product reads W as it is kept. The result is in the compute type, or
/// like the residual, which is read as it is kept: f32 in a residual stream. A few rows that are kept in f32
/// stay so, and so does their result (the way from a time step to modulation vectors): converting them costs
/// more than it saves, since all the time goes into reading W.
pub(super) fn storage(op: &Linear, inputs: &[&TensorType], kept: &[DType], compute: DType) -> Storage {
    let few = extents(inputs[0], inputs[1]).m <= FEW_ROWS && kept[0] == DType::F32;
    let x = if few { DType::F32 } else { compute };
    let w = if compute == DType::F32 { kept[1] } else { compute };
    let mut types = vec![x, w];
    types.extend(op.bias.then_some(DType::F32));
    types.extend(op.epilogue.gate.then_some(DType::F32));
    let mut y = x;
    if op.epilogue.residual {
        y = if kept[op.arity() - 1] == x { x } else { DType::F32 };
        types.push(y);
    }
    Storage { inputs: types, outputs: vec![y] }
}

pub(in crate::ops) fn extents(x: &TensorType, w: &TensorType) -> Extents {
    let [n, k] = w.shape[..] else { unreachable!("infer takes a matrix") };
    let m = x.shape[..x.shape.len() - 1].iter().product();
    Extents { batch: 1, grouped: false, m, k, n, trans_a: false, trans_b: true, half: x.dtype != DType::F32 }
}

pub(super) fn scratch(inputs: &[&TensorType]) -> usize {
    extents(inputs[0], inputs[1]).scratch()
}

/// Whether the result is made by blocks that can do more with it than store it.
pub(in crate::ops) fn in_tiles(inputs: &[&TensorType]) -> bool {
    extents(inputs[0], inputs[1]).in_tiles()
}

/// With `norms` of the rows of the result. A second result is the first one in x's type.
pub(in crate::ops) fn forward(op: &Linear, call: &CudaCall, norms: RowNorms) -> Result<Vec<Launch>, String> {
    product(op, call, norms).launches(call)
}

pub(super) fn product(op: &Linear, call: &CudaCall, norms: RowNorms) -> Product {
    let (x, w) = (&call.inputs[0], &call.inputs[1]);
    let (_, k, step) = x.layout.as_rows().expect("accepts() asks for rows");
    let y = &call.outputs[0];
    let mut epilogue = op.epilogue.on_cuda(op.bias.then(|| &call.inputs[2]), call.inputs.last());
    epilogue.twin = call.outputs.get(1).map_or(0, |twin| twin.address);
    if let Some(i) = op.gate() {
        epilogue.gate = call.inputs[i].address;
        epilogue.gate_step = sample_step(&call.inputs[i]);
        epilogue.gate_rows = y.ty.shape[1] as i32;
    }
    Product {
        extents: extents(&x.ty, &w.ty),
        a: Matrix::new(x, step, 0),
        b: Matrix::new(w, k, 0),
        y: y.address,
        y_dtype: y.ty.dtype,
        epilogue,
        norms,
        scratch: call.scratch,
        group: vec![],
    }
}
