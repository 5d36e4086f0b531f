// conv2d_grad: the gradient of a convolution's weight. (That of its input is a convolution: conv2d.cu.)
//
// Rows are output channels, columns (tap, input channel), the depth runs over pixels. It is split over blocks into
// partial sums that `grad_weight_sum` adds in order: no atomics, same bytes always.
#include "include/conv2d.cuh"
#include "include/mma.cuh"

namespace {

using namespace conv;

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

}  // namespace

// Blocks a multiprocessor: as many as leave each thread its accumulators and fragments in registers.
DC_KERNEL(conv2d_grad_weight_sum_f32, Conv2dGradWeightSum, THREADS, 8, 0) { sum(p); }

#define PARTIAL(TILE, NAME, blocks, FORM, T)                                                                    \
    DC_KERNEL(conv2d_grad_weight_##TILE##_##NAME, Conv2dGradWeight, THREADS, blocks, sizeof(FORM::Smem)) {      \
        FORM::partial<T>(p);                                                                                   \
    }
PARTIAL(simt_64x64x16, f32, 4, simt, float)
PARTIAL(simt_64x64x16, bf16, 4, simt, dc::bf16)
PARTIAL(simt_64x64x16, f16, 4, simt, dc::f16)
PARTIAL(128x64x32, bf16, 3, tensor, dc::bf16)
PARTIAL(128x64x32, f16, 3, tensor, dc::f16)
#undef PARTIAL
