//! Parameters of the kernels, one struct a kernel: what `ffi/*.h` says, in Rust.
//!
//! Written by `tools/bindgen`; change the headers, not this file.
// headers sha256: 57721c5f4794c8c175cbef09b1fa9a3b6bd8f59ab934c4fa937dc993df8d4ab5

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
/// What a product or convolution does to its result while it is in registers, part of the parameters of
/// those kernels: y = alpha * act(sum + bias) + residual.
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Epilogue {
    /// f32, one value a column of the result; 0: none.
    pub bias: u64,
    /// Dense, of the result's shape and element type, may be the result's memory; 0: none.
    pub residual: u64,
    /// Factor.
    pub alpha: f32,
    /// Which function (the codes of cuda/include/activation.cuh); -1: none.
    pub act: i32,
    /// Numbers that the function takes: the slope of leaky relu, the bounds of clamp.
    pub act_a: f32,
    /// See `act_a`.
    pub act_b: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Epilogue"][::std::mem::size_of::<Epilogue>() - 32usize];
    ["Alignment of Epilogue"][::std::mem::align_of::<Epilogue>() - 8usize];
    ["Offset of field: Epilogue::bias"][::std::mem::offset_of!(Epilogue, bias) - 0usize];
    ["Offset of field: Epilogue::residual"][::std::mem::offset_of!(Epilogue, residual) - 8usize];
    ["Offset of field: Epilogue::alpha"][::std::mem::offset_of!(Epilogue, alpha) - 16usize];
    ["Offset of field: Epilogue::act"][::std::mem::offset_of!(Epilogue, act) - 20usize];
    ["Offset of field: Epilogue::act_a"][::std::mem::offset_of!(Epilogue, act_a) - 24usize];
    ["Offset of field: Epilogue::act_b"][::std::mem::offset_of!(Epilogue, act_b) - 28usize];
};
