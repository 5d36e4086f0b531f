//! Whether a picture looks like a real one of high quality: the classifier by which GenIR keeps what it has
//! synthesised.

use crate::data::pixels::FloatImage;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Executable, GraphBuilder, Plan, passes};
use crate::models::resnet::{ResNet, Statistics, normalised};
use crate::ops::fuse;
use crate::tensor::{DType, HostTensor};
use crate::weights::WeightSet;

/// Crops along each axis.
const GRID: usize = 3;

/// The classifier: nine crops of a picture at its own resolution, since texture is the signal and would be lost by
/// making it smaller. The mean of their logits decides.
pub struct QualityClassifier {
    network: ResNet,
    weights: WeightSet,
    side: usize,
    device: Device,
    /// For crops of the size that was asked for last.
    ready: Option<([usize; 2], Executable)>,
}

impl QualityClassifier {
    /// A network of one logit with its weights; `side` is the height and width of a crop in pixels.
    ///
    /// # Errors
    /// If the network has another number of logits.
    pub fn new(network: ResNet, weights: WeightSet, side: usize, device: &Device) -> Result<Self> {
        if network.num_classes != 1 {
            let n = network.num_classes;
            return Err(Error::Usage(format!("expected a classifier with num_classes 1, found {n}")));
        }
        Ok(QualityClassifier { network, weights, side, device: device.clone(), ready: None })
    }

    /// How likely an RGB picture in 0..1 is a real one of high quality, 0 to 1. A picture that is smaller than a crop
    /// is seen whole along that axis.
    ///
    /// # Errors
    /// If the picture is empty, or the network does not run.
    pub fn probability(&mut self, picture: &FloatImage) -> Result<f64> {
        let logits = self.logits(picture)?;
        let mean = logits.iter().sum::<f64>() / logits.len() as f64;
        Ok(1.0 / (1.0 + libm::exp(-mean)))
    }

    /// The logits of the nine crops, row by row.
    ///
    /// # Errors
    /// As [`QualityClassifier::probability`].
    pub fn logits(&mut self, picture: &FloatImage) -> Result<Vec<f64>> {
        if picture.channels != 3 || picture.data.is_empty() {
            return Err(Error::Usage(format!(
                "expected an RGB picture to judge, found {}×{} pixels of {} channels",
                picture.width, picture.height, picture.channels
            )));
        }
        let size = [picture.height, picture.width].map(|n| n.min(self.side));
        let places = grid([picture.height, picture.width], size);
        let [h, w] = size;
        let mut crops = Vec::with_capacity(places.len() * h * w * 3);
        for [top, left] in &places {
            for y in 0..h {
                crops.extend_from_slice(&picture.row(top + y)[3 * left..3 * (left + w)]);
            }
        }
        let crops = HostTensor::from_f32([places.len(), h, w, 3], crops);
        let out = self.executable(size)?.run(&[("x", crops)])?;
        Ok(out[0].1.to_f64())
    }

    fn executable(&mut self, size: [usize; 2]) -> Result<&mut Executable> {
        if self.ready.as_ref().is_none_or(|(ready, _)| *ready != size) {
            let mut b = GraphBuilder::new();
            let x = b.input("x", DType::F32, [GRID * GRID, size[0], size[1], 3])?;
            let x = normalised(&mut b, x)?;
            let (logits, _) = self.network.record(&mut b, x, Statistics::Running)?;
            b.output("out", logits);
            let mut graph = b.finish();
            passes::run(&mut graph, fuse::RULES, None)?;
            let plan = Plan::new(graph, &self.device)?;
            let exe = Executable::new(plan, self.device.clone(), |key| self.weights.get(key).cloned())?;
            self.ready = Some((size, exe));
        }
        Ok(&mut self.ready.as_mut().expect("just made").1)
    }
}

/// Where crops of a size lie in a picture: the corners, the middle, and the middles of the sides.
fn grid(picture: [usize; 2], size: [usize; 2]) -> Vec<[usize; 2]> {
    let along = |axis: usize, i: usize| (picture[axis] - size[axis]) * i / (GRID - 1);
    (0..GRID).flat_map(|i| (0..GRID).map(move |j| [along(0, i), along(1, j)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_crops_reach_every_side() {
        let places = grid([100, 61], [40, 61]);
        assert_eq!(places[0], [0, 0]);
        assert_eq!(places[4], [30, 0]);
        assert_eq!(places[8], [60, 0]);
        assert_eq!(grid([11, 12], [4, 4])[5], [3, 8]);
    }
}
