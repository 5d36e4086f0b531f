// Kernels for tests/cuda_sim_faults.rs: each `fault_*` does one thing that a GPU does not allow or promise, which
// the simulator must report; each `fault_free_*` shows what a primitive of cuda/include/ does, for the test
// to compare with tables of its own. None is compiled by nvcc.
#include "../include/mma.cuh"

namespace {

/// Parameters of every kernel here; the test has the same struct.
struct Probe {
    uint64_t x;    ///< operand
    uint64_t y;    ///< result
    uint64_t more; ///< second operand
    int32_t n;     ///< elements of x
    int32_t first; ///< the block that is at fault
};

constexpr int THREADS = 64;
constexpr int BYTES = THREADS * sizeof(float);

DC_FN int element() { return blockIdx.x * THREADS + threadIdx.x; }
DC_FN bool at_fault(const Probe& p) { return int(blockIdx.x) == p.first; }
DC_FN float value(const Probe& p) { return element() < p.n ? dc::ptr<const float>(p.x)[element()] : 0.0f; }
DC_FN void put(const Probe& p, float y) {
    if (element() < p.n) dc::ptr<float>(p.y)[element()] = y;
}

/// y = 2x, in a block's own shared memory.
DC_FN void twice(const Probe& p) {
    auto& s = dc::shared<float[THREADS]>();
    s[threadIdx.x] = value(p);
    __syncthreads();
    put(p, 2 * s[threadIdx.x]);
}

}  // namespace

// ---- Faults -----------------------------------------------------------------------------------

DC_KERNEL(fault_free_twice, Probe, THREADS, 1, BYTES) { twice(p); }

/// A value passes through its left neighbour's hands: right where threads run by rising index.
DC_KERNEL(fault_read_without_barrier, Probe, THREADS, 1, BYTES) {
    auto& s = dc::shared<float[THREADS]>();
    const unsigned left = threadIdx.x ? threadIdx.x - 1 : 0;
    s[threadIdx.x] = 2 * value(p);
    const float seen = s[left];
    put(p, seen != seen ? seen : 2 * value(p));
}

/// The left neighbour's slot is overwritten, whether it has been read or not: right by rising index again.
DC_KERNEL(fault_write_without_barrier, Probe, THREADS, 1, BYTES) {
    auto& s = dc::shared<float[THREADS]>();
    s[threadIdx.x] = value(p);
    __syncthreads();
    const float x = s[threadIdx.x];
    if (threadIdx.x) s[threadIdx.x - 1] = 0;
    put(p, 2 * x);
}

DC_KERNEL(fault_partial_barrier, Probe, THREADS, 1, BYTES) {
    if (!at_fault(p) || threadIdx.x >= 32) __syncthreads();
    twice(p);
}

DC_KERNEL(fault_barrier_after_return, Probe, THREADS, 1, BYTES) {
    if (at_fault(p) && threadIdx.x < 8) return;
    twice(p);
}

DC_KERNEL(fault_other_barrier, Probe, THREADS, 1, BYTES) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    twice(p);
}

DC_KERNEL(fault_lanes_skip, Probe, THREADS, 1, BYTES) {
    float x = value(p);
    if (!at_fault(p) || dc::lane() < 16) x = dc::shuffle(x, dc::lane());
    put(p, 2 * x);
}

DC_KERNEL(fault_lanes_part, Probe, THREADS, 1, BYTES) {
    float x = value(p);
    if (at_fault(p) && dc::lane() >= 16) {
        x = dc::ballot(true) ? x : 0;
    } else {
        x = dc::shuffle(x, dc::lane());
    }
    put(p, 2 * x);
}

DC_KERNEL(fault_reads_past_end, Probe, THREADS, 1, BYTES) {
    // Up to 15 bytes past the end are padding of the test's buffer: go beyond.
    const bool bad = at_fault(p) && threadIdx.x == 5;
    put(p, 2 * dc::ptr<const float>(p.x)[bad ? p.n + 4 : dc::min(element(), p.n - 1)]);
}

DC_KERNEL(fault_writes_past_end, Probe, THREADS, 1, BYTES) {
    twice(p);
    if (at_fault(p) && threadIdx.x == 5) dc::ptr<float>(p.y)[p.n + 4] = 1;
}

DC_KERNEL(fault_writes_just_past_end, Probe, THREADS, 1, BYTES) {
    twice(p);
    if (at_fault(p) && threadIdx.x == 5) dc::ptr<float>(p.y)[p.n] = 1;
}

DC_KERNEL(fault_writes_before_start, Probe, THREADS, 1, BYTES) {
    twice(p);
    if (at_fault(p) && threadIdx.x == 5) dc::ptr<float>(p.y)[-1] = 1;
}

