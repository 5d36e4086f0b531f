//! Any bytes as a safetensors file: what is accepted must be readable to the last byte.
#![no_main]

use dreamclear::weights::safetensors;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok((tensors, _)) = safetensors::parse(&data.to_vec().into()) {
        for (_, tensor) in tensors {
            assert_eq!(tensor.bytes().len(), tensor.len() * tensor.dtype().size());
            std::hint::black_box(tensor.bytes().iter().fold(0u8, |a, b| a ^ b));
        }
    }
});
