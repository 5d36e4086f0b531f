//! Host tensors: a dtype, a shape and bytes that are owned or mapped from a file.
//!
//! This is the currency between files (weights, golden numbers), the graph's parameters and
//! the devices. It does no arithmetic.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use rayon::prelude::*;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 | DType::I16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// The lower-case name used in messages and on the command line: `f32`, `bf16`, `i64` …
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I16 => "i16",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::Bool => "bool",
        }
    }

    /// Whether this is one of the 16-bit float types.
    pub const fn is_half(self) -> bool {
        matches!(self, DType::F16 | DType::BF16)
    }

    /// Whether the type holds real numbers (f64, f32, f16, bf16).
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
    }

    /// The nearest number that a float type holds (ties to even); `x` itself for other types.
    pub fn nearest(self, x: f64) -> f64 {
        match self {
            DType::F32 => x as f32 as f64,
            DType::F16 => f16_of(x).to_f64(),
            DType::BF16 => bf16_of(x).to_f64(),
            _ => x,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes of a tensor: anything that can be looked at for as long as the tensor lives (an owned
/// vector, or a range of a memory-mapped file).
pub trait Bytes: Send + Sync {
    /// The bytes, always the same ones.
    fn bytes(&self) -> &[u8];

    /// The bytes for writing, where the memory is our own.
    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        None
    }

    /// Gives the physical memory of a range back where that loses nothing (a mapped file); the
    /// next look at the bytes reads them again.
    fn release(&self, _range: Range<usize>) {}
}

impl Bytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Owned elements of a plain type; keeps the alignment that a `Vec<u8>` would lose.
struct Elements<T>(Vec<T>);

impl<T: bytemuck::Pod + Send + Sync> Bytes for Elements<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        Some(bytemuck::cast_slice_mut(&mut self.0))
    }
}

/// Owned bytes in 8-byte words: aligned for any dtype. The second field is the byte count.
struct Words(Vec<u64>, usize);

impl Bytes for Words {
    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.0)[..self.1]
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        Some(&mut bytemuck::cast_slice_mut(&mut self.0)[..self.1])
    }
}

/// A dense row-major tensor in host memory, little-endian, cheap to clone (the bytes are shared).
#[derive(Clone)]
pub struct HostTensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Arc<dyn Bytes>,
}

impl HostTensor {
    /// Wraps bytes that hold exactly `shape` elements of `dtype`.
    ///
    /// # Panics
    /// If the byte count does not match: callers check sizes of foreign data first.
    pub fn from_bytes(dtype: DType, shape: impl Into<Vec<usize>>, data: Arc<dyn Bytes>) -> Self {
        let shape = shape.into();
        assert_eq!(
            data.bytes().len(),
            shape.iter().product::<usize>() * dtype.size(),
            "bytes for {dtype} {shape:?}"
        );
        HostTensor { dtype, shape, data }
    }

    fn from_elements<T: bytemuck::Pod + Send + Sync>(dtype: DType, shape: Vec<usize>, data: Vec<T>) -> Self {
        HostTensor::from_bytes(dtype, shape, Arc::new(Elements(data)))
    }

