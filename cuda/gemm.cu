// Matrix products: y = epilogue(A·B), batched, either operand stored transposed. The kernels of `linear`
// and `matmul`.
//
// gemm_{nn,nt,tn,tt}_<tile>_{bf16,f16}: the tensor cores, sm_80 style (n, t: A or B as is, transposed).
//   Compute-bound: 1152 features of 4096 tokens to 4608 are 43.5 GFLOP over 58 MB, 750 a byte. A step of 32
//   in k is copied by cp.async while three more are on their way, and read by ldmatrix without bank conflicts
//   (include/gemm.cuh). Warps own 64x64 results (128 accumulators a thread): 8 ldmatrix feed 32 mma, 64 bytes
//   of shared memory a clock where 128 can be read.
//   128x256: 8 warps, 96 KiB, one block a multiprocessor, least traffic
//   128x128: 4 warps, 64 KiB, two blocks a multiprocessor: one fills the pipe while the other starts or ends
//   64x64:   4 warps of 32x32, 32 KiB, for what has too few results to fill the device with larger tiles
//   A step of a warp is about 200 instructions (inside the matrix, with rows of whole 16 bytes), 64 of them mma,
//   which hold the pipe for 512 clocks: issue slots are no limit. Expected on A100: 75-80 % of 312 TFLOP/s
//   while every multiprocessor has its tiles, 65-78 % over whole products of PixArt's sizes, where the last
//   wave is not full. An H100 would need wgmma for more than about 60 %. Not yet measured on either.
//
//   An f32 result (a residual stream) may be written in the operands' type too, for the next product, and
//   the block that finishes the last tile of some rows may write their norms (include/row_norms.cuh): neither
//   reads the stream from memory again. Of 1152 columns and rows 128 a tile, that block reads 0.6 MB from the
//   second-level cache, about 10 us of one multiprocessor for each 128 rows; the norm as a launch of its own
//   takes 33 us for 8192 rows at 1.7 TB/s.
//
// gemm_rows_{bf16,f16}: up to 16 rows of A (the embedding of a time step, one token). Memory-bound on B:
//   every block streams 16 columns of B once from memory, 16 bytes a lane, straight into the fragments of mma
//   (which k a lane holds is free as long as A agrees), 8 warps taking turns along k, 2 turns in flight.
//
// gemm_simt_<tile>_f32_{f32,bf16,f16}: f32 on the FMA units; B may be stored in half precision. Compute-bound
//   at 19.5 TFLOP/s; 8x8 results a thread (4 LDS.128 for 64 FMA), step 16, registers prefetch the next step.
//   Any layout: the order of storage only changes how a tile is read, which is not the inner loop.
//
// gemm_rows_f32_{f32,bf16,f16}: as gemm_rows, a warp computes 4 columns for 8 rows.
//
// A launch computes the items of a batch, or up to 8 products of the same extents that have nothing else in common
// (`grouped`, with the addresses among the parameters): `linear_group`.
//
// gemm_sum_{f32,bf16,f16}: adds the parts of a product whose k was split over blocks, in order.
//
// Which one runs is chosen in src/ops/matmul/cuda.rs.
#include "include/epilogue.cuh"
#include "include/gemm.cuh"
#include "include/row_norms.cuh"
#include "../ffi/gemm.h"

