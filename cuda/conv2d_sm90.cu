// conv2d_sm90: 3×3 convolutions with stride 1 on Hopper's warpgroup products; what conv2d_halo.cu is on mma.sync,
// with the same norm in front, the same epilogue and the same statistics behind.
//
// A block has 16×16 result pixels × 128 channels and three warpgroups. Two multiply: each 128 pixels, as two
// m64n128k16 with the pixels in registers. Its 128 accumulators a thread leave room for one block a
// multiprocessor, and its two warpgroups take turns at the tensor cores: one waits for its products and loads the
// next fragments while the products of the other run. The third warpgroup fetches.
//
// Weights come tap by tap as one tensor copy each, which carries 8 KB as they were packed, into a ring of 6.
// Pixels come by cp.async, 18×18 a slice of 32 channels, once for all nine taps, two slices in turns. Tensor copies
// could bring them too, zeros outside the picture included, but not an enlargement, dy between zeros, or a
// normalised picture; and they are few: of 512 cycles a tap at full rate, the weights take 8192 bytes and the
// pixels 20736 / 9 = 2304, together 20 bytes a cycle and multiprocessor. A tensor copy of 16×16 pixels a tap, as an
// implicit GEMM of wgmma on shared memory wants them, would be 16384 + 8192: 48, about twice what an H100's
// second-level cache gives. From shared memory wgmma reads b at 64 bytes a cycle and ldmatrix a at 32, of 128.
//
// The fetching warps normalise what they fetched, on pipes that nobody else uses: 96 threads × 108 values × 9
// instructions, 970 a warp, of the 4608 cycles that nine taps take. They store and ldmatrix loads by the ordinary
// way to shared memory: nothing but the weights crosses to the asynchronous one.
#include "include/activation.cuh"
#include "include/conv2d_mma.cuh"
#include "include/epilogue.cuh"
#include "include/sm90.cuh"

namespace {

using namespace conv;

constexpr int ROWS = 16, COLS = 16;          // result pixels of a tile
constexpr int HALO_COLS = COLS + 2;          // input pixels
constexpr int PIXELS = (ROWS + 2) * HALO_COLS;
constexpr int TAPS = 9;
constexpr int BN = 128;                      // channels of a tile
constexpr int RING = 6;                      // slices of the weights
constexpr int BLOCK = 384, CONSUMERS = 256, FETCHERS = 96;
constexpr int CONSUMER_WARPS = CONSUMERS / 32;
constexpr int MT = 2, NT = BN / 8;           // fragments of 16×8 of a warp

struct Smem {
    union {
        struct {
            uint16_t b[RING][BN * BK];
            uint16_t a[2][PIXELS * BK];
        } in;
        struct {
            float patch[CONSUMER_WARPS][dc::patch_bytes<NT> / 4];
            dc::CountedMoments moments[CONSUMER_WARPS][BN];
        } out;
    };
    int from[PIXELS];  // input pixel, or -1: a zero
    dc::Barrier a_full[2], a_empty[2], b_full[RING], b_empty[RING];
};

/// Turns around a ring of N slots: which one, and in which phase.
template <int N>
struct Turn {
    int slot = 0;
    unsigned phase = 0;
    DC_FN void next() {
        if (++slot == N) {
            slot = 0;
            phase ^= 1;
        }
    }
};

template <class T>
struct Forward {
    const Conv2dFwdSm90& parameters;
    const Conv2dFwd& p;
    Smem& s;
    const int t = threadIdx.x;
    int tile, n0, picture, y0, x0, slices = 0;

    DC_FN Forward(const Conv2dFwdSm90& parameters)
        : parameters(parameters), p(parameters.conv), s(dc::shared<Smem>()) {
        const ConvGeometry& g = p.geometry;
        const int tiles_n = p.cout_padded / BN, tiles_x = dc::ceil_div(g.out_w, COLS);
        const int tiles_y = dc::ceil_div(g.out_h, ROWS);
        tile = int(blockIdx.x) / tiles_n;
        n0 = (int(blockIdx.x) - tile * tiles_n) * BN;
        const int row = tile / tiles_x;
        picture = row / tiles_y;
        x0 = (tile - row * tiles_x) * COLS;
        y0 = (row - picture * tiles_y) * ROWS;
        for (int i = 0; i < p.sources; ++i) slices += dc::ceil_div(p.source[i].channels, BK);
    }

