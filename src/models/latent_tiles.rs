//! Latents too large for one pass: the official tile grid, its Gaussian weights and the blend
//! (`forward_with_cfg_tile`; specification restore.md §11).

pub mod cuda;

use crate::error::{Error, Result};
use crate::tensor::HostTensor;

/// Where the tiles of a latent lie. All are square and of one size; the last one along an axis
/// ends with the latent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Rows of the latent.
    pub height: usize,
    /// Columns of the latent.
    pub width: usize,
    /// Side of a tile: what was asked for, or the latent's shorter side if that is less.
    pub tile: usize,
    /// From one tile to the next, but for the last.
    step: usize,
    tops: Vec<usize>,
    lefts: Vec<usize>,
}

impl Grid {
    /// Tiles of side `tile` that overlap by at least `overlap`; all in latent pixels.
    ///
    /// # Errors
    /// If the overlap is not smaller than the tile, or an extent is 0.
    pub fn new(height: usize, width: usize, tile: usize, overlap: usize) -> Result<Self> {
        let tile = tile.min(height).min(width);
        if overlap >= tile {
            return Err(Error::Usage(format!(
                "latent tiles of side {tile} (of a {height}x{width} latent) need an overlap below {tile}, \
                 found {overlap}"
            )));
        }
        let step = tile - overlap;
        let axis = |length: usize| -> Vec<usize> {
            (0..=(length - tile).div_ceil(step)).map(|k| (k * step).min(length - tile)).collect()
        };
        Ok(Grid { height, width, tile, step, tops: axis(height), lefts: axis(width) })
    }

    /// Number of tiles.
    pub fn len(&self) -> usize {
        self.tops.len() * self.lefts.len()
    }

    /// Whether there are no tiles: never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Top and left corner of each tile, in the official order: down the first column of tiles,
    /// then the next. The order matters to the last bit of the blend.
    pub fn corners(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.lefts.iter().flat_map(|&left| self.tops.iter().map(move |&top| (top, left)))
    }

    /// The Gaussian weight of each pixel of a tile, row-major. Its centre is `tile / 2` down and
    /// `(tile − 1) / 2` across: asymmetric, as in the official code (quirk 11).
    pub fn weights(&self) -> Vec<f64> {
        const VARIANCE: f64 = 0.01;
        let n = self.tile as f64;
        let axis = |middle: f64| -> Vec<f64> {
            (0..self.tile)
                .map(|i| i as f64 - middle)
                .map(|d| {
                    (-d * d / (n * n) / (2.0 * VARIANCE)).exp()
                        / (2.0 * std::f64::consts::PI * VARIANCE).sqrt()
                })
                .collect()
        };
        let (down, across) = (axis(n / 2.0), axis((n - 1.0) / 2.0));
        down.iter().flat_map(|y| across.iter().map(move |x| y * x)).collect()
    }

    /// The tile at a corner of an f32 latent `[B, C, height, width]`: `[B, C, tile, tile]`.
    pub fn crop(&self, latent: &HostTensor, (top, left): (usize, usize)) -> HostTensor {
        let [b, c, h, w] = latent.shape()[..] else { panic!("a latent is [B, C, H, W], found {latent:?}") };
        assert_eq!((h, w), (self.height, self.width), "the grid is of another size");
        let values = latent.to_f32();
        let rows =
            (0..b * c).flat_map(|plane| (top..top + self.tile).map(move |y| (plane * h + y) * w + left));
        let cut = rows.flat_map(|start| values[start..start + self.tile].iter().copied()).collect();
        HostTensor::from_f32([b, c, self.tile, self.tile], cut)
    }
}

/// The weighted mean of overlapping tiles `[B, C, tile, tile]`; sums are f32, single terms f64, as
/// the official code has them.
#[derive(Clone, Debug)]
pub struct Blend {
    grid: Grid,
    weights: Vec<f64>,
    /// Planes `[B·C, height, width]` of weighted sums.
    sums: Vec<f32>,
    /// One plane of sums of weights.
    total: Vec<f32>,
}

impl Blend {
    /// Nothing added yet; for `planes` = B·C planes.
    pub fn new(grid: &Grid, planes: usize) -> Self {
        let area = grid.height * grid.width;
        Blend {
            weights: grid.weights(),
            sums: vec![0.0; planes * area],
            total: vec![0.0; area],
            grid: grid.clone(),
        }
    }

