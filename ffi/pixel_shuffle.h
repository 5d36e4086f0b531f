#pragma once
#include <stdint.h>

#include "index.h"

/// Parameters of `pixel_shuffle_*` and `pixel_unshuffle_*`: pixels of `channels * r * r` values (the deep picture)
/// to r*r pixels of `channels` values (the wide picture), and back. A block handles a tile: some neighbouring
/// pixels of a row of the deep picture, or some channels of one pixel.
typedef struct PixelShuffle {
    /// What is read, dense.
    uint64_t x;
    /// What is written, dense.
    uint64_t y;
    /// r, and r * r
    Divisor factor;
    Divisor square;
    /// Values of a pixel of the deep picture that are in a tile: channels of a tile * r * r.
    Divisor depth;
    /// Channels of a tile, and pixels of a tile.
    Divisor tile_channels;
    Divisor tile_pixels;
    /// Tiles along the channels, and along a row of the deep picture.
    Divisor tiles_deep;
    Divisor tiles_across;
    /// Channels of the wide picture, and pixels of a row of the deep one.
    int32_t channels;
    int32_t width;
    /// Elements between the channels of one place in a block of pixels, in shared memory.
    int32_t pitch;
    /// Padding.
    uint32_t reserved;
} PixelShuffle;