    DC_FN void run() {
        const ConvGeometry& g = p.geometry;
        for (int h = t; h < PIXELS; h += BLOCK)
            s.from[h] = input_at<true>(g, picture * g.height * g.width, y0 - g.pad_y + h / HALO_COLS,
                                       x0 - g.pad_x + h % HALO_COLS);
        if (t == 0) {
            for (int i = 0; i < 2; ++i) {
                s.a_full[i].init(FETCHERS);
                s.a_empty[i].init(CONSUMER_WARPS);
            }
            for (int i = 0; i < RING; ++i) {
                s.b_full[i].init(1);
                s.b_empty[i].init(CONSUMER_WARPS);
            }
            dc::fence_barrier_init();
        }
        __syncthreads();
        if (t < BLOCK - CONSUMERS) {
            dc::decrease_registers<56>();
            if (t == 0)
                fetch_weights();
            else if (t >= 32)
                fetch_pixels(t - 32);
        } else {
            dc::increase_registers<224>();
            multiply((t - (BLOCK - CONSUMERS)) / 32);
        }
    }

    /// One thread: every tap's weights into the ring.
    DC_FN void fetch_weights() {
        Turn<RING> turn;
        for (int i = 0; i < slices * TAPS; ++i) {
            s.b_empty[turn.slot].wait(turn.phase ^ 1);
            s.b_full[turn.slot].arrive_expect(sizeof s.in.b[0]);
            dc::tma_load_2d(s.in.b[turn.slot], &parameters.weights, s.b_full[turn.slot], 0, i * p.cout_padded + n0);
            turn.next();
        }
    }

    /// FETCHERS threads: every slice's pixels, normalised.
    DC_FN void fetch_pixels(int thread) {
        const int unit = thread % 4, c = unit * 8;
        SliceCursor<T> at(p);
        Turn<2> turn;
        for (int slice = 0; slice < slices; ++slice) {
            s.a_empty[turn.slot].wait(turn.phase ^ 1);
            const bool some = at.c0 + c < at.channels;
            uint16_t* a = s.in.a[turn.slot];
            for (int h = thread / 4; h < PIXELS; h += FETCHERS / 4) {
                const int from = s.from[h];
                dc::cp_async<16>(a + at64(h, unit), at.x + dc::max(from, 0) * at.step + at.c0 + c,
                                 from >= 0 && some ? 16 : 0);
            }
            dc::cp_async_commit();
            dc::cp_async_wait<0>();
            if (p.norm && some) normalise(a, thread / 4, unit, at.c0 + c);
            s.a_full[turn.slot].arrive();
            turn.next();
            at.next(p);
        }
    }

    /// Rewrites the pixels that this thread copied: channels c… are in unit `unit`.
    DC_FN void normalise(uint16_t* a, int first, int unit, int c) {
        const float* scales = dc::ptr<const float>(p.norm) + picture * 2 * p.cin + c;
        dc::Vec<float, 4> scale[2], shift[2];
        DC_UNROLL
        for (int half = 0; half < 2; ++half) {
            scale[half] = dc::load<4>(scales + half * 4);
            shift[half] = dc::load<4>(scales + p.cin + half * 4);
        }
        DC_ROLL
        for (int h = first; h < PIXELS; h += FETCHERS / 4) {
            if (s.from[h] < 0) continue;  // zeros around the picture are zeros of the normalised tensor
            T* at = reinterpret_cast<T*>(a + at64(h, unit));
            auto v = dc::load<8>(at);
            DC_UNROLL
            for (int k = 0; k < 8; ++k) {
                const float z = dc::to_f32(v[k]) * scale[k / 4][k % 4] + shift[k / 4][k % 4];
                v[k] = dc::from_f32<T>(p.norm_silu ? dc::activate<ACTIVATION_SILU>(0, 0, z) : z);
            }
            dc::store(at, v);
        }
    }

