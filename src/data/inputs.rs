//! Which pictures a job has: files, directories, globs, lists and WebDataset archives.
//!
//! Every input gets a *name*: its path relative to what was given (directory, list, the fixed
//! part of a glob, archive), with `/` between parts and its extension kept. Names place the
//! outputs, key the journal and decide the shard, so they do not depend on the machine. What
//! cannot be read becomes a failed input, not the end of the job.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::Serialize;

use super::image::{Format, read_file};
use crate::{Error, Result};

/// One picture to work on; nothing of it has been read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Relative name with `/` and extension, for example `holiday/0001.jpg`.
    pub name: String,
    /// Where its bytes are.
    pub source: Source,
    /// Bytes of the encoded picture.
    pub size: u64,
    /// Time of the file's last change in nanoseconds since 1970 (of the archive, for a member).
    pub modified: u64,
}

/// Where an input's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A file of its own.
    File(PathBuf),
    /// A member of an uncompressed tar archive, read in place.
    Member {
        /// The archive.
        archive: Arc<Path>,
        /// Position of the member's first byte.
        offset: u64,
    },
}

impl Input {
    /// Reads the encoded picture.
    ///
    /// # Errors
    /// `Error::Io` or `Error::File` naming the file.
    pub fn read(&self) -> Result<Vec<u8>> {
        match &self.source {
            Source::File(path) => read_file(path),
            Source::Member { archive, offset } => {
                let fail = |e| Error::io("read", archive, e);
                let mut file = File::open(archive).map_err(fail)?;
                file.seek(SeekFrom::Start(*offset)).map_err(fail)?;
                let mut bytes = Vec::new();
                file.take(self.size).read_to_end(&mut bytes).map_err(fail)?;
                if (bytes.len() as u64) < self.size {
                    return Err(Error::file(
                        archive,
                        format!("the archive ends inside its member {}", self.name),
                    ));
                }
                Ok(bytes)
            }
        }
    }

    /// The path to show in messages: the file, or `archive.tar:member`.
    pub fn location(&self) -> PathBuf {
        match &self.source {
            Source::File(path) => path.clone(),
            Source::Member { archive, .. } => format!("{}:{}", archive.display(), self.name).into(),
        }
    }
}

/// An input that could not be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The input's name, or the path as given.
    pub name: String,
    /// One sentence.
    pub reason: String,
}

/// What the arguments of a command amount to.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Sorted by name, names unique, no file twice.
    pub found: Vec<Input>,
    /// Arguments and directories that could not be read.
    pub failed: Vec<Failure>,
}

/// Collects the pictures that `arguments` stand for: image files (any name), directories (files
/// with an image extension; with `recursive` those below too; hidden ones never), glob patterns,
/// `.txt` and `.jsonl` lists, `.tar` archives. Nothing inside `exclude` (the output directory)
/// is taken from a directory.
///
/// A `.txt` list has one path a line; a `.jsonl` list has on each line a JSON string or an
/// object with `path`, `image`, `file` or `file_name`. Relative paths count from the list's own
/// directory, or else from the current one. In lists, absolute paths are named relative to their
/// common directory.
///
/// # Errors
/// `Error::Usage` when two different files have the same name, since their outputs would too.
pub fn collect(arguments: &[impl AsRef<Path>], recursive: bool, exclude: Option<&Path>) -> Result<Inputs> {
    let mut collector = Collector {
        recursive,
        exclude: exclude.and_then(|p| fs::canonicalize(p).ok()),
        seen: HashSet::new(),
        found: BTreeMap::new(),
        failed: Vec::new(),
    };
    for argument in arguments {
        collector.argument(argument.as_ref())?;
    }
    Ok(Inputs { found: collector.found.into_values().collect(), failed: collector.failed })
}

struct Collector {
    recursive: bool,
    exclude: Option<PathBuf>,
    /// Files already taken, by canonical path (and position in an archive).
    seen: HashSet<Source>,
    found: BTreeMap<String, Input>,
    failed: Vec<Failure>,
}

impl Collector {
    fn argument(&mut self, path: &Path) -> Result<()> {
        match fs::metadata(path) {
            Ok(m) if m.is_dir() => self.directory(path, path),
            Ok(m) => match lower_extension(path).as_str() {
                "txt" | "jsonl" => self.list(path),
                "tar" => self.archive(path, &m),
                "tgz" | "gz" | "zst" | "xz" | "bz2" | "zip" => {
                    self.fail(
                        path,
                        "compressed archives are not read; unpack it, or decompress it to a plain .tar",
                    );
                    Ok(())
                }
                _ => self.file(path, base_name(path), &m),
            },
            Err(_) if is_pattern(path) => self.pattern(path),
            Err(e) => {
                self.fail(path, Error::io("open", path, e).to_string());
                Ok(())
            }
        }
    }

