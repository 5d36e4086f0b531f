#pragma once
#include <stdint.h>

#include "index.h"

/// Parameters of `copy_strided_*` and `cast_*`: elements from one strided tensor to another of the same shape.
/// A unit is what one access moves: a few neighbouring elements.
typedef struct CopyStrided {
    /// First element read.
    uint64_t src;
    /// First element written.
    uint64_t dst;
    /// Strides of each axis, outermost first, in units.
    int64_t src_strides[8];
    int64_t dst_strides[8];
    /// Extents of the axes, in units.
    Divisor extents[8];
    /// Number of units: the product of the extents, below 2^31.
    uint32_t units;
    /// Number of axes; the others are not looked at.
    uint32_t rank;
} CopyStrided;

/// Parameters of `copy_transpose_*`: a batch of matrices whose rows are dense where they are read and whose
/// columns are dense where they are written.
typedef struct CopyTranspose {
    /// First element read.
    uint64_t src;
    /// First element written.
    uint64_t dst;
    /// Elements between the dense rows of src, and between those of dst.
    int64_t src_step;
    int64_t dst_step;
    /// Strides of the batch axes, outermost first, in elements.
    int64_t src_strides[6];
    int64_t dst_strides[6];
    /// Extents of the batch axes.
    Divisor extents[6];
    /// Tiles along a dense row of src, and in one matrix.
    Divisor tiles_across;
    Divisor tiles;
    /// Length of a dense row of src, and of one of dst.
    uint32_t across;
    uint32_t down;
    /// Number of batch axes.
    uint32_t rank;
    /// Padding.
    uint32_t reserved;
} CopyTranspose;

/// Parameters of `copy_gather_*`: dst is dense; along each axis a table says which index of src stands there.
typedef struct CopyGather {
    /// First element read.
    uint64_t src;
    /// dst, dense.
    uint64_t dst;
    /// int32 tables, one entry per index of dst: the index of src, or -1 for zeros. 0: every index is itself.
    uint64_t tables[8];
    /// Strides of the axes of src, outermost first, in units.
    int64_t src_strides[8];
    /// Extents of the axes of dst, in units.
    Divisor extents[8];
    /// Number of units of dst, below 2^31.
    uint32_t units;
    /// Number of axes.
    uint32_t rank;
} CopyGather;
