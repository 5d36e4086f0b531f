//! Plain formulas.

use super::{Binary, Kind, broadcast_shape};
use crate::graph::{Array, Real, Reference};

/// f(x, y)
pub fn value<T: Real>(kind: Kind, x: T, y: T) -> T {
    match kind {
        Kind::Add => x + y,
        Kind::Sub => x - y,
        Kind::Mul => x * y,
        Kind::Div => x / y,
    }
}

/// The index of the element that an operand of `shape` shows at `index` of the broadcast result.
fn shrink(index: &[usize], shape: &[usize]) -> Vec<usize> {
    let lead = index.len() - shape.len();
    shape.iter().enumerate().map(|(i, &n)| if n == 1 { 0 } else { index[lead + i] }).collect()
}

impl Reference for Binary {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, y] = inputs else { unreachable!("infer takes two operands") };
        let shape = broadcast_shape(&x.shape, &y.shape).expect("infer checked");
        vec![Array::from_fn(shape, |i| value(self.0, x.at(&shrink(i, &x.shape)), y.at(&shrink(i, &y.shape))))]
    }
}
