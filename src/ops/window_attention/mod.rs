//! `window_attention`: self-attention within shifted windows with a relative position bias, as in
//! Swin (Liu et al. 2021, arXiv 2103.14030) and SwinIR.
//!
//! Rolling by the shift, cutting into windows, masking and putting back are done by index: tokens
//! are read from and written to where they lie in the image.

mod cases;
mod cpu;
mod cpu_grad;
mod cuda;
mod reference;

pub use cases::ENTRIES;

use super::activation::expect_f32;
use super::attention::last_axis_dense;
use crate::device::kernel::Launch;
use crate::error::Result;
use crate::graph::cuda::{CudaCall, Storage};
use crate::graph::{
    Array, Cost, Gradient, GradientContext, GraphBuilder, Layout, Op, TensorType, ValueId, op::CpuCall,
};
use crate::tensor::DType;

/// Added to the score of two tokens of a window that are no neighbours in the image.
const MASKED: f32 = -100.0;

/// Operands: qkv f32 `[B, H, W, 3·C]`, whose channels are q, k, v, each `heads` runs of equal
/// length, in any layout whose last axis is dense; the bias table f32 `[(2w−1)², heads]`, whose row
/// `(dy+w−1)·(2w−1) + dx+w−1` holds for tokens that lie (dy, dx) apart (query − key).
/// Result: f32 `[B, H, W, C]`.
///
/// The image is rolled by `−shift` on both axes, cut into windows, and rolled back. Where the roll
/// brought together what lies on opposite sides of the image, −100 is added to the scores. H and W
/// must be multiples of the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowAttention {
    /// Side of a window, in tokens.
    pub window: usize,
    /// How far windows are moved, less than `window`.
    pub shift: usize,
    /// Number of heads.
    pub heads: usize,
    /// Factor of the dot products, usually the head dimension to the power −½.
    pub scale: f32,
}

/// Gradients of [`WindowAttention`]. Operands: qkv, table, d_out. Results: like qkv and table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowAttentionGrad(pub WindowAttention);

/// Where tokens of windows lie in the image.
#[derive(Clone, Copy, Debug)]
struct Windows {
    batch: usize,
    height: usize,
    width: usize,
    window: usize,
    shift: usize,
    heads: usize,
    /// Elements of one head of one token.
    depth: usize,
}

impl Windows {
    fn of(op: &WindowAttention, qkv: &[usize]) -> Self {
        Windows {
            batch: qkv[0],
            height: qkv[1],
            width: qkv[2],
            window: op.window,
            shift: op.shift,
            heads: op.heads,
            depth: qkv[3] / (3 * op.heads),
        }
    }

    /// Tokens of a window.
    fn tokens(&self) -> usize {
        self.window * self.window
    }

    /// Windows of the whole batch.
    fn count(&self) -> usize {
        self.batch * self.height * self.width / self.tokens()
    }

    /// Token `i` of window `n`: batch entry, row, column, and the region of the rolled image it is
    /// in; tokens of different regions do not see each other.
    fn token(&self, n: usize, i: usize) -> ([usize; 3], usize) {
        let (rows, columns) = (self.height / self.window, self.width / self.window);
        let (b, wy, wx) = (n / columns / rows, n / columns % rows, n % columns);
        let place = |w: usize, i: usize, extent: usize| {
            let rolled = w * self.window + i;
            let region = (self.shift > 0 && rolled + self.window >= extent) as usize
                + (self.shift > 0 && rolled + self.shift >= extent) as usize;
            ((rolled + self.shift) % extent, region)
        };
        let (y, ry) = place(wy, i / self.window, self.height);
        let (x, rx) = place(wx, i % self.window, self.width);
        ([b, y, x], ry * 3 + rx)
    }

    /// Row of the bias table for query token `i` and key token `j` of a window.
    fn table_row(&self, i: usize, j: usize) -> usize {
        let w = self.window;
        let (dy, dx) = (i / w + w - 1 - j / w, i % w + w - 1 - j % w);
        dy * (2 * w - 1) + dx
    }
}

impl WindowAttention {
    /// Visible pairs of tokens over all heads.
    fn pairs(&self, qkv: &TensorType) -> f64 {
        let windows = Windows::of(self, &qkv.shape);
        (windows.count() * windows.tokens() * windows.tokens() * self.heads) as f64
    }

