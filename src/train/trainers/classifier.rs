//! The classifier of quality: real crops are positive, synthesised ones negative (train.md, section 4).

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::{Findings, Inputs, Trainer};
use crate::data::dataset::{Balanced, Crop, Draws, Photos, Place, Sample, Source};
use crate::device::Device;
use crate::graph::GraphBuilder;
use crate::models::network::Network;
use crate::models::resnet::{ResNet, Statistics, normalised};
use crate::models::{Shapes, load};
use crate::tensor::{DType, HostTensor};
use crate::train::config::{self, Config};
use crate::train::init;
use crate::train::objective::Objective;
use crate::train::objectives::classifier::ClassifierObjective;
use crate::train::settings::Settings;
use crate::weights::WeightSet;
use crate::{Error, Result};

/// Name of a sample's label among its tensors, and of the objective's input.
const LABEL: &str = "label";
/// Keys of the layer that knows the classes.
const LAST: &str = "fc.";

/// Trains a ResNet with one logit.
pub struct ClassifierTrainer {
    config: Config,
    data: Kinds,
    validation: Kinds,
    hyper_parameters: Value,
    objective: ClassifierObjective,
    weights: WeightSet,
    device: Device,
    /// Samples to look at, once they have been asked for.
    looked_at: Option<Vec<Sample>>,
}

/// Where pictures of both kinds are.
#[derive(Deserialize)]
struct Kinds {
    positive: Vec<PathBuf>,
    negative: Vec<PathBuf>,
}

impl ClassifierTrainer {
    /// From the settings of a run.
    ///
    /// # Errors
    /// `Error::Usage` for a network with another number of logits than one; if weights cannot be read.
    pub fn open(settings: &Settings, device: &Device) -> Result<Self> {
        #[derive(Deserialize)]
        struct Sections {
            data: Kinds,
            validation: Kinds,
        }
        let config = Config::read(settings)?;
        let Sections { data, validation } = settings.read()?;
        if config.data.place == Place::Centre {
            return Err(Error::Usage(
                "data.place: expected \"random\"; shrunk pictures would lose the texture that is to be learned"
                    .into(),
            ));
        }
        let (model, mut hyper_parameters) = config::model(settings)?;
        if let Some(object) = hyper_parameters.as_object_mut() {
            object.entry("num_classes").or_insert(1.into());
        }
        let (network, _) = ResNet::from_config(Some(&hyper_parameters), &Shapes::new())?;
        let objective = ClassifierObjective::new(network, [config.data.crop; 2])?;
        let shapes = objective.parameters()?;
        let mut weights = init::resnet(&shapes, config.seed);
        if !model.weights.as_os_str().is_empty() {
            weights = started_from(weights, WeightSet::open(&model.weights)?, &objective)?;
        }
        Ok(ClassifierTrainer {
            config,
            data,
            validation,
            hyper_parameters,
            objective,
            weights,
            device: device.clone(),
            looked_at: None,
        })
    }
}

/// The weights of a file, but for a last layer of another number of classes, which stays as it is drawn.
fn started_from(drawn: WeightSet, file: WeightSet, objective: &ClassifierObjective) -> Result<WeightSet> {
    let network = &objective.network;
    let other = file.shape("fc.weight") != drawn.shape("fc.weight");
    if !other {
        return load::checked(network, file);
    }
    let body = file.renamed(|key| (!key.starts_with(LAST)).then(|| key.to_owned()))?;
    let shapes = network.parameters()?;
    let expected =
        shapes.iter().filter(|(k, _)| !k.starts_with(LAST)).map(|(k, s)| (k.as_str(), s.as_slice()));
    body.check(expected, |key| network.ignores(key))?;
    Ok(drawn.mapped(|key, t| body.get(key).unwrap_or(t).clone()))
}

/// Pictures of one kind.
struct Labelled {
    photos: Photos,
    label: f32,
}

impl Source for Labelled {
    fn len(&self) -> usize {
        self.photos.len()
    }

    fn name(&self, index: usize) -> String {
        self.photos.name(index)
    }

    fn sample(&self, index: usize, draws: &Draws) -> Result<Sample> {
        let mut sample = self.photos.sample(index, draws)?;
        sample.tensors = vec![(LABEL, HostTensor::from_f32([1], vec![self.label]))];
        Ok(sample)
    }
}

