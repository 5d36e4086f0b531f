//! Files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

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
    pub fn create(destination: impl Into<PathBuf>) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let destination = destination.into();
        let name = destination.file_name().ok_or_else(|| {
            Error::Usage(format!("{} cannot be a file to write: it has no file name", destination.display()))
        })?;
        let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}-{unique}.tmp", std::process::id()));
        let temporary = destination.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(|e| Error::io("write", &destination, e))?;
        Ok(AtomicFile { out: Some(BufWriter::with_capacity(1 << 20, file)), temporary, destination })
    }

    /// Makes the file durable and gives it its name, replacing what was there.
    pub fn commit(mut self) -> Result<()> {
        self.finish().map_err(|e| Error::io("write", &self.destination, e))
    }

    fn finish(&mut self) -> io::Result<()> {
        let out = self.out.take().ok_or_else(|| io::Error::other("already closed"))?;
        let file = out.into_inner().map_err(|e| e.into_error())?;
        file.sync_all()?;
        drop(file);
        fs::rename(&self.temporary, &self.destination)?;
        sync_folder(&self.destination);
        Ok(())
    }
}

/// Makes a rename durable. Not all file systems allow it, and the file itself is already safe.
fn sync_folder(file: &Path) {
    let folder = match file.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let _ = File::open(folder).and_then(|d| d.sync_all());
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
        // After a commit the temporary name no longer exists and this does nothing.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
