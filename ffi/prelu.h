#pragma once
#include <stdint.h>

#include "index.h"

/// Parameters of `prelu_fwd_*`: y = x, or w of its column times x below zero.
typedef struct PreluFwd {
    /// x, rows `x_step` elements apart.
    uint64_t x;
    /// w, f32, one number a column.
    uint64_t w;
    /// y, dense.
    uint64_t y;
    int64_t x_step;
    /// Columns, in units: neighbouring elements that a thread handles at once.
    Divisor cols;
    /// Number of units of y, below 2^31.
    uint32_t units;
    /// Padding.
    uint32_t reserved;
} PreluFwd;

/// Parameters of `prelu_bwd_*`: dx, and dw in two passes: sums over blocks of rows, then over the blocks.
typedef struct PreluBwd {
    /// x and dy, f32, rows `x_step` and `dy_step` elements apart.
    uint64_t x;
    uint64_t dy;
    /// w, f32, one number a column.
    uint64_t w;
    /// dx, f32, dense.
    uint64_t dx;
    /// f32, one row of `cols` for each block of rows.
    uint64_t partial;
    /// dw, f32, one number a column.
    uint64_t dw;
    int64_t x_step;
    int64_t dy_step;
    int64_t rows;
    /// Rows of one block.
    int64_t rows_per_block;
    int32_t cols;
    /// Number of blocks.
    int32_t blocks;
} PreluBwd;
