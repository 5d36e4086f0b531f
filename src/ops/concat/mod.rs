//! `concat`: tensors one after another along an axis. It copies; a convolution that reads
//! several tensors absorbs it.

mod cpu;
mod cuda;
mod reference;

use super::activation::expect_f32;
use super::rows::is_rows;
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::strided::alike;
use crate::graph::{
    Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// Operands: one or more f32 tensors, equal in shape but for `axis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concat {
    /// The axis along which extents add up.
    pub axis: usize,
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let Some((first, rest)) = inputs.split_first() else {
            return Err("takes at least 1 operand, found none".into());
        };
        expect_f32("operand 0", first)?;
        let axis = self.axis;
        if axis >= first.rank() {
            return Err(format!("axis {axis} is not an axis of {first}"));
        }
        let mut shape = first.shape.clone();
        for (k, x) in rest.iter().enumerate() {
            expect_f32(&format!("operand {}", k + 1), x)?;
            let fits = x.rank() == first.rank()
                && (0..first.rank()).all(|a| a == axis || x.shape[a] == first.shape[a]);
            if !fits {
                return Err(format!("operand {} is {x}, which does not fit {first} on axis {axis}", k + 1));
            }
            shape[axis] += x.shape[axis];
        }
        Ok(vec![TensorType::f32(shape)])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let dy = g.dy();
        let mut start = 0;
        let mut d = Vec::new();
        for (&x, &wanted) in g.inputs.iter().zip(g.wanted) {
            let len = g.b.shape(x)[self.axis];
            d.push(if wanted { Some(g.b.slice(dy, self.axis, start, len)?) } else { None });
            start += len;
        }
        Ok(Gradient::Inputs(d))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(0.0, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self.axis, call);
        Ok(())
    }

    fn cuda_storage(&self, _: &[&TensorType], _: &[&TensorType], kept: &[DType], _: DType) -> Storage {
        alike(kept, 1)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self.axis, call)
    }

    fn cuda_accepts(&self, _: usize, _: &Layout) -> bool {
        true
    }

    fn accepts(&self, _: usize, layout: &Layout) -> bool {
        is_rows(layout)
    }
}

impl GraphBuilder {
    /// The tensors one after another along `axis`; a single one is itself.
    pub fn concat(&mut self, xs: &[ValueId], axis: usize) -> Result<ValueId> {
        match xs {
            [x] => Ok(*x),
            _ => self.node1(Concat { axis }, xs),
        }
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] =
    &[OpEntry { name: "concat", family: "concat", about: "tensors one after another along an axis", cases }];

fn cases() -> Vec<Case> {
    let n = |s: &[usize]| CaseInput::normal(s);
    vec![
        Case::test(
            "channels",
            Concat { axis: 3 },
            vec![n(&[2, 3, 5, 4]), n(&[2, 3, 5, 7]), n(&[2, 3, 5, 1])],
        ),
        Case::test("vectors", Concat { axis: 1 }, vec![n(&[9, 16]), n(&[9, 8]), n(&[9, 32])]),
        Case::test("tokens", Concat { axis: 1 }, vec![n(&[2, 3, 5]), n(&[2, 4, 5])]),
        Case::test("batch", Concat { axis: 0 }, vec![n(&[1, 3, 2]), n(&[2, 3, 2])]),
        Case::test("empty_part", Concat { axis: 1 }, vec![n(&[2, 0]), n(&[2, 3])]),
        Case::bench(
            "rrdb_growth",
            Concat { axis: 3 },
            vec![n(&[1, 256, 256, 64]), n(&[1, 256, 256, 32]), n(&[1, 256, 256, 32])],
        ),
    ]
}
