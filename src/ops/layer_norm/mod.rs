//! `layer_norm`: every row of the last axis to mean 0 and variance 1 (biased, as in
//! `torch.nn.LayerNorm`), then scaled and shifted per column where weights are given.

mod cpu;
mod cuda;
mod reference;

pub(super) use cpu::statistics;
pub(super) use reference::moments;

use super::activation::expect_f32;
use super::rows::{column_sums, is_rows, norm_storage, rows_of};
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// y = (x − mean) / √(variance + eps) [· γ + β]. Operands: x, f32 of rank ≥ 1; optionally γ and
/// β, one number per column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
}

/// Operands: x, dy of equal shape; optionally γ. Results: dx; with γ also dγ and dβ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNormGrad {
    /// As in [`LayerNorm`].
    pub eps: f32,
}

/// A vector with one number per column of `x`.
pub(super) fn expect_per_column(what: &str, t: &TensorType, x: &TensorType) -> Result<(), String> {
    expect_f32(what, t)?;
    if t.shape != [x.last()] {
        return Err(format!("{what} must have one number per column of {x}, found {t}"));
    }
    Ok(())
}

/// x and dy of a normalisation's gradient.
pub(super) fn expect_pair(x: &TensorType, dy: &TensorType) -> Result<(), String> {
    expect_f32("x", x)?;
    if x != dy {
        return Err(format!("dy must be like x: {x}, found {dy}"));
    }
    Ok(())
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let (x, affine) = match inputs {
            [x] => (x, None),
            [x, gamma, beta] => (x, Some((gamma, beta))),
            _ => return Err(format!("takes 1 or 3 operands, found {}", inputs.len())),
        };
        expect_f32("x", x)?;
        if let Some((gamma, beta)) = affine {
            expect_per_column("the weight", gamma, x)?;
            expect_per_column("the bias", beta, x)?;
        }
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let dy = g.dy();
        let mut operands = vec![g.inputs[0], dy];
        operands.extend(g.inputs.get(1));
        let d = g.b.node(LayerNormGrad { eps: self.eps }, &operands)?;
        Ok(Gradient::Inputs(d.into_iter().map(Some).collect()))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let per_element = if inputs.len() == 3 { 8.0 } else { 6.0 };
        Cost::dense(per_element * inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self.eps, call);
        Ok(())
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input == 0 { is_rows(layout) } else { layout.is_dense() }
    }

    fn cuda_storage(
        &self,
        _inputs: &[&TensorType],
        _outputs: &[&TensorType],
        kept: &[DType],
        compute: DType,
    ) -> Storage {
        norm_storage(kept, compute)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call)
    }
}

impl Op for LayerNormGrad {
    fn name(&self) -> &'static str {
        "layer_norm_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let (x, dy, gamma) = match inputs {
            [x, dy] => (x, dy, None),
            [x, dy, gamma] => (x, dy, Some(gamma)),
            _ => return Err(format!("takes 2 or 3 operands, found {}", inputs.len())),
        };
        expect_pair(x, dy)?;
        let mut results = vec![(*x).clone()];
        if let Some(gamma) = gamma {
            expect_per_column("the weight", gamma, x)?;
            results.extend([(*gamma).clone(), (*gamma).clone()]);
        }
        Ok(results)
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable("second derivatives of layer_norm are not provided"))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let per_element = if inputs.len() == 3 { 17.0 } else { 13.0 };
        Cost::dense(per_element * inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::backward(self.eps, call);
        Ok(())
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _: &[&TensorType], _: usize) -> usize {
        if inputs.len() == 3 { cpu::partial_sums_bytes(rows_of(inputs[0])) } else { 0 }
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input < 2 { is_rows(layout) } else { layout.is_dense() }
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::backward(self, call)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        if inputs.len() == 3 { column_sums::scratch_bytes(rows_of(inputs[0])) } else { 0 }
    }
}

impl GraphBuilder {
    /// Layer norm over the last axis; `affine` is (γ, β), each of shape `[columns]`.
    pub fn layer_norm(
        &mut self,
        x: ValueId,
        affine: Option<(ValueId, ValueId)>,
        eps: f32,
    ) -> Result<ValueId> {
        match affine {
            Some((gamma, beta)) => self.node1(LayerNorm { eps }, &[x, gamma, beta]),
            None => self.node1(LayerNorm { eps }, &[x]),
        }
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "layer_norm",
        family: "layer_norm",
        about: "rows to mean 0 and variance 1, with or without weight and bias",
        cases: forward_cases,
    },
    OpEntry {
        name: "layer_norm_grad",
        family: "layer_norm",
        about: "gradients of layer_norm: of the rows, the weight and the bias",
        cases: backward_cases,
    },
];

fn forward_cases() -> Vec<Case> {
    let n = |s: &[usize]| CaseInput::normal(s);
    let op = LayerNorm { eps: 1e-5 };
    vec![
        Case::test("plain", op, vec![n(&[3, 5, 37])]),
        Case::test("affine", op, vec![n(&[2, 7, 60]), n(&[60]), n(&[60])]),
        Case::test("far_from_zero", op, vec![CaseInput::uniform([5, 67], 99.0, 101.0)]),
        Case::test("one_column", LayerNorm { eps: 0.5 }, vec![n(&[9, 1])]),
        // One vector a lane, the longest rows of both kept forms, and a vector more.
        Case::test("kept_256", op, vec![n(&[6, 256]), n(&[256]), n(&[256])]),
        Case::test("kept_260", op, vec![n(&[3, 260]), n(&[260]), n(&[260])]),
        Case::test("kept_1280", op, vec![n(&[2, 1280])]),
        Case::test("too_long", op, vec![n(&[2, 1284]), n(&[1284]), n(&[1284])]),
        Case::bench("pixart_norm", LayerNorm { eps: 1e-6 }, vec![n(&[4096, 1152])]),
        Case::bench("swinir_norm", op, vec![n(&[4096, 180]), n(&[180]), n(&[180])]),
    ]
}

fn backward_cases() -> Vec<Case> {
    let n = |s: &[usize]| CaseInput::normal(s);
    let op = LayerNormGrad { eps: 1e-5 };
    vec![
        Case::test("plain", op, vec![n(&[3, 5, 37]), n(&[3, 5, 37])]),
        Case::test("affine", op, vec![n(&[9, 60]), n(&[9, 60]), n(&[60])]),
        // More rows than one block of partial sums.
        Case::test("two_blocks", op, vec![n(&[900, 19]), n(&[900, 19]), n(&[19])]),
        Case::test("kept_256", op, vec![n(&[6, 256]), n(&[6, 256]), n(&[256])]),
        Case::test("kept_1280", op, vec![n(&[2, 1280]), n(&[2, 1280])]),
        Case::test("too_long", op, vec![n(&[2, 1284]), n(&[2, 1284]), n(&[1284])]),
        Case::bench("swinir_norm", op, vec![n(&[4096, 180]), n(&[4096, 180]), n(&[180])]),
    ]
}
