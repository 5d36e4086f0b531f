//! `attention`: softmax(scale·QKᵀ + bias)·V over heads, tiled so that the scores of the whole
//! problem never exist (Dao et al. 2022, arXiv 2205.14135).
//!
//! A row of queries to which no key is visible (key length 0, or a bias of −∞ everywhere) gives
//! zeros and the log-sum-exp 0. PyTorch's `scaled_dot_product_attention` gives NaN there (its
//! masks are additive −∞), or, in some of its versions and kernels, zeros.

mod cases;
mod cpu;
mod cpu_grad;
mod cuda;
mod cuda_sm90;
mod naive;
mod pack;
mod reference;
pub(super) mod strip;

pub use cases::ENTRIES;

use std::sync::Arc;

use super::activation::expect_f32;
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Array, Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// out = softmax(scale·QKᵀ + bias)·V, for every batch entry and head by itself.
///
/// Operands, in this order:
/// * q `[B, Nq, H, D]`, k and v `[B', Nk, H, D]`: f32, any layout whose last axis is dense, so that
///   a fused `[B, N, 3, H, D]` is sliced without a copy. B' = B, unless `kv_rows` says which entry
///   of k and v each entry of q reads;
/// * if `bias`: f32 `[B or 1, H or 1, Nq, Nk]`, added to the scaled scores;
/// * if `key_lengths`: i64 `[B']`; keys at this index and beyond are not seen. Numbers outside
///   `0..=Nk` count as the nearer end.
///
/// Results: out f32 `[B, Nq, H, D]`; the logarithm of the sum of the exponentials of each row's
/// scores, f32 `[B, H, Nq]`, which the gradient needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Factor of the dot products, usually D^−½.
    pub scale: f32,
    /// Query i sees keys 0..=i only (counted from the start of both, as PyTorch's `is_causal`).
    pub causal: bool,
    /// Whether there is a bias operand.
    pub bias: bool,
    /// Whether there is a key-length operand.
    pub key_lengths: bool,
    /// Entry of k, v and the key lengths that each batch entry of q reads; its own, if `None`.
    pub kv_rows: Option<Arc<[usize]>>,
}

/// Gradients of [`Attention`]. Operands: those of the forward op, then its results out and
/// log-sum-exp, then d_out like out, and, if `d_lse`, the gradient of the log-sum-exp. Results: dq,
/// dk, dv like q, k, v and, if `d_bias`, the gradient of the bias.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGrad {
    /// The forward op.
    pub forward: Attention,
    /// Whether there is a gradient of the log-sum-exp.
    pub d_lse: bool,
    /// Whether the bias wants a gradient.
    pub d_bias: bool,
}

/// What [`GraphBuilder::attention`] may be given besides q, k and v.
#[derive(Clone, Debug, Default)]
pub struct AttentionOptions {
    /// Factor of the dot products; D^−½ if none is given.
    pub scale: Option<f32>,
    /// Query i sees keys 0..=i only.
    pub causal: bool,
    /// Added to the scaled scores: f32 `[B or 1, H or 1, Nq, Nk]`.
    pub bias: Option<ValueId>,
    /// How many keys each batch entry of k and v has: i64 `[B]`.
    pub key_lengths: Option<ValueId>,
    /// Batch entry b of q reads entry `kv_rows[b]` of k and v, so that several tiles of a picture
    /// share the keys of one caption without a copy. Not differentiable.
    pub kv_rows: Option<Arc<[usize]>>,
}

/// Extents of one call.
#[derive(Clone, Copy, Debug)]
struct Extents {
    /// Entries of q.
    batch: usize,
    /// Entries of k and v.
    kv_batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    /// Elements of one head of one token.
    depth: usize,
}

impl Extents {
    fn of(q: &[usize], k: &[usize]) -> Self {
        Extents { batch: q[0], kv_batch: k[0], queries: q[1], keys: k[1], heads: q[2], depth: q[3] }
    }
}

impl Attention {
    /// Index of the key-length operand; without one, of what follows it.
    fn lengths_at(&self) -> usize {
        3 + self.bias as usize
    }

    /// The entry of k, v and the key lengths that entry `b` of q reads.
    fn kv_row(&self, b: usize) -> usize {
        self.kv_rows.as_ref().map_or(b, |rows| rows[b])
    }

