//! DreamClear from photo to photo: enlarge → SwinIR → autoencoder → denoising steered by the
//! picture and its caption → autoencoder → colour fix → output size.
//!
//! Defaults are the official numbers to the last bit that floating point allows; each deviation
//! is an option. Everything random comes from (seed, picture name, step, element), so a picture's
//! bytes depend neither on its neighbours nor on batch, tiles in a launch, threads or shard.

pub mod captions;
pub mod components;
pub mod denoise;
pub mod memory;
pub mod noise;

use std::time::Instant;

use serde_json::{Map, json};

use self::captions::{Caption, Found, Source, TextEncoder};
use self::components::Sources;
use self::denoise::{Denoised, Denoiser, LATENT, Subject, Text};
use self::memory::{Budget, PictureMemory};
use self::noise::NoiseSource;
use super::batch::{Finish, Job, Prepared, Preparer, Restored, Restorer};
use super::device_image::{DeviceImage, UNBOUNDED};
use super::tiled::{TiledNetwork, Watch};
use super::vae::VaeRunner;
use crate::data::color_fix::ColorFix;
use crate::data::image::{Channels, Photo, Samples};
use crate::data::pixels::{FloatImage, Rounding};
use crate::data::resize::{Sizes, bicubic_antialias, bicubic_torch, photo_alpha, photo_rgb, restore_sizes};
use crate::device::Device;
use crate::device::kernel::Mark;
use crate::diffusion::{Noise, Schedule, image_key};
use crate::error::{Error, Result};
use crate::graph::Workspace;
use crate::tensor::{DType, HostTensor};
use crate::text::features::CaptionFeatures;
use crate::trace;
use crate::weights::WeightSet;

/// Pixels of the picture that one latent pixel stands for, along each axis.
pub const FACTOR: usize = 8;

/// What the user may choose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Output pixels per input pixel.
    pub upscale: f64,
    /// Shorter side of the working size.
    pub min_size: usize,
    /// The loop.
    pub denoise: denoise::Settings,
    /// Start from the noised reference latent (LRE) at this timestep; `None`: from pure noise.
    pub start_point: Option<usize>,
    /// Colours.
    pub color_fix: ColorFix,
    /// Whether what denoising changed, the difference of the two decoded latents, is added to the reference, instead
    /// of taking the decoded picture: then what the autoencoder cannot hold of the reference stays.
    pub residual: bool,
    /// How results become integers.
    pub rounding: Rounding,
    /// Seed of all noise.
    pub seed: u64,
    /// Text of the other half of the guidance, instead of the null caption.
    pub negative: Option<String>,
    /// Whether a caption that cannot be had becomes the null caption.
    pub caption_fallback: bool,
    /// Pictures that are denoised together.
    pub batch: usize,
    /// Latent parts in one launch; `None`: as many as the memory allows.
    pub tile_batch: Option<usize>,
    /// Memory of the whole process, or of a device that has its own; `None`: what the stages want and the
    /// device has free.
    pub memory: Option<usize>,
    /// Element type of the large weights; `None`: as the files store them.
    pub matrices: Option<DType>,
}

/// Intermediates of a run by name, for `--dump`.
pub type Dump = Vec<(String, HostTensor)>;

/// A [`Restorer`] around the whole pipeline.
pub struct DreamClearRestorer {
    settings: Settings,
    sources: Sources,
    captions: Source,
    swinir: TiledNetwork,
    vae: VaeRunner,
    denoiser: Denoiser,
    text: TextEncoder,
    /// The null caption's features.
    null: HostTensor,
    negative: Option<CaptionFeatures>,
    budget: Budget,
    replay: Option<NoiseSource>,
    dump: Option<Dump>,
    identity: String,
}

