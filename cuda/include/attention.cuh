// What the kernels of attention share: which keys a query sees, scores, and tiles of f32 products.
#pragma once

#include "dc.cuh"
#include "../../ffi/attention.h"

namespace dc::attention {

/// One head of one entry of the batch.
struct Head {
    int b, h;
    /// Entry of k and v.
    int kv;
    /// Keys that the entry has; a causal query sees fewer.
    int keys;
};

DC_FN Head head_of(const AttentionProblem& p, int index) {
    Head x;
    x.b = index / p.heads;
    x.h = index - x.b * p.heads;
    x.kv = p.kv_rows ? ptr<const int32_t>(p.kv_rows)[x.b] : x.b;
    x.keys = p.keys;
    if (p.key_lengths) {
        const int64_t n = ptr<const int64_t>(p.key_lengths)[x.kv];
        x.keys = int(min(max(n, int64_t(0)), int64_t(p.keys)));
    }
    return x;
}

/// The head's first element of the first token.
template <class T>
DC_FN const T* head_start(const AttentionTensor& t, int entry, int head) {
    return ptr<const T>(t.data) + entry * t.batch_step + head * t.head_step;
}

/// The head's bias of query 0 and key 0, or null.
DC_FN const float* bias_start(const AttentionProblem& p, const Head& x) {
    return p.bias ? ptr<const float>(p.bias) + x.b * p.bias_batch_step + x.h * p.bias_head_step : nullptr;
}

/// Whether query i sees key j; false beyond the ends.
DC_FN bool sees(const AttentionProblem& p, const Head& x, int i, int j) {
    return i < p.queries && j < x.keys && (!p.causal || j <= i);
}

/// Scores below every real one: exp2 of it is 0, and no row of them has a maximum.
constexpr float NOTHING = -INFINITY;

constexpr float LN2 = 0.6931471805599453f;

/// Exponent of 2 of a pair: dot product · scale_log2 + bias · log2(e), NOTHING if the pair is not seen.
DC_FN float score(const AttentionProblem& p, const Head& x, const float* bias, float dot, int i, int j) {
    if (!sees(p, x, i, j)) return NOTHING;
    const float s = dot * p.scale_log2;
    return bias ? s + bias[i * p.bias_query_step + j] * LOG2E : s;
}

}  // namespace dc::attention
