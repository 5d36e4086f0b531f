//! The encoder of T5 (Raffel et al. 2020, arXiv 1910.10683) and T5 v1.1: text tokens to features.
//!
//! Pre-norm blocks of self-attention and a feed-forward layer, no bias anywhere, norms that divide
//! by the root mean square. Attention does not divide by √depth; positions enter only as a bias on
//! the scores, looked up by the bucket of the distance in a table that block 0 holds for all blocks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::network::{Given, Network, Run};
use super::{Shapes, config};
use crate::error::{Error, Result};
use crate::graph::{Graph, GraphBuilder, Outputs, ValueId};
use crate::nn;
use crate::ops::attention::AttentionOptions;
use crate::tensor::{DType, HostTensor};
use crate::weights::WeightSet;

/// The table of token embeddings; `encoder.embed_tokens.weight` is another name of it.
const EMBEDDING: &str = "shared.weight";
const ALIAS: &str = "encoder.embed_tokens.weight";

/// Hyper-parameters under the names of transformers' `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct T5Encoder {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Features of a token.
    pub d_model: usize,
    /// Depth of one attention head.
    pub d_kv: usize,
    /// Features inside the feed-forward layer.
    pub d_ff: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Rows of the relative position table; half of them for each direction.
    pub relative_attention_num_buckets: usize,
    /// From this distance on all positions share a bucket.
    pub relative_attention_max_distance: usize,
    /// Added to the mean square in norms.
    pub layer_norm_epsilon: f32,
    /// `relu`, `gelu`, `gelu_new` or `silu`, with `gated-` in front for the gated layer of v1.1;
    /// `gated-gelu` means the tanh form, as in transformers.
    pub feed_forward_proj: String,
}

/// T5 v1.1 XXL, which PixArt and DreamClear use.
impl Default for T5Encoder {
    fn default() -> Self {
        T5Encoder {
            vocab_size: 32128,
            d_model: 4096,
            d_kv: 64,
            d_ff: 10240,
            num_layers: 24,
            num_heads: 64,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: "gated-gelu".into(),
        }
    }
}

/// What transformers assumes of a key that `config.json` leaves out.
fn official_defaults() -> Value {
    serde_json::json!({
        "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6, "feed_forward_proj": "relu",
    })
}

#[rustfmt::skip]
const KNOWN: &[&str] = &[
    "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets",
    "relative_attention_max_distance", "layer_norm_epsilon", "feed_forward_proj",
];

/// Keys of published files that do not concern the encoder at inference. `dense_act_fn` and
/// `is_gated_act` are derived from `feed_forward_proj`.
#[rustfmt::skip]
const HARMLESS: &[&str] = &[
    "architectures", "model_type", "dropout_rate", "classifier_dropout", "initializer_factor",
    "dense_act_fn", "is_gated_act", "num_decoder_layers", "is_encoder_decoder", "is_decoder",
    "decoder_start_token_id", "pad_token_id", "eos_token_id", "bos_token_id", "n_positions",
    "output_past", "task_specific_params", "tie_word_embeddings", "scale_decoder_outputs",
    "torch_dtype", "dtype", "transformers_version", "use_cache", "gradient_checkpointing",
    "tokenizer_class", "return_dict", "output_attentions", "output_hidden_states",
    "attn_implementation", "tie_encoder_decoder", "id2label", "label2id", "problem_type",
    "chunk_size_feed_forward", "torchscript", "add_cross_attention", "cross_attention_hidden_size",
];

/// The function inside a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Relu,
    Gelu,
    GeluTanh,
    Silu,
}

/// Which keys a query may see.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// All of them.
    All,
    /// The first so many of each text: i64 `[B]`.
    First(ValueId),
    /// Added to the scores: f32 `[B, 1, 1, L]`, 0 or a large negative number.
    Bias(ValueId),
}

