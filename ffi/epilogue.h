#pragma once
#include <stdint.h>

/// What a product or convolution does to its result while it is in registers, part of the parameters of
/// those kernels: y = alpha * act(sum + bias) + residual.
typedef struct Epilogue {
    /// f32, one value a column of the result; 0: none.
    uint64_t bias;
    /// Dense, of the result's shape and element type, may be the result's memory; 0: none.
    uint64_t residual;
    /// Factor.
    float alpha;
    /// Which function: one of `ACTIVATION_*` (ffi/activation.h), and what it is given (`act_a`, `act_b`).
    int32_t act;
    float act_a;
    float act_b;
} Epilogue;
