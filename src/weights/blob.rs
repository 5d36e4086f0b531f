//! A file's bytes, mapped or owned, that tensors can keep alive and point into.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::tensor::Bytes;
use crate::{Error, Result};

/// Cheap to clone: every tensor read from a file holds one.
#[derive(Clone)]
pub struct Blob(Arc<dyn Bytes>);

struct Mapped(Mmap);

impl Bytes for Mapped {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    #[cfg(unix)]
    fn release(&self, range: Range<usize>) {
        // Whole pages only: neighbours share the first and the last one.
        const PAGE: usize = 1 << 16;
        let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
        if start < end {
            // SAFETY: the map is read-only and backed by its file, so dropped pages come back
            // with the same bytes.
            let _ = unsafe {
                self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
            };
        }
    }
}

/// A range of a blob; what a zero-copy tensor owns.
struct Part {
    blob: Blob,
    range: Range<usize>,
}

impl Bytes for Part {
    fn bytes(&self) -> &[u8] {
        &self.blob.bytes()[self.range.clone()]
    }

    fn release(&self, range: Range<usize>) {
        self.blob.0.release(self.range.start + range.start..self.range.start + range.end);
    }
}

impl Blob {
    /// Maps `path` read-only.
    ///
    /// # Errors
    /// If the file cannot be opened or mapped, or is empty.
    pub fn map(path: &Path) -> Result<Blob> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let meta = file.metadata().map_err(|e| Error::io("open", path, e))?;
        if !meta.is_file() {
            return Err(Error::file(path, "expected a weight file, found a directory or a device"));
        }
        if meta.len() == 0 {
            return Err(Error::file(
                path,
                "expected a weight file, found an empty one (0 bytes): fetch it again",
            ));
        }
        // SAFETY: the map is read-only and private to this process. Someone who rewrites a weight
        // file in place while it is in use can change the numbers we read (every reader checks
        // ranges against the mapped length, which stays fixed), and shrinking it raises SIGBUS;
        // our own writers and downloads only ever rename new files over old ones.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        Ok(Blob(Arc::new(Mapped(map))))
    }

    /// All the bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// The bytes of `range` as something a tensor can own; `None` if it reaches past the end.
    pub fn part(&self, range: Range<usize>) -> Option<Arc<dyn Bytes>> {
        self.bytes().get(range.clone())?;
        Some(Arc::new(Part { blob: self.clone(), range }))
    }
}

struct Static(&'static [u8]);

impl Bytes for Static {
    fn bytes(&self) -> &[u8] {
        self.0
    }
}

impl From<&'static [u8]> for Blob {
    fn from(bytes: &'static [u8]) -> Self {
        Blob(Arc::new(Static(bytes)))
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Blob(Arc::new(bytes))
    }
}
