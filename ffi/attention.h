#pragma once
#include <stdint.h>

/// A tensor `[batch, tokens, heads, depth]` whose depth is dense.
typedef struct AttentionTensor {
    /// The first element.
    uint64_t data;
    /// Elements between two entries of the batch, two tokens, two heads.
    int64_t batch_step;
    int64_t token_step;
    int64_t head_step;
} AttentionTensor;

/// What `attention_*` kernels of both directions need to know: operands, extents, visibility.
typedef struct AttentionProblem {
    /// Queries, keys and values; the type in memory is the kernel's.
    AttentionTensor q;
    AttentionTensor k;
    AttentionTensor v;
    /// Added to the scaled scores, f32 `[batch, heads, queries, keys]`; 0: none.
    uint64_t bias;
    /// Elements between two entries of the batch, two heads (0: shared), two queries.
    int64_t bias_batch_step;
    int64_t bias_head_step;
    int64_t bias_query_step;
    /// int64, keys that each entry of k and v has, clamped to 0..=`keys`; 0: all.
    uint64_t key_lengths;
    /// int32, which entry of k, v and `key_lengths` each entry of q reads; 0: its own.
    uint64_t kv_rows;
    /// Entries of q.
    int32_t batch;
    int32_t heads;
    int32_t queries;
    int32_t keys;
    /// Elements of a head of a token.
    int32_t depth;
    /// Whether query i sees keys 0..=i only.
    int32_t causal;
    /// Factor of the dot products.
    float scale;
    /// The same times log2(e): scores are exponents of 2.
    float scale_log2;
} AttentionProblem;

/// Parameters of `attention_fwd_*`: out = softmax(scale·QKᵀ + bias)·V.
typedef struct AttentionFwd {
    /// Operands and extents.
    AttentionProblem problem;
    /// Result, dense `[batch, queries, heads, depth]`.
    uint64_t out;
    /// Natural logarithm of the sum of the exponentials of each row of scores, f32 `[batch, heads, queries]`.
    uint64_t lse;
} AttentionFwd;

/// Parameters of `attention_delta_*`, `attention_dq_*`, `attention_dkv_*` and `attention_dbias_*`.
typedef struct AttentionBwd {
    /// Operands and extents of the forward.
    AttentionProblem problem;
    /// Result of the forward and its gradient.
    AttentionTensor out;
    AttentionTensor d_out;
    /// Log-sum-exp of the forward, f32 `[batch, heads, queries]`.
    uint64_t lse;
    /// Its gradient, f32, dense; 0: none.
    uint64_t d_lse;
    /// Σ out·d_out − d_lse of each row, f32 `[batch, heads, queries]`: written by `attention_delta_*`.
    uint64_t delta;
    /// Gradients, dense: of q; of k; of v.
    uint64_t dq;
    uint64_t dk;
    uint64_t dv;
    /// Gradient of the bias, f32, dense `[bias_batch, bias_heads, queries, keys]`.
    uint64_t d_bias;
    /// Leading extents of the bias: `batch` or 1, `heads` or 1.
    int32_t bias_batch;
    int32_t bias_heads;
} AttentionBwd;
