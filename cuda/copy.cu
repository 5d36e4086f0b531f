// copy: strided tensors to strided tensors (views that need dense memory, concat, pad, pixel shuffle, the
// plan's own copies), and conversions between element types on the way.
//
// Memory-bound: each byte is read and written once. A thread moves 4 units, all loads before the first
// store; a unit is as wide as both sides allow, up to 16 bytes. The host merges axes that run together, so
// that most copies have one or two left, and divides by multiplication. Where the dense axes of the two
// sides differ, `copy_transpose` goes through a tile in shared memory, so that both sides see whole sectors.
#include "../ffi/copy.h"
#include "include/dc.cuh"
#include "include/index.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int UNITS = 4;  // of a thread

/// What one access of so many bytes moves: COUNT words.
template <int BYTES>
struct Unit {
    using Word = uint32_t;
    static constexpr int COUNT = BYTES / 4;
};
template <>
struct Unit<1> {
    using Word = uint8_t;
    static constexpr int COUNT = 1;
};
template <>
struct Unit<2> {
    using Word = uint16_t;
    static constexpr int COUNT = 1;
};

/// The place of unit `i` of a row-major order over p.extents, in both tensors.
DC_FN void place(const CopyStrided& p, uint32_t i, int64_t& src, int64_t& dst) {
    src = dst = 0;
    for (int a = int(p.rank) - 1; a > 0; --a) {
        const uint32_t digit = dc::take_digit(i, p.extents[a]);
        src += digit * p.src_strides[a];
        dst += digit * p.dst_strides[a];
    }
    src += i * p.src_strides[0];
    dst += i * p.dst_strides[0];
}

template <int BYTES>
DC_FN void copy_strided(const CopyStrided& p) {
    using Word = typename Unit<BYTES>::Word;
    constexpr int N = Unit<BYTES>::COUNT;
    const uint32_t first = blockIdx.x * (THREADS * UNITS) + threadIdx.x;
    dc::Vec<Word, N> unit[UNITS];
    int64_t to[UNITS];
    DC_UNROLL
    for (int k = 0; k < UNITS; ++k) {
        const uint32_t i = first + k * THREADS;
        if (i >= p.units) break;
        int64_t from;
        place(p, i, from, to[k]);
        unit[k] = dc::load<N>(dc::ptr<const Word>(p.src) + from * N);
    }
    DC_UNROLL
    for (int k = 0; k < UNITS; ++k) {
        if (first + k * THREADS >= p.units) break;
        dc::store(dc::ptr<Word>(p.dst) + to[k] * N, unit[k]);
    }
}

template <int BYTES>
DC_FN void copy_gather(const CopyGather& p) {
    using Word = typename Unit<BYTES>::Word;
    constexpr int N = Unit<BYTES>::COUNT;
    const uint32_t first = blockIdx.x * (THREADS * UNITS) + threadIdx.x;
    dc::Vec<Word, N> unit[UNITS];
    DC_UNROLL
    for (int k = 0; k < UNITS; ++k) {
        uint32_t i = first + k * THREADS;
        if (i >= p.units) break;
        int64_t from = 0;
        bool inside = true;
        for (int a = int(p.rank) - 1; a >= 0; --a) {
            int at = int(a > 0 ? dc::take_digit(i, p.extents[a]) : i);
            if (p.tables[a]) at = dc::ptr<const int32_t>(p.tables[a])[at];
            inside = inside && at >= 0;
            from += at * p.src_strides[a];
        }
        unit[k] = {};
        if (inside) unit[k] = dc::load<N>(dc::ptr<const Word>(p.src) + from * N);
    }
    DC_UNROLL
    for (int k = 0; k < UNITS; ++k) {
        const uint32_t i = first + k * THREADS;
        if (i >= p.units) break;
        dc::store(dc::ptr<Word>(p.dst) + int64_t(i) * N, unit[k]);
    }
}

/// Edge of a tile: 64 bytes of a row at least, which is two sectors.
template <int BYTES>
constexpr int TILE = BYTES <= 2 ? 64 : 32;

template <int BYTES>
struct TransposeTile {
    dc::Vec<typename Unit<BYTES>::Word, Unit<BYTES>::COUNT> at[TILE<BYTES>][TILE<BYTES> + 1];
};

