#pragma once
#include <stdint.h>

/// Parameters of `reduce_rows_*` and `reduce_columns_*`: y[o, s, i] = scale * f(x[o, k, i] for k of slab s), f a sum
/// or the maximum. Of more than one slab, a second launch reduces the slabs.
typedef struct ReduceFwd {
    /// x, f32, dense [outer, n, inner].
    uint64_t x;
    /// y, f32, dense [outer, slabs, inner].
    uint64_t y;
    int64_t outer;
    int64_t n;
    /// 1 for `reduce_rows_*`.
    int64_t inner;
    /// How many of the n numbers are reduced to one.
    int64_t slab;
    /// ceil(n / slab), at least 1.
    int64_t slabs;
    /// `reduce_columns_*`: columns of a block, a power of two of up to 256; the other threads share out the slab.
    int32_t tile;
    /// Factor of the result.
    float scale;
} ReduceFwd;

/// Parameters of `reduce_max_grad_*`: dx = dy where the first maximum y of x stands, 0 elsewhere.
typedef struct ReduceMaxBwd {
    /// x, f32, dense [outer, n, inner].
    uint64_t x;
    /// y and dy, f32, dense [outer, inner].
    uint64_t y;
    uint64_t dy;
    /// dx, f32, like x.
    uint64_t dx;
    int64_t outer;
    int64_t n;
    int64_t inner;
} ReduceMaxBwd;
