//! `linear_modulate`: tokens scaled and shifted by what linear layers make of other tokens: a `modulate` or
//! `moe_modulate` with the layers in front of it. On a CUDA device one product, and no γ or β in memory.

pub(super) mod cuda;
mod reference;

use super::activation::expect_f32;
use super::case::to_host;
use super::epilogue::FUSED;
use super::linear::Linear;
use super::moe_modulate::{Modulate, MoeModulate};
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::op::{CpuCall, Operand, OperandData, Output};
use crate::graph::{Array, Cost, Gradient, GradientContext, Layout, Op, TensorType};
use crate::tensor::DType;

/// Operands of an expert: h, W_γ, b_γ, W_β, b_β.
const EXPERT: usize = 5;

/// y = x·(1 + γ) + β with γ = Σ gₖ·(hₖ·W_γₖᵀ + b_γₖ), β likewise. Operands: x `[…, C]`; if `routed` logits `[…, K]`,
/// of which g is the softmax (else K = 1 and g = 1); then for each expert h `[…, H]`, W_γ `[C, H]` (f32, bf16 or f16;
/// everything else f32), b_γ `[C]`, W_β and b_β. Result like x, in its place where it dies. Recorded by a fusion
/// rule only, after differentiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearModulate {
    /// K
    pub experts: usize,
    /// Whether each token has weights of its own for the experts.
    pub routed: bool,
}

impl LinearModulate {
    /// Where the experts' operands begin.
    fn first(&self) -> usize {
        1 + usize::from(self.routed)
    }

    /// How many operands there are.
    pub(super) fn arity(&self) -> usize {
        self.first() + EXPERT * self.experts
    }

    /// One layer.
    fn layer() -> Linear {
        Linear { bias: true, ..Linear::default() }
    }

    /// What follows the layers: x, the logits, every γ, then every β.
    fn modulation(&self) -> Box<dyn Op> {
        if self.routed { Box::new(MoeModulate { experts: self.experts }) } else { Box::new(Modulate) }
    }

    /// Operands of the layers, (h, W, b) each: of every γ, then of every β.
    fn layers<'a, T>(&self, inputs: &'a [T]) -> Vec<[&'a T; 3]> {
        let experts = || inputs[self.first()..].chunks(EXPERT);
        let gammas = experts().map(|e| [&e[0], &e[1], &e[2]]);
        gammas.chain(experts().map(|e| [&e[0], &e[3], &e[4]])).collect()
    }
}

/// The same operand for another op.
fn again<'a>(o: &Operand<'a>) -> Operand<'a> {
    Operand { ty: o.ty, layout: o.layout, data: o.data }
}

