// conv2d_halo: 3×3 convolutions with stride 1 (almost all of an autoencoder, of RRDBNet, of SwinIR outside of its
// blocks; the gradient of their input) on tensor cores, with the group norm in front and the statistics of the one
// behind.
//
// A block has 8 rows × 16 columns of result pixels. All nine taps of a slice of 32 channels read the same 10×18
// input pixels, so these lie in shared memory once: 1.4 elements fetched a result and channel instead of the 9 of
// an implicit GEMM that fetches every tap (conv2d.cu), which at 128×128 results a block was 32 bytes a cycle and
// multiprocessor, more than half of what an A100's second-level cache gives. A fragment of 16 rows is one row of
// the tile; a tap moves the addresses that ldmatrix reads by whole pixels, and `at64` keeps any eight neighbouring
// pixels on different banks. Only the weights flow tap by tap, through three stages.
//
// Group norm and SiLU in front (`norm`): the pixels that a thread has copied, it rewrites in shared memory as
// silu(x·scale + shift) when they have landed, a sixth of the next slice at each of six taps. Once a block's slice,
// so once for 9·BN products a value: by instructions about 45 values a thread × 8 (unpack, multiply-add, multiply,
// ex2, add, rcp, multiply, half a pack) = 360 beside the 576 mma and the 144 ldmatrix of nine taps, on pipes that
// the tensor cores leave idle. The form without a halo would do it at each tap, 288 a tap beside 64 mma: more than
// the multiplication. Through registers instead (load, compute, store) it would save one load of 16 bytes in 68
// instructions, but hold four registers over a tap and a second way to fetch. Zeros around the picture are zeros
// of the normalised tensor: they are not rewritten.
//
// Statistics of what comes out (`moments`): mean and squared distances of each channel over the tile, of the f32
// results on their way out: 3 operations a result, where reading the tensor once more would cost its bytes.
// group_norm.cu merges the tiles, in order.
#include "include/activation.cuh"
#include "include/conv2d_mma.cuh"
#include "include/epilogue.cuh"

namespace {

using namespace conv;

constexpr int ROWS = 8, COLS = 16;              // result pixels of a tile
constexpr int HALO_COLS = COLS + 2;             // input pixels
constexpr int PIXELS = (ROWS + 2) * HALO_COLS;
constexpr int TAPS = 9;
constexpr int PIECES = dc::ceil_div(PIXELS * 4, THREADS);  // 16-byte units of a thread
static_assert(ROWS * COLS == BM, "as many pixels as rows of the product");

/// BN channels a block, WM×WN results a warp, VEC channels a copy.
template <class T, int BN, int WM, int WN, int VEC>
struct Halo : WarpTile<T, BN, WM, WN> {
    using Tile = WarpTile<T, BN, WM, WN>;
    static constexpr int MT = Tile::MT, NT = Tile::NT, WARPS_M = Tile::WARPS_M;
    struct Smem {
        union {
            struct {
                uint16_t a[2][PIXELS * BK];
                uint16_t b[STAGES][BN * BK];
                float norm[2][2][BK];  // scale and shift of the channels in `a`
            } in;
            struct {
                float patch[4][dc::patch_bytes<NT> / 4];  // of each warp, for its results on their way out
                dc::CountedMoments moments[WARPS_M][BN];
            } out;
        };
        int from[PIXELS];  // input pixel, or -1: a zero
    };

    const Conv2dFwd& p;
    Smem& s;
    const int t = threadIdx.x;
    int tile, n0, picture, y0, x0;
    SliceCursor<T> at;  // what is being fetched
    int weights_left;   // slices of the weights
    const uint16_t* w;  // this thread's unit of the next one

