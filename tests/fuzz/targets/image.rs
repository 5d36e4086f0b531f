//! Any bytes as a picture: refused with a sentence, or decoded and encoded again.
#![no_main]

use dreamclear::data::image::{Format, Photo};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // A small limit keeps single runs short; the real one differs only in the number.
    let Ok(photo) = Photo::load_bytes_limited(data, "fuzz", 1 << 16) else { return };
    let rgb = photo.rgb_f32();
    assert_eq!(rgb.data.len(), 3 * photo.height * photo.width);
    let _ = photo.encode(Format::Png, 90);
});
