#pragma once
#include <stdint.h>

#include "index.h"

/// Parameters of `max_pool_fwd_*`: the largest value of each window of an image.
typedef struct MaxPoolFwd {
    /// x, dense `[batch, from[0], from[1], channels]`.
    uint64_t x;
    /// y, dense `[batch, height, width, channels]`.
    uint64_t y;
    /// channels, in units: neighbouring elements that a thread handles at once.
    Divisor channels;
    Divisor width;
    Divisor height;
    /// Height and width of x.
    int32_t from[2];
    /// Rows and columns of a window, pixels between windows, pixels by which the first stands out.
    int32_t size;
    int32_t stride;
    int32_t pad;
    /// Units of y, below 2^31.
    uint32_t units;
} MaxPoolFwd;

/// Parameters of `max_pool_bwd_*`.
typedef struct MaxPoolBwd {
    /// x, dense `[batch, height, width, channels]`.
    uint64_t x;
    /// dy, dense `[batch, windows[0], windows[1], channels]`.
    uint64_t dy;
    /// dx, dense as x.
    uint64_t dx;
    /// channels, in units: neighbouring elements that a thread handles at once.
    Divisor channels;
    Divisor width;
    Divisor height;
    /// Height and width of dy.
    int32_t windows[2];
    /// As of `max_pool_fwd_*`.
    int32_t size;
    int32_t stride;
    int32_t pad;
    /// Units of x, below 2^31.
    uint32_t units;
} MaxPoolBwd;
