//! Arithmetic on pixels as launches of `cuda/image.cu`: the same numbers as the host's, bit for bit.

use std::ops::RangeInclusive;

use crate::device::kernel::Launch;
use crate::ffi::ImageMap;

/// Threads of a block.
const THREADS: usize = 256;

/// y = x·`scale` + `shift`, clamped to `range`, for `len` f32 elements at device addresses; y may be x.
pub fn map(x: u64, y: u64, len: usize, scale: f32, shift: f32, range: RangeInclusive<f32>) -> Option<Launch> {
    let (low, high) = range.into_inner();
    let params = ImageMap { x, y, len: len as i64, scale, shift, low, high };
    let blocks = u32::try_from(len.div_ceil(THREADS)).expect("a picture of fewer than 2^40 values");
    (len > 0).then(|| Launch::new("image_map_f32", [blocks, 1, 1], &params))
}
