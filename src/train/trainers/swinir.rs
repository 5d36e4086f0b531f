//! Stage 1: SwinIR learns to remove degradations (DiffBIR's `train_stage1.py`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::{Findings, Inputs, Trainer};
use crate::data::dataset::{Degrade, Sample, Source};
use crate::data::degrade::Degradation;
use crate::device::Device;
use crate::models::swinir::SwinIr;
use crate::models::{ImageNetwork, Shapes};
use crate::train::config::{self, Config};
use crate::train::drop_path::DropPath;
use crate::train::init;
use crate::train::objective::{Distance, Objective, Reduction};
use crate::train::objectives::perceptual::Perceptual;
use crate::train::objectives::swinir::SwinIrObjective;
use crate::train::settings::Settings;
use crate::weights::WeightSet;
use crate::{Error, Result};

/// Trains a SwinIR whose output has the size of its input.
pub struct SwinIrTrainer {
    config: Config,
    hyper_parameters: Value,
    degradation: Degradation,
    objective: SwinIrObjective,
    drop_path: Option<DropPath>,
    weights: WeightSet,
    device: Device,
    /// Samples to look at, once they have been asked for.
    validation: Option<Vec<Sample>>,
}

/// What only this trainer has in its settings.
#[derive(Deserialize)]
struct Own {
    model: Depth,
    loss: Loss,
}

/// `[model]`.
#[derive(Deserialize)]
struct Depth {
    drop_path: f64,
}

/// `[loss]`.
#[derive(Deserialize)]
struct Loss {
    distance: Distance,
    reduction: Reduction,
    perceptual: Features,
}

/// `[loss.perceptual]`.
#[derive(Deserialize)]
struct Features {
    weights: PathBuf,
    weight: f64,
    layers: BTreeMap<String, f64>,
}

impl Features {
    /// The loss with its weights; `None` if there is to be none.
    fn open(self) -> Result<Option<(Perceptual, WeightSet)>> {
        if self.weights.as_os_str().is_empty() {
            return Ok(None);
        }
        Perceptual::open(&self.weights, self.layers, self.weight).map(Some)
    }
}

impl SwinIrTrainer {
    /// From the settings of a run.
    ///
    /// # Errors
    /// `Error::Usage` for a network that cannot be trained on such pairs; if weights cannot be read.
    pub fn open(settings: &Settings, device: &Device) -> Result<Self> {
        let config = Config::read(settings)?;
        let own: Own = settings.read()?;
        let (model, hyper_parameters) = config::model(settings)?;
        let (network, _) = SwinIr::from_config(&hyper_parameters, &Shapes::new())?;
        check(&network, config.data.crop)?;
        let drop_path = DropPath::new(own.model.drop_path, network.blocks(), config.seed)?;
        let (size, loss) = ([config.data.crop; 2], own.loss);
        let mut objective = SwinIrObjective {
            drop_path: drop_path.is_some(),
            ..SwinIrObjective::new(network, size, loss.distance, loss.reduction)
        };
        let shapes = objective.parameters()?;
        let initial = || init::swinir(&objective.network, &shapes, config.seed);
        let weights = super::first_weights(&model.weights, initial)?;
        let mut weights = weights.renamed(|key| Some(objective.network.rename(key)))?;
        if let Some((perceptual, of_vgg)) = loss.perceptual.open()? {
            objective.perceptual = Some(perceptual);
            weights = weights.with(of_vgg);
        }
        Ok(SwinIrTrainer {
            degradation: config::degradation(settings)?,
            config,
            hyper_parameters,
            objective,
            drop_path,
            weights,
            device: device.clone(),
            validation: None,
        })
    }

    fn degrade(&self) -> Degrade {
        let degradation = self.degradation.clone();
        Box::new(move |picture, draws| super::degraded(&degradation, &picture, draws))
    }
}

/// Whether pairs of such crops can train it.
fn check(network: &SwinIr, crop: usize) -> Result<()> {
    let (scale, channels, multiple) = (network.scale(), network.channels(), network.multiple());
    if scale != 1 || channels != 3 {
        return Err(Error::Usage(format!(
            "model.network: expected a network for 3 channels whose output has the size of its input, found one for \
             {channels} that enlarges {scale} times; set unshuffle = true with unshuffle_scale = sf"
        )));
    }
    if !crop.is_multiple_of(multiple) {
        return Err(Error::Usage(format!(
            "data.crop: expected a multiple of {multiple} (window size times unshuffle factor), found {crop}"
        )));
    }
    Ok(())
}

impl Trainer for SwinIrTrainer {
    fn name(&self) -> &'static str {
        "swinir"
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
        super::training_set(&self.config, Some(self.degrade()))
    }

    fn inputs(&mut self, samples: &[(u64, Sample)]) -> Result<Inputs> {
        let x = super::nchw(samples.iter().map(|(_, s)| super::low_quality(s)));
        let target = super::nchw(samples.iter().map(|(_, s)| &s.gt));
        let mut inputs = vec![("x", x), ("target", target)];
        if let Some(drop_path) = &self.drop_path {
            inputs.push(("drop_path", drop_path.factors(samples.iter().map(|(number, _)| *number))));
        }
        Ok(inputs)
    }

    fn validate(&mut self, weights: &WeightSet) -> Result<Option<Findings>> {
        if self.validation.is_none() {
            self.validation = Some(super::validation_samples(&self.config, Some(self.degrade()))?);
        }
        let samples = self.validation.as_deref().unwrap_or_default();
        if samples.is_empty() {
            return Ok(None);
        }
        let side = self.config.data.crop;
        let graph = self.objective.network.graph(1, side, side, true)?;
        let mut exe = super::executable(graph, weights, &self.device)?;
        let mut findings = Findings::default();
        let (mut before, mut after) = (0.0, 0.0);
        for (i, sample) in samples.iter().enumerate() {
            let lq = super::low_quality(sample);
            let out = exe.run(&[("x", super::nchw([lq].into_iter()))])?;
            let out = super::picture(&out[0].1);
            before += super::psnr(lq, &sample.gt);
            after += super::psnr(&out, &sample.gt);
            if i < self.config.validation.show {
                findings.images.push((i.to_string(), super::beside(&[lq, &out, &sample.gt])));
            }
        }
        let n = samples.len() as f64;
        findings.scalars.push(("psnr".into(), after / n));
        findings.scalars.push(("psnr_input".into(), before / n));
        Ok(Some(findings))
    }
}
