// Where convolutions read: what the kernels of conv2d.cu and conv2d_grad.cu share.
#pragma once

#include "../../ffi/conv2d.h"
#include "dc.cuh"

namespace conv {

constexpr int THREADS = 128;
constexpr int BM = 128;  // result pixels of a tile

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

}  // namespace conv
