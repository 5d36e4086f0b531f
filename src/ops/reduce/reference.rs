//! Plain formulas.

use super::{Kind, Reduce, ReduceMaxGrad, fold};
use crate::graph::{Array, Real, Reference};

impl Reference for Reduce {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let x = &inputs[0];
        let (outer, n, inner) = fold(&x.shape, self.axis, self.count);
        let mut y = Vec::with_capacity(outer * inner);
        for o in 0..outer {
            for i in 0..inner {
                let mut all = (0..n).map(|k| x.data[(o * n + k) * inner + i]);
                y.push(match self.kind {
                    Kind::Sum => all.sum(),
                    Kind::Mean => all.sum::<T>() / T::of(n as f64),
                    Kind::Max => {
                        let first = all.next().expect("infer refuses the maximum of nothing");
                        all.fold(first, T::max)
                    }
                });
            }
        }
        let mut shape = x.shape.clone();
        shape[self.axis..self.axis + self.count].fill(1);
        vec![Array::new(shape, y)]
    }
}

impl Reference for ReduceMaxGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, y, dy] = inputs else { unreachable!("infer takes three operands") };
        let (outer, n, inner) = fold(&x.shape, self.axis, self.count);
        let mut dx = Array::zeros(x.shape.clone());
        for o in 0..outer {
            for i in 0..inner {
                let most = y.data[o * inner + i];
                let first = (0..n).map(|k| (o * n + k) * inner + i).find(|&at| x.data[at] == most);
                if let Some(at) = first {
                    dx.data[at] = dy.data[o * inner + i];
                }
            }
        }
        vec![dx]
    }
}
