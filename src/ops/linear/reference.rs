//! Plain formula.

use super::Linear;
use crate::graph::{Array, Real, Reference};

impl Reference for Linear {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let (x, w) = (&inputs[0], &inputs[1]);
        let (n, k) = (w.shape[0], w.shape[1]);
        let residual = self.epilogue.residual.then(|| inputs.last().expect("infer checked"));
        let gate = self.gate().map(|i| &inputs[i]);
        let mut shape = x.shape.clone();
        *shape.last_mut().expect("infer checked") = n;
        let rows = x.data.len() / k;
        let mut y = Vec::with_capacity(rows * n);
        for i in 0..rows {
            for j in 0..n {
                let mut sum = T::zero();
                for p in 0..k {
                    sum += x.data[i * k + p] * w.data[j * k + p];
                }
                if self.bias {
                    sum += inputs[2].data[j];
                }
                let r = residual.map_or(T::zero(), |r| r.data[i * n + j]);
                // `infer` takes a gate for [B, N, C] only: row i is of sample i / N.
                let g = gate.map_or(T::one(), |g| g.data[(i / x.shape[1]).min(g.shape[0] - 1) * n + j]);
                y.push(self.epilogue.apply(sum, g, r));
            }
        }
        vec![Array::new(shape, y)]
    }
}
