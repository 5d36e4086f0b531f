//! What differs between the networks that are trained: which samples, how they become the tensors of a batch, and
//! what a validation looks at. [`run`](mod@crate::train::run) does the rest.

use serde_json::Value;

use super::config::Config;
use super::objective::Objective;
use super::settings::Settings;
use crate::data::dataset::{Crop, Degrade, Draws, Paired, Photos, Place, Sample, Source};
use crate::data::degrade::Degradation;
use crate::data::pixels::FloatImage;
use crate::device::Device;
use crate::diffusion::Noise;
use crate::graph::{Executable, Graph, Plan, passes};
use crate::ops::fuse;
use crate::tensor::HostTensor;
use crate::text::features::CaptionFeatures;
use crate::weights::WeightSet;
use crate::{Error, Result};

pub mod autoencoder;
pub mod classifier;
pub mod dreamclear;
pub mod frozen;
mod latents;
pub mod swinir;

/// Tensors of a micro-batch by the names that the objective declares.
pub type Inputs = Vec<(&'static str, HostTensor)>;

/// What a validation found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Numbers by name.
    pub scalars: Vec<(String, f64)>,
    /// Pictures by name.
    pub images: Vec<(String, FloatImage)>,
}

/// A low-quality picture, as a validation has it restored.
pub struct Subject<'a> {
    /// Its noise is keyed by this, as by a file's name in `dreamclear restore`.
    pub name: String,
    /// RGB in 0..1.
    pub picture: &'a FloatImage,
    /// Features of its caption; `None`: the null caption.
    pub caption: Option<CaptionFeatures>,
}

