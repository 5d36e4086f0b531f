// Tiles of attention on the FMA units, for every layout and depth: 256 threads as 16×16, thread (ty, tx)
// with rows ty + 16i. Operands pass through shared memory as f32 in pieces of 64 columns.
#pragma once

#include "attention.cuh"

namespace dc::attention {

constexpr int SIDE = 16;       ///< The block is SIDE×SIDE threads.
constexpr int PIECE = 64;      ///< Columns of depth in shared memory at a time.
constexpr int GROUP = 32;      ///< Columns that the 16 threads of a row own together, two each.

/// Columns c..c+PIECE of ROWS rows from row0 on; zeros beyond row `rows` and column `depth`. `to` has rows
/// of `pitch` floats. The address of a row and `depth` decide whether whole vectors are read.
template <int ROWS, class T>
DC_FN void load_piece(float* to, int pitch, const T* from, int64_t step, int row0, int rows, int c, int depth) {
    const bool vectors = (reinterpret_cast<uintptr_t>(from) | uint64_t(step) * sizeof(T) | depth * sizeof(T)) %
                             (4 * sizeof(T)) == 0;
    const int col = threadIdx.x % SIDE * 4;
    for (int r = threadIdx.x / SIDE; r < ROWS; r += SIDE) {
        Vec<float, 4> x = {};
        if (row0 + r < rows) {
            const T* at = from + (row0 + r) * step + c + col;
            if (vectors) {
                if (c + col < depth) {
                    const auto raw = load<4>(at);
                    DC_UNROLL
                    for (int i = 0; i < 4; ++i) x[i] = to_f32(raw[i]);
                }
            } else {
                DC_UNROLL
                for (int i = 0; i < 4; ++i)
                    if (c + col + i < depth) x[i] = to_f32(at[i]);
            }
        }
        store(to + r * pitch + col, x);
    }
}

/// dots[i][j] += a[ty + 16i]·b[tx + 16j] over `width` columns (beyond them are zeros up to a multiple of 4).
template <int RM, int RN>
DC_FN void add_dots(float (&dots)[RM][RN], const float* a, int a_pitch, const float* b, int b_pitch, int width) {
    const float* a_row = a + threadIdx.x / SIDE * a_pitch;
    const float* b_row = b + threadIdx.x % SIDE * b_pitch;
    for (int k = 0; k < width; k += 4) {
        Vec<float, 4> x[RM], y[RN];
        DC_UNROLL
        for (int i = 0; i < RM; ++i) x[i] = load<4>(a_row + SIDE * i * a_pitch + k);
        DC_UNROLL
        for (int j = 0; j < RN; ++j) y[j] = load<4>(b_row + SIDE * j * b_pitch + k);
        DC_UNROLL
        for (int i = 0; i < RM; ++i) {
            DC_UNROLL
            for (int j = 0; j < RN; ++j) {
                DC_UNROLL
                for (int e = 0; e < 4; ++e) dots[i][j] += x[i][e] * y[j][e];
            }
        }
    }
}

/// out[i][g0 + g] += Σₖ w[ty + 16i][k]·rows[k], for the two groups of columns of one piece; a group beyond
/// `depth` is left out.
template <int RM, int BN, int GROUPS>
DC_FN void add_mix(float (&out)[RM][GROUPS][2], int g0, const float* w, int w_pitch, const float* rows, int depth) {
    const float* w_row = w + threadIdx.x / SIDE * w_pitch;
    DC_UNROLL
    for (int g = 0; g < PIECE / GROUP; ++g) {
        if ((g0 + g) * GROUP >= depth) break;
        const float* column = rows + g * GROUP + threadIdx.x % SIDE * 2;
        for (int k = 0; k < BN; k += 4) {
            Vec<float, 4> x[RM];
            DC_UNROLL
            for (int i = 0; i < RM; ++i) x[i] = load<4>(w_row + SIDE * i * w_pitch + k);
            DC_UNROLL
            for (int e = 0; e < 4; ++e) {
                const auto y = load<2>(column + (k + e) * (PIECE + 4));
                DC_UNROLL
                for (int i = 0; i < RM; ++i) {
                    out[i][g0 + g][0] += x[i][e] * y[0];
                    out[i][g0 + g][1] += x[i][e] * y[1];
                }
            }
        }
    }
}

/// One dense row of results: groups of columns times `scale`.
template <class T, int GROUPS>
DC_FN void store_row(T* to, const float (&x)[GROUPS][2], float scale, int depth) {
    DC_UNROLL
    for (int g = 0; g < GROUPS; ++g) {
        const int col = g * GROUP + threadIdx.x % SIDE * 2;
        DC_UNROLL
        for (int e = 0; e < 2; ++e)
            if (col + e < depth) to[col + e] = from_f32<T>(x[g][e] * scale);
    }
}

}  // namespace dc::attention
