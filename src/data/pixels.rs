//! Between photos (integers, any channels) and what networks see (f32, RGB, 0..1).

pub mod cuda;

use std::borrow::Cow;

use rayon::prelude::*;

use super::image::{Channels, Photo, Samples};
use crate::{Error, Result};

/// Pixels as f32, interleaved `[height, width, channels]`, nominally 0..1.
#[derive(Clone, Debug, PartialEq)]
pub struct FloatImage {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Samples of a pixel: 3 for colour, 1 for alpha.
    pub channels: usize,
    /// `height · width · channels` values.
    pub data: Vec<f32>,
}

impl FloatImage {
    /// Wraps values.
    ///
    /// # Panics
    /// If their number is not `height · width · channels`.
    pub fn new(height: usize, width: usize, channels: usize, data: Vec<f32>) -> Self {
        assert_eq!(data.len(), height * width * channels, "values of a {width}×{height}×{channels} image");
        FloatImage { height, width, channels, data }
    }

    /// All zero.
    pub fn zeros(height: usize, width: usize, channels: usize) -> Self {
        Self::new(height, width, channels, vec![0.0; height * width * channels])
    }

    /// Row `y`: `width · channels` values.
    pub fn row(&self, y: usize) -> &[f32] {
        let n = self.width * self.channels;
        &self.data[y * n..(y + 1) * n]
    }

    /// Row `y`, to be written.
    pub fn row_mut(&mut self, y: usize) -> &mut [f32] {
        let n = self.width * self.channels;
        &mut self.data[y * n..(y + 1) * n]
    }
}

/// How a value between two integer levels becomes one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest level, ties to even: the least error.
    #[default]
    HalfEven,
    /// Downwards, as DreamClear's own code does; a bias of half a level towards dark.
    Truncate,
}

impl Rounding {
    /// A value of 0..1 as a level of 0..=`max`; out-of-range values are clipped.
    #[inline]
    fn level(self, x: f32, max: f32) -> f32 {
        let x = (x * max).clamp(0.0, max);
        match self {
            Rounding::HalfEven => x.round_ties_even(),
            Rounding::Truncate => x.trunc(),
        }
    }
}

impl Photo {
    /// The colours as f32 RGB in 0..1, `[height, width, 3]`; grey is replicated, alpha left out.
    pub fn rgb_f32(&self) -> FloatImage {
        let n = self.channels.count();
        let grey = self.channels.is_grey();
        let mut out = FloatImage::zeros(self.height, self.width, 3);
        // Division in f64, then one rounding: what numpy does to the official input.
        fn fill<T: Copy + Sync>(
            v: &[T],
            n: usize,
            grey: bool,
            out: &mut [f32],
            to: impl Fn(T) -> f32 + Sync,
        ) {
            out.par_chunks_mut(3 * 4096).zip(v.par_chunks(n * 4096)).for_each(|(out, v)| {
                for (o, p) in out.chunks_exact_mut(3).zip(v.chunks_exact(n)) {
                    let [r, g, b] = if grey { [p[0]; 3] } else { [p[0], p[1], p[2]] };
                    o.copy_from_slice(&[to(r), to(g), to(b)]);
                }
            });
        }
        match &self.samples {
            Samples::U8(v) => {
                let table: [f32; 256] = std::array::from_fn(|i| (i as f64 / 255.0) as f32);
                fill(v, n, grey, &mut out.data, |x| table[usize::from(x)]);
            }
            Samples::U16(v) => fill(v, n, grey, &mut out.data, |x| (f64::from(x) / 65_535.0) as f32),
        }
        out
    }

    /// The opacity as f32 in 0..1, `[height, width, 1]`; none if the photo has no alpha.
    pub fn alpha_f32(&self) -> Option<FloatImage> {
        if !self.channels.has_alpha() {
            return None;
        }
        let n = self.channels.count();
        let data = match &self.samples {
            Samples::U8(v) => v.chunks_exact(n).map(|p| (f64::from(p[n - 1]) / 255.0) as f32).collect(),
            Samples::U16(v) => v.chunks_exact(n).map(|p| (f64::from(p[n - 1]) / 65_535.0) as f32).collect(),
        };
        Some(FloatImage::new(self.height, self.width, 1, data))
    }