    /// An f32 tensor that owns `data`.
    ///
    /// # Panics
    /// If `data.len()` is not the product of `shape`.
    pub fn from_f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self::from_elements(DType::F32, shape.into(), data)
    }

    /// An f64 tensor that owns `data`; panics like [`HostTensor::from_f32`].
    pub fn from_f64(shape: impl Into<Vec<usize>>, data: Vec<f64>) -> Self {
        Self::from_elements(DType::F64, shape.into(), data)
    }

    /// An i64 tensor that owns `data`; panics like [`HostTensor::from_f32`].
    pub fn from_i64(shape: impl Into<Vec<usize>>, data: Vec<i64>) -> Self {
        Self::from_elements(DType::I64, shape.into(), data)
    }

    /// A zero-filled tensor.
    pub fn zeros(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let bytes = shape.iter().product::<usize>() * dtype.size();
        HostTensor::from_bytes(dtype, shape, Arc::new(Words(vec![0; bytes.div_ceil(8)], bytes)))
    }

    /// An owned, aligned copy of raw little-endian bytes; panics like [`HostTensor::from_bytes`].
    pub fn copy_of(dtype: DType, shape: &[usize], bytes: &[u8]) -> Self {
        // u64 elements, so that any dtype finds its alignment.
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        HostTensor::from_bytes(dtype, shape, Arc::new(Words(words, bytes.len())))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extent of each axis; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether some axis has extent 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The raw little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        self.data.bytes()
    }

    /// Gives physical memory back where the bytes can be read again from a mapped file.
    pub fn release(&self) {
        self.data.release(0..self.bytes().len());
    }

    /// The elements of an f32 tensor for writing. They are copied first if they lie in a mapped file or are
    /// shared with another tensor, which keeps what it has.
    ///
    /// # Panics
    /// If the dtype is not f32.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.dtype, DType::F32, "a tensor that is written to");
        if Arc::get_mut(&mut self.data).and_then(|data| data.bytes_mut()).is_none() {
            *self = HostTensor::copy_of(self.dtype, &self.shape, self.bytes());
        }
        let data = Arc::get_mut(&mut self.data).and_then(|data| data.bytes_mut());
        bytemuck::cast_slice_mut(data.expect("our own and unshared"))
    }

    /// The same bytes under another shape.
    ///
    /// # Panics
    /// If the element counts differ.
    pub fn reshaped(&self, shape: impl Into<Vec<usize>>) -> Self {
        HostTensor::from_bytes(self.dtype, shape, self.data.clone())
    }

    /// The same elements at an address that suits their type: itself, or (from a mapped file that
    /// starts a tensor anywhere) a copy.
    pub fn aligned(&self) -> Self {
        if (self.bytes().as_ptr() as usize).is_multiple_of(self.dtype.size()) {
            return self.clone();
        }
        HostTensor::copy_of(self.dtype, &self.shape, self.bytes())
    }

    /// The elements as f32 where they are stored so (no copy when aligned), else converted.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        if self.dtype == DType::F32
            && let Ok(direct) = bytemuck::try_cast_slice(self.bytes())
        {
            return Cow::Borrowed(direct);
        }
        Cow::Owned(self.convert(|x| x as f32))
    }

    /// The elements converted to f64.
    pub fn to_f64(&self) -> Vec<f64> {
        self.convert(|x| x)
    }

    /// The elements converted to i64 (floats are truncated towards zero).
    pub fn to_i64(&self) -> Vec<i64> {
        if self.dtype == DType::I64 {
            return self.bytes().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
        }
        self.convert(|x| x as i64)
    }

    fn convert<T>(&self, to: impl Fn(f64) -> T) -> Vec<T> {
        fn each<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
            bytes.chunks_exact(N).map(|b| f(b.try_into().unwrap())).collect()
        }
        let b = self.bytes();
        match self.dtype {
            DType::F64 => each(b, |x| to(f64::from_le_bytes(x))),
            DType::F32 => each(b, |x| to(f32::from_le_bytes(x) as f64)),
            DType::F16 => each(b, |x| to(f16::from_le_bytes(x).to_f64())),
            DType::BF16 => each(b, |x| to(bf16::from_le_bytes(x).to_f64())),
            DType::I64 => each(b, |x| to(i64::from_le_bytes(x) as f64)),
            DType::I32 => each(b, |x| to(i32::from_le_bytes(x) as f64)),
            DType::I16 => each(b, |x| to(i16::from_le_bytes(x) as f64)),
            DType::I8 => each(b, |x: [u8; 1]| to(x[0] as i8 as f64)),
            DType::U8 | DType::Bool => each(b, |x: [u8; 1]| to(x[0] as f64)),
        }
    }

    /// Elements from number `start` on as bytes of another dtype: a piece of [`HostTensor::cast`], as many as
    /// `out` has room for.
    ///
    /// # Panics
    /// As [`HostTensor::cast`], or if there are not that many.
    pub fn cast_into(&self, dtype: DType, start: usize, out: &mut [u8]) {
        /// Elements that a thread converts at a time.
        const PIECE: usize = 1 << 18;
        let size = self.dtype.size();
        let from = &self.bytes()[start * size..][..out.len() / dtype.size() * size];
        if dtype == self.dtype {
            return out.copy_from_slice(from);
        }
        let pieces = out.par_chunks_mut(PIECE * dtype.size()).zip(from.par_chunks(PIECE * size));
        pieces.for_each(|(out, from)| {
            let piece = HostTensor::copy_of(self.dtype, &[from.len() / size], from);
            out.copy_from_slice(piece.cast(dtype).bytes());
        });
    }

    /// A copy in another float dtype (round to nearest even), or a cheap clone if it is the same.
    ///
    /// # Panics
    /// If `dtype` is not a float type.
    pub fn cast(&self, dtype: DType) -> HostTensor {
        if dtype == self.dtype {
            return self.clone();
        }
        let shape = self.shape.clone();
        match dtype {
            DType::F64 => Self::from_f64(shape, self.to_f64()),
            DType::F32 => Self::from_f32(shape, self.to_f32().into_owned()),
            DType::F16 => Self::from_elements(dtype, shape, self.convert(f16_of)),
            DType::BF16 => Self::from_elements(dtype, shape, self.convert(bf16_of)),
            other => panic!("cast to {other}: only float types"),
        }
    }
}

/// `x` rounded once to f16, ties to even.
fn f16_of(x: f64) -> f16 {
    f16::from_f32(to_odd(x))
}

