//! DreamClear as `train_dreamclear.py` trains it: SwinIR and the autoencoder frozen in the loop, captions as T5
//! features, the official losses.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::frozen::{Encoder, Frozen, Remover};
use super::latents::{LatentCache, Latents};
use super::{Findings, Inputs, Restore, Subject, Trainer};
use crate::data::dataset::{Crop, Degrade, Draws, Paired, Place, Sample, Source};
use crate::data::degrade::Degradation;
use crate::data::pixels::FloatImage;
use crate::data::random::Draw;
use crate::device::Device;
use crate::graph::GraphBuilder;
use crate::models::controlformer::DreamClear;
use crate::models::pixart_names::BASE;
use crate::models::{Shapes, load};
use crate::tensor::HostTensor;
use crate::text::features::CaptionFeatures;
use crate::train::config::{self, Config};
use crate::train::init;
use crate::train::objective::Objective;
use crate::train::objectives::dreamclear::{CrossDeScope, DreamClearObjective};
use crate::train::settings::Settings;
use crate::weights::WeightSet;
use crate::{Error, Result};

/// Timesteps of the schedule.
const TIMESTEPS: u64 = 1000;
/// Names of a sample's caption among its tensors.
const FEATURES: &str = "caption_feature";
const LENGTH: &str = "caption_length";

/// Trains the branches of a DreamClear, or all of it.
pub struct DreamClearTrainer {
    config: Config,
    own: Own,
    hyper_parameters: Value,
    degradation: Degradation,
    objective: DreamClearObjective,
    weights: WeightSet,
    remover: Remover,
    encoder: Encoder,
    latents: LatentCache,
    device: Device,
    /// Makes pictures, if some are to be shown.
    restore: Option<Box<dyn Restore>>,
    /// What to look at, once it has been asked for.
    validation: Option<Validation>,
}

/// The validation set.
struct Validation {
    /// Tensors of each sample.
    batches: Vec<Inputs>,
    /// The samples that are restored and shown.
    shown: Vec<Sample>,
}

/// Settings that other trainers do not have.
#[derive(Deserialize)]
struct Own {
    train_base: bool,
    cross_de_scope: CrossDeScope,
    model: BaseModel,
    data: LatentData,
    frozen: Frozen,
    captions: Captions,
    diffusion: Diffusion,
}

#[derive(Deserialize)]
struct BaseModel {
    base: PathBuf,
}

#[derive(Deserialize)]
struct LatentData {
    latents_mib: usize,
}

#[derive(Deserialize)]
struct Diffusion {
    timesteps: u64,
}

#[derive(Deserialize)]
struct Captions {
    features: bool,
    dropout: f64,
}

impl DreamClearTrainer {
    /// From the settings of a run.
    ///
    /// # Errors
    /// `Error::Usage` for networks that do not fit each other or such crops; if weights cannot be read.
    pub fn open(settings: &Settings, device: &Device) -> Result<Self> {
        let config = Config::read(settings)?;
        let own: Own = settings.read()?;
        if !(0.0..=1.0).contains(&own.captions.dropout) {
            let found = own.captions.dropout;
            return Err(Error::Usage(format!(
                "captions.dropout: expected a part from 0 to 1, found {found}"
            )));
        }
        if !(1..=TIMESTEPS).contains(&own.diffusion.timesteps) {
            let found = own.diffusion.timesteps;
            return Err(Error::Usage(format!(
                "diffusion.timesteps: expected 1 to {TIMESTEPS}, found {found}"
            )));
        }
        if own.captions.features && !config.data.photos.is_empty() {
            return Err(Error::Usage(
                "captions.features: photos have no caption features; give data.paired, or captions.features = false"
                    .into(),
            ));
        }
        if own.data.latents_mib > 0 && !config.data.photos.is_empty() {
            return Err(Error::Usage(
                "data.latents_mib: photos are degraded anew each time, so none of their latents comes again; give \
                 data.paired, or data.latents_mib = 0"
                    .into(),
            ));
        }
        let (model, hyper_parameters) = config::model(settings)?;
        let (network, _) = DreamClear::from_config(Some(&hyper_parameters), &Shapes::new())?;
        let side = config.data.crop;
        let remover = Remover::open(&own.frozen.swinir, side, device)?;
        let encoder = Encoder::open(&own.frozen.vae, side, own.frozen.latent_scale, device)?;
        let (latent, base) = (side / encoder.factor, &network.base);
        if encoder.channels != base.in_channels || !latent.is_multiple_of(base.patch_size) {
            return Err(Error::Usage(format!(
                "model.network: expected in_channels = {} and a patch_size that divides {latent}, as latents of \
                 frozen.vae for data.crop = {side} have them; found {} and {}",
                encoder.channels, base.in_channels, base.patch_size
            )));
        }
        let objective = DreamClearObjective {
            tokens: base.model_max_length,
            size: [latent; 2],
            class_dropout: own.captions.dropout > 0.0 || !own.captions.features,
            scope: own.cross_de_scope,
            train_base: own.train_base,
            network,
        };
        let latents = LatentCache::new(own.data.latents_mib << 20);
        let weights = first_weights(&model.weights, &own.model.base, &objective, config.seed)?;
        Ok(DreamClearTrainer {
            degradation: config::degradation(settings)?,
            config,
            own,
            hyper_parameters,
            objective,
            weights,
            remover,
            encoder,
            latents,
            device: device.clone(),
            restore: None,
            validation: None,
        })
    }

