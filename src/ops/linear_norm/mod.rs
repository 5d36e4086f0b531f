//! `linear_norm`: a product that adds to a residual stream, and the norms of the sum that the next layers read. On a
//! CUDA device the block that finishes the last tile of some rows writes their norms, so that the stream is
//! not read again for them.

mod cuda;
mod reference;

use super::adaln::Adaln;
use super::epilogue::{Epilogue, FUSED};
use super::layer_norm::LayerNorm;
use super::linear::Linear;
use super::linear_modulate::{self, LinearModulate};
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::ffi;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::op::{CpuCall, Operand, OperandData, Output};
use crate::graph::{Array, Cost, Gradient, GradientContext, Layout, Op, TensorType};
use crate::tensor::DType;

/// Norms of a result, at most.
pub const MOST_NORMS: usize = ffi::ROW_NORMS as usize;

/// What gives the rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Producer {
    /// A linear layer with a residual.
    Linear(Linear),
    /// A modulated stream.
    Modulate(LinearModulate),
}

/// A norm of the rows; it reads two vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// Conditioned: shift and scale.
    Adaln(Adaln),
    /// With weights: γ and β.
    LayerNorm(LayerNorm),
}

/// Operands: those of the producer, then two vectors for each norm. Results: the producer's, then each norm's, like
/// it. Recorded by a fusion rule only, after differentiation.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearNorm {
    /// What gives the rows.
    pub producer: Producer,
    /// What is made of them, 1 to [`MOST_NORMS`].
    pub norms: Vec<Norm>,
}

impl Producer {
    /// As an op.
    pub fn op(&self) -> &dyn Op {
        match self {
            Producer::Linear(op) => op,
            Producer::Modulate(op) => op,
        }
    }

    fn arity(&self) -> usize {
        match self {
            Producer::Linear(op) => op.arity(),
            Producer::Modulate(op) => op.arity(),
        }
    }
}

impl Norm {
    /// As an op.
    pub fn op(&self) -> &dyn Op {
        match self {
            Norm::Adaln(op) => op,
            Norm::LayerNorm(op) => op,
        }
    }

    /// The norm that an op is, if it is one with two vectors.
    pub fn of(op: &dyn Op, operands: usize) -> Option<Norm> {
        let adaln = op.downcast::<Adaln>().map(|&n| Norm::Adaln(n));
        adaln.or_else(|| op.downcast::<LayerNorm>().map(|&n| Norm::LayerNorm(n))).filter(|_| operands == 3)
    }
}

impl LinearNorm {
    /// Each norm with its two vectors.
    fn with_vectors<'a, T>(&'a self, inputs: &'a [T]) -> impl Iterator<Item = (&'a Norm, &'a [T])> {
        self.norms.iter().zip(inputs[self.producer.arity()..].chunks(2))
    }
}

