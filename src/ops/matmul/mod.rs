//! `matmul`: C = A·B for each item of a batch, either operand transposed.

mod cpu;
pub(in crate::ops) mod cuda;
mod cuda_sm90;
mod reference;

use super::activation::expect_f32;
use super::epilogue::Epilogue;
use super::weight::expect_weight;
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::device::library::LibraryCall;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// Operands: A `[…, M, K]` (`[…, K, M]` if transposed) and B `[…, K, N]` (`[…, N, K]`). B may be bf16
/// or f16. The leading axes are equal, or one operand has none and serves the whole batch. Result:
/// f32 `[…, M, N]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatMul {
    /// A is stored transposed.
    pub trans_a: bool,
    /// B is stored transposed.
    pub trans_b: bool,
}

/// Extents of a product.
#[derive(Clone, Copy, Debug)]
struct Dims {
    batch: usize,
    /// Elements between matrices of A; 0 if A serves the whole batch.
    step_a: usize,
    step_b: usize,
    m: usize,
    k: usize,
    n: usize,
}

impl MatMul {
    fn dims(&self, a: &[usize], b: &[usize]) -> Result<(Dims, Vec<usize>), String> {
        let (Some((lead_a, &[a0, a1])), Some((lead_b, &[b0, b1]))) =
            (a.split_last_chunk::<2>(), b.split_last_chunk::<2>())
        else {
            return Err(format!("needs matrices, found {a:?} and {b:?}"));
        };
        let (m, k) = if self.trans_a { (a1, a0) } else { (a0, a1) };
        let (kb, n) = if self.trans_b { (b1, b0) } else { (b0, b1) };
        if k != kb {
            return Err(format!("inner extents differ: {k} of {a:?}, {kb} of {b:?}"));
        }
        if lead_a != lead_b && !lead_a.is_empty() && !lead_b.is_empty() {
            return Err(format!("batches differ: {a:?} and {b:?}"));
        }
        let lead = if lead_a.is_empty() { lead_b } else { lead_a };
        let step = |own: &[usize], size: usize| if own.is_empty() { 0 } else { size };
        let batch = lead.iter().product();
        let dims = Dims { batch, step_a: step(lead_a, m * k), step_b: step(lead_b, k * n), m, k, n };
        Ok((dims, lead.iter().copied().chain([m, n]).collect()))
    }
}

impl Op for MatMul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [a, b] = inputs else { return Err(format!("takes 2 operands, found {}", inputs.len())) };
        expect_f32("A", a)?;
        expect_weight("B", b)?;
        Ok(vec![TensorType::f32(self.dims(&a.shape, &b.shape)?.1)])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let (dc, bld) = (g.dy(), &mut *g.b);
        let (a, b) = (g.inputs[0], g.inputs[1]);
        let (mut da, mut db) = (None, None);
        // With C = op(A)·op(B): d op(A) = dC·op(B)ᵀ and d op(B) = op(A)ᵀ·dC, transposed back.
        if g.wanted[0] {
            // B stays on the right, where it may be stored in half precision.
            let mut d = bld.matmul(dc, b, false, !self.trans_b)?;
            if self.trans_a {
                let mut axes: Vec<usize> = (0..bld.shape(d).len()).collect();
                let last = axes.len() - 1;
                axes.swap(last - 1, last);
                d = bld.permute(d, axes)?;
            }
            let shape = bld.shape(a).to_vec();
            da = Some(bld.sum_to(d, &shape)?);
        }
        if g.wanted[1] {
            let d = if self.trans_b {
                bld.matmul(dc, a, true, self.trans_a)?
            } else {
                bld.matmul(a, dc, !self.trans_a, false)?
            };
            let shape = bld.shape(b).to_vec();
            db = Some(bld.sum_to(d, &shape)?);
        }
        Ok(Gradient::Inputs(vec![da, db]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let k = self.dims(&inputs[0].shape, &inputs[1].shape).map_or(0, |d| d.0.k);
        Cost::dense(2.0 * k as f64 * outputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self, call)
    }

    fn cuda_storage(
        &self,
        _inputs: &[&TensorType],
        _outputs: &[&TensorType],
        kept: &[DType],
        compute: DType,
    ) -> Storage {
        cuda::storage(self, kept, compute)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::product(self, call).launches(call)
    }

    fn cuda_library(&self, call: &CudaCall) -> Option<LibraryCall> {
        cuda::product(self, call).library(&Epilogue::default(), None)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        cuda::scratch(self, inputs)
    }

    fn cuda_accepts(&self, input: usize, layout: &Layout) -> bool {
        cuda::accepts(self, input, layout)
    }
}

impl GraphBuilder {
    /// A·B for each item of a batch; `trans_a`, `trans_b` say that an operand is stored transposed.
    pub fn matmul(&mut self, a: ValueId, b: ValueId, trans_a: bool, trans_b: bool) -> Result<ValueId> {
        self.node1(MatMul { trans_a, trans_b }, &[a, b])
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[OpEntry {
    name: "matmul",
    family: "matmul",
    about: "batched A·B, either operand transposed or shared by the batch",
    cases,
}];

fn cases() -> Vec<Case> {
    let case = |name, ta, tb, a: &[usize], b: &[usize]| {
        let op = MatMul { trans_a: ta, trans_b: tb };
        Case::test(name, op, vec![CaseInput::normal(a), CaseInput::normal(b)])
    };
    let half = |name, dtype, mut case: Case| {
        case.inputs[1] = case.inputs[1].clone().stored_as(dtype);
        Case { name, ..case }
    };
    vec![
        case("plain", false, false, &[7, 13], &[13, 33]),
        case("trans_a", true, false, &[13, 7], &[13, 5]),
        case("trans_b", false, true, &[2, 3, 7, 13], &[2, 3, 9, 13]),
        case("trans_both", true, true, &[4, 13, 7], &[4, 9, 13]),
        case("tile_edges", false, false, &[2, 66, 40], &[2, 40, 72]),
        case("rows", false, true, &[3, 5, 100], &[3, 24, 100]),
        case("split_k", false, true, &[17, 1100], &[12, 1100]),
        case("split_k_trans_a", true, false, &[1100, 10], &[1100, 8]),
        case("shared_b", false, false, &[3, 5, 6], &[6, 4]),
        case("shared_a", true, false, &[6, 5], &[3, 6, 4]),
        half("bf16_b", DType::BF16, case("", false, true, &[2, 7, 13], &[2, 9, 13])),
        half("f16_b_trans_a", DType::F16, case("", true, false, &[13, 7], &[13, 33])),
        case("tile_edges_trans_a", true, false, &[40, 136], &[40, 72]),
        case("tile_edges_trans_b", false, true, &[2, 66, 72], &[2, 136, 72]),
        Case::bench(
            "pixart_fc1_grad_weight",
            MatMul { trans_a: true, trans_b: false },
            vec![CaseInput::normal([4096, 4608]), CaseInput::normal([4096, 1152])],
        ),
    ]
}
