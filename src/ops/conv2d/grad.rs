//! Gradients of `conv2d`.

use super::{ConvSpec, cpu, cuda_grad, expect_f32, library, weight_storage};
use crate::device::kernel::Launch;
use crate::device::library::LibraryCall;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{Cost, Gradient, GradientContext, Layout, Op, TensorType, op::CpuCall};
use crate::ops::weight::expect_weight;
use crate::tensor::DType;

/// Why gradients of gradients stop here.
const FIRST_ORDER: &str = "second derivatives of convolutions are not provided";

/// Operands: dy `[B, H′, W′, N]`, weight `[N, C/groups, kh, kw]` (f32, bf16 or f16). Result: dx `[B, H, W, C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dGradInput {
    /// Of the forward convolution.
    pub spec: ConvSpec,
    /// Height and width of the forward input.
    pub size: [usize; 2],
}

/// Operands: x `[B, H, W, C]`, dy `[B, H′, W′, N]`. Result: dW `[N, C/groups, kh, kw]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dGradWeight {
    /// Of the forward convolution.
    pub spec: ConvSpec,
    /// Kernel height and width.
    pub kernel: [usize; 2],
}

/// Checks that dy has the size that the forward convolution gives.
fn check(spec: &ConvSpec, size: [usize; 2], kernel: [usize; 2], dy: &TensorType) -> Result<(), String> {
    for axis in 0..2 {
        if spec.extent(axis, size[axis], kernel[axis]) != dy.shape.get(1 + axis).copied() {
            return Err(format!("dy {dy} does not fit an input of {size:?} and a kernel of {kernel:?}"));
        }
    }
    Ok(())
}

/// Multiply-adds, times two, of a convolution from `x` to `y`.
fn products(spec: &ConvSpec, x: &[usize], y: &[usize], kernel: [usize; 2]) -> f64 {
    let taps = spec.live_taps(0, x[1], y[1], kernel[0]) * spec.live_taps(1, x[2], y[2], kernel[1]);
    2.0 * (x[0] * taps * x[3] / spec.groups * y[3]) as f64
}

fn two<'a>(inputs: &[&'a TensorType]) -> Result<[&'a TensorType; 2], String> {
    let [a, b] = inputs else { return Err(format!("takes 2 operands, found {}", inputs.len())) };
    expect_f32("the first operand", a)?;
    if a.rank() != 4 || b.rank() != 4 {
        return Err(format!("operands must have 4 axes, found {a} and {b}"));
    }
    Ok([a, b])
}

impl Op for Conv2dGradInput {
    fn name(&self) -> &'static str {
        "conv2d_grad_input"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [dy, w] = two(inputs)?;
        expect_weight("the weight", w)?;
        check(&self.spec, self.size, [w.shape[2], w.shape[3]], dy)?;
        if dy.shape[3] != w.shape[0] {
            return Err(format!("dy {dy} does not fit the weight {w}"));
        }
        let c = w.shape[1] * self.spec.groups;
        Ok(vec![TensorType::f32([dy.shape[0], self.size[0], self.size[1], c])])
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable(FIRST_ORDER))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let w = &inputs[1].shape;
        Cost::dense(products(&self.spec, &outputs[0].shape, &inputs[0].shape, [w[2], w[3]]), inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::grad_input(self, call);
        Ok(())
    }

    fn cuda_storage(
        &self,
        inputs: &[&TensorType],
        _outputs: &[&TensorType],
        _kept: &[DType],
        compute: DType,
    ) -> Storage {
        Storage { inputs: vec![compute, weight_storage(inputs[1], compute)], outputs: vec![compute] }
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda_grad::grad_input(self, call)
    }

    fn cuda_library(&self, call: &CudaCall) -> Option<LibraryCall> {
        library::grad_input(self, call)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        cuda_grad::grad_input_scratch(self, inputs)
    }

    fn cuda_accepts(&self, input: usize, layout: &Layout) -> bool {
        if input == 0 { layout.as_rows().is_some() } else { layout.is_dense() }
    }
}

impl Op for Conv2dGradWeight {
    fn name(&self) -> &'static str {
        "conv2d_grad_weight"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, dy] = two(inputs)?;
        expect_f32("dy", dy)?;
        check(&self.spec, [x.shape[1], x.shape[2]], self.kernel, dy)?;
        let g = self.spec.groups;
        if x.shape[0] != dy.shape[0] || x.shape[3] % g != 0 || dy.shape[3] % g != 0 {
            return Err(format!("x {x} and dy {dy} with {g} groups do not fit"));
        }
        Ok(vec![TensorType::f32([dy.shape[3], x.shape[3] / g, self.kernel[0], self.kernel[1]])])
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable(FIRST_ORDER))
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::dense(products(&self.spec, &inputs[0].shape, &inputs[1].shape, self.kernel), inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::grad_weight(self, call);
        Ok(())
    }

    /// The gradient of a weight is for an optimiser: f32.
    fn cuda_storage(
        &self,
        _inputs: &[&TensorType],
        _outputs: &[&TensorType],
        _kept: &[DType],
        compute: DType,
    ) -> Storage {
        Storage { inputs: vec![compute; 2], outputs: vec![DType::F32] }
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda_grad::grad_weight(self, call)
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
        cuda_grad::grad_weight_scratch(self, inputs, outputs[0])
    }

    fn cuda_accepts(&self, _input: usize, layout: &Layout) -> bool {
        layout.as_rows().is_some()
    }
}
