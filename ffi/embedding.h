#pragma once
#include <stdint.h>

/// Parameters of `embedding_fwd_*` and `embedding_bwd_*`: rows of a table by index, and their sums.
typedef struct Embedding {
    /// Forward: the table, `rows` dense rows of `cols`. Gradient: dy, f32, one dense row for each index.
    uint64_t x;
    /// i64 indices.
    uint64_t indices;
    /// Forward: f32, one dense row for each index. Gradient: f32, `rows` dense rows.
    uint64_t y;
    /// Number of indices.
    int64_t count;
    /// Rows of the table.
    int64_t rows;
    /// Columns of the table.
    int64_t cols;
} Embedding;
