#pragma once
#include <stdint.h>

/// Parameters of `adamw_step_*`: one step for one tensor of parameters.
typedef struct AdamwStep {
    /// Parameters, f32, changed in place.
    uint64_t param;
    /// Their gradients, f32.
    uint64_t grad;
    /// First and second moments, f32, changed in place.
    uint64_t first;
    uint64_t second;
    /// One f32 number by which the gradients are multiplied: the clipping factor of `adamw_norm_total_f32`.
    /// 0: they are taken as they are.
    uint64_t grad_scale;
    /// Number of parameters.
    int64_t len;
    /// Learning rate.
    float rate;
    /// Decay rates of the moments.
    float beta1;
    float beta2;
    /// Added to the root of the second moment.
    float eps;
    /// 1 - rate * weight decay.
    float keep;
    /// 1 / (1 - beta1^t) and 1 / sqrt(1 - beta2^t) at step t.
    float correct1;
    float correct2;
    /// Padding.
    uint32_t reserved;
} AdamwStep;

/// Parameters of `adamw_norm_parts_*`: sums of squares of blocks of one tensor.
typedef struct AdamwNormParts {
    /// f32.
    uint64_t x;
    /// f32, one sum for each block of 16384 elements.
    uint64_t parts;
    /// Number of elements.
    int64_t len;
} AdamwNormParts;

/// Parameters of `adamw_norm_total_*`: the norm of all tensors together, and what clips it.
typedef struct AdamwNormTotal {
    /// f32, the sums of all tensors' blocks.
    uint64_t parts;
    /// Two f32 numbers: the norm, and min(1, most / (norm + 1e-6)).
    uint64_t out;
    /// Number of sums.
    int64_t len;
    /// What the norm shall not exceed.
    float most;
    /// Padding.
    uint32_t reserved;
} AdamwNormTotal;
