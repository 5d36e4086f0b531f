//! `activation`: y = f(x) for every element, f one of [`Kind`].

mod cpu;
pub(super) mod cuda;
pub(super) mod reference;

pub(super) use cpu::silu_slope;

use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::strided::alike;
use crate::graph::{Cost, Gradient, GradientContext, GraphBuilder, Op, TensorType, ValueId, op::CpuCall};
use crate::tensor::DType;

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// max(x, 0)
    Relu,
    /// x, or slope·x below zero
    LeakyRelu(f32),
    /// x·Φ(x), the erf form
    Gelu,
    /// The tanh approximation of GELU
    GeluTanh,
    /// x·σ(x)
    Silu,
    /// 1/(1+e⁻ˣ)
    Sigmoid,
    /// tanh x
    Tanh,
    /// eˣ
    Exp,
    /// Natural logarithm
    Ln,
    /// √x
    Sqrt,
    /// sin x
    Sin,
    /// cos x
    Cos,
    /// |x|
    Abs,
    /// min(max(x, lo), hi)
    Clamp(f32, f32),
}

impl Kind {
    /// Operations per element as the plain formula counts them.
    pub(super) fn flops(self) -> (f64, f64) {
        match self {
            Kind::Relu | Kind::Abs | Kind::Clamp(..) => (0.0, 1.0),
            Kind::LeakyRelu(_) => (1.0, 1.0),
            Kind::Gelu => (5.0, 11.0),
            Kind::GeluTanh => (9.0, 19.0),
            Kind::Silu => (4.0, 8.0),
            Kind::Sigmoid => (3.0, 6.0),
            Kind::Tanh => (1.0, 5.0),
            Kind::Sqrt => (1.0, 3.0),
            Kind::Exp | Kind::Ln | Kind::Sin | Kind::Cos => (1.0, 2.0),
        }
    }
}

/// y = f(x). Operand: x, f32 of any shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Activation(pub Kind);

/// dx = f′(x)·dy. Operands: x, dy of equal shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActivationGrad(pub Kind);

pub(super) fn expect_f32(what: &str, t: &TensorType) -> Result<(), String> {
    if t.dtype == DType::F32 { Ok(()) } else { Err(format!("{what} must be f32, found {t}")) }
}

impl Op for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs else { return Err(format!("takes 1 operand, found {}", inputs.len())) };
        expect_f32("x", x)?;
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let dy = g.dy();
        let dx = g.b.node1(ActivationGrad(self.0), &[g.inputs[0], dy])?;
        Ok(Gradient::Inputs(vec![Some(dx)]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(self.0.flops().0 * inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self.0, call);
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        input == 0
    }

    fn cuda_storage(&self, _: &[&TensorType], _: &[&TensorType], kept: &[DType], _: DType) -> Storage {
        alike(kept, 1)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        Ok(cuda::forward(self.0, call))
    }

    fn cuda_in_place(&self, input: usize) -> bool {
        input == 0
    }
}

impl Op for ActivationGrad {
    fn name(&self) -> &'static str {
        "activation_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, dy] = inputs else { return Err(format!("takes 2 operands, found {}", inputs.len())) };
        expect_f32("x", x)?;
        if x != dy {
            return Err(format!("dy must be like x: {x}, found {dy}"));
        }
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable("second derivatives of activations are not provided"))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(self.0.flops().1 * inputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::backward(self.0, call);
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        input == 1
    }

    fn cuda_storage(&self, _: &[&TensorType], _: &[&TensorType], kept: &[DType], _: DType) -> Storage {
        alike(kept, 1)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        Ok(cuda::backward(self.0, call))
    }

    fn cuda_in_place(&self, input: usize) -> bool {
        input == 1
    }
}

