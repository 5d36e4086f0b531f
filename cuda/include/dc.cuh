// What every kernel is written with. One source, two compilers: nvcc for GPUs, a C++17 host compiler
// against cuda/sim for the simulator. Inline PTX lives only here and in the other headers of this
// folder, each piece beside its simulated twin.
//
// A kernel:
//
//     #include "include/dc.cuh"
//     #include "../ffi/adaln.h"
//
//     template <class In, class Out>
//     __device__ __forceinline__ void adaln_fwd(const AdalnFwd& p) { ... }
//
//     //        name              parameters  threads  blocks/SM  shared bytes
//     DC_KERNEL(adaln_fwd_f32_bf16, AdalnFwd, 128,     4,         0) { adaln_fwd<float, dc::bf16>(p); }
//
// * One plain struct of parameters a kernel (ffi/), named `p` in the body. Device addresses are
//   `uint64_t` fields; `dc::ptr<T>(p.x)` makes a pointer.
// * The number of threads (a multiple of 32) and of shared bytes belong to the kernel; the host only
//   chooses the grid. Blocks are one-dimensional.
// * All shared memory is dynamic: `auto& s = dc::shared<Smem>();`. No static `__shared__`.
// * Every lane of a warp takes part in warp operations; leave loops together, mask values instead.
// * No thread returns while others of its block still use a barrier or warp operation.
#pragma once

#ifdef __CUDACC__
#include <stdint.h>

namespace dc {
/// What the host reads of a kernel before it launches it.
struct KernelInfo {
    uint32_t threads, shared_bytes, param_bytes;
};
}  // namespace dc

#define DC_KERNEL(name, Params, threads, min_blocks, shared_bytes)                            \
    extern "C" __device__ dc::KernelInfo name##_info = {threads, shared_bytes, sizeof(Params)}; \
    extern "C" __global__ void __launch_bounds__(threads, min_blocks) name(const __grid_constant__ Params p)
#else
#include "../sim/sim.h"
#endif

#ifdef __CUDA_ARCH__
#define DC_UNROLL _Pragma("unroll")
#define DC_ROLL _Pragma("unroll 1")
#else
#define DC_UNROLL
#define DC_ROLL
#endif

