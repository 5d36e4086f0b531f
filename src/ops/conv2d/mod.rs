//! `conv2d` on NHWC pictures with OIHW weights, and its gradients.
//!
//! Fused forms (from `ops::fuse`): several inputs whose channels are concatenated, a nearest
//! enlargement in front, and an epilogue — none of which is ever materialised.

mod cpu;
mod cuda;
mod grad;
mod reference;

pub use grad::{Conv2dGradInput, Conv2dGradWeight};

use super::activation::{Kind, expect_f32};
use super::epilogue::{Epilogue, FUSED};
use super::weight::expect_weight;
use super::{Case, CaseInput, OpEntry};
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// Stride, padding, dilation and groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvSpec {
    /// Steps in y and x.
    pub stride: [usize; 2],
    /// Zeros above, below, left and right.
    pub pad: [usize; 4],
    /// Distance of taps in y and x.
    pub dilation: [usize; 2],
    /// Channel groups.
    pub groups: usize,
}

impl ConvSpec {
    /// Stride 1 with the padding that keeps the size for an odd kernel.
    pub fn same(kernel: usize) -> Self {
        ConvSpec { stride: [1; 2], pad: [kernel / 2; 4], dilation: [1; 2], groups: 1 }
    }

    /// Result extent along axis 0 (y) or 1 (x), if the kernel fits.
    pub fn extent(&self, axis: usize, input: usize, kernel: usize) -> Option<usize> {
        let padded = input + self.pad[2 * axis] + self.pad[2 * axis + 1];
        let reach = self.dilation[axis] * (kernel.checked_sub(1)?) + 1;
        Some(padded.checked_sub(reach)? / self.stride[axis] + 1)
    }

    /// How many (output, tap) pairs along an axis read inside an input of extent `n`: products
    /// with padding are not work.
    pub(super) fn live_taps(&self, axis: usize, n: usize, out: usize, kernel: usize) -> usize {
        let inside = |o| (0..kernel).filter(move |&k| self.source(axis, o, k, n).is_some()).count();
        (0..out).map(inside).sum()
    }

    /// The input index that output `o` reads at tap `k`, if it is inside an input of extent `n`.
    pub fn source(&self, axis: usize, o: usize, k: usize, n: usize) -> Option<usize> {
        (o * self.stride[axis] + k * self.dilation[axis]).checked_sub(self.pad[2 * axis]).filter(|&i| i < n)
    }
}

/// Operands: inputs `[B, H, W, Cᵢ]`, weight `[N, ΣCᵢ/groups, kh, kw]` (f32, bf16 or f16), then bias `[N]` if `bias`,
/// then a residual like the result if the epilogue has one. Result: `[B, H′, W′, N]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2d {
    /// Stride, padding, dilation, groups.
    pub spec: ConvSpec,
    /// How many inputs are concatenated along their channels.
    pub sources: usize,
    /// Each input pixel is repeated this often along both axes before the convolution.
    pub upsample: usize,
    /// Whether there is a bias operand.
    pub bias: bool,
    /// What happens to the result in registers.
    pub epilogue: Epilogue,
}

/// Extents of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dims {
    pub batch: usize,
    /// Input height and width before the enlargement.
    pub height: usize,
    pub width: usize,
    /// All input channels.
    pub cin: usize,
    pub cout: usize,
    pub kernel: [usize; 2],
    pub out: [usize; 2],
}

impl Conv2d {
    /// A plain convolution.
    pub fn plain(spec: ConvSpec, bias: bool) -> Self {
        Conv2d { spec, sources: 1, upsample: 1, bias, epilogue: Epilogue::default() }
    }

    fn arity(&self) -> usize {
        self.sources + 1 + usize::from(self.bias) + usize::from(self.epilogue.residual)
    }

