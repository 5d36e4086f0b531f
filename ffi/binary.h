#pragma once
#include <stdint.h>

#include "index.h"

#define BINARY_ADD 0
#define BINARY_SUB 1
#define BINARY_MUL 2
#define BINARY_DIV 3

/// Results of a launch, at most.
#define BINARY_MEMBERS 16

/// One result of a launch, and what it is computed from.
typedef struct BinaryMember {
    /// x and y, strided; 0 strides repeat.
    uint64_t x;
    uint64_t y;
    /// z, dense.
    uint64_t z;
} BinaryMember;

/// Parameters of `binary_fwd_*`: z = f(x, y) element by element, for each member (blockIdx.z). A unit is
/// what a thread handles at once: some neighbouring elements of z.
typedef struct BinaryFwd {
    /// gridDim.z of them, all of the same shapes and strides.
    BinaryMember members[BINARY_MEMBERS];
    /// Elements to step for one unit along each axis, outermost first.
    int64_t x_strides[8];
    int64_t y_strides[8];
    /// Extents of the axes, in units.
    Divisor extents[8];
    /// Number of units, below 2^31.
    uint32_t units;
    /// Number of axes.
    uint32_t rank;
    /// One of `BINARY_*`.
    int32_t kind;
    /// What a unit reads of x, and of y: one of `BINARY_OPERAND_*`.
    int32_t x_form;
    int32_t y_form;
    /// Padding.
    uint32_t reserved;
} BinaryFwd;

/// As many neighbouring elements as z has.
#define BINARY_OPERAND_VECTOR 0
/// One element for the whole unit.
#define BINARY_OPERAND_ONE 1
/// A single f32 number for all of z, whatever the other operand's type.
#define BINARY_OPERAND_NUMBER 2
