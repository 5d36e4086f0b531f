//! `reduce`: sum, mean or maximum over adjacent axes, which stay with extent 1.

mod cpu;
pub(super) mod cuda;
mod reference;

use super::activation::expect_f32;
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::CudaCall;
use crate::graph::{Cost, Gradient, GradientContext, GraphBuilder, Op, TensorType, ValueId, op::CpuCall};

/// Which number stands for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Σ x
    Sum,
    /// Σ x / n
    Mean,
    /// The largest; NaN if one is NaN.
    Max,
}

/// Operand: x, f32. Result: x with extent 1 on `count` axes from `axis` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduce {
    /// Which function.
    pub kind: Kind,
    /// First axis to reduce.
    pub axis: usize,
    /// How many adjacent axes.
    pub count: usize,
}

/// The gradient of the maximum: dy where the (first) maximum stands, 0 elsewhere. Operands: x,
/// y (the forward's result), dy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReduceMaxGrad {
    /// As in [`Reduce`].
    pub axis: usize,
    /// As in [`Reduce`].
    pub count: usize,
}

/// A shape as (outer, reduced, inner) extents.
fn fold(shape: &[usize], axis: usize, count: usize) -> (usize, usize, usize) {
    let product = |s: &[usize]| s.iter().product();
    (product(&shape[..axis]), product(&shape[axis..axis + count]), product(&shape[axis + count..]))
}

fn reduced(x: &TensorType, axis: usize, count: usize) -> Result<TensorType, String> {
    expect_f32("x", x)?;
    if count == 0 || axis + count > x.rank() {
        return Err(format!("axes {axis}..{} are not axes of {x}", axis + count));
    }
    let mut shape = x.shape.clone();
    shape[axis..axis + count].fill(1);
    Ok(TensorType::f32(shape))
}

impl Op for Reduce {
    fn name(&self) -> &'static str {
        "reduce"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs else { return Err(format!("takes 1 operand, found {}", inputs.len())) };
        let y = reduced(x, self.axis, self.count)?;
        if self.kind != Kind::Sum && fold(&x.shape, self.axis, self.count).1 == 0 {
            return Err(format!("the {:?} of no elements is not defined: {x}", self.kind));
        }
        Ok(vec![y])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let (x, y, dy) = (g.inputs[0], g.outputs[0], g.dy());
        let shape = g.b.shape(x).to_vec();
        let dx = match self.kind {
            Kind::Sum => g.b.broadcast_to(dy, &shape)?,
            Kind::Mean => {
                let n = fold(&shape, self.axis, self.count).1;
                let dy = g.b.scale(dy, (n as f32).recip())?;
                g.b.broadcast_to(dy, &shape)?
            }
            Kind::Max => g.b.node1(ReduceMaxGrad { axis: self.axis, count: self.count }, &[x, y, dy])?,
        };
        Ok(Gradient::Inputs(vec![Some(dx)]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let flops = match self.kind {
            Kind::Max => 0,
            Kind::Sum | Kind::Mean => inputs[0].len(),
        };
        Cost::dense(flops as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self, call);
        Ok(())
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _: &[&TensorType], _: usize) -> usize {
        cpu::scratch_bytes(fold(&inputs[0].shape, self.axis, self.count))
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        cuda::scratch_bytes(fold(&inputs[0].shape, self.axis, self.count))
    }
}

impl Op for ReduceMaxGrad {
    fn name(&self) -> &'static str {
        "reduce_max_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, y, dy] = inputs else { return Err(format!("takes 3 operands, found {}", inputs.len())) };
        let expected = reduced(x, self.axis, self.count)?;
        if **y != expected || **dy != expected {
            return Err(format!("y and dy must be {expected}, found {y} and {dy}"));
        }
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable("second derivatives of a maximum are not provided"))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(0.0, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::max_backward(self, call);
        Ok(())
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::max_backward(self, call)
    }
}

impl GraphBuilder {
    /// Σ x over `axes` (any order); they stay with extent 1 if `keep`, else they go.
    pub fn sum(&mut self, x: ValueId, axes: &[usize], keep: bool) -> Result<ValueId> {
        self.reduce(Kind::Sum, x, axes, keep)
    }

    /// The mean over `axes`; see [`sum`](Self::sum).
    pub fn mean(&mut self, x: ValueId, axes: &[usize], keep: bool) -> Result<ValueId> {
        self.reduce(Kind::Mean, x, axes, keep)
    }

