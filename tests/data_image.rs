//! Photos through real files: formats, depths, orientation, metadata, and every broken kind.

use std::io::Cursor;
use std::path::Path;

use dreamclear::Error;
use dreamclear::data::encode::JPEG_QUALITY;
use dreamclear::data::image::{Channels, Format, Photo, Samples};
use image::{ExtendedColorType, ImageEncoder};

const ALL: [Channels; 4] = [Channels::Grey, Channels::GreyAlpha, Channels::Rgb, Channels::Rgba];

/// Pixels without symmetry: any flip, rotation or channel swap shows.
fn photo(h: usize, w: usize, channels: Channels, depth: u32) -> Photo {
    let n = h * w * channels.count();
    let value = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 16;
    let samples = if depth == 8 {
        Samples::U8((0..n).map(|i| (value(i) >> 8) as u8).collect())
    } else {
        Samples::U16((0..n).map(|i| value(i) as u16).collect())
    };
    Photo::new(h, w, channels, samples)
}

/// A little-endian EXIF block: orientation, and a make, to see that the rest survives.
fn exif(orientation: u16) -> Vec<u8> {
    let mut b = b"II*\0\x08\0\0\0\x02\0".to_vec();
    b.extend(b"\x0f\x01\x02\0\x04\0\0\0Cam\0"); // Make, ASCII, 4 bytes
    b.extend(b"\x12\x01\x03\0\x01\0\0\0");
    b.extend(orientation.to_le_bytes());
    b.extend([0; 6]);
    b
}

/// A header that says which colour space it is for; nothing here reads further.
fn icc(space: &[u8; 4]) -> Vec<u8> {
    let mut b = vec![0; 128];
    b[16..20].copy_from_slice(space);
    b.extend((0..300).map(|i| i as u8));
    b
}

fn jpeg_with_exif(photo: &Photo, exif: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, 100);
    encoder.set_exif_metadata(exif).unwrap();
    encoder
        .write_image(&photo.samples_u8(), photo.width as u32, photo.height as u32, ExtendedColorType::Rgb8)
        .unwrap();
    out
}

fn refused(bytes: &[u8], name: &str) -> String {
    match Photo::load_bytes(bytes, name) {
        Err(Error::File { path, message }) => {
            assert_eq!(path, Path::new(name));
            assert!(!message.contains('\n') && message.len() < 300, "not one sentence: {message}");
            message
        }
        other => panic!("{name}: expected a refusal, found {other:?}"),
    }
}

#[test]
fn lossless_formats_keep_every_sample() {
    let dir = tempfile::tempdir().unwrap();
    for format in [Format::Png, Format::Tiff, Format::WebP] {
        for channels in ALL {
            for depth in [8, 16] {
                if format == Format::WebP && (depth == 16 || channels.is_grey()) {
                    continue; // WebP is 8-bit RGB(A): see the next test
                }
                let p = photo(7, 5, channels, depth);
                let path = dir.path().join(format!("{channels:?}{depth}.{}", format.extension()));
                assert_eq!(p.save(&path, format, JPEG_QUALITY).unwrap(), Vec::<String>::new());
                let back = Photo::load(&path).unwrap();
                assert_eq!((back.height, back.width, back.depth()), (7, 5, depth), "{format:?} {channels:?}");
                assert_eq!(back.format, format);
                assert_eq!(back.rgb_f32(), p.rgb_f32(), "{format:?} {channels:?} {depth}");
                assert_eq!(back.alpha_f32(), p.alpha_f32(), "{format:?} {channels:?} {depth}");
                if format == Format::Png {
                    assert_eq!((back.channels, back.samples), (p.channels, p.samples));
                }
            }
        }
    }
}

