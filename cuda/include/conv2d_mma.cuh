// What the tensor-core forms of a convolution share: slices of the depth in shared memory, and a warp's products.
#pragma once

#include "conv2d.cuh"
#include "mma.cuh"

namespace conv {

constexpr int BK = 32;     // channels of a slice
constexpr int STAGES = 3;  // slices of the weights under way

/// Where 16-byte unit `u` of row `r` of a tile with 64-byte rows lies, in elements: any eight rows that follow each
/// other, as ldmatrix reads them, fall into eight different groups of four banks.
DC_FN int at64(int r, int u) { return r * BK + (u ^ (r >> 1 & 3)) * 8; }

/// The products of a warp of a block of BM pixels × BN channels: WM×WN of them.
template <class T, int BN, int WM, int WN>
struct WarpTile {
    static constexpr int WARPS_M = BM / WM, WARPS_N = BN / WN;
    static_assert(WARPS_M * WARPS_N * 32 == THREADS, "four warps");
    static constexpr int MT = WM / 16, NT = WN / 8;

    const int warp_m = dc::warp() / WARPS_N, warp_n = dc::warp() % WARPS_N;
    float sum[MT][NT][4];
    uint32_t a[2][MT][4], b[2][NT][2];

    DC_FN void clear() {
        DC_UNROLL
        for (int i = 0; i < MT; ++i)
            DC_UNROLL
            for (int j = 0; j < NT; ++j)
                DC_UNROLL
                for (int k = 0; k < 4; ++k) sum[i][j][k] = 0;
    }

    /// Fragments of 16 of a slice's depth, of the weights.
    DC_FN void weights(int buffer, const uint16_t* slice, int half) {
        const int lane = dc::lane(), matrix = lane / 8, in = lane % 8;
        DC_UNROLL
        for (int j = 0; j < NT; j += 2) {
            uint32_t r[4];
            dc::ldmatrix<4, false>(r, slice + at64(warp_n * WN + j * 8 + matrix / 2 * 8 + in, half * 2 + matrix % 2));
            b[buffer][j][0] = r[0], b[buffer][j][1] = r[1];
            b[buffer][j + 1][0] = r[2], b[buffer][j + 1][1] = r[3];
        }
    }

    DC_FN void multiply(int buffer) {
        DC_UNROLL
        for (int i = 0; i < MT; ++i)
            DC_UNROLL
            for (int j = 0; j < NT; ++j) dc::mma_m16n8k16<T>(sum[i][j], a[buffer][i], b[buffer][j]);
    }
};

}  // namespace conv
