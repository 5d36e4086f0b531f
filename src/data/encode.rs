//! Photos to files: PNG, JPEG, WebP and TIFF with colour profile and EXIF.

use std::borrow::Cow;
use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::codecs::tiff::TiffEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::image::{Channels, Format, Photo, Samples, icc_fits};
use crate::atomic_file;
use crate::{Error, Result};

/// JPEG quality unless the user says otherwise.
pub const JPEG_QUALITY: u8 = 95;

/// Longest EXIF block of a JPEG: one 64 KiB segment less its length and prefix.
const JPEG_EXIF_BYTES: usize = 65_535 - 2 - 6;

impl Photo {
    /// Writes the photo to `path` atomically (see [`atomic_file::write`]) and returns what the format
    /// could not hold, one sentence each. `quality` (1..=100) is JPEG's; the other formats are
    /// lossless.
    ///
    /// # Errors
    /// `Error::Io` (full disk, no permission …), or `Error::File` as for [`Photo::encode`].
    pub fn save(&self, path: impl AsRef<Path>, format: Format, quality: u8) -> Result<Vec<String>> {
        let path = path.as_ref();
        let (bytes, notes) = self.encode(format, quality).map_err(|e| match e {
            Error::Run(message) => Error::file(path, message),
            other => other,
        })?;
        atomic_file::write(path, &bytes)?;
        Ok(notes)
    }

    /// The bytes of an image file, and what the format could not hold. 16-bit photos stay so in
    /// PNG and TIFF; JPEG has no alpha (it is flattened onto white), WebP no 16 bits.
    ///
    /// # Errors
    /// `Error::Run` if the format cannot be written or the picture is too large for it.
    pub fn encode(&self, format: Format, quality: u8) -> Result<(Vec<u8>, Vec<String>)> {
        let longest = match format {
            Format::Jpeg => 65_535,
            Format::WebP => 16_383,
            _ => i32::MAX as usize,
        };
        if self.width > longest || self.height > longest {
            return Err(Error::Run(format!(
                "a {} picture has at most {longest} pixels a side, this one is {}×{}; choose --format png",
                format.name(),
                self.width,
                self.height
            )));
        }
        let mut notes = Vec::new();
        let photo = self.fitted(format, &mut notes);
        let mut out = Cursor::new(Vec::new());
        let result = match format {
            // On a 2048×2048 photo the next level takes forty times as long and saves 7 %.
            Format::Png => photo.write_with(
                PngEncoder::new_with_quality(&mut out, CompressionType::Fast, FilterType::Adaptive),
                &mut notes,
            ),
            Format::Jpeg => {
                photo.write_with(JpegEncoder::new_with_quality(&mut out, quality.clamp(1, 100)), &mut notes)
            }
            Format::WebP => photo.write_with(WebPEncoder::new_lossless(&mut out), &mut notes),
            Format::Tiff => photo.write_with(TiffEncoder::new(&mut out), &mut notes),
            Format::Bmp => {
                return Err(Error::Run("BMP is only read, not written; choose --format png".into()));
            }
        };
        result.map_err(|e| Error::Run(format!("cannot encode as {}: {e}", format.name())))?;
        Ok((out.into_inner(), notes))
    }

    fn write_with(&self, mut encoder: impl ImageEncoder, notes: &mut Vec<String>) -> image::ImageResult<()> {
        if let Some(icc) = &self.icc
            && encoder.set_icc_profile(icc.clone()).is_err()
        {
            notes.push("the colour profile was dropped: this format cannot hold one".into());
        }
        if let Some(exif) = &self.exif
            && encoder.set_exif_metadata(exif.clone()).is_err()
        {
            notes.push("the EXIF data was dropped: it cannot be written to this format".into());
        }
        let (bytes, color): (&[u8], _) = match &self.samples {
            Samples::U8(v) => (
                v,
                match self.channels {
                    Channels::Grey => ExtendedColorType::L8,
                    Channels::GreyAlpha => ExtendedColorType::La8,
                    Channels::Rgb => ExtendedColorType::Rgb8,
                    Channels::Rgba => ExtendedColorType::Rgba8,
                },
            ),
            Samples::U16(v) => (
                bytemuck::cast_slice(v),
                match self.channels {
                    Channels::Grey => ExtendedColorType::L16,
                    Channels::GreyAlpha => ExtendedColorType::La16,
                    Channels::Rgb => ExtendedColorType::Rgb16,
                    Channels::Rgba => ExtendedColorType::Rgba16,
                },
            ),
        };
        encoder.write_image(bytes, self.width as u32, self.height as u32, color)
    }

