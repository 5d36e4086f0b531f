// binary: z = f(x, y) element by element, with broadcasting.
//
// Memory-bound: 12 bytes an element in f32 where both operands are as large as the result, 6 in half
// precision. A thread handles 8 elements in vectors of 16 bytes, all loads before the arithmetic. The host
// merges axes along which both operands run on or both repeat: same shapes are one axis, a bias is two. An
// operand that repeats along the last axis is read once a vector. Several results of the same shapes and strides
// may be members of one launch: small ones, such as the modulation vectors of blocks, cost nothing but the launch.
#include "../ffi/binary.h"
#include "include/dc.cuh"
#include "include/index.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int VALUES = 8;  // of a thread

template <class T, int VEC>
DC_FN void read(float* v, uint64_t address, int64_t at, int form) {
    if (form == BINARY_OPERAND_VECTOR) {
        const auto raw = dc::load<VEC>(dc::ptr<const T>(address) + at);
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) v[k] = dc::to_f32(raw[k]);
        return;
    }
    const float one = form == BINARY_OPERAND_NUMBER ? *dc::ptr<const float>(address)
                                                    : dc::to_f32(dc::ptr<const T>(address)[at]);
    DC_UNROLL
    for (int k = 0; k < VEC; ++k) v[k] = one;
}

template <class T, int VEC>
DC_FN void binary_fwd(const BinaryFwd& p) {
    constexpr int UNITS = VALUES / VEC;
    const BinaryMember& own = p.members[blockIdx.z];
    const uint32_t first = blockIdx.x * (THREADS * UNITS) + threadIdx.x;
    float x[VALUES], y[VALUES];
    DC_UNROLL
    for (int u = 0; u < UNITS; ++u) {
        uint32_t i = first + u * THREADS;
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) x[u * VEC + k] = y[u * VEC + k] = 1;
        if (i >= p.units) continue;
        int64_t x_at = 0, y_at = 0;
        for (int a = int(p.rank) - 1; a > 0; --a) {
            const uint32_t digit = dc::take_digit(i, p.extents[a]);
            x_at += digit * p.x_strides[a];
            y_at += digit * p.y_strides[a];
        }
        read<T, VEC>(x + u * VEC, own.x, x_at + i * p.x_strides[0], p.x_form);
        read<T, VEC>(y + u * VEC, own.y, y_at + i * p.y_strides[0], p.y_form);
    }
    switch (p.kind) {
#define EACH(RESULT)                                  \
    DC_UNROLL                                         \
    for (int i = 0; i < VALUES; ++i) x[i] = RESULT;   \
    break;
        case BINARY_ADD: EACH(x[i] + y[i])
        case BINARY_SUB: EACH(x[i] - y[i])
        case BINARY_MUL: EACH(x[i] * y[i])
        case BINARY_DIV: EACH(x[i] / y[i])
#undef EACH
    }
    DC_UNROLL
    for (int u = 0; u < UNITS; ++u) {
        const uint32_t i = first + u * THREADS;
        if (i >= p.units) break;
        dc::Vec<T, VEC> out;
        DC_UNROLL
        for (int k = 0; k < VEC; ++k) out[k] = dc::from_f32<T>(x[u * VEC + k]);
        dc::store(dc::ptr<T>(own.z) + int64_t(i) * VEC, out);
    }
}

}  // namespace

// `any`: an element at a time, for rows that are not whole vectors.
#define INSTANCE(NAME, T, VEC)                                                                  \
    DC_KERNEL(binary_fwd_##NAME, BinaryFwd, THREADS, 4, 0) { binary_fwd<T, VEC>(p); }          \
    DC_KERNEL(binary_fwd_any_##NAME, BinaryFwd, THREADS, 4, 0) { binary_fwd<T, 1>(p); }
INSTANCE(f32, float, 4)
INSTANCE(bf16, dc::bf16, 8)
INSTANCE(f16, dc::f16, 8)
#undef INSTANCE
