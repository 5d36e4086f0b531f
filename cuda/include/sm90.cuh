// What Hopper (sm_90a) has beyond cp.async and mma.sync: transaction barriers, tensor copies (TMA) and warpgroup
// products (wgmma). Each function is inline PTX beside its simulated twin (cuda/sim/sm90.cpp). For kernels of
// families cuda/*_sm90.cu, which are compiled for sm_90a alone; their names end in _sm90, and their shared memory
// is aligned to 1024 bytes (`dc::shared`), as swizzled tiles must be.
//
// How the parts work together:
//
//     auto& s = dc::shared<Smem>();                         // tiles first (1024-byte aligned), then barriers
//     if (threadIdx.x == 0) {
//         s.full.init(1);
//         s.empty.init(CONSUMER_WARPS);                     // every warp that multiplies arrives for itself
//         dc::fence_barrier_init();
//     }
//     __syncthreads();
//     // One thread of the producer, for the i-th use of the slot:
//     s.empty.wait((i & 1) ^ 1);                            // passes at once for i = 0
//     s.full.arrive_expect(sizeof s.tile);                  // bytes of whole boxes, whatever lies outside
//     dc::tma_load_2d(s.tile, &p.map, s.full, column, row);
//     // All threads of the consumers:
//     s.full.wait(i & 1);
//     dc::wgmma_fence(acc);
//     dc::wgmma<T, 128, false, false>(acc, desc_a, desc_b, i > 0);
//     dc::wgmma_commit();
//     dc::wgmma_wait<0>(acc);
//     if (dc::lane() == 0) s.empty.arrive();
//
// The k-th completion of a barrier (from 0) ends phase k; `wait(k & 1)` returns once it has.
//
// Two proxies see shared memory. What threads store is ordinary; TMA and wgmma are asynchronous: between stores
// and a read of them by either lies `fence_async_shared()` of the storing threads, then a barrier.
#pragma once

#include "../../ffi/tensor_map.h"
#include "mma.cuh"
#ifdef __CUDACC__
#include "wgmma.cuh"
#else
#include "../sim/sm90.h"
#endif

namespace dc {

#ifdef __CUDACC__
/// An address of shared memory as PTX takes it.
DC_FN unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }
#else
namespace sim {
template <class T>
inline float half_value(uint16_t bits) {
    return to_f32(T{bits});
}
}  // namespace sim
#endif

// ---- Barriers -----------------------------------------------------------------------------------

/// A transaction barrier in shared memory. A phase completes when `count` arrivals have come and all bytes that
/// were expected have been copied.
struct alignas(8) Barrier {
    uint64_t state;

    /// By one thread; then `fence_barrier_init` by it, and a barrier of the block.
    DC_FN void init(unsigned count) {
#ifdef __CUDACC__
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(count) : "memory");
#else
        dcsim::mbarrier_init(this, count);
#endif
    }
    DC_FN void arrive() {
#ifdef __CUDACC__
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
#else
        dcsim::mbarrier_arrive(this, 0);
#endif
    }
    /// Arrives, and lets the phase wait for this many bytes of tensor copies.
    DC_FN void arrive_expect(unsigned bytes) {
#ifdef __CUDACC__
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                     : "memory");
#else
        dcsim::mbarrier_arrive(this, bytes);
#endif
    }
    /// Waits for the end of the phase of this parity (0 or 1), if it is not the one before the current phase.
    DC_FN void wait(unsigned parity) {
#ifdef __CUDACC__
        asm volatile(
            "{\n"
            ".reg .pred done;\n"
            "again:\n"
            "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
            "@done bra over;\n"
            "bra again;\n"
            "over:\n"
            "}\n" ::"r"(shared_address(this)), "r"(parity) : "memory");
#else
        dcsim::mbarrier_wait(this, parity);
#endif
    }
};

/// Makes the initialisation of barriers by this thread visible to tensor copies.
DC_FN void fence_barrier_init() {
#ifdef __CUDACC__
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
    dcsim::fence_mbarrier_init();
#endif
}

