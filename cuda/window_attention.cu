// window_attention: attention within shifted windows, tokens read from and written to where they lie.
//
// SwinIR has 8×8 windows, 6 heads of depth 30: 34 FLOPs a byte in bf16, so the kernels are bound by memory
// as long as scores stay on chip and rows are read whole.
//
// `8x8` (half precision): a block has a window and up to three heads, so that a token's q, k and v are runs of
// 180 bytes; 40 KB of shared memory, four blocks a multiprocessor on A100, and while one head is computed the
// copies of the next are under way. A warp has 16 queries: 16×64 scores in registers, softmax, and their
// products with v without leaving them. A depth of 30 is 60-byte rows, which only 4-byte copies can place;
// 32 columns exist in shared memory alone. The bias table lies in shared memory, read at an offset that
// the compiler knows for all but the first key.
// Its gradient: a block has one head and a group of windows; sums of the scores' gradient (of the table's,
// that is) stay in shared memory until the group is done, and `grad_table` adds up the groups in order.
// `tile` (f32): a thread has a query and keeps it and its result in registers; keys and values are broadcast from
// shared memory, four FMAs a 16-byte load, so that FMAs (491 kFLOP a head of a window) and the 30 KB that they
// need take about equally long.
// Its gradient takes windows of up to 64 tokens, and computes scores three times rather than keep them.
// `any` (f32): every window and depth, a warp a query. No model needs it.
#include "include/dc.cuh"
#include "include/mma.cuh"
#include "../ffi/window_attention.h"

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

DC_FN float dot(const float* a, const float* b, int n) {
    float sum = 0;
    for (int c = 0; c < n; ++c) sum += a[c] * b[c];
    return sum;
}

// ---- Any window and depth: a warp a query (or key), a lane a key (or query) ---------------------

constexpr int ANY_THREADS = 128;
/// Channels that a lane sums at once; deeper heads are computed in parts, their scores again each time.
constexpr int ANY_CHANNELS = 4;

/// What a lane of `any` needs to know about a pair of tokens.
struct Pairs {
    const WindowGrid& grid;
    const float* table;  ///< of the head
    float scale;

    DC_FN float score(const float* q, const float* k, int query, int key, bool sees) const {
        const int last = bias_code(grid, grid.window * grid.window - 1);
        const int row = bias_code(grid, query) - bias_code(grid, key) + last;
        return scale * dot(q, k, grid.depth) + table[int64_t(row) * grid.heads] + (sees ? 0.0f : MASKED);
    }
};

DC_FN void fwd_any(const WindowAttentionFwd& p) {
    const WindowGrid& g = p.grid;
    const int tokens = g.window * g.window, channels = g.heads * g.depth;
    const int window = blockIdx.x, head = blockIdx.y;
    const int query = blockIdx.z * (ANY_THREADS / 32) + dc::warp();
    if (query >= tokens) return;  // whole warps, and no barriers
    const float* qkv = dc::ptr<const float>(p.qkv) + head * g.depth;
    const Pairs pairs{g, dc::ptr<const float>(p.table) + head, p.scale};
    const Place at = place(g, window, query);
    const float* q = qkv + at.in(p.steps);
    float* out = dc::ptr<float>(p.out) + at.dense(g) * channels + head * g.depth;
    for (int part = 0; part < g.depth; part += 32 * ANY_CHANNELS) {
        float most = -INFINITY, sum = 0, mixed[ANY_CHANNELS] = {};
        for (int first = 0; first < tokens; first += 32) {
            const int key = dc::min(first + dc::lane(), tokens - 1);
            const bool real = first + dc::lane() < tokens;
            const Place there = place(g, window, key);
            const int64_t from = there.in(p.steps);
            const float s = pairs.score(q, qkv + from + channels, query, key, there.region == at.region);
            const float now = dc::max(most, dc::warp_max(real ? s : -INFINITY));
            const float before = dc::exp(most - now), weight = real ? dc::exp(s - now) : 0.0f;
            most = now;
            sum = sum * before + dc::warp_sum(weight);
            DC_UNROLL
            for (int k = 0; k < ANY_CHANNELS; ++k) mixed[k] *= before;
            for (int j = 0; j < dc::min(32, tokens - first); ++j) {
                const float w = dc::shuffle(weight, j);
                const float* v = qkv + dc::shuffle(from, j) + 2 * channels;
                DC_UNROLL
                for (int k = 0; k < ANY_CHANNELS; ++k) {
                    const int c = part + k * 32 + dc::lane();
                    if (c < g.depth) mixed[k] += w * v[c];
                }
            }
        }
        DC_UNROLL
        for (int k = 0; k < ANY_CHANNELS; ++k) {
            const int c = part + k * 32 + dc::lane();
            if (c < g.depth) out[c] = mixed[k] / sum;
        }
    }
}

/// Statistics of a query of a head of a window: largest score, 1 / sum of exponentials, mean of the
/// weights' gradient, `tokens` apart.
template <class P>
DC_FN float* stats_of(const P& p, int window, int head, int query) {
    const int tokens = p.grid.window * p.grid.window;
    return dc::ptr<float>(p.stats) + (int64_t(window) * p.grid.heads + head) * 3 * tokens + query;
}

