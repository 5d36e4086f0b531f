//! Plain, slow, obviously right execution: every op's formula over vectors of one number type.
//!
//! The same code runs in f64 (truth and gradient checks), in f32 (the naive run that the
//! tolerance of fast paths is measured by) and over [`Counted`] (how many operations the formula
//! really takes, against the op's stated cost).

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use super::ir::{Graph, Origin, ValueId};
use crate::error::{Error, Result};
use crate::tensor::HostTensor;

/// A number that reference code computes with.
pub trait Real:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + std::iter::Sum
    + Send
    + Sync
    + 'static
{
    /// Nearest value to `x`.
    fn of(x: f64) -> Self;
    /// The value as f64.
    fn f64(self) -> f64;
    /// eˣ
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// √x
    fn sqrt(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// Error function.
    fn erf(self) -> Self;
    /// Sine.
    fn sin(self) -> Self;
    /// Cosine.
    fn cos(self) -> Self;

    /// 0
    fn zero() -> Self {
        Self::of(0.0)
    }
    /// 1
    fn one() -> Self {
        Self::of(1.0)
    }
    /// |x|
    fn abs(self) -> Self {
        if self < Self::zero() { -self } else { self }
    }
    /// The larger; NaN if either is NaN.
    fn max(self, o: Self) -> Self {
        if self.f64().is_nan() || self > o { self } else { o }
    }
    /// The smaller; NaN if either is NaN.
    fn min(self, o: Self) -> Self {
        if self.f64().is_nan() || self < o { self } else { o }
    }
    /// As an index (indices travel as exact small numbers).
    fn index(self) -> usize {
        self.f64() as usize
    }
}

macro_rules! real {
    ($t:ident, $erf:path) => {
        impl Real for $t {
            fn of(x: f64) -> Self {
                x as $t
            }
            fn f64(self) -> f64 {
                self as f64
            }
            fn exp(self) -> Self {
                $t::exp(self)
            }
            fn ln(self) -> Self {
                $t::ln(self)
            }
            fn sqrt(self) -> Self {
                $t::sqrt(self)
            }
            fn tanh(self) -> Self {
                $t::tanh(self)
            }
            fn erf(self) -> Self {
                $erf(self)
            }
            fn sin(self) -> Self {
                $t::sin(self)
            }
            fn cos(self) -> Self {
                $t::cos(self)
            }
        }
    };
}
real!(f32, libm::erff);
real!(f64, libm::erf);

thread_local!(static COUNT: Cell<u64> = const { Cell::new(0) });

/// An f64 that counts the arithmetic done with it (per thread).
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Counted(f64);

impl Counted {
    /// Operations since the last call on this thread; the counter starts over.
    pub fn take() -> u64 {
        COUNT.with(|c| c.replace(0))
    }

    fn did(x: f64) -> Self {
        COUNT.with(|c| c.set(c.get() + 1));
        Counted(x)
    }
}

macro_rules! counted {
    ($($trait:ident $f:ident $op:tt),*) => {$(
        impl $trait for Counted {
            type Output = Self;
            fn $f(self, o: Self) -> Self {
                Counted::did(self.0 $op o.0)
            }
        }
    )*};
}
counted!(Add add +, Sub sub -, Mul mul *, Div div /);

impl Neg for Counted {
    type Output = Self;
    fn neg(self) -> Self {
        Counted(-self.0) // a sign flip folds into its neighbour
    }
}
impl AddAssign for Counted {
    fn add_assign(&mut self, o: Self) {
        *self = *self + o;
    }
}
impl std::iter::Sum for Counted {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Counted(0.0), Add::add)
    }
}
impl Real for Counted {
    fn of(x: f64) -> Self {
        Counted(x)
    }
    fn f64(self) -> f64 {
        self.0
    }
    fn exp(self) -> Self {
        Self::did(self.0.exp())
    }
    fn ln(self) -> Self {
        Self::did(self.0.ln())
    }
    fn sqrt(self) -> Self {
        Self::did(self.0.sqrt())
    }
    fn tanh(self) -> Self {
        Self::did(self.0.tanh())
    }
    fn erf(self) -> Self {
        Self::did(libm::erf(self.0))
    }
    fn sin(self) -> Self {
        Self::did(self.0.sin())
    }
    fn cos(self) -> Self {
        Self::did(self.0.cos())
    }
}

/// A dense row-major array of reference numbers. Integers (indices, lengths) are held as reals.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    /// Extent of each axis.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub data: Vec<T>,
}

