#pragma once
#include <stdint.h>

/// Parameters of `gated_residual_*`: z = x + gate * y, row by row.
typedef struct GatedResidualFwd {
    /// x, f32: `rows` rows of `cols` elements, `x_step` elements apart.
    uint64_t x;
    /// gate, f32: one vector of `cols` elements a sample, `gate_step` apart (0: shared).
    uint64_t gate;
    /// y, like x but of the kernel's element type, its rows `y_step` elements apart.
    uint64_t y;
    /// z, f32, dense rows; may be x or y.
    uint64_t z;
    int64_t x_step;
    int64_t gate_step;
    int64_t y_step;
    int32_t rows;
    int32_t cols;
    /// Rows of one sample.
    int32_t tokens;
    /// Zero.
    int32_t reserved;
} GatedResidualFwd;
