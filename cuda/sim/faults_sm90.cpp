// As faults.cpp, for what sm_90 adds (cuda/include/sm90.cuh): planted faults of barriers, tensor copies and warpgroup
// products, and kernels that show what they do.
#include "../include/sm90.cuh"

namespace {

/// Parameters of every kernel here; the test has the same struct.
struct TensorProbe {
    TensorMap x_map, y_map;
    uint64_t x;     ///< operand
    uint64_t y;     ///< result
    uint64_t more;  ///< numbers
    int32_t n;      ///< elements of x
    int32_t first;  ///< the block that is at fault
    uint64_t reserved[4];
};

constexpr int THREADS = 64;
constexpr unsigned BYTES = THREADS * sizeof(float);

DC_FN bool at_fault(const TensorProbe& p) { return int(blockIdx.x) == p.first; }

// ---- Faults of barriers and tensor copies -----------------------------------------------------

struct Smem {
    alignas(128) float x[THREADS];
    alignas(128) float y[THREADS];
    dc::Barrier full;
};

enum class Fault {
    none, read_before_wait, other_parity, too_many_arrivals, too_few_arrivals, too_many_bytes, too_few_bytes,
    nobody_waits, no_init, no_init_fence, barrier_overwritten, misaligned_load, past_shared, two_loads, no_map,
    other_rank, no_async_fence, one_fences_for_all, store_not_waited, store_not_committed, overwritten_before_store,
    load_over_stores, not_expected
};

/// y = 2x: a box of 16 rows of four values comes by a tensor copy and goes by one.
template <Fault FAULT>
DC_FN void twice(const TensorProbe& p) {
    auto& s = dc::shared<Smem>();
    const bool bad = at_fault(p), chief = threadIdx.x == 0;
    const auto is = [&](Fault f) { return bad && FAULT == f; };
    const int row = blockIdx.x * 16;
    if (chief && !is(Fault::no_init)) {
        s.full.init(is(Fault::too_few_arrivals) ? 2 : 1);
        if (!is(Fault::no_init_fence)) dc::fence_barrier_init();
    }
    if (is(Fault::load_over_stores)) s.x[threadIdx.x] = 1;
    __syncthreads();
    if (chief) {
        const TensorMap* map = &p.x_map;
        if (is(Fault::no_map)) map = reinterpret_cast<const TensorMap*>(s.y);
        if (is(Fault::not_expected))
            s.full.arrive();
        else
            s.full.arrive_expect(is(Fault::too_many_bytes) ? BYTES + 16 : is(Fault::too_few_bytes) ? BYTES - 16 : BYTES);
        if (is(Fault::too_many_arrivals)) s.full.arrive();
        float* to = is(Fault::misaligned_load) ? s.x + 4 : is(Fault::past_shared) ? s.y + THREADS : s.x;
        if (is(Fault::other_rank))
            dc::tma_load_3d(to, map, s.full, 0, row, 0);
        else
            dc::tma_load_2d(to, map, s.full, 0, row);
        if (is(Fault::two_loads)) dc::tma_load_2d(to, map, s.full, 0, row);
        if (is(Fault::barrier_overwritten)) s.full.state = 0;
    }
    if (!is(Fault::read_before_wait) && !is(Fault::nobody_waits)) s.full.wait(is(Fault::other_parity));
    s.y[threadIdx.x] = 2 * s.x[threadIdx.x];
    if (is(Fault::read_before_wait)) s.full.wait(0);
    if (is(Fault::one_fences_for_all) ? chief : !is(Fault::no_async_fence)) dc::fence_async_shared();
    __syncthreads();
    if (chief) {
        dc::tma_store_2d(&p.y_map, s.y, 0, row);
        if (!is(Fault::store_not_committed)) dc::tma_store_commit();
        if (is(Fault::overwritten_before_store)) s.y[0] = 0;
        if (!is(Fault::store_not_waited)) dc::tma_store_wait<0>();
    }
}

#define TWICE(NAME) \
    DC_KERNEL(fault_tensor_##NAME##_sm90, TensorProbe, THREADS, 1, sizeof(Smem)) { twice<Fault::NAME>(p); }

}  // namespace

DC_KERNEL(fault_free_tensor_twice_sm90, TensorProbe, THREADS, 1, sizeof(Smem)) { twice<Fault::none>(p); }
TWICE(read_before_wait)
TWICE(other_parity)
TWICE(too_many_arrivals)
TWICE(too_few_arrivals)
TWICE(too_many_bytes)
TWICE(too_few_bytes)
TWICE(nobody_waits)
TWICE(no_init)
TWICE(no_init_fence)
TWICE(barrier_overwritten)
TWICE(misaligned_load)
TWICE(past_shared)
TWICE(two_loads)
TWICE(no_map)
TWICE(other_rank)
TWICE(no_async_fence)
TWICE(one_fences_for_all)
TWICE(store_not_waited)
TWICE(store_not_committed)
TWICE(overwritten_before_store)
TWICE(load_over_stores)
TWICE(not_expected)
#undef TWICE

// ---- Faults of warpgroup products -------------------------------------------------------------

namespace {

struct ProductSmem {
    alignas(1024) dc::bf16 a[64 * 16];
    dc::bf16 b[8 * 16];
};

enum class Slip {
    none, no_async_fence, no_fence, no_fence_after_wait, read_before_wait, written_before_wait, never_committed,
    never_waited, overwritten_early, half_a_group, other_operands, one_lane_skips, misaligned, swizzle_misaligned
};

/// y = 2x + (ones·ones - 16), of which the part in brackets is a product and 0. 128 threads, of which 64 have an x.
template <Slip SLIP>
DC_FN void twice_and_ones(const TensorProbe& p) {
    auto& s = dc::shared<ProductSmem>();
    const bool bad = at_fault(p);
    const auto is = [&](Slip f) { return bad && SLIP == f; };
    for (int i = threadIdx.x; i < 64 * 16; i += 128) s.a[i] = dc::from_f32<dc::bf16>(1);
    if (threadIdx.x < 8 * 16) s.b[threadIdx.x] = dc::from_f32<dc::bf16>(1);
    if (!is(Slip::no_async_fence)) dc::fence_async_shared();
    __syncthreads();
    const char* at = reinterpret_cast<const char*>(s.a);
    if (is(Slip::misaligned)) at += 8;
    uint64_t a = dc::wgmma_desc(at, 128, 256, dc::Swizzle::none);
    const uint64_t b = dc::wgmma_desc(s.b, 128, 256, dc::Swizzle::none);
    if (is(Slip::swizzle_misaligned)) a = dc::wgmma_desc(at + 128, 16, 1024, dc::Swizzle::bytes_128);
    if (is(Slip::other_operands) && dc::warp() == 2) a = dc::wgmma_advance(a, 128);
    float acc[4] = {};
    if (!is(Slip::no_fence)) dc::wgmma_fence(acc);
    if (!(is(Slip::half_a_group) && dc::warp() > 1) && !(is(Slip::one_lane_skips) && threadIdx.x == 5))
        dc::wgmma<dc::bf16, 8, false, false>(acc, a, b, true);
    if (!is(Slip::never_committed)) dc::wgmma_commit();
    float early = 0;
    if (is(Slip::read_before_wait)) early = acc[0];
    if (is(Slip::written_before_wait)) acc[1] = 0;
    if (is(Slip::overwritten_early)) s.a[threadIdx.x] = dc::from_f32<dc::bf16>(0);
    if (!is(Slip::never_waited)) dc::wgmma_wait<0>(acc);
    if (is(Slip::no_fence_after_wait)) {
        acc[0] = 0;
        dc::wgmma<dc::bf16, 8, false, false>(acc, a, b, true);
        dc::wgmma_commit();
        dc::wgmma_wait<0>(acc);
    }
    const int i = blockIdx.x * 64 + threadIdx.x;
    if (threadIdx.x < 64 && i < p.n)
        dc::ptr<float>(p.y)[i] = 2 * dc::ptr<const float>(p.x)[i] + (acc[0] - 16) + 0 * early;
}

#define PRODUCT(NAME)                                                                         \
    DC_KERNEL(fault_product_##NAME##_sm90, TensorProbe, 128, 1, sizeof(ProductSmem)) {        \
        twice_and_ones<Slip::NAME>(p);                                                        \
    }

}  // namespace

DC_KERNEL(fault_free_product_twice_sm90, TensorProbe, 128, 1, sizeof(ProductSmem)) { twice_and_ones<Slip::none>(p); }
PRODUCT(no_async_fence)
PRODUCT(no_fence)
PRODUCT(no_fence_after_wait)
PRODUCT(read_before_wait)
PRODUCT(written_before_wait)
PRODUCT(never_committed)
PRODUCT(never_waited)
PRODUCT(overwritten_early)
PRODUCT(half_a_group)
PRODUCT(other_operands)
PRODUCT(one_lane_skips)
PRODUCT(misaligned)
PRODUCT(swizzle_misaligned)
#undef PRODUCT

/// Half of the warps wait at a barrier for more threads than come.
DC_KERNEL(fault_named_barrier_sm90, TensorProbe, THREADS, 1, 0) {
    if (!at_fault(p) || dc::warp() == 0) dc::named_barrier_sync(1, THREADS);
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i < p.n) dc::ptr<float>(p.y)[i] = 2 * dc::ptr<const float>(p.x)[i];
}