impl Op for LinearModulate {
    fn name(&self) -> &'static str {
        "linear_modulate"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        if self.experts == 0 || (!self.routed && self.experts != 1) {
            return Err(format!("{} experts without weights: expected 1", self.experts));
        }
        if inputs.len() != self.arity() {
            return Err(format!("takes {} operands, found {}", self.arity(), inputs.len()));
        }
        expect_f32("x", inputs[0])?;
        let mut made = Vec::new();
        for [&h, &w, &b] in self.layers(inputs) {
            made.extend(Self::layer().infer(&[h, w, b])?);
        }
        let operands: Vec<_> = inputs[..self.first()].iter().copied().chain(&made).collect();
        self.modulation().infer(&operands)
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable(FUSED))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let layers = self.layers(inputs);
        let products: f64 =
            layers.iter().map(|&[&h, &w, &b]| Self::layer().cost(&[h, w, b], &[inputs[0]]).flops).sum();
        let pairs = vec![inputs[0]; layers.len()];
        let operands = [&inputs[..self.first()], &pairs[..]].concat();
        Cost::dense(products + self.modulation().cost(&operands, outputs).flops, inputs, outputs)
    }

    /// Layer by layer, then the modulation.
    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        let CpuCall { inputs, outputs, scratch } = call;
        let ty = outputs[0].ty;
        let dense = Layout::dense(&ty.shape);
        if ty.is_empty() {
            return Ok(());
        }
        let made = &mut scratch[..2 * self.experts * ty.bytes()];
        for ([h, w, b], data) in self.layers(&inputs).into_iter().zip(made.chunks_exact_mut(ty.bytes())) {
            let inputs = vec![again(h), again(w), again(b)];
            Self::layer().cpu(CpuCall { inputs, outputs: vec![Output { ty, data }], scratch: &mut [] })?;
        }
        let pairs = made.chunks_exact(ty.bytes());
        let pairs = pairs.map(|data| Operand { ty, layout: &dense, data: OperandData::Apart(data) });
        let inputs = inputs.into_iter().take(self.first()).chain(pairs).collect();
        self.modulation().cpu(CpuCall { inputs, outputs, scratch: &mut [] })
    }

    fn cpu_scratch(&self, _: &[&TensorType], outputs: &[&TensorType], _: usize) -> usize {
        2 * self.experts * outputs[0].bytes()
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        match input.checked_sub(self.first()) {
            None => self.modulation().accepts(input, layout),
            Some(i) if i % EXPERT == 0 => Self::layer().accepts(0, layout),
            Some(_) => layout.is_dense(),
        }
    }

    fn in_place(&self, input: usize) -> bool {
        input == 0
    }

    fn cuda_storage(
        &self,
        inputs: &[&TensorType],
        _outputs: &[&TensorType],
        kept: &[DType],
        compute: DType,
    ) -> Storage {
        cuda::storage(self, inputs.len(), kept, compute)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call, Default::default())
    }

    fn cuda_also(&self, inputs: &[&TensorType], _: &[&TensorType], also: DType) -> bool {
        cuda::in_tiles(self, inputs) && inputs[self.first()].dtype == also
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
        cuda::scratch(self, inputs, outputs)
    }

    fn cuda_accepts(&self, input: usize, layout: &Layout) -> bool {
        if input == 0 { layout.is_dense() } else { self.accepts(input, layout) }
    }

    fn cuda_in_place(&self, input: usize) -> bool {
        input == 0
    }

    /// An unfused program stores every γ and β.
    fn naive_in(&self, inputs: &[Array<f64>], dtype: DType) -> Option<Vec<Array<f64>>> {
        Some(reference::eval(self, inputs, |made| Array::from_host(&to_host(&made, dtype))))
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[OpEntry {
    name: "linear_modulate",
    family: "linear_modulate",
    about: "x·(1 + γ) + β, one pair or a mixture, with the linear layers that make γ and β",
    cases,
}];

/// Operands: x `[…, C]` over `rows`, h of width `k`.
pub(super) fn case_inputs(
    rows: &[usize],
    c: usize,
    k: usize,
    experts: usize,
    routed: bool,
) -> Vec<CaseInput> {
    let tokens = |width: usize| CaseInput::normal(rows.iter().copied().chain([width]).collect::<Vec<_>>());
    let limit = (k as f64).powf(-0.5);
    let mut inputs = vec![tokens(c)];
    inputs.extend(routed.then(|| tokens(experts)));
    for _ in 0..experts {
        inputs.push(tokens(k));
        for _ in 0..2 {
            inputs.extend([CaseInput::uniform([c, k], -limit, limit), CaseInput::normal([c])]);
        }
    }
    inputs
}

fn cases() -> Vec<Case> {
    let case = |name, rows: &[usize], [c, k]: [usize; 2], experts: usize, routed: bool| {
        Case::test(name, LinearModulate { experts, routed }, case_inputs(rows, c, k, experts, routed))
    };
    // One expert far ahead of the others: weights that are held above zero.
    let mut far = case("far_apart", &[2, 9], [24, 40], 3, true);
    far.inputs[1] = CaseInput::uniform([2, 9, 3], -90.0, 90.0);
    let mut half = case("bf16_weights", &[13], [36, 24], 2, true);
    for i in [3, 5, 8, 10] {
        half.inputs[i] = half.inputs[i].clone().stored_as(DType::BF16);
    }
    let model = |name, k: usize, experts, routed| Case {
        bench: true,
        ..case(name, &[2, 4096], [1152, k], experts, routed)
    };
    vec![
        case("one", &[2, 5], [40, 17], 1, false),
        case("odd", &[3, 7], [19, 31], 3, true),
        case("two_tiles", &[70], [44, 72], 3, true),
        case("eight", &[11], [12, 8], 8, true),
        case("routed_alone", &[9], [16, 32], 1, true),
        far,
        half,
        model("dreamclear_am_pre", 576, 1, false),
        model("dreamclear_am_lq", 576, 3, true),
    ]
}
