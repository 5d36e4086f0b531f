//! Any bytes as a `torch.save` file of either kind, and as the pickle within an otherwise
//! sound one: what is accepted must be readable to the last byte.
#![no_main]

use dreamclear::weights::torch::{self, Checkpoint};

/// Magic number, protocol and system information of the legacy container.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.}.";

fn touch(parsed: Result<Checkpoint, String>) {
    if let Ok(checkpoint) = parsed {
        for (_, tensor) in checkpoint.tensors {
            assert_eq!(tensor.bytes().len(), tensor.len() * tensor.dtype().size());
            std::hint::black_box(tensor.bytes().iter().fold(0u8, |a, b| a ^ b));
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if torch::is_legacy(data) {
        touch(torch::parse_legacy(&data.to_vec().into()));
    } else {
        touch(torch::parse_zip(&data.to_vec().into()));
        touch(torch::parse_legacy(&[LEGACY, data].concat().into()));
    }
});
