#pragma once
#include <stdint.h>

/// Parameters of `rms_norm_fwd_*`: y = x / sqrt(mean(x * x) + eps) [* weight], row by row.
typedef struct RmsNormFwd {
    /// x, `rows` rows of `cols` elements, `x_step` elements apart.
    uint64_t x;
    /// weight, f32 [cols]; 0: none.
    uint64_t weight;
    /// y, dense rows.
    uint64_t y;
    int64_t x_step;
    int32_t rows;
    int32_t cols;
    /// Added to the mean square.
    float eps;
    /// Zero.
    int32_t reserved;
} RmsNormFwd;

/// Parameters of `rms_norm_grad_rows_*`: dx = (d - n * mean(d * n)) * r with d = dy [* weight],
/// r = 1 / sqrt(mean(x * x) + eps) and n = x * r, row by row.
typedef struct RmsNormGradRows {
    /// x, f32: `rows` rows of `cols` elements, `x_step` elements apart.
    uint64_t x;
    /// dy, f32, like x, its rows `dy_step` elements apart.
    uint64_t dy;
    /// weight, f32 [cols]; 0: none.
    uint64_t weight;
    /// dx, f32, dense rows.
    uint64_t dx;
    /// Result for the next launch: 0 and r of every row, f32 [rows, 2]; 0: not wanted.
    uint64_t moments;
    int64_t x_step;
    int64_t dy_step;
    int32_t rows;
    int32_t cols;
    /// Added to the mean square.
    float eps;
    /// Zero.
    int32_t reserved;
} RmsNormGradRows;
