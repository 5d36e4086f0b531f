// reduce: sums and maxima over the middle axis of [outer, n, inner], and the gradient of the maximum.
// sum_to runs on the same kernels.
//
// Memory-bound: x is read once (4 bytes an element). `rows` (inner = 1): a warp a slab of a row, lanes 4
// bytes apart, 8 loads under way. `columns`: neighbouring threads take neighbouring columns, `tile` of them
// a block; the rest of the block's 256 threads share out the slab, and their results are combined in shared
// memory in a fixed order. Long axes are cut into slabs (a function of the shape alone), whose results a
// second launch reduces: no atomics, the same bits every time.
#include "include/dc.cuh"
#include "../ffi/reduce.h"

namespace {

constexpr int THREADS = 256;

struct Sum {
    static constexpr float START = 0;
    DC_FN static float two(float a, float b) { return a + b; }
};
/// NaN if one of them is.
struct Most {
    static constexpr float START = -INFINITY;
    DC_FN static float two(float a, float b) { return b > a || b != b ? b : a; }
};

/// f over x[0], x[step], … (`count` of them) in a fixed order with 8 independent chains.
template <class F>
DC_FN float fold(const float* x, int64_t count, int64_t step) {
    constexpr int CHAINS = 8;
    float part[CHAINS];
    DC_UNROLL
    for (int i = 0; i < CHAINS; ++i) part[i] = F::START;
    int64_t k = 0;
    for (; k + CHAINS <= count; k += CHAINS, x += CHAINS * step) {
        DC_UNROLL
        for (int i = 0; i < CHAINS; ++i) part[i] = F::two(part[i], x[i * step]);
    }
    for (; k < count; ++k, x += step) part[0] = F::two(part[0], *x);
    DC_UNROLL
    for (int half = CHAINS / 2; half > 0; half /= 2) {
        DC_UNROLL
        for (int i = 0; i < half; ++i) part[i] = F::two(part[i], part[i + half]);
    }
    return part[0];
}

template <class F>
DC_FN void reduce_rows(const ReduceFwd& p) {
    const int64_t unit = int64_t(blockIdx.x) * (THREADS / 32) + dc::warp();
    if (unit >= p.outer * p.slabs) return;  // whole warps
    const int64_t row = unit / p.slabs, first = (unit - row * p.slabs) * p.slab;
    const int64_t count = dc::min(p.n - first, p.slab) - dc::lane();
    const float* x = dc::ptr<const float>(p.x) + row * p.n + first + dc::lane();
    float all = fold<F>(x, dc::ceil_div<int64_t>(dc::max<int64_t>(count, 0), 32), 32);
    DC_UNROLL
    for (int i = 16; i > 0; i >>= 1) all = F::two(all, dc::shuffle_xor(all, i));
    if (dc::lane() == 0) dc::ptr<float>(p.y)[unit] = all * p.scale;
}

template <class F>
DC_FN void reduce_columns(const ReduceFwd& p) {
    auto& parts = dc::shared<float[THREADS]>();
    const int64_t tiles = dc::ceil_div<int64_t>(p.inner, p.tile);
    const int64_t unit = blockIdx.x / tiles, row = unit / p.slabs;
    const int column = threadIdx.x & (p.tile - 1), first = threadIdx.x / p.tile, step = THREADS / p.tile;
    const int64_t i = (blockIdx.x - unit * tiles) * p.tile + column;
    const int64_t begin = (unit - row * p.slabs) * p.slab, count = dc::min(p.n - begin, p.slab) - first;
    float all = F::START;
    if (i < p.inner && count > 0) {
        const float* x = dc::ptr<const float>(p.x) + (row * p.n + begin + first) * p.inner + i;
        all = fold<F>(x, dc::ceil_div<int64_t>(count, step), step * p.inner);
    }
    parts[threadIdx.x] = all;
    __syncthreads();
    if (first > 0 || i >= p.inner) return;
    for (int k = 1; k < step; ++k) all = F::two(all, parts[k * p.tile + column]);
    dc::ptr<float>(p.y)[unit * p.inner + i] = all * p.scale;
}

/// A warp a row: 32 candidates at a time.
DC_FN void reduce_max_grad_rows(const ReduceMaxBwd& p) {
    const int64_t row = int64_t(blockIdx.x) * (THREADS / 32) + dc::warp();
    if (row >= p.outer) return;
    const float* x = dc::ptr<const float>(p.x) + row * p.n;
    float* dx = dc::ptr<float>(p.dx) + row * p.n;
    const float most = dc::ptr<const float>(p.y)[row], d = dc::ptr<const float>(p.dy)[row];
    bool found = false;
    for (int64_t base = 0; base < p.n; base += 32) {
        const int64_t at = base + dc::lane();
        const unsigned hits = dc::ballot(at < p.n && x[at] == most);
        const bool first = !found && (hits & (2u << dc::lane()) - 1) == 1u << dc::lane();
        if (at < p.n) dx[at] = first ? d : 0.0f;
        found |= hits != 0;
    }
}

/// A thread a column.
DC_FN void reduce_max_grad_columns(const ReduceMaxBwd& p) {
    const int64_t at = int64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (at >= p.outer * p.inner) return;
    const int64_t row = at / p.inner, first = row * p.n * p.inner + (at - row * p.inner);
    const float* x = dc::ptr<const float>(p.x) + first;
    float* dx = dc::ptr<float>(p.dx) + first;
    const float most = dc::ptr<const float>(p.y)[at], d = dc::ptr<const float>(p.dy)[at];
    bool found = false;
    for (int64_t k = 0; k < p.n; ++k) {
        const bool here = !found && x[k * p.inner] == most;
        dx[k * p.inner] = here ? d : 0.0f;
        found |= here;
    }
}

}  // namespace

DC_KERNEL(reduce_rows_sum_f32, ReduceFwd, THREADS, 4, 0) { reduce_rows<Sum>(p); }
DC_KERNEL(reduce_rows_max_f32, ReduceFwd, THREADS, 4, 0) { reduce_rows<Most>(p); }
DC_KERNEL(reduce_columns_sum_f32, ReduceFwd, THREADS, 4, THREADS * 4) { reduce_columns<Sum>(p); }
DC_KERNEL(reduce_columns_max_f32, ReduceFwd, THREADS, 4, THREADS * 4) { reduce_columns<Most>(p); }
DC_KERNEL(reduce_max_grad_rows_f32, ReduceMaxBwd, THREADS, 4, 0) { reduce_max_grad_rows(p); }
DC_KERNEL(reduce_max_grad_columns_f32, ReduceMaxBwd, THREADS, 4, 0) { reduce_max_grad_columns(p); }
