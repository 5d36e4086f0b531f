#pragma once
#include <stdint.h>

/// Parameters of `image_map_*`: y = x * scale + shift, no less than low and no more than high; NaN stays.
typedef struct ImageMap {
    /// f32.
    uint64_t x;
    /// f32; may be x.
    uint64_t y;
    /// Number of elements.
    int64_t len;
    /// Factor and summand.
    float scale;
    float shift;
    /// Bounds.
    float low;
    float high;
} ImageMap;
