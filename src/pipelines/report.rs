//! What a job did: per image for machines (`--report`), in total for people.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::Result;
use crate::atomic_file;
use crate::cancel::EXIT_INTERRUPTED;
use crate::data::inputs::Failure;

/// How one input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Restored and written.
    Done,
    /// Already there, from an earlier run that this one resumes.
    Skipped,
    /// Not restored; `error` says why.
    Failed,
}

/// Seconds spent on one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Reading and decoding.
    pub load: f64,
    /// Restoring.
    pub restore: f64,
    /// Encoding and writing.
    pub write: f64,
}

/// One input's line in the report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageReport {
    /// The input's name.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// The output, relative to the output directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Width and height read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_size: Option<[usize; 2]>,
    /// Width and height written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_size: Option<[usize; 2]>,
    /// Time spent; the phases of neighbouring images overlap.
    pub seconds: Seconds,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was lost on the way (alpha in a JPEG …).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What the model has to say of this image (seed, caption, stages …).
    #[serde(flatten)]
    pub details: Map<String, Value>,
}

impl ImageReport {
    /// A line without sizes and times yet.
    pub(super) fn new(name: &str, status: Status) -> Self {
        ImageReport {
            name: name.into(),
            status,
            output: None,
            input_size: None,
            output_size: None,
            seconds: Seconds::default(),
            error: None,
            notes: Vec::new(),
            details: Map::new(),
        }
    }
}

/// What a job did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Images restored and written.
    pub done: usize,
    /// Images an earlier run had finished.
    pub skipped: usize,
    /// Images not reached because the job was stopped.
    pub left: usize,
    /// What failed, and why.
    pub failed: Vec<Failure>,
    /// Whether Ctrl-C or SIGTERM ended the job.
    pub interrupted: bool,
    /// Why the job gave up before its end (full disk …).
    pub stopped: Option<String>,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Things worth saying once.
    pub notes: Vec<String>,
    /// The shard, as `I/N`.
    pub shard: String,
    /// All settings, as one line.
    pub settings: String,
    /// Every image, by name.
    pub images: Vec<ImageReport>,
}

impl Summary {
    /// The process's exit code: 0 all done, 1 the job gave up, 3 some inputs failed, 130
    /// interrupted.
    pub fn exit_code(&self) -> i32 {
        if self.interrupted {
            EXIT_INTERRUPTED
        } else if self.stopped.is_some() {
            1
        } else if !self.failed.is_empty() {
            3
        } else {
            0
        }
    }

    /// The closing words: totals, each failure on its own line, and how to go on.
    pub fn message(&self) -> String {
        let mut text = format!("{} restored", self.done);
        if self.skipped > 0 {
            text += &format!(", {} already done", self.skipped);
        }
        if !self.failed.is_empty() {
            text += &format!(", {} failed", self.failed.len());
        }
        text += &format!(" in {:.1} s", self.seconds);
        for failure in &self.failed {
            text += &format!("\n  failed: {}: {}", failure.name, failure.reason);
        }
        if let Some(reason) = &self.stopped {
            text += &format!("\nstopped with {} left: {reason}", self.left);
        } else if self.interrupted {
            text += &format!("\ninterrupted with {} left", self.left);
        }
        if self.left > 0 {
            text += "; run the same command with --resume to go on";
        }
        text
    }

    /// Writes the report as one JSON document, whole or not at all.
    ///
    /// # Errors
    /// `Error::Io` naming `path`.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let mut bytes =
            serde_json::to_vec_pretty(self).map_err(|e| crate::Error::Run(format!("report: {e}")))?;
        bytes.push(b'\n');
        atomic_file::write(path, &bytes)
    }
}
