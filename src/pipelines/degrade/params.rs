//! `params.jsonl`: a line for each pair of a job, with all that the pair's bytes depend on.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic_file::AtomicFile;
use crate::data::degrade::{Drawn, Framing};
use crate::data::image::MAX_PIXELS;
use crate::data::shard::Shard;
use crate::{Error, Result};

/// One pair: what it is called, what it was made from, and what was drawn for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The files' name in the three folders.
    pub file: String,
    /// The input's name.
    pub source: String,
    /// The size of the input's file.
    pub source_bytes: u64,
    /// Which part of it the ground truth is.
    pub framing: Framing,
    /// Of a picture that was taken whole: its height and width, to which ground truth and `sr_bicubic` are cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<[usize; 2]>,
    /// What was done to it.
    pub drawn: Drawn,
}

impl Line {
    /// Refuses what only a damaged or hostile file can say.
    fn check(&self) -> Result<()> {
        self.drawn.check()?;
        let mut parts = self.file.split(['/', '\\']);
        if self.file.contains('\\') || parts.any(|part| matches!(part, "" | "." | "..")) {
            return Err(Error::Run(format!("the file {:?} would lie outside its folder", self.file)));
        }
        let Framing { top, left, height, width, .. } = self.framing;
        let pixels = height as u128 * width as u128;
        if pixels == 0 || pixels.max(top as u128).max(left as u128) > u128::from(MAX_PIXELS) {
            return Err(Error::Run(format!(
                "a framing of {width}×{height} pixels from {left}, {top} cannot be"
            )));
        }
        match self.cut {
            Some([h, w]) if h == 0 || w == 0 || h > height || w > width => {
                Err(Error::Run(format!("a picture of {width}×{height} cannot be cut to {w}×{h}")))
            }
            _ => Ok(()),
        }
    }
}

/// Reads the lines that an earlier job wrote.
///
/// # Errors
/// `Error::Io`, or `Error::File` naming the line that is not one, or that nothing could have drawn.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut lines = Vec::new();
    for (number, text) in BufReader::new(file).lines().enumerate() {
        let text = text.map_err(|e| Error::io("read", path, e))?;
        if text.trim().is_empty() {
            continue;
        }
        let wrong = |what: String| Error::file(path, format!("line {}: {what}", number + 1));
        let line: Line = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        line.check().map_err(|e| wrong(e.to_string()))?;
        lines.push(line);
    }
    if lines.is_empty() {
        return Err(Error::file(
            path,
            "expected a line for each pair (params.jsonl of `degrade`), found none",
        ));
    }
    Ok(lines)
}

/// The file while a job runs. It is only ever appended to, a line a write, and put in order at the end; in memory
/// there is only where each pair's line is.
pub(super) struct Params {
    path: PathBuf,
    file: File,
    /// By pair: first byte and length of its line.
    index: HashMap<String, (u64, usize)>,
}

impl Params {
    /// Opens the file of a shard. With `resume` whole lines are kept; else it starts empty.
    pub(super) fn open(output: &Path, shard: Shard, resume: bool) -> Result<Self> {
        fs::create_dir_all(output).map_err(|e| Error::io("create directory", output, e))?;
        let name = match shard.count() {
            1 => "params.jsonl".to_owned(),
            n => format!("params-{}-of-{n}.jsonl", shard.index()),
        };
        let path = output.join(name);
        let fail = |e| Error::io("open", &path, e);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(fail)?;
        let mut index = HashMap::new();
        if resume {
            index_lines(&mut file, &mut index).map_err(fail)?;
        } else {
            file.set_len(0).map_err(fail)?;
        }
        Ok(Params { path, file, index })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The line of a pair, if there is one.
    pub(super) fn line(&self, file: &str) -> Option<Line> {
        let (start, length) = *self.index.get(file)?;
        serde_json::from_slice(&self.bytes(start, length).ok()?).ok()
    }

    fn bytes(&self, start: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Appends a pair's line, in place of one that it has already.
    pub(super) fn add(&mut self, line: &Line) -> Result<()> {
        let mut bytes = serde_json::to_vec(line).map_err(|e| Error::Run(format!("drawn parameters: {e}")))?;
        bytes.push(b'\n');
        let mut write = || {
            let start = self.file.seek(SeekFrom::End(0))?;
            self.file.write_all(&bytes).map(|()| start)
        };
        let start = write().map_err(|e| Error::io("write", &self.path, e))?;
        self.index.insert(line.file.clone(), (start, bytes.len()));
        Ok(())
    }

    /// Sorts the lines by pair, whatever order they came in, and leaves out what was replaced.
    pub(super) fn put_in_order(&self) -> Result<()> {
        let fail = |e| Error::io("write", &self.path, e);
        let mut pairs: Vec<_> = self.index.iter().collect();
        pairs.sort();
        let mut ordered = AtomicFile::create(&self.path)?;
        for (_, (start, length)) in pairs {
            ordered.write_all(&self.bytes(*start, *length).map_err(fail)?).map_err(fail)?;
        }
        ordered.commit()
    }
}

/// Finds the whole lines of a file; a torn last one is ended, so that the next starts afresh.
fn index_lines(file: &mut File, index: &mut HashMap<String, (u64, usize)>) -> io::Result<()> {
    let mut reader = BufReader::new(&*file);
    let (mut start, mut text) = (0, Vec::new());
    let torn = loop {
        text.clear();
        let length = reader.read_until(b'\n', &mut text)?;
        if length == 0 || !text.ends_with(b"\n") {
            break length > 0;
        }
        if let Ok(line) = serde_json::from_slice::<Line>(&text) {
            index.insert(line.file, (start, length));
        }
        start += length as u64;
    };
    if torn { file.write_all(b"\n") } else { Ok(()) }
}
