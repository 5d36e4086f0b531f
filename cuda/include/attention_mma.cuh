// Tiles of attention on the tensor cores, T in bf16 or f16: a warp owns 16·M rows whose fragments stay in
// registers, the others' tiles come from shared memory. Depths of 16·n + 8 (72) end in an m16n8k8, so that
// nothing is padded.
#pragma once

#include "attention.cuh"
#include "mma.cuh"

namespace dc::attention {

/// Elements between rows of a tile. 144 bytes are 9 units of 16: eight neighbouring rows lie in different
/// banks, so neither ldmatrix nor the copies have conflicts.
constexpr int PITCH = 72;

/// Starts copying ROWS rows from row0 on; zeros beyond row `rows` and column `depth`. Threads take units of 16
/// bytes: a power of two of them a row, so that a thread stays in its column, and then what is left.
template <int ROWS, int DEPTH, int THREADS, int TILE_PITCH = PITCH, class T>
DC_FN void copy_tile(T* to, const T* from, int64_t step, int row0, int rows, int depth) {
    constexpr int UNITS = DEPTH / 8, MOST = UNITS >= 64 ? 64 : 8, PASS = THREADS / MOST;
    static_assert(UNITS >= MOST && ROWS % PASS == 0 && UNITS - MOST <= 1, "passes are whole");
    auto copy = [&](int r, int c, const T* at) {
        const bool there = row0 + r < rows && c < depth;
        cp_async<16>(to + r * TILE_PITCH + c, there ? at : from, there ? 16 : 0);
    };
    const int r = threadIdx.x / MOST, c = threadIdx.x % MOST * 8;
    const T* at = from + (row0 + r) * step + c;
    DC_UNROLL
    for (int pass = 0; pass < ROWS / PASS; ++pass, at += PASS * step) copy(r + pass * PASS, c, at);
    if constexpr (UNITS > MOST) {
        static_assert(ROWS <= THREADS, "one unit a row");
        const int r = threadIdx.x;
        if (r < ROWS) copy(r, MOST * 8, from + (row0 + r) * step + MOST * 8);
    }
}

/// 16 rows of a tile as left operands.
template <int DEPTH>
struct Rows {
    uint32_t wide[DEPTH / 16][4];
    uint32_t last[2];  ///< of the eight columns that are left, if any
};

template <int DEPTH, class T>
DC_FN void load_rows(Rows<DEPTH>& a, const T* tile, int row0) {
    const T* row = tile + (row0 + (lane() & 15)) * PITCH;
    DC_UNROLL
    for (int k = 0; k < DEPTH / 16; ++k) ldmatrix<4, false>(a.wide[k], row + 16 * k + (lane() >> 4) * 8);
    if constexpr (DEPTH % 16 == 8) ldmatrix<2, false>(a.last, row + DEPTH - 8);
}

/// dots[m][j] += own rows · rows n0 + 8j.. of the tile.
template <int DEPTH, int M, int N, class T>
DC_FN void add_dots(float (&dots)[M][N][4], const Rows<DEPTH> (&own)[M], const T* tile, int n0) {
    static_assert(N % 4 == 0, "n-tiles are loaded by twos and fours");
    const T* pair = tile + (n0 + (lane() & 7) + (lane() >> 4) * 8) * PITCH + (lane() >> 3 & 1) * 8;
    DC_UNROLL
    for (int k = 0; k < DEPTH / 16; ++k) {
        DC_UNROLL
        for (int j = 0; j < N; j += 2) {
            uint32_t b[4];
            ldmatrix<4, false>(b, pair + 8 * j * PITCH + 16 * k);
            const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
            DC_UNROLL
            for (int m = 0; m < M; ++m) {
                mma_m16n8k16<T>(dots[m][j], own[m].wide[k], first);
                mma_m16n8k16<T>(dots[m][j + 1], own[m].wide[k], second);
            }
        }
    }
    if constexpr (DEPTH % 16 == 8) {
        DC_UNROLL
        for (int j = 0; j < N; j += 4) {
            uint32_t b[4];
            ldmatrix<4, false>(b, tile + (n0 + 8 * j + lane()) * PITCH + DEPTH - 8);
            DC_UNROLL
            for (int e = 0; e < 4; ++e) {
                const uint32_t column[1] = {b[e]};
                DC_UNROLL
                for (int m = 0; m < M; ++m) mma_m16n8k8<T>(dots[m][j + e], own[m].last, column);
            }
        }
    }
}

/// out[m] += w[m]·rows k0.. of the tile; w are left operands of 16 rows × 16·K others.
template <int DEPTH, int M, int K, class T>
DC_FN void add_mix(float (&out)[M][DEPTH / 8][4], const uint32_t (&w)[M][K][4], const T* tile, int k0) {
    const T* row = tile + (k0 + (lane() & 15)) * PITCH;
    DC_UNROLL
    for (int k = 0; k < K; ++k) {
        DC_UNROLL
        for (int j = 0; j + 1 < DEPTH / 8; j += 2) {
            uint32_t b[4];
            ldmatrix<4, true>(b, row + 16 * k * PITCH + 8 * j + (lane() >> 4) * 8);
            const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
            DC_UNROLL
            for (int m = 0; m < M; ++m) {
                mma_m16n8k16<T>(out[m][j], w[m][k], first);
                mma_m16n8k16<T>(out[m][j + 1], w[m][k], second);
            }
        }
        if constexpr (DEPTH % 16 == 8) {
            uint32_t b[2];
            ldmatrix<2, true>(b, row + 16 * k * PITCH + DEPTH - 8);
            DC_UNROLL
            for (int m = 0; m < M; ++m) mma_m16n8k16<T>(out[m][DEPTH / 8 - 1], w[m][k], b);
        }
    }
}

/// Turns dot products of rows m0.. and columns n0.. into exponents of 2: times scale_log2, plus bias · log2(e),
/// NOTHING where a pair is not seen. KEYS: rows are keys and columns queries, else the other way about.
template <bool KEYS, bool BIAS, int M, int N>
DC_FN void finish_scores_of(float (&dots)[M][N][4], const AttentionProblem& p, const Head& x, const float* bias,
                            int m0, int n0) {
    const int64_t m_step = KEYS ? 1 : p.bias_query_step, n_step = KEYS ? p.bias_query_step : 1;
    DC_UNROLL
    for (int m = 0; m < M; ++m) {
        DC_UNROLL
        for (int half = 0; half < 2; ++half) {
            const int row = m0 + 16 * m + 8 * half + lane() / 4;
            // Columns that the row pairs with.
            int begin = 0, end = 0;
            if (KEYS) {
                if (row < x.keys) end = p.queries;
                if (p.causal) begin = row;
            } else if (row < p.queries) {
                end = p.causal ? min(x.keys, row + 1) : x.keys;
            }
            DC_UNROLL
            for (int j = 0; j < N; ++j) {
                DC_UNROLL
                for (int e = 0; e < 2; ++e) {
                    const int col = n0 + 8 * j + lane() % 4 * 2 + e;
                    const bool seen = begin <= col && col < end;
                    float& s = dots[m][j][2 * half + e];
                    s *= p.scale_log2;
                    if (BIAS) s += (seen ? bias[row * m_step + col * n_step] : 0.0f) * LOG2E;
                    s = seen ? s : NOTHING;
                }
            }
        }
    }
}
template <bool KEYS, int M, int N>
DC_FN void finish_scores(float (&dots)[M][N][4], const AttentionProblem& p, const Head& x, const float* bias, int m0,
                         int n0) {
    if (bias)
        finish_scores_of<KEYS, true>(dots, p, x, bias, m0, n0);
    else
        finish_scores_of<KEYS, false>(dots, p, x, bias, m0, n0);
}

/// Statistics of the online softmax (Milakov and Gimelshein 2018) of a warp's rows; a lane holds those of rows
/// lane / 4 and 8 further of each 16, their sums over its own columns.
template <int M>
struct RowStats {
    float most[M][2], sum[M][2];
    DC_FN RowStats() {
        DC_UNROLL
        for (int m = 0; m < M; ++m) {
            most[m][0] = most[m][1] = NOTHING;
            sum[m][0] = sum[m][1] = 0;
        }
    }
};

/// Makes weights of dot products whose exponents of 2 are dots · factor: 2 to their difference from the
/// largest seen. `shrink`: what all that was weighed before must be multiplied by.
template <int M, int N>
DC_FN void online_softmax(float (&dots)[M][N][4], float factor, RowStats<M>& stats, float (&shrink)[M][2]) {
    DC_UNROLL
    for (int m = 0; m < M; ++m) {
        DC_UNROLL
        for (int half = 0; half < 2; ++half) {
            float tile_most = NOTHING;
            DC_UNROLL
            for (int j = 0; j < N; ++j)
                tile_most = ::fmaxf(tile_most, ::fmaxf(dots[m][j][2 * half], dots[m][j][2 * half + 1]));
            tile_most = ::fmaxf(tile_most, shuffle_xor(tile_most, 1));
            tile_most = ::fmaxf(tile_most, shuffle_xor(tile_most, 2));
            const float new_most = ::fmaxf(stats.most[m][half], tile_most * factor);
            // A row that has seen nothing yet: any finite number keeps the weights 0.
            const float base = new_most == NOTHING ? 0.0f : new_most;
            shrink[m][half] = exp2(stats.most[m][half] - base);
            stats.most[m][half] = new_most;
            float& sum = stats.sum[m][half];
            sum *= shrink[m][half];
            DC_UNROLL
            for (int j = 0; j < N; ++j) {
                DC_UNROLL
                for (int e = 2 * half; e < 2 * half + 2; ++e) {
                    dots[m][j][e] = exp2(dots[m][j][e] * factor - base);
                    sum += dots[m][j][e];
                }
            }
        }
    }
}

/// Multiplies each row by its factor.
template <int M, int N>
DC_FN void scale_rows(float (&x)[M][N][4], const float (&factor)[M][2]) {
    DC_UNROLL
    for (int m = 0; m < M; ++m) {
        DC_UNROLL
        for (int j = 0; j < N; ++j) {
            DC_UNROLL
            for (int e = 0; e < 4; ++e) x[m][j][e] *= factor[m][e / 2];
        }
    }
}

/// Ends the online softmax of rows row0.. of a head: writes those of their log-sum-exps that exist, and gives
/// what their weighted sums are to be multiplied by.
template <int M>
DC_FN void finish_rows(RowStats<M>& stats, float* lse, int row0, int rows, float (&factor)[M][2]) {
    DC_UNROLL
    for (int m = 0; m < M; ++m) {
        DC_UNROLL
        for (int half = 0; half < 2; ++half) {
            float sum = stats.sum[m][half];
            sum += shuffle_xor(sum, 1);
            sum += shuffle_xor(sum, 2);
            const int row = row0 + 16 * m + 8 * half + lane() / 4;
            const bool none = stats.most[m][half] == NOTHING;
            if (row < rows && lane() % 4 == 0)
                lse[row] = none ? 0.0f : (stats.most[m][half] + ::log2f(sum)) * LN2;
            factor[m][half] = none ? 0.0f : 1.0f / sum;
        }
    }
}

/// Accumulators of 16 rows × 16 columns as a left operand in T.
template <class T>
DC_FN void as_operand(uint32_t (&w)[4], const float (&left)[4], const float (&right)[4]) {
    w[0] = pack2<T>(left[0], left[1]);
    w[1] = pack2<T>(left[2], left[3]);
    w[2] = pack2<T>(right[0], right[1]);
    w[3] = pack2<T>(right[2], right[3]);
}

/// Two neighbours in T.
template <class T>
DC_FN void put_pair(T* to, float x, float y) {
    *reinterpret_cast<uint32_t*>(to) = pack2<T>(x, y);
}

/// Writes a warp's rows, times a factor a row, through `tile` (shared, the warp's own 16·M rows) to rows of
/// `to` that lie `step` apart, of which `rows` exist.
template <int DEPTH, int M, class T>
DC_FN void store_rows(T* tile, const float (&x)[M][DEPTH / 8][4], const float (&factor)[M][2], T* to, int64_t step,
                      int rows, int depth) {
    DC_UNROLL
    for (int m = 0; m < M; ++m) {
        DC_UNROLL
        for (int half = 0; half < 2; ++half) {
            T* row = tile + (16 * m + 8 * half + lane() / 4) * PITCH + lane() % 4 * 2;
            DC_UNROLL
            for (int j = 0; j < DEPTH / 8; ++j) {
                const float f = factor[m][half];
                put_pair(row + 8 * j, x[m][j][2 * half] * f, x[m][j][2 * half + 1] * f);
            }
        }
    }
    sync_warp();
    constexpr int UNITS = DEPTH / 8;
    for (int i = lane(); i < 16 * M * UNITS; i += 32) {
        const int r = i / UNITS, c = (i - r * UNITS) * 8;
        if (r < rows && c < depth) store(to + r * step + c, load<8>(tile + r * PITCH + c));
    }
}

}  // namespace dc::attention