    /// How many operands there are.
    fn operands(&self) -> usize {
        self.lengths_at() + self.key_lengths as usize
    }

    fn extents(&self, inputs: &[&TensorType]) -> Extents {
        Extents::of(&inputs[0].shape, &inputs[1].shape)
    }

    /// Visible pairs of query and key, lengths apart (they are data).
    fn pairs(&self, e: Extents) -> f64 {
        let seen: usize =
            if self.causal { (0..e.queries).map(|i| e.keys.min(i + 1)).sum() } else { e.queries * e.keys };
        (seen * e.batch * e.heads) as f64
    }

    fn check(&self, inputs: &[&TensorType]) -> Result<Extents, String> {
        let [q, k, v] = inputs[..3] else { unreachable!("the caller counted") };
        for (name, t) in [("q", q), ("k", k), ("v", v)] {
            expect_f32(name, t)?;
            if t.rank() != 4 {
                return Err(format!("{name} must be [batch, tokens, heads, depth], found {t}"));
            }
        }
        let e = self.extents(inputs);
        if k.shape[2..] != [e.heads, e.depth] || (self.kv_rows.is_none() && e.kv_batch != e.batch) {
            return Err(format!("k is {k}, but q is {q}: batch, heads and depth must be equal"));
        }
        if let Some(rows) = &self.kv_rows {
            if rows.len() != e.batch {
                return Err(format!("kv_rows has {} entries for the batch of {} of q", rows.len(), e.batch));
            }
            if let Some(row) = rows.iter().find(|&&row| row >= e.kv_batch) {
                return Err(format!("kv_rows asks for entry {row} of k, which has {}", e.kv_batch));
            }
        }
        if v != k {
            return Err(format!("v must be like k ({k}), found {v}"));
        }
        if self.bias {
            let t = inputs[3];
            expect_f32("bias", t)?;
            let fits = |n: usize, full: usize| n == 1 || n == full;
            let ok = t.rank() == 4
                && fits(t.shape[0], e.batch)
                && fits(t.shape[1], e.heads)
                && t.shape[2..] == [e.queries, e.keys];
            if !ok {
                let Extents { batch, heads, queries, keys, .. } = e;
                return Err(format!(
                    "bias must be [{batch} or 1, {heads} or 1, {queries}, {keys}], found {t}"
                ));
            }
        }
        if self.key_lengths {
            let t = inputs[self.lengths_at()];
            if t.dtype != DType::I64 || t.shape != [e.kv_batch] {
                return Err(format!("key lengths must be i64 [{}], found {t}", e.kv_batch));
            }
        }
        Ok(e)
    }
}

/// Attention kernels read any layout whose last axis is dense.
pub(super) fn last_axis_dense(layout: &Layout) -> bool {
    layout.shape.last().is_none_or(|&n| n == 1) || layout.strides.last() == Some(&1)
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        if inputs.len() != self.operands() {
            return Err(format!("takes {} operands, found {}", self.operands(), inputs.len()));
        }
        let e = self.check(inputs)?;
        Ok(vec![inputs[0].clone(), TensorType::f32([e.batch, e.heads, e.queries])])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        if self.kv_rows.is_some() {
            return Ok(Gradient::NotDifferentiable(
                "keys shared by kv_rows are for inference; give each batch entry its own",
            ));
        }
        let d_out = match g.d_outputs[0] {
            Some(d) => d,
            None => {
                let zero = g.b.scalar(0.0);
                let shape = g.b.shape(g.outputs[0]).to_vec();
                g.b.broadcast_to(zero, &shape)?
            }
        };
        let d_lse = g.d_outputs[1];
        let d_bias = self.bias && g.wanted[3];
        let op = AttentionGrad { forward: self.clone(), d_lse: d_lse.is_some(), d_bias };
        let operands: Vec<_> =
            g.inputs.iter().chain(g.outputs).copied().chain([d_out]).chain(d_lse).collect();
        let d = g.b.node(op, &operands)?;
        let mut grads = vec![Some(d[0]), Some(d[1]), Some(d[2])];
        if self.bias {
            grads.push(d_bias.then(|| d[3]));
        }
        grads.resize(self.operands(), None); // lengths are integers
        Ok(Gradient::Inputs(grads))
    }

    /// Per pair a dot product, a weighted sum, and scale, bias, maximum, exponential, sum.
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let e = self.extents(inputs);
        Cost::dense(self.pairs(e) * (4.0 * e.depth as f64 + 5.0), inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self, call);
        Ok(())
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        cpu::scratch(self.extents(inputs), threads)
    }

    /// Queries, keys, values and the result in the compute type; bias and log-sum-exp in f32.
    fn cuda_storage(
        &self,
        inputs: &[&TensorType],
        _outputs: &[&TensorType],
        _kept: &[DType],
        compute: DType,
    ) -> Storage {
        Storage { inputs: cuda::stored(inputs, &[0, 1, 2], compute), outputs: vec![compute, DType::F32] }
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call)
    }

    fn naive_in(&self, inputs: &[Array<f64>], dtype: DType) -> Option<Vec<Array<f64>>> {
        Some(naive::forward(self, inputs, dtype))
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input < self.lengths_at() { last_axis_dense(layout) } else { layout.is_dense() }
    }
}

