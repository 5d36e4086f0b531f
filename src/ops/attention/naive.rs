//! What an unfused program in half precision computes: it stores the probabilities, and on the way back the
//! gradients of the scores, and reads them again for the next product. Everything else is exact here.

use super::reference::Problem;
use super::{Attention, AttentionGrad};
use crate::graph::Array;
use crate::tensor::DType;

/// The nearest number that `dtype` holds.
fn stored(x: f64, dtype: DType) -> f64 {
    if dtype.is_half() { dtype.nearest(x) } else { x }
}

pub(super) fn forward(op: &Attention, inputs: &[Array<f64>], dtype: DType) -> Vec<Array<f64>> {
    let p = Problem::new(op, inputs);
    let mut out = Array::zeros(inputs[0].shape.clone());
    let mut lse = Array::zeros([p.e.batch, p.e.heads, p.e.queries]);
    for (b, h, i) in p.rows() {
        let scores: Vec<f64> = (0..p.visible(b, i)).map(|j| p.score(b, h, i, j)).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if max == f64::NEG_INFINITY {
            continue;
        }
        let log_sum = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
        *lse.at_mut(&[b, h, i]) = log_sum;
        for (j, s) in scores.iter().enumerate() {
            let probability = stored((s - log_sum).exp(), dtype);
            for d in 0..p.e.depth {
                *out.at_mut(&[b, i, h, d]) += probability * inputs[2].at(&[op.kv_row(b), j, h, d]);
            }
        }
    }
    vec![out, lse]
}

pub(super) fn backward(op: &AttentionGrad, inputs: &[Array<f64>], dtype: DType) -> Vec<Array<f64>> {
    let p = Problem::new(&op.forward, inputs);
    let (q, k, v) = (&inputs[0], &inputs[1], &inputs[2]);
    let [out, lse, d_out] = &inputs[op.out_at()..op.out_at() + 3] else { unreachable!("infer") };
    let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| Array::zeros(x.shape.clone()));
    let mut d_bias = op.d_bias.then(|| Array::zeros(inputs[3].shape.clone()));
    let scale = f64::from(op.forward.scale);
    for (b, h, i) in p.rows() {
        let dot = |x: &Array<f64>, row: usize| -> f64 {
            (0..p.e.depth).map(|d| d_out.at(&[b, i, h, d]) * x.at(&[b, row, h, d])).sum()
        };
        let mut mean = dot(out, i);
        if op.d_lse {
            mean -= inputs[op.out_at() + 3].at(&[b, h, i]);
        }
        for j in 0..p.visible(b, i) {
            let probability = stored((p.score(b, h, i, j) - lse.at(&[b, h, i])).exp(), dtype);
            let d_score = stored(probability * (dot(v, j) - mean), dtype);
            if let Some(d_bias) = &mut d_bias {
                *d_bias.at_mut(&p.bias_index(b, h, i, j)) += d_score;
            }
            for d in 0..p.e.depth {
                *dq.at_mut(&[b, i, h, d]) += scale * d_score * k.at(&[b, j, h, d]);
                *dk.at_mut(&[b, j, h, d]) += scale * d_score * q.at(&[b, i, h, d]);
                *dv.at_mut(&[b, j, h, d]) += probability * d_out.at(&[b, i, h, d]);
            }
        }
    }
    [dq, dk, dv].into_iter().chain(d_bias).collect()
}
