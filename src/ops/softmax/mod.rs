//! `softmax`: over the last axis.

mod cpu;
mod cuda;
mod reference;

use super::activation::expect_f32;
use super::rows::{as_kept, is_rows};
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// y = eˣ / Σ eˣ along each row of the last axis. Operand: x, f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Softmax;

/// dx = y·(dy − Σ y·dy). Operands: y (the forward's result), dy of equal shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftmaxGrad;

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs else { return Err(format!("takes 1 operand, found {}", inputs.len())) };
        expect_f32("x", x)?;
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let dy = g.dy();
        let dx = g.b.node1(SoftmaxGrad, &[g.outputs[0], dy])?;
        Ok(Gradient::Inputs(vec![Some(dx)]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(4.0 * inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(call);
        Ok(())
    }

    fn accepts(&self, _: usize, layout: &Layout) -> bool {
        is_rows(layout)
    }

    fn in_place(&self, _: usize) -> bool {
        true
    }

    fn cuda_storage(
        &self,
        _inputs: &[&TensorType],
        _outputs: &[&TensorType],
        kept: &[DType],
        compute: DType,
    ) -> Storage {
        let x = as_kept(kept[0], compute);
        Storage { inputs: vec![x], outputs: vec![x] }
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(call)
    }

    fn cuda_in_place(&self, _: usize) -> bool {
        true
    }
}

impl Op for SoftmaxGrad {
    fn name(&self) -> &'static str {
        "softmax_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [y, dy] = inputs else { return Err(format!("takes 2 operands, found {}", inputs.len())) };
        expect_f32("y", y)?;
        if y != dy {
            return Err(format!("dy must be like y: {y}, found {dy}"));
        }
        Ok(vec![(*y).clone()])
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable("second derivatives of softmax are not provided"))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(4.0 * inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::backward(call);
        Ok(())
    }

    fn accepts(&self, _: usize, layout: &Layout) -> bool {
        is_rows(layout)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::backward(call)
    }
}

impl GraphBuilder {
    /// Softmax over the last axis.
    pub fn softmax(&mut self, x: ValueId) -> Result<ValueId> {
        self.node1(Softmax, &[x])
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "softmax",
        family: "softmax",
        about: "exponentials of a row divided by their sum",
        cases: forward_cases,
    },
    OpEntry {
        name: "softmax_grad",
        family: "softmax",
        about: "gradient of softmax: y·(dy − Σ y·dy)",
        cases: backward_cases,
    },
];

fn forward_cases() -> Vec<Case> {
    vec![
        Case::test("rows", Softmax, vec![CaseInput::normal([3, 5, 37])]),
        Case::test("short_rows", Softmax, vec![CaseInput::normal([41, 3])]),
        Case::test("large_logits", Softmax, vec![CaseInput::uniform([4, 64], -200.0, 200.0)]),
        Case::test("one_column", Softmax, vec![CaseInput::normal([7, 1])]),
        Case::test("kept_by_a_warp", Softmax, vec![CaseInput::normal([5, 256])]),
        Case::test("kept_by_a_block", Softmax, vec![CaseInput::normal([2, 260])]),
        Case::test("longest_kept", Softmax, vec![CaseInput::normal([2, 4096])]),
        Case::bench("moe_experts", Softmax, vec![CaseInput::normal([4096, 3])]),
        Case::bench("swinir_scores", Softmax, vec![CaseInput::normal([64 * 6 * 64, 64])]),
        Case::bench("vae_scores", Softmax, vec![CaseInput::normal([1024, 4096])]),
    ]
}

fn backward_cases() -> Vec<Case> {
    let pair = |s: &[usize]| vec![CaseInput::uniform(s, 0.0, 0.2), CaseInput::normal(s)];
    vec![
        Case::test("rows", SoftmaxGrad, pair(&[3, 5, 37])),
        Case::test("kept_by_a_warp", SoftmaxGrad, pair(&[5, 256])),
        Case::test("longer_than_kept", SoftmaxGrad, pair(&[3, 260])),
        Case::bench("swinir_scores", SoftmaxGrad, pair(&[64 * 6 * 64, 64])),
    ]
}
