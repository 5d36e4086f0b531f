//! Plain formulas.

use super::{Prelu, PreluGrad};
use crate::graph::{Array, Real, Reference};

impl Reference for Prelu {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, w] = inputs else { unreachable!("infer takes two operands") };
        vec![Array::from_fn(x.shape.clone(), |i| {
            let (x, w) = (x.at(i), w.data[i[i.len() - 1]]);
            if x > T::zero() { x } else { w * x }
        })]
    }
}

impl Reference for PreluGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, dy, w] = inputs else { unreachable!("infer takes three operands") };
        let mut dw = Array::zeros(w.shape.clone());
        let dx = Array::from_fn(x.shape.clone(), |i| {
            let (x, dy, c) = (x.at(i), dy.at(i), i[i.len() - 1]);
            if x > T::zero() {
                return dy;
            }
            dw.data[c] += dy * x;
            dy * w.data[c]
        });
        vec![dx, dw]
    }
}
