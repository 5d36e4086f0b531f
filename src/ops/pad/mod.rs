//! `pad`: zeros before and after each axis. (Reflect and replicate padding: see `pad_edges`.)

mod cpu;
mod cuda;
mod reference;

use super::activation::expect_f32;
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::strided::alike;
use crate::graph::{Cost, Gradient, GradientContext, GraphBuilder, Op, TensorType, ValueId, op::CpuCall};
use crate::tensor::DType;

/// Operand: f32. Result: the operand with zeros around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pad {
    /// Zeros in front, per axis.
    pub before: Vec<usize>,
    /// Zeros behind, per axis.
    pub after: Vec<usize>,
}

impl Op for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs else { return Err(format!("takes 1 operand, found {}", inputs.len())) };
        expect_f32("x", x)?;
        if self.before.len() != x.rank() || self.after.len() != x.rank() {
            return Err(format!(
                "{:?} and {:?} must give one number per axis of {x}",
                self.before, self.after
            ));
        }
        let shape: Vec<_> = (0..x.rank()).map(|i| self.before[i] + x.shape[i] + self.after[i]).collect();
        Ok(vec![TensorType::f32(shape)])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let shape = g.b.shape(g.inputs[0]).to_vec();
        let mut d = g.dy();
        for (axis, &len) in shape.iter().enumerate() {
            if self.before[axis] + self.after[axis] > 0 {
                d = g.b.slice(d, axis, self.before[axis], len)?;
            }
        }
        Ok(Gradient::Inputs(vec![Some(d)]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(0.0, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self, call);
        Ok(())
    }

    fn cuda_storage(&self, _: &[&TensorType], _: &[&TensorType], kept: &[DType], _: DType) -> Storage {
        alike(kept, 1)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call)
    }
}

impl GraphBuilder {
    /// Zeros before and after each axis.
    pub fn pad_zeros(&mut self, x: ValueId, before: Vec<usize>, after: Vec<usize>) -> Result<ValueId> {
        self.node1(Pad { before, after }, &[x])
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] =
    &[OpEntry { name: "pad", family: "pad", about: "zeros around a tensor (the gradient of slice)", cases }];

fn cases() -> Vec<Case> {
    let pad = |before: &[usize], after: &[usize]| Pad { before: before.to_vec(), after: after.to_vec() };
    vec![
        Case::test("image", pad(&[0, 1, 2, 0], &[0, 3, 0, 0]), vec![CaseInput::normal([2, 4, 5, 3])]),
        Case::test("vectors", pad(&[0, 1, 2, 0], &[0, 0, 3, 0]), vec![CaseInput::normal([1, 4, 5, 16])]),
        Case::test("channel_vectors", pad(&[0, 8], &[1, 16]), vec![CaseInput::normal([5, 8])]),
        Case::test("channels", pad(&[0, 2], &[0, 1]), vec![CaseInput::normal([4, 3])]),
    ]
}