    /// The maximum over `axes`; see [`sum`](Self::sum). Its gradient goes to the first maximum in
    /// row-major order.
    pub fn max(&mut self, x: ValueId, axes: &[usize], keep: bool) -> Result<ValueId> {
        self.reduce(Kind::Max, x, axes, keep)
    }

    /// One node per run of adjacent axes, the last run first.
    fn reduce(&mut self, kind: Kind, x: ValueId, axes: &[usize], keep: bool) -> Result<ValueId> {
        let mut axes = axes.to_vec();
        axes.sort_unstable();
        axes.dedup();
        let mut y = x;
        for run in axes.chunk_by(|a, b| a + 1 == *b).rev() {
            y = self.node1(Reduce { kind, axis: run[0], count: run.len() }, &[y])?;
        }
        if keep {
            return Ok(y);
        }
        let shape = self.shape(x).to_vec();
        let left: Vec<_> = (0..shape.len()).filter(|a| !axes.contains(a)).map(|a| shape[a]).collect();
        self.reshape(y, left)
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "reduce",
        family: "reduce",
        about: "sum, mean or maximum over adjacent axes",
        cases: forward_cases,
    },
    OpEntry {
        name: "reduce_max_grad",
        family: "reduce",
        about: "gradient of the maximum: to the first maximum",
        cases: max_backward_cases,
    },
];

fn forward_cases() -> Vec<Case> {
    let case = |name, kind, axis, count, x: &[usize]| {
        Case::test(name, Reduce { kind, axis, count }, vec![CaseInput::normal(x)])
    };
    let bench = |name, kind, axis, count, x: &[usize]| {
        Case::bench(name, Reduce { kind, axis, count }, vec![CaseInput::normal(x)])
    };
    vec![
        case("sum_rows", Kind::Sum, 2, 1, &[3, 5, 37]),
        case("sum_all", Kind::Sum, 0, 3, &[7, 83, 61]),
        case("sum_long_rows", Kind::Sum, 1, 1, &[2, 150_001]),
        case("sum_nothing", Kind::Sum, 1, 1, &[3, 0, 2]),
        case("mean_pixels", Kind::Mean, 1, 2, &[2, 9, 7, 5]),
        case("mean_pixels_blocks", Kind::Mean, 1, 2, &[1, 57, 61, 11]),
        case("mean_batch", Kind::Mean, 0, 1, &[6, 5]),
        case("max_rows", Kind::Max, 1, 2, &[9, 4, 13]),
        case("max_pixels", Kind::Max, 1, 2, &[2, 9, 7, 5]),
        case("max_long_rows", Kind::Max, 1, 1, &[2, 3001]),
        case("max_long_columns", Kind::Max, 0, 1, &[1100, 3]),
        case("sum_few_of_many", Kind::Sum, 0, 1, &[3, 700]),
        bench("pool_features", Kind::Mean, 1, 2, &[1, 256, 256, 64]),
        bench("loss_sum", Kind::Sum, 0, 4, &[1, 512, 512, 3]),
    ]
}

fn max_backward_cases() -> Vec<Case> {
    // y must really be the maximum of x, with ties.
    let x = vec![1.0, 5.0, 5.0, -2.0, 0.0, 0.0, -1.0, -3.0, -1.0, 9.0, 8.0, 9.0];
    let values =
        |shape: &[usize], v: Vec<f64>| CaseInput { ty: TensorType::f32(shape), fill: super::Fill::Values(v) };
    vec![
        Case::test(
            "rows",
            ReduceMaxGrad { axis: 1, count: 1 },
            vec![
                values(&[4, 3], x.clone()),
                values(&[4, 1], vec![5.0, 0.0, -1.0, 9.0]),
                CaseInput::normal([4, 1]),
            ],
        ),
        Case::test(
            "long_row",
            ReduceMaxGrad { axis: 0, count: 1 },
            vec![
                values(&[70], (0..70).map(|i| f64::from(-((i - 35i32) / 3).abs())).collect()),
                values(&[1], vec![0.0]),
                CaseInput::normal([1]),
            ],
        ),
        Case::test(
            "columns",
            ReduceMaxGrad { axis: 0, count: 1 },
            vec![values(&[4, 3], x), values(&[1, 3], vec![9.0, 8.0, 9.0]), CaseInput::normal([1, 3])],
        ),
    ]
}
