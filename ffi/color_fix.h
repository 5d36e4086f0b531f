#pragma once
#include <stdint.h>

/// Parameters of `color_fix_blur_*`: one level of the wavelet decomposition.
typedef struct ColorFixBlur {
    /// f32 `[height, width, channels]`: what is blurred.
    uint64_t x;
    /// f32, like x: subtracted from x first; 0: nothing.
    uint64_t minus;
    /// f32, like x: gets the blurred picture, or has it added.
    uint64_t y;
    int32_t height;
    int32_t width;
    int32_t channels;
    /// Pixels between taps: 2^level.
    int32_t radius;
    /// Whether y keeps what it has and gets the blurred picture added.
    int32_t add;
    /// Padding.
    uint32_t reserved;
} ColorFixBlur;