/// dQ, the statistics, and the sum of the scores' gradient over a group of windows.
DC_FN void grad_any_queries(const WindowAttentionGrad& p) {
    const WindowGrid& g = p.grid;
    const int tokens = g.window * g.window, channels = g.heads * g.depth;
    const int group = blockIdx.x, head = blockIdx.y;
    const int query = blockIdx.z * (ANY_THREADS / 32) + dc::warp();
    if (query >= tokens) return;
    const float* qkv = dc::ptr<const float>(p.qkv) + head * g.depth;
    const Pairs pairs{g, dc::ptr<const float>(p.table) + head, p.scale};
    float* d_bias = dc::ptr<float>(p.d_bias) + (int64_t(group) * g.heads + head) * tokens * tokens + query;
    const int end = dc::min((group + 1) * p.per_group, p.windows);
    for (int window = group * p.per_group; window < end; ++window) {
        const Place at = place(g, window, query);
        const float* q = qkv + at.in(p.steps);
        const float* d_out = dc::ptr<const float>(p.d_out) + at.in(p.d_out_steps) + head * g.depth;
        float most = -INFINITY, sum = 0, mean = 0;
        for (int first = 0; first < tokens; first += 32) {
            const int key = dc::min(first + dc::lane(), tokens - 1);
            const bool real = first + dc::lane() < tokens;
            const Place there = place(g, window, key);
            const float* k = qkv + there.in(p.steps) + channels;
            const float s = pairs.score(q, k, query, key, there.region == at.region);
            const float now = dc::max(most, dc::warp_max(real ? s : -INFINITY));
            const float before = dc::exp(most - now), weight = real ? dc::exp(s - now) : 0.0f;
            most = now;
            sum = sum * before + dc::warp_sum(weight);
            mean = mean * before + dc::warp_sum(weight * dot(d_out, k + channels, g.depth));
        }
        const float factor = 1 / sum;
        mean *= factor;
        if (dc::lane() == 0) {
            float* stats = stats_of(p, window, head, query);
            stats[0] = most;
            stats[tokens] = factor;
            stats[2 * tokens] = mean;
        }
        float* d_q = dc::ptr<float>(p.d_qkv) + at.dense(g) * 3 * channels + head * g.depth;
        for (int part = 0; part < g.depth; part += 32 * ANY_CHANNELS) {
            float mixed[ANY_CHANNELS] = {};
            for (int first = 0; first < tokens; first += 32) {
                const int key = dc::min(first + dc::lane(), tokens - 1);
                const Place there = place(g, window, key);
                const int64_t from = there.in(p.steps);
                const float* k = qkv + from + channels;
                const float s = pairs.score(q, k, query, key, there.region == at.region);
                const float d = dc::exp(s - most) * factor * (dot(d_out, k + channels, g.depth) - mean);
                if (part == 0 && first + dc::lane() < tokens) {
                    float* to = d_bias + int64_t(key) * tokens;
                    *to = window == group * p.per_group ? d : *to + d;
                }
                for (int j = 0; j < dc::min(32, tokens - first); ++j) {
                    const float w = dc::shuffle(d, j);
                    const float* k = qkv + dc::shuffle(from, j) + channels;
                    DC_UNROLL
                    for (int i = 0; i < ANY_CHANNELS; ++i) {
                        const int c = part + i * 32 + dc::lane();
                        if (c < g.depth) mixed[i] += w * k[c];
                    }
                }
            }
            DC_UNROLL
            for (int i = 0; i < ANY_CHANNELS; ++i) {
                const int c = part + i * 32 + dc::lane();
                if (c < g.depth) d_q[c] = mixed[i] * p.scale;
            }
        }
    }
}

/// dK and dV, after `grad_any_queries`.
DC_FN void grad_any_keys(const WindowAttentionGrad& p) {
    const WindowGrid& g = p.grid;
    const int tokens = g.window * g.window, channels = g.heads * g.depth;
    const int window = blockIdx.x, head = blockIdx.y;
    const int key = blockIdx.z * (ANY_THREADS / 32) + dc::warp();
    if (key >= tokens) return;
    const float* qkv = dc::ptr<const float>(p.qkv) + head * g.depth;
    const float* d_out = dc::ptr<const float>(p.d_out) + head * g.depth;
    const Pairs pairs{g, dc::ptr<const float>(p.table) + head, p.scale};
    const Place at = place(g, window, key);
    const float* k = qkv + at.in(p.steps) + channels;
    float* d_k = dc::ptr<float>(p.d_qkv) + (at.dense(g) * 3 + 1) * channels + head * g.depth;
    for (int part = 0; part < g.depth; part += 32 * ANY_CHANNELS) {
        float mixed_q[ANY_CHANNELS] = {}, mixed_d[ANY_CHANNELS] = {};
        for (int first = 0; first < tokens; first += 32) {
            const int query = dc::min(first + dc::lane(), tokens - 1);
            const Place there = place(g, window, query);
            const int64_t q_at = there.in(p.steps), d_at = there.in(p.d_out_steps);
            const float* stats = stats_of(p, window, head, query);
            const float s = pairs.score(qkv + q_at, k, query, key, there.region == at.region);
            const float weight = dc::exp(s - stats[0]) * stats[tokens];
            const float d = weight * (dot(d_out + d_at, k + channels, g.depth) - stats[2 * tokens]);
            for (int j = 0; j < dc::min(32, tokens - first); ++j) {
                const float w = dc::shuffle(weight, j), dw = dc::shuffle(d, j);
                const float* q = qkv + dc::shuffle(q_at, j);
                const float* dy = d_out + dc::shuffle(d_at, j);
                DC_UNROLL
                for (int i = 0; i < ANY_CHANNELS; ++i) {
                    const int c = part + i * 32 + dc::lane();
                    if (c < g.depth) {
                        mixed_q[i] += dw * q[c];
                        mixed_d[i] += w * dy[c];
                    }
                }
            }
        }
        DC_UNROLL
        for (int i = 0; i < ANY_CHANNELS; ++i) {
            const int c = part + i * 32 + dc::lane();
            if (c < g.depth) {
                d_k[c] = mixed_q[i] * p.scale;
                d_k[channels + c] = mixed_d[i];
            }
        }
    }
}

// ---- Depth up to 32, any window, f32: a thread a query -------------------------------------------

constexpr int TILE_HEADS = 2;
/// Queries of a block, and keys that are in shared memory at a time: an 8×8 window.
constexpr int TILE = 64;
constexpr int TILE_THREADS = TILE_HEADS * TILE;
constexpr int TILE_DEPTH = 32;
/// Entries of the bias table of a head that fit shared memory: windows of up to 9×9.
constexpr int TILE_OFFSETS = 17 * 17;
/// Keys whose scores a thread holds at once.
constexpr int STEP = 4;

