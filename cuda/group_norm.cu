// group_norm: channels-last images normalised over all pixels and a block of channels, SiLU fused, and its
// gradient.
//
// Memory-bound: x is read twice and y written once, 10 bytes an element for f32 in, bf16 out, 6 in bf16
// throughout (a map that fits the second-level cache, 40 MB on A100, is read from there the second time).
// Three launches: moments of every channel over slabs of pixels; their combination (Chan's formula, in the
// order of slabs) to one mean and rstd a group, a few microseconds; normalisation. Statistics are a
// channel's until the second launch because the widths of groups (4, 10, 16, 30, …) are not whole vectors.
//
// A block of 256 threads is `tile` channel vectors wide and walks down its slab of pixels: neighbouring
// threads read neighbouring vectors, a warp at least 256 contiguous bytes for 64 channels and more; a thread
// keeps its channels, so that their statistics and weights stay in registers and nothing is divided in the
// loop, which has 4 pixels under way. Every second launch over pixels walks backwards, to meet in the
// second-level cache what the one before has read last. `v4` needs whole vectors of 4 channels, `v1` takes
// any number.
//
// Where a convolution normalises on its way in (conv2d_halo.cu), nothing is written here but a scale and a shift of
// every channel of every sample (`affine`), from moments of slabs, or of the tiles of the convolution in front,
// which then makes the first launch its own. `rescale` applies them where that convolution takes another form.
#include "include/activation.cuh"
#include "../ffi/group_norm.h"

