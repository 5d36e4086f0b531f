//! Which kernels of `cuda/conv2d.cu` run, and with what.

use super::{Conv2d, Conv2dGradInput, Conv2dGradWeight, ConvSpec};
use crate::device::kernel::Launch;
use crate::ffi;
use crate::graph::TensorType;
use crate::graph::cuda::{CudaCall, CudaOperand, CudaResult};
use crate::ops::epilogue::Epilogue;
use crate::tensor::DType;

/// Threads of the kernels that give each thread its own result.
const THREADS: usize = 128;
/// Pixels of a tile of the forward kernels.
const BM: usize = 128;
/// Channels of a tile and depth of a slice, general form.
const SIMT_BN: usize = 64;
const SIMT_BK: usize = 16;
/// Depth of a slice on tensor cores.
const TENSOR_BK: usize = 32;
/// Blocks that keep an A100 busy for two rounds or more: what the gradient of the weight is split into. Not of the
/// device at hand, so that results do not depend on it.
const BLOCKS: usize = 432;

/// A convolution as the forward kernels see it: the op itself, or the gradient of its input.
struct Problem {
    geometry: ffi::ConvGeometry,
    /// Of each input.
    channels: Vec<usize>,
    groups: usize,
    /// Input and output channels of a group.
    cin: usize,
    cout: usize,
    /// Elements of the weight between groups, output channels, input channels.
    weight_steps: [usize; 3],
    /// The last tap of the weight comes first.
    turned: bool,
}

/// What multiplies.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// f32 arithmetic, any layout.
    Simt,
    /// Tensor cores, channels in multiples of `vector`, `bn` of them a block.
    Tensor { bn: usize, vector: usize },
}

/// Geometry of the op's forward; `repeat` copies of each input pixel.
fn geometry(
    spec: &ConvSpec,
    batch: usize,
    input: [usize; 2],
    out: [usize; 2],
    kernel: [usize; 2],
    repeat: usize,
) -> Result<ffi::ConvGeometry, String> {
    let result = ffi::ConvGeometry {
        height: input[0] as i32,
        width: input[1] as i32,
        reach_y: (input[0] * repeat) as i32,
        reach_x: (input[1] * repeat) as i32,
        out_h: out[0] as i32,
        out_w: out[1] as i32,
        kernel_h: kernel[0] as i32,
        kernel_w: kernel[1] as i32,
        stride_y: spec.stride[0] as i32,
        stride_x: spec.stride[1] as i32,
        pad_y: spec.pad[0] as i32,
        pad_x: spec.pad[2] as i32,
        dilation_y: spec.dilation[0] as i32,
        dilation_x: spec.dilation[1] as i32,
        repeat_y: repeat as i32,
        repeat_x: repeat as i32,
        shift_y: repeat.ilog2() as i32,
        shift_x: repeat.ilog2() as i32,
        stuffed: 0,
        pixels: (batch * out[0] * out[1]) as i32,
    };
    let largest = (batch * out[0] * out[1]).max(batch * input[0] * input[1] * repeat * repeat);
    if largest > 1 << 30 {
        return Err(format!(
            "kernels count up to 2^30 pixels, found {largest}; split the batch or the picture"
        ));
    }
    Ok(result)
}

fn four(t: &TensorType) -> [usize; 4] {
    t.shape[..].try_into().expect("infer checked")
}

impl Problem {
    fn forward(op: &Conv2d, inputs: &[&TensorType]) -> Result<Self, String> {
        if op.sources > ffi::CONV2D_SOURCES as usize {
            return Err(format!("kernels read up to {} inputs, found {}", ffi::CONV2D_SOURCES, op.sources));
        }
        let ([batch, height, width, _], [cout, cin, kh, kw]) = (four(inputs[0]), four(inputs[op.sources]));
        let extent = |axis, n: usize, k| op.spec.extent(axis, n * op.upsample, k).expect("infer checked");
        let (kernel, out) = ([kh, kw], [extent(0, height, kh), extent(1, width, kw)]);
        let (groups, taps) = (op.spec.groups, kh * kw);
        if cin == 0 {
            return Err("kernels need at least one input channel, found none".into());
        }
        Ok(Problem {
            geometry: geometry(&op.spec, batch, [height, width], out, kernel, op.upsample)?,
            channels: inputs[..op.sources].iter().map(|t| t.last()).collect(),
            groups,
            cin,
            cout: cout / groups,
            weight_steps: [cout / groups * cin * taps, cin * taps, taps],
            turned: false,
        })
    }