/// What one picture carries through the stages.
struct Picture {
    sizes: Sizes,
    pre: FloatImage,
    /// The same in device memory, if it came to be there.
    pre_on_device: Option<DeviceImage>,
    latent_lq: HostTensor,
    latent_pre: HostTensor,
    caption: Caption,
    text: Text,
    noise: NoiseSource,
    start: Vec<f32>,
    seconds: Map<String, serde_json::Value>,
    notes: Vec<String>,
}

impl DreamClearRestorer {
    /// Opens and checks all networks but the text encoder, which is opened when a caption asks.
    pub fn new(sources: Sources, captions: Source, settings: Settings, device: Device) -> Result<Self> {
        let workspace = Workspace::new();
        let swinir = sources.swinir()?;
        let (vae, vae_weights) = sources.vae()?;
        let (model, weights) = sources.dreamclear()?;
        let null = match weights.get(NULL_CAPTION) {
            Some(t) => t.cast(DType::F32),
            None => {
                return Err(Error::file(
                    weights.path(),
                    format!("expected the null caption \"{NULL_CAPTION}\""),
                ));
            }
        };
        let identity = [&swinir.weights, &vae_weights, &weights]
            .map(|w| format!("{}:{} tensors:{} bytes", w.path().display(), w.len(), w.bytes()))
            .join(" ");
        let (matrices, weights) = prepare(weights, settings.matrices);
        let denoiser = Denoiser::new(model, weights, matrices, device.clone(), workspace.clone());
        let swinir =
            TiledNetwork::new(swinir, None, None, usize::MAX, device.without_f16(), workspace.clone())?;
        let vae = VaeRunner::new(vae, vae_weights, device.without_f16(), workspace.clone(), usize::MAX)?;
        let text = TextEncoder::new(device, workspace, settings.matrices);
        if vae.config().latent_channels != LATENT || vae.config().factor() != FACTOR {
            return Err(Error::Usage(format!(
                "DreamClear needs an autoencoder of {LATENT} latent channels at 1/{FACTOR} size, found {} at 1/{}",
                vae.config().latent_channels,
                vae.config().factor()
            )));
        }
        let restorer = DreamClearRestorer {
            budget: Budget::default(),
            negative: None,
            replay: None,
            dump: None,
            settings,
            sources,
            captions,
            swinir,
            vae,
            denoiser,
            text,
            null,
            identity,
        };
        if restorer.needs_t5() && !restorer.sources.has_t5() {
            return Err(Error::Usage(
                "captions need the text encoder: name it by --t5, or give ready features by --caption-features, or \
                 no caption at all"
                    .into(),
            ));
        }
        Ok(restorer)
    }

    /// Whether some text will have to be encoded.
    fn needs_t5(&self) -> bool {
        self.settings.negative.is_some()
            || !matches!(self.captions, Source::Null | Source::Features(_) | Source::Ready(_))
    }

    /// Uses the noise of a file instead of drawing it: for one picture.
    pub fn replay(&mut self, noise: NoiseSource) {
        self.replay = Some(noise);
    }

    /// Keeps every intermediate of the next picture.
    pub fn keep_intermediates(&mut self) {
        self.dump = Some(Dump::new());
    }

    /// The intermediates kept so far.
    pub fn take_intermediates(&mut self) -> Dump {
        self.dump.take().unwrap_or_default()
    }

    fn keep(&mut self, name: &str, tensor: impl FnOnce() -> HostTensor) {
        if let Some(dump) = &mut self.dump {
            dump.push((name.to_owned(), tensor()));
        }
    }

    /// What pictures of these sizes, restored together, take.
    pub fn memory(&mut self, inputs: &[(usize, usize)]) -> Result<PictureMemory> {
        memory::plan(self, inputs)
    }

    /// Sizes of a picture on its way.
    fn sizes(&self, input: (usize, usize)) -> Result<Sizes> {
        restore_sizes(input, self.settings.upscale, self.settings.min_size)
    }