/// Makes this thread's stores to shared memory visible to wgmma and tensor copies.
DC_FN void fence_async_shared() {
#ifdef __CUDACC__
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
    dcsim::fence_async();
#endif
}

/// Waits until `threads` (a multiple of 32) threads are at barrier `id` (1 to 15; 0 is that of `__syncthreads`).
DC_FN void named_barrier_sync(unsigned id, unsigned threads) {
#ifdef __CUDACC__
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
    dcsim::barrier(id, threads, nullptr, 0);
#endif
}
/// Counts as one of the `threads` that `named_barrier_sync` waits for, and goes on.
DC_FN void named_barrier_arrive(unsigned id, unsigned threads) {
#ifdef __CUDACC__
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
    dcsim::barrier_arrive(id, threads);
#endif
}

/// True in one lane of the warp, always the same one between two changes of which lanes run. Which is not promised.
DC_FN bool elect_one() {
#ifdef __CUDACC__
    unsigned elected;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n" : "=r"(elected));
    return elected;
#else
    return dcsim::elect();
#endif
}

/// Gives registers back: from here on the warpgroup has COUNT a thread. By all its warps.
template <int COUNT>
DC_FN void decrease_registers() {
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "what setmaxnreg takes");
#ifdef __CUDACC__
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}
/// Takes registers that other warpgroups of the block have given back.
template <int COUNT>
DC_FN void increase_registers() {
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "what setmaxnreg takes");
#ifdef __CUDACC__
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}

// ---- Tensor copies --------------------------------------------------------------------------------

// A tensor map (`CudaCall::tensor_map`, a field of the kernel's parameters) describes a tensor of up to five
// axes, c0 the innermost, and the box that one copy moves. Coordinates are those of the box's first element and
// may lie outside (negative, too): there a load reads zeros, and a store writes nothing. In shared memory a box
// lies dense, c0 innermost, at a multiple of 128 bytes; with a swizzle of 128, 64 or 32 bytes its rows are that
// long, and chunks of 16 bytes change places: bits 7… of the address are added (xor) to bits 4….

/// Fetches the map itself ahead of its first use.
DC_FN void prefetch_tensor_map(const TensorMap* map) {
#ifdef __CUDACC__
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#endif
}

#ifdef __CUDACC__
#define DC_TMA_LOAD(RANK, COORDINATES, ...)                                                                        \
    asm volatile("cp.async.bulk.tensor." RANK ".shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, "   \
                 COORDINATES "], [%2];" ::"r"(shared_address(to)), "l"(map), "r"(shared_address(&barrier)), __VA_ARGS__ : "memory")
#define DC_TMA_STORE(RANK, COORDINATES, ...)                                                                       \
    asm volatile("cp.async.bulk.tensor." RANK ".global.shared::cta.bulk_group [%0, " COORDINATES "], [%1];" ::"l"( \
                     map), "r"(shared_address(from)), __VA_ARGS__ : "memory")
#endif

