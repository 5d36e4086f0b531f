//! What every trainer is set to. The shipped files (`settings/*.toml`) say what each value means.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::adamw::AdamW;
use super::schedule::Schedule;
use super::settings::Settings;
use super::step::StepOptions;
use crate::data::dataset::Place;
use crate::data::degrade::Degradation;
use crate::data::degrade::config::{CODEFORMER, REALESRGAN};
use crate::{Error, Result};

/// What a run of any trainer is set to.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Config {
    pub seed: u64,
    pub output: PathBuf,
    pub steps: u64,
    pub batch: usize,
    pub micro_batch: usize,
    pub memory_mib: usize,
    pub data: Data,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    pub validation: Validation,
    pub checkpoint: Checkpoints,
    pub log: Lines,
}

/// Where samples come from.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Data {
    #[serde(default)]
    pub photos: Vec<PathBuf>,
    #[serde(default)]
    pub paired: PathBuf,
    pub crop: usize,
    pub place: Place,
    pub flip: bool,
    pub cache_mib: usize,
    pub workers: usize,
    pub ahead: usize,
}

/// How weights change.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Optimizer {
    pub lr: f64,
    #[serde(default)]
    pub lr_batch: usize,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    pub clip: f64,
    pub ema: f64,
}

/// What is looked at meanwhile.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Validation {
    #[serde(default)]
    pub photos: Vec<PathBuf>,
    #[serde(default)]
    pub paired: PathBuf,
    pub every: u64,
    pub pictures: usize,
    pub show: usize,
}

/// What is kept.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Checkpoints {
    pub every: u64,
    pub keep: usize,
}

/// What is said.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Lines {
    pub every: u64,
}

/// How one update is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batches {
    /// Samples that a process takes at a time.
    pub micro: usize,
    /// How many times it does for one update.
    pub accumulate: usize,
}

impl Config {
    /// Reads the common settings.
    ///
    /// # Errors
    /// `Error::Usage` naming the value that makes no sense.
    pub fn read(settings: &Settings) -> Result<Self> {
        let config: Config = settings.read()?;
        let o = &config.optimizer;
        let checks = [
            (config.steps > 0, "steps: expected at least one update, found 0".to_owned()),
            (config.batch > 0, "batch: expected at least one sample, found 0".to_owned()),
            (
                o.lr > 0.0 && o.lr.is_finite(),
                format!("optimizer.lr: expected a positive number, found {}", o.lr),
            ),
            (
                o.betas.iter().all(|b| (0.0..1.0).contains(b)),
                format!("optimizer.betas: expected two numbers from 0 up to 1, found {:?}", o.betas),
            ),
            (o.eps > 0.0, format!("optimizer.eps: expected a positive number, found {}", o.eps)),
            (
                o.weight_decay >= 0.0,
                format!("optimizer.weight_decay: expected 0 or more, found {}", o.weight_decay),
            ),
            (o.clip >= 0.0, format!("optimizer.clip: expected 0 (none) or more, found {}", o.clip)),
            (
                (0.0..1.0).contains(&o.ema),
                format!("optimizer.ema: expected 0 (none) or a part below 1, found {}", o.ema),
            ),
            (config.data.crop > 0, "data.crop: expected at least one pixel, found 0".to_owned()),
        ];
        if let Some((_, message)) = checks.into_iter().find(|(good, _)| !good) {
            return Err(Error::Usage(message));
        }
        config.schedule.check(config.steps)?;
        Ok(config)
    }

    /// The learning rate of update `step` (from 0).
    pub fn rate(&self, step: u64) -> f64 {
        let o = &self.optimizer;
        let scale = match o.lr_batch {
            0 => 1.0,
            n => (self.batch as f64 / n as f64).sqrt(),
        };
        o.lr * scale * self.schedule.factor(step, self.steps)
    }

    /// How `world` processes share a batch.
    ///
    /// # Errors
    /// `Error::Usage` if it cannot be shared out evenly.
    pub fn batches(&self, world: usize) -> Result<Batches> {
        let share = self.batch / world;
        let micro = if self.micro_batch == 0 { share } else { self.micro_batch };
        if micro == 0 || !self.batch.is_multiple_of(world * micro) {
            return Err(Error::Usage(format!(
                "batch: {} samples cannot be shared out to {world} process(es) in micro-batches of {}; expected a \
                 multiple of the two",
                self.batch,
                micro.max(1)
            )));
        }
        Ok(Batches { micro, accumulate: self.batch / (world * micro) })
    }

    /// The options of a step over such batches.
    pub fn step_options(&self, batches: Batches) -> StepOptions {
        let o = &self.optimizer;
        let given = |x: f64| (x > 0.0).then_some(x);
        StepOptions {
            batch: batches.micro,
            accumulate: batches.accumulate,
            optimizer: AdamW { betas: o.betas, eps: o.eps, decay: o.weight_decay },
            clip: given(o.clip),
            ema: given(o.ema),
            memory_budget: (self.memory_mib > 0).then_some(self.memory_mib << 20),
            ..StepOptions::default()
        }
    }
}

/// `[model]`: which network, and what it begins with.
#[derive(Clone, Debug, Deserialize)]
pub struct Model {
    /// A JSON file of hyper-parameters; empty for those of `[model.network]`.
    pub config: PathBuf,
    /// Weights to begin with; empty for the official initialisation.
    pub weights: PathBuf,
}

/// `[model]`, and the network's hyper-parameters under their official names.
///
/// # Errors
/// If the JSON file cannot be read.
pub fn model(settings: &Settings) -> Result<(Model, Value)> {
    #[derive(Deserialize)]
    struct Section {
        model: Model,
    }
    let model = settings.read::<Section>()?.model;
    let json = if model.config.as_os_str().is_empty() {
        serde_json::to_value(settings.foreign("model.network")).expect("TOML without dates is JSON")
    } else {
        crate::models::load::read_config(&model.config)?
    };
    Ok((model, json))
}

/// `[degradation]` over the shipped settings of its kind.
///
/// # Errors
/// `Error::Usage` naming the key that is wrong.
pub fn degradation(settings: &Settings) -> Result<Degradation> {
    let table = settings.foreign("degradation");
    let kind = table.get("kind").and_then(toml::Value::as_str).unwrap_or_default();
    let shipped = match kind {
        "realesrgan" => REALESRGAN,
        "codeformer" => CODEFORMER,
        other => {
            return Err(Error::Usage(format!(
                "degradation.kind: expected \"realesrgan\" or \"codeformer\", found \"{other}\""
            )));
        }
    };
    let mut whole = Settings::shipped(shipped);
    whole.merge_table(table).map_err(|message| Error::Usage(format!("degradation: {message}")))?;
    Degradation::from_toml(&whole.to_toml())
}
