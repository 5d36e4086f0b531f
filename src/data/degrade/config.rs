//! What a degradation is drawn from: every probability and range, read from TOML.

use serde::{Deserialize, Serialize};

use super::jpeg::JpegKind;
use super::resize::Interpolation;
use crate::{Error, Result};

/// DreamClear's training degradation, with comments: what `kind = "realesrgan"` ships.
pub const REALESRGAN: &str = include_str!("realesrgan.toml");

/// DiffBIR's first-stage degradation: what `kind = "codeformer"` ships.
pub const CODEFORMER: &str = include_str!("codeformer.toml");

/// A range `[low, high]` that is drawn from uniformly.
pub type Range = [f64; 2];

/// Settings of either kind of degradation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Config {
    /// Second order: blur, resize, noise, JPEG, twice, and a sinc filter.
    RealEsrgan(Box<RealEsrgan>),
    /// First order: blur, shrink, noise, JPEG, enlarge.
    CodeFormer(Box<CodeFormer>),
}

/// Settings of the second-order degradation; `realesrgan.toml` explains each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct RealEsrgan {
    pub scale: usize,
    pub jpeg: JpegKind,
    pub scope: Scope,
    pub batch: u64,
    pub sharpen: Sharpen,
    pub picture: Picture,
    pub first: Order,
    pub second: Order,
    pub last: Last,
}

/// Settings of the first-order degradation; `codeformer.toml` explains each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct CodeFormer {
    pub jpeg: JpegKind,
    pub sharpen: Sharpen,
    pub picture: Picture,
    pub blur: Blur,
    pub shrink: Shrink,
    pub noise: Noise,
    pub compression: Compression,
}

/// By how many pictures a draw is shared where the official code draws once a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Every picture draws everything for itself.
    Image,
    /// A batch of pictures in a row shares it.
    Batch,
}

/// Sharpening of the ground truth, see [`super::sharpen`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Sharpen {
    pub enabled: bool,
    pub taps: usize,
    pub sigma: f64,
    pub weight: f64,
    pub threshold: f64,
}

impl Sharpen {
    /// The mask, if sharpening is enabled.
    pub fn mask(&self) -> Option<UnsharpMask> {
        let Sharpen { enabled, taps, sigma, weight, threshold } = *self;
        enabled.then_some(UnsharpMask { taps, sigma, weight, threshold })
    }
}

/// An unsharp mask: what a picture differs from its blur by is added to it where it is large.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnsharpMask {
    /// Side of the Gaussian kernel, odd.
    pub taps: usize,
    /// Its standard deviation in pixels.
    pub sigma: f64,
    /// How much of the difference is added.
    pub weight: f64,
    /// The difference from which on, in levels of 255.
    pub threshold: f64,
}

/// Which part of which pictures the `degrade` command takes, see [`super::framing`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Picture {
    /// Side of the square crop.
    pub size: usize,
    /// Probability of mirroring left and right.
    pub mirror: f64,
    /// Pictures of fewer pixels are passed over.
    pub min_pixels: u64,
    /// Files of fewer bytes are passed over.
    pub min_bytes: u64,
}

/// One round of the second-order degradation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Order {
    pub blur: Blur,
    pub resize: Resize,
    pub noise: Noise,
    pub compression: Compression,
}

