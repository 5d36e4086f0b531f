//! The pictures of `train dreamclear`'s validations: what `dreamclear restore` would make with the weights as they are.

use serde::Deserialize;
use serde_json::Value;

use crate::cancel::Cancel;
use crate::data::color_fix::ColorFix;
use crate::data::image::{Channels, Photo, Samples};
use crate::data::pixels::{FloatImage, Rounding};
use crate::data::resize::restore_sizes;
use crate::device::Device;
use crate::diffusion::schedule::Span;
use crate::error::{Error, Result};
use crate::pipelines::batch::{Job, Restorer};
use crate::pipelines::dreamclear::captions::Source;
use crate::pipelines::dreamclear::components::{Sources, Trained};
use crate::pipelines::dreamclear::{DreamClearRestorer, FACTOR, Settings, denoise};
use crate::train::config;
use crate::train::settings::Settings as RunSettings;
use crate::train::trainers::frozen::Frozen;
use crate::train::trainers::{Restore, Subject};
use crate::weights::WeightSet;

/// Timesteps of the schedule.
const TIMESTEPS: usize = 1000;

/// Restores validation pictures by the whole pipeline, which is opened for each validation and leaves nothing in memory
/// between them.
pub struct Pictures {
    frozen: Frozen,
    hyper_parameters: Value,
    settings: Settings,
    device: Device,
    cancel: Cancel,
}

/// The settings of a run that say how pictures are made.
#[derive(Deserialize)]
struct Sections {
    seed: u64,
    frozen: Frozen,
    data: Data,
    diffusion: Diffusion,
    validation: Validation,
}

#[derive(Deserialize)]
struct Data {
    crop: usize,
}

#[derive(Deserialize)]
struct Diffusion {
    timesteps: usize,
}

#[derive(Deserialize)]
struct Validation {
    show: usize,
    sampler: String,
    sampler_steps: usize,
    walk_from: usize,
    cfg: f32,
    start_point: usize,
}

impl Pictures {
    /// As the settings of a run of `train dreamclear` say; `None` where they want no pictures.
    ///
    /// # Errors
    /// `Error::Usage` for a sampler or numbers that make no sense, or an autoencoder that the pipeline does not take.
    pub fn open(run: &RunSettings, device: &Device, cancel: &Cancel) -> Result<Option<Self>> {
        let Sections { seed, frozen, data: Data { crop }, diffusion: learned, validation: v } = run.read()?;
        if v.show == 0 {
            return Ok(None);
        }
        let span = Span { first: v.walk_from, calls: v.sampler_steps };
        crate::diffusion::sampler::from_name(&v.sampler, span)?;
        if v.walk_from >= learned.timesteps {
            return Err(Error::Usage(format!(
                "validation.walk_from: expected a timestep below diffusion.timesteps = {}, since later ones are not \
                 learned, found {}; set it lower, or validation.show = 0 for losses only",
                learned.timesteps, v.walk_from
            )));
        }
        if v.start_point >= TIMESTEPS || !v.cfg.is_finite() {
            return Err(Error::Usage(format!(
                "validation: expected a start_point of 0 to {} and a finite cfg, found {} and {}",
                TIMESTEPS - 1,
                v.start_point,
                v.cfg
            )));
        }
        let working = restore_sizes((crop, crop), 1.0, 1)?.working;
        let untiled = (working.0 / FACTOR, working.1 / FACTOR);
        let settings = Settings {
            upscale: 1.0,
            min_size: 1,
            denoise: denoise::Settings {
                sampler: v.sampler,
                span,
                cfg: v.cfg,
                guided: None,
                // The latent runs whole, as in training.
                tile: (untiled.0.max(untiled.1), 0),
                untiled,
            },
            start_point: Some(v.start_point),
            color_fix: ColorFix::Wavelet,
            residual: false,
            rounding: Rounding::HalfEven,
            seed,
            negative: None,
            caption_fallback: false,
            batch: 1,
            tile_batch: None,
            memory: None,
            matrices: None,
        };
        let (_, hyper_parameters) = config::model(run)?;
        let pictures =
            Pictures { frozen, hyper_parameters, settings, device: device.clone(), cancel: cancel.clone() };
        pictures.check()?;
        Ok(Some(pictures))
    }

    /// Whether the pipeline takes the autoencoder: better before the first update than at the first validation.
    fn check(&self) -> Result<()> {
        let (vae, _) = self.sources(WeightSet::from_tensors([])).vae()?;
        if (vae.latent_channels, vae.factor()) == (denoise::LATENT, FACTOR) {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "validation.show: pictures are restored with a frozen.vae of {} channels at 1/{FACTOR} of the size, found \
             one of {} at 1/{}; set validation.show = 0 for losses only",
            denoise::LATENT,
            vae.latent_channels,
            vae.factor()
        )))
    }

    fn sources(&self, weights: WeightSet) -> Sources {
        let scale = self.frozen.latent_scale;
        Sources::trained(Trained {
            weights,
            config: self.hyper_parameters.clone(),
            swinir: self.frozen.swinir.clone(),
            vae: self.frozen.vae.clone(),
            latent_scale: (scale > 0.0).then_some(scale),
        })
    }
}

impl Restore for Pictures {
    fn restore(&mut self, weights: &WeightSet, pictures: &[Subject<'_>]) -> Result<Vec<FloatImage>> {
        let captions = pictures.iter().filter_map(|p| Some((p.name.clone(), p.caption.clone()?))).collect();
        let (sources, captions) = (self.sources(weights.clone()), Source::Ready(captions));
        let (settings, device) = (self.settings.clone(), self.device.clone());
        let mut restorer = DreamClearRestorer::new(sources, captions, settings, device)?;
        let restored = |subject: &Subject| {
            let photo = photo(subject.picture)?;
            let (name, cancel) = (subject.name.as_str(), &self.cancel);
            let job = Job { name, photo: &photo, prepared: None, cancel, progress: &|_| {} };
            Ok(restorer.restore(&job)?.photo.rgb_f32())
        };
        pictures.iter().map(restored).collect()
    }
}

/// The picture with the 16 bits of a channel that keep what the network was shown.
fn photo(picture: &FloatImage) -> Result<Photo> {
    let (height, width) = (picture.height, picture.width);
    let blank = Photo::new(height, width, Channels::Rgb, Samples::U16(vec![0; 3 * height * width]));
    blank.with_pixels(picture, None, Rounding::HalfEven)
}
