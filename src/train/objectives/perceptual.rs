//! A perceptual loss (Johnson et al., ECCV 2016, arXiv 1603.08155) as BasicSR has it (`PerceptualLoss` with
//! `criterion: l1` and `use_input_norm: true`): how far the features of two pictures in a VGG are apart.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::graph::{GraphBuilder, ValueId};
use crate::models::resnet::normalised;
use crate::models::vgg::Vgg;
use crate::models::{Shapes, load};
use crate::train::objective::{Distance, Reduction};
use crate::weights::WeightSet;

/// What keys of the VGG begin with, beside those of the network that is trained.
const SCOPE: &str = "perceptual";

/// weight · Σ over layers of w · mean |features of y − features of target|.
#[derive(Clone, Debug)]
pub struct Perceptual {
    network: Vgg,
    /// How much each layer counts.
    layers: BTreeMap<String, f64>,
    /// How much the whole counts beside the other terms.
    weight: f64,
}

impl Perceptual {
    /// Over a weight file under torchvision's keys; also what of it is used, under the keys of
    /// [`Perceptual::parameters`].
    ///
    /// # Errors
    /// If the file cannot be read or is no such VGG, a layer does not exist, or a weight is not positive.
    pub fn open(path: &Path, layers: BTreeMap<String, f64>, weight: f64) -> Result<(Self, WeightSet)> {
        Self::new(WeightSet::open(path)?, layers, weight)
    }

    /// As [`Perceptual::open`], over tensors that are there.
    ///
    /// # Errors
    /// As [`Perceptual::open`].
    pub fn new(file: WeightSet, layers: BTreeMap<String, f64>, weight: f64) -> Result<(Self, WeightSet)> {
        let counts = layers.iter().map(|(layer, w)| (format!("layers.{layer}"), *w));
        let mut all = counts.chain([("weight".to_owned(), weight)]);
        if let Some((key, w)) = all.find(|(_, w)| !(*w > 0.0 && w.is_finite())) {
            return Err(Error::Usage(format!(
                "loss.perceptual.{key}: expected a positive number, found {w}"
            )));
        }
        if layers.is_empty() {
            return Err(Error::Usage(
                "loss.perceptual.layers: expected at least one layer, such as { conv5_4 = 1.0 }, found none"
                    .into(),
            ));
        }
        let names: Vec<_> = layers.keys().map(String::as_str).collect();
        let network = Vgg::from_shapes(&load::shapes_of(&file), &names)
            .map_err(|message| Error::file(file.path(), format!("loss.perceptual: {message}")))?;
        let used = network.parameters();
        let weights = file.renamed(|key| used.contains_key(key).then(|| format!("{SCOPE}.{key}")))?;
        Ok((Perceptual { network, layers, weight }, weights))
    }

    /// The VGG's parameters: `perceptual.features.N.weight`.
    pub fn parameters(&self) -> Shapes {
        self.network.parameters().into_iter().map(|(key, shape)| (format!("{SCOPE}.{key}"), shape)).collect()
    }

    /// Whether a key is one of [`Perceptual::parameters`].
    pub fn owns(key: &str) -> bool {
        key.strip_prefix(SCOPE).is_some_and(|rest| rest.starts_with('.'))
    }

    /// The loss of NHWC pictures in 0..1, as one number.
    ///
    /// # Errors
    /// If their shapes differ, or they are too small for the VGG.
    pub fn record(&self, b: &mut GraphBuilder, y: ValueId, target: ValueId) -> Result<ValueId> {
        let mut features = |x| -> Result<_> {
            let x = normalised(b, x)?;
            b.scope(SCOPE, |b| self.network.features(b, x))
        };
        let (of_y, of_target) = (features(y)?, features(target)?);
        let mut sum = None;
        for ((layer, y), (_, target)) in of_y.into_iter().zip(of_target) {
            let distance = Distance::L1.record(b, y, target, Reduction::Mean)?;
            let term = b.scale(distance, (self.weight * self.layers[&layer]) as f32)?;
            sum = Some(match sum {
                Some(sum) => b.add(sum, term)?,
                None => term,
            });
        }
        Ok(sum.expect("at least one layer"))
    }
}
