//! Test and bench cases: an op with operands drawn from a seed.

use std::sync::Arc;

use crate::graph::{Array, Op, Real, TensorType};
use crate::tensor::{DType, HostTensor};

/// How an operand of a case is filled.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Standard normal.
    Normal,
    /// Uniform in `[lo, hi)`.
    Uniform(f64, f64),
    /// Whole numbers in `[lo, hi)`.
    Integers(i64, i64),
    /// These numbers, row-major.
    Values(Vec<f64>),
}

/// One operand of a case.
#[derive(Clone, Debug)]
pub struct CaseInput {
    /// Dtype and shape.
    pub ty: TensorType,
    /// Contents.
    pub fill: Fill,
}

impl CaseInput {
    /// An f32 operand with standard normal contents.
    pub fn normal(shape: impl Into<Vec<usize>>) -> Self {
        CaseInput { ty: TensorType::f32(shape), fill: Fill::Normal }
    }

    /// An f32 operand, uniform in `[lo, hi)`.
    pub fn uniform(shape: impl Into<Vec<usize>>, lo: f64, hi: f64) -> Self {
        CaseInput { ty: TensorType::f32(shape), fill: Fill::Uniform(lo, hi) }
    }

    /// An i64 operand with whole numbers in `[lo, hi)`.
    pub fn integers(shape: impl Into<Vec<usize>>, lo: i64, hi: i64) -> Self {
        CaseInput { ty: TensorType::new(DType::I64, shape), fill: Fill::Integers(lo, hi) }
    }

    /// An i64 operand with these numbers.
    pub fn i64(shape: impl Into<Vec<usize>>, values: &[i64]) -> Self {
        let fill = Fill::Values(values.iter().map(|&x| x as f64).collect());
        CaseInput { ty: TensorType::new(DType::I64, shape), fill }
    }

    /// The same operand in another dtype.
    pub fn stored_as(self, dtype: DType) -> Self {
        CaseInput { ty: TensorType { dtype, ..self.ty }, ..self }
    }

    /// The contents for a seed, rounded to what the dtype holds.
    pub fn draw(&self, seed: u64) -> Array<f64> {
        let mut rng = Rng::new(seed);
        let n = self.ty.len();
        let data: Vec<f64> = match &self.fill {
            Fill::Normal => (0..n).map(|_| rng.normal()).collect(),
            Fill::Uniform(lo, hi) => (0..n).map(|_| lo + (hi - lo) * rng.uniform()).collect(),
            Fill::Integers(lo, hi) => {
                (0..n).map(|_| (lo + ((hi - lo) as f64 * rng.uniform()) as i64) as f64).collect()
            }
            Fill::Values(v) => v.clone(),
        };
        Array::new(self.ty.shape.clone(), data.into_iter().map(|x| self.ty.dtype.nearest(x)).collect())
    }
}

/// An op applied to operands: one row of tests, one group of a bench.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique within the op; bench cases are named after the model's layer (`pixart_1024_self`).
    pub name: &'static str,
    /// The op with its attributes.
    pub op: Arc<dyn Op>,
    /// Its operands.
    pub inputs: Vec<CaseInput>,
    /// A model-sized case: benched, and left out of the tests that run the naive reference.
    pub bench: bool,
}

impl Case {
    /// A small case for tests.
    pub fn test(name: &'static str, op: impl Op, inputs: Vec<CaseInput>) -> Self {
        Case { name, op: Arc::new(op), inputs, bench: false }
    }

    /// A model-sized case for benches.
    pub fn bench(name: &'static str, op: impl Op, inputs: Vec<CaseInput>) -> Self {
        Case { bench: true, ..Case::test(name, op, inputs) }
    }

    /// Operand types.
    pub fn input_types(&self) -> Vec<&TensorType> {
        self.inputs.iter().map(|i| &i.ty).collect()
    }

    /// Result types.
    ///
    /// # Panics
    /// If the case's op refuses its operands: a broken case.
    pub fn output_types(&self) -> Vec<TensorType> {
        self.op.infer(&self.input_types()).unwrap_or_else(|e| panic!("case {}: {e}", self.name))
    }

    /// All operands for a seed.
    pub fn draw(&self, seed: u64) -> Vec<Array<f64>> {
        self.inputs.iter().enumerate().map(|(i, x)| x.draw(seed.wrapping_mul(1009) + i as u64)).collect()
    }
}

/// Reference numbers as a host tensor of a dtype (a float type or i64).
pub fn to_host(a: &Array<f64>, dtype: DType) -> HostTensor {
    match dtype {
        DType::I64 => HostTensor::from_i64(a.shape.clone(), a.data.iter().map(|&x| x as i64).collect()),
        d => HostTensor::from_f64(a.shape.clone(), a.data.clone()).cast(d),
    }
}

/// The same numbers in another type.
pub fn convert<T: Real>(a: &Array<f64>) -> Array<T> {
    Array::new(a.shape.clone(), a.data.iter().map(|&x| T::of(x)).collect())
}

/// SplitMix64: small, seeded, the same everywhere. For tests and benches only.
pub struct Rng(u64);

impl Rng {
    /// A stream for a seed.
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box–Muller).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}