struct TileKeys {
    float k[TILE_HEADS][TILE][TILE_DEPTH], v[TILE_HEADS][TILE][TILE_DEPTH];
};

struct TileSmem {
    union {
        TileKeys tile;
        /// Queries on their way in, results on their way out; the odd pitch gives a column 32 banks.
        float rows[TILE_HEADS][TILE][TILE_DEPTH + 1];
    };
    float bias[TILE_HEADS][TILE_OFFSETS];
    int32_t code[TILE];    ///< of a key: `bias_code`
    int32_t region[TILE];  ///< of a key
    int64_t at[TILE];
    int64_t to[TILE];
};

/// Where the tokens of a tile begin in qkv; `first + i` beyond the window repeats its last token.
DC_FN void locate(TileSmem& s, const WindowAttentionFwd& p, int window, int first) {
    const WindowGrid& g = p.grid;
    const int i = threadIdx.x, token = dc::min(first + i, g.window * g.window - 1);
    if (i >= TILE) return;
    const Place at = place(g, window, token);
    s.at[i] = at.in(p.steps);
    s.to[i] = at.dense(g) * g.heads * g.depth;
    s.code[i] = bias_code(g, token);
    s.region[i] = at.region;
}

/// Starts to copy one head of the tile's tokens, a warp a token; columns above the depth are zeros.
template <int PITCH>
DC_FN void fetch_f32(float (&to)[TILE][PITCH], const float* head, const int64_t* at, int depth) {
    for (int i = dc::warp(); i < TILE; i += TILE_THREADS / 32) {
        const float* x = head + at[i];
        const bool real = dc::lane() < depth;
        dc::cp_async<4>(&to[i][dc::lane()], real ? x + dc::lane() : x, real ? 4 : 0);
    }
}

DC_FN void fwd_tile(const WindowAttentionFwd& p) {
    auto& s = dc::shared<TileSmem>();
    const WindowGrid& g = p.grid;
    const int tokens = g.window * g.window, side = 2 * g.window - 1, channels = g.heads * g.depth;
    const int window = blockIdx.x, first = blockIdx.y * TILE_HEADS, heads = dc::min(TILE_HEADS, g.heads - first);
    const int own = threadIdx.x / TILE, own_row = threadIdx.x % TILE, query0 = blockIdx.z * TILE;
    const float* qkv = dc::ptr<const float>(p.qkv) + first * g.depth;
    const float* table = dc::ptr<const float>(p.table) + first;

    locate(s, p, window, query0);
    __syncthreads();
    for (int h = 0; h < heads; ++h) fetch_f32(s.rows[h], qkv + h * g.depth, s.at, g.depth);
    dc::cp_async_commit();
    const bool small = side * side <= TILE_OFFSETS;
    for (int i = threadIdx.x; small && i < side * side; i += TILE_THREADS) {
        for (int h = 0; h < heads; ++h) s.bias[h][i] = table[i * g.heads + h];
    }
    dc::cp_async_wait<0>();
    __syncthreads();
    const bool busy = own < heads && query0 + own_row < tokens;
    const int region = s.region[own_row], code = s.code[own_row] + bias_code(g, tokens - 1);
    const float* bias = small ? s.bias[own] : table + own;
    const int bias_step = small ? 1 : g.heads;
    const int64_t to = s.to[own_row];
    float q[TILE_DEPTH], mixed[TILE_DEPTH], most = -INFINITY, sum = 0;
    DC_UNROLL
    for (int c = 0; c < TILE_DEPTH; ++c) {
        q[c] = busy ? s.rows[own][own_row][c] * p.scale : 0.0f;
        mixed[c] = 0;
    }
    for (int key0 = 0; key0 < tokens; key0 += TILE) {
        const int keys = dc::min(TILE, tokens - key0);
        __syncthreads();
        locate(s, p, window, key0);
        __syncthreads();
        for (int h = 0; h < heads; ++h) {
            fetch_f32(s.tile.k[h], qkv + h * g.depth + channels, s.at, g.depth);
            fetch_f32(s.tile.v[h], qkv + h * g.depth + 2 * channels, s.at, g.depth);
        }
        dc::cp_async_commit();
        dc::cp_async_wait<0>();
        __syncthreads();
        for (int key = 0; busy && key < keys; key += STEP) {
            float score[STEP], now = most;
            DC_UNROLL
            for (int j = 0; j < STEP; ++j) {
                score[j] = 0;
                DC_UNROLL
                for (int c = 0; c < TILE_DEPTH; c += 4) {
                    const auto k = dc::load<4>(&s.tile.k[own][key + j][c]);
                    DC_UNROLL
                    for (int i = 0; i < 4; ++i) score[j] += q[c + i] * k[i];
                }
                score[j] += bias[(code - s.code[key + j]) * bias_step];
                if (s.region[key + j] != region) score[j] += MASKED;
                if (key + j >= keys) score[j] = -INFINITY;
                now = dc::max(now, score[j]);
            }
            const float before = dc::exp(most - now);
            most = now;
            sum *= before;
            DC_UNROLL
            for (int j = 0; j < STEP; ++j) {
                score[j] = dc::exp(score[j] - now);
                sum += score[j];
            }
            DC_UNROLL
            for (int c = 0; c < TILE_DEPTH; c += 4) {
                DC_UNROLL
                for (int i = 0; i < 4; ++i) mixed[c + i] *= before;
                DC_UNROLL
                for (int j = 0; j < STEP; ++j) {
                    const auto v = dc::load<4>(&s.tile.v[own][key + j][c]);
                    DC_UNROLL
                    for (int i = 0; i < 4; ++i) mixed[c + i] += score[j] * v[i];
                }
            }
        }
    }
    __syncthreads();
    DC_UNROLL
    for (int c = 0; c < TILE_DEPTH; ++c) s.rows[own][own_row][c] = mixed[c] / sum;
    if (own == 0) s.to[own_row] = to;
    __syncthreads();
    float* out = dc::ptr<float>(p.out) + first * g.depth;
    for (int i = dc::warp(); i < dc::min(TILE, tokens - query0); i += TILE_THREADS / 32) {
        for (int h = 0; h < heads; ++h) {
            if (dc::lane() < g.depth) out[s.to[i] + h * g.depth + dc::lane()] = s.rows[h][i][dc::lane()];
        }
    }
}

