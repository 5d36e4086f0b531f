// image: what happens to pictures between two networks, an element at a time: ranges (0..1 and -1..1) and
// bounds. Memory-bound, 8 bytes an element. Equal to the host's results bit for bit.
#include "../ffi/image.h"
#include "include/dc.cuh"
#include "include/exact.cuh"

namespace {

constexpr int THREADS = 256;

DC_FN void map(const ImageMap& p) {
    const int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= p.len) return;
    const dc::Exact<float> x = dc::ptr<const float>(p.x)[i];
    float y = (x * p.scale + p.shift).v;
    if (y < p.low) y = p.low;
    if (y > p.high) y = p.high;
    dc::ptr<float>(p.y)[i] = y;
}

}  // namespace

DC_KERNEL(image_map_f32, ImageMap, THREADS, 8, 0) { map(p); }