    /// Everything up to the start of the loop.
    fn before(&mut self, job: &Job<'_>) -> Result<Picture> {
        let mut clock = Clock::new("resize");
        let mut notes = Vec::new();
        let ready = |p: &Prepared| p.downcast_ref::<Enlarged>().cloned();
        let Enlarged { sizes, lq, seconds: resizing } = match job.prepared.and_then(ready) {
            Some(enlarged) => enlarged,
            None => Enlarged::new(job.photo, self.settings.upscale, self.settings.min_size)?,
        };
        let (h, w) = sizes.working;
        self.keep("img_lq_u8", || planar_u8(&lq));
        clock.next("swinir");
        // Where it was enlarged ahead of time, it took that.
        clock.laps.insert("resize".into(), json!(resizing));

        let tiling = self.swinir.tiling((h, w))?;
        notes.extend(tiling.note().map(|n| format!("SwinIR: {n}")));
        let quiet = |_: f32| {};
        let watch = Watch { cancel: job.cancel, progress: &quiet };
        // Pictures stay in device memory from one network to the next where each runs whole.
        let kernels =
            self.denoiser.device().as_kernels().filter(|_| self.swinir.runs_on_device(&tiling, (h, w)));
        let mut on_device = match kernels.map(|k| k.device.clone()) {
            Some(device) => {
                let lq = DeviceImage::upload(&device, &lq)?;
                let mut pre = self.swinir.run_on_device(&lq, &tiling, watch)?;
                pre.map(1.0, 0.0, 0.0..=1.0)?;
                Some((lq, pre))
            }
            None => None,
        };
        let pre = match &on_device {
            Some((_, pre)) => pre.read(&*pre.mark()?)?,
            None => {
                let mut pre = self.swinir.run(lq.clone(), &tiling, watch)?;
                pre.data.iter_mut().for_each(|x| *x = x.clamp(0.0, 1.0));
                pre
            }
        };
        self.keep("img_pre", || planar(&pre));
        clock.next("caption");

        let reference = photo_of(&pre, Rounding::Truncate);
        let caption =
            self.captions.caption(job.name, &reference, self.settings.caption_fallback, job.cancel)?;
        notes.extend(caption.note.clone());
        clock.next("text");
        let text = self.text_of(&caption, job)?;
        clock.next("encode");

        let (device_lq, pre_on_device) = on_device.take().unzip();
        let latent_lq = self.encode(&lq, device_lq.as_ref(), watch)?;
        drop(device_lq);
        let latent_pre = self.encode(&pre, pre_on_device.as_ref(), watch)?;
        self.keep("latent_lq", || latent_lq.clone());
        self.keep("latent_pre", || latent_pre.clone());
        let seconds = clock.into_map();

        let noise = match self.replay.take() {
            Some(noise) => noise,
            None => NoiseSource::Drawn(Noise::new(self.settings.seed, image_key(job.name))),
        };
        let drawn = noise.start(latent_pre.len())?;
        let start = match self.settings.start_point {
            Some(t) => Schedule::dreamclear().q_sample(&latent_pre.to_f32(), t, &drawn),
            None => drawn,
        };
        let shape = [1, LATENT, h / FACTOR, w / FACTOR];
        // The pair of the guidance starts alike.
        self.keep("z_T", || {
            HostTensor::from_f32([2, shape[1], shape[2], shape[3]], [&start[..], &start].concat())
        });
        Ok(Picture {
            sizes,
            pre,
            pre_on_device,
            latent_lq,
            latent_pre,
            caption,
            text,
            noise,
            start,
            seconds,
            notes,
        })
    }

    /// Scaled latent `[1, 4, h, w]` of a picture in 0..1, which may be in device memory too.
    fn encode(
        &mut self,
        image: &FloatImage,
        on_device: Option<&DeviceImage>,
        watch: Watch,
    ) -> Result<HostTensor> {
        let whole = match on_device {
            Some(image) => self.vae.encode_mode_on_device(&image.mapped(2.0, -1.0)?, watch)?,
            None => None,
        };
        let mode = match whole {
            Some(mode) => mode,
            None => {
                let signed = image.data.iter().map(|x| 2.0 * x - 1.0).collect();
                self.vae.encode_mode(&FloatImage::new(image.height, image.width, 3, signed), watch)?
            }
        };
        Ok(HostTensor::from_f32(mode.shape(), self.vae.config().scaled(&mode.to_f32())))
    }

