//! Checkpoints: everything that a run needs to go on to the bit as if it had never stopped.
//!
//! One safetensors file a checkpoint, `step-00001000.safetensors`, that appears whole or not at all. Its
//! metadata tell the step, the run's settings and the SHA-256 of all tensors.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::tensor::HostTensor;
use crate::weights::{WeightSet, safetensors};
use crate::{Error, Result};

/// Version of the layout; files of another one are refused.
const FORMAT: &str = "dreamclear-checkpoint-1";

/// A checkpoint that was read and found whole.
pub struct Checkpoint {
    /// Updates that had been made.
    pub step: u64,
    /// What else was noted, by name.
    pub notes: BTreeMap<String, String>,
    /// Tensors by the names under which they were saved.
    pub tensors: WeightSet,
    /// Where it was found.
    pub path: PathBuf,
}

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// How many of the newest stay; 0: all.
    keep: usize,
}

impl Folder {
    /// The folder at `path`, which need not exist yet; `keep` of the newest stay in it (0: all).
    pub fn new(path: impl Into<PathBuf>, keep: usize) -> Self {
        Folder { path: path.into(), keep }
    }

    /// The file of the checkpoint after `step` updates.
    pub fn file(&self, step: u64) -> PathBuf {
        self.path.join(format!("step-{step:08}.safetensors"))
    }

    /// Writes a checkpoint, then removes those that need not stay any more.
    ///
    /// # Errors
    /// If it cannot be written (a full disk …): no file has changed then.
    pub fn save(
        &self,
        step: u64,
        notes: &BTreeMap<String, String>,
        tensors: &[(String, HostTensor)],
    ) -> Result<PathBuf> {
        fs::create_dir_all(&self.path).map_err(|e| Error::io("create directory", &self.path, e))?;
        let path = self.file(step);
        let mut metadata = notes.clone();
        metadata.insert("format".into(), FORMAT.into());
        metadata.insert("step".into(), step.to_string());
        metadata.insert("sha256".into(), digest(tensors.iter().map(|(n, t)| (n.as_str(), t))));
        let named = tensors.iter().map(|(n, t)| (n.as_str(), t));
        safetensors::write(&path, named, &metadata, None).map_err(|e| {
            let bytes: usize = tensors.iter().map(|(_, t)| t.bytes().len()).sum();
            let mib = bytes.div_ceil(1 << 20);
            match e {
                Error::Io { source, .. } => Error::file(
                    &path,
                    format!(
                        "cannot write this checkpoint of {mib} MiB ({source}); earlier ones are as they were: \
                         make room, then go on with --resume auto"
                    ),
                ),
                other => other,
            }
        })?;
        self.prune(step)?;
        Ok(path)
    }

    /// Removes all but the newest checkpoints up to `step`. Later ones can be there only if the run went back to
    /// an earlier one by `--resume PATH`: they belong to a history that is given up, and go as well.
    fn prune(&self, step: u64) -> Result<()> {
        let mut steps = self.steps()?;
        let later = steps.split_off(&(step + 1));
        let surplus = if self.keep == 0 { 0 } else { steps.len().saturating_sub(self.keep) };
        for path in steps.into_values().take(surplus).chain(later.into_values()) {
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        Ok(())
    }

    /// The checkpoints that are there, by step.
    fn steps(&self) -> Result<BTreeMap<u64, PathBuf>> {
        let fail = |e| Error::io("read folder", &self.path, e);
        let entries = match fs::read_dir(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            other => other.map_err(fail)?,
        };
        let mut steps = BTreeMap::new();
        for entry in entries {
            let path = entry.map_err(fail)?.path();
            if let Some(step) = step_of(&path) {
                steps.insert(step, path);
            }
        }
        Ok(steps)
    }

    /// The step of the newest checkpoint, whole or not.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn last_step(&self) -> Result<Option<u64>> {
        Ok(self.steps()?.into_keys().next_back())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The newest whole checkpoint, if there is any; and one sentence for each newer one that is damaged.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn newest(&self) -> Result<(Option<Checkpoint>, Vec<String>)> {
        let mut damaged = Vec::new();
        for path in self.steps()?.into_values().rev() {
            match Checkpoint::open(&path) {
                Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
                Err(e) => damaged.push(e.to_string()),
            }
        }
        Ok((None, damaged))
    }
}

fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()
}