    DC_FN Halo(const Conv2dFwd& p) : p(p), s(dc::shared<Smem>()), at(p) {
        const ConvGeometry& g = p.geometry;
        const int tiles_n = p.cout_padded / BN, tiles_x = dc::ceil_div(g.out_w, COLS);
        const int tiles_y = dc::ceil_div(g.out_h, ROWS);
        tile = int(blockIdx.x) / tiles_n;
        n0 = (int(blockIdx.x) - tile * tiles_n) * BN;
        const int row = tile / tiles_x;
        picture = row / tiles_y;
        x0 = (tile - row * tiles_x) * COLS;
        y0 = (row - picture * tiles_y) * ROWS;
        for (int h = t; h < PIXELS; h += THREADS)
            s.from[h] = input_at<true>(g, picture * g.height * g.width, y0 - g.pad_y + h / HALO_COLS,
                                       x0 - g.pad_x + h % HALO_COLS);
        w = dc::ptr<const uint16_t>(p.w) + n0 * BK + t * 8;
        weights_left = 0;
        for (int i = 0; i < p.sources; ++i) weights_left += dc::ceil_div(p.source[i].channels, BK) * TAPS;
    }

    /// Starts the copies of one of PIECES pieces of a slice, and with the first those of its scales and shifts.
    DC_FN void fetch(int buffer, int piece) {
        const int h = t / 4 + piece * (THREADS / 4), c = at.c0 + t % 4 * 8;
        if (h < PIXELS) {
            const int from = s.from[h];
            uint16_t* to = s.in.a[buffer] + at64(h, t % 4);
            const T* pixel = at.x + dc::max(from, 0) * at.step + c;
            DC_UNROLL
            for (int k = 0; k < 8; k += VEC)
                dc::cp_async<VEC * 2>(to + k, pixel + k, from >= 0 && c + k < at.channels ? VEC * 2 : 0);
        }
        if (p.norm && piece == 0 && t < 2 * BK / 4) {
            const int which = t / (BK / 4), k = t % (BK / 4) * 4;
            dc::cp_async<16>(&s.in.norm[buffer][which][k],
                             dc::ptr<const float>(p.norm) + (picture * 2 + which) * p.cin + at.c0 + k,
                             at.c0 + k < at.channels ? 16 : 0);
        }
    }

    /// Starts the copies of the next slice of the weights, which are packed as they lie in shared memory.
    DC_FN void fetch_weights(int stage) {
        DC_UNROLL
        for (int i = 0; i < BN / 32; ++i)
            dc::cp_async<16>(s.in.b[stage] + (t + i * THREADS) * 8, w + i * THREADS * 8, weights_left > 0 ? 16 : 0);
        w += int64_t(p.cout_padded) * BK;
        --weights_left;
    }

    /// Rewrites what this thread copied as `piece`, if it has landed, and the block's scales are visible.
    DC_FN void normalise(int buffer, int piece) {
        const int h = t / 4 + piece * (THREADS / 4), c = t % 4 * 8;
        if (h >= PIXELS || at.c0 + c >= at.channels || s.from[h] < 0) return;
        T* unit = reinterpret_cast<T*>(s.in.a[buffer] + at64(h, t % 4));
        auto v = dc::load<8>(unit);
        DC_UNROLL
        for (int half = 0; half < 8; half += 4) {
            const auto scale = dc::load<4>(&s.in.norm[buffer][0][c + half]);
            const auto shift = dc::load<4>(&s.in.norm[buffer][1][c + half]);
            DC_UNROLL
            for (int k = 0; k < 4; ++k) {
                const float z = dc::to_f32(v[half + k]) * scale[k] + shift[k];
                v[half + k] = dc::from_f32<T>(p.norm_silu ? dc::activate<ACTIVATION_SILU>(0, 0, z) : z);
            }
        }
        dc::store(unit, v);
    }

    /// Fragments of 16 of a slice's depth under a tap.
    DC_FN void fragments(int buffer, int stage, int ky, int kx, int half) {
        const int lane = dc::lane(), matrix = lane / 8;
        const int h = (this->warp_m * MT + ky) * HALO_COLS + kx + matrix % 2 * 8 + lane % 8;
        DC_UNROLL
        for (int i = 0; i < MT; ++i)
            dc::ldmatrix<4, false>(this->a[half][i],
                                   s.in.a[buffer] + at64(h + i * HALO_COLS, half * 2 + matrix / 2));
        this->weights(half, s.in.b[stage], half);
    }

