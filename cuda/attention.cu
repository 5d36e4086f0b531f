// attention, forward: softmax(scale·QKᵀ + bias)·V with an online softmax in base 2 (Dao et al. 2022 and
// 2023), so that neither scores nor probabilities ever reach memory. A block owns a tile of queries of one
// head and walks over tiles of keys.
//
// `any`: FMA units, any depth up to 512, any layout whose depth is dense. Bound by f32 arithmetic (4·depth
// FLOPs a pair). 256 threads as 16×16; a thread owns BM/16 rows of scores and of the result, so that the
// statistics of a row live in 16 neighbouring lanes. K and V pass through one buffer in pieces of 64
// columns: two blocks an SM up to depth 128, one above, on cards with 100 KiB of shared memory too.
#include "include/attention_any.cuh"

namespace {

using namespace dc::attention;

template <int BM, int BN, int DEPTH>
struct SharedFwd {
    float q[BM][DEPTH + 4];
    float kv[BN][PIECE + 4];
    float weights[BM][BN + 4];
};

template <class T, int BM, int BN, int DEPTH>
DC_FN void attention_fwd_any(const AttentionFwd& a) {
    constexpr int RM = BM / SIDE, RN = BN / SIDE, GROUPS = DEPTH / GROUP;
    const AttentionProblem& p = a.problem;
    auto& s = dc::shared<SharedFwd<BM, BN, DEPTH>>();
    const int tiles = dc::ceil_div(p.queries, BM);
    const int index = blockIdx.x / tiles, m0 = (blockIdx.x - index * tiles) * BM;
    const Head x = head_of(p, index);
    const float* bias = bias_start(p, x);
    const T* q = head_start<T>(p.q, x.b, x.h);
    const T* k = head_start<T>(p.k, x.kv, x.h);
    const T* v = head_start<T>(p.v, x.kv, x.h);
    const int end = p.causal ? dc::min(x.keys, m0 + BM) : x.keys;
    const int ty = threadIdx.x / SIDE, tx = threadIdx.x % SIDE;

    for (int c = 0; c < p.depth; c += PIECE)
        load_piece<BM>(&s.q[0][c], DEPTH + 4, q, p.q.token_step, m0, p.queries, c, p.depth);
    float out[RM][GROUPS][2] = {}, most[RM], sum[RM] = {};
    DC_UNROLL
    for (int i = 0; i < RM; ++i) most[i] = NOTHING;
    for (int n0 = 0; n0 < end; n0 += BN) {
        float dots[RM][RN] = {};
        for (int c = 0; c < p.depth; c += PIECE) {
            __syncthreads();
            load_piece<BN>(s.kv[0], PIECE + 4, k, p.k.token_step, n0, x.keys, c, p.depth);
            __syncthreads();
            add_dots<RM, RN>(dots, &s.q[0][c], DEPTH + 4, s.kv[0], PIECE + 4, dc::min(PIECE, p.depth - c));
        }
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
        DC_UNROLL
        for (int c = 0; c < DEPTH; c += PIECE) {
            if (c >= p.depth) break;
            __syncthreads();
            load_piece<BN>(s.kv[0], PIECE + 4, v, p.v.token_step, n0, x.keys, c, p.depth);
            __syncthreads();
            add_mix<RM, BN, GROUPS>(out, c / GROUP, s.weights[0], BN + 4, s.kv[0], p.depth);
        }
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
            store_row<T, GROUPS>(to, out[i], scale, p.depth);
            if (tx == 0) lse[row] = none ? 0.0f : (most[i] + ::log2f(sum[i])) * LN2;
        }
    }
}

}  // namespace

#define ANY(NAME, T, BM, BN, DEPTH, BLOCKS)                                                          \
    DC_KERNEL(NAME, AttentionFwd, 256, BLOCKS, sizeof(SharedFwd<BM, BN, DEPTH>)) {                    \
        attention_fwd_any<T, BM, BN, DEPTH>(p);                                                     \
    }
ANY(attention_fwd_any_d128_f32, float, 64, 64, 128, 2)
ANY(attention_fwd_any_d512_f32, float, 32, 32, 512, 1)
ANY(attention_fwd_any_d512_bf16, dc::bf16, 32, 32, 512, 1)
ANY(attention_fwd_any_d512_f16, dc::f16, 32, 32, 512, 1)
#undef ANY
