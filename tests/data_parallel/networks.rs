//! What the processes train: small networks, and the eight samples of each step.

use dreamclear::models::Shapes;
use dreamclear::models::controlformer::DreamClear;
use dreamclear::models::swinir::SwinIr;
use dreamclear::tensor::HostTensor;
use dreamclear::train::Objective;
use dreamclear::train::drop_path::DropPath;
use dreamclear::train::objective::{Distance, Reduction};
use dreamclear::train::objectives::dreamclear::{CrossDeScope, DreamClearObjective};
use dreamclear::train::objectives::swinir::SwinIrObjective;
use dreamclear::weights::WeightSet;

use crate::support::recipe_tensor;

/// Samples of a step, over all processes.
const SAMPLES: usize = 8;

/// A network that is trained.
#[derive(Clone, Copy, Debug)]
pub enum Network {
    /// With branches left out at random.
    SwinIr,
    /// Base and branches; each sample attends to itself alone.
    DreamClear,
}

impl Network {
    /// The one that a test names to its processes.
    pub fn from_env() -> Self {
        match std::env::var("NETWORK").as_deref() {
            Ok("DreamClear") => Network::DreamClear,
            _ => Network::SwinIr,
        }
    }

    /// Trained by squares: a mean of |x − y| has a gradient that jumps where rounding changes a sign.
    pub fn objective(self) -> Box<dyn Objective> {
        match self {
            Network::SwinIr => {
                let config = serde_json::json!({
                    "embed_dim": 12, "depths": [2, 1], "num_heads": [2, 3], "window_size": 4, "mlp_ratio": 2,
                    "upscale": 2, "unshuffle": true, "upsampler": "nearest+conv", "img_size": 16,
                });
                let (network, _) = SwinIr::from_config(&config, &Shapes::new()).unwrap();
                let plain = SwinIrObjective::new(network, [16, 16], Distance::Mse, Reduction::Mean);
                Box::new(SwinIrObjective { drop_path: true, ..plain })
            }
            Network::DreamClear => {
                let config = serde_json::json!({
                    "input_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 24, "depth": 2,
                    "num_heads": 2, "mlp_ratio": 4, "pred_sigma": true, "caption_channels": 4,
                    "model_max_length": 2, "lewei_scale": 1.0, "copy_blocks_num": 2,
                });
                let (network, _) = DreamClear::from_config(Some(&config), &Shapes::new()).unwrap();
                Box::new(DreamClearObjective {
                    network,
                    size: [8, 8],
                    tokens: 2,
                    class_dropout: true,
                    scope: CrossDeScope::Sample,
                    train_base: true,
                })
            }
        }
    }

    /// Weights drawn by name; another `draw` gives others.
    pub fn weights(self, draw: &str) -> WeightSet {
        let tensor = |(key, shape): (String, Vec<usize>)| {
            let fan_in: usize = shape[1..].iter().product();
            let e = if shape.len() > 1 { -22 - fan_in.ilog2() as i32 / 2 } else { -24 };
            let centre = if shape.len() == 1 && key.ends_with("weight") { 1.0 } else { 0.0 };
            let tensor = recipe_tensor(&format!("{draw}{key}"), &shape, centre, 3, e);
            (key, tensor)
        };
        WeightSet::from_tensors(self.objective().parameters().unwrap().into_iter().map(tensor))
    }

    /// Samples `from..from + count` of the eight of a step.
    pub fn inputs(self, step: usize, from: usize, count: usize) -> Vec<(&'static str, HostTensor)> {
        let part = |name: &'static str, shape: &[usize], centre: f32| {
            let all = recipe_tensor(&format!("{name}{step}"), &[&[SAMPLES], shape].concat(), centre, 1, -22);
            let n = all.len() / SAMPLES;
            let part = all.to_f32()[from * n..][..count * n].to_vec();
            (name, HostTensor::from_f32([&[count], shape].concat(), part))
        };
        let numbers = (SAMPLES * step + from..).take(count);
        match self {
            Network::SwinIr => {
                let drop_path = DropPath::new(0.5, 3, 0).unwrap().expect("a rate above 0");
                let factors = drop_path.factors(numbers.map(|n| n as u64));
                let picture = [3, 16, 16];
                vec![part("x", &picture, 0.5), part("target", &picture, 0.5), ("drop_path", factors)]
            }
            Network::DreamClear => {
                let latents = ["x_start", "noise", "c_lq", "c_pre"].map(|name| part(name, &[4, 8, 8], 0.0));
                let integers =
                    |of: fn(usize) -> i64| HostTensor::from_i64([count], numbers.clone().map(of).collect());
                let drop = numbers.clone().map(|n| (n % 3 == 0) as u8 as f32).collect();
                let mut inputs = latents.to_vec();
                inputs.extend([
                    part("y", &[2, 4], 0.0),
                    ("timestep", integers(|n| (170 * n as i64 + 31) % 1000)),
                    ("lengths", integers(|n| 1 + n as i64 % 2)),
                    ("drop", HostTensor::from_f32([count], drop)),
                    ("img_hw", HostTensor::from_f32([count, 2], vec![64.0; 2 * count])),
                    ("aspect_ratio", HostTensor::from_f32([count, 1], vec![1.0; count])),
                ]);
                inputs
            }
        }
    }
}
