#pragma once
#include <stdint.h>

/// Parameters of `diffusion_noise_*`: standard normals, element i a function of seed, image, step and i alone.
typedef struct DiffusionNoise {
    /// f32, to be filled.
    uint64_t out;
    /// Number of elements, at most 2^34.
    int64_t len;
    /// Seed of the job.
    uint64_t seed;
    /// Key of the image.
    uint64_t image;
    /// Step of the sampler.
    uint32_t step;
    /// Padding.
    uint32_t reserved;
} DiffusionNoise;

/// Parameters of `diffusion_guide_*`: cond = uncond + scale * (cond - uncond) on the first elements of each sample.
typedef struct DiffusionGuide {
    /// Conditional output of the network, f32, changed in place.
    uint64_t cond;
    /// Unconditional output, f32.
    uint64_t uncond;
    /// Elements of a sample that are guided: whole planes.
    int64_t guided;
    /// Elements between samples, of both.
    int64_t sample;
    /// Strength.
    float scale;
    /// Padding.
    uint32_t reserved;
} DiffusionGuide;

/// Parameters of `diffusion_sum_*`: y = c[0]*x[0] + c[1]*x[1] + ... in this order.
typedef struct DiffusionSum {
    /// Up to four f32 tensors; one of them may be y.
    uint64_t x[4];
    /// y, f32.
    uint64_t y;
    /// Number of elements.
    int64_t len;
    /// Their factors.
    float factors[4];
    /// How many there are.
    int32_t count;
    /// Padding.
    uint32_t reserved;
} DiffusionSum;

/// Parameters of `diffusion_blend_*`: the weighted mean of overlapping tiles, a tile at a time.
typedef struct DiffusionBlend {
    /// One tile, f32 `[planes, tile, tile]`.
    uint64_t tile;
    /// f64 `[tile, tile]`: weight of each pixel.
    uint64_t weights;
    /// f32 `[planes, height, width]`: weighted sums so far.
    uint64_t sums;
    /// f32 `[height, width]`: sums of weights.
    uint64_t total;
    /// Planes, and pixels of one.
    int32_t planes;
    int32_t height;
    int32_t width;
    /// Side of the tile.
    int32_t side;
    /// Where the tile lies.
    int32_t top;
    int32_t left;
} DiffusionBlend;

/// Parameters of `diffusion_iddpm_*`: one ancestral step, x = mean(x, eps) + sigma * noise.
typedef struct DiffusionIddpm {
    /// The latent, f32, changed in place.
    uint64_t x;
    /// Predicted noise, f32.
    uint64_t eps;
    /// The network's variance channels, f32; 0: the greatest variance for all.
    uint64_t variance;
    /// Fresh normals, f32; 0: the last step, which adds none.
    uint64_t noise;
    /// Number of elements.
    int64_t len;
    /// The clean latent is from_x * x - from_eps * eps, the mean mean_clean * clean + mean_x * x.
    float from_x;
    float from_eps;
    float mean_clean;
    float mean_x;
    /// Logarithms of the least and the greatest variance.
    float least;
    float greatest;
} DiffusionIddpm;
