//! Parameters of the kernels, one struct a kernel: what `ffi/*.h` says, in Rust.
//!
//! Written by `tools/bindgen`; change the headers, not this file.
#![allow(rustdoc::broken_intra_doc_links)] // shapes in comments of C are no links
// headers sha256: c894fbf54db8f41a215ea6a7b378ebd884a52771121597d474d2f292249b38a3

/// As in the headers.
pub const ACTIVATION_NONE: u32 = 0;
/// As in the headers.
pub const ACTIVATION_RELU: u32 = 1;
/// As in the headers.
pub const ACTIVATION_LEAKY_RELU: u32 = 2;
/// As in the headers.
pub const ACTIVATION_GELU: u32 = 3;
/// As in the headers.
pub const ACTIVATION_GELU_TANH: u32 = 4;
/// As in the headers.
pub const ACTIVATION_SILU: u32 = 5;
/// As in the headers.
pub const ACTIVATION_SIGMOID: u32 = 6;
/// As in the headers.
pub const ACTIVATION_TANH: u32 = 7;
/// As in the headers.
pub const ACTIVATION_EXP: u32 = 8;
/// As in the headers.
pub const ACTIVATION_LN: u32 = 9;
/// As in the headers.
pub const ACTIVATION_SQRT: u32 = 10;
/// As in the headers.
pub const ACTIVATION_SIN: u32 = 11;
/// As in the headers.
pub const ACTIVATION_COS: u32 = 12;
/// As in the headers.
pub const ACTIVATION_ABS: u32 = 13;
/// As in the headers.
pub const ACTIVATION_CLAMP: u32 = 14;
/// As in the headers.
pub const BINARY_ADD: u32 = 0;
/// As in the headers.
pub const BINARY_SUB: u32 = 1;
/// As in the headers.
pub const BINARY_MUL: u32 = 2;
/// As in the headers.
pub const BINARY_DIV: u32 = 3;
/// As in the headers.
pub const BINARY_MEMBERS: u32 = 16;
/// As in the headers.
pub const BINARY_OPERAND_VECTOR: u32 = 0;
/// As in the headers.
pub const BINARY_OPERAND_ONE: u32 = 1;
/// As in the headers.
pub const BINARY_OPERAND_NUMBER: u32 = 2;
/// As in the headers.
pub const CONV2D_SOURCES: u32 = 8;
/// As in the headers.
pub const ROW_NORMS: u32 = 2;
/// As in the headers.
pub const GEMM_MEMBERS: u32 = 8;
/// As in the headers.
pub const MODULATE_EXPERTS: u32 = 8;
/// Parameters of `activation_fwd_*` and `activation_bwd_*`: y = f(x), or y = f'(x) * dy, element by element.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ActivationMap {
    /// x, dense.
    pub x: u64,
    /// dy, dense, like x; only of the gradient.
    pub dy: u64,
    /// y, dense.
    pub y: u64,
    /// Number of elements.
    pub len: i64,
    /// One of `ACTIVATION_*`.
    pub kind: i32,
    /// What the function is given; see `ACTIVATION_*`.
    pub a: f32,
    /// See `a`.
    pub b: f32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ActivationMap"][::std::mem::size_of::<ActivationMap>() - 48usize];
    ["Alignment of ActivationMap"][::std::mem::align_of::<ActivationMap>() - 8usize];
    ["Offset of field: ActivationMap::x"][::std::mem::offset_of!(ActivationMap, x) - 0usize];
    ["Offset of field: ActivationMap::dy"][::std::mem::offset_of!(ActivationMap, dy) - 8usize];
    ["Offset of field: ActivationMap::y"][::std::mem::offset_of!(ActivationMap, y) - 16usize];
    ["Offset of field: ActivationMap::len"][::std::mem::offset_of!(ActivationMap, len) - 24usize];
    ["Offset of field: ActivationMap::kind"][::std::mem::offset_of!(ActivationMap, kind) - 32usize];
    ["Offset of field: ActivationMap::a"][::std::mem::offset_of!(ActivationMap, a) - 36usize];
    ["Offset of field: ActivationMap::b"][::std::mem::offset_of!(ActivationMap, b) - 40usize];
    ["Offset of field: ActivationMap::reserved"][::std::mem::offset_of!(ActivationMap, reserved) - 44usize];
};
/// Parameters of `adaln_fwd_*`: y = (x - mean) * rstd * (1 + scale) + shift, row by row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AdalnFwd {
    /// x, `rows` rows of `cols` elements, `x_step` elements apart.
    pub x: u64,
    /// shift and scale, f32: one vector of `cols` elements a sample, `shift_step` and `scale_step` apart (0: shared).
    pub shift: u64,
    /// See `shift`.
    pub scale: u64,
    /// y, dense rows.
    pub y: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `shift`.
    pub shift_step: i64,
    /// See `shift`.
    pub scale_step: i64,
    /// See `x`.
    pub rows: i32,
    /// See `x`.
    pub cols: i32,
    /// Rows of one sample.
    pub tokens: i32,
    /// Added to the variance.
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdalnFwd"][::std::mem::size_of::<AdalnFwd>() - 72usize];
    ["Alignment of AdalnFwd"][::std::mem::align_of::<AdalnFwd>() - 8usize];
    ["Offset of field: AdalnFwd::x"][::std::mem::offset_of!(AdalnFwd, x) - 0usize];
    ["Offset of field: AdalnFwd::shift"][::std::mem::offset_of!(AdalnFwd, shift) - 8usize];
    ["Offset of field: AdalnFwd::scale"][::std::mem::offset_of!(AdalnFwd, scale) - 16usize];
    ["Offset of field: AdalnFwd::y"][::std::mem::offset_of!(AdalnFwd, y) - 24usize];
    ["Offset of field: AdalnFwd::x_step"][::std::mem::offset_of!(AdalnFwd, x_step) - 32usize];
    ["Offset of field: AdalnFwd::shift_step"][::std::mem::offset_of!(AdalnFwd, shift_step) - 40usize];
    ["Offset of field: AdalnFwd::scale_step"][::std::mem::offset_of!(AdalnFwd, scale_step) - 48usize];
    ["Offset of field: AdalnFwd::rows"][::std::mem::offset_of!(AdalnFwd, rows) - 56usize];
    ["Offset of field: AdalnFwd::cols"][::std::mem::offset_of!(AdalnFwd, cols) - 60usize];
    ["Offset of field: AdalnFwd::tokens"][::std::mem::offset_of!(AdalnFwd, tokens) - 64usize];
    ["Offset of field: AdalnFwd::eps"][::std::mem::offset_of!(AdalnFwd, eps) - 68usize];
};
/// The factors of one step for a group of parameters. They lie in device memory, since they change from step to
/// step while the launches stay.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AdamwFactors {
    /// 1 - rate * weight decay.
    pub keep: f32,
    /// -rate / (1 - beta1^t) at step t.
    pub along: f32,
    /// sqrt(1 - beta2^t).
    pub correct: f32,
    /// 1 - beta1.
    pub first: f32,
    /// beta2 and 1 - beta2.
    pub second: f32,
    /// See `second`.
    pub second_rest: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdamwFactors"][::std::mem::size_of::<AdamwFactors>() - 32usize];
    ["Alignment of AdamwFactors"][::std::mem::align_of::<AdamwFactors>() - 4usize];
    ["Offset of field: AdamwFactors::keep"][::std::mem::offset_of!(AdamwFactors, keep) - 0usize];
    ["Offset of field: AdamwFactors::along"][::std::mem::offset_of!(AdamwFactors, along) - 4usize];
    ["Offset of field: AdamwFactors::correct"][::std::mem::offset_of!(AdamwFactors, correct) - 8usize];
    ["Offset of field: AdamwFactors::first"][::std::mem::offset_of!(AdamwFactors, first) - 12usize];
    ["Offset of field: AdamwFactors::second"][::std::mem::offset_of!(AdamwFactors, second) - 16usize];
    ["Offset of field: AdamwFactors::second_rest"]
        [::std::mem::offset_of!(AdamwFactors, second_rest) - 20usize];
    ["Offset of field: AdamwFactors::eps"][::std::mem::offset_of!(AdamwFactors, eps) - 24usize];
    ["Offset of field: AdamwFactors::reserved"][::std::mem::offset_of!(AdamwFactors, reserved) - 28usize];
};
/// Parameters of `adamw_step_*`: one step for one tensor of parameters.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AdamwStep {
    /// Parameters, f32, changed in place.
    pub param: u64,
    /// Sums of their gradients, f32.
    pub grad: u64,
    /// First and second moments, f32, changed in place.
    pub first: u64,
    /// See `first`.
    pub second: u64,
    /// The moving average of the parameters, f32, changed in place. 0: there is none.
    pub ema: u64,
    /// The parameters as kernels read them, in the element type that the kernel's name ends with. `f32`: there
    /// are none but the parameters themselves.
    pub copy: u64,
    /// AdamwFactors.
    pub factors: u64,
    /// One f32 number by which the gradients are multiplied: what `adamw_norm_total_f32` leaves. If it is no
    /// finite number, nothing is changed. 0: the gradients are taken as they are.
    pub grad_scale: u64,
    /// Number of parameters.
    pub len: i64,
    /// How much the moving average keeps.
    pub ema_keep: f32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdamwStep"][::std::mem::size_of::<AdamwStep>() - 80usize];
    ["Alignment of AdamwStep"][::std::mem::align_of::<AdamwStep>() - 8usize];
    ["Offset of field: AdamwStep::param"][::std::mem::offset_of!(AdamwStep, param) - 0usize];
    ["Offset of field: AdamwStep::grad"][::std::mem::offset_of!(AdamwStep, grad) - 8usize];
    ["Offset of field: AdamwStep::first"][::std::mem::offset_of!(AdamwStep, first) - 16usize];
    ["Offset of field: AdamwStep::second"][::std::mem::offset_of!(AdamwStep, second) - 24usize];
    ["Offset of field: AdamwStep::ema"][::std::mem::offset_of!(AdamwStep, ema) - 32usize];
    ["Offset of field: AdamwStep::copy"][::std::mem::offset_of!(AdamwStep, copy) - 40usize];
    ["Offset of field: AdamwStep::factors"][::std::mem::offset_of!(AdamwStep, factors) - 48usize];
    ["Offset of field: AdamwStep::grad_scale"][::std::mem::offset_of!(AdamwStep, grad_scale) - 56usize];
    ["Offset of field: AdamwStep::len"][::std::mem::offset_of!(AdamwStep, len) - 64usize];
    ["Offset of field: AdamwStep::ema_keep"][::std::mem::offset_of!(AdamwStep, ema_keep) - 72usize];
    ["Offset of field: AdamwStep::reserved"][::std::mem::offset_of!(AdamwStep, reserved) - 76usize];
};
/// Parameters of `adamw_accumulate_*`: adds a gradient to a sum.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AdamwAccumulate {
    /// Sums, f32, changed in place.
    pub sum: u64,
    /// The gradient, in the element type that the kernel's name ends with.
    pub grad: u64,
    /// One f32 number: 0 if the gradient takes the place of what is there, else it is added.
    pub add: u64,
    /// Number of elements.
    pub len: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdamwAccumulate"][::std::mem::size_of::<AdamwAccumulate>() - 32usize];
    ["Alignment of AdamwAccumulate"][::std::mem::align_of::<AdamwAccumulate>() - 8usize];
    ["Offset of field: AdamwAccumulate::sum"][::std::mem::offset_of!(AdamwAccumulate, sum) - 0usize];
    ["Offset of field: AdamwAccumulate::grad"][::std::mem::offset_of!(AdamwAccumulate, grad) - 8usize];
    ["Offset of field: AdamwAccumulate::add"][::std::mem::offset_of!(AdamwAccumulate, add) - 16usize];
    ["Offset of field: AdamwAccumulate::len"][::std::mem::offset_of!(AdamwAccumulate, len) - 24usize];
};
/// Parameters of `adamw_norm_parts_*`: sums of squares of blocks of one tensor.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AdamwNormParts {
    /// f32.
    pub x: u64,
    /// f32, one sum for each block of 16384 elements.
    pub parts: u64,
    /// Number of elements.
    pub len: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdamwNormParts"][::std::mem::size_of::<AdamwNormParts>() - 24usize];
    ["Alignment of AdamwNormParts"][::std::mem::align_of::<AdamwNormParts>() - 8usize];
    ["Offset of field: AdamwNormParts::x"][::std::mem::offset_of!(AdamwNormParts, x) - 0usize];
    ["Offset of field: AdamwNormParts::parts"][::std::mem::offset_of!(AdamwNormParts, parts) - 8usize];
    ["Offset of field: AdamwNormParts::len"][::std::mem::offset_of!(AdamwNormParts, len) - 16usize];
};
/// Parameters of `adamw_norm_total_*`: the norm of all tensors together, and what clips it.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AdamwNormTotal {
    /// f32, the sums of all tensors' blocks.
    pub parts: u64,
    /// One f32 number that makes means of the sums of gradients. 0: they are taken as they are.
    pub unit: u64,
    /// Two f32 numbers: the norm of the means, and unit * min(1, most / (norm + 1e-6)), which is no number if the
    /// norm is not finite.
    pub out: u64,
    /// Number of sums.
    pub len: i64,
    /// What the norm shall not exceed.
    pub most: f32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdamwNormTotal"][::std::mem::size_of::<AdamwNormTotal>() - 40usize];
    ["Alignment of AdamwNormTotal"][::std::mem::align_of::<AdamwNormTotal>() - 8usize];
    ["Offset of field: AdamwNormTotal::parts"][::std::mem::offset_of!(AdamwNormTotal, parts) - 0usize];
    ["Offset of field: AdamwNormTotal::unit"][::std::mem::offset_of!(AdamwNormTotal, unit) - 8usize];
    ["Offset of field: AdamwNormTotal::out"][::std::mem::offset_of!(AdamwNormTotal, out) - 16usize];
    ["Offset of field: AdamwNormTotal::len"][::std::mem::offset_of!(AdamwNormTotal, len) - 24usize];
    ["Offset of field: AdamwNormTotal::most"][::std::mem::offset_of!(AdamwNormTotal, most) - 32usize];
    ["Offset of field: AdamwNormTotal::reserved"][::std::mem::offset_of!(AdamwNormTotal, reserved) - 36usize];
};
/// A tensor `[batch, tokens, heads, depth]` whose depth is dense.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AttentionTensor {
    /// The first element.
    pub data: u64,
    /// Elements between two entries of the batch, two tokens, two heads.
    pub batch_step: i64,
    /// See `batch_step`.
    pub token_step: i64,
    /// See `batch_step`.
    pub head_step: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionTensor"][::std::mem::size_of::<AttentionTensor>() - 32usize];
    ["Alignment of AttentionTensor"][::std::mem::align_of::<AttentionTensor>() - 8usize];
    ["Offset of field: AttentionTensor::data"][::std::mem::offset_of!(AttentionTensor, data) - 0usize];
    ["Offset of field: AttentionTensor::batch_step"]
        [::std::mem::offset_of!(AttentionTensor, batch_step) - 8usize];
    ["Offset of field: AttentionTensor::token_step"]
        [::std::mem::offset_of!(AttentionTensor, token_step) - 16usize];
    ["Offset of field: AttentionTensor::head_step"]
        [::std::mem::offset_of!(AttentionTensor, head_step) - 24usize];
};
/// What `attention_*` kernels of both directions need to know: operands, extents, visibility.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AttentionProblem {
    /// Queries, keys and values; the type in memory is the kernel's.
    pub q: AttentionTensor,
    /// See `q`.
    pub k: AttentionTensor,
    /// See `q`.
    pub v: AttentionTensor,
    /// Added to the scaled scores, f32 `[batch, heads, queries, keys]`; 0: none.
    pub bias: u64,
    /// Elements between two entries of the batch, two heads (0: shared), two queries.
    pub bias_batch_step: i64,
    /// See `bias_batch_step`.
    pub bias_head_step: i64,
    /// See `bias_batch_step`.
    pub bias_query_step: i64,
    /// int64, keys that each entry of k and v has, clamped to 0..=`keys`; 0: all.
    pub key_lengths: u64,
    /// int32, which entry of k, v and `key_lengths` each entry of q reads; 0: its own.
    pub kv_rows: u64,
    /// Entries of q.
    pub batch: i32,
    /// See `batch`.
    pub heads: i32,
    /// See `batch`.
    pub queries: i32,
    /// See `key_lengths`.
    pub keys: i32,
    /// Elements of a head of a token.
    pub depth: i32,
    /// Whether query i sees keys 0..=i only.
    pub causal: i32,
    /// Factor of the dot products.
    pub scale: f32,
    /// The same times log2(e): scores are exponents of 2.
    pub scale_log2: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionProblem"][::std::mem::size_of::<AttentionProblem>() - 176usize];
    ["Alignment of AttentionProblem"][::std::mem::align_of::<AttentionProblem>() - 8usize];
    ["Offset of field: AttentionProblem::q"][::std::mem::offset_of!(AttentionProblem, q) - 0usize];
    ["Offset of field: AttentionProblem::k"][::std::mem::offset_of!(AttentionProblem, k) - 32usize];
    ["Offset of field: AttentionProblem::v"][::std::mem::offset_of!(AttentionProblem, v) - 64usize];
    ["Offset of field: AttentionProblem::bias"][::std::mem::offset_of!(AttentionProblem, bias) - 96usize];
    ["Offset of field: AttentionProblem::bias_batch_step"]
        [::std::mem::offset_of!(AttentionProblem, bias_batch_step) - 104usize];
    ["Offset of field: AttentionProblem::bias_head_step"]
        [::std::mem::offset_of!(AttentionProblem, bias_head_step) - 112usize];
    ["Offset of field: AttentionProblem::bias_query_step"]
        [::std::mem::offset_of!(AttentionProblem, bias_query_step) - 120usize];
    ["Offset of field: AttentionProblem::key_lengths"]
        [::std::mem::offset_of!(AttentionProblem, key_lengths) - 128usize];
    ["Offset of field: AttentionProblem::kv_rows"]
        [::std::mem::offset_of!(AttentionProblem, kv_rows) - 136usize];
    ["Offset of field: AttentionProblem::batch"][::std::mem::offset_of!(AttentionProblem, batch) - 144usize];
    ["Offset of field: AttentionProblem::heads"][::std::mem::offset_of!(AttentionProblem, heads) - 148usize];
    ["Offset of field: AttentionProblem::queries"]
        [::std::mem::offset_of!(AttentionProblem, queries) - 152usize];
    ["Offset of field: AttentionProblem::keys"][::std::mem::offset_of!(AttentionProblem, keys) - 156usize];
    ["Offset of field: AttentionProblem::depth"][::std::mem::offset_of!(AttentionProblem, depth) - 160usize];
    ["Offset of field: AttentionProblem::causal"]
        [::std::mem::offset_of!(AttentionProblem, causal) - 164usize];
    ["Offset of field: AttentionProblem::scale"][::std::mem::offset_of!(AttentionProblem, scale) - 168usize];
    ["Offset of field: AttentionProblem::scale_log2"]
        [::std::mem::offset_of!(AttentionProblem, scale_log2) - 172usize];
};
/// Parameters of `attention_fwd_*`: out = softmax(scale·QKᵀ + bias)·V.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AttentionFwd {
    /// Operands and extents.
    pub problem: AttentionProblem,
    /// Result, dense `[batch, queries, heads, depth]`.
    pub out: u64,
    /// Natural logarithm of the sum of the exponentials of each row of scores, f32 `[batch, heads, queries]`.
    pub lse: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionFwd"][::std::mem::size_of::<AttentionFwd>() - 192usize];
    ["Alignment of AttentionFwd"][::std::mem::align_of::<AttentionFwd>() - 8usize];
    ["Offset of field: AttentionFwd::problem"][::std::mem::offset_of!(AttentionFwd, problem) - 0usize];
    ["Offset of field: AttentionFwd::out"][::std::mem::offset_of!(AttentionFwd, out) - 176usize];
    ["Offset of field: AttentionFwd::lse"][::std::mem::offset_of!(AttentionFwd, lse) - 184usize];
};
/// Parameters of `attention_delta_*`, `attention_dq_*`, `attention_dkv_*` and `attention_dbias_*`.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AttentionBwd {
    /// Operands and extents of the forward.
    pub problem: AttentionProblem,
    /// Result of the forward and its gradient.
    pub out: AttentionTensor,
    /// See `out`.
    pub d_out: AttentionTensor,
    /// Log-sum-exp of the forward, f32 `[batch, heads, queries]`.
    pub lse: u64,
    /// Its gradient, f32, dense; 0: none.
    pub d_lse: u64,
    /// Σ out·d_out − d_lse of each row, f32 `[batch, heads, queries]`: written by `attention_delta_*`.
    pub delta: u64,
    /// Gradients, dense: of q; of k; of v.
    pub dq: u64,
    /// See `dq`.
    pub dk: u64,
    /// See `dq`.
    pub dv: u64,
    /// Gradient of the bias, f32, dense `[bias_batch, bias_heads, queries, keys]`.
    pub d_bias: u64,
    /// Leading extents of the bias: `batch` or 1, `heads` or 1.
    pub bias_batch: i32,
    /// See `bias_batch`.
    pub bias_heads: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionBwd"][::std::mem::size_of::<AttentionBwd>() - 304usize];
    ["Alignment of AttentionBwd"][::std::mem::align_of::<AttentionBwd>() - 8usize];
    ["Offset of field: AttentionBwd::problem"][::std::mem::offset_of!(AttentionBwd, problem) - 0usize];
    ["Offset of field: AttentionBwd::out"][::std::mem::offset_of!(AttentionBwd, out) - 176usize];
    ["Offset of field: AttentionBwd::d_out"][::std::mem::offset_of!(AttentionBwd, d_out) - 208usize];
    ["Offset of field: AttentionBwd::lse"][::std::mem::offset_of!(AttentionBwd, lse) - 240usize];
    ["Offset of field: AttentionBwd::d_lse"][::std::mem::offset_of!(AttentionBwd, d_lse) - 248usize];
    ["Offset of field: AttentionBwd::delta"][::std::mem::offset_of!(AttentionBwd, delta) - 256usize];
    ["Offset of field: AttentionBwd::dq"][::std::mem::offset_of!(AttentionBwd, dq) - 264usize];
    ["Offset of field: AttentionBwd::dk"][::std::mem::offset_of!(AttentionBwd, dk) - 272usize];
    ["Offset of field: AttentionBwd::dv"][::std::mem::offset_of!(AttentionBwd, dv) - 280usize];
    ["Offset of field: AttentionBwd::d_bias"][::std::mem::offset_of!(AttentionBwd, d_bias) - 288usize];
    ["Offset of field: AttentionBwd::bias_batch"]
        [::std::mem::offset_of!(AttentionBwd, bias_batch) - 296usize];
    ["Offset of field: AttentionBwd::bias_heads"]
        [::std::mem::offset_of!(AttentionBwd, bias_heads) - 300usize];
};
/// A tensor for the tensor copies of sm_90 (cuda/include/sm90.cuh), as the device that made it encodes it
/// (`KernelDevice::tensor_map`; on a GPU the driver's CUtensorMap). Part of the parameters of kernels `*_sm90`,
/// at a multiple of 64 bytes.
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct TensorMap {
    /// For the device alone.
    pub opaque: [u64; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of TensorMap"][::std::mem::size_of::<TensorMap>() - 128usize];
    ["Alignment of TensorMap"][::std::mem::align_of::<TensorMap>() - 64usize];
    ["Offset of field: TensorMap::opaque"][::std::mem::offset_of!(TensorMap, opaque) - 0usize];
};
impl Default for TensorMap {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
/// Parameters of `attention_fwd_*_sm90`.
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AttentionFwdSm90 {
    /// Queries.
    pub q: TensorMap,
    /// Keys.
    pub k: TensorMap,
    /// Values.
    pub v: TensorMap,
    /// What the kernels of every architecture are told.
    pub forward: AttentionFwd,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionFwdSm90"][::std::mem::size_of::<AttentionFwdSm90>() - 576usize];
    ["Alignment of AttentionFwdSm90"][::std::mem::align_of::<AttentionFwdSm90>() - 64usize];
    ["Offset of field: AttentionFwdSm90::q"][::std::mem::offset_of!(AttentionFwdSm90, q) - 0usize];
    ["Offset of field: AttentionFwdSm90::k"][::std::mem::offset_of!(AttentionFwdSm90, k) - 128usize];
    ["Offset of field: AttentionFwdSm90::v"][::std::mem::offset_of!(AttentionFwdSm90, v) - 256usize];
    ["Offset of field: AttentionFwdSm90::forward"]
        [::std::mem::offset_of!(AttentionFwdSm90, forward) - 384usize];
};
impl Default for AttentionFwdSm90 {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
/// Parameters of `attention_dq_*_sm90` and `attention_dkv_*_sm90`.
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct AttentionBwdSm90 {
    /// Queries.
    pub q: TensorMap,
    /// Keys.
    pub k: TensorMap,
    /// Values.
    pub v: TensorMap,
    /// Gradient of the result.
    pub d_out: TensorMap,
    /// What the kernels of every architecture are told.
    pub backward: AttentionBwd,
    /// Zeros.
    pub reserved: [u64; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionBwdSm90"][::std::mem::size_of::<AttentionBwdSm90>() - 832usize];
    ["Alignment of AttentionBwdSm90"][::std::mem::align_of::<AttentionBwdSm90>() - 64usize];
    ["Offset of field: AttentionBwdSm90::q"][::std::mem::offset_of!(AttentionBwdSm90, q) - 0usize];
    ["Offset of field: AttentionBwdSm90::k"][::std::mem::offset_of!(AttentionBwdSm90, k) - 128usize];
    ["Offset of field: AttentionBwdSm90::v"][::std::mem::offset_of!(AttentionBwdSm90, v) - 256usize];
    ["Offset of field: AttentionBwdSm90::d_out"][::std::mem::offset_of!(AttentionBwdSm90, d_out) - 384usize];
    ["Offset of field: AttentionBwdSm90::backward"]
        [::std::mem::offset_of!(AttentionBwdSm90, backward) - 512usize];
    ["Offset of field: AttentionBwdSm90::reserved"]
        [::std::mem::offset_of!(AttentionBwdSm90, reserved) - 816usize];
};
impl Default for AttentionBwdSm90 {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
/// A divisor of numbers below 2^31, as a multiplication: n / value = (mulhi(n, factor) + n) >> shift.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Divisor {
    /// The divisor.
    pub value: u32,
    /// ⌊2^32·(2^shift − value) / value⌋ + 1
    pub factor: u32,
    /// ⌈log2 value⌉
    pub shift: u32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Divisor"][::std::mem::size_of::<Divisor>() - 16usize];
    ["Alignment of Divisor"][::std::mem::align_of::<Divisor>() - 4usize];
    ["Offset of field: Divisor::value"][::std::mem::offset_of!(Divisor, value) - 0usize];
    ["Offset of field: Divisor::factor"][::std::mem::offset_of!(Divisor, factor) - 4usize];
    ["Offset of field: Divisor::shift"][::std::mem::offset_of!(Divisor, shift) - 8usize];
    ["Offset of field: Divisor::reserved"][::std::mem::offset_of!(Divisor, reserved) - 12usize];
};
/// One result of a launch, and what it is computed from.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct BinaryMember {
    /// x and y, strided; 0 strides repeat.
    pub x: u64,
    /// See `x`.
    pub y: u64,
    /// z, dense.
    pub z: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BinaryMember"][::std::mem::size_of::<BinaryMember>() - 24usize];
    ["Alignment of BinaryMember"][::std::mem::align_of::<BinaryMember>() - 8usize];
    ["Offset of field: BinaryMember::x"][::std::mem::offset_of!(BinaryMember, x) - 0usize];
    ["Offset of field: BinaryMember::y"][::std::mem::offset_of!(BinaryMember, y) - 8usize];
    ["Offset of field: BinaryMember::z"][::std::mem::offset_of!(BinaryMember, z) - 16usize];
};
/// Parameters of `binary_fwd_*`: z = f(x, y) element by element, for each member (blockIdx.z). A unit is
/// what a thread handles at once: some neighbouring elements of z.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct BinaryFwd {
    /// gridDim.z of them, all of the same shapes and strides.
    pub members: [BinaryMember; 16usize],
    /// Elements to step for one unit along each axis, outermost first.
    pub x_strides: [i64; 8usize],
    /// See `x_strides`.
    pub y_strides: [i64; 8usize],
    /// Extents of the axes, in units.
    pub extents: [Divisor; 8usize],
    /// Number of units, below 2^31.
    pub units: u32,
    /// Number of axes.
    pub rank: u32,
    /// One of `BINARY_*`.
    pub kind: i32,
    /// What a unit reads of x, and of y: one of `BINARY_OPERAND_*`.
    pub x_form: i32,
    /// See `x_form`.
    pub y_form: i32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BinaryFwd"][::std::mem::size_of::<BinaryFwd>() - 664usize];
    ["Alignment of BinaryFwd"][::std::mem::align_of::<BinaryFwd>() - 8usize];
    ["Offset of field: BinaryFwd::members"][::std::mem::offset_of!(BinaryFwd, members) - 0usize];
    ["Offset of field: BinaryFwd::x_strides"][::std::mem::offset_of!(BinaryFwd, x_strides) - 384usize];
    ["Offset of field: BinaryFwd::y_strides"][::std::mem::offset_of!(BinaryFwd, y_strides) - 448usize];
    ["Offset of field: BinaryFwd::extents"][::std::mem::offset_of!(BinaryFwd, extents) - 512usize];
    ["Offset of field: BinaryFwd::units"][::std::mem::offset_of!(BinaryFwd, units) - 640usize];
    ["Offset of field: BinaryFwd::rank"][::std::mem::offset_of!(BinaryFwd, rank) - 644usize];
    ["Offset of field: BinaryFwd::kind"][::std::mem::offset_of!(BinaryFwd, kind) - 648usize];
    ["Offset of field: BinaryFwd::x_form"][::std::mem::offset_of!(BinaryFwd, x_form) - 652usize];
    ["Offset of field: BinaryFwd::y_form"][::std::mem::offset_of!(BinaryFwd, y_form) - 656usize];
    ["Offset of field: BinaryFwd::reserved"][::std::mem::offset_of!(BinaryFwd, reserved) - 660usize];
};
/// Parameters of `color_fix_blur_*`: one level of the wavelet decomposition.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ColorFixBlur {
    /// f32 `[height, width, channels]`: what is blurred.
    pub x: u64,
    /// f32, like x: subtracted from x first; 0: nothing.
    pub minus: u64,
    /// f32, like x: gets the blurred picture, or has it added.
    pub y: u64,
    /// See `y`.
    pub height: i32,
    /// See `y`.
    pub width: i32,
    /// See `y`.
    pub channels: i32,
    /// Pixels between taps: 2^level.
    pub radius: i32,
    /// Whether y keeps what it has and gets the blurred picture added.
    pub add: i32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ColorFixBlur"][::std::mem::size_of::<ColorFixBlur>() - 48usize];
    ["Alignment of ColorFixBlur"][::std::mem::align_of::<ColorFixBlur>() - 8usize];
    ["Offset of field: ColorFixBlur::x"][::std::mem::offset_of!(ColorFixBlur, x) - 0usize];
    ["Offset of field: ColorFixBlur::minus"][::std::mem::offset_of!(ColorFixBlur, minus) - 8usize];
    ["Offset of field: ColorFixBlur::y"][::std::mem::offset_of!(ColorFixBlur, y) - 16usize];
    ["Offset of field: ColorFixBlur::height"][::std::mem::offset_of!(ColorFixBlur, height) - 24usize];
    ["Offset of field: ColorFixBlur::width"][::std::mem::offset_of!(ColorFixBlur, width) - 28usize];
    ["Offset of field: ColorFixBlur::channels"][::std::mem::offset_of!(ColorFixBlur, channels) - 32usize];
    ["Offset of field: ColorFixBlur::radius"][::std::mem::offset_of!(ColorFixBlur, radius) - 36usize];
    ["Offset of field: ColorFixBlur::add"][::std::mem::offset_of!(ColorFixBlur, add) - 40usize];
    ["Offset of field: ColorFixBlur::reserved"][::std::mem::offset_of!(ColorFixBlur, reserved) - 44usize];
};
/// What a product or convolution does to its result while it is in registers, part of the parameters of
/// those kernels: y = gate * alpha * act(sum + bias) + residual.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Epilogue {
    /// f32, one value a column of the result; 0: none.
    pub bias: u64,
    /// Dense, of the result's shape and element type, may be the result's memory; 0: none.
    pub residual: u64,
    /// f32, one value a column for each sample; 0: none, a factor of 1.
    pub gate: u64,
    /// Elements between the gates of two samples.
    pub gate_step: i64,
    /// Where y is f32 and the operands are not: y once more, in the operands' type, for the next product; 0: none.
    pub twin: u64,
    /// Factor.
    pub alpha: f32,
    /// Which function: one of `ACTIVATION_*` (ffi/activation.h), and what it is given (`act_a`, `act_b`).
    pub act: i32,
    /// See `act`.
    pub act_a: f32,
    /// See `act`.
    pub act_b: f32,
    /// Rows of a sample, where there is a gate.
    pub gate_rows: i32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Epilogue"][::std::mem::size_of::<Epilogue>() - 64usize];
    ["Alignment of Epilogue"][::std::mem::align_of::<Epilogue>() - 8usize];
    ["Offset of field: Epilogue::bias"][::std::mem::offset_of!(Epilogue, bias) - 0usize];
    ["Offset of field: Epilogue::residual"][::std::mem::offset_of!(Epilogue, residual) - 8usize];
    ["Offset of field: Epilogue::gate"][::std::mem::offset_of!(Epilogue, gate) - 16usize];
    ["Offset of field: Epilogue::gate_step"][::std::mem::offset_of!(Epilogue, gate_step) - 24usize];
    ["Offset of field: Epilogue::twin"][::std::mem::offset_of!(Epilogue, twin) - 32usize];
    ["Offset of field: Epilogue::alpha"][::std::mem::offset_of!(Epilogue, alpha) - 40usize];
    ["Offset of field: Epilogue::act"][::std::mem::offset_of!(Epilogue, act) - 44usize];
    ["Offset of field: Epilogue::act_a"][::std::mem::offset_of!(Epilogue, act_a) - 48usize];
    ["Offset of field: Epilogue::act_b"][::std::mem::offset_of!(Epilogue, act_b) - 52usize];
    ["Offset of field: Epilogue::gate_rows"][::std::mem::offset_of!(Epilogue, gate_rows) - 56usize];
    ["Offset of field: Epilogue::reserved"][::std::mem::offset_of!(Epilogue, reserved) - 60usize];
};
/// One input of a convolution: its pixels `[batch, height, width]`, each a row of dense channels.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ConvSource {
    /// Address of the first pixel.
    pub x: u64,
    /// Elements from one pixel to the next.
    pub step: i64,
    /// Channels of this input.
    pub channels: i32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConvSource"][::std::mem::size_of::<ConvSource>() - 24usize];
    ["Alignment of ConvSource"][::std::mem::align_of::<ConvSource>() - 8usize];
    ["Offset of field: ConvSource::x"][::std::mem::offset_of!(ConvSource, x) - 0usize];
    ["Offset of field: ConvSource::step"][::std::mem::offset_of!(ConvSource, step) - 8usize];
    ["Offset of field: ConvSource::channels"][::std::mem::offset_of!(ConvSource, channels) - 16usize];
    ["Offset of field: ConvSource::reserved"][::std::mem::offset_of!(ConvSource, reserved) - 20usize];
};
/// Where a convolution reads: result (oy, ox) at tap (ky, kx) reads input pixel (ty / repeat_y, tx / repeat_x) with
/// ty = oy * stride_y - pad_y + ky * dilation_y, likewise x, if 0 <= ty < reach_y. A forward convolution has
/// repeat = enlargement; the gradient of the input is the convolution of dy that strides become in reverse:
/// repeat = stride with `stuffed`, where only ty that are multiples of repeat_y count.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ConvGeometry {
    /// Input pixels of one picture, rows and columns as in memory.
    pub height: i32,
    /// See `height`.
    pub width: i32,
    /// Exclusive limits of ty and tx: height * repeat_y, width * repeat_x.
    pub reach_y: i32,
    /// See `reach_y`.
    pub reach_x: i32,
    /// Rows and columns of the result.
    pub out_h: i32,
    /// See `out_h`.
    pub out_w: i32,
    /// Taps of the kernel.
    pub kernel_h: i32,
    /// See `kernel_h`.
    pub kernel_w: i32,
    /// Steps of the result's pixels in the input.
    pub stride_y: i32,
    /// See `stride_y`.
    pub stride_x: i32,
    /// Zeros above and left; negative in gradients that crop.
    pub pad_y: i32,
    /// See `pad_y`.
    pub pad_x: i32,
    /// Distance of taps.
    pub dilation_y: i32,
    /// See `dilation_y`.
    pub dilation_x: i32,
    /// How often an input pixel is repeated (or, if `stuffed`, the distance of pixels in a sea of zeros).
    pub repeat_y: i32,
    /// See `repeat_y`.
    pub repeat_x: i32,
    /// Their binary logarithms (tensor-core forms, which take powers of two).
    pub shift_y: i32,
    /// See `shift_y`.
    pub shift_x: i32,
    /// 1: zeros lie between the input's pixels; 0: copies.
    pub stuffed: i32,
    /// All result pixels: batch * out_h * out_w.
    pub pixels: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ConvGeometry"][::std::mem::size_of::<ConvGeometry>() - 80usize];
    ["Alignment of ConvGeometry"][::std::mem::align_of::<ConvGeometry>() - 4usize];
    ["Offset of field: ConvGeometry::height"][::std::mem::offset_of!(ConvGeometry, height) - 0usize];
    ["Offset of field: ConvGeometry::width"][::std::mem::offset_of!(ConvGeometry, width) - 4usize];
    ["Offset of field: ConvGeometry::reach_y"][::std::mem::offset_of!(ConvGeometry, reach_y) - 8usize];
    ["Offset of field: ConvGeometry::reach_x"][::std::mem::offset_of!(ConvGeometry, reach_x) - 12usize];
    ["Offset of field: ConvGeometry::out_h"][::std::mem::offset_of!(ConvGeometry, out_h) - 16usize];
    ["Offset of field: ConvGeometry::out_w"][::std::mem::offset_of!(ConvGeometry, out_w) - 20usize];
    ["Offset of field: ConvGeometry::kernel_h"][::std::mem::offset_of!(ConvGeometry, kernel_h) - 24usize];
    ["Offset of field: ConvGeometry::kernel_w"][::std::mem::offset_of!(ConvGeometry, kernel_w) - 28usize];
    ["Offset of field: ConvGeometry::stride_y"][::std::mem::offset_of!(ConvGeometry, stride_y) - 32usize];
    ["Offset of field: ConvGeometry::stride_x"][::std::mem::offset_of!(ConvGeometry, stride_x) - 36usize];
    ["Offset of field: ConvGeometry::pad_y"][::std::mem::offset_of!(ConvGeometry, pad_y) - 40usize];
    ["Offset of field: ConvGeometry::pad_x"][::std::mem::offset_of!(ConvGeometry, pad_x) - 44usize];
    ["Offset of field: ConvGeometry::dilation_y"][::std::mem::offset_of!(ConvGeometry, dilation_y) - 48usize];
    ["Offset of field: ConvGeometry::dilation_x"][::std::mem::offset_of!(ConvGeometry, dilation_x) - 52usize];
    ["Offset of field: ConvGeometry::repeat_y"][::std::mem::offset_of!(ConvGeometry, repeat_y) - 56usize];
    ["Offset of field: ConvGeometry::repeat_x"][::std::mem::offset_of!(ConvGeometry, repeat_x) - 60usize];
    ["Offset of field: ConvGeometry::shift_y"][::std::mem::offset_of!(ConvGeometry, shift_y) - 64usize];
    ["Offset of field: ConvGeometry::shift_x"][::std::mem::offset_of!(ConvGeometry, shift_x) - 68usize];
    ["Offset of field: ConvGeometry::stuffed"][::std::mem::offset_of!(ConvGeometry, stuffed) - 72usize];
    ["Offset of field: ConvGeometry::pixels"][::std::mem::offset_of!(ConvGeometry, pixels) - 76usize];
};
/// Parameters of `conv2d_fwd_*`: y = epilogue(sum over taps and channels of x * w), NHWC.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Conv2dFwd {
    /// The inputs, concatenated along their channels; `sources` of them.
    pub source: [ConvSource; 8usize],
    /// Weights as `conv2d_pack_*` arranges them.
    pub w: u64,
    /// y, dense `[pixels, groups * cout]`.
    pub y: u64,
    /// Halo form: scale and shift of the input's channels, f32 `[batch, 2, cin]`, with which x becomes
    /// f(x * scale + shift) on its way into the products; 0: x as it is.
    pub norm: u64,
    /// Halo form, result: mean of y and sum of squared distances from it, of every channel over every tile, f32
    /// `[batch, tiles, cout, 2]`; 0: not wanted.
    pub moments: u64,
    /// What happens to a sum.
    pub epilogue: Epilogue,
    /// Where taps read.
    pub geometry: ConvGeometry,
    /// How many inputs.
    pub sources: i32,
    /// Channel groups (general form; 1 in tensor-core forms).
    pub groups: i32,
    /// Input channels of a group.
    pub cin: i32,
    /// Output channels of a group.
    pub cout: i32,
    /// `cout` rounded up to what the packed weights have, a multiple of the kernel's tile.
    pub cout_padded: i32,
    /// 1: y and the residual are f32 whatever x is.
    pub y_is_f32: i32,
    /// 1: f is SiLU; 0: f is the identity.
    pub norm_silu: i32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Conv2dFwd"][::std::mem::size_of::<Conv2dFwd>() - 400usize];
    ["Alignment of Conv2dFwd"][::std::mem::align_of::<Conv2dFwd>() - 8usize];
    ["Offset of field: Conv2dFwd::source"][::std::mem::offset_of!(Conv2dFwd, source) - 0usize];
    ["Offset of field: Conv2dFwd::w"][::std::mem::offset_of!(Conv2dFwd, w) - 192usize];
    ["Offset of field: Conv2dFwd::y"][::std::mem::offset_of!(Conv2dFwd, y) - 200usize];
    ["Offset of field: Conv2dFwd::norm"][::std::mem::offset_of!(Conv2dFwd, norm) - 208usize];
    ["Offset of field: Conv2dFwd::moments"][::std::mem::offset_of!(Conv2dFwd, moments) - 216usize];
    ["Offset of field: Conv2dFwd::epilogue"][::std::mem::offset_of!(Conv2dFwd, epilogue) - 224usize];
    ["Offset of field: Conv2dFwd::geometry"][::std::mem::offset_of!(Conv2dFwd, geometry) - 288usize];
    ["Offset of field: Conv2dFwd::sources"][::std::mem::offset_of!(Conv2dFwd, sources) - 368usize];
    ["Offset of field: Conv2dFwd::groups"][::std::mem::offset_of!(Conv2dFwd, groups) - 372usize];
    ["Offset of field: Conv2dFwd::cin"][::std::mem::offset_of!(Conv2dFwd, cin) - 376usize];
    ["Offset of field: Conv2dFwd::cout"][::std::mem::offset_of!(Conv2dFwd, cout) - 380usize];
    ["Offset of field: Conv2dFwd::cout_padded"][::std::mem::offset_of!(Conv2dFwd, cout_padded) - 384usize];
    ["Offset of field: Conv2dFwd::y_is_f32"][::std::mem::offset_of!(Conv2dFwd, y_is_f32) - 388usize];
    ["Offset of field: Conv2dFwd::norm_silu"][::std::mem::offset_of!(Conv2dFwd, norm_silu) - 392usize];
    ["Offset of field: Conv2dFwd::reserved"][::std::mem::offset_of!(Conv2dFwd, reserved) - 396usize];
};
/// Parameters of `conv2d_fwd_*_sm90`.
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Conv2dFwdSm90 {
    /// The packed weights as [slices * cout_padded, 32], a box 128 rows, as they are.
    pub weights: TensorMap,
    /// All the rest.
    pub conv: Conv2dFwd,
    /// Padding.
    pub reserved: [u32; 12usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Conv2dFwdSm90"][::std::mem::size_of::<Conv2dFwdSm90>() - 576usize];
    ["Alignment of Conv2dFwdSm90"][::std::mem::align_of::<Conv2dFwdSm90>() - 64usize];
    ["Offset of field: Conv2dFwdSm90::weights"][::std::mem::offset_of!(Conv2dFwdSm90, weights) - 0usize];
    ["Offset of field: Conv2dFwdSm90::conv"][::std::mem::offset_of!(Conv2dFwdSm90, conv) - 128usize];
    ["Offset of field: Conv2dFwdSm90::reserved"][::std::mem::offset_of!(Conv2dFwdSm90, reserved) - 528usize];
};
impl Default for Conv2dFwdSm90 {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
/// Parameters of `conv2d_pack_*`: weights from `[out, in/groups, kh, kw]` into the order of a kernel's slices. The
/// gradient of the input wants the kernel turned by 180 degrees with input and output exchanged; the steps say that.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Conv2dPack {
    /// w as stored.
    pub w: u64,
    /// Packed weights.
    pub packed: u64,
    /// Elements of w between groups, between output channels and between input channels of this use.
    pub group_step: i64,
    /// See `group_step`.
    pub cout_step: i64,
    /// See `group_step`.
    pub cin_step: i64,
    /// Threads with work: one a 16-byte piece of the result, on tensor cores of its first tap.
    pub pieces: i64,
    /// Channels of each input (tensor-core forms).
    pub channels: [i32; 8usize],
    /// How many inputs.
    pub sources: i32,
    /// Taps of the kernel, kh * kw.
    pub taps: i32,
    /// 1: the last tap comes first.
    pub turned: i32,
    /// 1: the taps of a slice of channels follow each other (halo form); 0: the slices of a tap do.
    pub taps_inside: i32,
    /// Input channels of a group.
    pub cin: i32,
    /// Output channels of a group, and that rounded up to the tile.
    pub cout: i32,
    /// See `cout`.
    pub cout_padded: i32,
    /// taps * cin rounded up to the depth of a slice (general form).
    pub depth_padded: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Conv2dPack"][::std::mem::size_of::<Conv2dPack>() - 112usize];
    ["Alignment of Conv2dPack"][::std::mem::align_of::<Conv2dPack>() - 8usize];
    ["Offset of field: Conv2dPack::w"][::std::mem::offset_of!(Conv2dPack, w) - 0usize];
    ["Offset of field: Conv2dPack::packed"][::std::mem::offset_of!(Conv2dPack, packed) - 8usize];
    ["Offset of field: Conv2dPack::group_step"][::std::mem::offset_of!(Conv2dPack, group_step) - 16usize];
    ["Offset of field: Conv2dPack::cout_step"][::std::mem::offset_of!(Conv2dPack, cout_step) - 24usize];
    ["Offset of field: Conv2dPack::cin_step"][::std::mem::offset_of!(Conv2dPack, cin_step) - 32usize];
    ["Offset of field: Conv2dPack::pieces"][::std::mem::offset_of!(Conv2dPack, pieces) - 40usize];
    ["Offset of field: Conv2dPack::channels"][::std::mem::offset_of!(Conv2dPack, channels) - 48usize];
    ["Offset of field: Conv2dPack::sources"][::std::mem::offset_of!(Conv2dPack, sources) - 80usize];
    ["Offset of field: Conv2dPack::taps"][::std::mem::offset_of!(Conv2dPack, taps) - 84usize];
    ["Offset of field: Conv2dPack::turned"][::std::mem::offset_of!(Conv2dPack, turned) - 88usize];
    ["Offset of field: Conv2dPack::taps_inside"][::std::mem::offset_of!(Conv2dPack, taps_inside) - 92usize];
    ["Offset of field: Conv2dPack::cin"][::std::mem::offset_of!(Conv2dPack, cin) - 96usize];
    ["Offset of field: Conv2dPack::cout"][::std::mem::offset_of!(Conv2dPack, cout) - 100usize];
    ["Offset of field: Conv2dPack::cout_padded"][::std::mem::offset_of!(Conv2dPack, cout_padded) - 104usize];
    ["Offset of field: Conv2dPack::depth_padded"]
        [::std::mem::offset_of!(Conv2dPack, depth_padded) - 108usize];
};
/// Parameters of `conv2d_grad_weight_*`: partial[split][n][tap, c] = sum over the split's pixels of dy[pixel, n] *
/// x[pixel at tap, c].
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Conv2dGradWeight {
    /// x and how far its pixels are apart.
    pub x: u64,
    /// See `x`.
    pub x_step: i64,
    /// dy, likewise.
    pub dy: u64,
    /// See `dy`.
    pub dy_step: i64,
    /// Partial sums, f32, dense `[splits, groups * cout, kernel_h * kernel_w * cin]`.
    pub partial: u64,
    /// Of the forward convolution; pixels are those of dy.
    pub geometry: ConvGeometry,
    /// Channel groups.
    pub groups: i32,
    /// Input channels of a group.
    pub cin: i32,
    /// Output channels of a group.
    pub cout: i32,
    /// Pixels of one split, a multiple of 32.
    pub split_pixels: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Conv2dGradWeight"][::std::mem::size_of::<Conv2dGradWeight>() - 136usize];
    ["Alignment of Conv2dGradWeight"][::std::mem::align_of::<Conv2dGradWeight>() - 8usize];
    ["Offset of field: Conv2dGradWeight::x"][::std::mem::offset_of!(Conv2dGradWeight, x) - 0usize];
    ["Offset of field: Conv2dGradWeight::x_step"][::std::mem::offset_of!(Conv2dGradWeight, x_step) - 8usize];
    ["Offset of field: Conv2dGradWeight::dy"][::std::mem::offset_of!(Conv2dGradWeight, dy) - 16usize];
    ["Offset of field: Conv2dGradWeight::dy_step"]
        [::std::mem::offset_of!(Conv2dGradWeight, dy_step) - 24usize];
    ["Offset of field: Conv2dGradWeight::partial"]
        [::std::mem::offset_of!(Conv2dGradWeight, partial) - 32usize];
    ["Offset of field: Conv2dGradWeight::geometry"]
        [::std::mem::offset_of!(Conv2dGradWeight, geometry) - 40usize];
    ["Offset of field: Conv2dGradWeight::groups"]
        [::std::mem::offset_of!(Conv2dGradWeight, groups) - 120usize];
    ["Offset of field: Conv2dGradWeight::cin"][::std::mem::offset_of!(Conv2dGradWeight, cin) - 124usize];
    ["Offset of field: Conv2dGradWeight::cout"][::std::mem::offset_of!(Conv2dGradWeight, cout) - 128usize];
    ["Offset of field: Conv2dGradWeight::split_pixels"]
        [::std::mem::offset_of!(Conv2dGradWeight, split_pixels) - 132usize];
};
/// Parameters of `conv2d_grad_weight_sum_*`: dw[n][c][tap] = sum over splits of partial[split][n][tap, c], in order.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Conv2dGradWeightSum {
    /// Partial sums of `conv2d_grad_weight_*`.
    pub partial: u64,
    /// dw, f32, dense `[rows, cin, taps]`.
    pub dw: u64,
    /// Output channels of all groups times `cin` times `taps`.
    pub len: i64,
    /// How many partial sums.
    pub splits: i32,
    /// Input channels of a group.
    pub cin: i32,
    /// Taps of the kernel.
    pub taps: i32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Conv2dGradWeightSum"][::std::mem::size_of::<Conv2dGradWeightSum>() - 40usize];
    ["Alignment of Conv2dGradWeightSum"][::std::mem::align_of::<Conv2dGradWeightSum>() - 8usize];
    ["Offset of field: Conv2dGradWeightSum::partial"]
        [::std::mem::offset_of!(Conv2dGradWeightSum, partial) - 0usize];
    ["Offset of field: Conv2dGradWeightSum::dw"][::std::mem::offset_of!(Conv2dGradWeightSum, dw) - 8usize];
    ["Offset of field: Conv2dGradWeightSum::len"][::std::mem::offset_of!(Conv2dGradWeightSum, len) - 16usize];
    ["Offset of field: Conv2dGradWeightSum::splits"]
        [::std::mem::offset_of!(Conv2dGradWeightSum, splits) - 24usize];
    ["Offset of field: Conv2dGradWeightSum::cin"][::std::mem::offset_of!(Conv2dGradWeightSum, cin) - 28usize];
    ["Offset of field: Conv2dGradWeightSum::taps"]
        [::std::mem::offset_of!(Conv2dGradWeightSum, taps) - 32usize];
    ["Offset of field: Conv2dGradWeightSum::reserved"]
        [::std::mem::offset_of!(Conv2dGradWeightSum, reserved) - 36usize];
};
/// Parameters of `copy_strided_*` and `cast_*`: elements from one strided tensor to another of the same shape.
/// A unit is what one access moves: a few neighbouring elements.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct CopyStrided {
    /// First element read.
    pub src: u64,
    /// First element written.
    pub dst: u64,
    /// Strides of each axis, outermost first, in units.
    pub src_strides: [i64; 8usize],
    /// See `src_strides`.
    pub dst_strides: [i64; 8usize],
    /// Extents of the axes, in units.
    pub extents: [Divisor; 8usize],
    /// Number of units: the product of the extents, below 2^31.
    pub units: u32,
    /// Number of axes; the others are not looked at.
    pub rank: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CopyStrided"][::std::mem::size_of::<CopyStrided>() - 280usize];
    ["Alignment of CopyStrided"][::std::mem::align_of::<CopyStrided>() - 8usize];
    ["Offset of field: CopyStrided::src"][::std::mem::offset_of!(CopyStrided, src) - 0usize];
    ["Offset of field: CopyStrided::dst"][::std::mem::offset_of!(CopyStrided, dst) - 8usize];
    ["Offset of field: CopyStrided::src_strides"][::std::mem::offset_of!(CopyStrided, src_strides) - 16usize];
    ["Offset of field: CopyStrided::dst_strides"][::std::mem::offset_of!(CopyStrided, dst_strides) - 80usize];
    ["Offset of field: CopyStrided::extents"][::std::mem::offset_of!(CopyStrided, extents) - 144usize];
    ["Offset of field: CopyStrided::units"][::std::mem::offset_of!(CopyStrided, units) - 272usize];
    ["Offset of field: CopyStrided::rank"][::std::mem::offset_of!(CopyStrided, rank) - 276usize];
};
/// Parameters of `copy_transpose_*`: a batch of matrices whose rows are dense where they are read and whose
/// columns are dense where they are written.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct CopyTranspose {
    /// First element read.
    pub src: u64,
    /// First element written.
    pub dst: u64,
    /// Elements between the dense rows of src, and between those of dst.
    pub src_step: i64,
    /// See `src_step`.
    pub dst_step: i64,
    /// Strides of the batch axes, outermost first, in elements.
    pub src_strides: [i64; 6usize],
    /// See `src_strides`.
    pub dst_strides: [i64; 6usize],
    /// Extents of the batch axes.
    pub extents: [Divisor; 6usize],
    /// Tiles along a dense row of src, and in one matrix.
    pub tiles_across: Divisor,
    /// See `tiles_across`.
    pub tiles: Divisor,
    /// Length of a dense row of src, and of one of dst.
    pub across: u32,
    /// See `across`.
    pub down: u32,
    /// Number of batch axes.
    pub rank: u32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CopyTranspose"][::std::mem::size_of::<CopyTranspose>() - 272usize];
    ["Alignment of CopyTranspose"][::std::mem::align_of::<CopyTranspose>() - 8usize];
    ["Offset of field: CopyTranspose::src"][::std::mem::offset_of!(CopyTranspose, src) - 0usize];
    ["Offset of field: CopyTranspose::dst"][::std::mem::offset_of!(CopyTranspose, dst) - 8usize];
    ["Offset of field: CopyTranspose::src_step"][::std::mem::offset_of!(CopyTranspose, src_step) - 16usize];
    ["Offset of field: CopyTranspose::dst_step"][::std::mem::offset_of!(CopyTranspose, dst_step) - 24usize];
    ["Offset of field: CopyTranspose::src_strides"]
        [::std::mem::offset_of!(CopyTranspose, src_strides) - 32usize];
    ["Offset of field: CopyTranspose::dst_strides"]
        [::std::mem::offset_of!(CopyTranspose, dst_strides) - 80usize];
    ["Offset of field: CopyTranspose::extents"][::std::mem::offset_of!(CopyTranspose, extents) - 128usize];
    ["Offset of field: CopyTranspose::tiles_across"]
        [::std::mem::offset_of!(CopyTranspose, tiles_across) - 224usize];
    ["Offset of field: CopyTranspose::tiles"][::std::mem::offset_of!(CopyTranspose, tiles) - 240usize];
    ["Offset of field: CopyTranspose::across"][::std::mem::offset_of!(CopyTranspose, across) - 256usize];
    ["Offset of field: CopyTranspose::down"][::std::mem::offset_of!(CopyTranspose, down) - 260usize];
    ["Offset of field: CopyTranspose::rank"][::std::mem::offset_of!(CopyTranspose, rank) - 264usize];
    ["Offset of field: CopyTranspose::reserved"][::std::mem::offset_of!(CopyTranspose, reserved) - 268usize];
};
/// Parameters of `copy_gather_*`: dst is dense; along each axis a table says which index of src stands there.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct CopyGather {
    /// First element read.
    pub src: u64,
    /// dst, dense.
    pub dst: u64,
    /// int32 tables, one entry per index of dst: the index of src, or -1 for zeros. 0: every index is itself.
    pub tables: [u64; 8usize],
    /// Strides of the axes of src, outermost first, in units.
    pub src_strides: [i64; 8usize],
    /// Extents of the axes of dst, in units.
    pub extents: [Divisor; 8usize],
    /// Number of units of dst, below 2^31.
    pub units: u32,
    /// Number of axes.
    pub rank: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CopyGather"][::std::mem::size_of::<CopyGather>() - 280usize];
    ["Alignment of CopyGather"][::std::mem::align_of::<CopyGather>() - 8usize];
    ["Offset of field: CopyGather::src"][::std::mem::offset_of!(CopyGather, src) - 0usize];
    ["Offset of field: CopyGather::dst"][::std::mem::offset_of!(CopyGather, dst) - 8usize];
    ["Offset of field: CopyGather::tables"][::std::mem::offset_of!(CopyGather, tables) - 16usize];
    ["Offset of field: CopyGather::src_strides"][::std::mem::offset_of!(CopyGather, src_strides) - 80usize];
    ["Offset of field: CopyGather::extents"][::std::mem::offset_of!(CopyGather, extents) - 144usize];
    ["Offset of field: CopyGather::units"][::std::mem::offset_of!(CopyGather, units) - 272usize];
    ["Offset of field: CopyGather::rank"][::std::mem::offset_of!(CopyGather, rank) - 276usize];
};
/// Parameters of `diffusion_begin`: the next step of a loop, told to everything that is replayed for it.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DiffusionBegin {
    /// u32, number of the step, all ones before the first: counted up.
    pub counter: u64,
    /// What each step does; a row begins with the timestep that the network is given, f32.
    pub rows: u64,
    /// That timestep, f32.
    pub timestep: u64,
    /// Size of a row.
    pub row_bytes: u32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DiffusionBegin"][::std::mem::size_of::<DiffusionBegin>() - 32usize];
    ["Alignment of DiffusionBegin"][::std::mem::align_of::<DiffusionBegin>() - 8usize];
    ["Offset of field: DiffusionBegin::counter"][::std::mem::offset_of!(DiffusionBegin, counter) - 0usize];
    ["Offset of field: DiffusionBegin::rows"][::std::mem::offset_of!(DiffusionBegin, rows) - 8usize];
    ["Offset of field: DiffusionBegin::timestep"][::std::mem::offset_of!(DiffusionBegin, timestep) - 16usize];
    ["Offset of field: DiffusionBegin::row_bytes"]
        [::std::mem::offset_of!(DiffusionBegin, row_bytes) - 24usize];
    ["Offset of field: DiffusionBegin::reserved"][::std::mem::offset_of!(DiffusionBegin, reserved) - 28usize];
};
/// Parameters of `diffusion_noise_*`: standard normals, element i a function of seed, image, step and i alone.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DiffusionNoise {
    /// f32, to be filled.
    pub out: u64,
    /// Number of elements, at most 2^34.
    pub len: i64,
    /// Seed of the job.
    pub seed: u64,
    /// Key of the image.
    pub image: u64,
    /// u32, the step of the sampler; 0: `step` is it.
    pub counter: u64,
    /// Step of the sampler.
    pub step: u32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DiffusionNoise"][::std::mem::size_of::<DiffusionNoise>() - 48usize];
    ["Alignment of DiffusionNoise"][::std::mem::align_of::<DiffusionNoise>() - 8usize];
    ["Offset of field: DiffusionNoise::out"][::std::mem::offset_of!(DiffusionNoise, out) - 0usize];
    ["Offset of field: DiffusionNoise::len"][::std::mem::offset_of!(DiffusionNoise, len) - 8usize];
    ["Offset of field: DiffusionNoise::seed"][::std::mem::offset_of!(DiffusionNoise, seed) - 16usize];
    ["Offset of field: DiffusionNoise::image"][::std::mem::offset_of!(DiffusionNoise, image) - 24usize];
    ["Offset of field: DiffusionNoise::counter"][::std::mem::offset_of!(DiffusionNoise, counter) - 32usize];
    ["Offset of field: DiffusionNoise::step"][::std::mem::offset_of!(DiffusionNoise, step) - 40usize];
    ["Offset of field: DiffusionNoise::reserved"][::std::mem::offset_of!(DiffusionNoise, reserved) - 44usize];
};
/// Parameters of `diffusion_guide_*`: cond = uncond + scale * (cond - uncond) on the first elements of each sample.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DiffusionGuide {
    /// Conditional output of the network, f32, changed in place.
    pub cond: u64,
    /// Unconditional output, f32.
    pub uncond: u64,
    /// Elements of a sample that are guided: whole planes.
    pub guided: i64,
    /// Elements between samples, of both.
    pub sample: i64,
    /// Strength.
    pub scale: f32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DiffusionGuide"][::std::mem::size_of::<DiffusionGuide>() - 40usize];
    ["Alignment of DiffusionGuide"][::std::mem::align_of::<DiffusionGuide>() - 8usize];
    ["Offset of field: DiffusionGuide::cond"][::std::mem::offset_of!(DiffusionGuide, cond) - 0usize];
    ["Offset of field: DiffusionGuide::uncond"][::std::mem::offset_of!(DiffusionGuide, uncond) - 8usize];
    ["Offset of field: DiffusionGuide::guided"][::std::mem::offset_of!(DiffusionGuide, guided) - 16usize];
    ["Offset of field: DiffusionGuide::sample"][::std::mem::offset_of!(DiffusionGuide, sample) - 24usize];
    ["Offset of field: DiffusionGuide::scale"][::std::mem::offset_of!(DiffusionGuide, scale) - 32usize];
    ["Offset of field: DiffusionGuide::reserved"][::std::mem::offset_of!(DiffusionGuide, reserved) - 36usize];
};
/// Parameters of `diffusion_sum_*`: y = c[0]*x[0] + c[1]*x[1] + ... in this order.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DiffusionSum {
    /// Up to four f32 tensors; one of them may be y.
    pub x: [u64; 4usize],
    /// y, f32.
    pub y: u64,
    /// Number of elements.
    pub len: i64,
    /// Their factors.
    pub factors: [f32; 4usize],
    /// How many there are.
    pub count: i32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DiffusionSum"][::std::mem::size_of::<DiffusionSum>() - 72usize];
    ["Alignment of DiffusionSum"][::std::mem::align_of::<DiffusionSum>() - 8usize];
    ["Offset of field: DiffusionSum::x"][::std::mem::offset_of!(DiffusionSum, x) - 0usize];
    ["Offset of field: DiffusionSum::y"][::std::mem::offset_of!(DiffusionSum, y) - 32usize];
    ["Offset of field: DiffusionSum::len"][::std::mem::offset_of!(DiffusionSum, len) - 40usize];
    ["Offset of field: DiffusionSum::factors"][::std::mem::offset_of!(DiffusionSum, factors) - 48usize];
    ["Offset of field: DiffusionSum::count"][::std::mem::offset_of!(DiffusionSum, count) - 64usize];
    ["Offset of field: DiffusionSum::reserved"][::std::mem::offset_of!(DiffusionSum, reserved) - 68usize];
};
/// Parameters of `diffusion_blend_*`: the weighted mean of overlapping tiles.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DiffusionBlend {
    /// f32 `[columns, rows, planes, side, side]`: the tiles, down the first column, then the next.
    pub tiles: u64,
    /// f64 `[side, side]`: weight of each pixel.
    pub weights: u64,
    /// f32 `[planes, height, width]`.
    pub out: u64,
    /// Planes, and pixels of one.
    pub planes: i32,
    /// See `planes`.
    pub height: i32,
    /// See `planes`.
    pub width: i32,
    /// Side of a tile, and from one to the next; the last of each axis ends with the plane.
    pub side: i32,
    /// See `side`.
    pub step: i32,
    /// Tiles along each axis.
    pub rows: i32,
    /// See `rows`.
    pub columns: i32,
    /// Padding.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DiffusionBlend"][::std::mem::size_of::<DiffusionBlend>() - 56usize];
    ["Alignment of DiffusionBlend"][::std::mem::align_of::<DiffusionBlend>() - 8usize];
    ["Offset of field: DiffusionBlend::tiles"][::std::mem::offset_of!(DiffusionBlend, tiles) - 0usize];
    ["Offset of field: DiffusionBlend::weights"][::std::mem::offset_of!(DiffusionBlend, weights) - 8usize];
    ["Offset of field: DiffusionBlend::out"][::std::mem::offset_of!(DiffusionBlend, out) - 16usize];
    ["Offset of field: DiffusionBlend::planes"][::std::mem::offset_of!(DiffusionBlend, planes) - 24usize];
    ["Offset of field: DiffusionBlend::height"][::std::mem::offset_of!(DiffusionBlend, height) - 28usize];
    ["Offset of field: DiffusionBlend::width"][::std::mem::offset_of!(DiffusionBlend, width) - 32usize];
    ["Offset of field: DiffusionBlend::side"][::std::mem::offset_of!(DiffusionBlend, side) - 36usize];
    ["Offset of field: DiffusionBlend::step"][::std::mem::offset_of!(DiffusionBlend, step) - 40usize];
    ["Offset of field: DiffusionBlend::rows"][::std::mem::offset_of!(DiffusionBlend, rows) - 44usize];
    ["Offset of field: DiffusionBlend::columns"][::std::mem::offset_of!(DiffusionBlend, columns) - 48usize];
    ["Offset of field: DiffusionBlend::reserved"][::std::mem::offset_of!(DiffusionBlend, reserved) - 52usize];
};
/// Parameters of `diffusion_step_*`: one step of a sampler. Which one, and its factors, lie in device memory, so
/// that one recording serves all steps.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DiffusionStep {
    /// The latent, f32, changed in place.
    pub x: u64,
    /// Predicted noise, f32.
    pub eps: u64,
    /// The network's variance channels, f32; 0: it has none.
    pub variance: u64,
    /// Fresh normals, f32; 0: no step wants any.
    pub noise: u64,
    /// What the sampler remembers, f32, as long as x; 0: it does not. The clean latent that it predicted last, the
    /// corrected state that its last prediction started from, and the noise of that prediction.
    pub clean: u64,
    /// See `clean`.
    pub corrected: u64,
    /// See `clean`.
    pub kept: u64,
    /// u32, number of the step.
    pub counter: u64,
    /// The sampler's own rows (`Diffusion…Row`), one a step.
    pub rows: u64,
    /// u32: 1 + the first step after which x held a value that is not finite; 0 before.
    pub fault: u64,
    /// Number of elements.
    pub len: i64,
    /// Elements from the noise of one step to that of the next: 0 where it is drawn anew.
    pub noise_step: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DiffusionStep"][::std::mem::size_of::<DiffusionStep>() - 96usize];
    ["Alignment of DiffusionStep"][::std::mem::align_of::<DiffusionStep>() - 8usize];
    ["Offset of field: DiffusionStep::x"][::std::mem::offset_of!(DiffusionStep, x) - 0usize];
    ["Offset of field: DiffusionStep::eps"][::std::mem::offset_of!(DiffusionStep, eps) - 8usize];
    ["Offset of field: DiffusionStep::variance"][::std::mem::offset_of!(DiffusionStep, variance) - 16usize];
    ["Offset of field: DiffusionStep::noise"][::std::mem::offset_of!(DiffusionStep, noise) - 24usize];
    ["Offset of field: DiffusionStep::clean"][::std::mem::offset_of!(DiffusionStep, clean) - 32usize];
    ["Offset of field: DiffusionStep::corrected"][::std::mem::offset_of!(DiffusionStep, corrected) - 40usize];
    ["Offset of field: DiffusionStep::kept"][::std::mem::offset_of!(DiffusionStep, kept) - 48usize];
    ["Offset of field: DiffusionStep::counter"][::std::mem::offset_of!(DiffusionStep, counter) - 56usize];
    ["Offset of field: DiffusionStep::rows"][::std::mem::offset_of!(DiffusionStep, rows) - 64usize];
    ["Offset of field: DiffusionStep::fault"][::std::mem::offset_of!(DiffusionStep, fault) - 72usize];
    ["Offset of field: DiffusionStep::len"][::std::mem::offset_of!(DiffusionStep, len) - 80usize];
    ["Offset of field: DiffusionStep::noise_step"]
        [::std::mem::offset_of!(DiffusionStep, noise_step) - 88usize];
};
/// One ancestral step, x = mean(x, eps) + sigma * noise.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DiffusionIddpmRow {
    /// What the network is given.
    pub timestep: f32,
    /// Whether noise is added: not in the last step.
    pub noise: u32,
    /// The clean latent is from_x * x - from_eps * eps, the mean mean_clean * clean + mean_x * x.
    pub from_x: f32,
    /// See `from_x`.
    pub from_eps: f32,
    /// See `from_x`.
    pub mean_clean: f32,
    /// See `from_x`.
    pub mean_x: f32,
    /// Logarithms of the least and the greatest variance.
    pub least: f32,
    /// See `least`.
    pub greatest: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DiffusionIddpmRow"][::std::mem::size_of::<DiffusionIddpmRow>() - 32usize];
    ["Alignment of DiffusionIddpmRow"][::std::mem::align_of::<DiffusionIddpmRow>() - 4usize];
    ["Offset of field: DiffusionIddpmRow::timestep"]
        [::std::mem::offset_of!(DiffusionIddpmRow, timestep) - 0usize];
    ["Offset of field: DiffusionIddpmRow::noise"][::std::mem::offset_of!(DiffusionIddpmRow, noise) - 4usize];
    ["Offset of field: DiffusionIddpmRow::from_x"]
        [::std::mem::offset_of!(DiffusionIddpmRow, from_x) - 8usize];
    ["Offset of field: DiffusionIddpmRow::from_eps"]
        [::std::mem::offset_of!(DiffusionIddpmRow, from_eps) - 12usize];
    ["Offset of field: DiffusionIddpmRow::mean_clean"]
        [::std::mem::offset_of!(DiffusionIddpmRow, mean_clean) - 16usize];
    ["Offset of field: DiffusionIddpmRow::mean_x"]
        [::std::mem::offset_of!(DiffusionIddpmRow, mean_x) - 20usize];
    ["Offset of field: DiffusionIddpmRow::least"][::std::mem::offset_of!(DiffusionIddpmRow, least) - 24usize];
    ["Offset of field: DiffusionIddpmRow::greatest"]
        [::std::mem::offset_of!(DiffusionIddpmRow, greatest) - 28usize];
};
/// One step of DDIM, x = signal * clean + direction * eps + sigma * noise.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DiffusionDdimRow {
    /// What the network is given.
    pub timestep: f32,
    /// Whether noise is added.
    pub noise: u32,
    /// The clean latent is from_x * x - from_eps * eps.
    pub from_x: f32,
    /// See `from_x`.
    pub from_eps: f32,
    /// Of the clean latent, the predicted noise, the fresh noise.
    pub signal: f32,
    /// See `signal`.
    pub direction: f32,
    /// See `signal`.
    pub sigma: f32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DiffusionDdimRow"][::std::mem::size_of::<DiffusionDdimRow>() - 32usize];
    ["Alignment of DiffusionDdimRow"][::std::mem::align_of::<DiffusionDdimRow>() - 4usize];
    ["Offset of field: DiffusionDdimRow::timestep"]
        [::std::mem::offset_of!(DiffusionDdimRow, timestep) - 0usize];
    ["Offset of field: DiffusionDdimRow::noise"][::std::mem::offset_of!(DiffusionDdimRow, noise) - 4usize];
    ["Offset of field: DiffusionDdimRow::from_x"][::std::mem::offset_of!(DiffusionDdimRow, from_x) - 8usize];
    ["Offset of field: DiffusionDdimRow::from_eps"]
        [::std::mem::offset_of!(DiffusionDdimRow, from_eps) - 12usize];
    ["Offset of field: DiffusionDdimRow::signal"][::std::mem::offset_of!(DiffusionDdimRow, signal) - 16usize];
    ["Offset of field: DiffusionDdimRow::direction"]
        [::std::mem::offset_of!(DiffusionDdimRow, direction) - 20usize];
    ["Offset of field: DiffusionDdimRow::sigma"][::std::mem::offset_of!(DiffusionDdimRow, sigma) - 24usize];
    ["Offset of field: DiffusionDdimRow::reserved"]
        [::std::mem::offset_of!(DiffusionDdimRow, reserved) - 28usize];
};
/// One step of DPM-Solver++, x = keep * x + towards * clean [+ half * (inverse * (clean - last))] + sigma * noise.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DiffusionDpmRow {
    /// What the network is given.
    pub timestep: f32,
    /// Whether noise is added.
    pub noise: u32,
    /// Whether the clean latent before the latest takes part.
    pub second: u32,
    /// Signal and noise of x: the clean latent is (x - noise_level * eps) / signal_level.
    pub signal_level: f32,
    /// See `signal_level`.
    pub noise_level: f32,
    /// See `signal_level`.
    pub keep: f32,
    /// See `signal_level`.
    pub towards: f32,
    /// See `signal_level`.
    pub half: f32,
    /// See `signal_level`.
    pub inverse: f32,
    /// See `signal_level`.
    pub sigma: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DiffusionDpmRow"][::std::mem::size_of::<DiffusionDpmRow>() - 40usize];
    ["Alignment of DiffusionDpmRow"][::std::mem::align_of::<DiffusionDpmRow>() - 4usize];
    ["Offset of field: DiffusionDpmRow::timestep"]
        [::std::mem::offset_of!(DiffusionDpmRow, timestep) - 0usize];
    ["Offset of field: DiffusionDpmRow::noise"][::std::mem::offset_of!(DiffusionDpmRow, noise) - 4usize];
    ["Offset of field: DiffusionDpmRow::second"][::std::mem::offset_of!(DiffusionDpmRow, second) - 8usize];
    ["Offset of field: DiffusionDpmRow::signal_level"]
        [::std::mem::offset_of!(DiffusionDpmRow, signal_level) - 12usize];
    ["Offset of field: DiffusionDpmRow::noise_level"]
        [::std::mem::offset_of!(DiffusionDpmRow, noise_level) - 16usize];
    ["Offset of field: DiffusionDpmRow::keep"][::std::mem::offset_of!(DiffusionDpmRow, keep) - 20usize];
    ["Offset of field: DiffusionDpmRow::towards"][::std::mem::offset_of!(DiffusionDpmRow, towards) - 24usize];
    ["Offset of field: DiffusionDpmRow::half"][::std::mem::offset_of!(DiffusionDpmRow, half) - 28usize];
    ["Offset of field: DiffusionDpmRow::inverse"][::std::mem::offset_of!(DiffusionDpmRow, inverse) - 32usize];
    ["Offset of field: DiffusionDpmRow::sigma"][::std::mem::offset_of!(DiffusionDpmRow, sigma) - 36usize];
};
/// One step of SA-Solver: the last prediction is corrected, then the next one made; both are
/// x = keep * x + (towards[0] * clean [+ towards[1] * last]) + sigma * noise.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct DiffusionSaRow {
    /// What the network is given.
    pub timestep: f32,
    /// Whether the prediction adds noise.
    pub noise: u32,
    /// Whether there is a prediction to correct, and whether it had noise.
    pub correct: u32,
    /// See `correct`.
    pub had_noise: u32,
    /// Whether the prediction reads the clean latent before the latest.
    pub second: u32,
    /// Signal and noise of x: the clean latent is (x - noise_level * eps) / signal_level.
    pub signal_level: f32,
    /// See `signal_level`.
    pub noise_level: f32,
    /// The corrector.
    pub corrector_keep: f32,
    /// See `corrector_keep`.
    pub corrector_towards: [f32; 2usize],
    /// See `corrector_keep`.
    pub corrector_sigma: f32,
    /// The predictor.
    pub keep: f32,
    /// See `keep`.
    pub towards: [f32; 2usize],
    /// See `keep`.
    pub sigma: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DiffusionSaRow"][::std::mem::size_of::<DiffusionSaRow>() - 60usize];
    ["Alignment of DiffusionSaRow"][::std::mem::align_of::<DiffusionSaRow>() - 4usize];
    ["Offset of field: DiffusionSaRow::timestep"][::std::mem::offset_of!(DiffusionSaRow, timestep) - 0usize];
    ["Offset of field: DiffusionSaRow::noise"][::std::mem::offset_of!(DiffusionSaRow, noise) - 4usize];
    ["Offset of field: DiffusionSaRow::correct"][::std::mem::offset_of!(DiffusionSaRow, correct) - 8usize];
    ["Offset of field: DiffusionSaRow::had_noise"]
        [::std::mem::offset_of!(DiffusionSaRow, had_noise) - 12usize];
    ["Offset of field: DiffusionSaRow::second"][::std::mem::offset_of!(DiffusionSaRow, second) - 16usize];
    ["Offset of field: DiffusionSaRow::signal_level"]
        [::std::mem::offset_of!(DiffusionSaRow, signal_level) - 20usize];
    ["Offset of field: DiffusionSaRow::noise_level"]
        [::std::mem::offset_of!(DiffusionSaRow, noise_level) - 24usize];
    ["Offset of field: DiffusionSaRow::corrector_keep"]
        [::std::mem::offset_of!(DiffusionSaRow, corrector_keep) - 28usize];
    ["Offset of field: DiffusionSaRow::corrector_towards"]
        [::std::mem::offset_of!(DiffusionSaRow, corrector_towards) - 32usize];
    ["Offset of field: DiffusionSaRow::corrector_sigma"]
        [::std::mem::offset_of!(DiffusionSaRow, corrector_sigma) - 40usize];
    ["Offset of field: DiffusionSaRow::keep"][::std::mem::offset_of!(DiffusionSaRow, keep) - 44usize];
    ["Offset of field: DiffusionSaRow::towards"][::std::mem::offset_of!(DiffusionSaRow, towards) - 48usize];
    ["Offset of field: DiffusionSaRow::sigma"][::std::mem::offset_of!(DiffusionSaRow, sigma) - 56usize];
};
/// Parameters of `embedding_fwd_*` and `embedding_bwd_*`: rows of a table by index, and their sums.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Embedding {
    /// Forward: the table, `rows` dense rows of `cols`. Gradient: dy, f32, one dense row for each index.
    pub x: u64,
    /// i64 indices.
    pub indices: u64,
    /// Forward: f32, one dense row for each index. Gradient: f32, `rows` dense rows.
    pub y: u64,
    /// Number of indices.
    pub count: i64,
    /// Rows of the table.
    pub rows: i64,
    /// Columns of the table.
    pub cols: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Embedding"][::std::mem::size_of::<Embedding>() - 48usize];
    ["Alignment of Embedding"][::std::mem::align_of::<Embedding>() - 8usize];
    ["Offset of field: Embedding::x"][::std::mem::offset_of!(Embedding, x) - 0usize];
    ["Offset of field: Embedding::indices"][::std::mem::offset_of!(Embedding, indices) - 8usize];
    ["Offset of field: Embedding::y"][::std::mem::offset_of!(Embedding, y) - 16usize];
    ["Offset of field: Embedding::count"][::std::mem::offset_of!(Embedding, count) - 24usize];
    ["Offset of field: Embedding::rows"][::std::mem::offset_of!(Embedding, rows) - 32usize];
    ["Offset of field: Embedding::cols"][::std::mem::offset_of!(Embedding, cols) - 40usize];
};
/// Parameters of `gated_residual_*`: z = x + gate * y, row by row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GatedResidualFwd {
    /// x, f32: `rows` rows of `cols` elements, `x_step` elements apart.
    pub x: u64,
    /// gate, f32: one vector of `cols` elements a sample, `gate_step` apart (0: shared).
    pub gate: u64,
    /// y, like x but of the kernel's element type, its rows `y_step` elements apart.
    pub y: u64,
    /// z, f32, dense rows; may be x or y.
    pub z: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `gate`.
    pub gate_step: i64,
    /// See `y`.
    pub y_step: i64,
    /// See `x`.
    pub rows: i32,
    /// See `x`.
    pub cols: i32,
    /// Rows of one sample.
    pub tokens: i32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GatedResidualFwd"][::std::mem::size_of::<GatedResidualFwd>() - 72usize];
    ["Alignment of GatedResidualFwd"][::std::mem::align_of::<GatedResidualFwd>() - 8usize];
    ["Offset of field: GatedResidualFwd::x"][::std::mem::offset_of!(GatedResidualFwd, x) - 0usize];
    ["Offset of field: GatedResidualFwd::gate"][::std::mem::offset_of!(GatedResidualFwd, gate) - 8usize];
    ["Offset of field: GatedResidualFwd::y"][::std::mem::offset_of!(GatedResidualFwd, y) - 16usize];
    ["Offset of field: GatedResidualFwd::z"][::std::mem::offset_of!(GatedResidualFwd, z) - 24usize];
    ["Offset of field: GatedResidualFwd::x_step"][::std::mem::offset_of!(GatedResidualFwd, x_step) - 32usize];
    ["Offset of field: GatedResidualFwd::gate_step"]
        [::std::mem::offset_of!(GatedResidualFwd, gate_step) - 40usize];
    ["Offset of field: GatedResidualFwd::y_step"][::std::mem::offset_of!(GatedResidualFwd, y_step) - 48usize];
    ["Offset of field: GatedResidualFwd::rows"][::std::mem::offset_of!(GatedResidualFwd, rows) - 56usize];
    ["Offset of field: GatedResidualFwd::cols"][::std::mem::offset_of!(GatedResidualFwd, cols) - 60usize];
    ["Offset of field: GatedResidualFwd::tokens"][::std::mem::offset_of!(GatedResidualFwd, tokens) - 64usize];
    ["Offset of field: GatedResidualFwd::reserved"]
        [::std::mem::offset_of!(GatedResidualFwd, reserved) - 68usize];
};
/// A norm of the finished rows of a product: (x - mean) * rstd * (plus + scale) + shift, in the type of the
/// product's operands.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct RowNorm {
    /// Dense rows.
    pub y: u64,
    /// f32, one vector a sample, `shift_step` and `scale_step` elements apart (0: shared by all).
    pub shift: u64,
    /// See `shift`.
    pub scale: u64,
    /// See `shift`.
    pub shift_step: i64,
    /// See `shift`.
    pub scale_step: i64,
    /// Added to the variance.
    pub eps: f32,
    /// 1 for a norm that is conditioned (`adaln`), 0 for one with weights (`layer_norm`).
    pub plus: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowNorm"][::std::mem::size_of::<RowNorm>() - 48usize];
    ["Alignment of RowNorm"][::std::mem::align_of::<RowNorm>() - 8usize];
    ["Offset of field: RowNorm::y"][::std::mem::offset_of!(RowNorm, y) - 0usize];
    ["Offset of field: RowNorm::shift"][::std::mem::offset_of!(RowNorm, shift) - 8usize];
    ["Offset of field: RowNorm::scale"][::std::mem::offset_of!(RowNorm, scale) - 16usize];
    ["Offset of field: RowNorm::shift_step"][::std::mem::offset_of!(RowNorm, shift_step) - 24usize];
    ["Offset of field: RowNorm::scale_step"][::std::mem::offset_of!(RowNorm, scale_step) - 32usize];
    ["Offset of field: RowNorm::eps"][::std::mem::offset_of!(RowNorm, eps) - 40usize];
    ["Offset of field: RowNorm::plus"][::std::mem::offset_of!(RowNorm, plus) - 44usize];
};
/// What the last block that finishes some rows of a product does to them, part of the parameters of those kernels:
/// rows of up to 1280 elements, a multiple of 4.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct RowNorms {
    /// The first `count` are wanted.
    pub norms: [RowNorm; 2usize],
    /// One u32 for each row of tiles, zero before and after the launch: how many of its blocks are done.
    pub counters: u64,
    /// 0 to `ROW_NORMS`.
    pub count: i32,
    /// Rows of one sample.
    pub tokens: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowNorms"][::std::mem::size_of::<RowNorms>() - 112usize];
    ["Alignment of RowNorms"][::std::mem::align_of::<RowNorms>() - 8usize];
    ["Offset of field: RowNorms::norms"][::std::mem::offset_of!(RowNorms, norms) - 0usize];
    ["Offset of field: RowNorms::counters"][::std::mem::offset_of!(RowNorms, counters) - 96usize];
    ["Offset of field: RowNorms::count"][::std::mem::offset_of!(RowNorms, count) - 104usize];
    ["Offset of field: RowNorms::tokens"][::std::mem::offset_of!(RowNorms, tokens) - 108usize];
};
/// What the products of a group do not share.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GemmMember {
    /// As the fields of `Gemm`.
    pub a: u64,
    /// See `a`.
    pub b: u64,
    /// See `a`.
    pub y: u64,
    /// As that of `Epilogue`.
    pub bias: u64,
    /// As the field of `Gemm`.
    pub a_step: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GemmMember"][::std::mem::size_of::<GemmMember>() - 40usize];
    ["Alignment of GemmMember"][::std::mem::align_of::<GemmMember>() - 8usize];
    ["Offset of field: GemmMember::a"][::std::mem::offset_of!(GemmMember, a) - 0usize];
    ["Offset of field: GemmMember::b"][::std::mem::offset_of!(GemmMember, b) - 8usize];
    ["Offset of field: GemmMember::y"][::std::mem::offset_of!(GemmMember, y) - 16usize];
    ["Offset of field: GemmMember::bias"][::std::mem::offset_of!(GemmMember, bias) - 24usize];
    ["Offset of field: GemmMember::a_step"][::std::mem::offset_of!(GemmMember, a_step) - 32usize];
};
/// Parameters of `gemm_*` but `gemm_sum_*`: y = epilogue(A*B), A of m rows and k columns, B of k rows and n
/// columns, for each item of a batch or member of a group of products (blockIdx.z). With gridDim.y > 1 each
/// blockIdx.y sums `k_slice` of the k products only, y is [gridDim.y, batch, m, n] in f32, and `gemm_sum_*`
/// does the rest; not for groups.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Gemm {
    /// A: rows of k values, or with `a_trans` its transpose, rows of m values; `a_step` elements apart.
    pub a: u64,
    /// B: rows of n values, or with `b_trans` its transpose, rows of k values; `b_step` elements apart.
    pub b: u64,
    /// y: dense m x n matrices one behind another.
    pub y: u64,
    /// See `a`.
    pub a_step: i64,
    /// See `b`.
    pub b_step: i64,
    /// Elements between two items of the batch in A and B; 0: shared.
    pub a_batch: i64,
    /// See `a_batch`.
    pub b_batch: i64,
    /// The residual has the batch of y; the bias is shared.
    pub epilogue: Epilogue,
    /// The products, if `grouped`.
    pub members: [GemmMember; 8usize],
    /// Of y, for one product whose k is not split, by `gemm_nt_*`.
    pub norms: RowNorms,
    /// See `norms`.
    pub m: i32,
    /// See `norms`.
    pub n: i32,
    /// See `norms`.
    pub k: i32,
    /// Products of a block: a multiple of 32, or k.
    pub k_slice: i32,
    /// Bytes (2 to 16, a power of two) that divide the address and all steps of A and B: the size of accesses.
    pub a_align: i32,
    /// See `a_align`.
    pub b_align: i32,
    /// How A and B are stored. Kernels of one layout (`gemm_nt_*`) do not ask.
    pub a_trans: i32,
    /// See `b`.
    pub b_trans: i32,
    /// Whether y (and the residual) is f32 where A and B are half precision.
    pub y_f32: i32,
    /// Whether blockIdx.z is a member of a group, of which the epilogue asks for neither residual nor gate.
    pub grouped: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Gemm"][::std::mem::size_of::<Gemm>() - 592usize];
    ["Alignment of Gemm"][::std::mem::align_of::<Gemm>() - 8usize];
    ["Offset of field: Gemm::a"][::std::mem::offset_of!(Gemm, a) - 0usize];
    ["Offset of field: Gemm::b"][::std::mem::offset_of!(Gemm, b) - 8usize];
    ["Offset of field: Gemm::y"][::std::mem::offset_of!(Gemm, y) - 16usize];
    ["Offset of field: Gemm::a_step"][::std::mem::offset_of!(Gemm, a_step) - 24usize];
    ["Offset of field: Gemm::b_step"][::std::mem::offset_of!(Gemm, b_step) - 32usize];
    ["Offset of field: Gemm::a_batch"][::std::mem::offset_of!(Gemm, a_batch) - 40usize];
    ["Offset of field: Gemm::b_batch"][::std::mem::offset_of!(Gemm, b_batch) - 48usize];
    ["Offset of field: Gemm::epilogue"][::std::mem::offset_of!(Gemm, epilogue) - 56usize];
    ["Offset of field: Gemm::members"][::std::mem::offset_of!(Gemm, members) - 120usize];
    ["Offset of field: Gemm::norms"][::std::mem::offset_of!(Gemm, norms) - 440usize];
    ["Offset of field: Gemm::m"][::std::mem::offset_of!(Gemm, m) - 552usize];
    ["Offset of field: Gemm::n"][::std::mem::offset_of!(Gemm, n) - 556usize];
    ["Offset of field: Gemm::k"][::std::mem::offset_of!(Gemm, k) - 560usize];
    ["Offset of field: Gemm::k_slice"][::std::mem::offset_of!(Gemm, k_slice) - 564usize];
    ["Offset of field: Gemm::a_align"][::std::mem::offset_of!(Gemm, a_align) - 568usize];
    ["Offset of field: Gemm::b_align"][::std::mem::offset_of!(Gemm, b_align) - 572usize];
    ["Offset of field: Gemm::a_trans"][::std::mem::offset_of!(Gemm, a_trans) - 576usize];
    ["Offset of field: Gemm::b_trans"][::std::mem::offset_of!(Gemm, b_trans) - 580usize];
    ["Offset of field: Gemm::y_f32"][::std::mem::offset_of!(Gemm, y_f32) - 584usize];
    ["Offset of field: Gemm::grouped"][::std::mem::offset_of!(Gemm, grouped) - 588usize];
};
/// Parameters of `gemm_sum_*`: y = epilogue(sum of the partial products of `splits` blocks).
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GemmSum {
    /// f32, `splits` runs of `len` values.
    pub partial: u64,
    /// y, `len` values, rows of `n`.
    pub y: u64,
    /// See `partial`.
    pub len: i64,
    /// See `y`.
    pub epilogue: Epilogue,
    /// See `y`.
    pub n: i32,
    /// See `partial`.
    pub splits: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GemmSum"][::std::mem::size_of::<GemmSum>() - 96usize];
    ["Alignment of GemmSum"][::std::mem::align_of::<GemmSum>() - 8usize];
    ["Offset of field: GemmSum::partial"][::std::mem::offset_of!(GemmSum, partial) - 0usize];
    ["Offset of field: GemmSum::y"][::std::mem::offset_of!(GemmSum, y) - 8usize];
    ["Offset of field: GemmSum::len"][::std::mem::offset_of!(GemmSum, len) - 16usize];
    ["Offset of field: GemmSum::epilogue"][::std::mem::offset_of!(GemmSum, epilogue) - 24usize];
    ["Offset of field: GemmSum::n"][::std::mem::offset_of!(GemmSum, n) - 88usize];
    ["Offset of field: GemmSum::splits"][::std::mem::offset_of!(GemmSum, splits) - 92usize];
};
/// Parameters of `gemm_*_sm90`: as `Gemm`, but operands are described by tensor maps of three axes, of boxes of 64
/// elements in rows of 128 swizzled bytes: k, outer index and item of the batch, 128 (or the tile's columns)
/// outer indices a box; or where k is not along the rows outer index, k and item, 64 k a box.
#[repr(C)]
#[repr(align(64))]
#[derive(Debug, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GemmSm90 {
    /// A and B: of the members, if `grouped`, else the first.
    pub a: [TensorMap; 8usize],
    /// As `a`.
    pub b: [TensorMap; 8usize],
    /// Results, as those of `Gemm` and `GemmMember`: of the members, if `grouped`, else the first.
    pub y: [u64; 8usize],
    /// Of the members, if `grouped`; else the epilogue has it.
    pub bias: [u64; 8usize],
    /// As the fields of `Gemm`; `k_slice` is a multiple of 64, or k.
    pub epilogue: Epilogue,
    /// As the fields of `Gemm`.
    pub m: i32,
    /// See `m`.
    pub n: i32,
    /// See `m`.
    pub k: i32,
    /// See `epilogue`.
    pub k_slice: i32,
    /// Whether A and B have an item for each of the batch, or share one.
    pub a_batched: i32,
    /// See `a_batched`.
    pub b_batched: i32,
    /// As the fields of `Gemm`.
    pub y_f32: i32,
    /// See `a`.
    pub grouped: i32,
    /// Padding to a multiple of 64 bytes.
    pub reserved: [u32; 8usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GemmSm90"][::std::mem::size_of::<GemmSm90>() - 2304usize];
    ["Alignment of GemmSm90"][::std::mem::align_of::<GemmSm90>() - 64usize];
    ["Offset of field: GemmSm90::a"][::std::mem::offset_of!(GemmSm90, a) - 0usize];
    ["Offset of field: GemmSm90::b"][::std::mem::offset_of!(GemmSm90, b) - 1024usize];
    ["Offset of field: GemmSm90::y"][::std::mem::offset_of!(GemmSm90, y) - 2048usize];
    ["Offset of field: GemmSm90::bias"][::std::mem::offset_of!(GemmSm90, bias) - 2112usize];
    ["Offset of field: GemmSm90::epilogue"][::std::mem::offset_of!(GemmSm90, epilogue) - 2176usize];
    ["Offset of field: GemmSm90::m"][::std::mem::offset_of!(GemmSm90, m) - 2240usize];
    ["Offset of field: GemmSm90::n"][::std::mem::offset_of!(GemmSm90, n) - 2244usize];
    ["Offset of field: GemmSm90::k"][::std::mem::offset_of!(GemmSm90, k) - 2248usize];
    ["Offset of field: GemmSm90::k_slice"][::std::mem::offset_of!(GemmSm90, k_slice) - 2252usize];
    ["Offset of field: GemmSm90::a_batched"][::std::mem::offset_of!(GemmSm90, a_batched) - 2256usize];
    ["Offset of field: GemmSm90::b_batched"][::std::mem::offset_of!(GemmSm90, b_batched) - 2260usize];
    ["Offset of field: GemmSm90::y_f32"][::std::mem::offset_of!(GemmSm90, y_f32) - 2264usize];
    ["Offset of field: GemmSm90::grouped"][::std::mem::offset_of!(GemmSm90, grouped) - 2268usize];
    ["Offset of field: GemmSm90::reserved"][::std::mem::offset_of!(GemmSm90, reserved) - 2272usize];
};
impl Default for GemmSm90 {
    fn default() -> Self {
        let mut s = ::std::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::std::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
/// How the images [samples, pixels, channels] of a group norm are shared out. Block (s, t, b) of a launch over
/// pixels has the pixels of slab s and the channels of tile t of sample b.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GroupNormTiles {
    /// Pixels of a sample.
    pub pixels: i32,
    /// See `pixels`.
    pub channels: i32,
    /// Blocks of channels that are normalised together.
    pub groups: i32,
    /// Channel vectors of a tile; the threads of a block are `tile` wide and share out the pixels.
    pub tile: i32,
    /// Pixels of a slab.
    pub slab: i32,
    /// Slabs of a sample.
    pub slabs: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupNormTiles"][::std::mem::size_of::<GroupNormTiles>() - 24usize];
    ["Alignment of GroupNormTiles"][::std::mem::align_of::<GroupNormTiles>() - 4usize];
    ["Offset of field: GroupNormTiles::pixels"][::std::mem::offset_of!(GroupNormTiles, pixels) - 0usize];
    ["Offset of field: GroupNormTiles::channels"][::std::mem::offset_of!(GroupNormTiles, channels) - 4usize];
    ["Offset of field: GroupNormTiles::groups"][::std::mem::offset_of!(GroupNormTiles, groups) - 8usize];
    ["Offset of field: GroupNormTiles::tile"][::std::mem::offset_of!(GroupNormTiles, tile) - 12usize];
    ["Offset of field: GroupNormTiles::slab"][::std::mem::offset_of!(GroupNormTiles, slab) - 16usize];
    ["Offset of field: GroupNormTiles::slabs"][::std::mem::offset_of!(GroupNormTiles, slabs) - 20usize];
};
/// How images [height, width] were cut into pieces of which moments are known: row by row, `piece_h` x `piece_w` pixels
/// each, smaller at the right and the bottom. Slabs of pixels are pieces of an image that is one row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GroupNormPieces {
    /// Of an image, in pixels.
    pub height: i32,
    /// See `height`.
    pub width: i32,
    /// Of a piece, in pixels.
    pub piece_h: i32,
    /// See `piece_h`.
    pub piece_w: i32,
    /// Of a pixel.
    pub channels: i32,
    /// Blocks of channels that are normalised together.
    pub groups: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupNormPieces"][::std::mem::size_of::<GroupNormPieces>() - 24usize];
    ["Alignment of GroupNormPieces"][::std::mem::align_of::<GroupNormPieces>() - 4usize];
    ["Offset of field: GroupNormPieces::height"][::std::mem::offset_of!(GroupNormPieces, height) - 0usize];
    ["Offset of field: GroupNormPieces::width"][::std::mem::offset_of!(GroupNormPieces, width) - 4usize];
    ["Offset of field: GroupNormPieces::piece_h"][::std::mem::offset_of!(GroupNormPieces, piece_h) - 8usize];
    ["Offset of field: GroupNormPieces::piece_w"][::std::mem::offset_of!(GroupNormPieces, piece_w) - 12usize];
    ["Offset of field: GroupNormPieces::channels"]
        [::std::mem::offset_of!(GroupNormPieces, channels) - 16usize];
    ["Offset of field: GroupNormPieces::groups"][::std::mem::offset_of!(GroupNormPieces, groups) - 20usize];
};
/// Parameters of `group_norm_moments_*`: mean and sum of squared distances from it, of every channel over every slab.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GroupNormMoments {
    /// x, pixels `x_step` elements apart.
    pub x: u64,
    /// Result, f32 [samples, slabs, channels, 2].
    pub partials: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `partials`.
    pub tiles: GroupNormTiles,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupNormMoments"][::std::mem::size_of::<GroupNormMoments>() - 48usize];
    ["Alignment of GroupNormMoments"][::std::mem::align_of::<GroupNormMoments>() - 8usize];
    ["Offset of field: GroupNormMoments::x"][::std::mem::offset_of!(GroupNormMoments, x) - 0usize];
    ["Offset of field: GroupNormMoments::partials"]
        [::std::mem::offset_of!(GroupNormMoments, partials) - 8usize];
    ["Offset of field: GroupNormMoments::x_step"][::std::mem::offset_of!(GroupNormMoments, x_step) - 16usize];
    ["Offset of field: GroupNormMoments::tiles"][::std::mem::offset_of!(GroupNormMoments, tiles) - 24usize];
};
/// Parameters of `group_norm_combine_f32`: mean and reciprocal standard deviation of every group. Block (g, b):
/// one group of one sample.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GroupNormCombine {
    /// f32 [samples, slabs, channels, 2], as `group_norm_moments_*` writes it.
    pub partials: u64,
    /// Result, f32 [samples, groups, 2].
    pub moments: u64,
    /// See `moments`.
    pub tiles: GroupNormTiles,
    /// Added to the variance.
    pub eps: f32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupNormCombine"][::std::mem::size_of::<GroupNormCombine>() - 48usize];
    ["Alignment of GroupNormCombine"][::std::mem::align_of::<GroupNormCombine>() - 8usize];
    ["Offset of field: GroupNormCombine::partials"]
        [::std::mem::offset_of!(GroupNormCombine, partials) - 0usize];
    ["Offset of field: GroupNormCombine::moments"]
        [::std::mem::offset_of!(GroupNormCombine, moments) - 8usize];
    ["Offset of field: GroupNormCombine::tiles"][::std::mem::offset_of!(GroupNormCombine, tiles) - 16usize];
    ["Offset of field: GroupNormCombine::eps"][::std::mem::offset_of!(GroupNormCombine, eps) - 40usize];
    ["Offset of field: GroupNormCombine::reserved"]
        [::std::mem::offset_of!(GroupNormCombine, reserved) - 44usize];
};
/// Parameters of `group_norm_apply_*`: y = f((x - mean) * rstd * gamma + beta).
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GroupNormApply {
    /// x, pixels `x_step` elements apart.
    pub x: u64,
    /// Mean and reciprocal standard deviation, f32 [samples, groups, 2].
    pub moments: u64,
    /// gamma and beta, f32 [channels].
    pub gamma: u64,
    /// See `gamma`.
    pub beta: u64,
    /// y, dense; may be x.
    pub y: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `y`.
    pub tiles: GroupNormTiles,
    /// 1: f is SiLU; 0: f is the identity.
    pub silu: i32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupNormApply"][::std::mem::size_of::<GroupNormApply>() - 80usize];
    ["Alignment of GroupNormApply"][::std::mem::align_of::<GroupNormApply>() - 8usize];
    ["Offset of field: GroupNormApply::x"][::std::mem::offset_of!(GroupNormApply, x) - 0usize];
    ["Offset of field: GroupNormApply::moments"][::std::mem::offset_of!(GroupNormApply, moments) - 8usize];
    ["Offset of field: GroupNormApply::gamma"][::std::mem::offset_of!(GroupNormApply, gamma) - 16usize];
    ["Offset of field: GroupNormApply::beta"][::std::mem::offset_of!(GroupNormApply, beta) - 24usize];
    ["Offset of field: GroupNormApply::y"][::std::mem::offset_of!(GroupNormApply, y) - 32usize];
    ["Offset of field: GroupNormApply::x_step"][::std::mem::offset_of!(GroupNormApply, x_step) - 40usize];
    ["Offset of field: GroupNormApply::tiles"][::std::mem::offset_of!(GroupNormApply, tiles) - 48usize];
    ["Offset of field: GroupNormApply::silu"][::std::mem::offset_of!(GroupNormApply, silu) - 72usize];
    ["Offset of field: GroupNormApply::reserved"][::std::mem::offset_of!(GroupNormApply, reserved) - 76usize];
};
/// Parameters of `group_norm_grad_sums_*` and `group_norm_grad_apply_*`. With z = n * gamma + beta and
/// dz = f'(z) * dy, the first sums dz and dz * n of every channel over every slab, and the second writes
/// dx = (dz * gamma - mean(dz * gamma) - n * mean(dz * gamma * n)) * rstd.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GroupNormBackward {
    /// x and dy, f32, pixels `x_step` and `dy_step` elements apart.
    pub x: u64,
    /// See `x`.
    pub dy: u64,
    /// Mean and reciprocal standard deviation, f32 [samples, groups, 2].
    pub moments: u64,
    /// gamma and beta, f32 [channels].
    pub gamma: u64,
    /// See `gamma`.
    pub beta: u64,
    /// Sums of dz and dz * n, f32 [samples, slabs, channels, 2]: result of the first kernel.
    pub partials: u64,
    /// Means of dz * gamma and dz * gamma * n, f32 [samples, groups, 2]: operand of the second kernel.
    pub means: u64,
    /// dx, f32, dense: result of the second kernel.
    pub dx: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `x`.
    pub dy_step: i64,
    /// See `dx`.
    pub tiles: GroupNormTiles,
    /// 1: f is SiLU; 0: f is the identity.
    pub silu: i32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupNormBackward"][::std::mem::size_of::<GroupNormBackward>() - 112usize];
    ["Alignment of GroupNormBackward"][::std::mem::align_of::<GroupNormBackward>() - 8usize];
    ["Offset of field: GroupNormBackward::x"][::std::mem::offset_of!(GroupNormBackward, x) - 0usize];
    ["Offset of field: GroupNormBackward::dy"][::std::mem::offset_of!(GroupNormBackward, dy) - 8usize];
    ["Offset of field: GroupNormBackward::moments"]
        [::std::mem::offset_of!(GroupNormBackward, moments) - 16usize];
    ["Offset of field: GroupNormBackward::gamma"][::std::mem::offset_of!(GroupNormBackward, gamma) - 24usize];
    ["Offset of field: GroupNormBackward::beta"][::std::mem::offset_of!(GroupNormBackward, beta) - 32usize];
    ["Offset of field: GroupNormBackward::partials"]
        [::std::mem::offset_of!(GroupNormBackward, partials) - 40usize];
    ["Offset of field: GroupNormBackward::means"][::std::mem::offset_of!(GroupNormBackward, means) - 48usize];
    ["Offset of field: GroupNormBackward::dx"][::std::mem::offset_of!(GroupNormBackward, dx) - 56usize];
    ["Offset of field: GroupNormBackward::x_step"]
        [::std::mem::offset_of!(GroupNormBackward, x_step) - 64usize];
    ["Offset of field: GroupNormBackward::dy_step"]
        [::std::mem::offset_of!(GroupNormBackward, dy_step) - 72usize];
    ["Offset of field: GroupNormBackward::tiles"][::std::mem::offset_of!(GroupNormBackward, tiles) - 80usize];
    ["Offset of field: GroupNormBackward::silu"][::std::mem::offset_of!(GroupNormBackward, silu) - 104usize];
    ["Offset of field: GroupNormBackward::reserved"]
        [::std::mem::offset_of!(GroupNormBackward, reserved) - 108usize];
};
/// Parameters of `group_norm_grad_means_f32` (block (g, b): one group of one sample) and
/// `group_norm_grad_weights_f32` (a block 32 channels).
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GroupNormGradCombine {
    /// Sums of dz and dz * n, f32 [samples, slabs, channels, 2].
    pub partials: u64,
    /// gamma, f32 [channels].
    pub gamma: u64,
    /// Means of dz * gamma and dz * gamma * n, f32 [samples, groups, 2]: result of `group_norm_grad_means_f32`.
    pub means: u64,
    /// Gradients of gamma and beta, f32 [channels]: results of `group_norm_grad_weights_f32`.
    pub d_gamma: u64,
    /// See `d_gamma`.
    pub d_beta: u64,
    /// See `d_gamma`.
    pub tiles: GroupNormTiles,
    /// See `d_gamma`.
    pub samples: i32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupNormGradCombine"][::std::mem::size_of::<GroupNormGradCombine>() - 72usize];
    ["Alignment of GroupNormGradCombine"][::std::mem::align_of::<GroupNormGradCombine>() - 8usize];
    ["Offset of field: GroupNormGradCombine::partials"]
        [::std::mem::offset_of!(GroupNormGradCombine, partials) - 0usize];
    ["Offset of field: GroupNormGradCombine::gamma"]
        [::std::mem::offset_of!(GroupNormGradCombine, gamma) - 8usize];
    ["Offset of field: GroupNormGradCombine::means"]
        [::std::mem::offset_of!(GroupNormGradCombine, means) - 16usize];
    ["Offset of field: GroupNormGradCombine::d_gamma"]
        [::std::mem::offset_of!(GroupNormGradCombine, d_gamma) - 24usize];
    ["Offset of field: GroupNormGradCombine::d_beta"]
        [::std::mem::offset_of!(GroupNormGradCombine, d_beta) - 32usize];
    ["Offset of field: GroupNormGradCombine::tiles"]
        [::std::mem::offset_of!(GroupNormGradCombine, tiles) - 40usize];
    ["Offset of field: GroupNormGradCombine::samples"]
        [::std::mem::offset_of!(GroupNormGradCombine, samples) - 64usize];
    ["Offset of field: GroupNormGradCombine::reserved"]
        [::std::mem::offset_of!(GroupNormGradCombine, reserved) - 68usize];
};
/// Parameters of `group_norm_affine_f32`: the factors with which y = x * scale + shift is the group norm of x. Block
/// (g, b): one group of one sample.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GroupNormAffine {
    /// Means and sums of squared distances from them, f32 [samples, pieces, channels, 2].
    pub partials: u64,
    /// gamma and beta, f32 [channels].
    pub gamma: u64,
    /// See `gamma`.
    pub beta: u64,
    /// Result, f32 [samples, 2, channels]: scale and shift of every channel.
    pub affine: u64,
    /// See `affine`.
    pub pieces: GroupNormPieces,
    /// Added to the variance.
    pub eps: f32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupNormAffine"][::std::mem::size_of::<GroupNormAffine>() - 64usize];
    ["Alignment of GroupNormAffine"][::std::mem::align_of::<GroupNormAffine>() - 8usize];
    ["Offset of field: GroupNormAffine::partials"]
        [::std::mem::offset_of!(GroupNormAffine, partials) - 0usize];
    ["Offset of field: GroupNormAffine::gamma"][::std::mem::offset_of!(GroupNormAffine, gamma) - 8usize];
    ["Offset of field: GroupNormAffine::beta"][::std::mem::offset_of!(GroupNormAffine, beta) - 16usize];
    ["Offset of field: GroupNormAffine::affine"][::std::mem::offset_of!(GroupNormAffine, affine) - 24usize];
    ["Offset of field: GroupNormAffine::pieces"][::std::mem::offset_of!(GroupNormAffine, pieces) - 32usize];
    ["Offset of field: GroupNormAffine::eps"][::std::mem::offset_of!(GroupNormAffine, eps) - 56usize];
    ["Offset of field: GroupNormAffine::reserved"]
        [::std::mem::offset_of!(GroupNormAffine, reserved) - 60usize];
};
/// Parameters of `group_norm_rescale_*`: y = f(x * scale + shift).
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GroupNormRescale {
    /// x, pixels `x_step` elements apart.
    pub x: u64,
    /// Scale and shift, f32 [samples, 2, channels].
    pub affine: u64,
    /// y, dense.
    pub y: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `y`.
    pub tiles: GroupNormTiles,
    /// 1: f is SiLU; 0: f is the identity.
    pub silu: i32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupNormRescale"][::std::mem::size_of::<GroupNormRescale>() - 64usize];
    ["Alignment of GroupNormRescale"][::std::mem::align_of::<GroupNormRescale>() - 8usize];
    ["Offset of field: GroupNormRescale::x"][::std::mem::offset_of!(GroupNormRescale, x) - 0usize];
    ["Offset of field: GroupNormRescale::affine"][::std::mem::offset_of!(GroupNormRescale, affine) - 8usize];
    ["Offset of field: GroupNormRescale::y"][::std::mem::offset_of!(GroupNormRescale, y) - 16usize];
    ["Offset of field: GroupNormRescale::x_step"][::std::mem::offset_of!(GroupNormRescale, x_step) - 24usize];
    ["Offset of field: GroupNormRescale::tiles"][::std::mem::offset_of!(GroupNormRescale, tiles) - 32usize];
    ["Offset of field: GroupNormRescale::silu"][::std::mem::offset_of!(GroupNormRescale, silu) - 56usize];
    ["Offset of field: GroupNormRescale::reserved"]
        [::std::mem::offset_of!(GroupNormRescale, reserved) - 60usize];
};
/// Parameters of `image_map_*`: y = x * scale + shift, no less than low and no more than high; NaN stays.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ImageMap {
    /// f32.
    pub x: u64,
    /// f32; may be x.
    pub y: u64,
    /// Number of elements.
    pub len: i64,
    /// Factor and summand.
    pub scale: f32,
    /// See `scale`.
    pub shift: f32,
    /// Bounds.
    pub low: f32,
    /// See `low`.
    pub high: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ImageMap"][::std::mem::size_of::<ImageMap>() - 40usize];
    ["Alignment of ImageMap"][::std::mem::align_of::<ImageMap>() - 8usize];
    ["Offset of field: ImageMap::x"][::std::mem::offset_of!(ImageMap, x) - 0usize];
    ["Offset of field: ImageMap::y"][::std::mem::offset_of!(ImageMap, y) - 8usize];
    ["Offset of field: ImageMap::len"][::std::mem::offset_of!(ImageMap, len) - 16usize];
    ["Offset of field: ImageMap::scale"][::std::mem::offset_of!(ImageMap, scale) - 24usize];
    ["Offset of field: ImageMap::shift"][::std::mem::offset_of!(ImageMap, shift) - 28usize];
    ["Offset of field: ImageMap::low"][::std::mem::offset_of!(ImageMap, low) - 32usize];
    ["Offset of field: ImageMap::high"][::std::mem::offset_of!(ImageMap, high) - 36usize];
};
/// Parameters of `layer_norm_fwd_*`: y = (x - mean) * rstd [* gamma + beta], row by row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct LayerNormFwd {
    /// x, `rows` rows of `cols` elements, `x_step` elements apart.
    pub x: u64,
    /// gamma and beta, f32 [cols]; both 0: no weights.
    pub gamma: u64,
    /// See `gamma`.
    pub beta: u64,
    /// y, dense rows.
    pub y: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `x`.
    pub rows: i32,
    /// See `x`.
    pub cols: i32,
    /// Added to the variance.
    pub eps: f32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LayerNormFwd"][::std::mem::size_of::<LayerNormFwd>() - 56usize];
    ["Alignment of LayerNormFwd"][::std::mem::align_of::<LayerNormFwd>() - 8usize];
    ["Offset of field: LayerNormFwd::x"][::std::mem::offset_of!(LayerNormFwd, x) - 0usize];
    ["Offset of field: LayerNormFwd::gamma"][::std::mem::offset_of!(LayerNormFwd, gamma) - 8usize];
    ["Offset of field: LayerNormFwd::beta"][::std::mem::offset_of!(LayerNormFwd, beta) - 16usize];
    ["Offset of field: LayerNormFwd::y"][::std::mem::offset_of!(LayerNormFwd, y) - 24usize];
    ["Offset of field: LayerNormFwd::x_step"][::std::mem::offset_of!(LayerNormFwd, x_step) - 32usize];
    ["Offset of field: LayerNormFwd::rows"][::std::mem::offset_of!(LayerNormFwd, rows) - 40usize];
    ["Offset of field: LayerNormFwd::cols"][::std::mem::offset_of!(LayerNormFwd, cols) - 44usize];
    ["Offset of field: LayerNormFwd::eps"][::std::mem::offset_of!(LayerNormFwd, eps) - 48usize];
    ["Offset of field: LayerNormFwd::reserved"][::std::mem::offset_of!(LayerNormFwd, reserved) - 52usize];
};
/// Parameters of `layer_norm_grad_rows_*`: dx = (d - mean(d) - n * mean(d * n)) * rstd with d = dy [* gamma] and
/// n = (x - mean) * rstd, row by row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct LayerNormGradRows {
    /// x, f32: `rows` rows of `cols` elements, `x_step` elements apart.
    pub x: u64,
    /// dy, f32, like x, its rows `dy_step` elements apart.
    pub dy: u64,
    /// gamma, f32 [cols]; 0: none.
    pub gamma: u64,
    /// dx, f32, dense rows.
    pub dx: u64,
    /// Result for the next launch: mean and rstd of every row, f32 [rows, 2]; 0: not wanted.
    pub moments: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `dy`.
    pub dy_step: i64,
    /// See `x`.
    pub rows: i32,
    /// See `x`.
    pub cols: i32,
    /// Added to the variance.
    pub eps: f32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LayerNormGradRows"][::std::mem::size_of::<LayerNormGradRows>() - 72usize];
    ["Alignment of LayerNormGradRows"][::std::mem::align_of::<LayerNormGradRows>() - 8usize];
    ["Offset of field: LayerNormGradRows::x"][::std::mem::offset_of!(LayerNormGradRows, x) - 0usize];
    ["Offset of field: LayerNormGradRows::dy"][::std::mem::offset_of!(LayerNormGradRows, dy) - 8usize];
    ["Offset of field: LayerNormGradRows::gamma"][::std::mem::offset_of!(LayerNormGradRows, gamma) - 16usize];
    ["Offset of field: LayerNormGradRows::dx"][::std::mem::offset_of!(LayerNormGradRows, dx) - 24usize];
    ["Offset of field: LayerNormGradRows::moments"]
        [::std::mem::offset_of!(LayerNormGradRows, moments) - 32usize];
    ["Offset of field: LayerNormGradRows::x_step"]
        [::std::mem::offset_of!(LayerNormGradRows, x_step) - 40usize];
    ["Offset of field: LayerNormGradRows::dy_step"]
        [::std::mem::offset_of!(LayerNormGradRows, dy_step) - 48usize];
    ["Offset of field: LayerNormGradRows::rows"][::std::mem::offset_of!(LayerNormGradRows, rows) - 56usize];
    ["Offset of field: LayerNormGradRows::cols"][::std::mem::offset_of!(LayerNormGradRows, cols) - 60usize];
    ["Offset of field: LayerNormGradRows::eps"][::std::mem::offset_of!(LayerNormGradRows, eps) - 64usize];
    ["Offset of field: LayerNormGradRows::reserved"]
        [::std::mem::offset_of!(LayerNormGradRows, reserved) - 68usize];
};
/// An expert: rows h of k values, and two layers of n rows of k values that make its gammas and betas of them.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ModulateExpert {
    /// h, rows `h_step` elements apart.
    pub h: u64,
    /// The weights, dense rows.
    pub w_gamma: u64,
    /// See `w_gamma`.
    pub w_beta: u64,
    /// f32, one value a column.
    pub b_gamma: u64,
    /// See `b_gamma`.
    pub b_beta: u64,
    /// See `h`.
    pub h_step: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ModulateExpert"][::std::mem::size_of::<ModulateExpert>() - 48usize];
    ["Alignment of ModulateExpert"][::std::mem::align_of::<ModulateExpert>() - 8usize];
    ["Offset of field: ModulateExpert::h"][::std::mem::offset_of!(ModulateExpert, h) - 0usize];
    ["Offset of field: ModulateExpert::w_gamma"][::std::mem::offset_of!(ModulateExpert, w_gamma) - 8usize];
    ["Offset of field: ModulateExpert::w_beta"][::std::mem::offset_of!(ModulateExpert, w_beta) - 16usize];
    ["Offset of field: ModulateExpert::b_gamma"][::std::mem::offset_of!(ModulateExpert, b_gamma) - 24usize];
    ["Offset of field: ModulateExpert::b_beta"][::std::mem::offset_of!(ModulateExpert, b_beta) - 32usize];
    ["Offset of field: ModulateExpert::h_step"][::std::mem::offset_of!(ModulateExpert, h_step) - 40usize];
};
/// Parameters of `linear_modulate_*`: y = x * (1 + gamma) + beta, where gamma is the sum over the experts of
/// g * (h * w_gamma^T + b_gamma), beta likewise, and g is a softmax over the logits of the row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct LinearModulate {
    /// The first `count` exist.
    pub experts: [ModulateExpert; 8usize],
    /// Of y.
    pub norms: RowNorms,
    /// f32, dense m x n matrices; they may be the same memory.
    pub x: u64,
    /// See `x`.
    pub y: u64,
    /// y in the type of h; 0: not wanted.
    pub twin: u64,
    /// As h, `experts` of them a row, rows `logits_step` elements apart; 0: one expert, of weight 1.
    pub logits: u64,
    /// See `logits`.
    pub logits_step: i64,
    /// Extents: rows, columns of y, values of a row of h.
    pub m: i32,
    /// See `m`.
    pub n: i32,
    /// See `m`.
    pub k: i32,
    /// Experts, 1 to `MODULATE_EXPERTS`.
    pub count: i32,
    /// Bytes (2 to 16, a power of two) that divide the addresses and steps of all h, and of all weights.
    pub h_align: i32,
    /// See `h_align`.
    pub w_align: i32,
    /// Whether x, y and the biases can be accessed in vectors of four.
    pub vectors: i32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LinearModulate"][::std::mem::size_of::<LinearModulate>() - 568usize];
    ["Alignment of LinearModulate"][::std::mem::align_of::<LinearModulate>() - 8usize];
    ["Offset of field: LinearModulate::experts"][::std::mem::offset_of!(LinearModulate, experts) - 0usize];
    ["Offset of field: LinearModulate::norms"][::std::mem::offset_of!(LinearModulate, norms) - 384usize];
    ["Offset of field: LinearModulate::x"][::std::mem::offset_of!(LinearModulate, x) - 496usize];
    ["Offset of field: LinearModulate::y"][::std::mem::offset_of!(LinearModulate, y) - 504usize];
    ["Offset of field: LinearModulate::twin"][::std::mem::offset_of!(LinearModulate, twin) - 512usize];
    ["Offset of field: LinearModulate::logits"][::std::mem::offset_of!(LinearModulate, logits) - 520usize];
    ["Offset of field: LinearModulate::logits_step"]
        [::std::mem::offset_of!(LinearModulate, logits_step) - 528usize];
    ["Offset of field: LinearModulate::m"][::std::mem::offset_of!(LinearModulate, m) - 536usize];
    ["Offset of field: LinearModulate::n"][::std::mem::offset_of!(LinearModulate, n) - 540usize];
    ["Offset of field: LinearModulate::k"][::std::mem::offset_of!(LinearModulate, k) - 544usize];
    ["Offset of field: LinearModulate::count"][::std::mem::offset_of!(LinearModulate, count) - 548usize];
    ["Offset of field: LinearModulate::h_align"][::std::mem::offset_of!(LinearModulate, h_align) - 552usize];
    ["Offset of field: LinearModulate::w_align"][::std::mem::offset_of!(LinearModulate, w_align) - 556usize];
    ["Offset of field: LinearModulate::vectors"][::std::mem::offset_of!(LinearModulate, vectors) - 560usize];
    ["Offset of field: LinearModulate::reserved"]
        [::std::mem::offset_of!(LinearModulate, reserved) - 564usize];
};
/// Parameters of `max_pool_fwd_*`: the largest value of each window of an image.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct MaxPoolFwd {
    /// x, dense `[batch, from[0], from[1], channels]`.
    pub x: u64,
    /// y, dense `[batch, height, width, channels]`.
    pub y: u64,
    /// channels, in units: neighbouring elements that a thread handles at once.
    pub channels: Divisor,
    /// See `channels`.
    pub width: Divisor,
    /// See `channels`.
    pub height: Divisor,
    /// Height and width of x.
    pub from: [i32; 2usize],
    /// Rows and columns of a window, pixels between windows, pixels by which the first stands out.
    pub size: i32,
    /// See `size`.
    pub stride: i32,
    /// See `size`.
    pub pad: i32,
    /// Units of y, below 2^31.
    pub units: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MaxPoolFwd"][::std::mem::size_of::<MaxPoolFwd>() - 88usize];
    ["Alignment of MaxPoolFwd"][::std::mem::align_of::<MaxPoolFwd>() - 8usize];
    ["Offset of field: MaxPoolFwd::x"][::std::mem::offset_of!(MaxPoolFwd, x) - 0usize];
    ["Offset of field: MaxPoolFwd::y"][::std::mem::offset_of!(MaxPoolFwd, y) - 8usize];
    ["Offset of field: MaxPoolFwd::channels"][::std::mem::offset_of!(MaxPoolFwd, channels) - 16usize];
    ["Offset of field: MaxPoolFwd::width"][::std::mem::offset_of!(MaxPoolFwd, width) - 32usize];
    ["Offset of field: MaxPoolFwd::height"][::std::mem::offset_of!(MaxPoolFwd, height) - 48usize];
    ["Offset of field: MaxPoolFwd::from"][::std::mem::offset_of!(MaxPoolFwd, from) - 64usize];
    ["Offset of field: MaxPoolFwd::size"][::std::mem::offset_of!(MaxPoolFwd, size) - 72usize];
    ["Offset of field: MaxPoolFwd::stride"][::std::mem::offset_of!(MaxPoolFwd, stride) - 76usize];
    ["Offset of field: MaxPoolFwd::pad"][::std::mem::offset_of!(MaxPoolFwd, pad) - 80usize];
    ["Offset of field: MaxPoolFwd::units"][::std::mem::offset_of!(MaxPoolFwd, units) - 84usize];
};
/// Parameters of `max_pool_bwd_*`.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct MaxPoolBwd {
    /// x, dense `[batch, height, width, channels]`.
    pub x: u64,
    /// dy, dense `[batch, windows[0], windows[1], channels]`.
    pub dy: u64,
    /// dx, dense as x.
    pub dx: u64,
    /// channels, in units: neighbouring elements that a thread handles at once.
    pub channels: Divisor,
    /// See `channels`.
    pub width: Divisor,
    /// See `channels`.
    pub height: Divisor,
    /// Height and width of dy.
    pub windows: [i32; 2usize],
    /// As of `max_pool_fwd_*`.
    pub size: i32,
    /// See `size`.
    pub stride: i32,
    /// See `size`.
    pub pad: i32,
    /// Units of x, below 2^31.
    pub units: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MaxPoolBwd"][::std::mem::size_of::<MaxPoolBwd>() - 96usize];
    ["Alignment of MaxPoolBwd"][::std::mem::align_of::<MaxPoolBwd>() - 8usize];
    ["Offset of field: MaxPoolBwd::x"][::std::mem::offset_of!(MaxPoolBwd, x) - 0usize];
    ["Offset of field: MaxPoolBwd::dy"][::std::mem::offset_of!(MaxPoolBwd, dy) - 8usize];
    ["Offset of field: MaxPoolBwd::dx"][::std::mem::offset_of!(MaxPoolBwd, dx) - 16usize];
    ["Offset of field: MaxPoolBwd::channels"][::std::mem::offset_of!(MaxPoolBwd, channels) - 24usize];
    ["Offset of field: MaxPoolBwd::width"][::std::mem::offset_of!(MaxPoolBwd, width) - 40usize];
    ["Offset of field: MaxPoolBwd::height"][::std::mem::offset_of!(MaxPoolBwd, height) - 56usize];
    ["Offset of field: MaxPoolBwd::windows"][::std::mem::offset_of!(MaxPoolBwd, windows) - 72usize];
    ["Offset of field: MaxPoolBwd::size"][::std::mem::offset_of!(MaxPoolBwd, size) - 80usize];
    ["Offset of field: MaxPoolBwd::stride"][::std::mem::offset_of!(MaxPoolBwd, stride) - 84usize];
    ["Offset of field: MaxPoolBwd::pad"][::std::mem::offset_of!(MaxPoolBwd, pad) - 88usize];
    ["Offset of field: MaxPoolBwd::units"][::std::mem::offset_of!(MaxPoolBwd, units) - 92usize];
};
/// Parameters of `modulate_*`: y = x * (1 + gamma) + beta, row by row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ModulateFwd {
    /// x, f32: `rows` rows of `cols` elements, `x_step` elements apart.
    pub x: u64,
    /// gamma and beta, like x but of the kernel's element type, rows `gamma_step` and `beta_step` elements apart.
    pub gamma: u64,
    /// See `gamma`.
    pub beta: u64,
    /// y, f32, dense rows; may be x.
    pub y: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `gamma`.
    pub gamma_step: i64,
    /// See `gamma`.
    pub beta_step: i64,
    /// See `x`.
    pub rows: i32,
    /// See `x`.
    pub cols: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ModulateFwd"][::std::mem::size_of::<ModulateFwd>() - 64usize];
    ["Alignment of ModulateFwd"][::std::mem::align_of::<ModulateFwd>() - 8usize];
    ["Offset of field: ModulateFwd::x"][::std::mem::offset_of!(ModulateFwd, x) - 0usize];
    ["Offset of field: ModulateFwd::gamma"][::std::mem::offset_of!(ModulateFwd, gamma) - 8usize];
    ["Offset of field: ModulateFwd::beta"][::std::mem::offset_of!(ModulateFwd, beta) - 16usize];
    ["Offset of field: ModulateFwd::y"][::std::mem::offset_of!(ModulateFwd, y) - 24usize];
    ["Offset of field: ModulateFwd::x_step"][::std::mem::offset_of!(ModulateFwd, x_step) - 32usize];
    ["Offset of field: ModulateFwd::gamma_step"][::std::mem::offset_of!(ModulateFwd, gamma_step) - 40usize];
    ["Offset of field: ModulateFwd::beta_step"][::std::mem::offset_of!(ModulateFwd, beta_step) - 48usize];
    ["Offset of field: ModulateFwd::rows"][::std::mem::offset_of!(ModulateFwd, rows) - 56usize];
    ["Offset of field: ModulateFwd::cols"][::std::mem::offset_of!(ModulateFwd, cols) - 60usize];
};
/// Operands of a mixture of experts' modulations: rows of `cols` elements with one logit an expert.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct MoeOperands {
    /// gamma of each expert, rows `gamma_step` elements apart; of the kernel's element type.
    pub gamma: [u64; 8usize],
    /// beta of each expert, rows `beta_step` elements apart; of the kernel's element type.
    pub beta: [u64; 8usize],
    /// x, f32, rows `x_step` elements apart.
    pub x: u64,
    /// Logits, `experts` a row, rows `logits_step` elements apart; of the kernel's element type.
    pub logits: u64,
    /// See `gamma`.
    pub gamma_step: [i64; 8usize],
    /// See `beta`.
    pub beta_step: [i64; 8usize],
    /// See `x`.
    pub x_step: i64,
    /// See `logits`.
    pub logits_step: i64,
    /// See `logits`.
    pub rows: i32,
    /// See `logits`.
    pub cols: i32,
    /// At most 8.
    pub experts: i32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MoeOperands"][::std::mem::size_of::<MoeOperands>() - 304usize];
    ["Alignment of MoeOperands"][::std::mem::align_of::<MoeOperands>() - 8usize];
    ["Offset of field: MoeOperands::gamma"][::std::mem::offset_of!(MoeOperands, gamma) - 0usize];
    ["Offset of field: MoeOperands::beta"][::std::mem::offset_of!(MoeOperands, beta) - 64usize];
    ["Offset of field: MoeOperands::x"][::std::mem::offset_of!(MoeOperands, x) - 128usize];
    ["Offset of field: MoeOperands::logits"][::std::mem::offset_of!(MoeOperands, logits) - 136usize];
    ["Offset of field: MoeOperands::gamma_step"][::std::mem::offset_of!(MoeOperands, gamma_step) - 144usize];
    ["Offset of field: MoeOperands::beta_step"][::std::mem::offset_of!(MoeOperands, beta_step) - 208usize];
    ["Offset of field: MoeOperands::x_step"][::std::mem::offset_of!(MoeOperands, x_step) - 272usize];
    ["Offset of field: MoeOperands::logits_step"]
        [::std::mem::offset_of!(MoeOperands, logits_step) - 280usize];
    ["Offset of field: MoeOperands::rows"][::std::mem::offset_of!(MoeOperands, rows) - 288usize];
    ["Offset of field: MoeOperands::cols"][::std::mem::offset_of!(MoeOperands, cols) - 292usize];
    ["Offset of field: MoeOperands::experts"][::std::mem::offset_of!(MoeOperands, experts) - 296usize];
    ["Offset of field: MoeOperands::reserved"][::std::mem::offset_of!(MoeOperands, reserved) - 300usize];
};
/// Parameters of `moe_modulate_fwd_*`: y = x * (1 + sum(g[k] * gamma[k])) + sum(g[k] * beta[k]), g = softmax(logits).
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct MoeModulateFwd {
    /// Operands.
    pub of: MoeOperands,
    /// y, f32, dense rows; may be x.
    pub y: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MoeModulateFwd"][::std::mem::size_of::<MoeModulateFwd>() - 312usize];
    ["Alignment of MoeModulateFwd"][::std::mem::align_of::<MoeModulateFwd>() - 8usize];
    ["Offset of field: MoeModulateFwd::of"][::std::mem::offset_of!(MoeModulateFwd, of) - 0usize];
    ["Offset of field: MoeModulateFwd::y"][::std::mem::offset_of!(MoeModulateFwd, y) - 304usize];
};
/// Parameters of `moe_modulate_grad_*`: gradients of all operands of the forward op.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct MoeModulateBwd {
    /// Operands of the forward op, all f32.
    pub of: MoeOperands,
    /// dy, f32, rows `dy_step` elements apart.
    pub dy: u64,
    /// See `dy`.
    pub dy_step: i64,
    /// Gradients, f32, dense: of x, of the logits, of every gamma and every beta.
    pub dx: u64,
    /// See `dx`.
    pub d_logits: u64,
    /// See `dx`.
    pub d_gamma: [u64; 8usize],
    /// See `dx`.
    pub d_beta: [u64; 8usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MoeModulateBwd"][::std::mem::size_of::<MoeModulateBwd>() - 464usize];
    ["Alignment of MoeModulateBwd"][::std::mem::align_of::<MoeModulateBwd>() - 8usize];
    ["Offset of field: MoeModulateBwd::of"][::std::mem::offset_of!(MoeModulateBwd, of) - 0usize];
    ["Offset of field: MoeModulateBwd::dy"][::std::mem::offset_of!(MoeModulateBwd, dy) - 304usize];
    ["Offset of field: MoeModulateBwd::dy_step"][::std::mem::offset_of!(MoeModulateBwd, dy_step) - 312usize];
    ["Offset of field: MoeModulateBwd::dx"][::std::mem::offset_of!(MoeModulateBwd, dx) - 320usize];
    ["Offset of field: MoeModulateBwd::d_logits"]
        [::std::mem::offset_of!(MoeModulateBwd, d_logits) - 328usize];
    ["Offset of field: MoeModulateBwd::d_gamma"][::std::mem::offset_of!(MoeModulateBwd, d_gamma) - 336usize];
    ["Offset of field: MoeModulateBwd::d_beta"][::std::mem::offset_of!(MoeModulateBwd, d_beta) - 400usize];
};
/// Parameters of `pixel_shuffle_*` and `pixel_unshuffle_*`: pixels of `channels * r * r` values (the deep picture)
/// to r*r pixels of `channels` values (the wide picture), and back. A block handles a tile: some neighbouring
/// pixels of a row of the deep picture, or some channels of one pixel.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct PixelShuffle {
    /// What is read, dense.
    pub x: u64,
    /// What is written, dense.
    pub y: u64,
    /// r, and r * r
    pub factor: Divisor,
    /// See `factor`.
    pub square: Divisor,
    /// Values of a pixel of the deep picture that are in a tile: channels of a tile * r * r.
    pub depth: Divisor,
    /// Channels of a tile, and pixels of a tile.
    pub tile_channels: Divisor,
    /// See `tile_channels`.
    pub tile_pixels: Divisor,
    /// Tiles along the channels, and along a row of the deep picture.
    pub tiles_deep: Divisor,
    /// See `tiles_deep`.
    pub tiles_across: Divisor,
    /// Channels of the wide picture, and pixels of a row of the deep one.
    pub channels: i32,
    /// See `channels`.
    pub width: i32,
    /// Elements between the channels of one place in a block of pixels, in shared memory.
    pub pitch: i32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PixelShuffle"][::std::mem::size_of::<PixelShuffle>() - 144usize];
    ["Alignment of PixelShuffle"][::std::mem::align_of::<PixelShuffle>() - 8usize];
    ["Offset of field: PixelShuffle::x"][::std::mem::offset_of!(PixelShuffle, x) - 0usize];
    ["Offset of field: PixelShuffle::y"][::std::mem::offset_of!(PixelShuffle, y) - 8usize];
    ["Offset of field: PixelShuffle::factor"][::std::mem::offset_of!(PixelShuffle, factor) - 16usize];
    ["Offset of field: PixelShuffle::square"][::std::mem::offset_of!(PixelShuffle, square) - 32usize];
    ["Offset of field: PixelShuffle::depth"][::std::mem::offset_of!(PixelShuffle, depth) - 48usize];
    ["Offset of field: PixelShuffle::tile_channels"]
        [::std::mem::offset_of!(PixelShuffle, tile_channels) - 64usize];
    ["Offset of field: PixelShuffle::tile_pixels"]
        [::std::mem::offset_of!(PixelShuffle, tile_pixels) - 80usize];
    ["Offset of field: PixelShuffle::tiles_deep"][::std::mem::offset_of!(PixelShuffle, tiles_deep) - 96usize];
    ["Offset of field: PixelShuffle::tiles_across"]
        [::std::mem::offset_of!(PixelShuffle, tiles_across) - 112usize];
    ["Offset of field: PixelShuffle::channels"][::std::mem::offset_of!(PixelShuffle, channels) - 128usize];
    ["Offset of field: PixelShuffle::width"][::std::mem::offset_of!(PixelShuffle, width) - 132usize];
    ["Offset of field: PixelShuffle::pitch"][::std::mem::offset_of!(PixelShuffle, pitch) - 136usize];
    ["Offset of field: PixelShuffle::reserved"][::std::mem::offset_of!(PixelShuffle, reserved) - 140usize];
};
/// Parameters of `prelu_fwd_*`: y = x, or w of its column times x below zero.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct PreluFwd {
    /// x, rows `x_step` elements apart.
    pub x: u64,
    /// w, f32, one number a column.
    pub w: u64,
    /// y, dense.
    pub y: u64,
    /// See `x`.
    pub x_step: i64,
    /// Columns, in units: neighbouring elements that a thread handles at once.
    pub cols: Divisor,
    /// Number of units of y, below 2^31.
    pub units: u32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PreluFwd"][::std::mem::size_of::<PreluFwd>() - 56usize];
    ["Alignment of PreluFwd"][::std::mem::align_of::<PreluFwd>() - 8usize];
    ["Offset of field: PreluFwd::x"][::std::mem::offset_of!(PreluFwd, x) - 0usize];
    ["Offset of field: PreluFwd::w"][::std::mem::offset_of!(PreluFwd, w) - 8usize];
    ["Offset of field: PreluFwd::y"][::std::mem::offset_of!(PreluFwd, y) - 16usize];
    ["Offset of field: PreluFwd::x_step"][::std::mem::offset_of!(PreluFwd, x_step) - 24usize];
    ["Offset of field: PreluFwd::cols"][::std::mem::offset_of!(PreluFwd, cols) - 32usize];
    ["Offset of field: PreluFwd::units"][::std::mem::offset_of!(PreluFwd, units) - 48usize];
    ["Offset of field: PreluFwd::reserved"][::std::mem::offset_of!(PreluFwd, reserved) - 52usize];
};
/// Parameters of `prelu_bwd_*`: dx, and dw in two passes: sums over blocks of rows, then over the blocks.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct PreluBwd {
    /// x and dy, f32, rows `x_step` and `dy_step` elements apart.
    pub x: u64,
    /// See `x`.
    pub dy: u64,
    /// w, f32, one number a column.
    pub w: u64,
    /// dx, f32, dense.
    pub dx: u64,
    /// f32, one row of `cols` for each block of rows.
    pub partial: u64,
    /// dw, f32, one number a column.
    pub dw: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `x`.
    pub dy_step: i64,
    /// See `dw`.
    pub rows: i64,
    /// Rows of one block.
    pub rows_per_block: i64,
    /// See `partial`.
    pub cols: i32,
    /// Number of blocks.
    pub blocks: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PreluBwd"][::std::mem::size_of::<PreluBwd>() - 88usize];
    ["Alignment of PreluBwd"][::std::mem::align_of::<PreluBwd>() - 8usize];
    ["Offset of field: PreluBwd::x"][::std::mem::offset_of!(PreluBwd, x) - 0usize];
    ["Offset of field: PreluBwd::dy"][::std::mem::offset_of!(PreluBwd, dy) - 8usize];
    ["Offset of field: PreluBwd::w"][::std::mem::offset_of!(PreluBwd, w) - 16usize];
    ["Offset of field: PreluBwd::dx"][::std::mem::offset_of!(PreluBwd, dx) - 24usize];
    ["Offset of field: PreluBwd::partial"][::std::mem::offset_of!(PreluBwd, partial) - 32usize];
    ["Offset of field: PreluBwd::dw"][::std::mem::offset_of!(PreluBwd, dw) - 40usize];
    ["Offset of field: PreluBwd::x_step"][::std::mem::offset_of!(PreluBwd, x_step) - 48usize];
    ["Offset of field: PreluBwd::dy_step"][::std::mem::offset_of!(PreluBwd, dy_step) - 56usize];
    ["Offset of field: PreluBwd::rows"][::std::mem::offset_of!(PreluBwd, rows) - 64usize];
    ["Offset of field: PreluBwd::rows_per_block"][::std::mem::offset_of!(PreluBwd, rows_per_block) - 72usize];
    ["Offset of field: PreluBwd::cols"][::std::mem::offset_of!(PreluBwd, cols) - 80usize];
    ["Offset of field: PreluBwd::blocks"][::std::mem::offset_of!(PreluBwd, blocks) - 84usize];
};
/// Parameters of `reduce_rows_*` and `reduce_columns_*`: y[o, s, i] = scale * f(x[o, k, i] for k of slab s), f a sum
/// or the maximum. Of more than one slab, a second launch reduces the slabs.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ReduceFwd {
    /// x, f32, dense [outer, n, inner].
    pub x: u64,
    /// y, f32, dense [outer, slabs, inner].
    pub y: u64,
    /// See `y`.
    pub outer: i64,
    /// See `y`.
    pub n: i64,
    /// 1 for `reduce_rows_*`.
    pub inner: i64,
    /// How many of the n numbers are reduced to one.
    pub slab: i64,
    /// ceil(n / slab), at least 1.
    pub slabs: i64,
    /// `reduce_columns_*`: columns of a block, a power of two of up to 256; the other threads share out the slab.
    pub tile: i32,
    /// Factor of the result.
    pub scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ReduceFwd"][::std::mem::size_of::<ReduceFwd>() - 64usize];
    ["Alignment of ReduceFwd"][::std::mem::align_of::<ReduceFwd>() - 8usize];
    ["Offset of field: ReduceFwd::x"][::std::mem::offset_of!(ReduceFwd, x) - 0usize];
    ["Offset of field: ReduceFwd::y"][::std::mem::offset_of!(ReduceFwd, y) - 8usize];
    ["Offset of field: ReduceFwd::outer"][::std::mem::offset_of!(ReduceFwd, outer) - 16usize];
    ["Offset of field: ReduceFwd::n"][::std::mem::offset_of!(ReduceFwd, n) - 24usize];
    ["Offset of field: ReduceFwd::inner"][::std::mem::offset_of!(ReduceFwd, inner) - 32usize];
    ["Offset of field: ReduceFwd::slab"][::std::mem::offset_of!(ReduceFwd, slab) - 40usize];
    ["Offset of field: ReduceFwd::slabs"][::std::mem::offset_of!(ReduceFwd, slabs) - 48usize];
    ["Offset of field: ReduceFwd::tile"][::std::mem::offset_of!(ReduceFwd, tile) - 56usize];
    ["Offset of field: ReduceFwd::scale"][::std::mem::offset_of!(ReduceFwd, scale) - 60usize];
};
/// Parameters of `reduce_max_grad_*`: dx = dy where the first maximum y of x stands, 0 elsewhere.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ReduceMaxBwd {
    /// x, f32, dense [outer, n, inner].
    pub x: u64,
    /// y and dy, f32, dense [outer, inner].
    pub y: u64,
    /// See `y`.
    pub dy: u64,
    /// dx, f32, like x.
    pub dx: u64,
    /// See `dx`.
    pub outer: i64,
    /// See `dx`.
    pub n: i64,
    /// See `dx`.
    pub inner: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ReduceMaxBwd"][::std::mem::size_of::<ReduceMaxBwd>() - 56usize];
    ["Alignment of ReduceMaxBwd"][::std::mem::align_of::<ReduceMaxBwd>() - 8usize];
    ["Offset of field: ReduceMaxBwd::x"][::std::mem::offset_of!(ReduceMaxBwd, x) - 0usize];
    ["Offset of field: ReduceMaxBwd::y"][::std::mem::offset_of!(ReduceMaxBwd, y) - 8usize];
    ["Offset of field: ReduceMaxBwd::dy"][::std::mem::offset_of!(ReduceMaxBwd, dy) - 16usize];
    ["Offset of field: ReduceMaxBwd::dx"][::std::mem::offset_of!(ReduceMaxBwd, dx) - 24usize];
    ["Offset of field: ReduceMaxBwd::outer"][::std::mem::offset_of!(ReduceMaxBwd, outer) - 32usize];
    ["Offset of field: ReduceMaxBwd::n"][::std::mem::offset_of!(ReduceMaxBwd, n) - 40usize];
    ["Offset of field: ReduceMaxBwd::inner"][::std::mem::offset_of!(ReduceMaxBwd, inner) - 48usize];
};
/// A source index with its weight.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ResizeTap {
    /// Index along the axis.
    pub pixel: i32,
    /// Its weight.
    pub weight: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ResizeTap"][::std::mem::size_of::<ResizeTap>() - 8usize];
    ["Alignment of ResizeTap"][::std::mem::align_of::<ResizeTap>() - 4usize];
    ["Offset of field: ResizeTap::pixel"][::std::mem::offset_of!(ResizeTap, pixel) - 0usize];
    ["Offset of field: ResizeTap::weight"][::std::mem::offset_of!(ResizeTap, weight) - 4usize];
};
/// Parameters of `resize_axis_*`: along one axis, every new element is a weighted sum of old ones.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ResizeAxis {
    /// x, dense `[outer, from, inner]`.
    pub x: u64,
    /// y, dense `[outer, to, inner]`.
    pub y: u64,
    /// int32, `to` + 1: where the taps of each new index start.
    pub starts: u64,
    /// `ResizeTap`s.
    pub taps: u64,
    /// inner, in units: neighbouring elements that a thread handles at once.
    pub inner: Divisor,
    /// to
    pub to: Divisor,
    /// from
    pub from: u32,
    /// Units of y, below 2^31.
    pub units: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ResizeAxis"][::std::mem::size_of::<ResizeAxis>() - 72usize];
    ["Alignment of ResizeAxis"][::std::mem::align_of::<ResizeAxis>() - 8usize];
    ["Offset of field: ResizeAxis::x"][::std::mem::offset_of!(ResizeAxis, x) - 0usize];
    ["Offset of field: ResizeAxis::y"][::std::mem::offset_of!(ResizeAxis, y) - 8usize];
    ["Offset of field: ResizeAxis::starts"][::std::mem::offset_of!(ResizeAxis, starts) - 16usize];
    ["Offset of field: ResizeAxis::taps"][::std::mem::offset_of!(ResizeAxis, taps) - 24usize];
    ["Offset of field: ResizeAxis::inner"][::std::mem::offset_of!(ResizeAxis, inner) - 32usize];
    ["Offset of field: ResizeAxis::to"][::std::mem::offset_of!(ResizeAxis, to) - 48usize];
    ["Offset of field: ResizeAxis::from"][::std::mem::offset_of!(ResizeAxis, from) - 64usize];
    ["Offset of field: ResizeAxis::units"][::std::mem::offset_of!(ResizeAxis, units) - 68usize];
};
/// Parameters of `resize_image_*`: an image to another size in one pass.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ResizeImage {
    /// x, dense `[batch, from[0], from[1], channels]`.
    pub x: u64,
    /// y, dense `[batch, height, width, channels]`.
    pub y: u64,
    /// int32: where the taps of each new row, and column, start; one more entry than there are of them.
    pub row_starts: u64,
    /// See `row_starts`.
    pub column_starts: u64,
    /// `ResizeTap`s.
    pub row_taps: u64,
    /// See `row_taps`.
    pub column_taps: u64,
    /// channels, in units: neighbouring elements that a thread handles at once.
    pub channels: Divisor,
    /// See `channels`.
    pub width: Divisor,
    /// See `channels`.
    pub height: Divisor,
    /// Old height and width.
    pub from: [u32; 2usize],
    /// Units of y, below 2^31.
    pub units: u32,
    /// Padding.
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ResizeImage"][::std::mem::size_of::<ResizeImage>() - 112usize];
    ["Alignment of ResizeImage"][::std::mem::align_of::<ResizeImage>() - 8usize];
    ["Offset of field: ResizeImage::x"][::std::mem::offset_of!(ResizeImage, x) - 0usize];
    ["Offset of field: ResizeImage::y"][::std::mem::offset_of!(ResizeImage, y) - 8usize];
    ["Offset of field: ResizeImage::row_starts"][::std::mem::offset_of!(ResizeImage, row_starts) - 16usize];
    ["Offset of field: ResizeImage::column_starts"]
        [::std::mem::offset_of!(ResizeImage, column_starts) - 24usize];
    ["Offset of field: ResizeImage::row_taps"][::std::mem::offset_of!(ResizeImage, row_taps) - 32usize];
    ["Offset of field: ResizeImage::column_taps"][::std::mem::offset_of!(ResizeImage, column_taps) - 40usize];
    ["Offset of field: ResizeImage::channels"][::std::mem::offset_of!(ResizeImage, channels) - 48usize];
    ["Offset of field: ResizeImage::width"][::std::mem::offset_of!(ResizeImage, width) - 64usize];
    ["Offset of field: ResizeImage::height"][::std::mem::offset_of!(ResizeImage, height) - 80usize];
    ["Offset of field: ResizeImage::from"][::std::mem::offset_of!(ResizeImage, from) - 96usize];
    ["Offset of field: ResizeImage::units"][::std::mem::offset_of!(ResizeImage, units) - 104usize];
    ["Offset of field: ResizeImage::reserved"][::std::mem::offset_of!(ResizeImage, reserved) - 108usize];
};
/// Parameters of `rms_norm_fwd_*`: y = x / sqrt(mean(x * x) + eps) [* weight], row by row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct RmsNormFwd {
    /// x, `rows` rows of `cols` elements, `x_step` elements apart.
    pub x: u64,
    /// weight, f32 [cols]; 0: none.
    pub weight: u64,
    /// y, dense rows.
    pub y: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `x`.
    pub rows: i32,
    /// See `x`.
    pub cols: i32,
    /// Added to the mean square.
    pub eps: f32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RmsNormFwd"][::std::mem::size_of::<RmsNormFwd>() - 48usize];
    ["Alignment of RmsNormFwd"][::std::mem::align_of::<RmsNormFwd>() - 8usize];
    ["Offset of field: RmsNormFwd::x"][::std::mem::offset_of!(RmsNormFwd, x) - 0usize];
    ["Offset of field: RmsNormFwd::weight"][::std::mem::offset_of!(RmsNormFwd, weight) - 8usize];
    ["Offset of field: RmsNormFwd::y"][::std::mem::offset_of!(RmsNormFwd, y) - 16usize];
    ["Offset of field: RmsNormFwd::x_step"][::std::mem::offset_of!(RmsNormFwd, x_step) - 24usize];
    ["Offset of field: RmsNormFwd::rows"][::std::mem::offset_of!(RmsNormFwd, rows) - 32usize];
    ["Offset of field: RmsNormFwd::cols"][::std::mem::offset_of!(RmsNormFwd, cols) - 36usize];
    ["Offset of field: RmsNormFwd::eps"][::std::mem::offset_of!(RmsNormFwd, eps) - 40usize];
    ["Offset of field: RmsNormFwd::reserved"][::std::mem::offset_of!(RmsNormFwd, reserved) - 44usize];
};
/// Parameters of `rms_norm_grad_rows_*`: dx = (d - n * mean(d * n)) * r with d = dy [* weight],
/// r = 1 / sqrt(mean(x * x) + eps) and n = x * r, row by row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct RmsNormGradRows {
    /// x, f32: `rows` rows of `cols` elements, `x_step` elements apart.
    pub x: u64,
    /// dy, f32, like x, its rows `dy_step` elements apart.
    pub dy: u64,
    /// weight, f32 [cols]; 0: none.
    pub weight: u64,
    /// dx, f32, dense rows.
    pub dx: u64,
    /// Result for the next launch: 0 and r of every row, f32 [rows, 2]; 0: not wanted.
    pub moments: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `dy`.
    pub dy_step: i64,
    /// See `x`.
    pub rows: i32,
    /// See `x`.
    pub cols: i32,
    /// Added to the mean square.
    pub eps: f32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RmsNormGradRows"][::std::mem::size_of::<RmsNormGradRows>() - 72usize];
    ["Alignment of RmsNormGradRows"][::std::mem::align_of::<RmsNormGradRows>() - 8usize];
    ["Offset of field: RmsNormGradRows::x"][::std::mem::offset_of!(RmsNormGradRows, x) - 0usize];
    ["Offset of field: RmsNormGradRows::dy"][::std::mem::offset_of!(RmsNormGradRows, dy) - 8usize];
    ["Offset of field: RmsNormGradRows::weight"][::std::mem::offset_of!(RmsNormGradRows, weight) - 16usize];
    ["Offset of field: RmsNormGradRows::dx"][::std::mem::offset_of!(RmsNormGradRows, dx) - 24usize];
    ["Offset of field: RmsNormGradRows::moments"][::std::mem::offset_of!(RmsNormGradRows, moments) - 32usize];
    ["Offset of field: RmsNormGradRows::x_step"][::std::mem::offset_of!(RmsNormGradRows, x_step) - 40usize];
    ["Offset of field: RmsNormGradRows::dy_step"][::std::mem::offset_of!(RmsNormGradRows, dy_step) - 48usize];
    ["Offset of field: RmsNormGradRows::rows"][::std::mem::offset_of!(RmsNormGradRows, rows) - 56usize];
    ["Offset of field: RmsNormGradRows::cols"][::std::mem::offset_of!(RmsNormGradRows, cols) - 60usize];
    ["Offset of field: RmsNormGradRows::eps"][::std::mem::offset_of!(RmsNormGradRows, eps) - 64usize];
    ["Offset of field: RmsNormGradRows::reserved"]
        [::std::mem::offset_of!(RmsNormGradRows, reserved) - 68usize];
};
/// Parameters of `*_grad_columns`: sums over slabs of rows of dy * (x - mean) * rstd and of dy, per column.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct NormColumnSums {
    /// x, f32: `rows` rows of `cols` elements, `x_step` elements apart.
    pub x: u64,
    /// dy, f32, like x, its rows `dy_step` elements apart.
    pub dy: u64,
    /// Mean and reciprocal standard deviation of every row of x, f32 [rows, 2].
    pub moments: u64,
    /// Result, f32 [2, slabs, cols]: sums with x, then plain ones.
    pub sums: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `dy`.
    pub dy_step: i64,
    /// See `x`.
    pub rows: i32,
    /// See `x`.
    pub cols: i32,
    /// Rows of a slab; the grid's y extent is the number of slabs.
    pub slab: i32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NormColumnSums"][::std::mem::size_of::<NormColumnSums>() - 64usize];
    ["Alignment of NormColumnSums"][::std::mem::align_of::<NormColumnSums>() - 8usize];
    ["Offset of field: NormColumnSums::x"][::std::mem::offset_of!(NormColumnSums, x) - 0usize];
    ["Offset of field: NormColumnSums::dy"][::std::mem::offset_of!(NormColumnSums, dy) - 8usize];
    ["Offset of field: NormColumnSums::moments"][::std::mem::offset_of!(NormColumnSums, moments) - 16usize];
    ["Offset of field: NormColumnSums::sums"][::std::mem::offset_of!(NormColumnSums, sums) - 24usize];
    ["Offset of field: NormColumnSums::x_step"][::std::mem::offset_of!(NormColumnSums, x_step) - 32usize];
    ["Offset of field: NormColumnSums::dy_step"][::std::mem::offset_of!(NormColumnSums, dy_step) - 40usize];
    ["Offset of field: NormColumnSums::rows"][::std::mem::offset_of!(NormColumnSums, rows) - 48usize];
    ["Offset of field: NormColumnSums::cols"][::std::mem::offset_of!(NormColumnSums, cols) - 52usize];
    ["Offset of field: NormColumnSums::slab"][::std::mem::offset_of!(NormColumnSums, slab) - 56usize];
    ["Offset of field: NormColumnSums::reserved"][::std::mem::offset_of!(NormColumnSums, reserved) - 60usize];
};
/// Parameters of `*_grad_finish`: sums of the slabs.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct NormColumnFinish {
    /// f32 [2, `slabs`, `cols`], as `*_grad_columns` writes it.
    pub sums: u64,
    /// Gradient of the weight, f32 [cols].
    pub d_weight: u64,
    /// Gradient of the bias, f32 [cols]; not written where the grid's y extent is 1.
    pub d_bias: u64,
    /// See `sums`.
    pub slabs: i32,
    /// See `sums`.
    pub cols: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of NormColumnFinish"][::std::mem::size_of::<NormColumnFinish>() - 32usize];
    ["Alignment of NormColumnFinish"][::std::mem::align_of::<NormColumnFinish>() - 8usize];
    ["Offset of field: NormColumnFinish::sums"][::std::mem::offset_of!(NormColumnFinish, sums) - 0usize];
    ["Offset of field: NormColumnFinish::d_weight"]
        [::std::mem::offset_of!(NormColumnFinish, d_weight) - 8usize];
    ["Offset of field: NormColumnFinish::d_bias"][::std::mem::offset_of!(NormColumnFinish, d_bias) - 16usize];
    ["Offset of field: NormColumnFinish::slabs"][::std::mem::offset_of!(NormColumnFinish, slabs) - 24usize];
    ["Offset of field: NormColumnFinish::cols"][::std::mem::offset_of!(NormColumnFinish, cols) - 28usize];
};
/// Parameters of `softmax_fwd_*`: y = exp(x) / sum(exp(x)), row by row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct SoftmaxFwd {
    /// x, `rows` rows of `cols` elements, `x_step` elements apart.
    pub x: u64,
    /// y, dense rows of the same element type; may be x.
    pub y: u64,
    /// See `x`.
    pub x_step: i64,
    /// See `x`.
    pub rows: i64,
    /// See `x`.
    pub cols: i32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SoftmaxFwd"][::std::mem::size_of::<SoftmaxFwd>() - 40usize];
    ["Alignment of SoftmaxFwd"][::std::mem::align_of::<SoftmaxFwd>() - 8usize];
    ["Offset of field: SoftmaxFwd::x"][::std::mem::offset_of!(SoftmaxFwd, x) - 0usize];
    ["Offset of field: SoftmaxFwd::y"][::std::mem::offset_of!(SoftmaxFwd, y) - 8usize];
    ["Offset of field: SoftmaxFwd::x_step"][::std::mem::offset_of!(SoftmaxFwd, x_step) - 16usize];
    ["Offset of field: SoftmaxFwd::rows"][::std::mem::offset_of!(SoftmaxFwd, rows) - 24usize];
    ["Offset of field: SoftmaxFwd::cols"][::std::mem::offset_of!(SoftmaxFwd, cols) - 32usize];
    ["Offset of field: SoftmaxFwd::reserved"][::std::mem::offset_of!(SoftmaxFwd, reserved) - 36usize];
};
/// Parameters of `softmax_grad_*`: dx = y * (dy - sum(y * dy)), row by row.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct SoftmaxGradRows {
    /// y, f32: `rows` rows of `cols` elements, `y_step` elements apart.
    pub y: u64,
    /// dy, f32, like y, its rows `dy_step` elements apart.
    pub dy: u64,
    /// dx, f32, dense rows.
    pub dx: u64,
    /// See `y`.
    pub y_step: i64,
    /// See `dy`.
    pub dy_step: i64,
    /// See `y`.
    pub rows: i64,
    /// See `y`.
    pub cols: i32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SoftmaxGradRows"][::std::mem::size_of::<SoftmaxGradRows>() - 56usize];
    ["Alignment of SoftmaxGradRows"][::std::mem::align_of::<SoftmaxGradRows>() - 8usize];
    ["Offset of field: SoftmaxGradRows::y"][::std::mem::offset_of!(SoftmaxGradRows, y) - 0usize];
    ["Offset of field: SoftmaxGradRows::dy"][::std::mem::offset_of!(SoftmaxGradRows, dy) - 8usize];
    ["Offset of field: SoftmaxGradRows::dx"][::std::mem::offset_of!(SoftmaxGradRows, dx) - 16usize];
    ["Offset of field: SoftmaxGradRows::y_step"][::std::mem::offset_of!(SoftmaxGradRows, y_step) - 24usize];
    ["Offset of field: SoftmaxGradRows::dy_step"][::std::mem::offset_of!(SoftmaxGradRows, dy_step) - 32usize];
    ["Offset of field: SoftmaxGradRows::rows"][::std::mem::offset_of!(SoftmaxGradRows, rows) - 40usize];
    ["Offset of field: SoftmaxGradRows::cols"][::std::mem::offset_of!(SoftmaxGradRows, cols) - 48usize];
    ["Offset of field: SoftmaxGradRows::reserved"]
        [::std::mem::offset_of!(SoftmaxGradRows, reserved) - 52usize];
};
/// How windows lie in images: see `WindowAttention` in src/ops/window_attention.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct WindowGrid {
    /// Tokens of an image: multiples of `window`.
    pub height: i32,
    /// See `height`.
    pub width: i32,
    /// Side of a window in tokens.
    pub window: i32,
    /// How far windows are moved: less than `window`.
    pub shift: i32,
    /// Heads, and elements of one head of one token.
    pub heads: i32,
    /// See `heads`.
    pub depth: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of WindowGrid"][::std::mem::size_of::<WindowGrid>() - 24usize];
    ["Alignment of WindowGrid"][::std::mem::align_of::<WindowGrid>() - 4usize];
    ["Offset of field: WindowGrid::height"][::std::mem::offset_of!(WindowGrid, height) - 0usize];
    ["Offset of field: WindowGrid::width"][::std::mem::offset_of!(WindowGrid, width) - 4usize];
    ["Offset of field: WindowGrid::window"][::std::mem::offset_of!(WindowGrid, window) - 8usize];
    ["Offset of field: WindowGrid::shift"][::std::mem::offset_of!(WindowGrid, shift) - 12usize];
    ["Offset of field: WindowGrid::heads"][::std::mem::offset_of!(WindowGrid, heads) - 16usize];
    ["Offset of field: WindowGrid::depth"][::std::mem::offset_of!(WindowGrid, depth) - 20usize];
};
/// How far tokens lie apart.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct WindowSteps {
    /// Elements from image to image, `row` to `row`, `column` to `column`.
    pub image: i64,
    /// See `image`.
    pub row: i64,
    /// See `image`.
    pub column: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of WindowSteps"][::std::mem::size_of::<WindowSteps>() - 24usize];
    ["Alignment of WindowSteps"][::std::mem::align_of::<WindowSteps>() - 8usize];
    ["Offset of field: WindowSteps::image"][::std::mem::offset_of!(WindowSteps, image) - 0usize];
    ["Offset of field: WindowSteps::row"][::std::mem::offset_of!(WindowSteps, row) - 8usize];
    ["Offset of field: WindowSteps::column"][::std::mem::offset_of!(WindowSteps, column) - 16usize];
};
/// Parameters of `window_attention_fwd_*`: attention of each head within each window.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct WindowAttentionFwd {
    /// q, k, v of every token, [batch, height, width, 3·heads·depth], each token's channels dense.
    pub qkv: u64,
    /// f32 [(2·window-1)², heads], dense: bias by where the query lies from the key.
    pub table: u64,
    /// Result, [batch, height, width, heads·depth], dense.
    pub out: u64,
    /// Steps of qkv.
    pub steps: WindowSteps,
    /// See `steps`.
    pub grid: WindowGrid,
    /// Factor of the products of queries and keys.
    pub scale: f32,
    /// Half precision: 1 if depth, steps and addresses allow access to two elements at once, else 0.
    pub pairs: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of WindowAttentionFwd"][::std::mem::size_of::<WindowAttentionFwd>() - 80usize];
    ["Alignment of WindowAttentionFwd"][::std::mem::align_of::<WindowAttentionFwd>() - 8usize];
    ["Offset of field: WindowAttentionFwd::qkv"][::std::mem::offset_of!(WindowAttentionFwd, qkv) - 0usize];
    ["Offset of field: WindowAttentionFwd::table"]
        [::std::mem::offset_of!(WindowAttentionFwd, table) - 8usize];
    ["Offset of field: WindowAttentionFwd::out"][::std::mem::offset_of!(WindowAttentionFwd, out) - 16usize];
    ["Offset of field: WindowAttentionFwd::steps"]
        [::std::mem::offset_of!(WindowAttentionFwd, steps) - 24usize];
    ["Offset of field: WindowAttentionFwd::grid"][::std::mem::offset_of!(WindowAttentionFwd, grid) - 48usize];
    ["Offset of field: WindowAttentionFwd::scale"]
        [::std::mem::offset_of!(WindowAttentionFwd, scale) - 72usize];
    ["Offset of field: WindowAttentionFwd::pairs"]
        [::std::mem::offset_of!(WindowAttentionFwd, pairs) - 76usize];
};
/// Parameters of `window_attention_grad_*` but the last step: gradients of q, k and v, and the parts of that of
/// the bias table.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct WindowAttentionGrad {
    /// As in `WindowAttentionFwd`.
    pub qkv: u64,
    /// See `qkv`.
    pub table: u64,
    /// Gradient of the result, [batch, height, width, heads·depth], each token's channels dense.
    pub d_out: u64,
    /// Gradient of qkv, dense.
    pub d_qkv: u64,
    /// f32 [groups, heads, key, query]: gradient of the scores, summed over the windows of a group.
    pub d_bias: u64,
    /// f32 [windows, heads, 3, query]: largest score, 1 / sum of exponentials, mean of the weights' gradient.
    pub stats: u64,
    /// Steps of qkv.
    pub steps: WindowSteps,
    /// Steps of d_out.
    pub d_out_steps: WindowSteps,
    /// See `d_out_steps`.
    pub grid: WindowGrid,
    /// Windows of the batch, and of a group (the last group may have fewer).
    pub windows: i32,
    /// See `windows`.
    pub per_group: i32,
    /// As in `WindowAttentionFwd`.
    pub scale: f32,
    /// See `scale`.
    pub pairs: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of WindowAttentionGrad"][::std::mem::size_of::<WindowAttentionGrad>() - 136usize];
    ["Alignment of WindowAttentionGrad"][::std::mem::align_of::<WindowAttentionGrad>() - 8usize];
    ["Offset of field: WindowAttentionGrad::qkv"][::std::mem::offset_of!(WindowAttentionGrad, qkv) - 0usize];
    ["Offset of field: WindowAttentionGrad::table"]
        [::std::mem::offset_of!(WindowAttentionGrad, table) - 8usize];
    ["Offset of field: WindowAttentionGrad::d_out"]
        [::std::mem::offset_of!(WindowAttentionGrad, d_out) - 16usize];
    ["Offset of field: WindowAttentionGrad::d_qkv"]
        [::std::mem::offset_of!(WindowAttentionGrad, d_qkv) - 24usize];
    ["Offset of field: WindowAttentionGrad::d_bias"]
        [::std::mem::offset_of!(WindowAttentionGrad, d_bias) - 32usize];
    ["Offset of field: WindowAttentionGrad::stats"]
        [::std::mem::offset_of!(WindowAttentionGrad, stats) - 40usize];
    ["Offset of field: WindowAttentionGrad::steps"]
        [::std::mem::offset_of!(WindowAttentionGrad, steps) - 48usize];
    ["Offset of field: WindowAttentionGrad::d_out_steps"]
        [::std::mem::offset_of!(WindowAttentionGrad, d_out_steps) - 72usize];
    ["Offset of field: WindowAttentionGrad::grid"]
        [::std::mem::offset_of!(WindowAttentionGrad, grid) - 96usize];
    ["Offset of field: WindowAttentionGrad::windows"]
        [::std::mem::offset_of!(WindowAttentionGrad, windows) - 120usize];
    ["Offset of field: WindowAttentionGrad::per_group"]
        [::std::mem::offset_of!(WindowAttentionGrad, per_group) - 124usize];
    ["Offset of field: WindowAttentionGrad::scale"]
        [::std::mem::offset_of!(WindowAttentionGrad, scale) - 128usize];
    ["Offset of field: WindowAttentionGrad::pairs"]
        [::std::mem::offset_of!(WindowAttentionGrad, pairs) - 132usize];
};
/// Parameters of `window_attention_grad_table_f32`: the parts of the bias table's gradient, summed.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct WindowAttentionGradTable {
    /// As in `WindowAttentionGrad`.
    pub d_bias: u64,
    /// f32 [(2·window-1)², heads], dense.
    pub d_table: u64,
    /// See `d_table`.
    pub groups: i32,
    /// See `d_table`.
    pub heads: i32,
    /// See `d_table`.
    pub window: i32,
    /// Zero.
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of WindowAttentionGradTable"][::std::mem::size_of::<WindowAttentionGradTable>() - 32usize];
    ["Alignment of WindowAttentionGradTable"][::std::mem::align_of::<WindowAttentionGradTable>() - 8usize];
    ["Offset of field: WindowAttentionGradTable::d_bias"]
        [::std::mem::offset_of!(WindowAttentionGradTable, d_bias) - 0usize];
    ["Offset of field: WindowAttentionGradTable::d_table"]
        [::std::mem::offset_of!(WindowAttentionGradTable, d_table) - 8usize];
    ["Offset of field: WindowAttentionGradTable::groups"]
        [::std::mem::offset_of!(WindowAttentionGradTable, groups) - 16usize];
    ["Offset of field: WindowAttentionGradTable::heads"]
        [::std::mem::offset_of!(WindowAttentionGradTable, heads) - 20usize];
    ["Offset of field: WindowAttentionGradTable::window"]
        [::std::mem::offset_of!(WindowAttentionGradTable, window) - 24usize];
    ["Offset of field: WindowAttentionGradTable::reserved"]
        [::std::mem::offset_of!(WindowAttentionGradTable, reserved) - 28usize];
};