    pub(super) fn dims(&self, inputs: &[&TensorType]) -> Result<Dims, String> {
        if inputs.len() != self.arity() || self.sources == 0 {
            return Err(format!("takes {} operands, found {}", self.arity(), inputs.len()));
        }
        for (k, t) in inputs.iter().enumerate() {
            if k == self.sources {
                expect_weight("the weight", t)?;
            } else {
                expect_f32("every operand but the weight", t)?;
            }
        }
        let four = |t: &TensorType, what: &str| -> Result<[usize; 4], String> {
            t.shape[..].try_into().map_err(|_| format!("{what}, found {t}"))
        };
        let [batch, height, width, mut cin] = four(inputs[0], "x must be [B, H, W, C]")?;
        for t in &inputs[1..self.sources] {
            let [b, h, w, c] = four(t, "x must be [B, H, W, C]")?;
            if [b, h, w] != [batch, height, width] {
                return Err(format!("inputs differ in size: {} and {t}", inputs[0]));
            }
            cin += c;
        }
        let w = inputs[self.sources];
        let [cout, cg, kh, kw] = four(w, "the weight must be [out, in/groups, kh, kw]")?;
        let g = self.spec.groups;
        if g == 0 || cin % g != 0 || cout % g != 0 || cin / g != cg {
            return Err(format!("the weight {w} with {g} groups does not fit {cin} input channels"));
        }
        if self.bias && inputs[self.sources + 1].shape != [cout] {
            return Err(format!("the bias must be [{cout}], found {}", inputs[self.sources + 1]));
        }
        let out = |axis, n, k| {
            self.spec.extent(axis, n * self.upsample, k).ok_or_else(|| {
                format!(
                    "a {kh}×{kw} kernel does not fit into {height}×{width} with padding {:?}",
                    self.spec.pad
                )
            })
        };
        let out = [out(0, height, kh)?, out(1, width, kw)?];
        Ok(Dims { batch, height, width, cin, cout, kernel: [kh, kw], out })
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let d = self.dims(inputs)?;
        let out = TensorType::f32([d.batch, d.out[0], d.out[1], d.cout]);
        if self.epilogue.gate {
            return Err("takes no gate in its epilogue".into());
        }
        self.epilogue.check(inputs.get(self.sources + 1 + usize::from(self.bias)), &out)?;
        Ok(vec![out])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        if !self.epilogue.is_identity() || self.sources > 1 || self.upsample > 1 {
            return Ok(Gradient::NotDifferentiable(FUSED));
        }
        let (dy, b) = (g.dy(), &mut *g.b);
        let [_, height, width, _] = b.dims(g.inputs[0], "conv2d")?;
        let [cout, _, kh, kw] = b.dims(g.inputs[1], "conv2d")?;
        let mut d = vec![None; g.inputs.len()];
        if g.wanted[0] {
            let op = Conv2dGradInput { spec: self.spec, size: [height, width] };
            d[0] = Some(b.node1(op, &[dy, g.inputs[1]])?);
        }
        if g.wanted[1] {
            let op = Conv2dGradWeight { spec: self.spec, kernel: [kh, kw] };
            d[1] = Some(b.node1(op, &[g.inputs[0], dy])?);
        }
        if self.bias && g.wanted[2] {
            d[2] = Some(b.sum_to(dy, &[cout])?);
        }
        Ok(Gradient::Inputs(d))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let Ok(d) = self.dims(inputs) else { return Cost::default() };
        let taps = self.spec.live_taps(0, d.height * self.upsample, d.out[0], d.kernel[0])
            * self.spec.live_taps(1, d.width * self.upsample, d.out[1], d.kernel[1]);
        let products = d.batch * taps * d.cin / self.spec.groups * d.cout;
        let per_result = f64::from(self.bias) + self.epilogue.flops();
        Cost::dense(2.0 * products as f64 + per_result * outputs[0].len() as f64, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self, call)
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input < self.sources { layout.as_rows().is_some() } else { layout.is_dense() }
    }

    fn in_place(&self, input: usize) -> bool {
        self.epilogue.residual && input == self.arity() - 1
    }

    /// Inputs, weight and result in the compute type; a residual stream that is kept in f32 stays so.
    fn cuda_storage(
        &self,
        inputs: &[&TensorType],
        _outputs: &[&TensorType],
        kept: &[DType],
        compute: DType,
    ) -> Storage {
        let stream = kept.last().filter(|&&d| self.epilogue.residual && d != compute);
        let result = if stream.is_some() { DType::F32 } else { compute };
        let mut operands = vec![compute; self.sources];
        operands.push(weight_storage(inputs[self.sources], compute));
        operands.extend(self.bias.then_some(DType::F32));
        operands.extend(self.epilogue.residual.then_some(result));
        Storage { inputs: operands, outputs: vec![result] }
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        cuda::forward_scratch(self, inputs)
    }

