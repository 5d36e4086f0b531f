#pragma once
#include <stdint.h>

/// Parameters of `modulate_*`: y = x * (1 + gamma) + beta, row by row.
typedef struct ModulateFwd {
    /// x, f32: `rows` rows of `cols` elements, `x_step` elements apart.
    uint64_t x;
    /// gamma and beta, like x but of the kernel's element type, rows `gamma_step` and `beta_step` elements apart.
    uint64_t gamma;
    uint64_t beta;
    /// y, f32, dense rows; may be x.
    uint64_t y;
    int64_t x_step;
    int64_t gamma_step;
    int64_t beta_step;
    int32_t rows;
    int32_t cols;
} ModulateFwd;

/// Operands of a mixture of experts' modulations: rows of `cols` elements with one logit an expert.
typedef struct MoeOperands {
    /// gamma of each expert, rows `gamma_step` elements apart; of the kernel's element type.
    uint64_t gamma[8];
    /// beta of each expert, rows `beta_step` elements apart; of the kernel's element type.
    uint64_t beta[8];
    /// x, f32, rows `x_step` elements apart.
    uint64_t x;
    /// Logits, `experts` a row, rows `logits_step` elements apart; of the kernel's element type.
    uint64_t logits;
    int64_t gamma_step[8];
    int64_t beta_step[8];
    int64_t x_step;
    int64_t logits_step;
    int32_t rows;
    int32_t cols;
    /// At most 8.
    int32_t experts;
    /// Zero.
    int32_t reserved;
} MoeOperands;

/// Parameters of `moe_modulate_fwd_*`: y = x * (1 + sum(g[k] * gamma[k])) + sum(g[k] * beta[k]), g = softmax(logits).
typedef struct MoeModulateFwd {
    /// Operands.
    MoeOperands of;
    /// y, f32, dense rows; may be x.
    uint64_t y;
} MoeModulateFwd;

/// Parameters of `moe_modulate_grad_*`: gradients of all operands of the forward op.
typedef struct MoeModulateBwd {
    /// Operands of the forward op, all f32.
    MoeOperands of;
    /// dy, f32, rows `dy_step` elements apart.
    uint64_t dy;
    int64_t dy_step;
    /// Gradients, f32, dense: of x, of the logits, of every gamma and every beta.
    uint64_t dx;
    uint64_t d_logits;
    uint64_t d_gamma[8];
    uint64_t d_beta[8];
} MoeModulateBwd;
