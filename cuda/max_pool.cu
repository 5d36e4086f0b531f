// max_pool: the largest value of each window of an image, and its gradient.
//
// Memory-bound: windows overlap, but what a warp reads again lies in the first-level cache. The gradient is a
// gather, without atomics: each element of x looks through the windows that cover it (four for 3x3 at stride 2),
// and takes dy of those whose first largest value it is. Sums have the order of the windows.
#include "../ffi/max_pool.h"
#include "include/dc.cuh"
#include "include/index.cuh"

namespace {

constexpr int THREADS = 256;

template <class T, int VEC>
DC_FN void forward(const MaxPoolFwd& p) {
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= p.units) return;
    uint32_t batch = i;
    const uint32_t channel = dc::take_digit(batch, p.channels);
    const int column = int(dc::take_digit(batch, p.width)), row = int(dc::take_digit(batch, p.height));
    const int64_t pixel = int64_t(p.channels.value) * VEC;
    const T* x = dc::ptr<const T>(p.x) + int64_t(batch) * p.from[0] * p.from[1] * pixel + channel * VEC;
    const int top = row * p.stride - p.pad, left = column * p.stride - p.pad;
    const int bottom = dc::min(top + p.size, p.from[0]), right = dc::min(left + p.size, p.from[1]);
    float most[VEC];
    DC_UNROLL
    for (int k = 0; k < VEC; ++k) most[k] = -INFINITY;
    for (int r = dc::max(top, 0); r < bottom; ++r)
        for (int c = dc::max(left, 0); c < right; ++c) {
            const auto raw = dc::load<VEC>(x + (int64_t(r) * p.from[1] + c) * pixel);
            DC_UNROLL
            for (int k = 0; k < VEC; ++k) {
                const float v = dc::to_f32(raw[k]);
                if (v > most[k] || v != v) most[k] = v;
            }
        }
    dc::Vec<T, VEC> out;
    DC_UNROLL
    for (int k = 0; k < VEC; ++k) out[k] = dc::from_f32<T>(most[k]);
    dc::store(dc::ptr<T>(p.y) + int64_t(i) * VEC, out);
}

template <int VEC>
DC_FN void backward(const MaxPoolBwd& p) {
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= p.units) return;
    uint32_t batch = i;
    const uint32_t channel = dc::take_digit(batch, p.channels);
    const int column = int(dc::take_digit(batch, p.width)), row = int(dc::take_digit(batch, p.height));
    const int height = int(p.height.value), width = int(p.width.value);
    const int64_t pixel = int64_t(p.channels.value) * VEC;
    const float* x = dc::ptr<const float>(p.x) + int64_t(batch) * height * width * pixel + channel * VEC;
    const float* dy = dc::ptr<const float>(p.dy) + int64_t(batch) * p.windows[0] * p.windows[1] * pixel + channel * VEC;
    // The windows that cover this pixel, and this pixel's number among theirs, row by row.
    const int first_row = dc::max(dc::ceil_div(row + p.pad + 1 - p.size, p.stride), 0);
    const int first_column = dc::max(dc::ceil_div(column + p.pad + 1 - p.size, p.stride), 0);
    const int last_row = dc::min((row + p.pad) / p.stride, p.windows[0] - 1);
    const int last_column = dc::min((column + p.pad) / p.stride, p.windows[1] - 1);
    float sum[VEC] = {};
    for (int wr = first_row; wr <= last_row; ++wr)
        for (int wc = first_column; wc <= last_column; ++wc) {
            const int top = wr * p.stride - p.pad, left = wc * p.stride - p.pad;
            const int bottom = dc::min(top + p.size, height), right = dc::min(left + p.size, width);
            float most[VEC];
            bool here[VEC];
            DC_UNROLL
            for (int k = 0; k < VEC; ++k) most[k] = -INFINITY, here[k] = false;
            bool first = true;
            for (int r = dc::max(top, 0); r < bottom; ++r)
                for (int c = dc::max(left, 0); c < right; ++c) {
                    const auto raw = dc::load<VEC>(x + (int64_t(r) * width + c) * pixel);
                    DC_UNROLL
                    for (int k = 0; k < VEC; ++k) {
                        const float v = raw[k];
                        if (first || v > most[k] || (v != v && most[k] == most[k])) {
                            most[k] = v;
                            here[k] = r == row && c == column;
                        }
                    }
                    first = false;
                }
            const auto d = dc::load<VEC>(dy + (int64_t(wr) * p.windows[1] + wc) * pixel);
            DC_UNROLL
            for (int k = 0; k < VEC; ++k)
                if (here[k]) sum[k] += d[k];
        }
    dc::Vec<float, VEC> out;
    DC_UNROLL
    for (int k = 0; k < VEC; ++k) out[k] = sum[k];
    dc::store(dc::ptr<float>(p.dx) + int64_t(i) * VEC, out);
}

}  // namespace

// Four channels a thread, or one.
#define INSTANCE(NAME, T)                                                                            \
    DC_KERNEL(max_pool_fwd_##NAME, MaxPoolFwd, THREADS, 4, 0) { forward<T, 4>(p); }                 \
    DC_KERNEL(max_pool_fwd_any_##NAME, MaxPoolFwd, THREADS, 4, 0) { forward<T, 1>(p); }
INSTANCE(f32, float)
INSTANCE(bf16, dc::bf16)
INSTANCE(f16, dc::f16)
#undef INSTANCE
DC_KERNEL(max_pool_bwd_f32, MaxPoolBwd, THREADS, 4, 0) { backward<4>(p); }
DC_KERNEL(max_pool_bwd_any_f32, MaxPoolBwd, THREADS, 4, 0) { backward<1>(p); }