/// Floats from row to row of what threads read their own rows of: 16-byte reads of eight lanes, 36 apart, lie in
/// different banks.
constexpr int GRAD_PITCH = TILE_DEPTH + 4;
/// Entries of the bias table of windows of up to 8×8.
constexpr int GRAD_OFFSETS = 15 * 15;

struct GradTileSmem {
    float q[TILE_HEADS][TILE][GRAD_PITCH], k[TILE_HEADS][TILE][GRAD_PITCH];
    float v[TILE_HEADS][TILE][GRAD_PITCH], d_out[TILE_HEADS][TILE][GRAD_PITCH];
    float most[TILE_HEADS][TILE], factor[TILE_HEADS][TILE], mean[TILE_HEADS][TILE];
    float bias[TILE_HEADS][GRAD_OFFSETS];
    int32_t code[TILE], region[TILE], dense[TILE];
    int64_t at[TILE], d_out_at[TILE];
};

using Channels = float[TILE_DEPTH];

DC_FN void read_row(const float* row, Channels& x) {
    DC_UNROLL
    for (int c = 0; c < TILE_DEPTH; c += 4) {
        const auto v = dc::load<4>(row + c);
        DC_UNROLL
        for (int i = 0; i < 4; ++i) x[c + i] = v[i];
    }
}
DC_FN void write_row(float* row, const Channels& x, float factor) {
    DC_UNROLL
    for (int c = 0; c < TILE_DEPTH; c += 4) {
        dc::Vec<float, 4> v;
        DC_UNROLL
        for (int i = 0; i < 4; ++i) v[i] = x[c + i] * factor;
        dc::store(row + c, v);
    }
}
DC_FN float dot_row(const float* row, const Channels& x) {
    float sum = 0;
    DC_UNROLL
    for (int c = 0; c < TILE_DEPTH; c += 4) {
        const auto v = dc::load<4>(row + c);
        DC_UNROLL
        for (int i = 0; i < 4; ++i) sum += x[c + i] * v[i];
    }
    return sum;
}
DC_FN void add_row(const float* row, float factor, Channels& x) {
    DC_UNROLL
    for (int c = 0; c < TILE_DEPTH; c += 4) {
        const auto v = dc::load<4>(row + c);
        DC_UNROLL
        for (int i = 0; i < 4; ++i) x[c + i] += factor * v[i];
    }
}

/// All gradients of up to two heads over a group of windows of up to 64 tokens. A thread has first a query
/// (statistics, then dQ and the scores' gradient), then a key (dK, dV); scores are computed three times
/// rather than kept.
DC_FN void grad_tile(const WindowAttentionGrad& p) {
    auto& s = dc::shared<GradTileSmem>();
    const WindowGrid& g = p.grid;
    const int tokens = g.window * g.window, side = 2 * g.window - 1, channels = g.heads * g.depth;
    const int group = blockIdx.x, first = blockIdx.y * TILE_HEADS, heads = dc::min(TILE_HEADS, g.heads - first);
    const int own = threadIdx.x / TILE, row = threadIdx.x % TILE;
    const bool busy = own < heads && row < tokens;
    const float* qkv = dc::ptr<const float>(p.qkv) + first * g.depth;
    const float* d_out = dc::ptr<const float>(p.d_out) + first * g.depth;
    const float* table = dc::ptr<const float>(p.table) + first;
    float* d_qkv = dc::ptr<float>(p.d_qkv) + first * g.depth;
    // [key][query]: neighbours write neighbours.
    float* d_bias = dc::ptr<float>(p.d_bias) + (int64_t(group) * g.heads + first + own) * tokens * tokens + row;
    for (int i = threadIdx.x; i < side * side; i += TILE_THREADS) {
        for (int h = 0; h < heads; ++h) s.bias[h][i] = table[i * g.heads + h];
    }
    const int end = dc::min((group + 1) * p.per_group, p.windows), last = bias_code(g, tokens - 1);
    for (int window = group * p.per_group; window < end; ++window) {
        if (threadIdx.x < TILE) {
            const int token = dc::min(row, tokens - 1);
            const Place at = place(g, window, token);
            s.at[row] = at.in(p.steps);
            s.d_out_at[row] = at.in(p.d_out_steps);
            s.dense[row] = int32_t(at.dense(g));
            s.code[row] = bias_code(g, token);
            s.region[row] = at.region;
        }
        __syncthreads();
        for (int h = 0; h < heads; ++h) {
            fetch_f32(s.q[h], qkv + h * g.depth, s.at, g.depth);
            fetch_f32(s.k[h], qkv + h * g.depth + channels, s.at, g.depth);
            fetch_f32(s.v[h], qkv + h * g.depth + 2 * channels, s.at, g.depth);
            fetch_f32(s.d_out[h], d_out + h * g.depth, s.d_out_at, g.depth);
        }
        dc::cp_async_commit();
        dc::cp_async_wait<0>();
        __syncthreads();
        const int code = s.code[row], region = s.region[row];
        const auto score = [&](float product, int query_code, int key_code, int other) {
            return product * p.scale + s.bias[own][query_code - key_code + last] + (other == region ? 0.0f : MASKED);
        };
        Channels d_q = {};
        if (busy) {
            Channels q, dy;
            read_row(s.q[own][row], q);
            read_row(s.d_out[own][row], dy);
            float most = -INFINITY, sum = 0, mean = 0;
            for (int key = 0; key < tokens; ++key) {
                const float x = score(dot_row(s.k[own][key], q), code, s.code[key], s.region[key]);
                const float now = dc::max(most, x), before = dc::exp(most - now), weight = dc::exp(x - now);
                most = now;
                sum = sum * before + weight;
                mean = mean * before + weight * dot_row(s.v[own][key], dy);
            }
            const float factor = 1 / sum;
            mean *= factor;
            s.most[own][row] = most;
            s.factor[own][row] = factor;
            s.mean[own][row] = mean;
            for (int key = 0; key < tokens; ++key) {
                const float x = score(dot_row(s.k[own][key], q), code, s.code[key], s.region[key]);
                const float d = dc::exp(x - most) * factor * (dot_row(s.v[own][key], dy) - mean);
                float* to = d_bias + key * tokens;
                *to = window == group * p.per_group ? d : *to + d;
                add_row(s.k[own][key], d, d_q);
            }
        }
        __syncthreads();
        Channels k, v, d_k = {}, d_v = {};
        if (busy) {
            read_row(s.k[own][row], k);
            read_row(s.v[own][row], v);
            // Nobody else reads this row of k any more: it carries dQ out.
            write_row(s.k[own][row], d_q, p.scale);
            for (int query = 0; query < tokens; ++query) {
                const float x = score(dot_row(s.q[own][query], k), s.code[query], code, s.region[query]);
                const float weight = dc::exp(x - s.most[own][query]) * s.factor[own][query];
                const float d = weight * (dot_row(s.d_out[own][query], v) - s.mean[own][query]);
                add_row(s.q[own][query], d, d_k);
                add_row(s.d_out[own][query], weight, d_v);
            }
        }
        __syncthreads();
        if (busy) {
            write_row(s.q[own][row], d_k, p.scale);
            write_row(s.v[own][row], d_v, 1);
        }
        __syncthreads();
        const int c = dc::lane();
        for (int i = dc::warp(); i < tokens; i += TILE_THREADS / 32) {
            float* to = d_qkv + int64_t(s.dense[i]) * 3 * channels + c;
            for (int h = 0; h < heads && c < g.depth; ++h) {
                to[h * g.depth] = s.k[h][i][c];
                to[h * g.depth + channels] = s.q[h][i][c];
                to[h * g.depth + 2 * channels] = s.v[h][i][c];
            }
        }
        __syncthreads();
    }
}

