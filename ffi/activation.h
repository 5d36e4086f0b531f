#pragma once
#include <stdint.h>

// The functions of `activation`, as kernels number them. `a` and `b` are what the function is given.
#define ACTIVATION_NONE 0
#define ACTIVATION_RELU 1
/// a: slope below zero
#define ACTIVATION_LEAKY_RELU 2
#define ACTIVATION_GELU 3
#define ACTIVATION_GELU_TANH 4
#define ACTIVATION_SILU 5
#define ACTIVATION_SIGMOID 6
#define ACTIVATION_TANH 7
#define ACTIVATION_EXP 8
#define ACTIVATION_LN 9
#define ACTIVATION_SQRT 10
#define ACTIVATION_SIN 11
#define ACTIVATION_COS 12
#define ACTIVATION_ABS 13
/// a, b: lower and upper limit
#define ACTIVATION_CLAMP 14

/// Parameters of `activation_fwd_*` and `activation_bwd_*`: y = f(x), or y = f'(x) * dy, element by element.
typedef struct ActivationMap {
    /// x, dense.
    uint64_t x;
    /// dy, dense, like x; only of the gradient.
    uint64_t dy;
    /// y, dense.
    uint64_t y;
    /// Number of elements.
    int64_t len;
    /// One of `ACTIVATION_*`.
    int32_t kind;
    /// What the function is given; see `ACTIVATION_*`.
    float a;
    float b;
    /// Padding.
    uint32_t reserved;
} ActivationMap;
