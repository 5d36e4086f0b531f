//! A network as `forward` calls it: named tensors in, named tensors out.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{ImageNetwork, Shapes};
use crate::error::{Error, Result};
use crate::graph::{Graph, Outputs};
use crate::tensor::HostTensor;
use crate::weights::WeightSet;

/// Runs a graph on named inputs with the network's weights. A network may ask for several runs
/// (tiles, the two halves of a guided step).
pub type Run<'a> = dyn FnMut(Graph, &[(&str, HostTensor)]) -> Result<Outputs> + 'a;

/// Reads a network from its official configuration (`None`: infer everything from the shapes of
/// the weights); the second part of the result is the configuration's keys that do not change
/// the forward.
pub type FromConfig = fn(Option<&Value>, &Shapes) -> Result<(Box<dyn Network>, Vec<String>)>;

/// A network whose inputs and outputs have the names of its official forward.
pub trait Network: fmt::Debug + Send + Sync {
    /// The name on the command line.
    fn architecture(&self) -> &'static str;

    /// Weights of any vintage under the current official keys and in the shapes of
    /// [`Network::parameters`]: renames, joins and reshapes.
    fn adapt(&self, weights: WeightSet) -> Result<WeightSet> {
        Ok(weights)
    }

    /// Whether a key in a file is a buffer that is recomputed or not used, not a parameter.
    fn ignores(&self, _key: &str) -> bool {
        false
    }

    /// Every parameter with its shape.
    fn parameters(&self) -> Result<BTreeMap<String, Vec<usize>>>;

    /// Runs the network on `given` and names the results.
    fn forward(&self, given: &Given, run: &mut Run) -> Result<Outputs>;
}

/// Named tensors that a caller gave, and where they came from (for error messages).
#[derive(Debug)]
pub struct Given {
    tensors: BTreeMap<String, HostTensor>,
    path: PathBuf,
}

impl Given {
    /// All tensors of a file.
    pub fn open(path: &Path) -> Result<Self> {
        let set = WeightSet::open(path)?;
        let tensors = set.iter().map(|(n, t)| (n.to_owned(), t.clone())).collect();
        Ok(Given { tensors, path: path.to_owned() })
    }

    /// From tensors in memory.
    pub fn from_tensors(tensors: impl IntoIterator<Item = (String, HostTensor)>) -> Self {
        Given { tensors: tensors.into_iter().collect(), path: PathBuf::from("memory") }
    }

    /// The same with one tensor under another name, as a forward has it that knows no training.
    pub fn renamed(mut self, from: &str, to: &str) -> Self {
        if let Some(tensor) = self.tensors.remove(from) {
            self.tensors.insert(to.to_owned(), tensor);
        }
        self
    }

    /// The tensor of that name, if it was given.
    pub fn optional(&self, name: &str) -> Option<&HostTensor> {
        self.tensors.get(name)
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// If it is missing; says what was given.
    pub fn get(&self, name: &str) -> Result<&HostTensor> {
        self.optional(name).ok_or_else(|| {
            let names: Vec<_> = self.tensors.keys().map(String::as_str).collect();
            self.error(format!("expected a tensor \"{name}\", found {}", names.join(", ")))
        })
    }

    /// The tensor of that name, which must have `N` axes; `layout` names them in the error
    /// (`[B, C, H, W]`).
    pub fn shaped<const N: usize>(&self, name: &str, layout: &str) -> Result<(&HostTensor, [usize; N])> {
        let t = self.get(name)?;
        let shape = t
            .shape()
            .try_into()
            .map_err(|_| self.error(format!("\"{name}\" must be {layout}, found {:?}", t.shape())))?;
        Ok((t, shape))
    }

    /// An error that names the file.
    pub fn error(&self, message: String) -> Error {
        Error::file(&self.path, message)
    }

    /// Notes on stderr the tensors that the network does not look at.
    pub fn uses(&self, known: &[&str]) {
        let unused: Vec<_> = self.tensors.keys().map(String::as_str).filter(|k| !known.contains(k)).collect();
        if !unused.is_empty() {
            tracing::info!("{}: not used: {}", self.path.display(), unused.join(", "));
        }
    }
}

/// A picture network under the general interface: `x` in, `out` out, both `[B, C, H, W]`.
#[derive(Debug)]
struct Picture(Box<dyn ImageNetwork>);

/// [`FromConfig`] of a picture network.
pub(super) fn picture(
    architecture: &str,
    config: Option<&Value>,
    shapes: &Shapes,
) -> Result<(Box<dyn Network>, Vec<String>)> {
    let (network, ignored) = match config {
        Some(config) => super::from_config(architecture, config, shapes)?,
        None => (super::infer(shapes)?, Vec::new()),
    };
    let found = network.architecture();
    if found != architecture {
        return Err(Error::Weights(format!("expected weights of {architecture}, found {found}")));
    }
    Ok((Box::new(Picture(network)), ignored))
}

impl Network for Picture {
    fn architecture(&self) -> &'static str {
        self.0.architecture()
    }

    fn adapt(&self, weights: WeightSet) -> Result<WeightSet> {
        weights.renamed(|key| Some(self.0.rename(key)))
    }

    fn ignores(&self, key: &str) -> bool {
        self.0.ignores(key)
    }

    fn parameters(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        // Any size shows all parameters; a learned position embedding fixes the size, though.
        let side = self.0.fixed_side().unwrap_or(8 * self.0.multiple());
        Ok(self.0.graph(1, side, side, false)?.param_shapes().into_iter().collect())
    }

    fn forward(&self, given: &Given, run: &mut Run) -> Result<Outputs> {
        given.uses(&["x"]);
        let (x, [batch, channels, height, width]) = given.shaped("x", "[B, C, H, W]")?;
        if channels != self.0.channels() {
            let wanted = self.0.channels();
            return Err(given.error(format!("\"x\" must have {wanted} channels, found {channels}")));
        }
        run(self.0.graph(batch, height, width, true)?, &[("x", x.clone())])
    }
}