    /// dx = convolution of dy, its pixels a stride apart in a sea of zeros, with the kernel turned by 180
    /// degrees and input and output channels exchanged.
    fn grad_input(op: &Conv2dGradInput, dy: &TensorType, w: &TensorType) -> Result<Self, String> {
        let ([batch, oh, ow, _], [n, c, kh, kw]) = (four(dy), four(w));
        if n == 0 {
            return Err("kernels need at least one channel of dy, found none".into());
        }
        let forward = geometry(&op.spec, batch, op.size, [oh, ow], [kh, kw], 1)?;
        let [sy, sx] = op.spec.stride.map(|s| s as i32);
        let geometry = ffi::ConvGeometry {
            height: forward.out_h,
            width: forward.out_w,
            reach_y: forward.out_h * sy,
            reach_x: forward.out_w * sx,
            out_h: forward.height,
            out_w: forward.width,
            stride_y: 1,
            stride_x: 1,
            pad_y: forward.dilation_y * (forward.kernel_h - 1) - forward.pad_y,
            pad_x: forward.dilation_x * (forward.kernel_w - 1) - forward.pad_x,
            repeat_y: sy,
            repeat_x: sx,
            shift_y: sy.ilog2() as i32,
            shift_x: sx.ilog2() as i32,
            stuffed: 1,
            pixels: (batch * op.size[0] * op.size[1]) as i32,
            ..forward
        };
        let (groups, taps) = (op.spec.groups, kh * kw);
        Ok(Problem {
            geometry,
            channels: vec![n],
            groups,
            cin: n / groups,
            cout: c,
            weight_steps: [n / groups * c * taps, taps, c * taps],
            turned: true,
        })
    }

    fn taps(&self) -> usize {
        (self.geometry.kernel_h * self.geometry.kernel_w) as usize
    }

    /// Slices of the depth on tensor cores.
    fn slices(&self) -> usize {
        self.channels.iter().map(|c| c.div_ceil(TENSOR_BK)).sum::<usize>() * self.taps()
    }

    /// Channels of a block on tensor cores: the tile that does the least work, a wide tile's being the quickest;
    /// narrower where there are too few tiles for a GPU and each is long.
    fn bn(&self) -> usize {
        let time = |bn: usize, slowness: usize| self.cout.next_multiple_of(bn) * slowness;
        let (mut bn, _) = [(128, 20), (64, 23), (32, 30)]
            .into_iter()
            .min_by_key(|&(bn, slowness)| time(bn, slowness))
            .expect("three tiles");
        let blocks = |bn: usize| (self.geometry.pixels as usize).div_ceil(BM) * self.cout.div_ceil(bn);
        if bn == 128 && blocks(bn) < BLOCKS / 4 && self.slices() >= 16 {
            bn = 64;
        }
        bn
    }

    /// What runs for these inputs.
    fn form(&self, x: &[CudaOperand]) -> Form {
        let g = &self.geometry;
        let shifts = [g.repeat_y, g.repeat_x].iter().all(|r| (*r as u32).is_power_of_two());
        if x[0].ty.dtype == DType::F32 || self.groups > 1 || !shifts {
            return Form::Simt;
        }
        let all = |n| x.iter().all(|x| x.vectors(n));
        match () {
            () if all(8) => Form::Tensor { bn: self.bn(), vector: 8 },
            // Worth it where a slice is mostly filled.
            () if all(4) && self.channels.iter().all(|&c| c >= 24) => Form::Tensor { bn: 64, vector: 4 },
            () => Form::Simt,
        }
    }

    /// Bytes of the packed weights for a form.
    fn packed(&self, form: Form) -> usize {
        match form {
            Form::Simt => {
                let depth = (self.taps() * self.cin).next_multiple_of(SIMT_BK);
                self.groups * depth * self.cout.next_multiple_of(SIMT_BN) * 4
            }
            Form::Tensor { bn, .. } => self.slices() * TENSOR_BK * self.cout.next_multiple_of(bn) * 2,
        }
    }

