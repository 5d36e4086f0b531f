//! Fast path: chunks over threads, one vectorised loop per function.

use rayon::prelude::*;

use super::Kind;
use super::reference;
use crate::device::cpu::math;
use crate::device::cpu::simd::{Level, simd_fn};
use crate::graph::op::CpuCall;
use crate::ops::rows::CHUNK;

/// One function with its derivative. A trait, not a closure: its methods are sure to be inlined
/// into the loop that is compiled for wide vectors.
trait Function: Copy + Sync {
    fn value(self, x: f32) -> f32;
    fn slope(self, x: f32) -> f32;
}

simd_fn! {
    fn map<F: Function>(f: F, y: &mut [f32]) {
        y.iter_mut().for_each(|y| *y = f.value(*y));
    }

    fn multiply_by_slope<F: Function>(f: F, dx: &mut [f32], x: &[f32]) {
        // A loop, not `for_each`: the compiler left that in a function of its own, compiled for narrow vectors.
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx *= f.slope(x);
        }
    }
}

/// A [`Function`] per line; `self` gives the fields.
macro_rules! functions {
    ($($name:ident ($($field:ident),*): |$x:ident| $value:expr, $slope:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name { $($field: f32),* }

        impl Function for $name {
            #[inline(always)]
            fn value(self, $x: f32) -> f32 {
                let $name { $($field),* } = self;
                $value
            }
            #[inline(always)]
            fn slope(self, $x: f32) -> f32 {
                let $name { $($field),* } = self;
                $slope
            }
        }
    )*};
}
functions! {
    Relu(): |x| reference::value(Kind::Relu, x), reference::slope(Kind::Relu, x);
    LeakyRelu(a): |x| if x < 0.0 { a * x } else { x }, if x > 0.0 { 1.0 } else { a };
    Gelu(): |x| math::gelu_erf(x), gelu_slope(x);
    GeluTanh(): |x| math::gelu_tanh(x), gelu_tanh_slope(x);
    Silu(): |x| math::silu(x), silu_slope(x);
    Sigmoid(): |x| math::sigmoid(x), math::sigmoid(x) * (1.0 - math::sigmoid(x));
    Tanh(): |x| math::tanh(x), 1.0 - math::tanh(x) * math::tanh(x);
    Exp(): |x| math::exp(x), math::exp(x);
    Ln(): |x| x.ln(), 1.0 / x;
    Sqrt(): |x| x.sqrt(), 0.5 / x.sqrt();
    Sin(): |x| x.sin(), x.cos();
    Cos(): |x| x.cos(), -x.sin();
    Abs(): |x| x.abs(), reference::slope(Kind::Abs, x);
    Clamp(lo, hi): |x| limit(x, lo, hi), if x < lo || x > hi { 0.0 } else { 1.0 };
}

#[inline(always)]
fn limit(x: f32, lo: f32, hi: f32) -> f32 {
    let x = if x < lo { lo } else { x };
    if x > hi { hi } else { x }
}

/// Φ(x) + x·φ(x), both from one exponential.
#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    const DENSITY_AT_0: f32 = 0.398_942_3; // 1/√(2π)
    let (below, bell) = math::normal_cdf(x);
    below + limit(x, -15.0, 15.0) * DENSITY_AT_0 * bell
}

/// With s = σ(2u): s + x·s·(1 − s)·2u′, the same as the tanh form.
#[inline(always)]
fn gelu_tanh_slope(x: f32) -> f32 {
    const TWICE: f32 = 1.595_769_2; // 2·√(2/π)
    let y = limit(x, -15.0, 15.0); // beyond, the slope is 0 or 1 and the cube would overflow
    let s = math::sigmoid(TWICE * (y + 0.044_715 * y * y * y));
    s + y * s * (1.0 - s) * TWICE * (1.0 + 3.0 * 0.044_715 * y * y)
}

#[inline(always)]
pub(in crate::ops) fn silu_slope(x: f32) -> f32 {
    let s = math::sigmoid(x);
    // Far out x·(1 − s) would be ∞·0; the slope is flat there.
    s * (1.0 + limit(x, -120.0, 120.0) * (1.0 - s))
}

/// Runs `$do` with `$f` bound to the function that `$kind` names.
macro_rules! with_function {
    ($kind:expr, |$f:ident| $do:expr) => {
        match $kind {
            Kind::Relu => with_function!(@ $f = Relu {}, $do),
            Kind::LeakyRelu(a) => with_function!(@ $f = LeakyRelu { a }, $do),
            Kind::Gelu => with_function!(@ $f = Gelu {}, $do),
            Kind::GeluTanh => with_function!(@ $f = GeluTanh {}, $do),
            Kind::Silu => with_function!(@ $f = Silu {}, $do),
            Kind::Sigmoid => with_function!(@ $f = Sigmoid {}, $do),
            Kind::Tanh => with_function!(@ $f = Tanh {}, $do),
            Kind::Exp => with_function!(@ $f = Exp {}, $do),
            Kind::Ln => with_function!(@ $f = Ln {}, $do),
            Kind::Sqrt => with_function!(@ $f = Sqrt {}, $do),
            Kind::Sin => with_function!(@ $f = Sin {}, $do),
            Kind::Cos => with_function!(@ $f = Cos {}, $do),
            Kind::Abs => with_function!(@ $f = Abs {}, $do),
            Kind::Clamp(lo, hi) => with_function!(@ $f = Clamp { lo, hi }, $do),
        }
    };
    (@ $f:ident = $value:expr, $do:expr) => {{
        let $f = $value;
        $do
    }};
}

pub(super) fn forward(kind: Kind, mut call: CpuCall) {
    let y = call.outputs[0].f32();
    let x = if call.inputs[0].in_output() { None } else { Some(call.inputs[0].f32()) };
    let level = Level::best();
    y.par_chunks_mut(CHUNK).enumerate().for_each(|(i, y)| {
        if let Some(x) = x {
            y.copy_from_slice(&x[i * CHUNK..][..y.len()]); // a chunk stays in the cache
        }
        with_function!(kind, |f| map(level, f, y));
    });
}

pub(super) fn backward(kind: Kind, mut call: CpuCall) {
    let dx = call.outputs[0].f32();
    let dy = if call.inputs[1].in_output() { None } else { Some(call.inputs[1].f32()) };
    let x = call.inputs[0].f32();
    let level = Level::best();
    dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(i, (dx, x))| {
        if let Some(dy) = dy {
            dx.copy_from_slice(&dy[i * CHUNK..][..dx.len()]);
        }
        with_function!(kind, |f| multiply_by_slope(level, f, dx, x));
    });
}
