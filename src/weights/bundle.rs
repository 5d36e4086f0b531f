//! A bundle: the networks of a whole pipeline in one safetensors file that opens by mapping.
//!
//! Keys carry the component's name in front (`dreamclear.base_model.…`); the metadata entry
//! `dreamclear_bundle` holds each component's configuration as JSON, and small files that belong
//! to a component (the tokenizer) are byte tensors `COMPONENT.file:NAME`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::safetensors;
use super::set::WeightSet;
use crate::tensor::{DType, HostTensor};
use crate::{Error, Result};

const KEY: &str = "dreamclear_bundle";
const FILE: &str = "file:";

/// An opened bundle.
pub struct Bundle {
    set: WeightSet,
    configs: Map<String, Value>,
}

/// What goes into a bundle for one component.
pub struct Part {
    /// `swinir`, `vae`, `dreamclear` or `t5`.
    pub name: String,
    /// Its tensors.
    pub weights: WeightSet,
    /// Element type of its matrices; vectors stay as they are.
    pub matrices: Option<DType>,
    /// Its configuration.
    pub config: Option<Value>,
    /// Small files that belong to it, by name.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Bundle {
    /// Opens `path` if it is a bundle; `None` if it is some other weight file.
    ///
    /// # Errors
    /// If it cannot be read, or its description is damaged.
    pub fn open(path: &Path) -> Result<Option<Bundle>> {
        Self::of(WeightSet::open(path)?)
    }

    /// A bundle that is part of this program; `path` is its name in messages.
    ///
    /// # Errors
    /// If it is damaged, or no bundle.
    pub fn from_static(path: &Path, bytes: &'static [u8]) -> Result<Bundle> {
        let bundle = Self::of(WeightSet::from_static(path, bytes)?)?;
        bundle.ok_or_else(|| Error::file(path, format!("expected a bundle, whose metadata has {KEY}")))
    }

    fn of(set: WeightSet) -> Result<Option<Bundle>> {
        let path = set.path();
        let Some(text) = set.metadata().get(KEY) else { return Ok(None) };
        let configs = serde_json::from_str(text)
            .map_err(|e| Error::file(path, format!("its metadata entry {KEY} is not a JSON object: {e}")))?;
        Ok(Some(Bundle { set, configs }))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.set.path()
    }

    /// Whether a component is in it.
    pub fn holds(&self, component: &str) -> bool {
        self.configs.contains_key(component)
    }

    /// A component's tensors under their own keys, and its configuration.
    pub fn component(&self, component: &str) -> Option<(WeightSet, Option<Value>)> {
        let config = self.configs.get(component)?;
        let own = |key: &str| {
            let key = key.strip_prefix(component)?.strip_prefix('.')?;
            (!key.starts_with(FILE)).then(|| key.to_owned())
        };
        let set = self.set.renamed(own).expect("a prefix less keeps names apart");
        Some((set, (!config.is_null()).then(|| config.clone())))
    }

    /// The small files of a component.
    pub fn files(&self, component: &str) -> Vec<(String, Vec<u8>)> {
        let prefix = format!("{component}.{FILE}");
        let file =
            |(key, t): (&str, &HostTensor)| Some((key.strip_prefix(&prefix)?.to_owned(), t.bytes().to_vec()));
        self.set.iter().filter_map(file).collect()
    }
}

/// Writes a bundle, one tensor at a time.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, parts: &[Part]) -> Result<()> {
    let mut tensors: Vec<(String, HostTensor)> = Vec::new();
    let mut configs = Map::new();
    for part in parts {
        configs.insert(part.name.clone(), part.config.clone().unwrap_or(Value::Null));
        tensors.extend(part.weights.iter().map(|(key, t)| (format!("{}.{key}", part.name), t.clone())));
        tensors.extend(part.files.iter().map(|(name, bytes)| {
            let tensor = HostTensor::copy_of(DType::U8, &[bytes.len()], bytes);
            (format!("{}.{FILE}{name}", part.name), tensor)
        }));
    }
    let metadata = BTreeMap::from([(KEY.to_owned(), Value::Object(configs).to_string())]);
    let dtype = |key: &str, tensor: &HostTensor| {
        let part = parts.iter().find(|p| key.strip_prefix(&p.name).is_some_and(|k| k.starts_with('.')));
        let matrix = tensor.shape().len() > 1 && tensor.dtype().is_float();
        part.and_then(|p| p.matrices).filter(|_| matrix).unwrap_or(tensor.dtype())
    };
    safetensors::write_as(path, tensors.iter().map(|(n, t)| (n.as_str(), t)), &metadata, dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_come_back_under_their_own_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.safetensors");
        let weights = |scale: f32| {
            WeightSet::from_tensors([
                ("a.weight".to_owned(), HostTensor::from_f32([2, 2], vec![1.0 * scale, 2.0, 3.0, 4.0])),
                ("a.bias".to_owned(), HostTensor::from_f32([1], vec![0.1])),
            ])
        };
        let part = |name: &str, scale, matrices, files| Part {
            name: name.to_owned(),
            weights: weights(scale),
            matrices,
            config: Some(serde_json::json!({ "hidden_size": 2 })),
            files,
        };
        let tokenizer = vec![("spiece.model".to_owned(), vec![1, 2, 3])];
        write(&path, &[part("vae", 1.0, None, vec![]), part("t5", 5.0, Some(DType::BF16), tokenizer)])
            .unwrap();

        let bundle = Bundle::open(&path).unwrap().unwrap();
        assert!(bundle.holds("t5") && !bundle.holds("swinir"));
        let (t5, config) = bundle.component("t5").unwrap();
        assert_eq!(t5.names().collect::<Vec<_>>().len(), 2, "files are not tensors of the network");
        assert_eq!(t5.get("a.weight").unwrap().dtype(), DType::BF16);
        assert_eq!(t5.get("a.weight").unwrap().to_f32()[0], 5.0);
        assert_eq!(t5.get("a.bias").unwrap().dtype(), DType::F32, "vectors keep their precision");
        assert_eq!(config.unwrap()["hidden_size"], 2);
        assert_eq!(bundle.component("vae").unwrap().0.get("a.weight").unwrap().dtype(), DType::F32);
        assert_eq!(bundle.files("t5"), [("spiece.model".to_owned(), vec![1, 2, 3])]);

        let plain = dir.path().join("plain.safetensors");
        safetensors::write(&plain, weights(1.0).iter(), &BTreeMap::new(), None).unwrap();
        assert!(Bundle::open(&plain).unwrap().is_none());
    }
}
