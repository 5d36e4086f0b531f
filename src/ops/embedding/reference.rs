//! Plain formulas.

use super::{Embedding, EmbeddingGrad};
use crate::graph::{Array, Real, Reference};

impl Reference for Embedding {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [table, indices] = inputs else { unreachable!("infer takes two operands") };
        let mut shape = indices.shape.clone();
        shape.push(table.shape[1]);
        vec![Array::from_fn(shape, |i| {
            let (&column, at) = i.split_last().expect("a column");
            table.at(&[indices.at(at).index(), column])
        })]
    }
}

impl Reference for EmbeddingGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [indices, dy] = inputs else { unreachable!("infer takes two operands") };
        let d = dy.shape[dy.shape.len() - 1];
        let mut table = Array::zeros([self.rows, d]);
        for (k, row) in indices.data.iter().enumerate() {
            for c in 0..d {
                *table.at_mut(&[row.index(), c]) += dy.data[k * d + c];
            }
        }
        vec![table]
    }
}
