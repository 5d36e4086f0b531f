// adamw: a step of the optimiser (Loshchilov and Hutter, 2019), the global norm that clips its gradients, and the
// sums of gradients over batches.
//
// Memory-bound: a step reads 16 bytes a parameter and writes 12 (with a moving average 4 more each way, with a copy
// in half precision 2 more out); the norm reads 4; a sum reads 8 and writes 4. 16-byte accesses where the tensor
// starts at a multiple of 16 bytes (whole buffers do). The norm is two passes of a fixed order: a block sums 16384
// squares, a single block sums those of all tensors in f64 and leaves the factor in device memory, where the step
// reads it: no trip to the host in between. Whatever changes from step to step lies in device memory too, so that
// one recording of the launches serves all steps.
#include "../ffi/adamw.h"
#include "include/dc.cuh"
#include "include/exact.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int NORM_BLOCK = 16384;

/// In PyTorch's order of operations, each of which rounds: the same bits as on the host.
template <class Copy, int VEC>
DC_FN void step(const AdamwStep& p) {
    using X = dc::Exact<float>;
    const int64_t at = (int64_t(blockIdx.x) * THREADS + threadIdx.x) * VEC;
    if (at >= p.len) return;
    const float scale = p.grad_scale ? *dc::ptr<const float>(p.grad_scale) : 1.0f;
    if (!(fabsf(scale) < INFINITY)) return;  // gradients that overflowed
    const AdamwFactors f = *dc::ptr<const AdamwFactors>(p.factors);
    float* param = dc::ptr<float>(p.param) + at;
    float* first = dc::ptr<float>(p.first) + at;
    float* second = dc::ptr<float>(p.second) + at;
    const auto g = dc::load<VEC>(dc::ptr<const float>(p.grad) + at);
    auto w = dc::load<VEC>(param), m = dc::load<VEC>(first), v = dc::load<VEC>(second);
    DC_UNROLL
    for (int k = 0; k < VEC; ++k) {
        const X d = X(g[k]) * scale;
        const X mean = X(m[k]) + X(f.first) * (d - m[k]);
        const X square = X(f.second) * v[k] + X(f.second_rest) * d * d;
        const X root = X(dc::sqrt_rn(square.v)) / f.correct + f.eps;
        w[k] = (X(f.keep) * w[k] + X(f.along) * mean / root).v;
        m[k] = mean.v;
        v[k] = square.v;
    }
    dc::store(param, w);
    dc::store(first, m);
    dc::store(second, v);
    if (p.ema) {
        float* ema = dc::ptr<float>(p.ema) + at;
        auto e = dc::load<VEC>(ema);
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) e[k] = (X(p.ema_keep) * e[k] + (X(1.0f) - p.ema_keep) * w[k]).v;
        dc::store(ema, e);
    }
    if constexpr (sizeof(Copy) != sizeof(float)) {
        dc::Vec<Copy, VEC> copy;
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) copy[k] = dc::from_f32<Copy>(w[k]);
        dc::store(dc::ptr<Copy>(p.copy) + at, copy);
    }
}

template <class Grad, int VEC>
DC_FN void accumulate(const AdamwAccumulate& p) {
    const int64_t at = (int64_t(blockIdx.x) * THREADS + threadIdx.x) * VEC;
    if (at >= p.len) return;
    float* to = dc::ptr<float>(p.sum) + at;
    const auto g = dc::load<VEC>(dc::ptr<const Grad>(p.grad) + at);
    dc::Vec<float, VEC> sum;
    if (*dc::ptr<const float>(p.add) != 0) {
        sum = dc::load<VEC>(to);
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) sum[k] += dc::to_f32(g[k]);
    } else {
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) sum[k] = dc::to_f32(g[k]);
    }
    dc::store(to, sum);
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
        const double unit = p.unit ? double(*dc::ptr<const float>(p.unit)) : 1.0;
        const float norm = float(sqrt(sums[0]) * unit);
        float* out = dc::ptr<float>(p.out);
        out[0] = norm;
        const double factor = double(p.most) / (double(norm) + 1e-6);
        // What is not finite leaves no factor.
        out[1] = norm < INFINITY ? float(unit * (factor > 1 ? 1.0 : factor)) : NAN;
    }
}

}  // namespace

// `any`: an element at a time, for lengths that are not whole vectors.
#define INSTANCE(NAME, T)                                                                            \
    DC_KERNEL(adamw_step_##NAME, AdamwStep, THREADS, 4, 0) { step<T, 4>(p); }                        \
    DC_KERNEL(adamw_step_any_##NAME, AdamwStep, THREADS, 4, 0) { step<T, 1>(p); }                    \
    DC_KERNEL(adamw_accumulate_##NAME, AdamwAccumulate, THREADS, 4, 0) { accumulate<T, 4>(p); }      \
    DC_KERNEL(adamw_accumulate_any_##NAME, AdamwAccumulate, THREADS, 4, 0) { accumulate<T, 1>(p); }
INSTANCE(f32, float)
INSTANCE(bf16, dc::bf16)
INSTANCE(f16, dc::f16)
#undef INSTANCE
DC_KERNEL(adamw_norm_parts_f32, AdamwNormParts, THREADS, 4, 4 * THREADS / 32) { norm_parts<4>(p); }
DC_KERNEL(adamw_norm_parts_any_f32, AdamwNormParts, THREADS, 4, 4 * THREADS / 32) { norm_parts<1>(p); }
DC_KERNEL(adamw_norm_total_f32, AdamwNormTotal, THREADS, 1, sizeof(Sums)) { norm_total(p); }