DC_KERNEL(fault_changes_operand, Probe, THREADS, 1, BYTES) {
    twice(p);
    if (at_fault(p) && threadIdx.x == 5) dc::ptr<float>(p.x)[element()] += 1;
}

DC_KERNEL(fault_unwritten, Probe, THREADS, 1, BYTES) {
    if (!at_fault(p) || threadIdx.x != 5) put(p, 2 * value(p));
}

DC_KERNEL(fault_null, Probe, THREADS, 1, BYTES) {
    twice(p);
    if (at_fault(p) && threadIdx.x == 5) *dc::ptr<float>(p.more) = 1;
}

DC_KERNEL(fault_shared_unwritten, Probe, THREADS, 1, BYTES) {
    auto& s = dc::shared<float[THREADS]>();
    if (!at_fault(p) || threadIdx.x != 5) s[threadIdx.x] = value(p);
    __syncthreads();
    put(p, 2 * s[threadIdx.x]);
}

DC_KERNEL(fault_shared_overrun, Probe, THREADS, 1, BYTES) {
    float* s = dc::shared<float[THREADS]>();
    s[threadIdx.x + (at_fault(p) && threadIdx.x == THREADS - 1)] = value(p);
    put(p, 2 * s[threadIdx.x]);
}

/// 200 bytes end 56 bytes before the next multiple of 128.
DC_KERNEL(fault_shared_overrun_of_odd_size, Probe, THREADS, 1, 200) {
    float* s = dc::shared<float[50]>();
    if (at_fault(p) && threadIdx.x == 5) s[50] = 1;
    put(p, 2 * value(p));
}

DC_KERNEL(fault_shared_underrun, Probe, THREADS, 1, BYTES) {
    float* s = dc::shared<float[THREADS]>();
    if (at_fault(p) && threadIdx.x == 5) s[-1] = 1;
    put(p, 2 * value(p));
}

namespace {
/// Copies x through shared memory; the functions say where a wait is missing.
template <class Early, class Late>
DC_FN void through_copy(const Probe& p, Early early, Late late) {
    auto& s = dc::shared<float[THREADS]>();
    const int i = dc::min(element(), p.n - 1);
    dc::cp_async<4>(&s[threadIdx.x], dc::ptr<const float>(p.x) + i);
    early();
    const float x = s[threadIdx.x];
    late();
    put(p, 2 * x);
}
}  // namespace

DC_KERNEL(fault_free_copy, Probe, THREADS, 1, BYTES) {
    through_copy(p, [] { dc::cp_async_commit(); dc::cp_async_wait<0>(); }, [] {});
}
DC_KERNEL(fault_copy_read_before_wait, Probe, THREADS, 1, BYTES) {
    through_copy(p, [] { dc::cp_async_commit(); }, [] { dc::cp_async_wait<0>(); });
}
DC_KERNEL(fault_copy_waits_for_older, Probe, THREADS, 1, BYTES) {
    through_copy(p, [] { dc::cp_async_commit(); dc::cp_async_wait<1>(); }, [] { dc::cp_async_wait<0>(); });
}
DC_KERNEL(fault_copy_never_waited, Probe, THREADS, 1, BYTES) {
    through_copy(p, [] { dc::cp_async_commit(); }, [] {});
}
DC_KERNEL(fault_copy_never_committed, Probe, THREADS, 1, BYTES) {
    through_copy(p, [] { dc::cp_async_wait<0>(); }, [] {});
}
DC_KERNEL(fault_copy_misaligned, Probe, THREADS, 1, 2 * BYTES) {
    float* s = dc::shared<float[2 * THREADS]>();
    if (at_fault(p) && threadIdx.x == 5) dc::cp_async<16>(s + 2, dc::ptr<const float>(p.x));
    dc::cp_async_commit();
    dc::cp_async_wait<0>();
    put(p, 2 * value(p));
}
DC_KERNEL(fault_copy_past_shared, Probe, THREADS, 1, BYTES) {
    float* s = dc::shared<float[THREADS]>();
    if (at_fault(p) && threadIdx.x == 5) dc::cp_async<4>(s + THREADS, dc::ptr<const float>(p.x));
    dc::cp_async_commit();
    dc::cp_async_wait<0>();
    put(p, 2 * value(p));
}
DC_KERNEL(fault_copy_to_global, Probe, THREADS, 1, BYTES) {
    if (at_fault(p) && threadIdx.x == 5) dc::cp_async<4>(dc::ptr<float>(p.y), dc::ptr<const float>(p.x));
    dc::cp_async_commit();
    dc::cp_async_wait<0>();
    put(p, 2 * value(p));
}

