//! A `.param`, a zero byte, and a `.bin`: what is accepted must be readable to the last byte.
#![no_main]

use dreamclear::weights::{Blob, ncnn};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut halves = data.splitn(2, |&b| b == 0);
    let param = halves.next().unwrap_or_default();
    let bin = Blob::from(halves.next().unwrap_or_default().to_vec());
    let Ok(layers) = ncnn::parse_param(param) else { return };
    let Ok(weights) = ncnn::read_weights(&layers, &bin) else { return };
    for (_, tensor) in ncnn::name_weights(&layers, weights).0 {
        std::hint::black_box(tensor.bytes().iter().fold(0u8, |a, b| a ^ b));
    }
});
