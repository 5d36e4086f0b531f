//! Side-by-side pictures: input, reference if there is one, result.

use crate::data::image::{Channels, MAX_PIXELS, Photo, Samples};
use crate::data::resize::bicubic_u8;
use crate::{Error, Result};

/// Columns of white between panels.
const GAP: usize = 8;

/// Puts pictures next to each other, left to right, all brought to the size of the last one (the
/// result) by bicubic resizing: 8-bit RGB, transparency over white.
///
/// # Errors
/// `Error::Run` if the whole would exceed [`MAX_PIXELS`].
///
/// # Panics
/// If there are no panels.
pub fn side_by_side(panels: &[&Photo]) -> Result<Photo> {
    let last = panels.last().expect("at least one panel");
    let (height, width) = (last.height, last.width);
    let total = panels.len() * width + (panels.len() - 1) * GAP;
    if (total as u64).saturating_mul(height as u64) > MAX_PIXELS {
        return Err(Error::Run(format!(
            "the side-by-side picture would be {total}×{height}, more than {MAX_PIXELS} pixels"
        )));
    }
    let mut out = vec![255; total * height * 3];
    for (i, panel) in panels.iter().enumerate() {
        let flat = panel.flattened();
        let pixels = bicubic_u8(&flat.rgb_u8(), (flat.height, flat.width), 3, (height, width));
        let left = i * (width + GAP) * 3;
        for (row, source) in out.chunks_exact_mut(total * 3).zip(pixels.chunks_exact(width * 3)) {
            row[left..left + width * 3].copy_from_slice(source);
        }
    }
    let mut photo = Photo::new(height, total, Channels::Rgb, Samples::U8(out));
    // A grey photo's profile does not describe RGB; encoding drops it then.
    photo.icc = last.icc.clone().filter(|_| !last.channels.is_grey());
    Ok(photo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_stand_in_order_at_the_size_of_the_result() {
        let flat = |h, w, v: [u8; 3]| Photo::new(h, w, Channels::Rgb, Samples::U8(v.repeat(h * w)));
        let (input, result) = (flat(2, 3, [9, 8, 7]), flat(4, 6, [1, 2, 3]));
        let reference = Photo::new(4, 6, Channels::GreyAlpha, Samples::U8([50, 0].repeat(24)));
        let out = side_by_side(&[&input, &reference, &result]).unwrap();
        assert_eq!((out.height, out.width), (4, 3 * 6 + 2 * GAP));
        let pixels = out.rgb_u8();
        let at = |x: usize| &pixels[(3 * out.width + x) * 3..][..3];
        assert_eq!((at(0), at(5)), (&[9, 8, 7][..], &[9, 8, 7][..]));
        assert_eq!(
            (at(6), at(6 + GAP)),
            (&[255; 3][..], &[255; 3][..]),
            "a gap, then a transparent panel over white"
        );
        assert_eq!((at(12 + 2 * GAP), at(out.width - 1)), (&[1, 2, 3][..], &[1, 2, 3][..]));
    }
}
