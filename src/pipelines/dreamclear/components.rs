//! The four networks of DreamClear: where their files are, and opening them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::models::controlformer::DreamClear;
use crate::models::load::{self, Loaded};
use crate::models::swinir::SwinIr;
use crate::models::t5::T5Encoder;
use crate::models::vae::AutoencoderKl;
use crate::models::{NETWORKS, network::Network};
use crate::tensor::DType;
use crate::text::tokenizer::T5Tokenizer;
use crate::weights::bundle::{Bundle, Part};
use crate::weights::{WeightSet, embedded};

/// A component's name, and what its files are called in a weights directory, most official first.
type Row = (&'static str, &'static [&'static str]);

/// Degradation remover, autoencoder, diffusion transformer, text encoder.
const COMPONENTS: [Row; 4] = [
    ("swinir", &["general_swinir_v1.ckpt", "swinir", "swinir.safetensors"]),
    ("vae", &["sd-vae-ft-ema", "vae", "vae.safetensors"]),
    ("dreamclear", &["DreamClear-1024.pth", "dreamclear", "dreamclear.pth", "DreamClear-1024.safetensors"]),
    ("t5", &["t5-v1_1-xxl", "t5", "text_encoder"]),
];

/// The file of a whole pipeline that `convert` writes.
pub const BUNDLE: &str = "dreamclear.safetensors";

/// Files that the user named one by one; the rest is looked for in the weights directory.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// `--swinir`
    pub swinir: Option<PathBuf>,
    /// `--vae`
    pub vae: Option<PathBuf>,
    /// `--dreamclear`
    pub dreamclear: Option<PathBuf>,
    /// `--t5`
    pub t5: Option<PathBuf>,
}

/// Weights of a component with its configuration, not yet a network.
pub struct Raw {
    /// Its tensors as stored.
    pub set: WeightSet,
    /// Its configuration, where there is one.
    pub config: Option<Value>,
    /// The file or directory, for messages and neighbours (tokenizer).
    pub path: PathBuf,
}

/// Where all components are.
pub struct Sources {
    chosen: [Option<PathBuf>; 4],
    directory: PathBuf,
    bundle: Option<Bundle>,
    trained: Option<Trained>,
}

/// A diffusion transformer in memory, and what it is trained with.
pub struct Trained {
    /// Its weights under the official keys.
    pub weights: WeightSet,
    /// Its hyper-parameters under their official names.
    pub config: Value,
    /// The degradation remover's file or directory.
    pub swinir: PathBuf,
    /// The autoencoder's.
    pub vae: PathBuf,
    /// Factor of its latents; `None`: the autoencoder's own.
    pub latent_scale: Option<f64>,
}

impl Sources {
    /// Looks at what there is; opens a bundle if the directory holds one (or is one).
    pub fn new(chosen: &Chosen, weights: &Path) -> Result<Self> {
        let file = if weights.is_file() { weights.to_owned() } else { weights.join(BUNDLE) };
        let bundle = if file.is_file() { Bundle::open(&file)? } else { None };
        if weights.is_file() && bundle.is_none() {
            return Err(Error::file(
                weights,
                "expected a directory of weights or a bundle made by `dreamclear convert`, found one network; name \
                 it by --dreamclear",
            ));
        }
        let chosen = [&chosen.swinir, &chosen.vae, &chosen.dreamclear, &chosen.t5].map(Clone::clone);
        Ok(Sources { chosen, directory: weights.to_owned(), bundle, trained: None })
    }

    /// A diffusion transformer in memory with the frozen networks beside it, and no text encoder.
    pub fn trained(trained: Trained) -> Self {
        let chosen = [Some(trained.swinir.clone()), Some(trained.vae.clone()), None, None];
        Sources { chosen, directory: PathBuf::new(), bundle: None, trained: Some(trained) }
    }

    /// The small networks inside this program, but for what the user chose.
    ///
    /// # Errors
    /// If the program was built with a damaged file.
    pub fn nano(chosen: &Chosen) -> Result<Self> {
        let chosen = [&chosen.swinir, &chosen.vae, &chosen.dreamclear, &chosen.t5].map(Clone::clone);
        Ok(Sources { chosen, directory: PathBuf::new(), bundle: Some(embedded::nano()?), trained: None })
    }

    /// The path of a component, if it lies outside the bundle and is there.
    fn path(&self, component: usize) -> Option<PathBuf> {
        if let Some(path) = &self.chosen[component] {
            return Some(path.clone());
        }
        let (_, names) = COMPONENTS[component];
        names.iter().map(|n| self.directory.join(n)).find(|p| p.exists())
    }

    /// Opens a component as it is stored; `None` if it is nowhere.
    fn raw(&self, component: usize) -> Result<Option<Raw>> {
        let (name, _) = COMPONENTS[component];
        if let (2, Some(Trained { weights, config, .. })) = (component, &self.trained) {
            let (set, path) = (weights.clone(), weights.path().to_owned());
            return Ok(Some(Raw { set, config: Some(config.clone()), path }));
        }
        if self.chosen[component].is_none()
            && let Some(bundle) = &self.bundle
            && let Some((set, config)) = bundle.component(name)
        {
            return Ok(Some(Raw { set, config, path: bundle.path().to_owned() }));
        }
        let Some(path) = self.path(component) else { return Ok(None) };
        let set = WeightSet::open(&path)?;
        let config = load::config_beside(&path).map(|c| load::read_config(&c)).transpose()?;
        Ok(Some(Raw { set, config, path }))
    }

    fn required(&self, component: usize) -> Result<Raw> {
        self.raw(component)?.ok_or_else(|| {
            let (name, names) = COMPONENTS[component];
            Error::Usage(format!(
                "no weights of {name} in {}: expected {} or a bundle {BUNDLE}; get the official set with `dreamclear \
                 fetch dreamclear`, or name the file by --{name} PATH",
                self.directory.display(),
                names[0]
            ))
        })
    }

    /// The degradation remover.
    pub fn swinir(&self) -> Result<Loaded> {
        let raw = self.required(0)?;
        let shapes = load::shapes_of(&raw.set);
        let network = match &raw.config {
            Some(config) => noted(&raw.path, SwinIr::from_config(config, &shapes)?),
            None => SwinIr::infer(&shapes).map_err(|e| Error::file(&raw.path, e.to_string()))?,
        };
        let loaded = load::renamed(Box::new(network), raw.set)?;
        loaded.weights.check_finite()?;
        Ok(loaded)
    }

    /// The autoencoder.
    pub fn vae(&self) -> Result<(AutoencoderKl, WeightSet)> {
        let raw = self.required(1)?;
        let shapes = load::shapes_of(&raw.set);
        let mut vae = match &raw.config {
            Some(config) => noted(&raw.path, AutoencoderKl::from_config(config, &shapes)?),
            None => AutoencoderKl::infer(&shapes).map_err(|e| Error::file(&raw.path, e.to_string()))?,
        };
        if let Some(scale) = self.trained.as_ref().and_then(|t| t.latent_scale) {
            vae.scaling_factor = scale;
        }
        Ok((vae, fitting("vae", raw)?))
    }

    /// The diffusion transformer with its control branches.
    pub fn dreamclear(&self) -> Result<(DreamClear, WeightSet)> {
        let raw = self.required(2)?;
        let (model, ignored) = DreamClear::from_config(raw.config.as_ref(), &load::shapes_of(&raw.set))
            .map_err(|e| Error::file(&raw.path, e.to_string()))?;
        let model = noted(&raw.path, (model, ignored));
        Ok((model, fitting("dreamclear", raw)?))
    }

    /// Whether there is a diffusion transformer, which is what makes a pipeline of the networks.
    pub fn has_denoiser(&self) -> bool {
        self.bundle.as_ref().is_some_and(|b| b.holds("dreamclear")) || self.path(2).is_some()
    }

    /// Whether there is a text encoder.
    pub fn has_t5(&self) -> bool {
        self.bundle.as_ref().is_some_and(|b| b.holds("t5")) || self.path(3).is_some()
    }

    /// The text encoder; it is opened when the first caption asks for it.
    pub fn t5(&self) -> Result<(T5Encoder, WeightSet, T5Tokenizer)> {
        let raw = self.required(3)?;
        let (model, ignored) = T5Encoder::from_config(raw.config.as_ref(), &load::shapes_of(&raw.set))
            .map_err(|e| Error::file(&raw.path, e.to_string()))?;
        let model = noted(&raw.path, (model, ignored));
        let tokenizer = self.tokenizer(&raw.path)?;
        Ok((model, fitting("t5-encoder", raw)?, tokenizer))
    }

    /// The tokenizer in the bundle, or beside the text encoder at `path`.
    fn tokenizer(&self, path: &Path) -> Result<T5Tokenizer> {
        let files = match &self.bundle {
            Some(bundle) if bundle.path() == path => bundle.files("t5"),
            _ => return T5Tokenizer::open(path),
        };
        let read = |(name, bytes): &(String, Vec<u8>)| match name.as_str() {
            "tokenizer.json" => Some(T5Tokenizer::from_json(bytes)),
            "spiece.model" => Some(T5Tokenizer::from_sentencepiece(bytes)),
            _ => None,
        };
        match files.iter().find_map(read) {
            Some(tokenizer) => tokenizer.map_err(|m| Error::file(path, m)),
            None => Err(Error::file(
                path,
                "the bundle holds a text encoder without its tokenizer: convert it again",
            )),
        }
    }

    /// Whether several of the networks are there, one of them the diffusion transformer.
    pub fn is_pipeline(&self) -> bool {
        self.path(2).is_some() && (0..COMPONENTS.len()).filter(|&i| self.path(i).is_some()).count() > 1
    }

    /// Everything that is there, checked, as parts of a bundle; the matrices of the two large
    /// networks in `matrices`, or as they are.
    pub fn parts(&self, matrices: Option<DType>) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for (i, (name, _)) in COMPONENTS.iter().enumerate() {
            let Some(Raw { config, path, .. }) = self.raw(i)? else { continue };
            let weights = match i {
                0 => self.swinir()?.weights,
                1 => self.vae()?.1,
                2 => self.dreamclear()?.1,
                _ => self.t5()?.1,
            };
            let files = if i == 3 { tokenizer_files(&path)? } else { Vec::new() };
            let matrices = matrices.filter(|_| i >= 2);
            parts.push(Part { name: (*name).to_owned(), weights, matrices, config, files });
        }
        Ok(parts)
    }
}

