//! PixArt's names: the official keys, those of a diffusers directory, and the base within a
//! DreamClear checkpoint (specification checkpoints.md §3).

use serde_json::{Map, Value};

use super::Shapes;
use crate::error::{Error, Result};
use crate::tensor::HostTensor;
use crate::weights::{Part, WeightSet};

/// The null caption: T5 features of the empty text `[model_max_length, caption_channels]`, a
/// buffer of the official module that its forward never reads.
pub const NULL_CAPTION: &str = "y_embedder.y_embedding";

/// What the base is called within a DreamClear checkpoint, and what else lies there.
pub const BASE: &str = "base_model.";
const CONTROL: &[&str] = &[
    "controlnet_lq.",
    "controlnet_pre.",
    "am_lq.",
    "am_pre.",
    "cross_de.",
    "c_embedder_lq.",
    "c_embedder_pre.",
    "x_embedder_lq.",
    "x_embedder_pre.",
];

/// Prefixes of modules: diffusers, official.
const MODULES: &[(&str, &str)] = &[
    ("pos_embed.proj.", "x_embedder.proj."),
    ("caption_projection.linear_1.", "y_embedder.y_proj.fc1."),
    ("caption_projection.linear_2.", "y_embedder.y_proj.fc2."),
    ("adaln_single.emb.timestep_embedder.linear_1.", "t_embedder.mlp.0."),
    ("adaln_single.emb.timestep_embedder.linear_2.", "t_embedder.mlp.2."),
    ("adaln_single.emb.resolution_embedder.linear_1.", "csize_embedder.mlp.0."),
    ("adaln_single.emb.resolution_embedder.linear_2.", "csize_embedder.mlp.2."),
    ("adaln_single.emb.aspect_ratio_embedder.linear_1.", "ar_embedder.mlp.0."),
    ("adaln_single.emb.aspect_ratio_embedder.linear_2.", "ar_embedder.mlp.2."),
    ("adaln_single.linear.", "t_block.1."),
    ("proj_out.", "final_layer.linear."),
];
/// The same within a block, and which rows of the official tensor these are.
const BLOCK: &[(&str, &str, Option<Part>)] = &[
    ("scale_shift_table", "scale_shift_table", None),
    ("attn1.to_q.", "attn.qkv.", Some(Part { place: 0, of: 3 })),
    ("attn1.to_k.", "attn.qkv.", Some(Part { place: 1, of: 3 })),
    ("attn1.to_v.", "attn.qkv.", Some(Part { place: 2, of: 3 })),
    ("attn1.to_out.0.", "attn.proj.", None),
    ("attn2.to_q.", "cross_attn.q_linear.", None),
    ("attn2.to_k.", "cross_attn.kv_linear.", Some(Part { place: 0, of: 2 })),
    ("attn2.to_v.", "cross_attn.kv_linear.", Some(Part { place: 1, of: 2 })),
    ("attn2.to_out.0.", "cross_attn.proj.", None),
    ("ff.net.0.proj.", "mlp.fc1.", None),
    ("ff.net.2.", "mlp.fc2.", None),
];

/// Whether these are the keys of a diffusers directory.
pub fn is_diffusers(shapes: &Shapes) -> bool {
    shapes.contains_key("adaln_single.linear.weight")
}

/// The official name of a diffusers key and, where several tensors become one, which rows of it
/// this one is. Other keys stay as they are.
fn from_diffusers(key: &str) -> (String, Option<Part>) {
    if key == "scale_shift_table" {
        return (format!("final_layer.{key}"), None);
    }
    for (from, to) in MODULES {
        if let Some(rest) = key.strip_prefix(from) {
            return (format!("{to}{rest}"), None);
        }
    }
    if let Some((block, inner)) = key.strip_prefix("transformer_blocks.").and_then(|k| k.split_once('.')) {
        for (from, to, part) in BLOCK {
            if let Some(rest) = inner.strip_prefix(from) {
                return (format!("blocks.{block}.{to}{rest}"), *part);
            }
        }
    }
    (key.to_owned(), None)
}