DC_KERNEL(fault_misaligned_load, Probe, THREADS, 1, BYTES) {
    float x = value(p);
    if (at_fault(p) && threadIdx.x == 5) x = dc::load<4>(dc::ptr<const float>(p.x) + 1)[0];
    put(p, 2 * x);
}
DC_KERNEL(fault_misaligned_store, Probe, THREADS, 1, BYTES) {
    put(p, 2 * value(p));
    if (at_fault(p) && threadIdx.x == 5) dc::store(dc::ptr<float>(p.y) + 1, dc::Vec<float, 2>{});
}
DC_KERNEL(fault_misaligned_matrix, Probe, THREADS, 1, 4 * BYTES) {
    unsigned char* s = dc::shared<unsigned char[4 * BYTES]>();
    uint32_t r[1];
    dc::ldmatrix<1, false>(r, s + (at_fault(p) && threadIdx.x == 5 ? 8 : 0));
    put(p, 2 * value(p));
}
DC_KERNEL(fault_endless_recursion, Probe, THREADS, 1, BYTES) {
    struct Deep {
        static int down(volatile int* above, int n) {
            volatile int frame[256] = {n + above[0]};
            return n ? down(frame, n - 1) + frame[0] : 0;
        }
    };
    volatile int top[1] = {0};
    if (at_fault(p) && threadIdx.x == 5) top[0] = Deep::down(top, 1 << 20);
    put(p, 2 * value(p) + 0 * float(top[0] & 1));
}
DC_KERNEL(fault_too_much_shared, Probe, THREADS, 1, 228 << 10) { twice(p); }
DC_KERNEL(fault_odd_threads, Probe, 40, 1, BYTES) { put(p, 0); }

// ---- What primitives do -----------------------------------------------------------------------

namespace {
/// Registers of a warp, lane by lane: a and b in x (6 words a lane), c and d (4 words a lane) in y.
template <int A, int B, class Run>
DC_FN void on_registers(const Probe& p, Run run) {
    const uint32_t* x = dc::ptr<const uint32_t>(p.x) + threadIdx.x * 6;
    float* y = dc::ptr<float>(p.y) + threadIdx.x * 4;
    uint32_t a[A], b[B];
    float d[4];
    for (int i = 0; i < A; ++i) a[i] = x[i];
    for (int i = 0; i < B; ++i) b[i] = x[4 + i];
    for (int i = 0; i < 4; ++i) d[i] = y[i];
    run(d, a, b);
    for (int i = 0; i < 4; ++i) y[i] = d[i];
}
}  // namespace

#define MMA(NAME, T)                                                                                             \
    DC_KERNEL(fault_free_m16n8k16_##NAME, Probe, 32, 1, 0) {                                                     \
        on_registers<4, 2>(p, [](auto& d, auto& a, auto& b) { dc::mma_m16n8k16<T>(d, a, b); });                  \
    }                                                                                                            \
    DC_KERNEL(fault_free_m16n8k8_##NAME, Probe, 32, 1, 0) {                                                      \
        on_registers<2, 1>(p, [](auto& d, auto& a, auto& b) { dc::mma_m16n8k8<T>(d, a, b); });                   \
    }
MMA(bf16, dc::bf16)
MMA(f16, dc::f16)
#undef MMA
DC_KERNEL(fault_free_m16n8k8_tf32, Probe, 32, 1, 0) {
    on_registers<4, 2>(p, [](auto& d, auto& a, auto& b) { dc::mma_m16n8k8_tf32(d, a, b); });
}

