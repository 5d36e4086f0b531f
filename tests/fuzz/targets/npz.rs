//! Any bytes as an npz file: what is accepted must be readable to the last byte, and no more of
//! it than the limit.
#![no_main]

use dreamclear::weights::npz;

const LIMIT: usize = 1 << 24;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(tensors) = npz::parse(&data.to_vec().into(), LIMIT) {
        let mut total = 0;
        for (_, tensor) in tensors {
            assert_eq!(tensor.bytes().len(), tensor.len() * tensor.dtype().size());
            total += tensor.bytes().len();
            std::hint::black_box(tensor.bytes().iter().fold(0u8, |a, b| a ^ b));
        }
        assert!(total <= LIMIT);
    }
});
