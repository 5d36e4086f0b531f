//! The autoencoder and its halves as `forward` calls them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::names::{self, Renaming};
use super::{AutoencoderKl, record};
use crate::error::Result;
use crate::graph::{Graph, GraphBuilder, Outputs};
use crate::models::Shapes;
use crate::models::network::{Given, Network, Run};
use crate::tensor::{DType, HostTensor};
use crate::weights::WeightSet;

/// What of the autoencoder is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// `sample` (or `x`) `[B, C, H, W]` in −1..1 → `moments`, `mode` (the means, not scaled).
    Encoder,
    /// `z` `[B, L, h, w]` (not scaled) → `out`.
    Decoder,
    /// `sample` → `out`: the decoder on the mode of the encoder, as diffusers' forward.
    Whole,
}

/// [`AutoencoderKl`] or one half of it under the general interface.
///
/// Weights may be of the whole autoencoder or of the half that is run. A file that holds anything
/// of the other half must hold all of it, so that a damaged file is noticed whichever half it is
/// opened for.
#[derive(Clone, Debug)]
pub struct VaeNetwork {
    /// Hyper-parameters.
    pub config: AutoencoderKl,
    half: Half,
    /// Whether the weights hold (part of) the encoder and the decoder.
    holds: [bool; 2],
}

impl VaeNetwork {
    /// For weights of these shapes, under names of any vintage; hyper-parameters come from
    /// `config` or else from the shapes. The second part of the result are the keys of the
    /// configuration that change nothing.
    ///
    /// # Errors
    /// If the configuration is wrong, or is missing and the shapes do not tell it.
    pub fn new(half: Half, config: Option<&Value>, shapes: &Shapes) -> Result<(Self, Vec<String>)> {
        let (net, ignored) = match config {
            Some(config) => AutoencoderKl::from_config(config, shapes)?,
            None => (AutoencoderKl::infer(shapes)?, Vec::new()),
        };
        let current = names::canonical(shapes);
        let holds = [
            half != Half::Decoder || current.keys().any(|k| names::of_encoder(k)),
            half != Half::Encoder || current.keys().any(|k| names::of_decoder(k)),
        ];
        Ok((VaeNetwork { config: net, half, holds }, ignored))
    }

    /// [`FromConfig`](crate::models::network::FromConfig) of a half.
    pub(in crate::models) fn open(
        half: Half,
        config: Option<&Value>,
        shapes: &Shapes,
    ) -> Result<(Box<dyn Network>, Vec<String>)> {
        Self::new(half, config, shapes).map(|(net, ignored)| (Box::new(net) as _, ignored))
    }

    /// `sample` `[B, C, H, W]` → `moments`, `mode`, both `[B, …, h, w]`.
    pub fn encoder_graph(&self, batch: usize, height: usize, width: usize) -> Result<Graph> {
        let net = &self.config;
        let mut b = GraphBuilder::new();
        let x = b.input("sample", DType::F32, [batch, net.in_channels, height, width])?;
        let x = b.permute(x, [0, 2, 3, 1])?;
        let y = record(&mut b, &net.encoder(), net.norm_num_groups, x)?;
        let moments = b.permute(y, [0, 3, 1, 2])?;
        let mode = b.slice(moments, 1, 0, net.latent_channels)?;
        b.output("moments", moments);
        b.output("mode", mode);
        Ok(b.finish())
    }

    /// `z` `[B, L, h, w]` → `out` `[B, C, 8h, 8w]` (8 for four levels).
    pub fn decoder_graph(&self, batch: usize, height: usize, width: usize) -> Result<Graph> {
        let net = &self.config;
        let mut b = GraphBuilder::new();
        let z = b.input("z", DType::F32, [batch, net.latent_channels, height, width])?;
        let z = b.permute(z, [0, 2, 3, 1])?;
        let y = record(&mut b, &net.decoder(), net.norm_num_groups, z)?;
        let out = b.permute(y, [0, 3, 1, 2])?;
        b.output("out", out);
        Ok(b.finish())
    }

    fn encode(&self, given: &Given, run: &mut Run) -> Result<Outputs> {
        let name = if given.optional("sample").is_some() { "sample" } else { "x" };
        let (x, [batch, channels, height, width]) = given.shaped(name, "[B, C, H, W]")?;
        let wanted = self.config.in_channels;
        if channels != wanted {
            return Err(given.error(format!("\"{name}\" must have {wanted} channels, found {channels}")));
        }
        run(self.encoder_graph(batch, height, width)?, &[("sample", x.clone())])
    }

    fn decode(&self, z: &HostTensor, run: &mut Run) -> Result<Outputs> {
        let &[batch, _, height, width] = z.shape() else { unreachable!("the caller looked") };
        run(self.decoder_graph(batch, height, width)?, &[("z", z.clone())])
    }
}

impl Network for VaeNetwork {
    fn architecture(&self) -> &'static str {
        match self.half {
            Half::Encoder => "vae-encoder",
            Half::Decoder => "vae-decoder",
            Half::Whole => "vae",
        }
    }

    fn adapt(&self, weights: WeightSet) -> Result<WeightSet> {
        let renaming = Renaming::of(weights.names());
        let current = weights.renamed(|key| renaming.apply(key))?;
        Ok(current.mapped(|key, t| t.reshaped(names::matrix_shape(key, t.shape()))))
    }

    fn parameters(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        // Any size shows all parameters.
        let side = 2 * self.config.factor();
        let mut all = BTreeMap::new();
        if self.holds[0] {
            all.extend(self.encoder_graph(1, side, side)?.param_shapes());
        }
        if self.holds[1] {
            all.extend(self.decoder_graph(1, 1, 1)?.param_shapes());
        }
        Ok(all)
    }

    fn forward(&self, given: &Given, run: &mut Run) -> Result<Outputs> {
        match self.half {
            Half::Encoder => {
                given.uses(&["sample", "x"]);
                self.encode(given, run)
            }
            Half::Decoder => {
                given.uses(&["z"]);
                let (z, [_, channels, ..]) = given.shaped::<4>("z", "[B, C, h, w]")?;
                let wanted = self.config.latent_channels;
                if channels != wanted {
                    return Err(given.error(format!("\"z\" must have {wanted} channels, found {channels}")));
                }
                self.decode(z, run)
            }
            Half::Whole => {
                given.uses(&["sample", "x"]);
                let mode = self.encode(given, run)?.swap_remove(1).1;
                self.decode(&mode, run)
            }
        }
    }
}
