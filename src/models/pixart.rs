//! PixArt-α (Chen et al., ICLR 2024, arXiv 2310.00426), the multi-scale model `PixArtMS`: a
//! diffusion transformer whose blocks share one projection of the timestep (adaLN-single) and read
//! the caption by cross-attention.
//!
//! Facts and quirks: `restore.md` §7 of the specification; keys are those of the official module,
//! or of a diffusers directory ([`super::pixart_names`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::denoiser::{self, Call};
use super::network::{Given, Network, Run};
use super::{Shapes, config, pixart_names as names, sincos};
use crate::error::{Error, Result};
use crate::graph::{Graph, GraphBuilder, Outputs, ValueId};
use crate::nn;
use crate::ops::attention::AttentionOptions;
use crate::weights::WeightSet;

/// Epsilon of the LayerNorms without weights.
const LAYER_NORM_EPS: f32 = 1e-6;
/// Channels of a sinusoidal embedding of a number.
const FREQUENCIES: usize = 256;
/// Channels of one attention head in the published models.
const HEAD: usize = 72;

/// Hyper-parameters under the names of the official constructor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PixArt {
    /// Side of the latent that the position embedding was made for.
    pub input_size: usize,
    /// Side of the square of latent pixels that becomes a token.
    pub patch_size: usize,
    /// Channels of the latent.
    pub in_channels: usize,
    /// Channels of a token.
    pub hidden_size: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block.
    pub num_heads: usize,
    /// Hidden channels of the MLP relative to `hidden_size`.
    pub mlp_ratio: f64,
    /// Whether the network also predicts a variance: twice the channels out.
    pub pred_sigma: bool,
    /// Channels of a caption token.
    pub caption_channels: usize,
    /// Divisor of the positions: 2 for the 1024-pixel model.
    pub lewei_scale: f64,
    /// Caption tokens of the null caption.
    pub model_max_length: usize,
    /// Whether the weights hold the null caption, `y_embedder.y_embedding`; a diffusers directory
    /// does not.
    #[serde(skip)]
    pub null_caption: bool,
}

impl Default for PixArt {
    /// The defaults of the official constructor.
    fn default() -> Self {
        PixArt {
            input_size: 32,
            patch_size: 2,
            in_channels: 4,
            hidden_size: 1152,
            depth: 28,
            num_heads: 16,
            mlp_ratio: 4.0,
            pred_sigma: true,
            caption_channels: 4096,
            lewei_scale: 1.0,
            model_max_length: 120,
            null_caption: true,
        }
    }
}

const KNOWN: &[&str] = &[
    "input_size",
    "patch_size",
    "in_channels",
    "hidden_size",
    "depth",
    "num_heads",
    "mlp_ratio",
    "pred_sigma",
    "caption_channels",
    "lewei_scale",
    "model_max_length",
];
/// Constructor arguments that matter only for training, or not at all: `learn_sigma` has no effect
/// in the official code either, `pred_sigma` decides.
const HARMLESS: &[&str] = &[
    "class_dropout_prob",
    "learn_sigma",
    "drop_path",
    "window_size",
    "window_block_indexes",
    "use_rel_pos",
    "fp32_attention",
    "config",
    "model",
    "type",
];

/// What a forward reads, as values of the graph.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The noisy latent, f32 `[B, in_channels, H, W]`; sides are multiples of `patch_size`.
    pub x: ValueId,
    /// The timestep, f32 `[B]` or `[1]` for all.
    pub timestep: ValueId,
    /// Caption tokens, f32 `[Y, L, caption_channels]`, the valid ones first.
    pub y: ValueId,
    /// Valid tokens of each caption, i64 `[Y]`.
    pub lengths: ValueId,
    /// Which caption each of the B samples reads.
    pub kv_rows: Vec<usize>,
    /// Height and width of the picture in pixels, f32 `[B, 2]`, or `[1, 2]` for all.
    pub img_hw: ValueId,
    /// Its aspect ratio, f32 `[B, 1]`, or `[1, 1]` for all.
    pub aspect_ratio: ValueId,
}

