//! Which network do these keys belong to?

use super::set::WeightSet;

/// A network recognised by its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guess {
    /// The name that `forward --model` uses for it.
    pub model: &'static str,
    /// Which release or naming it is, and its size.
    pub detail: String,
}

/// Keys that together occur in one network only. The first row that matches wins, so special
/// cases stand above general ones.
const SIGNATURES: &[(&str, &str, &[&str])] = &[
    (
        "dreamclear",
        "PixArt base with ControlFormer",
        &["base_model.x_embedder.proj.weight", "controlnet_lq.0.copied_block.attn.qkv.weight"],
    ),
    ("pixart", "official names", &["y_embedder.y_proj.fc1.weight", "t_block.1.weight"]),
    ("pixart", "diffusers names", &["adaln_single.linear.weight", "pos_embed.proj.weight"]),
    (
        "swinir",
        "general (DiffBIR, DreamClear): pixel unshuffle in, nearest+conv out",
        &["conv_first.1.weight", "layers.0.residual_group.blocks.0.attn.qkv.weight", "conv_up1.weight"],
    ),
    (
        "swinir",
        "real-world: nearest+conv",
        &["conv_first.weight", "layers.0.residual_group.blocks.0.attn.qkv.weight", "conv_up1.weight"],
    ),
    (
        "swinir",
        "classical: pixelshuffle",
        &[
            "conv_first.weight",
            "layers.0.residual_group.blocks.0.attn.qkv.weight",
            "conv_before_upsample.0.weight",
            "upsample.0.weight",
        ],
    ),
    (
        "swinir",
        "lightweight: pixelshuffledirect",
        &["conv_first.weight", "layers.0.residual_group.blocks.0.attn.qkv.weight", "upsample.0.weight"],
    ),
    (
        "swinir",
        "same size: denoising or JPEG",
        &["conv_first.weight", "layers.0.residual_group.blocks.0.attn.qkv.weight", "conv_last.weight"],
    ),
    ("rrdbnet", "Real-ESRGAN names", &["conv_first.weight", "body.0.rdb1.conv1.weight", "conv_hr.weight"]),
    ("rrdbnet", "BSRGAN names", &["conv_first.weight", "RRDB_trunk.0.RDB1.conv1.weight", "HRconv.weight"]),
    ("rrdbnet", "old ESRGAN names", &["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"]),
    ("sdxl", "single file", &["conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"]),
    (
        "sdxl-unet",
        "diffusers names",
        &[
            "add_embedding.linear_1.weight",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        ],
    ),
    (
        "sd-unet",
        "diffusers names",
        &[
            "time_embedding.linear_1.weight",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        ],
    ),
    ("vae", "diffusers names", &["encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.conv_in.weight"]),
    ("vae", "LDM names", &["encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"]),
    ("vae", "LDM names within a larger file", &["first_stage_model.encoder.down.0.block.0.conv1.weight"]),
    ("t5-encoder", "transformers names", &["encoder.block.0.layer.0.SelfAttention.q.weight"]),
    (
        "clip-text",
        "transformers names",
        &["text_model.embeddings.token_embedding.weight", "text_model.final_layer_norm.weight"],
    ),
    (
        "resnet50",
        "torchvision names",
        &["layer1.0.downsample.1.running_mean", "layer4.0.conv3.weight", "fc.weight"],
    ),
    ("clip", "OpenAI names", &["visual.conv1.weight", "token_embedding.weight", "logit_scale"]),
    ("lpips", "linear heads", &["lin0.model.1.weight", "lin4.model.1.weight"]),
    ("dists", "channel weights", &["alpha", "beta"]),
    ("musiq", "KonIQ", &["conv_root.weight", "gn_root.weight"]),
    ("maniqa", "", &["tablock1.0.c_q.weight", "fc_score.0.weight"]),
];

/// Recognises the network, if it is one that this crate knows.
pub fn guess(weights: &WeightSet) -> Option<Guess> {
    let row = SIGNATURES.iter().find(|(_, _, keys)| keys.iter().all(|k| weights.contains(k)));
    let Some((model, variant, _)) = row else { return srvgg(weights) };
    let mut detail = vec![(*variant).to_owned()];
    match *model {
        "swinir" => detail.extend(swinir(weights)),
        "rrdbnet" => detail.extend(rrdbnet(weights)),
        "pixart" | "dreamclear" => detail.push(format!(
            "{} blocks",
            count(weights, |n| {
                n.ends_with(".scale_shift_table") && n.contains("blocks.") && !n.starts_with("controlnet")
            })
        )),
        _ => {}
    }
    detail.retain(|d| !d.is_empty());
    Some(Guess { model, detail: detail.join(", ") })
}