/// One builder method per function, all alike but for the name.
macro_rules! builder_methods {
    ($($(#[$doc:meta])* $method:ident ( $($arg:ident : $t:ty),* ) = $kind:expr;)*) => {
        impl GraphBuilder {
            $($(#[$doc])*
            pub fn $method(&mut self, x: ValueId $(, $arg: $t)*) -> Result<ValueId> {
                self.node1(Activation($kind), &[x])
            })*
        }
    };
}
builder_methods! {
    /// max(x, 0)
    relu() = Kind::Relu;
    /// x, or slope·x below zero
    leaky_relu(slope: f32) = Kind::LeakyRelu(slope);
    /// x·Φ(x), the erf form
    gelu() = Kind::Gelu;
    /// The tanh approximation of GELU
    gelu_tanh() = Kind::GeluTanh;
    /// x·σ(x)
    silu() = Kind::Silu;
    /// 1/(1+e⁻ˣ)
    sigmoid() = Kind::Sigmoid;
    /// tanh x
    tanh() = Kind::Tanh;
    /// eˣ
    exp() = Kind::Exp;
    /// Natural logarithm
    ln() = Kind::Ln;
    /// √x
    sqrt() = Kind::Sqrt;
    /// sin x
    sin() = Kind::Sin;
    /// cos x
    cos() = Kind::Cos;
    /// |x|
    abs() = Kind::Abs;
    /// min(max(x, lo), hi)
    clamp(lo: f32, hi: f32) = Kind::Clamp(lo, hi);
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "activation",
        family: "activation",
        about: "elementwise functions: relu, leaky relu, gelu (erf and tanh), silu, sigmoid, tanh, exp …",
        cases: forward_cases,
    },
    OpEntry {
        name: "activation_grad",
        family: "activation",
        about: "gradient of an elementwise function: f'(x)·dy",
        cases: backward_cases,
    },
];

const KINDS: &[(&str, Kind)] = &[
    ("relu", Kind::Relu),
    ("leaky_relu", Kind::LeakyRelu(0.2)),
    ("gelu", Kind::Gelu),
    ("gelu_tanh", Kind::GeluTanh),
    ("silu", Kind::Silu),
    ("sigmoid", Kind::Sigmoid),
    ("tanh", Kind::Tanh),
    ("exp", Kind::Exp),
    ("ln", Kind::Ln),
    ("sqrt", Kind::Sqrt),
    ("sin", Kind::Sin),
    ("cos", Kind::Cos),
    ("abs", Kind::Abs),
    ("clamp", Kind::Clamp(-0.5, 0.75)),
];

/// An operand in the function's domain.
fn operand(kind: Kind, shape: &[usize]) -> CaseInput {
    match kind {
        Kind::Ln | Kind::Sqrt => CaseInput::uniform(shape, 0.1, 4.0),
        _ => CaseInput::uniform(shape, -4.0, 4.0),
    }
}

fn forward_cases() -> Vec<Case> {
    let small = KINDS.iter().map(|&(name, k)| Case::test(name, Activation(k), vec![operand(k, &[3, 7, 11])]));
    // More than a block, with a last vector that is not whole.
    let blocks = Case::test("two_blocks", Activation(Kind::GeluTanh), vec![CaseInput::normal([2051])]);
    let mlp = [4096, 4608];
    let model = [
        Case::bench("pixart_mlp_gelu_tanh", Activation(Kind::GeluTanh), vec![CaseInput::normal(mlp)]),
        Case::bench("swinir_mlp_gelu", Activation(Kind::Gelu), vec![CaseInput::normal([4096, 360])]),
        Case::bench("vae_silu", Activation(Kind::Silu), vec![CaseInput::normal([512, 512, 128])]),
    ];
    small.chain([blocks]).chain(model).collect()
}

fn backward_cases() -> Vec<Case> {
    let case = |&(name, k): &(&'static str, Kind)| {
        Case::test(name, ActivationGrad(k), vec![operand(k, &[5, 13]), CaseInput::normal([5, 13])])
    };
    KINDS.iter().map(case).collect()
}
