//! SwinIR (Liang et al., ICCVW 2021, arXiv 2108.10257): the original releases and the general
//! degradation remover of DiffBIR and DreamClear (pixel-unshuffle in front, ×8 behind).
//!
//! Facts and quirks: `restore.md` §3 of the specification; keys are those of the official
//! `SwinIR` module.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ImageNetwork, Shapes, config};
use crate::error::{Error, Result};
use crate::graph::{GraphBuilder, ValueId};
use crate::nn;
use crate::ops::pad_edges::Mode;
use crate::ops::window_attention::WindowAttention;
use crate::tensor::HostTensor;

/// Mean of DIV2K in RGB, subtracted by every 3-channel SwinIR; a constant, not in the file.
const RGB_MEAN: [f32; 3] = [0.4488, 0.4371, 0.4040];
/// Features of the reconstruction part.
const NUM_FEAT: usize = 64;
/// PyTorch's default slope, used by `conv_before_upsample` only (quirk 3).
const DEFAULT_SLOPE: f32 = 0.01;
/// The slope of every other LeakyReLU.
const SLOPE: f32 = 0.2;
/// PyTorch's default epsilon of LayerNorm.
const LAYER_NORM_EPS: f32 = 1e-5;

/// How features become a larger picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upsampler {
    /// Classical super-resolution: convolution and pixel shuffle per factor of 2 (or 3).
    #[serde(rename = "pixelshuffle")]
    PixelShuffle,
    /// Lightweight super-resolution: one convolution and pixel shuffle.
    #[serde(rename = "pixelshuffledirect")]
    PixelShuffleDirect,
    /// Real-world super-resolution: nearest ×2 and convolution per factor of 2.
    #[serde(rename = "nearest+conv")]
    NearestConv,
    /// Denoising and JPEG artefacts: same size, the network predicts a correction.
    #[serde(rename = "")]
    None,
}

/// The convolution at the end of each residual group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResiConnection {
    /// One 3×3 convolution.
    #[serde(rename = "1conv")]
    OneConv,
    /// 3×3 to a quarter of the channels, 1×1, 3×3 back.
    #[serde(rename = "3conv")]
    ThreeConv,
}

/// Hyper-parameters under the names of the official constructors.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SwinIr {
    /// Picture channels: 3 or 1.
    pub in_chans: usize,
    /// Feature channels.
    pub embed_dim: usize,
    /// Transformer blocks of each residual group.
    pub depths: Vec<usize>,
    /// Attention heads of each residual group.
    pub num_heads: Vec<usize>,
    /// Window side in tokens.
    pub window_size: usize,
    /// Hidden channels of the MLP relative to `embed_dim`.
    pub mlp_ratio: f64,
    /// Whether query, key and value have a bias.
    pub qkv_bias: bool,
    /// Attention scale instead of head_dim^-½.
    pub qk_scale: Option<f64>,
    /// Learned absolute position embedding (fixes the input size).
    pub ape: bool,
    /// LayerNorm right after the first convolution.
    pub patch_norm: bool,
    /// Output pixels per input pixel (`sf` in DreamClear's copy).
    #[serde(alias = "sf")]
    pub upscale: usize,
    /// The network works on pictures in 0..img_range.
    pub img_range: f64,
    /// How features become a larger picture.
    pub upsampler: Upsampler,
    /// The convolution at the end of each residual group.
    pub resi_connection: ResiConnection,
    /// Pixel-unshuffle by `upscale` in front (DreamClear's general model).
    pub unshuffle: bool,
    /// The unshuffle factor as the official configuration gives it; must equal `upscale`.
    pub unshuffle_scale: Option<usize>,
    /// Whether the picture is added to what a network with `unshuffle` puts out, as the official code does without
    /// an upsampler. Not in the official configurations, where channels of the features carry the picture: 180 are
    /// enough for that, a small network needs its few for the correction. Weights do not tell; a configuration must.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub global_residual: bool,
    /// The training picture size in tokens: windows never exceed it.
    pub img_size: ImgSize,
}

