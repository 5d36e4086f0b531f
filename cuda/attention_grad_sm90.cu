// attention, backward, for sm_90a: `dkv` and `dq` of attention_grad.cu, whose `delta` and `dbias` serve here too, by
// tensor copies and warpgroup products. Never run on hardware: what is known of it comes from the simulator and
// from ptxas.
//
// As there, each block is the only writer of its results. It owns 128 keys (results dK and dV) or 128 queries
// (dQ), and the others pass in tiles: of 64 queries, since two results fill the accumulators, or of 128 keys. Three
// warpgroups:
// * Group 0 feeds. One thread of its first warp starts the tensor copies (TMA) of a tile and what goes with it, q
//   and d_out or k and v, into three slots. The second warp brings the queries' statistics, or blanks keys beyond
//   the length of an entry: their gradients of scores are 0, but 0 times what lies there may be NaN.
// * Groups 1 and 2 multiply (wgmma), 64 own rows each. Scores and dP of a tile are started together, and the
//   exponentials are made while dP is; what the tile adds to the results is made while the next one starts.
// One tile in shared memory serves the products along depth and those along tokens: attention_sm90.cuh. One block
// an SM; at depth 72 214 KiB of shared memory for `dq`, 140 KiB for `dkv`.
#include "include/attention_sm90.cuh"

