//! Plain formula.

use super::GatedResidual;
use crate::graph::{Array, Real, Reference};

impl Reference for GatedResidual {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, gate, y] = inputs else { unreachable!("infer takes three operands") };
        vec![Array::from_fn(x.shape.clone(), |i| {
            x.at(i) + gate.at(&[i[0].min(gate.shape[0] - 1), 0, i[2]]) * y.at(i)
        })]
    }
}
