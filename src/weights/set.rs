//! `WeightSet`: the tensors of a checkpoint by name, whatever container they came from.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::tensor::{DType, HostTensor};
use crate::{Error, Result};

/// Tensors in file order, names as stored.
pub type NamedTensors = Vec<(String, HostTensor)>;

/// How a weight file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Container {
    Safetensors,
    /// `torch.save` since 1.6.
    TorchZip,
    /// `torch.save` before 1.6.
    TorchLegacy,
    /// ncnn `.param` and `.bin`.
    Ncnn,
    /// NumPy's zip of arrays.
    Npz,
    /// Several files under one `*.index.json`.
    Sharded,
    /// Not from a file.
    Memory,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Container::Safetensors => "safetensors",
            Container::TorchZip => "torch zip",
            Container::TorchLegacy => "torch legacy",
            Container::Ncnn => "ncnn",
            Container::Npz => "npz",
            Container::Sharded => "sharded",
            Container::Memory => "memory",
        })
    }
}

/// Named tensors in order, where each came from, and what the file says about itself.
///
/// Tensors point into mapped files and keep their stored dtype; nothing is converted or copied
/// before someone asks for it.
#[derive(Clone)]
pub struct WeightSet {
    tensors: Vec<Entry>,
    index: HashMap<String, usize>,
    container: Container,
    path: PathBuf,
    section: Option<String>,
    metadata: BTreeMap<String, String>,
}

#[derive(Clone)]
struct Entry {
    name: String,
    tensor: HostTensor,
    file: Arc<Path>,
}

impl WeightSet {
    /// A set from tensors in memory; of equal names the last wins.
    pub fn from_tensors(tensors: impl IntoIterator<Item = (String, HostTensor)>) -> Self {
        let mut set = WeightSet::empty(Container::Memory, Path::new("memory"));
        let file: Arc<Path> = Path::new("memory").into();
        for (name, tensor) in tensors {
            set.put(name, tensor, file.clone());
        }
        set
    }

    /// A set without tensors, to be filled by [`WeightSet::put`].
    pub(super) fn empty(container: Container, path: &Path) -> Self {
        WeightSet {
            tensors: Vec::new(),
            index: HashMap::new(),
            container,
            path: path.to_owned(),
            section: None,
            metadata: BTreeMap::new(),
        }
    }

    /// This set with the tensors of another one; of equal names the other's count.
    pub fn with(mut self, other: WeightSet) -> WeightSet {
        for Entry { name, tensor, file } in other.tensors {
            self.put(name, tensor, file);
        }
        self
    }

    /// Adds a tensor, or replaces the one of the same name.
    pub(super) fn put(&mut self, name: String, tensor: HostTensor, file: Arc<Path>) {
        match self.index.get(&name) {
            Some(&i) => self.tensors[i] = Entry { name, tensor, file },
            None => {
                self.index.insert(name.clone(), self.tensors.len());
                self.tensors.push(Entry { name, tensor, file });
            }
        }
    }

    pub(super) fn describe(&mut self, section: Option<String>, metadata: BTreeMap<String, String>) {
        self.section = section;
        self.metadata = metadata;
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&HostTensor> {
        self.index.get(name).map(|&i| &self.tensors[i].tensor)
    }

    /// The shape of the tensor of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.get(name).map(HostTensor::shape)
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Names and tensors in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &HostTensor)> {
        self.tensors.iter().map(|e| (e.name.as_str(), &e.tensor))
    }

    /// Names in file order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.iter().map(|e| e.name.as_str())
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Elements of all tensors.
    pub fn parameters(&self) -> usize {
        self.iter().map(|(_, t)| t.len()).sum()
    }

    /// Bytes of all tensors as stored.
    pub fn bytes(&self) -> usize {
        self.iter().map(|(_, t)| t.bytes().len()).sum()
    }

    /// Tensors and elements of each dtype that occurs.
    pub fn dtypes(&self) -> BTreeMap<DType, (usize, usize)> {
        let mut counts = BTreeMap::new();
        for (_, t) in self.iter() {
            let (tensors, elements) = counts.entry(t.dtype()).or_insert((0, 0));
            *tensors += 1;
            *elements += t.len();
        }
        counts
    }

    /// The file that holds the tensor (a shard, where there are several).
    pub fn file_of(&self, name: &str) -> Option<&Path> {
        self.index.get(name).map(|&i| &*self.tensors[i].file)
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it is packed.
    pub fn container(&self) -> Container {
        self.container
    }

    /// Which part of a training checkpoint was used (`params_ema`, `state_dict`, …), if any.
    pub fn section(&self) -> Option<&str> {
        self.section.as_deref()
    }

    /// Strings and numbers that the file carries beside its tensors.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The same tensors under other names; `None` leaves one out.
    ///
    /// # Errors
    /// If two tensors would get one name.
    pub fn renamed(&self, rename: impl Fn(&str) -> Option<String>) -> Result<WeightSet> {
        let mut set = WeightSet::empty(self.container, &self.path);
        set.describe(self.section.clone(), self.metadata.clone());
        for entry in &self.tensors {
            let Some(name) = rename(&entry.name) else { continue };
            if set.contains(&name) {
                return Err(Error::file(
                    &self.path,
                    format!("two tensors would be named `{name}`; one of them is `{}`", entry.name),
                ));
            }
            set.put(name, entry.tensor.clone(), entry.file.clone());
        }
        Ok(set)
    }

    /// The same names with other tensors.
    pub fn mapped(mut self, tensor: impl Fn(&str, &HostTensor) -> HostTensor) -> WeightSet {
        for entry in &mut self.tensors {
            entry.tensor = tensor(&entry.name, &entry.tensor);
        }
        self
    }

    /// The same set with some tensors replaced by others of the same names.
    pub(super) fn replaced(mut self, tensors: impl IntoIterator<Item = (String, HostTensor)>) -> WeightSet {
        for (name, tensor) in tensors {
            let file = self.file_of(&name).unwrap_or(&self.path).into();
            self.put(name, tensor, file);
        }
        self
    }

    /// Removes `module.` in front of names, which data-parallel training leaves there.
    pub(super) fn without_module_prefix(self) -> Result<WeightSet> {
        if !self.names().any(|n| n.starts_with("module.")) {
            return Ok(self);
        }
        self.renamed(|n| Some(n.strip_prefix("module.").unwrap_or(n).to_owned()))
    }
}

impl fmt::Debug for WeightSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WeightSet({} tensors, {}, {})", self.len(), self.container, self.path.display())
    }
}