// ---- 8×8 windows, depth up to 32, half precision: tensor cores ----------------------------------

constexpr int SIDE = 8, TOKENS = SIDE * SIDE, DEPTH = 32;
constexpr int OFFSETS = (2 * SIDE - 1) * (2 * SIDE - 1);
constexpr int MMA_THREADS = 128;
/// Heads of a block of the forward kernel.
constexpr int HEADS = 3;

/// Channels of one head of every token of a window: rows of 64 bytes, the columns above the depth
/// zero. The four 16-byte parts of a row are permuted so that the same part of eight rows, and whole
/// pairs of rows, lie in different banks.
template <class T>
struct Tile {
    T data[TOKENS * DEPTH];
    DC_FN T* at(int row, int column) {
        return data + row * DEPTH + (((column >> 3) ^ (row >> 1 & 3)) << 3 | (column & 7));
    }
};

/// Scores or what becomes of them, [query][key]: rows of 128 bytes, parts permuted.
template <class T>
struct Square {
    T data[TOKENS * TOKENS];
    DC_FN T* at(int row, int column) {
        return data + row * TOKENS + (((column >> 3) ^ (row & 7)) << 3 | (column & 7));
    }
};

/// Starts to copy `depth` channels of every token; `from(token)` is where they begin. 16 lanes copy a
/// token's row, two channels each. Without `pairs` the copies are done at once. A barrier must follow.
template <class T, class From>
DC_FN void fetch(Tile<T>& to, int depth, bool pairs, From from) {
    const int column = (threadIdx.x & 15) * 2;
    for (int row = threadIdx.x >> 4; row < TOKENS; row += MMA_THREADS / 16) {
        const T* x = from(row);
        T* y = to.at(row, column);
        if (pairs) {
            const bool real = column < depth;
            dc::cp_async<4>(y, real ? x + column : x, real ? 4 : 0);
        } else {
            y[0] = column < depth ? x[column] : dc::from_f32<T>(0);
            y[1] = column + 1 < depth ? x[column + 1] : dc::from_f32<T>(0);
        }
    }
}

/// Writes the warp's own 16 rows of a tile to where `to(token)` points.
template <class T, class To>
DC_FN void put(Tile<T>& from, int depth, bool pairs, To to) {
    const int column = (threadIdx.x & 15) * 2;
    for (int i = dc::lane() >> 4; i < 16; i += 2) {
        const int row = dc::warp() * 16 + i;
        const T* x = from.at(row, column);
        T* y = to(row) + column;
        if (pairs) {
            if (column < depth) dc::store(y, dc::load<2>(x));
        } else {
            if (column < depth) y[0] = x[0];
            if (column + 1 < depth) y[1] = x[1];
        }
    }
}

/// Puts a 16×32 result of the warp into its own rows of a tile.
template <class T>
DC_FN void stage(Tile<T>& to, const float (&x)[4][4], float upper, float lower) {
    const int row = dc::warp() * 16 + dc::lane() / 4, column = dc::lane() % 4 * 2;
    DC_UNROLL
    for (int n = 0; n < 4; ++n) {
        const uint32_t a = dc::pack2<T>(x[n][0] * upper, x[n][1] * upper);
        const uint32_t b = dc::pack2<T>(x[n][2] * lower, x[n][3] * lower);
        *reinterpret_cast<uint32_t*>(to.at(row, n * 8 + column)) = a;
        *reinterpret_cast<uint32_t*>(to.at(row + 8, n * 8 + column)) = b;
    }
}

