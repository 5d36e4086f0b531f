//! Plain formula: the layers, then the modulation.

use super::LinearModulate;
use crate::graph::{Array, Real, Reference};
use crate::ops::moe_modulate::{Modulate, MoeModulate};

/// `keep` is what storing a γ or β does to it.
pub(super) fn eval<T: Real>(
    op: &LinearModulate,
    inputs: &[Array<T>],
    keep: impl Fn(Array<T>) -> Array<T>,
) -> Vec<Array<T>> {
    let mut operands = inputs[..op.first()].to_vec();
    for layer in op.layers(inputs) {
        let made = LinearModulate::layer().eval(&layer.map(Array::clone));
        operands.extend(made.into_iter().map(&keep));
    }
    if op.routed { MoeModulate { experts: op.experts }.eval(&operands) } else { Modulate.eval(&operands) }
}

impl Reference for LinearModulate {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        eval(self, inputs, |made| made)
    }
}
