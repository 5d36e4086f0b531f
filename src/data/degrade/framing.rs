//! Which part of a picture becomes a ground truth: mirrored, reflected where it is too small, cut.
//!
//! Source: `RealESRGANDataset.__getitem__` of `basicsr/data/realesrgan_dataset.py`.

use serde::{Deserialize, Serialize};

use super::config::Picture;
use super::filter::mirrored;
use super::stream::{Draws, Key, Purpose};
use crate::data::pixels::FloatImage;

/// A rectangle of a picture, after mirroring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Framing {
    /// Whether left and right are exchanged first.
    pub mirror: bool,
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows; those beyond the picture's last are its mirror image.
    pub height: usize,
    /// Columns, likewise.
    pub width: usize,
}

impl Framing {
    /// Draws a square crop of a picture of `height`×`width` pixels.
    ///
    /// # Panics
    /// If the key's epoch is 2^24 or more.
    pub fn draw(settings: &Picture, key: Key, height: usize, width: usize) -> Self {
        let mut draws = Draws::new(key, Purpose::Framing);
        let size = settings.size;
        let mirror = draws.chance(settings.mirror);
        let mut first = |n: usize| {
            let choices = n.saturating_sub(size) + 1;
            ((draws.uniform() * choices as f64) as usize).min(choices - 1)
        };
        Framing { mirror, top: first(height), left: first(width), height: size, width: size }
    }

    /// The whole picture, enlarged at the right and bottom to multiples of `multiple`.
    pub fn whole(height: usize, width: usize, multiple: usize) -> Self {
        let up = |n: usize| n.next_multiple_of(multiple);
        Framing { mirror: false, top: 0, left: 0, height: up(height), width: up(width) }
    }

    /// Cuts the rectangle out. Beyond its borders a picture goes on as its mirror image about the outermost
    /// pixels, which are not repeated (OpenCV's reflect-101).
    ///
    /// # Panics
    /// If the picture is empty.
    pub fn cut(&self, image: &FloatImage) -> FloatImage {
        assert!(image.height * image.width > 0, "a picture with pixels");
        let n = image.channels;
        let mut out = FloatImage::zeros(self.height, self.width, n);
        let columns: Vec<usize> = (0..self.width)
            .map(|x| mirrored((self.left + x) as isize, image.width))
            .map(|x| if self.mirror { image.width - 1 - x } else { x })
            .collect();
        for y in 0..self.height {
            let row = image.row(mirrored((self.top + y) as isize, image.height));
            for (o, &x) in out.row_mut(y).chunks_exact_mut(n).zip(&columns) {
                o.copy_from_slice(&row[x * n..][..n]);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(height: usize, width: usize) -> FloatImage {
        FloatImage::new(height, width, 1, (0..height * width).map(|i| i as f32).collect())
    }

    #[test]
    fn small_pictures_are_reflected_and_mirrored_before() {
        let frame = Framing { mirror: false, top: 0, left: 0, height: 3, width: 5 };
        assert_eq!(
            frame.cut(&counted(2, 3)).data,
            [0, 1, 2, 1, 0, 3, 4, 5, 4, 3, 0, 1, 2, 1, 0].map(|x| x as f32)
        );
        let frame = Framing { mirror: true, top: 1, left: 1, height: 1, width: 2 };
        assert_eq!(frame.cut(&counted(2, 3)).data, [4.0, 3.0]);
        assert_eq!(Framing::whole(5, 8, 4), Framing { mirror: false, top: 0, left: 0, height: 8, width: 8 });
    }

    #[test]
    fn crops_reach_every_place_and_stay_inside() {
        let settings = Picture { size: 4, mirror: 0.5, min_pixels: 0, min_bytes: 0 };
        let mut seen = [[0; 3]; 2];
        let mut mirrors = 0;
        for index in 0..600 {
            let frame = Framing::draw(&settings, Key { seed: 3, epoch: 1, index }, 5, 6);
            seen[frame.top][frame.left] += 1;
            mirrors += usize::from(frame.mirror);
            assert_eq!(frame, Framing::draw(&settings, Key { seed: 3, epoch: 1, index }, 5, 6));
        }
        // 100 each, standard deviation 9; 300, standard deviation 12.
        assert!(seen.as_flattened().iter().all(|n| (64..=136).contains(n)), "{seen:?}");
        assert!((252..=348).contains(&mirrors), "{mirrors}");
        let frame = Framing::draw(&settings, Key { seed: 0, epoch: 0, index: 0 }, 2, 3);
        assert_eq!((frame.top, frame.left), (0, 0));
    }
}
