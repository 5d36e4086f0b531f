#pragma once
#include <stdint.h>

/// What a product or convolution does to its result while it is in registers, part of the parameters of
/// those kernels: y = gate * alpha * act(sum + bias) + residual.
typedef struct Epilogue {
    /// f32, one value a column of the result; 0: none.
    uint64_t bias;
    /// Dense, of the result's shape and element type, may be the result's memory; 0: none.
    uint64_t residual;
    /// f32, one value a column for each sample; 0: none, a factor of 1.
    uint64_t gate;
    /// Elements between the gates of two samples.
    int64_t gate_step;
    /// Where y is f32 and the operands are not: y once more, in the operands' type, for the next product; 0: none.
    uint64_t twin;
    /// Factor.
    float alpha;
    /// Which function: one of `ACTIVATION_*` (ffi/activation.h), and what it is given (`act_a`, `act_b`).
    int32_t act;
    float act_a;
    float act_b;
    /// Rows of a sample, where there is a gate.
    int32_t gate_rows;
    /// Padding.
    uint32_t reserved;
} Epilogue;
