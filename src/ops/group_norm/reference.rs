//! Plain formulas.

use super::{GroupNorm, GroupNormAffine, GroupNormGrad};
use crate::graph::{Array, Real, Reference};
use crate::ops::activation::Kind;
use crate::ops::activation::reference::{slope, value};
use crate::ops::layer_norm::moments;

/// Positions of the elements of every sample's every group, and each position's channel.
fn groups(shape: &[usize], groups: usize) -> Vec<Vec<(usize, usize)>> {
    let c = *shape.last().expect("channels");
    let pixels: usize = shape[1..shape.len() - 1].iter().product();
    let width = c / groups;
    let mut all = Vec::new();
    for sample in 0..shape[0] {
        for group in 0..groups {
            let channels = group * width..(group + 1) * width;
            let at = |p: usize, k: usize| ((sample * pixels + p) * c + k, k);
            all.push((0..pixels).flat_map(|p| channels.clone().map(move |k| at(p, k))).collect());
        }
    }
    all
}

/// (x − mean)·rstd of one group, and rstd.
fn normal<T: Real>(x: &Array<T>, group: &[(usize, usize)], eps: f32) -> (Vec<T>, T) {
    let x: Vec<T> = group.iter().map(|&(i, _)| x.data[i]).collect();
    let (mean, variance) = moments(&x);
    let rstd = T::one() / (variance + T::of(eps as f64)).sqrt();
    (x.into_iter().map(|x| (x - mean) * rstd).collect(), rstd)
}

impl Reference for GroupNorm {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, gamma, beta] = inputs else { unreachable!("infer takes three operands") };
        let mut y = Array::zeros(x.shape.clone());
        for group in groups(&x.shape, self.groups) {
            let (normal, _) = normal(x, &group, self.eps);
            for (&(i, c), n) in group.iter().zip(normal) {
                let z = n * gamma.data[c] + beta.data[c];
                y.data[i] = if self.silu { value(Kind::Silu, z) } else { z };
            }
        }
        vec![y]
    }
}

impl Reference for GroupNormAffine {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, gamma, beta] = inputs else { unreachable!("infer takes three operands") };
        let c = gamma.data.len();
        let mut affine = Array::zeros([x.shape[0], 2, c]);
        for (k, group) in groups(&x.shape, self.groups).iter().enumerate() {
            let sample = k / self.groups;
            let (mean, variance) = moments(&group.iter().map(|&(i, _)| x.data[i]).collect::<Vec<_>>());
            let rstd = T::one() / (variance + T::of(self.eps as f64)).sqrt();
            for channel in k % self.groups * (c / self.groups)..(k % self.groups + 1) * (c / self.groups) {
                let scale = gamma.data[channel] * rstd;
                *affine.at_mut(&[sample, 0, channel]) = scale;
                *affine.at_mut(&[sample, 1, channel]) = beta.data[channel] - mean * scale;
            }
        }
        vec![affine]
    }
}

impl Reference for GroupNormGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, dy, gamma, beta] = inputs else { unreachable!("infer takes four operands") };
        let mut dx = Array::zeros(x.shape.clone());
        let (mut dgamma, mut dbeta) = (Array::zeros(gamma.shape.clone()), Array::zeros(beta.shape.clone()));
        for group in groups(&x.shape, self.0.groups) {
            let (normal, rstd) = normal(x, &group, self.0.eps);
            let mut d = Vec::with_capacity(group.len());
            for (&(i, c), &n) in group.iter().zip(&normal) {
                let mut dz = dy.data[i];
                if self.0.silu {
                    dz = dz * slope(Kind::Silu, n * gamma.data[c] + beta.data[c]);
                }
                dgamma.data[c] += dz * n;
                dbeta.data[c] += dz;
                d.push(dz * gamma.data[c]);
            }
            let count = T::of(group.len() as f64);
            let mean_d = d.iter().copied().sum::<T>() / count;
            let mean_dn = d.iter().zip(&normal).map(|(&d, &n)| d * n).sum::<T>() / count;
            for ((&(i, _), d), n) in group.iter().zip(d).zip(normal) {
                dx.data[i] = (d - mean_d - n * mean_dn) * rstd;
            }
        }
        vec![dx, dgamma, dbeta]
    }
}
