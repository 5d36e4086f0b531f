//! Opening weights: what is it, judged by its first bytes rather than its name.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use super::blob::Blob;
use super::set::{Container, NamedTensors, WeightSet};
use super::{ncnn, npz, safetensors, sharded, torch};
use crate::{Error, Result};

/// What the first bytes of a file say it is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Safetensors,
    TorchZip,
    Npz,
    TorchLegacy,
    IndexJson,
    NcnnParam,
    NcnnBin,
}

fn sniff(path: &Path, bytes: &[u8]) -> Result<Kind, String> {
    let text = bytes.trim_ascii_start();
    let starts = |prefix: &[u8]| text.get(..prefix.len()).is_some_and(|t| t.eq_ignore_ascii_case(prefix));
    let named = |extension: &str| path.extension() == Some(OsStr::new(extension));
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        return Ok(if npz::is_npz(bytes) { Kind::Npz } else { Kind::TorchZip });
    }
    if torch::is_legacy(bytes) {
        return Ok(Kind::TorchLegacy);
    }
    // A header length in front of a JSON header. The length may itself begin with the byte `{`,
    // and JSON may have a second brace just there: then the length tells which it is.
    let claimed = bytes.first_chunk::<8>().map_or(u64::MAX, |b| u64::from_le_bytes(*b));
    if bytes.get(8) == Some(&b'{') && (!starts(b"{") || claimed < bytes.len() as u64) {
        return Ok(Kind::Safetensors);
    }
    if ncnn::is_param(bytes) {
        return Ok(Kind::NcnnParam);
    }
    if starts(b"{") {
        return Ok(Kind::IndexJson);
    }
    if starts(b"<!doctype") || starts(b"<html") || starts(b"<?xml") {
        return Err("this is a web page, not weights: the download went wrong, fetch it again".into());
    }
    if starts(b"version https://git-lfs") {
        return Err("this is a Git LFS pointer, not the weights themselves: run `git lfs pull`".into());
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Err(
            "this is a tar file (PyTorch before 0.2 wrote such): load and save it again with PyTorch".into(),
        );
    }
    if ncnn::is_tagged_bin(bytes) || (named("bin") && path.with_extension("param").is_file()) {
        return Ok(Kind::NcnnBin);
    }
    if named("safetensors") {
        // So that a damaged header is reported as such.
        return Ok(Kind::Safetensors);
    }
    if bytes.first() == Some(&0x80) {
        return Err(
            "this is a bare pickle, not a file written by torch.save: save the state_dict() with torch.save"
                .into(),
        );
    }
    let head: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
    Err(format!(
        "expected safetensors, a torch.save file, an *.index.json, ncnn weights or npz, found something that begins with {}",
        head.join(" ")
    ))
}

impl WeightSet {
    /// Opens weights: a file of any supported container, or a directory that holds one.
    ///
    /// Training checkpoints are unwrapped to their state dict (`params_ema`, `params`,
    /// `state_dict`, `state_dict_ema` or `model`, in this order of preference; see
    /// [`WeightSet::section`]) and `module.` in front of names is removed.
    /// Nothing in the file is executed.
    ///
    /// # Errors
    /// One sentence naming the file and what is wrong with it.
    pub fn open(path: impl AsRef<Path>) -> Result<WeightSet> {
        let path = path.as_ref();
        if path.is_dir() {
            return sharded::open_directory(path);
        }
        let blob = Blob::map(path)?;
        let kind = sniff(path, blob.bytes()).map_err(|message| Error::file(path, message))?;
        match kind {
            Kind::IndexJson => sharded::open_index(path, blob.bytes()),
            Kind::NcnnParam => ncnn::open(path, &path.with_extension("bin")),
            Kind::NcnnBin => ncnn::open(&path.with_extension("param"), path),
            _ => open_single(path, blob, kind),
        }
    }

    /// Opens a file that is part of this program; `path` is its name in messages.
    ///
    /// # Errors
    /// As [`WeightSet::open`].
    pub(super) fn from_static(path: &Path, bytes: &'static [u8]) -> Result<WeightSet> {
        open_single(path, bytes.into(), Kind::Safetensors)
    }

    /// Opens one file that is complete in itself: what shards are made of.
    pub(super) fn open_shard(path: &Path) -> Result<WeightSet> {
        let blob = Blob::map(path)?;
        match sniff(path, blob.bytes()).map_err(|message| Error::file(path, message))? {
            kind @ (Kind::Safetensors | Kind::TorchZip | Kind::TorchLegacy) => open_single(path, blob, kind),
            _ => Err(Error::file(path, "expected a safetensors or torch shard, found another kind of file")),
        }
    }
}

fn open_single(path: &Path, blob: Blob, kind: Kind) -> Result<WeightSet> {
    let fail = |message| Error::file(path, message);
    let set = match kind {
        Kind::Safetensors => {
            let (tensors, metadata) = safetensors::parse(&blob).map_err(fail)?;
            build(path, Container::Safetensors, tensors, None, metadata)
        }
        Kind::Npz => {
            let tensors = npz::parse(&blob, usize::MAX).map_err(fail)?;
            build(path, Container::Npz, tensors, None, BTreeMap::new())
        }
        kind => {
            let (container, checkpoint) = match kind {
                Kind::TorchLegacy => (Container::TorchLegacy, torch::parse_legacy(&blob)),
                _ => (Container::TorchZip, torch::parse_zip(&blob)),
            };
            let checkpoint = checkpoint.map_err(fail)?;
            if checkpoint.tensors.is_empty() {
                return Err(fail("it holds no tensors".to_owned()));
            }
            build(path, container, checkpoint.tensors, checkpoint.section, checkpoint.metadata)
        }
    };
    set.without_module_prefix()
}

pub(super) fn build(
    path: &Path,
    container: Container,
    tensors: NamedTensors,
    section: Option<String>,
    metadata: BTreeMap<String, String>,
) -> WeightSet {
    let mut set = WeightSet::empty(container, path);
    let file: Arc<Path> = path.into();
    for (name, tensor) in tensors {
        set.put(name, tensor, file.clone());
    }
    set.describe(section, metadata);
    set
}
