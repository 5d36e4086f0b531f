//! `embedding`: rows of a table by index.

mod cpu;
mod cuda;
mod reference;

use super::activation::expect_f32;
use super::weight::expect_weight;
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{Cost, Gradient, GradientContext, GraphBuilder, Op, TensorType, ValueId, op::CpuCall};
use crate::tensor::DType;

/// Operands: table, f32, bf16 or f16 `[V, D]`; indices, i64 of any shape, each in `0..V`. Result: f32 of the
/// indices' shape followed by D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedding;

/// The gradient of the table. Operands: indices, dy. Result: f32 `[V, D]`, each row the sum of the
/// dy that it was looked up for, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingGrad {
    /// Rows of the table.
    pub rows: usize,
}

fn expect_indices(indices: &TensorType) -> Result<(), String> {
    if indices.dtype == DType::I64 { Ok(()) } else { Err(format!("indices must be i64, found {indices}")) }
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [table, indices] = inputs else {
            return Err(format!("takes 2 operands, found {}", inputs.len()));
        };
        expect_weight("the table", table)?;
        expect_indices(indices)?;
        let [_, d] = table.shape[..] else {
            return Err(format!("the table must be [rows, columns], found {table}"));
        };
        let mut shape = indices.shape.clone();
        shape.push(d);
        Ok(vec![TensorType::f32(shape)])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let (rows, dy) = (g.b.shape(g.inputs[0])[0], g.dy());
        let d = g.b.node1(EmbeddingGrad { rows }, &[g.inputs[1], dy])?;
        Ok(Gradient::Inputs(vec![Some(d), None]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        // Only the rows that are looked up are read.
        let row = inputs[0].dtype.size() + outputs[0].dtype.size();
        Cost { flops: 0.0, bytes: (inputs[1].bytes() + outputs[0].len() * row) as f64 }
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(call)
    }

    /// Tables as they come; the rows start a residual stream.
    fn cuda_storage(&self, _: &[&TensorType], _: &[&TensorType], kept: &[DType], _: DType) -> Storage {
        Storage { inputs: kept.to_vec(), outputs: vec![DType::F32] }
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        Ok(cuda::forward(call))
    }
}

impl Op for EmbeddingGrad {
    fn name(&self) -> &'static str {
        "embedding_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [indices, dy] = inputs else { return Err(format!("takes 2 operands, found {}", inputs.len())) };
        expect_indices(indices)?;
        expect_f32("dy", dy)?;
        match dy.shape.split_last() {
            Some((&d, lead)) if lead == indices.shape => Ok(vec![TensorType::f32([self.rows, d])]),
            _ => Err(format!("dy must be a row for each of the indices {indices}, found {dy}")),
        }
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let d = g.dy();
        let dy = g.b.embedding(d, g.inputs[0])?;
        Ok(Gradient::Inputs(vec![None, Some(dy)]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(inputs[1].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::backward(call)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        Ok(cuda::backward(call))
    }
}

impl GraphBuilder {
    /// Rows of `table` (`[V, D]`) at `indices` (i64): the indices' shape followed by D.
    pub fn embedding(&mut self, table: ValueId, indices: ValueId) -> Result<ValueId> {
        self.node1(Embedding, &[table, indices])
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "embedding",
        family: "embedding",
        about: "rows of a table by index",
        cases: forward_cases,
    },
    OpEntry {
        name: "embedding_grad",
        family: "embedding",
        about: "gradient of embedding: rows added up where they were looked up",
        cases: backward_cases,
    },
];

fn forward_cases() -> Vec<Case> {
    vec![
        Case::test("tokens", Embedding, vec![CaseInput::normal([11, 7]), CaseInput::integers([2, 9], 0, 11)]),
        Case::test("one", Embedding, vec![CaseInput::normal([3, 5]), CaseInput::i64([], &[2])]),
        Case::test(
            "bf16_table",
            Embedding,
            vec![CaseInput::normal([9, 40]).stored_as(DType::BF16), CaseInput::integers([5], 0, 9)],
        ),
        Case::bench(
            "clip_tokens",
            Embedding,
            vec![CaseInput::normal([49408, 768]), CaseInput::integers([8, 77], 0, 49408)],
        ),
    ]
}

fn backward_cases() -> Vec<Case> {
    vec![
        Case::test(
            "repeated",
            EmbeddingGrad { rows: 5 },
            vec![CaseInput::integers([3, 9], 0, 5), CaseInput::normal([3, 9, 7])],
        ),
        Case::test(
            "wide",
            EmbeddingGrad { rows: 6 },
            vec![CaseInput::integers([40], 1, 5), CaseInput::normal([40, 1030])],
        ),
        Case::bench(
            "clip_tokens",
            EmbeddingGrad { rows: 49408 },
            vec![CaseInput::integers([8, 77], 0, 49408), CaseInput::normal([8, 77, 768])],
        ),
    ]
}
