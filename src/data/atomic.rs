//! Files that appear whole or not at all.
//!
//! Bytes go to `.NAME.part` in the same directory, reach the disk, and only then take the final
//! name. The temporary name depends on nothing but the final one, so a run that was killed
//! leaves at most that one file and the next run reuses it; a lock keeps two processes from
//! sharing it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::{Error, Result};

/// Temporary files of this process that have not got their final name yet.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes every temporary file this process has open. For the moment before a hard exit only:
/// the writers still running will then fail.
pub fn discard_unfinished() {
    let files = UNFINISHED.lock().unwrap_or_else(|e| e.into_inner());
    for path in files.iter() {
        let _ = fs::remove_file(path);
    }
}

/// Writes `bytes` to `path`, replacing what is there; creates missing parent directories.
///
/// # Errors
/// `Error::Io` naming `path` (full disk, no permission …), or `Error::Run` when another process
/// is writing the same file. Nothing half-written remains in either case.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |e| Error::io("write", path, e);
    let Some(name) = path.file_name() else {
        return Err(Error::Usage(format!("{} is not a file name", path.display())));
    };
    let directory = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory).map_err(|e| Error::io("create directory", directory, e))?;
    let temporary = Temporary::create(directory.join(temporary_name(name)), path)?;
    (&temporary.file).write_all(bytes).map_err(fail)?;
    // Without this a crash after the rename may leave an empty file under the final name.
    temporary.file.sync_all().map_err(fail)?;
    temporary.rename(path).map_err(fail)
}

/// `.NAME.part`; a name near the 255-byte limit of file systems is cut and told apart by a hash.
fn temporary_name(name: &std::ffi::OsStr) -> OsString {
    const LONGEST: usize = 240;
    let mut temporary = OsString::from(".");
    if name.len() <= LONGEST {
        temporary.push(name);
    } else {
        let hash = super::shard::stable_hash(name.as_encoded_bytes());
        let start: String = name.to_string_lossy().chars().take(40).collect();
        temporary.push(format!("{start}~{hash:016x}"));
    }
    temporary.push(".part");
    temporary
}

/// An open, locked temporary file that is removed unless it is renamed.
struct Temporary {
    file: File,
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn create(path: PathBuf, target: &Path) -> Result<Self> {
        let fail = |e| Error::io("write", target, e);
        // Another process may rename or remove the file between our opening and locking it;
        // then the lock is on a file of another name, and we start over.
        for _ in 0..16 {
            let file =
                OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(fail)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Run(format!(
                        "{} is being written by another process; give each job its own output directory or --shard",
                        target.display()
                    )));
                }
                // File systems without locks still get the atomic rename.
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(e)) => return Err(fail(e)),
            }
            if same_file(&file, &path) {
                UNFINISHED.lock().unwrap_or_else(|e| e.into_inner()).push(path.clone());
                let temporary = Temporary { file, path, renamed: false };
                temporary.file.set_len(0).map_err(fail)?;
                return Ok(temporary);
            }
        }
        Err(Error::Run(format!("{} keeps being replaced by another process", path.display())))
    }

    fn rename(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
        UNFINISHED.lock().unwrap_or_else(|e| e.into_inner()).retain(|p| *p != self.path);
    }
}

#[cfg(unix)]
fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn same_file(_: &File, path: &Path) -> bool {
    // Elsewhere an open file cannot be renamed or removed under us.
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut v: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        v.sort();
        v
    }

    #[test]
    fn writes_replace_and_leave_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/a.png");
        write(&path, b"one, the longer").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(&dir.path().join("sub")), ["a.png"]);
    }

    #[test]
    fn a_leftover_of_a_killed_run_is_reused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".a.png.part"), b"half of something much longer").unwrap();
        write(&dir.path().join("a.png"), b"whole").unwrap();
        assert_eq!(fs::read(dir.path().join("a.png")).unwrap(), b"whole");
        assert_eq!(names(dir.path()), ["a.png"]);
    }

    #[test]
    fn a_second_writer_is_refused_and_the_first_keeps_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.png");
        let first = Temporary::create(dir.path().join(".a.png.part"), &target).unwrap();
        let message = write(&target, b"second").unwrap_err().to_string();
        assert!(message.contains("another process"), "{message}");
        (&first.file).write_all(b"first").unwrap();
        first.rename(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"first");
        assert_eq!(names(dir.path()), ["a.png"]);
    }

    #[test]
    fn a_failed_rename_removes_the_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("taken");
        fs::create_dir_all(target.join("x")).unwrap();
        let error = write(&target, b"bytes").unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(names(dir.path()), ["taken"]);
    }

    #[test]
    fn names_of_255_bytes_still_fit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("é".repeat(125) + ".png");
        write(&path, b"x").unwrap();
        assert_eq!(names(dir.path()).len(), 1);
    }
}