impl Op for LinearNorm {
    fn name(&self) -> &'static str {
        "linear_norm"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        if !(1..=MOST_NORMS).contains(&self.norms.len()) {
            return Err(format!("takes 1 to {MOST_NORMS} norms, found {}", self.norms.len()));
        }
        let arity = self.producer.arity() + 2 * self.norms.len();
        if inputs.len() != arity {
            return Err(format!("takes {arity} operands, found {}", inputs.len()));
        }
        let mut results = self.producer.op().infer(&inputs[..self.producer.arity()])?;
        for (norm, vectors) in self.with_vectors(inputs) {
            let made = norm.op().infer(&[&results[0], vectors[0], vectors[1]])?;
            results.extend(made);
        }
        Ok(results)
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable(FUSED))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let y = outputs[0];
        let product = self.producer.op().cost(&inputs[..self.producer.arity()], &[y]).flops;
        let norms = self.with_vectors(inputs).map(|(n, v)| n.op().cost(&[y, v[0], v[1]], &[y]).flops);
        Cost::dense(product + norms.sum::<f64>(), inputs, outputs)
    }

    /// One after the other.
    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        let CpuCall { inputs, outputs, scratch } = call;
        let mut inputs = inputs.into_iter();
        let mut outputs = outputs.into_iter();
        let y = outputs.next().expect("infer gives one");
        let own = inputs.by_ref().take(self.producer.arity()).collect();
        let result = Output { ty: y.ty, data: &mut *y.data };
        self.producer.op().cpu(CpuCall { inputs: own, outputs: vec![result], scratch })?;
        let dense = Layout::dense(&y.ty.shape);
        for (norm, output) in self.norms.iter().zip(outputs) {
            let x = Operand { ty: y.ty, layout: &dense, data: OperandData::Apart(&*y.data) };
            let inputs = [x].into_iter().chain(inputs.by_ref().take(2)).collect();
            norm.op().cpu(CpuCall { inputs, outputs: vec![output], scratch: &mut [] })?;
        }
        Ok(())
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], threads: usize) -> usize {
        self.producer.op().cpu_scratch(&inputs[..self.producer.arity()], &outputs[..1], threads)
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        match input.checked_sub(self.producer.arity()) {
            None => self.producer.op().accepts(input, layout),
            Some(i) => self.norms[i / 2].op().accepts(1 + i % 2, layout),
        }
    }

    fn in_place(&self, input: usize) -> bool {
        input < self.producer.arity() && self.producer.op().in_place(input)
    }

    fn cuda_storage(
        &self,
        inputs: &[&TensorType],
        outputs: &[&TensorType],
        kept: &[DType],
        compute: DType,
    ) -> Storage {
        let n = self.producer.arity();
        let mut all = self.producer.op().cuda_storage(&inputs[..n], &outputs[..1], &kept[..n], compute);
        for _ in &self.norms {
            all.inputs.extend([DType::F32; 2]);
            all.outputs.push(compute);
        }
        all
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call)
    }

    fn cuda_also(&self, inputs: &[&TensorType], outputs: &[&TensorType], also: DType) -> bool {
        self.producer.op().cuda_also(&inputs[..self.producer.arity()], &outputs[..1], also)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
        self.producer.op().cuda_scratch(&inputs[..self.producer.arity()], &outputs[..1])
    }

    fn cuda_accepts(&self, input: usize, layout: &Layout) -> bool {
        match input < self.producer.arity() {
            true => self.producer.op().cuda_accepts(input, layout),
            false => self.accepts(input, layout),
        }
    }

    fn cuda_in_place(&self, input: usize) -> bool {
        input < self.producer.arity() && self.producer.op().cuda_in_place(input)
    }

    fn naive_in(&self, inputs: &[Array<f64>], dtype: DType) -> Option<Vec<Array<f64>>> {
        let made = self.producer.op().naive_in(&inputs[..self.producer.arity()], dtype)?;
        Some(reference::with_norms(self, made, inputs))
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[OpEntry {
    name: "linear_norm",
    family: "linear_norm",
    about: "a product that adds to a residual stream, and the norms of the sum",
    cases,
}];

fn cases() -> Vec<Case> {
    let adaln = Norm::Adaln(Adaln { eps: 1e-6 });
    let weights = Norm::LayerNorm(LayerNorm { eps: 1e-5 });
    let vectors = |norms: &[Norm], samples: usize, n: usize| {
        let shape = |norm: &Norm| match norm {
            Norm::Adaln(_) => vec![samples, 1, n],
            Norm::LayerNorm(_) => vec![n],
        };
        norms.iter().flat_map(|norm| vec![CaseInput::normal(shape(norm)); 2]).collect::<Vec<_>>()
    };
    let linear = |name, rows: [usize; 2], [k, n]: [usize; 2], gate: bool, norms: &[Norm]| {
        let tokens = |width: usize| CaseInput::normal([rows[0], rows[1], width]);
        let limit = (k as f64).powf(-0.5);
        let mut inputs = vec![tokens(k), CaseInput::uniform([n, k], -limit, limit), CaseInput::normal([n])];
        inputs.extend(gate.then(|| CaseInput::normal([rows[0], 1, n])));
        inputs.push(tokens(n));
        inputs.extend(vectors(norms, rows[0], n));
        let epilogue = Epilogue { gate, residual: true, ..Epilogue::default() };
        let producer = Producer::Linear(Linear { bias: true, epilogue });
        Case::test(name, LinearNorm { producer, norms: norms.to_vec() }, inputs)
    };
    let modulate = |name, rows: [usize; 2], c: usize, k: usize, experts: usize, norms: &[Norm]| {
        let routed = experts > 1;
        let mut inputs = linear_modulate::case_inputs(&rows, c, k, experts, routed);
        inputs.extend(vectors(norms, 1, c));
        let producer = Producer::Modulate(LinearModulate { experts, routed });
        Case::test(name, LinearNorm { producer, norms: norms.to_vec() }, inputs)
    };
    let bench = |case: Case| Case { bench: true, ..case };
    vec![
        linear("gated_adaln", [2, 40], [24, 72], true, &[adaln]),
        linear("both", [3, 43], [40, 136], false, &[weights, adaln]),
        linear("odd", [2, 19], [17, 45], false, &[weights]),
        linear("few_rows", [2, 3], [72, 40], true, &[adaln]),
        linear("split_k", [1, 17], [1100, 12], false, &[weights]),
        linear("too_wide", [1, 18], [8, 1284], false, &[adaln]),
        modulate("modulated", [2, 35], 72, 24, 1, &[adaln]),
        modulate("mixture", [1, 21], 44, 40, 3, &[adaln, weights]),
        bench(linear("pixart_proj", [2, 4096], [1152, 1152], true, &[adaln])),
        bench(linear("dreamclear_fc2", [2, 4096], [4608, 1152], true, &[adaln, weights])),
        bench(modulate("dreamclear_am_lq", [2, 4096], 1152, 576, 3, &[adaln])),
    ]
}
