//! `adaln`: layer norm without weights, scaled and shifted by vectors of the sample (Peebles & Xie
//! 2023, arXiv 2212.09748): what conditions a diffusion transformer on its time step.

mod cpu;
mod cuda;
mod reference;

use super::activation::expect_f32;
use super::layer_norm::LayerNormGrad;
use super::rows::{PerSample, expect_per_sample, is_rows, norm_storage};
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// y = (x − mean) / √(variance + eps) · (1 + scale) + shift, mean and (biased) variance of each
/// token. Operands: x, f32 `[B, N, C]`; shift and scale, f32 `[B or 1, 1, C]`, in any layout whose
/// last axis is dense. Result like x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adaln {
    /// Added to the variance.
    pub eps: f32,
}

impl Op for Adaln {
    fn name(&self) -> &'static str {
        "adaln"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, shift, scale] = inputs else {
            return Err(format!("takes 3 operands, found {}", inputs.len()));
        };
        expect_f32("x", x)?;
        expect_per_sample("shift", shift, x)?;
        expect_per_sample("scale", scale, x)?;
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let (dy, b) = (g.dy(), &mut *g.b);
        let [x, shift, scale] = g.inputs[..] else { unreachable!("infer takes three operands") };
        let mut d = vec![None; 3];
        if g.wanted[0] {
            let more = b.mul(dy, scale)?;
            let d_normal = b.add(dy, more)?;
            d[0] = Some(b.node1(LayerNormGrad { eps: self.eps }, &[x, d_normal])?);
        }
        if g.wanted[1] {
            let shape = b.shape(shift).to_vec();
            d[1] = Some(b.sum_to(dy, &shape)?);
        }
        if g.wanted[2] {
            let normal = b.layer_norm(x, None, self.eps)?;
            let product = b.mul(dy, normal)?;
            let shape = b.shape(scale).to_vec();
            d[2] = Some(b.sum_to(product, &shape)?);
        }
        Ok(Gradient::Inputs(d))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(9.0 * inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self.eps, call);
        Ok(())
    }

    /// The result feeds a matrix product: it is kept in the compute type. x is the residual stream.
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

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input == 0 { is_rows(layout) } else { PerSample::accepts(layout) }
    }
}

impl GraphBuilder {
    /// LayerNorm(x)·(1 + scale) + shift for x `[B, N, C]`; shift and scale are `[B or 1, 1, C]`,
    /// such as slices of `[B, 6, C]`.
    pub fn adaln(&mut self, x: ValueId, shift: ValueId, scale: ValueId, eps: f32) -> Result<ValueId> {
        self.node1(Adaln { eps }, &[x, shift, scale])
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[OpEntry {
    name: "adaln",
    family: "adaln",
    about: "layer norm of tokens, scaled and shifted by vectors of the sample",
    cases,
}];

fn cases() -> Vec<Case> {
    let operands = |x: [usize; 3], samples: usize| {
        let vector = CaseInput::normal([samples, 1, x[2]]);
        vec![CaseInput::normal(x), vector.clone(), vector]
    };
    let op = Adaln { eps: 1e-6 };
    let mut far = operands([2, 3, 67], 2);
    far[0] = CaseInput::uniform([2, 3, 67], 99.0, 101.0);
    vec![
        Case::test("per_sample", op, operands([3, 5, 37], 3)),
        Case::test("shared", op, operands([2, 210, 40], 1)),
        Case::test("far_from_zero", op, far),
        Case::test("one_column", Adaln { eps: 0.5 }, operands([2, 3, 1], 2)),
        // Rows of one vector a lane, of the longest that a warp keeps, and of a vector more.
        Case::test("one_chunk", op, operands([1, 5, 128], 1)),
        Case::test("longest_kept", op, operands([2, 2, 1280], 2)),
        Case::test("too_long", op, operands([1, 2, 1284], 1)),
        Case::bench("pixart", op, operands([2, 4096, 1152], 2)),
    ]
}
