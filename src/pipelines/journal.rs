//! The batch journal: which inputs are done, so that a killed job resumes where it stopped.
//!
//! One file a shard in the output directory, only ever appended to, one JSON object a line. A
//! line is one `write`, after the output has its final name: killing the process loses at most
//! the line in flight, whose picture is then made again. Resuming reads the journals of all
//! shards, so the shard count may change between runs.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::naming::Planned;
use crate::data::shard::Shard;
use crate::{Error, Result};

const PREFIX: &str = ".dreamclear-journal-";
const SUFFIX: &str = ".jsonl";

/// One finished picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The input's name.
    pub name: String,
    /// The input's size in bytes and time of change in nanoseconds: a changed input is redone.
    pub size: u64,
    /// See `size`.
    pub modified: u64,
    /// [`settings_key`] of the run: other settings are redone.
    pub settings: String,
    /// The output, relative to the directory.
    pub output: String,
    /// The output's size: a missing or cut output is redone.
    pub output_size: u64,
}

/// A short stable key of a description of all settings that change the output.
pub fn settings_key(description: &str) -> String {
    let hash = Sha256::digest(description.as_bytes());
    hash.iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// The journal of one output directory, open for appending to one shard's file.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    path: PathBuf,
    file: File,
    done: HashMap<String, Entry>,
}

impl Journal {
    /// Opens (or creates, with its directory) the journal of `shard`. With `resume` also reads
    /// what all shards have finished; lines that are not whole are passed over.
    ///
    /// # Errors
    /// `Error::Io` naming the file or directory.
    pub fn open(directory: &Path, shard: Shard, resume: bool) -> Result<Self> {
        fs::create_dir_all(directory).map_err(|e| Error::io("create directory", directory, e))?;
        let path = directory.join(format!("{PREFIX}{}-of-{}{SUFFIX}", shard.index(), shard.count()));
        let mut done = HashMap::new();
        if resume {
            let list = |e| Error::io("list", directory, e);
            for file in fs::read_dir(directory).map_err(list)? {
                let file = file.map_err(list)?;
                let name = file.file_name();
                let Some(name) = name.to_str() else { continue };
                if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
                    let bytes = fs::read(file.path()).map_err(|e| Error::io("read", file.path(), e))?;
                    for line in bytes.split(|b| *b == b'\n') {
                        if let Ok(entry) = serde_json::from_slice::<Entry>(line) {
                            done.insert(entry.name.clone(), entry);
                        }
                    }
                }
            }
        }
        let fail = |e| Error::io("open the journal", &path, e);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(fail)?;
        // A torn last line must not swallow the next one.
        if file.metadata().map_err(fail)?.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last)).map_err(fail)?;
            if last != *b"\n" {
                file.write_all(b"\n").map_err(fail)?;
            }
        }
        Ok(Journal { directory: directory.to_owned(), path, file, done })
    }

    /// Whether `planned` was finished with these settings, from the same input, and its output
    /// is still there in full.
    pub fn is_done(&self, planned: &Planned, settings: &str) -> bool {
        let input = &planned.input;
        self.done.get(&input.name).is_some_and(|entry| {
            (entry.size, entry.modified) == (input.size, input.modified)
                && entry.settings == settings
                && entry.output == planned.output
                && fs::metadata(self.directory.join(&entry.output))
                    .is_ok_and(|m| m.len() == entry.output_size)
        })
    }

    /// Notes a finished picture.
    ///
    /// # Errors
    /// `Error::Io` naming the journal.
    pub fn record(&mut self, entry: &Entry) -> Result<()> {
        let mut line = serde_json::to_vec(entry).map_err(|e| Error::Run(format!("journal entry: {e}")))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| Error::io("write", &self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::inputs::{Input, Source};

    fn planned(name: &str) -> Planned {
        let input = Input { name: name.into(), source: Source::File(name.into()), size: 3, modified: 9 };
        Planned { input, output: format!("{name}.out"), compare: None }
    }

    fn finish(journal: &mut Journal, name: &str) {
        let p = planned(name);
        fs::write(journal.directory.join(&p.output), "12345").unwrap();
        let entry = Entry {
            name: name.into(),
            size: 3,
            modified: 9,
            settings: "s".into(),
            output: p.output,
            output_size: 5,
        };
        journal.record(&entry).unwrap();
    }

    #[test]
    fn finished_work_is_found_again_by_any_shard() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..2 {
            let mut journal = Journal::open(dir.path(), Shard::new(i, 2).unwrap(), false).unwrap();
            finish(&mut journal, &format!("photo{i}"));
        }
        let journal = Journal::open(dir.path(), Shard::default(), true).unwrap();
        assert!(journal.is_done(&planned("photo0"), "s") && journal.is_done(&planned("photo1"), "s"));
        assert!(!journal.is_done(&planned("photo2"), "s"));
        let afresh = Journal::open(dir.path(), Shard::default(), false).unwrap();
        assert!(!afresh.is_done(&planned("photo0"), "s"));
    }

    #[test]
    fn whatever_changed_is_redone() {
        let dir = tempfile::tempdir().unwrap();
        finish(&mut Journal::open(dir.path(), Shard::default(), false).unwrap(), "a");
        let journal = Journal::open(dir.path(), Shard::default(), true).unwrap();
        assert!(journal.is_done(&planned("a"), "s"));
        assert!(!journal.is_done(&planned("a"), "other settings"));
        for change in 0..3 {
            let mut p = planned("a");
            match change {
                0 => p.input.size = 4,
                1 => p.input.modified = 10,
                _ => p.output = "elsewhere".into(),
            }
            assert!(!journal.is_done(&p, "s"), "change {change}");
        }
        fs::write(dir.path().join("a.out"), "cut").unwrap();
        assert!(!journal.is_done(&planned("a"), "s"));
        fs::remove_file(dir.path().join("a.out")).unwrap();
        assert!(!journal.is_done(&planned("a"), "s"));
    }

    #[test]
    fn a_journal_cut_anywhere_loses_only_its_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), Shard::default(), false).unwrap();
        finish(&mut journal, "a");
        finish(&mut journal, "b");
        let path = journal.path.clone();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for cut in first..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut journal = Journal::open(dir.path(), Shard::default(), true).unwrap();
            assert!(journal.is_done(&planned("a"), "s"), "cut at {cut}");
            // All of b but its line end may be there: that counts.
            assert_eq!(journal.is_done(&planned("b"), "s"), cut == whole.len() - 1, "cut at {cut}");
            finish(&mut journal, "c");
            drop(journal);
            let journal = Journal::open(dir.path(), Shard::default(), true).unwrap();
            assert!(
                journal.is_done(&planned("a"), "s") && journal.is_done(&planned("c"), "s"),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn settings_keys_are_stable() {
        assert_eq!(settings_key(""), "e3b0c44298fc1c14"); // SHA-256 of nothing
        assert_ne!(settings_key("model=a"), settings_key("model=b"));
    }
}