namespace {

constexpr int THREADS = 256;
constexpr int COMBINE_THREADS = 256;
constexpr int AFFINE_THREADS = 1024;  // a convolution of a million pixels leaves 8192 pieces
constexpr int UNROLL = 4;

/// What a thread works on: channels c … c+W−1 of pixels first, first + step, … before end of a sample.
template <int W>
struct Place {
    int sample, slab, c, first, step, end;
    bool active;
    /// `from_end`: the last slab of the last sample comes first, which is what the launch before has left in
    /// the second-level cache.
    DC_FN Place(const GroupNormTiles& t, bool from_end) {
        const int rank = threadIdx.x / t.tile;
        sample = from_end ? gridDim.z - 1 - blockIdx.z : blockIdx.z;
        slab = from_end ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
        c = (blockIdx.y * t.tile + threadIdx.x - rank * t.tile) * W;
        step = THREADS / t.tile;
        first = slab * t.slab + rank;
        end = dc::min(t.pixels, (slab + 1) * t.slab);
        active = rank < step && c < t.channels;
    }
};

/// f(pixel, values of x…) for the pixels of a place, UNROLL pixels' loads under way at once.
template <int W, class T, class F>
DC_FN void each_pixel(const Place<W>& at, const T* x, int64_t step, F f) {
    int p = at.first;
    for (; p + (UNROLL - 1) * at.step < at.end; p += UNROLL * at.step) {
        dc::Vec<T, W> v[UNROLL];
        DC_UNROLL
        for (int u = 0; u < UNROLL; ++u) v[u] = dc::load<W>(x + (p + u * at.step) * step);
        DC_UNROLL
        for (int u = 0; u < UNROLL; ++u) f(p + u * at.step, v[u]);
    }
    for (; p < at.end; p += at.step) f(p, dc::load<W>(x + p * step));
}
template <int W, class F>
DC_FN void each_pixel(const Place<W>& at, const float* x, int64_t x_step, const float* y, int64_t y_step, F f) {
    int p = at.first;
    for (; p + (UNROLL - 1) * at.step < at.end; p += UNROLL * at.step) {
        dc::Vec<float, W> v[UNROLL], w[UNROLL];
        DC_UNROLL
        for (int u = 0; u < UNROLL; ++u) {
            v[u] = dc::load<W>(x + (p + u * at.step) * x_step);
            w[u] = dc::load<W>(y + (p + u * at.step) * y_step);
        }
        DC_UNROLL
        for (int u = 0; u < UNROLL; ++u) f(p + u * at.step, v[u], w[u]);
    }
    for (; p < at.end; p += at.step) f(p, dc::load<W>(x + p * x_step), dc::load<W>(y + p * y_step));
}

/// Pairs of sums, a thread's W channels each; the block adds those of a channel in the order of ranks.
template <int W>
struct PairSums {
    float first[THREADS * W], second[THREADS * W];
};

/// Adds up the pairs of every channel of the block: write(channel, first, second) once a channel.
template <int W, class F>
DC_FN void combine_ranks(const Place<W>& at, const GroupNormTiles& t, const float (&first)[W],
                         const float (&second)[W], F write) {
    auto& s = dc::shared<PairSums<W>>();
    DC_UNROLL
    for (int k = 0; k < W; ++k) {
        s.first[threadIdx.x * W + k] = first[k];
        s.second[threadIdx.x * W + k] = second[k];
    }
    __syncthreads();
    const int width = t.tile * W, base = blockIdx.y * width;
    for (int i = threadIdx.x; i < width && base + i < t.channels; i += THREADS) {
        float a = 0, b = 0;
        for (int r = 0; r < at.step; ++r) {
            a += s.first[r * width + i];
            b += s.second[r * width + i];
        }
        write(base + i, a, b);
    }
}

template <class In, int W>
DC_FN void group_norm_moments(const GroupNormMoments& p) {
    const GroupNormTiles& t = p.tiles;
    const Place<W> at(t, false);
    const In* x = dc::ptr<const In>(p.x) + int64_t(at.sample) * t.pixels * p.x_step;
    // Sums are of distances to the slab's first pixel: no cancellation where the mean is far from zero.
    const In* pivots = x + int64_t(at.slab) * t.slab * p.x_step;
    float sum[W] = {}, squares[W] = {};
    if (at.active) {
        const auto raw = dc::load<W>(pivots + at.c);
        dc::Vec<float, W> pivot;
        DC_UNROLL
        for (int k = 0; k < W; ++k) pivot[k] = dc::to_f32(raw[k]);
        each_pixel<W>(at, x + at.c, p.x_step, [&](int, const auto& v) {
            DC_UNROLL
            for (int k = 0; k < W; ++k) {
                const float d = dc::to_f32(v[k]) - pivot[k];
                sum[k] += d;
                squares[k] += d * d;
            }
        });
    }
    const int count = at.end - at.slab * t.slab;
    auto* out = dc::ptr<dc::Vec<float, 2>>(p.partials) + (int64_t(at.sample) * t.slabs + at.slab) * t.channels;
    combine_ranks<W>(at, t, sum, squares, [&](int c, float sum, float squares) {
        const float mean = sum / count;
        out[c] = {dc::to_f32(pivots[c]) + mean, squares - sum * mean};
    });
}

/// The pieces of a sample, and the pixels of one.
DC_FN int pieces(const GroupNormTiles& t) { return t.slabs; }
DC_FN int pixels(const GroupNormTiles& t, int slab) { return dc::min(t.slab, t.pixels - slab * t.slab); }
DC_FN int pieces(const GroupNormPieces& p) {
    return dc::ceil_div(p.height, p.piece_h) * dc::ceil_div(p.width, p.piece_w);
}
DC_FN int pixels(const GroupNormPieces& p, int piece) {
    const int columns = dc::ceil_div(p.width, p.piece_w), y = piece / columns, x = piece - y * columns;
    return dc::min(p.piece_h, p.height - y * p.piece_h) * dc::min(p.piece_w, p.width - x * p.piece_w);
}

/// Calls f(pixels of the piece, pair of the channel and piece, channel) for every partial result of a group.
template <int N, class Shares, class F>
DC_FN void each_partial(const Shares& t, uint64_t partials, F f) {
    const int width = t.channels / t.groups, count = pieces(t);
    const auto* pairs = dc::ptr<const dc::Vec<float, 2>>(partials) + int64_t(blockIdx.y) * count * t.channels;
    for (int i = threadIdx.x; i < count * width; i += N) {
        const int piece = i / width, c = blockIdx.x * width + i - piece * width;
        f(pixels(t, piece), pairs[int64_t(piece) * t.channels + c], c);
    }
}

/// Mean and reciprocal standard deviation of a group of n numbers, in every one of N threads. The squares are of
/// distances from the mean: two rounds over the partial results, the second from the caches.
template <int N, class Shares>
DC_FN dc::Vec<float, 2> group_moments(const Shares& t, uint64_t partials, float n, float eps) {
    auto& scratch = dc::shared<float[N / 32]>();
    float sum = 0;
    each_partial<N>(t, partials, [&](int count, const auto& m, int) { sum += count * m[0]; });
    const float mean = dc::block_sum<N>(sum, scratch) / n;
    float squares = 0;
    each_partial<N>(t, partials, [&](int count, const auto& m, int) {
        squares += m[1] + count * (m[0] - mean) * (m[0] - mean);
    });
    const float variance = dc::block_sum<N>(squares, scratch) / n;
    return {mean, dc::rsqrt(variance + eps)};
}

DC_FN void group_norm_combine(const GroupNormCombine& p) {
    const GroupNormTiles& t = p.tiles;
    const float n = float(t.pixels) * float(t.channels / t.groups);
    const auto m = group_moments<COMBINE_THREADS>(t, p.partials, n, p.eps);
    auto* out = dc::ptr<dc::Vec<float, 2>>(p.moments) + int64_t(blockIdx.y) * t.groups + blockIdx.x;
    if (threadIdx.x == 0) *out = m;
}

DC_FN void group_norm_affine(const GroupNormAffine& p) {
    const GroupNormPieces& t = p.pieces;
    const int width = t.channels / t.groups;
    const float n = float(t.height) * float(t.width) * float(width);
    const auto m = group_moments<AFFINE_THREADS>(t, p.partials, n, p.eps);
    float* scale = dc::ptr<float>(p.affine) + int64_t(blockIdx.y) * 2 * t.channels;
    for (int c = blockIdx.x * width + threadIdx.x; c < (int(blockIdx.x) + 1) * width; c += AFFINE_THREADS) {
        const float a = m[1] * dc::ptr<const float>(p.gamma)[c];
        scale[c] = a;
        scale[t.channels + c] = dc::ptr<const float>(p.beta)[c] - m[0] * a;
    }
}

template <class T, int W>
DC_FN void group_norm_rescale(const GroupNormRescale& p) {
    const GroupNormTiles& t = p.tiles;
    const Place<W> at(t, true);
    if (!at.active) return;  // no barrier follows
    const float* scales = dc::ptr<const float>(p.affine) + int64_t(at.sample) * 2 * t.channels + at.c;
    const auto scale = dc::load<W>(scales), shift = dc::load<W>(scales + t.channels);
    const int64_t sample = int64_t(at.sample) * t.pixels;
    const T* x = dc::ptr<const T>(p.x) + sample * p.x_step + at.c;
    T* y = dc::ptr<T>(p.y) + sample * t.channels + at.c;
    each_pixel<W>(at, x, p.x_step, [&](int pixel, const auto& v) {
        dc::Vec<T, W> out;
        DC_UNROLL
        for (int k = 0; k < W; ++k) {
            const float z = dc::to_f32(v[k]) * scale[k] + shift[k];
            out[k] = dc::from_f32<T>(p.silu ? dc::activate<ACTIVATION_SILU>(0, 0, z) : z);
        }
        dc::store(y + int64_t(pixel) * t.channels, out);
    });
}

/// The statistics and weights of a thread's channels.
template <int W>
struct Affine {
    float mean[W], rstd[W], gamma[W], beta[W];
    DC_FN Affine(const GroupNormTiles& t, const Place<W>& at, uint64_t moments, uint64_t gammas, uint64_t betas) {
        const auto* m = dc::ptr<const dc::Vec<float, 2>>(moments) + int64_t(at.sample) * t.groups;
        const int width = t.channels / t.groups;
        DC_UNROLL
        for (int k = 0; k < W; ++k) {
            const auto of = m[(at.c + k) / width];
            mean[k] = of[0];
            rstd[k] = of[1];
            gamma[k] = dc::ptr<const float>(gammas)[at.c + k];
            beta[k] = dc::ptr<const float>(betas)[at.c + k];
        }
    }
};

template <class In, class Out, int W>
DC_FN void group_norm_apply(const GroupNormApply& p) {
    const GroupNormTiles& t = p.tiles;
    const Place<W> at(t, true);
    if (!at.active) return;  // no barrier follows
    const Affine<W> a(t, at, p.moments, p.gamma, p.beta);
    const int64_t sample = int64_t(at.sample) * t.pixels;
    const In* x = dc::ptr<const In>(p.x) + sample * p.x_step + at.c;
    Out* y = dc::ptr<Out>(p.y) + sample * t.channels + at.c;
    each_pixel<W>(at, x, p.x_step, [&](int pixel, const auto& v) {
        dc::Vec<Out, W> out;
        DC_UNROLL
        for (int k = 0; k < W; ++k) {
            const float z = (dc::to_f32(v[k]) - a.mean[k]) * (a.rstd[k] * a.gamma[k]) + a.beta[k];
            out[k] = dc::from_f32<Out>(p.silu ? dc::activate<ACTIVATION_SILU>(0, 0, z) : z);
        }
        dc::store(y + int64_t(pixel) * t.channels, out);
    });
}

/// Gradient of z = n·gamma + beta.
template <int W>
DC_FN float gradient_of_z(const GroupNormBackward& p, const Affine<W>& a, int k, float n, float dy) {
    return p.silu ? dy * dc::activate_slope<ACTIVATION_SILU>(0, 0, n * a.gamma[k] + a.beta[k]) : dy;
}

template <int W>
DC_FN void group_norm_grad_sums(const GroupNormBackward& p) {
    const GroupNormTiles& t = p.tiles;
    const Place<W> at(t, true);
    const int64_t sample = int64_t(at.sample) * t.pixels;
    float plain[W] = {}, with_n[W] = {};
    if (at.active) {
        const Affine<W> a(t, at, p.moments, p.gamma, p.beta);
        const float* x = dc::ptr<const float>(p.x) + sample * p.x_step + at.c;
        const float* dy = dc::ptr<const float>(p.dy) + sample * p.dy_step + at.c;
        each_pixel<W>(at, x, p.x_step, dy, p.dy_step, [&](int, const auto& x, const auto& dy) {
            DC_UNROLL
            for (int k = 0; k < W; ++k) {
                const float n = (x[k] - a.mean[k]) * a.rstd[k];
                const float dz = gradient_of_z(p, a, k, n, dy[k]);
                plain[k] += dz;
                with_n[k] += dz * n;
            }
        });
    }
    auto* out = dc::ptr<dc::Vec<float, 2>>(p.partials) + (int64_t(at.sample) * t.slabs + at.slab) * t.channels;
    combine_ranks<W>(at, t, plain, with_n, [&](int c, float plain, float with_n) { out[c] = {plain, with_n}; });
}

DC_FN void group_norm_grad_means(const GroupNormGradCombine& p) {
    auto& scratch = dc::shared<float[COMBINE_THREADS / 32]>();
    const GroupNormTiles& t = p.tiles;
    const float* gamma = dc::ptr<const float>(p.gamma);
    const float n = float(t.pixels) * float(t.channels / t.groups);
    float plain = 0, with_n = 0;
    each_partial<COMBINE_THREADS>(t, p.partials, [&](int, const auto& m, int c) {
        plain += gamma[c] * m[0];
        with_n += gamma[c] * m[1];
    });
    plain = dc::block_sum<COMBINE_THREADS>(plain, scratch) / n;
    with_n = dc::block_sum<COMBINE_THREADS>(with_n, scratch) / n;
    auto* out = dc::ptr<dc::Vec<float, 2>>(p.means) + int64_t(blockIdx.y) * t.groups + blockIdx.x;
    if (threadIdx.x == 0) *out = {plain, with_n};
}

/// A lane a channel; the warps share out samples and slabs, and their sums are added in their order.
DC_FN void group_norm_grad_weights(const GroupNormGradCombine& p) {
    constexpr int WARPS = COMBINE_THREADS / 32;
    auto& sums = dc::shared<dc::Vec<float, 2>[WARPS][32]>();
    const GroupNormTiles& t = p.tiles;
    const int c = blockIdx.x * 32 + dc::lane();
    const auto* pairs = dc::ptr<const dc::Vec<float, 2>>(p.partials) + c;
    float plain = 0, with_n = 0;
    for (int i = dc::warp(); c < t.channels && i < p.samples * t.slabs; i += WARPS) {
        const auto m = pairs[int64_t(i) * t.channels];
        plain += m[0];
        with_n += m[1];
    }
    sums[dc::warp()][dc::lane()] = {plain, with_n};
    __syncthreads();
    if (dc::warp() > 0 || c >= t.channels) return;
    for (int w = 1; w < WARPS; ++w) {
        plain += sums[w][dc::lane()][0];
        with_n += sums[w][dc::lane()][1];
    }
    dc::ptr<float>(p.d_gamma)[c] = with_n;
    dc::ptr<float>(p.d_beta)[c] = plain;
}

template <int W>
DC_FN void group_norm_grad_apply(const GroupNormBackward& p) {
    const GroupNormTiles& t = p.tiles;
    const Place<W> at(t, false);
    if (!at.active) return;  // no barrier follows
    const Affine<W> a(t, at, p.moments, p.gamma, p.beta);
    const auto* means = dc::ptr<const dc::Vec<float, 2>>(p.means) + int64_t(at.sample) * t.groups;
    float mean_d[W], mean_dn[W];
    DC_UNROLL
    for (int k = 0; k < W; ++k) {
        const auto m = means[(at.c + k) / (t.channels / t.groups)];
        mean_d[k] = m[0];
        mean_dn[k] = m[1];
    }
    const int64_t sample = int64_t(at.sample) * t.pixels;
    const float* x = dc::ptr<const float>(p.x) + sample * p.x_step + at.c;
    const float* dy = dc::ptr<const float>(p.dy) + sample * p.dy_step + at.c;
    float* dx = dc::ptr<float>(p.dx) + sample * t.channels + at.c;
    each_pixel<W>(at, x, p.x_step, dy, p.dy_step, [&](int pixel, const auto& x, const auto& dy) {
        dc::Vec<float, W> out;
        DC_UNROLL
        for (int k = 0; k < W; ++k) {
            const float n = (x[k] - a.mean[k]) * a.rstd[k];
            const float dz = gradient_of_z(p, a, k, n, dy[k]);
            out[k] = (dz * a.gamma[k] - mean_d[k] - n * mean_dn[k]) * a.rstd[k];
        }
        dc::store(dx + int64_t(pixel) * t.channels, out);
    });
}

}  // namespace