    fn file(&mut self, path: &Path, name: String, metadata: &Metadata) -> Result<()> {
        let canonical = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (size, modified) = (metadata.len(), nanoseconds(metadata));
        let input = Input { name, source: Source::File(path.to_owned()), size, modified };
        self.add(Source::File(canonical), input)
    }

    fn add(&mut self, identity: Source, input: Input) -> Result<()> {
        if !self.seen.insert(identity) {
            return Ok(());
        }
        if let Some(other) = self.found.get(&input.name) {
            return Err(Error::Usage(format!(
                "{} and {} would both be named {}; give the directory above them (with -r), or restore them into separate directories",
                other.location().display(),
                input.location().display(),
                input.name
            )));
        }
        self.found.insert(input.name.clone(), input);
        Ok(())
    }

    fn fail(&mut self, name: &Path, reason: impl Into<String>) {
        self.failed.push(Failure { name: name.display().to_string(), reason: reason.into() });
    }

    /// Takes the images in `directory`, named relative to `root`.
    fn directory(&mut self, directory: &Path, root: &Path) -> Result<()> {
        let depth = if self.recursive { usize::MAX } else { 1 };
        let exclude = self.exclude.clone();
        let walk = walkdir::WalkDir::new(directory)
            .max_depth(depth)
            .follow_links(true)
            .sort_by_file_name()
            .into_iter()
            .filter_entry(move |entry| {
                let hidden = entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".");
                let output = entry.depth() > 0
                    && entry.file_type().is_dir()
                    && exclude.is_some()
                    && fs::canonicalize(entry.path()).ok() == exclude;
                !hidden && !output
            });
        for entry in walk {
            match entry {
                Ok(entry) if entry.file_type().is_file() && Format::from_path(entry.path()).is_some() => {
                    let name = relative_name(entry.path().strip_prefix(root).unwrap_or(entry.path()));
                    match entry.metadata() {
                        Ok(m) => self.file(entry.path(), name, &m)?,
                        Err(e) => self.fail(entry.path(), format!("cannot read: {e}")),
                    }
                }
                Ok(_) => {}
                Err(e) => {
                    let path = e.path().unwrap_or(directory).to_owned();
                    let reason = match e.io_error() {
                        Some(io) => format!("cannot read {}: {io}", path.display()),
                        None => e.to_string(),
                    };
                    self.fail(&path, reason);
                }
            }
        }
        Ok(())
    }

    fn pattern(&mut self, pattern: &Path) -> Result<()> {
        let Some(text) = pattern.to_str() else {
            self.fail(pattern, "a glob pattern must be valid UTF-8");
            return Ok(());
        };
        let matches = match glob::glob(text) {
            Ok(matches) => matches,
            Err(e) => {
                self.fail(pattern, format!("not a glob pattern: {e}"));
                return Ok(());
            }
        };
        // The parts before the first wildcard stay out of the names.
        let root: PathBuf = pattern.components().take_while(|c| !is_pattern(Path::new(c))).collect();
        let mut any = false;
        for found in matches {
            any = true;
            match found {
                Err(e) => self.fail(e.path(), format!("cannot read {}: {}", e.path().display(), e.error())),
                Ok(path) => match fs::metadata(&path) {
                    Ok(m) if m.is_dir() && self.recursive => self.directory(&path, &root)?,
                    // `photos/*` means the pictures, not the notes beside them.
                    Ok(m) if m.is_file() && Format::from_path(&path).is_some() => {
                        let name = relative_name(path.strip_prefix(&root).unwrap_or(&path));
                        self.file(&path, name, &m)?;
                    }
                    Ok(m) if m.is_file() && lower_extension(&path) == "tar" => self.archive(&path, &m)?,
                    Ok(_) => {}
                    Err(e) => self.fail(&path, Error::io("open", &path, e).to_string()),
                },
            }
        }
        if !any {
            self.fail(pattern, "no file matches this pattern");
        }
        Ok(())
    }

    fn list(&mut self, list: &Path) -> Result<()> {
        let bytes = match read_file(list) {
            Ok(bytes) => bytes,
            Err(e) => {
                self.fail(list, e.to_string());
                return Ok(());
            }
        };
        let json_lines = lower_extension(list) == "jsonl";
        let mut paths = Vec::new();
        for (number, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
            let line = line.trim().trim_start_matches('\u{feff}');
            if line.is_empty() {
                continue;
            }
            match if json_lines { json_path(line) } else { Some(line.to_owned()) } {
                Some(path) => paths.push(PathBuf::from(path)),
                None => self.fail(
                    Path::new(&format!("{}:{}", list.display(), number + 1)),
                    "expected a JSON string, or an object with `path`, `image`, `file` or `file_name`",
                ),
            }
        }
        let beside = list.parent().unwrap_or(Path::new(""));
        let root = common_directory(paths.iter().filter(|p| p.is_absolute()));
        for path in paths {
            let name = relative_name(path.strip_prefix(&root).unwrap_or(&path));
            let path = match beside.join(&path) {
                at if at.exists() => at,
                _ => path,
            };
            match fs::metadata(&path) {
                Ok(m) if m.is_file() => self.file(&path, name, &m)?,
                Ok(_) => self.fail(&path, "is not a file; lists name single pictures"),
                Err(e) => self.fail(&path, Error::io("open", &path, e).to_string()),
            }
        }
        Ok(())
    }

    fn archive(&mut self, path: &Path, metadata: &Metadata) -> Result<()> {
        let modified = nanoseconds(metadata);
        let archive: Arc<Path> = path.into();
        let identity: Arc<Path> = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).into();
        let mut members: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let scanned = scan_archive(path, metadata.len(), &mut members);
        for (name, (offset, size)) in members {
            let input =
                Input { name, source: Source::Member { archive: archive.clone(), offset }, size, modified };
            self.add(Source::Member { archive: identity.clone(), offset }, input)?;
        }
        if let Err(reason) = scanned {
            self.fail(path, reason);
        }
        Ok(())
    }
}