/// `img_size` may be one number or a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImgSize {
    /// Square.
    Square(usize),
    /// Height and width.
    Pair(usize, usize),
}

impl ImgSize {
    fn min(self) -> usize {
        match self {
            ImgSize::Square(n) => n,
            ImgSize::Pair(h, w) => h.min(w),
        }
    }
}

impl Default for SwinIr {
    /// The defaults of the official constructor.
    fn default() -> Self {
        SwinIr {
            in_chans: 3,
            embed_dim: 96,
            depths: vec![6; 4],
            num_heads: vec![6; 4],
            window_size: 7,
            mlp_ratio: 4.0,
            qkv_bias: true,
            qk_scale: None,
            ape: false,
            patch_norm: true,
            upscale: 2,
            img_range: 1.0,
            upsampler: Upsampler::None,
            resi_connection: ResiConnection::OneConv,
            unshuffle: false,
            unshuffle_scale: None,
            global_residual: false,
            img_size: ImgSize::Square(64),
        }
    }
}

const KNOWN: &[&str] = &[
    "in_chans",
    "embed_dim",
    "depths",
    "num_heads",
    "window_size",
    "mlp_ratio",
    "qkv_bias",
    "qk_scale",
    "ape",
    "patch_norm",
    "upscale",
    "sf",
    "img_range",
    "upsampler",
    "resi_connection",
    "unshuffle",
    "unshuffle_scale",
    "global_residual",
    "img_size",
];
/// Constructor arguments that matter only for training or data loading.
const HARMLESS: &[&str] = &[
    "patch_size",
    "drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "norm_layer",
    "use_checkpoint",
    "hq_key",
    "lq_key",
    "learning_rate",
    "weight_decay",
    "loss",
];

impl SwinIr {
    /// DiffBIR's general degradation remover, `general_swinir_v1.ckpt`.
    pub fn general() -> Self {
        SwinIr {
            embed_dim: 180,
            depths: vec![6; 8],
            num_heads: vec![6; 8],
            window_size: 8,
            mlp_ratio: 2.0,
            upscale: 8,
            upsampler: Upsampler::NearestConv,
            unshuffle: true,
            unshuffle_scale: Some(8),
            ..Self::default()
        }
    }

    /// From an official configuration; what it leaves out comes from the constructor's defaults.
    pub fn from_config(json: &Value, _shapes: &Shapes) -> Result<(Self, Vec<String>)> {
        let mut json = json.clone();
        // The official default spells "no upsampler" also as null.
        if json.get("upsampler").is_some_and(Value::is_null) {
            json["upsampler"] = Value::String(String::new());
        }
        // Only DreamClear's constructor knows `unshuffle`; it defaults sf to 4, the original's upscale to 2.
        if json.get("unshuffle").is_some() && json.get("sf").or(json.get("upscale")).is_none() {
            json["sf"] = Value::from(4);
        }
        if json.get("patch_size").and_then(Value::as_u64).is_some_and(|p| p != 1) {
            return Err(Error::Usage("SwinIR with patch_size other than 1 is not supported".into()));
        }
        let (net, ignored): (Self, _) = config::read("swinir", &json, KNOWN, HARMLESS)?;
        net.check().map_err(Error::Usage)?;
        Ok((net, ignored))
    }

