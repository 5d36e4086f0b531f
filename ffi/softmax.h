#pragma once
#include <stdint.h>

/// Parameters of `softmax_fwd_*`: y = exp(x) / sum(exp(x)), row by row.
typedef struct SoftmaxFwd {
    /// x, `rows` rows of `cols` elements, `x_step` elements apart.
    uint64_t x;
    /// y, dense rows of the same element type; may be x.
    uint64_t y;
    int64_t x_step;
    int64_t rows;
    int32_t cols;
    /// Zero.
    int32_t reserved;
} SoftmaxFwd;

/// Parameters of `softmax_grad_*`: dx = y * (dy - sum(y * dy)), row by row.
typedef struct SoftmaxGradRows {
    /// y, f32: `rows` rows of `cols` elements, `y_step` elements apart.
    uint64_t y;
    /// dy, f32, like y, its rows `dy_step` elements apart.
    uint64_t dy;
    /// dx, f32, dense rows.
    uint64_t dx;
    int64_t y_step;
    int64_t dy_step;
    int64_t rows;
    int32_t cols;
    /// Zero.
    int32_t reserved;
} SoftmaxGradRows;
