//! Photos from anywhere, cut and, where asked, degraded on the fly.

use std::fmt;
use std::path::Path;

use super::cache::{Cache, Rgb8};
use super::crop::Crop;
use super::order::Draws;
use super::{Sample, Source};
use crate::data::inputs::{self, Failure, Input};
use crate::data::pixels::FloatImage;
use crate::{Error, Result};

/// Makes (gt, lq) of a cut-out picture; must give the same for the same draws.
pub type Degrade = Box<dyn Fn(FloatImage, &Draws) -> Result<(FloatImage, FloatImage)> + Send + Sync>;

/// High-quality photos of folders, lists, patterns and WebDataset archives.
pub struct Photos {
    inputs: Vec<Input>,
    failed: Vec<Failure>,
    crop: Crop,
    cache: Cache,
    degrade: Option<Degrade>,
}

impl Photos {
    /// The pictures that `places` stand for (as for [`inputs::collect`], folders with all that is below),
    /// in that order; up to `cache` bytes of decoded pixels stay in memory.
    ///
    /// # Errors
    /// `Error::Usage` if there are none, with the first reason.
    pub fn open(places: &[impl AsRef<Path>], crop: Crop, cache: usize) -> Result<Self> {
        let (mut found, mut failed) = (Vec::new(), Vec::new());
        // One by one: pictures of different places may have equal names.
        for place in places {
            let inputs = inputs::collect(&[place], true, None)?;
            found.extend(inputs.found);
            failed.extend(inputs.failed);
        }
        if found.is_empty() {
            let places: Vec<_> = places.iter().map(|p| p.as_ref().display().to_string()).collect();
            let reason = failed.first().map(|f| format!(": {}", f.reason)).unwrap_or_default();
            return Err(Error::Usage(format!(
                "there are no pictures to train on in {}{reason}",
                if places.is_empty() { "an empty list of places".into() } else { places.join(", ") }
            )));
        }
        Ok(Photos { inputs: found, failed, crop, cache: Cache::new(cache), degrade: None })
    }

    /// Samples are pairs that `degrade` makes of each crop.
    pub fn degraded(mut self, degrade: Degrade) -> Self {
        self.degrade = Some(degrade);
        self
    }

    /// Places that could not be read at all.
    pub fn failed(&self) -> &[Failure] {
        &self.failed
    }
}

impl Source for Photos {
    fn len(&self) -> usize {
        self.inputs.len()
    }

    fn name(&self, index: usize) -> String {
        self.inputs[index].location().display().to_string()
    }

    fn sample(&self, index: usize, draws: &Draws) -> Result<Sample> {
        let input = &self.inputs[index];
        let picture = self.cache.get(index, || Rgb8::read(input))?;
        let cut = self.crop.cut(picture, draws).map_err(|what| Error::file(input.location(), what))?;
        let (gt, lq) = match &self.degrade {
            None => (cut.window(), None),
            Some(degrade) => {
                let (gt, lq) = degrade(cut.window(), draws)?;
                (gt, Some(lq))
            }
        };
        Ok(Sample { name: self.name(index), gt, lq, tensors: Vec::new() })
    }
}

impl fmt::Debug for Photos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Photos({} pictures, {:?})", self.inputs.len(), self.crop)
    }
}
