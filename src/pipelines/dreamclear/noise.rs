//! Where a picture's noise comes from: drawn by counter, or replayed from a file.

use std::path::{Path, PathBuf};

use super::denoise::LATENT;
use crate::diffusion::Noise;
use crate::error::{Error, Result};
use crate::tensor::HostTensor;
use crate::weights::WeightSet;

/// Noise of one picture.
pub enum NoiseSource {
    /// Philox, keyed by seed and picture.
    Drawn(Noise),
    /// Dumped by another implementation.
    Replayed(Replay),
}

impl NoiseSource {
    /// Noise for the start of the loop, `[4, h, w]` row-major.
    pub fn start(&self, len: usize) -> Result<Vec<f32>> {
        match self {
            NoiseSource::Drawn(noise) => Ok(draw(noise, Noise::START, len)),
            NoiseSource::Replayed(replay) => half_of(&replay.path, "noise_T", &replay.start, len, 0),
        }
    }

    /// Noise for iteration `k` of the loop; `half` 0 is the conditional half of the guidance, whose
    /// noise is the only one that is drawn.
    pub fn step(&self, k: usize, len: usize, half: usize) -> Result<Vec<f32>> {
        match self {
            NoiseSource::Drawn(noise) => Ok(draw(noise, k as u32, len)),
            NoiseSource::Replayed(replay) => {
                let name = format!("noises[{k}]");
                let Some(tensor) = replay.steps.get(k) else {
                    return Err(Error::file(
                        &replay.path,
                        format!("the loop asks for {name}, the file holds {} of them", replay.steps.len()),
                    ));
                };
                half_of(&replay.path, &name, tensor, len, half)
            }
        }
    }
}

fn draw(noise: &Noise, step: u32, len: usize) -> Vec<f32> {
    let mut out = vec![0.0; len];
    noise.fill(step, &mut out);
    out
}

/// The noise of a half: its part of a pair, or the only one.
fn half_of(path: &Path, name: &str, tensor: &HostTensor, len: usize, half: usize) -> Result<Vec<f32>> {
    let (all, pair) = (tensor.len(), 2 * len);
    if all != len && all != pair {
        return Err(Error::file(
            path,
            format!(
                "{name} must hold {LATENT} channels of the latent, once or for the guidance pair ({len} or {pair} values), found {:?}",
                tensor.shape()
            ),
        ));
    }
    let start = if all == pair { half * len } else { 0 };
    Ok(tensor.to_f32()[start..start + len].to_vec())
}

/// `--noise FILE`: `noise_T` for the start, `noises` `[steps, 2, 4, h, w]` (or one tensor per
/// iteration, `noises.0` …) for the loop.
pub struct Replay {
    path: PathBuf,
    start: HostTensor,
    steps: Vec<HostTensor>,
}

impl Replay {
    /// Opens a noise file.
    pub fn open(path: &Path) -> Result<Self> {
        let set = WeightSet::open(path)?;
        let start = set.get("noise_T").cloned().ok_or_else(|| {
            let names: Vec<_> = set.names().take(8).collect();
            Error::file(path, format!("expected a tensor \"noise_T\", found {}", names.join(", ")))
        })?;
        let steps = match set.get("noises") {
            Some(all) => unstack(all).ok_or_else(|| {
                Error::file(path, format!("\"noises\" must be [steps, …], found {:?}", all.shape()))
            })?,
            None => (0..)
                .map_while(|k| {
                    let names = [format!("noises.{k}"), format!("noises[{k}]"), format!("noises_{k}")];
                    names.iter().find_map(|n| set.get(n).cloned())
                })
                .collect(),
        };
        Ok(Replay { path: path.to_owned(), start, steps })
    }
}

/// The slices of a tensor along its first axis.
fn unstack(all: &HostTensor) -> Option<Vec<HostTensor>> {
    let (&steps, rest) = all.shape().split_first()?;
    let each: usize = rest.iter().product();
    let values = all.to_f32();
    Some((0..steps).map(|k| HostTensor::from_f32(rest, values[k * each..(k + 1) * each].to_vec())).collect())
}