    fn degrade(&self) -> Degrade {
        let degradation = self.degradation.clone();
        Box::new(move |picture, draws| super::degraded(&degradation, &picture, draws))
    }

    fn validation_samples(&self) -> Result<Vec<Sample>> {
        let v = &self.config.validation;
        if !self.own.captions.features || v.paired.as_os_str().is_empty() {
            return super::validation_samples(&self.config, Some(self.degrade()));
        }
        let crop = Crop { size: self.config.data.crop, place: Place::Random, flip: false };
        super::first_samples(&*self.pairs(&v.paired, crop, 0)?, v.pictures)
    }

    fn validation(&mut self) -> Result<Validation> {
        let mut samples = self.validation_samples()?;
        let tensors = |(i, sample): (usize, &Sample)| self.tensors(&[(i as u64, sample.clone())]);
        let batches = samples.iter().enumerate().map(tensors).collect::<Result<_>>()?;
        samples.truncate(self.config.validation.show);
        Ok(Validation { batches, shown: samples })
    }

    fn pairs(&self, root: &Path, crop: Crop, cache: usize) -> Result<Box<dyn Source>> {
        let base = &self.objective.network.base;
        let caption = [base.model_max_length, base.caption_channels];
        Captioned::open(root, crop, cache, caption).map(|source| Box::new(source) as _)
    }

    /// Timestep and whether the caption is dropped, of sample `number`.
    fn draws(&self, number: u64) -> (i64, bool) {
        let caption = Draw::new(self.config.seed, "caption").at(number, 0);
        let dropped = !self.own.captions.features || caption.uniform() < self.own.captions.dropout;
        (timestep(self.config.seed, number, self.own.diffusion.timesteps), dropped)
    }

    fn tensors(&mut self, samples: &[(u64, Sample)]) -> Result<Inputs> {
        let (batch, [h, w]) = (samples.len(), self.objective.size);
        let base = &self.objective.network.base;
        let (tokens, width) = (base.model_max_length, base.caption_channels);
        let shape = [batch, self.encoder.channels, h, w];
        let seed = self.config.seed;
        let latent_noise = super::noise(seed, "latent", samples, &shape);
        let latent_noise = latent_noise.to_f32();
        let (mut x_start, mut c_lq, mut c_pre) = (Vec::new(), Vec::new(), Vec::new());
        let (mut y, mut lengths) = (Vec::with_capacity(batch * tokens * width), Vec::with_capacity(batch));
        let (mut timesteps, mut drop) = (Vec::with_capacity(batch), Vec::with_capacity(batch));
        let each = latent_noise.len() / batch;
        for ((number, sample), noise) in samples.iter().zip(latent_noise.chunks_exact(each)) {
            let (encoder, remover) = (&mut self.encoder, &mut self.remover);
            let latents = self.latents.get(sample, || {
                let lq = super::low_quality(sample);
                let pre = remover.apply(lq)?;
                let mut mode = |picture: &FloatImage| -> Result<Vec<f32>> {
                    let moments = encoder.moments(picture)?;
                    Ok(encoder.latent(&moments, None))
                };
                let (lq, pre) = (mode(lq)?, mode(&pre)?);
                Ok(Latents { gt: encoder.moments(&sample.gt)?, lq, pre })
            })?;
            // The mode for what the branches read, a sample for what is learned.
            x_start.extend(self.encoder.latent(&latents.gt, Some(noise)));
            c_lq.extend_from_slice(&latents.lq);
            c_pre.extend_from_slice(&latents.pre);
            match sample.tensors.as_slice() {
                [(FEATURES, features), (LENGTH, length)] => {
                    y.extend_from_slice(&features.to_f32());
                    lengths.extend(length.to_i64());
                }
                _ => {
                    y.resize(y.len() + tokens * width, 0.0);
                    lengths.push(tokens as i64);
                }
            }
            let (timestep, dropped) = self.draws(*number);
            timesteps.push(timestep);
            drop.push(f32::from(u8::from(dropped)));
        }
        let side = self.config.data.crop as f32;
        let f32s = |shape: &[usize], data| HostTensor::from_f32(shape, data);
        let mut inputs = vec![
            ("x_start", f32s(&shape, x_start)),
            ("noise", super::noise(seed, "diffusion", samples, &shape)),
            ("timestep", HostTensor::from_i64([batch], timesteps)),
            ("y", f32s(&[batch, tokens, width], y)),
            ("lengths", HostTensor::from_i64([batch], lengths)),
            ("c_lq", f32s(&shape, c_lq)),
            ("c_pre", f32s(&shape, c_pre)),
            ("img_hw", f32s(&[batch, 2], vec![side; 2 * batch])),
            ("aspect_ratio", f32s(&[batch, 1], vec![1.0; batch])),
        ];
        if self.objective.class_dropout {
            inputs.push(("drop", f32s(&[batch], drop)));
        }
        Ok(inputs)
    }
}