/// Whether there is a blur, and by which kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blur {
    /// Of any blur at all.
    pub probability: f64,
    /// Kernel sides, all equally likely.
    pub sizes: Vec<usize>,
    /// Probability of a sinc kernel.
    #[serde(default)]
    pub sinc: f64,
    /// Its cut-off in radians per pixel, below 13 taps a side.
    #[serde(default)]
    pub cutoff: Range,
    /// Its cut-off from 13 taps on.
    #[serde(default)]
    pub cutoff_from_13: Range,
    /// Weight of the isotropic Gaussian among the other families.
    #[serde(default)]
    pub iso: f64,
    /// Weight of the anisotropic Gaussian.
    #[serde(default)]
    pub aniso: f64,
    /// Weight of the isotropic generalized Gaussian.
    #[serde(default)]
    pub generalized_iso: f64,
    /// Weight of the anisotropic generalized Gaussian.
    #[serde(default)]
    pub generalized_aniso: f64,
    /// Weight of the isotropic plateau.
    #[serde(default)]
    pub plateau_iso: f64,
    /// Weight of the anisotropic plateau.
    #[serde(default)]
    pub plateau_aniso: f64,
    /// Standard deviation in pixels, of each axis.
    pub sigma: Range,
    /// Angle of the first axis in radians.
    #[serde(default)]
    pub rotation: Range,
    /// Exponent of generalized Gaussians; 1 is the Gaussian.
    #[serde(default = "no_shape")]
    pub generalized_beta: Range,
    /// Exponent of plateaus.
    #[serde(default = "no_shape")]
    pub plateau_beta: Range,
}

fn no_shape() -> Range {
    [1.0, 1.0]
}

impl Blur {
    /// Weights of the families, in the order of [`super::kernels::Kernel`].
    pub fn weights(&self) -> [f64; 6] {
        [
            self.iso,
            self.aniso,
            self.generalized_iso,
            self.generalized_aniso,
            self.plateau_iso,
            self.plateau_aniso,
        ]
    }
}

/// A resize of random direction, factor and interpolation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Weight of enlarging by 1 to `range[1]`.
    pub up: f64,
    /// Weight of shrinking by `range[0]` to 1.
    pub down: f64,
    /// Weight of keeping the size.
    pub keep: f64,
    /// Smallest and greatest factor.
    pub range: Range,
    /// Interpolations, all equally likely.
    pub modes: Vec<Interpolation>,
}

/// Gaussian or Poisson noise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// Probability of Gaussian noise; else Poisson.
    pub gaussian: f64,
    /// Standard deviation of Gaussian noise in levels of 255.
    #[serde(default)]
    pub sigma: Range,
    /// Factor of Poisson noise.
    #[serde(default)]
    pub poisson_scale: Range,
    /// Probability that the channels share the noise.
    pub grey: f64,
}

/// JPEG of random quality.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compression {
    /// Quality, 1 to 100; an encoder's is rounded down.
    pub quality: Range,
}

/// The way to the final size in the second-order degradation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Last {
    /// Probability that resize and sinc filter come before the second compression.
    pub before_compression: f64,
    /// Interpolations, all equally likely.
    pub modes: Vec<Interpolation>,
    /// Probability of the sinc filter.
    pub sinc: f64,
    /// Kernel sides, all equally likely.
    pub sizes: Vec<usize>,
    /// Its cut-off in radians per pixel.
    pub cutoff: Range,
}

/// The factor by which a first-order degradation makes a picture smaller.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shrink {
    /// Sides before over sides after.
    pub range: Range,
}

impl Config {
    /// Reads and checks settings. `kind` decides which other keys there must be.
    ///
    /// # Errors
    /// `Error::Run` naming the key and, where TOML itself is wrong, the line.
    pub fn from_toml(text: &str) -> Result<Self> {
        let config: Config = toml::from_str(text)
            .map_err(|e| Error::Run(format!("degradation settings: {}", e.to_string().trim_end())))?;
        config.check()?;
        Ok(config)
    }

    /// Sharpening of the ground truth.
    pub fn sharpen(&self) -> &Sharpen {
        match self {
            Config::RealEsrgan(c) => &c.sharpen,
            Config::CodeFormer(c) => &c.sharpen,
        }
    }

    /// Sharpening of the ground truth, to be changed.
    pub fn sharpen_mut(&mut self) -> &mut Sharpen {
        match self {
            Config::RealEsrgan(c) => &mut c.sharpen,
            Config::CodeFormer(c) => &mut c.sharpen,
        }
    }

    /// What the `degrade` command takes of a picture.
    pub fn picture(&self) -> &Picture {
        match self {
            Config::RealEsrgan(c) => &c.picture,
            Config::CodeFormer(c) => &c.picture,
        }
    }

