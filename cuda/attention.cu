// attention, forward: softmax(scale·QKᵀ + bias)·V with an online softmax in base 2 (Dao et al. 2022 and
// 2023), so that neither scores nor probabilities ever reach memory. A block owns a tile of queries of one
// head and walks over tiles of keys.
//
// `any`: FMA units, any depth, any layout whose depth is dense. Bound by f32 arithmetic (4·depth FLOPs a pair).
// 256 threads as 16×16; a thread owns BM/16 rows of scores and of the result, so that the statistics of a row
// live in 16 neighbouring lanes. Operands pass through shared memory in pieces of 64 columns, so depth is bound
// by accumulators alone: a block makes 128 columns of the result of 64 queries (`w128`), and wider heads are
// cut into slices whose blocks repeat the scores; f32 also has 512 columns of 32 queries (`w512`).
//
// `mma_d72`, `mma_d64`: tensor cores, m16n8k16 and for the last 8 of 72 m16n8k8, so that 72 costs 72. Bound by
// tensor-core and shared-memory rate alike: 4 warps own 32 queries each (128 a block), whose fragments stay
// in registers; a fragment of K or V from shared memory then feeds two products. Tiles of 64 keys arrive by
// cp.async in two stages, one barrier a tile. 36 KiB of shared memory (the queries pass through the second
// stage), two blocks an SM by registers. Whole tiles skip all masks.
//
// `mma_d512`: tensor cores for one wide head (the autoencoder's). The accumulators of 64 queries × 512 fill half
// the registers of an SM, so a block of 8 warps is alone on it: 4 warps of 16 queries, twice, each half with
// its half of the keys of a tile for the scores and its half of the columns for the result; probabilities and
// maxima change hands in shared memory. Shared-memory rate bounds it (a fragment of K feeds one product).
// K and V of a tile of 32 keys have a buffer each: V arrives while scores are made, the next K while the
// result is. 136 KiB of shared memory: A100 and H100, other cards take `any`.
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

    float out[M][DEPTH / 8][4] = {};
    RowStats<M> stats;
    for (int n0 = 0, stage = 0; n0 < end; n0 += BN, stage ^= 1) {
        dc::cp_async_wait<0>();
        __syncthreads();  // this tile is here, and nobody reads the other stage any more
        if (n0 + BN < end) copy_keys(stage ^ 1, n0 + BN);

        float dots[M][N][4] = {};
        add_dots<DEPTH>(dots, q, s.kv[stage][0][0], 0);
        float factor = p.scale_log2;
        if (bias || n0 + BN > x.keys || (p.causal && n0 + BN > m0 + 1)) {
            factor = 1;
            finish_scores<false>(dots, p, x, bias, m0 + own0, n0);
        }
        float shrink[M][2];
        online_softmax(dots, factor, stats, shrink);
        scale_rows(out, shrink);
        uint32_t weights[M][N / 2][4];
        DC_UNROLL
        for (int m = 0; m < M; ++m) {
            DC_UNROLL
            for (int j = 0; j < N / 2; ++j) as_operand<T>(weights[m][j], dots[m][2 * j], dots[m][2 * j + 1]);
        }
        add_mix<DEPTH>(out, weights, s.kv[stage][1][0], 0);
    }
    dc::cp_async_wait<0>();

    float factor[M][2];
    finish_rows(stats, dc::ptr<float>(a.lse) + int64_t(index) * p.queries, m0 + own0, p.queries, factor);
    __syncthreads();  // the tiles become room for results
    const int64_t step = int64_t(p.heads) * p.depth;
    const int first = m0 + own0;
    T* to = dc::ptr<T>(a.out) + (int64_t(x.b) * p.queries + first) * step + x.h * p.depth;
    store_rows<DEPTH>(s.kv[0][0][0] + own0 * PITCH, out, factor, to, step, p.queries - first, p.depth);
}

constexpr int WIDE_QUERIES = 64, WIDE_KEYS = 32, WIDE = 512, WIDE_THREADS = 256;
/// 65 units of 16 bytes and 5: odd, so that eight neighbouring rows lie in different banks.
constexpr int WIDE_PITCH = WIDE + 8, WEIGHTS_PITCH = WIDE_KEYS + 8;

template <class T>
struct SharedWide {
    T q[WIDE_QUERIES][WIDE_PITCH];  ///< later the results
    T k[WIDE_KEYS][WIDE_PITCH];
    T v[WIDE_KEYS][WIDE_PITCH];
    T weights[WIDE_QUERIES][WEIGHTS_PITCH];
    float stats[2][WIDE_QUERIES];  ///< of either half of the keys: the maximum, at the end the sum
};