/// The timestep of sample `number`: below `timesteps`, each as often.
fn timestep(seed: u64, number: u64, timesteps: u64) -> i64 {
    Draw::new(seed, "timestep").at(number, 0).below(timesteps) as i64
}

/// Weights of a DreamClear: from a file; or base and copies from a PixArt, and the rest as it is initialised; or
/// all as it is initialised.
fn first_weights(
    weights: &Path,
    base: &Path,
    objective: &DreamClearObjective,
    seed: u64,
) -> Result<WeightSet> {
    let network = &objective.network;
    let shapes = objective.parameters()?;
    if !weights.as_os_str().is_empty() {
        return load::checked(network, WeightSet::open(weights)?);
    }
    let initial = init::dreamclear(network, &shapes, seed);
    if base.as_os_str().is_empty() {
        return Ok(initial);
    }
    let base = load::checked(&network.base, WeightSet::open(base)?)?;
    let original = |key: &str| -> Option<String> {
        if let Some(own) = key.strip_prefix(BASE) {
            return Some(own.to_owned());
        }
        let (branch, rest) = key.split_once(".copied_block.")?;
        let block = branch.rsplit('.').next().unwrap_or_default();
        Some(format!("blocks.{block}.{rest}"))
    };
    Ok(initial.mapped(|key, drawn| {
        original(key).and_then(|own| base.get(&own).cloned()).unwrap_or_else(|| drawn.clone())
    }))
}

impl Trainer for DreamClearTrainer {
    fn name(&self) -> &'static str {
        "dreamclear"
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
        if self.own.captions.features && !d.paired.as_os_str().is_empty() {
            let crop = Crop { size: d.crop, place: d.place, flip: d.flip };
            return self.pairs(&d.paired, crop, d.cache_mib << 20);
        }
        super::training_set(&self.config, Some(self.degrade()))
    }

    fn inputs(&mut self, samples: &[(u64, Sample)]) -> Result<Inputs> {
        self.tensors(samples)
    }

    fn restore_with(&mut self, restore: Box<dyn Restore>) {
        self.restore = Some(restore);
    }

    /// The losses of the validation set, one sample at a time, each always at the same timestep with the same
    /// noise: numbers that can be compared from step to step. With a [`Restore`] also the first samples as these
    /// weights restore them.
    fn validate(&mut self, weights: &WeightSet) -> Result<Option<Findings>> {
        let validation = match self.validation.take() {
            Some(validation) => validation,
            None => self.validation()?,
        };
        let Validation { batches, shown } = self.validation.insert(validation);
        if batches.is_empty() {
            return Ok(None);
        }
        let mut b = GraphBuilder::new();
        let recorded = self.objective.record(&mut b, 1)?;
        b.output("loss", recorded.loss);
        recorded.terms.iter().for_each(|(name, v)| b.output(name, *v));
        let mut exe = super::executable(b.finish(), weights, &self.device)?;
        let mut scalars: Vec<(String, f64)> = Vec::new();
        for inputs in batches.iter() {
            for (i, (name, value)) in exe.run(inputs)?.into_iter().enumerate() {
                let value = value.to_f64()[0] / batches.len() as f64;
                match scalars.get_mut(i) {
                    Some((_, sum)) => *sum += value,
                    None => scalars.push((name, value)),
                }
            }
        }
        drop(exe);
        let mut findings = Findings { scalars, images: Vec::new() };
        if let Some(restore) = &mut self.restore {
            match pictures(&mut **restore, weights, shown) {
                Ok(more) => {
                    findings.scalars.extend(more.scalars);
                    findings.images = more.images;
                }
                // Nothing that was learned depends on them.
                Err(Error::OutOfMemory(m)) => tracing::warn!("no validation pictures: {m}; training goes on"),
                Err(e) => return Err(e),
            }
        }
        Ok(Some(findings))
    }
}

