//! What a GEMM or convolution does to its result while it is still in registers.

use super::activation::{self, Kind};
use crate::device::cpu::gemm::{self, Activation, Residual};
use crate::device::cpu::math;
use crate::device::library;
use crate::ffi;
use crate::graph::cuda::CudaOperand;
use crate::graph::op::Operand;
use crate::graph::{Real, TensorType};

/// y = gate·alpha·act(x) + residual. Recorded by fusion rules only, after differentiation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epilogue {
    /// Elementwise function.
    pub act: Option<Kind>,
    /// Factor.
    pub alpha: f32,
    /// Whether an operand in front of the residual, a vector of each sample or of all, is multiplied:
    /// f32, `[B or 1, 1, C]` for a result `[B, N, C]`. Only `linear` takes one.
    pub gate: bool,
    /// Whether the last operand, of the result's type, is added.
    pub residual: bool,
}

impl Default for Epilogue {
    fn default() -> Self {
        Epilogue { act: None, alpha: 1.0, gate: false, residual: false }
    }
}

impl Epilogue {
    /// Whether it does nothing.
    pub fn is_identity(&self) -> bool {
        *self == Self::default()
    }

    /// Operands that it adds to those of the op.
    pub fn arity(&self) -> usize {
        usize::from(self.gate) + usize::from(self.residual)
    }

    /// One element; without a gate or residual what is given in its place is not looked at.
    pub fn apply<T: Real>(&self, x: T, gate: T, residual: T) -> T {
        let x = self.act.map_or(x, |kind| activation::reference::value(kind, x));
        let x = if self.alpha == 1.0 { x } else { T::of(self.alpha as f64) * x };
        let x = if self.gate { gate * x } else { x };
        if self.residual { x + residual } else { x }
    }

    /// The same for the CPU's GEMM and convolution, with `n` columns and these operands, but for the gate.
    pub(super) fn on_cpu<'a>(
        &self,
        bias: Option<&'a [f32]>,
        residual: Option<&Operand<'a>>,
        n: usize,
    ) -> gemm::Epilogue<'a> {
        let activation = match self.act {
            None => Activation::Identity,
            Some(Kind::Relu) => Activation::Relu,
            Some(Kind::LeakyRelu(slope)) => Activation::LeakyRelu(slope),
            Some(Kind::Gelu) => Activation::GeluErf,
            Some(Kind::GeluTanh) => Activation::GeluTanh,
            Some(Kind::Silu) => Activation::Silu,
            Some(Kind::Sigmoid) => Activation::Sigmoid,
            Some(Kind::Tanh) => Activation::Tanh,
            Some(Kind::Clamp(lo, hi)) => Activation::Clamp(lo, hi),
            Some(Kind::Exp) => Activation::Function(math::exp),
            Some(Kind::Ln) => Activation::Function(f32::ln),
            Some(Kind::Sqrt) => Activation::Function(f32::sqrt),
            Some(Kind::Sin) => Activation::Function(f32::sin),
            Some(Kind::Cos) => Activation::Function(f32::cos),
            Some(Kind::Abs) => Activation::Function(f32::abs),
        };
        let residual = match residual {
            Some(r) if self.residual && r.in_output() => Residual::Output,
            Some(r) if self.residual => Residual::Matrix(r.f32(), n),
            _ => Residual::None,
        };
        gemm::Epilogue { bias, activation, alpha: self.alpha, gate: None, residual }
    }

    /// The same for kernels (`cuda/include/epilogue.cuh`), with these operands: a bias in f32, a dense
    /// residual like the result, but for the gate.
    pub(super) fn on_cuda(
        &self,
        bias: Option<&CudaOperand>,
        residual: Option<&CudaOperand>,
    ) -> ffi::Epilogue {
        let (act, act_a, act_b) =
            self.act.map_or((ffi::ACTIVATION_NONE as i32, 0.0, 0.0), activation::cuda::code);
        let residual = residual.filter(|_| self.residual);
        ffi::Epilogue {
            bias: bias.map_or(0, |b| b.address),
            residual: residual.map_or(0, |r| r.address),
            gate: 0,
            gate_step: 0,
            twin: 0,
            alpha: self.alpha,
            act,
            act_a,
            act_b,
            gate_rows: 0,
            reserved: 0,
        }
    }

    /// The activation as libraries know it; `None` if they do not, or if there is a gate.
    pub(super) fn on_library(&self) -> Option<Option<library::Activation>> {
        use library::Activation as A;
        if self.gate {
            return None;
        }
        let Some(kind) = self.act else { return Some(None) };
        match kind {
            Kind::Relu => Some(Some(A::Relu)),
            Kind::LeakyRelu(slope) => Some(Some(A::LeakyRelu(slope))),
            Kind::Gelu => Some(Some(A::Gelu)),
            Kind::GeluTanh => Some(Some(A::GeluTanh)),
            Kind::Silu => Some(Some(A::Silu)),
            Kind::Sigmoid => Some(Some(A::Sigmoid)),
            Kind::Tanh => Some(Some(A::Tanh)),
            Kind::Clamp(..) | Kind::Exp | Kind::Ln | Kind::Sqrt | Kind::Sin | Kind::Cos | Kind::Abs => None,
        }
    }

    /// Operations per element.
    pub fn flops(&self) -> f64 {
        let act = self.act.map_or(0.0, |k| k.flops().0);
        act + f64::from(self.alpha != 1.0) + self.arity() as f64
    }

    /// Refuses a residual that is not like the result.
    pub(super) fn check(&self, residual: Option<&&TensorType>, out: &TensorType) -> Result<(), String> {
        match residual {
            Some(r) if self.residual && **r != *out => Err(format!("the residual must be {out}, found {r}")),
            _ => Ok(()),
        }
    }
}

/// Why a node with an epilogue has no gradient rule.
pub(super) const FUSED: &str = "fused forms appear only after differentiation; differentiate the plain graph";
