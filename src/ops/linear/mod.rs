//! `linear`: y = x·Wᵀ + b over the last axis, with an optional epilogue.

mod cpu;
pub(super) mod cuda;
mod reference;

use super::activation::{Kind, expect_f32};
use super::epilogue::{Epilogue, FUSED};
use super::rows::{PerSample, expect_per_sample};
use super::weight::expect_weight;
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::device::library::LibraryCall;
use crate::error::Result;
use crate::ffi::RowNorms;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// Operands: x `[…, K]`, W `[N, K]` (f32, bf16 or f16; everything else f32), then b `[N]` if `bias`, then the epilogue's: a
/// gate `[B or 1, 1, N]` (x is `[B, M, K]` then), whose last axis is dense, and a residual `[…, N]`. Result:
/// `[…, N]`, in the place of the residual where that dies: each element is read just before it is written.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Linear {
    /// Whether there is a bias operand.
    pub bias: bool,
    /// What happens to the result in registers.
    pub epilogue: Epilogue,
}

impl Linear {
    /// Number of operands.
    pub(super) fn arity(&self) -> usize {
        2 + usize::from(self.bias) + self.epilogue.arity()
    }

    /// Which operand is the gate.
    fn gate(&self) -> Option<usize> {
        self.epilogue.gate.then(|| 2 + usize::from(self.bias))
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        if inputs.len() != self.arity() {
            return Err(format!("takes {} operands, found {}", self.arity(), inputs.len()));
        }
        expect_f32("x", inputs[0])?;
        expect_weight("the weight", inputs[1])?;
        for t in &inputs[2..] {
            expect_f32("the bias, the gate or the residual", t)?;
        }
        let (x, w) = (inputs[0], inputs[1]);
        let [n, k] = w.shape[..] else { return Err(format!("the weight must be [out, in], found {w}")) };
        if x.shape.last() != Some(&k) {
            return Err(format!("x has {} features, the weight {w} takes {k}", x.last()));
        }
        if self.bias && inputs[2].shape != [n] {
            return Err(format!("the bias must be [{n}], found {}", inputs[2]));
        }
        let mut shape = x.shape.clone();
        *shape.last_mut().expect("has a last axis") = n;
        let out = TensorType::f32(shape);
        if let Some(i) = self.gate() {
            expect_per_sample("the gate", inputs[i], &out)?;
        }
        self.epilogue.check(inputs.last(), &out)?;
        Ok(vec![out])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        if !self.epilogue.is_identity() {
            return Ok(Gradient::NotDifferentiable(FUSED));
        }
        let (dy, b) = (g.dy(), &mut *g.b);
        let (x, w) = (g.inputs[0], g.inputs[1]);
        let [n, k] = b.dims(w, "linear")?;
        let rows = b.ty(x).len() / k;
        let dy2 = b.reshape(dy, [rows, n])?;
        let mut d = vec![None; g.inputs.len()];
        if g.wanted[0] {
            let dx = b.matmul(dy2, w, false, false)?;
            let shape = b.shape(x).to_vec();
            d[0] = Some(b.reshape(dx, shape)?);
        }
        if g.wanted[1] {
            let x2 = b.reshape(x, [rows, k])?;
            d[1] = Some(b.matmul(dy2, x2, true, false)?);
        }
        if self.bias && g.wanted[2] {
            d[2] = Some(b.sum_to(dy2, &[n])?);
        }
        Ok(Gradient::Inputs(d))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let per_result = 2.0 * inputs[1].shape[1] as f64 + f64::from(self.bias) + self.epilogue.flops();
        Cost::dense(per_result * outputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self, call);
        Ok(())
    }

    fn cuda_storage(
        &self,
        inputs: &[&TensorType],
        _outputs: &[&TensorType],
        kept: &[DType],
        compute: DType,
    ) -> Storage {
        cuda::storage(self, inputs, kept, compute)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call, RowNorms::default())
    }

    fn cuda_also(&self, inputs: &[&TensorType], outputs: &[&TensorType], also: DType) -> bool {
        inputs[0].dtype == also && outputs[0].dtype == DType::F32 && cuda::in_tiles(inputs)
    }

    fn cuda_library(&self, call: &CudaCall) -> Option<LibraryCall> {
        let only = call.outputs.len() == 1; // not in another element type as well
        let product = || cuda::product(self, call, RowNorms::default());
        only.then(product)?.library(&self.epilogue, self.bias.then_some(2))
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        cuda::scratch(inputs)
    }

    fn cuda_in_place(&self, input: usize) -> bool {
        self.in_place(input)
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        match input {
            0 => layout.as_rows().is_some(),
            _ if Some(input) == self.gate() => PerSample::accepts(layout),
            _ => layout.is_dense(),
        }
    }

    fn in_place(&self, input: usize) -> bool {
        self.epilogue.residual && input == self.arity() - 1
    }
}

