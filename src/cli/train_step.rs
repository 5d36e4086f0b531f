//! `dreamclear train-step`: one optimiser step, for numerical parity of training.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::DeviceArgs;
use crate::error::{Error, Result};
use crate::models::controlformer::DreamClear;
use crate::models::denoiser::{self, Call};
use crate::models::network::Given;
use crate::models::swinir::SwinIr;
use crate::models::vae::AutoencoderKl;
use crate::models::{ImageNetwork, load};
use crate::tensor::{DType, HostTensor};
use crate::train::adamw::AdamW;
use crate::train::objective::{Distance, Reduction};
use crate::train::objectives::autoencoder::AutoencoderObjective;
use crate::train::objectives::dreamclear::{CrossDeScope, DreamClearObjective};
use crate::train::objectives::swinir::SwinIrObjective;
use crate::train::{Objective, StepOptions, TrainStep};
use crate::weights::{WeightSet, safetensors};

/// Run one training step of one network on named tensors, for numerical parity with any other implementation.
///
/// Example: dreamclear train-step --model swinir --config swinir.json --weights w.safetensors --input in.safetensors
/// --output grads.safetensors --step-output step.safetensors
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The network: swinir, vae or dreamclear.
    #[arg(long)]
    pub model: String,
    /// Its hyper-parameters under their official names (JSON), and `lr`, `weight_decay`, `eps`, `betas`,
    /// `grad_clip`; for swinir `loss` (l1 or mse) and `reduction` (mean or sum), for vae `kl_weight`, for
    /// dreamclear `cross_de_scope` (batch or sample) and `train_base`.
    #[arg(long, value_name = "C.json")]
    pub config: PathBuf,
    /// Its weights in any official container.
    #[arg(long, value_name = "PATH")]
    pub weights: PathBuf,
    /// The batch: swinir `x` and `target` [B, C, H, W] in 0..1 and, for stochastic depth, `drop_path`
    /// [B, 2 · blocks], what the residual branches are multiplied by, attention and MLP of each block in turn; vae `x` (or `sample`) in -1..1 and `noise`, of a
    /// latent's shape; dreamclear `x_start`, `noise`, `timestep`, `y`, `mask`, `c_lq`, `c_pre`, `img_hw`,
    /// `aspect_ratio` and, to drop captions, `drop`, a one or a zero a sample.
    #[arg(long, value_name = "IN.safetensors")]
    pub input: PathBuf,
    /// Where `out.*` (the loss and its terms), `grad.KEY` of every trainable parameter and `grad_norm` go.
    #[arg(long, value_name = "GRADS.safetensors")]
    pub output: PathBuf,
    /// Where `step.KEY` = (new - old) / lr of every trained parameter goes.
    #[arg(long, value_name = "STEP.safetensors")]
    pub step_output: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
}

/// What a configuration says about training; the rest is the network's.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Training {
    lr: f64,
    weight_decay: f64,
    eps: f64,
    betas: [f64; 2],
    grad_clip: Option<f64>,
    loss: Distance,
    reduction: Reduction,
    kl_weight: f64,
    cross_de_scope: CrossDeScope,
    train_base: bool,
}

impl Default for Training {
    fn default() -> Self {
        let AdamW { betas, eps, decay } = AdamW::default();
        Training {
            lr: 1e-4,
            weight_decay: decay,
            eps,
            betas,
            grad_clip: None,
            loss: Distance::L1,
            reduction: Reduction::Mean,
            kl_weight: 1e-6,
            cross_de_scope: CrossDeScope::Batch,
            train_base: false,
        }
    }
}

const KEYS: [&str; 10] = [
    "lr",
    "weight_decay",
    "eps",
    "betas",
    "grad_clip",
    "loss",
    "reduction",
    "kl_weight",
    "cross_de_scope",
    "train_base",
];

/// A configuration's two parts.
fn split(path: &Path) -> Result<(Training, Value)> {
    let Value::Object(config) = load::read_config(path)? else {
        return Err(Error::file(path, "expected a JSON object of hyper-parameters"));
    };
    let (training, network): (Map<_, _>, Map<_, _>) =
        config.into_iter().partition(|(key, _)| KEYS.contains(&key.as_str()));
    let training: Training = serde_json::from_value(Value::Object(training))
        .map_err(|e| Error::file(path, format!("what it says about training is wrong: {e}")))?;
    if !(training.lr > 0.0) {
        return Err(Error::file(path, format!("lr must be above 0, found {}", training.lr)));
    }
    Ok((training, Value::Object(network)))
}

/// An objective, its weights under current official keys, and one batch.
struct Work {
    objective: Box<dyn Objective>,
    weights: WeightSet,
    batch: usize,
    inputs: Vec<(&'static str, HostTensor)>,
}

/// Runs the step.
pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let (training, config) = split(&args.config)?;
    let weights = WeightSet::open(&args.weights)?;
    let given = Given::open(&args.input)?;
    let work = match args.model.as_str() {
        "swinir" => swinir(&training, &config, weights, &given)?,
        "vae" => vae(&training, &config, weights, &given)?,
        "dreamclear" => dreamclear(&training, &config, weights, given)?,
        other => {
            return Err(Error::Usage(format!(
                "train-step has no network \"{other}\"; expected swinir, vae or dreamclear"
            )));
        }
    };
    let optimizer = AdamW { betas: training.betas, eps: training.eps, decay: training.weight_decay };
    let options =
        StepOptions { batch: work.batch, optimizer, clip: training.grad_clip, ..StepOptions::default() };
    let mut step = TrainStep::new(&*work.objective, &device, &work.weights, options)?;
    let terms = step.accumulate(&work.inputs)?;
    let mut results = vec![("out.loss".to_owned(), number(terms.loss))];
    results.extend(terms.terms.iter().map(|(name, x)| (format!("out.{name}"), number(*x))));
    results.extend(step.gradients()?);
    let before = step.parameters()?;
    let update = step.update(training.lr)?;
    results.push(("grad_norm".to_owned(), number(update.grad_norm)));
    write(&args.output, &results)?;
    if update.skipped {
        step.check(&work.inputs)?;
        return Err(Error::Run(format!("the norm of the gradients is {}", update.grad_norm)));
    }
    let Some(path) = &args.step_output else { return Ok(()) };
    let trained = step.trained();
    let after = step.parameters()?;
    let moved = before.iter().zip(&after).filter(|((key, _), _)| trained.contains(&key.as_str()));
    let steps: Vec<_> = moved
        .map(|((key, old), (_, new))| {
            let way =
                old.to_f32().iter().zip(new.to_f32().iter()).map(|(o, n)| way(*o, *n, training.lr)).collect();
            (format!("step.{key}"), HostTensor::from_f32(old.shape(), way))
        })
        .collect();
    write(path, &steps)
}

