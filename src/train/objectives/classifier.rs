//! The classifier of quality as it is trained: binary cross-entropy of one logit (GenIR filters what it has
//! synthesised by it; the paper says no more than that it is binary).

use crate::error::{Error, Result};
use crate::graph::{GraphBuilder, ValueId};
use crate::models::Shapes;
use crate::models::network::Network;
use crate::models::resnet::{ResNet, Statistics, is_running, normalised};
use crate::tensor::DType;
use crate::train::objective::{Objective, Recorded};

/// From here on a logit's exponential is not taken: ln(1 + eᶻ) is z.
const LARGE: f32 = 60.0;

/// Inputs of a batch: `x`, pictures, f32 `[B, 3, H, W]` in 0..1, and `label`, f32 `[B]`: 1 for a picture as good as
/// a real one, 0 for one that is not.
#[derive(Clone, Debug)]
pub struct ClassifierObjective {
    /// The network, with one logit.
    pub network: ResNet,
    /// Height and width of the pictures in pixels.
    pub size: [usize; 2],
}

impl ClassifierObjective {
    /// The objective of a network over pictures of this size.
    ///
    /// # Errors
    /// If the network has another number of logits than one.
    pub fn new(network: ResNet, size: [usize; 2]) -> Result<Self> {
        match network.num_classes {
            1 => Ok(ClassifierObjective { network, size }),
            n => Err(Error::Usage(format!("expected a classifier with num_classes 1, found {n}"))),
        }
    }
}

impl Objective for ClassifierObjective {
    fn parameters(&self) -> Result<Shapes> {
        self.network.parameters()
    }

    fn trainable(&self, key: &str) -> bool {
        !is_running(key)
    }

    fn record(&self, b: &mut GraphBuilder, batch: usize) -> Result<Recorded> {
        let [h, w] = self.size;
        let x = b.input("x", DType::F32, [batch, 3, h, w])?;
        let label = b.input("label", DType::F32, [batch])?;
        let x = b.permute(x, [0, 2, 3, 1])?;
        let x = normalised(b, x)?;
        let (logits, running) = self.network.record(b, x, Statistics::Batch)?;
        for (key, value) in running {
            b.output(&format!("next.{key}"), value);
        }
        let logits = b.reshape(logits, [batch])?;
        let loss = binary_cross_entropy(b, logits, label)?;
        Ok(Recorded { loss, terms: vec![("bce", loss)] })
    }
}

/// The mean of ln(1 + eᶻ) − z·label over logits z: PyTorch's `BCEWithLogitsLoss`. Labels may lie between 0 and 1.
fn binary_cross_entropy(b: &mut GraphBuilder, logits: ValueId, labels: ValueId) -> Result<ValueId> {
    let moderate = b.clamp(logits, -LARGE, LARGE)?;
    let e = b.exp(moderate)?;
    let one = b.scalar(1.0);
    let soft = b.add(e, one)?;
    let soft = b.ln(soft)?;
    let beyond = b.sub(logits, moderate)?;
    let beyond = b.relu(beyond)?;
    let soft = b.add(soft, beyond)?;
    let linear = b.mul(logits, labels)?;
    let each = b.sub(soft, linear)?;
    b.mean(each, &[0], false)
}