/// What all blocks of a forward share; T is B or, where all samples agree, 1.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// Embedding of timestep, size and aspect ratio, `[T, hidden_size]`.
    pub t: ValueId,
    /// Its six modulations, `[T, 6, hidden_size]`.
    pub t6: ValueId,
    /// Projected caption tokens, `[Y, L, hidden_size]`.
    pub y: ValueId,
    /// Valid tokens of each caption, i64 `[Y]`.
    pub lengths: ValueId,
    /// Which caption each sample reads, unless sample i reads caption i.
    pub kv_rows: Option<Arc<[usize]>>,
}

impl PixArt {
    /// PixArt-α XL/2 at 1024 pixels, as published.
    pub fn xl_1024() -> Self {
        PixArt { input_size: 128, lewei_scale: 2.0, ..Self::default() }
    }

    /// From an official configuration or a diffusers `config.json`; what it leaves out comes from
    /// the weights' shapes (official or diffusers names), else from the constructor's defaults.
    /// Without a configuration the position embedding is that of the 1024-pixel model.
    pub fn from_config(json: Option<&Value>, shapes: &Shapes) -> Result<(Self, Vec<String>)> {
        let translated = json.map(names::config).transpose()?;
        let (mut net, ignored) = Self::read(translated.as_ref(), &names::canonical(shapes), &[])?;
        net.null_caption = !names::is_diffusers(shapes);
        Ok((net, ignored))
    }

    /// Reads the keys of the base model; `also` names keys that the caller reads.
    pub(super) fn read(json: Option<&Value>, shapes: &Shapes, also: &[&str]) -> Result<(Self, Vec<String>)> {
        let mut net = if json.is_some() { Self::default() } else { Self::xl_1024() };
        net.infer(shapes);
        let mut merged = serde_json::to_value(&net).expect("plain numbers");
        for (key, value) in json.and_then(Value::as_object).into_iter().flatten() {
            if !value.is_null() && !also.contains(&key.as_str()) {
                merged[key] = value.clone();
            }
        }
        let windows = |v: &Value| v.as_array().is_some_and(|a| !a.is_empty());
        if merged.get("window_block_indexes").is_some_and(windows) {
            return Err(Error::Usage(
                "pixart with window_block_indexes (window attention) is not supported; no published model has it"
                    .into(),
            ));
        }
        let (net, ignored): (Self, _) = config::read("pixart", &merged, KNOWN, HARMLESS)?;
        net.check().map_err(Error::Usage)?;
        Ok((net, ignored))
    }

    /// Takes from the weights' shapes, under official keys, what they tell.
    fn infer(&mut self, shapes: &Shapes) {
        let dim =
            |key: &str, axis: usize| shapes.get(key).and_then(|s| s.get(axis)).copied().filter(|&n| n > 0);
        let take = |to: &mut usize, from: Option<usize>| *to = from.unwrap_or(*to);
        take(&mut self.hidden_size, dim("x_embedder.proj.weight", 0));
        take(&mut self.in_channels, dim("x_embedder.proj.weight", 1));
        take(&mut self.patch_size, dim("x_embedder.proj.weight", 2));
        take(&mut self.caption_channels, dim("y_embedder.y_proj.fc1.weight", 1));
        take(&mut self.model_max_length, dim("y_embedder.y_embedding", 0));
        let blocks =
            (0..).take_while(|i| shapes.contains_key(&format!("blocks.{i}.scale_shift_table"))).count();
        take(&mut self.depth, Some(blocks).filter(|&n| n > 0));
        if self.hidden_size.is_multiple_of(HEAD) {
            self.num_heads = self.hidden_size / HEAD;
        }
        if let Some(mlp) = dim("blocks.0.mlp.fc1.weight", 0) {
            self.mlp_ratio = mlp as f64 / self.hidden_size as f64;
        }
        if let Some(out) = dim("final_layer.linear.weight", 0) {
            self.pred_sigma = out == 2 * self.in_channels * self.patch_size.pow(2);
        }
        if let Some(tokens) = dim("pos_embed", 1) {
            self.input_size = (tokens as f64).sqrt().round() as usize * self.patch_size;
        }
    }