impl<T: Real> Array<T> {
    /// An array from its parts.
    ///
    /// # Panics
    /// If the element count does not fit the shape.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<T>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), data.len(), "elements for shape {shape:?}");
        Array { shape, data }
    }

    /// All zeros.
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let n = shape.iter().product();
        Array { shape, data: vec![T::zero(); n] }
    }

    /// `f(index)` for every row-major multi-index.
    pub fn from_fn(shape: impl Into<Vec<usize>>, mut f: impl FnMut(&[usize]) -> T) -> Self {
        let shape = shape.into();
        let mut index = vec![0; shape.len()];
        let n: usize = shape.iter().product();
        let mut data = Vec::with_capacity(n);
        for _ in 0..n {
            data.push(f(&index));
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Array { shape, data }
    }

    /// Element at a multi-index.
    pub fn at(&self, index: &[usize]) -> T {
        self.data[self.position(index)]
    }

    /// Mutable element at a multi-index.
    pub fn at_mut(&mut self, index: &[usize]) -> &mut T {
        let p = self.position(index);
        &mut self.data[p]
    }

    fn position(&self, index: &[usize]) -> usize {
        debug_assert_eq!(index.len(), self.shape.len());
        index.iter().zip(&self.shape).fold(0, |p, (&i, &n)| {
            debug_assert!(i < n, "index {index:?} in shape {:?}", self.shape);
            p * n + i
        })
    }

    /// `f` of every element.
    pub fn map(&self, f: impl Fn(T) -> T) -> Self {
        Array { shape: self.shape.clone(), data: self.data.iter().map(|&x| f(x)).collect() }
    }

    /// The same elements under another shape; panics like [`Array::new`].
    pub fn reshaped(self, shape: impl Into<Vec<usize>>) -> Self {
        Array::new(shape, self.data)
    }

    /// The elements of a host tensor.
    pub fn from_host(t: &HostTensor) -> Self {
        Array::new(t.shape(), t.to_f64().into_iter().map(T::of).collect())
    }
}

/// An op's plain formula, written once for every number type.
pub trait Reference {
    /// Results for these operands; their shapes have passed `infer`.
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>>;
}

/// Object-safe face of [`Reference`]; implemented for every op by the blanket impl below.
pub trait DynReference {
    /// In f32: the naive run.
    fn eval_f32(&self, inputs: &[Array<f32>]) -> Vec<Array<f32>>;
    /// In f64: the truth.
    fn eval_f64(&self, inputs: &[Array<f64>]) -> Vec<Array<f64>>;
    /// Counting operations.
    fn eval_counted(&self, inputs: &[Array<Counted>]) -> Vec<Array<Counted>>;
}

impl<R: Reference> DynReference for R {
    fn eval_f32(&self, inputs: &[Array<f32>]) -> Vec<Array<f32>> {
        self.eval(inputs)
    }
    fn eval_f64(&self, inputs: &[Array<f64>]) -> Vec<Array<f64>> {
        self.eval(inputs)
    }
    fn eval_counted(&self, inputs: &[Array<Counted>]) -> Vec<Array<Counted>> {
        self.eval(inputs)
    }
}

/// Runs a whole graph in f64. `leaf` gives each input and parameter by name.
pub fn interpret_f64(
    graph: &Graph,
    mut leaf: impl FnMut(&str) -> Option<Array<f64>>,
) -> Result<Vec<(String, Array<f64>)>> {
    let mut values: HashMap<ValueId, Array<f64>> = HashMap::new();
    for (i, v) in graph.values.iter().enumerate() {
        let array = match &v.origin {
            Origin::Input(name) | Origin::Param(name) => leaf(name)
                .ok_or_else(|| Error::Usage(format!("interpret: no value was given for \"{name}\"")))?,
            Origin::Const(t) => Array::from_host(t),
            Origin::Node { .. } => continue,
        };
        assert_eq!(array.shape, v.ty.shape, "shape of leaf {i}");
        values.insert(ValueId(i as u32), array);
    }
    for node in &graph.nodes {
        let inputs: Vec<_> = node.inputs.iter().map(|v| values[v].clone()).collect();
        for (&v, array) in node.outputs.iter().zip(node.op.eval_f64(&inputs)) {
            assert_eq!(array.shape, graph.ty(v).shape, "{}: reference result shape", node.op.name());
            values.insert(v, array);
        }
    }
    Ok(graph.outputs.iter().map(|(name, v)| (name.clone(), values[v].clone())).collect())
}
