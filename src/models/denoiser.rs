//! What the denoising networks share under the interface of named tensors: reading the official
//! forward's arguments, and classifier-free guidance as their `forward_with_cfg` has it.

use super::network::Given;
use super::pixart::{Inputs, PixArt};
use crate::error::Result;
use crate::graph::{GraphBuilder, ValueId};
use crate::tensor::{DType, HostTensor};

/// Arguments of `PixArtMS.forward` and `forward_with_cfg`.
pub(crate) const BASE_INPUTS: [&str; 7] =
    ["x", "timestep", "y", "mask", "img_hw", "aspect_ratio", "cfg_scale"];

/// Guided channels: the first three of the latent, not the fourth nor the variance (quirk 6).
const GUIDED: usize = 3;

/// The arguments of one forward, ready for a graph: f32, captions with their valid tokens first.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// `[B, C, H, W]`.
    pub x: HostTensor,
    timestep: HostTensor,
    y: HostTensor,
    lengths: HostTensor,
    img_hw: HostTensor,
    aspect_ratio: HostTensor,
}

impl Call {
    /// Reads and checks the arguments; without `masked` every caption token is valid.
    pub fn read(net: &PixArt, given: &Given, masked: bool) -> Result<Self> {
        let x = latent(net, given, "x")?;
        let batch = x.shape()[0];
        let timestep = given.get("timestep")?;
        let timestep = timestep.reshaped([timestep.len()]);
        if ![1, batch].contains(&timestep.len()) {
            let n = timestep.len();
            return Err(given.error(format!("\"timestep\" must hold 1 or {batch} numbers, found {n}")));
        }
        let (y, lengths) = captions(net, given, batch, masked)?;
        Ok(Call {
            timestep: timestep.cast(DType::F32),
            img_hw: micro_condition(given, "img_hw", batch, 2)?,
            aspect_ratio: micro_condition(given, "aspect_ratio", batch, 1)?,
            x,
            y,
            lengths,
        })
    }

    /// The smallest call that shows all parameters.
    pub fn smallest(net: &PixArt) -> Self {
        let zeros = |shape: &[usize]| HostTensor::zeros(DType::F32, shape);
        let p = net.patch_size;
        Call {
            x: zeros(&[1, net.in_channels, p, p]),
            timestep: zeros(&[1]),
            y: zeros(&[1, 1, net.caption_channels]),
            lengths: HostTensor::from_i64([1], vec![1]),
            img_hw: zeros(&[1, 2]),
            aspect_ratio: zeros(&[1, 1]),
        }
    }

    /// The call on the first half of `x`, twice: what guidance runs.
    pub fn paired(self, given: &Given) -> Result<Self> {
        let [batch, c, h, w] = self.x.shape()[..] else { unreachable!("checked when read") };
        if !batch.is_multiple_of(2) {
            return Err(given.error(format!("with cfg_scale the batch must be even, found {batch}")));
        }
        let x = self.x.to_f32();
        let half = &x[..x.len() / 2];
        Ok(Call { x: HostTensor::from_f32([batch, c, h, w], [half, half].concat()), ..self })
    }

    /// The call on another latent.
    pub fn on(&self, x: HostTensor) -> Self {
        Call { x, ..self.clone() }
    }

    /// Declares the arguments as inputs of a graph; sample i reads caption i.
    pub fn inputs(&self, b: &mut GraphBuilder) -> Result<Inputs> {
        let mut input =
            |name: &str, t: &HostTensor| -> Result<ValueId> { b.input(name, t.dtype(), t.shape().to_vec()) };
        Ok(Inputs {
            x: input("x", &self.x)?,
            timestep: input("timestep", &self.timestep)?,
            y: input("y", &self.y)?,
            lengths: input("lengths", &self.lengths)?,
            img_hw: input("img_hw", &self.img_hw)?,
            aspect_ratio: input("aspect_ratio", &self.aspect_ratio)?,
            kv_rows: (0..self.x.shape()[0]).collect(),
        })
    }

    /// The values of the declared inputs.
    pub fn tensors(&self) -> Vec<(&'static str, HostTensor)> {
        vec![
            ("x", self.x.clone()),
            ("timestep", self.timestep.clone()),
            ("y", self.y.clone()),
            ("lengths", self.lengths.clone()),
            ("img_hw", self.img_hw.clone()),
            ("aspect_ratio", self.aspect_ratio.clone()),
        ]
    }
}

/// A latent that fits the network.
pub(crate) fn latent(net: &PixArt, given: &Given, name: &str) -> Result<HostTensor> {
    let (t, [_, c, h, w]) = given.shaped(name, "[B, C, H, W]")?;
    let (wanted, p) = (net.in_channels, net.patch_size);
    if c != wanted || h == 0 || w == 0 || !h.is_multiple_of(p) || !w.is_multiple_of(p) {
        return Err(given.error(format!(
            "\"{name}\" must have {wanted} channels and sides in multiples of {p}, found {:?}",
            t.shape()
        )));
    }
    Ok(t.cast(DType::F32))
}