    fn check(&self) -> Result<(), String> {
        if self.depths.len() != self.num_heads.len() || self.depths.is_empty() {
            return Err(format!(
                "SwinIR needs one head count per residual group; found depths {:?}, num_heads {:?}",
                self.depths, self.num_heads
            ));
        }
        if let Some(h) = self.num_heads.iter().find(|&&h| h == 0 || !self.embed_dim.is_multiple_of(h)) {
            return Err(format!("SwinIR: embed_dim {} is not divisible by {h} heads", self.embed_dim));
        }
        if self.window_size == 0 || self.upscale == 0 || self.in_chans == 0 {
            return Err("SwinIR: window_size, upscale and in_chans must be at least 1".into());
        }
        let ok = match self.upsampler {
            Upsampler::NearestConv if self.unshuffle => matches!(self.upscale, 2 | 4 | 8),
            Upsampler::NearestConv => matches!(self.upscale, 2 | 4 | 8),
            Upsampler::PixelShuffle => self.upscale == 3 || self.upscale.is_power_of_two(),
            Upsampler::PixelShuffleDirect => true,
            Upsampler::None => true,
        };
        if !ok {
            return Err(format!("SwinIR: upsampler {:?} has no ×{}", self.upsampler, self.upscale));
        }
        if self.global_residual && self.scale() != 1 {
            return Err(format!(
                "SwinIR: global_residual adds the picture to an output of its size, but this one is {} times as \
                 large; set unshuffle = true",
                self.upscale
            ));
        }
        match self.unshuffle_scale {
            Some(s) if self.unshuffle && s != self.upscale => Err(format!(
                "SwinIR: unshuffle_scale {s} must equal sf {} (the official code unshuffles by sf)",
                self.upscale
            )),
            _ => Ok(()),
        }
    }

    /// Whether a checkpoint is a SwinIR.
    pub fn recognizes(shapes: &Shapes) -> bool {
        shapes.keys().any(|k| k.ends_with("residual_group.blocks.0.attn.relative_position_bias_table"))
    }

    /// Hyper-parameters from the shapes of a checkpoint.
    pub fn infer(shapes: &Shapes) -> Result<Self> {
        let missing =
            |key: &str| Error::Weights(format!("this looks like a SwinIR, but \"{key}\" is missing"));
        let get = |key: &str| shapes.get(key).ok_or_else(|| missing(key));
        let dim = |key: &str, axis: usize| {
            let shape = get(key)?;
            shape
                .get(axis)
                .copied()
                .filter(|&n| n > 0)
                .ok_or_else(|| Error::Weights(format!("\"{key}\" has the unexpected shape {shape:?}")))
        };
        let unshuffle = shapes.contains_key("conv_first.1.weight");
        let first = if unshuffle { "conv_first.1.weight" } else { "conv_first.weight" };
        let embed_dim = dim(first, 0)?;
        let (mut depths, mut num_heads) = (Vec::new(), Vec::new());
        let table = |i: usize, j: usize| {
            format!("layers.{i}.residual_group.blocks.{j}.attn.relative_position_bias_table")
        };
        while shapes.contains_key(&table(depths.len(), 0)) {
            let i = depths.len();
            num_heads.push(dim(&table(i, 0), 1)?);
            depths.push((0..).take_while(|&j| shapes.contains_key(&table(i, j))).count());
        }
        // The table has (2w−1)² rows.
        let side = (dim(&table(0, 0), 0)? as f64).sqrt().round() as usize;
        let window_size = side.div_ceil(2);
        let hidden = dim("layers.0.residual_group.blocks.0.mlp.fc1.weight", 0)?;
        let mut net = SwinIr {
            embed_dim,
            depths,
            num_heads,
            window_size,
            mlp_ratio: hidden as f64 / embed_dim as f64,
            qkv_bias: shapes.contains_key("layers.0.residual_group.blocks.0.attn.qkv.bias"),
            ape: shapes.contains_key("absolute_pos_embed"),
            patch_norm: shapes.contains_key("patch_embed.norm.weight"),
            resi_connection: if shapes.contains_key("conv_after_body.0.weight") {
                ResiConnection::ThreeConv
            } else {
                ResiConnection::OneConv
            },
            unshuffle,
            // Only the JPEG models use windows of 7, and they work on 0..255.
            img_range: if window_size == 7 { 255.0 } else { 1.0 },
            ..Self::default()
        };
        if let Some(tokens) = shapes.get("absolute_pos_embed").and_then(|s| s.get(1)) {
            net.img_size = ImgSize::Square((*tokens as f64).sqrt().round() as usize);
        }
        if shapes.contains_key("conv_up1.weight") {
            net.upsampler = Upsampler::NearestConv;
            net.upscale = if unshuffle {
                1 << (1..=3).filter(|i| shapes.contains_key(&format!("conv_up{i}.weight"))).count()
            } else if shapes.contains_key("conv_up2.weight") {
                4
            } else {
                2
            };
            net.in_chans = dim("conv_last.weight", 0)?;
        } else if shapes.contains_key("conv_before_upsample.0.weight") {
            net.upsampler = Upsampler::PixelShuffle;
            let stages =
                (0..).take_while(|i| shapes.contains_key(&format!("upsample.{}.weight", 2 * i))).count();
            net.upscale = if dim("upsample.0.weight", 0)? == 9 * NUM_FEAT { 3 } else { 1 << stages };
            net.in_chans = dim("conv_last.weight", 0)?;
        } else if shapes.contains_key("upsample.0.weight") {
            net.upsampler = Upsampler::PixelShuffleDirect;
            net.in_chans = match dim(first, 1)? {
                // Unshuffled: colour or grey times a square.
                n if unshuffle && n % 3 == 0 && (n / 3).isqrt().pow(2) == n / 3 => 3,
                _ if unshuffle => 1,
                n => n,
            };
            net.upscale = ((dim("upsample.0.weight", 0)? / net.in_chans) as f64).sqrt().round() as usize;
        } else {
            net.in_chans = dim("conv_last.weight", 0)?;
            net.upscale = 1;
        }
        net.unshuffle_scale = unshuffle.then_some(net.upscale);
        net.check().map_err(Error::Weights)?;
        Ok(net)
    }

