// What products and convolutions do to their results before they leave the multiprocessor:
// y = gate·alpha·act(sum + bias) + residual (ffi/epilogue.h).
//
// Accumulators lie in registers in a layout that suits the multiplication, not memory. They go through
// a patch of shared memory, a few rows at a time, and from there in whole vectors along the rows to
// y: full 16-byte accesses of y and the residual, and one copy of the code of the activations in the
// kernel instead of one an accumulator (it is a switch over all of them; unrolled, it would be longer
// than the rest of the kernel).
#pragma once

#include "../../ffi/epilogue.h"
#include "activation.cuh"
#include "dc.cuh"
#include "moments.cuh"

namespace dc {

/// The gates of the sample that has row `row`; null where there are none.
DC_FN const float* gates(const Epilogue& e, int row) {
    return e.gate ? ptr<const float>(e.gate) + row / e.gate_rows * e.gate_step : nullptr;
}

/// Element `at` of y (and of the residual), which lies in row `row` and column `col`.
template <class Out>
DC_FN void finish_store(const Epilogue& e, float sum, int row, int col, Out* y, int64_t at) {
    if (e.bias) sum += ptr<const float>(e.bias)[col];
    if (e.act != ACTIVATION_NONE) sum = activate(e.act, e.act_a, e.act_b, sum);
    sum *= e.alpha;
    if (const float* gate = gates(e, row)) sum *= gate[col];
    y[at] = from_f32<Out>(sum + (e.residual ? to_f32(ptr<const Out>(e.residual)[at]) : 0.0f));
}

/// Finishes and stores ROWS×COLS sums of a patch of shared memory (rows LD floats apart, a multiple of 4)
/// that are rows `row0`… and columns `col0`… (a multiple of 8) of a dense m×n matrix at y, with a residual
/// like it or null; what lies outside the matrix is left out. `twin`, if there is one, gets the same in
/// another type. Called by THREADS threads together (a warp, or the block), `thread` their index, after the
/// patch is visible to all of them; contains barriers of theirs. `moments` sees what is stored, before it is
/// rounded, where rows are whole vectors: a thread has the same columns in every row if THREADS is a multiple of
/// the vectors of one.
template <class Out, int ROWS, int COLS, int LD, int THREADS, class Twin, class M>
DC_FN void finish_watched(const Epilogue& e, float* patch, int thread, int row0, int col0, int m, int n, Out* y,
                          const Out* residual, Twin* twin, M& moments) {
    constexpr int VEC = 16 / sizeof(Out);
    static_assert(COLS % VEC == 0 && LD % 4 == 0, "whole vectors");
    const float* bias = ptr<const float>(e.bias);
    if (e.act != ACTIVATION_NONE) {
        DC_ROLL
        for (int i = thread; i < ROWS * COLS; i += THREADS) {
            float& v = patch[i / COLS * LD + i % COLS];
            const int col = col0 + i % COLS;
            v = activate(e.act, e.act_a, e.act_b, bias && col < n ? v + bias[col] : v);
        }
        bias = nullptr;
        if (THREADS == 32)
            sync_warp();
        else
            __syncthreads();
    }
    const uint64_t addresses = reinterpret_cast<uint64_t>(y) | reinterpret_cast<uint64_t>(residual) |
                               reinterpret_cast<uint64_t>(bias) | e.gate | (e.gate ? uint64_t(e.gate_step) * 4 : 0);
    if (n % VEC == 0 && addresses % 16 == 0) {
        DC_ROLL
        for (int i = thread; i < ROWS * COLS / VEC; i += THREADS) {
            const int row = i / (COLS / VEC), col = i % (COLS / VEC) * VEC;
            if (row0 + row >= m || col0 + col >= n) continue;
            const int64_t at = int64_t(row0 + row) * n + col0 + col;
            const float* gate = gates(e, row0 + row);
            Vec<Out, VEC> out, old;
            Vec<Twin, VEC> also;
            if (residual) old = load<VEC>(residual + at);
            DC_UNROLL
            for (int half = 0; half < VEC; half += 4) {
                auto v = load<4>(patch + row * LD + col + half);
                if (bias) {
                    const auto b = load<4>(bias + col0 + col + half);
                    DC_UNROLL
                    for (int k = 0; k < 4; ++k) v[k] += b[k];
                }
                DC_UNROLL
                for (int k = 0; k < 4; ++k) v[k] *= e.alpha;
                if (gate) {
                    const auto g = load<4>(gate + col0 + col + half);
                    DC_UNROLL
                    for (int k = 0; k < 4; ++k) v[k] *= g[k];
                }
                DC_UNROLL
                for (int k = 0; k < 4; ++k) {
                    const float sum = v[k] + (residual ? to_f32(old[half + k]) : 0.0f);
                    moments.value(half + k, sum);
                    out[half + k] = from_f32<Out>(sum);
                    also[half + k] = from_f32<Twin>(sum);
                }
            }
            moments.end_row();
            store(y + at, out);
            if (twin) store(twin + at, also);
        }
    } else {
        DC_ROLL
        for (int i = thread; i < ROWS * COLS; i += THREADS) {
            const int row = i / COLS, col = i % COLS;
            if (row0 + row >= m || col0 + col >= n) continue;
            const int64_t at = int64_t(row0 + row) * n + col0 + col;
            float v = patch[row * LD + col];
            if (bias) v += bias[col0 + col];
            v *= e.alpha;
            if (const float* gate = gates(e, row0 + row)) v *= gate[col0 + col];
            v += residual ? to_f32(residual[at]) : 0.0f;
            y[at] = from_f32<Out>(v);
            if (twin) twin[at] = from_f32<Twin>(v);
        }
    }
}

/// The same, nobody watching.
template <class Out, int ROWS, int COLS, int LD, int THREADS, class Twin = Out>
DC_FN void finish(const Epilogue& e, float* patch, int thread, int row0, int col0, int m, int n, Out* y,
                  const Out* residual, Twin* twin = nullptr) {
    NoMoments none;
    finish_watched<Out, ROWS, COLS, LD, THREADS>(e, patch, thread, row0, col0, m, n, y, residual, twin, none);
}

/// Floats between the rows of a warp's patch for fragments NI·8 columns wide: pairs of a quarter warp
/// fall on distinct banks.
template <int NI>
constexpr int patch_ld = (NI * 8 + 31) / 32 * 32 + 8;
/// Bytes of shared memory that `finish_warp` uses for each warp.
template <int NI>
constexpr int patch_bytes = 16 * patch_ld<NI> * 4;

/// Writes the accumulators of the `at`-th 16 rows of a warp, as mma.sync leaves them, to its patch.
template <int MI, int NI>
DC_FN void fill_patch(float* patch, const float (&acc)[MI][NI][4], int at) {
    constexpr int LD = patch_ld<NI>;
    const int g = lane() / 4, t = lane() % 4;
    DC_UNROLL
    for (int mi = 0; mi < MI; ++mi) {  // accumulators have no addresses: pick by comparison
        if (mi != at) continue;
        DC_UNROLL
        for (int ni = 0; ni < NI; ++ni) {
            const auto& c = acc[mi][ni];
            store(patch + g * LD + ni * 8 + 2 * t, Vec<float, 2>{c[0], c[1]});
            store(patch + (g + 8) * LD + ni * 8 + 2 * t, Vec<float, 2>{c[2], c[3]});
        }
    }
}

/// The first row of a fragment, and the row before which its last one is.
struct FragmentRows {
    int first, end;
};

/// Finishes the MI×NI accumulators (16×8 each, as mma.sync leaves them) of a warp. Fragments i lie in the rows
/// `rows(i)` and in columns from col0 of a dense matrix with n columns, the `first`-th element of what lies at y and
/// e.residual. y is of T, or of f32 if `y_f32`. `patch` is the warp's own `patch_bytes<NI>`.
template <class T, int MI, int NI, class Rows, class M>
DC_FN void finish_fragments(const Epilogue& e, const float (&acc)[MI][NI][4], float* patch, Rows rows, int col0,
                            int n, uint64_t y, int64_t first, bool y_f32, M& moments) {
    constexpr int LD = patch_ld<NI>;
    DC_ROLL
    for (int at = 0; at < MI; ++at) {
        fill_patch(patch, acc, at);
        sync_warp();
        const FragmentRows r = rows(at);
        if (y_f32) {
            const float* residual = e.residual ? ptr<const float>(e.residual) + first : nullptr;
            T* twin = e.twin ? ptr<T>(e.twin) + first : nullptr;
            finish_watched<float, 16, NI * 8, LD, 32>(e, patch, lane(), r.first, col0, r.end, n,
                                                      ptr<float>(y) + first, residual, twin, moments);
        } else {
            const T* residual = e.residual ? ptr<const T>(e.residual) + first : nullptr;
            T* none = nullptr;
            finish_watched<T, 16, NI * 8, LD, 32>(e, patch, lane(), r.first, col0, r.end, n, ptr<T>(y) + first,
                                                  residual, none, moments);
        }
        sync_warp();
    }
}

/// The same where the fragments lie below each other from row0 of m rows.
template <class T, int MI, int NI>
DC_FN void finish_warp(const Epilogue& e, const float (&acc)[MI][NI][4], float* patch, int row0, int col0, int m,
                       int n, uint64_t y, int64_t first, bool y_f32) {
    NoMoments none;
    const auto rows = [&](int i) { return FragmentRows{row0 + i * 16, m}; };
    finish_fragments<T, MI, NI>(e, acc, patch, rows, col0, n, y, first, y_f32, none);
}

}  // namespace dc
