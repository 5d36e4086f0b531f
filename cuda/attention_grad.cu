// attention, backward: probabilities are recomputed from the log-sum-exp of the forward (Dao et al. 2022),
// P = exp(score − lse), dS = P∘(d_out·Vᵀ − delta), delta = Σ out·d_out − d_lse.
//
// Three launches, each block the only writer of its results, so that bytes do not depend on an order: `delta`
// (memory-bound: out and d_out read once), `dkv` (a block owns keys and walks over queries: dV = PᵀdO,
// dK = dSᵀQ) and `dq` (a block owns queries and walks over keys: dQ = dS·K). The scores and dP are computed
// twice, 7 products of depth where atomics would need 5. `dbias` (only where a bias is trained) owns a tile of
// the bias and sums over the batch entries and heads that share it.
//
// `any_w128`: FMA units, any depth, any layout whose depth is dense; tiles and slices as in attention.cu.
//
// `mma_d72`, `mma_d64`: tensor cores, as in attention.cu. A warp owns 16 rows (64 a block) whose two operands
// stay in registers: with the accumulators of two results 32 rows would not fit. The others pass in tiles of 64,
// two stages, and are worked on by 32: scores and dP of a sub-tile never leave the registers, since the
// accumulators of a product are the left operand of the next. 37 KiB of shared memory; by registers 3 blocks an
// SM of `dq`, 2 of `dkv`.
#include "include/attention_any.cuh"
#include "include/attention_mma.cuh"

namespace {

using namespace dc::attention;

/// Eight lanes work on a row: depth 72 in half precision is nine units of 16 bytes.
constexpr int DELTA_THREADS = 128, DELTA_LANES = 8;

/// Rows are numbered as in lse: batch, head, query.
template <class T>
DC_FN void attention_delta(const AttentionBwd& a) {
    constexpr int UNIT = 16 / sizeof(T);
    const AttentionProblem& p = a.problem;
    const int64_t rows = int64_t(p.batch) * p.heads * p.queries;
    const int64_t row = int64_t(blockIdx.x) * (DELTA_THREADS / DELTA_LANES) + threadIdx.x / DELTA_LANES;
    float sum = 0;
    if (row < rows) {
        const int index = int(row / p.queries), i = int(row - int64_t(index) * p.queries);
        const int b = index / p.heads, h = index - b * p.heads, part = threadIdx.x % DELTA_LANES;
        const T* x = head_start<T>(a.out, b, h) + i * a.out.token_step;
        const T* y = head_start<T>(a.d_out, b, h) + i * a.d_out.token_step;
        if (((reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y)) % 16 == 0) && p.depth % UNIT == 0) {
            for (int c = part * UNIT; c < p.depth; c += DELTA_LANES * UNIT) {
                const auto u = dc::load<UNIT>(x + c), v = dc::load<UNIT>(y + c);
                DC_UNROLL
                for (int e = 0; e < UNIT; ++e) sum += dc::to_f32(u[e]) * dc::to_f32(v[e]);
            }
        } else {
            for (int c = part; c < p.depth; c += DELTA_LANES) sum += dc::to_f32(x[c]) * dc::to_f32(y[c]);
        }
    }
    DC_UNROLL
    for (int i = DELTA_LANES / 2; i > 0; i /= 2) sum += dc::shuffle_xor(sum, i);
    if (row < rows && threadIdx.x % DELTA_LANES == 0)
        dc::ptr<float>(a.delta)[row] = a.d_lse ? sum - dc::ptr<const float>(a.d_lse)[row] : sum;
}

template <int BM, int BN>
struct SharedBwd : SharedPieces<BM, BN> {
    float weights[BM][BN + 4];
    float d_scores[BM][BN + 4];
};

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

