//! `pad_edges`: continues a tensor beyond its edges by mirroring or repeating it, as
//! `torch.nn.functional.pad` does with `reflect` and `replicate`. (Zeros: see `pad`.)

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

/// What stands beyond an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The mirror image, without repeating the edge itself: `2 1 | 0 1 2 | 1 0`. Needs less
    /// padding than the axis is long.
    Reflect,
    /// The edge again and again: `0 0 | 0 1 2 | 2 2`.
    Replicate,
}

/// Operand: x, f32. Result: x continued by so many elements before and after each axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PadEdges {
    /// What stands there.
    pub mode: Mode,
    /// Elements in front, per axis.
    pub before: Vec<usize>,
    /// Elements behind, per axis.
    pub after: Vec<usize>,
}

/// Operand: dy. Result: dx, each element the sum over its places in the padded tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PadEdgesGrad(pub PadEdges);

impl PadEdges {
    fn check(&self, x: &TensorType) -> Result<(), String> {
        expect_f32("x", x)?;
        if self.before.len() != x.rank() || self.after.len() != x.rank() {
            let (b, a) = (&self.before, &self.after);
            return Err(format!("{b:?} and {a:?} must give one number per axis of {x}"));
        }
        for (axis, &n) in x.shape.iter().enumerate() {
            let most = self.before[axis].max(self.after[axis]);
            let room = match self.mode {
                Mode::Reflect => most < n,
                Mode::Replicate => n > 0,
            };
            if most > 0 && !room {
                let what = format!("{:?} padding of {most} on axis {axis}", self.mode);
                return Err(format!("{what} needs a longer axis than that of {x}"));
            }
        }
        Ok(())
    }

    /// The place in the operand, per axis and place in the result.
    fn sources(&self, x: &[usize]) -> Vec<Vec<usize>> {
        let source = |axis: usize, at: usize| {
            let (at, last) = (at as isize - self.before[axis] as isize, x[axis] as isize - 1);
            let inside = match self.mode {
                Mode::Reflect if at < 0 => -at,
                Mode::Reflect if at > last => 2 * last - at,
                Mode::Reflect => at,
                Mode::Replicate => at.clamp(0, last),
            };
            inside as usize
        };
        let extent = |axis: usize| self.before[axis] + x[axis] + self.after[axis];
        (0..x.len()).map(|axis| (0..extent(axis)).map(|i| source(axis, i)).collect()).collect()
    }

    /// The shape of the operand, given that of the result.
    fn operand(&self, y: &TensorType) -> Result<TensorType, String> {
        let extent = |axis: usize| {
            let pad = self.before.get(axis)? + self.after.get(axis)?;
            y.shape[axis].checked_sub(pad)
        };
        let shape: Option<Vec<_>> = (0..y.rank()).map(extent).collect();
        Ok(TensorType::f32(shape.ok_or_else(|| format!("{y} is smaller than its padding"))?))
    }
}

impl Op for PadEdges {
    fn name(&self) -> &'static str {
        "pad_edges"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs else { return Err(format!("takes 1 operand, found {}", inputs.len())) };
        self.check(x)?;
        let shape: Vec<_> = (0..x.rank()).map(|i| self.before[i] + x.shape[i] + self.after[i]).collect();
        Ok(vec![TensorType::f32(shape)])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let dy = g.dy();
        let dx = g.b.node1(PadEdgesGrad(self.clone()), &[dy])?;
        Ok(Gradient::Inputs(vec![Some(dx)]))
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

impl Op for PadEdgesGrad {
    fn name(&self) -> &'static str {
        "pad_edges_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [dy] = inputs else { return Err(format!("takes 1 operand, found {}", inputs.len())) };
        expect_f32("dy", dy)?;
        let x = self.0.operand(dy)?;
        self.0.check(&x)?;
        Ok(vec![x])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let d = g.dy();
        let dx = g.b.node1(self.0.clone(), &[d])?;
        Ok(Gradient::Inputs(vec![Some(dx)]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::backward(&self.0, call);
        Ok(())
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::backward(&self.0, call)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        cuda::backward_scratch(inputs[0])
    }
}

impl GraphBuilder {
    /// Continues `x` by `before` and `after` elements per axis.
    pub fn pad_edges(
        &mut self,
        x: ValueId,
        mode: Mode,
        before: Vec<usize>,
        after: Vec<usize>,
    ) -> Result<ValueId> {
        if before.iter().chain(&after).all(|&n| n == 0) && before.len() == self.shape(x).len() {
            return Ok(x);
        }
        self.node1(PadEdges { mode, before, after }, &[x])
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "pad_edges",
        family: "pad_edges",
        about: "a tensor continued beyond its edges, mirrored or repeated",
        cases: forward_cases,
    },
    OpEntry {
        name: "pad_edges_grad",
        family: "pad_edges",
        about: "gradient of pad_edges: sums over the places of each element",
        cases: backward_cases,
    },
];

fn op(mode: Mode, before: &[usize], after: &[usize]) -> PadEdges {
    PadEdges { mode, before: before.to_vec(), after: after.to_vec() }
}

fn forward_cases() -> Vec<Case> {
    let image = || vec![CaseInput::normal([2, 5, 6, 3])];
    vec![
        Case::test("reflect", op(Mode::Reflect, &[0, 2, 5, 0], &[0, 4, 1, 0]), image()),
        Case::test("replicate", op(Mode::Replicate, &[0, 2, 7, 0], &[0, 4, 0, 0]), image()),
        Case::test("last_axis", op(Mode::Reflect, &[0, 3], &[1, 2]), vec![CaseInput::normal([3, 4])]),
        Case::test(
            "vectors",
            op(Mode::Reflect, &[0, 0, 2, 0], &[0, 3, 0, 0]),
            vec![CaseInput::normal([1, 6, 5, 8])],
        ),
        Case::bench(
            "swinir_window_pad",
            op(Mode::Reflect, &[0, 0, 0, 0], &[0, 5, 3, 0]),
            vec![CaseInput::normal([1, 507, 509, 180])],
        ),
    ]
}

fn backward_cases() -> Vec<Case> {
    let image = || vec![CaseInput::normal([2, 11, 12, 3])];
    vec![
        Case::test("reflect", PadEdgesGrad(op(Mode::Reflect, &[0, 2, 5, 0], &[0, 4, 1, 0])), image()),
        Case::test("replicate", PadEdgesGrad(op(Mode::Replicate, &[0, 2, 7, 0], &[0, 4, 0, 0])), image()),
        Case::test(
            "last_axis",
            PadEdgesGrad(op(Mode::Reflect, &[0, 3], &[1, 2])),
            vec![CaseInput::normal([4, 9])],
        ),
        Case::test(
            "three_axes",
            PadEdgesGrad(op(Mode::Replicate, &[1, 0, 2, 1], &[1, 3, 0, 3])),
            vec![CaseInput::normal([4, 7, 6, 8])],
        ),
        Case::test(
            "vectors",
            PadEdgesGrad(op(Mode::Reflect, &[0, 1, 2, 0], &[0, 3, 0, 0])),
            vec![CaseInput::normal([1, 9, 7, 8])],
        ),
        Case::test(
            "nothing",
            PadEdgesGrad(op(Mode::Reflect, &[0, 0], &[0, 0])),
            vec![CaseInput::normal([4, 9])],
        ),
    ]
}