/// Notes name, offset and size of the images in a tar archive; of two members with one name the
/// later counts, as when unpacking. What precedes a fault is kept.
fn scan_archive(path: &Path, length: u64, members: &mut BTreeMap<String, (u64, u64)>) -> Result<(), String> {
    let broken = |e: std::io::Error| format!("cannot read the tar archive {}: {e}", path.display());
    let file = File::open(path).map_err(broken)?;
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.into_owned();
        if !entry.header().entry_type().is_file() || Format::from_path(&name).is_none() {
            continue;
        }
        let (offset, size) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(format!(
                "the tar archive {} ends inside its member {}",
                path.display(),
                name.display()
            ));
        }
        members.insert(relative_name(&name), (offset, size));
    }
    Ok(())
}

fn json_path(line: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = match &value {
        serde_json::Value::String(path) => Some(path.as_str()),
        object => ["path", "image", "file", "file_name"].iter().find_map(|key| object.get(key)?.as_str()),
    };
    path.map(str::to_owned)
}

/// The plain parts of a path joined by `/`: no root, no drive, no `.` or `..`, so that an output
/// of this name cannot leave the output directory.
fn relative_name(path: &Path) -> String {
    let parts: Vec<_> = path
        .components()
        .filter_map(|c| match c {
            Component::Normal(part) => Some(part.to_string_lossy()),
            _ => None,
        })
        .collect();
    parts.join("/")
}

fn base_name(path: &Path) -> String {
    path.file_name().map_or_else(|| relative_name(path), |n| n.to_string_lossy().into_owned())
}

fn lower_extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}

fn is_pattern(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|b| b"*?[".contains(b))
}

fn nanoseconds(metadata: &Metadata) -> u64 {
    let since = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// The deepest directory that holds all `paths`; empty for none.
fn common_directory<'a>(mut paths: impl Iterator<Item = &'a PathBuf>) -> PathBuf {
    let Some(mut common) = paths.next().and_then(|p| p.parent()).map(Path::to_owned) else {
        return PathBuf::new();
    };
    for path in paths {
        while !path.starts_with(&common) {
            common.pop();
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_output_directory() {
        assert_eq!(relative_name(Path::new("../../etc/x.png")), "etc/x.png");
        assert_eq!(relative_name(Path::new("/a/./b.png")), "a/b.png");
    }

    #[test]
    fn common_directories() {
        let of =
            |paths: &[&str]| common_directory(paths.iter().map(PathBuf::from).collect::<Vec<_>>().iter());
        assert_eq!(of(&[]), Path::new(""));
        assert_eq!(of(&["/d/a/1.png"]), Path::new("/d/a"));
        assert_eq!(of(&["/d/a/1.png", "/d/ab/1.png"]), Path::new("/d"));
        assert_eq!(of(&["/x/1.png", "/y/1.png"]), Path::new("/"));
    }
}
