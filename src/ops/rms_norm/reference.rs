//! Plain formulas.

use super::{RmsNorm, RmsNormGrad};
use crate::graph::{Array, Real, Reference};

/// 1 / √(mean(x²) + eps)
fn reciprocal_rms<T: Real>(x: &[T], eps: f32) -> T {
    let mean_square = x.iter().map(|&x| x * x).sum::<T>() / T::of(x.len() as f64);
    T::one() / (mean_square + T::of(eps as f64)).sqrt()
}

impl Reference for RmsNorm {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let x = &inputs[0];
        let cols = x.shape.last().copied().unwrap_or(1);
        let mut y = Vec::with_capacity(x.data.len());
        for row in x.data.chunks(cols.max(1)) {
            let r = reciprocal_rms(row, self.eps);
            for (c, &x) in row.iter().enumerate() {
                y.push(match inputs.get(1) {
                    Some(weight) => x * r * weight.data[c],
                    None => x * r,
                });
            }
        }
        vec![Array::new(x.shape.clone(), y)]
    }
}

impl Reference for RmsNormGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let (x, dy, weight) = (&inputs[0], &inputs[1], inputs.get(2));
        let cols = x.shape.last().copied().unwrap_or(1);
        let mut dx = Vec::with_capacity(x.data.len());
        let mut dw = Array::zeros([cols]);
        for (x, dy) in x.data.chunks(cols.max(1)).zip(dy.data.chunks(cols.max(1))) {
            let r = reciprocal_rms(x, self.eps);
            let normal: Vec<T> = x.iter().map(|&x| x * r).collect();
            let d: Vec<T> = match weight {
                Some(w) => dy.iter().zip(&w.data).map(|(&dy, &w)| dy * w).collect(),
                None => dy.to_vec(),
            };
            let mean_dn = d.iter().zip(&normal).map(|(&d, &n)| d * n).sum::<T>() / T::of(cols as f64);
            dx.extend(d.iter().zip(&normal).map(|(&d, &n)| (d - n * mean_dn) * r));
            if weight.is_some() {
                for c in 0..cols {
                    dw.data[c] += dy[c] * normal[c];
                }
            }
        }
        let dx = Array::new(x.shape.clone(), dx);
        if weight.is_some() { vec![dx, dw] } else { vec![dx] }
    }
}
