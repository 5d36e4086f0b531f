#pragma once
#include "attention.h"
#include "tensor_map.h"

// Maps of operands have the axes depth, tokens, heads, entries. A box is 64 tokens of one head by 64 elements of
// depth (rows of 128 bytes, so swizzled) for depths up to 64, else by 32 (64 bytes).

/// Parameters of `attention_fwd_*_sm90`.
typedef struct AttentionFwdSm90 {
    /// Queries.
    TensorMap q;
    /// Keys.
    TensorMap k;
    /// Values.
    TensorMap v;
    /// What the kernels of every architecture are told.
    AttentionFwd forward;
} AttentionFwdSm90;

/// Parameters of `attention_dq_*_sm90` and `attention_dkv_*_sm90`.
typedef struct AttentionBwdSm90 {
    /// Queries.
    TensorMap q;
    /// Keys.
    TensorMap k;
    /// Values.
    TensorMap v;
    /// Gradient of the result.
    TensorMap d_out;
    /// What the kernels of every architecture are told.
    AttentionBwd backward;
    /// Zeros.
    uint64_t reserved[2];
} AttentionBwdSm90;
