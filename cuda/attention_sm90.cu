// attention, forward, for sm_90a: the algorithm of attention.cu as FlashAttention-3 schedules it (Shah et al. 2024,
// arXiv 2407.08608). Never run on hardware: what is known of it comes from the simulator and from ptxas.
//
// A block takes one tile of 128 queries of a head after another. Three warpgroups:
// * Group 0 feeds. One thread of its first warp starts tensor copies (TMA) of queries (two slots) and of keys and
//   values in tiles of 128 (three slots each), as far ahead as slots are free. The second warp blanks values
//   beyond the length of an entry: their weights are 0, but 0 times what lies there may be NaN.
// * Groups 1 and 2 multiply (wgmma): 64 queries each, keys and values shared. Within a group the product of the
//   last tile's weights and values runs while the softmax of this tile is made; between groups, named barriers
//   let one issue its products while the other makes its softmax.
// Scores (64 a thread), the result (36 or 32) and the packed weights (32) stay in registers; the feeding group
// gives up the registers that the others need. One block an SM, by registers and by shared memory (211 KiB at
// depth 72). Bound by tensor cores and exponentials alike: at depth 72 a tile of 128×128 keeps the tensor cores
// busy for 1216 cycles and the exponential units for 1024.
#include "include/attention_sm90.cuh"

