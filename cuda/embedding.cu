// embedding: rows of a table by index, and the gradient of the table.
//
// Forward is memory-bound: a warp copies a row, 16 bytes a lane where rows allow. An index outside the table
// gives NaN, since a launch cannot fail.
// Gradient: a warp owns a row of the table and up to 1024 of its columns. It looks through all indices, 32 at
// a time, and adds the rows of dy that are its own in their order: no atomics, so the result is the same every
// time, and rows that nobody asked for get their zeros. The search is rows · indices / 32 warp steps over indices
// that stay in the caches: a million for CLIP's 49408 rows and 616 indices.
#include "../ffi/embedding.h"
#include "include/dc.cuh"
#include "include/index.cuh"

namespace {

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / 32;

template <class T, int VEC>
DC_FN void embedding_fwd(const Embedding& p) {
    const int64_t i = int64_t(blockIdx.x) * WARPS + dc::warp();
    if (i >= p.count) return;  // whole warps
    const int64_t row = dc::ptr<const int64_t>(p.indices)[i];
    const bool inside = row >= 0 && row < p.rows;
    const T* x = dc::ptr<const T>(p.x) + row * p.cols;
    float* y = dc::ptr<float>(p.y) + i * p.cols;
    for (int64_t c = dc::lane() * VEC; c < p.cols; c += 32 * VEC) {
        dc::Vec<float, VEC> out;
        dc::Vec<T, VEC> raw;
        if (inside) raw = dc::load<VEC>(x + c);
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) out[k] = inside ? dc::to_f32(raw[k]) : NAN;
        dc::store(y + c, out);
    }
}

constexpr int COLS = 1024;  // of a warp in the gradient

DC_FN void embedding_bwd(const Embedding& p) {
    const int64_t row = int64_t(blockIdx.x) * WARPS + dc::warp();
    if (row >= p.rows) return;  // whole warps
    const int64_t first = int64_t(blockIdx.y) * COLS + dc::lane();
    float sum[COLS / 32] = {};
    for (int64_t i = 0; i < p.count; i += 32) {
        const int64_t mine = i + dc::lane();
        unsigned found = dc::ballot(mine < p.count && dc::ptr<const int64_t>(p.indices)[mine] == row);
        for (; found; found &= found - 1) {
            const float* dy = dc::ptr<const float>(p.x) + (i + dc::lowest_bit(found)) * p.cols;
            DC_UNROLL
            for (int k = 0; k < COLS / 32; ++k)
                if (first + 32 * k < p.cols) sum[k] += dy[first + 32 * k];
        }
    }
    float* y = dc::ptr<float>(p.y) + row * p.cols;
    DC_UNROLL
    for (int k = 0; k < COLS / 32; ++k)
        if (first + 32 * k < p.cols) y[first + 32 * k] = sum[k];
}

}  // namespace

#define INSTANCE(NAME, T)                                                                            \
    DC_KERNEL(embedding_fwd_##NAME, Embedding, THREADS, 8, 0) { embedding_fwd<T, 4>(p); }           \
    DC_KERNEL(embedding_fwd_any_##NAME, Embedding, THREADS, 8, 0) { embedding_fwd<T, 1>(p); }
INSTANCE(f32, float)
INSTANCE(bf16, dc::bf16)
INSTANCE(f16, dc::f16)
#undef INSTANCE
DC_KERNEL(embedding_bwd_f32, Embedding, THREADS, 8, 0) { embedding_bwd(p); }
