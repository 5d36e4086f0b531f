//! Any text as a file of training settings: what is accepted says the same when it is printed and read again.
#![no_main]

use dreamclear::train::trainers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut settings = trainers::shipped("swinir").unwrap();
    if settings.merge_text(text).is_ok() {
        let again = settings.with_text(&settings.to_toml()).unwrap();
        assert_eq!(again.to_toml(), settings.to_toml());
        assert!(settings.changes_from(&again).is_empty());
    }
    for line in text.lines().take(8) {
        let _ = settings.set(line);
    }
});
