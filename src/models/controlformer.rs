//! DreamClear (Ai et al., NeurIPS 2024, arXiv 2410.18666): PixArt-α steered by ControlFormer, two
//! trainable copies of its blocks that read the low-quality latent and that of SwinIR's
//! reference, and by the mixture of adaptive modulators (MoAM).
//!
//! Facts and quirks: `restore.md` §8 of the specification; keys are those of the official module
//! `ControlPixArtMSHalfSR2Branch`.

use serde_json::Value;

use super::denoiser::{self, Call};
use super::latent_tiles::{Blend, Grid};
use super::network::{Given, Network, Run};
use super::pixart::{self, Conditions, PixArt};
use super::{Shapes, pixart_names as names};
use crate::error::{Error, Result};
use crate::graph::{Graph, GraphBuilder, Outputs, ValueId};
use crate::nn;
use crate::ops::attention::AttentionOptions;
use crate::tensor::HostTensor;

/// Epsilon of the LayerNorms before the cross-attention of the branches (quirk 10).
const LAYER_NORM_EPS: f32 = 1e-5;
/// Experts of a mixture.
const EXPERTS: usize = 3;
/// Hidden channels of the router, for each expert.
const ROUTER: usize = 8;
/// The official constructor's default of `copy_blocks_num`; the published model has 28.
const COPY_BLOCKS: usize = 13;

/// Hyper-parameters: PixArt's, and how many of its blocks are steered.
#[derive(Clone, Debug, PartialEq)]
pub struct DreamClear {
    /// The base model, under `base_model`.
    pub base: PixArt,
    /// The first this many blocks have control branches and modulators; the others are PixArt's.
    pub copy_blocks_num: usize,
}

/// What a forward reads, as values of the graph. B samples may be several images or tiles; each
/// has its own condition, caption and partners.
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
    /// The low-quality latent, f32 `[C, in_channels, H, W]`; C divides B, and B/C samples in a row
    /// share one.
    pub c_lq: ValueId,
    /// The reference's latent, like `c_lq`.
    pub c_pre: ValueId,
    /// How many samples in a row attend to each other in the cross-attention of the branches:
    /// B in the official forward, whose batch is the pair of guidance; 2 for that pair within a
    /// larger batch; 1 for each sample by itself. Divides B.
    pub scope: usize,
}

/// Tokens `[B, N, hidden_size]` on their way through the layers.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// Of the base.
    pub x: ValueId,
    /// Of the branch that reads the low-quality latent.
    pub lq: ValueId,
    /// Of the branch that reads the reference.
    pub pre: ValueId,
}

impl DreamClear {
    /// From an official configuration: PixArtMS's arguments and `copy_blocks_num`. What it leaves
    /// out comes from the weights' shapes, else from the constructors' defaults.
    pub fn from_config(json: Option<&Value>, shapes: &Shapes) -> Result<(Self, Vec<String>)> {
        let (base, ignored) = PixArt::read(json, &names::canonical(shapes), &["copy_blocks_num"])?;
        let branch = |i: &usize| shapes.contains_key(&format!("cross_de.{i}.q_linear.weight"));
        let found = (0..).take_while(branch).count();
        let copy_blocks_num = match json.and_then(|j| j.get("copy_blocks_num")) {
            Some(n) => n.as_u64().ok_or_else(|| {
                Error::Usage(format!("dreamclear: copy_blocks_num must be a count, found {n}"))
            })? as usize,
            None if found > 0 => found,
            None => COPY_BLOCKS,
        };
        if copy_blocks_num > base.depth {
            let depth = base.depth;
            return Err(Error::Usage(format!(
                "dreamclear: copy_blocks_num {copy_blocks_num} is more than the depth {depth}"
            )));
        }
        Ok((DreamClear { base, copy_blocks_num }, ignored))
    }

    /// Records the network: `[B, out_channels, H, W]`.
    pub fn build(&self, b: &mut GraphBuilder, i: &Inputs) -> Result<ValueId> {
        let base = &self.base;
        let base_inputs = pixart::Inputs {
            x: i.x,
            timestep: i.timestep,
            y: i.y,
            lengths: i.lengths,
            kv_rows: i.kv_rows.clone(),
            img_hw: i.img_hw,
            aspect_ratio: i.aspect_ratio,
        };
        let given = b.scope("base_model", |b| base.conditions(b, &base_inputs))?;
        let positions = base.positions(b, i.x)?;
        let x = b.scope("base_model", |b| base.patches(b, "x_embedder", i.x))?;
        let mut s = Streams {
            x: b.add(x, positions)?,
            lq: self.branch(b, "lq", i.x, positions, i.c_lq)?,
            pre: self.branch(b, "pre", i.x, positions, i.c_pre)?,
        };
        for n in 0..base.depth {
            s = self.layer(b, n, s, &given, i.scope)?;
        }
        b.scope("base_model", |b| base.decode(b, s.x, &given, i.x))
    }

