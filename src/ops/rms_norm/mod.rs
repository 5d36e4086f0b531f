//! `rms_norm`: every row of the last axis divided by its root mean square, then scaled per column
//! where a weight is given (T5's layer norm, `torch.nn.RMSNorm`).

mod cpu;
mod cuda;
mod reference;

use super::activation::expect_f32;
use super::layer_norm::{expect_pair, expect_per_column};
use super::rows::{column_sums, is_rows, norm_storage, rows_of};
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// y = x / √(mean(x²) + eps) [· w]. Operands: x, f32 of rank ≥ 1; optionally w, one number per
/// column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
}

/// Operands: x, dy of equal shape; optionally w. Results: dx; with w also dw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNormGrad {
    /// As in [`RmsNorm`].
    pub eps: f32,
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let (x, weight) = match inputs {
            [x] => (x, None),
            [x, weight] => (x, Some(weight)),
            _ => return Err(format!("takes 1 or 2 operands, found {}", inputs.len())),
        };
        expect_f32("x", x)?;
        if let Some(weight) = weight {
            expect_per_column("the weight", weight, x)?;
        }
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let dy = g.dy();
        let mut operands = vec![g.inputs[0], dy];
        operands.extend(g.inputs.get(1));
        let d = g.b.node(RmsNormGrad { eps: self.eps }, &operands)?;
        Ok(Gradient::Inputs(d.into_iter().map(Some).collect()))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let per_element = if inputs.len() == 2 { 4.0 } else { 3.0 };
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

impl Op for RmsNormGrad {
    fn name(&self) -> &'static str {
        "rms_norm_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let (x, dy, weight) = match inputs {
            [x, dy] => (x, dy, None),
            [x, dy, weight] => (x, dy, Some(weight)),
            _ => return Err(format!("takes 2 or 3 operands, found {}", inputs.len())),
        };
        expect_pair(x, dy)?;
        let mut results = vec![(*x).clone()];
        if let Some(weight) = weight {
            expect_per_column("the weight", weight, x)?;
            results.push((*weight).clone());
        }
        Ok(results)
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable("second derivatives of rms_norm are not provided"))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let per_element = if inputs.len() == 3 { 11.0 } else { 8.0 };
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
    /// Root-mean-square norm over the last axis; `weight` has shape `[columns]`.
    pub fn rms_norm(&mut self, x: ValueId, weight: Option<ValueId>, eps: f32) -> Result<ValueId> {
        match weight {
            Some(w) => self.node1(RmsNorm { eps }, &[x, w]),
            None => self.node1(RmsNorm { eps }, &[x]),
        }
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "rms_norm",
        family: "rms_norm",
        about: "rows divided by their root mean square, with or without weight",
        cases: forward_cases,
    },
    OpEntry {
        name: "rms_norm_grad",
        family: "rms_norm",
        about: "gradients of rms_norm: of the rows and the weight",
        cases: backward_cases,
    },
];

fn forward_cases() -> Vec<Case> {
    let n = |s: &[usize]| CaseInput::normal(s);
    let op = RmsNorm { eps: 1e-6 };
    vec![
        Case::test("plain", op, vec![n(&[3, 5, 37])]),
        Case::test("weighted", op, vec![n(&[2, 7, 64]), n(&[64])]),
        Case::test("kept", op, vec![n(&[3, 516]), n(&[516])]),
        Case::test("longest_kept", op, vec![n(&[2, 4096])]),
        Case::bench("t5_norm", op, vec![n(&[120, 4096]), n(&[4096])]),
    ]
}

fn backward_cases() -> Vec<Case> {
    let n = |s: &[usize]| CaseInput::normal(s);
    let op = RmsNormGrad { eps: 1e-6 };
    vec![
        Case::test("plain", op, vec![n(&[3, 5, 37]), n(&[3, 5, 37])]),
        Case::test("weighted", op, vec![n(&[9, 60]), n(&[9, 60]), n(&[60])]),
        Case::test("two_blocks", op, vec![n(&[900, 19]), n(&[900, 19]), n(&[19])]),
    ]
}