    fn check(&self) -> Result<(), String> {
        let c = self.hidden_size;
        let positive =
            [self.input_size, self.patch_size, self.in_channels, c, self.num_heads, self.caption_channels];
        if positive.contains(&0) || !(self.lewei_scale > 0.0) || !(self.mlp_ratio > 0.0) {
            return Err("pixart: sizes, head count, mlp_ratio and lewei_scale must be above 0".into());
        }
        if !self.input_size.is_multiple_of(self.patch_size) {
            let (input, patch) = (self.input_size, self.patch_size);
            return Err(format!("pixart: input_size {input} is not a multiple of patch_size {patch}"));
        }
        if !c.is_multiple_of(12) || !c.is_multiple_of(self.num_heads) {
            return Err(format!(
                "pixart: hidden_size must be a multiple of 12 and of num_heads {}, found {c}",
                self.num_heads
            ));
        }
        Ok(())
    }

    /// Channels out: the noise and, with `pred_sigma`, the variance.
    pub fn out_channels(&self) -> usize {
        if self.pred_sigma { 2 * self.in_channels } else { self.in_channels }
    }

    /// The tokens of a latent `[B, in_channels, H, W]`: `[B, N, hidden_size]`, row by row. `name` is
    /// the embedder's key.
    pub fn patches(&self, b: &mut GraphBuilder, name: &str, x: ValueId) -> Result<ValueId> {
        let ([batch, c, h, w], p) = (b.dims(x, "pixart")?, self.patch_size);
        if c != self.in_channels || !h.is_multiple_of(p) || !w.is_multiple_of(p) {
            let wanted = self.in_channels;
            let message = format!(
                "expected a latent of {wanted} channels and sides in multiples of {p}, found {c}x{h}x{w}"
            );
            return Err(b.error("pixart", message));
        }
        // A convolution whose stride is its kernel is a product over cut squares.
        let x = b.reshape(x, [batch, c, h / p, p, w / p, p])?;
        let x = b.permute(x, [0, 2, 4, 1, 3, 5])?;
        let x = b.reshape(x, [batch, h * w / (p * p), c * p * p])?;
        b.scope(format!("{name}.proj"), |b| {
            let weight = b.matrix("weight", [self.hidden_size, c, p, p])?;
            let weight = b.reshape(weight, [self.hidden_size, c * p * p])?;
            let bias = b.param("bias", [self.hidden_size])?;
            b.linear(x, weight, Some(bias))
        })
    }

    /// The position embedding of a latent like `x`: `[1, N, hidden_size]`, no parameter.
    pub fn positions(&self, b: &mut GraphBuilder, x: ValueId) -> Result<ValueId> {
        let ([_, _, h, w], p) = (b.dims(x, "pixart")?, self.patch_size);
        let base = self.input_size / p;
        Ok(b.constant(sincos::positions(h / p, w / p, self.hidden_size, base, self.lewei_scale)))
    }

    /// Timestep, size, aspect ratio and caption, embedded.
    pub fn conditions(&self, b: &mut GraphBuilder, i: &Inputs) -> Result<Conditions> {
        let c = self.hidden_size;
        let [sizes, two] = b.dims(i.img_hw, "pixart")?;
        let numbers = b.reshape(i.img_hw, [sizes * two])?;
        let size = number_embedding(b, "csize_embedder", numbers, c / 3)?;
        let size = b.reshape(size, [sizes, two * (c / 3)])?;
        let [ratios, _] = b.dims(i.aspect_ratio, "pixart")?;
        let ratio = b.reshape(i.aspect_ratio, [ratios])?;
        let ratio = number_embedding(b, "ar_embedder", ratio, c / 3)?;
        let micro = b.concat(&[size, ratio], 1)?;
        let t = number_embedding(b, "t_embedder", i.timestep, c)?;
        let t = b.add(t, micro)?;
        let rows = b.shape(t)[0];
        let t6 = b.silu(t)?;
        let t6 = nn::linear(b, "t_block.1", t6, 6 * c, true)?;
        let t6 = b.reshape(t6, [rows, 6, c])?;
        let y = b.scope("y_embedder.y_proj", |b| mlp(b, i.y, c, c))?;
        let in_order = i.kv_rows.iter().copied().eq(0..b.shape(y)[0]);
        let kv_rows = (!in_order).then(|| i.kv_rows.as_slice().into());
        Ok(Conditions { t, t6, y, lengths: i.lengths, kv_rows })
    }

