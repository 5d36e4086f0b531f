//! AutoencoderKL: the variational autoencoder of Stable Diffusion ("High-Resolution Image
//! Synthesis with Latent Diffusion Models", Rombach et al., CVPR 2022) as in diffusers, with its
//! official keys: `sd-vae-ft-ema` of DreamClear, the VAE of SDXL, and any other configuration.
//!
//! Both halves are chains, so they are written as lists of [`Layer`]s that are read from top to
//! bottom. A chain is recorded as one graph ([`record`]), or run layer by layer on pictures too
//! large for that (`pipelines::vae`).

use serde::Deserialize;
use serde_json::Value;

use super::{Shapes, config};
use crate::error::{Error, Result};
use crate::graph::{GraphBuilder, ValueId};
use crate::ops::attention::AttentionOptions;
use crate::ops::conv2d::ConvSpec;

mod names;
mod network;

pub use network::{Half, VaeNetwork};

/// Epsilon of every norm.
pub const EPS: f32 = 1e-6;

/// Configuration keys that change the network.
const KNOWN: &[&str] = &[
    "in_channels",
    "out_channels",
    "down_block_types",
    "up_block_types",
    "block_out_channels",
    "layers_per_block",
    "act_fn",
    "latent_channels",
    "norm_num_groups",
    "scaling_factor",
    "shift_factor",
    "use_quant_conv",
    "use_post_quant_conv",
    "mid_block_add_attention",
];

/// Configuration keys that do not: the training size, precision advice, and statistics of latents
/// that only a pipeline would use.
const HARMLESS: &[&str] = &["sample_size", "force_upcast", "latents_mean", "latents_std"];

/// Hyper-parameters under their diffusers names, with diffusers' meaning.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct AutoencoderKl {
    /// Channels of the picture going in.
    pub in_channels: usize,
    /// Channels of the picture coming out.
    pub out_channels: usize,
    /// Channels of each level, largest picture first; each level but the last halves the picture.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Groups of every norm.
    pub norm_num_groups: usize,
    /// Diffusion models see latents times this factor.
    pub scaling_factor: f64,
    /// … after this was taken off, where it is given.
    pub shift_factor: Option<f64>,
    /// Whether a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the smallest level has an attention between its two residual blocks.
    pub mid_block_add_attention: bool,
    down_block_types: Option<Vec<String>>,
    up_block_types: Option<Vec<String>>,
    act_fn: String,
}

impl Default for AutoencoderKl {
    /// The layout of Stable Diffusion 1 and 2 (`sd-vae-ft-ema`).
    fn default() -> Self {
        AutoencoderKl {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            down_block_types: None,
            up_block_types: None,
            act_fn: "silu".into(),
        }
    }
}

/// What a convolution does to the size of its picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing; the kernel is of this odd size.
    Same(usize),
    /// Halves it: 3×3, stride 2, one row and column of zeros at the bottom and right only.
    Down,
    /// Doubles it: nearest enlargement, then 3×3.
    Up,
}

/// `y = conv(silu(norm(x)))`, or `conv(x)` without a norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Key of the group norm with SiLU in front, if there is one.
    pub norm: Option<String>,
    /// Key of the convolution.
    pub key: String,
    /// Channels that come out.
    pub out: usize,
    /// Kernel and geometry.
    pub step: Step,
}

/// One link of an encoder or decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A convolution.
    Conv(Conv),
    /// Two convolutions, each behind norm and SiLU, plus their input (through a 1×1 convolution
    /// where the channels change).
    Resnet {
        /// In the order of the data.
        convs: [Conv; 2],
        /// On the way around.
        shortcut: Option<Conv>,
    },
    /// Attention of all pixels with one head, plus its input; the key.
    Attention(String),
}

impl AutoencoderKl {
    /// A latent as diffusion models see it: less `shift_factor`, times `scaling_factor`.
    pub fn scaled(&self, latent: &[f32]) -> Vec<f32> {
        let (shift, factor) = (self.shift_factor.unwrap_or(0.0) as f32, self.scaling_factor as f32);
        latent.iter().map(|x| (x - shift) * factor).collect()
    }

    /// The decoder's latent of one of a diffusion model: [`AutoencoderKl::scaled`] undone.
    pub fn unscaled(&self, latent: &[f32]) -> Vec<f32> {
        let (shift, factor) = (self.shift_factor.unwrap_or(0.0) as f32, self.scaling_factor as f32);
        latent.iter().map(|x| x / factor + shift).collect()
    }

