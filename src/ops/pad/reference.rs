//! Plain formula.

use super::Pad;
use crate::graph::{Array, Real, Reference};

impl Reference for Pad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let x = &inputs[0];
        let shape: Vec<_> = (0..x.shape.len()).map(|i| self.before[i] + x.shape[i] + self.after[i]).collect();
        vec![Array::from_fn(shape, |i| {
            let inside = |k: usize| i[k].checked_sub(self.before[k]).filter(|&j| j < x.shape[k]);
            match (0..i.len()).map(inside).collect::<Option<Vec<_>>>() {
                Some(at) => x.at(&at),
                None => T::zero(),
            }
        })]
    }
}
