//! `group_norm_affine`: a group norm as a scale and a shift of every channel of every sample.

use super::{check, cpu, cuda, extents};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{Cost, Gradient, GradientContext, Layout, Op, TensorType, op::CpuCall};
use crate::ops::epilogue::FUSED;
use crate::ops::rows::{Rows, as_kept, is_rows};
use crate::ops::{Case, CaseInput};
use crate::tensor::DType;

/// Operands: x `[B, …, C]`, γ and β `[C]`. Result: `[B, 2, C]`, for every sample scale = γ / √(variance + eps) and
/// shift = β − mean·scale of every channel: x·scale + shift is the group norm of x. Recorded by fusion rules only,
/// after differentiation, for a convolution that normalises what it reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormAffine {
    /// Blocks that the channels are divided into.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl GroupNormAffine {
    /// Operations per element of x: its part in the mean, and in the variance.
    pub(in crate::ops) const FLOPS: f64 = 4.0;

    /// The result's type for operands of these types.
    pub(in crate::ops) fn infer_of(
        &self,
        x: &TensorType,
        gamma: &TensorType,
        beta: &TensorType,
    ) -> Result<TensorType, String> {
        check(self.groups, x, gamma, beta)?;
        if x.is_empty() {
            return Err(format!("a sample needs at least one pixel to be normalised by, found {x}"));
        }
        Ok(TensorType::f32([x.shape[0], 2, x.last()]))
    }
}

/// The fast path on dense rows of a tensor of type `ty`; `scratch` has [`scratch_bytes`].
pub(in crate::ops) fn on_cpu(
    op: &GroupNormAffine,
    ty: &TensorType,
    x: Rows,
    weights: (&[f32], &[f32]),
    scratch: &mut [u8],
    out: &mut [f32],
) {
    cpu::affine(op, ty, &x, weights, scratch, out);
}

/// Working memory of [`on_cpu`].
pub(in crate::ops) fn scratch_bytes(x: &TensorType) -> usize {
    cpu::scratch_bytes(extents(x))
}

impl Op for GroupNormAffine {
    fn name(&self) -> &'static str {
        "group_norm_affine"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, gamma, beta] = inputs else {
            return Err(format!("takes 3 operands, found {}", inputs.len()));
        };
        Ok(vec![self.infer_of(x, gamma, beta)?])
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable(FUSED))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(Self::FLOPS * inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, mut call: CpuCall) -> Result<(), String> {
        let [x, gamma, beta] = &call.inputs[..] else { unreachable!("infer takes three operands") };
        let out = call.outputs[0].f32();
        cpu::affine(self, x.ty, &Rows::new(x), (gamma.f32(), beta.f32()), call.scratch, out);
        Ok(())
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _: &[&TensorType], _: usize) -> usize {
        scratch_bytes(inputs[0])
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input == 0 { is_rows(layout) } else { layout.is_dense() }
    }

    fn cuda_storage(
        &self,
        inputs: &[&TensorType],
        outputs: &[&TensorType],
        kept: &[DType],
        compute: DType,
    ) -> Storage {
        let mut storage = Storage::of_graph(inputs, outputs);
        storage.inputs[0] = as_kept(kept[0], compute);
        storage
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::affine(self, call)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        cuda::scratch_bytes(self.groups, inputs[0])
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |name, groups, x: &[usize]| {
        let c = [*x.last().expect("channels")];
        let inputs = vec![CaseInput::normal(x), CaseInput::normal(c), CaseInput::normal(c)];
        Case::test(name, GroupNormAffine { groups, eps: 1e-6 }, inputs)
    };
    let mut far = case("far_from_zero", 2, &[2, 5, 7, 6]);
    far.inputs[0] = CaseInput::uniform([2, 5, 7, 6], 49.0, 51.0);
    vec![
        case("image", 4, &[2, 5, 7, 12]),
        case("one_group", 1, &[3, 11, 5]),
        case("one_pixel", 2, &[3, 8]),
        far,
        // More pixels than one block of partial sums.
        case("blocks", 3, &[1, 61, 53, 15]),
        Case { bench: true, ..case("vae_up3", 32, &[1, 512, 512, 128]) },
    ]
}
