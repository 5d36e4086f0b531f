//! Any bytes as an event file: records are found or refused, never more bytes than there are.
#![no_main]

use dreamclear::train::tensorboard::read_records;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(records) = read_records(data) {
        assert_eq!(records.iter().map(|r| r.len() + 16).sum::<usize>(), data.len());
    }
});
