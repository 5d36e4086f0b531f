// conv2d: NHWC convolutions as products of matrices that never exist (implicit GEMM), and their gradients.
//
// Forward: rows are result pixels, columns output channels, the depth runs over (tap, input channel). A slice of
// the depth is fetched straight from the picture; taps outside it are zeros. Concatenated inputs, a nearest
// enlargement and the epilogue cost nothing extra: they are address arithmetic, and arithmetic on a result in
// registers. The gradient of the input is the same kernel over dy with the weight turned by 180 degrees; where
// the forward strides, it reads dy as if zeros lay between its pixels (3/4 of the products of a stride-2 layer
// are with zeros, which only training of the downsamplers pays for).
//
// Bound by arithmetic: 2·taps·cin·cout FLOPs a pixel for cin + cout elements read and written. At 3×3 and 128
// channels of half precision that is 576 FLOPs a byte; an A100 balances 200.
//
// * `fwd_128x{128,64,32}x32` (bf16, f16): tensor cores. Four warps of 64×64 (64×32, 32×32): with 64×64 the
//   fragments cost 64 of the 128 bytes of shared memory a cycle that a multiprocessor has, while the
//   tensor cores are busy; smaller warps would be bound by it. Depth 32 = 64-byte rows, swizzled so that
//   ldmatrix meets no bank twice. Three stages of cp.async; two blocks fit a multiprocessor. A slice lies in
//   one tap of one input, so a pixel's address is worked out once a tap, not once an element.
//   Channels that are multiples of 8 travel in 16 bytes, multiples of 4 (SwinIR's 180) in 8 (`v4`).
// * `fwd_simt_128x64x16` (f32, bf16, f16): everything else, f32 arithmetic, 8×8 results a thread. In half
//   precision this is the form of the first layer of a model, with its 3 or 4 channels: about a hundredth of
//   the model's products. A last layer with 3 outputs takes the tile of 32.
// * `pack`: weights `[out, in, kh, kw]` into the order in which slices are read, before each launch: bound by
//   memory, about 6 µs for 512 × 512 channels and 9 taps, which multiply for 90 µs over 64×64 pixels. Its
//   result depends on the weight alone, so a plan may keep it.
// * `grad_weight`: rows are output channels, columns (tap, input channel), the depth runs over pixels. It is
//   split over blocks into partial sums that `grad_weight_sum` adds in order: no atomics, same bytes always.
#include "include/epilogue.cuh"
#include "include/mma.cuh"
#include "../ffi/conv2d.h"

