// Pieces of a matrix product on the tensor cores: tiles of operands in shared memory, filled by cp.async
// and read by ldmatrix. Half precision (bf16 or f16), products added in f32.
//
// A step covers STEP = 32 of the inner extent k. An operand is its `outer` extent (m of A, n of B) by k, and
// lies in memory either way round:
//   along k:   rows of k values, one an outer index   (A as it is, B transposed: the weight of a linear layer)
//   along m/n: rows of outer values, one a k          (A transposed, B as it is)
// The tile keeps that order, in chunks of 16 bytes, and ldmatrix transposes where needed. The place of a
// chunk is permuted within its row so that the eight rows of an 8×8 matrix fall on all 32 banks, whichever
// way it is read; the writes of cp.async do too.
#pragma once

#include "dc.cuh"
#include "epilogue.cuh"
#include "mma.cuh"

namespace dc {

/// OUTER×32 values of T, along k if ALONG_K, moved by a block of THREADS. With MATRICES > 1 the outer indices are
/// rows of that many matrices in turn: row 0 of each, then row 1 of each.
template <class T, int OUTER, bool ALONG_K, int THREADS, int MATRICES = 1>
struct GemmTile {
    static constexpr int STEP = 32;
    static constexpr int ELEMENTS = OUTER * STEP;
    static constexpr int ROW = ALONG_K ? STEP : OUTER;  // elements
    static constexpr int CHUNKS = ROW / 8;              // of a row
    static constexpr int COPIES = ELEMENTS / 8 / THREADS, ROWS_APART = THREADS / CHUNKS;
    static_assert(COPIES * THREADS * 8 == ELEMENTS && THREADS % CHUNKS == 0, "every thread copies alike");
    static_assert(ROWS_APART % 8 == 0, "the permutation is the same in all rows that a thread copies");
    static_assert(MATRICES == 1 || (ALONG_K && ROWS_APART % MATRICES == 0), "a thread's rows are of one matrix");
    static constexpr int STRIDE = ROWS_APART / MATRICES;  // rows of a matrix between two that a thread copies

    const T* mine;    // what this thread copies first, at k = 0
    int64_t step;     // elements between rows
    int outer, align; // how many outer indices there are, from the tile's first; bytes

    /// The tile whose first element, at k = 0, is at `from` (in this thread's matrix).
    static DC_FN GemmTile at(const T* from, int64_t step, int outer, int align) {
        return {from + row() / MATRICES * step + chunk() * 8, step, outer, align};
    }
    /// Which of the matrices this thread copies from.
    static DC_FN int matrix() { return row() % MATRICES; }

    /// Starts the copy of k = k0…k0 + 31, those below k_end; the others and what lies outside become zeros.
    DC_FN void copy(T* tile, int k0, int k_end) const {
        const T* from = mine + (ALONG_K ? k0 : k0 * step);
        T* to = tile + place(row(), chunk());
        if (align == 16 && outer >= OUTER && k0 + STEP <= k_end) {
            DC_UNROLL
            for (int i = 0; i < COPIES; ++i) cp_async<16>(to + i * ROWS_APART * ROW, from + i * STRIDE * step);
            return;
        }
        const int in_chunk = (ALONG_K ? k_end - k0 : outer) - chunk() * 8;
        DC_ROLL
        for (int i = 0; i < COPIES; ++i) {
            const int rows = (ALONG_K ? outer : k_end - k0) - i * ROWS_APART;
            copy_part(to, from, row() < rows ? max(0, min(in_chunk, 8)) : 0);
            to += ROWS_APART * ROW;
            from += STRIDE * step;
        }
    }

    /// What `fragment` adds to its addresses in a lane of a warp whose outer indices start at `first`.
    template <bool WIDE>
    static DC_FN int lane_place(int first) {
        const int l = lane();
        const int outer8 = WIDE ? l >> 3 & 1 : l >> 4, k8 = WIDE ? l >> 4 : l >> 3 & 1;
        return ALONG_K ? place(first + outer8 * 8 + l % 8, k8) : place(k8 * 8 + l % 8, first / 8 + outer8);
    }
    /// Fragments of the i-th 16 outer indices of a warp and 16 k from 16·half: with WIDE as the a of an mma
    /// (16×16), else as the b of two, 8 outer indices each.
    static DC_FN void fragment(uint32_t (&r)[4], const T* tile, int lane_place, int i, int half) {
        // Chunk bits that i or half sets are zero in lane_place's chunk before its permutation: xor adds them.
        if constexpr (ALONG_K)
            ldmatrix<4, false>(r, tile + (lane_place ^ half * 16) + i * 16 * ROW);
        else
            ldmatrix<4, true>(r, tile + (lane_place ^ i * 16) + half * 16 * ROW);
    }

  private:
    /// The first row that this thread copies, and the chunk of all its rows.
    static DC_FN int row() { return threadIdx.x / CHUNKS; }
    static DC_FN int chunk() { return threadIdx.x % CHUNKS; }
    /// First element of chunk `chunk` of row `row`.
    static DC_FN int place(int row, int chunk) {
        return row * ROW + (chunk ^ (ALONG_K ? row >> 1 & 3 : row & 7)) * 8;  // 128 bytes: two rows, or one
    }

