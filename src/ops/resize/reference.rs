//! Plain formulas: new rows from rows, then new columns from columns.

use super::taps::{Mode, Taps};
use super::{Resize, ResizeGrad};
use crate::graph::{Array, Real, Reference};

/// Applies taps to one axis.
fn along<T: Real>(x: &Array<T>, axis: usize, taps: &Taps) -> Array<T> {
    let mut shape = x.shape.clone();
    shape[axis] = taps.len();
    Array::from_fn(shape, |index| {
        let mut at = index.to_vec();
        let mut sum = T::zero();
        for &(pixel, weight) in taps.of(index[axis]) {
            at[axis] = pixel;
            sum += T::of(weight as f64) * x.at(&at);
        }
        sum
    })
}

impl Reference for Resize {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let x = &inputs[0];
        let [rows, columns] = self.taps([x.shape[1], x.shape[2]]);
        if matches!(self.mode, Mode::Nearest | Mode::NearestExact) {
            let shape = [x.shape[0], self.size[0], self.size[1], x.shape[3]];
            let y = Array::from_fn(shape, |i| x.at(&[i[0], rows.of(i[1])[0].0, columns.of(i[2])[0].0, i[3]]));
            return vec![y];
        }
        vec![along(&along(x, 1, &rows), 2, &columns)]
    }
}

impl Reference for ResizeGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [rows, columns] = self.resize.taps(self.from);
        let d = along(&inputs[0], 1, &rows.transposed(self.from[0]));
        vec![along(&d, 2, &columns.transposed(self.from[1]))]
    }
}