    /// Warp `warp` of those that multiply: fragment i is row `row(i)` of the tile.
    DC_FN static int row(int warp, int i) { return warp / 4 * 8 + i * 4 + warp % 4; }

    DC_FN void multiply(int warp) {
        const int lane = dc::lane(), matrix = lane / 8;
        float sum[MT][BN / 2];
        DC_UNROLL
        for (int i = 0; i < MT; ++i)
            DC_UNROLL
            for (int k = 0; k < BN / 2; ++k) sum[i][k] = 0;
        Turn<2> pixels;
        Turn<RING> weights;
        for (int slice = 0; slice < slices; ++slice) {
            s.a_full[pixels.slot].wait(pixels.phase);
            const uint16_t* a = s.in.a[pixels.slot];
            DC_ROLL
            for (int ky = 0; ky < 3; ++ky) {
                DC_UNROLL
                for (int kx = 0; kx < 3; ++kx) {
                    uint32_t fragment[2][MT][4];
                    DC_UNROLL
                    for (int half = 0; half < 2; ++half)
                        DC_UNROLL
                        for (int i = 0; i < MT; ++i) {
                            const int h = (row(warp, i) + ky) * HALO_COLS + kx + matrix % 2 * 8 + lane % 8;
                            dc::ldmatrix<4, false>(fragment[half][i], a + at64(h, half * 2 + matrix / 2));
                        }
                    s.b_full[weights.slot].wait(weights.phase);
                    const uint64_t b =
                        dc::wgmma_desc(s.in.b[weights.slot], 0, 8 * BK * 2, dc::Swizzle::bytes_64);
                    dc::wgmma_fence(sum);
                    DC_UNROLL
                    for (int half = 0; half < 2; ++half)
                        DC_UNROLL
                        for (int i = 0; i < MT; ++i)
                            dc::wgmma<T, BN, false, false>(sum[i], fragment[half][i],
                                                           dc::wgmma_advance(b, half * 32), true);
                    dc::wgmma_commit();
                    dc::wgmma_wait<0>(sum);
                    dc::sync_warp();
                    if (lane == 0) s.b_empty[weights.slot].arrive();
                    weights.next();
                }
            }
            if (lane == 0) s.a_empty[pixels.slot].arrive();
            pixels.next();
        }
        finish(sum, warp);
    }

    DC_FN void finish(const float (&sum)[MT][BN / 2], int warp) {
        const ConvGeometry& g = p.geometry;
        const auto rows = [&](int i) {
            const int y = y0 + row(warp, i), first = (picture * g.out_h + y) * g.out_w;
            return dc::FragmentRows{first + x0, y < g.out_h ? first + g.out_w : 0};
        };
        dc::named_barrier_sync(1, CONSUMERS);  // the results' way out lies over what was fetched
        dc::ColumnMoments<8> columns;
        columns.wanted = p.moments != 0;
        // Eight columns of an accumulator are a fragment of mma.sync.
        dc::finish_fragments<T, MT, NT>(p.epilogue, reinterpret_cast<const float (&)[MT][NT][4]>(sum),
                                        s.out.patch[warp], rows, n0, p.cout, p.y, 0, p.y_is_f32, columns);
        if (!p.moments) return;
        const auto write = [&](int column, const dc::CountedMoments& m) { s.out.moments[warp][column] = m; };
        merge_lanes(columns, BN, p.y_is_f32 ? 4 : 8, write);
        dc::named_barrier_sync(1, CONSUMERS);
        const int column = t - (BLOCK - CONSUMERS);
        if (column >= BN || n0 + column >= p.cout) return;
        dc::CountedMoments all = s.out.moments[0][column];
        for (int i = 1; i < CONSUMER_WARPS; ++i) all = dc::merge(all, s.out.moments[i][column]);
        store_moments(p, tile, n0 + column, all);
    }
};

}  // namespace

#define FORWARD(NAME, T)                                                                                       \
    DC_KERNEL(conv2d_fwd_halo_256x128x32_##NAME##_sm90, Conv2dFwdSm90, BLOCK, 1, sizeof(Smem)) {               \
        Forward<T>(p).run();                                                                                   \
    }
FORWARD(bf16, dc::bf16)
FORWARD(f16, dc::f16)
#undef FORWARD
