//! Networks in the loop that stay as they are.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::data::pixels::FloatImage;
use crate::device::Device;
use crate::graph::Executable;
use crate::models::load;
use crate::models::vae::{AutoencoderKl, Half, VaeNetwork};
use crate::tensor::HostTensor;
use crate::weights::WeightSet;
use crate::{Error, Result};

/// Bounds of the logarithm of a latent's variance, as diffusers' `DiagonalGaussianDistribution` has them.
const LOG_VARIANCE: [f32; 2] = [-30.0, 20.0];

/// `[frozen]`: where they are.
#[derive(Deserialize)]
pub struct Frozen {
    /// The degradation remover's file or directory.
    pub swinir: PathBuf,
    /// The autoencoder's.
    pub vae: PathBuf,
    /// Factor of its latents; 0: the autoencoder's own.
    pub latent_scale: f64,
}

fn path<'a>(key: &str, path: &'a Path) -> Result<&'a Path> {
    if path.as_os_str().is_empty() {
        return Err(Error::Usage(format!("{key}: expected a weight file, found nothing")));
    }
    Ok(path)
}

/// SwinIR, which makes the reference.
pub(super) struct Remover {
    exe: Executable,
}

impl Remover {
    /// For pictures of `side` × `side`.
    pub fn open(weights: &Path, side: usize, device: &Device) -> Result<Self> {
        let weights = path("frozen.swinir", weights)?;
        let loaded = load::network("swinir", load::config_beside(weights).as_deref(), weights)?;
        let multiple = loaded.network.multiple();
        if loaded.network.scale() != 1 || !side.is_multiple_of(multiple) {
            return Err(Error::Usage(format!(
                "frozen.swinir: expected a SwinIR that keeps the size of {side}×{side} pictures, found one that \
                 enlarges {} times and takes multiples of {multiple}",
                loaded.network.scale()
            )));
        }
        let graph = loaded.network.graph(1, side, side, true)?;
        loaded.check(&graph)?;
        Ok(Remover { exe: super::executable(graph, &loaded.weights, device)? })
    }

    /// The picture without its degradations, RGB in 0..1.
    pub fn apply(&mut self, picture: &FloatImage) -> Result<FloatImage> {
        let out = self.exe.run(&[("x", super::nchw([picture].into_iter()))])?;
        let mut out = super::picture(&out[0].1);
        out.data.iter_mut().for_each(|x| *x = x.clamp(0.0, 1.0));
        Ok(out)
    }
}

/// The encoder of an autoencoder.
pub(super) struct Encoder {
    exe: Executable,
    config: AutoencoderKl,
    /// Picture pixels per latent pixel.
    pub factor: usize,
    /// Channels of a latent.
    pub channels: usize,
}

impl Encoder {
    /// For pictures of `side` × `side`; latents are multiplied by `scale`, or (0) by the autoencoder's own factor.
    pub fn open(weights: &Path, side: usize, scale: f64, device: &Device) -> Result<Self> {
        let weights = path("frozen.vae", weights)?;
        let json = load::config_beside(weights).map(|p| load::read_config(&p)).transpose()?;
        let set = WeightSet::open(weights)?;
        let (network, _) = VaeNetwork::new(Half::Encoder, json.as_ref(), &load::shapes_of(&set))?;
        let set = load::checked(&network, set)?;
        let mut config = network.config.clone();
        if config.in_channels != 3 || !side.is_multiple_of(config.factor()) {
            return Err(Error::Usage(format!(
                "frozen.vae: expected an autoencoder for RGB pictures of {side}×{side}, found one for {} channels \
                 and multiples of {}",
                config.in_channels,
                config.factor()
            )));
        }
        if scale > 0.0 {
            config.scaling_factor = scale;
        }
        Ok(Encoder {
            exe: super::executable(network.encoder_graph(1, side, side)?, &set, device)?,
            factor: config.factor(),
            channels: config.latent_channels,
            config,
        })
    }

    /// The distribution of the latent `[L, h, w]` of a picture, RGB in 0..1: means, then logarithms of variances.
    pub fn moments(&mut self, picture: &FloatImage) -> Result<Vec<f32>> {
        let x = super::nchw([super::centred(picture)].iter());
        let moments: HostTensor = self.exe.run(&[("sample", x)])?.swap_remove(0).1;
        Ok(moments.to_f32().into_owned())
    }

    /// The latent: its mean, or with `noise` a sample.
    pub fn latent(&self, moments: &[f32], noise: Option<&[f32]>) -> Vec<f32> {
        let (mean, log_variance) = moments.split_at(moments.len() / 2);
        let mut latent = mean.to_vec();
        if let Some(noise) = noise {
            for ((z, lv), n) in latent.iter_mut().zip(log_variance).zip(noise) {
                *z += libm::expf(0.5 * lv.clamp(LOG_VARIANCE[0], LOG_VARIANCE[1])) * n;
            }
        }
        self.config.scaled(&latent)
    }
}