namespace dc {

#define DC_FN __device__ __forceinline__

constexpr int WARP = 32;
constexpr unsigned FULL = 0xffffffffu;

template <class T>
constexpr DC_FN T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
constexpr DC_FN T max(T a, T b) {
    return a < b ? b : a;
}
template <class T>
constexpr DC_FN T ceil_div(T a, T b) {
    return (a + b - 1) / b;
}

/// A device address of a parameter struct as a pointer.
template <class T>
DC_FN T* ptr(uint64_t address) {
    return reinterpret_cast<T*>(address);
}

// ---- Numbers ----------------------------------------------------------------------------------

// Types of our own, not those of the toolkit's headers: NVRTC compiles the kernels on machines without them.
struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};
#ifdef __CUDACC__
DC_FN float to_f32(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
DC_FN float to_f32(f16 x) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
    return f;
}
#else
inline float to_f32(bf16 x) {
    uint32_t u = uint32_t(x.bits) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
inline float to_f32(f16 x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, e = x.bits >> 10 & 31, m = x.bits & 1023;
    if (e == 0) {
        const float f = float(m) * 0x1p-24f;
        return sign ? -f : f;
    }
    const uint32_t u = sign | (e == 31 ? 0x7f800000u | m << 13 : (e + 112) << 23 | m << 13);
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
#endif
DC_FN float to_f32(float x) { return x; }

/// The nearest T, ties to even.
template <class T>
DC_FN T from_f32(float x);
template <>
DC_FN float from_f32<float>(float x) {
    return x;
}
#ifdef __CUDACC__
template <>
DC_FN bf16 from_f32<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <>
DC_FN f16 from_f32<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
#else
template <>
inline bf16 from_f32<bf16>(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    if (x != x) return bf16{uint16_t(u >> 16 | 0x40)};
    return bf16{uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
template <>
inline f16 from_f32<f16>(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    const uint16_t sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000) return f16{uint16_t(sign | 0x7e00)};
    if (u >= 0x47800000) return f16{uint16_t(sign | 0x7c00)};
    if (u < 0x38800000) {
        // Subnormal: a sum with 0.5 leaves the rounded multiple of 2^-24 in the low bits.
        float f;
        std::memcpy(&f, &u, 4);
        f += 0.5f;
        std::memcpy(&u, &f, 4);
        return f16{uint16_t(sign | (u - 0x3f000000))};
    }
    u += 0xfff + (u >> 13 & 1);
    return f16{uint16_t(sign | ((u - 0x38000000) >> 13))};
}
#endif

/// Two floats in one register of an operand of the tensor cores: `lo` in the low half.
template <class T>
DC_FN uint32_t pack2(float lo, float hi) {
    static_assert(sizeof(T) == 2, "half precision");
    return uint32_t(from_f32<T>(lo).bits) | uint32_t(from_f32<T>(hi).bits) << 16;
}

/// N values that travel as one aligned access of up to 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N > 16 ? 16 : sizeof(T) * N) Vec {
    T v[N];
    DC_FN T& operator[](int i) { return v[i]; }
    DC_FN const T& operator[](int i) const { return v[i]; }
};

/// Reads N values at once; the address must be a multiple of their size.
template <int N, class T>
DC_FN Vec<T, N> load(const T* from) {
#ifndef __CUDACC__
    dcsim::check_aligned(from, alignof(Vec<T, N>), "vector load");
#endif
    return *reinterpret_cast<const Vec<T, N>*>(from);
}
/// Writes N values at once; the address must be a multiple of their size.
template <class T, int N>
DC_FN void store(T* to, const Vec<T, N>& x) {
#ifndef __CUDACC__
    dcsim::check_aligned(to, alignof(Vec<T, N>), "vector store");
#endif
    *reinterpret_cast<Vec<T, N>*>(to) = x;
}

// ---- Functions --------------------------------------------------------------------------------

#ifdef __CUDA_ARCH__
/// 2^x, absolute error of the result's fraction about 2^-22.
DC_FN float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DC_FN float rsqrt(float x) { return rsqrtf(x); }
#else
DC_FN float exp2(float x) { return ::exp2f(x); }
DC_FN float rsqrt(float x) { return 1.0f / ::sqrtf(x); }
#endif
constexpr float LOG2E = 1.4426950408889634f;
/// e^x through `exp2`: for softmax and gates.
DC_FN float exp(float x) { return exp2(x * LOG2E); }

// ---- Blocks and warps -------------------------------------------------------------------------

#ifdef __CUDACC__
extern __shared__ __align__(1024) unsigned char shared_memory[];
#endif

/// The block's dynamic shared memory as a T; aligned to 128 bytes, in kernels `*_sm90` to 1024.
template <class T>
DC_FN T& shared() {
#ifdef __CUDACC__
    return *reinterpret_cast<T*>(shared_memory);
#else
    return *reinterpret_cast<T*>(dcsim::current->shared);
#endif
}

DC_FN int lane() { return threadIdx.x & 31; }
DC_FN int warp() { return threadIdx.x >> 5; }

#ifdef __CUDACC__
DC_FN void sync_warp() { __syncwarp(); }
template <class T>
DC_FN T shuffle_xor(T x, int with) {
    return __shfl_xor_sync(FULL, x, with);
}
template <class T>
DC_FN T shuffle(T x, int from) {
    return __shfl_sync(FULL, x, from);
}
DC_FN unsigned ballot(bool x) { return __ballot_sync(FULL, x); }
DC_FN float atomic_add(float* to, float x) { return atomicAdd(to, x); }
/// Adds one to a counter in memory; what it was before.
DC_FN uint32_t count_up(uint32_t* counter) { return atomicAdd(counter, 1u); }
/// Orders this thread's accesses to memory, and those that a barrier has ordered before, for the whole device.
DC_FN void fence() { __threadfence(); }
#else
inline void sync_warp() {
    char none = 0;
    dcsim::meet<char>("__syncwarp", FULL, none, [](dcsim::WarpOp& op) {
        for (int i = 0; i < 32; ++i) *static_cast<char*>(op.out[i]) = 0;
    });
}
template <class T>
struct Shuffle {
    T x;
    int from;
};
/// The value of lane `from`.
template <class T>
inline T shuffle(T x, int from) {
    return dcsim::meet<T>("__shfl_sync", FULL, Shuffle<T>{x, from & 31}, [](dcsim::WarpOp& op) {
        for (int i = 0; i < 32; ++i) {
            const int from = static_cast<const Shuffle<T>*>(op.in[i])->from;
            *static_cast<T*>(op.out[i]) = static_cast<const Shuffle<T>*>(op.in[from])->x;
        }
    });
}
/// The value of lane `lane() ^ with`.
template <class T>
inline T shuffle_xor(T x, int with) {
    return shuffle(x, int(dcsim::current->lane) ^ with);
}
/// The lanes for which `x` holds.
inline unsigned ballot(bool x) {
    return dcsim::meet<unsigned>("__ballot_sync", FULL, x, [](dcsim::WarpOp& op) {
        unsigned all = 0;
        for (int i = 0; i < 32; ++i) all |= unsigned(*static_cast<const bool*>(op.in[i])) << i;
        for (int i = 0; i < 32; ++i) *static_cast<unsigned*>(op.out[i]) = all;
    });
}
inline float atomic_add(float* to, float x) {
    uint32_t* bits = reinterpret_cast<uint32_t*>(to);
    uint32_t old = __atomic_load_n(bits, __ATOMIC_RELAXED), now;
    float sum;
    do {
        std::memcpy(&sum, &old, 4);
        sum += x;
        std::memcpy(&now, &sum, 4);
    } while (!__atomic_compare_exchange_n(bits, &old, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    std::memcpy(&sum, &old, 4);
    return sum;
}
inline uint32_t count_up(uint32_t* counter) { return __atomic_fetch_add(counter, 1u, __ATOMIC_ACQ_REL); }
inline void fence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#endif

/// Sum over the warp, in every lane. The order of additions is fixed.
DC_FN float warp_sum(float x) {
    DC_UNROLL
    for (int i = 16; i > 0; i >>= 1) x += shuffle_xor(x, i);
    return x;
}
/// Largest value of the warp, in every lane.
DC_FN float warp_max(float x) {
    DC_UNROLL
    for (int i = 16; i > 0; i >>= 1) x = max(x, shuffle_xor(x, i));
    return x;
}

/// Sum over a block of THREADS, in every thread; `scratch` is shared memory for THREADS/32 floats
/// that nothing else uses. Contains barriers.
template <int THREADS>
DC_FN float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    if (THREADS == 32) return x;
    __syncthreads();
    if (lane() == 0) scratch[warp()] = x;
    __syncthreads();
    float sum = 0;
    DC_UNROLL
    for (int i = 0; i < THREADS / 32; ++i) sum += scratch[i];
    return sum;
}
/// Largest value of a block; as `block_sum`.
template <int THREADS>
DC_FN float block_max(float x, float* scratch) {
    x = warp_max(x);
    if (THREADS == 32) return x;
    __syncthreads();
    if (lane() == 0) scratch[warp()] = x;
    __syncthreads();
    float most = scratch[0];
    DC_UNROLL
    for (int i = 1; i < THREADS / 32; ++i) most = max(most, scratch[i]);
    return most;
}

}  // namespace dc
