#pragma once
#include <stdint.h>

/// The factors of one step for a group of parameters. They lie in device memory, since they change from step to
/// step while the launches stay.
typedef struct AdamwFactors {
    /// 1 - rate * weight decay.
    float keep;
    /// -rate / (1 - beta1^t) at step t.
    float along;
    /// sqrt(1 - beta2^t).
    float correct;
    /// 1 - beta1.
    float first;
    /// beta2 and 1 - beta2.
    float second;
    float second_rest;
    /// Added to the root of the second moment.
    float eps;
    /// Padding.
    uint32_t reserved;
} AdamwFactors;

/// Parameters of `adamw_step_*`: one step for one tensor of parameters.
typedef struct AdamwStep {
    /// Parameters, f32, changed in place.
    uint64_t param;
    /// Sums of their gradients, f32.
    uint64_t grad;
    /// First and second moments, f32, changed in place.
    uint64_t first;
    uint64_t second;
    /// The moving average of the parameters, f32, changed in place. 0: there is none.
    uint64_t ema;
    /// The parameters as kernels read them, in the element type that the kernel's name ends with. `f32`: there
    /// are none but the parameters themselves.
    uint64_t copy;
    /// AdamwFactors.
    uint64_t factors;
    /// One f32 number by which the gradients are multiplied: what `adamw_norm_total_f32` leaves. If it is no
    /// finite number, nothing is changed. 0: the gradients are taken as they are.
    uint64_t grad_scale;
    /// Number of parameters.
    int64_t len;
    /// How much the moving average keeps.
    float ema_keep;
    /// Padding.
    uint32_t reserved;
} AdamwStep;

/// Parameters of `adamw_accumulate_*`: adds a gradient to a sum.
typedef struct AdamwAccumulate {
    /// Sums, f32, changed in place.
    uint64_t sum;
    /// The gradient, in the element type that the kernel's name ends with.
    uint64_t grad;
    /// One f32 number: 0 if the gradient takes the place of what is there, else it is added.
    uint64_t add;
    /// Number of elements.
    int64_t len;
} AdamwAccumulate;

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
    /// One f32 number that makes means of the sums of gradients. 0: they are taken as they are.
    uint64_t unit;
    /// Two f32 numbers: the norm of the means, and unit * min(1, most / (norm + 1e-6)), which is no number if the
    /// norm is not finite.
    uint64_t out;
    /// Number of sums.
    int64_t len;
    /// What the norm shall not exceed.
    float most;
    /// Padding.
    uint32_t reserved;
} AdamwNormTotal;
