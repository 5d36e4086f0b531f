//! Plain formulas.

use super::{PixelShuffle, PixelUnshuffle};
use crate::graph::{Array, Real, Reference};

impl Reference for PixelShuffle {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let (x, r) = (&inputs[0], self.0);
        let [b, h, w, c] = x.shape[..] else { unreachable!("infer takes four axes") };
        vec![Array::from_fn([b, h * r, w * r, c / (r * r)], |i| {
            let channel = i[3] * r * r + i[1] % r * r + i[2] % r;
            x.at(&[i[0], i[1] / r, i[2] / r, channel])
        })]
    }
}

impl Reference for PixelUnshuffle {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let (x, r) = (&inputs[0], self.0);
        let [b, h, w, c] = x.shape[..] else { unreachable!("infer takes four axes") };
        vec![Array::from_fn([b, h / r, w / r, c * r * r], |i| {
            let (channel, row, column) = (i[3] / (r * r), i[3] / r % r, i[3] % r);
            x.at(&[i[0], i[1] * r + row, i[2] * r + column, channel])
        })]
    }
}