/// A block owns BM keys (KEYS: results dK and dV) or BM queries (result dQ), and of these the WIDTH columns
/// that blockIdx.y says.
template <class T, int BM, int BN, int WIDTH, bool KEYS>
DC_FN void attention_bwd_any(const AttentionBwd& a) {
    constexpr int RM = BM / SIDE, RN = BN / SIDE, GROUPS = WIDTH / GROUP;
    const AttentionProblem& p = a.problem;
    auto& s = dc::shared<SharedBwd<BM, BN>>();
    const int own_tokens = KEYS ? p.keys : p.queries;
    const int tiles = dc::ceil_div(own_tokens, BM);
    const int index = blockIdx.x / tiles, m0 = (blockIdx.x - index * tiles) * BM;
    const int first = blockIdx.y * WIDTH;
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
            all_mix<BM, BN>(d_v, s, s.weights[0], d_out, n0, first, p.depth);
            all_mix<BM, BN>(d_x, s, s.d_scores[0], q, n0, first, p.depth);
        } else {
            all_mix<BM, BN>(d_x, s, s.d_scores[0], k, n0, first, p.depth);
        }
    }
    DC_UNROLL
    for (int i = 0; i < RM; ++i) {
        const int row = m0 + ty + SIDE * i;
        if (row >= own_tokens) continue;
        const int64_t at = ((int64_t(KEYS ? x.kv : x.b) * own_tokens + row) * p.heads + x.h) * p.depth;
        store_row(dc::ptr<T>(KEYS ? a.dk : a.dq) + at, d_x[i], p.scale, first, p.depth);
        if constexpr (KEYS) store_row(dc::ptr<T>(a.dv) + at, d_v[i], 1.0f, first, p.depth);
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

constexpr int MMA_WARPS = 4, MMA_TILE = MMA_WARPS * 16, MMA_SUB = 32;

template <class T>
struct SharedMma {
    T other[2][2][MMA_TILE][PITCH];   ///< stage; q and d_out, or k and v
    float stats[2][2][MMA_TILE];      ///< stage; lse and delta of the other rows, where they are queries
};

/// A block owns 64 keys (KEYS: results dK and dV) or 64 queries (result dQ). Depths and rows as
/// attention_fwd_mma.
template <class T, int DEPTH, bool KEYS>
DC_FN void attention_bwd_mma(const AttentionBwd& a) {
    constexpr int B = MMA_TILE, N = MMA_SUB / 8, THREADS = MMA_WARPS * 32;
    const AttentionProblem& p = a.problem;
    auto& s = dc::shared<SharedMma<T>>();
    const int own_tokens = KEYS ? p.keys : p.queries;
    const int tiles = dc::ceil_div(own_tokens, B);
    const int index = blockIdx.x / tiles;
    int tile = blockIdx.x - index * tiles;
    if (p.causal && !KEYS) tile = tiles - 1 - tile;  // the longest first
    const int m0 = tile * B, own0 = dc::warp() * 16, g = dc::lane() / 4, t = dc::lane() % 4;
    const Head x = head_of(p, index);
    const float* bias = bias_start(p, x);
    const float* lse = dc::ptr<const float>(a.lse) + int64_t(index) * p.queries;
    const float* delta = dc::ptr<const float>(a.delta) + int64_t(index) * p.queries;
    const Side<T> q{head_start<T>(p.q, x.b, x.h), p.q.token_step, p.queries};
    const Side<T> k{head_start<T>(p.k, x.kv, x.h), p.k.token_step, x.keys};
    const Side<T> v{head_start<T>(p.v, x.kv, x.h), p.v.token_step, x.keys};
    const Side<T> d_out{head_start<T>(a.d_out, x.b, x.h), a.d_out.token_step, p.queries};

    // The others that a pair of this tile can have.
    int begin = 0, end = KEYS ? p.queries : x.keys;
    if (KEYS && m0 >= x.keys) end = 0;
    if (p.causal && KEYS) begin = m0;
    if (p.causal && !KEYS) end = dc::min(end, m0 + B);

    auto copy = [&](int stage, int which, const Side<T>& side, int row0) {
        copy_tile<B, DEPTH, THREADS>(s.other[stage][which][0], side.from, side.step, row0, side.rows, p.depth);
    };
    auto copy_others = [&](int stage, int n0) {
        copy(stage, 0, KEYS ? q : k, n0);
        copy(stage, 1, KEYS ? d_out : v, n0);
        if (KEYS) {
            // Beyond the last query are zeros; there the rows of q and d_out are zeros too and add nothing.
            const int i = threadIdx.x % B, which = threadIdx.x / B;
            const float* from = which ? delta : lse;
            const bool there = n0 + i < p.queries;
            dc::cp_async<4>(&s.stats[stage][which][i], there ? from + n0 + i : from, there ? 4 : 0);
        }
        dc::cp_async_commit();
    };
    copy(1, 0, KEYS ? k : q, m0);
    copy(1, 1, KEYS ? v : d_out, m0);
    dc::cp_async_commit();
    copy_others(0, begin);
    dc::cp_async_wait<1>();
    __syncthreads();
    Rows<DEPTH> own[1], own_d[1];
    load_rows(own[0], s.other[1][0][0], own0);
    load_rows(own_d[0], s.other[1][1][0], own0);
    float own_lse[2] = {}, own_delta[2] = {};
    if (!KEYS) {
        DC_UNROLL
        for (int half = 0; half < 2; ++half) {
            const int row = m0 + own0 + 8 * half + g;
            if (row < p.queries) {
                own_lse[half] = lse[row] * dc::LOG2E;
                own_delta[half] = delta[row];
            }
        }
    }

    float d_x[1][DEPTH / 8][4] = {}, d_v[1][DEPTH / 8][4] = {};
    for (int n0 = begin, stage = 0; n0 < end; n0 += B, stage ^= 1) {
        dc::cp_async_wait<0>();
        __syncthreads();  // this tile is here, and nobody reads the other stage any more
        if (n0 + B < end) copy_others(stage ^ 1, n0 + B);
        const T* other = s.other[stage][0][0];
        const T* other_d = s.other[stage][1][0];
        const bool whole = !bias && (KEYS ? m0 : n0) + B <= x.keys &&
                           (!p.causal || (KEYS ? m0 + B <= n0 + 1 : n0 + B <= m0 + 1));
        DC_ROLL
        for (int sub = 0; sub < B; sub += MMA_SUB) {
            float dots[1][N][4] = {}, d_weights[1][N][4] = {};
            add_dots<DEPTH>(dots, own, other, sub);
            add_dots<DEPTH>(d_weights, own_d, other_d, sub);
            float factor = p.scale_log2;
            if (!whole) {
                factor = 1;
                finish_scores<KEYS>(dots, p, x, bias, m0 + own0, n0 + sub);
            }
            DC_UNROLL
            for (int j = 0; j < N; ++j) {
                DC_UNROLL
                for (int e = 0; e < 4; ++e) {
                    const int n = sub + 8 * j + 2 * t + e % 2;
                    const float l = KEYS ? s.stats[stage][0][n] * dc::LOG2E : own_lse[e / 2];
                    const float d = KEYS ? s.stats[stage][1][n] : own_delta[e / 2];
                    const float w = dc::exp2(dots[0][j][e] * factor - l);
                    dots[0][j][e] = w;
                    d_weights[0][j][e] = w * (d_weights[0][j][e] - d);
                }
            }
            uint32_t weights[1][N / 2][4], d_scores[1][N / 2][4];
            DC_UNROLL
            for (int j = 0; j < N / 2; ++j) {
                as_operand<T>(weights[0][j], dots[0][2 * j], dots[0][2 * j + 1]);
                as_operand<T>(d_scores[0][j], d_weights[0][2 * j], d_weights[0][2 * j + 1]);
            }
            if (KEYS) add_mix<DEPTH>(d_v, weights, other_d, sub);
            add_mix<DEPTH>(d_x, d_scores, other, sub);
        }
    }
    dc::cp_async_wait<0>();
    __syncthreads();  // the tiles become room for results
    const int64_t step = int64_t(p.heads) * p.depth;
    const int first = m0 + own0;
    const int64_t at = (int64_t(KEYS ? x.kv : x.b) * own_tokens + first) * step + x.h * p.depth;
    const float scale[1][2] = {{p.scale, p.scale}}, one[1][2] = {{1, 1}};
    store_rows<DEPTH>(s.other[0][0][own0], d_x, scale, dc::ptr<T>(KEYS ? a.dk : a.dq) + at, step, own_tokens - first,
                      p.depth);
    if (KEYS)
        store_rows<DEPTH>(s.other[0][1][own0], d_v, one, dc::ptr<T>(a.dv) + at, step, own_tokens - first, p.depth);
}

}  // namespace

