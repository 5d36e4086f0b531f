//! Whole training steps as [`Work`]: forward, backward, clipping, AdamW.

use std::sync::Arc;

use serde_json::{Value, json};

use super::models::weight;
use super::ops::{SEED, draw};
use super::work::Work;
use crate::device::Device;
use crate::device::cpu::CpuDevice;
use crate::error::Result;
use crate::graph::Cost;
use crate::models::Shapes;
use crate::models::controlformer::DreamClear;
use crate::models::swinir::SwinIr;
use crate::ops::CaseInput;
use crate::tensor::HostTensor;
use crate::train::objective::{Distance, Reduction};
use crate::train::objectives::dreamclear::{CrossDeScope, DreamClearObjective};
use crate::train::objectives::swinir::SwinIrObjective;
use crate::train::{Objective, StepOptions, TrainStep};
use crate::weights::WeightSet;

/// Learning rate and clipping of every row: so small a rate that all runs do the same.
const RATE: f64 = 1e-6;
const CLIP: f64 = 1.0;

/// A training step of the bench.
pub struct TrainRow {
    /// Unique.
    pub name: &'static str,
    /// The network's name on the command line.
    pub architecture: &'static str,
    /// Hyper-parameters under their official names, as JSON.
    pub config: &'static str,
    /// Samples of a step.
    pub batch: usize,
    /// Height and width of the pictures, or of the latents.
    pub size: [usize; 2],
}

/// The training steps of the bench: dreamclear-nano's.
pub static STEPS: &[TrainRow] = &[
    TrainRow {
        name: "train_swinir_nano_4x128",
        architecture: "swinir",
        config: include_str!("../../assets/nano/swinir.json"),
        batch: 4,
        size: [128, 128],
    },
    TrainRow {
        name: "train_dreamclear_nano_4x32",
        architecture: "dreamclear",
        config: include_str!("../../assets/nano/dreamclear.json"),
        batch: 4,
        size: [32, 32],
    },
];

/// The inputs of an objective by name.
type Batch = Vec<(&'static str, HostTensor)>;

impl TrainRow {
    fn config(&self) -> Value {
        serde_json::from_str(self.config).unwrap_or_else(|e| panic!("bench step {}: {e}", self.name))
    }

    /// The objective, and one batch of it.
    fn objective(&self) -> Result<(Box<dyn Objective>, Batch)> {
        let (n, [h, w], config) = (self.batch, self.size, self.config());
        let uniform = |shape: &[usize], most: f64, seed: u64| {
            draw(&CaseInput::uniform(shape, -most, most), SEED + seed)
        };
        if self.architecture == "swinir" {
            let network = SwinIr::from_config(&config, &Shapes::new())?.0;
            let shape = [n, network.in_chans, h, w];
            let picture = |seed: u64| draw(&CaseInput::uniform(shape, 0.0, 1.0), SEED + seed);
            let inputs = vec![("x", picture(1)), ("target", picture(2))];
            let (distance, reduction) = (Distance::L1, Reduction::Mean);
            return Ok((Box::new(SwinIrObjective::new(network, self.size, distance, reduction)), inputs));
        }
        let network = DreamClear::from_config(Some(&config), &Shapes::new())?.0;
        let (latent, tokens) = ([n, network.base.in_channels, h, w], network.base.model_max_length);
        let same = |values: &[f32]| HostTensor::from_f32([n, values.len()], values.repeat(n));
        let inputs = vec![
            ("x_start", uniform(&latent, 1.0, 1)),
            ("noise", uniform(&latent, 1.0, 2)),
            ("c_lq", uniform(&latent, 1.0, 3)),
            ("c_pre", uniform(&latent, 1.0, 4)),
            ("timestep", HostTensor::from_i64([n], (0..n as i64).map(|i| 99 + 250 * i).collect())),
            ("y", uniform(&[n, tokens, network.base.caption_channels], 1.0, 5)),
            ("lengths", HostTensor::from_i64([n], vec![tokens as i64; n])),
            ("img_hw", same(&[1024.0, 1024.0])),
            ("aspect_ratio", same(&[1.0])),
        ];
        let objective = DreamClearObjective {
            network,
            size: self.size,
            tokens,
            class_dropout: false,
            scope: CrossDeScope::Batch,
            train_base: false,
        };
        Ok((Box::new(objective), inputs))
    }
}

/// A step with random weights.
pub struct TrainWork {
    row: &'static TrainRow,
    step: TrainStep,
    weights: WeightSet,
    inputs: Vec<(&'static str, HostTensor)>,
    /// Loss and norm of the gradients of the first run.
    first: Option<[f32; 2]>,
}

impl TrainWork {
    /// Builds, plans and binds.
    pub fn new(row: &'static TrainRow, device: &Arc<CpuDevice>) -> Result<Self> {
        let (objective, inputs) = row.objective()?;
        let shapes = objective.parameters()?.into_iter().zip(SEED + 10..);
        let weights = shapes.map(|((key, shape), seed)| {
            let values = draw(&weight(&key, &shape), seed);
            (key, values)
        });
        let weights = WeightSet::from_tensors(weights);
        let options = StepOptions { batch: row.batch, clip: Some(CLIP), ..StepOptions::default() };
        let step = TrainStep::new(&*objective, &Device::from(device.clone()), &weights, options)?;
        Ok(TrainWork { row, step, weights, inputs, first: None })
    }

    /// The step.
    pub fn step(&self) -> &TrainStep {
        &self.step
    }
}

impl Work for TrainWork {
    fn run(&mut self) -> Result<()> {
        let terms = self.step.accumulate(&self.inputs)?;
        let update = self.step.update(RATE)?;
        self.first.get_or_insert([terms.loss as f32, update.grad_norm as f32]);
        Ok(())
    }

    fn cost(&self) -> Cost {
        self.step.plan().cost()
    }

    fn describe(&self) -> Value {
        let names: Vec<_> = self.inputs.iter().map(|(name, _)| *name).collect();
        json!({
            "train": self.row.architecture, "config": self.row.config(), "inputs": names, "rate": RATE, "clip": CLIP,
        })
    }

    fn inputs(&self) -> Vec<(String, HostTensor)> {
        let inputs = self.inputs.iter().map(|(name, t)| ((*name).to_owned(), t.clone()));
        inputs.chain(self.weights.iter().map(|(key, t)| (key.to_owned(), t.clone()))).collect()
    }

    fn output(&self) -> HostTensor {
        HostTensor::from_f32([2], self.first.map_or(vec![f32::NAN; 2], |x| x.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_plan() {
        for row in STEPS {
            let (objective, inputs) = row.objective().unwrap_or_else(|e| panic!("{}: {e}", row.name));
            let mut b = crate::graph::GraphBuilder::new();
            objective.record(&mut b, row.batch).unwrap_or_else(|e| panic!("{}: {e}", row.name));
            let graph = b.finish();
            let mut wanted: Vec<_> =
                graph.inputs().map(|(name, v)| (name, graph.ty(v).shape.clone())).collect();
            let mut given: Vec<_> = inputs.iter().map(|(name, t)| (*name, t.shape().to_vec())).collect();
            wanted.sort();
            given.sort();
            assert_eq!(given, wanted, "{}", row.name);
        }
    }
}
