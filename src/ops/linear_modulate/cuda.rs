//! Which kernels run, and with what: one product of `cuda/linear_modulate.cu` for operands in half precision;
//! in f32 the layers one by one, then the modulation.

use super::{EXPERT, LinearModulate};
use crate::device::kernel::Launch;
use crate::ffi;
use crate::graph::cuda::{CudaCall, CudaOperand, CudaResult, Storage};
use crate::graph::{Layout, Op, TensorType};
use crate::ops::matmul::cuda::Matrix;
use crate::tensor::DType;

/// Most experts of the kernels.
const MOST: usize = ffi::MODULATE_EXPERTS as usize;
/// Tiles of 128×128 sums from which on they fill a device: those of an A100's multiprocessors, whatever it is.
const ENOUGH: usize = 108;

/// x is the residual stream, f32, and so is the result. The layers are as `linear` wants them, the logits like h.
pub(super) fn storage(op: &LinearModulate, operands: usize, kept: &[DType], compute: DType) -> Storage {
    let inputs = (0..operands).map(|i| match i.checked_sub(op.first()).map(|i| i % EXPERT) {
        None if i == 0 => DType::F32,
        None | Some(0) => compute,
        Some(1 | 3) if compute == DType::F32 => kept[i],
        Some(1 | 3) => compute,
        Some(_) => DType::F32,
    });
    Storage { inputs: inputs.collect(), outputs: vec![DType::F32] }
}

/// Whether one product does it all, for operands of these types in memory.
pub(in crate::ops) fn in_tiles(op: &LinearModulate, inputs: &[&TensorType]) -> bool {
    inputs[op.first()].dtype != DType::F32 && op.experts <= MOST
}

/// Side of the tiles of sums, twice as many as results, that a block computes.
fn tile(m: usize, n: usize) -> usize {
    if m.div_ceil(128) * (2 * n).div_ceil(128) >= ENOUGH { 128 } else { 64 }
}

/// Rows of tiles: what norms of the result count by.
pub(in crate::ops) fn tile_rows(y: &TensorType) -> usize {
    let (n, m) = (y.last(), y.len() / y.last().max(1));
    m.div_ceil(tile(m, n))
}

/// A γ or β in memory, where there are such.
fn made_bytes(y: &TensorType) -> usize {
    y.bytes().next_multiple_of(256)
}

pub(super) fn scratch(op: &LinearModulate, inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
    if in_tiles(op, inputs) {
        return 0;
    }
    let [&h, &w, &b] = op.layers(inputs)[0];
    2 * op.experts * made_bytes(outputs[0]) + LinearModulate::layer().cuda_scratch(&[h, w, b], &outputs[..1])
}

/// With `norms` of the rows of the result, only where it is made [`in_tiles`]. A second result is the first one
/// in h's type.
pub(in crate::ops) fn forward(
    op: &LinearModulate,
    call: &mut CudaCall,
    norms: ffi::RowNorms,
) -> Result<Vec<Launch>, String> {
    let y = &call.outputs[0];
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let types: Vec<_> = call.inputs.iter().map(|o| &o.ty).collect();
    let fused = in_tiles(op, &types);
    if fused { Ok(vec![product(op, call, norms)]) } else { one_by_one(op, call) }
}

fn product(op: &LinearModulate, call: &CudaCall, norms: ffi::RowNorms) -> Launch {
    let (x, y) = (&call.inputs[0], &call.outputs[0]);
    let experts = call.inputs[op.first()..].chunks(EXPERT);
    let h_step = |h: &CudaOperand| h.layout.as_rows().expect("accepts() asks for rows").2;
    let k = experts.clone().next().expect("at least one")[0].ty.last();
    let matrices = |at: usize| experts.clone().map(move |e| Matrix::new(&e[at], k, 0));
    let hs: Vec<_> = experts.clone().map(|e| Matrix::new(&e[0], h_step(&e[0]), 0)).collect();
    let ws: Vec<_> = matrices(1).chain(matrices(3)).collect();
    let logits = op.routed.then(|| &call.inputs[1]);
    let (n, m) = (y.ty.last(), y.ty.len() / y.ty.last());
    let mut params = ffi::LinearModulate {
        norms,
        x: x.address,
        y: y.address,
        twin: call.outputs.get(1).map_or(0, |twin| twin.address),
        logits: logits.map_or(0, |o| o.address),
        logits_step: logits.map_or(0, |o| h_step(o) as i64),
        m: m as i32,
        n: n as i32,
        k: k as i32,
        count: op.experts as i32,
        h_align: Matrix::aligned_as(&hs).align(),
        w_align: Matrix::aligned_as(&ws).align(),
        vectors: (x.vectors(4) && experts.clone().all(|e| e[2].vectors(4) && e[4].vectors(4))).into(),
        ..Default::default()
    };
    for (to, e) in params.experts.iter_mut().zip(experts) {
        *to = ffi::ModulateExpert {
            h: e[0].address,
            w_gamma: e[1].address,
            b_gamma: e[2].address,
            w_beta: e[3].address,
            b_beta: e[4].address,
            h_step: h_step(&e[0]) as i64,
        };
    }
    let side = tile(m, n);
    let blocks = m.div_ceil(side) * (2 * n).div_ceil(side);
    let kernel = format!("linear_modulate_{side}x{side}_{}", call.inputs[op.first()].ty.dtype);
    Launch::new(kernel, [blocks as u32, 1, 1], &params)
}

fn one_by_one(op: &LinearModulate, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
    let made = TensorType::f32(call.outputs[0].ty.shape.clone());
    let dense = Layout::dense(&made.shape);
    let layers = op.layers(&call.inputs);
    let place = |i: usize| call.scratch + (i * made_bytes(&made)) as u64;
    let mut launches = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        launches.extend(LinearModulate::layer().cuda(&mut CudaCall {
            inputs: layer.map(CudaOperand::clone).into(),
            outputs: vec![CudaResult { ty: made.clone(), address: place(i) }],
            scratch: place(layers.len()),
            device: call.device,
            constants: &mut *call.constants,
            tensor_map: call.tensor_map,
        })?);
    }
    let pairs =
        (0..layers.len()).map(|i| CudaOperand { ty: made.clone(), layout: &dense, address: place(i) });
    let inputs = call.inputs[..op.first()].iter().cloned().chain(pairs).collect();
    let outputs = call.outputs.clone();
    let (device, constants, tensor_map) = (call.device, &mut *call.constants, call.tensor_map);
    let call = &mut CudaCall { inputs, outputs, scratch: 0, device, constants, tensor_map };
    launches.extend(op.modulation().cuda(call)?);
    Ok(launches)
}