    DC_FN void run() {
        this->clear();
        const int slices = weights_left / TAPS;
        __syncthreads();
        for (int i = 0; i < PIECES; ++i) fetch(0, i);
        DC_UNROLL
        for (int i = 0; i < STAGES; ++i) {
            fetch_weights(i);
            dc::cp_async_commit();
        }
        dc::cp_async_wait<STAGES - 1>();
        __syncthreads();
        if (p.norm) {
            DC_ROLL
            for (int i = 0; i < PIECES; ++i) normalise(0, i);
            __syncthreads();
        }
        fragments(0, 0, 0, 0, 0);
        for (int slice = 0, buffer = 0; slice < slices; ++slice, buffer ^= 1) {
            at.next(p);
            DC_ROLL
            for (int ky = 0; ky < 3; ++ky) {
                DC_UNROLL
                for (int kx = 0; kx < 3; ++kx) {  // also the stage
                    const int tap = ky * 3 + kx;
                    fragments(buffer, kx, ky, kx, 1);
                    this->multiply(0);
                    // The next tap's weights have landed for everybody, and nobody reads this stage any more; at
                    // the first tap, nobody reads the other buffer of pixels.
                    dc::cp_async_wait<STAGES - 2>();
                    __syncthreads();
                    if (tap < PIECES) fetch(buffer ^ 1, tap);
                    fetch_weights(kx);
                    dc::cp_async_commit();
                    // After the last slice: never used.
                    if (kx < 2)
                        fragments(buffer, kx + 1, ky, kx + 1, 0);
                    else if (ky < 2)
                        fragments(buffer, 0, ky + 1, 0, 0);
                    else
                        fragments(buffer ^ 1, 0, 0, 0, 0);
                    this->multiply(1);
                    // Fetched two taps ago, read after the next barrier at the earliest.
                    if (p.norm && tap >= 2 && tap < 2 + PIECES) normalise(buffer ^ 1, tap - 2);
                }
            }
        }
        dc::cp_async_wait<0>();
        __syncthreads();  // the results' way out lies over the stages
        finish();
    }

    DC_FN void finish() {
        const ConvGeometry& g = p.geometry;
        const auto rows = [&](int i) {
            const int y = y0 + this->warp_m * MT + i, row = (picture * g.out_h + y) * g.out_w;
            return dc::FragmentRows{row + x0, y < g.out_h ? row + g.out_w : 0};
        };
        dc::ColumnMoments<8> columns;
        columns.wanted = p.moments != 0;
        dc::finish_fragments<T, MT, NT>(p.epilogue, this->sum, s.out.patch[dc::warp()], rows,
                                        n0 + this->warp_n * WN, p.cout, p.y, 0, p.y_is_f32, columns);
        if (!p.moments) return;
        merge_lanes(columns, WN, p.y_is_f32 ? 4 : 8, [&](int column, const dc::CountedMoments& m) {
            s.out.moments[this->warp_m][this->warp_n * WN + column] = m;
        });
        __syncthreads();
        if (t >= BN || n0 + t >= p.cout) return;
        dc::CountedMoments all = s.out.moments[0][t];
        DC_UNROLL
        for (int i = 1; i < WARPS_M; ++i) all = dc::merge(all, s.out.moments[i][t]);
        store_moments(p, tile, n0 + t, all);
    }
};

}  // namespace

// Blocks a multiprocessor: as many as leave each thread its accumulators and fragments in registers.
#define HALO(TILE, NAME, blocks, ...)                                                                      \
    DC_KERNEL(conv2d_fwd_halo_##TILE##_##NAME, Conv2dFwd, THREADS, blocks,                                 \
              sizeof(Halo<__VA_ARGS__>::Smem)) {                                                           \
        Halo<__VA_ARGS__>(p).run();                                                                        \
    }
#define TENSOR(NAME, T)                                                                                    \
    HALO(128x128x32, NAME, 2, T, 128, 64, 64, 8)                                                           \
    HALO(128x64x32, NAME, 3, T, 64, 64, 32, 8)                                                             \
    HALO(128x32x32, NAME, 4, T, 32, 32, 32, 8)                                                             \
    HALO(128x64x32_v4, NAME, 3, T, 64, 64, 32, 4)
TENSOR(bf16, dc::bf16)
TENSOR(f16, dc::f16)
#undef TENSOR
#undef HALO