/// Makes pictures with a network that is being trained. Training knows no pipeline: who starts a run has one
/// (`cli/train_pictures.rs`).
pub trait Restore {
    /// The pictures as these weights restore them, of the same sizes, RGB in 0..1.
    ///
    /// # Errors
    /// `Error::OutOfMemory` beside what training takes; `Error::Interrupted`; a result that is not finite.
    fn restore(&mut self, weights: &WeightSet, pictures: &[Subject<'_>]) -> Result<Vec<FloatImage>>;
}

/// One kind of training.
pub trait Trainer {
    /// The stem of the exported files.
    fn name(&self) -> &'static str;

    /// The network's hyper-parameters under their official names, for the file beside exported weights.
    fn hyper_parameters(&self) -> &Value;

    /// The network with its loss.
    fn objective(&self) -> &dyn Objective;

    /// What it begins with.
    fn weights(&self) -> &WeightSet;

    /// The training set.
    ///
    /// # Errors
    /// If it cannot be found.
    fn source(&self) -> Result<Box<dyn Source>>;

    /// A micro-batch of samples, each with its number, as tensors.
    ///
    /// # Errors
    /// If a frozen network fails on them.
    fn inputs(&mut self, samples: &[(u64, Sample)]) -> Result<Inputs>;

    /// Lets validations show pictures, where one step of the trained network makes none.
    fn restore_with(&mut self, _restore: Box<dyn Restore>) {}

    /// What the network does with validation samples under these weights; `None` where there are none.
    ///
    /// # Errors
    /// If samples cannot be read or a result is not finite.
    fn validate(&mut self, weights: &WeightSet) -> Result<Option<Findings>>;
}

/// The trainers: name, shipped settings.
pub const TRAINERS: [(&str, &str); 4] = [
    ("swinir", include_str!("../settings/swinir.toml")),
    ("autoencoder", include_str!("../settings/autoencoder.toml")),
    ("dreamclear", include_str!("../settings/dreamclear.toml")),
    ("classifier", include_str!("../settings/classifier.toml")),
];

/// The shipped settings of a trainer.
///
/// # Errors
/// `Error::Usage` listing the names that there are.
pub fn shipped(name: &str) -> Result<Settings> {
    match TRAINERS.iter().find(|(n, _)| *n == name) {
        Some((_, text)) => Ok(Settings::shipped(text)),
        None => {
            let names: Vec<_> = TRAINERS.iter().map(|(n, _)| *n).collect();
            Err(Error::Usage(format!("there is no trainer \"{name}\"; expected one of {}", names.join(", "))))
        }
    }
}

/// Makes a trainer ready for micro-batches of so many samples.
///
/// # Errors
/// If its settings make no sense, or files that they name cannot be read.
pub fn open(name: &str, settings: &Settings, device: &Device) -> Result<Box<dyn Trainer>> {
    Ok(match name {
        "swinir" => Box::new(swinir::SwinIrTrainer::open(settings, device)?),
        "autoencoder" => Box::new(autoencoder::AutoencoderTrainer::open(settings, device)?),
        "classifier" => Box::new(classifier::ClassifierTrainer::open(settings, device)?),
        "dreamclear" => Box::new(dreamclear::DreamClearTrainer::open(settings, device)?),
        other => {
            return Err(shipped(other)
                .err()
                .unwrap_or_else(|| Error::Run(format!("{other} does not train"))));
        }
    })
}

/// The pairs or photos that two settings name; crops of them, degraded where `degrade` is given.
fn pictures(
    section: &str,
    photos: &[std::path::PathBuf],
    paired: &std::path::Path,
    crop: Crop,
    cache: usize,
    degrade: Option<Degrade>,
) -> Result<Box<dyn Source>> {
    match (photos.is_empty(), paired.as_os_str().is_empty()) {
        (false, true) => {
            let photos = Photos::open(photos, crop, cache)?;
            for failure in photos.failed() {
                tracing::warn!("{section}.photos: {}", failure.reason);
            }
            Ok(match degrade {
                Some(degrade) => Box::new(photos.degraded(degrade)),
                None => Box::new(photos),
            })
        }
        (true, false) => Ok(Box::new(Paired::open(paired, crop, cache)?)),
        (true, true) => Err(Error::Usage(format!(
            "{section}: there is nothing to learn from; give {section}.photos (folders, lists, archives) or \
             {section}.paired (a folder with gt/ and sr_bicubic/)"
        ))),
        (false, false) => Err(Error::Usage(format!(
            "{section}: give either {section}.photos or {section}.paired, not both"
        ))),
    }
}

/// The training set of the common settings.
fn training_set(config: &Config, degrade: Option<Degrade>) -> Result<Box<dyn Source>> {
    let d = &config.data;
    let crop = Crop { size: d.crop, place: d.place, flip: d.flip };
    pictures("data", &d.photos, &d.paired, crop, d.cache_mib << 20, degrade)
}

/// The samples that a validation looks at: always the same ones.
fn validation_samples(config: &Config, degrade: Option<Degrade>) -> Result<Vec<Sample>> {
    let (v, d) = (&config.validation, &config.data);
    if v.photos.is_empty() && v.paired.as_os_str().is_empty() {
        return Ok(Vec::new());
    }
    let place = if v.photos.is_empty() { Place::Random } else { d.place };
    let crop = Crop { size: d.crop, place, flip: false };
    first_samples(&*pictures("validation", &v.photos, &v.paired, crop, 0, degrade)?, v.pictures)
}

/// The samples of a source's first items, always cut and degraded in the same way.
fn first_samples(source: &dyn Source, most: usize) -> Result<Vec<Sample>> {
    (0..source.len().min(most)).map(|i| source.sample(i, &Draws::fixed(i))).collect()
}

/// A pair made of one picture by a degradation under a sample's draws.
fn degraded(
    degradation: &Degradation,
    picture: &FloatImage,
    draws: &Draws,
) -> Result<(FloatImage, FloatImage)> {
    // The degradation counts passes in 24 bits; longer runs see its draws again.
    let drawn = degradation.draw(draws.seed, (draws.epoch & 0xff_ffff) as u32, draws.index);
    let pair = degradation.apply(&drawn, picture)?;
    Ok((pair.gt, pair.sr_bicubic))
}

/// The weights that `model.weights` names, or `initial`'s.
fn first_weights(path: &std::path::Path, initial: impl FnOnce() -> WeightSet) -> Result<WeightSet> {
    if path.as_os_str().is_empty() { Ok(initial()) } else { WeightSet::open(path) }
}

/// Pictures of one size as `[B, 3, H, W]`.
fn nchw<'a>(pictures: impl ExactSizeIterator<Item = &'a FloatImage>) -> HostTensor {
    let (batch, mut size, mut data) = (pictures.len(), [0; 2], Vec::new());
    for picture in pictures {
        size = [picture.height, picture.width];
        for c in 0..picture.channels {
            data.extend(picture.data[c..].iter().step_by(picture.channels));
        }
    }
    HostTensor::from_f32([batch, 3, size[0], size[1]], data)
}

/// A graph with these weights, ready to run: of a frozen network, or of the trained one for a look.
fn executable(mut graph: Graph, weights: &WeightSet, device: &Device) -> Result<Executable> {
    passes::run(&mut graph, fuse::RULES, None)?;
    fuse::for_target(&mut graph, device)?;
    let plan = Plan::new(graph, device)?;
    Executable::new(plan, device.clone(), |key| weights.get(key).cloned())
}

/// A picture of 0..1 in −1..1, values beyond that clipped.
fn centred(picture: &FloatImage) -> FloatImage {
    let data = picture.data.iter().map(|x| (2.0 * x - 1.0).clamp(-1.0, 1.0)).collect();
    FloatImage::new(picture.height, picture.width, picture.channels, data)
}

/// A picture of −1..1 in 0..1, values beyond that clipped.
fn from_centred(picture: &FloatImage) -> FloatImage {
    let data = picture.data.iter().map(|x| (0.5 * x + 0.5).clamp(0.0, 1.0)).collect();
    FloatImage::new(picture.height, picture.width, picture.channels, data)
}

/// Normal noise for each sample, keyed by its number and by what it is for.
fn noise(seed: u64, purpose: &str, samples: &[(u64, Sample)], shape: &[usize]) -> HostTensor {
    let mut values = vec![0.0; shape.iter().product()];
    let each = values.len() / samples.len();
    let key = seed ^ crate::diffusion::image_key(purpose);
    for ((number, _), values) in samples.iter().zip(values.chunks_exact_mut(each)) {
        Noise::new(key, *number).fill(0, values);
    }
    HostTensor::from_f32(shape, values)
}

/// The one picture of `[1, 3, H, W]`.
fn picture(tensor: &HostTensor) -> FloatImage {
    let [1, 3, height, width] = *tensor.shape() else { panic!("one picture, found {:?}", tensor.shape()) };
    let values = tensor.to_f32();
    let pixels = height * width;
    let data = (0..pixels).flat_map(|p| values[p..].iter().step_by(pixels).copied()).collect();
    FloatImage::new(height, width, 3, data)
}

/// The low-quality picture of a sample of pairs.
fn low_quality(sample: &Sample) -> &FloatImage {
    sample.lq.as_ref().expect("pairs have both pictures")
}

/// Peak signal-to-noise ratio in decibels of pictures in 0..1, values beyond that clipped.
fn psnr(a: &FloatImage, b: &FloatImage) -> f64 {
    let clip = |x: &f32| f64::from(x.clamp(0.0, 1.0));
    let squares: f64 = a.data.iter().zip(&b.data).map(|(x, y)| (clip(x) - clip(y)).powi(2)).sum();
    -10.0 * libm::log10(squares / a.data.len() as f64)
}

/// Pictures of equal height side by side.
fn beside(pictures: &[&FloatImage]) -> FloatImage {
    let (height, width) = (pictures[0].height, pictures.iter().map(|p| p.width).sum());
    let rows = (0..height).flat_map(|y| pictures.iter().flat_map(move |p| p.row(y).iter().copied()));
    FloatImage::new(height, width, 3, rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_settings_fit_their_types() {
        for (name, _) in TRAINERS {
            let settings = shipped(name).unwrap();
            let config = Config::read(&settings).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(config.batches(1).is_ok());
        }
        let e = shipped("swin").unwrap_err().to_string();
        assert!(e.contains("expected one of swinir"), "{e}");
    }

    #[test]
    fn pictures_go_and_come_back() {
        let a = FloatImage::new(1, 2, 3, vec![0., 1., 2., 3., 4., 5.]);
        let tensor = nchw([&a].into_iter());
        assert_eq!(tensor.to_f32().as_ref(), [0., 3., 1., 4., 2., 5.]);
        assert_eq!(picture(&tensor), a);
        assert_eq!(beside(&[&a, &a]).data.len(), 12);
    }

    #[test]
    fn psnr_is_that_of_the_definition() {
        let a = FloatImage::new(1, 1, 3, vec![0.5, 0.5, 1.2]);
        let b = FloatImage::new(1, 1, 3, vec![0.6, 0.5, 1.0]);
        // One of three values differs by 0.1; 1.2 counts as 1.
        assert!((psnr(&a, &b) - -10.0 * (0.01f64 / 3.0).log10()).abs() < 1e-5);
        assert_eq!(psnr(&a, &a), f64::INFINITY);
    }
}
