#pragma once
#include <stdint.h>

#include "row_norms.h"

/// Most experts of a mixture.
#define MODULATE_EXPERTS 8

/// An expert: rows h of k values, and two layers of n rows of k values that make its gammas and betas of them.
typedef struct ModulateExpert {
    /// h, rows `h_step` elements apart.
    uint64_t h;
    /// The weights, dense rows.
    uint64_t w_gamma;
    uint64_t w_beta;
    /// f32, one value a column.
    uint64_t b_gamma;
    uint64_t b_beta;
    int64_t h_step;
} ModulateExpert;

/// Parameters of `linear_modulate_*`: y = x * (1 + gamma) + beta, where gamma is the sum over the experts of
/// g * (h * w_gamma^T + b_gamma), beta likewise, and g is a softmax over the logits of the row.
typedef struct LinearModulate {
    /// The first `count` exist.
    ModulateExpert experts[MODULATE_EXPERTS];
    /// Of y.
    RowNorms norms;
    /// f32, dense m x n matrices; they may be the same memory.
    uint64_t x;
    uint64_t y;
    /// y in the type of h; 0: not wanted.
    uint64_t twin;
    /// As h, `experts` of them a row, rows `logits_step` elements apart; 0: one expert, of weight 1.
    uint64_t logits;
    int64_t logits_step;
    /// Extents: rows, columns of y, values of a row of h.
    int32_t m;
    int32_t n;
    int32_t k;
    /// Experts, 1 to `MODULATE_EXPERTS`.
    int32_t count;
    /// Bytes (2 to 16, a power of two) that divide the addresses and steps of all h, and of all weights.
    int32_t h_align;
    int32_t w_align;
    /// Whether x, y and the biases can be accessed in vectors of four.
    int32_t vectors;
    /// Zero.
    int32_t reserved;
} LinearModulate;
