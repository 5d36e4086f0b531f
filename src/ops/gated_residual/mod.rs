//! `gated_residual`: x + gate·y, the gate a vector of the sample: how a diffusion transformer adds
//! what a block has computed.

mod cpu;
mod cuda;
mod reference;

use super::activation::expect_f32;
use super::rows::{PerSample, as_kept, expect_per_sample, is_rows};
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// z = x + gate·y. Operands: x, f32 `[B, N, C]`; gate, f32 `[B or 1, 1, C]`, in any layout whose
/// last axis is dense; y like x. Result like x, in the place of x or y where one of them dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatedResidual;

impl Op for GatedResidual {
    fn name(&self) -> &'static str {
        "gated_residual"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, gate, y] = inputs else { return Err(format!("takes 3 operands, found {}", inputs.len())) };
        expect_f32("x", x)?;
        expect_per_sample("the gate", gate, x)?;
        if x != y {
            return Err(format!("y must be like x: {x}, found {y}"));
        }
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let (dz, b) = (g.dy(), &mut *g.b);
        let [_, gate, y] = g.inputs[..] else { unreachable!("infer takes three operands") };
        let mut d = vec![Some(dz), None, None];
        if g.wanted[1] {
            let product = b.mul(dz, y)?;
            let shape = b.shape(gate).to_vec();
            d[1] = Some(b.sum_to(product, &shape)?);
        }
        if g.wanted[2] {
            d[2] = Some(b.mul(dz, gate)?);
        }
        Ok(Gradient::Inputs(d))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(2.0 * outputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(call);
        Ok(())
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input == 1 { PerSample::accepts(layout) } else { is_rows(layout) }
    }

    fn in_place(&self, input: usize) -> bool {
        input != 1
    }

    /// x and the result are the residual stream, f32; y comes from a matrix product.
    fn cuda_storage(
        &self,
        _inputs: &[&TensorType],
        _outputs: &[&TensorType],
        kept: &[DType],
        compute: DType,
    ) -> Storage {
        let inputs = vec![DType::F32, DType::F32, as_kept(kept[2], compute)];
        Storage { inputs, outputs: vec![DType::F32] }
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(call)
    }

    fn cuda_in_place(&self, input: usize) -> bool {
        input != 1
    }
}

impl GraphBuilder {
    /// x + gate·y for x and y `[B, N, C]`; the gate is `[B or 1, 1, C]`, such as a slice of
    /// `[B, 6, C]`.
    pub fn gated_residual(&mut self, x: ValueId, gate: ValueId, y: ValueId) -> Result<ValueId> {
        self.node1(GatedResidual, &[x, gate, y])
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[OpEntry {
    name: "gated_residual",
    family: "gated_residual",
    about: "x + gate·y, the gate a vector of the sample",
    cases,
}];

fn cases() -> Vec<Case> {
    let operands = |x: [usize; 3], samples: usize| {
        vec![CaseInput::normal(x), CaseInput::normal([samples, 1, x[2]]), CaseInput::normal(x)]
    };
    vec![
        Case::test("per_sample", GatedResidual, operands([3, 5, 37], 3)),
        Case::test("shared", GatedResidual, operands([2, 210, 40], 1)),
        Case::test("vectors", GatedResidual, operands([2, 3, 516], 2)),
        Case::bench("pixart", GatedResidual, operands([2, 4096, 1152], 2)),
    ]
}