    /// A block on `[B, N, hidden_size]`, in the current scope.
    pub fn block(&self, b: &mut GraphBuilder, x: ValueId, given: &Conditions) -> Result<ValueId> {
        let c = self.hidden_size;
        let table = b.param("scale_shift_table", [6, c])?;
        let modulations = b.add(table, given.t6)?;
        let part = |b: &mut GraphBuilder, k| b.slice(modulations, 1, k, 1);
        let (shift, scale, gate) = (part(b, 0)?, part(b, 1)?, part(b, 2)?);
        let h = b.adaln(x, shift, scale, LAYER_NORM_EPS)?;
        let h = b.scope("attn", |b| self.self_attention(b, h))?;
        let x = b.gated_residual(x, gate, h)?;
        // No norm and no gate here (quirk 16).
        let h = b.scope("cross_attn", |b| self.cross_attention(b, x, given))?;
        let x = b.add(x, h)?;
        let (shift, scale, gate) = (part(b, 3)?, part(b, 4)?, part(b, 5)?);
        let h = b.adaln(x, shift, scale, LAYER_NORM_EPS)?;
        let hidden = (c as f64 * self.mlp_ratio) as usize;
        let h = b.scope("mlp", |b| mlp(b, h, hidden, c))?;
        b.gated_residual(x, gate, h)
    }

    fn self_attention(&self, b: &mut GraphBuilder, x: ValueId) -> Result<ValueId> {
        let [batch, n, c] = b.dims(x, "attn")?;
        let qkv = nn::linear(b, "qkv", x, 3 * c, true)?;
        let [q, k, v] = heads(b, qkv, self.num_heads)?;
        let a = b.attention(q, k, v, AttentionOptions::default())?;
        let a = b.reshape(a, [batch, n, c])?;
        nn::linear(b, "proj", a, c, true)
    }

    fn cross_attention(&self, b: &mut GraphBuilder, x: ValueId, given: &Conditions) -> Result<ValueId> {
        let [batch, n, c] = b.dims(x, "cross_attn")?;
        let q = nn::linear(b, "q_linear", x, c, true)?;
        let [q] = heads(b, q, self.num_heads)?;
        let kv = nn::linear(b, "kv_linear", given.y, 2 * c, true)?;
        let [k, v] = heads(b, kv, self.num_heads)?;
        let kv_rows = given.kv_rows.clone();
        let text = AttentionOptions { key_lengths: Some(given.lengths), kv_rows, ..Default::default() };
        let a = b.attention(q, k, v, text)?;
        let a = b.reshape(a, [batch, n, c])?;
        nn::linear(b, "proj", a, c, true)
    }

    /// From the last block's tokens to `[B, out_channels, H, W]`, the size of the latent `like`.
    /// Its modulation reads t itself, not the six (quirk 9).
    pub fn decode(
        &self,
        b: &mut GraphBuilder,
        x: ValueId,
        given: &Conditions,
        like: ValueId,
    ) -> Result<ValueId> {
        let ([batch, _, h, w], p, c) = (b.dims(like, "pixart")?, self.patch_size, self.hidden_size);
        let out = self.out_channels();
        let y = b.scope("final_layer", |b| {
            let table = b.param("scale_shift_table", [2, c])?;
            let rows = b.shape(given.t)[0];
            let t = b.reshape(given.t, [rows, 1, c])?;
            let modulations = b.add(table, t)?;
            let (shift, scale) = (b.slice(modulations, 1, 0, 1)?, b.slice(modulations, 1, 1, 1)?);
            let y = b.adaln(x, shift, scale, LAYER_NORM_EPS)?;
            nn::linear(b, "linear", y, p * p * out, true)
        })?;
        let y = b.reshape(y, [batch, h / p, w / p, p, p, out])?;
        let y = b.permute(y, [0, 5, 1, 3, 2, 4])?;
        b.reshape(y, [batch, out, h, w])
    }

