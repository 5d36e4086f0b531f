//! SwinIR as it is trained to remove degradations: the distance of its output from the clean picture
//! (DiffBIR's `train_stage1.py`: the sum of squares over the batch; SwinIR's own recipes: the mean of |x − y|).

use crate::error::Result;
use crate::graph::{GraphBuilder, ValueId};
use crate::models::swinir::SwinIr;
use crate::models::{ImageNetwork, Shapes};
use crate::tensor::DType;
use crate::train::objective::{Distance, Objective, Recorded, Reduction};
use crate::train::objectives::perceptual::Perceptual;

/// The distance, and where there is one the perceptual loss (its VGG is frozen).
///
/// Inputs of a batch: `x`, degraded pictures, f32 `[B, C, H, W]` in 0..1, and `target`, the clean ones,
/// `[B, C, H·scale, W·scale]`; with `drop_path` also `drop_path`, what residual branches are multiplied by, f32
/// `[B, 2 · blocks]`.
#[derive(Clone, Debug)]
pub struct SwinIrObjective {
    /// The network.
    pub network: SwinIr,
    /// Height and width of the degraded pictures in pixels.
    pub size: [usize; 2],
    /// How far output and target are apart.
    pub distance: Distance,
    /// How that becomes one number.
    pub reduction: Reduction,
    /// Whether residual branches may be left out.
    pub drop_path: bool,
    /// What is added to the distance, if anything.
    pub perceptual: Option<Perceptual>,
}

impl SwinIrObjective {
    /// The plain distance for pictures of this size, with no branch left out.
    pub fn new(network: SwinIr, size: [usize; 2], distance: Distance, reduction: Reduction) -> Self {
        SwinIrObjective { network, size, distance, reduction, drop_path: false, perceptual: None }
    }
}

impl Objective for SwinIrObjective {
    fn parameters(&self) -> Result<Shapes> {
        let side = self.network.fixed_side().unwrap_or(self.network.multiple());
        let mut shapes: Shapes =
            self.network.graph(1, side, side, false)?.param_shapes().into_iter().collect();
        shapes.extend(self.perceptual.iter().flat_map(Perceptual::parameters));
        Ok(shapes)
    }

    fn trainable(&self, key: &str) -> bool {
        self.of_network(key)
    }

    fn of_network(&self, key: &str) -> bool {
        !Perceptual::owns(key)
    }

    fn record(&self, b: &mut GraphBuilder, batch: usize) -> Result<Recorded> {
        let [h, w] = self.size;
        let scale = self.network.scale();
        let x = pictures(b, "x", [batch, self.network.channels(), h, w])?;
        let target = pictures(b, "target", [batch, self.network.channels(), h * scale, w * scale])?;
        let factors = match self.drop_path {
            true => Some(b.input("drop_path", DType::F32, [batch, 2 * self.network.blocks()])?),
            false => None,
        };
        let y = self.network.record(b, x, factors)?;
        let mut loss = self.distance.record(b, y, target, self.reduction)?;
        let mut terms = vec![(self.distance.name(), loss)];
        if let Some(perceptual) = &self.perceptual {
            let term = perceptual.record(b, y, target)?;
            terms.push(("perceptual", term));
            loss = b.add(loss, term)?;
        }
        Ok(Recorded { loss, terms })
    }
}

/// An input `[B, C, H, W]`, as `[B, H, W, C]`.
fn pictures(b: &mut GraphBuilder, name: &str, shape: [usize; 4]) -> Result<ValueId> {
    let x = b.input(name, DType::F32, shape)?;
    b.permute(x, [0, 2, 3, 1])
}
