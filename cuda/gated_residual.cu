// gated_residual: z = x + gate·y, the gate a vector of the sample.
//
// Memory-bound: x and y are read once and z written once, 10 bytes an element where y is in half precision.
// A warp walks along a row, so that no element needs a division to find its column or sample; the gate
// stays in the caches. Rows of whole vectors take `v4` (16-byte accesses, 4 under way), others `any`.
#include "include/rows.cuh"
#include "../ffi/gated_residual.h"

namespace {

constexpr int THREADS = 128;
constexpr int UNROLL = 4;

/// W numbers at a time. z may be x or y: an element is overwritten by the thread that has read it.
template <class Y, int W>
DC_FN void gated_residual(const GatedResidualFwd& p) {
    const int64_t row = dc::LoneWarp::row();
    if (row >= p.rows) return;
    const float* x = dc::ptr<const float>(p.x) + row * p.x_step;
    const float* gate = dc::ptr<const float>(p.gate) + int(row) / p.tokens * p.gate_step;
    const Y* y = dc::ptr<const Y>(p.y) + row * p.y_step;
    float* z = dc::ptr<float>(p.z) + row * p.cols;
    for (int first = dc::lane() * W; first < p.cols; first += UNROLL * 32 * W) {
        dc::Vec<float, W> a[UNROLL], g[UNROLL];
        dc::Vec<Y, W> b[UNROLL];
        DC_UNROLL
        for (int u = 0; u < UNROLL; ++u) {
            const int at = first + u * 32 * W;
            if (at >= p.cols) break;
            a[u] = dc::load<W>(x + at);
            b[u] = dc::load<W>(y + at);
            g[u] = dc::load<W>(gate + at);
        }
        DC_UNROLL
        for (int u = 0; u < UNROLL; ++u) {
            const int at = first + u * 32 * W;
            if (at >= p.cols) break;
            DC_UNROLL
            for (int k = 0; k < W; ++k) a[u][k] += g[u][k] * dc::to_f32(b[u][k]);
            dc::store(z + at, a[u]);
        }
    }
}

}  // namespace

#define INSTANCE(NAME, Y)                                                                                         \
    DC_KERNEL(gated_residual_v4_##NAME##_f32, GatedResidualFwd, THREADS, 6, 0) { gated_residual<Y, 4>(p); }       \
    DC_KERNEL(gated_residual_any_##NAME##_f32, GatedResidualFwd, THREADS, 8, 0) { gated_residual<Y, 1>(p); }
INSTANCE(f32, float)
INSTANCE(bf16, dc::bf16)
INSTANCE(f16, dc::f16)
#undef INSTANCE
