//! The autoencoder: pictures through a latent and back (latent diffusion's first stage).

use serde::Deserialize;
use serde_json::Value;

use super::{Findings, Inputs, Trainer};
use crate::data::dataset::{Sample, Source};
use crate::device::Device;
use crate::models::load;
use crate::models::vae::{Half, VaeNetwork};
use crate::train::config::{self, Config};
use crate::train::init;
use crate::train::objective::Objective;
use crate::train::objectives::autoencoder::AutoencoderObjective;
use crate::train::settings::Settings;
use crate::weights::WeightSet;
use crate::{Error, Result};

/// Trains an AutoencoderKL.
pub struct AutoencoderTrainer {
    config: Config,
    hyper_parameters: Value,
    network: VaeNetwork,
    objective: AutoencoderObjective,
    weights: WeightSet,
    device: Device,
    /// Samples to look at, once they have been asked for.
    validation: Option<Vec<Sample>>,
}

/// `[loss]`.
#[derive(Deserialize)]
struct Loss {
    kl_weight: f64,
}

impl AutoencoderTrainer {
    /// From the settings of a run.
    ///
    /// # Errors
    /// `Error::Usage` for a network that cannot be trained on such crops; if weights cannot be read.
    pub fn open(settings: &Settings, device: &Device) -> Result<Self> {
        #[derive(Deserialize)]
        struct Section {
            loss: Loss,
        }
        let config = Config::read(settings)?;
        let Section { loss: Loss { kl_weight } } = settings.read()?;
        let (model, hyper_parameters) = config::model(settings)?;
        let (network, _) = VaeNetwork::new(Half::Whole, Some(&hyper_parameters), &Default::default())?;
        let (crop, factor) = (config.data.crop, network.config.factor());
        if !crop.is_multiple_of(factor) {
            return Err(Error::Usage(format!(
                "data.crop: expected a multiple of {factor}, the pixels of a latent one, found {crop}"
            )));
        }
        if network.config.in_channels != 3 || network.config.out_channels != 3 {
            return Err(Error::Usage(
                "model.network: expected in_channels = 3 and out_channels = 3, since photos are RGB".into(),
            ));
        }
        let objective = AutoencoderObjective { network: network.config.clone(), size: [crop; 2], kl_weight };
        let shapes = objective.parameters()?;
        let weights = super::first_weights(&model.weights, || init::torch_default(&shapes, config.seed))?;
        let weights = load::checked(&network, weights)?;
        let device = device.clone();
        Ok(AutoencoderTrainer {
            config,
            hyper_parameters,
            network,
            objective,
            weights,
            device,
            validation: None,
        })
    }
}

impl Trainer for AutoencoderTrainer {
    fn name(&self) -> &'static str {
        "vae"
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
        super::training_set(&self.config, None)
    }

    fn inputs(&mut self, samples: &[(u64, Sample)]) -> Result<Inputs> {
        let pictures: Vec<_> = samples.iter().map(|(_, s)| super::centred(&s.gt)).collect();
        let (side, channels) =
            (self.config.data.crop / self.network.config.factor(), self.network.config.latent_channels);
        let shape = [samples.len(), channels, side, side];
        let noise = super::noise(self.config.seed, "latent", samples, &shape);
        Ok(vec![("x", super::nchw(pictures.iter())), ("noise", noise)])
    }

    fn validate(&mut self, weights: &WeightSet) -> Result<Option<Findings>> {
        if self.validation.is_none() {
            self.validation = Some(super::validation_samples(&self.config, None)?);
        }
        let samples = self.validation.as_deref().unwrap_or_default();
        if samples.is_empty() {
            return Ok(None);
        }
        let side = self.config.data.crop;
        let latent = side / self.network.config.factor();
        let mut encoder =
            super::executable(self.network.encoder_graph(1, side, side)?, weights, &self.device)?;
        let mut decoder =
            super::executable(self.network.decoder_graph(1, latent, latent)?, weights, &self.device)?;
        let mut findings = Findings::default();
        let (mut decibels, mut squares, mut numbers) = (0.0, 0.0, 0);
        for (i, sample) in samples.iter().enumerate() {
            let x = super::nchw([super::centred(&sample.gt)].iter());
            let mode = encoder.run(&[("sample", x)])?.swap_remove(1).1;
            squares += mode.to_f32().iter().map(|&z| f64::from(z).powi(2)).sum::<f64>();
            numbers += mode.len();
            let out = decoder.run(&[("z", mode)])?.swap_remove(0).1;
            let out = super::from_centred(&super::picture(&out));
            decibels += super::psnr(&out, &sample.gt);
            if i < self.config.validation.show {
                findings.images.push((i.to_string(), super::beside(&[&out, &sample.gt])));
            }
        }
        findings.scalars.push(("psnr".into(), decibels / samples.len() as f64));
        // Its reciprocal is the scaling factor that gives diffusion models latents of unit size.
        findings.scalars.push(("latent_rms".into(), (squares / numbers as f64).sqrt()));
        Ok(Some(findings))
    }
}
