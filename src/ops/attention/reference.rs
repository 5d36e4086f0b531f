//! Plain formulas, one score at a time.

use super::{Attention, AttentionGrad, Extents};
use crate::graph::{Array, Real, Reference};

/// The operands by name, and which keys a query sees.
pub(super) struct Problem<'a, T> {
    op: &'a Attention,
    inputs: &'a [Array<T>],
    pub(super) e: Extents,
}

impl<'a, T: Real> Problem<'a, T> {
    pub(super) fn new(op: &'a Attention, inputs: &'a [Array<T>]) -> Self {
        Problem { op, inputs, e: Extents::of(&inputs[0].shape, &inputs[1].shape) }
    }

    /// Keys 0.. that query `i` of batch entry `b` sees.
    pub(super) fn visible(&self, b: usize, i: usize) -> usize {
        let mut n = self.e.keys;
        if self.op.key_lengths {
            let length = self.inputs[self.op.lengths_at()].at(&[self.op.kv_row(b)]).f64();
            n = n.min(length.max(0.0) as usize);
        }
        if self.op.causal { n.min(i + 1) } else { n }
    }

    /// scale·q·k + bias
    pub(super) fn score(&self, b: usize, h: usize, i: usize, j: usize) -> T {
        let (q, k) = (&self.inputs[0], &self.inputs[1]);
        let row = self.op.kv_row(b);
        let dot: T = (0..self.e.depth).map(|d| q.at(&[b, i, h, d]) * k.at(&[row, j, h, d])).sum();
        let score = T::of(self.op.scale as f64) * dot;
        if self.op.bias { score + self.inputs[3].at(&self.bias_index(b, h, i, j)) } else { score }
    }

    pub(super) fn bias_index(&self, b: usize, h: usize, i: usize, j: usize) -> [usize; 4] {
        let shape = &self.inputs[3].shape;
        [b.min(shape[0] - 1), h.min(shape[1] - 1), i, j]
    }

    /// Every (batch entry, head, query).
    pub(super) fn rows(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<T> {
        let Extents { batch, heads, queries, .. } = self.e;
        (0..batch * heads * queries).map(move |r| (r / queries / heads, r / queries % heads, r % queries))
    }
}

impl Reference for Attention {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let p = Problem::new(self, inputs);
        let v = &inputs[2];
        let mut out = Array::zeros(inputs[0].shape.clone());
        let mut lse = Array::zeros([p.e.batch, p.e.heads, p.e.queries]);
        for (b, h, i) in p.rows() {
            let scores: Vec<T> = (0..p.visible(b, i)).map(|j| p.score(b, h, i, j)).collect();
            let max = scores.iter().copied().fold(T::of(f64::NEG_INFINITY), T::max);
            if max.f64() == f64::NEG_INFINITY {
                continue; // nothing is seen: zeros
            }
            let weights: Vec<T> = scores.iter().map(|&s| (s - max).exp()).collect();
            let sum: T = weights.iter().copied().sum();
            for d in 0..p.e.depth {
                let value = |j: usize| v.at(&[self.kv_row(b), j, h, d]);
                let mixed: T = weights.iter().enumerate().map(|(j, &w)| w * value(j)).sum();
                *out.at_mut(&[b, i, h, d]) = mixed / sum;
            }
            *lse.at_mut(&[b, h, i]) = max + sum.ln();
        }
        vec![out, lse]
    }
}

impl Reference for AttentionGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        let p = Problem::new(&self.forward, inputs);
        let (q, k, v) = (&inputs[0], &inputs[1], &inputs[2]);
        let [out, lse, d_out] = &inputs[self.out_at()..self.out_at() + 3] else { unreachable!("infer") };
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| Array::zeros(x.shape.clone()));
        let mut d_bias = self.d_bias.then(|| Array::zeros(inputs[3].shape.clone()));
        let scale = T::of(self.forward.scale as f64);
        for (b, h, i) in p.rows() {
            // Σⱼ Pⱼ·dPⱼ, through out = Σⱼ Pⱼvⱼ
            let mut mean: T = (0..p.e.depth).map(|d| d_out.at(&[b, i, h, d]) * out.at(&[b, i, h, d])).sum();
            if self.d_lse {
                mean = mean - inputs[self.out_at() + 3].at(&[b, h, i]);
            }
            for j in 0..p.visible(b, i) {
                let weight = (p.score(b, h, i, j) - lse.at(&[b, h, i])).exp();
                let d_weight: T = (0..p.e.depth).map(|d| d_out.at(&[b, i, h, d]) * v.at(&[b, j, h, d])).sum();
                let d_score = weight * (d_weight - mean);
                if let Some(d_bias) = &mut d_bias {
                    *d_bias.at_mut(&p.bias_index(b, h, i, j)) += d_score;
                }
                let d_dot = scale * d_score;
                for d in 0..p.e.depth {
                    *dq.at_mut(&[b, i, h, d]) += d_dot * k.at(&[b, j, h, d]);
                    *dk.at_mut(&[b, j, h, d]) += d_dot * q.at(&[b, i, h, d]);
                    *dv.at_mut(&[b, j, h, d]) += weight * d_out.at(&[b, i, h, d]);
                }
            }
        }
        [dq, dk, dv].into_iter().chain(d_bias).collect()
    }
}