namespace {

constexpr int THREADS = 128;
constexpr int BM = 128;  // pixels of a tile

/// ty of a pixel that does not exist: no tap brings it into the picture.
constexpr int OUTSIDE = -(1 << 30);

/// Where a result pixel reads: the first input pixel of its picture, ty and tx of tap (0, 0).
struct Pixel {
    int image, ty, tx;
};
DC_FN Pixel pixel_of(const ConvGeometry& g, int m) {
    if (m >= g.pixels) return {0, OUTSIDE, 0};
    const int row = m / g.out_w, picture = row / g.out_h;
    return {picture * g.height * g.width, (row - picture * g.out_h) * g.stride_y - g.pad_y,
            (m - row * g.out_w) * g.stride_x - g.pad_x};
}

/// The input pixel under (ty, tx) of the picture that starts at pixel `image`; -1 for a zero. SHIFT: repeats are
/// powers of two.
template <bool SHIFT>
DC_FN int input_at(const ConvGeometry& g, int image, int ty, int tx) {
    if (unsigned(ty) >= unsigned(g.reach_y) || unsigned(tx) >= unsigned(g.reach_x)) return -1;
    int y = ty, x = tx;
    if (SHIFT) {
        y >>= g.shift_y, x >>= g.shift_x;
        if (g.stuffed && (y << g.shift_y != ty || x << g.shift_x != tx)) return -1;
    } else if (g.repeat_y > 1 || g.repeat_x > 1) {
        y /= g.repeat_y, x /= g.repeat_x;
        if (g.stuffed && (y * g.repeat_y != ty || x * g.repeat_x != tx)) return -1;
    }
    return image + y * g.width + x;
}

// ---- Forward, any layout ----------------------------------------------------------------------

namespace simt {

constexpr int BN = 64, BK = 16;
constexpr int PITCH = BM + 4;  // rows 16 bytes past a multiple of all banks: the transposing stores spread out

/// Rows of the result that pass through shared memory together, and the distance of two.
constexpr int ROWS = 64, LD = BN + 4;

struct Smem {
    union {
        struct {
            float a[2][BK][PITCH];
            float b[2][BK][BN];
        } in;
        float out[ROWS * LD];
    };
    Pixel pixel[BM];
};

/// Epilogue and store of the ROWS sums in `s.out`, pixels from m0, channels from n0 of the group.
template <class Out>
DC_FN void finish(const Conv2dFwd& p, Smem& s, int m0, int n0, int group) {
    Out* y = dc::ptr<Out>(p.y);
    if (p.groups == 1) {
        dc::finish<Out, ROWS, BN, LD, THREADS>(p.epilogue, s.out, threadIdx.x, m0, n0, p.geometry.pixels, p.cout, y,
                                               dc::ptr<const Out>(p.epilogue.residual));
        return;
    }
    // The tile ends where the group does, in the middle of a row of y.
    DC_ROLL
    for (int i = threadIdx.x; i < ROWS * BN; i += THREADS) {
        const int m = m0 + i / BN, n = n0 + i % BN, column = group * p.cout + n;
        if (m < p.geometry.pixels && n < p.cout)
            dc::finish_store(p.epilogue, s.out[i / BN * LD + i % BN], m, column, y,
                             int64_t(m) * p.groups * p.cout + column);
    }
}

/// Walks down the depth of (tap, channel) pairs.
struct Depth {
    int ky, kx, c;
    DC_FN Depth(const ConvGeometry& g, int cin, int k) {
        const int tap = k / cin;
        ky = tap / g.kernel_w;
        kx = tap - ky * g.kernel_w;
        c = k - tap * cin;
    }
    DC_FN void advance(const ConvGeometry& g, int cin, int by) {
        for (c += by; c >= cin; c -= cin) {
            if (++kx == g.kernel_w) {
                kx = 0;
                ++ky;
            }
        }
    }
};

/// Block (tile of pixels and channels, _, group). Packed weights are f32 `[group, depth, cout_padded]`, the depth
/// filled up with zeros to a multiple of BK.
template <class T>
DC_FN void forward(const Conv2dFwd& p) {
    auto& s = dc::shared<Smem>();
    const ConvGeometry& g = p.geometry;
    const int t = threadIdx.x, tiles = p.cout_padded / BN;
    const int m0 = int(blockIdx.x) / tiles * BM, n0 = int(blockIdx.x) % tiles * BN, group = blockIdx.z;
    const int slices = dc::ceil_div(g.kernel_h * g.kernel_w * p.cin, BK);
    s.pixel[t] = pixel_of(g, m0 + t);
    __syncthreads();

    // Fetching: a thread has one place in the depth of 16 and every eighth pixel, so that 16 threads read
    // neighbouring channels of one pixel.
    const int k = t % BK, first = t / BK;
    Depth at(g, p.cin, k);
    const float* w = dc::ptr<const float>(p.w) + int64_t(group) * slices * BK * p.cout_padded + n0;
    float a[BM / 8];
    dc::Vec<float, 4> b[2];
    auto fetch = [&](int slice) {
        int channel = group * p.cin + at.c, source = 0;
        while (source + 1 < p.sources && channel >= p.source[source].channels)
            channel -= p.source[source++].channels;
        const T* x = dc::ptr<const T>(p.source[source].x) + channel;
        const int64_t step = p.source[source].step;
        const int dy = at.ky < g.kernel_h ? at.ky * g.dilation_y : OUTSIDE, dx = at.kx * g.dilation_x;
        DC_UNROLL
        for (int i = 0; i < BM / 8; ++i) {
            const Pixel pixel = s.pixel[first + 8 * i];
            const int from = input_at<false>(g, pixel.image, pixel.ty + dy, pixel.tx + dx);
            a[i] = from < 0 ? 0.0f : dc::to_f32(x[from * step]);
        }
        DC_UNROLL
        for (int i = 0; i < 2; ++i)
            b[i] = dc::load<4>(w + int64_t(slice * BK + first + 8 * i) * p.cout_padded + k * 4);
        at.advance(g, p.cin, BK);
    };
    auto put = [&](int slot) {
        DC_UNROLL
        for (int i = 0; i < BM / 8; ++i) s.in.a[slot][k][first + 8 * i] = a[i];
        DC_UNROLL
        for (int i = 0; i < 2; ++i) dc::store(&s.in.b[slot][first + 8 * i][k * 4], b[i]);
    };

    // A thread's results: pixels ty·4 + {0..3} and 64 more, channels tx·4 + {0..3} and 32 more.
    const int ty = t / 8, tx = t % 8;
    float sum[8][8] = {};
    fetch(0);
    put(0);
    __syncthreads();
    for (int slice = 0; slice < slices; ++slice) {
        if (slice + 1 < slices) fetch(slice + 1);
        const int slot = slice & 1;
        DC_UNROLL
        for (int d = 0; d < BK; ++d) {
            dc::Vec<float, 4> x[2], c[2];
            DC_UNROLL
            for (int h = 0; h < 2; ++h) {
                x[h] = dc::load<4>(&s.in.a[slot][d][ty * 4 + h * 64]);
                c[h] = dc::load<4>(&s.in.b[slot][d][tx * 4 + h * 32]);
            }
            DC_UNROLL
            for (int i = 0; i < 8; ++i)
                DC_UNROLL
                for (int j = 0; j < 8; ++j) sum[i][j] += x[i / 4][i % 4] * c[j / 4][j % 4];
        }
        // The other slot was last read before the barrier of the previous turn.
        if (slice + 1 < slices) put(slot ^ 1);
        __syncthreads();
    }
    // The loop ended with a barrier: its shared memory is free.
    DC_ROLL
    for (int pass = 0; pass < BM / ROWS; ++pass) {
        DC_UNROLL
        for (int i = 0; i < 8; ++i) {
            if (i / 4 != pass) continue;  // sums have no addresses: pick by comparison
            DC_UNROLL
            for (int h = 0; h < 2; ++h) {
                const float* v = &sum[i][h * 4];
                dc::store(&s.out[(ty * 4 + i % 4) * LD + tx * 4 + h * 32],
                          dc::Vec<float, 4>{{v[0], v[1], v[2], v[3]}});
            }
        }
        __syncthreads();
        if (sizeof(T) == 4 || p.y_is_f32)
            finish<float>(p, s, m0 + pass * ROWS, n0, group);
        else
            finish<T>(p, s, m0 + pass * ROWS, n0, group);
        __syncthreads();
    }
}

/// f32 `[group, depth, cout_padded]` from w in T; a thread writes four output channels.
template <class T>
DC_FN void pack(const Conv2dPack& p) {
    const int64_t piece = int64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (piece >= p.pieces) return;
    const int row = p.cout_padded / 4;
    const int64_t line = piece / row;
    const int n = int(piece - line * row) * 4, group = int(line / p.depth_padded);
    const int k = int(line - int64_t(group) * p.depth_padded);
    const int tap = k / p.cin, c = k - tap * p.cin;
    const T* w = dc::ptr<const T>(p.w) + group * p.group_step + c * p.cin_step + (p.turned ? p.taps - 1 - tap : tap);
    dc::Vec<float, 4> out;
    DC_UNROLL
    for (int i = 0; i < 4; ++i)
        out[i] = tap < p.taps && n + i < p.cout ? dc::to_f32(w[(n + i) * p.cout_step]) : 0.0f;
    dc::store(dc::ptr<float>(p.packed) + piece * 4, out);
}

}  // namespace simt

// ---- Forward on tensor cores ------------------------------------------------------------------

namespace tensor {

constexpr int BK = 32;
constexpr int STAGES = 3;

/// Where 16-byte unit `u` of row `r` of a tile with 64-byte rows lies, in elements: eight rows of one unit, as
/// ldmatrix reads them, fall into eight different groups of four banks.
DC_FN int at64(int r, int u) { return r * BK + (u ^ (r >> 1 & 3)) * 8; }

/// BN channels a block, WM×WN results a warp, VEC channels a copy.
template <class T, int BN, int WM, int WN, int VEC>
struct Forward {
    static constexpr int WARPS_M = BM / WM, WARPS_N = BN / WN;
    static_assert(WARPS_M * WARPS_N * 32 == THREADS, "four warps");
    static constexpr int MT = WM / 16, NT = WN / 8;
    struct Smem {
        union {
            struct {
                uint16_t a[STAGES][BM * BK];
                uint16_t b[STAGES][BN * BK];
            } in;
            float patch[4][dc::patch_bytes<NT> / 4];  // of each warp, for its results on their way out
        };
        Pixel pixel[BM];
    };

