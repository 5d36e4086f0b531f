// attention, backward: probabilities are recomputed from the log-sum-exp of the forward (Dao et al. 2022),
// P = exp(score − lse), dS = P∘(d_out·Vᵀ − delta), delta = Σ out·d_out − d_lse.
//
// Three launches, each block the only writer of its results, so that bytes do not depend on an order:
// `delta` (memory-bound: out and d_out read once, a warp a row), `dkv` (a block owns keys and walks over
// queries: dV = PᵀdO, dK = dSᵀQ) and `dq` (a block owns queries and walks over keys: dQ = dS·K). The scores
// and dP are computed twice, 7 products of depth where atomics would need 5. `dbias` (only where a bias is
// trained) owns a tile of the bias and sums over the batch entries and heads that share it.
//
// `any`: FMA units, any depth up to 512, any layout whose depth is dense, tiles as in attention.cu.
#include "include/attention_any.cuh"

namespace {

using namespace dc::attention;

constexpr int DELTA_THREADS = 128;

/// Rows are numbered as in lse: batch, head, query.
template <class T>
DC_FN void attention_delta(const AttentionBwd& a) {
    const AttentionProblem& p = a.problem;
    const int64_t row = int64_t(blockIdx.x) * (DELTA_THREADS / 32) + dc::warp();
    if (row >= int64_t(p.batch) * p.heads * p.queries) return;  // whole warps
    const int index = int(row / p.queries), i = int(row - int64_t(index) * p.queries);
    const int b = index / p.heads, h = index - b * p.heads;
    const T* x = head_start<T>(a.out, b, h) + i * a.out.token_step;
    const T* y = head_start<T>(a.d_out, b, h) + i * a.d_out.token_step;
    float sum = 0;
    for (int c = dc::lane(); c < p.depth; c += 32) sum += dc::to_f32(x[c]) * dc::to_f32(y[c]);
    sum = dc::warp_sum(sum);
    if (dc::lane() == 0) {
        if (a.d_lse) sum -= dc::ptr<const float>(a.d_lse)[row];
        dc::ptr<float>(a.delta)[row] = sum;
    }
}

template <int BM, int BN>
struct SharedBwd {
    float own[BM][PIECE + 4];
    float other[BN][PIECE + 4];
    float weights[BM][BN + 4];
    float d_scores[BM][BN + 4];
};

/// One side of a product as pieces of rows.
template <class T>
struct Side {
    const T* from;
    int64_t step;
    int rows;
};

/// dots[i][j] = own row · other row over the whole depth.
template <int BM, int BN, class T, class Shared>
DC_FN void all_dots(float (&dots)[BM / SIDE][BN / SIDE], Shared& s, const Side<T>& own, int m0, const Side<T>& other,
                    int n0, int depth) {
    for (int c = 0; c < depth; c += PIECE) {
        __syncthreads();
        load_piece<BM>(s.own[0], PIECE + 4, own.from, own.step, m0, own.rows, c, depth);
        load_piece<BN>(s.other[0], PIECE + 4, other.from, other.step, n0, other.rows, c, depth);
        __syncthreads();
        add_dots<BM / SIDE, BN / SIDE>(dots, s.own[0], PIECE + 4, s.other[0], PIECE + 4, dc::min(PIECE, depth - c));
    }
}

/// out += w · other rows, piece by piece.
template <int BM, int BN, int GROUPS, class T, class Shared>
DC_FN void all_mix(float (&out)[BM / SIDE][GROUPS][2], Shared& s, const float* w, const Side<T>& other, int n0,
                   int depth) {
    DC_UNROLL
    for (int c = 0; c < GROUPS * GROUP; c += PIECE) {
        if (c >= depth) break;
        __syncthreads();
        load_piece<BN>(s.other[0], PIECE + 4, other.from, other.step, n0, other.rows, c, depth);
        __syncthreads();
        add_mix<BM / SIDE, BN, GROUPS>(out, c / GROUP, w, BN + 4, s.other[0], depth);
    }
}

/// Probability of a pair and the gradient of its score.
struct Pair {
    float weight, d_score;
};
DC_FN Pair pair_of(const AttentionBwd& a, const Head& x, const float* bias, const float* lse, const float* delta,
                   float dot, float d_weight, int i, int j) {
    if (!sees(a.problem, x, i, j)) return {0, 0};
    const float w = dc::exp2(score(a.problem, x, bias, dot, i, j) - lse[i] * dc::LOG2E);
    return {w, w * (d_weight - delta[i])};
}

/// A block owns BM keys (KEYS: results dK and dV) or BM queries (result dQ).
template <class T, int BM, int BN, int DEPTH, bool KEYS>
DC_FN void attention_bwd_any(const AttentionBwd& a) {
    constexpr int RM = BM / SIDE, RN = BN / SIDE, GROUPS = DEPTH / GROUP;
    const AttentionProblem& p = a.problem;
    auto& s = dc::shared<SharedBwd<BM, BN>>();
    const int own_tokens = KEYS ? p.keys : p.queries;
    const int tiles = dc::ceil_div(own_tokens, BM);
    const int index = blockIdx.x / tiles, m0 = (blockIdx.x - index * tiles) * BM;
    const Head x = head_of(p, index);
    const float* bias = bias_start(p, x);
    const float* lse = dc::ptr<const float>(a.lse) + int64_t(index) * p.queries;
    const float* delta = dc::ptr<const float>(a.delta) + int64_t(index) * p.queries;
    const Side<T> q{head_start<T>(p.q, x.b, x.h), p.q.token_step, p.queries};
    const Side<T> k{head_start<T>(p.k, x.kv, x.h), p.k.token_step, x.keys};
    const Side<T> v{head_start<T>(p.v, x.kv, x.h), p.v.token_step, x.keys};
    const Side<T> d_out{head_start<T>(a.d_out, x.b, x.h), a.d_out.token_step, p.queries};
    const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;

    // The others that a pair of this tile can have.
    int begin = 0, end = KEYS ? p.queries : x.keys;
    if (KEYS && m0 >= x.keys) end = 0;
    if (p.causal && KEYS) begin = m0 / BN * BN;
    if (p.causal && !KEYS) end = dc::min(end, m0 + BM);
    float d_x[RM][GROUPS][2] = {}, d_v[KEYS ? RM : 1][KEYS ? GROUPS : 1][2] = {};
    for (int n0 = begin; n0 < end; n0 += BN) {
        float dots[RM][RN] = {}, d_weights[RM][RN] = {};
        if constexpr (KEYS) {
            all_dots<BM, BN>(dots, s, k, m0, q, n0, p.depth);
            all_dots<BM, BN>(d_weights, s, v, m0, d_out, n0, p.depth);
        } else {
            all_dots<BM, BN>(dots, s, q, m0, k, n0, p.depth);
            all_dots<BM, BN>(d_weights, s, d_out, m0, v, n0, p.depth);
        }
        DC_UNROLL
        for (int i = 0; i < RM; ++i) {
            DC_UNROLL
            for (int j = 0; j < RN; ++j) {
                const int m = ty + SIDE * i, n = tx + SIDE * j;
                const Pair pair = pair_of(a, x, bias, lse, delta, dots[i][j], d_weights[i][j], KEYS ? n0 + n : m0 + m,
                                          KEYS ? m0 + m : n0 + n);
                if (KEYS) s.weights[m][n] = pair.weight;
                s.d_scores[m][n] = pair.d_score;
            }
        }
        if constexpr (KEYS) {
            all_mix<BM, BN, GROUPS>(d_v, s, s.weights[0], d_out, n0, p.depth);
            all_mix<BM, BN, GROUPS>(d_x, s, s.d_scores[0], q, n0, p.depth);
        } else {
            all_mix<BM, BN, GROUPS>(d_x, s, s.d_scores[0], k, n0, p.depth);
        }
    }
    DC_UNROLL
    for (int i = 0; i < RM; ++i) {
        const int row = m0 + ty + SIDE * i;
        if (row >= own_tokens) continue;
        const int64_t at = ((int64_t(KEYS ? x.kv : x.b) * own_tokens + row) * p.heads + x.h) * p.depth;
        store_row<T, GROUPS>(dc::ptr<T>(KEYS ? a.dk : a.dq) + at, d_x[i], p.scale, p.depth);
        if constexpr (KEYS) store_row<T, GROUPS>(dc::ptr<T>(a.dv) + at, d_v[i], 1.0f, p.depth);
    }
}

/// A block owns a tile of one entry and head of the bias.
template <class T, int BM, int BN>
DC_FN void attention_dbias(const AttentionBwd& a) {
    constexpr int RM = BM / SIDE, RN = BN / SIDE;
    const AttentionProblem& p = a.problem;
    auto& s = dc::shared<SharedBwd<BM, BN>>();
    const int q_tiles = dc::ceil_div(p.queries, BM), k_tiles = dc::ceil_div(p.keys, BN);
    int tile = blockIdx.x;
    const int n0 = tile % k_tiles * BN;
    tile /= k_tiles;
    const int m0 = tile % q_tiles * BM, entry = tile / q_tiles;
    const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;
    float sum[RM][RN] = {};
    for (int index = 0; index < p.batch * p.heads; ++index) {
        const Head x = head_of(p, index);
        if ((a.bias_batch > 1 ? x.b : 0) * a.bias_heads + (a.bias_heads > 1 ? x.h : 0) != entry) continue;
        const Side<T> q{head_start<T>(p.q, x.b, x.h), p.q.token_step, p.queries};
        const Side<T> k{head_start<T>(p.k, x.kv, x.h), p.k.token_step, x.keys};
        const Side<T> v{head_start<T>(p.v, x.kv, x.h), p.v.token_step, x.keys};
        const Side<T> d_out{head_start<T>(a.d_out, x.b, x.h), a.d_out.token_step, p.queries};
        const float* lse = dc::ptr<const float>(a.lse) + int64_t(index) * p.queries;
        const float* delta = dc::ptr<const float>(a.delta) + int64_t(index) * p.queries;
        float dots[RM][RN] = {}, d_weights[RM][RN] = {};
        all_dots<BM, BN>(dots, s, q, m0, k, n0, p.depth);
        all_dots<BM, BN>(d_weights, s, d_out, m0, v, n0, p.depth);
        DC_UNROLL
        for (int i = 0; i < RM; ++i) {
            DC_UNROLL
            for (int j = 0; j < RN; ++j)
                sum[i][j] += pair_of(a, x, bias_start(p, x), lse, delta, dots[i][j], d_weights[i][j],
                                     m0 + ty + SIDE * i, n0 + tx + SIDE * j)
                                 .d_score;
        }
    }
    float* to = dc::ptr<float>(a.d_bias) + int64_t(entry) * p.queries * p.keys;
    DC_UNROLL
    for (int i = 0; i < RM; ++i) {
        DC_UNROLL
        for (int j = 0; j < RN; ++j) {
            const int row = m0 + ty + SIDE * i, col = n0 + tx + SIDE * j;
            if (row < p.queries && col < p.keys) to[int64_t(row) * p.keys + col] = sum[i][j];
        }
    }
}

}  // namespace