    /// Bytes of the packed weights, whatever the layout of the inputs will be.
    fn scratch(&self, x: DType) -> usize {
        let mut forms = vec![Form::Simt];
        if x != DType::F32 {
            forms.extend([(self.bn(), 8), (64, 4)].map(|(bn, vector)| Form::Tensor { bn, vector }));
        }
        forms.into_iter().map(|form| self.packed(form)).max().unwrap_or(0)
    }

    fn launches(
        &self,
        x: &[CudaOperand],
        w: &CudaOperand,
        y: &CudaResult,
        epilogue: ffi::Epilogue,
        scratch: u64,
    ) -> Vec<Launch> {
        let form = self.form(x);
        let (tile, bn) = match form {
            Form::Simt => ("simt_128x64x16".into(), SIMT_BN),
            Form::Tensor { bn, vector: 8 } => (format!("128x{bn}x32"), bn),
            Form::Tensor { bn, .. } => (format!("128x{bn}x32_v4"), bn),
        };
        let cout_padded = self.cout.next_multiple_of(bn);
        let dtype = x[0].ty.dtype;
        let mut channels = [0; ffi::CONV2D_SOURCES as usize];
        let mut source = [ffi::ConvSource::default(); ffi::CONV2D_SOURCES as usize];
        for (k, x) in x.iter().enumerate() {
            channels[k] = self.channels[k] as i32;
            source[k] = ffi::ConvSource {
                x: x.address,
                step: x.layout.as_rows().expect("accepts() asks for rows").2 as i64,
                channels: channels[k],
                reserved: 0,
            };
        }
        let pieces = match form {
            Form::Simt => self.packed(form) / 16,
            Form::Tensor { .. } => self.packed(form) / 16 / self.taps(),
        };
        let pack = ffi::Conv2dPack {
            w: w.address,
            packed: scratch,
            group_step: self.weight_steps[0] as i64,
            cout_step: self.weight_steps[1] as i64,
            cin_step: self.weight_steps[2] as i64,
            pieces: pieces as i64,
            channels,
            sources: x.len() as i32,
            taps: self.taps() as i32,
            turned: self.turned.into(),
            cin: self.cin as i32,
            cout: self.cout as i32,
            cout_padded: cout_padded as i32,
            depth_padded: (self.taps() * self.cin).next_multiple_of(SIMT_BK) as i32,
            reserved: 0,
        };
        let pack_kernel = match form {
            Form::Simt => format!("conv2d_pack_simt_{}", w.ty.dtype),
            Form::Tensor { .. } => "conv2d_pack_tensor_b16".into(),
        };
        let forward = ffi::Conv2dFwd {
            source,
            w: scratch,
            y: y.address,
            epilogue,
            geometry: self.geometry,
            sources: x.len() as i32,
            groups: self.groups as i32,
            cin: self.cin as i32,
            cout: self.cout as i32,
            cout_padded: cout_padded as i32,
            y_is_f32: (y.ty.dtype == DType::F32).into(),
        };
        let tiles = (self.geometry.pixels as usize).div_ceil(BM) * (cout_padded / bn);
        vec![
            Launch::new(pack_kernel, [pieces.div_ceil(THREADS) as u32, 1, 1], &pack),
            Launch::new(
                format!("conv2d_fwd_{tile}_{dtype}"),
                [tiles as u32, 1, self.groups as u32],
                &forward,
            ),
        ]
    }
}

pub(super) fn forward_scratch(op: &Conv2d, inputs: &[&TensorType]) -> usize {
    Problem::forward(op, inputs).map_or(0, |p| p.scratch(inputs[0].dtype))
}

pub(super) fn forward(op: &Conv2d, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let y = &call.outputs[0];
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let types: Vec<_> = call.inputs.iter().map(|i| &i.ty).collect();
    let problem = Problem::forward(op, &types)?;
    let bias = op.bias.then(|| &call.inputs[op.sources + 1]);
    let epilogue = op.epilogue.on_cuda(bias, call.inputs.last());
    Ok(problem.launches(&call.inputs[..op.sources], &call.inputs[op.sources], y, epilogue, call.scratch))
}