    /// What a block fetches next: input, tap and slice of the input's channels.
    struct Cursor {
        int source, ky, kx, slice;
    };

    const Conv2dFwd& p;
    Smem& s;
    const int t, warp_m, warp_n;
    int n0;
    Cursor next{0, 0, 0, 0};
    const T* row[4];     // this thread's pixels at the cursor's tap
    unsigned there = 0;  // bit i: row[i] is inside the picture; none when all is fetched
    int channels = 0;    // of the cursor's input
    const uint16_t* w;   // this thread's unit of the next slice of the weights
    float sum[MT][NT][4];
    uint32_t a[2][MT][4], b[2][NT][2];

    DC_FN Forward(const Conv2dFwd& p)
        : p(p), s(dc::shared<Smem>()), t(threadIdx.x), warp_m(dc::warp() / WARPS_N), warp_n(dc::warp() % WARPS_N) {}

    /// Addresses of the cursor's tap.
    DC_FN void look() {
        there = 0;
        if (next.source >= p.sources) return;
        const ConvGeometry& g = p.geometry;
        const T* x = dc::ptr<const T>(p.source[next.source].x);
        const int64_t step = p.source[next.source].step;
        channels = p.source[next.source].channels;
        DC_UNROLL
        for (int i = 0; i < 4; ++i) {
            const Pixel pixel = s.pixel[t / 4 + 32 * i];
            const int from =
                input_at<true>(g, pixel.image, pixel.ty + next.ky * g.dilation_y, pixel.tx + next.kx * g.dilation_x);
            there |= unsigned(from >= 0) << i;
            row[i] = x + dc::max(from, 0) * step;
        }
    }