    /// Layer `n`: a block of each stream, then what the branches do to the base; behind the steered
    /// layers the base's block alone.
    pub fn layer(
        &self,
        b: &mut GraphBuilder,
        n: usize,
        mut s: Streams,
        given: &Conditions,
        scope: usize,
    ) -> Result<Streams> {
        let mut block = |name: String, x| b.scope(name, |b| self.base.block(b, x, given));
        s.x = block(format!("base_model.blocks.{n}"), s.x)?;
        if n < self.copy_blocks_num {
            s.lq = block(format!("controlnet_lq.{n}.copied_block"), s.lq)?;
            s.pre = block(format!("controlnet_pre.{n}.copied_block"), s.pre)?;
            s.x = self.steer(b, n, s, scope)?;
        }
        Ok(s)
    }

    /// A branch's tokens before its first block: latent and condition, embedded. The condition has
    /// no position embedding of its own.
    fn branch(
        &self,
        b: &mut GraphBuilder,
        suffix: &str,
        x: ValueId,
        positions: ValueId,
        condition: ValueId,
    ) -> Result<ValueId> {
        let x = self.base.patches(b, &format!("x_embedder_{suffix}"), x)?;
        let x = b.add(x, positions)?;
        let c = self.base.patches(b, &format!("c_embedder_{suffix}"), condition)?;
        let ([batch, n, hidden], [conditions, m, _]) = (b.dims(x, "branch")?, b.dims(c, "branch")?);
        if conditions == 0 || batch % conditions != 0 || n != m {
            let message = format!("{batch} latents of {n} tokens with {conditions} conditions of {m} tokens");
            return Err(b.error("dreamclear", message));
        }
        let x = b.reshape(x, [conditions, batch / conditions, n, hidden])?;
        let c = b.reshape(c, [conditions, 1, n, hidden])?;
        let x = b.add(x, c)?;
        b.reshape(x, [batch, n, hidden])
    }

    /// What the branches do to the base's tokens after block `n`: cross-attention, then MoAM.
    fn steer(&self, b: &mut GraphBuilder, n: usize, s: Streams, scope: usize) -> Result<ValueId> {
        let (Streams { x, lq, pre }, c) = (s, self.base.hidden_size);
        let (reference, degradation) =
            b.scope(format!("cross_de.{n}"), |b| self.cross_attention(b, lq, pre, scope))?;
        let x = b.add(x, reference)?;
        let (gamma, beta) = b.scope(format!("am_pre.{n}"), |b| adaptive_modulator(b, pre, c))?;
        let x = b.modulate(x, gamma, beta)?;
        b.scope(format!("am_lq.{n}"), |b| {
            let logits = b.scope("gate", |b| {
                let h = nn::linear(b, "0", degradation, EXPERTS * ROUTER, true)?;
                let h = b.gelu_tanh(h)?;
                nn::linear(b, "2", h, EXPERTS, true)
            })?;
            let expert = |k| b.scope(format!("experts.{k}"), |b| adaptive_modulator(b, lq, c));
            let experts = (0..EXPERTS).map(expert).collect::<Result<Vec<_>>>()?;
            let (gammas, betas): (Vec<_>, Vec<_>) = experts.into_iter().unzip();
            b.moe_modulate(x, logits, &gammas, &betas)
        })
    }

    /// Tokens of the low-quality branch ask those of the reference. The tokens of `scope` samples
    /// form one sequence, without a mask (quirk 5). Returns what is added to the base's tokens, and
    /// the degradation map that routes to the experts.
    fn cross_attention(
        &self,
        b: &mut GraphBuilder,
        lq: ValueId,
        pre: ValueId,
        scope: usize,
    ) -> Result<(ValueId, ValueId)> {
        let [batch, n, c] = b.dims(lq, "cross_de")?;
        if scope == 0 || batch % scope != 0 {
            return Err(
                b.error("dreamclear", format!("a scope of {scope} does not divide a batch of {batch}"))
            );
        }
        let together = |b: &mut GraphBuilder, x: ValueId| {
            let width = b.ty(x).last();
            b.reshape(x, [batch / scope, scope * n, width])
        };
        let q = nn::layer_norm(b, "norm1", lq, LAYER_NORM_EPS)?;
        let q = nn::linear(b, "q_linear", q, c, true)?;
        let q = together(b, q)?;
        let [q] = pixart::heads(b, q, self.base.num_heads)?;
        let kv = nn::layer_norm(b, "norm2", pre, LAYER_NORM_EPS)?;
        let kv = nn::linear(b, "kv_linear", kv, 2 * c, true)?;
        let kv = together(b, kv)?;
        let [k, v] = pixart::heads(b, kv, self.base.num_heads)?;
        let a = b.attention(q, k, v, AttentionOptions::default())?;
        let a = b.reshape(a, [batch, n, c])?;
        Ok((nn::linear(b, "proj", a, c, true)?, nn::linear(b, "de_proj", a, c, true)?))
    }