/// `x` rounded once to bf16, ties to even.
fn bf16_of(x: f64) -> bf16 {
    bf16::from_f32(to_odd(x))
}

/// `x` in f32 so that rounding it once more, to a shorter type, gives what rounding `x` itself would: what f32
/// cannot hold goes into its last bit ("rounding to odd"). `from_f64` of the crate half looks at the upper 32
/// bits of `x` alone, and so takes some numbers for ties that are none.
fn to_odd(x: f64) -> f32 {
    let y = x as f32;
    if !y.is_finite() || y as f64 == x || y.to_bits() & 1 == 1 {
        return y;
    }
    // Of the two neighbours of `x` the nearest is even, so the other one is odd.
    let up = (y.abs() as f64) < x.abs();
    f32::from_bits(if up { y.to_bits() + 1 } else { y.to_bits() - 1 })
}

impl fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostTensor({} {:?})", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casts_round_to_nearest_even_and_share_when_equal() {
        let x = HostTensor::from_f32([3], vec![1.0, 1.0 + 1.0 / 256.0, -2.5]);
        assert_eq!(x.cast(DType::BF16).to_f64(), [1.0, 1.0, -2.5]);
        assert_eq!(x.cast(DType::F16).to_f64()[1], 1.0 + 1.0 / 256.0);
        assert!(std::ptr::eq(x.cast(DType::F32).bytes(), x.bytes()));
    }

    #[test]
    fn half_precision_is_rounded_once() {
        // Just above and below the middle of two neighbours, by less than f32 (or an upper word of f64) tells.
        for (middle, below, above) in [(1.0 + 1.0 / 256.0, 1.0, 1.0 + 1.0 / 128.0)] {
            for tiny in [1e-6, 1e-9, 1e-12] {
                let x = HostTensor::from_f64(
                    [4],
                    vec![middle + tiny, middle - tiny, -middle - tiny, -middle + tiny],
                );
                assert_eq!(x.cast(DType::BF16).to_f64(), [above, below, -above, -below], "{tiny}");
            }
        }
        let middle = 1.0 + 1.0 / 2048.0;
        let x = HostTensor::from_f64([3], vec![middle + 1e-12, middle - 1e-12, middle]);
        assert_eq!(x.cast(DType::F16).to_f64(), [1.0 + 1.0 / 1024.0, 1.0, 1.0]);
        // f32 to half precision is what half does with f32.
        let values: Vec<f32> = (0..1 << 16).map(|i| f32::from_bits(0x3f00_0000 + 37 * i)).collect();
        let x = HostTensor::from_f32([values.len()], values.clone());
        let (bf, h) = (x.cast(DType::BF16).to_f64(), x.cast(DType::F16).to_f64());
        for (i, &v) in values.iter().enumerate() {
            assert_eq!(bf[i], bf16::from_f32(v).to_f64(), "{v}");
            assert_eq!(h[i], f16::from_f32(v).to_f64(), "{v}");
        }
        let ends = HostTensor::from_f64([4], vec![f64::INFINITY, f64::NAN, 1e300, 0.0]);
        let ends = ends.cast(DType::BF16).to_f64();
        assert!(ends[0] == f64::INFINITY && ends[1].is_nan() && ends[2] == f64::INFINITY && ends[3] == 0.0);
    }

    #[test]
    fn writing_leaves_other_tensors_as_they_are() {
        let mut x = HostTensor::from_f32([2], vec![1.0, 2.0]);
        let at = x.bytes().as_ptr();
        x.f32_mut()[0] = 3.0;
        assert!(std::ptr::eq(x.bytes().as_ptr(), at), "nobody else looks: in place");
        let seen = x.clone();
        x.f32_mut()[1] = 4.0;
        assert_eq!((x.to_f32().as_ref(), seen.to_f32().as_ref()), (&[3.0, 4.0][..], &[3.0, 2.0][..]));
    }

    #[test]
    fn pieces_of_a_cast_are_those_of_the_whole() {
        let x = HostTensor::from_f32([600_001], (0..600_001).map(|i| (i as f32).sin()).collect());
        let whole = x.cast(DType::BF16);
        let mut piece = vec![0; 2 * 600_000];
        x.cast_into(DType::BF16, 1, &mut piece);
        assert!(piece == whole.bytes()[2..]);
        x.cast_into(DType::F32, 7, &mut piece[..40]);
        assert_eq!(&piece[..40], &x.bytes()[28..68]);
    }

    #[test]
    fn zeros_are_aligned_for_their_dtype() {
        let z = HostTensor::zeros(DType::F32, [3]);
        assert!(matches!(z.to_f32(), Cow::Borrowed(_)));
        assert_eq!(z.to_f32().as_ref(), [0.0; 3]);
    }
}