    /// This photo with the channels, depth and metadata that `format` can hold.
    fn fitted(&self, format: Format, notes: &mut Vec<String>) -> Cow<'_, Photo> {
        let mut photo = Cow::Borrowed(self);
        if self.depth() == 16 && matches!(format, Format::Jpeg | Format::WebP) {
            notes.push(format!("reduced from 16 to 8 bits: {} holds no more", format.name()));
            photo.to_mut().samples = Samples::U8(self.samples_u8().into_owned());
        }
        if self.channels.has_alpha() && format == Format::Jpeg {
            notes.push("transparency flattened onto white: JPEG has none".into());
            photo = Cow::Owned(photo.flattened());
        }
        // The TIFF encoder has no grey with alpha.
        if self.channels == Channels::GreyAlpha && format == Format::Tiff {
            let widen = |p: &[u16]| [p[0], p[0], p[0], p[1]];
            let photo = photo.to_mut();
            photo.samples = match &photo.samples {
                Samples::U8(v) => {
                    Samples::U8(v.chunks_exact(2).flat_map(|p| [p[0], p[0], p[0], p[1]]).collect())
                }
                Samples::U16(v) => Samples::U16(v.chunks_exact(2).flat_map(widen).collect()),
            };
            photo.channels = Channels::Rgba;
        }
        let grey = photo.channels.is_grey();
        if photo.icc.as_ref().is_some_and(|icc| !icc_fits(icc, grey)) {
            notes.push("the colour profile was dropped: it is not made for these channels".into());
            photo.to_mut().icc = None;
        }
        if format == Format::Jpeg && photo.exif.as_ref().is_some_and(|e| e.len() > JPEG_EXIF_BYTES) {
            notes.push("the EXIF data was dropped: it is larger than a JPEG can hold (64 KiB)".into());
            photo.to_mut().exif = None;
        }
        photo
    }

    /// Without alpha: colours laid over white in proportion to their opacity.
    pub fn flattened(&self) -> Photo {
        if !self.channels.has_alpha() {
            return self.clone();
        }
        fn over_white<T: Copy>(v: &[T], n: usize, max: u64, get: fn(T) -> u64, put: fn(u64) -> T) -> Vec<T> {
            let mix = |c: T, a: T| put((get(c) * get(a) + max * (max - get(a)) + max / 2) / max);
            v.chunks_exact(n).flat_map(|p| p[..n - 1].iter().map(move |&c| mix(c, p[n - 1]))).collect()
        }
        let n = self.channels.count();
        let samples = match &self.samples {
            Samples::U8(v) => Samples::U8(over_white(v, n, 255, u64::from, |x| x as u8)),
            Samples::U16(v) => Samples::U16(over_white(v, n, 65_535, u64::from, |x| x as u16)),
        };
        let channels = if self.channels.is_grey() { Channels::Grey } else { Channels::Rgb };
        Photo { samples, channels, icc: self.icc.clone(), exif: self.exif.clone(), ..*self }
    }

    /// The samples at 8 bits (16-bit ones rounded), same channels.
    pub fn samples_u8(&self) -> Cow<'_, [u8]> {
        match &self.samples {
            Samples::U8(v) => Cow::Borrowed(v),
            Samples::U16(v) => Cow::Owned(v.iter().map(|&x| ((u32::from(x) + 128) / 257) as u8).collect()),
        }
    }
}