namespace {

/// The operands of this block's product: item blockIdx.z of a batch, or member of a group.
template <class A, class B>
struct Operands {
    const A* a;
    const B* b;
    int64_t a_step;
};

template <class A, class B>
DC_FN Operands<A, B> operands(const Gemm& p) {
    if (p.grouped) {
        const GemmMember& own = p.members[blockIdx.z];
        return {dc::ptr<const A>(own.a), dc::ptr<const B>(own.b), own.a_step};
    }
    return {dc::ptr<const A>(p.a) + blockIdx.z * p.a_batch, dc::ptr<const B>(p.b) + blockIdx.z * p.b_batch, p.a_step};
}

/// Where its result goes: the matrix begins with element `first` of what is at `y`.
struct Result {
    uint64_t y;
    int64_t first;
    Epilogue epilogue;
};

/// `part` is which of the partial sums the block computes.
DC_FN Result result(const Gemm& p, int part) {
    Result r{p.y, (int64_t(part) * gridDim.z + blockIdx.z) * p.m * p.n, p.epilogue};
    if (p.grouped) {
        r.y = p.members[blockIdx.z].y;
        r.first = 0;
        r.epilogue.bias = p.members[blockIdx.z].bias;
    }
    return r;
}

// ---- Tensor cores ---------------------------------------------------------------------------------------

constexpr int STAGES = 4;

template <class T, int BM, int BN, int WM, int WN>
using MmaForm = dc::GemmForm<STAGES, T, BM, BN, WM, WN>;

template <class T, int BM, int BN, int WM, int WN, bool A_TRANS, bool B_TRANS>
DC_FN void gemm_mma(const Gemm& p) {
    using Form = MmaForm<T, BM, BN, WM, WN>;
    using TileA = dc::GemmTile<T, BM, !A_TRANS, Form::THREADS>;
    using TileB = dc::GemmTile<T, BN, B_TRANS, Form::THREADS>;
    T* shared = &dc::shared<T>();
    const auto place = dc::tile_place(blockIdx.x, dc::ceil_div(p.m, BM), dc::ceil_div(p.n, BN));
    const int row0 = place.row * BM, col0 = place.column * BN;
    const auto [a, b, a_step] = operands<T, T>(p);
    const auto tile_a = TileA::at(a + (A_TRANS ? row0 : row0 * a_step), a_step, p.m - row0, p.a_align);
    const auto tile_b = TileB::at(b + (B_TRANS ? col0 * p.b_step : col0), p.b_step, p.n - col0, p.b_align);
    const int row = dc::warp() / (BN / WN) * WM, col = dc::warp() % (BN / WN) * WN;
    const int k0 = blockIdx.y * p.k_slice, k_end = dc::min(p.k, k0 + p.k_slice);
    float acc[Form::MI][Form::NI][4] = {};
    dc::gemm_steps<STAGES>(acc, tile_a, tile_b, shared, shared + STAGES * TileA::ELEMENTS, k0, k_end, row, col);
    float* patch = &dc::shared<float>() + dc::warp() * (dc::patch_bytes<Form::NI> / 4);
    const Result to = result(p, blockIdx.y);
    dc::finish_warp<T>(to.epilogue, acc, patch, row0 + row, col0 + col, p.m, p.n, to.y, to.first, p.y_f32);
    if constexpr (!A_TRANS && B_TRANS)
        dc::norm_finished_rows<T, BM, Form::THREADS>(p.norms, to.y, p.y_f32, place.row, dc::ceil_div(p.n, BN), p.m,
                                                     p.n);
}

// ---- Few rows, tensor cores -----------------------------------------------------------------------------

/// Eight values from an address of any alignment, those from `valid` on zero.
template <class T>
DC_FN dc::Vec<T, 8> first8(const T* from, int valid) {
    dc::Vec<T, 8> v;
    DC_UNROLL
    for (int i = 0; i < 8; ++i) v[i] = i < valid ? from[i] : dc::from_f32<T>(0.0f);
    return v;
}

template <class T>
DC_FN uint32_t pair(const dc::Vec<T, 8>& v, int i) {
    uint32_t r;
    memcpy(&r, &v.v[2 * i], 4);
    return r;
}

constexpr int ROWS_COLUMNS = 16, ROWS_WARPS = 8;

/// A of up to 16 rows, B transposed. The columns of B are the rows of the mma, the rows of A its columns. Of
/// 32 k from k0, the lanes with lane % 4 = t hold k0 + 8t…: the first mma takes the first four of each.
template <class T>
DC_FN void gemm_rows(const Gemm& p) {
    const int g = dc::lane() / 4, t = dc::lane() % 4, col0 = blockIdx.x * ROWS_COLUMNS;
    const auto [a, b, a_step] = operands<T, T>(p);
    // Columns and rows that do not exist read the last one and are not stored.
    const T* b0 = b + dc::min(col0 + g, p.n - 1) * p.b_step;
    const T* b8 = b + dc::min(col0 + g + 8, p.n - 1) * p.b_step;
    const T* a0 = a + dc::min(g, p.m - 1) * a_step;
    const T* a8 = a + dc::min(g + 8, p.m - 1) * a_step;
    float acc[2][4] = {};
    const bool two = p.m > 8;
    struct Held {
        dc::Vec<T, 8> v0, v8, x0, x8;
    };
    const auto fetch = [&](int k, auto load) {
        Held h{load(b0 + k), load(b8 + k), load(a0 + k), {}};
        if (two) h.x8 = load(a8 + k);
        return h;
    };
    const auto multiply = [&](const Held& h) {
        DC_UNROLL
        for (int i = 0; i < 2; ++i) {
            const uint32_t columns[4] = {pair(h.v0, 2 * i), pair(h.v8, 2 * i), pair(h.v0, 2 * i + 1),
                                         pair(h.v8, 2 * i + 1)};
            const uint32_t low[2] = {pair(h.x0, 2 * i), pair(h.x0, 2 * i + 1)};
            const uint32_t high[2] = {pair(h.x8, 2 * i), pair(h.x8, 2 * i + 1)};
            dc::mma_m16n8k16<T>(acc[0], columns, low);
            if (two) dc::mma_m16n8k16<T>(acc[1], columns, high);
        }
    };
    int k = dc::warp() * 32 + t * 8;
    constexpr int TURN = ROWS_WARPS * 32;
    if (dc::min(p.a_align, p.b_align) == 16) {
        const auto whole = [](const T* from) { return dc::load<8>(from); };
        const int end = p.k - 32 + t * 8;  // the last k that all lanes may read from
        for (; k + TURN <= end; k += 2 * TURN) {  // two turns in flight
            const Held first = fetch(k, whole), second = fetch(k + TURN, whole);
            multiply(first);
            multiply(second);
        }
        if (k <= end) {
            multiply(fetch(k, whole));
            k += TURN;
        }
    }
    for (; k - t * 8 < p.k; k += TURN)
        multiply(fetch(k, [&](const T* from) { return first8(from, p.k - k); }));
    struct Parts {
        float warp[ROWS_WARPS][16][ROWS_COLUMNS];  // row of A, column of B
    };
    auto& parts = dc::shared<Parts>();
    auto& own = parts.warp[dc::warp()];
    DC_UNROLL
    for (int i = 0; i < 2; ++i) {
        DC_UNROLL
        for (int c = 0; c < 4; ++c) own[i * 8 + 2 * t + c % 2][g + c / 2 * 8] = acc[i][c];
    }
    __syncthreads();
    const int row = threadIdx.x / ROWS_COLUMNS, c = threadIdx.x % ROWS_COLUMNS, col = col0 + c;
    if (row >= p.m || col >= p.n) return;
    float sum = 0;
    DC_UNROLL
    for (int w = 0; w < ROWS_WARPS; ++w) sum += parts.warp[w][row][c];
    const Result to = result(p, 0);
    const int64_t at = to.first + int64_t(row) * p.n + col;
    if (p.y_f32)
        dc::finish_store(to.epilogue, sum, row, col, dc::ptr<float>(to.y), at);
    else
        dc::finish_store(to.epilogue, sum, row, col, dc::ptr<T>(to.y), at);
}

// ---- f32 ------------------------------------------------------------------------------------------------

template <class T>
DC_FN dc::Vec<float, 4> widened(const dc::Vec<T, 4>& raw) {
    return {dc::to_f32(raw[0]), dc::to_f32(raw[1]), dc::to_f32(raw[2]), dc::to_f32(raw[3])};
}

/// Four values as f32 from an address of any alignment, those from `valid` on zero.
template <class T>
DC_FN dc::Vec<float, 4> load4(const T* from, int valid, bool aligned) {
    if (aligned && valid >= 4) return widened(dc::load<4>(from));
    dc::Vec<float, 4> v;
    DC_UNROLL
    for (int i = 0; i < 4; ++i) v[i] = i < valid ? dc::to_f32(from[i]) : 0.0f;
    return v;
}

constexpr int SIMT_STEP = 16, SIMT_THREADS = 256;

/// OUTER×16 values on their way from memory through registers to shared memory, there [k][outer] in f32.
template <class T, int OUTER>
struct SimtTile {
    static constexpr int GROUPS = OUTER * SIMT_STEP / 4 / SIMT_THREADS;  // of four values, for each thread
    const T* next;  // this thread's first group of the next step
    int64_t step;   // elements between rows as stored
    int outer;      // how many outer indices there are, from the tile's first
    bool along_k, aligned;
    dc::Vec<float, 4> held[GROUPS];

