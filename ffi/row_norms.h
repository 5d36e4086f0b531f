#pragma once
#include <stdint.h>

/// Most norms of one result.
#define ROW_NORMS 2

/// A norm of the finished rows of a product: (x - mean) * rstd * (plus + scale) + shift, in the type of the
/// product's operands.
typedef struct RowNorm {
    /// Dense rows.
    uint64_t y;
    /// f32, one vector a sample, `shift_step` and `scale_step` elements apart (0: shared by all).
    uint64_t shift;
    uint64_t scale;
    int64_t shift_step;
    int64_t scale_step;
    /// Added to the variance.
    float eps;
    /// 1 for a norm that is conditioned (`adaln`), 0 for one with weights (`layer_norm`).
    float plus;
} RowNorm;

/// What the last block that finishes some rows of a product does to them, part of the parameters of those kernels:
/// rows of up to 1280 elements, a multiple of 4.
typedef struct RowNorms {
    /// The first `count` are wanted.
    RowNorm norms[ROW_NORMS];
    /// One u32 for each row of tiles, zero before and after the launch: how many of its blocks are done.
    uint64_t counters;
    /// 0 to `ROW_NORMS`.
    int32_t count;
    /// Rows of one sample.
    int32_t tokens;
} RowNorms;
