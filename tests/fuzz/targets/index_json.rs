//! Any bytes as an `*.index.json`: no shard that is accepted may lie outside the folder.
#![no_main]

use std::path::{Component, Path};

use dreamclear::weights::sharded;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok((map, _)) = sharded::parse_index(data) {
        for (_, shard) in map {
            let path = Path::new("folder").join(&shard);
            assert!(path.starts_with("folder"), "{shard:?}");
            assert!(!path.components().any(|c| c == Component::ParentDir), "{shard:?}");
        }
    }
});
