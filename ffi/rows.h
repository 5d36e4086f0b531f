#pragma once
#include <stdint.h>

/// Parameters of `*_grad_columns`: sums over slabs of rows of dy * (x - mean) * rstd and of dy, per column.
typedef struct NormColumnSums {
    /// x, f32: `rows` rows of `cols` elements, `x_step` elements apart.
    uint64_t x;
    /// dy, f32, like x, its rows `dy_step` elements apart.
    uint64_t dy;
    /// Mean and reciprocal standard deviation of every row of x, f32 [rows, 2].
    uint64_t moments;
    /// Result, f32 [2, slabs, cols]: sums with x, then plain ones.
    uint64_t sums;
    int64_t x_step;
    int64_t dy_step;
    int32_t rows;
    int32_t cols;
    /// Rows of a slab; the grid's y extent is the number of slabs.
    int32_t slab;
    /// Zero.
    int32_t reserved;
} NormColumnSums;

/// Parameters of `*_grad_finish`: sums of the slabs.
typedef struct NormColumnFinish {
    /// f32 [2, `slabs`, `cols`], as `*_grad_columns` writes it.
    uint64_t sums;
    /// Gradient of the weight, f32 [cols].
    uint64_t d_weight;
    /// Gradient of the bias, f32 [cols]; not written where the grid's y extent is 1.
    uint64_t d_bias;
    int32_t slabs;
    int32_t cols;
} NormColumnFinish;