/// c[16 of the warp × 64] = a · bᵀ over the depth: the warp's rows of `a`, all rows of `b`.
template <class T>
DC_FN void rows_by_rows(Tile<T>& a, Tile<T>& b, float (&c)[8][4]) {
    const int lane = dc::lane();
    uint32_t left[2][4];
    DC_UNROLL
    for (int k = 0; k < 2; ++k)
        dc::ldmatrix<4, false>(left[k], a.at(dc::warp() * 16 + lane % 16, k * 16 + lane / 16 * 8));
    DC_UNROLL
    for (int n = 0; n < 8; ++n) {
        uint32_t right[4];
        dc::ldmatrix<4, false>(right, b.at(n * 8 + lane % 8, lane / 8 * 8));
        DC_UNROLL
        for (int i = 0; i < 4; ++i) c[n][i] = 0;
        dc::mma_m16n8k16<T>(c[n], left[0], {right[0], right[1]});
        dc::mma_m16n8k16<T>(c[n], left[1], {right[2], right[3]});
    }
}

/// c[16×32] += a · (16 rows of `b` from `first`).
template <class T>
DC_FN void times_rows(const uint32_t (&a)[4], Tile<T>& b, int first, float (&c)[4][4]) {
    const int lane = dc::lane();
    DC_UNROLL
    for (int n = 0; n < 4; n += 2) {
        uint32_t right[4];
        dc::ldmatrix<4, true>(right, b.at(first + lane % 16, n * 8 + lane / 16 * 8));
        dc::mma_m16n8k16<T>(c[n], a, {right[0], right[1]});
        dc::mma_m16n8k16<T>(c[n + 1], a, {right[2], right[3]});
    }
}

/// A 16×16 part of a result as a left operand.
template <class T>
DC_FN void as_left(const float (&x)[8][4], int k, uint32_t (&a)[4]) {
    a[0] = dc::pack2<T>(x[2 * k][0], x[2 * k][1]);
    a[1] = dc::pack2<T>(x[2 * k][2], x[2 * k][3]);
    a[2] = dc::pack2<T>(x[2 * k + 1][0], x[2 * k + 1][1]);
    a[3] = dc::pack2<T>(x[2 * k + 1][2], x[2 * k + 1][3]);
}

/// Sum and maximum over the four lanes that hold a row.
DC_FN float row_sum(float x) {
    x += dc::shuffle_xor(x, 1);
    return x + dc::shuffle_xor(x, 2);
}
DC_FN float row_max(float x) {
    x = dc::max(x, dc::shuffle_xor(x, 1));
    return dc::max(x, dc::shuffle_xor(x, 2));
}

/// Rows and columns of this window from here on see only each other (SIDE: all see all).
struct Cut {
    int y, x;
    DC_FN Cut(const WindowGrid& g, int window) {
        const int columns = g.width / SIDE, rows = g.height / SIDE;
        y = window / columns % rows == rows - 1 ? SIDE - g.shift : SIDE;
        x = window % columns == columns - 1 ? SIDE - g.shift : SIDE;
    }
};

/// Turns products of 16 queries and 64 keys into exp(score - largest score of the row). `bias` holds the
/// head's table times log2(e). Gives the sums of two rows, g = lane/4 and g + 8.
DC_FN void softmax(float (&s)[8][4], const float* bias, float scale, Cut cut, float& upper, float& lower) {
    const int g = dc::lane() / 4, t = dc::lane() % 4 * 2, y = dc::warp() * 2;
    // Key 8n + x + e lies (y - n, g - x - e) from the first query and one row more from the second, so
    // that what the first reads of key row n, the second reads of key row n + 1.
    const float* entry = bias + (y + 1 + SIDE - 1) * (2 * SIDE - 1) + g - t + SIDE - 1;
    scale *= dc::LOG2E;
    float most[2] = {-INFINITY, -INFINITY};
    float b[2] = {entry[0], entry[-1]};
    DC_UNROLL
    for (int n = 0; n < 8; ++n) {
        const float* next = entry - (n + 1) * (2 * SIDE - 1);
        DC_UNROLL
        for (int e = 0; e < 2; ++e) {
            s[n][2 + e] = s[n][2 + e] * scale + b[e];
            b[e] = next[-e];
            s[n][e] = s[n][e] * scale + b[e];
        }
    }
    if (cut.y < SIDE || cut.x < SIDE) {
        DC_UNROLL
        for (int n = 0; n < 8; ++n) {
            DC_UNROLL
            for (int i = 0; i < 4; ++i) {
                const bool rows = (y + i / 2 >= cut.y) != (n >= cut.y);
                const bool columns = (g >= cut.x) != (t + i % 2 >= cut.x);
                if (rows || columns) s[n][i] += MASKED * dc::LOG2E;
            }
        }
    }
    DC_UNROLL
    for (int n = 0; n < 8; ++n) {
        DC_UNROLL
        for (int i = 0; i < 4; ++i) most[i / 2] = dc::max(most[i / 2], s[n][i]);
    }
    most[0] = row_max(most[0]);
    most[1] = row_max(most[1]);
    float sum[2] = {};
    DC_UNROLL
    for (int n = 0; n < 8; ++n) {
        DC_UNROLL
        for (int i = 0; i < 4; ++i) {
            s[n][i] = dc::exp2(s[n][i] - most[i / 2]);
            sum[i / 2] += s[n][i];
        }
    }
    upper = row_sum(sum[0]);
    lower = row_sum(sum[1]);
}

template <class T>
struct FwdSmem {
    Tile<T> q[HEADS], k[HEADS], v[HEADS];
    float bias[HEADS][OFFSETS];
    int32_t dense[TOKENS];
    int64_t at[TOKENS];
};