#define MOMENTS(NAME, In)                                                                                         \
    DC_KERNEL(group_norm_moments_v4_##NAME, GroupNormMoments, THREADS, 4, sizeof(PairSums<4>)) {                  \
        group_norm_moments<In, 4>(p);                                                                             \
    }                                                                                                             \
    DC_KERNEL(group_norm_moments_v1_##NAME, GroupNormMoments, THREADS, 4, sizeof(PairSums<1>)) {                  \
        group_norm_moments<In, 1>(p);                                                                             \
    }
MOMENTS(f32, float)
MOMENTS(bf16, dc::bf16)
MOMENTS(f16, dc::f16)
#undef MOMENTS

DC_KERNEL(group_norm_combine_f32, GroupNormCombine, COMBINE_THREADS, 1, COMBINE_THREADS / 8) { group_norm_combine(p); }

DC_KERNEL(group_norm_affine_f32, GroupNormAffine, AFFINE_THREADS, 1, AFFINE_THREADS / 8) { group_norm_affine(p); }

#define RESCALE(NAME, T)                                                                                          \
    DC_KERNEL(group_norm_rescale_v4_##NAME, GroupNormRescale, THREADS, 4, 0) { group_norm_rescale<T, 4>(p); }     \
    DC_KERNEL(group_norm_rescale_v1_##NAME, GroupNormRescale, THREADS, 4, 0) { group_norm_rescale<T, 1>(p); }
RESCALE(f32, float)
RESCALE(bf16, dc::bf16)
RESCALE(f16, dc::f16)
#undef RESCALE

#define APPLY(IN, OUT, In, Out)                                                                                   \
    DC_KERNEL(group_norm_apply_v4_##IN##_##OUT, GroupNormApply, THREADS, 4, 0) {                                  \
        group_norm_apply<In, Out, 4>(p);                                                                          \
    }                                                                                                             \
    DC_KERNEL(group_norm_apply_v1_##IN##_##OUT, GroupNormApply, THREADS, 4, 0) {                                  \
        group_norm_apply<In, Out, 1>(p);                                                                          \
    }
APPLY(f32, f32, float, float)
APPLY(f32, bf16, float, dc::bf16)
APPLY(f32, f16, float, dc::f16)
APPLY(bf16, bf16, dc::bf16, dc::bf16)
APPLY(f16, f16, dc::f16, dc::f16)
#undef APPLY

#define GRADIENT(W)                                                                                               \
    DC_KERNEL(group_norm_grad_sums_v##W##_f32, GroupNormBackward, THREADS, 3, sizeof(PairSums<W>)) {              \
        group_norm_grad_sums<W>(p);                                                                               \
    }                                                                                                             \
    DC_KERNEL(group_norm_grad_apply_v##W##_f32, GroupNormBackward, THREADS, 3, 0) { group_norm_grad_apply<W>(p); }
GRADIENT(4)
GRADIENT(1)
#undef GRADIENT

DC_KERNEL(group_norm_grad_means_f32, GroupNormGradCombine, COMBINE_THREADS, 1, COMBINE_THREADS / 8) {
    group_norm_grad_means(p);
}
DC_KERNEL(group_norm_grad_weights_f32, GroupNormGradCombine, COMBINE_THREADS, 1, COMBINE_THREADS * 8) {
    group_norm_grad_weights(p);
}
