// linear_modulate: y = x·(1 + γ) + β, the γ and β of every number made by linear layers, one pair or a mixture of
// the pairs of several experts weighted for each row (DreamClear's adaptive modulators).
//
// One product instead of 2K, of which nothing is stored: γ and β of K = 3 experts would be 6 results of the size of
// x, written and read again. Compute-bound: 8192 rows, 3·576 features to 1152 columns are 65 GFLOP over 115 MB.
//
// linear_modulate_{128x128,64x64}_{bf16,f16}: the tensor-core product of gemm.cu (include/gemm.cuh) with two
//   changes. The columns of B are rows of W_γ and W_β in turn, so that γ and β of a number meet in one thread of the
//   epilogue. And k runs through the experts one behind the other: the weighted sum Σ g_e·S_e is added in one set
//   of accumulators, which is multiplied by g_{e-1}/g_e before expert e adds to it and by the last g in the
//   epilogue. That is exact but for rounding: where the ratio is large, so that e's part drowns, it weighs nothing.
//   Weights are held above 2^-60 of the largest, so that no ratio overflows. 64 multiplications a thread and
//   expert, of 18 steps of 64 mma.
//   128x128: 4 warps of 64x64, 68 KiB, two blocks a multiprocessor; 64x64: 4 warps of 32x32.
//   Expected on A100 as for gemm_nt_128x128: 70-75 % of 312 TFLOP/s. Not yet measured.
//
// y may be written in half precision too, and normed (include/row_norms.cuh). f32 operands take the layers and the
// modulation one by one: src/ops/linear_modulate/cuda.rs.
#include "include/epilogue.cuh"
#include "include/gemm.cuh"
#include "include/row_norms.cuh"
#include "../ffi/linear_modulate.h"

namespace {

constexpr int STAGES = 4;
constexpr float LEAST_WEIGHT = 0x1p-60f;  // of the largest

/// k of an expert in whole steps: what is beyond its own is zeros.
DC_FN int padded(const LinearModulate& p) { return dc::ceil_div(p.k, 32) * 32; }

/// The rows of the experts' h, one behind the other along k.
template <class T, class Tile>
struct Hidden {
    static constexpr int STEP = Tile::STEP, ELEMENTS = Tile::ELEMENTS;
    const LinearModulate& p;
    int row0;

    DC_FN void copy(T* tile, int k0, int) const {
        const int e = k0 / padded(p);
        const ModulateExpert& own = p.experts[e];
        const T* from = dc::ptr<const T>(own.h) + row0 * own.h_step;
        Tile::at(from, own.h_step, p.m - row0, p.h_align).copy(tile, k0 - e * padded(p), p.k);
    }
    template <bool WIDE>
    static DC_FN int lane_place(int first) {
        return Tile::template lane_place<WIDE>(first);
    }
    static DC_FN void fragment(uint32_t (&r)[4], const T* tile, int lane_place, int i, int half) {
        Tile::fragment(r, tile, lane_place, i, half);
    }
};

/// The rows of the experts' W_γ and W_β in turn, expert behind expert along k.
template <class T, class Tile>
struct Weights {
    static constexpr int ELEMENTS = Tile::ELEMENTS;
    const LinearModulate& p;
    int col0;