    /// What the `degrade` command takes of a picture, to be changed.
    pub fn picture_mut(&mut self) -> &mut Picture {
        match self {
            Config::RealEsrgan(c) => &mut c.picture,
            Config::CodeFormer(c) => &mut c.picture,
        }
    }

    /// Sides of the ground truth must be multiples of this.
    pub fn multiple(&self) -> usize {
        match self {
            Config::RealEsrgan(c) => c.scale,
            Config::CodeFormer(_) => 1,
        }
    }

    /// Refuses settings that no draw could follow.
    ///
    /// # Errors
    /// `Error::Usage` naming the key.
    pub fn check(&self) -> Result<()> {
        check_sharpen(self.sharpen())?;
        let picture = self.picture();
        probability("picture.mirror", picture.mirror)?;
        if picture.size == 0 || !picture.size.is_multiple_of(self.multiple()) {
            return Err(wrong("picture.size", picture.size, "a multiple of the scale above 0"));
        }
        match self {
            Config::RealEsrgan(c) => {
                if !(1..=16).contains(&c.scale) {
                    return Err(wrong("scale", c.scale, "1 to 16"));
                }
                if c.batch == 0 {
                    return Err(wrong("batch", c.batch, "at least 1"));
                }
                for (name, order) in [("first", &c.first), ("second", &c.second)] {
                    check_blur(&format!("{name}.blur"), &order.blur)?;
                    check_resize(&format!("{name}.resize"), &order.resize)?;
                    check_noise(&format!("{name}.noise"), &order.noise)?;
                    check_compression(&format!("{name}.compression"), &order.compression)?;
                }
                probability("last.before_compression", c.last.before_compression)?;
                probability("last.sinc", c.last.sinc)?;
                some("last.modes", c.last.modes.len())?;
                sizes("last.sizes", &c.last.sizes)?;
                if c.last.sinc > 0.0 {
                    range("last.cutoff", c.last.cutoff, 1e-3, std::f64::consts::PI)?;
                }
            }
            Config::CodeFormer(c) => {
                check_blur("blur", &c.blur)?;
                range("shrink.range", c.shrink.range, 1.0, 1024.0)?;
                check_noise("noise", &c.noise)?;
                check_compression("compression", &c.compression)?;
            }
        }
        Ok(())
    }
}

fn wrong(key: &str, found: impl std::fmt::Display, expected: &str) -> Error {
    Error::Usage(format!("degradation settings: {key} = {found}: expected {expected}"))
}

fn probability(key: &str, p: f64) -> Result<()> {
    if (0.0..=1.0).contains(&p) { Ok(()) } else { Err(wrong(key, p, "a probability from 0 to 1")) }
}

fn weights(key: &str, all: &[f64]) -> Result<()> {
    if all.iter().all(|w| (0.0..=1e9).contains(w)) && all.iter().sum::<f64>() > 0.0 {
        return Ok(());
    }
    Err(wrong(key, format!("{all:?}"), "weights of at least 0 that are not all 0"))
}

fn range(key: &str, [low, high]: Range, least: f64, most: f64) -> Result<()> {
    if least <= low && low <= high && high <= most {
        return Ok(());
    }
    Err(wrong(key, format!("[{low}, {high}]"), &format!("[low, high] with {least} <= low <= high <= {most}")))
}

fn some(key: &str, count: usize) -> Result<()> {
    if count > 0 { Ok(()) } else { Err(wrong(key, "[]", "at least one")) }
}

fn sizes(key: &str, all: &[usize]) -> Result<()> {
    some(key, all.len())?;
    match all.iter().find(|n| *n % 2 == 0 || **n > 255) {
        Some(n) => Err(wrong(key, n, "odd sides of at most 255")),
        None => Ok(()),
    }
}

fn check_sharpen(mask: &Sharpen) -> Result<()> {
    sizes("sharpen.taps", &[mask.taps])?;
    range("sharpen.sigma", [mask.sigma; 2], 1e-3, 1e3)?;
    range("sharpen.weight", [mask.weight; 2], 0.0, 100.0)?;
    range("sharpen.threshold", [mask.threshold; 2], 0.0, 255.0)
}

