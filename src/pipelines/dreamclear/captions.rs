//! What the picture shows, in words: where a caption comes from, and its features.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::components::Sources;
use super::denoise::Text;
use crate::cancel::Cancel;
use crate::data::image::{Format, Photo};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Executable, GraphBuilder, Plan, Workspace, passes};
use crate::models::t5::T5Encoder;
use crate::ops::fuse;
use crate::tensor::{DType, HostTensor};
use crate::text::features::CaptionFeatures;
use crate::text::tokenizer::T5Tokenizer;
use crate::text::{clean, vlm};
use crate::weights::WeightSet;

/// Where captions come from.
pub enum Source {
    /// The null caption for every picture.
    Null,
    /// One text for every picture.
    Text(String),
    /// `NAME.txt` of each picture in a directory.
    Files(PathBuf),
    /// `NAME.npz` of each picture in a directory, or one file for all.
    Features(PathBuf),
    /// Ready features by a picture's name; the null caption for others.
    Ready(BTreeMap<String, CaptionFeatures>),
    /// A vision-language model is asked.
    Vlm {
        /// The endpoint.
        client: Box<vlm::Client>,
        /// Endpoint, model and question, for the journal.
        identity: String,
    },
}

/// A picture's caption, as found.
pub enum Found {
    /// None: the null caption.
    Null,
    /// Words.
    Text(String),
    /// Ready features.
    Features(CaptionFeatures),
}

/// A caption with its story, for the report.
pub struct Caption {
    /// What to condition on.
    pub found: Found,
    /// `null`, `text`, `file`, `features`, `vlm` or `vlm (cached)`.
    pub source: &'static str,
    /// Why there is none, if there should have been one.
    pub note: Option<String>,
}

impl Source {
    /// One line for the journal's settings.
    pub fn describe(&self) -> String {
        match self {
            Source::Null => "null".into(),
            Source::Text(text) => format!("text:{text:?}"),
            Source::Files(dir) => format!("files:{}", dir.display()),
            Source::Features(path) => format!("features:{}", path.display()),
            Source::Ready(all) => format!("ready:{}", all.len()),
            Source::Vlm { identity, .. } => format!("vlm:{identity}"),
        }
    }

    /// The caption of the picture called `name`; `pre` is its degradation-removed version, which
    /// is what a vision-language model sees. With `fallback` a caption that cannot be had becomes
    /// the null caption and a note.
    ///
    /// # Errors
    /// If it cannot be had and there is no fallback; `Error::Interrupted`.
    pub fn caption(&self, name: &str, pre: &Photo, fallback: bool, cancel: &Cancel) -> Result<Caption> {
        match self.find(name, pre, cancel) {
            Ok((found, source)) => Ok(Caption { found, source, note: None }),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(e) if fallback => {
                let note = Some(format!("restored with the null caption: {e}"));
                Ok(Caption { found: Found::Null, source: "null", note })
            }
            Err(e) => Err(Error::Run(format!("{e} (--caption-fallback goes on with the null caption)"))),
        }
    }

    fn find(&self, name: &str, pre: &Photo, cancel: &Cancel) -> Result<(Found, &'static str)> {
        Ok(match self {
            Source::Null => (Found::Null, "null"),
            Source::Text(text) => (Found::Text(text.clone()), "text"),
            Source::Files(directory) => {
                let path = beside(directory, name, "txt");
                let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
                (Found::Text(text.trim().replace(['\n', '\r'], " ")), "file")
            }
            Source::Features(path) => {
                let path = if path.is_file() { path.clone() } else { beside(path, name, "npz") };
                (Found::Features(CaptionFeatures::open(&path)?), "features")
            }
            Source::Ready(all) => match all.get(name) {
                Some(features) => (Found::Features(features.clone()), "features"),
                None => (Found::Null, "null"),
            },
            Source::Vlm { client, .. } => {
                let (png, _) = pre.encode(Format::Png, 100)?;
                let answer = client.caption(&png, cancel)?;
                (Found::Text(answer.text), if answer.cached { "vlm (cached)" } else { "vlm" })
            }
        })
    }
}

