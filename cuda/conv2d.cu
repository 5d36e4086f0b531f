// conv2d: NHWC convolutions as products of matrices that never exist (implicit GEMM). 3×3 kernels with stride 1, where
// the picture lets them, run in conv2d_halo.cu or on Hopper in conv2d_sm90.cu; what is here takes all others, and packs
// the weights for all. The gradient of the weight is in conv2d_grad.cu.
//
// Rows are result pixels, columns output channels, the depth runs over (tap, input channel). A slice of
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
#include "include/conv2d_mma.cuh"
#include "include/epilogue.cuh"

namespace {

using namespace conv;

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

/// BN channels a block, WM×WN results a warp, VEC channels a copy.
template <class T, int BN, int WM, int WN, int VEC>
struct Forward : WarpTile<T, BN, WM, WN> {
    using Tile = WarpTile<T, BN, WM, WN>;
    static constexpr int MT = Tile::MT, NT = Tile::NT;
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
    const int t = threadIdx.x;
    int n0;
    Cursor next{0, 0, 0, 0};
    const T* row[4];     // this thread's pixels at the cursor's tap
    unsigned there = 0;  // bit i: row[i] is inside the picture; none when all is fetched
    int channels = 0;    // of the cursor's input
    const uint16_t* w;   // this thread's unit of the next slice of the weights

    DC_FN Forward(const Conv2dFwd& p) : p(p), s(dc::shared<Smem>()) {}

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
            dc::ldmatrix<4, false>(this->a[buffer][i], s.in.a[stage] + at64(this->warp_m * WM + i * 16 + matrix % 2 * 8 + in,
                                                                            half * 2 + matrix / 2));
        this->weights(buffer, s.in.b[stage], half);
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
        this->clear();
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
            this->multiply(0);
            // The next slice has landed for everybody, and nobody reads this stage any more.
            dc::cp_async_wait<STAGES - 2>();
            __syncthreads();
            fetch(stage);
            stage = stage + 1 == STAGES ? 0 : stage + 1;
            fragments(0, stage, 0);  // after the last slice: never used
            this->multiply(1);
            step();
        }
        dc::cp_async_wait<0>();

        __syncthreads();  // patches lie over the stages
        dc::finish_warp<T, MT, NT>(p.epilogue, this->sum, s.patch[dc::warp()], m0 + this->warp_m * WM, n0 + this->warp_n * WN,
                                   p.geometry.pixels, p.cout, p.y, 0, p.y_is_f32);
    }
};

/// `[slice, cout_padded, 32]` in the order of `at64`; slices as the kernel walks: input, tap, channels, or where it
/// reads all taps from one tile, input, channels, tap. A thread moves 8 channels at every tap: it reads one stretch
/// of memory, and a warp writes another. The values are not looked at: bf16 and f16 alike.
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
    const int slice_step = p.taps_inside ? p.taps : 1, tap_step = p.taps_inside ? 1 : slices;
    uint16_t* to = dc::ptr<uint16_t>(p.packed) +
                   (int64_t(before + slice * slice_step) * p.cout_padded + n) * BK + piece % 4 * 8;
    for (int tap = 0; tap < p.taps; ++tap) {
        const int from = p.turned ? p.taps - 1 - tap : tap;
        dc::Vec<uint16_t, 8> out;
        DC_UNROLL
        for (int i = 0; i < 8; ++i) out[i] = i < left ? w[i * p.cin_step + from] : uint16_t(0);
        dc::store(to + int64_t(tap) * tap_step * p.cout_padded * BK, out);
    }
}

}  // namespace tensor

}  // namespace

// Blocks a multiprocessor: as many as leave each thread its accumulators and fragments in registers.
DC_KERNEL(conv2d_pack_simt_f32, Conv2dPack, THREADS, 8, 0) { simt::pack<float>(p); }
DC_KERNEL(conv2d_pack_simt_bf16, Conv2dPack, THREADS, 8, 0) { simt::pack<dc::bf16>(p); }
DC_KERNEL(conv2d_pack_simt_f16, Conv2dPack, THREADS, 8, 0) { simt::pack<dc::f16>(p); }
DC_KERNEL(conv2d_pack_tensor_b16, Conv2dPack, THREADS, 8, 0) { tensor::pack(p); }

#define SIMT(NAME, T)                                                                              \
    DC_KERNEL(conv2d_fwd_simt_128x64x16_##NAME, Conv2dFwd, THREADS, 3, sizeof(simt::Smem)) {       \
        simt::forward<T>(p);                                                                       \
    }
SIMT(f32, float)
SIMT(bf16, dc::bf16)
SIMT(f16, dc::f16)
#undef SIMT

#define FORWARD(TILE, NAME, blocks, ...)                                                           \
    DC_KERNEL(conv2d_fwd_##TILE##_##NAME, Conv2dFwd, THREADS, blocks,                              \
              sizeof(tensor::Forward<__VA_ARGS__>::Smem)) {                                        \
        tensor::Forward<__VA_ARGS__>(p).run();                                                     \
    }
#define TENSOR(NAME, T)                                                                            \
    FORWARD(128x128x32, NAME, 2, T, 128, 64, 64, 8)                                                \
    FORWARD(128x64x32, NAME, 3, T, 64, 64, 32, 8)                                                  \
    FORWARD(128x32x32, NAME, 4, T, 32, 32, 32, 8)                                                  \
    FORWARD(128x64x32_v4, NAME, 3, T, 64, 64, 32, 4)
TENSOR(bf16, dc::bf16)
TENSOR(f16, dc::f16)
#undef TENSOR
#undef FORWARD