    /// Adds the tile at a corner, `[B, C, tile, tile]` row-major.
    pub fn add(&mut self, (top, left): (usize, usize), tile: &[f32]) {
        let Grid { height, width, tile: side, .. } = self.grid;
        assert_eq!(tile.len() * height * width, self.sums.len() * side * side, "a tile for each plane");
        let add = |sum: &mut f32, term: f64| *sum = (f64::from(*sum) + term) as f32;
        for y in 0..side {
            let row = (top + y) * width + left;
            let weights = &self.weights[y * side..][..side];
            for (sum, &w) in self.total[row..][..side].iter_mut().zip(weights) {
                add(sum, w);
            }
            let planes = self.sums.chunks_exact_mut(height * width);
            for (plane, tile) in planes.zip(tile.chunks_exact(side * side)) {
                let terms = tile[y * side..][..side].iter().zip(weights);
                for (sum, (&x, &w)) in plane[row..][..side].iter_mut().zip(terms) {
                    add(sum, f64::from(x) * w);
                }
            }
        }
    }

    /// The blended planes `[B·C, height, width]`.
    pub fn finish(mut self) -> Vec<f32> {
        for plane in self.sums.chunks_exact_mut(self.total.len()) {
            for (sum, total) in plane.iter_mut().zip(&self.total) {
                *sum /= total;
            }
        }
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The offsets that the specification gives for 1088, 2048 and 4096 pixels.
    #[test]
    fn grids_of_known_sizes() {
        let lefts = |width| Grid::new(128, width, 128, 32).unwrap().lefts;
        assert_eq!(lefts(128), [0]);
        assert_eq!(lefts(136), [0, 8]);
        assert_eq!(lefts(256), [0, 96, 128]);
        assert_eq!(lefts(512).len(), 5);
        let narrow = Grid::new(40, 12, 16, 6).unwrap();
        assert_eq!(
            (narrow.tile, narrow.tops.clone(), narrow.lefts.clone()),
            (12, vec![0, 6, 12, 18, 24, 28], vec![0])
        );
        let column_first: Vec<_> = Grid::new(20, 20, 16, 4).unwrap().corners().collect();
        assert_eq!(column_first, [(0, 0), (4, 0), (0, 4), (4, 4)]);
    }

    #[test]
    fn weights_are_centred_half_a_pixel_lower_than_across() {
        let grid = Grid::new(8, 8, 8, 2).unwrap();
        let w = grid.weights();
        let at = |y: usize, x: usize| w[y * 8 + x];
        for i in 0..8 {
            assert_eq!(at(4, i), at(4, 7 - i), "left and right mirror");
        }
        assert!(at(4, 3) > at(3, 3) && at(3, 3) == at(5, 3), "the middle row is tile / 2");
        assert!(
            (at(4, 3) - at(4, 4)).abs() < 1e-15
                && (at(4, 4) - 15.915_494 * (-0.195_312_5f64).exp()).abs() < 1e-6
        );
    }

    #[test]
    fn an_overlap_as_large_as_the_tile_is_refused() {
        let error = Grid::new(40, 20, 32, 20).unwrap_err().to_string();
        assert!(error.contains("side 20") && error.contains("overlap below 20, found 20"), "{error}");
        assert!(Grid::new(0, 20, 32, 0).is_err());
    }

    proptest! {
        /// Cutting and blending unchanged tiles gives the latent back.
        #[test]
        fn tiles_of_a_latent_blend_into_it(h in 5usize..40, w in 5usize..40, tile in 5usize..20, overlap in 0usize..4) {
            let grid = Grid::new(h, w, tile, overlap).unwrap();
            let latent: Vec<f32> = (0..2 * 3 * h * w).map(|i| (i as f32 * 0.7).sin()).collect();
            let latent = HostTensor::from_f32([2, 3, h, w], latent);
            let mut blend = Blend::new(&grid, 6);
            for corner in grid.corners() {
                blend.add(corner, &grid.crop(&latent, corner).to_f32());
            }
            for (got, want) in blend.finish().iter().zip(latent.to_f32().iter()) {
                prop_assert!((got - want).abs() <= 1e-6, "{got} {want}");
            }
        }
    }
}
