// color_fix: one level of the wavelet decomposition, a blur by [1 2 1]ᵀ·[1 2 1]/16 with holes, the border
// repeated. The last level adds itself to the picture, the first takes the difference of two pictures as it
// reads, so that five launches do the whole fix.
//
// Memory-bound: 8 bytes an element (12 at the ends); nine loads an element, of which the first-level cache
// serves six and the second-level cache those of the rows above and below. A block is a piece of a row: the
// rows of an element are computed once, columns by comparison, not by division. Only the additions round, so
// the results are those of the host bit for bit.
#include "../ffi/color_fix.h"
#include "include/dc.cuh"

namespace {

constexpr int THREADS = 256;

DC_FN float taps(float a, float b, float c) { return 0.25f * (a + c) + 0.5f * b; }

template <bool DIFFERENCE>
DC_FN void blur(const ColorFixBlur& p) {
    const int i = int(blockIdx.x) * THREADS + int(threadIdx.x), n = p.width * p.channels;
    if (i >= n) return;
    const int step = p.radius * p.channels;
    // The first and last pixel stand for what is beyond them.
    const int channel = i % p.channels;
    const int left = i >= step ? i - step : channel;
    const int right = i + step < n ? i + step : n - p.channels + channel;
    for (int y = int(blockIdx.y); y < p.height; y += int(gridDim.y)) {
        const int64_t above = int64_t(dc::max(y - p.radius, 0)) * n;
        const int64_t here = int64_t(y) * n, below = int64_t(dc::min(y + p.radius, p.height - 1)) * n;
        const auto at = [&](int64_t k) {
            const float x = dc::ptr<const float>(p.x)[k];
            return DIFFERENCE ? x - dc::ptr<const float>(p.minus)[k] : x;
        };
        const auto column = [&](int x) { return taps(at(above + x), at(here + x), at(below + x)); };
        const float low = taps(column(left), column(i), column(right));
        float& out = dc::ptr<float>(p.y)[here + i];
        out = p.add ? out + low : low;
    }
}

}  // namespace

DC_KERNEL(color_fix_blur_f32, ColorFixBlur, THREADS, 4, 0) { blur<false>(p); }
DC_KERNEL(color_fix_blur_difference_f32, ColorFixBlur, THREADS, 4, 0) { blur<true>(p); }