    fn text_of(&mut self, caption: &Caption, job: &Job<'_>) -> Result<Text> {
        let tokens = self.null.shape()[0];
        if let (Some(negative), None) = (&self.settings.negative, &self.negative) {
            self.negative = Some(self.text.encode(&self.sources, negative, tokens, job.cancel)?);
        }
        let encoded;
        let features = match &caption.found {
            Found::Null => None,
            Found::Features(features) => Some(features),
            Found::Text(text) => {
                encoded = self.text.encode(&self.sources, text, tokens, job.cancel)?;
                Some(&encoded)
            }
        };
        captions::pair(features, self.negative.as_ref(), &self.null)
    }

    /// From the denoised latent to the decoded picture, and how that becomes the photo.
    fn after(
        &mut self,
        job: &Job<'_>,
        picture: Picture,
        denoised: Denoised,
        denoising: f64,
    ) -> Result<Finish> {
        let Picture { sizes, pre, pre_on_device, caption, text, mut seconds, mut notes, latent_pre, .. } =
            picture;
        let clock = Clock::new("decode");
        let shape = latent_pre.shape().to_vec();
        let Denoised { latent, other } = denoised;
        let other = other.unwrap_or_default();
        let halves = 1 + usize::from(!other.is_empty());
        let samples = [halves, shape[1], shape[2], shape[3]];
        self.keep("samples", || HostTensor::from_f32(samples, [&latent[..], &other].concat()));
        self.keep("latent_out", || HostTensor::from_f32(shape.clone(), latent.clone()));
        let unscaled = HostTensor::from_f32(shape, self.vae.config().unscaled(&latent));
        let watch = Watch { cancel: job.cancel, progress: &|_| {} };
        let color_fix = self.settings.color_fix;
        // Intermediates that are kept are the host's.
        let on_host = self.dump.is_some() || self.settings.residual;
        let reference = pre_on_device.filter(|_| !on_host);
        let decoded = match reference {
            Some(reference) => self.vae.decode_on_device(&unscaled, watch)?.map(|image| (image, reference)),
            None => None,
        };
        let (image, fixed) = match decoded {
            Some((mut image, reference)) => {
                image.map(0.5, 0.5, UNBOUNDED)?;
                let fixed = color_fix == ColorFix::Wavelet;
                if fixed {
                    image.fix_colors(reference)?;
                }
                (Pixels::OnDevice(image.mark()?, image), fixed)
            }
            None => {
                let mut image = self.vae.decode(&unscaled, watch)?;
                self.keep("decoded", || planar(&image));
                if self.settings.residual {
                    let unscaled = self.vae.config().unscaled(&latent_pre.to_f32());
                    let unscaled = HostTensor::from_f32(latent_pre.shape(), unscaled);
                    let before = self.vae.decode(&unscaled, watch)?;
                    self.keep("decoded_pre", || planar(&before));
                    for ((x, before), pre) in image.data.iter_mut().zip(before.data).zip(&pre.data) {
                        *x = pre + (*x - before) / 2.0;
                    }
                } else {
                    image.data.iter_mut().for_each(|x| *x = (*x + 1.0) / 2.0);
                }
                (Pixels::OnHost(image), false)
            }
        };
        seconds.insert("denoise".into(), json!(denoising));
        seconds.extend(clock.into_map());
        let words = match &caption.found {
            Found::Text(text) => Some(text.clone()),
            _ => None,
        };
        if matches!(caption.found, Found::Null) && caption.note.is_none() && self.settings.denoise.cfg != 1.0
        {
            notes.push("no caption: both halves of the guidance use the null caption".into());
        }
        let size = |(h, w): (usize, usize)| json!([w, h]);
        let details = json!({
            "seed": self.settings.seed,
            "caption": words,
            "caption_source": caption.source,
            "caption_tokens": text.lengths[0],
            "working_size": size(sizes.working),
            "latent_size": size((sizes.working.0 / FACTOR, sizes.working.1 / FACTOR)),
        });
        let details = details.as_object().cloned().unwrap_or_default();
        let mut last = Last {
            image,
            pre,
            color_fix,
            fixed,
            rounding: self.settings.rounding,
            output: sizes.output,
            seconds,
            notes,
            details,
        };
        if self.dump.is_some() {
            let image = last.colors()?;
            self.keep("color_fixed", || planar(&image));
            (last.image, last.fixed) = (Pixels::OnHost(image), true);
        }
        Ok(Box::new(move |input| last.finish(input)))
    }
}

