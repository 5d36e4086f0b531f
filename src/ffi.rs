//! Parameters of the kernels, one struct a kernel: what `ffi/*.h` says, in Rust.
//!
//! Written by `tools/bindgen`; change the headers, not this file.
// headers sha256: 83004047c5b0356023588f1b8423316a23a72968148072575b44bf913424dbeb

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
