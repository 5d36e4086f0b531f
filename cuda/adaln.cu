// adaln: layer norm without weights, scaled and shifted by vectors of the sample.
//
// Memory-bound: x is read once and y written once, 6 bytes an element for f32 in, bf16 out. A warp owns
// a row and keeps it in registers between the passes (mean, squared distances from it, result), so that
// nothing is read twice and no barrier is needed. Rows that do not fit or are not whole vectors take
// `any`, which reads the row again (from the first-level cache).
#include "include/dc.cuh"
#include "../ffi/adaln.h"

namespace {

constexpr int THREADS = 128;
constexpr int VEC = 4;

/// Rows of up to CHUNKS·32·VEC elements, `cols` and all steps multiples of VEC.
template <class In, class Out, int CHUNKS>
DC_FN void adaln_fwd(const AdalnFwd& p) {
    const int row = blockIdx.x * (THREADS / 32) + dc::warp();
    if (row >= p.rows) return;  // whole warps: nobody waits for them
    const In* x = dc::ptr<const In>(p.x) + row * p.x_step;
    const int first = dc::lane() * VEC;
    float v[CHUNKS][VEC];
    float sum = 0;
    DC_UNROLL
    for (int c = 0; c < CHUNKS; ++c) {
        const int at = first + c * 32 * VEC;
        dc::Vec<In, VEC> raw;
        if (at < p.cols) raw = dc::load<VEC>(x + at);
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) {
            v[c][k] = at < p.cols ? dc::to_f32(raw[k]) : 0.0f;
            sum += v[c][k];
        }
    }
    const float mean = dc::warp_sum(sum) / p.cols;
    float squares = 0;
    DC_UNROLL
    for (int c = 0; c < CHUNKS; ++c) {
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) {
            v[c][k] -= mean;
            squares += first + c * 32 * VEC < p.cols ? v[c][k] * v[c][k] : 0.0f;
        }
    }
    const float rstd = dc::rsqrt(dc::warp_sum(squares) / p.cols + p.eps);
    const int sample = row / p.tokens;
    const float* shift = dc::ptr<const float>(p.shift) + sample * p.shift_step;
    const float* scale = dc::ptr<const float>(p.scale) + sample * p.scale_step;
    Out* y = dc::ptr<Out>(p.y) + int64_t(row) * p.cols;
    DC_UNROLL
    for (int c = 0; c < CHUNKS; ++c) {
        const int at = first + c * 32 * VEC;
        if (at >= p.cols) break;
        const auto a = dc::load<VEC>(scale + at), b = dc::load<VEC>(shift + at);
        dc::Vec<Out, VEC> out;
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) out[k] = dc::from_f32<Out>(v[c][k] * rstd * (1 + a[k]) + b[k]);
        dc::store(y + at, out);
    }
}

/// Rows of any length.
template <class In, class Out>
DC_FN void adaln_fwd_any(const AdalnFwd& p) {
    const int row = blockIdx.x * (THREADS / 32) + dc::warp();
    if (row >= p.rows) return;
    const In* x = dc::ptr<const In>(p.x) + row * p.x_step;
    float sum = 0;
    for (int c = dc::lane(); c < p.cols; c += 32) sum += dc::to_f32(x[c]);
    const float mean = dc::warp_sum(sum) / p.cols;
    float squares = 0;
    for (int c = dc::lane(); c < p.cols; c += 32) {
        const float d = dc::to_f32(x[c]) - mean;
        squares += d * d;
    }
    const float rstd = dc::rsqrt(dc::warp_sum(squares) / p.cols + p.eps);
    const int sample = row / p.tokens;
    const float* shift = dc::ptr<const float>(p.shift) + sample * p.shift_step;
    const float* scale = dc::ptr<const float>(p.scale) + sample * p.scale_step;
    Out* y = dc::ptr<Out>(p.y) + int64_t(row) * p.cols;
    for (int c = dc::lane(); c < p.cols; c += 32)
        y[c] = dc::from_f32<Out>((dc::to_f32(x[c]) - mean) * rstd * (1 + scale[c]) + shift[c]);
}

}  // namespace

// Up to 1152 columns (PixArt) in 9 chunks; longer rows take `any`.
#define INSTANCE(IN, OUT, In, Out)                                                                                 \
    DC_KERNEL(adaln_fwd_##IN##_##OUT, AdalnFwd, THREADS, 4, 0) { adaln_fwd<In, Out, 9>(p); }                      \
    DC_KERNEL(adaln_fwd_any_##IN##_##OUT, AdalnFwd, THREADS, 8, 0) { adaln_fwd_any<In, Out>(p); }
INSTANCE(f32, f32, float, float)
INSTANCE(f32, bf16, float, dc::bf16)
INSTANCE(f32, f16, float, dc::f16)
INSTANCE(bf16, bf16, dc::bf16, dc::bf16)
INSTANCE(f16, f16, dc::f16, dc::f16)
#undef INSTANCE
