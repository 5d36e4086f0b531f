// activation: y = f(x) and its gradient y = f'(x)·dy, element by element.
//
// Memory-bound: 8 bytes an element forward, 12 backward in f32, half of that in half precision; the costliest
// functions take some 25 instructions an element, which still hide behind the loads. A thread handles 8
// elements in vectors of 16 bytes, all loads before the first function. The function is chosen by a uniform
// branch round the arithmetic of a thread: one kernel for all.
#include "../ffi/activation.h"
#include "include/activation.cuh"
#include "include/dc.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int VALUES = 8;  // of a thread

/// The elements of a thread, VEC at a time, THREADS vectors apart; 0 beyond the end.
template <class T, int VEC>
DC_FN void read(float (&v)[VALUES], const T* x, int64_t first, int64_t len) {
    DC_UNROLL
    for (int i = 0; i < VALUES; i += VEC) {
        const int64_t at = first + i * THREADS;
        if (at + VEC <= len) {
            const auto raw = dc::load<VEC>(x + at);
            DC_UNROLL
            for (int k = 0; k < VEC; ++k) v[i + k] = dc::to_f32(raw[k]);
        } else {
            DC_UNROLL
            for (int k = 0; k < VEC; ++k) v[i + k] = at + k < len ? dc::to_f32(x[at + k]) : 0.0f;
        }
    }
}

template <class T, int VEC>
DC_FN void write(T* y, const float (&v)[VALUES], int64_t first, int64_t len) {
    DC_UNROLL
    for (int i = 0; i < VALUES; i += VEC) {
        const int64_t at = first + i * THREADS;
        dc::Vec<T, VEC> out;
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) out[k] = dc::from_f32<T>(v[i + k]);
        if (at + VEC <= len) {
            dc::store(y + at, out);
        } else {
            DC_UNROLL
            for (int k = 0; k < VEC; ++k)
                if (at + k < len) y[at + k] = out[k];
        }
    }
}

template <int KIND>
DC_FN void apply(const ActivationMap& p, float (&v)[VALUES]) {
    DC_UNROLL
    for (int i = 0; i < VALUES; ++i) v[i] = dc::activate<KIND>(p.a, p.b, v[i]);
}

template <int KIND>
DC_FN void apply_slope(const ActivationMap& p, const float (&x)[VALUES], float (&d)[VALUES]) {
    DC_UNROLL
    for (int i = 0; i < VALUES; ++i) d[i] *= dc::activate_slope<KIND>(p.a, p.b, x[i]);
}

template <class T, int VEC>
DC_FN void forward(const ActivationMap& p) {
    const int64_t first = int64_t(blockIdx.x) * (THREADS * VALUES) + threadIdx.x * VEC;
    float v[VALUES];
    read<T, VEC>(v, dc::ptr<const T>(p.x), first, p.len);
#define APPLY(KIND) apply<KIND>(p, v)
    DC_ACTIVATION_SWITCH(p.kind, APPLY)
#undef APPLY
    write<T, VEC>(dc::ptr<T>(p.y), v, first, p.len);
}

template <class T, int VEC>
DC_FN void backward(const ActivationMap& p) {
    const int64_t first = int64_t(blockIdx.x) * (THREADS * VALUES) + threadIdx.x * VEC;
    float x[VALUES], d[VALUES];
    read<T, VEC>(x, dc::ptr<const T>(p.x), first, p.len);
    read<T, VEC>(d, dc::ptr<const T>(p.dy), first, p.len);
#define APPLY(KIND) apply_slope<KIND>(p, x, d)
    DC_ACTIVATION_SWITCH(p.kind, APPLY)
#undef APPLY
    write<T, VEC>(dc::ptr<T>(p.y), d, first, p.len);
}

}  // namespace

// `any` takes operands that do not start at a multiple of 16 bytes.
#define INSTANCE(NAME, T, VEC)                                                                            \
    DC_KERNEL(activation_fwd_##NAME, ActivationMap, THREADS, 4, 0) { forward<T, VEC>(p); }               \
    DC_KERNEL(activation_fwd_any_##NAME, ActivationMap, THREADS, 4, 0) { forward<T, 1>(p); }             \
    DC_KERNEL(activation_bwd_##NAME, ActivationMap, THREADS, 4, 0) { backward<T, VEC>(p); }              \
    DC_KERNEL(activation_bwd_any_##NAME, ActivationMap, THREADS, 4, 0) { backward<T, 1>(p); }
INSTANCE(f32, float, 4)
INSTANCE(bf16, dc::bf16, 8)
INSTANCE(f16, dc::f16, 8)
#undef INSTANCE
