//! `resize`: channels-last images to another size, with the results of
//! `torch.nn.functional.interpolate`. Every mode is separable: [`taps`] says for each axis which
//! pixels make up a new one, with which weights; the gradient is the same op with transposed taps.

mod cpu;
pub(super) mod cuda;
mod reference;
pub mod taps;

use super::activation::expect_f32;
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::strided::alike;
use crate::graph::{Cost, Gradient, GradientContext, GraphBuilder, Op, TensorType, ValueId, op::CpuCall};
use crate::tensor::DType;
pub use taps::Mode;
use taps::Taps;

/// `[B, H, W, C]` to `[B, size[0], size[1], C]`, f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resize {
    /// How new pixels are made.
    pub mode: Mode,
    /// New height and width.
    pub size: [usize; 2],
    /// Scale factors that the caller asked for. As in PyTorch they fix where source pixels lie,
    /// even where the size was rounded; without them the ratio of the sizes does. `area` does not
    /// look at them.
    pub factors: Option<[f64; 2]>,
}

/// The gradient of [`Resize`]. Operand: dy. Result: dx, of height and width `from`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResizeGrad {
    /// The forward op.
    pub resize: Resize,
    /// Height and width of the operand.
    pub from: [usize; 2],
}

fn image(what: &str, inputs: &[&TensorType]) -> Result<[usize; 4], String> {
    let [x] = inputs else { return Err(format!("takes 1 operand, found {}", inputs.len())) };
    expect_f32(what, x)?;
    x.shape[..].try_into().map_err(|_| format!("{what} must be [B, H, W, C], found {x}"))
}

impl Resize {
    /// Taps of rows and of columns for an image of this height and width.
    fn taps(&self, from: [usize; 2]) -> [Taps; 2] {
        [0, 1].map(|axis| {
            Taps::new(self.mode, from[axis], self.size[axis], self.factors.map(|factors| factors[axis]))
        })
    }

    /// The whole factor by which a nearest enlargement repeats pixels, if this is one.
    pub fn nearest_factor(&self, x: &TensorType) -> Option<usize> {
        let [_, h, w, _] = x.shape[..] else { return None };
        let r = self.size[0].checked_div(h)?;
        let plain = self.mode == Mode::Nearest && self.factors.is_none();
        (plain && r >= 1 && self.size == [h * r, w * r]).then_some(r)
    }

    /// Whether each new pixel is one old one.
    fn copies(&self) -> bool {
        matches!(self.mode, Mode::Nearest | Mode::NearestExact)
    }

    fn check(&self, from: [usize; 2]) -> Result<(), String> {
        let (size, factors) = (self.size, self.factors.unwrap_or([1.0; 2]));
        if size.contains(&0) || from.contains(&0) {
            return Err(format!("cannot resize {}×{} to {}×{}", from[0], from[1], size[0], size[1]));
        }
        if !factors.iter().all(|&f| f > 0.0 && f.is_finite()) {
            return Err(format!("scale factors must be positive, found {factors:?}"));
        }
        Ok(())
    }
}

impl ResizeGrad {
    /// Taps of rows and of columns: the forward op's, seen from its operand.
    fn transposed(&self) -> [Taps; 2] {
        let taps = self.resize.taps(self.from);
        [0, 1].map(|axis| taps[axis].transposed(self.from[axis]))
    }
}

/// Operations of the two passes, rows first.
fn flops(from: &[usize], to: &[usize], taps: &[Taps; 2]) -> f64 {
    let (rows, columns) = (taps[0].entries.len() * from[2], to[1] * taps[1].entries.len());
    2.0 * (from[0] * from[3] * (rows + columns)) as f64
}

impl Op for Resize {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [b, h, w, c] = image("x", inputs)?;
        self.check([h, w])?;
        Ok(vec![TensorType::f32([b, self.size[0], self.size[1], c])])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let [_, h, w, _] = g.b.dims(g.inputs[0], "resize")?;
        let dy = g.dy();
        let dx = g.b.node1(ResizeGrad { resize: *self, from: [h, w] }, &[dy])?;
        Ok(Gradient::Inputs(vec![Some(dx)]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let (x, y) = (&inputs[0].shape, &outputs[0].shape);
        let flops = if self.copies() { 0.0 } else { flops(x, y, &self.taps([x[1], x[2]])) };
        Cost::dense(flops, inputs, outputs)
    }

    fn cpu(&self, mut call: CpuCall) -> Result<(), String> {
        let shape = &call.inputs[0].ty.shape;
        let (from, channels) = ([shape[1], shape[2]], shape[3]);
        let x = call.inputs[0].f32();
        cpu::resize(&self.taps(from), from, channels, x, call.outputs[0].f32());
        Ok(())
    }

    fn cuda_storage(&self, _: &[&TensorType], _: &[&TensorType], kept: &[DType], _: DType) -> Storage {
        alike(kept, 1)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        let shape = &call.inputs[0].ty.shape;
        let taps = self.taps([shape[1], shape[2]]);
        if self.copies() { cuda::nearest(&taps, call) } else { cuda::resize(&taps, call) }
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        let shape = &inputs[0].shape;
        if self.copies() { 0 } else { cuda::scratch(&self.taps([shape[1], shape[2]]), shape) }
    }
}

impl Op for ResizeGrad {
    fn name(&self) -> &'static str {
        "resize_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [b, h, w, c] = image("dy", inputs)?;
        self.resize.check(self.from)?;
        if [h, w] != self.resize.size {
            return Err(format!("dy must be {:?} high and wide, found {}", self.resize.size, inputs[0]));
        }
        Ok(vec![TensorType::f32([b, self.from[0], self.from[1], c])])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let d = g.dy();
        let dy = g.b.node1(self.resize, &[d])?;
        Ok(Gradient::Inputs(vec![Some(dy)]))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let flops = flops(&inputs[0].shape, &outputs[0].shape, &self.resize.taps(self.from));
        Cost::dense(flops, inputs, outputs)
    }