/// A single number, if it was given.
pub(crate) fn number(given: &Given, name: &str) -> Result<Option<f64>> {
    let Some(t) = given.optional(name) else { return Ok(None) };
    match t.to_f64()[..] {
        [number] => Ok(Some(number)),
        _ => Err(given.error(format!("\"{name}\" must be one number, found {:?}", t.shape()))),
    }
}

/// Size or aspect ratio of each sample, `[B, numbers]`, or one row for all. Fewer rows repeat, as
/// the official `s.repeat(batch // rows)`.
fn micro_condition(given: &Given, name: &str, batch: usize, numbers: usize) -> Result<HostTensor> {
    let t = given.get(name)?;
    let rows = t.len() / numbers;
    if !t.len().is_multiple_of(numbers) || rows == 0 || !batch.is_multiple_of(rows) {
        let shape = t.shape();
        return Err(given.error(format!(
            "\"{name}\" must be [{batch}, {numbers}], or have fewer rows that divide {batch}; found {shape:?}"
        )));
    }
    let values = t.to_f32();
    let repeats = if rows == 1 { 1 } else { batch / rows };
    Ok(HostTensor::from_f32([rows * repeats, numbers], values.repeat(repeats)))
}

/// The captions with their valid tokens first, `[B, L, caption_channels]`, and how many of them
/// are valid, i64 `[B]`. A mask of fewer rows repeats over the batch (quirk 7).
fn captions(net: &PixArt, given: &Given, batch: usize, masked: bool) -> Result<(HostTensor, HostTensor)> {
    let y = given.get("y")?;
    let (tokens, channels) = match y.shape()[..] {
        [rows, 1, tokens, channels] | [rows, tokens, channels] if rows == batch => (tokens, channels),
        _ => {
            let shape = y.shape();
            return Err(given.error(format!("\"y\" must be [{batch}, 1, tokens, channels], found {shape:?}")));
        }
    };
    if channels != net.caption_channels || tokens == 0 {
        let wanted = net.caption_channels;
        let found = y.shape();
        return Err(given.error(format!("\"y\" must have tokens of {wanted} channels, found {found:?}")));
    }
    let mut values = y.to_f32().into_owned();
    let mut lengths = vec![tokens as i64; batch];
    if let Some(mask) = given.optional("mask").filter(|_| masked) {
        let rows = mask.len() / tokens;
        let fits = mask.shape().first() == Some(&rows) && mask.shape().last() == Some(&tokens);
        if !fits || rows == 0 || !batch.is_multiple_of(rows) {
            let shape = mask.shape();
            let message = format!(
                "\"mask\" must be [{batch}, 1, 1, {tokens}], or have fewer rows that divide {batch}; found {shape:?}"
            );
            return Err(given.error(message));
        }
        let mask = mask.to_f64();
        if let Some(odd) = mask.iter().find(|&&m| m != 0.0 && m != 1.0) {
            return Err(given.error(format!("\"mask\" must hold zeros and ones, found {odd}")));
        }
        for (i, caption) in values.chunks_exact_mut(tokens * channels).enumerate() {
            let row = &mask[i % rows * tokens..][..tokens];
            let mut valid = 0;
            for from in (0..tokens).filter(|&k| row[k] == 1.0) {
                caption.copy_within(from * channels..(from + 1) * channels, valid * channels);
                valid += 1;
            }
            lengths[i] = valid as i64;
        }
    }
    Ok((HostTensor::from_f32([batch, tokens, channels], values), HostTensor::from_i64([batch], lengths)))
}

/// `uncond + scale·(cond − uncond)` in the guided channels of both halves of `[2·B, C, H, W]`,
/// whose first half is conditional; the other channels stay each half's own.
pub(crate) fn guide(out: &HostTensor, scale: f32) -> HostTensor {
    let [_, c, h, w] = out.shape()[..] else { panic!("a denoised latent is [B, C, H, W], found {out:?}") };
    let (sample, guided) = (c * h * w, GUIDED.min(c) * h * w);
    let mut values = out.to_f32().into_owned();
    let half = values.len() / 2;
    let (cond, uncond) = values.split_at_mut(half);
    for (cond, uncond) in cond.chunks_exact_mut(sample).zip(uncond.chunks_exact_mut(sample)) {
        for (c, u) in cond[..guided].iter_mut().zip(&mut uncond[..guided]) {
            let eps = *u + scale * (*c - *u);
            (*c, *u) = (eps, eps);
        }
    }
    HostTensor::from_f32(out.shape(), values)
}