    /// Transformer blocks in all.
    pub fn blocks(&self) -> usize {
        self.depths.iter().sum()
    }

    /// Windows and shifts shrink when the training picture was no larger than a window.
    fn window(&self) -> (usize, usize) {
        let tokens = self.img_size.min();
        if tokens <= self.window_size { (tokens, 0) } else { (self.window_size, self.window_size / 2) }
    }

    /// One Swin transformer block on `[B, H, W, C]`.
    fn block(
        &self,
        b: &mut GraphBuilder,
        x: ValueId,
        heads: usize,
        odd: bool,
        branches: &mut Branches,
    ) -> Result<ValueId> {
        let c = self.embed_dim;
        let (window, shift) = self.window();
        let h = nn::layer_norm(b, "norm1", x, LAYER_NORM_EPS)?;
        let h = b.scope("attn", |b| {
            let qkv = nn::linear(b, "qkv", h, 3 * c, self.qkv_bias)?;
            let table = b.param("relative_position_bias_table", [(2 * window - 1).pow(2), heads])?;
            let scale = self.qk_scale.unwrap_or(((c / heads) as f64).powf(-0.5)) as f32;
            let shift = if odd { shift } else { 0 };
            let a = b.window_attention(qkv, table, WindowAttention { window, shift, heads, scale })?;
            nn::linear(b, "proj", a, c, true)
        })?;
        let x = branches.add(b, x, h)?;
        let h = nn::layer_norm(b, "norm2", x, LAYER_NORM_EPS)?;
        let h = b.scope("mlp", |b| {
            let h = nn::linear(b, "fc1", h, (c as f64 * self.mlp_ratio) as usize, true)?;
            let h = b.gelu(h)?;
            nn::linear(b, "fc2", h, c, true)
        })?;
        branches.add(b, x, h)
    }

