//! `max_pool`: the largest value of each square window of channels-last images, as in `torch.nn.MaxPool2d`, and its
//! gradient.

mod cpu;
mod cuda;
mod reference;

use super::activation::expect_f32;
use super::{Case, CaseInput, Fill, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::strided::alike;
use crate::graph::{Cost, Gradient, GradientContext, GraphBuilder, Op, TensorType, ValueId, op::CpuCall};
use crate::tensor::DType;

/// Operand: x, f32 `[B, H, W, C]`. Result: `[B, H′, W′, C]`, the largest value of each window; NaN if one is NaN.
/// What a window covers beyond the picture does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool {
    /// Rows and columns of a window.
    pub size: usize,
    /// Pixels between windows.
    pub stride: usize,
    /// Pixels by which the first window stands out; at most half a window.
    pub pad: usize,
}

/// dy goes to the first (row by row) of the largest values in its window. Operands: x, dy; result: dx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPoolGrad(pub MaxPool);

impl MaxPool {
    /// Windows along an axis of extent `n`.
    fn windows(&self, n: usize) -> Option<usize> {
        Some((n + 2 * self.pad).checked_sub(self.size)? / self.stride + 1)
    }

    /// The indices that window `o` covers along an axis of extent `n`.
    fn covered(&self, o: usize, n: usize) -> std::ops::Range<usize> {
        let start = o * self.stride;
        start.saturating_sub(self.pad)..(start + self.size - self.pad).min(n)
    }

    /// The windows, of `windows`, that cover index `i`.
    fn covering(&self, i: usize, windows: usize) -> std::ops::Range<usize> {
        let reach = (i + self.pad + 1).saturating_sub(self.size);
        reach.div_ceil(self.stride)..((i + self.pad) / self.stride + 1).min(windows)
    }

    fn infer_of(&self, x: &TensorType) -> Result<TensorType, String> {
        expect_f32("x", x)?;
        let MaxPool { size, stride, pad } = *self;
        if stride == 0 || size == 0 || 2 * pad > size {
            return Err(format!(
                "expected a window and a stride of at least 1 and padding of at most half a window, found {size}, \
                 {stride} and {pad}"
            ));
        }
        let [b, h, w, c] = x.shape[..] else { return Err(format!("x must be [B, H, W, C], found {x}")) };
        match (self.windows(h), self.windows(w)) {
            (Some(rows), Some(columns)) if h * w > 0 => Ok(TensorType::f32([b, rows, columns, c])),
            _ => Err(format!("a window of {size}×{size} with padding {pad} does not fit {h}×{w} pixels")),
        }
    }
}

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = inputs else { return Err(format!("takes 1 operand, found {}", inputs.len())) };
        Ok(vec![self.infer_of(x)?])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let operands = [g.inputs[0], g.dy()];
        let dx = g.b.node1(MaxPoolGrad(*self), &operands)?;
        Ok(Gradient::Inputs(vec![Some(dx)]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(0.0, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self, call);
        Ok(())
    }

    fn cuda_storage(&self, _: &[&TensorType], _: &[&TensorType], kept: &[DType], _: DType) -> Storage {
        alike(kept, 1)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call)
    }
}

impl Op for MaxPoolGrad {
    fn name(&self) -> &'static str {
        "max_pool_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, dy] = inputs else { return Err(format!("takes 2 operands, found {}", inputs.len())) };
        let y = self.0.infer_of(x)?;
        if **dy != y {
            return Err(format!("dy must be {y}, found {dy}"));
        }
        Ok(vec![(*x).clone()])
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable("second derivatives of max_pool are not provided"))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(inputs[1].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::backward(&self.0, call);
        Ok(())
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::backward(&self.0, call)
    }
}

impl GraphBuilder {
    /// The largest value of each window of an NHWC picture.
    pub fn max_pool(&mut self, x: ValueId, size: usize, stride: usize, pad: usize) -> Result<ValueId> {
        self.node1(MaxPool { size, stride, pad }, &[x])
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "max_pool",
        family: "max_pool",
        about: "largest value of each window of an image",
        cases: forward_cases,
    },
    OpEntry {
        name: "max_pool_grad",
        family: "max_pool",
        about: "gradient of max_pool: to the first of the largest values",
        cases: backward_cases,
    },
];

/// ResNet's.
const RESNET: MaxPool = MaxPool { size: 3, stride: 2, pad: 1 };

fn forward_cases() -> Vec<Case> {
    let case = |name, size, stride, pad, x: &[usize]| {
        Case::test(name, MaxPool { size, stride, pad }, vec![CaseInput::normal(x)])
    };
    vec![
        case("resnet", 3, 2, 1, &[2, 8, 12, 8]),
        case("odd_sides", 3, 2, 1, &[2, 9, 7, 5]),
        case("halves", 2, 2, 0, &[1, 5, 6, 4]),
        case("overlapping", 3, 1, 1, &[1, 6, 5, 3]),
        case("gaps", 2, 3, 1, &[1, 8, 9, 4]),
        case("one_pixel", 3, 2, 1, &[3, 1, 1, 4]),
        Case::bench("resnet50_stem", RESNET, vec![CaseInput::normal([8, 224, 224, 64])]),
    ]
}

fn backward_cases() -> Vec<Case> {
    let case = |name, pool: MaxPool, x: &[usize], fill| {
        let x = CaseInput { fill, ..CaseInput::normal(x) };
        let y = pool.infer_of(&x.ty).expect("a case that fits");
        Case::test(name, MaxPoolGrad(pool), vec![x, CaseInput::normal(y.shape)])
    };
    let overlapping = MaxPool { size: 3, stride: 1, pad: 1 };
    vec![
        case("resnet", RESNET, &[2, 8, 12, 8], Fill::Normal),
        case("odd_sides", RESNET, &[2, 9, 7, 5], Fill::Normal),
        case("gaps", MaxPool { size: 2, stride: 3, pad: 1 }, &[1, 8, 9, 4], Fill::Normal),
        // Many equal values: each window has one that counts.
        case("ties", RESNET, &[2, 7, 9, 4], Fill::Integers(0, 2)),
        case("ties_overlapping", overlapping, &[1, 6, 5, 3], Fill::Integers(0, 3)),
        // More channels than the CPU handles at once.
        case("wide", RESNET, &[1, 5, 6, 150], Fill::Integers(-2, 2)),
        Case { bench: true, ..case("resnet50_stem", RESNET, &[8, 224, 224, 64], Fill::Normal) },
    ]
}
