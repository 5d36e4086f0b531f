//! The drawn parameters of a picture's degradation: everything that its result depends on besides its pixels.
//!
//! They are plain data. Written as JSON and read again they give the same bytes.

use serde::{Deserialize, Serialize};

use super::config::{self, CodeFormer, Config, RealEsrgan, Scope, UnsharpMask};
use super::jpeg::JpegKind;
use super::kernels::Kernel;
use super::noise::Noise;
use super::resize::Interpolation;
use super::stream::{Draws, Key, Purpose};
use crate::{Error, Result};

/// Everything that was drawn, or set, for one picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawn {
    /// Whose noise it is.
    pub key: Key,
    /// The number of the batch with which grey Gaussian noise is shared, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<u64>,
    /// Which JPEG.
    pub jpeg: JpegKind,
    /// Sharpening of the ground truth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharpen: Option<UnsharpMask>,
    /// What is done to it.
    pub chain: Chain,
}

/// The steps of a degradation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Chain {
    /// Second order.
    RealEsrgan {
        /// Sides of the ground truth over sides of the result.
        scale: usize,
        /// The first round, of factors relative to the ground truth.
        first: Round,
        /// The second round, of factors relative to the result.
        second: Round,
        /// The way to the final size.
        last: Last,
    },
    /// First order.
    CodeFormer {
        /// The blur, if there is one.
        blur: Option<Kernel>,
        /// Sides of the ground truth over sides of the small picture.
        shrink: f64,
        /// Noise of the small picture.
        noise: Noise,
        /// Quality of its compression.
        quality: f64,
    },
}

/// Blur, resize, noise and compression.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Round {
    pub blur: Option<Kernel>,
    pub factor: f64,
    pub mode: Interpolation,
    pub noise: Noise,
    pub quality: f64,
}

/// The last resize and filter, and whether they come before the second compression.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Last {
    pub before_compression: bool,
    pub mode: Interpolation,
    pub sinc: Option<Kernel>,
}

impl Drawn {
    /// Draws for picture `index` of pass `epoch` of the job of this seed: the same whatever was drawn before.
    ///
    /// # Panics
    /// If `epoch` is 2^24 or more, or the settings are not valid ([`Config::check`]).
    pub fn draw(config: &Config, key: Key) -> Self {
        match config {
            Config::RealEsrgan(c) => Self::real_esrgan(c, key),
            Config::CodeFormer(c) => Self::code_former(c, key),
        }
    }

    fn real_esrgan(config: &RealEsrgan, key: Key) -> Self {
        let batch = match config.scope {
            Scope::Image => None,
            Scope::Batch => Some(key.index / config.batch),
        };
        let own = |purpose| Draws::new(key, purpose);
        let shared = |purpose| match batch {
            None => Draws::new(key, purpose),
            Some(index) => Draws::shared(Key { index, ..key }, purpose),
        };
        use Purpose::*;
        let (first, second, last) = (&config.first, &config.second, &config.last);
        let (factor1, mode1) = resize(&first.resize, &mut shared(FirstResize));
        let (factor2, mode2) = resize(&second.resize, &mut shared(SecondResize));
        let blurred = |c: &config::Blur, at_all: &mut Draws, purpose| {
            at_all.chance(c.probability).then(|| blur(c, &mut own(purpose)))
        };
        let mut end = shared(Last);
        Drawn {
            key,
            batch,
            jpeg: config.jpeg,
            sharpen: config.sharpen.mask(),
            chain: Chain::RealEsrgan {
                scale: config.scale,
                first: Round {
                    blur: blurred(&first.blur, &mut shared(FirstBlurAtAll), FirstBlur),
                    factor: factor1,
                    mode: mode1,
                    noise: noise(&first.noise, &mut shared(FirstNoiseModel), &mut own(FirstNoise)),
                    quality: own(FirstCompression).between(first.compression.quality),
                },
                second: Round {
                    blur: blurred(&second.blur, &mut shared(SecondBlurAtAll), SecondBlur),
                    factor: factor2,
                    mode: mode2,
                    noise: noise(&second.noise, &mut shared(SecondNoiseModel), &mut own(SecondNoise)),
                    quality: own(SecondCompression).between(second.compression.quality),
                },
                last: self::Last {
                    before_compression: end.chance(last.before_compression),
                    mode: end.one_of(&last.modes),
                    sinc: last_sinc(last, &mut own(LastSinc)),
                },
            },
        }
    }

    fn code_former(config: &CodeFormer, key: Key) -> Self {
        let own = |purpose| Draws::new(key, purpose);
        let c = &config.blur;
        Drawn {
            key,
            batch: None,
            jpeg: config.jpeg,
            sharpen: config.sharpen.mask(),
            chain: Chain::CodeFormer {
                blur: own(Purpose::FirstBlurAtAll)
                    .chance(c.probability)
                    .then(|| blur(c, &mut own(Purpose::FirstBlur))),
                shrink: own(Purpose::FirstResize).between(config.shrink.range),
                noise: noise(
                    &config.noise,
                    &mut own(Purpose::FirstNoiseModel),
                    &mut own(Purpose::FirstNoise),
                ),
                quality: own(Purpose::FirstCompression).between(config.compression.quality),
            },
        }
    }