    /// The convolution(s) at the end of a residual group, under `name`.
    fn group_conv(&self, b: &mut GraphBuilder, name: &str, x: ValueId) -> Result<ValueId> {
        let c = self.embed_dim;
        match self.resi_connection {
            ResiConnection::OneConv => nn::conv2d(b, name, x, c, 3),
            ResiConnection::ThreeConv => b.scope(name, |b| {
                let h = nn::conv2d(b, "0", x, c / 4, 3)?;
                let h = b.leaky_relu(h, SLOPE)?;
                let h = nn::conv2d(b, "2", h, c / 4, 1)?;
                let h = b.leaky_relu(h, SLOPE)?;
                nn::conv2d(b, "4", h, c, 3)
            }),
        }
    }

    /// Deep features: LayerNorm, residual Swin transformer groups, LayerNorm.
    fn features(&self, b: &mut GraphBuilder, x: ValueId, branches: &mut Branches) -> Result<ValueId> {
        let mut x = x;
        if self.patch_norm {
            x = nn::layer_norm(b, "patch_embed.norm", x, LAYER_NORM_EPS)?;
        }
        if self.ape {
            let [_, h, w, c] = b.dims(x, "swinir")?;
            let embed = b.param("absolute_pos_embed", [1, h * w, c])?;
            let embed = b.reshape(embed, [1, h, w, c])?;
            x = b.add(x, embed)?;
        }
        for (i, (&depth, &heads)) in self.depths.iter().zip(&self.num_heads).enumerate() {
            x = b.scope(format!("layers.{i}"), |b| {
                let mut h = x;
                for j in 0..depth {
                    let block = format!("residual_group.blocks.{j}");
                    h = b.scope(block, |b| self.block(b, h, heads, j % 2 == 1, branches))?;
                }
                let h = self.group_conv(b, "conv", h)?;
                b.add(h, x)
            })?;
        }
        nn::layer_norm(b, "norm", x, LAYER_NORM_EPS)
    }

    fn nearest2(b: &mut GraphBuilder, name: &str, x: ValueId) -> Result<ValueId> {
        let x = b.upsample_nearest(x, 2)?;
        let x = nn::conv2d(b, name, x, NUM_FEAT, 3)?;
        b.leaky_relu(x, SLOPE)
    }

    /// From deep features to a picture.
    fn reconstruct(&self, b: &mut GraphBuilder, x: ValueId) -> Result<ValueId> {
        let before = |b: &mut GraphBuilder| {
            let x = nn::conv2d(b, "conv_before_upsample.0", x, NUM_FEAT, 3)?;
            b.leaky_relu(x, DEFAULT_SLOPE)
        };
        match self.upsampler {
            Upsampler::PixelShuffle => {
                let mut x = before(b)?;
                let (factor, stages) =
                    if self.upscale == 3 { (3, 1) } else { (2, self.upscale.ilog2() as usize) };
                for i in 0..stages {
                    x = nn::conv2d(b, &format!("upsample.{}", 2 * i), x, factor * factor * NUM_FEAT, 3)?;
                    x = b.pixel_shuffle(x, factor)?;
                }
                nn::conv2d(b, "conv_last", x, self.in_chans, 3)
            }
            Upsampler::PixelShuffleDirect => {
                let x = nn::conv2d(b, "upsample.0", x, self.upscale.pow(2) * self.in_chans, 3)?;
                b.pixel_shuffle(x, self.upscale)
            }
            Upsampler::NearestConv => {
                let mut x = before(b)?;
                for i in 1..=self.upscale.ilog2() {
                    x = Self::nearest2(b, &format!("conv_up{i}"), x)?;
                }
                let x = nn::conv2d(b, "conv_hr", x, NUM_FEAT, 3)?;
                let x = b.leaky_relu(x, SLOPE)?;
                nn::conv2d(b, "conv_last", x, self.in_chans, 3)
            }
            Upsampler::None => nn::conv2d(b, "conv_last", x, self.in_chans, 3),
        }
    }

