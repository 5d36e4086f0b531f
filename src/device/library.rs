//! What a library of NVIDIA's (cuBLASLt, cuDNN) can compute in place of a step's own launches.
//!
//! An op describes the call ([`LibraryCall`]) where one call gives the same numbers, but for the order of
//! additions and the rounding of a bias. A device that has libraries measures both ways when a plan is bound
//! ([`Libraries::choose`]) and answers with a [`Launch`] that makes the call, which is replayed like any
//! other. The simulator has none: there the own launches always run.

use std::ffi::c_void;
use std::fmt::{self, Write};
use std::sync::Arc;

use super::kernel::Launch;
use crate::error::{Error, Result};
use crate::tensor::DType;

/// Who computes what own kernels and a library both can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// Own kernels: the same on every machine of one kind, whatever else is installed there.
    Own,
    /// The library, wherever it can.
    Library,
    /// The faster of both, as measured once and remembered.
    #[default]
    Auto,
}

impl std::str::FromStr for KernelChoice {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "own" => Ok(KernelChoice::Own),
            "library" => Ok(KernelChoice::Library),
            "auto" => Ok(KernelChoice::Auto),
            other => Err(Error::Usage(format!("--kernels {other}: expected own, library or auto"))),
        }
    }
}

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub enum LibraryCall {
    /// By cuBLASLt.
    Matmul(Matmul),
    /// By cuDNN.
    Conv(Conv),
}

/// y = act(α·A·B + bias) + residual for each item of a batch; without `act` the residual may be added
/// before or after, it is the same. y and the residual are dense.
#[derive(Clone, Debug, PartialEq)]
pub struct Matmul {
    /// Items.
    pub batch: usize,
    /// Rows of y.
    pub m: usize,
    /// Columns of y.
    pub n: usize,
    /// Inner extent.
    pub k: usize,
    /// m×k, or k×m if it is stored transposed.
    pub a: Matrix,
    /// k×n, or n×k.
    pub b: Matrix,
    /// Address of the result.
    pub y: u64,
    /// Its element type.
    pub y_dtype: DType,
    /// α.
    pub alpha: f32,
    /// One value a column.
    pub bias: Option<Parameter>,
    /// Only without a residual.
    pub act: Option<Activation>,
    /// Address of a matrix like y, which may be y itself.
    pub residual: Option<u64>,
}

/// Rows of a matrix in memory, each dense.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix {
    /// Of the first element.
    pub address: u64,
    /// Element type.
    pub dtype: DType,
    /// Elements between rows.
    pub step: usize,
    /// Elements between two items of the batch; 0: one matrix for all.
    pub batch_step: usize,
    /// Whether it is stored transposed.
    pub transposed: bool,
}

/// A convolution y = act(conv(x, w) + bias) + residual over NHWC pictures; y and the residual are dense. Or
/// the gradient of one by its input: then y is read and x is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// Whether x is wanted, given y.
    pub gradient: bool,
    /// `[B, H, W, C]`.
    pub x: Picture,
    /// `[N, C/groups, kh, kw]`, read as `[N, kh, kw, C/groups]`.
    pub weight: Parameter,
    /// `[N, C/groups, kh, kw]`.
    pub weight_shape: [usize; 4],
    /// `[B, H′, W′, N]`.
    pub y: Picture,
    /// Steps in y and x.
    pub stride: [usize; 2],
    /// Zeros above, below, left and right.
    pub pad: [usize; 4],
    /// Distance of taps in y and x.
    pub dilation: [usize; 2],
    /// One f32 a channel of y.
    pub bias: Option<Parameter>,
    /// After the bias, before the residual.
    pub act: Option<Activation>,
    /// Address of a picture like y, which may be y itself.
    pub residual: Option<u64>,
}

/// A picture in memory: the channels of a pixel are dense, pixels are `step` elements apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Picture {
    /// Of the first element.
    pub address: u64,
    /// Element type.
    pub dtype: DType,
    /// `[B, H, W, C]`.
    pub shape: [usize; 4],
    /// Elements between pixels.
    pub step: usize,
}

/// A parameter that the library wants in an order or element type of its own. The plan makes that copy once,
/// when it is bound, and puts its address here; an operand that is not a parameter cannot be had so, and
/// the step keeps its own launches. (Who changes parameters in place must bind the plan again.)
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Which operand of the op.
    pub operand: usize,
    /// Where the library reads it.
    pub address: u64,
    /// Its axes in the order that the library wants.
    pub order: Vec<usize>,
    /// The element type that the library wants.
    pub dtype: DType,
}

/// Elementwise functions that libraries know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x, or x times this below zero.
    LeakyRelu(f32),
    /// x·Φ(x).
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
    /// x·σ(x).
    Silu,
    /// σ(x).
    Sigmoid,
    /// tanh x.
    Tanh,
}

/// The largest power of two, up to 16, that divides an address.
pub fn alignment(address: u64) -> u32 {
    1 << (address | 16).trailing_zeros()
}