pub(super) fn grad_input_scratch(op: &Conv2dGradInput, inputs: &[&TensorType]) -> usize {
    Problem::grad_input(op, inputs[0], inputs[1]).map_or(0, |p| p.scratch(inputs[0].dtype))
}

pub(super) fn grad_input(op: &Conv2dGradInput, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [dy, w] = &call.inputs[..] else { unreachable!("infer takes two operands") };
    let y = &call.outputs[0];
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let problem = Problem::grad_input(op, &dy.ty, &w.ty)?;
    let epilogue = Epilogue::default().on_cuda(None, None);
    Ok(problem.launches(&call.inputs[..1], w, y, epilogue, call.scratch))
}

/// How the gradient of the weight is computed: on tensor cores or not, in how many sums of how many pixels.
struct Split {
    tensor: bool,
    tiles: usize,
    splits: usize,
    pixels: usize,
}

impl Split {
    fn new(op: &Conv2dGradWeight, x: &[usize], dy: &[usize], tensor: bool) -> Self {
        let (groups, taps) = (op.spec.groups, op.kernel[0] * op.kernel[1]);
        let (cin, cout) = (x[3] / groups, dy[3] / groups);
        let tiles = if tensor {
            cout.div_ceil(128) * taps * cin.div_ceil(64)
        } else {
            cout.div_ceil(64) * (taps * cin).div_ceil(64)
        };
        let all: usize = dy[..3].iter().product();
        let splits = (BLOCKS / (tiles * groups).max(1)).clamp(1, (all / 128).max(1));
        let pixels = all.div_ceil(splits).next_multiple_of(32);
        Split { tensor, tiles, splits: all.div_ceil(pixels.max(1)), pixels }
    }

    /// Bytes of the partial sums.
    fn scratch(&self, dw: &TensorType) -> usize {
        self.splits * dw.len() * 4
    }
}

pub(super) fn grad_weight_scratch(op: &Conv2dGradWeight, inputs: &[&TensorType], dw: &TensorType) -> usize {
    let bytes = |tensor| Split::new(op, &inputs[0].shape, &inputs[1].shape, tensor).scratch(dw);
    bytes(false).max(bytes(true))
}

pub(super) fn grad_weight(op: &Conv2dGradWeight, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [x, dy] = &call.inputs[..] else { unreachable!("infer takes two operands") };
    let dw = &call.outputs[0];
    if dw.ty.is_empty() {
        return Ok(vec![]);
    }
    let groups = op.spec.groups;
    let tensor = x.ty.dtype != DType::F32 && groups == 1 && x.vectors(8) && dy.vectors(8);
    let (xs, ys) = (&x.ty.shape, &dy.ty.shape);
    let split = Split::new(op, xs, ys, tensor);
    let step = |o: &CudaOperand| o.layout.as_rows().expect("accepts() asks for rows").2 as i64;
    let partial = ffi::Conv2dGradWeight {
        x: x.address,
        x_step: step(x),
        dy: dy.address,
        dy_step: step(dy),
        partial: call.scratch,
        geometry: geometry(&op.spec, xs[0], [xs[1], xs[2]], [ys[1], ys[2]], op.kernel, 1)?,
        groups: groups as i32,
        cin: (xs[3] / groups) as i32,
        cout: (ys[3] / groups) as i32,
        split_pixels: split.pixels as i32,
    };
    let sum = ffi::Conv2dGradWeightSum {
        partial: call.scratch,
        dw: dw.address,
        len: dw.ty.len() as i64,
        splits: split.splits as i32,
        cin: partial.cin,
        taps: (op.kernel[0] * op.kernel[1]) as i32,
        reserved: 0,
    };
    let tile = if split.tensor { "128x64x32" } else { "simt_64x64x16" };
    let sums = Launch::new("conv2d_grad_weight_sum_f32", [dw.ty.len().div_ceil(THREADS) as u32, 1, 1], &sum);
    if split.splits == 0 {
        return Ok(vec![sums]); // no pixels: zeros
    }
    let grid = [split.tiles as u32, split.splits as u32, groups as u32];
    Ok(vec![Launch::new(format!("conv2d_grad_weight_{tile}_{}", x.ty.dtype), grid, &partial), sums])
}