    // Few registers are left: what parameters and the thread's index give is not kept.
    DC_FN int in_row() const { return (along_k ? SIMT_STEP : OUTER) / 4; }
    /// Of this thread's first group, in rows as stored.
    DC_FN int row() const { return threadIdx.x / in_row(); }
    DC_FN int column() const { return threadIdx.x % in_row() * 4; }
    /// Rows between its groups.
    DC_FN int apart() const { return SIMT_THREADS / in_row(); }

    /// The tile whose first element, at k = 0, is at `from`; `k` the first that is wanted.
    DC_FN SimtTile(const T* from, int64_t step, int outer, int align, bool along_k, int k)
        : step(step), outer(outer), along_k(along_k), aligned(align >= 4 * int(sizeof(T))) {
        next = from + (along_k ? k : k * step) + row() * step + column();
    }

    /// Reads the next step, of which `left` k exist; what does not is zero.
    DC_FN void fetch(int left) {
        if (aligned && outer >= OUTER && left >= SIMT_STEP) {
            DC_UNROLL
            for (int i = 0; i < GROUPS; ++i) held[i] = widened(dc::load<4>(next + i * apart() * step));
        } else {
            const int rows = along_k ? outer : left, columns = along_k ? left : outer;
            DC_UNROLL
            for (int i = 0; i < GROUPS; ++i) {
                const bool live = row() + i * apart() < rows;
                held[i] = load4(next + i * apart() * step, live ? columns - column() : 0, false);
            }
        }
        next += along_k ? SIMT_STEP : SIMT_STEP * step;
    }