/// The samples restored: input, output and target side by side, and how near the output comes.
fn pictures(restore: &mut dyn Restore, weights: &WeightSet, samples: &[Sample]) -> Result<Findings> {
    let subject = |(i, sample)| Subject {
        name: format!("validation-{i}.png"),
        picture: super::low_quality(sample),
        caption: caption(sample),
    };
    let subjects: Vec<_> = samples.iter().enumerate().map(subject).collect();
    let restored = restore.restore(weights, &subjects)?;
    let mut findings = Findings::default();
    let (mut before, mut after) = (0.0, 0.0);
    for (i, (sample, out)) in samples.iter().zip(&restored).enumerate() {
        let lq = super::low_quality(sample);
        before += super::psnr(lq, &sample.gt);
        after += super::psnr(out, &sample.gt);
        findings.images.push((i.to_string(), super::beside(&[lq, out, &sample.gt])));
    }
    let n = samples.len() as f64;
    if !samples.is_empty() {
        findings.scalars = vec![("psnr".into(), after / n), ("psnr_input".into(), before / n)];
    }
    Ok(findings)
}

/// The features of a sample's caption.
fn caption(sample: &Sample) -> Option<CaptionFeatures> {
    let [(FEATURES, features), (LENGTH, length)] = sample.tensors.as_slice() else { return None };
    let (tokens, length) = (features.shape()[0], length.to_i64()[0] as usize);
    let mask = (0..tokens).map(|i| i64::from(i < length)).collect();
    Some(CaptionFeatures { feature: features.clone(), mask })
}

/// Pairs with the features of their captions.
struct Captioned {
    paired: Paired,
    features: Vec<PathBuf>,
    /// Tokens and channels of a caption.
    shape: [usize; 2],
}

impl Captioned {
    fn open(root: &Path, crop: Crop, cache: usize, shape: [usize; 2]) -> Result<Self> {
        let paired = Paired::open(root, crop, cache)?;
        let features = paired.companions("npz", "npz")?;
        Ok(Captioned { paired, features, shape })
    }
}

impl Source for Captioned {
    fn len(&self) -> usize {
        self.paired.len()
    }

    fn name(&self, index: usize) -> String {
        self.paired.name(index)
    }

    fn sample(&self, index: usize, draws: &Draws) -> Result<Sample> {
        let path = &self.features[index];
        let caption = CaptionFeatures::open(path)?;
        let [tokens, channels] = self.shape;
        if caption.feature.shape() != self.shape {
            return Err(Error::file(
                path,
                format!(
                    "expected features of {tokens} tokens and {channels} channels (model_max_length and \
                     caption_channels), found {:?}",
                    caption.feature.shape()
                ),
            ));
        }
        let length = caption.mask.iter().take_while(|&&m| m == 1).count();
        if length == 0 || caption.mask[length..].iter().any(|&m| m != 0) {
            return Err(Error::file(
                path,
                "expected an attention_mask of ones followed by zeros, found another",
            ));
        }
        let mut sample = self.paired.sample(index, draws)?;
        let length = HostTensor::from_i64([1], vec![length as i64]);
        sample.tensors = vec![(FEATURES, caption.feature), (LENGTH, length)];
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timesteps_are_those_to_be_learned_each_as_often() {
        for timesteps in [1, 400, TIMESTEPS] {
            let drawn: Vec<i64> = (0..20_000).map(|number| timestep(5, number, timesteps)).collect();
            assert!(drawn.iter().all(|t| (0..timesteps as i64).contains(t)));
            let mean = drawn.iter().sum::<i64>() as f64 / drawn.len() as f64;
            let (expected, deviation) = ((timesteps - 1) as f64 / 2.0, timesteps as f64 / 12f64.sqrt());
            // Five standard deviations of the mean.
            assert!(
                (mean - expected).abs() <= 5.0 * deviation / (drawn.len() as f64).sqrt(),
                "{timesteps}: {mean}"
            );
        }
    }
}