    /// Starts the copies of the next slice into a stage: straight-line code, which the compiler spreads between
    /// the multiplications.
    DC_FN void fetch(int stage) {
        const int c = next.slice * BK + t % 4 * 8;
        DC_UNROLL
        for (int i = 0; i < 4; ++i) {
            uint16_t* to = s.in.a[stage] + at64(t / 4 + 32 * i, t % 4);
            DC_UNROLL
            for (int h = 0; h < 8; h += VEC) {
                const bool read = (there >> i & 1) && c + h < channels;
                dc::cp_async<VEC * 2>(to + h, row[i] + c + h, read ? VEC * 2 : 0);
            }
        }
        // Weights are packed as they lie in shared memory.
        DC_UNROLL
        for (int i = 0; i < BN / 32; ++i)
            dc::cp_async<16>(s.in.b[stage] + (t + i * THREADS) * 8, w + i * THREADS * 8,
                             next.source < p.sources ? 16 : 0);
        dc::cp_async_commit();
    }

    /// To the next slice.
    DC_FN void step() {
        w += int64_t(p.cout_padded) * BK;
        if (++next.slice * BK < channels) return;
        next.slice = 0;
        if (++next.kx == p.geometry.kernel_w) {
            next.kx = 0;
            if (++next.ky == p.geometry.kernel_h) {
                next.ky = 0;
                ++next.source;
            }
        }
        look();
    }

    /// Fragments of 16 of a stage's depth.
    DC_FN void fragments(int buffer, int stage, int half) {
        const int lane = dc::lane(), matrix = lane / 8, in = lane % 8;
        DC_UNROLL
        for (int i = 0; i < MT; ++i)
            dc::ldmatrix<4, false>(a[buffer][i], s.in.a[stage] + at64(warp_m * WM + i * 16 + matrix % 2 * 8 + in,
                                                                      half * 2 + matrix / 2));
        DC_UNROLL
        for (int j = 0; j < NT; j += 2) {
            uint32_t r[4];
            dc::ldmatrix<4, false>(r, s.in.b[stage] + at64(warp_n * WN + j * 8 + matrix / 2 * 8 + in,
                                                           half * 2 + matrix % 2));
            b[buffer][j][0] = r[0], b[buffer][j][1] = r[1];
            b[buffer][j + 1][0] = r[2], b[buffer][j + 1][1] = r[3];
        }
    }

    DC_FN void multiply(int buffer) {
        DC_UNROLL
        for (int i = 0; i < MT; ++i)
            DC_UNROLL
            for (int j = 0; j < NT; ++j) dc::mma_m16n8k16<T>(sum[i][j], a[buffer][i], b[buffer][j]);
    }

