//! Files that appear whole or not at all.
//!
//! Bytes go to `.NAME.part` in the same directory, reach the disk, and only then take the final
//! name. The temporary name depends on nothing but the final one, so a run that was killed
//! leaves at most that one file and the next run reuses it; a lock keeps two processes from
//! sharing it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use sha2::{Digest, Sha256};

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
/// As for [`AtomicFile`]. Nothing half-written remains.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = folder_of(path);
    fs::create_dir_all(directory).map_err(|e| Error::io("create directory", directory, e))?;
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(|e| Error::io("write", path, e))?;
    file.commit()
}

/// A file being written under a temporary name beside its destination.
///
/// [`AtomicFile::commit`] flushes it to the disk and renames it; dropping it without that (an
/// error, a full disk, an interrupt that unwinds) removes it and leaves the destination alone.
pub struct AtomicFile {
    out: Option<BufWriter<File>>,
    temporary: PathBuf,
    destination: PathBuf,
}

impl AtomicFile {
    /// Starts writing what will become `destination`. The folder must exist.
    ///
    /// # Errors
    /// `Error::Io` naming `destination` (no permission, no such folder …), or `Error::Run` when
    /// another process is writing the same file.
    pub fn create(destination: impl Into<PathBuf>) -> Result<Self> {
        let destination = destination.into();
        let name = destination.file_name().ok_or_else(|| {
            Error::Usage(format!("{} cannot be a file to write: it has no file name", destination.display()))
        })?;
        let temporary = destination.with_file_name(temporary_name(name));
        let fail = |e| Error::io("write", &destination, e);
        // Another process may rename or remove the file between our opening and locking it;
        // then the lock is on a file of another name, and we start over.
        for _ in 0..16 {
            let file =
                OpenOptions::new().write(true).create(true).truncate(false).open(&temporary).map_err(fail)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Run(format!(
                        "{} is being written by another process; give each job its own output directory or --shard",
                        destination.display()
                    )));
                }
                // File systems without locks still get the atomic rename.
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(e)) => return Err(fail(e)),
            }
            if same_file(&file, &temporary) {
                file.set_len(0).map_err(fail)?;
                UNFINISHED.lock().unwrap_or_else(|e| e.into_inner()).push(temporary.clone());
                let out = Some(BufWriter::with_capacity(1 << 20, file));
                return Ok(AtomicFile { out, temporary, destination });
            }
        }
        Err(Error::Run(format!("{} keeps being replaced by another process", temporary.display())))
    }

    /// Makes the file durable and gives it its name, replacing what was there.
    ///
    /// # Errors
    /// `Error::Io` naming the destination; nothing half-written remains.
    pub fn commit(mut self) -> Result<()> {
        self.finish().map_err(|e| Error::io("write", &self.destination, e))
    }

    fn finish(&mut self) -> io::Result<()> {
        let out = self.out.take().ok_or_else(|| io::Error::other("already closed"))?;
        let file = match out.into_inner() {
            Ok(file) => file,
            Err(e) => {
                let _ = fs::remove_file(&self.temporary);
                return Err(e.into_error());
            }
        };
        // Without this a crash after the rename may leave an empty file under the final name.
        let named = file.sync_all().and_then(|()| fs::rename(&self.temporary, &self.destination));
        if named.is_err() {
            // While the lock is still held: nobody else's file is removed.
            let _ = fs::remove_file(&self.temporary);
        }
        named?;
        // Makes the rename durable. Not all file systems allow it; the file itself is safe already.
        let _ = File::open(folder_of(&self.destination)).and_then(|d| d.sync_all());
        Ok(())
    }
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// `.NAME.part`; a name near the 255-byte limit of file systems is cut and told apart by a hash.
fn temporary_name(name: &OsStr) -> OsString {
    const LONGEST: usize = 240;
    let mut temporary = OsString::from(".");
    if name.len() <= LONGEST {
        temporary.push(name);
    } else {
        let start: String = name.to_string_lossy().chars().take(40).collect();
        temporary.push(start);
        for byte in &Sha256::digest(name.as_encoded_bytes())[..8] {
            temporary.push(format!("{byte:02x}"));
        }
    }
    temporary.push(".part");
    temporary
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.out {
            Some(out) => out.write(bytes),
            None => Err(io::Error::other("already closed")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), |out| out.flush())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(out) = self.out.take() {
            // Removed while still locked, and its buffer forgotten: nobody will read it.
            let _ = fs::remove_file(&self.temporary);
            let _ = out.into_parts();
        }
        UNFINISHED.lock().unwrap_or_else(|e| e.into_inner()).retain(|p| *p != self.temporary);
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
    fn appears_only_on_commit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        fs::write(&path, "old").unwrap();
        let mut f = AtomicFile::create(&path).unwrap();
        f.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(f);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let mut f = AtomicFile::create(&path).unwrap();
        f.write_all(b"new").unwrap();
        f.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = AtomicFile::create(dir.path().join("no/a.bin")).err().unwrap().to_string();
        assert!(error.contains("cannot write") && error.contains("no/a.bin"), "{error}");
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
        let mut first = AtomicFile::create(&target).unwrap();
        let message = write(&target, b"second").unwrap_err().to_string();
        assert!(message.contains("another process"), "{message}");
        first.write_all(b"first").unwrap();
        first.commit().unwrap();
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
