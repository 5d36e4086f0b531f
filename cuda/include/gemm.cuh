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
#include "mma.cuh"

namespace dc {

/// OUTER×32 values of T, along k if ALONG_K, moved by a block of THREADS.
template <class T, int OUTER, bool ALONG_K, int THREADS>
struct GemmTile {
    static constexpr int STEP = 32;
    static constexpr int ELEMENTS = OUTER * STEP;
    static constexpr int ROW = ALONG_K ? STEP : OUTER;  // elements
    static constexpr int CHUNKS = ROW / 8;              // of a row
    static constexpr int COPIES = ELEMENTS / 8 / THREADS;
    static_assert(COPIES * THREADS * 8 == ELEMENTS && THREADS % CHUNKS == 0, "every thread copies alike");

    /// First element of chunk `chunk` of row `row`.
    static DC_FN int place(int row, int chunk) {
        if (ALONG_K) return row * ROW + (chunk ^ (row >> 1 & 3)) * 8;  // two rows on the 32 banks
        return row * ROW + (chunk ^ (row & 7)) * 8;
    }

    const T* from;  // outer index 0 of the tile, k = 0
    int64_t step;   // elements between rows
    int outer;      // how many outer indices there are, from the tile's first
    int align;      // bytes

    /// Starts the copy of k = k0…k0 + 31, those below k_end; the others and what lies outside become zeros.
    DC_FN void copy(T* to, int k0, int k_end) const {
        const int chunk = threadIdx.x % CHUNKS;
        if (align == 16) {
            DC_UNROLL
            for (int i = 0; i < COPIES; ++i) {
                const int row = threadIdx.x / CHUNKS + i * (THREADS / CHUNKS);
                const int valid = count(row, chunk, k0, k_end);
                cp_async<16>(to + place(row, chunk), valid ? source(row, chunk, k0) : from, valid * 2);
            }
            return;
        }
        // Rows that are not whole chunks, such as 180 channels (8 bytes): not worth code of its own.
        DC_ROLL
        for (int i = 0; i < COPIES; ++i) {
            const int row = threadIdx.x / CHUNKS + i * (THREADS / CHUNKS);
            const int valid = count(row, chunk, k0, k_end);
            const T* s = source(row, chunk, k0);
            T* d = to + place(row, chunk);
            if (align == 8) {
                cp_async<8>(d, valid > 0 ? s : from, 2 * min(valid, 4));
                cp_async<8>(d + 4, valid > 4 ? s + 4 : from, 2 * max(valid - 4, 0));
            } else if (align == 4) {
                DC_UNROLL
                for (int c = 0; c < 8; c += 2)
                    cp_async<4>(d + c, valid > c ? s + c : from, 2 * max(min(valid - c, 2), 0));
            } else {
                Vec<T, 8> v;
                DC_UNROLL
                for (int c = 0; c < 8; ++c) v[c] = c < valid ? s[c] : from_f32<T>(0.0f);
                store(d, v);
            }
        }
    }

    /// Fragments of 16 outer indices from `first` and 16 k from 16·half. With WIDE as the a of an mma (16×16);
    /// otherwise as the b of two, outer indices first… and first + 8….
    template <bool WIDE>
    static DC_FN void fragment(uint32_t (&r)[4], const T* tile, int first, int half) {
        const int l = lane();
        const int outer8 = WIDE ? l >> 3 & 1 : l >> 4, k8 = WIDE ? l >> 4 : l >> 3 & 1;
        if constexpr (ALONG_K)
            ldmatrix<4, false>(r, tile + place(first + outer8 * 8 + l % 8, half * 2 + k8));
        else
            ldmatrix<4, true>(r, tile + place(half * 16 + k8 * 8 + l % 8, first / 8 + outer8));
    }

  private:
    static DC_FN int within(int limit) { return max(0, min(limit, 8)); }
    /// How many of a chunk's eight values exist.
    DC_FN int count(int row, int chunk, int k0, int k_end) const {
        if (ALONG_K) return row < outer ? within(k_end - k0 - chunk * 8) : 0;
        return k0 + row < k_end ? within(outer - chunk * 8) : 0;
    }
    DC_FN const T* source(int row, int chunk, int k0) const {
        if (ALONG_K) return from + row * step + (k0 + chunk * 8);
        return from + (k0 + row) * step + chunk * 8;
    }
};

/// acc += A·B over k = k0…k_end - 1 for a warp's MI·16 rows from `row` and NI·8 columns from `col` of the
/// block's tile. STAGES steps of both operands are in shared memory or on their way there; a and b have
/// room for STAGES tiles each. Returns when nothing is under way and shared memory is free again.
template <int STAGES, class T, class A, class B, int MI, int NI>
DC_FN void gemm_steps(float (&acc)[MI][NI][4], const A& a, const B& b, T* a_tiles, T* b_tiles, int k0, int k_end,
                      int row, int col) {
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
    DC_ROLL
    for (int s = 0; s < STAGES - 1; ++s) copy(s);
    DC_ROLL
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // this step has landed for all, and the slot of the last one is free
        copy(step + STAGES - 1);
        const T* at = a_tiles + step % STAGES * A::ELEMENTS;
        const T* bt = b_tiles + step % STAGES * B::ELEMENTS;
        // The fragments of the second half are under way while the first half multiplies.
        uint32_t fa[2][MI][4], fb[2][NI / 2][4];
        const auto fetch = [&](int half) {
            DC_UNROLL
            for (int i = 0; i < MI; ++i) A::template fragment<true>(fa[half][i], at, row + i * 16, half);
            DC_UNROLL
            for (int j = 0; j < NI / 2; ++j) B::template fragment<false>(fb[half][j], bt, col + j * 16, half);
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
