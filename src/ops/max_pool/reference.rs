//! Plain formulas.

use super::{MaxPool, MaxPoolGrad};
use crate::graph::{Array, Real, Reference};

impl Reference for MaxPool {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let x = &inputs[0];
        let [b, h, w, c] = x.shape[..] else { unreachable!("infer takes four axes") };
        let [rows, columns] = [h, w].map(|n| self.windows(n).expect("infer allows windows that fit"));
        vec![Array::from_fn([b, rows, columns, c], |i| {
            let window = self
                .covered(i[1], h)
                .flat_map(|row| self.covered(i[2], w).map(move |column| (row, column)))
                .map(|(row, column)| x.at(&[i[0], row, column, i[3]]));
            window.reduce(T::max).expect("padding is at most half a window")
        })]
    }
}

impl Reference for MaxPoolGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, dy] = inputs else { unreachable!("infer takes two operands") };
        let [_, h, w, c] = x.shape[..] else { unreachable!("infer takes four axes") };
        let [_, rows, columns, _] = dy.shape[..] else { unreachable!("infer takes four axes") };
        let mut dx = Array::zeros(x.shape.clone());
        for (at, &d) in dy.data.iter().enumerate() {
            let (channel, column, row) = (at % c, at / c % columns, at / c / columns % rows);
            let sample = at / c / columns / rows;
            let mut first: Option<usize> = None;
            for y in self.0.covered(row, h) {
                for x_ in self.0.covered(column, w) {
                    let i = ((sample * h + y) * w + x_) * c + channel;
                    if first.is_none_or(|best| x.data[i] > x.data[best]) {
                        first = Some(i);
                    }
                }
            }
            dx.data[first.expect("padding is at most half a window")] += d;
        }
        vec![dx]
    }
}