#[test]
fn what_a_format_cannot_hold_is_reduced_aloud() {
    let (bytes, notes) = photo(4, 6, Channels::Rgba, 16).encode(Format::WebP, 95).unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("16 to 8 bits"));
    let back = Photo::load_bytes(&bytes, "a.webp").unwrap();
    assert_eq!((back.channels, back.depth()), (Channels::Rgba, 8));
    assert_eq!(back.samples_u8(), photo(4, 6, Channels::Rgba, 16).samples_u8());

    let clear = Photo::new(8, 8, Channels::Rgba, Samples::U8([10, 20, 30, 0].repeat(64)));
    let (bytes, notes) = clear.encode(Format::Jpeg, 95).unwrap();
    assert!(notes.iter().any(|n| n.contains("onto white")), "{notes:?}");
    let back = Photo::load_bytes(&bytes, "a.jpg").unwrap();
    assert_eq!(back.channels, Channels::Rgb);
    assert!(back.samples_u8().iter().all(|&x| x == 255));

    let (bytes, _) = photo(9, 9, Channels::Grey, 8).encode(Format::Jpeg, 95).unwrap();
    assert_eq!(Photo::load_bytes(&bytes, "a.jpg").unwrap().channels, Channels::Grey);

    let e = Photo::new(3, 20_000, Channels::Grey, Samples::U8(vec![0; 60_000])).encode(Format::WebP, 95);
    let e = e.unwrap_err().to_string();
    assert!(e.contains("16383") && e.contains("20000×3"), "{e}");
}

#[test]
fn jpeg_quality_counts() {
    let p = photo(64, 64, Channels::Rgb, 8);
    let size = |q| p.encode(Format::Jpeg, q).unwrap().0.len();
    assert!(size(95) > size(75) && size(75) > size(30));
}

#[test]
fn all_eight_orientations_are_applied_and_reset() {
    // 16-pixel blocks of flat colour survive JPEG. The matrix is what a viewer must show:
    // rows of the *upright* picture as (source row, source column), after the EXIF 2.32 table.
    let (h, w) = (2, 3);
    let colours: Vec<[u8; 3]> = (0..6).map(|i| [40 * i as u8, 255 - 40 * i as u8, 128]).collect();
    let mut stored = Vec::new();
    for y in 0..h * 16 {
        for x in 0..w * 16 {
            stored.extend(colours[y / 16 * w + x / 16]);
        }
    }
    let stored = Photo::new(h * 16, w * 16, Channels::Rgb, Samples::U8(stored));
    for orientation in 1..=8u16 {
        // (row, column) of the upright picture → where it is stored.
        let upright = |r: usize, c: usize| match orientation {
            1 => (r, c),
            2 => (r, w - 1 - c),
            3 => (h - 1 - r, w - 1 - c),
            4 => (h - 1 - r, c),
            5 => (c, r),
            6 => (h - 1 - c, r),
            7 => (h - 1 - c, w - 1 - r),
            _ => (c, w - 1 - r),
        };
        let back = Photo::load_bytes(&jpeg_with_exif(&stored, exif(orientation)), "o.jpg").unwrap();
        let (rows, columns) = if orientation >= 5 { (w, h) } else { (h, w) };
        assert_eq!((back.height, back.width), (rows * 16, columns * 16), "orientation {orientation}");
        let pixels = back.rgb_u8();
        for r in 0..rows {
            for c in 0..columns {
                let (sr, sc) = upright(r, c);
                let at = ((r * 16 + 8) * back.width + c * 16 + 8) * 3;
                for k in 0..3 {
                    let difference = pixels[at + k].abs_diff(colours[sr * w + sc][k]);
                    assert!(
                        difference <= 4,
                        "orientation {orientation}, block ({r},{c}): off by {difference}"
                    );
                }
            }
        }
        assert_eq!(
            back.exif.as_deref(),
            Some(&exif(1)[..]),
            "orientation {orientation} is reset, the rest kept"
        );
    }
}

