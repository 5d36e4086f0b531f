// window_attention: attention within shifted windows, tokens read from and written to where they lie. Here on
// tensor cores; in f32, and for every window and depth: window_attention_f32.cu.
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
// that is) stay in shared memory until the group is done, and `grad_table` of window_attention_f32.cu adds up the
// groups in order.
#include "include/mma.cuh"
#include "include/window.cuh"

namespace {

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

}  // namespace

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