    DC_FN void copy(T* tile, int k0, int) const {
        const int e = k0 / padded(p);
        const ModulateExpert& own = p.experts[e];
        const T* from = dc::ptr<const T>(Tile::matrix() ? own.w_beta : own.w_gamma) + int64_t(col0 / 2) * p.k;
        Tile::at(from, p.k, 2 * p.n - col0, p.w_align).copy(tile, k0 - e * padded(p), p.k);
    }
    template <bool WIDE>
    static DC_FN int lane_place(int first) {
        return Tile::template lane_place<WIDE>(first);
    }
    static DC_FN void fragment(uint32_t (&r)[4], const T* tile, int lane_place, int i, int half) {
        Tile::fragment(r, tile, lane_place, i, half);
    }
};

/// softmax(logits) of row `row`, none below LEAST_WEIGHT, `apart` elements between two experts' weights.
template <class T>
DC_FN void row_weights(const LinearModulate& p, int row, float* weights, int apart) {
    if (!p.logits) {
        weights[0] = 1;
        return;
    }
    const T* logits = dc::ptr<const T>(p.logits) + row * p.logits_step;
    float most = -INFINITY, sum = 0;
    for (int e = 0; e < p.count; ++e) most = dc::max(most, dc::to_f32(logits[e]));
    for (int e = 0; e < p.count; ++e) {
        const float w = dc::max(dc::exp(dc::to_f32(logits[e]) - most), LEAST_WEIGHT);
        weights[e * apart] = w;
        sum += w;
    }
    for (int e = 0; e < p.count; ++e) weights[e * apart] /= sum;
}

/// Modulates 4 numbers of row `row` from column `col` on, of which `valid` exist; `sums` are their γ and β in
/// turn, still to be multiplied by the last expert's weight.
template <class T, bool WHOLE>
DC_FN void modulate4(const LinearModulate& p, const float* sums, const float* weights, int apart, int row, int col,
                     int valid) {
    const auto first = dc::load<4>(sums), second = dc::load<4>(sums + 4);
    const float last = weights[(p.count - 1) * apart];
    float gamma[4] = {first[0] * last, first[2] * last, second[0] * last, second[2] * last};
    float beta[4] = {first[1] * last, first[3] * last, second[1] * last, second[3] * last};
    const auto four = [&](const float* from) {
        dc::Vec<float, 4> v;
        if constexpr (WHOLE) {
            v = dc::load<4>(from);
        } else {
            DC_UNROLL
            for (int k = 0; k < 4; ++k) v[k] = k < valid ? from[k] : 0.0f;
        }
        return v;
    };
    DC_ROLL
    for (int e = 0; e < p.count; ++e) {
        const float w = weights[e * apart];
        const auto g = four(dc::ptr<const float>(p.experts[e].b_gamma) + col);
        const auto b = four(dc::ptr<const float>(p.experts[e].b_beta) + col);
        DC_UNROLL
        for (int k = 0; k < 4; ++k) {
            gamma[k] += w * g[k];
            beta[k] += w * b[k];
        }
    }
    const int64_t at = int64_t(row) * p.n + col;
    auto x = four(dc::ptr<const float>(p.x) + at);
    dc::Vec<T, 4> half;
    DC_UNROLL
    for (int k = 0; k < 4; ++k) {
        x[k] = x[k] * (1 + gamma[k]) + beta[k];
        half[k] = dc::from_f32<T>(x[k]);
    }
    float* y = dc::ptr<float>(p.y) + at;
    T* twin = p.twin ? dc::ptr<T>(p.twin) + at : nullptr;
    if constexpr (WHOLE) {
        dc::store(y, x);
        if (twin) dc::store(twin, half);
    } else {
        DC_UNROLL
        for (int k = 0; k < 4; ++k) {
            if (k >= valid) break;
            y[k] = x[k];
            if (twin) twin[k] = half[k];
        }
    }
}

template <class T, int BM, int BN, int WM, int WN>
DC_FN void linear_modulate(const LinearModulate& p) {
    using Form = dc::GemmForm<STAGES, T, BM, BN, WM, WN>;
    using TileA = dc::GemmTile<T, BM, true, Form::THREADS>;
    using TileB = dc::GemmTile<T, BN, true, Form::THREADS, 2>;
    T* tiles = &dc::shared<T>();
    float* weights = &dc::shared<float>() + Form::SHARED / 4;  // [expert][row of the tile]
    const int columns = dc::ceil_div(2 * p.n, BN);
    const auto place = dc::tile_place(blockIdx.x, dc::ceil_div(p.m, BM), columns);
    const int row0 = place.row * BM, col0 = place.column * BN;
    for (int r = threadIdx.x; r < BM; r += Form::THREADS) row_weights<T>(p, dc::min(row0 + r, p.m - 1), weights + r, BM);
    const int row = dc::warp() / (BN / WN) * WM, col = dc::warp() % (BN / WN) * WN;
    float acc[Form::MI][Form::NI][4] = {};
    const int steps = padded(p) / 32;
    int left = steps + 1, e = 0;
    const auto turn = [&] {  // the next expert's sums weigh 1 from here on
        if (--left > 0) return;
        left = steps;
        const float* before = weights + e * BM + row + dc::lane() / 4;
        ++e;
        DC_UNROLL
        for (int i = 0; i < Form::MI * 2; ++i) {
            const float ratio = before[i * 8] / before[BM + i * 8];
            DC_UNROLL
            for (int ni = 0; ni < Form::NI; ++ni) {
                acc[i / 2][ni][i % 2 * 2] *= ratio;
                acc[i / 2][ni][i % 2 * 2 + 1] *= ratio;
            }
        }
    };
    dc::gemm_steps<STAGES>(acc, Hidden<T, TileA>{p, row0}, Weights<T, TileB>{p, col0}, tiles,
                           tiles + STAGES * TileA::ELEMENTS, 0, p.count * padded(p), row, col, turn);
    constexpr int LD = dc::patch_ld<Form::NI>;
    float* patch = &dc::shared<float>() + dc::warp() * (dc::patch_bytes<Form::NI> / 4);
    DC_ROLL
    for (int at = 0; at < Form::MI; ++at) {
        dc::fill_patch(patch, acc, at);
        dc::sync_warp();
        DC_ROLL
        for (int i = dc::lane(); i < 16 * Form::NI; i += 32) {
            const int r = row + at * 16 + i / Form::NI, c = (col0 + col + i % Form::NI * 8) / 2;
            const float* sums = patch + i / Form::NI * LD + i % Form::NI * 8;
            if (row0 + r >= p.m || c >= p.n) continue;
            if (p.vectors)
                modulate4<T, true>(p, sums, weights + r, BM, row0 + r, c, 4);
            else
                modulate4<T, false>(p, sums, weights + r, BM, row0 + r, c, p.n - c);
        }
        dc::sync_warp();
    }
    dc::norm_finished_rows<T, BM, Form::THREADS>(p.norms, p.y, true, place.row, columns, p.m, p.n);
}

}  // namespace

#define INSTANCE(NAME, T, BM, BN, WM, WN, BLOCKS)                                                                  \
    DC_KERNEL(linear_modulate_##BM##x##BN##_##NAME, LinearModulate,                                                \
              (dc::GemmForm<STAGES, T, BM, BN, WM, WN>::THREADS), BLOCKS,                                          \
              (dc::GemmForm<STAGES, T, BM, BN, WM, WN>::SHARED + BM * MODULATE_EXPERTS * 4)) {                     \
        linear_modulate<T, BM, BN, WM, WN>(p);                                                                     \
    }
INSTANCE(bf16, dc::bf16, 128, 128, 64, 64, 2)
INSTANCE(bf16, dc::bf16, 64, 64, 32, 32, 4)
INSTANCE(f16, dc::f16, 128, 128, 64, 64, 2)
INSTANCE(f16, dc::f16, 64, 64, 32, 32, 4)
#undef INSTANCE