    /// Where (k, outer) lies: eight columns on for every four k, so that threads that hold four k of one
    /// outer index write to all banks.
    static DC_FN int place(int k, int outer) { return k * OUTER + (outer ^ (k / 4 * 8)); }

    DC_FN void put(float* to) const {
        DC_UNROLL
        for (int i = 0; i < GROUPS; ++i) {
            if (along_k) {
                float* at = to + place(column(), row() + i * (SIMT_THREADS * 4 / SIMT_STEP));
                DC_UNROLL
                for (int j = 0; j < 4; ++j) at[j * OUTER] = held[i][j];
            } else {
                dc::store(to + place(row() + i * (SIMT_THREADS * 4 / OUTER), column()), held[i]);
            }
        }
    }
};

/// SIDE×SIDE results a block; a thread has 4 rows and 4 columns of each 64×64 part.
template <int SIDE>
struct SimtShared {
    float a[2][SIMT_STEP * SIDE], b[2][SIMT_STEP * SIDE];
};

template <class T, int SIDE>
DC_FN void gemm_simt(const Gemm& p) {
    constexpr int PARTS = SIDE / 64;
    static_assert(sizeof(SimtShared<SIDE>) >= 64 * SIDE * sizeof(float), "room for the patch of the epilogue");
    auto& shared = dc::shared<SimtShared<SIDE>>();
    const auto place = dc::tile_place(blockIdx.x, dc::ceil_div(p.m, SIDE), dc::ceil_div(p.n, SIDE));
    const int row0 = place.row * SIDE, col0 = place.column * SIDE;
    const auto [a, b, a_step] = operands<float, T>(p);
    using TileA = SimtTile<float, SIDE>;
    using TileB = SimtTile<T, SIDE>;
    const int k0 = blockIdx.y * p.k_slice, k_end = dc::min(p.k, k0 + p.k_slice);
    TileA tile_a(a + (p.a_trans ? row0 : row0 * a_step), a_step, p.m - row0, p.a_align, !p.a_trans, k0);
    TileB tile_b(b + (p.b_trans ? col0 * p.b_step : col0), p.b_step, p.n - col0, p.b_align, p.b_trans, k0);
    // Warps own 4×8 threads: four distinct vectors of a and eight of b a read.
    const int ty = dc::warp() / 2 * 4 + dc::lane() / 8, tx = dc::warp() % 2 * 8 + dc::lane() % 8;
    float acc[PARTS][4][PARTS][4] = {};
    tile_a.fetch(k_end - k0);
    tile_b.fetch(k_end - k0);
    int slot = 0;
    for (int k = k0; k < k_end; k += SIMT_STEP, slot ^= 1) {
        tile_a.put(shared.a[slot]);
        tile_b.put(shared.b[slot]);
        __syncthreads();  // two slots: nobody still reads the one that the next step fills
        if (k + SIMT_STEP < k_end) {
            tile_a.fetch(k_end - k - SIMT_STEP);
            tile_b.fetch(k_end - k - SIMT_STEP);
        }
        DC_UNROLL
        for (int i = 0; i < SIMT_STEP; ++i) {
            dc::Vec<float, 4> x[PARTS], w[PARTS];
            DC_UNROLL
            for (int h = 0; h < PARTS; ++h) {
                x[h] = dc::load<4>(shared.a[slot] + TileA::place(i, h * 64 + ty * 4));
                w[h] = dc::load<4>(shared.b[slot] + TileB::place(i, h * 64 + tx * 4));
            }
            DC_UNROLL
            for (int r = 0; r < PARTS * 4; ++r) {
                DC_UNROLL
                for (int c = 0; c < PARTS * 4; ++c)
                    acc[r / 4][r % 4][c / 4][c % 4] += x[r / 4][r % 4] * w[c / 4][c % 4];
            }
        }
    }
    float* patch = &dc::shared<float>();
    const Result to = result(p, blockIdx.y);
    const float* residual = to.epilogue.residual ? dc::ptr<const float>(to.epilogue.residual) + to.first : nullptr;
    DC_UNROLL
    for (int h = 0; h < PARTS; ++h) {
        __syncthreads();
        DC_UNROLL
        for (int r = 0; r < 4; ++r) {
            DC_UNROLL
            for (int w = 0; w < PARTS; ++w) {
                const auto& v = acc[h][r][w];
                dc::store(patch + (ty * 4 + r) * SIDE + w * 64 + tx * 4, dc::Vec<float, 4>{v[0], v[1], v[2], v[3]});
            }
        }
        __syncthreads();
        dc::finish<float, 64, SIDE, SIDE, SIMT_THREADS>(to.epilogue, patch, threadIdx.x, row0 + h * 64, col0, p.m,
                                                        p.n, dc::ptr<float>(to.y) + to.first, residual);
    }
}

constexpr int F32_ROWS = 8, F32_COLUMNS = 4, F32_WARPS = 4;

/// B transposed; a warp computes 4 columns of 8 rows (blockIdx.y: which), its lanes side by side along k.
template <class T>
DC_FN void gemm_rows_f32(const Gemm& p) {
    const int col0 = (blockIdx.x * F32_WARPS + dc::warp()) * F32_COLUMNS, row0 = blockIdx.y * F32_ROWS;
    const bool a_aligned = p.a_align == 16, b_aligned = p.b_align >= 4 * int(sizeof(T));
    const auto [a, b, a_step] = operands<float, T>(p);
    float acc[F32_ROWS][F32_COLUMNS] = {};
    for (int k = dc::lane() * 4; k < p.k; k += 32 * 4) {
        dc::Vec<float, 4> w[F32_COLUMNS];
        // Columns and rows that do not exist read the last one and are not stored.
        DC_UNROLL
        for (int c = 0; c < F32_COLUMNS; ++c)
            w[c] = load4(b + dc::min(col0 + c, p.n - 1) * p.b_step + k, p.k - k, b_aligned);
        DC_UNROLL
        for (int r = 0; r < F32_ROWS; ++r) {
            const auto x = load4(a + dc::min(row0 + r, p.m - 1) * a_step + k, p.k - k, a_aligned);
            DC_UNROLL
            for (int c = 0; c < F32_COLUMNS; ++c) {
                DC_UNROLL
                for (int i = 0; i < 4; ++i) acc[r][c] += x[i] * w[c][i];
            }
        }
    }
    // Lane l keeps the sum of row l/4, column l%4.
    float sum = 0;
    DC_UNROLL
    for (int i = 0; i < F32_ROWS * F32_COLUMNS; ++i) {
        const float all = dc::warp_sum(acc[i / F32_COLUMNS][i % F32_COLUMNS]);
        if (dc::lane() == i) sum = all;
    }
    const int row = row0 + dc::lane() / F32_COLUMNS, col = col0 + dc::lane() % F32_COLUMNS;
    if (row >= p.m || col >= p.n) return;
    const Result to = result(p, 0);
    dc::finish_store(to.epilogue, sum, row, col, dc::ptr<float>(to.y), to.first + int64_t(row) * p.n + col);
}

// ---- Sum of split products ------------------------------------------------------------------------------

constexpr int SUM_THREADS = 256;

template <class Out>
DC_FN void gemm_sum(const GemmSum& p) {
    const int64_t at = int64_t(blockIdx.x) * SUM_THREADS + threadIdx.x;
    if (at >= p.len) return;
    const float* part = dc::ptr<const float>(p.partial) + at;
    float sum = 0;
    for (int s = 0; s < p.splits; ++s) sum += part[s * p.len];
    const int row = int(at / p.n);
    dc::finish_store(p.epilogue, sum, row, int(at - int64_t(row) * p.n), dc::ptr<Out>(p.y), at);
}

}  // namespace

