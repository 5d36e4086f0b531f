//! The gradients: of the input, a convolution; of the weight, kernels of `cuda/conv2d_grad.cu`.

use super::cuda::{BLOCKS, Fused, Problem, THREADS, four, geometry};
use super::{Conv2dGradInput, Conv2dGradWeight};
use crate::device::kernel::Launch;
use crate::ffi;
use crate::graph::TensorType;
use crate::graph::cuda::{CudaCall, CudaOperand};
use crate::ops::epilogue::Epilogue;
use crate::tensor::DType;

impl Problem {
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
}

pub(super) fn grad_input_scratch(op: &Conv2dGradInput, inputs: &[&TensorType]) -> usize {
    Problem::grad_input(op, inputs[0], inputs[1]).map_or(0, |p| p.scratch(inputs[0].dtype))
}

pub(super) fn grad_input(op: &Conv2dGradInput, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let [dy, w] = &call.inputs[..] else { unreachable!("infer takes two operands") };
    if call.outputs[0].ty.is_empty() {
        return Ok(vec![]);
    }
    let problem = Problem::grad_input(op, &dy.ty, &w.ty)?;
    let epilogue = Epilogue::default().on_cuda(None, None);
    problem.launches(call, &call.inputs[..1], w, epilogue, Fused::default())
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