    fn cpu(&self, mut call: CpuCall) -> Result<(), String> {
        let channels = call.inputs[0].ty.shape[3];
        let dy = call.inputs[0].f32();
        cpu::resize(&self.transposed(), self.resize.size, channels, dy, call.outputs[0].f32());
        Ok(())
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::resize(&self.transposed(), call)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        cuda::scratch(&self.transposed(), &inputs[0].shape)
    }
}

impl GraphBuilder {
    /// An image `[B, H, W, C]` to `[B, size[0], size[1], C]`.
    pub fn resize(&mut self, x: ValueId, size: [usize; 2], mode: Mode) -> Result<ValueId> {
        self.node1(Resize { mode, size, factors: None }, &[x])
    }

    /// An image scaled by `factors` (height, width); the size is rounded down, and the factors as
    /// given say where source pixels lie.
    pub fn resize_by(&mut self, x: ValueId, factors: [f64; 2], mode: Mode) -> Result<ValueId> {
        let [_, h, w, _] = self.dims(x, "resize")?;
        let size = [(h as f64 * factors[0]) as usize, (w as f64 * factors[1]) as usize];
        self.node1(Resize { mode, size, factors: Some(factors) }, &[x])
    }

    /// Every pixel `r`×`r` times.
    pub fn upsample_nearest(&mut self, x: ValueId, r: usize) -> Result<ValueId> {
        let [_, h, w, _] = self.dims(x, "resize")?;
        self.resize(x, [h * r, w * r], Mode::Nearest)
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "resize",
        family: "resize",
        about: "images to another size: nearest, bilinear, bicubic, area, antialiased",
        cases: forward_cases,
    },
    OpEntry {
        name: "resize_grad",
        family: "resize",
        about: "gradient of resize: the transposed weights",
        cases: backward_cases,
    },
];

const BILINEAR: Mode = Mode::Bilinear { align_corners: false };
const BICUBIC: Mode = Mode::Bicubic { align_corners: false };

/// A name, a mode, a size and factors; see [`Resize`].
type Row = (&'static str, Mode, [usize; 2], Option<[f64; 2]>);

/// All modes, from 5×7.
const CASES: &[Row] = &[
    ("nearest_x2", Mode::Nearest, [10, 14], None),
    ("nearest_uneven", Mode::Nearest, [3, 17], None),
    ("nearest_exact", Mode::NearestExact, [3, 17], None),
    ("bilinear", BILINEAR, [11, 4], None),
    ("bilinear_factors", BILINEAR, [8, 11], Some([1.7, 1.7])),
    ("bilinear_corners", Mode::Bilinear { align_corners: true }, [9, 3], None),
    ("bicubic", BICUBIC, [11, 4], None),
    ("bicubic_corners", Mode::Bicubic { align_corners: true }, [9, 12], None),
    ("area", Mode::Area, [3, 9], None),
    ("bilinear_antialias", Mode::BilinearAntialias, [2, 11], None),
    ("bicubic_antialias", Mode::BicubicAntialias, [2, 3], None),
];

fn forward_cases() -> Vec<Case> {
    let small = CASES.iter().map(|&(name, mode, size, factors)| {
        Case::test(name, Resize { mode, size, factors }, vec![CaseInput::normal([2, 5, 7, 3])])
    });
    let wide = Case::test(
        "many_channels",
        Resize { mode: BICUBIC, size: [9, 9], factors: None },
        vec![CaseInput::normal([1, 6, 5, 37])],
    );
    let vectors = [("vectors", BICUBIC, [9, 7]), ("vectors_antialias", Mode::BicubicAntialias, [2, 3])];
    let vectors = vectors.map(|(name, mode, size)| {
        Case::test(name, Resize { mode, size, factors: None }, vec![CaseInput::normal([1, 6, 8, 8])])
    });
    let bench = |name, mode, size, x: &[usize]| {
        Case::bench(name, Resize { mode, size, factors: None }, vec![CaseInput::normal(x)])
    };
    let model = [
        bench("rrdb_up_nearest", Mode::Nearest, [512, 512], &[1, 256, 256, 64]),
        bench("photo_bicubic_x4", BICUBIC, [2048, 2048], &[1, 512, 512, 3]),
        bench("photo_antialias_down4", Mode::BicubicAntialias, [512, 512], &[1, 2048, 2048, 3]),
        bench("unet_bilinear_x2", BILINEAR, [256, 256], &[1, 128, 128, 320]),
    ];
    small.chain([wide]).chain(vectors).chain(model).collect()
}

fn backward_cases() -> Vec<Case> {
    let case = |&(name, mode, size, factors): &Row| {
        let op = ResizeGrad { resize: Resize { mode, size, factors }, from: [5, 7] };
        Case::test(name, op, vec![CaseInput::normal([2, size[0], size[1], 3])])
    };
    let up = Resize { mode: Mode::Nearest, size: [512, 512], factors: None };
    let model = Case::bench(
        "rrdb_up_nearest",
        ResizeGrad { resize: up, from: [256, 256] },
        vec![CaseInput::normal([1, 512, 512, 64])],
    );
    CASES.iter().map(case).chain([model]).collect()
}