    /// A chunk of which `valid` values exist.
    DC_FN void copy_part(T* to, const T* from, int valid) const {
        if (align == 16) {
            cp_async<16>(to, valid ? from : mine, valid * 2);
        } else if (align == 8) {  // rows such as 180 channels
            DC_UNROLL
            for (int c = 0; c < 8; c += 4)
                cp_async<8>(to + c, valid > c ? from + c : mine, 2 * max(min(valid - c, 4), 0));
        } else if (align == 4) {
            DC_UNROLL
            for (int c = 0; c < 8; c += 2)
                cp_async<4>(to + c, valid > c ? from + c : mine, 2 * max(min(valid - c, 2), 0));
        } else {
            Vec<T, 8> v;
            DC_UNROLL
            for (int c = 0; c < 8; ++c) v[c] = c < valid ? from[c] : from_f32<T>(0.0f);
            store(to, v);
        }
    }
};

/// Tiles, threads and shared memory of a kernel whose blocks compute BM×BN results, its warps WM×WN each.
template <int STAGES, class T, int BM, int BN, int WM, int WN>
struct GemmForm {
    static constexpr int WARPS = (BM / WM) * (BN / WN), THREADS = WARPS * 32;
    static constexpr int MI = WM / 16, NI = WN / 8;
    static constexpr int TILES = STAGES * (BM + BN) * 32 * int(sizeof(T)), PATCHES = WARPS * patch_bytes<NI>;
    static constexpr int SHARED = TILES > PATCHES ? TILES : PATCHES;
};

/// Does nothing between the steps.
struct NothingBetween {
    DC_FN void operator()() const {}
};

/// acc += A·B over k = k0…k_end - 1 for a warp's MI·16 rows from `row` and NI·8 columns from `col` of the
/// block's tile. STAGES steps of both operands are in shared memory or on their way there; a and b have
/// room for STAGES tiles each. `before` is called before each step is added, after a barrier. Returns when nothing
/// is under way and shared memory is free again.
template <int STAGES, class T, class A, class B, int MI, int NI, class Before = NothingBetween>
DC_FN void gemm_steps(float (&acc)[MI][NI][4], const A& a, const B& b, T* a_tiles, T* b_tiles, int k0, int k_end,
                      int row, int col, Before before = {}) {
    static_assert(NI % 2 == 0, "b fragments come in pairs");
    const int steps = k_end > k0 ? ceil_div(k_end - k0, A::STEP) : 0;
    const auto copy = [&](int step) {
        if (step < steps) {
            const int slot = step % STAGES;
            a.copy(a_tiles + slot * A::ELEMENTS, k0 + step * A::STEP, k_end);
            b.copy(b_tiles + slot * B::ELEMENTS, k0 + step * A::STEP, k_end);
        }
        cp_async_commit();  // also without copies: waits count groups
    };
    const int place_a = A::template lane_place<true>(row), place_b = B::template lane_place<false>(col);
    DC_ROLL
    for (int s = 0; s < STAGES - 1; ++s) copy(s);
    DC_ROLL
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // this step has landed for all, and the slot of the last one is free
        copy(step + STAGES - 1);
        before();
        const T* at = a_tiles + step % STAGES * A::ELEMENTS;
        const T* bt = b_tiles + step % STAGES * B::ELEMENTS;
        // The fragments of the second half are under way while the first half multiplies.
        uint32_t fa[2][MI][4], fb[2][NI / 2][4];
        const auto fetch = [&](int half) {
            DC_UNROLL
            for (int i = 0; i < MI; ++i) A::fragment(fa[half][i], at, place_a, i, half);
            DC_UNROLL
            for (int j = 0; j < NI / 2; ++j) B::fragment(fb[half][j], bt, place_b, j, half);
        };
        fetch(0);
        DC_UNROLL
        for (int half = 0; half < 2; ++half) {
            if (half == 0) fetch(1);
            DC_UNROLL
            for (int i = 0; i < MI; ++i) {
                DC_UNROLL
                for (int j = 0; j < NI; ++j) {
                    const auto& pair = fb[half][j / 2];
                    const uint32_t one[2] = {pair[j % 2 * 2], pair[j % 2 * 2 + 1]};
                    mma_m16n8k16<T>(acc[i][j], fa[half][i], one);
                }
            }
        }
    }
    cp_async_wait<0>();
    __syncthreads();
}

/// The tile of a block in a grid of `rows`×`columns` tiles: eight rows of tiles are walked column by column,
/// so that the blocks which run at one time share what they read in the second-level cache.
struct TilePlace {
    int row, column;
};
DC_FN TilePlace tile_place(int index, int rows, int columns) {
    constexpr int GROUP = 8;
    const int group = index / (GROUP * columns), inside = index % (GROUP * columns);
    const int height = min(GROUP, rows - group * GROUP);
    return {group * GROUP + inside % height, inside / height};
}

}  // namespace dc
