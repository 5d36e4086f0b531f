//! `group_norm`: channels-last images normalised over all pixels and a block of channels, as in
//! `torch.nn.GroupNorm`, with the SiLU that follows it in diffusion networks where asked for. Or, for a reader that
//! normalises by itself, the scale and shift of every channel alone.

mod affine;
mod cpu;
mod cuda;
mod reference;

pub use affine::GroupNormAffine;
pub(in crate::ops) use affine::{on_cpu as affine_on_cpu, scratch_bytes as affine_scratch};
pub(in crate::ops) use cuda::{affine_launch, moments_launch, partials_bytes, rescale_launch};

use super::activation::expect_f32;
use super::layer_norm::{expect_pair, expect_per_column};
use super::rows::{is_rows, norm_storage};
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// y = f((x − mean) / √(variance + eps) · γ + β), f the identity or SiLU. Operands: x, f32
/// `[B, …, C]`; γ and β of shape `[C]`. Mean and (biased) variance are those of one sample's
/// pixels and one of `groups` equal blocks of channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Blocks that the channels are divided into.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether y·σ(y) follows.
    pub silu: bool,
}

/// Operands: x, dy of equal shape, γ, β. Results: dx, dγ, dβ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormGrad(pub GroupNorm);

/// The extents that the op sees: samples, pixels of each, channels.
pub(in crate::ops) fn extents(x: &TensorType) -> (usize, usize, usize) {
    let (samples, channels) = (x.shape[0], x.last());
    (samples, x.shape[1..x.rank() - 1].iter().product(), channels)
}

/// Refuses operands of a group norm that do not fit each other.
fn check(groups: usize, x: &TensorType, gamma: &TensorType, beta: &TensorType) -> Result<(), String> {
    expect_f32("x", x)?;
    if x.rank() < 2 || groups == 0 || !x.last().is_multiple_of(groups) {
        return Err(format!("x must be [B, …, C] with C a multiple of {groups} groups, found {x}"));
    }
    expect_per_column("the weight", gamma, x)?;
    expect_per_column("the bias", beta, x)
}

impl Op for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, gamma, beta] = inputs else {
            return Err(format!("takes 3 operands, found {}", inputs.len()));
        };
        check(self.groups, x, gamma, beta)?;
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let operands = [g.inputs[0], g.dy(), g.inputs[1], g.inputs[2]];
        let d = g.b.node(GroupNormGrad(*self), &operands)?;
        Ok(Gradient::Inputs(d.into_iter().map(Some).collect()))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let per_element = if self.silu { 12.0 } else { 8.0 };
        Cost::dense(per_element * inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self, call);
        Ok(())
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _: &[&TensorType], _: usize) -> usize {
        cpu::scratch_bytes(extents(inputs[0]))
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input == 0 { is_rows(layout) } else { layout.is_dense() }
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
        norm_storage(kept, compute)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        cuda::scratch_bytes(self.groups, inputs[0])
    }

    fn cuda_in_place(&self, input: usize) -> bool {
        input == 0
    }
}

impl Op for GroupNormGrad {
    fn name(&self) -> &'static str {
        "group_norm_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, dy, gamma, beta] = inputs else {
            return Err(format!("takes 4 operands, found {}", inputs.len()));
        };
        check(self.0.groups, x, gamma, beta)?;
        expect_pair(x, dy)?;
        Ok(vec![(*x).clone(), (*gamma).clone(), (*beta).clone()])
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable("second derivatives of group_norm are not provided"))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let per_element = if self.0.silu { 27.0 } else { 17.0 };
        Cost::dense(per_element * inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::backward(&self.0, call);
        Ok(())
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _: &[&TensorType], _: usize) -> usize {
        cpu::scratch_bytes(extents(inputs[0]))
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input < 2 { is_rows(layout) } else { layout.is_dense() }
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::backward(self, call)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        cuda::scratch_bytes(self.0.groups, inputs[0])
    }
}

impl GraphBuilder {
    /// Group norm of a channels-last tensor `[B, …, C]`; `affine` is (γ, β), each of shape `[C]`.
    pub fn group_norm(
        &mut self,
        x: ValueId,
        groups: usize,
        affine: (ValueId, ValueId),
        eps: f32,
    ) -> Result<ValueId> {
        self.node1(GroupNorm { groups, eps, silu: false }, &[x, affine.0, affine.1])
    }

    /// [`group_norm`](Self::group_norm) with y·σ(y) in the same pass.
    pub fn group_norm_silu(
        &mut self,
        x: ValueId,
        groups: usize,
        affine: (ValueId, ValueId),
        eps: f32,
    ) -> Result<ValueId> {
        self.node1(GroupNorm { groups, eps, silu: true }, &[x, affine.0, affine.1])
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "group_norm",
        family: "group_norm",
        about: "channels-last images normalised per block of channels, SiLU fused where asked for",
        cases: forward_cases,
    },
    OpEntry {
        name: "group_norm_affine",
        family: "group_norm",
        about: "scale and shift of every channel with which a group norm is one multiply-add",
        cases: affine::cases,
    },
    OpEntry {
        name: "group_norm_grad",
        family: "group_norm",
        about: "gradients of group_norm: of the image, the weight and the bias",
        cases: backward_cases,
    },
];

fn op(groups: usize, silu: bool) -> GroupNorm {
    GroupNorm { groups, eps: 1e-6, silu }
}

fn forward_cases() -> Vec<Case> {
    let operands = |x: &[usize]| {
        let c = [*x.last().expect("channels")];
        vec![CaseInput::normal(x), CaseInput::normal(c), CaseInput::normal(c)]
    };
    let mut far = operands(&[2, 5, 7, 6]);
    far[0] = CaseInput::uniform([2, 5, 7, 6], 49.0, 51.0);
    vec![
        Case::test("image", op(4, false), operands(&[2, 5, 7, 12])),
        Case::test("image_silu", op(4, true), operands(&[2, 5, 7, 12])),
        Case::test("one_group", op(1, false), operands(&[3, 11, 5])),
        Case::test("each_channel", op(5, false), operands(&[2, 9, 5])),
        Case::test("one_pixel", op(2, false), operands(&[3, 8])),
        Case::test("far_from_zero", op(2, false), far),
        // More pixels than one block of partial sums.
        Case::test("blocks", op(3, true), operands(&[1, 61, 53, 15])),
        // Groups of ten channels are not whole vectors; more vectors than one tile.
        Case::test("sdxl_width", op(4, true), operands(&[2, 4, 5, 40])),
        Case::test("two_tiles", op(4, false), operands(&[1, 130, 132])),
        Case::bench("vae_up3_norm_silu", op(32, true), operands(&[1, 512, 512, 128])),
        Case::bench("vae_mid_norm", op(32, false), operands(&[1, 64, 64, 512])),
    ]
}

fn backward_cases() -> Vec<Case> {
    let operands = |x: &[usize]| {
        let c = [*x.last().expect("channels")];
        vec![CaseInput::normal(x), CaseInput::normal(x), CaseInput::normal(c), CaseInput::normal(c)]
    };
    vec![
        Case::test("image", GroupNormGrad(op(4, false)), operands(&[2, 5, 7, 12])),
        Case::test("image_silu", GroupNormGrad(op(4, true)), operands(&[2, 5, 7, 12])),
        Case::test("blocks", GroupNormGrad(op(3, true)), operands(&[1, 61, 53, 15])),
        Case::test("two_tiles", GroupNormGrad(op(4, true)), operands(&[1, 130, 132])),
        Case::bench("vae_up3_norm_silu", GroupNormGrad(op(32, true)), operands(&[1, 256, 256, 128])),
    ]
}