impl AttentionGrad {
    /// Index of out; log-sum-exp and d_out follow.
    fn out_at(&self) -> usize {
        self.forward.operands()
    }
}

impl Op for AttentionGrad {
    fn name(&self) -> &'static str {
        "attention_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let out = self.out_at();
        let count = out + 3 + self.d_lse as usize;
        if inputs.len() != count {
            return Err(format!("takes {count} operands, found {}", inputs.len()));
        }
        if self.forward.kv_rows.is_some() {
            return Err("there is no gradient of attention with kv_rows".into());
        }
        let e = self.forward.check(inputs)?;
        let lse = TensorType::f32([e.batch, e.heads, e.queries]);
        let like = [("out", inputs[0]), ("log-sum-exp", &lse), ("d_out", inputs[0]), ("d_lse", &lse)];
        for ((name, want), found) in like.iter().zip(&inputs[out..]) {
            if want != found {
                return Err(format!("{name} must be {want}, found {found}"));
            }
        }
        if self.d_bias && !self.forward.bias {
            return Err("there is no bias to have a gradient".into());
        }
        Ok(inputs[..3 + self.d_bias as usize].iter().map(|&t| t.clone()).collect())
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable("second derivatives of attention are not provided"))
    }

    /// Per pair five products of length D (scores again, dP, dV, dK, dQ) and the softmax's share.
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let e = self.forward.extents(inputs);
        Cost::dense(self.forward.pairs(e) * (10.0 * e.depth as f64 + 6.0), inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu_grad::backward(self, call);
        Ok(())
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        cpu_grad::scratch(self, inputs, threads)
    }

    /// As forward; the gradient of the bias in f32.
    fn cuda_storage(
        &self,
        inputs: &[&TensorType],
        _outputs: &[&TensorType],
        _kept: &[DType],
        compute: DType,
    ) -> Storage {
        let out = self.out_at();
        let mut outputs = vec![compute; 3];
        outputs.resize(3 + self.d_bias as usize, DType::F32);
        Storage { inputs: cuda::stored(inputs, &[0, 1, 2, out, out + 2], compute), outputs }
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::backward(self, call)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        cuda::backward_scratch(self, inputs)
    }

    fn naive_in(&self, inputs: &[Array<f64>], dtype: DType) -> Option<Vec<Array<f64>>> {
        Some(naive::backward(self, inputs, dtype))
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        let out = self.out_at();
        if input < self.forward.lengths_at() || input == out || input == out + 2 {
            last_axis_dense(layout)
        } else {
            layout.is_dense()
        }
    }
}

impl GraphBuilder {
    /// Attention of q `[B, Nq, H, D]` over k and v `[B, Nk, H, D]`; see [`Attention`]. The result
    /// is like q.
    pub fn attention(
        &mut self,
        q: ValueId,
        k: ValueId,
        v: ValueId,
        options: AttentionOptions,
    ) -> Result<ValueId> {
        let depth = self.ty(q).last().max(1);
        let op = Attention {
            scale: options.scale.unwrap_or((depth as f32).sqrt().recip()),
            causal: options.causal,
            bias: options.bias.is_some(),
            key_lengths: options.key_lengths.is_some(),
            kv_rows: options.kv_rows,
        };
        let operands: Vec<_> = [q, k, v].into_iter().chain(options.bias).chain(options.key_lengths).collect();
        self.node1(op, &operands)
    }
}