/// Depths up to WIDE that are multiples of 8, rows of whole 16-byte units, scale > 0.
template <class T>
DC_FN void attention_fwd_wide(const AttentionFwd& a) {
    constexpr int BM = WIDE_QUERIES, BN = WIDE_KEYS;
    constexpr int S = BN / 16, COLUMNS = WIDE / 2, N = COLUMNS / 8;  // tiles of 8: keys and columns of a warp
    const AttentionProblem& p = a.problem;
    auto& s = dc::shared<SharedWide<T>>();
    const int tiles = dc::ceil_div(p.queries, BM);
    const int index = blockIdx.x / tiles, m0 = (blockIdx.x - index * tiles) * BM;
    const int own0 = dc::warp() % 4 * 16, side = dc::warp() / 4, g = dc::lane() / 4, t = dc::lane() % 4;
    const Head x = head_of(p, index);
    const float* bias = bias_start(p, x);
    const T* k = head_start<T>(p.k, x.kv, x.h);
    const T* v = head_start<T>(p.v, x.kv, x.h);
    const int end = p.causal ? dc::min(x.keys, m0 + BM) : x.keys;
    copy_tile<BM, WIDE, WIDE_THREADS, WIDE_PITCH>(s.q[0], head_start<T>(p.q, x.b, x.h), p.q.token_step, m0, p.queries,
                                                  p.depth);
    copy_tile<BN, WIDE, WIDE_THREADS, WIDE_PITCH>(s.k[0], k, p.k.token_step, 0, x.keys, p.depth);
    dc::cp_async_commit();

    const int row16 = dc::lane() & 15, column8 = (dc::lane() >> 4) * 8;  // what a lane points ldmatrix at
    const T* q_at = s.q[own0 + row16] + column8;
    const T* k_at = s.k[side * 8 * S + (dc::lane() & 7) + column8] + (dc::lane() >> 3 & 1) * 8;
    const T* v_at = s.v[row16] + side * COLUMNS + column8;
    const T* weights_at = s.weights[own0 + row16] + column8;
    static_assert(S == 2, "the two tiles of a warp's keys come with one ldmatrix");

    float out[N][4] = {}, most[2] = {NOTHING, NOTHING}, sum[2] = {};
    for (int n0 = 0; n0 < end; n0 += BN) {
        dc::cp_async_wait<0>();
        __syncthreads();  // k is here, and nobody reads v or the weights any more
        copy_tile<BN, WIDE, WIDE_THREADS, WIDE_PITCH>(s.v[0], v, p.v.token_step, n0, x.keys, p.depth);
        dc::cp_async_commit();
        float dots[1][S][4] = {};
        DC_ROLL
        for (int c0 = 0; c0 < WIDE; c0 += 64) {
            DC_UNROLL
            for (int c = c0; c < c0 + 64; c += 16) {
                uint32_t q[4], b[4];
                dc::ldmatrix<4, false>(q, q_at + c);
                dc::ldmatrix<4, false>(b, k_at + c);
                const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
                dc::mma_m16n8k16<T>(dots[0][0], q, first);
                dc::mma_m16n8k16<T>(dots[0][1], q, second);
            }
        }
        finish_scores<false>(dots, p, x, bias, m0 + own0, n0 + side * S * 8);
        DC_UNROLL
        for (int half = 0; half < 2; ++half) {
            const int row = own0 + 8 * half + g;
            float tile_most = NOTHING;
            DC_UNROLL
            for (int j = 0; j < S; ++j)
                tile_most = ::fmaxf(tile_most, ::fmaxf(dots[0][j][2 * half], dots[0][j][2 * half + 1]));
            tile_most = ::fmaxf(tile_most, dc::shuffle_xor(tile_most, 1));
            tile_most = ::fmaxf(tile_most, dc::shuffle_xor(tile_most, 2));
            if (t == 0) s.stats[side][row] = tile_most;
        }
        __syncthreads();  // the maxima are known, and nobody reads k any more
        if (n0 + BN < end)
            copy_tile<BN, WIDE, WIDE_THREADS, WIDE_PITCH>(s.k[0], k, p.k.token_step, n0 + BN, x.keys, p.depth);
        dc::cp_async_commit();
        DC_UNROLL
        for (int half = 0; half < 2; ++half) {
            const int row = own0 + 8 * half + g;
            const float new_most = dc::max(most[half], dc::max(s.stats[0][row], s.stats[1][row]));
            // A row that has seen nothing yet: any finite number keeps the weights 0.
            const float base = new_most == NOTHING ? 0.0f : new_most;
            const float shrink = dc::exp2(most[half] - base);
            most[half] = new_most;
            sum[half] *= shrink;
            DC_UNROLL
            for (int j = 0; j < N; ++j) {
                out[j][2 * half] *= shrink;
                out[j][2 * half + 1] *= shrink;
            }
            DC_UNROLL
            for (int j = 0; j < S; ++j) {
                const float w0 = dc::exp2(dots[0][j][2 * half] - base);
                const float w1 = dc::exp2(dots[0][j][2 * half + 1] - base);
                sum[half] += w0 + w1;
                put_pair(&s.weights[row][(side * S + j) * 8 + 2 * t], w0, w1);
            }
        }
        dc::cp_async_wait<1>();
        __syncthreads();  // v and the weights are here
        DC_UNROLL
        for (int c = 0; c < BN; c += 16) {
            uint32_t w[4];
            dc::ldmatrix<4, false>(w, weights_at + c);
            DC_UNROLL
            for (int j = 0; j < N; j += 2) {
                uint32_t b[4];
                dc::ldmatrix<4, true>(b, v_at + c * WIDE_PITCH + 8 * j);
                const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
                dc::mma_m16n8k16<T>(out[j], w, first);
                dc::mma_m16n8k16<T>(out[j + 1], w, second);
            }
        }
    }
    dc::cp_async_wait<0>();
    __syncthreads();  // nobody reads the queries or the maxima any more

    DC_UNROLL
    for (int half = 0; half < 2; ++half) {
        sum[half] += dc::shuffle_xor(sum[half], 1);
        sum[half] += dc::shuffle_xor(sum[half], 2);
        if (t == 0) s.stats[side][own0 + 8 * half + g] = sum[half];
    }
    __syncthreads();
    DC_UNROLL
    for (int half = 0; half < 2; ++half) {
        const int row = own0 + 8 * half + g;
        const bool none = most[half] == NOTHING;
        const float total = s.stats[0][row] + s.stats[1][row], scale = none ? 0.0f : 1.0f / total;
        if (side == 0 && t == 0 && m0 + row < p.queries)
            dc::ptr<float>(a.lse)[int64_t(index) * p.queries + m0 + row] =
                none ? 0.0f : (most[half] + ::log2f(total)) * LN2;
        DC_UNROLL
        for (int j = 0; j < N; ++j)
            put_pair(&s.q[row][side * COLUMNS + 8 * j + 2 * t], out[j][2 * half] * scale,
                     out[j][2 * half + 1] * scale);
    }
    dc::sync_warp();
    // The lanes of a warp write one row's half after another.
    const int c = side * COLUMNS + dc::lane() * 8;
    T* to = dc::ptr<T>(a.out) + (int64_t(x.b) * p.queries + m0) * p.heads * p.depth + x.h * p.depth + c;
    for (int row = own0; row < own0 + 16 && m0 + row < p.queries; ++row)
        if (c < p.depth) dc::store(to + int64_t(row) * p.heads * p.depth, dc::load<8>(&s.q[row][c]));
}

}  // namespace

