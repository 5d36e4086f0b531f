//! RRDBNet: ESRGAN (Wang et al. 2018, arXiv 1809.00219), BSRGAN and Real-ESRGAN.
//!
//! Residual-in-residual dense blocks at input size, then nearest ×2 and convolution per factor of
//! two. Real-ESRGAN's ×2 and ×1 models unshuffle the picture first and always grow ×4.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ImageNetwork, Shapes, config};
use crate::error::{Error, Result};
use crate::graph::{GraphBuilder, ValueId};
use crate::nn;

/// Slope of every LeakyReLU.
const SLOPE: f32 = 0.2;
/// Residual scaling inside dense blocks and around them.
const BETA: f32 = 0.2;

/// Hyper-parameters under BasicSR's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RrdbNet {
    /// Picture channels in (before unshuffling).
    pub num_in_ch: usize,
    /// Picture channels out.
    pub num_out_ch: usize,
    /// Output pixels per input pixel: 1, 2 or 4.
    pub scale: usize,
    /// Feature channels.
    pub num_feat: usize,
    /// Residual-in-residual dense blocks.
    pub num_block: usize,
    /// Channels that each dense layer adds.
    pub num_grow_ch: usize,
    /// Whether scales 1 and 2 unshuffle the picture first (BasicSR); BSRGAN's ×2 does not.
    pub unshuffle: bool,
}

impl Default for RrdbNet {
    fn default() -> Self {
        RrdbNet {
            num_in_ch: 3,
            num_out_ch: 3,
            scale: 4,
            num_feat: 64,
            num_block: 23,
            num_grow_ch: 32,
            unshuffle: true,
        }
    }
}

const KNOWN: &[&str] =
    &["num_in_ch", "num_out_ch", "scale", "num_feat", "num_block", "num_grow_ch", "unshuffle"];

impl RrdbNet {
    /// From an official configuration (BasicSR's names, or `in_nc out_nc nf nb gc sf` of BSRGAN).
    pub fn from_config(json: &Value, shapes: &Shapes) -> Result<(Self, Vec<String>)> {
        let mut json = json.clone();
        if let Some(object) = json.as_object_mut() {
            let bsrgan = object.contains_key("sf") || object.contains_key("nf");
            let names = [
                ("in_nc", "num_in_ch"),
                ("out_nc", "num_out_ch"),
                ("nf", "num_feat"),
                ("nb", "num_block"),
                ("gc", "num_grow_ch"),
                ("sf", "scale"),
            ];
            for (short, long) in names {
                if let Some(v) = object.shift_remove(short) {
                    object.insert(long.into(), v);
                }
            }
            if bsrgan {
                object.insert("unshuffle".into(), Value::Bool(false));
            }
        }
        let (mut net, ignored): (Self, _) = config::read("rrdbnet", &json, KNOWN, &[])?;
        // BSRGAN's ×2 network differs from BasicSR's in the first layer; the file knows.
        if json.get("unshuffle").is_none()
            && let Some(first) = shapes.get("conv_first.weight")
        {
            net.unshuffle = first.get(1).is_none_or(|&c| c != net.num_in_ch) || net.scale == 4;
        }
        net.check().map_err(Error::Usage)?;
        Ok((net, ignored))
    }

    fn check(&self) -> Result<(), String> {
        let scales: &[usize] = if self.unshuffle { &[1, 2, 4] } else { &[2, 4] };
        if !scales.contains(&self.scale) {
            return Err(format!("RRDBNet: scale must be one of {scales:?}, found {}", self.scale));
        }
        if [self.num_in_ch, self.num_out_ch, self.num_feat, self.num_grow_ch].contains(&0) {
            return Err("RRDBNet: channel counts must be at least 1".into());
        }
        Ok(())
    }

    /// Whether a checkpoint is an RRDBNet of any vintage.
    pub fn recognizes(shapes: &Shapes) -> bool {
        shapes.keys().any(|k| canonical(k) == "body.0.rdb1.conv1.weight")
    }

    /// Hyper-parameters from the shapes of a checkpoint.
    pub fn infer(shapes: &Shapes) -> Result<Self> {
        let shapes: Shapes = shapes.iter().map(|(k, s)| (canonical(k), s.clone())).collect();
        let dim = |key: &str, axis: usize| {
            let shape = shapes.get(key).ok_or_else(|| {
                Error::Weights(format!("this looks like an RRDBNet, but \"{key}\" is missing"))
            })?;
            shape
                .get(axis)
                .copied()
                .ok_or_else(|| Error::Weights(format!("\"{key}\" has the unexpected shape {shape:?}")))
        };
        let (num_out_ch, first) = (dim("conv_last.weight", 0)?, dim("conv_first.weight", 1)?);
        // Unshuffled networks have 4 or 16 times the picture's channels in their first layer.
        let (scale, unshuffle): (usize, bool) = match first / num_out_ch.max(1) {
            16 => (1, true),
            4 => (2, true),
            _ if shapes.contains_key("conv_up2.weight") => (4, true),
            _ => (2, false),
        };
        let net = RrdbNet {
            num_in_ch: if unshuffle { first / (4 / scale).pow(2) } else { first },
            num_out_ch,
            scale,
            num_feat: dim("conv_first.weight", 0)?,
            num_block: (0..)
                .take_while(|i| shapes.contains_key(&format!("body.{i}.rdb1.conv1.weight")))
                .count(),
            num_grow_ch: dim("body.0.rdb1.conv1.weight", 0)?,
            unshuffle,
        };
        net.check().map_err(Error::Weights)?;
        Ok(net)
    }

