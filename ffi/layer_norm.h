#pragma once
#include <stdint.h>

/// Parameters of `layer_norm_fwd_*`: y = (x - mean) * rstd [* gamma + beta], row by row.
typedef struct LayerNormFwd {
    /// x, `rows` rows of `cols` elements, `x_step` elements apart.
    uint64_t x;
    /// gamma and beta, f32 [cols]; both 0: no weights.
    uint64_t gamma;
    uint64_t beta;
    /// y, dense rows.
    uint64_t y;
    int64_t x_step;
    int32_t rows;
    int32_t cols;
    /// Added to the variance.
    float eps;
    /// Zero.
    int32_t reserved;
} LayerNormFwd;

/// Parameters of `layer_norm_grad_rows_*`: dx = (d - mean(d) - n * mean(d * n)) * rstd with d = dy [* gamma] and
/// n = (x - mean) * rstd, row by row.
typedef struct LayerNormGradRows {
    /// x, f32: `rows` rows of `cols` elements, `x_step` elements apart.
    uint64_t x;
    /// dy, f32, like x, its rows `dy_step` elements apart.
    uint64_t dy;
    /// gamma, f32 [cols]; 0: none.
    uint64_t gamma;
    /// dx, f32, dense rows.
    uint64_t dx;
    /// Result for the next launch: mean and rstd of every row, f32 [rows, 2]; 0: not wanted.
    uint64_t moments;
    int64_t x_step;
    int64_t dy_step;
    int32_t rows;
    int32_t cols;
    /// Added to the variance.
    float eps;
    /// Zero.
    int32_t reserved;
} LayerNormGradRows;
