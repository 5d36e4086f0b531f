// Where the tokens of shifted windows lie, for the kernels of window_attention*.cu.
#pragma once
#include "dc.cuh"
#include "../../ffi/window_attention.h"

namespace {

/// Added to the score of two tokens of a window that are no neighbours in the image.
constexpr float MASKED = -100.0f;

/// Where a token of a window lies in its image, and in which region of the rolled image: tokens of
/// different regions do not see each other.
struct Place {
    int image, y, x, region;
    DC_FN int64_t in(const WindowSteps& s) const { return image * s.image + y * s.row + x * s.column; }
    /// Index among the tokens of the batch.
    DC_FN int64_t dense(const WindowGrid& g) const { return (int64_t(image) * g.height + y) * g.width + x; }
};

DC_FN Place place(const WindowGrid& g, int window, int token) {
    const int columns = g.width / g.window, rows = g.height / g.window;
    const int rolled_y = window / columns % rows * g.window + token / g.window;
    const int rolled_x = window % columns * g.window + token % g.window;
    const auto region = [&](int rolled, int extent) {
        return g.shift > 0 ? (rolled + g.window >= extent) + (rolled + g.shift >= extent) : 0;
    };
    const auto back = [&](int rolled, int extent) {
        return rolled + g.shift >= extent ? rolled + g.shift - extent : rolled + g.shift;
    };
    return Place{window / columns / rows, back(rolled_y, g.height), back(rolled_x, g.width),
                 region(rolled_y, g.height) * 3 + region(rolled_x, g.width)};
}

/// A token's part of a row of the bias table: the row for a query and a key is
/// `bias_code(query) - bias_code(key) + bias_code(last token)`.
DC_FN int bias_code(const WindowGrid& g, int token) {
    return token / g.window * (2 * g.window - 1) + token % g.window;
}

}  // namespace