    /// From the published `config.json`, and the keys in it that change nothing. Keys that it
    /// leaves out have diffusers' defaults where the weights' shapes do not say otherwise.
    ///
    /// # Errors
    /// If it asks for something that this network does not have.
    pub fn from_config(config: &Value, shapes: &Shapes) -> Result<(Self, Vec<String>)> {
        let mut config = config.clone();
        if let Some(object) = config.as_object_mut()
            && !object.contains_key("block_out_channels")
            && let Ok(found) = Self::infer(shapes)
        {
            object.insert("block_out_channels".into(), found.block_out_channels.into());
            object.entry("layers_per_block").or_insert(found.layers_per_block.into());
        }
        let (net, ignored): (Self, _) = config::read("vae", &config, KNOWN, HARMLESS)?;
        net.check().map_err(Error::Usage)?;
        Ok((net, ignored))
    }

    /// From the shapes of the weights alone, of any vintage of names; the number of groups and the
    /// scaling factor leave no trace there and are those of Stable Diffusion.
    ///
    /// # Errors
    /// If the keys are not those of an autoencoder.
    pub fn infer(shapes: &Shapes) -> Result<Self> {
        let shapes = names::canonical(shapes);
        let dim = |key: &str, axis: usize| {
            shapes.get(key).and_then(|shape| shape.get(axis)).copied().ok_or_else(|| {
                Error::Weights(format!("these weights are no autoencoder's: \"{key}\" is missing"))
            })
        };
        let count =
            |key: &dyn Fn(usize) -> String| (0..).take_while(|&i| shapes.contains_key(&key(i))).count();
        let has = |key: &str| shapes.contains_key(key);
        let (encoder, decoder) = (has("encoder.conv_in.weight"), has("decoder.conv_in.weight"));
        let side = if encoder { "encoder.down_blocks" } else { "decoder.up_blocks" };
        let levels = count(&|i| format!("{side}.{i}.resnets.0.conv1.weight"));
        let mut channels: Vec<usize> = (0..levels)
            .map(|i| dim(&format!("{side}.{i}.resnets.0.conv1.weight"), 0))
            .collect::<Result<_>>()?;
        let mut layers = count(&|j| format!("{side}.0.resnets.{j}.conv1.weight"));
        let latent_channels =
            if encoder { dim("encoder.conv_out.weight", 0)? / 2 } else { dim("decoder.conv_in.weight", 1)? };
        if !encoder {
            channels.reverse();
            layers = layers.saturating_sub(1);
        }
        let attention = |half| has(&format!("{half}.mid_block.attentions.0.to_q.weight"));
        let net = AutoencoderKl {
            in_channels: if encoder { dim("encoder.conv_in.weight", 1)? } else { 3 },
            out_channels: if decoder { dim("decoder.conv_out.weight", 0)? } else { 3 },
            block_out_channels: channels,
            layers_per_block: layers,
            latent_channels,
            use_quant_conv: has("quant_conv.weight"),
            use_post_quant_conv: has("post_quant_conv.weight"),
            mid_block_add_attention: attention("encoder") || attention("decoder"),
            ..Default::default()
        };
        net.check().map_err(Error::Weights)?;
        Ok(net)
    }