    fn cuda_in_place(&self, input: usize) -> bool {
        self.in_place(input)
    }
}

/// What kernels read a weight in: tensor cores want both operands alike; f32 arithmetic widens any.
fn weight_storage(weight: &TensorType, compute: DType) -> DType {
    if compute == DType::F32 { weight.dtype } else { compute }
}

impl GraphBuilder {
    /// Convolution of an NHWC picture with an OIHW weight.
    pub fn conv2d(
        &mut self,
        x: ValueId,
        weight: ValueId,
        bias: Option<ValueId>,
        spec: ConvSpec,
    ) -> Result<ValueId> {
        let inputs: Vec<_> = [x, weight].into_iter().chain(bias).collect();
        self.node1(Conv2d::plain(spec, bias.is_some()), &inputs)
    }
}

/// Registry rows.
pub const ENTRIES: &[OpEntry] = &[
    OpEntry {
        name: "conv2d",
        family: "conv2d",
        about: "NHWC convolution: concatenated inputs, nearest enlargement and epilogue fused",
        cases,
    },
    OpEntry {
        name: "conv2d_grad_input",
        family: "conv2d",
        about: "gradient of conv2d with respect to its input",
        cases: grad::input_cases,
    },
    OpEntry {
        name: "conv2d_grad_weight",
        family: "conv2d",
        about: "gradient of conv2d with respect to its weight",
        cases: grad::weight_cases,
    },
];

