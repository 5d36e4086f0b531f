//! `conv2d` on NHWC pictures with OIHW weights, and its gradients.
//!
//! Fused forms (from `ops::fuse`): several inputs whose channels are concatenated, a nearest
//! enlargement or a group norm in front, and an epilogue — none of which is ever materialised; and the statistics
//! of a group norm behind.

mod cases;
mod cpu;
mod cuda;
mod cuda_grad;
mod grad;
mod library;
mod reference;

pub use grad::{Conv2dGradInput, Conv2dGradWeight};

use super::OpEntry;
use super::activation::expect_f32;
use super::epilogue::{Epilogue, FUSED};
use super::group_norm::GroupNormAffine;
use super::weight::expect_weight;
use crate::device::kernel::Launch;
use crate::device::library::LibraryCall;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Array, Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
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

/// A group norm of the input whose statistics are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputNorm {
    /// Whether SiLU follows it.
    pub silu: bool,
}

/// Operands: inputs `[B, H, W, Cᵢ]`, then scale and shift `[B, 2, C]` of the only input's channels if `norm`, weight
/// `[N, ΣCᵢ/groups, kh, kw]` (f32, bf16 or f16), bias `[N]` if `bias`, a residual like the result if the epilogue has
/// one, γ and β `[N]` if `affine`. Results: `[B, H′, W′, N]`; scale and shift of its group norm, `[B, 2, N]`, if
/// `affine`.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2d {
    /// Stride, padding, dilation, groups.
    pub spec: ConvSpec,
    /// How many inputs are concatenated along their channels.
    pub sources: usize,
    /// Each input pixel is repeated this often along both axes before the convolution.
    pub upsample: usize,
    /// What is done to the input, before zeros are put around it.
    pub norm: Option<InputNorm>,
    /// Whether there is a bias operand.
    pub bias: bool,
    /// What happens to the result in registers.
    pub epilogue: Epilogue,
    /// The group norm of the result that is wanted besides.
    pub affine: Option<GroupNormAffine>,
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
        let epilogue = Epilogue::default();
        Conv2d { spec, sources: 1, upsample: 1, norm: None, bias, epilogue, affine: None }
    }

    /// Whether kernels in half precision keep a tile of input pixels for all taps (`cuda/conv2d_halo.cu`), given
    /// operands of these types: then they can normalise it.
    pub(in crate::ops) fn reads_tiles(&self, inputs: &[&TensorType]) -> bool {
        self.dims(inputs).is_ok() && cuda::reads_tiles(self, inputs)
    }

    /// Where the weight is among the operands.
    pub(super) fn weight(&self) -> usize {
        self.sources + usize::from(self.norm.is_some())
    }

    /// Where the bias is.
    fn bias(&self) -> Option<usize> {
        self.bias.then_some(self.weight() + 1)
    }

    /// Where the residual is.
    fn residual(&self) -> Option<usize> {
        self.epilogue.residual.then_some(self.weight() + 1 + usize::from(self.bias))
    }

    /// Operands in front of γ and β.
    fn before_affine(&self) -> usize {
        self.weight() + 1 + usize::from(self.bias) + usize::from(self.epilogue.residual)
    }

    fn arity(&self) -> usize {
        self.before_affine() + if self.affine.is_some() { 2 } else { 0 }
    }

    pub(super) fn dims(&self, inputs: &[&TensorType]) -> Result<Dims, String> {
        if inputs.len() != self.arity() || self.sources == 0 {
            return Err(format!("takes {} operands, found {}", self.arity(), inputs.len()));
        }
        for (k, t) in inputs.iter().enumerate() {
            if k == self.weight() {
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
        if self.norm.is_some() {
            if self.sources > 1 || self.upsample > 1 {
                return Err("takes a norm of a single input that is not enlarged".into());
            }
            if inputs[1].shape != [batch, 2, cin] {
                return Err(format!("scale and shift must be [{batch}, 2, {cin}], found {}", inputs[1]));
            }
        }
        let w = inputs[self.weight()];
        let [cout, cg, kh, kw] = four(w, "the weight must be [out, in/groups, kh, kw]")?;
        let g = self.spec.groups;
        if g == 0 || cin % g != 0 || cout % g != 0 || cin / g != cg {
            return Err(format!("the weight {w} with {g} groups does not fit {cin} input channels"));
        }
        if let Some(bias) = self.bias().map(|k| inputs[k]).filter(|t| t.shape != [cout]) {
            return Err(format!("the bias must be [{cout}], found {bias}"));
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
        self.epilogue.check(self.residual().map(|k| &inputs[k]), &out)?;
        let Some(norm) = &self.affine else { return Ok(vec![out]) };
        let affine = norm.infer_of(&out, inputs[self.before_affine()], inputs[self.before_affine() + 1])?;
        Ok(vec![out, affine])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let fused = self.sources > 1 || self.upsample > 1 || self.norm.is_some() || self.affine.is_some();
        if fused || !self.epilogue.is_identity() {
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
        let per_input = self.norm.map_or(0.0, |n| if n.silu { 6.0 } else { 2.0 });
        let statistics = if self.affine.is_some() { GroupNormAffine::FLOPS } else { 0.0 };
        let flops = 2.0 * products as f64
            + per_input * inputs[0].len() as f64
            + (per_result + statistics) * outputs[0].len() as f64;
        Cost::dense(flops, inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self, call)
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType], _threads: usize) -> usize {
        cpu::scratch(self, inputs, outputs)
    }

    /// A normalised input is read as a whole, whatever the form.
    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input < self.sources && self.norm.is_none() {
            layout.as_rows().is_some()
        } else {
            layout.is_dense()
        }
    }

    fn in_place(&self, input: usize) -> bool {
        self.residual() == Some(input)
    }

    /// Without a fusion the normalised input and the result, whose statistics are taken, are stored.
    fn naive_in(&self, inputs: &[Array<f64>], dtype: DType) -> Option<Vec<Array<f64>>> {
        (self.norm.is_some() || self.affine.is_some()).then(|| reference::stored_in(self, inputs, dtype))
    }

    /// Inputs, weight and result in the compute type; a residual stream that is kept in f32 stays so.
    fn cuda_storage(
        &self,
        inputs: &[&TensorType],
        _outputs: &[&TensorType],
        kept: &[DType],
        compute: DType,
    ) -> Storage {
        let stream = self.residual().filter(|&k| kept[k] != compute);
        let result = if stream.is_some() { DType::F32 } else { compute };
        let mut operands = vec![DType::F32; inputs.len()];
        operands[..self.sources].fill(compute);
        operands[self.weight()] = weight_storage(inputs[self.weight()], compute);
        if let Some(k) = self.residual() {
            operands[k] = result;
        }
        let results = [result].into_iter().chain(self.affine.map(|_| DType::F32)).collect();
        Storage { inputs: operands, outputs: results }
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call)
    }

    fn cuda_library(&self, call: &CudaCall) -> Option<LibraryCall> {
        library::forward(self, call)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
        cuda::forward_scratch(self, inputs, outputs)
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
        about: "NHWC convolution: concatenated inputs, enlargement, norms and epilogue fused",
        cases: cases::forward,
    },
    OpEntry {
        name: "conv2d_grad_input",
        family: "conv2d",
        about: "gradient of conv2d with respect to its input",
        cases: cases::grad_input,
    },
    OpEntry {
        name: "conv2d_grad_weight",
        family: "conv2d",
        about: "gradient of conv2d with respect to its weight",
        cases: cases::grad_weight,
    },
];