/// `DIRECTORY/NAME.EXT` with the picture's own extension replaced; if only the form with both
/// extensions (`photo.jpg.txt`) is there, that one.
fn beside(directory: &std::path::Path, name: &str, extension: &str) -> PathBuf {
    let replaced = directory.join(name).with_extension(extension);
    let both = directory.join(format!("{name}.{extension}"));
    if !replaced.is_file() && both.is_file() { both } else { replaced }
}

/// The text encoder: opened at the first caption, its working memory shared, its weights read from
/// the mapped file each time and given back.
pub struct TextEncoder {
    opened: Option<Opened>,
    device: Device,
    workspace: Workspace,
    matrices: Option<DType>,
}

struct Opened {
    model: T5Encoder,
    weights: WeightSet,
    tokenizer: T5Tokenizer,
    matrices: DType,
}

impl TextEncoder {
    /// Nothing opened yet; matrices are kept in `matrices`, or as the file stores them.
    pub fn new(device: Device, workspace: Workspace, matrices: Option<DType>) -> Self {
        TextEncoder { opened: None, device, workspace, matrices }
    }

    fn open(&mut self, sources: &Sources) -> Result<&Opened> {
        if self.opened.is_none() {
            let (model, weights, tokenizer) = sources.t5()?;
            let (matrices, weights) = super::prepare(weights, self.matrices);
            self.opened = Some(Opened { model, weights, tokenizer, matrices });
        }
        Ok(self.opened.as_ref().expect("just opened"))
    }

    /// The plan of a caption of `tokens` tokens, and the bytes of the weights.
    pub fn plan(&mut self, sources: &Sources, tokens: usize) -> Result<Plan> {
        let device = self.device.clone();
        self.open(sources)?.plan(tokens, &device)
    }

    /// Features `[tokens, channels]` of a text after the official cleaning, and how many rows are
    /// valid. The weights' memory is given back afterwards.
    pub fn encode(
        &mut self,
        sources: &Sources,
        text: &str,
        tokens: usize,
        cancel: &Cancel,
    ) -> Result<CaptionFeatures> {
        let (device, workspace) = (self.device.clone(), self.workspace.clone());
        let opened = self.open(sources)?;
        let encoded = opened.tokenizer.encode(&clean::caption(text), tokens);
        let plan = opened.plan(tokens, &device)?;
        let weights = &opened.weights;
        let mut exe = Executable::in_workspace(plan, device, |key| weights.get(key).cloned(), &workspace)?;
        exe.stream_params();
        let valid = encoded.mask.iter().filter(|&&m| m != 0).count();
        let inputs = [
            ("input_ids", HostTensor::from_i64([1, tokens], encoded.ids)),
            ("lengths", HostTensor::from_i64([1], vec![valid as i64])),
        ];
        let mut out = exe.run_observed(&inputs, |_, _| cancel.check())?;
        let hidden = out.swap_remove(0).1;
        let channels = hidden.shape()[2];
        Ok(CaptionFeatures { feature: hidden.reshaped([tokens, channels]), mask: encoded.mask })
    }
}

impl Opened {
    fn plan(&self, tokens: usize, device: &Device) -> Result<Plan> {
        let mut b = GraphBuilder::new();
        b.keep_matrices_in(self.matrices);
        let ids = b.input("input_ids", DType::I64, [1, tokens])?;
        let lengths = b.input("lengths", DType::I64, [1])?;
        let hidden = self.model.build(&mut b, ids, lengths)?;
        b.output("last_hidden_state", hidden);
        let mut graph = b.finish();
        passes::run(&mut graph, fuse::RULES, None)?;
        Plan::new(graph, device)
    }
}