#define ANY(TYPE, T, BM, BN, DEPTH, BLOCKS)                                                                  \
    DC_KERNEL(attention_dkv_any_d##DEPTH##_##TYPE, AttentionBwd, 256, BLOCKS, sizeof(SharedBwd<BM, BN>)) {   \
        attention_bwd_any<T, BM, BN, DEPTH, true>(p);                                                        \
    }                                                                                                        \
    DC_KERNEL(attention_dq_any_d##DEPTH##_##TYPE, AttentionBwd, 256, BLOCKS, sizeof(SharedBwd<BM, BN>)) {    \
        attention_bwd_any<T, BM, BN, DEPTH, false>(p);                                                       \
    }
ANY(f32, float, 64, 64, 128, 1)
ANY(f32, float, 32, 32, 512, 1)
ANY(bf16, dc::bf16, 32, 32, 512, 1)
ANY(f16, dc::f16, 32, 32, 512, 1)
#undef ANY

#define EACH(TYPE, T)                                                                                        \
    DC_KERNEL(attention_delta_##TYPE, AttentionBwd, DELTA_THREADS, 8, 0) { attention_delta<T>(p); }          \
    DC_KERNEL(attention_dbias_any_##TYPE, AttentionBwd, 256, 2, sizeof(SharedBwd<32, 32>)) {                 \
        attention_dbias<T, 32, 32>(p);                                                                       \
    }
EACH(f32, float)
EACH(bf16, dc::bf16)
EACH(f16, dc::f16)
#undef EACH
