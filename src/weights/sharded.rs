//! Weights in several files under one `*.index.json`, and directories that hold weights.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::set::{Container, WeightSet};
use super::strict::list;
use crate::{Error, Result};

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    metadata: serde_json::Map<String, serde_json::Value>,
    weight_map: serde_json::Map<String, serde_json::Value>,
}

/// Tensor name and shard, in the index's order, and the index's metadata.
pub type WeightMap = (Vec<(String, PathBuf)>, BTreeMap<String, String>);

/// Reads an index; shard names must stay within the index's folder.
///
/// # Errors
/// One sentence on what is wrong with it.
pub fn parse_index(bytes: &[u8]) -> Result<WeightMap, String> {
    let index: Index = serde_json::from_slice(bytes)
        .map_err(|e| format!("expected an index with a `weight_map` of tensor names to files: {e}"))?;
    let mut map = Vec::with_capacity(index.weight_map.len());
    for (name, shard) in index.weight_map {
        let shard = shard
            .as_str()
            .ok_or_else(|| format!("the weight map gives `{name}` {shard}, not a file name"))?;
        let path = PathBuf::from(shard);
        let inside = !shard.contains('\\') && path.components().all(|c| matches!(c, Component::Normal(_)));
        if shard.is_empty() || !inside {
            return Err(format!(
                "the weight map puts `{name}` in `{shard}`, outside the index's own folder: refused"
            ));
        }
        map.push((name, path));
    }
    if map.is_empty() {
        return Err("the weight map is empty".into());
    }
    let text = |v: serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let metadata = index.metadata.into_iter().map(|(k, v)| (k, text(v))).collect();
    Ok((map, metadata))
}

/// Opens every shard that the index at `path` (whose contents are `bytes`) names.
pub fn open_index(path: &Path, bytes: &[u8]) -> Result<WeightSet> {
    let (map, metadata) = parse_index(bytes).map_err(|message| Error::file(path, message))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut shards: HashMap<&Path, WeightSet> = HashMap::new();
    let mut set = WeightSet::empty(Container::Sharded, path);
    let mut absent = Vec::new();
    for (name, shard) in &map {
        if !shards.contains_key(shard.as_path()) {
            shards.insert(shard, WeightSet::open_shard(&folder.join(shard))?);
        }
        let opened = &shards[shard.as_path()];
        // The shard's own names went through the same clean-up as this one.
        let name = name.strip_prefix("module.").unwrap_or(name);
        match opened.get(name) {
            Some(tensor) => set.put(name.to_owned(), tensor.clone(), opened.path().into()),
            None => absent.push(format!("{name} (in {})", shard.display())),
        }
    }
    if !absent.is_empty() {
        return Err(Error::file(
            path,
            format!("{} tensors are not in the shards that the index names: {}", absent.len(), list(&absent)),
        ));
    }
    set.describe(None, metadata);
    Ok(set)
}

/// What a file name promises, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Promise {
    SafetensorsIndex,
    Safetensors,
    TorchIndex,
    Torch,
    Ncnn,
}

fn promise(name: &str) -> Option<Promise> {
    if name.ends_with(".json") && name.contains(".index.") {
        return Some(if name.contains(".safetensors") {
            Promise::SafetensorsIndex
        } else {
            Promise::TorchIndex
        });
    }
    match name.rsplit_once('.')?.1 {
        "safetensors" => Some(Promise::Safetensors),
        "bin" | "pth" | "pt" | "ckpt" => Some(Promise::Torch),
        "param" => Some(Promise::Ncnn),
        _ => None,
    }
}

/// Prefers full precision to `.fp16.`, and both to other variants such as `.non_ema.`.
fn variant(name: &str) -> usize {
    let dots = name.split('.').count() - 1;
    let usual = if name.ends_with(".json") { 3 } else { 1 };
    match dots {
        n if n <= usual => 0,
        _ if name.contains(".fp16.") => 1,
        _ => 2,
    }
}

/// How files that training programs leave beside the weights begin.
const TRAINING_STATE: [&str; 5] = ["optimizer", "scheduler", "training_args", "rng_state", "random_states"];

/// Opens the one set of weights in a directory such as a published model's.
pub fn open_directory(folder: &Path) -> Result<WeightSet> {
    let names = file_names(folder)?;
    let stems: HashSet<&str> = names.iter().filter_map(|n| n.strip_suffix(".param")).collect();
    let mut found: Vec<(usize, Promise, &str)> = names
        .iter()
        // Shards are reached through their index, ncnn's .bin through its .param.
        .filter(|n| !n.contains("-of-0") && !n.strip_suffix(".bin").is_some_and(|s| stems.contains(s)))
        .filter(|n| !TRAINING_STATE.iter().any(|t| n.starts_with(t)))
        .filter_map(|n| Some((variant(n), promise(n)?, n.as_str())))
        .collect();
    found.sort();
    let Some(&(rank, kind, first)) = found.first() else {
        return Err(Error::file(folder, nothing_found(folder, &names)?));
    };
    let equal: Vec<String> =
        found.iter().filter(|(r, k, _)| (*r, *k) == (rank, kind)).map(|(_, _, n)| n.to_string()).collect();
    if equal.len() > 1 {
        return Err(Error::file(
            folder,
            format!("it holds several weight files, name the one you mean: {}", list(&equal)),
        ));
    }
    WeightSet::open(folder.join(first))
}

fn file_names(folder: &Path) -> Result<Vec<String>> {
    let fail = |e| Error::io("list", folder, e);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        // Follows links: caches of model hubs consist of them.
        if entry.path().is_file()
            && let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn nothing_found(folder: &Path, names: &[String]) -> Result<String> {
    if names.iter().any(|n| n.contains("-of-0")) {
        return Ok("it holds shards but not their *.index.json: fetch that file too".to_owned());
    }
    let mut below = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?.flatten() {
        let path = entry.path();
        if path.is_dir() && file_names(&path).is_ok_and(|names| names.iter().any(|n| promise(n).is_some())) {
            below.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    below.sort();
    Ok(if below.is_empty() {
        "expected a safetensors, torch or ncnn weight file in this folder, found none".to_owned()
    } else {
        format!("it holds no weights itself, but these folders within it do, name one: {}", list(&below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_precision_is_preferred() {
        assert_eq!(variant("model.safetensors"), 0);
        assert_eq!(variant("model.fp16.safetensors"), 1);
        assert_eq!(variant("model.non_ema.safetensors"), 2);
        assert_eq!(variant("model.safetensors.index.json"), 0);
        assert_eq!(variant("model.safetensors.index.fp16.json"), 1);
        assert_eq!(promise("model.safetensors.index.fp16.json"), Some(Promise::SafetensorsIndex));
    }

    #[test]
    fn shard_names_cannot_escape() {
        for bad in ["../x.bin", "/etc/passwd", "a/../../x", "..\\x", "", "./x"] {
            let json = serde_json::json!({"weight_map": {"w": bad}}).to_string();
            let error = parse_index(json.as_bytes()).unwrap_err();
            assert!(error.contains("outside"), "{bad}: {error}");
        }
        let (map, metadata) =
            parse_index(br#"{"metadata": {"total_size": 8}, "weight_map": {"w": "a/b.bin"}}"#).unwrap();
        assert_eq!(map, [("w".to_owned(), PathBuf::from("a/b.bin"))]);
        assert_eq!(metadata["total_size"], "8");
    }
}
