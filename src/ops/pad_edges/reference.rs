//! Plain formulas.

use super::{PadEdges, PadEdgesGrad};
use crate::graph::{Array, Real, Reference, TensorType};

fn source(sources: &[Vec<usize>], index: &[usize]) -> Vec<usize> {
    index.iter().zip(sources).map(|(&i, s)| s[i]).collect()
}

impl Reference for PadEdges {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let x = &inputs[0];
        let sources = self.sources(&x.shape);
        let shape: Vec<_> = sources.iter().map(Vec::len).collect();
        vec![Array::from_fn(shape, |index| x.at(&source(&sources, index)))]
    }
}

impl Reference for PadEdgesGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let dy = &inputs[0];
        let shape = self.0.operand(&TensorType::f32(dy.shape.clone())).expect("infer checked").shape;
        let sources = self.0.sources(&shape);
        let mut dx = Array::zeros(shape);
        Array::from_fn(dy.shape.clone(), |index| {
            *dx.at_mut(&source(&sources, index)) += dy.at(index);
            T::zero()
        });
        vec![dx]
    }
}