/// The official name of a key of a DreamClear checkpoint's base; `None`: it is not of the base.
fn within_dreamclear(key: &str) -> Option<String> {
    if let Some(base) = key.strip_prefix(BASE) {
        return Some(base.to_owned());
    }
    (!CONTROL.iter().any(|c| key.starts_with(c))).then(|| key.to_owned())
}

/// Shapes under official names, as far as one tensor makes one.
pub(super) fn canonical(shapes: &Shapes) -> Shapes {
    let diffusers = is_diffusers(shapes);
    let rename = |key: &String| match diffusers {
        true => Some(from_diffusers(key).0),
        false => within_dreamclear(key),
    };
    shapes.iter().filter_map(|(key, shape)| Some((rename(key)?, shape.clone()))).collect()
}

/// Weights under official names: of a diffusers directory (whose q, k and v are joined) or of the
/// base of a DreamClear checkpoint (whose other tensors are left out).
pub(super) fn adapt(weights: WeightSet) -> Result<WeightSet> {
    if weights.contains("adaln_single.linear.weight") {
        // The position embedding is computed anew; some versions of diffusers store it.
        let weights = weights.renamed(|k| (k != "pos_embed.pos_embed").then(|| k.to_owned()))?;
        return weights.joined(from_diffusers);
    }
    if weights.contains("base_model.x_embedder.proj.weight") {
        return weights.renamed(within_dreamclear);
    }
    Ok(weights)
}

/// The null caption that a set of weights holds, under the official name or DreamClear's.
///
/// # Errors
/// If it has none: a diffusers directory cannot give it back.
pub fn null_caption(weights: &WeightSet) -> Result<&HostTensor> {
    let in_dreamclear = format!("{BASE}{NULL_CAPTION}");
    weights.get(NULL_CAPTION).or_else(|| weights.get(&in_dreamclear)).ok_or_else(|| {
        Error::file(
            weights.path(),
            format!(
                "the null caption \"{NULL_CAPTION}\" is needed but not there; diffusers directories leave it out: \
                 take PixArt-XL-2-1024-MS.pth or DreamClear-1024.pth, or embed an empty caption with T5"
            ),
        )
    })
}

/// The official hyper-parameters of a diffusers `config.json`; an official one stays as it is.
pub(super) fn config(json: &Value) -> Result<Value> {
    let Some(object) = json.as_object().filter(|o| o.contains_key("num_attention_heads")) else {
        return Ok(json.clone());
    };
    let integer = |key: &str, default: u64| object.get(key).and_then(Value::as_u64).unwrap_or(default);
    for (key, wanted) in [
        ("norm_type", Value::from("ada_norm_single")),
        ("activation_fn", Value::from("gelu-approximate")),
        ("norm_elementwise_affine", Value::from(false)),
        ("attention_bias", Value::from(true)),
        ("norm_eps", Value::from(1e-6)),
        ("double_self_attention", Value::from(false)),
        ("only_cross_attention", Value::from(false)),
        ("use_additional_conditions", Value::from(true)),
    ] {
        if let Some(found) = object.get(key).filter(|v| !v.is_null() && **v != wanted) {
            return Err(Error::Usage(format!(
                "pixart needs {key} = {wanted}; this configuration has {found}"
            )));
        }
    }
    let (heads, input) = (integer("num_attention_heads", 16), integer("sample_size", 128));
    let channels = integer("in_channels", 4);
    let stretch = object.get("interpolation_scale").filter(|v| !v.is_null()).cloned();
    let official = [
        ("num_heads", Value::from(heads)),
        ("hidden_size", Value::from(heads * integer("attention_head_dim", 72))),
        ("depth", Value::from(integer("num_layers", 28))),
        ("patch_size", Value::from(integer("patch_size", 2))),
        ("in_channels", Value::from(channels)),
        ("pred_sigma", Value::from(integer("out_channels", 2 * channels) == 2 * channels)),
        ("caption_channels", Value::from(integer("caption_channels", 4096))),
        ("input_size", Value::from(input)),
        ("lewei_scale", stretch.unwrap_or_else(|| Value::from((input / 64).max(1)))),
    ];
    Ok(Value::Object(official.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>()))
}