namespace {

using namespace dc::attention;

constexpr int SLOTS = 3;

/// Rows of a tile of the others.
template <bool KEYS>
constexpr int OTHERS = KEYS ? 64 : 128;

template <class T, int DEPTH, bool KEYS>
struct SharedBwd {
    Tile<T, DEPTH, OWN_ROWS> own, own_d;                         ///< k and v, or q and d_out
    Tile<T, DEPTH, OTHERS<KEYS>> other[SLOTS], other_d[SLOTS];   ///< q and d_out, or k and v
    float stats[SLOTS][2][OTHERS<KEYS>];  ///< lse · log2(e) and delta of the others, where they are queries
    T out[CONSUMER_WARPS][16 * PITCH];    ///< results on their way
    dc::Barrier own_full, own_empty;
    dc::Barrier full[SLOTS], empty[SLOTS];
    dc::Barrier landed[SLOTS];            ///< in place of `full`, if rows must be blanked first
};

/// 128 rows of a head, and the others that they can pair with.
template <bool KEYS>
struct Work {
    Head x;
    int index, m0, begin, tiles;
    DC_FN Work(const AttentionProblem& p, int index, int tile, int own_tiles) : x(head_of(p, index)), index(index) {
        if (p.causal && !KEYS) tile = own_tiles - 1 - tile;  // the longest first
        m0 = tile * OWN_ROWS;
        begin = KEYS && p.causal ? m0 : 0;
        int end = KEYS ? p.queries : x.keys;
        if (KEYS && m0 >= x.keys) end = begin;
        if (!KEYS && p.causal) end = dc::min(end, m0 + OWN_ROWS);
        tiles = end > begin ? dc::ceil_div(end - begin, OTHERS<KEYS>) : 0;
    }
    /// Whether the tile from n0 on has keys that the entry does not have but their tensor does.
    DC_FN bool ragged(const AttentionProblem& p, int n0) const {
        return !KEYS && x.keys < p.keys && n0 + OTHERS<KEYS> > x.keys;
    }
};

template <bool KEYS, class F>
DC_FN void each_work(const AttentionProblem& p, F f) {
    const int own_tiles = dc::ceil_div(KEYS ? p.keys : p.queries, OWN_ROWS);
    each_tile(p, own_tiles, [&](int index, int tile) { f(Work<KEYS>(p, index, tile, own_tiles)); });
}

/// One thread: starts all copies.
template <class T, int DEPTH, bool KEYS>
DC_FN void produce(const AttentionBwdSm90& a, SharedBwd<T, DEPTH, KEYS>& s) {
    const AttentionProblem& p = a.backward.problem;
    const TensorMap *own = KEYS ? &a.k : &a.q, *own_d = KEYS ? &a.v : &a.d_out;
    const TensorMap *other = KEYS ? &a.q : &a.k, *other_d = KEYS ? &a.d_out : &a.v;
    dc::prefetch_tensor_map(own);
    dc::prefetch_tensor_map(own_d);
    dc::prefetch_tensor_map(other);
    dc::prefetch_tensor_map(other_d);
    unsigned parity = 0;
    Place<SLOTS> at;
    each_work<KEYS>(p, [&](const Work<KEYS>& w) {
        const int own_entry = KEYS ? w.x.kv : w.x.b, other_entry = KEYS ? w.x.b : w.x.kv;
        s.own_empty.wait(parity ^ 1);
        parity ^= 1;
        s.own_full.arrive_expect(sizeof s.own + sizeof s.own_d);
        s.own.load(own, s.own_full, w.m0, w.x.h, own_entry);
        s.own_d.load(own_d, s.own_full, w.m0, w.x.h, own_entry);
        DC_ROLL
        for (int tile = 0; tile < w.tiles; ++tile, at.next()) {
            const int n0 = w.begin + tile * OTHERS<KEYS>, i = at.slot;
            s.empty[i].wait(at.parity ^ 1);
            dc::Barrier& landed = w.ragged(p, n0) ? s.landed[i] : s.full[i];
            landed.arrive_expect(sizeof s.other[0] + sizeof s.other_d[0]);
            s.other[i].load(other, landed, n0, w.x.h, other_entry);
            s.other_d[i].load(other_d, landed, n0, w.x.h, other_entry);
        }
    });
}

/// One warp: lse and delta of the queries that pass. Beyond the last are zeros; there the rows of q and d_out are
/// zeros too and add nothing.
template <class T, int DEPTH>
DC_FN void bring_statistics(const AttentionBwdSm90& a, SharedBwd<T, DEPTH, true>& s) {
    const AttentionProblem& p = a.backward.problem;
    Place<SLOTS> at;
    each_work<true>(p, [&](const Work<true>& w) {
        const float* lse = dc::ptr<const float>(a.backward.lse) + int64_t(w.index) * p.queries;
        const float* delta = dc::ptr<const float>(a.backward.delta) + int64_t(w.index) * p.queries;
        DC_ROLL
        for (int tile = 0; tile < w.tiles; ++tile, at.next()) {
            const int n0 = w.begin + tile * OTHERS<true>, i = at.slot;
            s.empty[i].wait(at.parity ^ 1);
            DC_UNROLL
            for (int r = dc::lane(); r < OTHERS<true>; r += dc::WARP) {
                const bool there = n0 + r < p.queries;
                s.stats[i][0][r] = there ? lse[n0 + r] * dc::LOG2E : 0.0f;
                s.stats[i][1][r] = there ? delta[n0 + r] : 0.0f;
            }
            dc::sync_warp();
            if (dc::lane() == 0) s.full[i].arrive();
        }
    });
}

/// One warp: zeros in place of keys beyond the length of an entry.
template <class T, int DEPTH>
DC_FN void blank(const AttentionBwdSm90& a, SharedBwd<T, DEPTH, false>& s) {
    const AttentionProblem& p = a.backward.problem;
    Place<SLOTS> at;
    unsigned parity = 0;  // a bit a slot: of `landed`, whose phases are those of ragged tiles only
    each_work<false>(p, [&](const Work<false>& w) {
        DC_ROLL
        for (int tile = 0; tile < w.tiles; ++tile, at.next()) {
            const int n0 = tile * OTHERS<false>, i = at.slot;
            if (!w.ragged(p, n0)) continue;
            s.landed[i].wait(parity >> i & 1);
            parity ^= 1u << i;
            s.other[i].blank(w.x.keys - n0);
            dc::fence_async_shared();
            dc::sync_warp();
            if (dc::lane() == 0) s.full[i].arrive();
        }
    });
}

/// A warpgroup: 64 own rows of each tile.
template <class T, int DEPTH, bool KEYS>
DC_FN void consume(const AttentionBwdSm90& a, SharedBwd<T, DEPTH, KEYS>& s, int group) {
    constexpr int N = OTHERS<KEYS> / 8;
    const AttentionProblem& p = a.backward.problem;
    const int group0 = group * GROUP_ROWS, warp = dc::warp() % (GROUP / 32), own0 = group0 + 16 * warp;
    const int g = dc::lane() / 4, t = dc::lane() % 4;
    unsigned parity = 0;
    Place<SLOTS> at;
    each_work<KEYS>(p, [&](const Work<KEYS>& w) {
        const float* bias = bias_start(p, w.x);
        float own_lse[2] = {}, own_delta[2] = {};
        if (!KEYS) {
            DC_UNROLL
            for (int half = 0; half < 2; ++half) {
                const int row = w.m0 + own0 + 8 * half + g;
                const int64_t i = int64_t(w.index) * p.queries + row;
                if (row < p.queries) {
                    own_lse[half] = dc::ptr<const float>(a.backward.lse)[i] * dc::LOG2E;
                    own_delta[half] = dc::ptr<const float>(a.backward.delta)[i];
                }
            }
        }
        float d_x[1][DEPTH / 8][4] = {}, d_v[1][DEPTH / 8][4] = {};
        s.own_full.wait(parity);
        parity ^= 1;
        if (w.tiles > 0) s.full[at.slot].wait(at.parity);
        DC_ROLL
        for (int tile = 0; tile < w.tiles; ++tile) {
            const int n0 = w.begin + tile * OTHERS<KEYS>, i = at.slot;
            float dots[1][N][4], d_weights[1][N][4];
            uint32_t weights[N / 2][4], d_scores[N / 2][4];
            start_dots(dots, s.own, group0, s.other[i]);
            start_dots(d_weights, s.own_d, group0, s.other_d[i]);
            dc::wgmma_wait<1>(flat(dots), flat(d_x), flat(d_v));  // the scores, and what the tile before adds
            if (tile > 0) release(s.empty[i == 0 ? SLOTS - 1 : i - 1]);
            at.next();

            const bool whole = !bias && (KEYS ? w.m0 + OWN_ROWS : n0 + OTHERS<KEYS>) <= w.x.keys &&
                               (!p.causal || (KEYS ? w.m0 + group0 + GROUP_ROWS <= n0 + 1
                                                   : n0 + OTHERS<KEYS> <= w.m0 + group0 + 1));
            float factor = p.scale_log2;
            if (!whole) {
                factor = 1;
                finish_scores<KEYS>(dots, p, w.x, bias, w.m0 + own0, n0);
            }
            DC_UNROLL
            for (int j = 0; j < N; ++j) {
                DC_UNROLL
                for (int e = 0; e < 4; ++e) {
                    const float lse = KEYS ? s.stats[i][0][8 * j + 2 * t + e % 2] : own_lse[e / 2];
                    dots[0][j][e] = dc::exp2(dots[0][j][e] * factor - lse);
                }
            }
            // As in attention_sm90.cu: the wait for the next tile keeps the wait for dP behind the exponentials.
            dc::wgmma_pin(flat(dots));
            if (tile + 1 < w.tiles) s.full[at.slot].wait(at.parity);
            dc::wgmma_wait<0>(flat(d_weights));
            if (!whole) {
                // A pair that is not seen has no gradient, whatever its dP is made of.
                DC_UNROLL
                for (int j = 0; j < N; ++j) {
                    DC_UNROLL
                    for (int e = 0; e < 4; ++e)
                        if (dots[0][j][e] == 0) d_weights[0][j][e] = 0;
                }
            }
            DC_UNROLL
            for (int j = 0; j < N; ++j) {
                DC_UNROLL
                for (int e = 0; e < 4; ++e) {
                    const float delta = KEYS ? s.stats[i][1][8 * j + 2 * t + e % 2] : own_delta[e / 2];
                    d_weights[0][j][e] = dots[0][j][e] * (d_weights[0][j][e] - delta);
                }
            }
            // All left operands before the first product: ptxas puts a wait behind each product otherwise.
            if (KEYS) pack<T>(weights, dots);
            pack<T>(d_scores, d_weights);
            if constexpr (KEYS) start_mix(d_v, weights, s.other_d[i]);
            start_mix(d_x, d_scores, s.other[i]);
        }
        dc::wgmma_wait<0>(flat(d_x), flat(d_v));
        if (w.tiles > 0) release(s.empty[at.slot == 0 ? SLOTS - 1 : at.slot - 1]);
        release(s.own_empty);

        const int own_tokens = KEYS ? p.keys : p.queries, first = w.m0 + own0;
        const int64_t step = int64_t(p.heads) * p.depth;
        const int64_t to = (int64_t(KEYS ? w.x.kv : w.x.b) * own_tokens + first) * step + w.x.h * p.depth;
        const float scale[1][2] = {{p.scale, p.scale}}, one[1][2] = {{1, 1}};
        T* room = s.out[group * (GROUP / 32) + warp];
        store_rows<DEPTH>(room, d_x, scale, dc::ptr<T>(KEYS ? a.backward.dk : a.backward.dq) + to, step,
                          own_tokens - first, p.depth);
        dc::sync_warp();  // before the next results take their place
        if constexpr (KEYS) {
            store_rows<DEPTH>(room, d_v, one, dc::ptr<T>(a.backward.dv) + to, step, own_tokens - first, p.depth);
            dc::sync_warp();
        }
    });
}

/// Depths, rows and grid as attention_fwd_sm90.
template <class T, int DEPTH, bool KEYS>
DC_FN void attention_bwd_sm90(const AttentionBwdSm90& a) {
    auto& s = dc::shared<SharedBwd<T, DEPTH, KEYS>>();
    if (threadIdx.x == 0) {
        s.own_full.init(1);
        s.own_empty.init(CONSUMER_WARPS);
        DC_UNROLL
        for (int i = 0; i < SLOTS; ++i) {
            s.full[i].init(KEYS ? 2 : 1);  // the statistics arrive beside the copies
            s.empty[i].init(CONSUMER_WARPS);
            s.landed[i].init(1);
        }
        dc::fence_barrier_init();
    }
    __syncthreads();
    const int group = threadIdx.x / GROUP;
    if (group == 0) {
        dc::decrease_registers<40>();
        if (dc::warp() == 0) {
            if (dc::elect_one()) produce<T, DEPTH, KEYS>(a, s);
        } else if (dc::warp() == 1) {
            if constexpr (KEYS)
                bring_statistics<T, DEPTH>(a, s);
            else if (a.backward.problem.key_lengths)
                blank<T, DEPTH>(a, s);
        }
    } else {
        dc::increase_registers<232>();
        consume<T, DEPTH, KEYS>(a, s, group - 1);
    }
}

}  // namespace

#define BWD(TYPE, T, DEPTH)                                                                          \
    DC_KERNEL(attention_dkv_d##DEPTH##_##TYPE##_sm90, AttentionBwdSm90, SM90_THREADS, 1,             \
              sizeof(SharedBwd<T, DEPTH, true>)) {                                                   \
        attention_bwd_sm90<T, DEPTH, true>(p);                                                       \
    }                                                                                                \
    DC_KERNEL(attention_dq_d##DEPTH##_##TYPE##_sm90, AttentionBwdSm90, SM90_THREADS, 1,              \
              sizeof(SharedBwd<T, DEPTH, false>)) {                                                  \
        attention_bwd_sm90<T, DEPTH, false>(p);                                                      \
    }
BWD(bf16, dc::bf16, 64)
BWD(bf16, dc::bf16, 72)
BWD(f16, dc::f16, 64)
BWD(f16, dc::f16, 72)
#undef BWD
