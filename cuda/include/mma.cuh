// Asynchronous copies and tensor cores of sm_80 and later: cp.async, ldmatrix, mma.sync.
//
// Fragment layouts (PTX ISA, "Matrix fragments for mma.m16n8k16"), g = lane/4, t = lane%4, two
// half-precision values a register, the lower column (row of b) in the low half:
//   a[0]: row g,   columns 2t, 2t+1      a[1]: row g+8, same columns
//   a[2]: row g,   columns 2t+8, 2t+9    a[3]: row g+8, same columns
//   b[0]: column g, rows 2t, 2t+1        b[1]: column g, rows 2t+8, 2t+9
//   c[0], c[1]: row g, columns 2t, 2t+1  c[2], c[3]: row g+8, same columns
// m16n8k8 has a[0], a[1] and b[0] only.
#pragma once

#include "dc.cuh"

namespace dc {

// ---- cp.async ---------------------------------------------------------------------------------

/// Starts a copy of SIZE (4, 8 or 16) bytes to shared memory, of which the first `valid` are read and
/// the others are zeros. What it writes may be read after `cp_async_wait` and a barrier.
template <int SIZE>
DC_FN void cp_async(void* to_shared, const void* from, int valid = SIZE) {
    static_assert(SIZE == 4 || SIZE == 8 || SIZE == 16, "sizes of cp.async");
#ifdef __CUDACC__
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(to_shared));
    if (SIZE == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(SIZE), "r"(valid)
                     : "memory");
#else
    dcsim::copy_async(to_shared, from, SIZE, unsigned(valid));
#endif
}
/// Closes the group of the copies issued so far.
DC_FN void cp_async_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    dcsim::copy_async_commit();
#endif
}
/// Waits until at most the newest KEEP groups of this thread are under way.
template <int KEEP>
DC_FN void cp_async_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(KEEP) : "memory");
#else
    dcsim::copy_async_wait(KEEP);
#endif
}

// ---- ldmatrix ---------------------------------------------------------------------------------

