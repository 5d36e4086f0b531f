// pixel_shuffle and pixel_unshuffle: r·r values of each channel to an r×r block of pixels, and back.
//
// Memory-bound: each value is read and written once. What is neighbours on one side lies r·r apart on the other,
// so a tile of up to 4096 values goes through shared memory, where it lies by place in the block, then pixel, then
// channel. Both sides then see runs as long as they have: whole pixels in the deep picture, r·channels times
// the tile's pixels in the wide one. The pitch between places spreads the r·r values of a channel over the banks.
#include "../ffi/pixel_shuffle.h"
#include "include/dc.cuh"
#include "include/index.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int VALUES = 4096;  // of a tile
constexpr int BATCH = 8;      // loads of a thread under way
constexpr int ROOM = VALUES + 31 * 64;  // with the gaps that the pitch makes, r up to 8

template <class T>
struct Tile {
    T at[ROOM];
};

/// A tile: what it covers, and where it starts.
struct Place {
    int pixels, channels;
    int64_t deep, wide;  // first element in each picture
};

DC_FN Place place(const PixelShuffle& p) {
    const int r = int(p.factor.value);
    uint32_t row = blockIdx.x;
    const int channel = int(dc::take_digit(row, p.tiles_deep) * p.tile_channels.value);
    const int pixel = int(dc::take_digit(row, p.tiles_across) * p.tile_pixels.value);
    Place t;
    t.pixels = dc::min(int(p.tile_pixels.value), p.width - pixel);
    t.channels = dc::min(int(p.tile_channels.value), p.channels - channel);
    const int64_t first = int64_t(row) * p.width;
    t.deep = ((first + pixel) * p.channels + channel) * p.square.value;
    t.wide = (first * r + pixel) * r * p.channels + channel;
    return t;
}

/// The i-th value of a tile in the order of the deep picture: where it is, relative to the tile, there and in
/// shared memory. Tiles of fewer channels than the others leave the rest out.
DC_FN bool deep(const PixelShuffle& p, const Place& t, uint32_t i, int64_t& at, int& shared) {
    const int value = int(dc::take_digit(i, p.depth)), pixel = int(i);
    uint32_t channel = uint32_t(value);
    const int corner = int(dc::take_digit(channel, p.square));
    at = int64_t(pixel) * p.channels * p.square.value + value;
    shared = corner * p.pitch + pixel * int(p.tile_channels.value) + int(channel);
    return pixel < t.pixels && int(channel) < t.channels;
}

/// The same in the order of the wide picture.
DC_FN bool wide(const PixelShuffle& p, const Place& t, uint32_t i, int64_t& at, int& shared) {
    const int r = int(p.factor.value);
    const int channel = int(dc::take_digit(i, p.tile_channels)), column = int(dc::take_digit(i, p.factor));
    const int pixel = int(dc::take_digit(i, p.tile_pixels)), row = int(i);
    at = (int64_t(row) * p.width * r + pixel * r + column) * p.channels + channel;
    shared = (row * r + column) * p.pitch + pixel * int(p.tile_channels.value) + channel;
    return row < r && pixel < t.pixels && channel < t.channels;
}

template <class T, bool SHUFFLE>
DC_FN void move(const PixelShuffle& p) {
    auto& tile = dc::shared<Tile<T>>().at;
    const Place t = place(p);
    const T* x = dc::ptr<const T>(p.x) + (SHUFFLE ? t.deep : t.wide);
    T* y = dc::ptr<T>(p.y) + (SHUFFLE ? t.wide : t.deep);
    const uint32_t values = p.depth.value * p.tile_pixels.value;
    // Loads in batches: the compiler cannot know that x is not shared memory, and would wait for each.
    for (uint32_t start = threadIdx.x; start < values; start += BATCH * THREADS) {
        T value[BATCH];
        int shared[BATCH];
        DC_UNROLL
        for (int k = 0; k < BATCH; ++k) {
            const uint32_t i = start + k * THREADS;
            int64_t at;
            if (!(SHUFFLE ? deep(p, t, i, at, shared[k]) : wide(p, t, i, at, shared[k]))) shared[k] = -1;
            if (shared[k] >= 0) value[k] = x[at];
        }
        DC_UNROLL
        for (int k = 0; k < BATCH; ++k)
            if (shared[k] >= 0) tile[shared[k]] = value[k];
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < values; i += THREADS) {
        int64_t at;
        int shared;
        if (SHUFFLE ? wide(p, t, i, at, shared) : deep(p, t, i, at, shared)) y[at] = tile[shared];
    }
}

}  // namespace

// Elements of 2 and of 4 bytes, whatever they mean.
#define INSTANCE(BYTES, T)                                                                                         \
    DC_KERNEL(pixel_shuffle_b##BYTES, PixelShuffle, THREADS, 4, sizeof(Tile<T>)) { move<T, true>(p); }            \
    DC_KERNEL(pixel_unshuffle_b##BYTES, PixelShuffle, THREADS, 4, sizeof(Tile<T>)) { move<T, false>(p); }
INSTANCE(2, uint16_t)
INSTANCE(4, uint32_t)
#undef INSTANCE
