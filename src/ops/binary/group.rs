//! `binary_group`: several small elementwise results that do not depend on each other, at once: on a CUDA
//! device one launch.

use super::{Binary, Kind, cuda};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::ffi;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::op::CpuCall;
use crate::graph::{Array, Cost, Gradient, GradientContext, Layout, Op, Real, Reference, TensorType};
use crate::ops::epilogue::FUSED;
use crate::ops::{Case, CaseInput};
use crate::tensor::DType;

/// Members, at most: their addresses travel with the launch.
pub const MOST_MEMBERS: usize = ffi::BINARY_MEMBERS as usize;

/// Operands: x and y of a [`Binary`] of this kind, member after member, of the same types for all and more than
/// one element each. Results: one each. Recorded by a fusion rule only, after differentiation.
#[derive(Clone, Debug, PartialEq)]
pub struct BinaryGroup {
    /// Which function.
    pub kind: Kind,
    /// How many, 2 to [`MOST_MEMBERS`].
    pub members: usize,
}

impl Op for BinaryGroup {
    fn name(&self) -> &'static str {
        "binary_group"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        if !(2..=MOST_MEMBERS).contains(&self.members) {
            return Err(format!("takes 2 to {MOST_MEMBERS} members, found {}", self.members));
        }
        if inputs.len() != 2 * self.members {
            return Err(format!("takes {} operands, found {}", 2 * self.members, inputs.len()));
        }
        if let Some(i) = inputs.chunks(2).position(|m| m != &inputs[..2]) {
            let (a, b) = (&inputs[..2], &inputs[2 * i..]);
            return Err(format!(
                "members must be alike: {} and {}, but member {i} has {} and {}",
                a[0], a[1], b[0], b[1]
            ));
        }
        if let Some(number) = inputs[..2].iter().find(|t| t.len() == 1) {
            return Err(format!("takes no single numbers, found {number}"));
        }
        let one = Binary(self.kind).infer(&inputs[..2])?;
        Ok(vec![one[0].clone(); self.members])
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable(FUSED))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let members = inputs.chunks(2).zip(outputs.chunks(1));
        members.map(|(inputs, outputs)| Binary(self.kind).cost(inputs, outputs)).sum()
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        let mut inputs = call.inputs.into_iter();
        for output in call.outputs {
            let inputs = inputs.by_ref().take(2).collect();
            Binary(self.kind).cpu(CpuCall { inputs, outputs: vec![output], scratch: &mut [] })?;
        }
        Ok(())
    }

    /// Dense: the strides are then the same for all members.
    fn accepts(&self, _: usize, layout: &Layout) -> bool {
        layout.is_dense()
    }

    fn cuda_storage(&self, _: &[&TensorType], _: &[&TensorType], kept: &[DType], _: DType) -> Storage {
        cuda::group_storage(kept, self.members)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self.kind, call)
    }
}

impl Reference for BinaryGroup {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        inputs.chunks(2).flat_map(|member| Binary(self.kind).eval(member)).collect()
    }
}

pub(super) fn cases() -> Vec<Case> {
    let case = |name, kind, members: usize, x: &[usize], y: &[usize]| {
        let inputs = (0..2 * members).map(|i| CaseInput::uniform([x, y][i % 2], 0.5, 2.0));
        Case::test(name, BinaryGroup { kind, members }, inputs.collect())
    };
    vec![
        case("add_tables", Kind::Add, MOST_MEMBERS, &[6, 24], &[1, 6, 24]),
        case("mul_per_sample", Kind::Mul, 3, &[2, 5, 9], &[2, 1, 9]),
        case("div_vectors", Kind::Div, 2, &[64], &[3, 64]),
    ]
}
