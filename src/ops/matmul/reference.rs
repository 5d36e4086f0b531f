//! Plain formula.

use super::MatMul;
use crate::graph::{Array, Real, Reference};

impl Reference for MatMul {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let (a, b) = (&inputs[0], &inputs[1]);
        let (d, shape) = self.dims(&a.shape, &b.shape).expect("infer checked");
        let mut c = Vec::with_capacity(d.batch * d.m * d.n);
        for item in 0..d.batch {
            let (a, b) = (&a.data[item * d.step_a..], &b.data[item * d.step_b..]);
            for i in 0..d.m {
                for j in 0..d.n {
                    let mut sum = T::zero();
                    for p in 0..d.k {
                        let x = if self.trans_a { a[p * d.m + i] } else { a[i * d.k + p] };
                        let y = if self.trans_b { b[j * d.k + p] } else { b[p * d.n + j] };
                        sum += x * y;
                    }
                    c.push(sum);
                }
            }
        }
        vec![Array::new(shape, c)]
    }
}
