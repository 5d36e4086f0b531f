// attention, forward: softmax(scale·QKᵀ + bias)·V with an online softmax in base 2 (Dao et al. 2022 and
// 2023), so that neither scores nor probabilities ever reach memory. A block owns a tile of queries of one
// head and walks over tiles of keys.
//
// `any`: FMA units, any depth up to 512, any layout whose depth is dense. Bound by f32 arithmetic (4·depth
// FLOPs a pair). 256 threads as 16×16; a thread owns BM/16 rows of scores and of the result, so that the
// statistics of a row live in 16 neighbouring lanes. K and V pass through one buffer in pieces of 64
// columns: two blocks an SM up to depth 128, one above, on cards with 100 KiB of shared memory too.
//
// `d72`, `d64`: tensor cores, m16n8k16 and for the last 8 of 72 m16n8k8, so that 72 costs 72. Bound by
// tensor-core and shared-memory rate alike: 4 warps own 32 queries each (128 a block), whose fragments stay
// in registers; a fragment of K or V from shared memory then feeds two products. Tiles of 64 keys arrive by
// cp.async in two stages, one barrier a tile. 36 KiB of shared memory (the queries pass through the second
// stage), two blocks an SM by registers. Whole tiles skip all masks.
#include "include/attention_any.cuh"
#include "include/attention_mma.cuh"