/// A picture as the loop sees it, made on the thread that loads.
#[derive(Clone)]
struct Enlarged {
    sizes: Sizes,
    lq: FloatImage,
    seconds: f64,
}

impl Enlarged {
    fn new(photo: &Photo, upscale: f64, min_size: usize) -> Result<Self> {
        let start = Instant::now();
        let sizes = restore_sizes((photo.height, photo.width), upscale, min_size)?;
        let lq = photo_rgb(photo, sizes.working.0, sizes.working.1);
        Ok(Enlarged { sizes, lq, seconds: start.elapsed().as_secs_f64() })
    }
}

/// A picture on the host, or in device memory when a mark is reached.
enum Pixels {
    OnHost(FloatImage),
    OnDevice(Box<dyn Mark>, DeviceImage),
}

/// What the thread that writes does to a decoded picture: colours, size, integers.
struct Last {
    image: Pixels,
    pre: FloatImage,
    color_fix: ColorFix,
    fixed: bool,
    rounding: Rounding,
    output: (usize, usize),
    seconds: Map<String, serde_json::Value>,
    notes: Vec<String>,
    details: Map<String, serde_json::Value>,
}

impl Last {
    /// The picture with the reference's colours, taken out.
    fn colors(&mut self) -> Result<FloatImage> {
        let taken = std::mem::replace(&mut self.image, Pixels::OnHost(FloatImage::zeros(0, 0, 3)));
        let mut image = match taken {
            Pixels::OnHost(image) => image,
            Pixels::OnDevice(mark, image) => image.read(&*mark)?,
        };
        let clock = Clock::new("color_fix");
        if !self.fixed {
            image = self.color_fix.apply(image, &self.pre);
        }
        self.seconds.extend(clock.into_map());
        Ok(image)
    }

    fn finish(mut self, input: &Photo) -> Result<Restored> {
        let mut image = self.colors()?;
        let Last { pre, rounding, output: (h, w), mut seconds, notes, mut details, .. } = self;
        let clock = Clock::new("output");
        image.data.iter_mut().for_each(|x| *x = x.clamp(0.0, 1.0));
        let fidelity = fidelity(&image, input);
        if (image.height, image.width) != (h, w) {
            image = bicubic_torch(&image, h, w);
        }
        let alpha = photo_alpha(input, h, w);
        let photo = input.with_pixels(&image, alpha.as_ref(), rounding)?;
        seconds.extend(clock.into_map());
        details.insert("stage_seconds".into(), seconds.into());
        details.insert("peak_bytes".into(), json!(memory::process_peak()));
        details.insert("fidelity".into(), fidelity);
        Ok(Restored { photo, reference: Some(photo_of(&pre, Rounding::HalfEven)), notes, details })
    }
}

