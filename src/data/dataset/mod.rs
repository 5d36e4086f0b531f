//! Pictures to train on: where they are, which comes when, and samples cut from them.
//!
//! The samples of a run are one endless sequence, epoch after epoch, and a sample is a pure function of
//! the seed and its *number* in it. So the place to resume from is that number, ranks and micro-batches
//! share a batch by taking numbers ([`Share`]), and threads prepare samples in any order ([`Loader`]).
//!
//! What cannot be read is skipped: the next item of the epoch takes its place, so that numbers keep their
//! meaning, and [`Stream::skipped`] says what and why.

mod cache;
mod crop;
mod loader;
mod order;
mod paired;
mod photos;
mod stream;

pub use crop::{Crop, Place};
pub use loader::{Loader, Share};
pub use order::{Draws, Order};
pub use paired::{Paired, Stems};
pub use photos::{Degrade, Photos};
pub use stream::{Skipped, Stream};

use super::pixels::FloatImage;
use crate::Result;
use crate::tensor::HostTensor;

/// One training example.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Which item it was made of, for messages.
    pub name: String,
    /// The high-quality picture, RGB in 0..1.
    pub gt: FloatImage,
    /// The low-quality picture of the same size, RGB in 0..1, where the dataset has one.
    pub lq: Option<FloatImage>,
    /// What else belongs to it (features of a caption, a label), by name.
    pub tensors: Vec<(&'static str, HostTensor)>,
}

/// Items that samples are made of, in a fixed order.
pub trait Source: Send + Sync {
    /// Number of items; never 0.
    fn len(&self) -> usize;

    /// What a message calls item `index`.
    fn name(&self, index: usize) -> String;

    /// The sample of item `index` that these draws make: always the same for equal arguments.
    ///
    /// # Errors
    /// If the item cannot be read or is not fit for training, one sentence.
    fn sample(&self, index: usize, draws: &Draws) -> Result<Sample>;

    /// Whether there are no items.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Two sources whose items take turns, the shorter one starting over as often as it must: as many samples
/// of one kind as of the other.
pub struct Balanced {
    sources: [Box<dyn Source>; 2],
}

impl Balanced {
    /// Items of `first` at even indices, of `second` at odd ones.
    pub fn new(first: Box<dyn Source>, second: Box<dyn Source>) -> Self {
        Balanced { sources: [first, second] }
    }

    fn at(&self, index: usize) -> (&dyn Source, usize) {
        let source = &*self.sources[index % 2];
        (source, (index / 2) % source.len())
    }
}

impl Source for Balanced {
    fn len(&self) -> usize {
        2 * self.sources[0].len().max(self.sources[1].len())
    }

    fn name(&self, index: usize) -> String {
        let (source, index) = self.at(index);
        source.name(index)
    }

    fn sample(&self, index: usize, draws: &Draws) -> Result<Sample> {
        let (source, inner) = self.at(index);
        source.sample(inner, draws)
    }
}
