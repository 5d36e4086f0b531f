// What the tensor-core forms of a convolution share: slices of the depth in shared memory, and a warp's products.
#pragma once

#include "conv2d.cuh"
#include "mma.cuh"
#include "moments.cuh"

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

/// The slice of channels that is fetched next; past the last one there are no channels.
template <class T>
struct SliceCursor {
    int source = 0, c0 = 0, channels = 0;
    const T* x = nullptr;
    int64_t step = 0;

    DC_FN SliceCursor(const Conv2dFwd& p) { open(p); }
    DC_FN void next(const Conv2dFwd& p) {
        c0 += BK;
        if (c0 < channels || source == p.sources) return;
        ++source;
        open(p);
    }

private:
    DC_FN void open(const Conv2dFwd& p) {
        c0 = 0;
        channels = 0;
        if (source == p.sources) return;
        x = dc::ptr<const T>(p.source[source].x);
        step = p.source[source].step;
        channels = p.source[source].channels;
    }
};

/// Merges what the lanes of a warp saw of rows `width` columns wide, stored in vectors of `vector`: write(column,
/// moments) once a column.
template <int W, class F>
DC_FN void merge_lanes(const dc::ColumnMoments<W>& columns, int width, int vector, F write) {
    const int lanes = width / vector;  // of a row; lanes that far apart have the same columns
    DC_UNROLL
    for (int k = 0; k < W; ++k) {
        dc::CountedMoments m = columns.of(k);
        for (int far = lanes; far < dc::WARP; far *= 2)
            m = dc::merge(m, {dc::shuffle_xor(m.count, far), dc::shuffle_xor(m.mean, far),
                              dc::shuffle_xor(m.squares, far)});
        if (dc::lane() < lanes && k < vector) write(dc::lane() * vector + k, m);
    }
}

/// Leaves the moments of a channel over a tile.
DC_FN void store_moments(const Conv2dFwd& p, int tile, int channel, const dc::CountedMoments& m) {
    dc::store(dc::ptr<float>(p.moments) + (int64_t(tile) * p.cout + channel) * 2,
              dc::Vec<float, 2>{{m.mean, m.squares}});
}

}  // namespace conv
