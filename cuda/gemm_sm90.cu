// Matrix products by Hopper's own instructions, for sm_90a alone: what gemm.cu computes in half precision, where rows
// are whole 16 bytes. Everything else, and every other card, takes the kernels there.
//
// gemm_{nt,nn,tn}_<tile>_{bf16,f16}_sm90 (n, t: A or B as is, transposed): a block of nine warps. The last is the
//   producer: one of its threads copies steps of 64 in k by TMA into a ring of stages, 128-byte swizzled. Two
//   warpgroups of four warps multiply, 64 rows of the tile each, by wgmma straight from the ring: neither operand
//   passes through registers, and no thread computes an address in the loop. A warpgroup keeps one step under way
//   while it issues the next, and gives a stage back once the step after it is issued.
//   128x256: 4 stages of 48 KiB, one block a multiprocessor; 128 accumulators a thread
//   128x128: 3 stages of 32 KiB, two blocks a multiprocessor: one multiplies while the other stores
//   Compute-bound: a step of 128x256 is 4.2 MFLOP, 1 024 clocks of the tensor cores, over 48 KiB that come mostly from
//   the second-level cache (48 bytes a clock and multiprocessor, near what an H100 gives when all ask at once).
//   Transposed operands (k along rows in memory) are read by the descriptors' major-ness: same speed.
//   The results leave through the epilogue of all products (include/epilogue.cuh), in the ring's memory.
//
// Chosen in src/ops/matmul/cuda_sm90.rs. Never run on hardware yet: the shares of the peak there are assumptions.
#include "include/epilogue.cuh"
#include "include/gemm.cuh"
#include "include/sm90.cuh"
#include "../ffi/gemm.h"