    fn check(&self, qkv: &TensorType, table: &TensorType) -> Result<(), String> {
        let WindowAttention { window, shift, heads, .. } = *self;
        expect_f32("qkv", qkv)?;
        expect_f32("table", table)?;
        if window == 0 || heads == 0 || shift >= window {
            return Err(format!("window {window}, shift {shift} and {heads} heads: expected shift < window"));
        }
        let [_, height, width, channels] = qkv.shape[..] else {
            return Err(format!("qkv must be [batch, height, width, 3·channels], found {qkv}"));
        };
        if height % window != 0 || width % window != 0 {
            return Err(format!(
                "{height}×{width} tokens must be multiples of the window {window}: pad first"
            ));
        }
        if channels % (3 * heads) != 0 {
            return Err(format!("{channels} channels are not three times {heads} heads"));
        }
        let rows = (2 * window - 1).pow(2);
        if table.shape != [rows, heads] {
            return Err(format!("table must be [{rows}, {heads}] for window {window}, found {table}"));
        }
        Ok(())
    }
}

impl Op for WindowAttention {
    fn name(&self) -> &'static str {
        "window_attention"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [qkv, table] = inputs else { return Err(format!("takes 2 operands, found {}", inputs.len())) };
        self.check(qkv, table)?;
        let mut shape = qkv.shape.clone();
        shape[3] /= 3;
        Ok(vec![TensorType::f32(shape)])
    }

    fn gradient(&self, g: &mut GradientContext) -> Result<Gradient> {
        let dy = g.dy();
        let d = g.b.node(WindowAttentionGrad(*self), &[g.inputs[0], g.inputs[1], dy])?;
        Ok(Gradient::Inputs(d.into_iter().map(Some).collect()))
    }

    /// As for `attention`.
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let depth = inputs[0].last() / (3 * self.heads);
        Cost::dense(self.pairs(inputs[0]) * (4.0 * depth as f64 + 5.0), inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu::forward(self, call);
        Ok(())
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        cpu::scratch(Windows::of(self, &inputs[0].shape), threads)
    }

    fn cuda_storage(
        &self,
        inputs: &[&TensorType],
        outputs: &[&TensorType],
        _kept: &[DType],
        compute: DType,
    ) -> Storage {
        cuda::storage(self, inputs, outputs, compute)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::forward(self, call)
    }

    fn naive_in(&self, inputs: &[Array<f64>], dtype: DType) -> Option<Vec<Array<f64>>> {
        Some(reference::forward_in(self, inputs, dtype))
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input == 0 { last_axis_dense(layout) } else { layout.is_dense() }
    }
}

impl Op for WindowAttentionGrad {
    fn name(&self) -> &'static str {
        "window_attention_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [qkv, table, d_out] = inputs else {
            return Err(format!("takes 3 operands, found {}", inputs.len()));
        };
        let out = &self.0.infer(&[qkv, table])?[0];
        if out != *d_out {
            return Err(format!("d_out must be {out}, found {d_out}"));
        }
        Ok(vec![(*qkv).clone(), (*table).clone()])
    }

    fn gradient(&self, _: &mut GradientContext) -> Result<Gradient> {
        Ok(Gradient::NotDifferentiable("second derivatives of attention are not provided"))
    }

    /// Per pair five products (scores again, dP, dV, dK, dQ), softmax and its gradient.
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let depth = inputs[0].last() / (3 * self.0.heads);
        Cost::dense(self.0.pairs(inputs[0]) * (10.0 * depth as f64 + 11.0), inputs, outputs)
    }

    fn cpu(&self, call: CpuCall) -> Result<(), String> {
        cpu_grad::backward(&self.0, call);
        Ok(())
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _: &[&TensorType], threads: usize) -> usize {
        cpu_grad::scratch(Windows::of(&self.0, &inputs[0].shape), threads)
    }

    fn cuda_storage(
        &self,
        inputs: &[&TensorType],
        outputs: &[&TensorType],
        _kept: &[DType],
        compute: DType,
    ) -> Storage {
        cuda::storage(&self.0, inputs, outputs, compute)
    }

    fn cuda(&self, call: &mut CudaCall) -> Result<Vec<Launch>, String> {
        cuda::backward(&self.0, call)
    }

    fn naive_in(&self, inputs: &[Array<f64>], dtype: DType) -> Option<Vec<Array<f64>>> {
        Some(reference::backward_in(&self.0, inputs, dtype))
    }

    fn cuda_scratch(&self, inputs: &[&TensorType], _: &[&TensorType]) -> usize {
        cuda::backward_scratch(&self.0, inputs[0])
    }

    fn accepts(&self, input: usize, layout: &Layout) -> bool {
        if input == 1 { layout.is_dense() } else { last_axis_dense(layout) }
    }
}

impl GraphBuilder {
    /// Attention within shifted windows of qkv `[B, H, W, 3·C]` with a bias table
    /// `[(2w−1)², heads]`; see [`WindowAttention`]. The result is `[B, H, W, C]`.
    pub fn window_attention(
        &mut self,
        qkv: ValueId,
        table: ValueId,
        attributes: WindowAttention,
    ) -> Result<ValueId> {
        self.node1(attributes, &[qkv, table])
    }
}