// ---- What primitives do -----------------------------------------------------------------------

namespace {

/// An image of shared memory, and the numbers of `more` that say where operands lie in it: start, leading, stride
/// and swizzle of a, then of b. y: the accumulators, N/2 a thread.
template <class T, int N, bool A_TRANS, bool B_TRANS, bool OWN_A>
DC_FN void product(const TensorProbe& p) {
    auto& s = dc::shared<unsigned char[64 << 10]>();
    for (int i = threadIdx.x * 16; i < p.n; i += 128 * 16) std::memcpy(s + i, dc::ptr<const unsigned char>(p.x) + i, 16);
    dc::fence_async_shared();
    __syncthreads();
    const int32_t* place = dc::ptr<const int32_t>(p.more);
    const auto desc = [&](const int32_t* d) {
        return dc::wgmma_desc(s + d[0], d[1], d[2], static_cast<dc::Swizzle>(d[3]));
    };
    float acc[N / 2];
    for (float& x : acc) x = 1;
    dc::wgmma_fence(acc);
    if constexpr (OWN_A) {
        // Registers as the image has them, four a thread, from place[0].
        uint32_t a[4];
        std::memcpy(a, s + place[0] + threadIdx.x * 16, 16);
        dc::wgmma<T, N, A_TRANS, B_TRANS>(acc, a, desc(place + 4), true);
    } else {
        dc::wgmma<T, N, A_TRANS, B_TRANS>(acc, desc(place), desc(place + 4), true);
    }
    dc::wgmma_commit();
    dc::wgmma_wait<0>(acc);
    for (int i = 0; i < N / 2; ++i) dc::ptr<float>(p.y)[threadIdx.x * (N / 2) + i] = acc[i];
}

}  // namespace

