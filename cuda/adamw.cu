// adamw: a step of the optimiser (Loshchilov and Hutter, 2019), and the global norm that clips its gradients.
//
// Memory-bound: a step reads 16 bytes a parameter and writes 12; the norm reads 4. 16-byte accesses where the
// tensor starts at a multiple of 16 bytes (whole buffers do). The norm is two passes of a fixed order: a block
// sums 16384 squares, a single block sums those of all tensors in f64 and leaves the clipping factor in device
// memory, where the step reads it: no trip to the host in between.
#include "../ffi/adamw.h"
#include "include/dc.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int NORM_BLOCK = 16384;

template <int VEC>
DC_FN void step(const AdamwStep& p) {
    const int64_t at = (int64_t(blockIdx.x) * THREADS + threadIdx.x) * VEC;
    if (at >= p.len) return;
    const float scale = p.grad_scale ? *dc::ptr<const float>(p.grad_scale) : 1.0f;
    float* param = dc::ptr<float>(p.param) + at;
    float* first = dc::ptr<float>(p.first) + at;
    float* second = dc::ptr<float>(p.second) + at;
    const auto g = dc::load<VEC>(dc::ptr<const float>(p.grad) + at);
    auto w = dc::load<VEC>(param), m = dc::load<VEC>(first), v = dc::load<VEC>(second);
    DC_UNROLL
    for (int k = 0; k < VEC; ++k) {
        const float d = g[k] * scale;
        m[k] = p.beta1 * m[k] + (1 - p.beta1) * d;
        v[k] = p.beta2 * v[k] + (1 - p.beta2) * d * d;
        const float root = sqrtf(v[k]) * p.correct2 + p.eps;
        w[k] = p.keep * w[k] - p.rate * p.correct1 * m[k] / root;
    }
    dc::store(param, w);
    dc::store(first, m);
    dc::store(second, v);
}

struct Sums {
    double of[THREADS];
};

template <int VEC>
DC_FN void norm_parts(const AdamwNormParts& p) {
    const int64_t start = int64_t(blockIdx.x) * NORM_BLOCK, end = dc::min(start + NORM_BLOCK, p.len);
    float sum[VEC] = {};
    for (int64_t at = start + threadIdx.x * VEC; at < end; at += THREADS * VEC) {
        const auto x = dc::load<VEC>(dc::ptr<const float>(p.x) + at);
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) sum[k] += x[k] * x[k];
    }
    float mine = 0;
    DC_UNROLL
    for (int k = 0; k < VEC; ++k) mine += sum[k];
    const float total = dc::block_sum<THREADS>(mine, dc::shared<float[THREADS / 32]>());
    if (threadIdx.x == 0) dc::ptr<float>(p.parts)[blockIdx.x] = total;
}

DC_FN void norm_total(const AdamwNormTotal& p) {
    auto& sums = dc::shared<Sums>().of;
    double sum = 0;
    for (int64_t i = threadIdx.x; i < p.len; i += THREADS) sum += double(dc::ptr<const float>(p.parts)[i]);
    sums[threadIdx.x] = sum;
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) {
        const float norm = float(sqrt(sums[0]));
        float* out = dc::ptr<float>(p.out);
        out[0] = norm;
        const float factor = p.most / (norm + 1e-6f);
        out[1] = factor > 1 ? 1.0f : factor;  // a norm that is not a number stays visible
    }
}

}  // namespace

// `any`: an element at a time, for lengths that are not whole vectors.
DC_KERNEL(adamw_step_f32, AdamwStep, THREADS, 4, 0) { step<4>(p); }
DC_KERNEL(adamw_step_any_f32, AdamwStep, THREADS, 4, 0) { step<1>(p); }
DC_KERNEL(adamw_norm_parts_f32, AdamwNormParts, THREADS, 4, 4 * THREADS / 32) { norm_parts<4>(p); }
DC_KERNEL(adamw_norm_parts_any_f32, AdamwNormParts, THREADS, 4, 4 * THREADS / 32) { norm_parts<1>(p); }
DC_KERNEL(adamw_norm_total_f32, AdamwNormTotal, THREADS, 1, sizeof(Sums)) { norm_total(p); }
