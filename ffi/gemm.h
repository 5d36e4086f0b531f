#pragma once
#include <stdint.h>

#include "epilogue.h"
#include "row_norms.h"
#include "tensor_map.h"

/// Most products of a group.
#define GEMM_MEMBERS 8

/// What the products of a group do not share.
typedef struct GemmMember {
    /// As the fields of `Gemm`.
    uint64_t a;
    uint64_t b;
    uint64_t y;
    /// As that of `Epilogue`.
    uint64_t bias;
    /// As the field of `Gemm`.
    int64_t a_step;
} GemmMember;

/// Parameters of `gemm_*` but `gemm_sum_*`: y = epilogue(A*B), A of m rows and k columns, B of k rows and n
/// columns, for each item of a batch or member of a group of products (blockIdx.z). With gridDim.y > 1 each
/// blockIdx.y sums `k_slice` of the k products only, y is [gridDim.y, batch, m, n] in f32, and `gemm_sum_*`
/// does the rest; not for groups.
typedef struct Gemm {
    /// A: rows of k values, or with `a_trans` its transpose, rows of m values; `a_step` elements apart.
    uint64_t a;
    /// B: rows of n values, or with `b_trans` its transpose, rows of k values; `b_step` elements apart.
    uint64_t b;
    /// y: dense m x n matrices one behind another.
    uint64_t y;
    int64_t a_step;
    int64_t b_step;
    /// Elements between two items of the batch in A and B; 0: shared.
    int64_t a_batch;
    int64_t b_batch;
    /// The residual has the batch of y; the bias is shared.
    Epilogue epilogue;
    /// The products, if `grouped`.
    GemmMember members[GEMM_MEMBERS];
    /// Of y, for one product whose k is not split, by `gemm_nt_*`.
    RowNorms norms;
    int32_t m;
    int32_t n;
    int32_t k;
    /// Products of a block: a multiple of 32, or k.
    int32_t k_slice;
    /// Bytes (2 to 16, a power of two) that divide the address and all steps of A and B: the size of accesses.
    int32_t a_align;
    int32_t b_align;
    /// How A and B are stored. Kernels of one layout (`gemm_nt_*`) do not ask.
    int32_t a_trans;
    int32_t b_trans;
    /// Whether y (and the residual) is f32 where A and B are half precision.
    int32_t y_f32;
    /// Whether blockIdx.z is a member of a group, of which the epilogue asks for neither residual nor gate.
    int32_t grouped;
} Gemm;

/// Parameters of `gemm_sum_*`: y = epilogue(sum of the partial products of `splits` blocks).
typedef struct GemmSum {
    /// f32, `splits` runs of `len` values.
    uint64_t partial;
    /// y, `len` values, rows of `n`.
    uint64_t y;
    int64_t len;
    Epilogue epilogue;
    int32_t n;
    int32_t splits;
} GemmSum;

/// Parameters of `gemm_*_sm90`: as `Gemm`, but operands are described by tensor maps of three axes, of boxes of 64
/// elements in rows of 128 swizzled bytes: k, outer index and item of the batch, 128 (or the tile's columns)
/// outer indices a box; or where k is not along the rows outer index, k and item, 64 k a box.
typedef struct GemmSm90 {
    /// A and B: of the members, if `grouped`, else the first.
    TensorMap a[GEMM_MEMBERS];
    /// As `a`.
    TensorMap b[GEMM_MEMBERS];
    /// Results, as those of `Gemm` and `GemmMember`: of the members, if `grouped`, else the first.
    uint64_t y[GEMM_MEMBERS];
    /// Of the members, if `grouped`; else the epilogue has it.
    uint64_t bias[GEMM_MEMBERS];
    /// As the fields of `Gemm`; `k_slice` is a multiple of 64, or k.
    Epilogue epilogue;
    /// As the fields of `Gemm`.
    int32_t m;
    int32_t n;
    int32_t k;
    int32_t k_slice;
    /// Whether A and B have an item for each of the batch, or share one.
    int32_t a_batched;
    int32_t b_batched;
    /// As the fields of `Gemm`.
    int32_t y_f32;
    int32_t grouped;
    /// Padding to a multiple of 64 bytes.
    uint32_t reserved[8];
} GemmSm90;