impl Kinds {
    fn is_empty(&self) -> bool {
        self.positive.is_empty() && self.negative.is_empty()
    }

    /// Both kinds, positive first, each cut by `crop`.
    fn open(&self, section: &str, crop: Crop, cache: usize) -> Result<[Box<dyn Source>; 2]> {
        let kind = |name: &str, places: &[PathBuf], label| -> Result<Box<dyn Source>> {
            let photos = Photos::open(places, crop, cache)
                .map_err(|e| Error::Usage(format!("{section}.{name}: {e}")))?;
            Ok(Box::new(Labelled { photos, label }))
        };
        Ok([kind("positive", &self.positive, 1.0)?, kind("negative", &self.negative, 0.0)?])
    }
}

fn label(sample: &Sample) -> f32 {
    sample.tensors.iter().find(|(name, _)| *name == LABEL).expect("labelled").1.to_f32()[0]
}

impl Trainer for ClassifierTrainer {
    fn name(&self) -> &'static str {
        "classifier"
    }

    fn hyper_parameters(&self) -> &Value {
        &self.hyper_parameters
    }

    fn objective(&self) -> &dyn Objective {
        &self.objective
    }

    fn weights(&self) -> &WeightSet {
        &self.weights
    }

    fn source(&self) -> Result<Box<dyn Source>> {
        let d = &self.config.data;
        let crop = Crop { size: d.crop, place: d.place, flip: d.flip };
        let [positive, negative] = self.data.open("data", crop, (d.cache_mib << 20) / 2)?;
        Ok(Box::new(Balanced::new(positive, negative)))
    }

    fn inputs(&mut self, samples: &[(u64, Sample)]) -> Result<Inputs> {
        let x = super::nchw(samples.iter().map(|(_, s)| &s.gt));
        let labels = samples.iter().map(|(_, s)| label(s)).collect();
        Ok(vec![("x", x), (LABEL, HostTensor::from_f32([samples.len()], labels))])
    }

    fn validate(&mut self, weights: &WeightSet) -> Result<Option<Findings>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let side = self.config.data.crop;
        if self.looked_at.is_none() {
            let crop = Crop { size: side, place: Place::Random, flip: false };
            let [positive, negative] = self.validation.open("validation", crop, 0)?;
            let most = self.config.validation.pictures;
            let mut samples = super::first_samples(&*positive, most)?;
            samples.extend(super::first_samples(&*negative, most)?);
            self.looked_at = Some(samples);
        }
        let samples = self.looked_at.as_deref().unwrap_or_default();
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [1, 3, side, side])?;
        let x = b.permute(x, [0, 2, 3, 1])?;
        let x = normalised(&mut b, x)?;
        let (logits, _) = self.objective.network.record(&mut b, x, Statistics::Running)?;
        b.output("out", logits);
        let mut exe = super::executable(b.finish(), weights, &self.device)?;
        let mut judged = Vec::with_capacity(samples.len());
        for sample in samples {
            let out = exe.run(&[("x", super::nchw([&sample.gt].into_iter()))])?;
            judged.push((out[0].1.to_f64()[0], label(sample) > 0.5));
        }
        let right = judged.iter().filter(|(logit, positive)| (*logit >= 0.0) == *positive).count();
        Ok(Some(Findings {
            scalars: vec![
                ("accuracy".into(), right as f64 / judged.len() as f64),
                ("auc".into(), auc(&judged)),
            ],
            images: Vec::new(),
        }))
    }
}

/// Area under the receiver operating characteristic: how often a positive one has the higher logit, ties half.
fn auc(judged: &[(f64, bool)]) -> f64 {
    let of = |kind| judged.iter().filter(move |(_, positive)| *positive == kind).map(|(logit, _)| *logit);
    let (mut won, mut pairs) = (0.0, 0.0);
    for p in of(true) {
        for n in of(false) {
            pairs += 1.0;
            won += if p > n {
                1.0
            } else if p == n {
                0.5
            } else {
                0.0
            };
        }
    }
    won / pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_counts_pairs() {
        let judged = [(2.0, true), (1.0, true), (1.0, false), (0.0, false)];
        assert_eq!(auc(&judged), 3.5 / 4.0);
        assert_eq!(auc(&[(1.0, true), (-1.0, false)]), 1.0);
    }
}