    fn graph(&self, call: &Call, c_lq: &HostTensor, c_pre: &HostTensor) -> Result<Graph> {
        let mut b = GraphBuilder::new();
        let i = call.inputs(&mut b)?;
        let inputs = Inputs {
            scope: call.x.shape()[0],
            c_lq: b.input("c_lq", c_lq.dtype(), c_lq.shape())?,
            c_pre: b.input("c_pre", c_pre.dtype(), c_pre.shape())?,
            x: i.x,
            timestep: i.timestep,
            y: i.y,
            lengths: i.lengths,
            kv_rows: i.kv_rows,
            img_hw: i.img_hw,
            aspect_ratio: i.aspect_ratio,
        };
        let out = self.build(&mut b, &inputs)?;
        b.output("out", out);
        Ok(b.finish())
    }

    /// One plain forward of host tensors.
    fn run(&self, call: &Call, c_lq: &HostTensor, c_pre: &HostTensor, run: &mut Run) -> Result<HostTensor> {
        let mut tensors = call.tensors();
        tensors.extend([("c_lq", c_lq.clone()), ("c_pre", c_pre.clone())]);
        Ok(run(self.graph(call, c_lq, c_pre)?, &tensors)?.swap_remove(0).1)
    }

    /// A condition that fits the latent `x`.
    fn condition(&self, given: &Given, name: &str, x: &HostTensor) -> Result<HostTensor> {
        let c = denoiser::latent(&self.base, given, name)?;
        if ![1, x.shape()[0]].contains(&c.shape()[0]) || c.shape()[1..] != x.shape()[1..] {
            let (found, x) = (c.shape(), x.shape());
            return Err(
                given.error(format!("\"{name}\" must be like x {x:?}, or one for all; found {found:?}"))
            );
        }
        Ok(c)
    }
}

/// (γ, β) from tokens: a shared projection to half the channels, then one head each.
fn adaptive_modulator(b: &mut GraphBuilder, tokens: ValueId, c: usize) -> Result<(ValueId, ValueId)> {
    let h = nn::linear(b, "shared_proj", tokens, c / 2, true)?;
    let h = b.gelu_tanh(h)?;
    Ok((nn::linear(b, "proj_mul", h, c, true)?, nn::linear(b, "proj_add", h, c, true)?))
}

impl Network for DreamClear {
    fn architecture(&self) -> &'static str {
        "dreamclear"
    }

    fn ignores(&self, key: &str) -> bool {
        // Computed anew for every size; an ancestor of the official code stored it under `model`.
        matches!(key, "pos_embed" | "base_model.pos_embed" | "model.pos_embed")
    }

    fn parameters(&self) -> Result<Shapes> {
        let call = Call::smallest(&self.base);
        let mut shapes: Shapes = self.graph(&call, &call.x, &call.x)?.param_shapes().into_iter().collect();
        let null_caption = vec![self.base.model_max_length, self.base.caption_channels];
        shapes.insert(format!("{}{}", names::BASE, names::NULL_CAPTION), null_caption);
        Ok(shapes)
    }

    /// `forward`; with `cfg_scale`, `forward_with_cfg`; with `latent_tiled_size` and
    /// `latent_tiled_overlap` too, `forward_with_cfg_tile`.
    fn forward(&self, given: &Given, run: &mut Run) -> Result<Outputs> {
        let control = ["c_lq", "c_pre", "latent_tiled_size", "latent_tiled_overlap"];
        given.uses(&[&denoiser::BASE_INPUTS[..], &control[..]].concat());
        let call = Call::read(&self.base, given, true)?;
        let c_lq = self.condition(given, "c_lq", &call.x)?;
        let c_pre = self.condition(given, "c_pre", &call.x)?;
        let tiles = [denoiser::number(given, control[2])?, denoiser::number(given, control[3])?];
        let out = match (denoiser::number(given, "cfg_scale")?, tiles) {
            (None, [None, None]) => self.run(&call, &c_lq, &c_pre, run)?,
            (Some(scale), [None, None]) => {
                denoiser::guide(&self.run(&call.paired(given)?, &c_lq, &c_pre, run)?, scale as f32)
            }
            (Some(scale), [Some(tile), Some(overlap)]) => {
                let call = call.paired(given)?;
                let [batch, _, h, w] = call.x.shape()[..] else { unreachable!("checked when read") };
                let grid = Grid::new(h, w, tile as usize, overlap as usize)?;
                let mut blend = Blend::new(&grid, batch * self.base.out_channels());
                for corner in grid.corners() {
                    let cut = |t: &HostTensor| grid.crop(t, corner);
                    let tile = call.on(cut(&call.x));
                    blend.add(corner, &self.run(&tile, &cut(&c_lq), &cut(&c_pre), run)?.to_f32());
                }
                let out = HostTensor::from_f32([batch, self.base.out_channels(), h, w], blend.finish());
                denoiser::guide(&out, scale as f32)
            }
            _ => {
                return Err(given.error(
                    "\"latent_tiled_size\" and \"latent_tiled_overlap\" go together, and with \"cfg_scale\""
                        .into(),
                ));
            }
        };
        Ok(vec![("out".to_owned(), out)])
    }
}
