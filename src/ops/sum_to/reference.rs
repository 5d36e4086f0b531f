//! Plain formula.

use super::SumTo;
use crate::graph::{Array, Real, Reference};

impl Reference for SumTo {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let x = &inputs[0];
        let lead = x.shape.len() - self.shape.len();
        let mut y = Array::zeros(self.shape.clone());
        Array::from_fn(x.shape.clone(), |i| {
            let at: Vec<_> =
                self.shape.iter().enumerate().map(|(k, &n)| if n == 1 { 0 } else { i[lead + k] }).collect();
            *y.at_mut(&at) += x.at(i);
            T::zero()
        });
        vec![y]
    }
}
