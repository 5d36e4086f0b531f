// Means and squared distances from them, merged without cancellation.
#pragma once

#include "dc.cuh"

namespace dc {

/// How many numbers, their mean, and the sum of their squared distances from it.
struct CountedMoments {
    float count = 0, mean = 0, squares = 0;
};

/// Of both sets together (Chan, Golub and LeVeque 1983).
DC_FN CountedMoments merge(const CountedMoments& a, const CountedMoments& b) {
    const float n = a.count + b.count, apart = b.mean - a.mean, share = n > 0 ? b.count / n : 0.0f;
    return {n, a.mean + apart * share, a.squares + b.squares + apart * apart * (a.count * share)};
}

/// Moments of every one of W columns over the rows that a thread meets. Sums are of distances to the first row's
/// values: no cancellation where a mean is far from zero.
template <int W>
struct ColumnMoments {
    bool wanted = true;
    int rows = 0;
    float first[W] = {}, sum[W] = {}, squares[W] = {};

    /// Column k of the row under way.
    DC_FN void value(int k, float x) {
        if (!wanted) return;
        if (rows == 0) first[k] = x;
        const float d = x - first[k];
        sum[k] += d;
        squares[k] += d * d;
    }
    DC_FN void end_row() { ++rows; }
    DC_FN CountedMoments of(int k) const {
        if (rows == 0) return {};
        const float mean = sum[k] / rows;
        return {float(rows), first[k] + mean, squares[k] - sum[k] * mean};
    }
};

/// Does not look.
struct NoMoments {
    DC_FN void value(int, float) {}
    DC_FN void end_row() {}
};

}  // namespace dc
