//! Which model `dreamclear restore` runs, and opening it.

use std::path::{Path, PathBuf};

use super::restore_dreamclear::MODEL as DREAMCLEAR;
use crate::error::{Error, Result};
use crate::models::load::{self, Loaded};
use crate::pipelines::dreamclear::components::{Chosen, Sources};
use crate::weights::bundle::Bundle;
use crate::weights::embedded::{NANO, NANO_DIFFUSION};
use crate::weights::hub;

/// What restores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Model {
    /// The whole pipeline, with published weights.
    DreamClear,
    /// The small degradation remover inside this program.
    Nano,
    /// The whole small pipeline inside this program.
    NanoDiffusion,
    /// One network: its name, or the file that holds it.
    Network(String),
}

impl Model {
    /// What `--model` and `--weights` ask for. Without `--model`: the whole pipeline if the weights
    /// directory has it, or if `own` names an option that nothing else has; else what is inside this
    /// program; or the one network of a given file.
    ///
    /// # Errors
    /// If a weights directory is given that has no pipeline, so that a name is needed; if the model has no use
    /// for `own`.
    pub fn choose(model: Option<&str>, weights: Option<&Path>, own: Option<&str>) -> Result<Self> {
        let chosen = match (model, weights) {
            (Some(DREAMCLEAR), _) => Model::DreamClear,
            (Some(NANO), None) => Model::Nano,
            (Some(NANO_DIFFUSION), None) => Model::NanoDiffusion,
            (Some(name @ (NANO | NANO_DIFFUSION)), Some(path)) => {
                return Err(Error::Usage(format!(
                    "--model {name} is inside this program; --weights {} is for the other models",
                    path.display()
                )));
            }
            (Some(name), _) => Model::Network(name.to_owned()),
            (None, Some(path)) if path.is_file() => Self::of_file(path),
            (None, Some(path)) if own.is_some() || has_denoiser(path) => Model::DreamClear,
            (None, Some(path)) => {
                return Err(Error::Usage(format!(
                    "there is no whole DreamClear in {}; name the network in it by --model",
                    path.display()
                )));
            }
            (None, None) => {
                let whole = own.is_some() || hub::cache_dir().is_ok_and(|cache| has_denoiser(&cache));
                let model = if whole { Model::DreamClear } else { Model::Nano };
                tracing::info!("restoring with {}", model.name());
                model
            }
        };
        match own {
            Some(option) if !chosen.is_pipeline() => Err(Error::Usage(format!(
                "{option} is for a whole pipeline, --model {DREAMCLEAR} or {NANO_DIFFUSION}; {} has no use for it",
                chosen.name()
            ))),
            _ => Ok(chosen),
        }
    }

    /// A file without a name: a bundle, or one network.
    fn of_file(path: &Path) -> Self {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if has_denoiser(path) { Model::DreamClear } else { Model::Network(stem) }
    }

    /// Whether it is a whole pipeline rather than one network.
    pub fn is_pipeline(&self) -> bool {
        matches!(self, Model::DreamClear | Model::NanoDiffusion)
    }

    /// Its name in messages and reports.
    pub fn name(&self) -> &str {
        match self {
            Model::DreamClear => DREAMCLEAR,
            Model::Nano => NANO,
            Model::NanoDiffusion => NANO_DIFFUSION,
            Model::Network(name) => name,
        }
    }

    /// Opens the network of a model that is one.
    ///
    /// # Errors
    /// If its weights are missing or do not fit.
    pub fn open(&self, weights: Option<&Path>, config: Option<&Path>) -> Result<Loaded> {
        if *self == Model::Nano {
            return match config {
                None => Sources::nano(&Chosen::default())?.swinir(),
                Some(path) => Err(Error::Usage(format!(
                    "--config {} is for weight files; {NANO} has its configuration with it",
                    path.display()
                ))),
            };
        }
        let path = find_weights(self.name(), weights)?;
        match config {
            // A bundle without a diffusion transformer, as `tools/nano/bundle` writes first: its degradation remover.
            None if Bundle::open(&path)?.is_some() => Sources::new(&Chosen::default(), &path)?.swinir(),
            None => load::any(&path),
            Some(config) => {
                let found = load::any(&path).map(|m| m.network.architecture());
                // A configuration may be what makes the file readable at all (SRVGG without slopes).
                load::network(found.unwrap_or("srvgg"), Some(config), &path)
            }
        }
    }
}

/// Whether a directory or file holds DreamClear's diffusion transformer.
fn has_denoiser(weights: &Path) -> bool {
    Sources::new(&Chosen::default(), weights).is_ok_and(|sources| sources.has_denoiser())
}

/// The weight file of a model: a path as it is, else NAME with any extension in the directory.
fn find_weights(model: &str, weights: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = weights
        && path.is_file()
    {
        return Ok(path.to_owned());
    }
    let direct = Path::new(model);
    if weights.is_none() && direct.exists() && (direct.is_file() || model.contains('/')) {
        return Ok(direct.to_owned());
    }
    let directory = match weights {
        Some(path) => path.to_owned(),
        None => hub::cache_dir()?,
    };
    hub::cached(&directory, model).ok_or_else(|| {
        Error::Usage(format!(
            "no weights of \"{model}\" in {}; get them with `tools/fetch-weights {model}` (needs pip) or \
             `dreamclear fetch {model}` (needs internet access), or give --weights FILE; \
             --model {NANO} needs none",
            directory.display()
        ))
    })
}