impl T5Encoder {
    /// From transformers' `config.json`; without one from the shapes of the weights, which fix
    /// everything but the activation (tanh GELU where gated, else ReLU) and the farthest distance
    /// (128), as in every published T5.
    pub fn from_config(json: Option<&Value>, shapes: &Shapes) -> Result<(Self, Vec<String>)> {
        let Some(json) = json else { return Ok((Self::infer(shapes)?, Vec::new())) };
        if let Some(kind) = json.get("model_type").and_then(Value::as_str)
            && !["t5", "mt5"].contains(&kind)
        {
            return Err(Error::Usage(format!(
                "expected the configuration of a T5 (\"model_type\": \"t5\" or \"mt5\"), found \"{kind}\""
            )));
        }
        let mut filled = official_defaults();
        if let (Some(all), Some(given)) = (filled.as_object_mut(), json.as_object()) {
            all.extend(given.clone());
        } else {
            filled = json.clone(); // not an object: refused below
        }
        let (encoder, ignored): (Self, _) = config::read("t5-encoder", &filled, KNOWN, HARMLESS)?;
        encoder.check().map_err(Error::Usage)?;
        Ok((encoder, ignored))
    }

    fn infer(shapes: &Shapes) -> Result<Self> {
        let dims = |key: &str| match shapes.get(key).map(Vec::as_slice) {
            Some(&[rows, columns]) => Ok((rows, columns)),
            Some(other) => Err(Error::Weights(format!("\"{key}\" must have two axes, found {other:?}"))),
            None => Err(Error::Weights(format!(
                "expected the weights of a T5 encoder, but \"{key}\" is missing; give its config.json with --config"
            ))),
        };
        let first = |key: &str| format!("encoder.block.0.layer.{key}.weight");
        let (vocab_size, d_model) = dims(if shapes.contains_key(EMBEDDING) { EMBEDDING } else { ALIAS })?;
        let (buckets, num_heads) = dims(&first("0.SelfAttention.relative_attention_bias"))?;
        let (inner, _) = dims(&first("0.SelfAttention.q"))?;
        let (_, d_ff) = dims(&first("1.DenseReluDense.wo"))?;
        let gated = shapes.contains_key(&first("1.DenseReluDense.wi_0"));
        let encoder = T5Encoder {
            vocab_size,
            d_model,
            d_kv: inner / num_heads.max(1),
            d_ff,
            num_layers: (0..)
                .take_while(|i| shapes.contains_key(&format!("encoder.block.{i}.layer.0.layer_norm.weight")))
                .count(),
            num_heads,
            relative_attention_num_buckets: buckets,
            feed_forward_proj: if gated { "gated-gelu" } else { "relu" }.into(),
            ..T5Encoder::default()
        };
        encoder.check().map_err(Error::Weights)?;
        Ok(encoder)
    }

    fn check(&self) -> Result<(), String> {
        let sizes = [self.vocab_size, self.d_model, self.d_kv, self.d_ff, self.num_heads];
        if sizes.contains(&0) {
            return Err("T5: vocab_size, d_model, d_kv, d_ff and num_heads must be at least 1".into());
        }
        let (buckets, far) = (self.relative_attention_num_buckets, self.relative_attention_max_distance);
        // Each direction has an exact half, and a logarithmic half that ends beyond it.
        if buckets < 4 || far <= buckets / 4 {
            return Err(format!(
                "T5: expected relative_attention_num_buckets of at least 4 and a \
                 relative_attention_max_distance above a quarter of it, found {buckets} and {far}"
            ));
        }
        self.feed_forward().map(drop)
    }

    /// The activation, and whether it gates a second projection.
    fn feed_forward(&self) -> Result<(Act, bool), String> {
        let name = self.feed_forward_proj.as_str();
        let (gated, act) = name.strip_prefix("gated-").map_or((false, name), |act| (true, act));
        let act = match (act, gated) {
            ("relu", _) => Act::Relu,
            ("gelu_new", _) | ("gelu", true) => Act::GeluTanh,
            ("gelu", false) => Act::Gelu,
            ("silu", _) => Act::Silu,
            _ => {
                return Err(format!(
                    "T5: feed_forward_proj must be relu, gelu, gelu_new or silu, or one of them after \
                     \"gated-\", found \"{name}\""
                ));
            }
        };
        Ok((act, gated))
    }

