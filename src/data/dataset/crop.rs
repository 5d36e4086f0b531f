//! Which part of a picture a sample shows.

use std::sync::Arc;

use super::cache::Rgb8;
use super::order::Draws;
use crate::data::pixels::FloatImage;
use crate::data::resize::bicubic_u8;

/// Where a crop is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Anywhere, at the picture's own resolution.
    Random,
    /// The middle, after the shorter side has been shrunk to the crop: by halves (mean of 2×2) while it is
    /// at least twice as long, then bicubic (`center_crop_arr` of DiffBIR and ADM).
    Centre,
}

/// Square crops of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// Side in pixels.
    pub size: usize,
    /// Where it is taken.
    pub place: Place,
    /// Whether every other one is mirrored left to right.
    pub flip: bool,
}

/// A picture with the window of one sample in it.
pub(super) struct Cut {
    pub picture: Arc<Rgb8>,
    pub at: (usize, usize),
    pub size: usize,
    pub flip: bool,
}

impl Cut {
    pub fn window(&self) -> FloatImage {
        self.picture.window(self.at, self.size, self.flip)
    }
}

impl Crop {
    /// The window that these draws choose.
    ///
    /// # Errors
    /// One sentence if the picture is too small.
    pub(super) fn cut(&self, picture: Arc<Rgb8>, draws: &Draws) -> Result<Cut, String> {
        let (height, width) = (picture.height, picture.width);
        if height.min(width) < self.size && self.place == Place::Random {
            let size = self.size;
            return Err(format!("the picture is {width}×{height}, smaller than a crop of {size}×{size}"));
        }
        let (picture, at) = match self.place {
            Place::Random => {
                let at = |what, n: usize| draws.below(what, n - self.size + 1);
                (picture, (at("crop row", height), at("crop column", width)))
            }
            Place::Centre => {
                let small = shrunk(picture, self.size);
                let at = ((small.height - self.size) / 2, (small.width - self.size) / 2);
                (small, at)
            }
        };
        Ok(Cut { picture, at, size: self.size, flip: self.flip && draws.coin("flip") })
    }
}

/// A picture whose shorter side is `size`.
fn shrunk(mut picture: Arc<Rgb8>, size: usize) -> Arc<Rgb8> {
    while picture.height.min(picture.width) >= 2 * size {
        picture = Arc::new(halved(&picture));
    }
    let (height, width) = (picture.height, picture.width);
    let factor = size as f64 / height.min(width) as f64;
    let scaled = |n: usize| (n as f64 * factor).round_ties_even() as usize;
    let to = (scaled(height), scaled(width));
    if to == (height, width) {
        return picture;
    }
    Arc::new(Rgb8 { height: to.0, width: to.1, data: bicubic_u8(&picture.data, (height, width), 3, to) })
}

/// Means of 2×2 pixels, halves rounded up, as Pillow's box filter gives them for even sizes; an odd last row or
/// column is left out.
fn halved(picture: &Rgb8) -> Rgb8 {
    let (height, width) = (picture.height / 2, picture.width / 2);
    let mut data = Vec::with_capacity(3 * height * width);
    for y in 0..height {
        let row = |k: usize| &picture.data[3 * (2 * y + k) * picture.width..][..6 * width];
        for (a, b) in row(0).chunks_exact(6).zip(row(1).chunks_exact(6)) {
            data.extend((0..3).map(|c| {
                let sum: u16 = [a[c], a[c + 3], b[c], b[c + 3]].map(u16::from).iter().sum();
                ((sum + 2) / 4) as u8
            }));
        }
    }
    Rgb8 { height, width, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(height: usize, width: usize) -> Arc<Rgb8> {
        let data = (0..height * width).flat_map(|i| [(i % 251) as u8; 3]).collect();
        Arc::new(Rgb8 { height, width, data })
    }

    #[test]
    fn random_crops_reach_every_place_and_stay_inside() {
        let crop = Crop { size: 4, place: Place::Random, flip: true };
        let (mut places, mut flips) = (std::collections::BTreeSet::new(), 0);
        for index in 0..600 {
            let cut = crop.cut(picture(6, 5), &Draws { seed: 1, epoch: 0, index }).unwrap();
            assert_eq!(cut.window().data.len(), 48);
            places.insert(cut.at);
            flips += usize::from(cut.flip);
        }
        assert_eq!(places.len(), 6, "{places:?}");
        assert!((240..=360).contains(&flips), "{flips} of 600 mirrored");
    }

    #[test]
    fn small_pictures_are_refused_by_random_crops_only() {
        let crop = |place| Crop { size: 9, place, flip: false };
        let draws = Draws::fixed(0);
        let e = crop(Place::Random).cut(picture(8, 30), &draws).err().expect("8 rows");
        assert_eq!(e, "the picture is 30×8, smaller than a crop of 9×9");
        let cut = crop(Place::Centre).cut(picture(8, 30), &draws).unwrap();
        assert_eq!((cut.picture.height, cut.picture.width, cut.at), (9, 34, (0, 12)));
    }

    #[test]
    fn centres_are_shrunk_by_halves_first() {
        let shrunk = shrunk(picture(40, 72), 10);
        assert_eq!((shrunk.height, shrunk.width), (10, 18));
        assert_eq!(shrunk.data, halved(&halved(&picture(40, 72))).data);
        let four = Rgb8 { height: 2, width: 2, data: [1, 2, 2, 1].iter().flat_map(|&v| [v; 3]).collect() };
        assert_eq!(halved(&four).data, [2; 3]);
    }
}