fn check_blur(name: &str, blur: &Blur) -> Result<()> {
    let key = |k: &str| format!("{name}.{k}");
    probability(&key("probability"), blur.probability)?;
    probability(&key("sinc"), blur.sinc)?;
    sizes(&key("sizes"), &blur.sizes)?;
    if blur.sinc < 1.0 {
        weights(&format!("the families of {name}"), &blur.weights())?;
    }
    if blur.sinc > 0.0 {
        range(&key("cutoff"), blur.cutoff, 1e-3, std::f64::consts::PI)?;
        range(&key("cutoff_from_13"), blur.cutoff_from_13, 1e-3, std::f64::consts::PI)?;
    }
    range(&key("sigma"), blur.sigma, 1e-2, 1e3)?;
    range(&key("rotation"), blur.rotation, -1e3, 1e3)?;
    range(&key("generalized_beta"), blur.generalized_beta, 1e-2, 1e2)?;
    range(&key("plateau_beta"), blur.plateau_beta, 1e-2, 1e2)
}

fn check_resize(name: &str, resize: &Resize) -> Result<()> {
    weights(&format!("up, down and keep of {name}"), &[resize.up, resize.down, resize.keep])?;
    some(&format!("{name}.modes"), resize.modes.len())?;
    let [low, high] = resize.range;
    if (0.01..=1.0).contains(&low) && (1.0..=16.0).contains(&high) {
        return Ok(());
    }
    let expected = "[low, high] with 0.01 <= low <= 1 <= high <= 16";
    Err(wrong(&format!("{name}.range"), format!("[{low}, {high}]"), expected))
}

fn check_noise(name: &str, noise: &Noise) -> Result<()> {
    probability(&format!("{name}.gaussian"), noise.gaussian)?;
    probability(&format!("{name}.grey"), noise.grey)?;
    range(&format!("{name}.sigma"), noise.sigma, 0.0, 1e3)?;
    range(&format!("{name}.poisson_scale"), noise.poisson_scale, 0.0, 1e3)
}

fn check_compression(name: &str, compression: &Compression) -> Result<()> {
    range(&format!("{name}.quality"), compression.quality, 1.0, 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_settings_are_valid_and_survive_being_written() {
        for text in [REALESRGAN, CODEFORMER] {
            let config = Config::from_toml(text).unwrap();
            let again = Config::from_toml(&toml::to_string(&config).unwrap()).unwrap();
            assert_eq!(again, config);
        }
    }

    #[test]
    fn wrong_settings_are_refused_by_their_key() {
        for (from, to, key) in [
            ("scale = 4", "scale = 0", "picture.size"),
            ("size = 1024", "size = 1022", "picture.size"),
            ("mirror = 0.5", "mirror = 1.5", "picture.mirror"),
            ("mirror = 0.5", "mirrored = 0.5", "mirrored"),
            ("sizes = [7, 9,", "sizes = [8, 9,", "first.blur.sizes"),
            ("sigma = [0.2, 3.0]", "sigma = [3.0, 0.2]", "first.blur.sigma"),
            ("sigma = [0.2, 1.5]", "sigma = [0.0, 1.5]", "second.blur.sigma"),
            ("range = [0.15, 1.5]", "range = [0.15, 0.5]", "first.resize.range"),
            ("quality = [30.0, 95.0]", "quality = [0.0, 95.0]", "first.compression.quality"),
            ("jpeg = \"diff\"", "jpeg = \"dif\"", "`diff` or `real`"),
            ("kind = \"realesrgan\"", "kind = \"bsrgan\"", "kind"),
            ("threshold = 10.0", "threshold = nan", "sharpen.threshold"),
        ] {
            assert!(REALESRGAN.contains(from), "{from}");
            let error = Config::from_toml(&REALESRGAN.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(key), "{to}: {error}");
        }
    }
}
