//! Latents of pairs that come again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use crate::Result;
use crate::data::dataset::Sample;

/// What the frozen networks make of a pair.
#[derive(Debug, PartialEq)]
pub(super) struct Latents {
    /// Means, then logarithms of variances, of the high-quality picture's latent.
    pub gt: Vec<f32>,
    /// The low-quality picture's latent, scaled.
    pub lq: Vec<f32>,
    /// The reference's.
    pub pre: Vec<f32>,
}

impl Latents {
    fn bytes(&self) -> usize {
        4 * (self.gt.len() + self.lq.len() + self.pre.len())
    }
}

/// Keeps the first latents that fit, as the dataset does with pictures and for the same reason: items come in another
/// order every epoch, each once.
pub(super) struct LatentCache {
    kept: HashMap<(String, u64), Arc<Latents>>,
    bytes: usize,
    limit: usize,
}

impl LatentCache {
    /// A cache that takes up to so many bytes; 0: none, and no time either.
    pub fn new(limit: usize) -> Self {
        LatentCache { kept: HashMap::new(), bytes: 0, limit }
    }

    /// The latents kept for a sample of the same item with the same pixels (crop, mirroring), or what `make` makes.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get(&mut self, sample: &Sample, make: impl FnOnce() -> Result<Latents>) -> Result<Arc<Latents>> {
        if self.limit == 0 {
            return make().map(Arc::new);
        }
        let key = (sample.name.clone(), pixels(sample));
        if let Some(latents) = self.kept.get(&key) {
            return Ok(latents.clone());
        }
        let latents = Arc::new(make()?);
        if self.bytes + latents.bytes() <= self.limit {
            self.bytes += latents.bytes();
            self.kept.insert(key, latents.clone());
        }
        Ok(latents)
    }
}

/// 64 bits that tell crops of one item apart. Nothing stores them, so another release of Rust may hash otherwise.
fn pixels(sample: &Sample) -> u64 {
    let mut hasher = DefaultHasher::new();
    for picture in [Some(&sample.gt), sample.lq.as_ref()].into_iter().flatten() {
        hasher.write(bytemuck::cast_slice(&picture.data));
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::data::pixels::FloatImage;

    fn sample(name: &str, level: f32) -> Sample {
        let gt = FloatImage::new(1, 1, 3, vec![level; 3]);
        Sample { name: name.to_owned(), lq: Some(gt.clone()), gt, tensors: Vec::new() }
    }

    #[test]
    fn the_same_pixels_of_an_item_are_encoded_once() {
        let latents = |v| Latents { gt: vec![v; 2], lq: vec![v], pre: vec![v] };
        let again = || Err(Error::Run("encoded again".into()));
        // Room for two of 16 bytes.
        let mut cache = LatentCache::new(40);
        for (name, level) in [("a", 0.5), ("a", 0.25), ("b", 0.5)] {
            assert_eq!(*cache.get(&sample(name, level), || Ok(latents(level))).unwrap(), latents(level));
        }
        assert_eq!(*cache.get(&sample("a", 0.5), again).unwrap(), latents(0.5));
        assert_eq!(*cache.get(&sample("a", 0.25), again).unwrap(), latents(0.25));
        assert!(cache.get(&sample("b", 0.5), again).is_err(), "it did not fit");
        let mut none = LatentCache::new(0);
        none.get(&sample("a", 0.5), || Ok(latents(0.5))).unwrap();
        assert!(none.get(&sample("a", 0.5), again).is_err());
    }
}
