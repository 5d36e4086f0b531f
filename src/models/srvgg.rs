//! SRVGGNetCompact: Real-ESRGAN's small networks (`realesr-general-x4v3`, `realesr-animevideov3`).
//! Convolutions at input size, one pixel shuffle at the end, on top of the nearest-enlarged input.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ImageNetwork, Shapes, config};
use crate::error::{Error, Result};
use crate::graph::{GraphBuilder, ValueId};
use crate::nn;

/// The nonlinearity after each convolution but the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// max(x, 0)
    Relu,
    /// A learned slope per channel.
    Prelu,
    /// Slope 0.1.
    LeakyRelu,
}

/// Hyper-parameters under the official names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SrVgg {
    /// Picture channels in.
    pub num_in_ch: usize,
    /// Picture channels out.
    pub num_out_ch: usize,
    /// Feature channels.
    pub num_feat: usize,
    /// Convolutions between the first and the last.
    pub num_conv: usize,
    /// Output pixels per input pixel.
    pub upscale: usize,
    /// The nonlinearity.
    pub act_type: Act,
}

impl Default for SrVgg {
    fn default() -> Self {
        SrVgg { num_in_ch: 3, num_out_ch: 3, num_feat: 64, num_conv: 16, upscale: 4, act_type: Act::Prelu }
    }
}

const KNOWN: &[&str] = &["num_in_ch", "num_out_ch", "num_feat", "num_conv", "upscale", "act_type"];

impl SrVgg {
    /// From an official configuration.
    pub fn from_config(json: &Value, _shapes: &Shapes) -> Result<(Self, Vec<String>)> {
        let (net, ignored): (Self, _) = config::read("srvgg", json, KNOWN, &[])?;
        net.check().map_err(Error::Usage)?;
        Ok((net, ignored))
    }

    fn check(&self) -> Result<(), String> {
        if self.num_in_ch != self.num_out_ch {
            return Err(format!(
                "SRVGG adds its input to its output: num_in_ch {} must equal num_out_ch {}",
                self.num_in_ch, self.num_out_ch
            ));
        }
        if self.upscale == 0 || self.num_feat == 0 || self.num_in_ch == 0 {
            return Err("SRVGG: upscale and channel counts must be at least 1".into());
        }
        Ok(())
    }

    /// Whether a checkpoint is an SRVGG: convolutions and slopes alternating in `body`.
    pub fn recognizes(shapes: &Shapes) -> bool {
        shapes.get("body.0.weight").is_some_and(|s| s.len() == 4)
            && shapes.keys().all(|k| k.starts_with("body."))
    }

    /// Hyper-parameters from the shapes of a checkpoint. Files with LeakyReLU and with ReLU look
    /// alike; none was released, and PReLU shows its slopes.
    pub fn infer(shapes: &Shapes) -> Result<Self> {
        let conv = |i: usize| shapes.get(&format!("body.{}.weight", 2 * i)).filter(|s| s.len() == 4);
        let convs = (0..).take_while(|&i| conv(i).is_some()).count();
        let bad = |what: &str| Error::Weights(format!("this looks like an SRVGG, but {what}"));
        let (Some(first), Some(last)) = (conv(0), conv(convs.max(1) - 1)) else {
            return Err(bad("\"body.0.weight\" is missing"));
        };
        if convs < 2 {
            return Err(bad("it has fewer than two convolutions"));
        }
        if !shapes.contains_key("body.1.weight") {
            return Err(bad("it has no PReLU slopes; give its configuration with --config (act_type)"));
        }
        let channels = first[1].max(1);
        let net = SrVgg {
            num_in_ch: channels,
            num_out_ch: channels,
            num_feat: first[0],
            num_conv: convs - 2,
            upscale: ((last[0] / channels) as f64).sqrt().round() as usize,
            act_type: Act::Prelu,
        };
        net.check().map_err(Error::Weights)?;
        Ok(net)
    }

    fn activation(&self, b: &mut GraphBuilder, i: usize, x: ValueId) -> Result<ValueId> {
        match self.act_type {
            Act::Relu => b.relu(x),
            Act::LeakyRelu => b.leaky_relu(x, 0.1),
            Act::Prelu => nn::prelu(b, &format!("body.{}", 2 * i + 1), x),
        }
    }
}

impl ImageNetwork for SrVgg {
    fn architecture(&self) -> &'static str {
        "srvgg"
    }

    fn build(&self, b: &mut GraphBuilder, image: ValueId) -> Result<ValueId> {
        let mut x = image;
        for i in 0..=self.num_conv {
            x = nn::conv2d(b, &format!("body.{}", 2 * i), x, self.num_feat, 3)?;
            x = self.activation(b, i, x)?;
        }
        let last = 2 * (self.num_conv + 1);
        let x = nn::conv2d(b, &format!("body.{last}"), x, self.num_out_ch * self.upscale.pow(2), 3)?;
        let x = b.pixel_shuffle(x, self.upscale)?;
        let base = b.upsample_nearest(image, self.upscale)?;
        b.add(x, base)
    }

    fn channels(&self) -> usize {
        self.num_in_ch
    }

    fn scale(&self) -> usize {
        self.upscale
    }

    fn multiple(&self) -> usize {
        1
    }

    fn receptive_radius(&self) -> Option<usize> {
        Some(self.num_conv + 2)
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("plain numbers and names")
    }
}