    fn check(&self) -> Result<(), String> {
        let levels = self.block_out_channels.len();
        let blocks = |types: &Option<Vec<String>>, what: &str, only: &str| match types {
            None => Ok(()),
            Some(types) if types.len() != levels => Err(format!(
                "the vae configuration has {} {what} but {levels} block_out_channels",
                types.len()
            )),
            Some(types) => types.iter().try_for_each(|t| {
                if t == only { Ok(()) } else { Err(format!("{what} must all be {only}, found {t}")) }
            }),
        };
        blocks(&self.down_block_types, "down_block_types", "DownEncoderBlock2D")?;
        blocks(&self.up_block_types, "up_block_types", "UpDecoderBlock2D")?;
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return Err(format!("act_fn must be silu, found {}", self.act_fn));
        }
        let numbers = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("latent_channels", self.latent_channels),
            ("norm_num_groups", self.norm_num_groups),
            ("the number of block_out_channels", levels),
        ];
        if let Some((name, n)) = numbers.into_iter().find(|&(_, n)| n == 0 || n > 1 << 16) {
            return Err(format!("{name} of a vae must be from 1 to 65536, found {n}"));
        }
        let groups = self.norm_num_groups;
        match self.block_out_channels.iter().find(|&&c| c == 0 || !c.is_multiple_of(groups)) {
            Some(c) => {
                Err(format!("block_out_channels must be multiples of norm_num_groups ({groups}), found {c}"))
            }
            None => Ok(()),
        }
    }

    /// Picture pixels per latent pixel, along each axis.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// From picture `[.., in_channels]` in −1..1 to moments `[.., 2·latent_channels]`: means, then
    /// logarithms of variances.
    pub fn encoder(&self) -> Vec<Layer> {
        let (&first, &last) = (&self.block_out_channels[0], self.block_out_channels.last().expect("checked"));
        let mut layers = vec![conv("encoder.conv_in", first, Step::Same(3))];
        let mut channels = first;
        for (i, &out) in self.block_out_channels.iter().enumerate() {
            for j in 0..self.layers_per_block {
                layers.push(resnet(format!("encoder.down_blocks.{i}.resnets.{j}"), channels, out));
                channels = out;
            }
            if i + 1 < self.block_out_channels.len() {
                layers.push(conv(&format!("encoder.down_blocks.{i}.downsamplers.0.conv"), out, Step::Down));
            }
        }
        self.middle("encoder", last, &mut layers);
        let moments = 2 * self.latent_channels;
        layers.push(norm_conv("encoder.conv_norm_out", "encoder.conv_out", moments));
        if self.use_quant_conv {
            layers.push(conv("quant_conv", moments, Step::Same(1)));
        }
        layers
    }

    /// From latent `[.., latent_channels]` (not scaled) to picture `[.., out_channels]`, about −1..1.
    pub fn decoder(&self) -> Vec<Layer> {
        let last = *self.block_out_channels.last().expect("checked");
        let mut layers = Vec::new();
        if self.use_post_quant_conv {
            layers.push(conv("post_quant_conv", self.latent_channels, Step::Same(1)));
        }
        layers.push(conv("decoder.conv_in", last, Step::Same(3)));
        self.middle("decoder", last, &mut layers);
        let mut channels = last;
        for (i, &out) in self.block_out_channels.iter().rev().enumerate() {
            for j in 0..=self.layers_per_block {
                layers.push(resnet(format!("decoder.up_blocks.{i}.resnets.{j}"), channels, out));
                channels = out;
            }
            if i + 1 < self.block_out_channels.len() {
                layers.push(conv(&format!("decoder.up_blocks.{i}.upsamplers.0.conv"), out, Step::Up));
            }
        }
        layers.push(norm_conv("decoder.conv_norm_out", "decoder.conv_out", self.out_channels));
        layers
    }

    fn middle(&self, half: &str, channels: usize, layers: &mut Vec<Layer>) {
        let key = format!("{half}.mid_block");
        layers.push(resnet(format!("{key}.resnets.0"), channels, channels));
        if self.mid_block_add_attention {
            layers.push(Layer::Attention(format!("{key}.attentions.0")));
        }
        layers.push(resnet(format!("{key}.resnets.1"), channels, channels));
    }
}

fn conv(key: &str, out: usize, step: Step) -> Layer {
    Layer::Conv(Conv { norm: None, key: key.to_owned(), out, step })
}

fn norm_conv(norm: &str, key: &str, out: usize) -> Layer {
    Layer::Conv(Conv { norm: Some(norm.to_owned()), key: key.to_owned(), out, step: Step::Same(3) })
}

fn resnet(key: String, channels: usize, out: usize) -> Layer {
    let part = |i: usize| Conv {
        norm: Some(format!("{key}.norm{i}")),
        key: format!("{key}.conv{i}"),
        out,
        step: Step::Same(3),
    };
    let around = || Conv { norm: None, key: format!("{key}.conv_shortcut"), out, step: Step::Same(1) };
    Layer::Resnet { convs: [part(1), part(2)], shortcut: (channels != out).then(around) }
}