fn count(weights: &WeightSet, is: impl Fn(&str) -> bool) -> usize {
    weights.names().filter(|n| is(n)).count()
}

/// Compact SRVGG: one module list of convolutions (4 axes) and activations (1 axis).
fn srvgg(weights: &WeightSet) -> Option<Guess> {
    let (first, act) = (weights.shape("body.0.weight")?, weights.shape("body.1.weight")?);
    let ([features, ..], [slopes]) = (first, act) else { return None };
    if first.len() != 4 || features != slopes {
        return None;
    }
    let convs = weights.iter().filter(|(n, t)| n.starts_with("body.") && t.shape().len() == 4).count();
    Some(Guess {
        model: "srvgg",
        detail: format!("{features} features, {} inner convolutions", convs.checked_sub(2)?),
    })
}

fn swinir(weights: &WeightSet) -> Vec<String> {
    let mut detail = Vec::new();
    if let Some([dim, _]) = weights.shape("layers.0.residual_group.blocks.0.attn.proj.weight") {
        detail.push(format!("width {dim}"));
    }
    let groups =
        count(weights, |n| n.starts_with("layers.") && n.ends_with("residual_group.blocks.0.norm1.weight"));
    let blocks = count(weights, |n| n.starts_with("layers.") && n.ends_with(".norm1.weight"));
    detail.push(format!("{groups} groups, {blocks} blocks"));
    let table = "layers.0.residual_group.blocks.0.attn.relative_position_bias_table";
    if let Some([rows, heads]) = weights.shape(table) {
        // (2·window − 1)² offsets.
        detail.push(format!("{heads} heads, window {}", rows.isqrt().div_ceil(2)));
    }
    detail
}

fn rrdbnet(weights: &WeightSet) -> Vec<String> {
    let blocks = count(weights, |n| {
        n.to_lowercase().ends_with(".rdb1.conv1.weight") || n.ends_with(".RDB1.conv1.0.weight")
    });
    let mut detail = vec![format!("{blocks} blocks")];
    let first = weights.shape("conv_first.weight").or_else(|| weights.shape("model.0.weight"));
    // Real-ESRGAN feeds ×2 and ×1 networks pixel-unshuffled pictures.
    match first {
        Some([_, 12, ..]) => detail.push("×2 by pixel unshuffle".to_owned()),
        Some([_, 48, ..]) => detail.push("×1 by pixel unshuffle".to_owned()),
        _ => {}
    }
    detail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DType, HostTensor};

    fn set(keys: &[(&str, &[usize])]) -> WeightSet {
        WeightSet::from_tensors(
            keys.iter().map(|(k, shape)| (k.to_string(), HostTensor::zeros(DType::F16, shape.to_vec()))),
        )
    }

    #[test]
    fn every_signature_is_found_and_none_shadows_another() {
        for (model, variant, keys) in SIGNATURES {
            let found = guess(&set(&keys.iter().map(|k| (*k, &[1usize][..])).collect::<Vec<_>>())).unwrap();
            assert_eq!(found.model, *model);
            assert!(found.detail.starts_with(variant), "{} is taken for {}", variant, found.detail);
        }
        assert_eq!(guess(&set(&[("weight", &[1])])), None);
    }

    #[test]
    fn sizes_are_read_off_the_shapes() {
        let found = guess(&set(&[
            ("body.0.weight", &[64, 3, 3, 3]),
            ("body.1.weight", &[64]),
            ("body.2.weight", &[64, 64, 3, 3]),
            ("body.3.weight", &[64]),
            ("body.4.weight", &[48, 64, 3, 3]),
        ]));
        assert_eq!(found, Some(Guess { model: "srvgg", detail: "64 features, 1 inner convolutions".into() }));
        let attn = "layers.0.residual_group.blocks.0.attn";
        let found = guess(&set(&[
            ("conv_first.1.weight", &[180, 192, 3, 3]),
            (&format!("{attn}.qkv.weight"), &[540, 180]),
            (&format!("{attn}.proj.weight"), &[180, 180]),
            (&format!("{attn}.relative_position_bias_table"), &[225, 6]),
            ("layers.0.residual_group.blocks.0.norm1.weight", &[180]),
            ("conv_up1.weight", &[64, 64, 3, 3]),
        ]))
        .unwrap();
        assert!(
            found.detail.ends_with("width 180, 1 groups, 1 blocks, 6 heads, window 8"),
            "{}",
            found.detail
        );
    }
}
