//! Which kernels of `cuda/moe_modulate.cu` run, and with what.

use super::{MoeModulate, MoeModulateGrad};
use crate::device::kernel::Launch;
use crate::ffi::{ModulateFwd, MoeModulateBwd, MoeModulateFwd, MoeOperands};
use crate::graph::cuda::{CudaCall, CudaOperand, CudaResult, Storage};
use crate::tensor::DType;

/// Rows of a block, one a warp: `THREADS / 32` of the kernels.
const ROWS: usize = 4;
/// Most experts that the kernels mix.
const MOST: usize = 8;

/// x is the residual stream, f32, and so is the result. The pairs (γ, β), `kept[pairs..]`, are read in the
/// compute type if all of them are kept in it, and the few logits, if any, like them.
pub(super) fn storage(kept: &[DType], pairs: usize, compute: DType) -> Storage {
    let half = kept[pairs..].iter().all(|&k| k == compute);
    let mut inputs = vec![if half { compute } else { DType::F32 }; kept.len()];
    inputs[0] = DType::F32;
    Storage { inputs, outputs: vec![DType::F32] }
}

fn step(o: &CudaOperand) -> i64 {
    o.layout.as_rows().expect("accepts() asks for rows").2 as i64
}

fn grid(x: &CudaOperand) -> [u32; 3] {
    let (rows, _, _) = x.layout.as_rows().expect("accepts() asks for rows");
    [rows.div_ceil(ROWS) as u32, 1, 1]
}

pub(super) fn modulate(call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [x, gamma, beta] = &call.inputs[..] else { unreachable!("infer takes three operands") };
    let y = &call.outputs[0];
    let (rows, cols, x_step) = x.layout.as_rows().expect("accepts() asks for rows");
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let params = ModulateFwd {
        x: x.address,
        gamma: gamma.address,
        beta: beta.address,
        y: y.address,
        x_step: x_step as i64,
        gamma_step: step(gamma),
        beta_step: step(beta),
        rows: rows as i32,
        cols: cols as i32,
    };
    let form = if call.inputs.iter().all(|o| o.vectors(4)) { "v4" } else { "any" };
    let kernel = format!("modulate_{form}_{}_f32", gamma.ty.dtype);
    Ok(vec![Launch::new(kernel, grid(x), &params)])
}

/// A value for each expert, in the fixed room of a parameter struct.
fn room<T: Copy, O>(of: T, experts: &[O], value: impl Fn(&O) -> T) -> [T; MOST] {
    std::array::from_fn(|e| experts.get(e).map_or(of, &value))
}

fn operands(op: MoeModulate, inputs: &[CudaOperand]) -> Result<MoeOperands, String> {
    let [x, logits, experts @ ..] = inputs else { unreachable!("infer counts operands") };
    if op.experts > MOST {
        return Err(format!("the kernels of moe_modulate mix up to {MOST} experts, found {}", op.experts));
    }
    let (gammas, betas) = experts.split_at(op.experts);
    let (rows, cols, x_step) = x.layout.as_rows().expect("accepts() asks for rows");
    Ok(MoeOperands {
        gamma: room(0, gammas, |o| o.address),
        beta: room(0, betas, |o| o.address),
        x: x.address,
        logits: logits.address,
        gamma_step: room(0, gammas, step),
        beta_step: room(0, betas, step),
        x_step: x_step as i64,
        logits_step: step(logits),
        rows: rows as i32,
        cols: cols as i32,
        experts: op.experts as i32,
        reserved: 0,
    })
}

/// Three experts on whole vectors, or anything; the logits are read one by one in any case.
fn form(op: MoeModulate, inputs: &[CudaOperand]) -> &'static str {
    let vectors = inputs.iter().enumerate().all(|(i, o)| i == 1 || o.vectors(4));
    if op.experts == 3 && vectors { "k3" } else { "any" }
}

pub(super) fn forward(op: MoeModulate, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let y = &call.outputs[0];
    let params = MoeModulateFwd { of: operands(op, &call.inputs)?, y: y.address };
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let kernel = format!("moe_modulate_fwd_{}_{}_f32", form(op, &call.inputs), call.inputs[1].ty.dtype);
    Ok(vec![Launch::new(kernel, grid(&call.inputs[0]), &params)])
}

pub(super) fn backward(op: MoeModulateGrad, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let (dy, inputs) = call.inputs.split_last().expect("infer counts operands");
    let [dx, d_logits, experts @ ..] = &call.outputs[..] else { unreachable!("infer counts operands") };
    let (d_gammas, d_betas) = experts.split_at(op.0.experts);
    let params = MoeModulateBwd {
        of: operands(op.0, inputs)?,
        dy: dy.address,
        dy_step: step(dy),
        dx: dx.address,
        d_logits: d_logits.address,
        d_gamma: room(0, d_gammas, |o: &CudaResult| o.address),
        d_beta: room(0, d_betas, |o: &CudaResult| o.address),
    };
    if d_logits.ty.is_empty() {
        return Ok(vec![]);
    }
    let kernel = format!("moe_modulate_grad_{}_f32", form(op.0, &call.inputs));
    Ok(vec![Launch::new(kernel, grid(&inputs[0]), &params)])
}
