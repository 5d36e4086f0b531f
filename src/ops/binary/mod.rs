//! `binary`: z = f(x, y) element by element, shapes broadcast as in NumPy.

mod cpu;
mod cuda;
mod group;
mod reference;

use super::activation::expect_f32;
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

pub use group::{BinaryGroup, MOST_MEMBERS};

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// x + y
    Add,
    /// x − y
    Sub,
    /// x·y
    Mul,
    /// x / y
    Div,
}

/// z = f(x, y). Operands: f32 of shapes that broadcast against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binary(pub Kind);

/// The common shape of two operands, aligned at the last axis; an extent of 1 repeats.
pub fn broadcast_shape(x: &[usize], y: &[usize]) -> Option<Vec<usize>> {
    let rank = x.len().max(y.len());
    let extent = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |k| s[k]);
    (0..rank)
        .map(|i| match (extent(x, i), extent(y, i)) {
            (a, b) if a == b => Some(a),
            (1, n) | (n, 1) => Some(n),
            _ => None,
        })
        .collect()
}

impl Op for Binary {
    fn name(&self) -> &'static str {
        "binary"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, y] = inputs else { return Err(format!("takes 2 operands, found {}", inputs.len())) };
        expect_f32("x", x)?;
        expect_f32("y", y)?;
        let shape = broadcast_shape(&x.shape, &y.shape)
            .ok_or_else(|| format!("shapes {:?} and {:?} do not broadcast", x.shape, y.shape))?;
        Ok(vec![TensorType::f32(shape)])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let dz = g.dy();
        let (x, y, b) = (g.inputs[0], g.inputs[1], &mut *g.b);
        let (mut dx, mut dy) = (None, None);
        if g.wanted[0] {
            let d = match self.0 {
                Kind::Add | Kind::Sub => dz,
                Kind::Mul => b.mul(dz, y)?,
                Kind::Div => b.div(dz, y)?,
            };
            let shape = b.shape(x).to_vec();
            dx = Some(b.sum_to(d, &shape)?);
        }
        if g.wanted[1] {
            let d = match self.0 {
                Kind::Add => dz,
                Kind::Sub => b.scale(dz, -1.0)?,
                Kind::Mul => b.mul(dz, x)?,
                Kind::Div => {
                    let q = b.div(g.outputs[0], y)?; // z/y = x/y²
                    let d = b.mul(dz, q)?;
                    b.scale(d, -1.0)?
                }
            };
            let shape = b.shape(y).to_vec();
            dy = Some(b.sum_to(d, &shape)?);
        }
        Ok(Gradient::Inputs(vec![dx, dy]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(outputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self.0, call);
        Ok(())
    }

    fn accepts(&self, _: usize, layout: &Layout) -> bool {
        layout.as_rows().is_some()
    }

    fn in_place(&self, _: usize) -> bool {
        true
    }

    fn cuda_storage(&self, inputs: &[&TensorType], _: &[&TensorType], kept: &[DType], _: DType) -> Storage {
        cuda::storage(inputs, kept)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self.0, call)
    }

    fn cuda_accepts(&self, _: usize, _: &Layout) -> bool {
        true
    }

    fn cuda_in_place(&self, _: usize) -> bool {
        true
    }
}

impl GraphBuilder {
    /// x + y with broadcasting.
    pub fn add(&mut self, x: ValueId, y: ValueId) -> Result<ValueId> {
        self.node1(Binary(Kind::Add), &[x, y])
    }

    /// x − y with broadcasting.
    pub fn sub(&mut self, x: ValueId, y: ValueId) -> Result<ValueId> {
        self.node1(Binary(Kind::Sub), &[x, y])
    }

    /// x·y with broadcasting.
    pub fn mul(&mut self, x: ValueId, y: ValueId) -> Result<ValueId> {
        self.node1(Binary(Kind::Mul), &[x, y])
    }

    /// x / y with broadcasting.
    pub fn div(&mut self, x: ValueId, y: ValueId) -> Result<ValueId> {
        self.node1(Binary(Kind::Div), &[x, y])
    }

    /// factor·x
    pub fn scale(&mut self, x: ValueId, factor: f32) -> Result<ValueId> {
        let factor = self.scalar(factor);
        self.mul(x, factor)
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "binary",
        family: "binary",
        about: "add, sub, mul, div of two tensors with broadcasting",
        cases,
    },
    OpEntry {
        name: "binary_group",
        family: "binary",
        about: "independent sums, … of tensors of the same shapes in one launch",
        cases: group::cases,
    },
];

fn cases() -> Vec<Case> {
    use Kind::*;
    let n = |s: &[usize]| CaseInput::normal(s);
    let far = |s: &[usize]| CaseInput::uniform(s, 0.5, 2.0); // away from division by zero
    vec![
        Case::test("add_same", Binary(Add), vec![n(&[3, 5, 7]), n(&[3, 5, 7])]),
        Case::test("sub_bias", Binary(Sub), vec![n(&[3, 5, 7]), n(&[7])]),
        Case::test("mul_outer", Binary(Mul), vec![n(&[4, 1, 7]), n(&[5, 1])]),
        Case::test("mul_scalar", Binary(Mul), vec![n(&[4, 9]), n(&[])]),
        Case::test("div_left_broadcast", Binary(Div), vec![n(&[9]), far(&[2, 3, 9])]),
        Case::test("add_vectors", Binary(Add), vec![n(&[3, 5, 64]), n(&[3, 5, 64])]),
        Case::test("mul_bias_vectors", Binary(Mul), vec![n(&[2, 17, 72]), n(&[72])]),
        Case::test("mul_per_sample_vectors", Binary(Mul), vec![n(&[2, 9, 16]), n(&[2, 1, 16])]),
        Case::test("div_scalar_left", Binary(Div), vec![n(&[]), far(&[2, 24])]),
        Case::test("sub_scalars", Binary(Sub), vec![n(&[]), n(&[1, 1])]),
        Case::test("div_column", Binary(Div), vec![n(&[6, 9]), far(&[6, 1])]),
        Case::bench("pixart_residual", Binary(Add), vec![n(&[8192, 1152]), n(&[8192, 1152])]),
    ]
}
