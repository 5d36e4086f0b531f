//! The crate's one error type.
//!
//! Every message is a sentence for the person at the keyboard: what was expected, what was
//! found, where, and what to do. Variants exist where a caller acts differently, not to
//! classify for its own sake.

use std::path::{Path, PathBuf};

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the sentences above each variant name its fields
pub enum Error {
    /// A graph was built from shapes or dtypes that do not fit. `path` is the node's place in
    /// the model (`layers.0.residual_group.blocks.1.attn`), `op` the operation's name.
    #[error("{}{op}: {message}", at(path))]
    Graph { path: String, op: String, message: String },

    /// A file could not be read or written by the operating system.
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    /// A file was read, but its contents are not what they should be.
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String },

    /// The weights do not fit the model: missing, unexpected or mis-shaped keys, all listed.
    #[error("{0}")]
    Weights(String),

    /// The command or call itself is wrong (exit code 2).
    #[error("{0}")]
    Usage(String),

    /// A computation produced NaN or infinity, or a limit was exceeded while running.
    #[error("{0}")]
    Run(String),

    /// A device has less memory than was asked for: a smaller plan may fit.
    #[error("{0}")]
    OutOfMemory(String),

    /// A device does nothing more in this process: all further work would fail too.
    #[error("{0}")]
    Device(String),

    /// Ctrl-C or SIGTERM: work stopped at a safe place.
    #[error("interrupted")]
    Interrupted,
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

impl Error {
    /// An operating-system error about `path`; `action` is a verb phrase as in "cannot {action} X".
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { action, path: path.as_ref().to_owned(), source }
    }

    /// The same error for another picture that it happened to as well.
    pub fn shared(&self) -> Self {
        match self {
            Error::Interrupted => Error::Interrupted,
            Error::Usage(m) => Error::Usage(m.clone()),
            Error::OutOfMemory(m) => Error::OutOfMemory(m.clone()),
            Error::Device(m) => Error::Device(m.clone()),
            other => Error::Run(other.to_string()),
        }
    }

    /// The contents of `path` are wrong in the way `message` says.
    pub fn file(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().to_owned(), message: message.into() }
    }
}