    /// [`ImageNetwork::build`] as in training, where blocks may be left out: `factors`, f32 `[B, 2 · blocks]`, are
    /// what the residual branches of each sample are multiplied by, attention and MLP of each block in turn.
    ///
    /// # Errors
    /// If the picture or the factors do not fit the network.
    pub fn record(&self, b: &mut GraphBuilder, image: ValueId, factors: Option<ValueId>) -> Result<ValueId> {
        let [_, height, width, channels] = b.dims(image, "swinir")?;
        if channels != self.in_chans {
            return Err(b.error("swinir", format!("expected {} channels, found {channels}", self.in_chans)));
        }
        // Reflect to whole windows, right and bottom.
        let m = self.multiple();
        let (pad_h, pad_w) = (height.next_multiple_of(m) - height, width.next_multiple_of(m) - width);
        let x = if pad_h + pad_w > 0 {
            b.pad_edges(image, Mode::Reflect, vec![0; 4], vec![0, pad_h, pad_w, 0])?
        } else {
            image
        };
        let mean = match self.in_chans {
            3 => b.constant(HostTensor::from_f32([3], RGB_MEAN.to_vec())),
            _ => b.scalar(0.0),
        };
        let mut x = b.sub(x, mean)?;
        if self.img_range != 1.0 {
            x = b.scale(x, self.img_range as f32)?;
        }
        let shallow = if self.unshuffle {
            let x = b.pixel_unshuffle(x, self.upscale)?;
            nn::conv2d(b, "conv_first.1", x, self.embed_dim, 3)?
        } else {
            nn::conv2d(b, "conv_first", x, self.embed_dim, 3)?
        };
        let deep = self.features(b, shallow, &mut Branches { factors, next: 0 })?;
        let deep = self.group_conv(b, "conv_after_body", deep)?;
        let deep = b.add(deep, shallow)?;
        let mut y = self.reconstruct(b, deep)?;
        if self.upsampler == Upsampler::None || self.global_residual {
            y = b.add(x, y)?;
        }
        if self.img_range != 1.0 {
            y = b.scale(y, (1.0 / self.img_range) as f32)?;
        }
        let y = b.add(y, mean)?;
        let s = self.scale();
        let y = b.slice(y, 1, 0, height * s)?;
        b.slice(y, 2, 0, width * s)
    }
}

/// The residual branches of all blocks, one after the other.
struct Branches {
    /// What each is multiplied by, `[B, 2 · blocks]`; `None` for 1.
    factors: Option<ValueId>,
    /// The column of the next one.
    next: usize,
}

impl Branches {
    /// `x` and the next branch's result.
    fn add(&mut self, b: &mut GraphBuilder, x: ValueId, h: ValueId) -> Result<ValueId> {
        let Some(factors) = self.factors else { return b.add(x, h) };
        let column = b.slice(factors, 1, self.next, 1)?;
        self.next += 1;
        let batch = b.shape(x)[0];
        let factor = b.reshape(column, [batch, 1, 1, 1])?;
        let h = b.mul(h, factor)?;
        b.add(x, h)
    }
}

impl ImageNetwork for SwinIr {
    fn architecture(&self) -> &'static str {
        "swinir"
    }

    fn fixed_side(&self) -> Option<usize> {
        self.ape.then(|| self.img_size.min() * self.unshuffle_scale.unwrap_or(1))
    }

    fn build(&self, b: &mut GraphBuilder, image: ValueId) -> Result<ValueId> {
        self.record(b, image, None)
    }

    fn channels(&self) -> usize {
        self.in_chans
    }

    fn scale(&self) -> usize {
        // Unshuffling by sf in front and growing by sf behind cancel.
        if self.unshuffle || self.upsampler == Upsampler::None { 1 } else { self.upscale }
    }

    fn multiple(&self) -> usize {
        let (window, _) = self.window();
        if self.unshuffle { window * self.upscale } else { window }
    }

    fn receptive_radius(&self) -> Option<usize> {
        None // shifted windows carry a pixel one window further in every other block
    }

    fn ignores(&self, key: &str) -> bool {
        key.ends_with(".relative_position_index") || key.ends_with(".attn_mask")
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("plain numbers and names")
    }
}