/// The tokenizer beside a text encoder, whichever form it has.
fn tokenizer_files(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let file = T5Tokenizer::find(path)?;
    let bytes = std::fs::read(&file).map_err(|e| Error::io("read", &file, e))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(vec![(name, bytes)])
}

/// Weights under current keys, checked: exactly the network's parameters, all finite.
fn fitting(network: &str, raw: Raw) -> Result<WeightSet> {
    let (_, from_config) = NETWORKS.iter().find(|(n, _)| *n == network).expect("a known network");
    let (network, _): (Box<dyn Network>, _) = from_config(raw.config.as_ref(), &load::shapes_of(&raw.set))?;
    let weights = load::checked(&*network, raw.set)?;
    weights.check_finite()?;
    Ok(weights)
}

fn noted<T>(path: &Path, (network, ignored): (T, Vec<String>)) -> T {
    if !ignored.is_empty() {
        tracing::debug!("{}: ignored, no effect on the forward: {}", path.display(), ignored.join(", "));
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGS: [&str; 3] = [
        include_str!("../../../assets/nano/swinir.json"),
        include_str!("../../../assets/nano/vae.json"),
        include_str!("../../../assets/nano/dreamclear.json"),
    ];

    /// What is inside the program opens, is what the configurations in `assets/nano` say, and is small.
    #[test]
    fn nano_is_whole_and_small() {
        let nano = Sources::nano(&Chosen::default()).unwrap();
        let [swinir, vae, dreamclear] = CONFIGS.map(|text| serde_json::from_str::<Value>(text).unwrap());
        let loaded = nano.swinir().unwrap();
        let (written, _) = SwinIr::from_config(&swinir, &Default::default()).unwrap();
        assert_eq!(loaded.network.config(), crate::models::ImageNetwork::config(&written));
        let inferred = SwinIr::infer(&load::shapes_of(&loaded.weights)).unwrap();
        assert_eq!((inferred.in_chans, inferred.upscale, inferred.unshuffle), (3, 4, true));

        let (written, _) = AutoencoderKl::from_config(&vae, &Default::default()).unwrap();
        assert_eq!(nano.vae().unwrap().0, written);
        let (written, _) = DreamClear::from_config(Some(&dreamclear), &Default::default()).unwrap();
        assert_eq!(nano.dreamclear().unwrap().0, written);

        let count = |name: &str, config: &Value| -> usize {
            let (_, from_config) = NETWORKS.iter().find(|(n, _)| *n == name).unwrap();
            let (network, _) = from_config(Some(config), &Default::default()).unwrap();
            network.parameters().unwrap().values().map(|s| s.iter().product::<usize>()).sum()
        };
        let parameters = count("swinir", &swinir) + count("vae", &vae) + count("dreamclear", &dreamclear);
        // Two bytes each, and the limit is 12 MB.
        assert!(parameters < 5_800_000, "{parameters}");
    }
}