    /// The colours as 8-bit RGB, `[height, width, 3]`: grey is replicated, alpha left out,
    /// 16-bit samples are rounded.
    pub fn rgb_u8(&self) -> Cow<'_, [u8]> {
        let v = self.samples_u8();
        match self.channels {
            Channels::Rgb => v,
            Channels::Rgba => Cow::Owned(v.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect()),
            grey => Cow::Owned(v.chunks_exact(grey.count()).flat_map(|p| [p[0]; 3]).collect()),
        }
    }

    /// A photo like this one (channels, depth, colour profile, EXIF, source format) with other
    /// pixels of any size. A grey photo stays grey: it gets the luma (ITU-R BT.601) of `rgb`.
    ///
    /// # Errors
    /// `Error::Run` if a value is NaN or infinite, naming the first; if this photo has alpha and
    /// `alpha` is missing or of another size than `rgb`.
    ///
    /// # Panics
    /// If `rgb` has not 3 channels or `alpha` not 1.
    pub fn with_pixels(
        &self,
        rgb: &FloatImage,
        alpha: Option<&FloatImage>,
        rounding: Rounding,
    ) -> Result<Photo> {
        assert_eq!(rgb.channels, 3, "colour channels");
        check_finite(rgb, "the restored picture")?;
        let alpha = match (self.channels.has_alpha(), alpha) {
            (false, _) => None,
            (true, Some(a)) if (a.height, a.width) == (rgb.height, rgb.width) => {
                assert_eq!(a.channels, 1, "alpha channels");
                check_finite(a, "the alpha channel")?;
                Some(a)
            }
            (true, found) => {
                return Err(Error::Run(format!(
                    "the photo has an alpha channel, so one of {}×{} is expected with its new pixels; found {}",
                    rgb.width,
                    rgb.height,
                    found.map_or("none".into(), |a| format!("{}×{}", a.width, a.height))
                )));
            }
        };
        let samples = match self.samples {
            Samples::U8(_) => Samples::U8(quantised(rgb, alpha, self.channels, 255.0, rounding, |x| x as u8)),
            Samples::U16(_) => {
                Samples::U16(quantised(rgb, alpha, self.channels, 65_535.0, rounding, |x| x as u16))
            }
        };
        Ok(Photo {
            height: rgb.height,
            width: rgb.width,
            channels: self.channels,
            samples,
            icc: self.icc.clone(),
            exif: self.exif.clone(),
            format: self.format,
        })
    }
}

fn quantised<T: Send + Default + Clone>(
    rgb: &FloatImage,
    alpha: Option<&FloatImage>,
    channels: Channels,
    max: f32,
    rounding: Rounding,
    to: impl Fn(f32) -> T + Sync,
) -> Vec<T> {
    let n = channels.count();
    let mut out = vec![T::default(); rgb.height * rgb.width * n];
    let per_row = rgb.width * n;
    out.par_chunks_mut(per_row.max(1)).enumerate().for_each(|(y, out)| {
        for (x, (o, p)) in out.chunks_exact_mut(n).zip(rgb.row(y).chunks_exact(3)).enumerate() {
            if channels.is_grey() {
                o[0] = to(rounding.level(luma(p), max));
            } else {
                for (o, &p) in o.iter_mut().zip(p) {
                    *o = to(rounding.level(p, max));
                }
            }
            if let Some(a) = alpha {
                // Alpha is never truncated: opaque must stay opaque.
                o[n - 1] = to(Rounding::HalfEven.level(a.row(y)[x], max));
            }
        }
    });
    out
}

