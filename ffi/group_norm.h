#pragma once
#include <stdint.h>

/// How the images [samples, pixels, channels] of a group norm are shared out. Block (s, t, b) of a launch over
/// pixels has the pixels of slab s and the channels of tile t of sample b.
typedef struct GroupNormTiles {
    /// Pixels of a sample.
    int32_t pixels;
    int32_t channels;
    /// Blocks of channels that are normalised together.
    int32_t groups;
    /// Channel vectors of a tile; the threads of a block are `tile` wide and share out the pixels.
    int32_t tile;
    /// Pixels of a slab.
    int32_t slab;
    /// Slabs of a sample.
    int32_t slabs;
} GroupNormTiles;

/// How images [height, width] were cut into pieces of which moments are known: row by row, `piece_h` x `piece_w` pixels
/// each, smaller at the right and the bottom. Slabs of pixels are pieces of an image that is one row.
typedef struct GroupNormPieces {
    /// Of an image, in pixels.
    int32_t height;
    int32_t width;
    /// Of a piece, in pixels.
    int32_t piece_h;
    int32_t piece_w;
    /// Of a pixel.
    int32_t channels;
    /// Blocks of channels that are normalised together.
    int32_t groups;
} GroupNormPieces;

/// Parameters of `group_norm_moments_*`: mean and sum of squared distances from it, of every channel over every slab.
typedef struct GroupNormMoments {
    /// x, pixels `x_step` elements apart.
    uint64_t x;
    /// Result, f32 [samples, slabs, channels, 2].
    uint64_t partials;
    int64_t x_step;
    GroupNormTiles tiles;
} GroupNormMoments;

/// Parameters of `group_norm_combine_f32`: mean and reciprocal standard deviation of every group. Block (g, b):
/// one group of one sample.
typedef struct GroupNormCombine {
    /// f32 [samples, slabs, channels, 2], as `group_norm_moments_*` writes it.
    uint64_t partials;
    /// Result, f32 [samples, groups, 2].
    uint64_t moments;
    GroupNormTiles tiles;
    /// Added to the variance.
    float eps;
    /// Zero.
    int32_t reserved;
} GroupNormCombine;

/// Parameters of `group_norm_apply_*`: y = f((x - mean) * rstd * gamma + beta).
typedef struct GroupNormApply {
    /// x, pixels `x_step` elements apart.
    uint64_t x;
    /// Mean and reciprocal standard deviation, f32 [samples, groups, 2].
    uint64_t moments;
    /// gamma and beta, f32 [channels].
    uint64_t gamma;
    uint64_t beta;
    /// y, dense; may be x.
    uint64_t y;
    int64_t x_step;
    GroupNormTiles tiles;
    /// 1: f is SiLU; 0: f is the identity.
    int32_t silu;
    /// Zero.
    int32_t reserved;
} GroupNormApply;

/// Parameters of `group_norm_grad_sums_*` and `group_norm_grad_apply_*`. With z = n * gamma + beta and
/// dz = f'(z) * dy, the first sums dz and dz * n of every channel over every slab, and the second writes
/// dx = (dz * gamma - mean(dz * gamma) - n * mean(dz * gamma * n)) * rstd.
typedef struct GroupNormBackward {
    /// x and dy, f32, pixels `x_step` and `dy_step` elements apart.
    uint64_t x;
    uint64_t dy;
    /// Mean and reciprocal standard deviation, f32 [samples, groups, 2].
    uint64_t moments;
    /// gamma and beta, f32 [channels].
    uint64_t gamma;
    uint64_t beta;
    /// Sums of dz and dz * n, f32 [samples, slabs, channels, 2]: result of the first kernel.
    uint64_t partials;
    /// Means of dz * gamma and dz * gamma * n, f32 [samples, groups, 2]: operand of the second kernel.
    uint64_t means;
    /// dx, f32, dense: result of the second kernel.
    uint64_t dx;
    int64_t x_step;
    int64_t dy_step;
    GroupNormTiles tiles;
    /// 1: f is SiLU; 0: f is the identity.
    int32_t silu;
    /// Zero.
    int32_t reserved;
} GroupNormBackward;

/// Parameters of `group_norm_grad_means_f32` (block (g, b): one group of one sample) and
/// `group_norm_grad_weights_f32` (a block 32 channels).
typedef struct GroupNormGradCombine {
    /// Sums of dz and dz * n, f32 [samples, slabs, channels, 2].
    uint64_t partials;
    /// gamma, f32 [channels].
    uint64_t gamma;
    /// Means of dz * gamma and dz * gamma * n, f32 [samples, groups, 2]: result of `group_norm_grad_means_f32`.
    uint64_t means;
    /// Gradients of gamma and beta, f32 [channels]: results of `group_norm_grad_weights_f32`.
    uint64_t d_gamma;
    uint64_t d_beta;
    GroupNormTiles tiles;
    int32_t samples;
    /// Zero.
    int32_t reserved;
} GroupNormGradCombine;

/// Parameters of `group_norm_affine_f32`: the factors with which y = x * scale + shift is the group norm of x. Block
/// (g, b): one group of one sample.
typedef struct GroupNormAffine {
    /// Means and sums of squared distances from them, f32 [samples, pieces, channels, 2].
    uint64_t partials;
    /// gamma and beta, f32 [channels].
    uint64_t gamma;
    uint64_t beta;
    /// Result, f32 [samples, 2, channels]: scale and shift of every channel.
    uint64_t affine;
    GroupNormPieces pieces;
    /// Added to the variance.
    float eps;
    /// Zero.
    int32_t reserved;
} GroupNormAffine;

/// Parameters of `group_norm_rescale_*`: y = f(x * scale + shift).
typedef struct GroupNormRescale {
    /// x, pixels `x_step` elements apart.
    uint64_t x;
    /// Scale and shift, f32 [samples, 2, channels].
    uint64_t affine;
    /// y, dense.
    uint64_t y;
    int64_t x_step;
    GroupNormTiles tiles;
    /// 1: f is SiLU; 0: f is the identity.
    int32_t silu;
    /// Zero.
    int32_t reserved;
} GroupNormRescale;
