//! From a weight file (and a configuration, where there is one) to a network.

use std::path::Path;

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
            let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
            let json = serde_json::from_str(&text)
                .map_err(|e| Error::file(path, format!("expected a JSON object of hyper-parameters: {e}")))?;
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

/// Opens weights of any known image network.
pub fn any(weights: &Path) -> Result<Loaded> {
    let set = WeightSet::open(weights)?;
    let network = super::infer(&shapes_of(&set)).map_err(|e| Error::file(weights, e.to_string()))?;
    renamed(network, set)
}

fn renamed(network: Box<dyn ImageNetwork>, set: WeightSet) -> Result<Loaded> {
    let weights = set.renamed(|key| Some(network.rename(key)))?;
    Ok(Loaded { network, weights })
}

fn shapes_of(set: &WeightSet) -> Shapes {
    set.iter().map(|(k, t)| (k.to_owned(), t.shape().to_vec())).collect()
}

/// `inspect --strict MODEL`: whether a file holds exactly the parameters of an architecture.
pub fn strict_by_name(model: &str, set: &WeightSet) -> Result<()> {
    if !super::ARCHITECTURES.contains(&model) {
        let known = super::ARCHITECTURES.join(", ");
        return Err(Error::Usage(format!("--strict {model}: expected one of {known}")));
    }
    let network = super::infer(&shapes_of(set))?;
    if network.architecture() != model {
        let found = network.architecture();
        return Err(Error::file(set.path(), format!("expected weights of {model}, found {found}")));
    }
    let loaded = renamed(network, set.clone())?;
    // Any size shows all parameters; a learned position embedding fixes the size, though.
    let side = match loaded.weights.get("absolute_pos_embed") {
        Some(t) => t.shape().get(1).map_or(64, |&n| (n as f64).sqrt() as usize),
        None => 8 * loaded.network.multiple(),
    };
    loaded.check(&loaded.network.graph(1, side, side, false)?)
}
