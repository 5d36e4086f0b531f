//! `sum_to`: sums a tensor over the axes along which a smaller shape would be repeated — the
//! transpose of broadcasting, and so the gradient of every broadcast operand.

mod cpu;
mod cuda;
mod reference;

use super::activation::expect_f32;
use super::binary::broadcast_shape;
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::CudaCall;
use crate::graph::{Cost, Gradient, GradientContext, GraphBuilder, Op, TensorType, ValueId, op::CpuCall};

/// Operand: f32 of a shape to which `shape` broadcasts. Result: f32 of `shape`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumTo {
    /// The result's shape.
    pub shape: Vec<usize>,
}

impl Op for SumTo {
    fn name(&self) -> &'static str {
        "sum_to"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs else { return Err(format!("takes 1 operand, found {}", inputs.len())) };
        expect_f32("x", x)?;
        if broadcast_shape(&x.shape, &self.shape).as_deref() != Some(&x.shape) {
            return Err(format!("{:?} does not broadcast to {x}", self.shape));
        }
        Ok(vec![TensorType::f32(self.shape.clone())])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let shape = g.b.shape(g.inputs[0]).to_vec();
        let dy = g.dy();
        let dx = g.b.broadcast_to(dy, &shape)?;
        Ok(Gradient::Inputs(vec![Some(dx)]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(call);
        Ok(())
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        cuda::scratch(self, &inputs[0].shape)
    }
}

impl GraphBuilder {
    /// Sums `x` down to `shape`; `x` itself if it has that shape already.
    pub fn sum_to(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        self.node1(SumTo { shape: shape.to_vec() }, &[x])
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[OpEntry {
    name: "sum_to",
    family: "sum_to",
    about: "sum over broadcast axes (the gradient of broadcasting)",
    cases,
}];

fn cases() -> Vec<Case> {
    let case = |name, from: &[usize], to: &[usize]| {
        Case::test(name, SumTo { shape: to.to_vec() }, vec![CaseInput::normal(from)])
    };
    vec![
        case("rows", &[5, 6, 7], &[7]),
        case("columns", &[5, 6, 7], &[5, 6, 1]),
        case("middle", &[5, 6, 7], &[5, 1, 7]),
        case("all", &[5, 600], &[]),
        case("two_runs", &[3, 4, 5, 6], &[4, 1, 6]),
        case("long_columns", &[1500, 20], &[20]),
        case("only_a_shape", &[1, 1, 7], &[7]),
        Case::bench("linear_bias_grad", SumTo { shape: vec![1152] }, vec![CaseInput::normal([8192, 1152])]),
    ]
}
