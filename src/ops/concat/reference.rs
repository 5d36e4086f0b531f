//! Plain formula.

use super::Concat;
use crate::graph::{Array, Real, Reference};

impl Reference for Concat {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let mut shape = inputs[0].shape.clone();
        shape[self.axis] = inputs.iter().map(|x| x.shape[self.axis]).sum();
        vec![Array::from_fn(shape, |index| {
            let mut index = index.to_vec();
            for x in inputs {
                if index[self.axis] < x.shape[self.axis] {
                    return x.at(&index);
                }
                index[self.axis] -= x.shape[self.axis];
            }
            unreachable!("an index beyond the last operand")
        })]
    }
}
