//! The order of things: a picture and its drawn parameters in, a training pair out.
//!
//! Sources: `realesrgan_degradation` of DreamClear's `tools/make_paired_data.py`; `CodeformerDataset` of
//! DiffBIR's `diffbir/dataset/codeformer.py`.

use super::draw::{Chain, Drawn, Last, Round};
use super::jpeg::JpegKind;
use super::kernels::Kernel;
use super::noise::{Noise, Source};
use super::resize::{Interpolation, interpolate, interpolate_by};
use super::stream::{Field, Key, Purpose};
use crate::data::pixels::FloatImage;
use crate::{Error, Result};

/// A training pair, RGB in 0..1.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The ground truth, sharpened if the parameters say so.
    pub gt: FloatImage,
    /// The low-quality picture as it is small: of the ground truth's sides over the scale (second order), or of
    /// the drawn size (first order).
    pub lr: FloatImage,
    /// The low-quality picture at the ground truth's size, as networks see it: enlarged by PyTorch's bicubic
    /// (second order; overshoots stay) or by bilinear interpolation (first order).
    pub sr_bicubic: FloatImage,
}

/// Noise fields of the two rounds.
pub(super) trait Noises {
    /// The random numbers of a round's pixels. `grey_gaussian`: those that a batch may share.
    fn source(&self, round: usize, grey_gaussian: bool) -> Box<dyn Source + '_>;
}

impl Noises for Drawn {
    fn source(&self, round: usize, grey_gaussian: bool) -> Box<dyn Source> {
        let purpose = [Purpose::FirstPixels, Purpose::SecondPixels][round];
        Box::new(match self.batch {
            Some(index) if grey_gaussian => Field::shared(Key { index, ..self.key }, purpose),
            _ => Field::new(self.key, purpose),
        })
    }
}

/// Degrades a picture (RGB in 0..1) by `drawn`.
///
/// # Errors
/// `Error::Run` if a side is not a multiple of the scale, or a real JPEG encoder cannot hold the picture.
///
/// # Panics
/// If the picture is empty or has not 3 channels.
pub fn apply(drawn: &Drawn, picture: &FloatImage) -> Result<Pair> {
    apply_with(drawn, picture, drawn)
}

pub(super) fn apply_with(drawn: &Drawn, picture: &FloatImage, noises: &dyn Noises) -> Result<Pair> {
    assert_eq!(picture.channels, 3, "channels of a colour picture");
    let gt = match &drawn.sharpen {
        Some(mask) => {
            let mut sharp = mask.apply(picture);
            clip(&mut sharp);
            sharp
        }
        None => picture.clone(),
    };
    let steps = Steps { jpeg: drawn.jpeg, noises };
    match &drawn.chain {
        Chain::RealEsrgan { scale, first, second, last } => {
            steps.real_esrgan(gt, *scale, first, second, last)
        }
        Chain::CodeFormer { blur, shrink, noise, quality } => {
            steps.code_former(gt, *blur, *shrink, *noise, *quality)
        }
    }
}

struct Steps<'a> {
    jpeg: JpegKind,
    noises: &'a dyn Noises,
}

impl Steps<'_> {
    fn real_esrgan(
        &self,
        gt: FloatImage,
        scale: usize,
        first: &Round,
        second: &Round,
        last: &Last,
    ) -> Result<Pair> {
        let (height, width) = (gt.height, gt.width);
        if height % scale != 0 || width % scale != 0 {
            return Err(Error::Run(format!(
                "a {width}×{height} picture cannot be degraded to 1/{scale} of its size: expected sides that are multiples of {scale}; crop it, or reflect it at its borders (degrade --whole)"
            )));
        }
        let small = (height / scale, width / scale);
        let x = blurred(&gt, first.blur);
        let x = interpolate_by(&x, first.factor, first.mode);
        let x = self.noisy(x, 0, first.noise);
        let x = self.jpeg.apply(x, first.quality)?;

        let x = match second.blur {
            Some(kernel) => kernel.filter().apply(&x),
            None => x,
        };
        let side = |n: usize| (n as f64 / scale as f64 * second.factor) as usize;
        let x = interpolate(&x, side(height).max(1), side(width).max(1), second.mode);
        let x = self.noisy(x, 1, second.noise);

        let settle = |x: &FloatImage| blurred(&interpolate(x, small.0, small.1, last.mode), last.sinc);
        let mut lr = if last.before_compression {
            self.jpeg.apply(settle(&x), second.quality)?
        } else {
            settle(&self.jpeg.apply(x, second.quality)?)
        };
        clip(&mut lr);
        let sr_bicubic = interpolate(&lr, height, width, Interpolation::Bicubic);
        Ok(Pair { gt, lr, sr_bicubic })
    }

    fn code_former(
        &self,
        gt: FloatImage,
        blur: Option<Kernel>,
        shrink: f64,
        noise: Noise,
        quality: f64,
    ) -> Result<Pair> {
        let side = |n: usize| ((n as f64 / shrink).floor() as usize).max(1);
        let x = blurred(&gt, blur);
        let x = interpolate(&x, side(gt.height), side(gt.width), Interpolation::Bilinear);
        let lr = self.jpeg.apply(self.noisy(x, 0, noise), quality)?;
        let sr_bicubic = interpolate(&lr, gt.height, gt.width, Interpolation::Bilinear);
        Ok(Pair { gt, lr, sr_bicubic })
    }

    fn noisy(&self, image: FloatImage, round: usize, noise: Noise) -> FloatImage {
        let grey_gaussian = matches!(noise, Noise::Gaussian { grey: true, .. });
        noise.apply(image, &*self.noises.source(round, grey_gaussian))
    }
}

fn blurred(image: &FloatImage, kernel: Option<Kernel>) -> FloatImage {
    match kernel {
        Some(kernel) => kernel.filter().apply(image),
        None => image.clone(),
    }
}

fn clip(image: &mut FloatImage) {
    image.data.iter_mut().for_each(|x| *x = x.clamp(0.0, 1.0));
}
