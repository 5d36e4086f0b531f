// What row-wise kernels share: who works on a row (a team), where its numbers are between the passes
// (registers, or memory again), and sums over the columns of many rows.
//
// The body of a kernel is written once against a team and a row:
//
//     const Row x(from, p.cols, Team::rank());
//     float sum = 0;
//     x.each([&](int at, const auto& v) { for (int k = 0; k < Row::WIDTH; ++k) sum += v[k]; });
//     const float mean = team.sum(sum) / p.cols;
//
// and its forms are instances: a warp with the row in registers where a model's rows are whole vectors,
// and a warp that reads the row once a pass for everything else.
#pragma once

#include "../../ffi/rows.h"
#include "dc.cuh"

namespace dc {

// ---- Teams ------------------------------------------------------------------------------------

/// One thread a row: for rows of a few numbers.
struct LoneThread {
    static constexpr int SIZE = 1;
    DC_FN static int64_t row() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
    DC_FN static int rank() { return 0; }
    DC_FN float sum(float x) const { return x; }
    DC_FN float most(float x) const { return x; }
};

/// One warp a row: no barrier, and as many rows a block as it has warps.
struct LoneWarp {
    static constexpr int SIZE = 32;
    DC_FN static int64_t row() { return int64_t(blockIdx.x) * (blockDim.x / 32) + warp(); }
    DC_FN static int rank() { return lane(); }
    DC_FN float sum(float x) const { return warp_sum(x); }
    DC_FN float most(float x) const { return warp_max(x); }
};

/// A block a row: for rows that do not fit the registers of a warp. Needs THREADS/8 bytes of shared
/// memory, at its start.
template <int THREADS>
struct WholeBlock {
    static constexpr int SIZE = THREADS;
    DC_FN static int64_t row() { return blockIdx.x; }
    DC_FN static int rank() { return threadIdx.x; }
    DC_FN float sum(float x) const { return block_sum<THREADS>(x, shared<float[THREADS / 32]>()); }
    DC_FN float most(float x) const { return block_max<THREADS>(x, shared<float[THREADS / 32]>()); }
};

// ---- Rows -------------------------------------------------------------------------------------

/// A row of up to CHUNKS·SIZE·4 numbers in registers, read once in vectors of 4: `cols` is a multiple
/// of 4, and so is every address that is used with its columns.
template <class Team, int CHUNKS>
struct KeptRow {
    static constexpr int WIDTH = 4;
    Vec<float, WIDTH> v[CHUNKS];
    int cols, rank;

    template <class T>
    DC_FN KeptRow(const T* from, int cols, int rank) : cols(cols), rank(rank) {
        DC_UNROLL
        for (int c = 0; c < CHUNKS; ++c) {
            const int at = (c * Team::SIZE + rank) * WIDTH;
            if (at >= cols) continue;
            const auto raw = load<WIDTH>(from + at);
            DC_UNROLL
            for (int k = 0; k < WIDTH; ++k) v[c][k] = to_f32(raw[k]);
        }
    }
    /// f(column, WIDTH numbers from there on) for all numbers of this thread.
    template <class F>
    DC_FN void each(F f) const {
        DC_UNROLL
        for (int c = 0; c < CHUNKS; ++c) {
            const int at = (c * Team::SIZE + rank) * WIDTH;
            if (at < cols) f(at, v[c]);
        }
    }
    /// f(column, numbers of this row, numbers of the other) for all numbers of this thread.
    template <class F>
    DC_FN void each_with(const KeptRow& other, F f) const {
        DC_UNROLL
        for (int c = 0; c < CHUNKS; ++c) {
            const int at = (c * Team::SIZE + rank) * WIDTH;
            if (at < cols) f(at, v[c], other.v[c]);
        }
    }
};

/// A row of any length at any address, read number by number in every pass (from the first-level cache
/// after the first).
template <class Team, class T>
struct ReadRow {
    static constexpr int WIDTH = 1;
    const T* from;
    int cols, rank;

