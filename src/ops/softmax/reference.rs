//! Plain formulas.

use super::{Softmax, SoftmaxGrad};
use crate::graph::{Array, Real, Reference};

impl Reference for Softmax {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let x = &inputs[0];
        let cols = x.shape.last().copied().unwrap_or(1).max(1);
        let mut y = Vec::with_capacity(x.data.len());
        for row in x.data.chunks(cols) {
            let most = row.iter().copied().fold(row[0], T::max);
            let e: Vec<T> = row.iter().map(|&x| (x - most).exp()).collect();
            let sum: T = e.iter().copied().sum();
            y.extend(e.into_iter().map(|e| e / sum));
        }
        vec![Array::new(x.shape.clone(), y)]
    }
}

impl Reference for SoftmaxGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [y, dy] = inputs else { unreachable!("infer takes two operands") };
        let cols = y.shape.last().copied().unwrap_or(1).max(1);
        let mut dx = Vec::with_capacity(y.data.len());
        for (y, dy) in y.data.chunks(cols).zip(dy.data.chunks(cols)) {
            let dot: T = y.iter().zip(dy).map(|(&y, &d)| y * d).sum();
            dx.extend(y.iter().zip(dy).map(|(&y, &d)| y * (d - dot)));
        }
        vec![Array::new(y.shape.clone(), dx)]
    }
}
