//! From a weight file (and a configuration, where there is one) to a network.

use std::path::{Path, PathBuf};

use super::network::Network;
use super::{ImageNetwork, Shapes};
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::weights::WeightSet;

/// A network with its weights under current official keys.
pub struct Loaded {
    /// The architecture with its hyper-parameters.
    pub network: Box<dyn ImageNetwork>,
    /// Its tensors.
    pub weights: WeightSet,
}

impl Loaded {
    /// Strict: every parameter of the graph is there in its shape, and nothing else but buffers
    /// that are recomputed.
    pub fn check(&self, graph: &Graph) -> Result<()> {
        let shapes = graph.param_shapes();
        let expected = shapes.iter().map(|(k, s)| (k.as_str(), s.as_slice()));
        self.weights.check(expected, |key| self.network.ignores(key))
    }

    /// Elements of all parameters.
    pub fn parameters(&self) -> usize {
        self.weights.iter().filter(|(k, _)| !self.network.ignores(k)).map(|(_, t)| t.len()).sum()
    }
}

/// Opens weights and builds the network `architecture`; hyper-parameters come from `config` or,
/// without one, from the shapes of the weights.
pub fn network(architecture: &str, config: Option<&Path>, weights: &Path) -> Result<Loaded> {
    let set = WeightSet::open(weights)?;
    let shapes = shapes_of(&set);
    let network = match config {
        None => {
            let network = super::infer(&shapes)?;
            if network.architecture() != architecture {
                let found = network.architecture();
                return Err(Error::file(
                    weights,
                    format!("expected weights of {architecture}, found {found}"),
                ));
            }
            network
        }
        Some(path) => {
            let json = read_config(path)?;
            let (network, ignored) = super::from_config(architecture, &json, &shapes)?;
            if !ignored.is_empty() {
                tracing::info!(
                    "{}: ignored, no effect on the forward: {}",
                    path.display(),
                    ignored.join(", ")
                );
            }
            network
        }
    };
    renamed(network, set)
}

/// Opens weights of any known image network. What shapes do not say (`global_residual` of SwinIR) comes from
/// NAME.json beside them, as `train` writes it; another network's `config.json` in the directory is left alone.
pub fn any(weights: &Path) -> Result<Loaded> {
    let set = WeightSet::open(weights)?;
    let inferred = super::infer(&shapes_of(&set)).map_err(|e| Error::file(weights, e.to_string()))?;
    let own = weights.with_extension("json");
    if own.is_file() { network(inferred.architecture(), Some(&own), weights) } else { renamed(inferred, set) }
}

pub(crate) fn renamed(network: Box<dyn ImageNetwork>, set: WeightSet) -> Result<Loaded> {
    let weights = set.renamed(|key| Some(network.rename(key)))?;
    Ok(Loaded { network, weights })
}

pub(crate) fn shapes_of(set: &WeightSet) -> Shapes {
    set.iter().map(|(k, t)| (k.to_owned(), t.shape().to_vec())).collect()
}

/// A network under the general interface with its weights, adapted and checked.
#[derive(Debug)]
pub struct Opened {
    /// The network with its hyper-parameters.
    pub network: Box<dyn Network>,
    /// Its tensors under current official keys.
    pub weights: WeightSet,
}

/// Opens weights of the network that `model` names in [`super::NETWORKS`]; hyper-parameters come
/// from `config`, from a configuration beside the weights ([`config_beside`]), or from the weights' shapes.
///
/// # Errors
/// One that lists every missing, unexpected and mis-shaped key.
pub fn open(model: &str, config: Option<&Path>, weights: &Path) -> Result<Opened> {
    let beside = config_beside(weights);
    fit(model, config.or(beside.as_deref()), WeightSet::open(weights)?)
}

/// [`open`] for tensors that are already there.
pub fn fit(model: &str, config: Option<&Path>, set: WeightSet) -> Result<Opened> {
    let json = config.map(read_config).transpose()?;
    let (opened, ignored) = fit_config(model, json.as_ref(), set)?;
    if let (Some(path), false) = (config, ignored.is_empty()) {
        tracing::info!("{}: ignored, no effect on the forward: {}", path.display(), ignored.join(", "));
    }
    Ok(opened)
}

/// [`fit`] with hyper-parameters at hand; and their keys that have no effect on the forward.
pub fn fit_config(
    model: &str,
    config: Option<&serde_json::Value>,
    set: WeightSet,
) -> Result<(Opened, Vec<String>)> {
    let Some((_, from_config)) = super::NETWORKS.iter().find(|(name, _)| *name == model) else {
        let known: Vec<_> = super::NETWORKS.iter().map(|(name, _)| *name).collect();
        return Err(Error::Usage(format!(
            "there is no network \"{model}\"; expected one of {}",
            known.join(", ")
        )));
    };
    let (network, ignored) = from_config(config, &shapes_of(&set))?;
    let weights = checked(&*network, set)?;
    Ok((Opened { network, weights }, ignored))
}

/// Weights adapted to a network, and whether they are exactly its parameters.
///
/// # Errors
/// One that lists every missing, unexpected and mis-shaped key.
pub fn checked(network: &dyn Network, set: WeightSet) -> Result<WeightSet> {
    let weights = network.adapt(set)?;
    let parameters = network.parameters()?;
    let expected = parameters.iter().map(|(k, s)| (k.as_str(), s.as_slice()));
    weights.check(expected, |key| network.ignores(key))?;
    Ok(weights)
}

/// The configuration of weights at `path`: `NAME.json` beside a file, else `config.json` in the
/// same directory, if there is one.
pub fn config_beside(path: &Path) -> Option<PathBuf> {
    let directory = if path.is_dir() { path } else { path.parent()? };
    let own = path.is_file().then(|| path.with_extension("json"));
    own.into_iter().chain([directory.join("config.json")]).find(|p| p.is_file())
}

/// A configuration file as JSON.
pub(crate) fn read_config(path: &Path) -> Result<serde_json::Value> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::file(path, format!("expected a JSON object of hyper-parameters: {e}")))
}

/// `inspect --strict MODEL`: whether a file holds exactly the parameters of a network.
pub fn strict_by_name(model: &str, set: &WeightSet) -> Result<()> {
    fit(model, config_beside(set.path()).as_deref(), set.clone()).map(drop)
}