/// BT.601 luma; exactly the common value where the three agree.
fn luma(p: &[f32]) -> f32 {
    if p[0] == p[1] && p[1] == p[2] { p[0] } else { 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2] }
}

fn check_finite(image: &FloatImage, what: &str) -> Result<()> {
    let bad = image.data.iter().filter(|x| !x.is_finite()).count();
    if bad == 0 {
        return Ok(());
    }
    let first = image.data.iter().position(|x| !x.is_finite()).unwrap_or(0);
    let pixel = first / image.channels;
    Err(Error::Run(format!(
        "{bad} of {} values of {what} are not finite, the first at x={} y={} (channel {}: {})",
        image.data.len(),
        pixel % image.width,
        pixel / image.width,
        first % image.channels,
        image.data[first]
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_levels_survive_the_round_trip() {
        for rounding in [Rounding::HalfEven, Rounding::Truncate] {
            let eight = Photo::new(16, 16, Channels::Grey, Samples::U8((0..=255).collect()));
            let back = eight.with_pixels(&eight.rgb_f32(), None, rounding).unwrap();
            // i/255·255 falls below i for some i: truncation then loses a level, as officially.
            if rounding == Rounding::HalfEven {
                assert_eq!(back, eight);
            } else {
                assert!(back.samples_u8().iter().zip(eight.samples_u8().iter()).all(|(a, b)| b - a <= 1));
            }
        }
        let sixteen = Photo::new(256, 256, Channels::Grey, Samples::U16((0..=65_535).collect()));
        assert_eq!(sixteen.with_pixels(&sixteen.rgb_f32(), None, Rounding::HalfEven).unwrap(), sixteen);
    }

    #[test]
    fn rounding_modes_clip_and_round_as_named() {
        let x = FloatImage::new(1, 2, 3, vec![-0.5, 0.5 / 255.0, 1.5 / 255.0, 1.999 / 255.0, 1.5, 1.0]);
        let rgb = Photo::new(1, 1, Channels::Rgb, Samples::U8(vec![0; 3]));
        let levels = |r| rgb.with_pixels(&x, None, r).unwrap().samples;
        assert_eq!(levels(Rounding::HalfEven), Samples::U8(vec![0, 0, 2, 2, 255, 255]));
        assert_eq!(levels(Rounding::Truncate), Samples::U8(vec![0, 0, 1, 1, 255, 255]));
    }

    #[test]
    fn alpha_is_kept_apart_and_required() {
        let photo = Photo::new(1, 2, Channels::Rgba, Samples::U8(vec![1, 2, 3, 255, 4, 5, 6, 7]));
        let (rgb, alpha) = (photo.rgb_f32(), photo.alpha_f32());
        assert_eq!(photo.with_pixels(&rgb, alpha.as_ref(), Rounding::HalfEven).unwrap(), photo);
        let e = photo.with_pixels(&rgb, None, Rounding::HalfEven).unwrap_err().to_string();
        assert!(e.contains("alpha"), "{e}");
        assert_eq!(photo.rgb_u8().as_ref(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn grey_stays_grey_by_luma() {
        let grey = Photo::new(1, 1, Channels::Grey, Samples::U8(vec![9]));
        let red = FloatImage::new(1, 1, 3, vec![1.0, 0.0, 0.0]);
        let out = grey.with_pixels(&red, None, Rounding::HalfEven).unwrap();
        assert_eq!((out.channels, out.samples), (Channels::Grey, Samples::U8(vec![76])));
    }

    #[test]
    fn a_nan_is_an_error_that_says_where() {
        let photo = Photo::new(1, 1, Channels::Rgb, Samples::U8(vec![0; 3]));
        let mut x = FloatImage::zeros(2, 3, 3);
        x.data[3 * 4 + 1] = f32::NAN;
        let e = photo.with_pixels(&x, None, Rounding::HalfEven).unwrap_err().to_string();
        assert!(e.contains("x=1 y=1 (channel 1: NaN)"), "{e}");
    }
}
