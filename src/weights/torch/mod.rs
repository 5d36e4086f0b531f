//! Files written by `torch.save`: `.pth`, `.ckpt`, `.bin`, `.pt`, zip or older.
//!
//! The object in the file is a pickle, which is a program. It is read by a machine that can
//! only build plain data; whatever else it asks for is refused by name.

mod globals;
mod legacy;
mod pickle;
mod state;
mod tensor;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::blob::Blob;
use super::set::NamedTensors;

/// What a checkpoint holds.
pub struct Checkpoint {
    /// The chosen state dict, names as in the file.
    pub tensors: NamedTensors,
    /// The section of the checkpoint that was used, such as `params_ema`.
    pub section: Option<String>,
    /// Numbers and strings beside the tensors.
    pub metadata: BTreeMap<String, String>,
}

/// Whether `bytes` begin like a checkpoint of PyTorch before 1.6.
pub fn is_legacy(bytes: &[u8]) -> bool {
    bytes.starts_with(&legacy::HEAD)
}

/// Reads the zip container (PyTorch 1.6 and later).
///
/// # Errors
/// One sentence on what is wrong; a refused import is named.
pub fn parse_zip(blob: &Blob) -> Result<Checkpoint, String> {
    let bytes = blob.bytes();
    let archive = super::zip::Archive::parse(bytes)?;
    // Everything lies under one folder whose name is arbitrary.
    let mut roots: Vec<&str> = archive.names().filter_map(|n| n.strip_suffix("data.pkl")).collect();
    roots.retain(|root| root.is_empty() || root.ends_with('/'));
    roots.sort_by_key(|root| root.len());
    let Some(&root) = roots.first() else {
        return Err(if archive.names().any(|n| n.ends_with(".npy")) {
            "this is a NumPy .npz file, not a checkpoint".into()
        } else {
            "this zip file holds no data.pkl: it was not written by torch.save".into()
        });
    };
    let script =
        |n: &str| n.strip_prefix(root).is_some_and(|n| n == "constants.pkl" || n.starts_with("code/"));
    if archive.names().any(script) {
        return Err(
            "this is a TorchScript program, not a state dict: load it with torch.jit.load and save its \
                    state_dict() (best as safetensors)"
                .into(),
        );
    }
    if let Ok(order) = archive.range(&format!("{root}byteorder"))
        && &bytes[order.clone()] != b"little"
    {
        return Err("it was written on a big-endian machine: load and save it again on a usual one".into());
    }
    let pickle = pickle::parse(&bytes[archive.range(&format!("{root}data.pkl"))?])?;
    load(blob, &pickle, |key| archive.range(&format!("{root}data/{key}")))
}

/// Reads the stream container (PyTorch before 1.6).
///
/// # Errors
/// As for [`parse_zip`].
pub fn parse_legacy(blob: &Blob) -> Result<Checkpoint, String> {
    let stream = legacy::parse(blob.bytes())?;
    load(blob, &stream.object, |key| {
        stream.storages.get(key).cloned().ok_or_else(|| format!("storage `{key}` is not in the file"))
    })
}

fn load(
    blob: &Blob,
    pickle: &pickle::Pickle,
    locate: impl Fn(&str) -> Result<Range<usize>, String>,
) -> Result<Checkpoint, String> {
    let state = state::find(&pickle.root, &pickle.heap)?;
    // Views may repeat a small storage without end; real files never copy more than they hold.
    let mut budget = blob.bytes().len().saturating_add(256 << 20);
    let mut tensors = NamedTensors::with_capacity(state.tensors.len());
    let mut located: HashMap<String, Range<usize>> = HashMap::new();
    for (name, view) in state.tensors {
        let key = &view.storage().key;
        let range = match located.get(key) {
            Some(range) => range.clone(),
            None => {
                let range = locate(key).map_err(|e| format!("tensor `{name}`: {e}"))?;
                located.insert(key.clone(), range.clone());
                range
            }
        };
        budget = budget
            .checked_sub(view.copied_bytes())
            .ok_or_else(|| format!("tensor `{name}` repeats its storage to more than the file's size"))?;
        tensors.push((name.clone(), view.load(blob, range).map_err(|e| format!("tensor `{name}`: {e}"))?));
    }
    Ok(Checkpoint { tensors, section: state.section, metadata: state.metadata })
}
