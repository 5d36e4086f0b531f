#pragma once
#include <stdint.h>

/// Parameters of `diffusion_begin`: the next step of a loop, told to everything that is replayed for it.
typedef struct DiffusionBegin {
    /// u32, number of the step, all ones before the first: counted up.
    uint64_t counter;
    /// What each step does; a row begins with the timestep that the network is given, f32.
    uint64_t rows;
    /// That timestep, f32.
    uint64_t timestep;
    /// Size of a row.
    uint32_t row_bytes;
    /// Padding.
    uint32_t reserved;
} DiffusionBegin;

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
    /// u32, the step of the sampler; 0: `step` is it.
    uint64_t counter;
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

/// Parameters of `diffusion_blend_*`: the weighted mean of overlapping tiles.
typedef struct DiffusionBlend {
    /// f32 `[columns, rows, planes, side, side]`: the tiles, down the first column, then the next.
    uint64_t tiles;
    /// f64 `[side, side]`: weight of each pixel.
    uint64_t weights;
    /// f32 `[planes, height, width]`.
    uint64_t out;
    /// Planes, and pixels of one.
    int32_t planes;
    int32_t height;
    int32_t width;
    /// Side of a tile, and from one to the next; the last of each axis ends with the plane.
    int32_t side;
    int32_t step;
    /// Tiles along each axis.
    int32_t rows;
    int32_t columns;
    /// Padding.
    int32_t reserved;
} DiffusionBlend;

/// Parameters of `diffusion_step_*`: one step of a sampler. Which one, and its factors, lie in device memory, so
/// that one recording serves all steps.
typedef struct DiffusionStep {
    /// The latent, f32, changed in place.
    uint64_t x;
    /// Predicted noise, f32.
    uint64_t eps;
    /// The network's variance channels, f32; 0: it has none.
    uint64_t variance;
    /// Fresh normals, f32; 0: no step wants any.
    uint64_t noise;
    /// What the sampler remembers, f32, as long as x; 0: it does not. The clean latent that it predicted last, the
    /// corrected state that its last prediction started from, and the noise of that prediction.
    uint64_t clean;
    uint64_t corrected;
    uint64_t kept;
    /// u32, number of the step.
    uint64_t counter;
    /// The sampler's own rows (`Diffusion…Row`), one a step.
    uint64_t rows;
    /// u32: 1 + the first step after which x held a value that is not finite; 0 before.
    uint64_t fault;
    /// Number of elements.
    int64_t len;
    /// Elements from the noise of one step to that of the next: 0 where it is drawn anew.
    int64_t noise_step;
} DiffusionStep;

/// One ancestral step, x = mean(x, eps) + sigma * noise.
typedef struct DiffusionIddpmRow {
    /// What the network is given.
    float timestep;
    /// Whether noise is added: not in the last step.
    uint32_t noise;
    /// The clean latent is from_x * x - from_eps * eps, the mean mean_clean * clean + mean_x * x.
    float from_x;
    float from_eps;
    float mean_clean;
    float mean_x;
    /// Logarithms of the least and the greatest variance.
    float least;
    float greatest;
} DiffusionIddpmRow;

/// One step of DDIM, x = signal * clean + direction * eps + sigma * noise.
typedef struct DiffusionDdimRow {
    /// What the network is given.
    float timestep;
    /// Whether noise is added.
    uint32_t noise;
    /// The clean latent is from_x * x - from_eps * eps.
    float from_x;
    float from_eps;
    /// Of the clean latent, the predicted noise, the fresh noise.
    float signal;
    float direction;
    float sigma;
    /// Padding.
    uint32_t reserved;
} DiffusionDdimRow;

/// One step of DPM-Solver++, x = keep * x + towards * clean [+ half * (inverse * (clean - last))] + sigma * noise.
typedef struct DiffusionDpmRow {
    /// What the network is given.
    float timestep;
    /// Whether noise is added.
    uint32_t noise;
    /// Whether the clean latent before the latest takes part.
    uint32_t second;
    /// Signal and noise of x: the clean latent is (x - noise_level * eps) / signal_level.
    float signal_level;
    float noise_level;
    float keep;
    float towards;
    float half;
    float inverse;
    float sigma;
} DiffusionDpmRow;

/// One step of SA-Solver: the last prediction is corrected, then the next one made; both are
/// x = keep * x + (towards[0] * clean [+ towards[1] * last]) + sigma * noise.
typedef struct DiffusionSaRow {
    /// What the network is given.
    float timestep;
    /// Whether the prediction adds noise.
    uint32_t noise;
    /// Whether there is a prediction to correct, and whether it had noise.
    uint32_t correct;
    uint32_t had_noise;
    /// Whether the prediction reads the clean latent before the latest.
    uint32_t second;
    /// Signal and noise of x: the clean latent is (x - noise_level * eps) / signal_level.
    float signal_level;
    float noise_level;
    /// The corrector.
    float corrector_keep;
    float corrector_towards[2];
    float corrector_sigma;
    /// The predictor.
    float keep;
    float towards[2];
    float sigma;
} DiffusionSaRow;