template <class T>
DC_FN void fwd_8x8(const WindowAttentionFwd& p) {
    auto& s = dc::shared<FwdSmem<T>>();
    const WindowGrid& g = p.grid;
    const int window = blockIdx.x, first = blockIdx.y * HEADS, heads = dc::min(HEADS, g.heads - first);
    const int channels = g.heads * g.depth;
    if (threadIdx.x < TOKENS) {
        const Place at = place(g, window, threadIdx.x);
        s.at[threadIdx.x] = at.in(p.steps);
        s.dense[threadIdx.x] = int32_t(at.dense(g));
    }
    __syncthreads();
    // Every head is a group of copies: while one is computed, the next arrive.
    const T* qkv = dc::ptr<const T>(p.qkv) + first * g.depth;
    for (int h = 0; h < HEADS; ++h) {
        if (h < heads) {
            const T* of = qkv + h * g.depth;
            fetch(s.q[h], g.depth, p.pairs, [&](int token) { return of + s.at[token]; });
            fetch(s.k[h], g.depth, p.pairs, [&](int token) { return of + s.at[token] + channels; });
            fetch(s.v[h], g.depth, p.pairs, [&](int token) { return of + s.at[token] + 2 * channels; });
        }
        dc::cp_async_commit();
    }
    const float* table = dc::ptr<const float>(p.table) + first;
    for (int i = threadIdx.x; i < OFFSETS; i += MMA_THREADS) {
        for (int h = 0; h < heads; ++h) s.bias[h][i] = table[i * g.heads + h] * dc::LOG2E;
    }
    const Cut cut(g, window);
    T* out = dc::ptr<T>(p.out) + first * g.depth;
    for (int h = 0; h < heads; ++h) {
        if (h == 0) dc::cp_async_wait<2>();
        else if (h == 1) dc::cp_async_wait<1>();
        else dc::cp_async_wait<0>();
        __syncthreads();
        float weights[8][4], mixed[4][4] = {}, upper, lower;
        rows_by_rows(s.q[h], s.k[h], weights);
        softmax(weights, s.bias[h], p.scale, cut, upper, lower);
        DC_UNROLL
        for (int k = 0; k < 4; ++k) {
            uint32_t a[4];
            as_left<T>(weights, k, a);
            times_rows(a, s.v[h], k * 16, mixed);
        }
        // The warp's queries have been read: their rows carry the result to whole-row stores.
        stage(s.q[h], mixed, 1 / upper, 1 / lower);
        dc::sync_warp();
        T* of = out + h * g.depth;
        put(s.q[h], g.depth, p.pairs, [&](int token) { return of + int64_t(s.dense[token]) * channels; });
    }
    dc::cp_async_wait<0>();
}
static_assert(HEADS == 3, "fwd_8x8 waits for two, one and no younger groups");

template <class T>
struct GradSmem {
    Tile<T> q, k, v, d_out;
    Square<T> weights, d_scores;
    float d_bias[32][MMA_THREADS];  ///< scores' gradient summed over windows: each thread's own
    float bias[OFFSETS];
    int32_t dense[TOKENS];
    int64_t at[TOKENS], d_out_at[TOKENS];
};

/// All gradients of one head over a group of windows: the scores' summed in order, the others as they come.
template <class T>
DC_FN void grad_8x8(const WindowAttentionGrad& p) {
    auto& s = dc::shared<GradSmem<T>>();
    const WindowGrid& g = p.grid;
    const int group = blockIdx.x, head = blockIdx.y, lane = dc::lane();
    const int channels = g.heads * g.depth;
    const T* qkv = dc::ptr<const T>(p.qkv) + head * g.depth;
    const T* d_out = dc::ptr<const T>(p.d_out) + head * g.depth;
    T* d_qkv = dc::ptr<T>(p.d_qkv) + head * g.depth;
    const float* table = dc::ptr<const float>(p.table) + head;
    for (int i = threadIdx.x; i < OFFSETS; i += MMA_THREADS) s.bias[i] = table[i * g.heads] * dc::LOG2E;
    DC_UNROLL
    for (int i = 0; i < 32; ++i) s.d_bias[i][threadIdx.x] = 0;
    const int end = dc::min((group + 1) * p.per_group, p.windows);
    for (int window = group * p.per_group; window < end; ++window) {
        if (threadIdx.x < TOKENS) {
            const Place at = place(g, window, threadIdx.x);
            s.at[threadIdx.x] = at.in(p.steps);
            s.d_out_at[threadIdx.x] = at.in(p.d_out_steps);
            s.dense[threadIdx.x] = int32_t(at.dense(g));
        }
        __syncthreads();
        fetch(s.q, g.depth, p.pairs, [&](int token) { return qkv + s.at[token]; });
        fetch(s.k, g.depth, p.pairs, [&](int token) { return qkv + s.at[token] + channels; });
        fetch(s.v, g.depth, p.pairs, [&](int token) { return qkv + s.at[token] + 2 * channels; });
        fetch(s.d_out, g.depth, p.pairs, [&](int token) { return d_out + s.d_out_at[token]; });
        dc::cp_async_commit();
        dc::cp_async_wait<0>();
        __syncthreads();

        float weights[8][4], d[8][4], sum[2], mean[2] = {};
        rows_by_rows(s.q, s.k, weights);
        softmax(weights, s.bias, p.scale, Cut(g, window), sum[0], sum[1]);
        rows_by_rows(s.d_out, s.v, d);
        const float factor[2] = {1 / sum[0], 1 / sum[1]};
        DC_UNROLL
        for (int n = 0; n < 8; ++n) {
            DC_UNROLL
            for (int i = 0; i < 4; ++i) {
                weights[n][i] *= factor[i / 2];
                mean[i / 2] += weights[n][i] * d[n][i];
            }
        }
        mean[0] = row_sum(mean[0]);
        mean[1] = row_sum(mean[1]);
        DC_UNROLL
        for (int n = 0; n < 8; ++n) {
            DC_UNROLL
            for (int i = 0; i < 4; ++i) {
                d[n][i] = weights[n][i] * (d[n][i] - mean[i / 2]);
                s.d_bias[n * 4 + i][threadIdx.x] += d[n][i];
            }
        }
        float d_q[4][4] = {};
        DC_UNROLL
        for (int k = 0; k < 4; ++k) {
            uint32_t w[4], a[4];
            as_left<T>(weights, k, w);
            as_left<T>(d, k, a);
            times_rows(a, s.k, k * 16, d_q);
            const int row = dc::warp() * 16 + lane / 4, column = k * 16 + lane % 4 * 2;
            DC_UNROLL
            for (int i = 0; i < 4; ++i) {
                *reinterpret_cast<uint32_t*>(s.weights.at(row + i % 2 * 8, column + i / 2 * 8)) = w[i];
                *reinterpret_cast<uint32_t*>(s.d_scores.at(row + i % 2 * 8, column + i / 2 * 8)) = a[i];
            }
        }
        __syncthreads();
        // Now the warp has 16 keys: the squares transposed, times all queries.
        float d_k[4][4] = {}, d_v[4][4] = {};
        DC_UNROLL
        for (int k = 0; k < 4; ++k) {
            const int row = k * 16 + lane / 16 * 8 + lane % 8, column = dc::warp() * 16 + lane / 8 % 2 * 8;
            uint32_t a[4];
            dc::ldmatrix<4, true>(a, s.weights.at(row, column));
            times_rows(a, s.d_out, k * 16, d_v);
            dc::ldmatrix<4, true>(a, s.d_scores.at(row, column));
            times_rows(a, s.q, k * 16, d_k);
        }
        __syncthreads();
        stage(s.q, d_q, p.scale, p.scale);
        stage(s.k, d_k, p.scale, p.scale);
        stage(s.v, d_v, 1.0f, 1.0f);
        dc::sync_warp();
        const auto to = [&](int token) { return d_qkv + int64_t(s.dense[token]) * 3 * channels; };
        put(s.q, g.depth, p.pairs, to);
        put(s.k, g.depth, p.pairs, [&](int token) { return to(token) + channels; });
        put(s.v, g.depth, p.pairs, [&](int token) { return to(token) + 2 * channels; });
        __syncthreads();
    }
    float* d_bias = dc::ptr<float>(p.d_bias) + (int64_t(group) * g.heads + head) * TOKENS * TOKENS;
    DC_UNROLL
    for (int i = 0; i < 32; ++i) {
        const int key = i / 4 * 8 + lane % 4 * 2 + i % 2, query = dc::warp() * 16 + lane / 4 + i / 2 % 2 * 8;
        d_bias[key * TOKENS + query] = s.d_bias[i][threadIdx.x];
    }
}