    DC_FN void run() {
        const int tiles = p.cout_padded / BN;
        const int m0 = int(blockIdx.x) / tiles * BM;
        n0 = int(blockIdx.x) % tiles * BN;
        s.pixel[t] = pixel_of(p.geometry, m0 + t);
        w = dc::ptr<const uint16_t>(p.w) + n0 * BK + t * 8;
        int total = 0;
        for (int i = 0; i < p.sources; ++i) total += dc::ceil_div(p.source[i].channels, BK);
        total *= p.geometry.kernel_h * p.geometry.kernel_w;
        DC_UNROLL
        for (int i = 0; i < MT; ++i)
            DC_UNROLL
            for (int j = 0; j < NT; ++j)
                DC_UNROLL
                for (int k = 0; k < 4; ++k) sum[i][j][k] = 0;
        __syncthreads();
        look();

        DC_ROLL
        for (int i = 0; i < STAGES; ++i) {
            fetch(i);
            step();
        }
        dc::cp_async_wait<STAGES - 1>();
        __syncthreads();
        fragments(0, 0, 0);
        int stage = 0;
        for (int slice = 0; slice < total; ++slice) {
            fragments(1, stage, 1);
            multiply(0);
            // The next slice has landed for everybody, and nobody reads this stage any more.
            dc::cp_async_wait<STAGES - 2>();
            __syncthreads();
            fetch(stage);
            stage = stage + 1 == STAGES ? 0 : stage + 1;
            fragments(0, stage, 0);  // after the last slice: never used
            multiply(1);
            step();
        }
        dc::cp_async_wait<0>();

        __syncthreads();  // patches lie over the stages
        dc::finish_warp<T, MT, NT>(p.epilogue, sum, s.patch[dc::warp()], m0 + warp_m * WM, n0 + warp_n * WN,
                                   p.geometry.pixels, p.cout, p.y, 0, p.y_is_f32);
    }
};

/// `[slice, cout_padded, 32]` in the order of `at64`; slices as the cursor walks: input, tap, channels. A thread
/// moves 8 channels at every tap: it reads one stretch of memory, and a warp writes another. The values are not
/// looked at: bf16 and f16 alike.
DC_FN void pack(const Conv2dPack& p) {
    const int64_t piece = int64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (piece >= p.pieces) return;
    const int64_t line = piece / 4;
    const int n = int(line % p.cout_padded), unit = int(piece % 4) ^ (n >> 1 & 3);
    int slice = int(line / p.cout_padded), source = 0, slices, channel = 0, before = 0;
    for (;; ++source) {
        slices = dc::ceil_div(p.channels[source], BK);
        if (slice < slices) break;
        slice -= slices;
        channel += p.channels[source];
        before += slices * p.taps;
    }
    const int c = slice * BK + unit * 8, left = n < p.cout ? p.channels[source] - c : 0;
    const uint16_t* w = dc::ptr<const uint16_t>(p.w) + n * p.cout_step + (channel + c) * p.cin_step;
    uint16_t* to = dc::ptr<uint16_t>(p.packed) + (int64_t(before + slice) * p.cout_padded + n) * BK + piece % 4 * 8;
    for (int tap = 0; tap < p.taps; ++tap) {
        const int from = p.turned ? p.taps - 1 - tap : tap;
        dc::Vec<uint16_t, 8> out;
        DC_UNROLL
        for (int i = 0; i < 8; ++i) out[i] = i < left ? w[i * p.cin_step + from] : uint16_t(0);
        dc::store(to + int64_t(tap) * slices * p.cout_padded * BK, out);
    }
}

}  // namespace tensor

// ---- Gradient of the weight -------------------------------------------------------------------

namespace grad_weight {

/// Any layout, f32 arithmetic. Block (tile, split, group): 64 output channels × 64 (tap, channel) pairs, 16 pixels
/// at a time, 8×4 results a thread.
namespace simt {

constexpr int BN = 64, BJ = 64, BK = 16;

struct Smem {
    float dy[2][BK][BN];
    float x[2][BK][BJ];
    Pixel pixel[2][BK];
};

template <class T>
DC_FN void partial(const Conv2dGradWeight& p) {
    auto& s = dc::shared<Smem>();
    const ConvGeometry& g = p.geometry;
    const int t = threadIdx.x, pairs = g.kernel_h * g.kernel_w * p.cin, tiles = dc::ceil_div(pairs, BJ);
    const int n0 = int(blockIdx.x) / tiles * BN, j0 = int(blockIdx.x) % tiles * BJ, group = blockIdx.z;
    const int begin = int(blockIdx.y) * p.split_pixels, end = dc::min(g.pixels, begin + p.split_pixels);
    const int slices = dc::ceil_div(end - begin, BK);

    // Fetching: a thread has one column of either operand and every other pixel.
    const int column = t % 64, first = t / 64;
    const int tap = (j0 + column) / p.cin, c = j0 + column - tap * p.cin;
    const int tap_y = tap / g.kernel_w, tap_x = tap - tap_y * g.kernel_w;
    const bool some_x = j0 + column < pairs, some_dy = n0 + column < p.cout;
    const T* x = dc::ptr<const T>(p.x) + group * p.cin + c;
    const T* dy = dc::ptr<const T>(p.dy) + group * p.cout + n0 + column;
    float from_dy[BK / 2], from_x[BK / 2];
    auto look = [&](int slice) {
        if (t < BK) {
            const int m = begin + slice * BK + t;
            s.pixel[slice & 1][t] = m < end ? pixel_of(g, m) : Pixel{0, OUTSIDE, 0};
        }
    };
    auto fetch = [&](int slice) {
        DC_UNROLL
        for (int i = 0; i < BK / 2; ++i) {
            const int k = first + 2 * i, m = begin + slice * BK + k;
            const Pixel pixel = s.pixel[slice & 1][k];
            const int from =
                input_at<false>(g, pixel.image, pixel.ty + tap_y * g.dilation_y, pixel.tx + tap_x * g.dilation_x);
            from_x[i] = some_x && from >= 0 ? dc::to_f32(x[from * p.x_step]) : 0.0f;
            from_dy[i] = some_dy && m < end ? dc::to_f32(dy[m * p.dy_step]) : 0.0f;
        }
    };
    auto put = [&](int slot) {
        DC_UNROLL
        for (int i = 0; i < BK / 2; ++i) {
            s.x[slot][first + 2 * i][column] = from_x[i];
            s.dy[slot][first + 2 * i][column] = from_dy[i];
        }
    };

    const int ty = t / 16, tx = t % 16;
    float sum[8][4] = {};
    look(0);
    look(1);
    __syncthreads();
    fetch(0);
    put(0);
    __syncthreads();
    for (int slice = 0; slice < slices; ++slice) {
        if (slice + 1 < slices) fetch(slice + 1);
        look(slice + 2);  // over the pixels of this slice, which were fetched before the last barrier
        const int slot = slice & 1;
        DC_UNROLL
        for (int k = 0; k < BK; ++k) {
            dc::Vec<float, 4> d[2];
            d[0] = dc::load<4>(&s.dy[slot][k][ty * 8]);
            d[1] = dc::load<4>(&s.dy[slot][k][ty * 8 + 4]);
            const auto v = dc::load<4>(&s.x[slot][k][tx * 4]);
            DC_UNROLL
            for (int i = 0; i < 8; ++i)
                DC_UNROLL
                for (int j = 0; j < 4; ++j) sum[i][j] += d[i / 4][i % 4] * v[j];
        }
        if (slice + 1 < slices) put(slot ^ 1);
        __syncthreads();
    }
    const int64_t plane = int64_t(p.groups) * p.cout * pairs;
    float* to = dc::ptr<float>(p.partial) + int(blockIdx.y) * plane + int64_t(group) * p.cout * pairs;
    DC_UNROLL
    for (int i = 0; i < 8; ++i) {
        const int n = n0 + ty * 8 + i;
        DC_UNROLL
        for (int j = 0; j < 4; ++j) {
            const int at = j0 + tx * 4 + j;
            if (n < p.cout && at < pairs) to[int64_t(n) * pairs + at] = sum[i][j];
        }
    }
}

}  // namespace simt

/// Half precision, channels in multiples of 8, one group. Block (tile, split): 128 output channels × 64 input
/// channels of one tap, 32 pixels at a time; both operands are read through transposing ldmatrix.
namespace tensor {

constexpr int BN = 128, BC = 64, BK = 32, STAGES = 3;
constexpr int WM = 64, WN = 32, MT = WM / 16, NT = WN / 8;

struct Smem {
    uint16_t dy[STAGES][BK * BN];
    uint16_t x[STAGES][BK * BC];
};

/// Where unit `u` of pixel `k` lies in a tile whose rows are multiples of 128 bytes.
DC_FN int at128(int k, int u, int columns) { return k * columns + (u ^ (k & 7)) * 8; }

/// Result pixels of one thread, 32 apart from slice to slice.
struct Walk {
    int ox, oy, picture;
};

template <class T>
DC_FN void partial(const Conv2dGradWeight& p) {
    auto& s = dc::shared<Smem>();
    const ConvGeometry& g = p.geometry;
    const int t = threadIdx.x, lane = dc::lane(), warp_m = dc::warp() / 2, warp_n = dc::warp() % 2;
    const int taps = g.kernel_h * g.kernel_w, c_tiles = dc::ceil_div(p.cin, BC), tiles = taps * c_tiles;
    const int n0 = int(blockIdx.x) / tiles * BN, tile = int(blockIdx.x) % tiles;
    const int tap = tile / c_tiles, c0 = (tile - tap * c_tiles) * BC;
    const int ky = tap / g.kernel_w, kx = tap - ky * g.kernel_w;
    const int begin = int(blockIdx.y) * p.split_pixels, end = dc::min(g.pixels, begin + p.split_pixels);
    const int slices = dc::ceil_div(end - begin, BK);
    const int to_y = ky * g.dilation_y - g.pad_y, to_x = kx * g.dilation_x - g.pad_x;

    // dy: 16 units of 8 channels a pixel, every eighth pixel. x: 8 units, every 16th pixel.
    const int dy_unit = t % 16, x_unit = t % 8;
    const T* dy = dc::ptr<const T>(p.dy) + n0 + dy_unit * 8;
    const T* x = dc::ptr<const T>(p.x) + c0 + x_unit * 8;
    const bool some_dy = n0 + dy_unit * 8 < p.cout, some_x = c0 + x_unit * 8 < p.cin;
    Walk walk[2];
    DC_UNROLL
    for (int i = 0; i < 2; ++i) {
        const int m = begin + t / 8 + 16 * i, row = m / g.out_w;
        walk[i].picture = row / g.out_h;
        walk[i].oy = row - walk[i].picture * g.out_h;
        walk[i].ox = m - row * g.out_w;
    }
    const int rows = BK / g.out_w, step_x = BK - rows * g.out_w, step_picture = rows / g.out_h;
    const int step_y = rows - step_picture * g.out_h;
    int fetched = 0;
    auto fetch = [&](int stage) {
        if (fetched < slices) {
            const int m0 = begin + fetched * BK;
            DC_UNROLL
            for (int i = 0; i < 4; ++i) {
                const int k = t / 16 + 8 * i;
                const bool there = some_dy && m0 + k < end;
                dc::cp_async<16>(s.dy[stage] + at128(k, dy_unit, BN),
                                 there ? dy + (m0 + k) * p.dy_step : dc::ptr<const T>(p.dy), there ? 16 : 0);
            }
            DC_UNROLL
            for (int i = 0; i < 2; ++i) {
                const int k = t / 8 + 16 * i;
                Walk& w = walk[i];
                const int from = input_at<true>(g, w.picture * g.height * g.width, w.oy * g.stride_y + to_y,
                                          w.ox * g.stride_x + to_x);
                const bool there = some_x && m0 + k < end && from >= 0;
                dc::cp_async<16>(s.x[stage] + at128(k, x_unit, BC),
                                 there ? x + from * p.x_step : dc::ptr<const T>(p.x), there ? 16 : 0);
                w.ox += step_x;
                w.oy += step_y;
                w.picture += step_picture;
                if (w.ox >= g.out_w) {
                    w.ox -= g.out_w;
                    ++w.oy;
                }
                if (w.oy >= g.out_h) {
                    w.oy -= g.out_h;
                    ++w.picture;
                }
            }
            ++fetched;
        }
        dc::cp_async_commit();
    };

    float sum[MT][NT][4] = {};
    uint32_t a[2][MT][4], b[2][NT][2];
    const int matrix = lane / 8, in = lane % 8;
    auto fragments = [&](int buffer, int stage, int half) {
        DC_UNROLL
        for (int i = 0; i < MT; ++i)
            dc::ldmatrix<4, true>(a[buffer][i], s.dy[stage] + at128(half * 16 + matrix / 2 * 8 + in,
                                                                    warp_m * (WM / 8) + i * 2 + matrix % 2, BN));
        DC_UNROLL
        for (int j = 0; j < NT; j += 2) {
            uint32_t r[4];
            dc::ldmatrix<4, true>(r, s.x[stage] + at128(half * 16 + matrix % 2 * 8 + in,
                                                        warp_n * (WN / 8) + j + matrix / 2, BC));
            b[buffer][j][0] = r[0], b[buffer][j][1] = r[1];
            b[buffer][j + 1][0] = r[2], b[buffer][j + 1][1] = r[3];
        }
    };
    auto multiply = [&](int buffer) {
        DC_UNROLL
        for (int i = 0; i < MT; ++i)
            DC_UNROLL
            for (int j = 0; j < NT; ++j) dc::mma_m16n8k16<T>(sum[i][j], a[buffer][i], b[buffer][j]);
    };

    // The pipeline of the forward kernel.
    DC_ROLL
    for (int i = 0; i < STAGES; ++i) fetch(i);
    dc::cp_async_wait<STAGES - 1>();
    __syncthreads();
    fragments(0, 0, 0);
    int stage = 0;
    for (int slice = 0; slice < slices; ++slice) {
        fragments(1, stage, 1);
        multiply(0);
        dc::cp_async_wait<STAGES - 2>();
        __syncthreads();
        fetch(stage);
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        fragments(0, stage, 0);
        multiply(1);
    }
    dc::cp_async_wait<0>();

    const int64_t pairs = int64_t(taps) * p.cin;
    float* to = dc::ptr<float>(p.partial) + int(blockIdx.y) * pairs * p.cout + tap * p.cin;
    DC_UNROLL
    for (int i = 0; i < MT; ++i)
        DC_UNROLL
        for (int j = 0; j < NT; ++j)
            DC_UNROLL
            for (int h = 0; h < 2; ++h) {
                const int n = n0 + warp_m * WM + i * 16 + h * 8 + lane / 4;
                const int c = c0 + warp_n * WN + j * 8 + lane % 4 * 2;
                if (n < p.cout && c < p.cin)
                    dc::store(to + n * pairs + c, dc::Vec<float, 2>{{sum[i][j][h * 2], sum[i][j][h * 2 + 1]}});
            }
}

}  // namespace tensor

/// Bound by reading the partial sums: neighbouring threads take neighbouring channels of them.
DC_FN void sum(const Conv2dGradWeightSum& p) {
    const int64_t at = int64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (at >= p.len) return;
    const int64_t pair = at / p.cin, n = pair / p.taps;
    const int c = int(at - pair * p.cin), tap = int(pair - n * p.taps);
    const float* from = dc::ptr<const float>(p.partial) + at;
    float sum = 0;
    for (int i = 0; i < p.splits; ++i) sum += from[i * p.len];
    dc::ptr<float>(p.dw)[(n * p.cin + c) * p.taps + tap] = sum;
}

}  // namespace grad_weight

}  // namespace

