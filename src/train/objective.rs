//! What is trained: a network with its loss.

use std::fmt;

use crate::error::Result;
use crate::graph::{GraphBuilder, ValueId};
use crate::models::Shapes;

/// A network with its loss, as a graph over one batch.
///
/// Keys are the official ones of the network, so what is trained can be used wherever its weights can.
pub trait Objective: fmt::Debug + Send + Sync {
    /// Every parameter with its shape, whether it is trained or not.
    ///
    /// # Errors
    /// If the network cannot be recorded.
    fn parameters(&self) -> Result<Shapes>;

    /// Whether a parameter is trained. The others stay as they are, and no memory is kept for their gradients.
    fn trainable(&self, _key: &str) -> bool {
        true
    }

    /// Whether a parameter is of the network that is trained, and so is exported. The others serve the loss alone.
    fn of_network(&self, _key: &str) -> bool {
        true
    }

    /// Declares the inputs of a batch of so many samples and records network and loss. A parameter that is not
    /// trained, but that each batch changes (a running mean), has its new value as an output `next.KEY`.
    ///
    /// # Errors
    /// If the samples' sizes do not fit the network.
    fn record(&self, b: &mut GraphBuilder, batch: usize) -> Result<Recorded>;
}

/// What an objective records.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The loss, f32 `[]`: what is minimised.
    pub loss: ValueId,
    /// What it consists of, and other numbers worth watching, f32 `[]` each: `mse`, `vb`, `l1`, `kl`.
    pub terms: Vec<(&'static str, ValueId)>,
}

/// How far two tensors are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// |x − y|
    #[serde(alias = "L1")]
    L1,
    /// (x − y)²
    #[serde(alias = "l2", alias = "MSE", alias = "L2")]
    Mse,
}

/// How the elements of a batch become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum, as DiffBIR trains SwinIR: the gradient grows with batch and picture.
    Sum,
}

impl Distance {
    /// The name of the term.
    pub fn name(self) -> &'static str {
        match self {
            Distance::L1 => "l1",
            Distance::Mse => "mse",
        }
    }

    /// The distance of `x` from `y`, as one number.
    ///
    /// # Errors
    /// If their shapes differ.
    pub fn record(
        self,
        b: &mut GraphBuilder,
        x: ValueId,
        y: ValueId,
        reduction: Reduction,
    ) -> Result<ValueId> {
        let d = b.sub(x, y)?;
        let d = match self {
            Distance::L1 => b.abs(d)?,
            Distance::Mse => b.mul(d, d)?,
        };
        let axes: Vec<usize> = (0..b.shape(d).len()).collect();
        match reduction {
            Reduction::Mean => b.mean(d, &axes, false),
            Reduction::Sum => b.sum(d, &axes, false),
        }
    }
}
