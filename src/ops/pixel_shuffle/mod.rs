//! `pixel_shuffle` and `pixel_unshuffle` on channels-last images: r² channels become an r×r block
//! of pixels and back, in PyTorch's channel order (channel·r² + row·r + column).

mod cpu;
mod cuda;
mod reference;

use super::activation::expect_f32;
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::strided::alike;
use crate::graph::{Cost, Gradient, GradientContext, GraphBuilder, Op, TensorType, ValueId, op::CpuCall};
use crate::tensor::DType;

/// `[B, H, W, C·r²]` to `[B, H·r, W·r, C]`, f32. The factor r.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelShuffle(pub usize);

/// `[B, H·r, W·r, C]` to `[B, H, W, C·r²]`, f32. The factor r.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelUnshuffle(pub usize);

fn image(inputs: &[&TensorType]) -> Result<[usize; 4], String> {
    let [x] = inputs else { return Err(format!("takes 1 operand, found {}", inputs.len())) };
    expect_f32("x", x)?;
    x.shape[..].try_into().map_err(|_| format!("x must be [B, H, W, C], found {x}"))
}

impl Op for PixelShuffle {
    fn name(&self) -> &'static str {
        "pixel_shuffle"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let ([b, h, w, c], r) = (image(inputs)?, self.0);
        if r == 0 || c % (r * r) != 0 {
            return Err(format!("the channels of {} must be a multiple of {r}²", inputs[0]));
        }
        Ok(vec![TensorType::f32([b, h * r, w * r, c / (r * r)])])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let dy = g.dy();
        let dx = g.b.pixel_unshuffle(dy, self.0)?;
        Ok(Gradient::Inputs(vec![Some(dx)]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(0.0, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::shuffle(self.0, call);
        Ok(())
    }

    fn cuda_storage(&self, _: &[&TensorType], _: &[&TensorType], kept: &[DType], _: DType) -> Storage {
        alike(kept, 1)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::shuffle(self.0, call)
    }
}

impl Op for PixelUnshuffle {
    fn name(&self) -> &'static str {
        "pixel_unshuffle"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let ([b, h, w, c], r) = (image(inputs)?, self.0);
        if r == 0 || h % r != 0 || w % r != 0 {
            return Err(format!("height and width of {} must be multiples of {r}", inputs[0]));
        }
        Ok(vec![TensorType::f32([b, h / r, w / r, c * r * r])])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let dy = g.dy();
        let dx = g.b.pixel_shuffle(dy, self.0)?;
        Ok(Gradient::Inputs(vec![Some(dx)]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(0.0, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::unshuffle(self.0, call);
        Ok(())
    }

    fn cuda_storage(&self, _: &[&TensorType], _: &[&TensorType], kept: &[DType], _: DType) -> Storage {
        alike(kept, 1)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::unshuffle(self.0, call)
    }
}

impl GraphBuilder {
    /// `[B, H, W, C·r²]` to `[B, H·r, W·r, C]`.
    pub fn pixel_shuffle(&mut self, x: ValueId, r: usize) -> Result<ValueId> {
        self.node1(PixelShuffle(r), &[x])
    }

    /// `[B, H·r, W·r, C]` to `[B, H, W, C·r²]`.
    pub fn pixel_unshuffle(&mut self, x: ValueId, r: usize) -> Result<ValueId> {
        self.node1(PixelUnshuffle(r), &[x])
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "pixel_shuffle",
        family: "pixel_shuffle",
        about: "r² channels to an r×r block of pixels",
        cases: shuffle_cases,
    },
    OpEntry {
        name: "pixel_unshuffle",
        family: "pixel_shuffle",
        about: "an r×r block of pixels to r² channels",
        cases: unshuffle_cases,
    },
];

fn shuffle_cases() -> Vec<Case> {
    let case = |name, r, x: &[usize]| Case::test(name, PixelShuffle(r), vec![CaseInput::normal(x)]);
    vec![
        case("x2", 2, &[2, 3, 5, 12]),
        case("x3_grey", 3, &[1, 4, 2, 9]),
        case("x2_many_channels", 2, &[1, 3, 2, 144]),
        case("x4_two_tiles", 4, &[1, 2, 90, 48]),
        case("x2_deep_tiles", 2, &[1, 1, 3, 4120]),
        case("x1", 1, &[1, 2, 3, 4]),
        Case::bench("swinir_up2", PixelShuffle(2), vec![CaseInput::normal([1, 256, 256, 256])]),
        Case::bench("srvgg_x4", PixelShuffle(4), vec![CaseInput::normal([1, 512, 512, 48])]),
    ]
}

fn unshuffle_cases() -> Vec<Case> {
    let case = |name, r, x: &[usize]| Case::test(name, PixelUnshuffle(r), vec![CaseInput::normal(x)]);
    vec![
        case("x2", 2, &[2, 6, 10, 3]),
        case("x3_grey", 3, &[1, 6, 9, 1]),
        case("x8", 8, &[1, 16, 24, 3]),
        case("x2_many_channels", 2, &[1, 2, 6, 36]),
        case("x4_two_tiles", 4, &[1, 4, 360, 3]),
        case("x2_deep_tiles", 2, &[1, 2, 4, 1030]),
        case("x9", 9, &[1, 9, 18, 2]),
        Case::bench("swinir_general_x8", PixelUnshuffle(8), vec![CaseInput::normal([1, 512, 512, 3])]),
    ]
}
