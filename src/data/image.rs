//! Photos as they come from files: pixels of 8 or 16 bits with their colour profile and EXIF.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::codecs::bmp::BmpDecoder;
use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::tiff::TiffDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageResult, Limits};

use crate::{Error, Result};

/// Most pixels a photo may have unless the caller says otherwise (2²⁸, 16384×16384).
pub const MAX_PIXELS: u64 = 1 << 28;

/// Largest image file that is read at all: 4 GiB.
const MAX_FILE_BYTES: u64 = 1 << 32;

/// File formats that can be read and written (BMP: only read).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Format {
    Png,
    Jpeg,
    WebP,
    Tiff,
    Bmp,
}

impl Format {
    /// The format's name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Png => "PNG",
            Format::Jpeg => "JPEG",
            Format::WebP => "WebP",
            Format::Tiff => "TIFF",
            Format::Bmp => "BMP",
        }
    }

    /// The file name extension given to new files, without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Format::Png => "png",
            Format::Jpeg => "jpg",
            Format::WebP => "webp",
            Format::Tiff => "tiff",
            Format::Bmp => "bmp",
        }
    }

    /// The format that a file name extension (any case, without the dot) promises.
    pub fn from_extension(extension: &str) -> Option<Self> {
        Some(match extension.to_ascii_lowercase().as_str() {
            "png" => Format::Png,
            "jpg" | "jpeg" | "jpe" | "jfif" => Format::Jpeg,
            "webp" => Format::WebP,
            "tif" | "tiff" => Format::Tiff,
            "bmp" | "dib" => Format::Bmp,
            _ => return None,
        })
    }

    /// The format that a path's extension promises.
    pub fn from_path(path: &Path) -> Option<Self> {
        Self::from_extension(path.extension()?.to_str()?)
    }

    fn sniff(bytes: &[u8]) -> Option<Self> {
        Some(match image::guess_format(bytes).ok()? {
            ImageFormat::Png => Format::Png,
            ImageFormat::Jpeg => Format::Jpeg,
            ImageFormat::WebP => Format::WebP,
            ImageFormat::Tiff => Format::Tiff,
            ImageFormat::Bmp => Format::Bmp,
            _ => return None,
        })
    }
}

/// Which samples a pixel has, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Channels {
    Grey,
    GreyAlpha,
    Rgb,
    Rgba,
}

impl Channels {
    /// Samples of one pixel: 1 to 4.
    pub const fn count(self) -> usize {
        match self {
            Channels::Grey => 1,
            Channels::GreyAlpha => 2,
            Channels::Rgb => 3,
            Channels::Rgba => 4,
        }
    }

    /// Whether the last sample is opacity.
    pub const fn has_alpha(self) -> bool {
        matches!(self, Channels::GreyAlpha | Channels::Rgba)
    }

    /// Whether colour is one sample of luminance.
    pub const fn is_grey(self) -> bool {
        matches!(self, Channels::Grey | Channels::GreyAlpha)
    }
}

/// Interleaved rows of samples, `[height, width, channels]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Samples {
    /// 8 bits a sample, 0..=255.
    U8(Vec<u8>),
    /// 16 bits a sample, 0..=65535.
    U16(Vec<u16>),
}

/// A picture in memory with what its file said about it. The EXIF orientation has been applied
/// to the pixels and reset in `exif`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Photo {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Meaning of a pixel's samples.
    pub channels: Channels,
    /// `height · width · channels.count()` samples, alpha not premultiplied.
    pub samples: Samples,
    /// The embedded ICC colour profile.
    pub icc: Option<Vec<u8>>,
    /// The EXIF block (a TIFF structure, without the `Exif\0\0` prefix of JPEG).
    pub exif: Option<Vec<u8>>,
    /// The format of the file it was read from.
    pub format: Format,
}

impl Photo {
    /// A photo without metadata.
    ///
    /// # Panics
    /// If the number of samples is not `height · width · channels.count()`.
    pub fn new(height: usize, width: usize, channels: Channels, samples: Samples) -> Self {
        let n = match &samples {
            Samples::U8(v) => v.len(),
            Samples::U16(v) => v.len(),
        };
        assert_eq!(n, height * width * channels.count(), "samples of a {width}×{height} {channels:?} photo");
        Photo { height, width, channels, samples, icc: None, exif: None, format: Format::Png }
    }

