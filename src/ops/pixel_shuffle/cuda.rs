//! Which kernel of `cuda/pixel_shuffle.cu` runs, and with what.

use crate::device::kernel::Launch;
use crate::ffi::PixelShuffle;
use crate::graph::Layout;
use crate::graph::cuda::CudaCall;
use crate::graph::strided::{copy_between, divisor};

/// Values of a tile.
const VALUES: usize = 4096;
/// Factors that tiles are made for.
const FACTORS: std::ops::RangeInclusive<usize> = 2..=8;

pub(super) fn shuffle(r: usize, call: &CudaCall) -> Result<Vec<Launch>, String> {
    moves("pixel_shuffle", r, call)
}

pub(super) fn unshuffle(r: usize, call: &CudaCall) -> Result<Vec<Launch>, String> {
    moves("pixel_unshuffle", r, call)
}

fn moves(kernel: &str, r: usize, call: &CudaCall) -> Result<Vec<Launch>, String> {
    let (x, y) = (&call.inputs[0], &call.outputs[0]);
    if y.ty.is_empty() {
        return Ok(vec![]);
    }
    let shuffle = kernel == "pixel_shuffle";
    let deep = if shuffle { &x.ty.shape } else { &y.ty.shape };
    let [b, h, w, depth] = deep[..] else { unreachable!("infer takes four axes") };
    let square = r * r;
    if !FACTORS.contains(&r) {
        // Axes in another order.
        let blocks = Layout::dense(&[b, h, w, depth / square, r, r]).permute(&[0, 1, 4, 2, 5, 3]);
        let dense = Layout::dense(&blocks.shape);
        let (from, to) = if shuffle { (&blocks, &dense) } else { (&dense, &blocks) };
        return copy_between(y.ty.dtype, x.address, from, y.address, to);
    }
    let channels = depth / square;
    let tile_channels = channels.min(VALUES / square);
    let tile_pixels = (VALUES / (tile_channels * square)).min(w);
    let (tiles_deep, tiles_across) = (channels.div_ceil(tile_channels), w.div_ceil(tile_pixels));
    let params = PixelShuffle {
        x: x.address,
        y: y.address,
        factor: divisor(r),
        square: divisor(square),
        depth: divisor(tile_channels * square),
        tile_channels: divisor(tile_channels),
        tile_pixels: divisor(tile_pixels),
        tiles_deep: divisor(tiles_deep),
        tiles_across: divisor(tiles_across),
        channels: channels as i32,
        width: w as i32,
        pitch: pitch(square, tile_channels * tile_pixels) as i32,
        reserved: 0,
    };
    let blocks = [(b * h * tiles_across * tiles_deep) as u32, 1, 1];
    Ok(vec![Launch::new(format!("{kernel}_b{}", y.ty.dtype.size()), blocks, &params)])
}

/// Elements between places of a block of `square` in shared memory, each of `run` elements: so that the
/// places of one channel, which a warp touches together, fall into different banks.
fn pitch(square: usize, run: usize) -> usize {
    const BANKS: usize = 32;
    let spread = (BANKS / square).max(1);
    run + (spread + BANKS - run % BANKS) % BANKS
}
