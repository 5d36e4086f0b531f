#pragma once
#include <stdint.h>

/// Parameters of `adaln_fwd_*`: y = (x - mean) * rstd * (1 + scale) + shift, row by row.
typedef struct AdalnFwd {
    /// x, `rows` rows of `cols` elements, `x_step` elements apart.
    uint64_t x;
    /// shift and scale, f32: one vector of `cols` elements a sample, `shift_step` and `scale_step` apart (0: shared).
    uint64_t shift;
    uint64_t scale;
    /// y, dense rows.
    uint64_t y;
    int64_t x_step;
    int64_t shift_step;
    int64_t scale_step;
    int32_t rows;
    int32_t cols;
    /// Rows of one sample.
    int32_t tokens;
    /// Added to the variance.
    float eps;
} AdalnFwd;