    /// Reads a PNG, JPEG, WebP, TIFF or BMP file; the content decides which, not the name.
    ///
    /// # Errors
    /// `Error::Io` if it cannot be read, `Error::File` if it is not a whole, supported image of
    /// at most [`MAX_PIXELS`] pixels.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::load_bytes(&read_file(path)?, path)
    }

    /// Decodes an image held in memory; `name` appears in errors and is only a hint otherwise.
    ///
    /// # Errors
    /// `Error::File` as for [`Photo::load`].
    pub fn load_bytes(bytes: &[u8], name: impl AsRef<Path>) -> Result<Self> {
        Self::load_bytes_limited(bytes, name, MAX_PIXELS)
    }

    /// [`Photo::load_bytes`] with another limit on the number of pixels, checked against the
    /// image's header before memory is taken for its pixels.
    pub fn load_bytes_limited(bytes: &[u8], name: impl AsRef<Path>, max_pixels: u64) -> Result<Self> {
        let name = name.as_ref();
        let wrong = |message: String| Error::file(name, message);
        let format = Format::sniff(bytes).ok_or_else(|| wrong(describe_foreign(bytes)))?;
        if format == Format::Jpeg && !jpeg_is_whole(bytes) {
            return Err(wrong("the JPEG ends early (truncated); copy the file again".into()));
        }
        let broken = |e: ImageError| wrong(decode_message(format, &e));

        let mut limits = Limits::no_limits();
        // Decoders hold up to one copy besides the result; metadata must fit in as well.
        limits.max_alloc = Some(max_pixels.saturating_mul(16).saturating_add(64 << 20));
        let mut decoder = open_decoder(format, bytes, limits.clone()).map_err(broken)?;
        let (width, height) = decoder.dimensions();
        if u64::from(width) * u64::from(height) > max_pixels {
            return Err(wrong(format!(
                "the picture is {width}×{height} = {} pixels, more than the limit of {max_pixels}; cut it into parts first",
                u64::from(width) * u64::from(height)
            )));
        }
        if width == 0 || height == 0 {
            return Err(wrong(format!("the picture is {width}×{height}: it has no pixels")));
        }
        let icc = decoder.icc_profile().map_err(broken)?;
        let exif = decoder.exif_metadata().map_err(broken)?;
        let mut orientation = decoder.orientation().map_err(broken)?;
        // WebP files carry the block with or without JPEG's prefix.
        let mut exif = exif.map(|e| e.strip_prefix(b"Exif\0\0").map(<[u8]>::to_vec).unwrap_or(e));
        if let Some(from_exif) = exif.as_deref_mut().and_then(Orientation::remove_from_exif_chunk) {
            orientation = from_exif;
        }

        // Only now: the TIFF decoder would hold metadata to a limit made from the pixels' size.
        decoder.set_limits(limits).map_err(broken)?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
        image.apply_orientation(orientation);
        let (width, height) = (image.width() as usize, image.height() as usize);
        let (channels, samples) = match image {
            DynamicImage::ImageLuma8(i) => (Channels::Grey, Samples::U8(i.into_raw())),
            DynamicImage::ImageLumaA8(i) => (Channels::GreyAlpha, Samples::U8(i.into_raw())),
            DynamicImage::ImageRgb8(i) => (Channels::Rgb, Samples::U8(i.into_raw())),
            DynamicImage::ImageRgba8(i) => (Channels::Rgba, Samples::U8(i.into_raw())),
            DynamicImage::ImageLuma16(i) => (Channels::Grey, Samples::U16(i.into_raw())),
            DynamicImage::ImageLumaA16(i) => (Channels::GreyAlpha, Samples::U16(i.into_raw())),
            DynamicImage::ImageRgb16(i) => (Channels::Rgb, Samples::U16(i.into_raw())),
            DynamicImage::ImageRgba16(i) => (Channels::Rgba, Samples::U16(i.into_raw())),
            other => {
                return Err(wrong(format!(
                    "the {} holds {:?} pixels; convert it to 8 or 16 bits a sample",
                    format.name(),
                    other.color()
                )));
            }
        };
        // A CMYK picture is RGB by now: its profile would be a lie.
        let icc = icc.filter(|profile| icc_fits(profile, channels.is_grey()));
        Ok(Photo { height, width, channels, samples, icc, exif, format })
    }

    /// Bits of one sample: 8 or 16.
    pub fn depth(&self) -> u32 {
        match self.samples {
            Samples::U8(_) => 8,
            Samples::U16(_) => 16,
        }
    }
}