#define ANY(TYPE, T, BM, BN, WIDTH, BLOCKS)                                                                   \
    DC_KERNEL(attention_fwd_any_w##WIDTH##_##TYPE, AttentionFwd, 256, BLOCKS, sizeof(SharedFwd<BM, BN>)) {    \
        attention_fwd_any<T, BM, BN, WIDTH>(p);                                                               \
    }
ANY(f32, float, 64, 64, 128, 1)
ANY(f32, float, 32, 32, 512, 1)
ANY(bf16, dc::bf16, 64, 64, 128, 1)
ANY(f16, dc::f16, 64, 64, 128, 1)
#undef ANY

#define MMA(TYPE, T, DEPTH)                                                                                    \
    DC_KERNEL(attention_fwd_mma_d##DEPTH##_##TYPE, AttentionFwd, MMA_WARPS * 32, 2, sizeof(SharedMma<T>)) {    \
        attention_fwd_mma<T, DEPTH>(p);                                                                        \
    }
MMA(bf16, dc::bf16, 64)
MMA(bf16, dc::bf16, 72)
MMA(f16, dc::f16, 64)
MMA(f16, dc::f16, 72)
#undef MMA

DC_KERNEL(attention_fwd_mma_d512_bf16, AttentionFwd, WIDE_THREADS, 1, sizeof(SharedWide<dc::bf16>)) {
    attention_fwd_wide<dc::bf16>(p);
}
DC_KERNEL(attention_fwd_mma_d512_f16, AttentionFwd, WIDE_THREADS, 1, sizeof(SharedWide<dc::f16>)) {
    attention_fwd_wide<dc::f16>(p);
}
