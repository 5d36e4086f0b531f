//! The four vintages of key names, and which keys belong to which half.
//!
//! | diffusers ≥ 0.15 | diffusers of 2022 | LDM, bare or behind `first_stage_model.` |
//! | --- | --- | --- |
//! | `mid_block.attentions.0.{group_norm, to_q, to_k, to_v, to_out.0}` | `… query, key, value, proj_attn` | `mid.attn_1.{norm, q, k, v, proj_out}`, 1×1 convolutions |
//! | `mid_block.resnets.{0,1}` | same | `mid.block_{1,2}` |
//! | `encoder.down_blocks.i.{resnets.j, downsamplers.0.conv}` | same | `encoder.down.i.{block.j, downsample.conv}` |
//! | `decoder.up_blocks.i.{resnets.j, upsamplers.0.conv}` | same | `decoder.up.(n−1−i).{block.j, upsample.conv}` |
//! | `conv_shortcut`, `conv_norm_out` | same | `nin_shortcut`, `norm_out` |

use super::super::Shapes;

/// Prefix of the autoencoder within a whole latent diffusion checkpoint.
const FIRST_STAGE: &str = "first_stage_model.";

/// Parts of an LDM name and of a current one, applied in this order wherever they occur.
const PARTS: &[(&str, &str)] = &[
    (".mid.attn_1.norm.", ".mid_block.attentions.0.group_norm."),
    (".mid.attn_1.proj_out.", ".mid_block.attentions.0.to_out.0."),
    (".mid.attn_1.q.", ".mid_block.attentions.0.to_q."),
    (".mid.attn_1.k.", ".mid_block.attentions.0.to_k."),
    (".mid.attn_1.v.", ".mid_block.attentions.0.to_v."),
    (".mid.block_1.", ".mid_block.resnets.0."),
    (".mid.block_2.", ".mid_block.resnets.1."),
    (".downsample.", ".downsamplers.0."),
    (".upsample.", ".upsamplers.0."),
    (".block.", ".resnets."),
    (".nin_shortcut.", ".conv_shortcut."),
    (".norm_out.", ".conv_norm_out."),
    (".attentions.0.query.", ".attentions.0.to_q."),
    (".attentions.0.key.", ".attentions.0.to_k."),
    (".attentions.0.value.", ".attentions.0.to_v."),
    (".attentions.0.proj_attn.", ".attentions.0.to_out.0."),
];

/// How the names of one file become current ones.
pub(super) struct Renaming {
    /// Whether the file is a whole latent diffusion model, of which only one prefix matters.
    within: bool,
    /// Levels of LDM's decoder, which counts them from the largest picture.
    levels: usize,
}

impl Renaming {
    pub fn of<'a>(keys: impl Iterator<Item = &'a str>) -> Self {
        let mut found = Renaming { within: false, levels: 0 };
        for key in keys {
            let inner = key.strip_prefix(FIRST_STAGE);
            found.within |= inner.is_some();
            let level = inner.unwrap_or(key).strip_prefix("decoder.up.").and_then(|k| k.split_once('.'));
            if let Some(level) = level.and_then(|(level, _)| level.parse::<u16>().ok()) {
                found.levels = found.levels.max(usize::from(level) + 1);
            }
        }
        found
    }

    /// The current name; `None` for what is not the autoencoder's: the rest of a whole model, and
    /// the loss network that LDM's training keeps beside it.
    pub fn apply(&self, key: &str) -> Option<String> {
        let key = match key.strip_prefix(FIRST_STAGE) {
            Some(key) => key,
            None if self.within => return None,
            None => key,
        };
        if key.starts_with("loss.") {
            return None;
        }
        let mut key = key.replacen("encoder.down.", "encoder.down_blocks.", 1);
        if let Some((level, rest)) = key.strip_prefix("decoder.up.").and_then(|k| k.split_once('.'))
            && let Ok(level) = level.parse::<usize>()
            && level < self.levels
        {
            key = format!("decoder.up_blocks.{}.{rest}", self.levels - 1 - level);
        }
        for (old, new) in PARTS {
            key = key.replacen(old, new, 1);
        }
        Some(key)
    }
}

/// Shapes under current names; of two keys with one name the last wins.
pub(super) fn canonical(shapes: &Shapes) -> Shapes {
    let renaming = Renaming::of(shapes.keys().map(String::as_str));
    shapes
        .iter()
        .filter_map(|(k, s)| {
            let key = renaming.apply(k)?;
            let shape = matrix_shape(&key, s);
            Some((key, shape))
        })
        .collect()
}

/// The shape of a tensor under its current name: LDM's attention has 1×1 convolutions where
/// diffusers has matrices.
pub(super) fn matrix_shape(key: &str, shape: &[usize]) -> Vec<usize> {
    match shape {
        &[n, k, 1, 1] if key.contains(".attentions.") => vec![n, k],
        _ => shape.to_vec(),
    }
}

/// Whether a current name belongs to the encoder.
pub(super) fn of_encoder(key: &str) -> bool {
    key.starts_with("encoder.") || key.starts_with("quant_conv.")
}

/// Whether a current name belongs to the decoder.
pub(super) fn of_decoder(key: &str) -> bool {
    key.starts_with("decoder.") || key.starts_with("post_quant_conv.")
}