/// Reads an image's header. PNG decoders want their limits before that, the others after.
fn open_decoder(format: Format, bytes: &[u8], limits: Limits) -> ImageResult<Box<dyn ImageDecoder + '_>> {
    let reader = Cursor::new(bytes);
    Ok(match format {
        Format::Png => Box::new(PngDecoder::with_limits(reader, limits)?),
        Format::Jpeg => Box::new(JpegDecoder::new(reader)?),
        Format::WebP => Box::new(WebPDecoder::new(reader)?),
        Format::Tiff => Box::new(TiffDecoder::new(reader)?),
        Format::Bmp => Box::new(BmpDecoder::new(reader)?),
    })
}

/// Reads a whole file of at most 4 GiB.
///
/// # Errors
/// `Error::Io`, or `Error::File` when it is larger.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let fail = |e| Error::io("read", path, e);
    let file = File::open(path).map_err(fail)?;
    let size = file.metadata().map_err(fail)?.len();
    let mut bytes = Vec::with_capacity(size.min(MAX_FILE_BYTES) as usize);
    // The length of a pipe or device is not known beforehand, so the reading itself is bounded.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::file(path, "larger than 4 GiB, which no supported image file is"));
    }
    Ok(bytes)
}

/// Whether an ICC profile describes grey (or else RGB) device values: bytes 16..20 name its
/// data colour space (ICC.1:2022, table 19).
pub(crate) fn icc_fits(profile: &[u8], grey: bool) -> bool {
    profile.get(16..20) == Some(if grey { b"GRAY" } else { b"RGB " })
}

/// Says what a file is that none of the decoders knows.
fn describe_foreign(bytes: &[u8]) -> String {
    const WANTED: &str = "expected a PNG, JPEG, WebP, TIFF or BMP image";
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|b| b.starts_with(magic));
    if bytes.is_empty() {
        return format!("the file is empty (0 bytes); {WANTED}");
    }
    let known = if at(0, b"GIF8") {
        "a GIF picture"
    } else if at(4, b"ftyphei") || at(4, b"ftypmif1") || at(4, b"ftyphev") {
        "an HEIC picture"
    } else if at(4, b"ftypavif") {
        "an AVIF picture"
    } else if at(0, b"\xff\x0a") || at(0, b"\0\0\0\x0cJXL ") {
        "a JPEG XL picture"
    } else if at(0, b"\0\0\0\x0cjP  ") {
        "a JPEG 2000 picture"
    } else if at(0, b"%PDF") {
        "a PDF document"
    } else if at(0, b"PK\x03\x04") {
        "a zip archive"
    } else if at(0, b"\x1f\x8b") {
        "gzip-compressed data"
    } else if is_text(bytes) {
        return format!("holds text, not an image; {WANTED}");
    } else {
        let start: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
        return format!(
            "not an image of a known format (it starts with bytes {}); {WANTED}",
            start.join(" ")
        );
    };
    format!("holds {known}, which is not supported; {WANTED}")
}

fn is_text(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(512)];
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        // The cut at 512 bytes may go through a character.
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(&start[..e.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.is_empty() && text.chars().all(|c| !c.is_control() || c.is_whitespace())
}

fn decode_message(format: Format, error: &ImageError) -> String {
    let name = format.name();
    match error {
        ImageError::Limits(_) => format!("decoding the {name} would take more memory than allowed"),
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            format!("the {name} ends early (truncated); copy the file again")
        }
        other => {
            let mut cause: &dyn std::error::Error = other;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            let text = cause.to_string();
            if text.to_ascii_lowercase().contains("unexpected end") || text.contains("UnexpectedEof") {
                return format!("the {name} ends early (truncated); copy the file again");
            }
            let line: String =
                text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect();
            format!("cannot decode the {name}: {line}")
        }
    }
}

/// Whether a JPEG's markers run up to its end-of-image marker. The decoder itself paints what is
/// missing grey, which a restorer would then lovingly restore.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // Between segments: a marker, perhaps after fill bytes; inside a scan: entropy-coded
        // bytes in which FF is followed by 00 or a restart marker.
        while at < bytes.len() && bytes[at] != 0xff {
            at += 1;
        }
        while at < bytes.len() && bytes[at] == 0xff {
            at += 1;
        }
        let Some(&marker) = bytes.get(at) else { return false };
        at += 1;
        match marker {
            0xd9 => return true,
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            _ => match bytes.get(at..at + 2) {
                Some(length) => at += usize::from(u16::from_be_bytes([length[0], length[1]])).max(2),
                None => return false,
            },
        }
    }
}