#[test]
fn metadata_is_carried_over() {
    for format in [Format::Png, Format::Jpeg, Format::WebP, Format::Tiff] {
        for (channels, space) in [(Channels::Rgb, b"RGB "), (Channels::Grey, b"GRAY")] {
            if format == Format::WebP && channels == Channels::Grey {
                continue; // comes back as RGB, for which a grey profile would be wrong
            }
            let mut p = photo(16, 24, channels, 8);
            p.icc = Some(icc(space));
            p.exif = Some(exif(1));
            let (bytes, notes) = p.encode(format, 95).unwrap();
            let back = Photo::load_bytes(&bytes, "m").unwrap();
            assert_eq!(back.icc, p.icc, "{format:?} {channels:?}");
            if format == Format::Tiff {
                assert!(notes.iter().any(|n| n.contains("EXIF")), "{notes:?}");
            } else {
                assert_eq!(back.exif, p.exif, "{format:?} {channels:?}");
                assert!(notes.is_empty(), "{notes:?}");
            }
        }
    }
    let mut p = photo(16, 16, Channels::Rgb, 8);
    p.icc = Some(icc(b"CMYK"));
    p.exif = Some(vec![0; 70_000]);
    let (bytes, notes) = p.encode(Format::Jpeg, 95).unwrap();
    assert_eq!(notes.len(), 2, "{notes:?}");
    let back = Photo::load_bytes(&bytes, "m").unwrap();
    assert_eq!((back.icc, back.exif), (None, None));
}

#[test]
fn large_icc_profiles_cross_jpeg_segments() {
    let mut p = photo(16, 16, Channels::Rgb, 8);
    let mut profile = icc(b"RGB ");
    profile.extend((0..200_000).map(|i| (i % 251) as u8));
    p.icc = Some(profile);
    let (bytes, _) = p.encode(Format::Jpeg, 95).unwrap();
    assert_eq!(Photo::load_bytes(&bytes, "m").unwrap().icc, p.icc);
}

#[test]
fn a_cmyk_jpeg_opens_as_rgb() {
    // Made by tools/golden/cmyk.py (Pillow): four flat quadrants, and what Pillow shows.
    let back = Photo::load_bytes(include_bytes!("golden/cmyk.jpg"), "cmyk.jpg").unwrap();
    assert_eq!((back.channels, back.height, back.width), (Channels::Rgb, 32, 32));
    assert_eq!(back.icc, None, "a CMYK profile is not carried to RGB");
    let pixels = back.rgb_u8();
    for (y, x, expected) in
        [(8, 8, [255, 255, 255]), (8, 24, [255, 0, 0]), (24, 8, [0, 128, 128]), (24, 24, [0, 0, 0])]
    {
        for c in 0..3 {
            let found = pixels[(y * 32 + x) * 3 + c];
            assert!(
                found.abs_diff(expected[c]) <= 6,
                "({x},{y}) channel {c}: {found}, expected {}",
                expected[c]
            );
        }
    }
}

#[test]
fn extreme_shapes_work() {
    for (h, w) in [(1, 1), (3, 20_000), (20_000, 3)] {
        let p = photo(h, w, Channels::Rgb, 8);
        for format in [Format::Png, Format::Jpeg, Format::Tiff] {
            let back = Photo::load_bytes(&p.encode(format, 95).unwrap().0, "x").unwrap();
            assert_eq!((back.height, back.width), (h, w), "{format:?}");
        }
    }
}

#[test]
fn bmp_is_read_and_not_written() {
    let p = photo(3, 5, Channels::Rgb, 8);
    let mut bytes = Cursor::new(Vec::new());
    image::codecs::bmp::BmpEncoder::new(&mut bytes)
        .write_image(&p.samples_u8(), 5, 3, ExtendedColorType::Rgb8)
        .unwrap();
    let back = Photo::load_bytes(bytes.get_ref(), "a.bmp").unwrap();
    assert_eq!((&back.samples, back.format), (&p.samples, Format::Bmp));
    assert!(p.encode(Format::Bmp, 95).unwrap_err().to_string().contains("only read"));
}