#define MMA(LAYOUT, A_TRANS, B_TRANS, NAME, T, BM, BN, WM, WN, BLOCKS)                                             \
    DC_KERNEL(gemm_##LAYOUT##_##BM##x##BN##_##NAME, Gemm, (MmaForm<T, BM, BN, WM, WN>::THREADS), BLOCKS,           \
              (MmaForm<T, BM, BN, WM, WN>::SHARED)) {                                                              \
        gemm_mma<T, BM, BN, WM, WN, A_TRANS, B_TRANS>(p);                                                          \
    }
// The largest tile is for the layers of a forward pass; gradients take the next one.
#define HALF(NAME, T)                                                                                              \
    MMA(nt, false, true, NAME, T, 128, 256, 64, 64, 1)                                                             \
    MMA(nt, false, true, NAME, T, 128, 128, 64, 64, 2)                                                             \
    MMA(nt, false, true, NAME, T, 64, 64, 32, 32, 4)                                                               \
    MMA(nn, false, false, NAME, T, 128, 128, 64, 64, 2)                                                            \
    MMA(nn, false, false, NAME, T, 64, 64, 32, 32, 4)                                                              \
    MMA(tn, true, false, NAME, T, 128, 128, 64, 64, 2)                                                             \
    MMA(tn, true, false, NAME, T, 64, 64, 32, 32, 4)                                                               \
    MMA(tt, true, true, NAME, T, 64, 64, 32, 32, 4)                                                                \
    DC_KERNEL(gemm_rows_##NAME, Gemm, ROWS_WARPS * 32, 2, ROWS_WARPS * 16 * ROWS_COLUMNS * 4) { gemm_rows<T>(p); }
HALF(bf16, dc::bf16)
HALF(f16, dc::f16)
#undef HALF
#undef MMA

#define SIMT(NAME, T)                                                                                              \
    DC_KERNEL(gemm_simt_128x128_f32_##NAME, Gemm, SIMT_THREADS, 1, sizeof(SimtShared<128>)) {                      \
        gemm_simt<T, 128>(p);                                                                                      \
    }                                                                                                              \
    DC_KERNEL(gemm_simt_64x64_f32_##NAME, Gemm, SIMT_THREADS, 2, sizeof(SimtShared<64>)) { gemm_simt<T, 64>(p); } \
    DC_KERNEL(gemm_rows_f32_##NAME, Gemm, F32_WARPS * 32, 4, 0) { gemm_rows_f32<T>(p); }                           \
    DC_KERNEL(gemm_sum_##NAME, GemmSum, SUM_THREADS, 4, 0) { gemm_sum<T>(p); }
SIMT(f32, float)
SIMT(bf16, dc::bf16)
SIMT(f16, dc::f16)
#undef SIMT
