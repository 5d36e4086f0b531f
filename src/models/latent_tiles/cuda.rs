//! The blend as launches of `cuda/diffusion.cu`: the same numbers as [`super::Blend`]'s, bit for bit.

use super::Grid;
use crate::device::kernel::Launch;
use crate::ffi::DiffusionBlend;

/// Threads of a block.
const THREADS: usize = 256;

/// A blend of tiles in device memory.
#[derive(Clone, Debug)]
pub struct DeviceBlend {
    /// Address of the f64 weights of a tile: [`Grid::weights`].
    pub weights: u64,
    /// Address of f32 planes `[planes, height, width]`, zeros before the first tile, the result at the end.
    pub sums: u64,
    /// Address of one f32 plane, zeros before the first tile.
    pub total: u64,
    /// Number of planes: B·C.
    pub planes: usize,
}

impl DeviceBlend {
    fn params(&self, grid: &Grid) -> DiffusionBlend {
        DiffusionBlend {
            tile: 0,
            weights: self.weights,
            sums: self.sums,
            total: self.total,
            planes: self.planes as i32,
            height: grid.height as i32,
            width: grid.width as i32,
            side: grid.tile as i32,
            top: 0,
            left: 0,
        }
    }

    /// Adds the f32 tile at a corner; tiles in the order of [`Grid::corners`].
    pub fn add(&self, grid: &Grid, (top, left): (usize, usize), tile: u64) -> Launch {
        let params = DiffusionBlend { tile, top: top as i32, left: left as i32, ..self.params(grid) };
        let blocks = (grid.tile * grid.tile).div_ceil(THREADS);
        Launch::new("diffusion_blend_add_f32", [blocks as u32, 1, 1], &params)
    }

    /// Divides by the sums of weights.
    pub fn finish(&self, grid: &Grid) -> Launch {
        let blocks = (grid.height * grid.width).div_ceil(THREADS);
        Launch::new("diffusion_blend_finish_f32", [blocks as u32, 1, 1], &self.params(grid))
    }
}
