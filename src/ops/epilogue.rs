//! What a GEMM or convolution does to its result while it is still in registers.

use super::activation::{self, Kind};
use crate::graph::{Real, TensorType};

/// y = alpha·act(x) + residual. Recorded by fusion rules only, after differentiation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epilogue {
    /// Elementwise function.
    pub act: Option<Kind>,
    /// Factor.
    pub alpha: f32,
    /// Whether the last operand, of the result's type, is added.
    pub residual: bool,
}

impl Default for Epilogue {
    fn default() -> Self {
        Epilogue { act: None, alpha: 1.0, residual: false }
    }
}

impl Epilogue {
    /// Whether it does nothing.
    pub fn is_identity(&self) -> bool {
        *self == Self::default()
    }

    /// One element; `residual` is 0 where there is none.
    pub fn apply<T: Real>(&self, x: T, residual: T) -> T {
        let x = self.act.map_or(x, |kind| activation::reference::value(kind, x));
        let x = if self.alpha == 1.0 { x } else { T::of(self.alpha as f64) * x };
        if self.residual { x + residual } else { x }
    }

    /// Operations per element.
    pub fn flops(&self) -> f64 {
        let act = self.act.map_or(0.0, |k| k.flops().0);
        act + f64::from(self.alpha != 1.0) + f64::from(self.residual)
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
