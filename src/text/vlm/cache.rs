//! Answers on disk: one small JSON file per image and question.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Options;
use crate::{Result, atomic_file};

/// Where the answer about one image is kept.
pub(super) struct Entry {
    path: PathBuf,
    key: String,
    model: String,
}

impl Entry {
    /// The entry of everything that decides the answer: image, model, prompt and sampling. The
    /// address does not; the same model may move.
    pub fn new(dir: &Path, png: &[u8], options: &Options) -> Self {
        let sampling = format!("{:?} {:?} {}", options.temperature, options.top_p, options.max_tokens);
        let mut hasher = Sha256::new();
        for part in [png, options.model.as_bytes(), options.prompt.as_bytes(), sampling.as_bytes()] {
            // With its length, so that no two lists of parts read the same.
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let key: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
        Entry { path: dir.join(format!("{key}.json")), key, model: options.model.clone() }
    }

    /// The kept caption; None if there is none or the file is damaged.
    pub fn read(&self) -> Option<String> {
        let json: Value = serde_json::from_slice(&std::fs::read(&self.path).ok()?).ok()?;
        let caption = json["caption"].as_str().filter(|text| !text.trim().is_empty());
        (json["key"] == *self.key).then_some(caption?.to_owned())
    }

    /// Keeps `caption`, whole or not at all.
    pub fn write(&self, caption: &str) -> Result<()> {
        let json = json!({"key": self.key, "model": self.model, "caption": caption});
        atomic_file::write(&self.path, format!("{json:#}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_the_answer_changes_the_key() {
        let key = |png: &[u8], change: fn(&mut Options)| {
            let mut options = Options::new("http://h", "m");
            change(&mut options);
            Entry::new(Path::new("d"), png, &options).key
        };
        let keys = [
            key(b"a", |_| {}),
            key(b"b", |_| {}),
            key(b"a", |o| o.model = "n".into()),
            key(b"a", |o| o.prompt = "p".into()),
            key(b"a", |o| o.temperature = 0.0),
            key(b"a", |o| o.top_p = 1.0),
            key(b"a", |o| o.max_tokens = 1),
            key(b"am", |o| o.model = String::new()),
        ];
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), keys.len());
        assert_eq!(key(b"a", |o| o.url = "http://elsewhere".into()), keys[0]);
    }

    #[test]
    fn damaged_entries_count_as_absent() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Entry::new(&dir.path().join("sub"), b"png", &Options::new("http://h", "m"));
        assert_eq!(entry.read(), None);
        entry.write("A “cat”.").unwrap();
        assert_eq!(entry.read().as_deref(), Some("A “cat”."));
        let whole = std::fs::read_to_string(&entry.path).unwrap();
        for damaged in [
            "",
            "{}",
            &whole[..whole.len() / 2],
            &whole.replace("A “cat”.", " "),
            &whole.replace(&entry.key, "0"),
        ] {
            std::fs::write(&entry.path, damaged).unwrap();
            assert_eq!(entry.read(), None, "{damaged}");
        }
    }
}