// ---- Gradient of the bias table ---------------------------------------------------------------

/// A warp sums what belongs to one row of the table for one head: over groups, and over all pairs of
/// tokens that lie this far apart, in an order that is always the same.
DC_FN void grad_table(const WindowAttentionGradTable& p) {
    const int w = p.window, tokens = w * w, side = 2 * w - 1;
    const int entry = blockIdx.x * (ANY_THREADS / 32) + dc::warp();
    if (entry >= side * side * p.heads) return;
    const int head = entry % p.heads, dy = entry / p.heads / side - (w - 1), dx = entry / p.heads % side - (w - 1);
    // Keys whose query lies in the window too.
    const int top = dc::max(0, -dy), left = dc::max(0, -dx);
    const int rows = w - dc::max(dy, -dy), columns = w - dc::max(dx, -dx), count = rows * columns;
    const float* from = dc::ptr<const float>(p.d_bias);
    float sum = 0;
    for (int pair = dc::lane(); pair < count; pair += 32) {
        const int key = (top + pair / columns) * w + left + pair % columns, query = key + dy * w + dx;
        const float* d = from + (int64_t(head) * tokens + key) * tokens + query;
        for (int group = 0; group < p.groups; ++group) sum += d[int64_t(group) * p.heads * tokens * tokens];
    }
    sum = dc::warp_sum(sum);
    if (dc::lane() == 0) dc::ptr<float>(p.d_table)[entry] = sum;
}

}  // namespace

DC_KERNEL(window_attention_fwd_any_f32, WindowAttentionFwd, ANY_THREADS, 8, 0) { fwd_any(p); }
DC_KERNEL(window_attention_fwd_tile_f32, WindowAttentionFwd, TILE_THREADS, 4, sizeof(TileSmem)) { fwd_tile(p); }
DC_KERNEL(window_attention_grad_tile_f32, WindowAttentionGrad, TILE_THREADS, 2, sizeof(GradTileSmem)) {
    grad_tile(p);
}
DC_KERNEL(window_attention_grad_any_queries_f32, WindowAttentionGrad, ANY_THREADS, 8, 0) { grad_any_queries(p); }
DC_KERNEL(window_attention_grad_any_keys_f32, WindowAttentionGrad, ANY_THREADS, 8, 0) { grad_any_keys(p); }
#define INSTANCE(NAME, T)                                                                                          \
    DC_KERNEL(window_attention_fwd_8x8_##NAME, WindowAttentionFwd, MMA_THREADS, 4, sizeof(FwdSmem<T>)) {           \
        fwd_8x8<T>(p);                                                                                             \
    }                                                                                                              \
    DC_KERNEL(window_attention_grad_8x8_##NAME, WindowAttentionGrad, MMA_THREADS, 3, sizeof(GradSmem<T>)) {        \
        grad_8x8<T>(p);                                                                                            \
    }
INSTANCE(bf16, dc::bf16)
INSTANCE(f16, dc::f16)
#undef INSTANCE
DC_KERNEL(window_attention_grad_table_f32, WindowAttentionGradTable, ANY_THREADS, 8, 0) { grad_table(p); }
