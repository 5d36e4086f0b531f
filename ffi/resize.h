#pragma once
#include <stdint.h>

#include "index.h"

/// A source index with its weight.
typedef struct ResizeTap {
    /// Index along the axis.
    int32_t pixel;
    /// Its weight.
    float weight;
} ResizeTap;

/// Parameters of `resize_axis_*`: along one axis, every new element is a weighted sum of old ones.
typedef struct ResizeAxis {
    /// x, dense `[outer, from, inner]`.
    uint64_t x;
    /// y, dense `[outer, to, inner]`.
    uint64_t y;
    /// int32, `to` + 1: where the taps of each new index start.
    uint64_t starts;
    /// `ResizeTap`s.
    uint64_t taps;
    /// inner, in units: neighbouring elements that a thread handles at once.
    Divisor inner;
    /// to
    Divisor to;
    /// from
    uint32_t from;
    /// Units of y, below 2^31.
    uint32_t units;
} ResizeAxis;

/// Parameters of `resize_image_*`: an image to another size in one pass.
typedef struct ResizeImage {
    /// x, dense `[batch, from[0], from[1], channels]`.
    uint64_t x;
    /// y, dense `[batch, height, width, channels]`.
    uint64_t y;
    /// int32: where the taps of each new row, and column, start; one more entry than there are of them.
    uint64_t row_starts;
    uint64_t column_starts;
    /// `ResizeTap`s.
    uint64_t row_taps;
    uint64_t column_taps;
    /// channels, in units: neighbouring elements that a thread handles at once.
    Divisor channels;
    Divisor width;
    Divisor height;
    /// Old height and width.
    uint32_t from[2];
    /// Units of y, below 2^31.
    uint32_t units;
    /// Padding.
    uint32_t reserved;
} ResizeImage;