#define ANY(TYPE, T)                                                                                         \
    DC_KERNEL(attention_dkv_any_w128_##TYPE, AttentionBwd, 256, 1, sizeof(SharedBwd<64, 64>)) {              \
        attention_bwd_any<T, 64, 64, 128, true>(p);                                                          \
    }                                                                                                        \
    DC_KERNEL(attention_dq_any_w128_##TYPE, AttentionBwd, 256, 1, sizeof(SharedBwd<64, 64>)) {               \
        attention_bwd_any<T, 64, 64, 128, false>(p);                                                         \
    }
ANY(f32, float)
ANY(bf16, dc::bf16)
ANY(f16, dc::f16)
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

#define MMA(TYPE, T, DEPTH)                                                                                    \
    DC_KERNEL(attention_dkv_mma_d##DEPTH##_##TYPE, AttentionBwd, MMA_WARPS * 32, 2, sizeof(SharedMma<T>)) {    \
        attention_bwd_mma<T, DEPTH, true>(p);                                                                  \
    }                                                                                                          \
    DC_KERNEL(attention_dq_mma_d##DEPTH##_##TYPE, AttentionBwd, MMA_WARPS * 32, 3, sizeof(SharedMma<T>)) {     \
        attention_bwd_mma<T, DEPTH, false>(p);                                                                 \
    }
MMA(bf16, dc::bf16, 64)
MMA(bf16, dc::bf16, 72)
MMA(f16, dc::f16, 64)
MMA(f16, dc::f16, 72)
#undef MMA