namespace {

using namespace dc::attention;

constexpr int KEYS = 128, QUERY_SLOTS = 2, KEY_SLOTS = 3;

template <class T, int DEPTH>
struct SharedFwd {
    Tile<T, DEPTH, OWN_ROWS> q[QUERY_SLOTS];
    Tile<T, DEPTH, KEYS> k[KEY_SLOTS], v[KEY_SLOTS];
    T out[CONSUMER_WARPS][16 * PITCH];  ///< results on their way
    dc::Barrier q_full[QUERY_SLOTS], q_empty[QUERY_SLOTS];
    dc::Barrier k_full[KEY_SLOTS], k_empty[KEY_SLOTS];
    dc::Barrier v_full[KEY_SLOTS], v_empty[KEY_SLOTS];
    dc::Barrier v_landed[KEY_SLOTS];    ///< in place of v_full, if rows must be blanked first
};

/// 128 queries of a head, and how many tiles of keys they see.
struct Work {
    Head x;
    int index, m0, tiles;
    DC_FN Work(const AttentionProblem& p, int index, int tile, int query_tiles) : x(head_of(p, index)), index(index) {
        if (p.causal) tile = query_tiles - 1 - tile;  // the longest first
        m0 = tile * OWN_ROWS;
        tiles = dc::ceil_div(p.causal ? dc::min(x.keys, m0 + OWN_ROWS) : x.keys, KEYS);
    }
    /// Whether the tile of keys from n0 on has values that the entry does not have but its tensor does.
    DC_FN bool ragged(const AttentionProblem& p, int n0) const { return x.keys < p.keys && n0 + KEYS > x.keys; }
};

template <class F>
DC_FN void each_work(const AttentionProblem& p, F f) {
    const int query_tiles = dc::ceil_div(p.queries, OWN_ROWS);
    each_tile(p, query_tiles, [&](int index, int tile) { f(Work(p, index, tile, query_tiles)); });
}

/// One thread: starts all copies.
template <class T, int DEPTH>
DC_FN void produce(const AttentionFwdSm90& a, SharedFwd<T, DEPTH>& s) {
    const AttentionProblem& p = a.forward.problem;
    dc::prefetch_tensor_map(&a.q);
    dc::prefetch_tensor_map(&a.k);
    dc::prefetch_tensor_map(&a.v);
    Place<QUERY_SLOTS> q;
    Place<KEY_SLOTS> kv;
    each_work(p, [&](const Work& w) {
        s.q_empty[q.slot].wait(q.parity ^ 1);
        s.q_full[q.slot].arrive_expect(sizeof s.q[0]);
        s.q[q.slot].load(&a.q, s.q_full[q.slot], w.m0, w.x.h, w.x.b);
        q.next();
        DC_ROLL
        for (int tile = 0; tile < w.tiles; ++tile, kv.next()) {
            const int n0 = tile * KEYS, i = kv.slot;
            s.k_empty[i].wait(kv.parity ^ 1);
            s.k_full[i].arrive_expect(sizeof s.k[0]);
            s.k[i].load(&a.k, s.k_full[i], n0, w.x.h, w.x.kv);
            s.v_empty[i].wait(kv.parity ^ 1);
            dc::Barrier& landed = w.ragged(p, n0) ? s.v_landed[i] : s.v_full[i];
            landed.arrive_expect(sizeof s.v[0]);
            s.v[i].load(&a.v, landed, n0, w.x.h, w.x.kv);
        }
    });
}

/// One warp: zeros in place of values beyond the length of an entry.
template <class T, int DEPTH>
DC_FN void blank(const AttentionFwdSm90& a, SharedFwd<T, DEPTH>& s) {
    const AttentionProblem& p = a.forward.problem;
    Place<KEY_SLOTS> kv;
    unsigned parity = 0;  // a bit a slot: of v_landed, whose phases are those of ragged tiles only
    each_work(p, [&](const Work& w) {
        DC_ROLL
        for (int tile = 0; tile < w.tiles; ++tile, kv.next()) {
            const int n0 = tile * KEYS, i = kv.slot;
            if (!w.ragged(p, n0)) continue;
            s.v_landed[i].wait(parity >> i & 1);
            parity ^= 1u << i;
            s.v[i].blank(w.x.keys - n0);
            dc::fence_async_shared();
            dc::sync_warp();
            if (dc::lane() == 0) s.v_full[i].arrive();
        }
    });
}

/// Two groups issue their products by turns: group 0 first, then each when the other has issued.
struct Turns {
    static constexpr unsigned FIRST = 1;  ///< named barriers; 0 is that of the block
    int group;
    DC_FN explicit Turns(int group) : group(group) {
        if (group == 1) end();
    }
    DC_FN void begin() { dc::named_barrier_sync(FIRST + group, CONSUMERS * GROUP); }
    DC_FN void end() { dc::named_barrier_arrive(FIRST + (group ^ 1), CONSUMERS * GROUP); }
    /// Takes up the turn that is left over.
    DC_FN void finish() {
        if (group == 0) begin();
    }
};
static_assert(CONSUMERS == 2, "the turns of two");

/// A warpgroup: 64 queries of each tile.
template <class T, int DEPTH>
DC_FN void consume(const AttentionFwdSm90& a, SharedFwd<T, DEPTH>& s, int group) {
    const AttentionProblem& p = a.forward.problem;
    const int group0 = group * GROUP_ROWS, warp = dc::warp() % (GROUP / 32), own0 = group0 + 16 * warp;
    Turns turns(group);
    Place<QUERY_SLOTS> q;
    Place<KEY_SLOTS> k, v;
    each_work(p, [&](const Work& w) {
        const float* bias = bias_start(p, w.x);
        float out[1][DEPTH / 8][4] = {}, dots[1][KEYS / 8][4], shrink[1][2];
        uint32_t weights[KEYS / 16][4];
        RowStats<1> stats;
        auto start_scores = [&] { start_dots(dots, s.q[q.slot], group0, s.k[k.slot]); };
        auto scores_done = [&] {
            release(s.k_empty[k.slot]);
            k.next();
        };
        auto weigh = [&](int tile) {
            const int n0 = tile * KEYS;
            float factor = p.scale_log2;
            if (bias || n0 + KEYS > w.x.keys || (p.causal && n0 + KEYS > w.m0 + group0 + 1)) {
                factor = 1;
                finish_scores<false>(dots, p, w.x, bias, w.m0 + own0, n0);
            }
            online_softmax(dots, factor, stats, shrink);
        };
        auto start_values = [&] {
            s.v_full[v.slot].wait(v.parity);
            start_mix(out, weights, s.v[v.slot]);
        };
        auto values_done = [&] {
            dc::wgmma_wait<0>(flat(out));
            release(s.v_empty[v.slot]);
            v.next();
        };

        s.q_full[q.slot].wait(q.parity);
        if (w.tiles > 0) {
            s.k_full[k.slot].wait(k.parity);
            turns.begin();
            start_scores();
            turns.end();
            dc::wgmma_wait<0>(flat(dots));
            scores_done();
            weigh(0);
            pack<T>(weights, dots);
            if (w.tiles > 1) s.k_full[k.slot].wait(k.parity);
            DC_ROLL
            for (int tile = 1; tile < w.tiles; ++tile) {
                turns.begin();
                start_scores();
                start_values();  // of the tile before
                turns.end();
                dc::wgmma_wait<1>(flat(dots));
                scores_done();
                weigh(tile);
                // ptxas moves a wait for products up to the last branch. The wait for the next keys, which has one,
                // keeps that for the values where it belongs: behind the softmax.
                dc::wgmma_pin(flat(dots));
                if (tile + 1 < w.tiles) s.k_full[k.slot].wait(k.parity);
                values_done();
                scale_rows(out, shrink);
                pack<T>(weights, dots);
            }
            start_values();
            values_done();
        }
        release(s.q_empty[q.slot]);
        q.next();

        const int first = w.m0 + own0;
        float factor[1][2];
        finish_rows(stats, dc::ptr<float>(a.forward.lse) + int64_t(w.index) * p.queries, first, p.queries, factor);
        const int64_t step = int64_t(p.heads) * p.depth;
        T* to = dc::ptr<T>(a.forward.out) + (int64_t(w.x.b) * p.queries + first) * step + w.x.h * p.depth;
        store_rows<DEPTH>(s.out[group * (GROUP / 32) + warp], out, factor, to, step, p.queries - first, p.depth);
        dc::sync_warp();  // before the next results take their place
    });
    turns.finish();
}

/// Depths up to DEPTH that are multiples of 8, rows of whole 16-byte units, scale > 0. Any grid does; one of as
/// many blocks as there are multiprocessors is best.
template <class T, int DEPTH>
DC_FN void attention_fwd_sm90(const AttentionFwdSm90& a) {
    auto& s = dc::shared<SharedFwd<T, DEPTH>>();
    if (threadIdx.x == 0) {
        DC_UNROLL
        for (int i = 0; i < QUERY_SLOTS; ++i) {
            s.q_full[i].init(1);
            s.q_empty[i].init(CONSUMER_WARPS);
        }
        DC_UNROLL
        for (int i = 0; i < KEY_SLOTS; ++i) {
            s.k_full[i].init(1);
            s.k_empty[i].init(CONSUMER_WARPS);
            s.v_full[i].init(1);
            s.v_empty[i].init(CONSUMER_WARPS);
            s.v_landed[i].init(1);
        }
        dc::fence_barrier_init();
    }
    __syncthreads();
    const int group = threadIdx.x / GROUP;
    if (group == 0) {
        dc::decrease_registers<40>();
        if (dc::warp() == 0) {
            if (dc::elect_one()) produce<T, DEPTH>(a, s);
        } else if (dc::warp() == 1 && a.forward.problem.key_lengths) {
            blank<T, DEPTH>(a, s);
        }
    } else {
        dc::increase_registers<232>();
        consume<T, DEPTH>(a, s, group - 1);
    }
}

}  // namespace

#define FWD(TYPE, T, DEPTH)                                                                      \
    DC_KERNEL(attention_fwd_d##DEPTH##_##TYPE##_sm90, AttentionFwdSm90, SM90_THREADS, 1,         \
              sizeof(SharedFwd<T, DEPTH>)) {                                                     \
        attention_fwd_sm90<T, DEPTH>(p);                                                         \
    }
FWD(bf16, dc::bf16, 64)
FWD(bf16, dc::bf16, 72)
FWD(f16, dc::f16, 64)
FWD(f16, dc::f16, 72)
#undef FWD
