//! `prelu`: x, or a learned slope of its channel times x below zero.

mod cpu;
mod cuda;
mod reference;

use super::activation::expect_f32;
use super::layer_norm::{expect_pair, expect_per_column};
use super::rows::{is_rows, rows_of};
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// y = max(x, 0) + w·min(x, 0). Operands: x, f32 `[…, C]`; w of shape `[C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prelu;

/// Operands: x, dy of equal shape, w. Results: dx, dw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreluGrad;

impl Op for Prelu {
    fn name(&self) -> &'static str {
        "prelu"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, w] = inputs else { return Err(format!("takes 2 operands, found {}", inputs.len())) };
        expect_f32("x", x)?;
        expect_per_column("the weight", w, x)?;
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let operands = [g.inputs[0], g.dy(), g.inputs[1]];
        let d = g.b.node(PreluGrad, &operands)?;
        Ok(Gradient::Inputs(d.into_iter().map(Some).collect()))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(call);
        Ok(())
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input == 0 { is_rows(layout) } else { layout.is_dense() }
    }

    fn in_place(&self, input: usize) -> bool {
        input == 0
    }

    fn cuda_storage(&self, _: &[&TensorType], _: &[&TensorType], kept: &[DType], _: DType) -> Storage {
        Storage { inputs: vec![kept[0], DType::F32], outputs: vec![kept[0]] }
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        Ok(cuda::forward(call))
    }

    fn cuda_in_place(&self, input: usize) -> bool {
        input == 0
    }
}

impl Op for PreluGrad {
    fn name(&self) -> &'static str {
        "prelu_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, dy, w] = inputs else { return Err(format!("takes 3 operands, found {}", inputs.len())) };
        expect_pair(x, dy)?;
        expect_per_column("the weight", w, x)?;
        Ok(vec![(*x).clone(), (*w).clone()])
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable("second derivatives of prelu are not provided"))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(3.0 * inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::backward(call);
        Ok(())
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _: &[&TensorType], _: usize) -> usize {
        cpu::partial_sums_bytes(rows_of(inputs[0]))
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        Ok(cuda::backward(call))
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        cuda::partial_sums_bytes(inputs[0])
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input < 2 { is_rows(layout) } else { layout.is_dense() }
    }
}

impl GraphBuilder {
    /// x, or `weight` (shape `[C]`) times x below zero, for x of shape `[…, C]`.
    pub fn prelu(&mut self, x: ValueId, weight: ValueId) -> Result<ValueId> {
        self.node1(Prelu, &[x, weight])
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "prelu",
        family: "prelu",
        about: "leaky relu with a learned slope per channel",
        cases: forward_cases,
    },
    OpEntry {
        name: "prelu_grad",
        family: "prelu",
        about: "gradients of prelu: of the input and the slopes",
        cases: backward_cases,
    },
];

fn forward_cases() -> Vec<Case> {
    let n = |s: &[usize]| CaseInput::normal(s);
    vec![
        Case::test("image", Prelu, vec![n(&[2, 3, 5, 7]), n(&[7])]),
        Case::test("vectors", Prelu, vec![n(&[3, 11, 72]), n(&[72])]),
        Case::bench("srvgg_act", Prelu, vec![n(&[1, 512, 512, 64]), n(&[64])]),
    ]
}

fn backward_cases() -> Vec<Case> {
    let n = |s: &[usize]| CaseInput::normal(s);
    vec![
        Case::test("image", PreluGrad, vec![n(&[2, 3, 5, 7]), n(&[2, 3, 5, 7]), n(&[7])]),
        Case::test("columns", PreluGrad, vec![n(&[70, 67]), n(&[70, 67]), n(&[67])]),
        Case::test("two_blocks", PreluGrad, vec![n(&[1700, 19]), n(&[1700, 19]), n(&[19])]),
    ]
}