impl GraphBuilder {
    /// x·Wᵀ + bias over the last axis; `weight` is `[out, in]`, in f32, bf16 or f16.
    pub fn linear(&mut self, x: ValueId, weight: ValueId, bias: Option<ValueId>) -> Result<ValueId> {
        let op = Linear { bias: bias.is_some(), ..Linear::default() };
        let inputs: Vec<_> = [x, weight].into_iter().chain(bias).collect();
        self.node1(op, &inputs)
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[OpEntry {
    name: "linear",
    family: "linear",
    about: "x·Wᵀ + b with activation, factor, gate and residual in the epilogue",
    cases,
}];

fn case(name: &'static str, rows: &[usize], k: usize, n: usize, epilogue: Epilogue, bench: bool) -> Case {
    let lead = |c: usize| rows.iter().copied().chain([c]).collect::<Vec<_>>();
    let weight = CaseInput::uniform([n, k], -(k as f64).powf(-0.5), (k as f64).powf(-0.5));
    let mut inputs = vec![CaseInput::normal(lead(k)), weight, CaseInput::normal([n])];
    if epilogue.gate {
        inputs.push(CaseInput::normal([rows[0], 1, n]));
    }
    if epilogue.residual {
        inputs.push(CaseInput::normal(lead(n)));
    }
    let op = Linear { bias: true, epilogue };
    if bench { Case::bench(name, op, inputs) } else { Case::test(name, op, inputs) }
}

fn cases() -> Vec<Case> {
    let plain = Epilogue::default();
    let act = |kind| Epilogue { act: Some(kind), ..plain };
    let residual = Epilogue { residual: true, ..plain };
    let no_bias = Case::test(
        "no_bias",
        Linear::default(),
        vec![CaseInput::normal([3, 5, 17]), CaseInput::normal([9, 17])],
    );
    let half = |name, dtype| {
        let mut case = case(name, &[13], 72, 45, act(Kind::Silu), false);
        case.inputs[1] = case.inputs[1].clone().stored_as(dtype);
        case
    };
    let gated = Epilogue { gate: true, ..residual };
    let mut shared_gate = case("shared_gate", &[2, 35], 40, 40, Epilogue { alpha: 0.5, ..gated }, false);
    shared_gate.inputs[3] = CaseInput::normal([1, 1, 40]);
    vec![
        no_bias,
        shared_gate,
        case("gated", &[3, 43], 24, 136, gated, false),
        case("gated_odd", &[3, 7], 19, 45, Epilogue { act: Some(Kind::Silu), ..gated }, false),
        case("gated_rows", &[2, 3], 72, 40, gated, false),
        case("gated_split_k", &[3, 6], 1100, 12, gated, false),
        case("gate_alone", &[2, 9], 33, 20, Epilogue { gate: true, ..plain }, false),
        half("bf16_weight", DType::BF16),
        half("f16_weight", DType::F16),
        case("odd", &[13], 31, 45, plain, false),
        case("one_row", &[1], 70, 33, plain, false),
        case("wide", &[2, 7], 180, 540, plain, false),
        case("gelu", &[29], 20, 40, act(Kind::Gelu), false),
        case("residual", &[3, 11], 16, 64, residual, false),
        case("scaled_residual", &[25], 40, 7, Epilogue { alpha: 0.2, ..residual }, false),
        case("tile_edges", &[65], 96, 72, act(Kind::GeluTanh), false),
        case("rows_of_8_bytes", &[3, 11], 180, 36, residual, false),
        case("split_k", &[17], 1100, 9, Epilogue { act: Some(Kind::Silu), ..residual }, false),
        case("pixart_mlp_fc1", &[4096], 1152, 4608, plain, true),
        case("pixart_mlp_fc2", &[4096], 4608, 1152, plain, true),
        case("pixart_qkv", &[4096], 1152, 3456, plain, true),
        case("pixart_proj_gated", &[2, 4096], 1152, 1152, gated, true),
        case("swinir_qkv", &[4096], 180, 540, plain, true),
        case("swinir_fc1_gelu", &[4096], 180, 360, act(Kind::Gelu), true),
        case("t5_wi", &[120], 4096, 10240, plain, true),
    ]
}