    /// Sides of a ground truth must be multiples of this.
    pub fn multiple(&self) -> usize {
        match self.chain {
            Chain::RealEsrgan { scale, .. } => scale,
            Chain::CodeFormer { .. } => 1,
        }
    }

    /// Refuses parameters, read from a file, that nothing could have drawn.
    ///
    /// # Errors
    /// `Error::Run` naming the parameter.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: &str, found: &dyn std::fmt::Debug| {
            Err(Error::Run(format!("drawn parameters: {what} {found:?} cannot be; draw them anew")))
        };
        if self.key.epoch >= 1 << 24 {
            return wrong("epoch", &self.key.epoch);
        }
        if let Some(mask) = &self.sharpen {
            let blur = Kernel::Iso { size: mask.taps, sigma: mask.sigma };
            if !blur.is_valid() || !mask.weight.is_finite() || !mask.threshold.is_finite() {
                return wrong("the mask", mask);
            }
        }
        let (kernels, factors, noises, qualities) = match &self.chain {
            Chain::RealEsrgan { scale, first, second, last } => {
                if !(1..=16).contains(scale) {
                    return wrong("scale", scale);
                }
                (
                    vec![first.blur, second.blur, last.sinc],
                    vec![first.factor, second.factor],
                    vec![first.noise, second.noise],
                    vec![first.quality, second.quality],
                )
            }
            Chain::CodeFormer { blur, shrink, noise, quality } => {
                (vec![*blur], vec![1.0 / shrink], vec![*noise], vec![*quality])
            }
        };
        if let Some(kernel) = kernels.iter().flatten().find(|k| !k.is_valid()) {
            return wrong("kernel", kernel);
        }
        if let Some(factor) = factors.iter().find(|f| !(1e-3..=16.0).contains(*f)) {
            return wrong("factor", factor);
        }
        let strength = |n: &Noise| match *n {
            Noise::Gaussian { sigma, .. } => sigma,
            Noise::Poisson { scale, .. } => scale,
        };
        if let Some(noise) = noises.iter().find(|n| !(0.0..=1e3).contains(&strength(n))) {
            return wrong("noise", noise);
        }
        match qualities.iter().find(|q| !(1.0..=100.0).contains(*q)) {
            Some(quality) => wrong("quality", quality),
            None => Ok(()),
        }
    }
}

fn blur(config: &config::Blur, draws: &mut Draws) -> Kernel {
    let size = draws.one_of(&config.sizes);
    if draws.chance(config.sinc) {
        let cutoff = draws.between(if size < 13 { config.cutoff } else { config.cutoff_from_13 });
        return Kernel::Sinc { size, cutoff };
    }
    let family = draws.weighted(&config.weights());
    let sigma = [draws.between(config.sigma), draws.between(config.sigma)];
    let rotation = draws.between(config.rotation);
    let range = if family < 4 { config.generalized_beta } else { config.plateau_beta };
    // Equal chances on either side of 1, however far the range goes.
    let beta = if draws.chance(0.5) { [range[0], 1.0] } else { [1.0, range[1]] };
    let beta = draws.between(beta);
    match family {
        0 => Kernel::Iso { size, sigma: sigma[0] },
        1 => Kernel::Aniso { size, sigma, rotation },
        2 => Kernel::GeneralizedIso { size, sigma: sigma[0], beta },
        3 => Kernel::GeneralizedAniso { size, sigma, rotation, beta },
        4 => Kernel::PlateauIso { size, sigma: sigma[0], beta },
        _ => Kernel::PlateauAniso { size, sigma, rotation, beta },
    }
}

fn resize(config: &config::Resize, draws: &mut Draws) -> (f64, Interpolation) {
    let [low, high] = config.range;
    let factor = match draws.weighted(&[config.up, config.down, config.keep]) {
        0 => draws.between([1.0, high]),
        1 => draws.between([low, 1.0]),
        _ => 1.0,
    };
    (factor, draws.one_of(&config.modes))
}

fn noise(config: &config::Noise, model: &mut Draws, own: &mut Draws) -> Noise {
    let strength = own.uniform();
    let grey = own.chance(config.grey);
    let within = |[low, high]: config::Range| low + (high - low) * strength;
    if model.chance(config.gaussian) {
        Noise::Gaussian { sigma: within(config.sigma), grey }
    } else {
        Noise::Poisson { scale: within(config.poisson_scale), grey }
    }
}

fn last_sinc(config: &config::Last, draws: &mut Draws) -> Option<Kernel> {
    draws
        .chance(config.sinc)
        .then(|| Kernel::Sinc { size: draws.one_of(&config.sizes), cutoff: draws.between(config.cutoff) })
}
