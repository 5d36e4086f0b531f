//! `modulate` and `moe_modulate`: every number of the tokens scaled and shifted, by one pair (γ, β)
//! or by a mixture of K pairs, weighted per token (DreamClear's mixture of adaptive modulators, Ai
//! et al. 2024, arXiv 2410.18666). The mixture is never held: `[B, N, C, K]` does not exist.

mod cases;
mod cpu;
mod cuda;
mod reference;

pub use cases::ENTRIES;

use super::activation::expect_f32;
use super::rows::is_rows;
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// y = x·(1 + γ) + β. Operands: x, γ, β of equal shape, f32, of rank ≥ 1. Result like x, in its
/// place where it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modulate;

/// y = x·(1 + Σ gₖγₖ) + Σ gₖβₖ with g = softmax(logits). Operands, all f32: x `[…, C]`, logits
/// `[…, K]`, then γ₁ … γ_K, then β₁ … β_K, each like x. Result like x, in its place where it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeModulate {
    /// K
    pub experts: usize,
}

/// Gradients of [`MoeModulate`]. Operands: those of the forward op, then dy like x. Results: one
/// gradient for each operand of the forward op, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeModulateGrad(pub MoeModulate);

/// Refuses operands that are not all like x.
fn expect_like(x: &TensorType, others: &[&TensorType], what: &str) -> Result<(), String> {
    expect_f32("x", x)?;
    if x.rank() == 0 {
        return Err("x must have a last axis, found a scalar".into());
    }
    match others.iter().find(|t| ***t != *x) {
        Some(t) => Err(format!("{what} must be like x: {x}, found {t}")),
        None => Ok(()),
    }
}

impl Op for Modulate {
    fn name(&self) -> &'static str {
        "modulate"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, rest @ ..] = inputs else { return Err("takes 3 operands, found none".into()) };
        if rest.len() != 2 {
            return Err(format!("takes 3 operands, found {}", inputs.len()));
        }
        expect_like(x, rest, "γ and β")?;
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let (dy, b) = (g.dy(), &mut *g.b);
        let (mut dx, mut d_gamma) = (None, None);
        if g.wanted[0] {
            let more = b.mul(dy, g.inputs[1])?;
            dx = Some(b.add(dy, more)?);
        }
        if g.wanted[1] {
            d_gamma = Some(b.mul(dy, g.inputs[0])?);
        }
        Ok(Gradient::Inputs(vec![dx, d_gamma, Some(dy)]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(3.0 * outputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::modulate(call);
        Ok(())
    }

    fn accepts(&self, _: usize, layout: &Layout) -> bool {
        is_rows(layout)
    }

    fn in_place(&self, input: usize) -> bool {
        input == 0
    }

    fn cuda_storage(
        &self,
        _inputs: &[&TensorType],
        _outputs: &[&TensorType],
        kept: &[DType],
        compute: DType,
    ) -> Storage {
        cuda::storage(kept, 1, compute)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::modulate(call)
    }

    fn cuda_in_place(&self, input: usize) -> bool {
        input == 0
    }
}

impl MoeModulate {
    /// How many operands there are.
    fn operands(&self) -> usize {
        2 + 2 * self.experts
    }

    /// Checks the forward operands.
    fn check(&self, inputs: &[&TensorType]) -> Result<(), String> {
        let [x, logits, experts @ ..] = inputs else { unreachable!("the caller counted") };
        if self.experts == 0 {
            return Err("needs at least one expert".into());
        }
        expect_like(x, experts, "γ and β of every expert")?;
        expect_f32("the logits", logits)?;
        let mut like = x.shape.clone();
        *like.last_mut().expect("checked above") = self.experts;
        if logits.shape != like {
            return Err(format!("the logits must be {like:?}, one for each expert, found {logits}"));
        }
        Ok(())
    }
}

impl Op for MoeModulate {
    fn name(&self) -> &'static str {
        "moe_modulate"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        if inputs.len() != self.operands() {
            return Err(format!("takes {} operands, found {}", self.operands(), inputs.len()));
        }
        self.check(inputs)?;
        Ok(vec![inputs[0].clone()])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let operands: Vec<_> = g.inputs.iter().copied().chain([g.dy()]).collect();
        let d = g.b.node(MoeModulateGrad(*self), &operands)?;
        Ok(Gradient::Inputs(d.into_iter().map(Some).collect()))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let k = self.experts as f64;
        let flops = (4.0 * k + 3.0) * outputs[0].len() as f64 + 4.0 * inputs[1].len() as f64;
        Cost::dense(flops, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self.experts, call);
        Ok(())
    }

    fn accepts(&self, _: usize, layout: &Layout) -> bool {
        is_rows(layout)
    }

    fn in_place(&self, input: usize) -> bool {
        input == 0
    }

    fn cuda_storage(
        &self,
        _inputs: &[&TensorType],
        _outputs: &[&TensorType],
        kept: &[DType],
        compute: DType,
    ) -> Storage {
        cuda::storage(kept, 2, compute)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(*self, call)
    }

    fn cuda_in_place(&self, input: usize) -> bool {
        input == 0
    }
}

impl Op for MoeModulateGrad {
    fn name(&self) -> &'static str {
        "moe_modulate_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let count = self.0.operands();
        if inputs.len() != count + 1 {
            return Err(format!("takes {} operands, found {}", count + 1, inputs.len()));
        }
        self.0.check(&inputs[..count])?;
        expect_like(inputs[0], &inputs[count..], "dy")?;
        Ok(inputs[..count].iter().map(|&t| t.clone()).collect())
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable("second derivatives of moe_modulate are not provided"))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let k = self.0.experts as f64;
        let flops = (8.0 * k + 3.0) * outputs[0].len() as f64 + 8.0 * inputs[1].len() as f64;
        Cost::dense(flops, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::backward(self.0.experts, call);
        Ok(())
    }

    fn accepts(&self, _: usize, layout: &Layout) -> bool {
        is_rows(layout)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::backward(*self, call)
    }
}

impl GraphBuilder {
    /// x·(1 + γ) + β, all of equal shape.
    pub fn modulate(&mut self, x: ValueId, gamma: ValueId, beta: ValueId) -> Result<ValueId> {
        self.node1(Modulate, &[x, gamma, beta])
    }

    /// x·(1 + Σ gₖγₖ) + Σ gₖβₖ with g = softmax(logits): x and every γₖ and βₖ `[…, C]`, logits
    /// `[…, K]`, as many γ as β as experts.
    pub fn moe_modulate(
        &mut self,
        x: ValueId,
        logits: ValueId,
        gammas: &[ValueId],
        betas: &[ValueId],
    ) -> Result<ValueId> {
        if gammas.len() != betas.len() {
            let message = format!("{} γ and {} β: as many of both are needed", gammas.len(), betas.len());
            return Err(self.error("moe_modulate", message));
        }
        let operands: Vec<_> = [x, logits].iter().chain(gammas).chain(betas).copied().collect();
        self.node1(MoeModulate { experts: gammas.len() }, &operands)
    }
}
