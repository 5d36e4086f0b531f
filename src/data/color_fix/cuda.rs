//! The wavelet fix as launches of `cuda/color_fix.cu`: the same numbers as [`super::wavelet`]'s, bit for bit.

use super::LEVELS;
use crate::device::kernel::Launch;
use crate::ffi::ColorFixBlur;

/// Threads of a block.
const THREADS: usize = 256;
/// Largest extent of a grid along y; blocks take further rows in turn.
const MOST_ROWS: usize = 65535;

/// [`super::wavelet`] in place on the f32 picture `[height, width, channels]` at `picture`; `scratch` are two
/// more of them. All are device addresses.
pub fn wavelet(picture: u64, reference: u64, scratch: [u64; 2], size: [usize; 3]) -> Vec<Launch> {
    let [height, width, channels] = size;
    if height * width * channels == 0 {
        return vec![];
    }
    let level = |level: u32| {
        let first = level == 0;
        let last = level == LEVELS - 1;
        let params = ColorFixBlur {
            x: if first { reference } else { scratch[(level as usize + 1) % 2] },
            minus: if first { picture } else { 0 },
            y: if last { picture } else { scratch[level as usize % 2] },
            height: height as i32,
            width: width as i32,
            channels: channels as i32,
            radius: 1 << level,
            add: i32::from(last),
            reserved: 0,
        };
        let kernel = if first { "color_fix_blur_difference_f32" } else { "color_fix_blur_f32" };
        let blocks = (width * channels).div_ceil(THREADS);
        Launch::new(kernel, [blocks as u32, height.min(MOST_ROWS) as u32, 1], &params)
    };
    (0..LEVELS).map(level).collect()
}