/// Geometries that test forward and both gradients: name, [B, H, W], cin, cout, kernel, spec.
pub(super) type Geometry = (&'static str, [usize; 3], usize, usize, [usize; 2], ConvSpec);

pub(super) fn geometries() -> Vec<Geometry> {
    let same = ConvSpec::same;
    vec![
        ("same3", [2, 5, 7], 6, 9, [3, 3], same(3)),
        ("pointwise", [1, 6, 5], 17, 33, [1, 1], same(1)),
        (
            "stride2_asymmetric",
            [1, 7, 9],
            5,
            8,
            [3, 3],
            ConvSpec { stride: [2; 2], pad: [0, 1, 0, 1], ..same(3) },
        ),
        ("groups", [1, 6, 6], 8, 12, [3, 3], ConvSpec { groups: 4, ..same(3) }),
        ("depthwise5", [1, 8, 9], 6, 6, [5, 5], ConvSpec { groups: 6, ..same(5) }),
        ("dilated", [1, 9, 8], 4, 5, [3, 3], ConvSpec { dilation: [2, 3], pad: [2, 2, 3, 3], ..same(3) }),
        ("uneven_kernel", [1, 6, 9], 3, 34, [2, 5], ConvSpec { pad: [0, 1, 2, 0], ..same(1) }),
        // Tensor-core tiles of 32, 64 and 128 channels, with tails in pixels and in both channels; pixels in two
        // tiles, and enough of them for two partial sums of the weight's gradient.
        ("eights", [2, 12, 11], 8, 8, [3, 3], same(3)),
        (
            "eights_stride2",
            [1, 7, 9],
            16,
            8,
            [3, 3],
            ConvSpec { stride: [2; 2], pad: [0, 1, 0, 1], ..same(3) },
        ),
        ("stride3", [1, 8, 7], 8, 3, [3, 3], ConvSpec { stride: [3; 2], pad: [1, 0, 0, 1], ..same(3) }),
        ("wide", [1, 3, 5], 72, 232, [1, 1], same(1)),
        ("middle", [1, 3, 5], 72, 40, [1, 1], same(1)),
        ("fours", [1, 5, 6], 28, 20, [3, 3], same(3)),
        ("deep", [1, 2, 3], 520, 128, [1, 1], same(1)),
    ]
}

fn case(name: &'static str, size: [usize; 3], cin: &[usize], cout: usize, op: Conv2d, k: [usize; 2]) -> Case {
    let total: usize = cin.iter().sum::<usize>() / op.spec.groups;
    let bound = ((total * k[0] * k[1]) as f64).powf(-0.5);
    let mut inputs: Vec<_> = cin.iter().map(|&c| CaseInput::normal([size[0], size[1], size[2], c])).collect();
    inputs.push(CaseInput::uniform([cout, total, k[0], k[1]], -bound, bound));
    if op.bias {
        inputs.push(CaseInput::normal([cout]));
    }
    if op.epilogue.residual {
        let out =
            |axis: usize| op.spec.extent(axis, size[1 + axis] * op.upsample, k[axis]).expect("a case fits");
        inputs.push(CaseInput::normal([size[0], out(0), out(1), cout]));
    }
    Case::test(name, op, inputs)
}

fn cases() -> Vec<Case> {
    let plain = |spec| Conv2d::plain(spec, true);
    let same = || plain(ConvSpec::same(3));
    let fused = |alpha, residual, act| Epilogue { act, alpha, residual, ..Epilogue::default() };
    let lrelu = Some(Kind::LeakyRelu(0.2));
    let mut all: Vec<_> = geometries()
        .into_iter()
        .map(|(n, s, ci, co, k, spec)| case(n, s, &[ci], co, plain(spec), k))
        .collect();
    all.push(case("no_bias", [1, 4, 5], &[3], 4, Conv2d::plain(ConvSpec::same(3), false), [3, 3]));
    all.push(case("concatenated", [1, 5, 14], &[8, 4, 4], 32, Conv2d { sources: 3, ..same() }, [3, 3]));
    all.push(case("enlarged", [1, 5, 4], &[7], 6, Conv2d { upsample: 2, ..same() }, [3, 3]));
    all.push(case("enlarged_thrice", [1, 2, 3], &[8], 8, Conv2d { upsample: 3, ..same() }, [3, 3]));
    let both = Conv2d { sources: 2, upsample: 2, epilogue: fused(0.5, true, lrelu), ..same() };
    all.push(case("concatenated_enlarged", [1, 2, 4], &[40, 8], 16, both, [3, 3]));
    all.push(case("one_pixel", [1, 1, 1], &[7], 6, same(), [3, 3]));
    let epilogue = fused(1.0, false, lrelu);
    all.push(case("leaky_relu", [1, 6, 13], &[5], 8, Conv2d { epilogue, ..same() }, [3, 3]));
    let epilogue = fused(0.2, true, None);
    let dense_block = Conv2d { sources: 2, epilogue, ..same() };
    all.push(case("scaled_residual", [2, 6, 5], &[5, 3], 8, dense_block, [3, 3]));
    let half = |name, dtype, epilogue| {
        let mut case = case(name, [1, 5, 14], &[8], 32, Conv2d { epilogue, ..same() }, [3, 3]);
        case.inputs[1] = case.inputs[1].clone().stored_as(dtype);
        case
    };
    all.push(half("bf16_weight", DType::BF16, Epilogue::default()));
    all.push(half("f16_weight", DType::F16, fused(1.0, true, None)));
    let model = |name, size, cin: &[usize], cout, k: usize, upsample| {
        let op = Conv2d { sources: cin.len(), upsample, ..plain(ConvSpec::same(k)) };
        Case { bench: true, ..case(name, size, cin, cout, op, [k, k]) }
    };
    all.extend([
        model("rrdb_conv1", [1, 256, 256], &[64], 32, 3, 1),
        model("rrdb_conv3", [1, 256, 256], &[64, 32, 32], 32, 3, 1),
        model("rrdb_conv5", [1, 256, 256], &[64, 32, 32, 32, 32], 64, 3, 1),
        model("rrdb_up2", [1, 256, 256], &[64], 64, 3, 2),
        model("rrdb_first", [1, 256, 256], &[3], 64, 3, 1),
        model("rrdb_last", [1, 512, 512], &[64], 3, 3, 1),
        model("swinir_group", [1, 64, 64], &[180], 180, 3, 1),
        model("vae_up3_conv", [1, 512, 512], &[128], 128, 3, 1),
        model("vae_mid_conv", [1, 64, 64], &[512], 512, 3, 1),
    ]);
    all
}
