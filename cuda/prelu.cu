// prelu: y = x, or w of its column times x below zero; and its gradients.
//
// Memory-bound. Forward as `binary` with a bias: 8 elements a thread in vectors of 16 bytes, w from the
// first-level cache.
// Gradient: 12 bytes an element for dx, and dw = Σ over rows of min(x, 0)·dy on the same way. A block owns 32
// columns and a number of rows that depends on the shape alone; its 8 warps take rows in turn, a column a
// lane, and are added in order. `prelu_bwd_sum` adds the blocks, in order: no atomics, same sum every time.
#include "../ffi/prelu.h"
#include "include/dc.cuh"
#include "include/index.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int VALUES = 8;  // of a thread, forward

template <class T, int VEC>
DC_FN void prelu_fwd(const PreluFwd& p) {
    constexpr int UNITS = VALUES / VEC;
    const uint32_t first = blockIdx.x * (THREADS * UNITS) + threadIdx.x;
    dc::Vec<T, VEC> x[UNITS];
    uint32_t column[UNITS];
    DC_UNROLL
    for (int u = 0; u < UNITS; ++u) {
        uint32_t row = first + u * THREADS;
        if (row >= p.units) break;
        column[u] = dc::take_digit(row, p.cols) * VEC;
        x[u] = dc::load<VEC>(dc::ptr<const T>(p.x) + row * p.x_step + column[u]);
    }
    DC_UNROLL
    for (int u = 0; u < UNITS; ++u) {
        const uint32_t i = first + u * THREADS;
        if (i >= p.units) break;
        const float* w = dc::ptr<const float>(p.w) + column[u];
        dc::Vec<T, VEC> y;
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) {
            const float v = dc::to_f32(x[u][k]);
            y[k] = dc::from_f32<T>(v > 0 ? v : w[k] * v);
        }
        dc::store(dc::ptr<T>(p.y) + int64_t(i) * VEC, y);
    }
}

struct Sums {
    float of[WARPS][32];
};

DC_FN void prelu_bwd(const PreluBwd& p) {
    auto& sums = dc::shared<Sums>().of;
    const int c = int(blockIdx.x) * 32 + dc::lane();
    float dw = 0;
    if (c < p.cols) {
        const float w = dc::ptr<const float>(p.w)[c];
        const int64_t start = blockIdx.y * p.rows_per_block, end = dc::min(start + p.rows_per_block, p.rows);
        for (int64_t row = start + dc::warp(); row < end; row += WARPS) {
            const float x = dc::ptr<const float>(p.x)[row * p.x_step + c];
            const float d = dc::ptr<const float>(p.dy)[row * p.dy_step + c];
            dc::ptr<float>(p.dx)[row * p.cols + c] = x > 0 ? d : d * w;
            dw += x > 0 ? 0.0f : d * x;
        }
    }
    sums[dc::warp()][dc::lane()] = dw;
    __syncthreads();
    if (dc::warp() == 0 && c < p.cols) {
        float sum = 0;
        DC_UNROLL
        for (int i = 0; i < WARPS; ++i) sum += sums[i][dc::lane()];
        dc::ptr<float>(p.partial)[int64_t(blockIdx.y) * p.cols + c] = sum;
    }
}

DC_FN void prelu_bwd_sum(const PreluBwd& p) {
    const int c = int(blockIdx.x) * THREADS + int(threadIdx.x);
    if (c >= p.cols) return;
    float sum = 0;
    for (int i = 0; i < p.blocks; ++i) sum += dc::ptr<const float>(p.partial)[int64_t(i) * p.cols + c];
    dc::ptr<float>(p.dw)[c] = sum;
}

}  // namespace

#define INSTANCE(NAME, T, VEC)                                                               \
    DC_KERNEL(prelu_fwd_##NAME, PreluFwd, THREADS, 4, 0) { prelu_fwd<T, VEC>(p); }          \
    DC_KERNEL(prelu_fwd_any_##NAME, PreluFwd, THREADS, 4, 0) { prelu_fwd<T, 1>(p); }
INSTANCE(f32, float, 4)
INSTANCE(bf16, dc::bf16, 8)
INSTANCE(f16, dc::f16, 8)
#undef INSTANCE
DC_KERNEL(prelu_bwd_f32, PreluBwd, THREADS, 4, sizeof(Sums)) { prelu_bwd(p); }
DC_KERNEL(prelu_bwd_sum_f32, PreluBwd, THREADS, 4, 0) { prelu_bwd_sum(p); }