impl LibraryCall {
    /// The parameters that the library wants in its own way.
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        let (weight, bias) = match self {
            LibraryCall::Matmul(m) => (None, &mut m.bias),
            LibraryCall::Conv(c) => (Some(&mut c.weight), &mut c.bias),
        };
        weight.into_iter().chain(bias)
    }

    /// The library's name.
    pub fn library(&self) -> &'static str {
        match self {
            LibraryCall::Matmul(_) => "cuBLASLt",
            LibraryCall::Conv(_) => "cuDNN",
        }
    }

    /// Everything that the time of the call depends on, and nothing else: calls with the same description
    /// differ in their addresses only, and there not in the alignment.
    pub fn description(&self) -> String {
        let mut out = String::new();
        let aligned = alignment;
        let epilogue = |bias: &Option<Parameter>, act: Option<Activation>, residual: Option<u64>| {
            let mut out = String::new();
            if let Some(bias) = bias {
                let _ = write!(out, " bias {} @{}", bias.dtype, aligned(bias.address));
            }
            if let Some(act) = act {
                let _ = write!(out, " {act:?}");
            }
            if let Some(r) = residual {
                let _ = write!(out, " residual @{}", aligned(r));
            }
            out
        };
        match self {
            LibraryCall::Matmul(c) => {
                let Matmul { batch, m, n, k, a, b, .. } = c;
                let _ = write!(out, "matmul {batch}x{m}x{n}x{k}");
                for (name, x) in [("a", a), ("b", b)] {
                    let _ = write!(out, " {name} {} step {}+{}", x.dtype, x.step, x.batch_step);
                    let _ = write!(out, " @{}{}", aligned(x.address), if x.transposed { " t" } else { "" });
                }
                let _ = write!(out, " y {} @{}", c.y_dtype, aligned(c.y));
                if c.alpha != 1.0 {
                    let _ = write!(out, " alpha {}", c.alpha);
                }
                out += &epilogue(&c.bias, c.act, c.residual);
            }
            LibraryCall::Conv(c) => {
                let _ = write!(out, "{}", if c.gradient { "conv gradient" } else { "conv" });
                for (name, p) in [("x", &c.x), ("y", &c.y)] {
                    let [b, h, w, channels] = p.shape;
                    let _ = write!(
                        out,
                        " {name} {b}x{h}x{w}x{channels} {} step {} @{}",
                        p.dtype,
                        p.step,
                        aligned(p.address)
                    );
                }
                let [n, channels, kh, kw] = c.weight_shape;
                let _ = write!(
                    out,
                    " w {n}x{channels}x{kh}x{kw} @{} stride {:?} pad {:?} dilation {:?}",
                    aligned(c.weight.address),
                    c.stride,
                    c.pad,
                    c.dilation
                );
                out += &epilogue(&c.bias, c.act, c.residual);
            }
        }
        out
    }

    /// In a word or two, for names of launches.
    pub fn name(&self) -> String {
        match self {
            LibraryCall::Matmul(c) => {
                let batch = if c.batch > 1 { format!("{}x", c.batch) } else { String::new() };
                format!("cublaslt_matmul_{batch}{}x{}x{}_{}", c.m, c.n, c.k, c.a.dtype)
            }
            LibraryCall::Conv(c) => {
                let [n, channels, kh, kw] = c.weight_shape;
                let what = if c.gradient { "conv_grad" } else { "conv" };
                format!("cudnn_{what}_{n}x{channels}x{kh}x{kw}_{}", c.x.dtype)
            }
        }
    }
}

/// A device's libraries.
pub trait Libraries: Send + Sync {
    /// For each call of a plan, given the step's own launches: the call as a launch, if it is to take their
    /// place. May run both ways to find out, so whatever they write must be of no value yet.
    ///
    /// # Safety
    /// As [`super::kernel::KernelDevice::launch`], for the addresses of both ways.
    unsafe fn choose(&self, calls: &[(LibraryCall, &[Launch])]) -> Result<Vec<Option<Launch>>>;
}

/// A call that is ready to be made: its algorithm is chosen and everything around it is set up.
pub trait PreparedCall: Send + Sync {
    /// Puts it on a stream of the device (a `CUstream`), which may be capturing.
    ///
    /// # Safety
    /// The addresses of the call must be live memory of the device, whose context is current.
    unsafe fn start(&self, stream: *mut c_void) -> Result<(), String>;
}

/// A [`PreparedCall`] as part of a launch.
#[derive(Clone)]
pub struct Prepared(pub Arc<dyn PreparedCall>);

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepared")
    }
}

impl PartialEq for Prepared {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matmul(address: u64) -> LibraryCall {
        let matrix = Matrix { address, dtype: DType::BF16, step: 64, batch_step: 0, transposed: false };
        let bias = Parameter { operand: 2, address: 0, order: vec![0], dtype: DType::BF16 };
        LibraryCall::Matmul(Matmul {
            batch: 1,
            m: 8,
            n: 64,
            k: 64,
            a: matrix,
            b: Matrix { transposed: true, ..matrix },
            y: 4096,
            y_dtype: DType::F32,
            alpha: 1.0,
            bias: Some(bias),
            act: Some(Activation::GeluTanh),
            residual: None,
        })
    }

    #[test]
    fn descriptions_know_alignment_but_no_address() {
        assert_eq!(matmul(1 << 20).description(), matmul(16).description());
        assert_ne!(matmul(1 << 20).description(), matmul(8).description());
        assert_eq!(
            matmul(16).description(),
            "matmul 1x8x64x64 a bf16 step 64+0 @16 b bf16 step 64+0 @16 t y f32 @16 bias bf16 @16 GeluTanh"
        );
    }

    #[test]
    fn choices_by_name() {
        assert_eq!("own".parse::<KernelChoice>().unwrap(), KernelChoice::Own);
        let e = "fast".parse::<KernelChoice>().unwrap_err().to_string();
        assert_eq!(e, "--kernels fast: expected own, library or auto");
    }
}