/// Both halves of the guidance: the caption's rows and those of the null (or negative) caption.
/// The null half is cut to the caption's valid rows, as in the official code (quirk 7).
///
/// # Errors
/// If features do not have the network's shape.
pub fn pair(
    caption: Option<&CaptionFeatures>,
    negative: Option<&CaptionFeatures>,
    null: &HostTensor,
) -> Result<Text> {
    let [tokens, channels] = null.shape()[..] else {
        return Err(Error::Weights(format!(
            "the null caption must be [tokens, channels], found {:?}",
            null.shape()
        )));
    };
    let null_rows = null.to_f32();
    // Valid rows first: attention then reads a prefix.
    let gather = |rows: &[f32], mask: &[i64]| -> (Vec<f32>, usize) {
        let mut out = Vec::with_capacity(tokens * channels);
        for (row, _) in rows.chunks_exact(channels).zip(mask).filter(|(_, m)| **m != 0) {
            out.extend_from_slice(row);
        }
        let valid = out.len() / channels;
        out.resize(tokens * channels, 0.0);
        (out, valid)
    };
    let check = |features: &CaptionFeatures| -> Result<()> {
        let shape = features.feature.shape();
        let fits =
            matches!(shape, [rows, c] if *rows <= tokens && *c == channels && features.mask.len() == *rows);
        if fits && features.mask.iter().any(|&m| m != 0) {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "caption features must be at most {tokens} rows of {channels} with at least one valid row, found {shape:?} with a mask of {} ({} valid)",
            features.mask.len(),
            features.mask.iter().filter(|&&m| m != 0).count()
        )))
    };
    let everything = vec![1; tokens];
    let (first, mask) = match caption {
        Some(features) => {
            check(features)?;
            (gather(&features.feature.to_f32(), &features.mask), features.mask.as_slice())
        }
        None => (gather(&null_rows, &everything), everything.as_slice()),
    };
    let second = match negative {
        Some(features) => {
            check(features)?;
            gather(&features.feature.to_f32(), &features.mask)
        }
        None => gather(&null_rows, mask),
    };
    let lengths = [first.1, second.1];
    let data = [first.0, second.0].concat();
    Ok(Text { features: HostTensor::from_f32([2, tokens, channels], data), lengths })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(rows: usize, mask: &[i64]) -> CaptionFeatures {
        let feature = HostTensor::from_f32([rows, 2], (0..rows * 2).map(|i| i as f32 + 1.0).collect());
        CaptionFeatures { feature, mask: mask.to_vec() }
    }

    #[test]
    fn the_null_half_is_cut_to_the_captions_rows() {
        let null = HostTensor::from_f32([4, 2], (0..8).map(|i| -(i as f32) - 1.0).collect());
        let text = pair(Some(&features(4, &[1, 0, 1, 0])), None, &null).unwrap();
        assert_eq!(text.lengths, [2, 2]);
        let rows = text.features.to_f32();
        assert_eq!(&rows[..4], [1.0, 2.0, 5.0, 6.0]);
        assert_eq!(&rows[8..12], [-1.0, -2.0, -5.0, -6.0]);
        assert_eq!(&rows[4..8], [0.0; 4]);

        let both = pair(None, None, &null).unwrap();
        assert_eq!((both.lengths, both.features.to_f32()[8]), ([4, 4], -1.0));
        let own = pair(Some(&features(3, &[1, 1, 1])), Some(&features(1, &[1])), &null).unwrap();
        assert_eq!((own.lengths, own.features.to_f32()[8]), ([3, 1], 1.0));
    }

    #[test]
    fn features_of_another_shape_are_refused() {
        let null = HostTensor::from_f32([4, 2], vec![0.0; 8]);
        for bad in [features(5, &[1; 5]), features(3, &[1; 2]), features(3, &[0; 3])] {
            let e = pair(Some(&bad), None, &null).unwrap_err().to_string();
            assert!(e.contains("at most 4 rows of 2"), "{e}");
        }
    }
}
