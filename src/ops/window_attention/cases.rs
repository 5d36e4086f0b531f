//! Registry rows and cases.

use super::{WindowAttention, WindowAttentionGrad};
use crate::ops::{Case, CaseInput, OpEntry};

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "window_attention",
        family: "window_attention",
        about: "self-attention in shifted windows with relative bias, by index",
        cases: || cases(false),
    },
    OpEntry {
        name: "window_attention_grad",
        family: "window_attention",
        about: "gradients of window attention for qkv and bias table",
        cases: || cases(true),
    },
];

/// Name; batch, height, width; window, shift, heads, depth; whether model-sized.
type Setup = (&'static str, [usize; 3], [usize; 4], bool);

const SETUPS: &[Setup] = &[
    ("plain_2", [2, 4, 6], [2, 0, 2, 3], false),
    ("shifted_7", [1, 14, 7], [7, 3, 2, 5], false),
    ("shifted_8", [1, 8, 16], [8, 4, 1, 30], false),
    ("one_window", [1, 4, 4], [4, 2, 2, 4], false),
    ("uneven_shift", [2, 9, 6], [3, 1, 1, 17], false),
    ("two_strips", [1, 9, 9], [9, 4, 1, 6], false),
    ("head_groups_8", [1, 8, 8], [8, 3, 4, 7], false),
    ("three_windows_8", [1, 24, 8], [8, 2, 1, 4], false),
    ("full_depth_8", [1, 8, 8], [8, 0, 1, 32], false),
    ("deep", [1, 2, 4], [2, 1, 1, 150], false),
    ("wide_10", [1, 10, 10], [10, 1, 1, 2], false),
    ("swinir_window", [1, 64, 64], [8, 4, 6, 30], true),
];

fn cases(backward: bool) -> Vec<Case> {
    let case = |&(name, [b, h, w], [window, shift, heads, depth], bench): &Setup| {
        let op = WindowAttention { window, shift, heads, scale: (depth as f32).sqrt().recip() };
        let channels = heads * depth;
        let qkv = CaseInput::normal([b, h, w, 3 * channels]);
        let table = CaseInput::normal([(2 * window - 1).pow(2), heads]);
        let case = if backward {
            let d_out = CaseInput::normal([b, h, w, channels]);
            Case::test(name, WindowAttentionGrad(op), vec![qkv, table, d_out])
        } else {
            Case::test(name, op, vec![qkv, table])
        };
        Case { bench, ..case }
    };
    SETUPS.iter().map(case).collect()
}