    /// Records the encoder: `input_ids` i64 `[B, L]`, each below `vocab_size`; `lengths` i64 `[B]`,
    /// how many tokens of each text are not padding. The result is `[B, L, d_model]`; rows of
    /// padding hold numbers too, the same as in transformers.
    pub fn build(&self, b: &mut GraphBuilder, input_ids: ValueId, lengths: ValueId) -> Result<ValueId> {
        self.build_with(b, input_ids, Keys::First(lengths))
    }

    /// [`T5Encoder::build`] for any kind of mask.
    pub fn build_with(&self, b: &mut GraphBuilder, input_ids: ValueId, keys: Keys) -> Result<ValueId> {
        let [_, tokens] = b.dims(input_ids, "t5-encoder")?;
        let table = b.matrix(EMBEDDING, [self.vocab_size, self.d_model])?;
        let mut x = b.embedding(table, input_ids)?;
        let bias = self.position_bias(b, tokens)?;
        let (bias, key_lengths) = match keys {
            Keys::All => (bias, None),
            Keys::First(lengths) => (bias, Some(lengths)),
            Keys::Bias(mask) => (b.add(bias, mask)?, None),
        };
        let options =
            AttentionOptions { scale: Some(1.0), bias: Some(bias), key_lengths, ..Default::default() };
        for i in 0..self.num_layers {
            x = b.scope(format!("encoder.block.{i}"), |b| self.block(b, x, options.clone()))?;
        }
        b.scope("encoder", |b| self.norm(b, "final_layer_norm", x))
    }

    /// One block on x `[B, L, d_model]`.
    pub(crate) fn block(
        &self,
        b: &mut GraphBuilder,
        x: ValueId,
        options: AttentionOptions,
    ) -> Result<ValueId> {
        let x = b.scope("layer.0", |b| {
            let h = self.norm(b, "layer_norm", x)?;
            let h = b.scope("SelfAttention", |b| self.attention(b, h, options))?;
            b.add(h, x)
        })?;
        b.scope("layer.1", |b| {
            let h = self.norm(b, "layer_norm", x)?;
            let h = b.scope("DenseReluDense", |b| self.dense(b, h))?;
            b.add(h, x)
        })
    }

    fn norm(&self, b: &mut GraphBuilder, name: &str, x: ValueId) -> Result<ValueId> {
        let weight = b.scope(name, |b| b.param("weight", [self.d_model]))?;
        b.rms_norm(x, Some(weight), self.layer_norm_epsilon)
    }

    fn attention(&self, b: &mut GraphBuilder, x: ValueId, options: AttentionOptions) -> Result<ValueId> {
        let [batch, tokens, _] = b.dims(x, "t5-encoder")?;
        let inner = self.num_heads * self.d_kv;
        let heads = [batch, tokens, self.num_heads, self.d_kv];
        let mut project = |name| {
            let y = nn::linear(b, name, x, inner, false)?;
            b.reshape(y, heads)
        };
        let (q, k, v) = (project("q")?, project("k")?, project("v")?);
        let y = b.attention(q, k, v, options)?;
        let y = b.reshape(y, [batch, tokens, inner])?;
        nn::linear(b, "o", y, self.d_model, false)
    }

    fn dense(&self, b: &mut GraphBuilder, x: ValueId) -> Result<ValueId> {
        let (act, gated) = self.feed_forward().map_err(|m| b.error("t5-encoder", m))?;
        let h = nn::linear(b, if gated { "wi_0" } else { "wi" }, x, self.d_ff, false)?;
        let mut h = match act {
            Act::Relu => b.relu(h)?,
            Act::Gelu => b.gelu(h)?,
            Act::GeluTanh => b.gelu_tanh(h)?,
            Act::Silu => b.silu(h)?,
        };
        if gated {
            let g = nn::linear(b, "wi_1", x, self.d_ff, false)?;
            h = b.mul(h, g)?;
        }
        nn::linear(b, "wo", h, self.d_model, false)
    }

