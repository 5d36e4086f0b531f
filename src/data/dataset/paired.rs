//! The layout of the official training data: `gt/`, `sr_bicubic/` and, for captions, `npz/`
//! (`paired_npz_dataset.py` of DreamClear; spec train.md, section 1.1).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::cache::{Cache, Rgb8};
use super::crop::{Crop, Place};
use super::order::Draws;
use super::{Sample, Source};
use crate::data::image::Format;
use crate::data::inputs::{Input, Source as Bytes};
use crate::{Error, Result};

/// Files of one folder by their stems.
pub type Stems = BTreeMap<String, PathBuf>;

/// Pairs of pictures of equal size.
pub struct Paired {
    root: PathBuf,
    /// Stem, gt, sr_bicubic.
    pairs: Vec<(String, Input, Input)>,
    crop: Crop,
    cache: Cache,
}

impl Paired {
    /// Pairs `root/gt/NAME` with `root/sr_bicubic/NAME`; samples show the same crop of both. Up to `cache`
    /// bytes of decoded pixels stay in memory.
    ///
    /// # Errors
    /// `Error::File` naming a folder that is missing or empty, a picture without its partner, or folders
    /// with unequal numbers of files; `Error::Usage` for crops of the middle, which would shrink.
    pub fn open(root: &Path, crop: Crop, cache: usize) -> Result<Self> {
        if crop.place == Place::Centre {
            return Err(Error::Usage(
                "pairs are not shrunk to a crop of their middle; use crop.place = \"random\" with the official layout".into(),
            ));
        }
        let gt = stems(&root.join("gt"), |p| Format::from_path(p).is_some())?;
        let lq = stems(&root.join("sr_bicubic"), |p| Format::from_path(p).is_some())?;
        let mut pairs = Vec::new();
        for (stem, gt) in &gt {
            let name = gt.file_name().expect("listed files have names");
            let partner = root.join("sr_bicubic").join(name);
            if lq.get(stem) != Some(&partner) {
                return Err(Error::file(&partner, format!("missing, but there is {}", gt.display())));
            }
            pairs.push((stem.clone(), input(gt), input(&partner)));
        }
        same_number(root, ("gt", gt.len()), ("sr_bicubic", lq.len()))?;
        Ok(Paired { root: root.to_owned(), pairs, crop, cache: Cache::new(cache) })
    }

    /// The stem of pair `index`.
    pub fn stem(&self, index: usize) -> &str {
        &self.pairs[index].0
    }

    /// For each pair the file of the same stem and this extension in `root/folder`, in order.
    ///
    /// # Errors
    /// As for [`Paired::open`].
    pub fn companions(&self, folder: &str, extension: &str) -> Result<Vec<PathBuf>> {
        let directory = self.root.join(folder);
        let mut files = stems(&directory, |p| p.extension().is_some_and(|e| e == extension))?;
        same_number(&self.root, ("gt", self.pairs.len()), (folder, files.len()))?;
        let find = |(stem, gt, _): &(String, Input, Input)| {
            files.remove(stem).ok_or_else(|| {
                let missing = directory.join(format!("{stem}.{extension}"));
                Error::file(missing, format!("missing, but there is {}", gt.location().display()))
            })
        };
        self.pairs.iter().map(find).collect()
    }
}

fn input(path: &Path) -> Input {
    Input { name: path.display().to_string(), source: Bytes::File(path.to_owned()), size: 0, modified: 0 }
}

/// The files of a folder that `wanted` takes, by stem; hidden ones never.
fn stems(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Stems> {
    let fail = |e| Error::io("read folder", folder, e);
    let mut files = Stems::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        if stem.starts_with('.') || !wanted(&path) {
            continue;
        }
        if let Some(other) = files.insert(stem, path.clone()) {
            let message = format!("has the stem of {}; stems must be unique in a folder", other.display());
            return Err(Error::file(path, message));
        }
    }
    if files.is_empty() {
        return Err(Error::file(folder, "expected the files of a training set in this folder, found none"));
    }
    Ok(files)
}

fn same_number(root: &Path, (a, m): (&str, usize), (b, n): (&str, usize)) -> Result<()> {
    if m == n {
        return Ok(());
    }
    let message = format!("expected as many files in {a} as in {b}, found {m} and {n}");
    Err(Error::file(root, message))
}

impl Source for Paired {
    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn name(&self, index: usize) -> String {
        self.pairs[index].1.location().display().to_string()
    }

    fn sample(&self, index: usize, draws: &Draws) -> Result<Sample> {
        let (_, gt, lq) = &self.pairs[index];
        let high = self.cache.get(2 * index, || Rgb8::read(gt))?;
        let low = self.cache.get(2 * index + 1, || Rgb8::read(lq))?;
        if (high.height, high.width) != (low.height, low.width) {
            let message = format!(
                "is {}×{}, but {} is {}×{}; pairs must have one size",
                low.width,
                low.height,
                gt.location().display(),
                high.width,
                high.height
            );
            return Err(Error::file(lq.location(), message));
        }
        let cut = |picture| self.crop.cut(picture, draws).map_err(|what| Error::file(gt.location(), what));
        Ok(Sample {
            name: self.name(index),
            gt: cut(high)?.window(),
            lq: Some(cut(low)?.window()),
            tensors: Vec::new(),
        })
    }
}

impl fmt::Debug for Paired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Paired({}, {} pairs, {:?})", self.root.display(), self.pairs.len(), self.crop)
    }
}