namespace {
/// As kernels do it: x is a row-major 16×16, `more` a row-major 16×8 of T, y = x · more, through ldmatrix.
template <class T>
DC_FN void product(const Probe& p) {
    struct Smem {
        alignas(16) T a[16][24], b[16][8];
    };
    auto& s = dc::shared<Smem>();
    const int lane = dc::lane();
    for (int i = lane; i < 256; i += 32) s.a[i / 16][i % 16] = dc::ptr<const T>(p.x)[i];
    for (int i = lane; i < 128; i += 32) s.b[i / 8][i % 8] = dc::ptr<const T>(p.more)[i];
    __syncthreads();
    uint32_t a[4], b[2];
    dc::ldmatrix<4, false>(a, &s.a[lane % 16][lane / 16 * 8]);
    dc::ldmatrix<2, true>(b, &s.b[lane % 16][0]);
    float d[4] = {};
    dc::mma_m16n8k16<T>(d, a, b);
    float* y = dc::ptr<float>(p.y);
    for (int i = 0; i < 4; ++i) y[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

/// `more`: for each lane the index in x (16-bit values) of the row that it gives; y: COUNT words a lane.
template <int COUNT, bool TRANSPOSED>
DC_FN void matrices(const Probe& p) {
    auto& s = dc::shared<uint16_t[512]>();
    for (int i = dc::lane(); i < 512; i += 32) s[i] = dc::ptr<const uint16_t>(p.x)[i];
    __syncthreads();
    uint32_t r[COUNT];
    dc::ldmatrix<COUNT, TRANSPOSED>(r, &s[dc::ptr<const int32_t>(p.more)[dc::lane()]]);
    for (int i = 0; i < COUNT; ++i) dc::ptr<uint32_t>(p.y)[dc::lane() * COUNT + i] = r[i];
}
}  // namespace

DC_KERNEL(fault_free_product_bf16, Probe, 32, 1, 1024) { product<dc::bf16>(p); }
DC_KERNEL(fault_free_product_f16, Probe, 32, 1, 1024) { product<dc::f16>(p); }

#define LDMATRIX(COUNT)                                                                            \
    DC_KERNEL(fault_free_ldmatrix_x##COUNT, Probe, 32, 1, 1024) { matrices<COUNT, false>(p); }     \
    DC_KERNEL(fault_free_ldmatrix_x##COUNT##_trans, Probe, 32, 1, 1024) { matrices<COUNT, true>(p); }
LDMATRIX(1)
LDMATRIX(2)
LDMATRIX(4)
#undef LDMATRIX

/// x: 96 floats, `more`: 96 lanes to read from. y, eight floats a thread: shuffle, shuffle_xor 5, ballot of
/// positive values (bits), warp sum, warp largest, block sum, block largest, block sum again.
DC_KERNEL(fault_free_exchange, Probe, 96, 1, 16) {
    const float x = dc::ptr<const float>(p.x)[threadIdx.x];
    float* y = dc::ptr<float>(p.y) + threadIdx.x * 8;
    auto& scratch = dc::shared<float[3]>();
    y[0] = dc::shuffle(x, dc::ptr<const int32_t>(p.more)[threadIdx.x]);
    y[1] = dc::shuffle_xor(x, 5);
    const unsigned positive = dc::ballot(x > 0);
    std::memcpy(y + 2, &positive, 4);
    y[3] = dc::warp_sum(x);
    y[4] = dc::warp_max(x);
    y[5] = dc::block_sum<96>(x, scratch);
    y[6] = dc::block_max<96>(x, scratch);
    y[7] = dc::block_sum<96>(1, scratch);
}

/// Every thread of every block adds its x to y[0] and counts itself in y[1].
DC_KERNEL(fault_free_atomics, Probe, THREADS, 1, 0) {
    dc::atomic_add(dc::ptr<float>(p.y), value(p));
    dc::atomic_add(dc::ptr<float>(p.y) + 1, 1);
}

/// y[i] = the f32 that the 16 bits i are.
DC_KERNEL(fault_free_from_bf16, Probe, THREADS, 1, 0) {
    for (int i = threadIdx.x; i < 65536; i += THREADS) dc::ptr<float>(p.y)[i] = dc::to_f32(dc::bf16{uint16_t(i)});
}
DC_KERNEL(fault_free_from_f16, Probe, THREADS, 1, 0) {
    for (int i = threadIdx.x; i < 65536; i += THREADS) dc::ptr<float>(p.y)[i] = dc::to_f32(dc::f16{uint16_t(i)});
}
/// y[i] = x[i] in both half precisions: bf16 in the low 16 bits.
DC_KERNEL(fault_free_to_half, Probe, THREADS, 1, 0) {
    for (int i = threadIdx.x; i < p.n; i += THREADS) {
        const float x = dc::ptr<const float>(p.x)[i];
        const uint32_t b = dc::pack2<dc::bf16>(x, 0) & 0xffff, h = dc::pack2<dc::f16>(0, x) & 0xffff0000u;
        dc::ptr<uint32_t>(p.y)[i] = b | h;
    }
}
/// y: 16 bytes a thread copied from x by cp.async in pieces of 4, 8 and 16, of which `more` bytes are read.
DC_KERNEL(fault_free_copy_sizes, Probe, 32, 1, 3 * 512) {
    auto& s = dc::shared<unsigned char[3 * 512]>();
    const unsigned char* x = dc::ptr<const unsigned char>(p.x) + threadIdx.x * 16;
    const int valid = dc::ptr<const int32_t>(p.more)[threadIdx.x], at = threadIdx.x * 16;
    for (int i = 0; i < 16; i += 4) dc::cp_async<4>(s + at + i, x + i, dc::min(dc::max(valid - i, 0), 4));
    dc::cp_async_commit();
    for (int i = 0; i < 16; i += 8) dc::cp_async<8>(s + 512 + at + i, x + i, dc::min(dc::max(valid - i, 0), 8));
    dc::cp_async_commit();
    dc::cp_async<16>(s + 1024 + at, x, valid);
    dc::cp_async_commit();
    dc::cp_async_wait<0>();
    for (int k = 0; k < 3; ++k) std::memcpy(dc::ptr<unsigned char>(p.y) + k * 512 + at, s + k * 512 + at, 16);
}
