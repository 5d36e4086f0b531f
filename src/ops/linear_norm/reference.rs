//! Plain formulas: the product, then each norm.

use super::{LinearNorm, Norm, Producer};
use crate::graph::{Array, Real, Reference};

/// The producer's result and its norms.
pub(super) fn with_norms<T: Real>(
    op: &LinearNorm,
    mut made: Vec<Array<T>>,
    inputs: &[Array<T>],
) -> Vec<Array<T>> {
    for (norm, vectors) in op.with_vectors(inputs) {
        let operands = [&made[..1], vectors].concat();
        made.extend(match norm {
            Norm::Adaln(norm) => norm.eval(&operands),
            Norm::LayerNorm(norm) => norm.eval(&operands),
        });
    }
    made
}

impl Reference for LinearNorm {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let own = &inputs[..self.producer.arity()];
        let made = match &self.producer {
            Producer::Linear(op) => op.eval(own),
            Producer::Modulate(op) => op.eval(own),
        };
        with_norms(self, made, inputs)
    }
}
