// window_attention in f32: attention within shifted windows, tokens read from and written to where they lie.
//
// `tile`: a thread has a query and keeps it and its result in registers; keys and values are broadcast from
// shared memory, four FMAs a 16-byte load, so that FMAs (491 kFLOP a head of a window) and the 30 KB that they
// need take about equally long.
// Its gradient takes windows of up to 64 tokens, and computes scores three times rather than keep them.
// `any`: every window and depth, a warp a query. No model needs it.
// `grad_table`, for all gradients: sums the groups of windows into the bias table's gradient, in order.
#include "include/mma.cuh"
#include "include/window.cuh"

namespace {

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
DC_KERNEL(window_attention_grad_table_f32, WindowAttentionGradTable, ANY_THREADS, 8, 0) { grad_table(p); }
