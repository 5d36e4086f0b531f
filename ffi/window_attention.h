#pragma once
#include <stdint.h>

/// How windows lie in images: see `WindowAttention` in src/ops/window_attention.
typedef struct WindowGrid {
    /// Tokens of an image: multiples of `window`.
    int32_t height;
    int32_t width;
    /// Side of a window in tokens.
    int32_t window;
    /// How far windows are moved: less than `window`.
    int32_t shift;
    /// Heads, and elements of one head of one token.
    int32_t heads;
    int32_t depth;
} WindowGrid;

/// How far tokens lie apart.
typedef struct WindowSteps {
    /// Elements from image to image, `row` to `row`, `column` to `column`.
    int64_t image;
    int64_t row;
    int64_t column;
} WindowSteps;

/// Parameters of `window_attention_fwd_*`: attention of each head within each window.
typedef struct WindowAttentionFwd {
    /// q, k, v of every token, [batch, height, width, 3·heads·depth], each token's channels dense.
    uint64_t qkv;
    /// f32 [(2·window-1)², heads], dense: bias by where the query lies from the key.
    uint64_t table;
    /// Result, [batch, height, width, heads·depth], dense.
    uint64_t out;
    /// Steps of qkv.
    WindowSteps steps;
    WindowGrid grid;
    /// Factor of the products of queries and keys.
    float scale;
    /// Half precision: 1 if depth, steps and addresses allow access to two elements at once, else 0.
    int32_t pairs;
} WindowAttentionFwd;

/// Parameters of `window_attention_grad_*` but the last step: gradients of q, k and v, and the parts of that of
/// the bias table.
typedef struct WindowAttentionGrad {
    /// As in `WindowAttentionFwd`.
    uint64_t qkv;
    uint64_t table;
    /// Gradient of the result, [batch, height, width, heads·depth], each token's channels dense.
    uint64_t d_out;
    /// Gradient of qkv, dense.
    uint64_t d_qkv;
    /// f32 [groups, heads, key, query]: gradient of the scores, summed over the windows of a group.
    uint64_t d_bias;
    /// f32 [windows, heads, 3, query]: largest score, 1 / sum of exponentials, mean of the weights' gradient.
    uint64_t stats;
    /// Steps of qkv.
    WindowSteps steps;
    /// Steps of d_out.
    WindowSteps d_out_steps;
    WindowGrid grid;
    /// Windows of the batch, and of a group (the last group may have fewer).
    int32_t windows;
    int32_t per_group;
    /// As in `WindowAttentionFwd`.
    float scale;
    int32_t pairs;
} WindowAttentionGrad;

/// Parameters of `window_attention_grad_table_f32`: the parts of the bias table's gradient, summed.
typedef struct WindowAttentionGradTable {
    /// As in `WindowAttentionGrad`.
    uint64_t d_bias;
    /// f32 [(2·window-1)², heads], dense.
    uint64_t d_table;
    int32_t groups;
    int32_t heads;
    int32_t window;
    /// Zero.
    int32_t reserved;
} WindowAttentionGradTable;