impl Checkpoint {
    /// Reads a checkpoint and compares its checksum.
    ///
    /// # Errors
    /// `Error::File` if it is damaged or no checkpoint.
    pub fn open(path: &Path) -> Result<Self> {
        let tensors = WeightSet::open(path)?;
        let mut notes = tensors.metadata().clone();
        let mut take = |name: &str| notes.remove(name).unwrap_or_default();
        let (format, step, sha256) = (take("format"), take("step"), take("sha256"));
        if format != FORMAT {
            return Err(Error::file(
                path,
                format!(
                    "expected a checkpoint of `train` ({FORMAT}), found {}",
                    if format.is_empty() { "other tensors; give weights as model.weights" } else { &format }
                ),
            ));
        }
        let step = step
            .parse()
            .map_err(|_| Error::file(path, format!("the checkpoint's step is no number: `{step}`")))?;
        if digest(tensors.iter()) != sha256 {
            return Err(Error::file(
                path,
                "the checkpoint is damaged: its checksum differs; use an earlier one",
            ));
        }
        Ok(Checkpoint { step, notes, tensors, path: path.to_owned() })
    }

    /// The tensors whose names begin with `prefix`, without it.
    pub fn section(&self, prefix: &str) -> Vec<(String, HostTensor)> {
        let stripped = |(n, t): (&str, &HostTensor)| Some((n.strip_prefix(prefix)?.to_owned(), t.clone()));
        self.tensors.iter().filter_map(stripped).collect()
    }
}

/// SHA-256 of names, types, shapes and bytes, in the order of names.
fn digest<'a>(tensors: impl Iterator<Item = (&'a str, &'a HostTensor)>) -> String {
    let mut sorted: Vec<_> = tensors.collect();
    sorted.sort_by_key(|(name, _)| *name);
    let mut hash = Sha256::new();
    for (name, tensor) in sorted {
        hash.update(format!("{name}\0{}\0{:?}\0", tensor.dtype(), tensor.shape()));
        hash.update(tensor.bytes());
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(value: f32) -> Vec<(String, HostTensor)> {
        vec![
            ("param.b".into(), HostTensor::from_f32([2], vec![value, 2.0])),
            ("param.a".into(), HostTensor::from_f32([1], vec![-value])),
            ("state.t".into(), HostTensor::from_i64([1], vec![7])),
        ]
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn checkpoints_come_back_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().join("checkpoints"), 2);
        assert!(folder.newest().unwrap().0.is_none());
        let notes = BTreeMap::from([("settings".to_owned(), "steps = 5\n".to_owned())]);
        for step in [10, 20, 30] {
            folder.save(step, &notes, &tensors(step as f32)).unwrap();
        }
        assert_eq!(names(&folder.path), ["step-00000020.safetensors", "step-00000030.safetensors"]);
        let (newest, damaged) = folder.newest().unwrap();
        let newest = newest.unwrap();
        assert_eq!((newest.step, &newest.notes, damaged.len()), (30, &notes, 0));
        let params = newest.section("param.");
        assert_eq!(params.len(), 2);
        let a = params.iter().find(|(n, _)| n == "a").unwrap();
        assert_eq!(a.1.to_f32().as_ref(), [-30.0]);
        // Back to step 20 and on from there: step 30 was of another history.
        folder.save(21, &notes, &tensors(0.5)).unwrap();
        assert_eq!(names(&folder.path), ["step-00000020.safetensors", "step-00000021.safetensors"]);
    }

    #[test]
    fn a_damaged_one_is_passed_over_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path(), 0);
        for step in [1, 2, 3] {
            folder.save(step, &BTreeMap::new(), &tensors(step as f32)).unwrap();
        }
        // One flipped bit in a tensor's bytes; and one file cut short.
        let mut bytes = fs::read(folder.file(3)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(folder.file(3), bytes).unwrap();
        let bytes = fs::read(folder.file(2)).unwrap();
        fs::write(folder.file(2), &bytes[..bytes.len() - 4]).unwrap();
        let (newest, damaged) = folder.newest().unwrap();
        assert_eq!(newest.unwrap().step, 1);
        assert!(damaged[0].contains("00003") && damaged[0].contains("checksum"), "{damaged:?}");
        assert!(damaged[1].contains("00002"), "{damaged:?}");
        assert_eq!(damaged.len(), 2);
    }

    #[test]
    fn other_files_are_not_taken_for_checkpoints() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        let t = tensors(1.0);
        safetensors::write(&path, t.iter().map(|(n, t)| (n.as_str(), t)), &Default::default(), None).unwrap();
        let e = Checkpoint::open(&path).err().unwrap().to_string();
        assert!(e.contains("model.weights"), "{e}");
        assert_eq!(step_of(Path::new("a/step-00000012.safetensors")), Some(12));
        assert_eq!(step_of(Path::new("a/.step-00000012.safetensors.part")), None);
    }
}