    /// The bias of every score by the distance of its tokens: `[1, H, L, L]`.
    fn position_bias(&self, b: &mut GraphBuilder, tokens: usize) -> Result<ValueId> {
        let table = b.scope("encoder.block.0.layer.0.SelfAttention.relative_attention_bias", |b| {
            b.param("weight", [self.relative_attention_num_buckets, self.num_heads])
        })?;
        let buckets = (0..tokens)
            .flat_map(|query| (0..tokens).map(move |key| self.bucket(query, key) as i64))
            .collect();
        let buckets = b.constant(HostTensor::from_i64([tokens, tokens], buckets));
        let bias = b.embedding(table, buckets)?; // [L, L, H]
        let bias = b.permute(bias, [2, 0, 1])?;
        b.reshape(bias, [1, self.num_heads, tokens, tokens])
    }

    /// The bucket of a key seen from a query: half of them for keys behind the query; of each half
    /// the first half exact distances, then logarithmic steps up to the largest distance.
    fn bucket(&self, query: usize, key: usize) -> usize {
        let half = self.relative_attention_num_buckets / 2;
        let exact = half / 2;
        let start = if key > query { half } else { 0 };
        let distance = query.abs_diff(key);
        if distance < exact {
            return start + distance;
        }
        // In f32, as the official code: at powers of two the quotient must come out whole.
        let octaves = (distance as f32 / exact as f32).ln();
        let all = (self.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
        let steps = octaves / all * (half - exact) as f32;
        start + (exact + steps as usize).min(half - 1)
    }

    /// The graph of `forward`.
    fn graph(&self, batch: usize, tokens: usize, mask: Mask) -> Result<Graph> {
        let mut b = GraphBuilder::new();
        let ids = b.input("input_ids", DType::I64, [batch, tokens])?;
        let keys = match mask {
            Mask::None => Keys::All,
            Mask::Lengths => Keys::First(b.input("lengths", DType::I64, [batch])?),
            Mask::Bias => Keys::Bias(b.input("mask", DType::F32, [batch, 1, 1, tokens])?),
        };
        let y = self.build_with(&mut b, ids, keys)?;
        b.output("last_hidden_state", y);
        Ok(b.finish())
    }
}

/// How a mask enters a graph.
#[derive(Clone, Copy)]
enum Mask {
    None,
    Lengths,
    Bias,
}

/// How many tokens of each text a mask `[B, L]` keeps, where it keeps a beginning of each that is
/// not empty.
fn prefix_lengths(mask: &[f64], tokens: usize) -> Option<Vec<i64>> {
    let text = |row: &[f64]| {
        let kept = row.iter().take_while(|&&m| m == 1.0).count();
        (kept > 0 && row[kept..].iter().all(|&m| m == 0.0)).then_some(kept as i64)
    };
    mask.chunks_exact(tokens).map(text).collect()
}

/// [`super::network::FromConfig`] of the encoder.
pub(super) fn from_config(
    config: Option<&Value>,
    shapes: &Shapes,
) -> Result<(Box<dyn Network>, Vec<String>)> {
    T5Encoder::from_config(config, shapes).map(|(encoder, ignored)| (Box::new(encoder) as _, ignored))
}

impl Network for T5Encoder {
    fn architecture(&self) -> &'static str {
        "t5-encoder"
    }

    /// Drops the decoder of a full T5 and one of the two names of the embedding table.
    fn adapt(&self, weights: WeightSet) -> Result<WeightSet> {
        let shared = weights.contains(EMBEDDING);
        weights.renamed(|key| match key {
            ALIAS => (!shared).then(|| EMBEDDING.to_owned()),
            _ if key.starts_with("decoder.") || key.starts_with("lm_head.") => None,
            _ => Some(key.to_owned()),
        })
    }

    fn parameters(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        Ok(self.graph(1, 1, Mask::None)?.param_shapes().into_iter().collect())
    }