template <int BYTES>
DC_FN void copy_transpose(const CopyTranspose& p) {
    using Word = typename Unit<BYTES>::Word;
    constexpr int N = Unit<BYTES>::COUNT, EDGE = TILE<BYTES>, WARPS = THREADS / 32;
    auto& tile = dc::shared<TransposeTile<BYTES>>().at;
    uint32_t batch = blockIdx.x;
    uint32_t down = dc::take_digit(batch, p.tiles);
    const int across = int(dc::take_digit(down, p.tiles_across)) * EDGE;
    const int first = int(down) * EDGE;
    int64_t from = 0, to = 0;
    for (int a = int(p.rank) - 1; a >= 0; --a) {
        const uint32_t digit = a > 0 ? dc::take_digit(batch, p.extents[a]) : batch;
        from += digit * p.src_strides[a];
        to += digit * p.dst_strides[a];
    }
    const Word* src = dc::ptr<const Word>(p.src) + (from + first * p.src_step + across) * N;
    Word* dst = dc::ptr<Word>(p.dst) + (to + across * p.dst_step + first) * N;
    const int height = dc::min(int(p.down) - first, EDGE), width = dc::min(int(p.across) - across, EDGE);
    DC_UNROLL
    for (int y = dc::warp(); y < EDGE; y += WARPS) {
        DC_UNROLL
        for (int x = dc::lane(); x < EDGE; x += 32)
            if (y < height && x < width) tile[y][x] = dc::load<N>(src + (y * p.src_step + x) * N);
    }
    __syncthreads();
    DC_UNROLL
    for (int x = dc::warp(); x < EDGE; x += WARPS) {
        DC_UNROLL
        for (int y = dc::lane(); y < EDGE; y += 32)
            if (y < height && x < width) dc::store(dst + (x * p.dst_step + y) * N, tile[y][x]);
    }
}

template <class In, class Out, int VEC>
DC_FN void cast(const CopyStrided& p) {
    const uint32_t first = blockIdx.x * (THREADS * UNITS) + threadIdx.x;
    dc::Vec<In, VEC> unit[UNITS];
    int64_t to[UNITS];
    DC_UNROLL
    for (int k = 0; k < UNITS; ++k) {
        const uint32_t i = first + k * THREADS;
        if (i >= p.units) break;
        int64_t from;
        place(p, i, from, to[k]);
        unit[k] = dc::load<VEC>(dc::ptr<const In>(p.src) + from * VEC);
    }
    DC_UNROLL
    for (int k = 0; k < UNITS; ++k) {
        if (first + k * THREADS >= p.units) break;
        dc::Vec<Out, VEC> out;
        DC_UNROLL
        for (int j = 0; j < VEC; ++j) out[j] = dc::from_f32<Out>(dc::to_f32(unit[k][j]));
        dc::store(dc::ptr<Out>(p.dst) + to[k] * VEC, out);
    }
}

}  // namespace

// Units of 1 to 16 bytes.
#define INSTANCE(BYTES)                                                                           \
    DC_KERNEL(copy_strided_b##BYTES, CopyStrided, THREADS, 4, 0) { copy_strided<BYTES>(p); }     \
    DC_KERNEL(copy_gather_b##BYTES, CopyGather, THREADS, 4, 0) { copy_gather<BYTES>(p); }
INSTANCE(1)
INSTANCE(2)
INSTANCE(4)
INSTANCE(8)
INSTANCE(16)
#undef INSTANCE

// Elements of 1 to 8 bytes.
#define INSTANCE(BYTES)                                                                                       \
    DC_KERNEL(copy_transpose_b##BYTES, CopyTranspose, THREADS, 4, sizeof(TransposeTile<BYTES>)) {            \
        copy_transpose<BYTES>(p);                                                                             \
    }
INSTANCE(1)
INSTANCE(2)
INSTANCE(4)
INSTANCE(8)
#undef INSTANCE

// Four elements a unit, or one.
#define INSTANCE(IN, OUT, In, Out)                                                                 \
    DC_KERNEL(cast_vec4_##IN##_##OUT, CopyStrided, THREADS, 4, 0) { cast<In, Out, 4>(p); }        \
    DC_KERNEL(cast_any_##IN##_##OUT, CopyStrided, THREADS, 4, 0) { cast<In, Out, 1>(p); }
INSTANCE(f32, bf16, float, dc::bf16)
INSTANCE(f32, f16, float, dc::f16)
INSTANCE(bf16, f32, dc::bf16, float)
INSTANCE(f16, f32, dc::f16, float)
INSTANCE(bf16, f16, dc::bf16, dc::f16)
INSTANCE(f16, bf16, dc::f16, dc::bf16)
#undef INSTANCE
