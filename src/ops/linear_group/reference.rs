//! Plain formula: each for itself.

use super::LinearGroup;
use crate::graph::{Array, Real, Reference};

impl Reference for LinearGroup {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        inputs.chunks(self.arity()).flat_map(|member| self.member().eval(member)).collect()
    }
}