    /// `input_ids` i64 `[B, L]`; `attention_mask` `[B, L]` of zeros and ones, in any order (left
    /// out: all ones); result `last_hidden_state` f32 `[B, L, d_model]`.
    fn forward(&self, given: &Given, run: &mut Run) -> Result<Outputs> {
        given.uses(&["input_ids", "attention_mask"]);
        let (ids, [batch, tokens]) = given.shaped("input_ids", "[B, L]")?;
        if ids.dtype().is_float() || tokens == 0 {
            return Err(given.error(format!("\"input_ids\" must be whole numbers [B, L], found {ids:?}")));
        }
        let ids = ("input_ids", HostTensor::from_i64([batch, tokens], ids.to_i64()));
        if given.optional("attention_mask").is_none() {
            return run(self.graph(batch, tokens, Mask::None)?, &[ids]);
        }
        let (mask, shape) = given.shaped::<2>("attention_mask", "[B, L]")?;
        if shape != [batch, tokens] {
            return Err(given.error(format!(
                "\"attention_mask\" must be like \"input_ids\", [{batch}, {tokens}], found {shape:?}"
            )));
        }
        let mask = mask.to_f64();
        if let Some(odd) = mask.iter().find(|&&m| m != 0.0 && m != 1.0) {
            return Err(given.error(format!("\"attention_mask\" must hold zeros and ones, found {odd}")));
        }
        if let Some(lengths) = prefix_lengths(&mask, tokens) {
            let lengths = HostTensor::from_i64([batch], lengths);
            return run(self.graph(batch, tokens, Mask::Lengths)?, &[ids, ("lengths", lengths)]);
        }
        // The smallest number and not −∞: a text without any key sees all of them alike, as officially.
        let bias = mask.iter().map(|&m| if m == 1.0 { 0.0 } else { f32::MIN }).collect();
        let bias = HostTensor::from_f32([batch, 1, 1, tokens], bias);
        run(self.graph(batch, tokens, Mask::Bias)?, &[ids, ("mask", bias)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_that_keep_a_beginning_become_lengths() {
        assert_eq!(prefix_lengths(&[1., 1., 0., 1., 1., 1.], 3), Some(vec![2, 3]));
        assert_eq!(prefix_lengths(&[1., 1., 0., 0., 0., 0.], 3), None); // nothing to see
        assert_eq!(prefix_lengths(&[0., 1., 1.], 3), None);
        assert_eq!(prefix_lengths(&[1., 0., 1.], 3), None);
    }

    #[test]
    fn configurations_are_read_as_transformers_reads_them() {
        let read = |json: Value| T5Encoder::from_config(Some(&json), &Shapes::new());
        let xxl = serde_json::json!({
            "architectures": ["T5ForConditionalGeneration"], "d_ff": 10240, "d_kv": 64, "d_model": 4096,
            "feed_forward_proj": "gated-gelu", "model_type": "t5", "num_decoder_layers": 24,
            "num_heads": 64, "num_layers": 24, "output_past": true, "relative_attention_num_buckets": 32,
            "tie_word_embeddings": false, "vocab_size": 32128
        });
        let (encoder, ignored) = read(xxl).unwrap();
        assert_eq!(encoder, T5Encoder::default());
        assert!(ignored.contains(&"output_past".to_owned()), "{ignored:?}");
        let (small, _) = read(serde_json::json!({})).unwrap();
        assert_eq!((small.d_model, small.feed_forward().unwrap()), (512, (Act::Relu, false)));
        for (json, part) in [
            (serde_json::json!({"feed_forward_proj": "gated-swish"}), "feed_forward_proj"),
            (serde_json::json!({"model_type": "umt5"}), "umt5"),
            (serde_json::json!({"d_modl": 4}), "d_modl"),
            (serde_json::json!({"d_kv": 0}), "d_kv"),
            (serde_json::json!({"relative_attention_max_distance": 8}), "max_distance"),
            (serde_json::json!([1]), "JSON object"),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
