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

/// out[i][g] += Σₖ w[ty + 16i][k]·rows[k], for the groups g0, g0 + 1 of columns, which the piece holds; a
/// group beyond `depth` (counted from column 0 of the piece) is left out. Beyond `count` rows are zeros.
template <int RM, int GROUPS>
DC_FN void add_mix(float (&out)[RM][GROUPS][2], int g0, const float* w, int w_pitch, const float* rows, int count,
                   int depth) {
    const float* w_row = w + threadIdx.x / SIDE * w_pitch;
    DC_UNROLL
    for (int g = 0; g < PIECE / GROUP; ++g) {
        if (g * GROUP >= depth) break;
        const float* column = rows + g * GROUP + threadIdx.x % SIDE * 2;
        for (int k = 0; k < count; k += 4) {
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

/// Pieces of the block's own rows and of the others'.
template <int BM, int BN>
struct SharedPieces {
    float own[BM][PIECE + 4];
    float other[BN][PIECE + 4];
};

/// An operand's rows.
template <class T>
struct Side {
    const T* from;
    int64_t step;
    int rows;
};

/// dots[i][j] += own row · other row over the whole depth.
template <int BM, int BN, class T, class Shared>
DC_FN void all_dots(float (&dots)[BM / SIDE][BN / SIDE], Shared& s, const Side<T>& own, int m0, const Side<T>& other,
                    int n0, int depth) {
    for (int c = 0; c < depth; c += PIECE) {
        __syncthreads();
        load_piece<BM>(s.own[0], PIECE + 4, own.from, own.step, m0, own.rows, c, depth);
        load_piece<BN>(s.other[0], PIECE + 4, other.from, other.step, n0, other.rows, c, depth);
        __syncthreads();
        add_dots<BM / SIDE, BN / SIDE>(dots, s.own[0], PIECE + 4, s.other[0], PIECE + 4, min(PIECE, depth - c));
    }
}

/// out += w · other rows, for columns `first` and on.
template <int BM, int BN, int GROUPS, class T, class Shared>
DC_FN void all_mix(float (&out)[BM / SIDE][GROUPS][2], Shared& s, const float* w, const Side<T>& other, int n0,
                   int first, int depth) {
    DC_UNROLL
    for (int g = 0; g < GROUPS; g += PIECE / GROUP) {
        const int c = first + g * GROUP;
        if (c >= depth) break;
        __syncthreads();
        load_piece<BN>(s.other[0], PIECE + 4, other.from, other.step, n0, other.rows, c, depth);
        __syncthreads();
        add_mix<BM / SIDE>(out, g, w, BN + 4, s.other[0], min(BN, other.rows - n0), depth - c);
    }
}

/// Columns `first` and on of one dense row of results, times `scale`.
template <int GROUPS, class T>
DC_FN void store_row(T* to, const float (&x)[GROUPS][2], float scale, int first, int depth) {
    DC_UNROLL
    for (int g = 0; g < GROUPS; ++g) {
        const int col = first + g * GROUP + threadIdx.x % SIDE * 2;
        DC_UNROLL
        for (int e = 0; e < 2; ++e)
            if (col + e < depth) to[col + e] = from_f32<T>(x[g][e] * scale);
    }
}

}  // namespace dc::attention