#define WGMMA(NAME, T, N, ORDER, A_TRANS, B_TRANS, OWN_A)                                               \
    DC_KERNEL(fault_free_wgmma_##NAME##_n##N##_##ORDER##_sm90, TensorProbe, 128, 1, 64 << 10) {         \
        product<T, N, A_TRANS, B_TRANS, OWN_A>(p);                                                      \
    }
#define ORDERS(N)                                          \
    WGMMA(bf16, dc::bf16, N, kk, false, false, false)      \
    WGMMA(bf16, dc::bf16, N, km, false, true, false)       \
    WGMMA(bf16, dc::bf16, N, mk, true, false, false)       \
    WGMMA(bf16, dc::bf16, N, mm, true, true, false)        \
    WGMMA(bf16, dc::bf16, N, rk, false, false, true)       \
    WGMMA(f16, dc::f16, N, kk, false, false, false)
ORDERS(8)
ORDERS(72)
ORDERS(256)
#undef ORDERS
#undef WGMMA

/// Copies a box, of which `more` has the coordinates, to shared memory and from there to y as it lies (n bytes).
/// blockIdx.x says how many axes the map has.
DC_KERNEL(fault_free_tensor_load_sm90, TensorProbe, 32, 1, 33 << 10) {
    struct Box {
        alignas(1024) unsigned char bytes[32 << 10];
        dc::Barrier full;
    };
    auto& s = dc::shared<Box>();
    const int32_t* c = dc::ptr<const int32_t>(p.more);
    if (dc::elect_one()) {
        s.full.init(1);
        dc::fence_barrier_init();
        dc::prefetch_tensor_map(&p.x_map);
        s.full.arrive_expect(p.n);
        switch (c[5]) {
            case 2: dc::tma_load_2d(s.bytes, &p.x_map, s.full, c[0], c[1]); break;
            case 3: dc::tma_load_3d(s.bytes, &p.x_map, s.full, c[0], c[1], c[2]); break;
            case 4: dc::tma_load_4d(s.bytes, &p.x_map, s.full, c[0], c[1], c[2], c[3]); break;
            default: dc::tma_load_5d(s.bytes, &p.x_map, s.full, c[0], c[1], c[2], c[3], c[4]);
        }
    }
    dc::sync_warp();
    s.full.wait(0);
    for (int i = threadIdx.x; i < p.n; i += 32) dc::ptr<unsigned char>(p.y)[i] = s.bytes[i];
}