/// COUNT (1, 2 or 4) 8×8 matrices of 16-bit values from shared memory: lanes 8m..8m+7 give the
/// addresses of the rows of matrix m (16 bytes each); lane l gets, of each matrix, row l/4, columns
/// 2(l%4) and the next, or with TRANSPOSED rows 2(l%4) and the next of column l/4. Lanes without a
/// row give any valid address.
template <int COUNT, bool TRANSPOSED>
DC_FN void ldmatrix(uint32_t (&r)[COUNT], const void* row) {
#ifdef __CUDACC__
    const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
    if constexpr (COUNT == 4 && !TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
    else if constexpr (COUNT == 4)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
    else if constexpr (COUNT == 2 && !TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                     : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
    else if constexpr (COUNT == 2)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                     : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
    else if constexpr (!TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(at) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(at) : "memory");
#else
    struct Regs {
        uint32_t r[COUNT];
    };
    dcsim::check_aligned(row, 16, "ldmatrix row");
    const Regs got = dcsim::meet<Regs>("ldmatrix", FULL, row, [](dcsim::WarpOp& op) {
        for (int m = 0; m < COUNT; ++m) {
            for (int l = 0; l < 32; ++l) {
                auto value = [&](int i, int j) {
                    const auto* row = *static_cast<const uint16_t* const*>(op.in[8 * m + i]);
                    return uint32_t(row[j]);
                };
                const int i = l / 4, j = 2 * (l % 4);
                const uint32_t lo = TRANSPOSED ? value(j, i) : value(i, j);
                const uint32_t hi = TRANSPOSED ? value(j + 1, i) : value(i, j + 1);
                static_cast<Regs*>(op.out[l])->r[m] = lo | hi << 16;
            }
        }
    });
    for (int m = 0; m < COUNT; ++m) r[m] = got.r[m];
#endif
}

// ---- mma.sync ---------------------------------------------------------------------------------

#ifndef __CUDACC__
namespace sim {
template <class T>
inline float half_of(uint32_t pair, int which) {
    return to_f32(T{uint16_t(pair >> 16 * which)});
}
inline float tf32(uint32_t bits) {
    bits &= 0xffffe000u;  // the hardware ignores the low 13 bits
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}
struct Mma {
    float c[4];
    uint32_t a[4], b[2];
};
struct MmaOut {
    float d[4];
};
/// d = a·b + c over the fragments of a warp; `a_at(op, row, k)` and `b_at(op, k, col)` pick values of
/// registers. Each element of a and b is decoded once: this is where simulated networks spend their time.
template <int K, class A, class B>
inline void mma(dcsim::WarpOp& op, A a_at, B b_at) {
    double b[K][8];
    for (int k = 0; k < K; ++k)
        for (int col = 0; col < 8; ++col) b[k][col] = b_at(op, k, col);
    for (int row = 0; row < 16; ++row) {
        double sums[8];
        const int lane = row % 8 * 4, slot = row / 8 * 2;
        for (int col = 0; col < 8; ++col)
            sums[col] = static_cast<const Mma*>(op.in[lane + col / 2])->c[slot + col % 2];
        for (int k = 0; k < K; ++k) {
            const double a = a_at(op, row, k);
            for (int col = 0; col < 8; ++col) sums[col] += a * b[k][col];
        }
        for (int col = 0; col < 8; ++col)
            static_cast<MmaOut*>(op.out[lane + col / 2])->d[slot + col % 2] = float(sums[col]);
    }
    dcsim::count_mma(2ull * 16 * 8 * K);
}
template <class T>
inline float a_half(dcsim::WarpOp& op, int row, int k) {
    const auto* m = static_cast<const Mma*>(op.in[row % 8 * 4 + k % 8 / 2]);
    return half_of<T>(m->a[row / 8 + k / 8 * 2], k % 2);
}
template <class T>
inline float b_half(dcsim::WarpOp& op, int k, int col) {
    const auto* m = static_cast<const Mma*>(op.in[col * 4 + k % 8 / 2]);
    return half_of<T>(m->b[k / 8], k % 2);
}
}  // namespace sim
#endif

/// Spelled out: the front end of CUDA 12.4 does not know `__is_same`.
template <class T>
constexpr bool is_bf16 = false;
template <>
constexpr bool is_bf16<bf16> = true;

/// d += a·b for a 16×16, b 16×8 of T (bf16 or f16), d 16×8 in f32.
template <class T>
DC_FN void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
    if constexpr (sizeof(T) == 2 && is_bf16<T>)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    const sim::Mma in{{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const auto out = dcsim::meet<sim::MmaOut>("mma.m16n8k16", FULL, in, [](dcsim::WarpOp& op) {
        sim::mma<16>(op, sim::a_half<T>, sim::b_half<T>);
    });
    for (int i = 0; i < 4; ++i) d[i] = out.d[i];
#endif
}

/// d += a·b for a 16×8, b 8×8 of T (bf16 or f16), d 16×8 in f32.
template <class T>
DC_FN void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
#ifdef __CUDACC__
    if constexpr (sizeof(T) == 2 && is_bf16<T>)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    else
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(b[0]));
#else
    const sim::Mma in{{d[0], d[1], d[2], d[3]}, {a[0], a[1], 0, 0}, {b[0], 0}};
    const auto out = dcsim::meet<sim::MmaOut>("mma.m16n8k8", FULL, in, [](dcsim::WarpOp& op) {
        sim::mma<8>(op, sim::a_half<T>, sim::b_half<T>);
    });
    for (int i = 0; i < 4; ++i) d[i] = out.d[i];
#endif
}

/// d += a·b for a 16×8, b 8×8 in tf32 (f32 bits of which 10 of the fraction count), d 16×8 in f32.
/// a[0]: row g, column t; a[1]: row g+8; a[2]: column t+4; a[3]: both; b[0]: row t, column g; b[1]: row t+4.
DC_FN void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    const sim::Mma in{{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    const auto out = dcsim::meet<sim::MmaOut>("mma.m16n8k8.tf32", FULL, in, [](dcsim::WarpOp& op) {
        sim::mma<8>(
            op,
            [](dcsim::WarpOp& op, int row, int k) {
                const auto* m = static_cast<const sim::Mma*>(op.in[row % 8 * 4 + k % 4]);
                return sim::tf32(m->a[row / 8 + k / 4 * 2]);
            },
            [](dcsim::WarpOp& op, int k, int col) {
                return sim::tf32(static_cast<const sim::Mma*>(op.in[col * 4 + k % 4])->b[k / 4]);
            });
    });
    for (int i = 0; i < 4; ++i) d[i] = out.d[i];
#endif
}

}  // namespace dc
