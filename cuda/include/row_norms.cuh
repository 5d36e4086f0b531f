// Norms of the rows that a product has just finished (ffi/row_norms.h), by the block that finishes them.
//
// A row of the residual stream is wider than a tile, so no block holds one. Blocks count themselves off when
// their tile is stored; the last one of a row of tiles reads those rows back, from the second-level cache, where
// they were written moments ago, and writes their norms. A norm then costs the memory its result only. Who is last
// does not matter: the sums over a row have one order.
#pragma once

#include "../../ffi/row_norms.h"
#include "rows.cuh"

namespace dc {

/// What one warp does to a row in registers.
template <class T, class Row>
DC_FN void norm_row(const RowNorms& p, const Row& x, int row) {
    const LoneWarp team;
    const Spread spread = row_spread(team, x);
    DC_ROLL
    for (int i = 0; i < p.count; ++i) {
        const RowNorm& norm = p.norms[i];
        const int64_t sample = row / p.tokens;
        const float* shift = ptr<const float>(norm.shift) + sample * norm.shift_step;
        const float* scale = ptr<const float>(norm.scale) + sample * norm.scale_step;
        T* y = ptr<T>(norm.y) + int64_t(row) * x.cols;
        const float rstd = rsqrt(spread.variance + norm.eps);
        x.each([&](int at, const auto& v) {
            const auto a = load<4>(scale + at), b = load<4>(shift + at);
            Vec<T, 4> out;
            DC_UNROLL
            for (int k = 0; k < 4; ++k) out[k] = from_f32<T>((v[k] - spread.mean) * rstd * (norm.plus + a[k]) + b[k]);
            store(y + at, out);
        });
    }
}

/// The rows `tile`·ROWS… of the dense m×n matrix at `y`, by all warps of a block.
template <class T, int ROWS, int THREADS, class Y>
DC_FN void norm_rows(const RowNorms& p, const Y* y, int tile, int m, int n) {
    using Row = KeptRow<LoneWarp, 10>;
    const int end = min(m, (tile + 1) * ROWS);
    DC_ROLL
    for (int row = tile * ROWS + warp(); row < end; row += THREADS / 32)
        norm_row<T>(p, Row(y + int64_t(row) * n, n, lane()), row);
}

/// Called by all THREADS threads of a block when they have stored their tile of the dense m×n matrix at `y`, of f32 if
/// `y_f32`, else of T, in rows `tile`·ROWS…, one of `columns` tiles side by side. Uses the start of shared memory;
/// contains barriers.
template <class T, int ROWS, int THREADS>
DC_FN void norm_finished_rows(const RowNorms& p, uint64_t y, bool y_f32, int tile, int columns, int m, int n) {
    if (p.count == 0) return;
    uint32_t* counter = ptr<uint32_t>(p.counters) + tile;
    auto& last = shared<uint32_t>();
    __syncthreads();  // the tile is stored by all
    if (threadIdx.x == 0) {
        fence();
        last = count_up(counter) + 1 == uint32_t(columns);
        if (last) *counter = 0;
        fence();
    }
    __syncthreads();
    if (!last) return;
    if (y_f32)
        norm_rows<T, ROWS, THREADS>(p, ptr<const float>(y), tile, m, n);
    else
        norm_rows<T, ROWS, THREADS>(p, ptr<const T>(y), tile, m, n);
}

}  // namespace dc
