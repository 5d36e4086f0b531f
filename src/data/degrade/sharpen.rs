//! Sharpening of the ground truth by an unsharp mask (`USMSharp` of `basicsr/utils/img_process_util.py`).

use super::config::UnsharpMask;
use super::filter::Filter;
use super::kernels::gaussian;
use crate::data::pixels::FloatImage;

impl UnsharpMask {
    /// Adds `weight` times what each value differs from its blur by, where that is more than the threshold; the
    /// mask of where is blurred too. Values of 0..1 stay there but for rounding.
    pub fn apply(&self, image: &FloatImage) -> FloatImage {
        let blur = Filter::separable(&gaussian(self.taps, self.sigma));
        let (weight, threshold) = (self.weight as f32, self.threshold as f32);
        let blurred = blur.apply(image);
        let mut mask = blurred.clone();
        for (m, x) in mask.data.iter_mut().zip(&image.data) {
            *m = if (x - *m).abs() * 255.0 > threshold { 1.0 } else { 0.0 };
        }
        let soft = blur.apply(&mask);
        let mut out = blurred;
        for ((o, m), x) in out.data.iter_mut().zip(&soft.data).zip(&image.data) {
            let sharp = (x + weight * (x - *o)).clamp(0.0, 1.0);
            *o = m * sharp + (1.0 - m) * x;
        }
        out
    }
}
