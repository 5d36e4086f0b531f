//! T5's tokenizer: text to the ids that the published encoders were trained on.
//!
//! As `T5TokenizerFast` of transformers does it: special tokens are cut out of the text, the rest
//! is normalised by the rules in the model, split at white space, and each word, with `▁` in
//! front, is split into the pieces of a unigram model.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::charsmap::Charsmap;
use super::sentencepiece;
use super::unigram::Unigram;
use crate::error::{Error, Result};

/// Stands for the space in front of a word.
const SPACE: char = '▁';
/// `<extra_id_0>` and so on, which transformers appends to the vocabulary of `spiece.model`, the
/// highest first.
const EXTRA_IDS: usize = 100;

/// Ids of one text, padded, and which of them are not padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids: the text's, then the end of the text, then padding.
    pub ids: Vec<i64>,
    /// 1 for text and its end, 0 for padding.
    pub mask: Vec<i64>,
}

impl Tokens {
    /// How many tokens are not padding.
    pub fn len(&self) -> usize {
        self.mask.iter().filter(|&&m| m == 1).count()
    }

    /// Whether all is padding.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A tokenizer with its vocabulary.
#[derive(Clone)]
pub struct T5Tokenizer {
    unigram: Unigram,
    rules: Option<Charsmap>,
    /// Tokens that are found in the text as they stand.
    special: Vec<(String, i64)>,
    end: i64,
    padding: i64,
    vocabulary: usize,
}

impl fmt::Debug for T5Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T5Tokenizer({} tokens)", self.vocabulary)
    }
}