#[test]
fn truncation_is_noticed_in_every_format() {
    let p = photo(64, 48, Channels::Rgb, 8);
    for format in [Format::Png, Format::Jpeg, Format::WebP, Format::Tiff] {
        let bytes = p.encode(format, 95).unwrap().0;
        for cut in [bytes.len() / 2, bytes.len() - bytes.len() / 5, bytes.len() / 10] {
            let message = refused(&bytes[..cut], "cut");
            if matches!(format, Format::Png | Format::Jpeg) {
                assert!(message.contains("truncated"), "{format:?} cut at {cut}: {message}");
            }
        }
    }
    let mut bytes = jpeg_with_exif(&p, exif(6));
    assert!(Photo::load_bytes(&bytes, "whole.jpg").is_ok());
    bytes.extend(b"trailing bytes of a phone's second picture");
    assert!(Photo::load_bytes(&bytes, "trailer.jpg").is_ok());
}

#[test]
fn foreign_content_is_named() {
    assert!(refused(b"", "empty.png").contains("empty (0 bytes)"));
    assert!(refused("Grüße, I am a text\n".as_bytes(), "photo.png").contains("holds text, not an image"));
    assert!(refused("ä".repeat(400).as_bytes(), "photo.png").contains("holds text"));
    assert!(refused(b"GIF89a....", "a.jpg").contains("GIF"));
    assert!(refused(b"\0\0\0\x18ftypheic\0\0", "a.jpg").contains("HEIC"));
    assert!(refused(b"\x7fELF\x02\x01\x01\0\0", "a.png").contains("7f 45 4c 46"));
    assert!(refused(b"\x89PNG\r\n\x1a\n", "a.png").contains("truncated"));
    // The content decides, not the name.
    let bytes = photo(4, 4, Channels::Rgb, 8).encode(Format::Png, 95).unwrap().0;
    assert_eq!(Photo::load_bytes(&bytes, "wrongly.jpg").unwrap().format, Format::Png);
}

#[test]
fn decompression_bombs_are_refused_by_their_header() {
    fn chunk(out: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
        out.extend((data.len() as u32).to_be_bytes());
        let body = [&kind[..], data].concat();
        let mut crc = !0u32;
        for b in &body {
            crc ^= u32::from(*b);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            }
        }
        out.extend(&body);
        out.extend((!crc).to_be_bytes());
    }
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::new();
    header.extend(100_000u32.to_be_bytes());
    header.extend(90_000u32.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    chunk(&mut png, b"IHDR", &header);
    chunk(&mut png, b"IDAT", &[0x78, 0x9c, 3, 0, 0, 0, 0, 1]);
    chunk(&mut png, b"IEND", &[]);
    let message = refused(&png, "bomb.png");
    assert!(
        message.contains("100000×90000 = 9000000000 pixels") && message.contains("268435456"),
        "{message}"
    );

    let small = photo(20, 30, Channels::Rgb, 8).encode(Format::Png, 95).unwrap().0;
    assert!(Photo::load_bytes_limited(&small, "a.png", 600).is_ok());
    let e = Photo::load_bytes_limited(&small, "a.png", 599).unwrap_err().to_string();
    assert!(e.contains("600 pixels, more than the limit of 599"), "{e}");
}

#[test]
fn files_that_cannot_be_read_say_so() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().join("missing.png"), dir.path().to_owned()] {
        let e = Photo::load(&path).unwrap_err();
        assert!(matches!(e, Error::Io { .. }), "{e}");
        assert!(e.to_string().contains(path.to_str().unwrap()), "{e}");
    }
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn damaged_files_never_panic(format in 0usize..4, at in 0.0f64..1.0, byte in 0u8..=255, cut in 0.0f64..1.2) {
            let format = [Format::Png, Format::Jpeg, Format::WebP, Format::Tiff][format];
            let mut p = photo(19, 23, Channels::Rgb, 8);
            p.exif = Some(exif(6));
            p.icc = Some(icc(b"RGB "));
            let mut bytes = p.encode(format, 90).unwrap().0;
            let i = (at * bytes.len() as f64) as usize;
            bytes[i] = byte;
            bytes.truncate((cut * bytes.len() as f64) as usize);
            if let Err(e) = Photo::load_bytes_limited(&bytes, "x", 1 << 20) {
                prop_assert!(!e.to_string().contains('\n'));
            }
        }
    }
}
