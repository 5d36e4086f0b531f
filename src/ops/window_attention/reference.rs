//! Plain formulas, one window, head and query at a time.

use super::{MASKED, WindowAttention, WindowAttentionGrad, Windows};
use crate::graph::{Array, Real, Reference};
use crate::tensor::DType;

/// One query of one head: where its keys are and how much it looks at each.
struct Row<T> {
    /// Channel of the head within q, k or v.
    channel: usize,
    head: usize,
    query: [usize; 3],
    keys: Vec<[usize; 3]>,
    /// Rows of the bias table.
    table_rows: Vec<usize>,
    weights: Vec<T>,
}

/// Every query of every head.
fn rows<'a, T: Real>(
    op: &'a WindowAttention,
    g: Windows,
    qkv: &'a Array<T>,
    table: &'a Array<T>,
) -> impl Iterator<Item = Row<T>> + 'a {
    let tokens = g.tokens();
    let all = 0..g.count() * op.heads * tokens;
    all.map(move |r| {
        let (n, head, i) = (r / tokens / op.heads, r / tokens % op.heads, r % tokens);
        let channel = head * g.depth;
        let (query, region) = g.token(n, i);
        let keys: Vec<_> = (0..tokens).map(|j| g.token(n, j)).collect();
        let table_rows: Vec<_> = (0..tokens).map(|j| g.table_row(i, j)).collect();
        let score = |j: usize| {
            let dot: T = (0..g.depth)
                .map(|d| at(qkv, query, channel + d) * at(qkv, keys[j].0, (op.heads * g.depth) + channel + d))
                .sum();
            let score = T::of(op.scale as f64) * dot + table.at(&[table_rows[j], head]);
            if keys[j].1 == region { score } else { score + T::of(MASKED as f64) }
        };
        let scores: Vec<T> = (0..tokens).map(score).collect();
        let max = scores.iter().copied().fold(scores[0], T::max);
        let exps: Vec<T> = scores.iter().map(|&s| (s - max).exp()).collect();
        let sum: T = exps.iter().copied().sum();
        let weights = exps.into_iter().map(|x| x / sum).collect();
        Row { channel, head, query, keys: keys.into_iter().map(|k| k.0).collect(), table_rows, weights }
    })
}

fn at<T: Real>(x: &Array<T>, [b, y, x_]: [usize; 3], channel: usize) -> T {
    x.at(&[b, y, x_, channel])
}

fn add<T: Real>(x: &mut Array<T>, [b, y, x_]: [usize; 3], channel: usize, value: T) {
    *x.at_mut(&[b, y, x_, channel]) += value;
}

impl Reference for WindowAttention {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        forward(self, inputs, |x| x)
    }
}

impl Reference for WindowAttentionGrad {
    fn eval<T: Real>(&self, inputs: &[Array<T>]) -> Vec<Array<T>> {
        backward(&self.0, inputs, |x| x)
    }
}

/// Forward as an unfused program computes it in `dtype`: the weights are a tensor in memory.
pub(super) fn forward_in(op: &WindowAttention, inputs: &[Array<f64>], dtype: DType) -> Vec<Array<f64>> {
    forward(op, inputs, |x| round_to(x, dtype))
}

/// Backward as an unfused program computes it in `dtype`: the weights and the gradient of the scores are
/// tensors in memory.
pub(super) fn backward_in(op: &WindowAttention, inputs: &[Array<f64>], dtype: DType) -> Vec<Array<f64>> {
    backward(op, inputs, |x| round_to(x, dtype))
}

fn round_to(x: f64, dtype: DType) -> f64 {
    if dtype.is_half() { dtype.nearest(x) } else { x }
}

/// `stored` is what becomes of a weight when it is written to memory.
fn forward<T: Real>(op: &WindowAttention, inputs: &[Array<T>], stored: impl Fn(T) -> T) -> Vec<Array<T>> {
    let (qkv, table) = (&inputs[0], &inputs[1]);
    let g = Windows::of(op, &qkv.shape);
    let channels = op.heads * g.depth;
    let mut out = Array::zeros([g.batch, g.height, g.width, channels]);
    for mut row in rows(op, g, qkv, table) {
        row.weights.iter_mut().for_each(|w| *w = stored(*w));
        for c in row.channel..row.channel + g.depth {
            let mixed: T =
                row.weights.iter().zip(&row.keys).map(|(&w, &key)| w * at(qkv, key, 2 * channels + c)).sum();
            add(&mut out, row.query, c, mixed);
        }
    }
    vec![out]
}

/// `stored` is what becomes of a weight, or of the gradient of a score, when it is written to memory.
fn backward<T: Real>(op: &WindowAttention, inputs: &[Array<T>], stored: impl Fn(T) -> T) -> Vec<Array<T>> {
    let (qkv, table, d_out) = (&inputs[0], &inputs[1], &inputs[2]);
    let g = Windows::of(op, &qkv.shape);
    let channels = op.heads * g.depth;
    let scale = T::of(op.scale as f64);
    let mut d_qkv = Array::zeros(qkv.shape.clone());
    let mut d_table = Array::zeros(table.shape.clone());
    for mut row in rows(op, g, qkv, table) {
        row.weights.iter_mut().for_each(|w| *w = stored(*w));
        let head = row.channel..row.channel + g.depth;
        let d_weights: Vec<T> = row
            .keys
            .iter()
            .map(|&k| head.clone().map(|c| at(d_out, row.query, c) * at(qkv, k, 2 * channels + c)).sum())
            .collect();
        let mean: T = row.weights.iter().zip(&d_weights).map(|(&w, &d)| w * d).sum();
        for (j, &key) in row.keys.iter().enumerate() {
            let d_score = stored(row.weights[j] * (d_weights[j] - mean));
            *d_table.at_mut(&[row.table_rows[j], row.head]) += d_score;
            let d_dot = scale * d_score;
            for c in head.clone() {
                add(&mut d_qkv, row.query, c, d_dot * at(qkv, key, channels + c));
                add(&mut d_qkv, key, channels + c, d_dot * at(qkv, row.query, c));
                add(&mut d_qkv, key, 2 * channels + c, row.weights[j] * at(d_out, row.query, c));
            }
        }
    }
    vec![d_qkv, d_table]
}