    /// Records the network: `[B, out_channels, H, W]`.
    pub fn build(&self, b: &mut GraphBuilder, i: &Inputs) -> Result<ValueId> {
        let given = self.conditions(b, i)?;
        let x = self.patches(b, "x_embedder", i.x)?;
        let positions = self.positions(b, i.x)?;
        let mut x = b.add(x, positions)?;
        for n in 0..self.depth {
            x = b.scope(format!("blocks.{n}"), |b| self.block(b, x, &given))?;
        }
        self.decode(b, x, &given, i.x)
    }

    fn graph(&self, call: &Call) -> Result<Graph> {
        let mut b = GraphBuilder::new();
        let inputs = call.inputs(&mut b)?;
        let out = self.build(&mut b, &inputs)?;
        b.output("out", out);
        Ok(b.finish())
    }
}

/// fc2(GELU(fc1 x)), the tanh form of GELU.
fn mlp(b: &mut GraphBuilder, x: ValueId, hidden: usize, out: usize) -> Result<ValueId> {
    let h = nn::linear(b, "fc1", x, hidden, true)?;
    let h = b.gelu_tanh(h)?;
    nn::linear(b, "fc2", h, out, true)
}

/// The embedding of each of `[n]` numbers: `[n, channels]`.
fn number_embedding(b: &mut GraphBuilder, name: &str, numbers: ValueId, channels: usize) -> Result<ValueId> {
    b.scope(format!("{name}.mlp"), |b| {
        let e = sincos::embed(b, numbers, FREQUENCIES)?;
        let h = nn::linear(b, "0", e, channels, true)?;
        let h = b.silu(h)?;
        nn::linear(b, "2", h, channels, true)
    })
}

/// Splits `[B, N, K·C]` into K operands of attention, `[B, N, heads, C / heads]`.
pub(super) fn heads<const K: usize>(b: &mut GraphBuilder, x: ValueId, heads: usize) -> Result<[ValueId; K]> {
    let [batch, n, c] = b.dims(x, "attention heads")?;
    let depth = c / K / heads;
    let x = b.reshape(x, [batch, n, K, heads, depth])?;
    let mut parts = [x; K];
    for (k, part) in parts.iter_mut().enumerate() {
        *part = b.slice(x, 2, k, 1)?;
        *part = b.reshape(*part, [batch, n, heads, depth])?;
    }
    Ok(parts)
}

impl Network for PixArt {
    fn architecture(&self) -> &'static str {
        "pixart"
    }

    fn adapt(&self, weights: WeightSet) -> Result<WeightSet> {
        names::adapt(weights)
    }

    fn ignores(&self, key: &str) -> bool {
        key == "pos_embed" // computed anew for every size
    }

    fn parameters(&self) -> Result<super::Shapes> {
        let mut shapes: Shapes = self.graph(&Call::smallest(self))?.param_shapes().into_iter().collect();
        if self.null_caption {
            shapes.insert(names::NULL_CAPTION.into(), vec![self.model_max_length, self.caption_channels]);
        }
        Ok(shapes)
    }

    /// `forward`, or, with `cfg_scale`, `forward_with_cfg`, which officially drops the mask.
    fn forward(&self, given: &Given, run: &mut Run) -> Result<Outputs> {
        given.uses(&denoiser::BASE_INPUTS);
        let Some(scale) = denoiser::number(given, "cfg_scale")? else {
            let call = Call::read(self, given, true)?;
            return run(self.graph(&call)?, &call.tensors());
        };
        if given.optional("mask").is_some() {
            tracing::info!("the official PixArtMS.forward_with_cfg does not use the mask, nor does this");
        }
        let call = Call::read(self, given, false)?.paired(given)?;
        let mut outputs = run(self.graph(&call)?, &call.tensors())?;
        outputs[0].1 = denoiser::guide(&outputs[0].1, scale as f32);
        Ok(outputs)
    }
}