// Blocks a multiprocessor: as many as leave each thread its accumulators and fragments in registers.
DC_KERNEL(conv2d_pack_simt_f32, Conv2dPack, THREADS, 8, 0) { simt::pack<float>(p); }
DC_KERNEL(conv2d_pack_simt_bf16, Conv2dPack, THREADS, 8, 0) { simt::pack<dc::bf16>(p); }
DC_KERNEL(conv2d_pack_simt_f16, Conv2dPack, THREADS, 8, 0) { simt::pack<dc::f16>(p); }
DC_KERNEL(conv2d_pack_tensor_b16, Conv2dPack, THREADS, 8, 0) { tensor::pack(p); }
DC_KERNEL(conv2d_grad_weight_sum_f32, Conv2dGradWeightSum, THREADS, 8, 0) { grad_weight::sum(p); }

#define SIMT(NAME, T)                                                                                      \
    DC_KERNEL(conv2d_fwd_simt_128x64x16_##NAME, Conv2dFwd, THREADS, 3, sizeof(simt::Smem)) {               \
        simt::forward<T>(p);                                                                               \
    }                                                                                                      \
    DC_KERNEL(conv2d_grad_weight_simt_64x64x16_##NAME, Conv2dGradWeight, THREADS, 4,                       \
              sizeof(grad_weight::simt::Smem)) {                                                           \
        grad_weight::simt::partial<T>(p);                                                                  \
    }