namespace {

using namespace dc::attention;

template <int BM, int BN>
struct SharedFwd : SharedPieces<BM, BN> {
    float weights[BM][BN + 4];
};

/// blockIdx.y: which WIDTH columns of the result this block makes.
template <class T, int BM, int BN, int WIDTH>
DC_FN void attention_fwd_any(const AttentionFwd& a) {
    constexpr int RM = BM / SIDE, RN = BN / SIDE, GROUPS = WIDTH / GROUP;
    const AttentionProblem& p = a.problem;
    auto& s = dc::shared<SharedFwd<BM, BN>>();
    const int tiles = dc::ceil_div(p.queries, BM);
    const int index = blockIdx.x / tiles, m0 = (blockIdx.x - index * tiles) * BM;
    const int first = blockIdx.y * WIDTH;
    const Head x = head_of(p, index);
    const float* bias = bias_start(p, x);
    const Side<T> q{head_start<T>(p.q, x.b, x.h), p.q.token_step, p.queries};
    const Side<T> k{head_start<T>(p.k, x.kv, x.h), p.k.token_step, x.keys};
    const Side<T> v{head_start<T>(p.v, x.kv, x.h), p.v.token_step, x.keys};
    const int end = p.causal ? dc::min(x.keys, m0 + BM) : x.keys;
    const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;

    float out[RM][GROUPS][2] = {}, most[RM], sum[RM] = {};
    DC_UNROLL
    for (int i = 0; i < RM; ++i) most[i] = NOTHING;
    for (int n0 = 0; n0 < end; n0 += BN) {
        float dots[RM][RN] = {};
        all_dots<BM, BN>(dots, s, q, m0, k, n0, p.depth);
        DC_UNROLL
        for (int i = 0; i < RM; ++i) {
            const int row = ty + SIDE * i;
            float new_most = most[i];
            DC_UNROLL
            for (int j = 0; j < RN; ++j) {
                dots[i][j] = score(p, x, bias, dots[i][j], m0 + row, n0 + tx + SIDE * j);
                new_most = dc::max(new_most, dots[i][j]);
            }
            DC_UNROLL
            for (int lane = SIDE / 2; lane > 0; lane /= 2)
                new_most = dc::max(new_most, dc::shuffle_xor(new_most, lane));
            // A row that has seen nothing yet: any finite number keeps the weights 0.
            const float base = new_most == NOTHING ? 0.0f : new_most;
            const float shrink = dc::exp2(most[i] - base);
            most[i] = new_most;
            float part = 0;
            DC_UNROLL
            for (int j = 0; j < RN; ++j) {
                const float w = dc::exp2(dots[i][j] - base);
                part += w;
                s.weights[row][tx + SIDE * j] = w;
            }
            sum[i] = sum[i] * shrink + part;
            DC_UNROLL
            for (int g = 0; g < GROUPS; ++g) {
                out[i][g][0] *= shrink;
                out[i][g][1] *= shrink;
            }
        }
        all_mix<BM, BN>(out, s, s.weights[0], v, n0, first, p.depth);
    }
    float* lse = dc::ptr<float>(a.lse) + int64_t(index) * p.queries;
    DC_UNROLL
    for (int i = 0; i < RM; ++i) {
        DC_UNROLL
        for (int lane = SIDE / 2; lane > 0; lane /= 2) sum[i] += dc::shuffle_xor(sum[i], lane);
        const int row = m0 + ty + SIDE * i;
        const bool none = most[i] == NOTHING;
        const float scale = none ? 0.0f : 1.0f / sum[i];
        if (row < p.queries) {
            T* to = dc::ptr<T>(a.out) + ((int64_t(x.b) * p.queries + row) * p.heads + x.h) * p.depth;
            store_row(to, out[i], scale, first, p.depth);
            if (tx == 0 && first == 0) lse[row] = none ? 0.0f : (most[i] + ::log2f(sum[i])) * LN2;
        }
    }
}

constexpr int MMA_WARPS = 4, MMA_M = 2, MMA_KEYS = 64;
constexpr int MMA_QUERIES = MMA_WARPS * MMA_M * 16;

template <class T>
struct SharedMma {
    T kv[2][2][MMA_KEYS][PITCH];  ///< stage, k or v
};

/// Depths up to DEPTH that are multiples of 8, rows of whole 16-byte units, scale > 0.
template <class T, int DEPTH>
DC_FN void attention_fwd_mma(const AttentionFwd& a) {
    constexpr int M = MMA_M, BM = MMA_QUERIES, BN = MMA_KEYS, N = BN / 8, THREADS = MMA_WARPS * 32;
    static_assert(BM == 2 * BN, "the queries fill one stage");
    const AttentionProblem& p = a.problem;
    auto& s = dc::shared<SharedMma<T>>();
    const int tiles = dc::ceil_div(p.queries, BM);
    const int index = blockIdx.x / tiles;
    int tile = blockIdx.x - index * tiles;
    if (p.causal) tile = tiles - 1 - tile;  // the longest first
    const int m0 = tile * BM, own0 = dc::warp() * M * 16;
    const Head x = head_of(p, index);
    const float* bias = bias_start(p, x);
    const T* k = head_start<T>(p.k, x.kv, x.h);
    const T* v = head_start<T>(p.v, x.kv, x.h);
    const int end = p.causal ? dc::min(x.keys, m0 + BM) : x.keys;
    auto copy_keys = [&](int stage, int n0) {
        copy_tile<BN, DEPTH, THREADS>(s.kv[stage][0][0], k, p.k.token_step, n0, x.keys, p.depth);
        copy_tile<BN, DEPTH, THREADS>(s.kv[stage][1][0], v, p.v.token_step, n0, x.keys, p.depth);
        dc::cp_async_commit();
    };

    T* q_tile = s.kv[1][0][0];
    copy_tile<BM, DEPTH, THREADS>(q_tile, head_start<T>(p.q, x.b, x.h), p.q.token_step, m0, p.queries, p.depth);
    dc::cp_async_commit();
    copy_keys(0, 0);
    dc::cp_async_wait<1>();
    __syncthreads();
    Rows<DEPTH> q[M];
    DC_UNROLL
    for (int m = 0; m < M; ++m) load_rows(q[m], q_tile, own0 + 16 * m);

    float out[M][DEPTH / 8][4] = {}, most[M][2], sum[M][2] = {};
    DC_UNROLL
    for (int m = 0; m < M; ++m) most[m][0] = most[m][1] = NOTHING;
    for (int n0 = 0, stage = 0; n0 < end; n0 += BN, stage ^= 1) {
        dc::cp_async_wait<0>();
        __syncthreads();  // this tile is here, and nobody reads the other stage any more
        if (n0 + BN < end) copy_keys(stage ^ 1, n0 + BN);

        float dots[M][N][4] = {};
        add_dots<DEPTH>(dots, q, s.kv[stage][0][0], 0);
        float factor = p.scale_log2;
        if (bias || n0 + BN > x.keys || (p.causal && n0 + BN > m0 + 1)) {
            factor = 1;
            DC_UNROLL
            for (int m = 0; m < M; ++m) {
                DC_UNROLL
                for (int j = 0; j < N; ++j) {
                    DC_UNROLL
                    for (int e = 0; e < 4; ++e) {
                        const int row = m0 + own0 + 16 * m + 8 * (e / 2) + dc::lane() / 4;
                        const int col = n0 + 8 * j + dc::lane() % 4 * 2 + e % 2;
                        dots[m][j][e] = score(p, x, bias, dots[m][j][e], row, col);
                    }
                }
            }
        }
        uint32_t weights[M][N / 2][4];
        DC_UNROLL
        for (int m = 0; m < M; ++m) {
            DC_UNROLL
            for (int half = 0; half < 2; ++half) {
                float tile_most = NOTHING;
                DC_UNROLL
                for (int j = 0; j < N; ++j)
                    tile_most = dc::max(tile_most, dc::max(dots[m][j][2 * half], dots[m][j][2 * half + 1]));
                tile_most = dc::max(tile_most, dc::shuffle_xor(tile_most, 1));
                tile_most = dc::max(tile_most, dc::shuffle_xor(tile_most, 2));
                const float new_most = dc::max(most[m][half], tile_most * factor);
                // A row that has seen nothing yet: any finite number keeps the weights 0.
                const float base = new_most == NOTHING ? 0.0f : new_most;
                const float shrink = dc::exp2(most[m][half] - base);
                most[m][half] = new_most;
                sum[m][half] *= shrink;
                DC_UNROLL
                for (int j = 0; j < DEPTH / 8; ++j) {
                    out[m][j][2 * half] *= shrink;
                    out[m][j][2 * half + 1] *= shrink;
                }
                DC_UNROLL
                for (int j = 0; j < N; ++j) {
                    DC_UNROLL
                    for (int e = 2 * half; e < 2 * half + 2; ++e) {
                        dots[m][j][e] = dc::exp2(dots[m][j][e] * factor - base);
                        sum[m][half] += dots[m][j][e];
                    }
                }
            }
            DC_UNROLL
            for (int j = 0; j < N / 2; ++j) as_operand<T>(weights[m][j], dots[m][2 * j], dots[m][2 * j + 1]);
        }
        add_mix<DEPTH>(out, weights, s.kv[stage][1][0], 0);
    }
    dc::cp_async_wait<0>();

    float* lse = dc::ptr<float>(a.lse) + int64_t(index) * p.queries;
    DC_UNROLL
    for (int m = 0; m < M; ++m) {
        DC_UNROLL
        for (int half = 0; half < 2; ++half) {
            float& total = sum[m][half];
            total += dc::shuffle_xor(total, 1);
            total += dc::shuffle_xor(total, 2);
            const int row = m0 + own0 + 16 * m + 8 * half + dc::lane() / 4;
            const bool none = most[m][half] == NOTHING;
            if (row < p.queries && dc::lane() % 4 == 0)
                lse[row] = none ? 0.0f : (most[m][half] + ::log2f(total)) * LN2;
            total = none ? 0.0f : 1.0f / total;
        }
    }
    __syncthreads();  // the tiles become room for results
    const int64_t step = int64_t(p.heads) * p.depth;
    const int first = m0 + own0;
    T* to = dc::ptr<T>(a.out) + (int64_t(x.b) * p.queries + first) * step + x.h * p.depth;
    store_rows<DEPTH>(s.kv[0][0][0] + own0 * PITCH, out, sum, to, step, p.queries - first, p.depth);
}

}  // namespace

#define ANY(TYPE, T, BM, BN, WIDTH, BLOCKS)                                                                   \
    DC_KERNEL(attention_fwd_any_w##WIDTH##_##TYPE, AttentionFwd, 256, BLOCKS, sizeof(SharedFwd<BM, BN>)) {    \
        attention_fwd_any<T, BM, BN, WIDTH>(p);                                                               \
    }
ANY(f32, float, 64, 64, 128, 2)
ANY(f32, float, 32, 32, 512, 2)
ANY(bf16, dc::bf16, 64, 64, 128, 2)
ANY(f16, dc::f16, 64, 64, 128, 2)
#undef ANY

#define MMA(TYPE, T, DEPTH)                                                                          \
    DC_KERNEL(attention_fwd_mma_d##DEPTH##_##TYPE, AttentionFwd, MMA_WARPS * 32, 2, sizeof(SharedMma<T>)) { \
        attention_fwd_mma<T, DEPTH>(p);                                                              \
    }
MMA(bf16, dc::bf16, 64)
MMA(bf16, dc::bf16, 72)
MMA(f16, dc::f16, 64)
MMA(f16, dc::f16, 72)
#undef MMA