    DC_FN ReadRow(const T* from, int cols, int rank) : from(from), cols(cols), rank(rank) {}
    template <class F>
    DC_FN void each(F f) const {
        for (int at = rank; at < cols; at += Team::SIZE) f(at, Vec<float, 1>{{to_f32(from[at])}});
    }
    template <class F>
    DC_FN void each_with(const ReadRow& other, F f) const {
        for (int at = rank; at < cols; at += Team::SIZE)
            f(at, Vec<float, 1>{{to_f32(from[at])}}, Vec<float, 1>{{to_f32(other.from[at])}});
    }
};

// ---- Forms: a team and where its row is ---------------------------------------------------------

/// A warp a row of up to 128·CHUNKS numbers.
template <int CHUNKS>
struct InWarp {
    using Team = LoneWarp;
    template <class T>
    using Row = KeptRow<Team, CHUNKS>;
};
/// A block a row of up to 4·THREADS·CHUNKS numbers.
template <int THREADS, int CHUNKS>
struct InBlock {
    using Team = WholeBlock<THREADS>;
    template <class T>
    using Row = KeptRow<Team, CHUNKS>;
};
/// A warp, any row.
struct AnyRow {
    using Team = LoneWarp;
    template <class T>
    using Row = ReadRow<Team, T>;
};
/// A thread, any row: good for short ones.
struct ShortRow {
    using Team = LoneThread;
    template <class T>
    using Row = ReadRow<Team, T>;
};

// ---- Moments ----------------------------------------------------------------------------------

struct Spread {
    float mean;
    float variance;  ///< biased
};

struct Moments {
    float mean;
    float rstd;  ///< 1/√(variance + eps), the variance biased
};

/// Mean first, then squared distances from it: no cancellation where the mean is far from zero.
template <class Team, class Row>
DC_FN Spread row_spread(const Team& team, const Row& row) {
    float sum = 0;
    row.each([&](int, const auto& v) {
        DC_UNROLL
        for (int k = 0; k < Row::WIDTH; ++k) sum += v[k];
    });
    const float mean = team.sum(sum) / row.cols;
    float squares = 0;
    row.each([&](int, const auto& v) {
        DC_UNROLL
        for (int k = 0; k < Row::WIDTH; ++k) squares += (v[k] - mean) * (v[k] - mean);
    });
    return {mean, team.sum(squares) / row.cols};
}

template <class Team, class Row>
DC_FN Moments moments(const Team& team, const Row& row, float eps) {
    const Spread spread = row_spread(team, row);
    return {spread.mean, rsqrt(spread.variance + eps)};
}

/// 1/√(mean of the squares + eps)
template <class Team, class Row>
DC_FN float reciprocal_rms(const Team& team, const Row& row, float eps) {
    float squares = 0;
    row.each([&](int, const auto& v) {
        DC_UNROLL
        for (int k = 0; k < Row::WIDTH; ++k) squares += v[k] * v[k];
    });
    return rsqrt(team.sum(squares) / row.cols + eps);
}

// ---- Sums over rows: gradients of a norm's weights ------------------------------------------------

constexpr int COLUMN_WARPS = 8;

/// Sums over a slab of rows of dy·(x − mean)·rstd and of dy. Block (i, s): columns 32i… of slab s, a
/// lane a column, rows dealt out to the warps, whose sums are added in their order.
DC_FN void norm_column_sums(const NormColumnSums& p) {
    struct Smem {
        float sums[2][COLUMN_WARPS][32];
    };
    auto& s = shared<Smem>();
    const int64_t c = int64_t(blockIdx.x) * 32 + lane();
    const int first = blockIdx.y * p.slab, end = min(p.rows, first + p.slab);
    float with_x = 0, plain = 0;
    if (c < p.cols) {
        const float* x = ptr<const float>(p.x) + c;
        const float* dy = ptr<const float>(p.dy) + c;
        const auto* moments = ptr<const Moments>(p.moments);
        for (int r = first + warp(); r < end; r += COLUMN_WARPS) {
            const Moments m = moments[r];
            const float d = dy[r * p.dy_step];
            with_x += d * ((x[r * p.x_step] - m.mean) * m.rstd);
            plain += d;
        }
    }
    s.sums[0][warp()][lane()] = with_x;
    s.sums[1][warp()][lane()] = plain;
    __syncthreads();
    if (warp() < 2 && c < p.cols) {
        float sum = 0;
        for (int i = 0; i < COLUMN_WARPS; ++i) sum += s.sums[warp()][i][lane()];
        ptr<float>(p.sums)[(int64_t(warp()) * gridDim.y + blockIdx.y) * p.cols + c] = sum;
    }
}
constexpr int COLUMN_SUMS_SHARED = 2 * COLUMN_WARPS * 32 * 4;

/// Adds the slabs of `norm_column_sums` in their order. Thread: one column; blockIdx.y 0: the sums with x
/// (gradient of the weight), 1: the plain ones (of the bias).
DC_FN void norm_column_finish(const NormColumnFinish& p) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= p.cols) return;
    const float* sums = ptr<const float>(p.sums) + int64_t(blockIdx.y) * p.slabs * p.cols + c;
    float sum = 0;
    for (int i = 0; i < p.slabs; ++i) sum += sums[int64_t(i) * p.cols];
    ptr<float>(blockIdx.y == 0 ? p.d_weight : p.d_bias)[c] = sum;
}

}  // namespace dc
