// resize: images to another size, as weighted sums along their axes; and the sums along one axis that the
// gradients of resize and of pad_edges are. (Copies of the nearest pixel are `copy_gather`.)
//
// Taps (source index, weight) come from the host as tables: they are the definition of the op, and coordinates
// computed again here could round differently.
// `image` does both axes at once: for bilinear and bicubic, where 4 or 16 taps mostly hit the first-level cache,
// so that memory sees each pixel of x about once. `axis` does one axis and is run twice, through an f32 tensor
// in between, where an antialiased reduction has so many taps that their product would cost more.
#include "../ffi/resize.h"
#include "include/dc.cuh"
#include "include/index.cuh"

namespace {

constexpr int THREADS = 256;

template <class In, class Out, int VEC>
DC_FN void resize_axis(const ResizeAxis& p) {
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= p.units) return;
    uint32_t outer = i;
    const uint32_t inner = dc::take_digit(outer, p.inner), to = dc::take_digit(outer, p.to);
    const int64_t step = int64_t(p.inner.value) * VEC;
    const In* x = dc::ptr<const In>(p.x) + outer * (p.from * step) + inner * VEC;
    const int32_t* starts = dc::ptr<const int32_t>(p.starts);
    const ResizeTap* taps = dc::ptr<const ResizeTap>(p.taps);
    float sum[VEC] = {};
    for (int t = starts[to], end = starts[to + 1]; t < end; ++t) {
        const ResizeTap tap = taps[t];
        const auto raw = dc::load<VEC>(x + tap.pixel * step);
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) sum[k] += tap.weight * dc::to_f32(raw[k]);
    }
    dc::Vec<Out, VEC> out;
    DC_UNROLL
    for (int k = 0; k < VEC; ++k) out[k] = dc::from_f32<Out>(sum[k]);
    dc::store(dc::ptr<Out>(p.y) + int64_t(i) * VEC, out);
}

template <class T, int VEC>
DC_FN void resize_image(const ResizeImage& p) {
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= p.units) return;
    uint32_t batch = i;
    const uint32_t c = dc::take_digit(batch, p.channels), column = dc::take_digit(batch, p.width);
    const uint32_t row = dc::take_digit(batch, p.height);
    const int64_t pixel = int64_t(p.channels.value) * VEC, line = p.from[1] * pixel;
    const T* x = dc::ptr<const T>(p.x) + batch * (p.from[0] * line) + c * VEC;
    const int32_t* rows = dc::ptr<const int32_t>(p.row_starts) + row;
    const int32_t* columns = dc::ptr<const int32_t>(p.column_starts) + column;
    const ResizeTap* row_taps = dc::ptr<const ResizeTap>(p.row_taps);
    const ResizeTap* column_taps = dc::ptr<const ResizeTap>(p.column_taps);
    const int first_row = rows[0], end_row = rows[1];
    float sum[VEC] = {};
    for (int t = columns[0], end = columns[1]; t < end; ++t) {
        const ResizeTap across = column_taps[t];
        float down[VEC] = {};
        for (int s = first_row; s < end_row; ++s) {
            const ResizeTap tap = row_taps[s];
            const auto raw = dc::load<VEC>(x + tap.pixel * line + across.pixel * pixel);
            DC_UNROLL
            for (int k = 0; k < VEC; ++k) down[k] += tap.weight * dc::to_f32(raw[k]);
        }
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) sum[k] += across.weight * down[k];
    }
    dc::Vec<T, VEC> out;
    DC_UNROLL
    for (int k = 0; k < VEC; ++k) out[k] = dc::from_f32<T>(sum[k]);
    dc::store(dc::ptr<T>(p.y) + int64_t(i) * VEC, out);
}

}  // namespace

// Four channels a thread, or one.
#define INSTANCE(IN, OUT, In, Out)                                                                            \
    DC_KERNEL(resize_axis_##IN##_##OUT, ResizeAxis, THREADS, 4, 0) { resize_axis<In, Out, 4>(p); }           \
    DC_KERNEL(resize_axis_any_##IN##_##OUT, ResizeAxis, THREADS, 4, 0) { resize_axis<In, Out, 1>(p); }
INSTANCE(f32, f32, float, float)
INSTANCE(bf16, f32, dc::bf16, float)
INSTANCE(f32, bf16, float, dc::bf16)
INSTANCE(f16, f32, dc::f16, float)
INSTANCE(f32, f16, float, dc::f16)
#undef INSTANCE
#define INSTANCE(NAME, T)                                                                               \
    DC_KERNEL(resize_image_##NAME, ResizeImage, THREADS, 4, 0) { resize_image<T, 4>(p); }              \
    DC_KERNEL(resize_image_any_##NAME, ResizeImage, THREADS, 4, 0) { resize_image<T, 1>(p); }
INSTANCE(f32, float)
INSTANCE(bf16, dc::bf16)
INSTANCE(f16, dc::f16)
#undef INSTANCE
