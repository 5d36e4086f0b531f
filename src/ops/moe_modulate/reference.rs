//! Plain formulas.

use super::{Modulate, MoeModulate, MoeModulateGrad};
use crate::graph::{Array, Real, Reference};

impl Reference for Modulate {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, gamma, beta] = inputs else { unreachable!("infer takes three operands") };
        let all = x.data.iter().zip(&gamma.data).zip(&beta.data);
        let y = all.map(|((&x, &gamma), &beta)| x * (T::one() + gamma) + beta).collect();
        vec![Array::new(x.shape.clone(), y)]
    }
}

fn softmax<T: Real>(logits: &[T]) -> Vec<T> {
    let most = logits.iter().copied().fold(logits[0], T::max);
    let e: Vec<T> = logits.iter().map(|&l| (l - most).exp()).collect();
    let sum: T = e.iter().copied().sum();
    e.into_iter().map(|e| e / sum).collect()
}

impl Reference for MoeModulate {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let [x, logits, experts @ ..] = inputs else { unreachable!("infer counts operands") };
        let (gammas, betas) = experts.split_at(self.experts);
        let cols = *x.shape.last().expect("infer asks for one");
        let weights: Vec<Vec<T>> = logits.data.chunks(self.experts).map(softmax).collect();
        let mix = |of: &[Array<T>], i: usize| -> T {
            of.iter().zip(&weights[i / cols]).map(|(of, &g)| g * of.data[i]).sum()
        };
        let y = x.data.iter().enumerate().map(|(i, &x)| x * (T::one() + mix(gammas, i)) + mix(betas, i));
        vec![Array::new(x.shape.clone(), y.collect())]
    }
}

impl Reference for MoeModulateGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let k = self.0.experts;
        let [x, logits, experts @ .., dy] = inputs else { unreachable!("infer counts operands") };
        let (gammas, betas) = experts.split_at(k);
        let cols = *x.shape.last().expect("infer asks for one");
        let mut d: Vec<Array<T>> =
            inputs[..2 + 2 * k].iter().map(|t| Array::zeros(t.shape.clone())).collect();
        for (token, logits) in logits.data.chunks(k).enumerate() {
            let g = softmax(logits);
            let mut dg = vec![T::zero(); k];
            for i in token * cols..(token + 1) * cols {
                let (x, dy) = (x.data[i], dy.data[i]);
                d[0].data[i] = dy;
                for e in 0..k {
                    let (gamma, beta) = (gammas[e].data[i], betas[e].data[i]);
                    let d_mixed = g[e] * dy;
                    d[0].data[i] += d_mixed * gamma;
                    dg[e] += dy * (x * gamma + beta);
                    d[2 + e].data[i] = d_mixed * x;
                    d[2 + k + e].data[i] = d_mixed;
                }
            }
            let mean: T = g.iter().zip(&dg).map(|(&g, &dg)| g * dg).sum();
            for e in 0..k {
                d[1].data[token * k + e] = g[e] * (dg[e] - mean);
            }
        }
        d
    }
}