/// (new − old) / lr.
fn way(old: f32, new: f32, lr: f64) -> f32 {
    (f64::from(new - old) / lr) as f32
}

fn number(x: f64) -> HostTensor {
    HostTensor::from_f32([], vec![x as f32])
}

fn write(path: &Path, tensors: &[(String, HostTensor)]) -> Result<()> {
    safetensors::write(path, tensors.iter().map(|(n, t)| (n.as_str(), t)), &Default::default(), None)
}

fn swinir(training: &Training, config: &Value, weights: WeightSet, given: &Given) -> Result<Work> {
    given.uses(&["x", "target", "drop_path"]);
    let (network, _) = SwinIr::from_config(config, &load::shapes_of(&weights))?;
    let (x, [batch, _, h, w]) = given.shaped("x", "[B, C, H, W]")?;
    let target = given.get("target")?;
    let weights = weights.renamed(|key| (!network.ignores(key)).then(|| network.rename(key)))?;
    let mut objective = SwinIrObjective::new(network, [h, w], training.loss, training.reduction);
    let mut inputs = vec![("x", x.clone()), ("target", target.clone())];
    if let Some(factors) = given.optional("drop_path") {
        objective.drop_path = true;
        inputs.push(("drop_path", factors.clone()));
    }
    Ok(Work { objective: Box::new(objective), weights, batch, inputs })
}

fn vae(training: &Training, config: &Value, weights: WeightSet, given: &Given) -> Result<Work> {
    given.uses(&["x", "sample", "noise"]);
    let network = AutoencoderKl::from_config(config, &load::shapes_of(&weights))?.0;
    let (opened, _) = load::fit_config("vae", Some(config), weights)?;
    let name = if given.optional("sample").is_some() { "sample" } else { "x" };
    let (x, [batch, _, h, w]) = given.shaped(name, "[B, C, H, W]")?;
    let objective = AutoencoderObjective { network, size: [h, w], kl_weight: training.kl_weight };
    let inputs = vec![("x", x.clone()), ("noise", given.get("noise")?.clone())];
    Ok(Work { objective: Box::new(objective), weights: opened.weights, batch, inputs })
}

fn dreamclear(training: &Training, config: &Value, weights: WeightSet, given: Given) -> Result<Work> {
    let names =
        ["x_start", "noise", "timestep", "y", "mask", "c_lq", "c_pre", "img_hw", "aspect_ratio", "drop"];
    given.uses(&names);
    let network = DreamClear::from_config(Some(config), &load::shapes_of(&weights))?.0;
    let (opened, _) = load::fit_config("dreamclear", Some(config), weights)?;
    let given = given.renamed("x_start", "x");
    let call = Call::read(&network.base, &given, true)?;
    let tensors: std::collections::BTreeMap<_, _> = call.tensors().into_iter().collect();
    let [batch, _, h, w] = call.x.shape()[..] else { unreachable!("checked when read") };
    let timesteps = tensors["timestep"].to_f64();
    if let Some(t) = timesteps.iter().find(|t| t.fract() != 0.0 || !(0.0..1000.0).contains(*t)) {
        return Err(given.error(format!("\"timestep\" must hold whole numbers from 0 to 999, found {t}")));
    }
    let timesteps: Vec<i64> = timesteps.into_iter().map(|t| t as i64).collect();
    let latent = |name: &str| denoiser::latent(&network.base, &given, name);
    let y = &tensors["y"];
    let mut inputs = vec![
        ("x_start", call.x.clone()),
        ("noise", latent("noise")?),
        ("timestep", HostTensor::from_i64([batch], timesteps.repeat(batch / timesteps.len()))),
        ("c_lq", latent("c_lq")?),
        ("c_pre", latent("c_pre")?),
        ("y", y.clone()),
        ("lengths", tensors["lengths"].clone()),
        ("img_hw", rows(&tensors["img_hw"], batch)),
        ("aspect_ratio", rows(&tensors["aspect_ratio"], batch)),
    ];
    let class_dropout = given.optional("drop").is_some();
    if class_dropout {
        inputs.push(("drop", given.get("drop")?.cast(DType::F32)));
    }
    let objective = DreamClearObjective {
        size: [h, w],
        tokens: y.shape()[1],
        class_dropout,
        scope: training.cross_de_scope,
        train_base: training.train_base,
        network,
    };
    Ok(Work { objective: Box::new(objective), weights: opened.weights, batch, inputs })
}

/// One row for all as a row for each.
fn rows(t: &HostTensor, batch: usize) -> HostTensor {
    let [rows, columns] = t.shape()[..] else { unreachable!("rows of numbers, found {t:?}") };
    HostTensor::from_f32([batch, columns], t.to_f32().repeat(batch / rows))
}