/// The other way: n bytes of x as they lie in shared memory to the box at the coordinates.
DC_KERNEL(fault_free_tensor_store_sm90, TensorProbe, 32, 1, 32 << 10) {
    auto& s = dc::shared<unsigned char[32 << 10]>();
    const int32_t* c = dc::ptr<const int32_t>(p.more);
    for (int i = threadIdx.x; i < p.n; i += 32) s[i] = dc::ptr<const unsigned char>(p.x)[i];
    dc::fence_async_shared();
    dc::sync_warp();
    if (dc::elect_one()) {
        switch (c[5]) {
            case 2: dc::tma_store_2d(&p.y_map, s, c[0], c[1]); break;
            case 3: dc::tma_store_3d(&p.y_map, s, c[0], c[1], c[2]); break;
            default: dc::tma_store_4d(&p.y_map, s, c[0], c[1], c[2], c[3]);
        }
        dc::tma_store_commit();
        dc::tma_store_wait<0>();
    }
}

/// Two warps take turns through a ring of one slot: warp 0 writes i, warp 1 adds it up; and barriers that threads
/// only arrive at. y: the sum 0 + … + n - 1 in every lane of warp 1.
DC_KERNEL(fault_free_ring_sm90, TensorProbe, THREADS, 1, 64) {
    struct Ring {
        dc::Barrier full, empty;
        int slot;
    };
    auto& s = dc::shared<Ring>();
    if (threadIdx.x == 0) {
        s.full.init(1);
        s.empty.init(32);
    }
    __syncthreads();
    if (dc::warp() == 0) {
        for (int i = 0; i < p.n; ++i) {
            s.empty.wait((i & 1) ^ 1);
            if (dc::lane() == 7) s.slot = i;
            dc::sync_warp();
            if (dc::lane() == 3) s.full.arrive();
        }
        dc::named_barrier_arrive(1, THREADS);
    } else {
        float sum = 0;
        for (int i = 0; i < p.n; ++i) {
            s.full.wait(i & 1);
            sum += float(s.slot);
            s.empty.arrive();
        }
        dc::named_barrier_sync(1, THREADS);
        dc::ptr<float>(p.y)[dc::lane()] = sum;
    }
}
