//! Registry rows and cases.

use super::{Modulate, MoeModulate, MoeModulateGrad};
use crate::ops::{Case, CaseInput, OpEntry};

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry { name: "modulate", family: "moe_modulate", about: "x·(1 + γ) + β", cases: modulate_cases },
    OpEntry {
        name: "moe_modulate",
        family: "moe_modulate",
        about: "x·(1 + Σ gₖγₖ) + Σ gₖβₖ, g a softmax over the experts of each token",
        cases: forward_cases,
    },
    OpEntry {
        name: "moe_modulate_grad",
        family: "moe_modulate",
        about: "gradients of moe_modulate: of the tokens, the logits and every γ and β",
        cases: backward_cases,
    },
];

fn modulate_cases() -> Vec<Case> {
    let operands = |x: &[usize]| vec![CaseInput::normal(x); 3];
    vec![
        Case::test("tokens", Modulate, operands(&[2, 5, 139])),
        Case::test("row", Modulate, operands(&[64])),
        Case::test("vectors", Modulate, operands(&[5, 388])),
        Case::bench("dreamclear_am_pre", Modulate, operands(&[2, 4096, 1152])),
    ]
}

/// x, logits and the experts' γ and β.
fn operands(lead: &[usize], c: usize, experts: usize) -> Vec<CaseInput> {
    let with = |last: usize| CaseInput::normal(lead.iter().copied().chain([last]).collect::<Vec<_>>());
    let mut all = vec![with(c), with(experts)];
    all.extend(vec![with(c); 2 * experts]);
    all
}

const SMALL: &[(&str, &[usize], usize, usize)] = &[
    ("three", &[2, 5], 139, 3),
    ("one", &[7], 64, 1),
    ("five", &[3, 2, 2], 18, 5),
    ("tasks", &[1, 800], 21, 2),
    ("three_vectors", &[2, 3], 132, 3),
    ("eight", &[3], 33, 8),
];

fn forward_cases() -> Vec<Case> {
    let case = |&(name, lead, c, experts): &(&'static str, &[usize], usize, usize)| {
        Case::test(name, MoeModulate { experts }, operands(lead, c, experts))
    };
    let model = Case::bench("dreamclear", MoeModulate { experts: 3 }, operands(&[2, 4096], 1152, 3));
    SMALL.iter().map(case).chain([model]).collect()
}

fn backward_cases() -> Vec<Case> {
    let case = |&(name, lead, c, experts): &(&'static str, &[usize], usize, usize)| {
        let mut operands = operands(lead, c, experts);
        operands.push(operands[0].clone());
        Case::test(name, MoeModulateGrad(MoeModulate { experts }), operands)
    };
    let model = Case { bench: true, ..case(&("dreamclear", &[2, 4096], 1152, 3)) };
    SMALL.iter().map(case).chain([model]).collect()
}