impl Restorer for DreamClearRestorer {
    fn settings(&self) -> String {
        let s = &self.settings;
        // What does not change a byte (batch, memory) is left out.
        format!(
            "model=dreamclear weights={} captions={} negative={:?} fallback={} upscale={} min_size={} {:?} start={:?} color_fix={:?} residual={} rounding={:?} seed={} matrices={:?} swinir_tiles_of={}",
            self.identity,
            self.captions.describe(),
            s.negative,
            s.caption_fallback,
            s.upscale,
            s.min_size,
            s.denoise,
            s.start_point,
            s.color_fix,
            s.residual,
            s.rounding,
            s.seed,
            s.matrices,
            memory::swinir_limit(s.memory)
        )
    }

    fn batch(&self) -> usize {
        self.settings.batch
    }

    fn restore(&mut self, job: &Job<'_>) -> Result<Restored> {
        self.restore_all(std::slice::from_ref(job)).pop().expect("one result a picture")?(job.photo)
    }

    fn preparer(&self) -> Option<Preparer> {
        let Settings { upscale, min_size, .. } = self.settings;
        Some(Box::new(move |photo| Ok(Box::new(Enlarged::new(photo, upscale, min_size)?))))
    }

    fn restore_all(&mut self, jobs: &[Job<'_>]) -> Vec<Result<Finish>> {
        let mut results = self.attempt(jobs);
        let short: Vec<usize> =
            (0..jobs.len()).filter(|&i| matches!(results[i], Err(Error::OutOfMemory(_)))).collect();
        if !short.is_empty() {
            // Another program has taken memory since the plan was made: once more, within what is free now.
            self.budget = Budget::default();
            self.denoiser.forget();
            let again: Vec<Job> = short.iter().map(|&i| Job { ..jobs[i] }).collect();
            for (i, result) in short.into_iter().zip(self.attempt(&again)) {
                results[i] = result;
            }
        }
        results
    }
}

impl DreamClearRestorer {
    /// Restores pictures together within the memory that is free now.
    fn attempt(&mut self, jobs: &[Job<'_>]) -> Vec<Result<Finish>> {
        let sizes: Vec<_> = jobs.iter().map(|j| (j.photo.height, j.photo.width)).collect();
        let limit = match memory::choose(self, &sizes) {
            Ok(limit) => limit,
            Err(e) => return jobs.iter().map(|_| Err(e.shared())).collect(),
        };
        let mut results: Vec<Option<Result<Finish>>> = jobs.iter().map(|_| None).collect();
        let mut ready: Vec<(usize, Picture)> = Vec::new();
        for (i, job) in jobs.iter().enumerate() {
            match job.cancel.check().and_then(|()| self.before(job)) {
                Ok(picture) => ready.push((i, picture)),
                Err(e) => results[i] = Some(Err(e)),
            }
        }
        let subjects: Vec<Subject> = ready
            .iter()
            .map(|(_, p)| Subject {
                lq: &p.latent_lq,
                pre: &p.latent_pre,
                start: p.start.clone(),
                text: &p.text,
                noise: &p.noise,
                keep_other: self.dump.is_some(),
            })
            .collect();
        let start = Instant::now();
        let denoised = match subjects.is_empty() {
            true => Ok(Vec::new()),
            false => {
                let progress = |f: f32| ready.iter().for_each(|(i, _)| (jobs[*i].progress)(f));
                let watch = Watch { cancel: jobs[0].cancel, progress: &progress };
                let _range = trace::range(|| "denoise");
                self.denoiser.run(&subjects, &self.settings.denoise, limit, watch)
            }
        };
        drop(subjects);
        let seconds = start.elapsed().as_secs_f64() / ready.len().max(1) as f64;
        match denoised {
            Ok(latents) => {
                for ((i, picture), latent) in ready.into_iter().zip(latents) {
                    results[i] = Some(self.after(&jobs[i], picture, latent, seconds));
                }
            }
            Err(e) => ready.iter().for_each(|(i, _)| results[*i] = Some(Err(e.shared()))),
        }
        results.into_iter().map(|r| r.expect("every picture came to an end")).collect()
    }
}

/// The key of the null caption's features.
const NULL_CAPTION: &str = "base_model.y_embedder.y_embedding";

/// Weights in the dtypes that plans will bind them in, so that no plan makes a copy of its own:
/// matrices in `wanted` or as most of them are stored, everything else in f32.
pub(super) fn prepare(weights: WeightSet, wanted: Option<DType>) -> (DType, WeightSet) {
    let half = |t: &HostTensor| matches!(t.dtype(), DType::BF16 | DType::F16);
    let stored = weights.iter().filter(|(_, t)| t.shape().len() > 1).max_by_key(|(_, t)| t.len());
    let stored = stored.map_or(DType::F32, |(_, t)| if half(t) { t.dtype() } else { DType::F32 });
    let matrices = wanted.unwrap_or(stored);
    let prepared = weights.mapped(|_, t| match t.shape().len() {
        _ if !t.dtype().is_float() => t.clone(),
        0 | 1 => t.cast(DType::F32).aligned(),
        _ => t.cast(matrices).aligned(),
    });
    (matrices, prepared)
}

/// How much the result still looks like the input: PSNR of the result reduced to the input's size
/// (dB), and the mean shift of each colour channel (levels of 255).
fn fidelity(result: &FloatImage, input: &Photo) -> serde_json::Value {
    let small = bicubic_antialias(result, input.height, input.width);
    let original = input.rgb_f32();
    let n = (original.data.len() / 3) as f64;
    let (mut squares, mut shift) = (0.0, [0.0; 3]);
    for (a, b) in small.data.chunks_exact(3).zip(original.data.chunks_exact(3)) {
        for c in 0..3 {
            let d = f64::from(a[c]) - f64::from(b[c]);
            squares += d * d;
            shift[c] += d;
        }
    }
    // Equal pictures have no finite PSNR; JSON has no infinity.
    let mse = squares / (3.0 * n);
    let psnr = if mse > 0.0 { json!(-10.0 * mse.log10()) } else { json!(null) };
    json!({ "psnr_db": psnr, "color_shift": shift.map(|s| 255.0 * s / n) })
}

/// An 8-bit RGB photo of values in 0..1.
fn photo_of(image: &FloatImage, rounding: Rounding) -> Photo {
    let blank = Photo::new(1, 1, Channels::Rgb, Samples::U8(vec![0; 3]));
    blank.with_pixels(image, None, rounding).expect("an RGB photo takes any finite picture")
}

/// `[1, C, H, W]` as the official code has pictures.
fn planar(image: &FloatImage) -> HostTensor {
    let (h, w, c) = (image.height, image.width, image.channels);
    let data = (0..c).flat_map(|k| image.data.iter().skip(k).step_by(c).copied()).collect();
    HostTensor::from_f32([1, c, h, w], data)
}

/// The picture as it came from the 8-bit resize, `[H, W, C]`.
fn planar_u8(image: &FloatImage) -> HostTensor {
    let bytes: Vec<u8> = image.data.iter().map(|x| (x * 255.0).round() as u8).collect();
    HostTensor::copy_of(DType::U8, &[image.height, image.width, image.channels], &bytes)
}

/// Seconds of each stage.
struct Clock {
    stage: &'static str,
    since: Instant,
    range: Option<trace::Range>,
    laps: Map<String, serde_json::Value>,
}

impl Clock {
    fn new(stage: &'static str) -> Self {
        let range = Some(trace::range(|| stage));
        Clock { stage, since: Instant::now(), range, laps: Map::new() }
    }

    /// The stage is over, another begins.
    fn next(&mut self, stage: &'static str) {
        self.end();
        (self.stage, self.since) = (stage, Instant::now());
        self.range = Some(trace::range(|| stage));
    }

    fn end(&mut self) {
        self.range = None;
        self.laps.insert(self.stage.to_owned(), json!(self.since.elapsed().as_secs_f64()));
    }

    /// Ends the last stage; seconds of each.
    fn into_map(mut self) -> Map<String, serde_json::Value> {
        self.end();
        self.laps
    }
}
