//! Plain formula.

use super::Adaln;
use crate::graph::{Array, Real, Reference};
use crate::ops::layer_norm::moments;

impl Reference for Adaln {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, shift, scale] = inputs else { unreachable!("infer takes three operands") };
        let (tokens, cols) = (x.shape[1], x.shape[2]);
        let mut y = Vec::with_capacity(x.data.len());
        for (i, row) in x.data.chunks(cols.max(1)).enumerate() {
            let sample = i / tokens;
            let vector = |v: &Array<T>, c: usize| v.at(&[sample.min(v.shape[0] - 1), 0, c]);
            let (mean, variance) = moments(row);
            let rstd = T::one() / (variance + T::of(self.eps as f64)).sqrt();
            y.extend(row.iter().enumerate().map(|(c, &x)| {
                let normal = (x - mean) * rstd;
                normal * (T::one() + vector(scale, c)) + vector(shift, c)
            }));
        }
        vec![Array::new(x.shape.clone(), y)]
    }
}