namespace {

/// Inner extent of a step: a row of the swizzle.
constexpr int STEP = 64;
constexpr int ROW_BYTES = 128, PATTERN_BYTES = 8 * ROW_BYTES;
/// Bytes of 64 outer indices of a step, a box where k is not along the rows.
constexpr int PANEL_BYTES = 64 * ROW_BYTES;
constexpr int GROUPS = 2, CONSUMER_WARPS = 4 * GROUPS, THREADS = 32 * (CONSUMER_WARPS + 1);
constexpr int ROWS = 64 * GROUPS;

template <int COLUMNS, int STAGES>
struct Ring {
    unsigned char a[STAGES][ROWS * ROW_BYTES];
    unsigned char b[STAGES][COLUMNS * ROW_BYTES];
    dc::Barrier full[STAGES], empty[STAGES];
};

/// Copies OUTER indices from `outer` of a step of an operand, of which k is along the rows or not.
template <int OUTER, bool ALONG_K>
DC_FN void load_step(unsigned char* to, const TensorMap* map, dc::Barrier& full, int k, int outer, int batch) {
    if (ALONG_K) {
        dc::tma_load_3d(to, map, full, k, outer, batch);
    } else {
        DC_UNROLL
        for (int i = 0; i < OUTER / 64; ++i)
            dc::tma_load_3d(to + i * PANEL_BYTES, map, full, outer + i * 64, k, batch);
    }
}

/// The descriptor of 16 k, from `k` of a step on, of the outer indices from `panel`·64.
template <bool ALONG_K>
DC_FN uint64_t operand(const unsigned char* stage, int panel) {
    return dc::wgmma_desc(stage + panel * PANEL_BYTES, ALONG_K ? 16 : PANEL_BYTES, PATTERN_BYTES,
                          dc::Swizzle::bytes_128);
}
template <bool ALONG_K>
DC_FN uint64_t from_k(uint64_t desc, int k) {
    return dc::wgmma_advance(desc, ALONG_K ? k * 2 : k * ROW_BYTES);
}

template <class T, int COLUMNS, int STAGES, bool A_TRANS, bool B_TRANS>
DC_FN void gemm(const GemmSm90& p) {
    auto& ring = dc::shared<Ring<COLUMNS, STAGES>>();
    const auto place = dc::tile_place(blockIdx.x, dc::ceil_div(p.m, ROWS), dc::ceil_div(p.n, COLUMNS));
    const int row0 = place.row * ROWS, col0 = place.column * COLUMNS, z = blockIdx.z;
    const int k0 = blockIdx.y * p.k_slice, steps = dc::ceil_div(dc::min(p.k - k0, p.k_slice), STEP);
    if (threadIdx.x == 0) {
        DC_UNROLL
        for (int i = 0; i < STAGES; ++i) {
            ring.full[i].init(1);
            ring.empty[i].init(CONSUMER_WARPS);
        }
        dc::fence_barrier_init();
    }
    __syncthreads();

    if (dc::warp() == CONSUMER_WARPS) {
        const TensorMap *a = &p.a[p.grouped ? z : 0], *b = &p.b[p.grouped ? z : 0];
        const int a_item = p.a_batched ? z : 0, b_item = p.b_batched ? z : 0;
        if (dc::elect_one()) {
            dc::prefetch_tensor_map(a);
            dc::prefetch_tensor_map(b);
            DC_ROLL
            for (int step = 0, slot = 0, turn = 0; step < steps; ++step) {
                ring.empty[slot].wait(turn ^ 1);
                auto& full = ring.full[slot];
                full.arrive_expect((ROWS + COLUMNS) * ROW_BYTES);
                load_step<ROWS, !A_TRANS>(ring.a[slot], a, full, k0 + step * STEP, row0, a_item);
                load_step<COLUMNS, B_TRANS>(ring.b[slot], b, full, k0 + step * STEP, col0, b_item);
                if (++slot == STAGES) slot = 0, turn ^= 1;
            }
        }
        return;
    }

    const int group = dc::warp() / 4;
    float acc[COLUMNS / 2];
    DC_UNROLL
    for (int i = 0; i < COLUMNS / 2; ++i) acc[i] = 0;
    DC_ROLL
    for (int step = 0, slot = 0, turn = 0, last = 0; step < steps; ++step) {
        ring.full[slot].wait(turn);
        const uint64_t a = operand<!A_TRANS>(ring.a[slot], group), b = operand<B_TRANS>(ring.b[slot], 0);
        dc::wgmma_fence(acc);
        DC_UNROLL
        for (int k = 0; k < STEP; k += 16)
            dc::wgmma<T, COLUMNS, A_TRANS, !B_TRANS>(acc, from_k<!A_TRANS>(a, k), from_k<B_TRANS>(b, k), true);
        dc::wgmma_commit();
        dc::wgmma_wait<1>();  // the step before
        if (step && dc::lane() == 0) ring.empty[last].arrive();
        last = slot;
        if (++slot == STAGES) slot = 0, turn ^= 1;
    }
    dc::wgmma_wait<0>(acc);
    dc::named_barrier_sync(1, 32 * CONSUMER_WARPS);  // nobody reads the ring any more

    constexpr int PATCH = dc::patch_bytes<COLUMNS / 8>;
    static_assert(CONSUMER_WARPS * PATCH <= int(sizeof ring.a + sizeof ring.b), "the ring has room for the patches");
    float* patch = reinterpret_cast<float*>(ring.a[0] + dc::warp() * PATCH);
    auto epilogue = p.epilogue;
    uint64_t y = p.y[0];
    int64_t first = (int64_t(blockIdx.y) * gridDim.z + z) * p.m * p.n;
    if (p.grouped) {
        y = p.y[z];
        epilogue.bias = p.bias[z];
        first = 0;
    }
    const auto& fragments = reinterpret_cast<const float(&)[1][COLUMNS / 8][4]>(acc);
    dc::finish_warp<T>(epilogue, fragments, patch, row0 + dc::warp() * 16, col0, p.m, p.n, y, first, p.y_f32);
}

}  // namespace

#define GEMM(ORDER, A_TRANS, B_TRANS, COLUMNS, STAGES, BLOCKS, NAME, T)                                          \
    DC_KERNEL(gemm_##ORDER##_128x##COLUMNS##_##NAME##_sm90, GemmSm90, THREADS, BLOCKS,                           \
              (sizeof(Ring<COLUMNS, STAGES>))) {                                                                 \
        gemm<T, COLUMNS, STAGES, A_TRANS, B_TRANS>(p);                                                           \
    }
// The largest tile is for the layers of a forward pass; gradients take the other.
#define HALF(NAME, T)                                    \
    GEMM(nt, false, true, 256, 4, 1, NAME, T)            \
    GEMM(nt, false, true, 128, 3, 2, NAME, T)            \
    GEMM(nn, false, false, 128, 3, 2, NAME, T)           \
    GEMM(tn, true, false, 128, 3, 2, NAME, T)
HALF(bf16, dc::bf16)
HALF(f16, dc::f16)
#undef HALF
#undef GEMM
