//! The blend as launches of `cuda/diffusion.cu`: the same numbers as [`super::Blend`]'s, bit for bit.

use super::Grid;
use crate::device::kernel::Launch;
use crate::ffi::DiffusionBlend;

/// Threads of a block.
const THREADS: usize = 256;

/// The weighted mean of all tiles: f32 `[tiles, planes, side, side]` at `tiles`, in the order of
/// [`Grid::corners`], into f32 `[planes, height, width]` at `out`. At `weights` lie the f64 [`Grid::weights`].
pub fn blend(grid: &Grid, tiles: u64, weights: u64, planes: usize, out: u64) -> Launch {
    assert!(planes <= 65535, "{planes} planes");
    let params = DiffusionBlend {
        tiles,
        weights,
        out,
        planes: planes as i32,
        height: grid.height as i32,
        width: grid.width as i32,
        side: grid.tile as i32,
        step: grid.step as i32,
        rows: grid.tops.len() as i32,
        columns: grid.lefts.len() as i32,
        reserved: 0,
    };
    let blocks = (grid.height * grid.width).div_ceil(THREADS);
    Launch::new("diffusion_blend_f32", [blocks as u32, planes as u32, 1], &params)
}
