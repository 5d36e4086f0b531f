//! `linear_group`: several linear layers of the same extents that do not depend on each other, at once: on a
//! CUDA device one launch, which fills it better than one after the other.

mod cuda;
mod reference;

use super::epilogue::{Epilogue, FUSED};
use super::linear::Linear;
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{Cost, Gradient, GradientContext, Layout, Op, TensorType, op::CpuCall};
use crate::tensor::DType;

/// Members, at most: their addresses travel with the launch.
pub const MOST_MEMBERS: usize = 8;

/// Operands: those of a [`Linear`] with this bias and epilogue, member after member: x `[…, K]`, W `[N, K]`,
/// b `[N]` if `bias`; the shapes are the same for all, the values may be (x often is). Results: `[…, N]` of
/// each. Recorded by a fusion rule only, after differentiation.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearGroup {
    /// How many, 2 to [`MOST_MEMBERS`].
    pub members: usize,
    /// Whether each has a bias operand.
    pub bias: bool,
    /// What happens to each result in registers; without gate and residual.
    pub epilogue: Epilogue,
}

impl LinearGroup {
    /// One of them.
    fn member(&self) -> Linear {
        Linear { bias: self.bias, epilogue: self.epilogue }
    }

    /// Operands of a member.
    fn arity(&self) -> usize {
        2 + usize::from(self.bias)
    }
}

impl Op for LinearGroup {
    fn name(&self) -> &'static str {
        "linear_group"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        if !(2..=MOST_MEMBERS).contains(&self.members) {
            return Err(format!("takes 2 to {MOST_MEMBERS} members, found {}", self.members));
        }
        if self.epilogue.arity() > 0 {
            return Err("takes neither gate nor residual in its epilogue".into());
        }
        let operands = self.members * self.arity();
        if inputs.len() != operands {
            return Err(format!("takes {operands} operands, found {}", inputs.len()));
        }
        let mut results = Vec::with_capacity(self.members);
        for (i, member) in inputs.chunks(self.arity()).enumerate() {
            results.extend(self.member().infer(member).map_err(|e| format!("member {i}: {e}"))?);
            let (x, w) = (member[0], member[1]);
            if x.shape != inputs[0].shape || w.shape != inputs[1].shape {
                let (x0, w0) = (inputs[0], inputs[1]);
                return Err(format!("members must be alike: {x0} by {w0}, but member {i} is {x} by {w}"));
            }
        }
        Ok(results)
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable(FUSED))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let members = inputs.chunks(self.arity()).zip(outputs.chunks(1));
        members.map(|(inputs, outputs)| self.member().cost(inputs, outputs)).sum()
    }

    /// One after the other: each fills the processor.
    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        let mut inputs = call.inputs.into_iter();
        for output in call.outputs {
            let inputs = inputs.by_ref().take(self.arity()).collect();
            self.member().cpu(CpuCall { inputs, outputs: vec![output], scratch: &mut [] })?;
        }
        Ok(())
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        self.member().accepts(input % self.arity(), layout)
    }

    fn cuda_storage(
        &self,
        inputs: &[&TensorType],
        outputs: &[&TensorType],
        kept: &[DType],
        compute: DType,
    ) -> Storage {
        cuda::storage(self, inputs, outputs, kept, compute)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call)
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[OpEntry {
    name: "linear_group",
    family: "linear_group",
    about: "independent linear layers of the same extents in one launch",
    cases,
}];

fn cases() -> Vec<Case> {
    use super::activation::Kind;
    let case = |name, members: usize, rows: &[usize], [k, n]: [usize; 2], act: Option<Kind>, bench: bool| {
        let shape: Vec<_> = rows.iter().copied().chain([k]).collect();
        let mut inputs = Vec::new();
        for _ in 0..members {
            let limit = (k as f64).powf(-0.5);
            inputs.extend([CaseInput::normal(shape.clone()), CaseInput::uniform([n, k], -limit, limit)]);
            inputs.push(CaseInput::normal([n]));
        }
        let op = LinearGroup { members, bias: true, epilogue: Epilogue { act, ..Epilogue::default() } };
        if bench { Case::bench(name, op, inputs) } else { Case::test(name, op, inputs) }
    };
    let no_bias = Case::test(
        "no_bias",
        LinearGroup { members: 2, bias: false, epilogue: Epilogue { alpha: 0.5, ..Epilogue::default() } },
        [[3, 7, 17], [3, 7, 17]]
            .iter()
            .flat_map(|x| [CaseInput::normal(*x), CaseInput::normal([9, 17])])
            .collect(),
    );
    vec![
        no_bias,
        case("odd", 3, &[19], [31, 45], None, false),
        case("most", MOST_MEMBERS, &[2, 10], [24, 16], Some(Kind::Gelu), false),
        case("few_rows", 3, &[5], [72, 33], Some(Kind::Silu), false),
        case("tile_edges", 2, &[65], [96, 72], None, false),
        case("deep", 2, &[17], [1100, 9], None, false),
        case("dreamclear_experts", 6, &[8192], [576, 1152], None, true),
    ]
}