/// Records a chain of layers on an NHWC picture.
pub fn record(b: &mut GraphBuilder, layers: &[Layer], groups: usize, mut x: ValueId) -> Result<ValueId> {
    for layer in layers {
        x = match layer {
            Layer::Conv(conv) => conv.record(b, groups, x)?,
            Layer::Resnet { convs: [first, second], shortcut } => {
                // First, so that the norm behind it may overwrite x; the sum's first operand is the
                // one that absorbs the other.
                let around = match shortcut {
                    Some(shortcut) => shortcut.record(b, groups, x)?,
                    None => x,
                };
                let h = first.record(b, groups, x)?;
                let h = second.record(b, groups, h)?;
                b.add(h, around)?
            }
            Layer::Attention(key) => attention(b, key, groups, x)?,
        };
    }
    Ok(x)
}

impl Conv {
    /// Records norm, SiLU and convolution.
    pub fn record(&self, b: &mut GraphBuilder, groups: usize, mut x: ValueId) -> Result<ValueId> {
        if let Some(key) = &self.norm {
            let affine = affine(b, key, x)?;
            x = b.group_norm_silu(x, groups, affine, EPS)?;
        }
        self.record_bare(b, x, self.spec().pad)
    }

    /// Records the convolution alone, on part of a picture: `pad` are the zeros above, below, left
    /// and right of that part.
    pub fn record_bare(&self, b: &mut GraphBuilder, mut x: ValueId, pad: [usize; 4]) -> Result<ValueId> {
        if self.step == Step::Up {
            x = b.upsample_nearest(x, 2)?;
        }
        b.scope(&self.key, |b| {
            let (channels, kernel) = (b.ty(x).last(), self.kernel());
            let weight = b.matrix("weight", [self.out, channels, kernel, kernel])?;
            let bias = b.param("bias", [self.out])?;
            b.conv2d(x, weight, Some(bias), ConvSpec { pad, ..self.spec() })
        })
    }

    fn kernel(&self) -> usize {
        if let Step::Same(kernel) = self.step { kernel } else { 3 }
    }

    /// Stride and padding on a whole picture.
    pub fn spec(&self) -> ConvSpec {
        match self.step {
            Step::Down => ConvSpec { stride: [2; 2], pad: [0, 1, 0, 1], ..ConvSpec::same(3) },
            Step::Same(kernel) => ConvSpec::same(kernel),
            Step::Up => ConvSpec::same(3),
        }
    }

    /// Height or width that comes out for one that goes in; 0 where the picture is too small.
    pub fn extent(&self, n: usize) -> usize {
        match self.step {
            Step::Same(_) => n,
            Step::Down => n / 2,
            Step::Up => 2 * n,
        }
    }
}

/// γ and β of the norm `key` of `x`.
fn affine(b: &mut GraphBuilder, key: &str, x: ValueId) -> Result<(ValueId, ValueId)> {
    b.scope(key, |b| {
        let channels = b.ty(x).last();
        Ok((b.param("weight", [channels])?, b.param("bias", [channels])?))
    })
}

/// Attention of all pixels of an NHWC picture with one head of all channels, plus its input.
fn attention(b: &mut GraphBuilder, key: &str, groups: usize, x: ValueId) -> Result<ValueId> {
    b.scope(key, |b| {
        let [batch, height, width, c] = b.dims(x, "attention")?;
        let affine = affine(b, "group_norm", x)?;
        let h = b.group_norm(x, groups, affine, EPS)?;
        let h = b.reshape(h, [batch, height * width, c])?;
        let mut heads = |name| {
            let y = crate::nn::linear(b, name, h, c, true)?;
            b.reshape(y, [batch, height * width, 1, c])
        };
        let (q, k, v) = (heads("to_q")?, heads("to_k")?, heads("to_v")?);
        let y = b.attention(q, k, v, AttentionOptions::default())?;
        let y = b.reshape(y, [batch, height * width, c])?;
        let y = crate::nn::linear(b, "to_out.0", y, c, true)?;
        // Added as tokens, so that the linear absorbs the sum.
        let x = b.reshape(x, [batch, height * width, c])?;
        let y = b.add(y, x)?;
        b.reshape(y, [batch, height, width, c])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_are_shifted_before_they_are_scaled() {
        let vae = AutoencoderKl { scaling_factor: 0.5, shift_factor: Some(1.0), ..AutoencoderKl::default() };
        assert_eq!(vae.scaled(&[3.0, -1.0]), [1.0, -1.0]);
        assert_eq!(vae.unscaled(&[1.0, -1.0]), [3.0, -1.0]);
        assert_eq!(AutoencoderKl::default().scaled(&[1.0]), [0.18215]);
    }
}