impl T5Tokenizer {
    /// Opens `spiece.model` or `tokenizer.json`, or a directory that holds one of them (itself, or
    /// in its `tokenizer/` as diffusers has it).
    ///
    /// # Errors
    /// If there is none, or it is damaged or of another kind than T5's.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = Self::find(path.as_ref())?;
        let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let json = bytes.trim_ascii_start().starts_with(b"{");
        let read = if json { Self::from_json(&bytes) } else { Self::from_sentencepiece(&bytes) };
        read.map_err(|message| Error::file(&path, message))
    }

    /// The tokenizer's file: `path` itself, or `spiece.model` or `tokenizer.json` in that folder, in
    /// its `tokenizer/`, or in the `tokenizer/` beside it (as diffusers lays a pipeline out).
    ///
    /// # Errors
    /// If a folder holds neither.
    pub fn find(path: &Path) -> Result<PathBuf> {
        if !path.is_dir() {
            return Ok(path.to_owned());
        }
        let beside = path.parent().unwrap_or(path).join("tokenizer");
        let folders = [path.to_owned(), path.join("tokenizer"), beside];
        let names = ["spiece.model", "tokenizer.json"];
        let files = folders.iter().flat_map(|folder| names.map(|name| folder.join(name)));
        files.into_iter().find(|file| file.is_file()).ok_or_else(|| {
            Error::file(
                path,
                "expected spiece.model or tokenizer.json in this folder or in a tokenizer/ in or beside it, found \
                 neither",
            )
        })
    }

    /// From the bytes of `spiece.model`.
    pub fn from_sentencepiece(bytes: &[u8]) -> Result<Self, String> {
        let model = sentencepiece::parse(bytes)?;
        let mut vocabulary: Vec<_> =
            model.pieces.into_iter().map(|(piece, score)| (piece, f64::from(score))).collect();
        let mut special = Vec::new();
        for name in ["<pad>", "</s>", "<unk>"] {
            let id = vocabulary.iter().position(|(piece, _)| piece == name);
            special.extend(id.map(|id| (name.to_owned(), id as i64)));
        }
        for k in (0..EXTRA_IDS).rev() {
            let name = format!("<extra_id_{k}>");
            special.push((name.clone(), vocabulary.len() as i64));
            vocabulary.push((name, 0.0));
        }
        let rules = (!model.charsmap.is_empty()).then(|| Charsmap::parse(&model.charsmap)).transpose()?;
        Self::assemble(&vocabulary, model.unknown, rules, special)
    }

    /// From the text of `tokenizer.json`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let json: Json =
            serde_json::from_slice(bytes).map_err(|e| format!("expected a tokenizer.json of a T5: {e}"))?;
        if json.model.kind != "Unigram" || json.model.byte_fallback {
            return Err(format!(
                "expected a T5's unigram model without byte fallback, found {}{}",
                json.model.kind,
                if json.model.byte_fallback { " with it" } else { "" }
            ));
        }
        check_splitting(&json.pre_tokenizer)?;
        let rules = match &json.normalizer {
            None => None,
            Some(Normalizer { kind, precompiled_charsmap: Some(text) }) if kind == "Precompiled" => {
                let bytes = BASE64_STANDARD
                    .decode(text)
                    .map_err(|e| format!("the normalisation rules are not base64: {e}"))?;
                (!bytes.is_empty()).then(|| Charsmap::parse(&bytes)).transpose()?
            }
            Some(other) => {
                return Err(format!(
                    "expected the normaliser \"Precompiled\" of a T5, found \"{}\": use its spiece.model instead",
                    other.kind
                ));
            }
        };
        let special = json.added_tokens.into_iter().map(|t| (t.content, t.id)).collect();
        Self::assemble(&json.model.vocab, json.model.unk_id, rules, special)
    }

    fn assemble(
        vocabulary: &[(String, f64)],
        unknown: usize,
        rules: Option<Charsmap>,
        mut special: Vec<(String, i64)>,
    ) -> Result<Self, String> {
        let id = |name: &str| {
            let id = special.iter().find(|(n, _)| n == name).map(|(_, id)| *id);
            id.ok_or_else(|| format!("expected the vocabulary of a T5, but the token {name} is missing"))
        };
        let (end, padding) = (id("</s>")?, id("<pad>")?);
        special.retain(|(name, _)| !name.is_empty());
        // Of two that begin alike the longer is tried first.
        special.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        let unigram = Unigram::new(vocabulary, unknown)?;
        Ok(T5Tokenizer { unigram, rules, special, end, padding, vocabulary: vocabulary.len() })
    }

    /// Token ids of `text`, its end included, cut and padded to `max_length` (none at all if that
    /// is 0).
    pub fn encode(&self, text: &str, max_length: usize) -> Tokens {
        let mut ids = Vec::new();
        if let Some(room) = max_length.checked_sub(1) {
            self.encode_up_to(text, room, &mut ids);
            ids.truncate(room);
            ids.push(self.end);
        }
        let mask = (0..max_length).map(|i| i64::from(i < ids.len())).collect();
        ids.resize(max_length, self.padding);
        Tokens { ids, mask }
    }

    /// Appends ids until the text ends or there are at least `room`.
    fn encode_up_to(&self, text: &str, room: usize, ids: &mut Vec<i64>) {
        let mut plain = 0; // where text begins that is not encoded yet
        let mut at = 0;
        while at < text.len() && ids.len() < room {
            if let Some((name, id)) = self.special.iter().find(|(name, _)| text[at..].starts_with(name)) {
                self.encode_plain(&text[plain..at], room, ids);
                ids.push(*id);
                at += name.len();
                plain = at;
            } else {
                at += text[at..].chars().next().map_or(1, char::len_utf8);
            }
        }
        self.encode_plain(&text[plain..at], room, ids);
    }

    fn encode_plain(&self, text: &str, room: usize, ids: &mut Vec<i64>) {
        let normal = self.rules.as_ref().map(|rules| rules.normalize(text));
        let normal = normal.as_deref().unwrap_or(text);
        for word in normal.split_whitespace() {
            if ids.len() >= room {
                return;
            }
            let word = if word.starts_with(SPACE) { word.to_owned() } else { format!("{SPACE}{word}") };
            // A mark within a word begins another one.
            let mut start = 0;
            for (at, _) in word.match_indices(SPACE).skip(1) {
                self.unigram.encode(&word[start..at], ids);
                start = at;
            }
            self.unigram.encode(&word[start..], ids);
        }
    }
}

/// The parts of `tokenizer.json` that T5 has.
#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Normalizer>,
    pre_tokenizer: Value,
    model: JsonModel,
}

#[derive(Deserialize)]
struct Added {
    id: i64,
    content: String,
}

#[derive(Deserialize)]
struct Normalizer {
    #[serde(rename = "type")]
    kind: String,
    precompiled_charsmap: Option<String>,
}

#[derive(Deserialize)]
struct JsonModel {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    unk_id: usize,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    vocab: Vec<(String, f64)>,
}

/// Only T5's way of splitting is known: at white space, then `▁` in front of every word.
fn check_splitting(pre: &Value) -> Result<(), String> {
    let steps = pre["pretokenizers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_t5 = match steps {
        [first, second] => {
            let prefixed = match second["prepend_scheme"].as_str() {
                Some(scheme) => scheme == "always",
                None => second["add_prefix_space"] != false,
            };
            first["type"] == "WhitespaceSplit"
                && second["type"] == "Metaspace"
                && second["replacement"].as_str().is_none_or(|r| r.chars().eq([SPACE]))
                && second["split"] != false
                && prefixed
        }
        _ => false,
    };
    if is_t5 {
        return Ok(());
    }
    Err("expected the pre-tokenizers WhitespaceSplit and Metaspace of a T5, found others: use its spiece.model instead"
        .into())
}