/// By one thread: starts the copy of a box to shared memory; it has landed when the phase of the barrier ends.
DC_FN void tma_load_2d(void* to, const TensorMap* map, Barrier& barrier, int c0, int c1) {
#ifdef __CUDACC__
    DC_TMA_LOAD("2d", "{%3, %4}", "r"(c0), "r"(c1));
#else
    dcsim::tma_load(to, map, &barrier, {c0, c1});
#endif
}
DC_FN void tma_load_3d(void* to, const TensorMap* map, Barrier& barrier, int c0, int c1, int c2) {
#ifdef __CUDACC__
    DC_TMA_LOAD("3d", "{%3, %4, %5}", "r"(c0), "r"(c1), "r"(c2));
#else
    dcsim::tma_load(to, map, &barrier, {c0, c1, c2});
#endif
}
DC_FN void tma_load_4d(void* to, const TensorMap* map, Barrier& barrier, int c0, int c1, int c2, int c3) {
#ifdef __CUDACC__
    DC_TMA_LOAD("4d", "{%3, %4, %5, %6}", "r"(c0), "r"(c1), "r"(c2), "r"(c3));
#else
    dcsim::tma_load(to, map, &barrier, {c0, c1, c2, c3});
#endif
}
DC_FN void tma_load_5d(void* to, const TensorMap* map, Barrier& barrier, int c0, int c1, int c2, int c3, int c4) {
#ifdef __CUDACC__
    DC_TMA_LOAD("5d", "{%3, %4, %5, %6, %7}", "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4));
#else
    dcsim::tma_load(to, map, &barrier, {c0, c1, c2, c3, c4});
#endif
}

/// By one thread: starts the copy of a box from shared memory, into the open group of this thread.
DC_FN void tma_store_2d(const TensorMap* map, const void* from, int c0, int c1) {
#ifdef __CUDACC__
    DC_TMA_STORE("2d", "{%2, %3}", "r"(c0), "r"(c1));
#else
    dcsim::tma_store(map, from, {c0, c1});
#endif
}
DC_FN void tma_store_3d(const TensorMap* map, const void* from, int c0, int c1, int c2) {
#ifdef __CUDACC__
    DC_TMA_STORE("3d", "{%2, %3, %4}", "r"(c0), "r"(c1), "r"(c2));
#else
    dcsim::tma_store(map, from, {c0, c1, c2});
#endif
}
DC_FN void tma_store_4d(const TensorMap* map, const void* from, int c0, int c1, int c2, int c3) {
#ifdef __CUDACC__
    DC_TMA_STORE("4d", "{%2, %3, %4, %5}", "r"(c0), "r"(c1), "r"(c2), "r"(c3));
#else
    dcsim::tma_store(map, from, {c0, c1, c2, c3});
#endif
}
/// Closes the group of stores that this thread has started.
DC_FN void tma_store_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
    dcsim::tma_store_commit();
#endif
}
/// Waits until all but the newest KEEP groups of this thread have read their shared memory. Before the thread
/// ends, all must have.
template <int KEEP>
DC_FN void tma_store_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(KEEP) : "memory");
#else
    dcsim::tma_store_wait(KEEP);
#endif
}

// ---- Warpgroup products -----------------------------------------------------------------------------

// Four neighbouring warps (the first a multiple of four) multiply a, 64×16, by b, 16×N. Accumulators (PTX ISA,
// "Register fragments for wgmma.mma_async.m64nNk16"), w = warp % 4, g = lane / 4, t = lane % 4:
//   acc[i]: row 16w + g + 8·(i / 2 % 2), column 8·(i / 4) + 2t + i % 2
// that is, each warp has 16 rows as mma.m16n8k16 leaves them, and a in registers likewise.

/// How 16-byte chunks lie in a tile; the numbers are those of the descriptor.
enum class Swizzle : unsigned { none = 0, bytes_128 = 1, bytes_64 = 2, bytes_32 = 3 };

/// Where a 64×16 or 16×N operand lies in shared memory. `m` is its outer index (row of a, column of b).
///   As rows of k (not transposed): eight rows of a swizzle's length (16 bytes without one) make a block, blocks of
///   m are `stride_bytes` apart; without a swizzle the second eight k are `leading_bytes` from the first, else
///   that is unused. The next 16 k of a swizzled tile begin 32 bytes on.
///   As rows of m (transposed): eight rows (k) of a swizzle's length make a block, the next eight k are
///   `stride_bytes` on, the next m of a row `leading_bytes` (without a swizzle the two are the other way round).
/// A swizzled tile begins at a multiple of 8 rows.
DC_FN uint64_t wgmma_desc(const void* at, unsigned leading_bytes, unsigned stride_bytes, Swizzle swizzle) {
#ifdef __CUDACC__
    const unsigned address = shared_address(at);
#else
    const unsigned address = dcsim::wgmma_address(at, leading_bytes, stride_bytes);
#endif
    return uint64_t((address & 0x3ffff) >> 4) | uint64_t(leading_bytes >> 4) << 16 |
           uint64_t(stride_bytes >> 4) << 32 | uint64_t(swizzle) << 62;
}

