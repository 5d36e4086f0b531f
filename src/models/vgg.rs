//! VGG (Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556) as torchvision has it (`models/vgg.py`, without batch
//! norms), as far as perceptual losses look into it: the results of its convolutions.
//!
//! Stages of 3×3 convolutions, a ReLU behind each, a 2×2 max pool between stages. Layers are named as in BasicSR's
//! `VGGFeatureExtractor`: `conv5_4` is the fourth convolution of the fifth stage, before its ReLU.

use super::Shapes;
use crate::error::Result;
use crate::graph::{GraphBuilder, ValueId};
use crate::nn;

/// The convolutions up to the deepest layer that is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vgg {
    convs: Vec<Conv>,
    /// Layers that are looked at.
    layers: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Conv {
    /// Its place among torchvision's `features`: convolutions, ReLUs and pools count.
    place: usize,
    /// Stage and number within it, both from 1.
    stage: usize,
    number: usize,
    /// Channels in and out.
    channels: [usize; 2],
}

impl Conv {
    fn layer(&self) -> String {
        format!("conv{}_{}", self.stage, self.number)
    }

    fn key(&self, what: &str) -> String {
        format!("features.{}.{what}", self.place)
    }

    /// Its parameters with their shapes.
    fn parameters(&self) -> [(String, Vec<usize>); 2] {
        let [inputs, outputs] = self.channels;
        [(self.key("weight"), vec![outputs, inputs, 3, 3]), (self.key("bias"), vec![outputs])]
    }
}

impl Vgg {
    /// From the shapes of a weight file under torchvision's keys: places of `features` tell the stages, weights
    /// the channels. What lies behind the deepest of `layers` is not used.
    ///
    /// # Errors
    /// One sentence, if the shapes are not those of a VGG without batch norms, or have no such layer.
    pub fn from_shapes(shapes: &Shapes, layers: &[&str]) -> Result<Self, String> {
        let place = |key: &str| key.strip_prefix("features.")?.strip_suffix(".weight")?.parse().ok();
        let mut places: Vec<usize> = shapes.keys().filter_map(|key| place(key)).collect();
        places.sort_unstable();
        let mut convs = Vec::<Conv>::new();
        for place in places {
            convs.push(following(convs.last(), place, shapes)?);
        }
        let Some(last) = convs.last() else {
            return Err(
                "expected torchvision's VGG, \"features.0.weight\" and so on, found none of it".into()
            );
        };
        let mut used = 0;
        for layer in layers {
            let index = convs.iter().position(|conv| conv.layer() == *layer).ok_or_else(|| {
                format!("there is no layer \"{layer}\"; these weights have conv1_1 to {}", last.layer())
            })?;
            used = used.max(index + 1);
        }
        convs.truncate(used);
        Ok(Vgg { convs, layers: layers.iter().map(|&layer| layer.to_owned()).collect() })
    }

    /// Its parameters.
    pub fn parameters(&self) -> Shapes {
        self.convs.iter().flat_map(Conv::parameters).collect()
    }

    /// Records the network on an NHWC picture that is normalised as it was trained
    /// ([`normalised`](super::resnet::normalised)): each layer that is looked at with its result, in their order.
    ///
    /// # Errors
    /// If the picture is too small for the pools.
    pub fn features(&self, b: &mut GraphBuilder, x: ValueId) -> Result<Vec<(String, ValueId)>> {
        let [_, height, width, _] = b.dims(x, "vgg")?;
        let least = 1 << (self.convs.last().map_or(1, |conv| conv.stage) - 1);
        if height.min(width) < least {
            return Err(b.error(
                "vgg",
                format!("expected pictures of at least {least}×{least} pixels, found {width}×{height}"),
            ));
        }
        let mut x = x;
        let mut found = Vec::with_capacity(self.layers.len());
        for (i, conv) in self.convs.iter().enumerate() {
            if i > 0 {
                x = b.relu(x)?;
                if conv.number == 1 {
                    x = b.max_pool(x, 2, 2, 0)?;
                }
            }
            x = nn::conv2d(b, &format!("features.{}", conv.place), x, conv.channels[1], 3)?;
            let layer = conv.layer();
            if self.layers.contains(&layer) {
                found.push((layer, x));
            }
        }
        Ok(found)
    }
}

