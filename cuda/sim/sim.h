// The simulator's side of cuda/include/dc.cuh: what nvcc gives for free, on the host.
//
// A block's threads are fibers that take turns on one OS thread; a fiber runs until it has to wait
// (barrier, warp operation) or ends. The order of turns is the schedule, so a kernel that depends on
// an order that CUDA does not promise gives different results under different schedules. What is
// simulated is what kernels may rely on, strictly: a barrier that not all threads reach, a warp
// operation that its lanes do not enter together, an access outside its buffer, a copy read before
// its wait are errors or poison, even where hardware would forgive them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __device__
#define __host__
#define __global__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace dcsim {

/// A copy that was issued and has not landed.
struct PendingCopy {
    void* to;
    unsigned char bytes[16];
    unsigned size;
    unsigned group;
};

/// Lanes that meet in one warp operation.
struct WarpOp {
    const char* name = nullptr;
    unsigned mask = 0;     ///< lanes that take part
    unsigned arrived = 0;  ///< lanes that wait
    unsigned generation = 0;
    const void* in[32];
    void* out[32];
};

/// What a running thread may ask about itself; the scheduler's own fields are in sim.cpp.
struct Thread {
    dim3 thread_index, block_index, block_dim, grid_dim;
    unsigned lane = 0;
    WarpOp* warp = nullptr;
    unsigned char* shared = nullptr;
};

extern thread_local Thread* current;

/// Ends the launch with this message; does not return.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
/// Waits until `count` threads (0: the whole block) are at barrier `id`; without a file it is a named barrier.
void barrier(unsigned id, unsigned count, const char* file, int line);
/// Counts as one of these threads, and does not wait.
void barrier_arrive(unsigned id, unsigned count);
/// Waits until the warp's current operation is complete; the last lane to arrive runs `run`.
void meet(const char* name, unsigned mask, const void* in, void* out, void (*run)(WarpOp&));

void copy_async(void* to, const void* from, unsigned size, unsigned valid);
void copy_async_commit();
void copy_async_wait(unsigned keep);

/// Tensor-core work so far on all threads: multiply-adds, ×2.
void count_mma(unsigned long long flops);

/// A kernel's entry in the table that the host reads.
struct Registration {
    Registration(const char* name, unsigned param_bytes, unsigned threads, unsigned shared,
                 void (*entry)(const void*));
};

inline void check_aligned(const void* p, size_t n, const char* what) {
    if (reinterpret_cast<uintptr_t>(p) % n) fail("%s at %p, which is not aligned to %zu bytes", what, p, n);
}

template <class Out, class In>
Out meet(const char* name, unsigned mask, const In& in, void (*run)(WarpOp&)) {
    Out out;
    meet(name, mask, &in, &out, run);
    return out;
}

}  // namespace dcsim

#define threadIdx (dcsim::current->thread_index)
#define blockIdx (dcsim::current->block_index)
#define blockDim (dcsim::current->block_dim)
#define gridDim (dcsim::current->grid_dim)
#define __syncthreads() dcsim::barrier(0, 0, __FILE__, __LINE__)

/// Parameters are named `p` in the body.
#define DC_KERNEL(name, Params, threads, min_blocks, shared_bytes)                                            \
    static void name##_body(const Params& p);                                                                 \
    static void name##_entry(const void* p) { name##_body(*static_cast<const Params*>(p)); }                  \
    static const dcsim::Registration name##_registration(#name, sizeof(Params), threads, shared_bytes,        \
                                                         name##_entry);                                       \
    static void name##_body([[maybe_unused]] const Params& p)