/// The same tile, `bytes` further on.
DC_FN uint64_t wgmma_advance(uint64_t desc, int bytes) { return desc + uint64_t(bytes >> 4); }

/// Keeps the compiler from moving reads and writes of registers over this point.
template <int N>
DC_FN void wgmma_pin(float (&acc)[N]) {
#ifdef __CUDACC__
    DC_UNROLL
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(acc[i])::"memory");
#else
    static_cast<void>(acc);
#endif
}
template <int M, int N>
DC_FN void wgmma_pin(float (&acc)[M][N]) {
    DC_UNROLL
    for (int i = 0; i < M; ++i) wgmma_pin(acc[i]);
}

/// Orders what threads did with the registers of these accumulators (and of a) before the products that follow.
/// Before the first product, and again after every wait.
template <class... Acc>
DC_FN void wgmma_fence(Acc&... acc) {
#ifdef __CUDACC__
    (wgmma_pin(acc), ...);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
    (void(acc), ...);
    dcsim::wgmma_fence();
#endif
}
/// Closes the group of products issued so far.
DC_FN void wgmma_commit() {
#ifdef __CUDACC__
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    dcsim::wgmma_commit();
#endif
}
/// Waits until at most the newest KEEP groups are under way. `acc`: the accumulators that may be read then.
/// Tells nothing of other warps, whose products may still read shared memory.
template <int KEEP, class... Acc>
DC_FN void wgmma_wait(Acc&... acc) {
#ifdef __CUDACC__
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(KEEP) : "memory");
    (wgmma_pin(acc), ...);
#else
    (void(acc), ...);
    dcsim::wgmma_wait(KEEP);
#endif
}

/// Starts acc = a·b, or acc += a·b: T is bf16 or f16, N a multiple of 8 up to 256, a and b descriptors.
/// A_TRANS: a lies as rows of m (k for rows else); B_TRANS: b lies as rows of n.
template <class T, int N, bool A_TRANS, bool B_TRANS>
DC_FN void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
    static_assert(N % 8 == 0 && N <= 256, "what wgmma has");
#ifdef __CUDACC__
#define DC_CASE(WIDTH, I0, I1, I2, I3, I4, I5, I6, I7)                  \
    if constexpr (N == WIDTH && is_bf16<T>)                             \
        DC_WGMMA_SS(WIDTH, "bf16", I0, I1, I2, I3, I4);                 \
    else if constexpr (N == WIDTH)                                      \
        DC_WGMMA_SS(WIDTH, "f16", I0, I1, I2, I3, I4);
    DC_WGMMA_FOR_EACH_N(DC_CASE)
#undef DC_CASE
#else
    dcsim::wgmma({d, N, sim::half_value<T>, A_TRANS, B_TRANS, accumulate, a, nullptr, b});
#endif
}
/// The same with a in registers, as mma.m16n8k16 takes it.
template <class T, int N, bool A_TRANS, bool B_TRANS>
DC_FN void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
    static_assert(N % 8 == 0 && N <= 256 && !A_TRANS, "what wgmma has");
#ifdef __CUDACC__
#define DC_CASE(WIDTH, I0, I1, I2, I3, I4, I5, I6, I7)                  \
    if constexpr (N == WIDTH && is_bf16<T>)                             \
        DC_WGMMA_RS(WIDTH, "bf16", I0, I1, I2, I3, I4, I5, I6);         \
    else if constexpr (N == WIDTH)                                      \
        DC_WGMMA_RS(WIDTH, "f16", I0, I1, I2, I3, I4, I5, I6);
    DC_WGMMA_FOR_EACH_N(DC_CASE)
#undef DC_CASE
#else
    dcsim::wgmma({d, N, sim::half_value<T>, A_TRANS, B_TRANS, accumulate, 0, a, b});
#endif
}

}  // namespace dc
