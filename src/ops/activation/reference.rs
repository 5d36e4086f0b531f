//! Plain formulas.

use super::{Activation, ActivationGrad, Kind};
use crate::graph::{Array, Real, Reference};

/// Φ(x), the normal distribution function.
fn phi<T: Real>(x: T) -> T {
    T::of(0.5) * (T::one() + (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

fn sigmoid<T: Real>(x: T) -> T {
    T::one() / (T::one() + (-x).exp())
}

/// The argument of tanh in the tanh form of GELU: √(2/π)·(x + 0.044715x³).
fn gelu_tanh_argument<T: Real>(x: T) -> T {
    T::of((2.0 / std::f64::consts::PI).sqrt()) * (x + T::of(0.044715) * x * x * x)
}

/// f(x)
pub fn value<T: Real>(kind: Kind, x: T) -> T {
    let (zero, one) = (T::zero(), T::one());
    match kind {
        Kind::Relu => x.max(zero),
        Kind::LeakyRelu(slope) => {
            if x < zero {
                T::of(slope as f64) * x
            } else {
                x
            }
        }
        Kind::Gelu => x * phi(x),
        Kind::GeluTanh => T::of(0.5) * x * (one + gelu_tanh_argument(x).tanh()),
        Kind::Silu => x * sigmoid(x),
        Kind::Sigmoid => sigmoid(x),
        Kind::Tanh => x.tanh(),
        Kind::Exp => x.exp(),
        Kind::Ln => x.ln(),
        Kind::Sqrt => x.sqrt(),
        Kind::Sin => x.sin(),
        Kind::Cos => x.cos(),
        Kind::Abs => x.abs(),
        Kind::Clamp(lo, hi) => x.max(T::of(lo as f64)).min(T::of(hi as f64)),
    }
}

/// f′(x)
pub fn slope<T: Real>(kind: Kind, x: T) -> T {
    let (zero, one, half) = (T::zero(), T::one(), T::of(0.5));
    match kind {
        Kind::Relu => {
            if x > zero {
                one
            } else {
                zero
            }
        }
        Kind::LeakyRelu(slope) => {
            if x > zero {
                one
            } else {
                T::of(slope as f64) // at 0 too, as in PyTorch
            }
        }
        Kind::Gelu => {
            let density = T::of((2.0 * std::f64::consts::PI).sqrt().recip()) * (-(half * x * x)).exp();
            phi(x) + x * density
        }
        Kind::GeluTanh => {
            let t = gelu_tanh_argument(x).tanh();
            let du = T::of((2.0 / std::f64::consts::PI).sqrt()) * (one + T::of(3.0 * 0.044715) * x * x);
            half * (one + t) + half * x * (one - t * t) * du
        }
        Kind::Silu => {
            let s = sigmoid(x);
            s * (one + x * (one - s))
        }
        Kind::Sigmoid => {
            let s = sigmoid(x);
            s * (one - s)
        }
        Kind::Tanh => one - x.tanh() * x.tanh(),
        Kind::Exp => x.exp(),
        Kind::Ln => one / x,
        Kind::Sqrt => half / x.sqrt(),
        Kind::Sin => x.cos(),
        Kind::Cos => -x.sin(),
        Kind::Abs => {
            if x < zero {
                -one
            } else if x > zero {
                one
            } else {
                zero
            }
        }
        Kind::Clamp(lo, hi) => {
            if x < T::of(lo as f64) || x > T::of(hi as f64) {
                zero
            } else {
                one
            }
        }
    }
}

impl Reference for Activation {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        vec![inputs[0].map(|x| value(self.0, x))]
    }
}

impl Reference for ActivationGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, dy] = inputs else { unreachable!("infer takes two operands") };
        let data = x.data.iter().zip(&dy.data).map(|(&x, &dy)| slope(self.0, x) * dy).collect();
        vec![Array::new(x.shape.clone(), data)]
    }
}
