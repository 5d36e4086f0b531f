//! Plain formulas.

use super::{LayerNorm, LayerNormGrad};
use crate::graph::{Array, Real, Reference};

/// Mean and biased variance.
pub(in crate::ops) fn moments<T: Real>(x: &[T]) -> (T, T) {
    let n = T::of(x.len() as f64);
    let mean = x.iter().copied().sum::<T>() / n;
    let variance = x.iter().map(|&x| (x - mean) * (x - mean)).sum::<T>() / n;
    (mean, variance)
}

impl Reference for LayerNorm {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let x = &inputs[0];
        let cols = x.shape.last().copied().unwrap_or(1);
        let mut y = Vec::with_capacity(x.data.len());
        for row in x.data.chunks(cols.max(1)) {
            let (mean, variance) = moments(row);
            let rstd = T::one() / (variance + T::of(self.eps as f64)).sqrt();
            for (c, &x) in row.iter().enumerate() {
                let normal = (x - mean) * rstd;
                y.push(match inputs {
                    [_, gamma, beta] => normal * gamma.data[c] + beta.data[c],
                    _ => normal,
                });
            }
        }
        vec![Array::new(x.shape.clone(), y)]
    }
}

impl Reference for LayerNormGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let (x, dy, gamma) = (&inputs[0], &inputs[1], inputs.get(2));
        let cols = x.shape.last().copied().unwrap_or(1);
        let n = T::of(cols as f64);
        let mut dx = Vec::with_capacity(x.data.len());
        let (mut dgamma, mut dbeta) = (Array::zeros([cols]), Array::zeros([cols]));
        for (x, dy) in x.data.chunks(cols.max(1)).zip(dy.data.chunks(cols.max(1))) {
            let (mean, variance) = moments(x);
            let rstd = T::one() / (variance + T::of(self.eps as f64)).sqrt();
            let normal: Vec<T> = x.iter().map(|&x| (x - mean) * rstd).collect();
            let d: Vec<T> = match gamma {
                Some(gamma) => dy.iter().zip(&gamma.data).map(|(&dy, &g)| dy * g).collect(),
                None => dy.to_vec(),
            };
            let mean_d = d.iter().copied().sum::<T>() / n;
            let mean_dn = d.iter().zip(&normal).map(|(&d, &n)| d * n).sum::<T>() / n;
            dx.extend(d.iter().zip(&normal).map(|(&d, &n)| (d - mean_d - n * mean_dn) * rstd));
            if gamma.is_some() {
                for c in 0..cols {
                    dgamma.data[c] += dy[c] * normal[c];
                    dbeta.data[c] += dy[c];
                }
            }
        }
        let dx = Array::new(x.shape.clone(), dx);
        if gamma.is_some() { vec![dx, dgamma, dbeta] } else { vec![dx] }
    }
}