/// The convolution at a place behind another one: two places on in the same stage, three in the next one.
fn following(before: Option<&Conv>, place: usize, shapes: &Shapes) -> Result<Conv, String> {
    let (stage, number, inputs) = match before {
        None if place == 0 => (1, 1, 3),
        Some(b) if place == b.place + 2 => (b.stage, b.number + 1, b.channels[1]),
        Some(b) if place == b.place + 3 => (b.stage + 1, 1, b.channels[1]),
        _ => {
            let expected = match before {
                None => "\"features.0.weight\"".to_owned(),
                Some(b) => format!(
                    "\"features.{}.weight\" or, behind a pool, \"features.{}.weight\"",
                    b.place + 2,
                    b.place + 3
                ),
            };
            return Err(format!(
                "expected {expected}, as VGG without batch norms has it, found \"features.{place}.weight\" next"
            ));
        }
    };
    let key = format!("features.{place}.weight");
    let outputs = shapes[&key].first().copied().unwrap_or_default();
    let conv = Conv { place, stage, number, channels: [inputs, outputs] };
    for (key, expected) in conv.parameters() {
        match shapes.get(&key) {
            Some(found) if *found == expected => {}
            Some(found) => return Err(format!("\"{key}\" has shape {found:?}, expected {expected:?}")),
            None => return Err(format!("expected \"{key}\" of shape {expected:?}, found none")),
        }
    }
    Ok(conv)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// torchvision's VGG of such stages, each with its number of convolutions and channels.
    fn shapes(stages: &[(usize, usize)]) -> Shapes {
        let (mut shapes, mut place, mut inputs) = (Shapes::new(), 0, 3);
        for &(convs, channels) in stages {
            for _ in 0..convs {
                shapes.insert(format!("features.{place}.weight"), vec![channels, inputs, 3, 3]);
                shapes.insert(format!("features.{place}.bias"), vec![channels]);
                (place, inputs) = (place + 2, channels);
            }
            place += 1;
        }
        shapes.insert("classifier.0.weight".into(), vec![4096, 512 * 49]);
        shapes
    }

    const VGG19: [(usize, usize); 5] = [(2, 64), (2, 128), (4, 256), (4, 512), (4, 512)];

    #[test]
    fn places_are_those_of_torchvision() {
        let vgg = Vgg::from_shapes(&shapes(&VGG19), &["conv3_4", "conv5_4"]).unwrap();
        let places: Vec<_> = vgg.convs.iter().map(|c| c.place).collect();
        assert_eq!(places, [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]);
        assert_eq!(vgg.convs.last().unwrap().layer(), "conv5_4");
        let short = Vgg::from_shapes(&shapes(&VGG19), &["conv2_1", "conv1_2"]).unwrap();
        assert_eq!(short.parameters().len(), 6, "what lies behind is not needed");
    }

    #[test]
    fn other_weights_are_refused_in_one_sentence() {
        let error = |change: &dyn Fn(&mut Shapes), layer: &str| {
            let mut shapes = shapes(&VGG19);
            change(&mut shapes);
            Vgg::from_shapes(&shapes, &[layer]).unwrap_err()
        };
        assert_eq!(
            error(&|_| {}, "conv6_1"),
            "there is no layer \"conv6_1\"; these weights have conv1_1 to conv5_4"
        );
        let e = error(&|s| drop(s.remove("features.7.weight")), "conv5_4");
        assert!(
            e.contains("expected \"features.7.weight\"") && e.contains("found \"features.10.weight\""),
            "{e}"
        );
        let e = error(&|s| drop(s.remove("features.12.bias")), "conv5_4");
        assert_eq!(e, "expected \"features.12.bias\" of shape [256], found none");
        let e = error(&|s| drop(s.insert("features.2.weight".into(), vec![64, 64, 5, 5])), "conv5_4");
        assert_eq!(e, "\"features.2.weight\" has shape [64, 64, 5, 5], expected [64, 64, 3, 3]");
        // A batch norm behind the first convolution.
        let e = error(&|s| drop(s.insert("features.1.weight".into(), vec![64])), "conv5_4");
        assert!(e.contains("without batch norms"), "{e}");
        let e = error(&|s| s.retain(|key, _| key.starts_with("classifier")), "conv1_1");
        assert!(e.contains("expected torchvision's VGG"), "{e}");
    }
}