SIMT(f32, float)
SIMT(bf16, dc::bf16)
SIMT(f16, dc::f16)
#undef SIMT

#define FORWARD(TILE, NAME, blocks, ...)                                                                   \
    DC_KERNEL(conv2d_fwd_##TILE##_##NAME, Conv2dFwd, THREADS, blocks,                                      \
              sizeof(tensor::Forward<__VA_ARGS__>::Smem)) {                                                \
        tensor::Forward<__VA_ARGS__>(p).run();                                                             \
    }
#define TENSOR(NAME, T)                                                                                    \
    FORWARD(128x128x32, NAME, 2, T, 128, 64, 64, 8)                                                        \
    FORWARD(128x64x32, NAME, 3, T, 64, 64, 32, 8)                                                          \
    FORWARD(128x32x32, NAME, 4, T, 32, 32, 32, 8)                                                          \
    FORWARD(128x64x32_v4, NAME, 3, T, 64, 64, 32, 4)                                                       \
    DC_KERNEL(conv2d_grad_weight_128x64x32_##NAME, Conv2dGradWeight, THREADS, 3,                           \
              sizeof(grad_weight::tensor::Smem)) {                                                         \
        grad_weight::tensor::partial<T>(p);                                                                \
    }
TENSOR(bf16, dc::bf16)
TENSOR(f16, dc::f16)
#undef TENSOR
#undef FORWARD