    /// Unshuffle factor in front.
    fn fold(&self) -> usize {
        if self.unshuffle { 4 / self.scale } else { 1 }
    }

    /// Nearest ×2 stages behind.
    fn stages(&self) -> usize {
        if self.unshuffle || self.scale == 4 { 2 } else { 1 }
    }

    /// A dense block: each layer sees all features so far.
    fn dense_block(&self, b: &mut GraphBuilder, x: ValueId) -> Result<ValueId> {
        let mut features = vec![x];
        for j in 1..=4 {
            let all = b.concat(&features, 3)?;
            let h = nn::conv2d(b, &format!("conv{j}"), all, self.num_grow_ch, 3)?;
            features.push(b.leaky_relu(h, SLOPE)?);
        }
        let all = b.concat(&features, 3)?;
        let h = nn::conv2d(b, "conv5", all, self.num_feat, 3)?;
        let h = b.scale(h, BETA)?;
        b.add(h, x)
    }

    fn block(&self, b: &mut GraphBuilder, x: ValueId) -> Result<ValueId> {
        let mut h = x;
        for k in 1..=3 {
            h = b.scope(format!("rdb{k}"), |b| self.dense_block(b, h))?;
        }
        let h = b.scale(h, BETA)?;
        b.add(h, x)
    }
}

/// The current official key of a key of any vintage: BSRGAN's (`RRDB_trunk.0.RDB1.conv1`), the
/// first ESRGAN release's (`model.1.sub.0.RDB1.conv1.0`), or the current one.
fn canonical(key: &str) -> String {
    let (path, leaf) = key.rsplit_once('.').unwrap_or(("", key));
    let parts: Vec<&str> = path.split('.').collect();
    let new = match parts.as_slice() {
        ["RRDB_trunk", i, rdb, conv] => format!("body.{i}.{}.{conv}", rdb.to_lowercase()),
        ["trunk_conv"] => "conv_body".into(),
        ["upconv1"] => "conv_up1".into(),
        ["upconv2"] => "conv_up2".into(),
        ["HRconv"] => "conv_hr".into(),
        ["model", "0"] => "conv_first".into(),
        ["model", "1", "sub", i, rdb, conv, "0"] => format!("body.{i}.{}.{conv}", rdb.to_lowercase()),
        // The trunk convolution follows the blocks in the same Sequential.
        ["model", "1", "sub", _] => "conv_body".into(),
        ["model", "3"] => "conv_up1".into(),
        ["model", "6"] => "conv_up2".into(),
        ["model", "8"] => "conv_hr".into(),
        ["model", "10"] => "conv_last".into(),
        _ => return key.to_owned(),
    };
    format!("{new}.{leaf}")
}

impl ImageNetwork for RrdbNet {
    fn architecture(&self) -> &'static str {
        "rrdbnet"
    }

    fn build(&self, b: &mut GraphBuilder, image: ValueId) -> Result<ValueId> {
        let [_, height, width, _] = b.dims(image, "rrdbnet")?;
        let fold = self.fold();
        let x = if fold > 1 {
            if height % fold + width % fold > 0 {
                let message = format!("height and width must be multiples of {fold}, found {height}×{width}");
                return Err(b.error("rrdbnet", message));
            }
            b.pixel_unshuffle(image, fold)?
        } else {
            image
        };
        let shallow = nn::conv2d(b, "conv_first", x, self.num_feat, 3)?;
        let mut h = shallow;
        for i in 0..self.num_block {
            h = b.scope(format!("body.{i}"), |b| self.block(b, h))?;
        }
        let h = nn::conv2d(b, "conv_body", h, self.num_feat, 3)?;
        let mut h = b.add(h, shallow)?;
        for i in 1..=self.stages() {
            h = b.upsample_nearest(h, 2)?;
            h = nn::conv2d(b, &format!("conv_up{i}"), h, self.num_feat, 3)?;
            h = b.leaky_relu(h, SLOPE)?;
        }
        let h = nn::conv2d(b, "conv_hr", h, self.num_feat, 3)?;
        let h = b.leaky_relu(h, SLOPE)?;
        nn::conv2d(b, "conv_last", h, self.num_out_ch, 3)
    }

    fn channels(&self) -> usize {
        self.num_in_ch
    }

    fn scale(&self) -> usize {
        self.scale
    }

    fn multiple(&self) -> usize {
        self.fold()
    }

    fn receptive_radius(&self) -> Option<usize> {
        // One pixel per 3×3 convolution at the folded size: conv_first, 15 per block, conv_body;
        // the convolutions behind each ×2 add at most another pixel together per stage.
        Some((2 + 15 * self.num_block + 1 + self.stages()) * self.fold())
    }

    fn rename(&self, key: &str) -> String {
        canonical(key)
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("plain numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn old_vintages_map_to_current_keys() {
        for (old, new) in [
            ("RRDB_trunk.22.RDB3.conv5.weight", "body.22.rdb3.conv5.weight"),
            ("HRconv.bias", "conv_hr.bias"),
            ("model.1.sub.4.RDB2.conv3.0.weight", "body.4.rdb2.conv3.weight"),
            ("model.1.sub.23.bias", "conv_body.bias"),
            ("model.10.weight", "conv_last.weight"),
            ("body.0.rdb1.conv1.weight", "body.0.rdb1.conv1.weight"),
        ] {
            assert_eq!(canonical(old), new);
        }
    }
}
