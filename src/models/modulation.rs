//! Adaptive modulation of tokens, composed of plain ops.

use crate::error::Result;
use crate::graph::{GraphBuilder, ValueId};
use crate::ops::attention::AttentionOptions;

/// LN(x)·(1 + scale) + shift.
pub(super) fn adaln(
    b: &mut GraphBuilder,
    x: ValueId,
    shift: ValueId,
    scale: ValueId,
    eps: f32,
) -> Result<ValueId> {
    let h = b.layer_norm(x, None, eps)?;
    modulate(b, h, scale, shift)
}

/// x + gate·y.
pub(super) fn gated_residual(b: &mut GraphBuilder, x: ValueId, gate: ValueId, y: ValueId) -> Result<ValueId> {
    let h = b.mul(y, gate)?;
    b.add(x, h)
}

/// (1 + γ)·x + β.
pub(super) fn modulate(b: &mut GraphBuilder, x: ValueId, gamma: ValueId, beta: ValueId) -> Result<ValueId> {
    let one = b.scalar(1.0);
    let factor = b.add(gamma, one)?;
    let x = b.mul(x, factor)?;
    b.add(x, beta)
}

/// Modulation by γ = Σ gₖγₖ and β = Σ gₖβₖ, g = softmax(logits).
pub(super) fn moe_modulate(
    b: &mut GraphBuilder,
    x: ValueId,
    logits: ValueId,
    gammas: &[ValueId],
    betas: &[ValueId],
) -> Result<ValueId> {
    let gates = b.softmax(logits)?;
    let last = b.shape(gates).len() - 1;
    let mix = |b: &mut GraphBuilder, parts: &[ValueId]| -> Result<ValueId> {
        let mut sum = None;
        for (k, &part) in parts.iter().enumerate() {
            let gate = b.slice(gates, last, k, 1)?;
            let term = b.mul(part, gate)?;
            sum = Some(match sum {
                Some(sum) => b.add(sum, term)?,
                None => term,
            });
        }
        Ok(sum.expect("at least one expert"))
    };
    let (gamma, beta) = (mix(b, gammas)?, mix(b, betas)?);
    modulate(b, x, gamma, beta)
}

/// Attention of sample i over the first `lengths[kv_rows[i]]` keys of row `kv_rows[i]`.
pub(super) fn text_attention(
    b: &mut GraphBuilder,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    lengths: ValueId,
    kv_rows: &[usize],
) -> Result<ValueId> {
    if !kv_rows.iter().copied().eq(0..b.shape(k)[0]) {
        return Err(b.error("attention", "captions shared between samples"));
    }
    b.attention(q, k, v, AttentionOptions { key_lengths: Some(lengths), ..Default::default() })
}
