// What the attention kernels for sm_90a share: tiles in shared memory that serve as every operand of wgmma, and
// how blocks and warpgroups go over their work.
//
// A head of 72 columns, without padding it to 96 or 128 in memory or in the products that are 72 wide. A tile
// keeps its columns in blocks, a row of a block as long as its swizzle: one block of 64 (128 bytes) at depth 64,
// three of 32 (64 bytes) at depth 72, the last of which TMA fills up with zeros. Eight rows of any 16-byte column
// lie in different banks. The same bytes serve
// * products along depth (both operands rows of k), 16 columns a step: 80 columns count at depth 72;
// * products along tokens (b as rows of n): exactly 72 wide, of the last block the first 8 columns. wgmma takes
//   every n that is a multiple of 8 in every layout; that this holds within a swizzled row (72 = 32 + 32 + 8) is
//   how the PTX ISA reads, and hardware has yet to confirm it. n = 80 would find zeros there.
#pragma once

#include "attention_mma.cuh"
#include "sm90.cuh"
#include "../../ffi/attention_sm90.h"

namespace dc::attention {

constexpr int GROUP = 128;           ///< threads of a warpgroup
constexpr int GROUP_ROWS = 64;       ///< rows that a warpgroup multiplies
constexpr int CONSUMERS = 2;         ///< warpgroups that multiply; one more feeds them
constexpr int SM90_THREADS = (1 + CONSUMERS) * GROUP;
constexpr int CONSUMER_WARPS = CONSUMERS * GROUP / 32;
constexpr int OWN_ROWS = CONSUMERS * GROUP_ROWS;  ///< tokens that a block works on at a time
constexpr int BOX_ROWS = 64;         ///< tokens of a tensor copy: what the host encodes into the maps

template <int DEPTH>
struct Columns;
template <>
struct Columns<64> {
    static constexpr int BLOCK = 64, BLOCKS = 1;
    static constexpr Swizzle SWIZZLE = Swizzle::bytes_128;
};
template <>
struct Columns<72> {
    static constexpr int BLOCK = 32, BLOCKS = 3;
    static constexpr Swizzle SWIZZLE = Swizzle::bytes_64;
};

/// ROWS tokens of a head of up to DEPTH columns.
template <class T, int DEPTH, int ROWS>
struct alignas(1024) Tile {
    using C = Columns<DEPTH>;
    static constexpr int ROW_BYTES = C::BLOCK * sizeof(T), BLOCK_BYTES = ROWS * ROW_BYTES;
    T block[C::BLOCKS][ROWS][C::BLOCK];

    /// By one thread: starts the copies of tokens from row0 on, sizeof(Tile) bytes; zeros beyond the tensor.
    DC_FN void load(const TensorMap* map, Barrier& barrier, int row0, int head, int entry) {
        DC_UNROLL
        for (int b = 0; b < C::BLOCKS; ++b) {
            DC_UNROLL
            for (int r = 0; r < ROWS; r += BOX_ROWS)
                tma_load_4d(block[b][r], map, barrier, b * C::BLOCK, row0 + r, head, entry);
        }
    }

    /// By one warp: zeros in the rows from `first` on. A swizzle moves nothing out of a row.
    DC_FN void blank(int first) {
        constexpr int UNIT = 8;
        for (int b = 0; b < C::BLOCKS; ++b) {
            for (int e = first * C::BLOCK + lane() * UNIT; e < ROWS * C::BLOCK; e += WARP * UNIT)
                store(block[b][0] + e, Vec<T, UNIT>{});
        }
    }

    /// Rows from row0 on as an operand of a product along depth: its first 16 columns.
    DC_FN uint64_t along_depth(int row0) const {
        return wgmma_desc(block[0][row0], 0, 8 * ROW_BYTES, C::SWIZZLE);
    }
    /// From there to the 16 columns from `column` on.
    static constexpr DC_FN int depth_step(int column) {
        return column / C::BLOCK * BLOCK_BYTES + column % C::BLOCK * int(sizeof(T));
    }
    /// All columns as the right operand of a product along tokens: its first 16 rows.
    DC_FN uint64_t along_tokens() const { return wgmma_desc(block[0][0], BLOCK_BYTES, 8 * ROW_BYTES, C::SWIZZLE); }
    /// From there to the 16 rows from `row` on.
    static constexpr DC_FN int token_step(int row) { return row * ROW_BYTES; }
};

/// Accumulators of a warp's 16 rows as wgmma numbers them.
template <int N>
DC_FN float (&flat(float (&x)[1][N][4]))[N * 4] {
    return reinterpret_cast<float(&)[N * 4]>(x);
}

/// Starts dots = 64 rows of `own` from row0 on · rows of `other`; a group of its own.
template <class T, int DEPTH, int ROWS, int N>
DC_FN void start_dots(float (&dots)[1][N][4], const Tile<T, DEPTH, ROWS>& own, int row0,
                      const Tile<T, DEPTH, 8 * N>& other) {
    const uint64_t a = own.along_depth(row0), b = other.along_depth(0);
    wgmma_fence(flat(dots));
    DC_UNROLL
    for (int c = 0; c < DEPTH; c += 16)
        wgmma<T, 8 * N, false, false>(flat(dots), wgmma_advance(a, own.depth_step(c)),
                                      wgmma_advance(b, other.depth_step(c)), c > 0);
    wgmma_commit();
}

/// Starts out += weights · rows of `other`; a group of its own.
template <class T, int DEPTH, int K>
DC_FN void start_mix(float (&out)[1][DEPTH / 8][4], const uint32_t (&weights)[K][4],
                     const Tile<T, DEPTH, 16 * K>& other) {
    const uint64_t b = other.along_tokens();
    wgmma_fence(flat(out));
    DC_UNROLL
    for (int i = 0; i < K; ++i)
        wgmma<T, DEPTH, false, true>(flat(out), weights[i], wgmma_advance(b, other.token_step(16 * i)), true);
    wgmma_commit();
}

/// Accumulators of 16 rows as left operands in T.
template <class T, int K>
DC_FN void pack(uint32_t (&to)[K][4], const float (&from)[1][2 * K][4]) {
    DC_UNROLL
    for (int j = 0; j < K; ++j) as_operand<T>(to[j], from[0][2 * j], from[0][2 * j + 1]);
}

/// A slot of a ring of SLOTS, and the parity of the phase that fills it; all that go round it start with the first.
template <int SLOTS>
struct Place {
    int slot = 0;
    unsigned parity = 0;
    DC_FN void next() {
        if (++slot == SLOTS) {
            slot = 0;
            parity ^= 1;
        }
    }
};

/// The calling warp has read what the barrier guards; it waits for all CONSUMER_WARPS.
DC_FN void release(Barrier& empty) {
    if (lane() == 0) empty.arrive();
}

/// Calls f(index of the head, tile) for each tile that is this block's share of `tiles` tiles of every head: a
/// block stays on its multiprocessor and takes one after another.
template <class F>
DC_FN void each_tile(const AttentionProblem& p, int tiles, F f) {
    DC_ROLL
    for (int i = blockIdx.x; i < tiles * p.heads * p.batch; i += gridDim.x) f(i / tiles, i % tiles);
}

}  // namespace dc::attention
