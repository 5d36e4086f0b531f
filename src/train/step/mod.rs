//! One step of training: a graph and a plan that are made once, and what they change.

mod graph;
mod host;
mod layout;
mod memory;
mod processes;

use std::collections::BTreeMap;

use host::HostStep;
pub use memory::Memory;

use super::Objective;
use super::adamw::AdamW;
use super::reduce::Reduce;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::Plan;
use crate::graph::plan::Target;
use crate::tensor::HostTensor;
use crate::weights::WeightSet;

/// Named tensors.
pub type Tensors = Vec<(String, HostTensor)>;

/// Parameters with an optimiser of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Keys that begin with this.
    pub prefix: String,
    /// By what the learning rate is multiplied.
    pub rate_factor: f64,
    /// Their weight decay.
    pub decay: f64,
}

/// How a step is made.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOptions {
    /// Samples in one call of [`TrainStep::accumulate`].
    pub batch: usize,
    /// Calls of [`TrainStep::accumulate`] before each update. Matters to several processes only: their sums start
    /// during the last.
    pub accumulate: usize,
    /// The optimiser.
    pub optimizer: AdamW,
    /// Exceptions from it; the first that fits a key counts.
    pub groups: Vec<Group>,
    /// Bytes of gradients that are added up together over several processes.
    pub bucket_bytes: usize,
    /// What the norm of all gradients together shall not exceed.
    pub clip: Option<f64>,
    /// How much a moving average of the parameters keeps at each step, if there is to be one: 0.999.
    pub ema: Option<f64>,
    /// Bytes that all of it may take: parameters, gradients, moments, activations. Activations that do not fit are
    /// computed again in the backward pass.
    pub memory_budget: Option<usize>,
}

impl Default for StepOptions {
    fn default() -> Self {
        StepOptions {
            batch: 1,
            accumulate: 1,
            bucket_bytes: layout::BUCKET_BYTES,
            optimizer: AdamW::default(),
            groups: vec![],
            clip: None,
            ema: None,
            memory_budget: None,
        }
    }
}

impl StepOptions {
    /// Optimiser and learning rate of a parameter.
    fn of(&self, key: &str, rate: f64) -> (AdamW, f64) {
        match self.groups.iter().find(|g| key.starts_with(&g.prefix)) {
            Some(g) => (AdamW { decay: g.decay, ..self.optimizer }, rate * g.rate_factor),
            None => (self.optimizer, rate),
        }
    }
}

/// The loss of one batch and what it consists of.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// What is minimised.
    pub loss: f64,
    /// Named parts.
    pub terms: Vec<(String, f64)>,
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Whether nothing was changed, since the norm is no finite number.
    pub skipped: bool,
}

/// What a tensor of the state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Param,
    First,
    Second,
    Ema,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Kind::Param => "param.",
            Kind::First => "first.",
            Kind::Second => "second.",
            Kind::Ema => "ema.",
        }
    }
}

/// The name of the number of steps in the state.
const STEPS: &str = "steps";

/// A network in training: parameters in f32, their gradients, the optimiser's moments.
///
/// Forward, backward and optimiser are one plan, made once. On a CPU the parameters are the plan's own leaves and
/// are changed in place. The same inputs give the same bytes, whatever the number of threads.
pub struct TrainStep {
    options: StepOptions,
    side: HostStep,
    /// Parameters that the loss does not depend on.
    unused: BTreeMap<String, HostTensor>,
    /// All keys.
    keys: Vec<String>,
    /// Updates so far that changed something.
    steps: u64,
    /// Batches since the last update.
    batches: usize,
    /// The other processes that train the same parameters.
    reduce: Option<Box<dyn Reduce>>,
}

impl TrainStep {
    /// A step over `weights`, which are read and not changed.
    ///
    /// # Errors
    /// If a parameter is missing or has another shape, the objective does not fit the batch, or no plan fits the
    /// memory budget.
    pub fn new(
        objective: &dyn Objective,
        device: &Device,
        weights: &WeightSet,
        options: StepOptions,
    ) -> Result<Self> {
        let shapes = objective.parameters()?;
        let expected = shapes.iter().map(|(k, s)| (k.as_str(), s.as_slice()));
        weights.check(expected, |key| !shapes.contains_key(key))?;
        let target = Target::from(device);
        let stored = |key: &str| weights.get(key).map(HostTensor::dtype);
        let graph = graph::differentiated(objective, options.batch, target, stored)?;
        let mut unused = BTreeMap::new();
        for key in shapes.keys().filter(|key| !graph.params().any(|(k, _)| k == *key)) {
            unused.insert(key.clone(), weights.get(key).expect("checked above").clone());
        }
        let plan = memory::planned(graph, target, &options)?;
        let side = HostStep::new(plan, device, weights, &options)?;
        let keys = shapes.into_keys().collect();
        Ok(TrainStep { options, side, unused, keys, steps: 0, batches: 0, reduce: None })
    }

    /// Runs forward and backward over one batch, whose tensors are given by the names that the objective
    /// declares, and adds its gradients to those since the last update.
    ///
    /// # Errors
    /// If a tensor is missing, unknown or of another shape.
    pub fn accumulate(&mut self, inputs: &[(&str, HostTensor)]) -> Result<Terms> {
        let reduce = match &mut self.reduce {
            Some(_) if self.batches >= self.options.accumulate => {
                let most = self.options.accumulate;
                return Err(Error::Usage(format!(
                    "expected an update after {most} batches, found another batch: the sums over all processes are \
                     on their way; set StepOptions::accumulate"
                )));
            }
            Some(reduce) if self.batches + 1 == self.options.accumulate => {
                Some(&mut **reduce as &mut dyn Reduce)
            }
            _ => None,
        };
        let outputs = self.side.accumulate(inputs, self.batches == 0, reduce)?;
        self.batches += 1;
        let mut numbers = outputs.into_iter().map(|(name, t)| (name, t.to_f64()[0]));
        let (_, loss) = numbers.next().expect("the loss comes first");
        Ok(Terms { loss, terms: numbers.collect() })
    }

    /// Changes the parameters by the mean gradient of the batches since the last update. A norm that is not
    /// finite changes nothing: the update is `skipped`, and the gradients are gone.
    ///
    /// # Errors
    /// If there was no batch.
    pub fn update(&mut self, rate: f64) -> Result<Update> {
        if self.batches == 0 {
            return Err(Error::Usage("an update without a batch: accumulate one first".into()));
        }
        let mut batches = self.batches;
        if let Some(reduce) = &mut self.reduce {
            self.side.add_up(&mut **reduce, self.batches == self.options.accumulate)?;
            batches *= reduce.world();
        }
        let update = self.side.update(self.steps + 1, rate, batches, &self.options);
        self.batches = 0;
        self.steps += u64::from(!update.skipped);
        Ok(update)
    }

    /// Runs the batch node by node and stops at the first tensor that holds NaN or infinity. Changes nothing.
    ///
    /// # Errors
    /// One that names that tensor.
    pub fn check(&mut self, inputs: &[(&str, HostTensor)]) -> Result<()> {
        self.side.check(inputs)
    }

    /// Updates so far that changed something.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The plan of forward and backward.
    pub fn plan(&self) -> &Plan {
        self.side.executable().plan()
    }

    /// Bytes that the step takes.
    pub fn memory(&self) -> Memory {
        Memory::of(self.plan(), &self.options)
    }

    /// The keys that are trained, in the order of their names.
    pub fn trained(&self) -> Vec<&str> {
        let mut keys: Vec<_> = self.side.layout().slots.iter().map(|s| s.key.as_str()).collect();
        keys.sort_unstable();
        keys
    }

    /// All parameters as they are now, by key: what a weight file holds. Cheap; the next update makes copies of
    /// those that are still held.
    pub fn parameters(&self) -> Tensors {
        let now = |key: &String| {
            let tensor = self.side.param(key).or_else(|| self.unused.get(key).cloned());
            (key.clone(), tensor.expect("each key is the plan's or unused"))
        };
        self.keys.iter().map(now).collect()
    }

    /// All parameters with the moving averages in the place of those that are trained; `None` if there are none.
    pub fn ema(&self) -> Option<Tensors> {
        let averages: BTreeMap<_, _> = self.side.ema("")?.into_iter().collect();
        let mut tensors = self.parameters();
        for (key, tensor) in &mut tensors {
            if let Some(average) = averages.get(key) {
                *tensor = average.clone();
            }
        }
        Some(tensors)
    }

    /// The mean gradients of the batches since the last update, `grad.KEY`, in the order of their names.
    pub fn gradients(&self) -> Tensors {
        let mut tensors = self.side.gradients(self.batches);
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors
    }

    /// All that an update changes: trained parameters, moments, moving averages, the number of steps. A step
    /// that [`restore_state`](Self::restore_state) takes back goes on with the same bytes.
    pub fn state(&self) -> Tensors {
        let changed = self.side.layout().slots.iter().map(|s| &s.key).chain(self.side.buffers());
        let mut tensors: Tensors = changed
            .map(|key| (format!("{}{key}", Kind::Param.prefix()), self.side.param(key).expect("the plan's")))
            .collect();
        tensors.extend(self.side.moments([Kind::First.prefix(), Kind::Second.prefix()]));
        tensors.extend(self.side.ema(Kind::Ema.prefix()).into_iter().flatten());
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors.push((STEPS.to_owned(), HostTensor::from_i64([1], vec![self.steps as i64])));
        tensors
    }

    /// Takes over what [`state`](Self::state) gave; batches since the last update are forgotten.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape; then nothing is changed that was not named before it.
    pub fn restore_state(&mut self, state: &WeightSet) -> Result<()> {
        let tensor = |name: &str, shape: &[usize]| -> Result<HostTensor> {
            let found = state.get(name).ok_or_else(|| {
                let message = format!("expected a tensor \"{name}\" of the optimiser's state, found none");
                Error::file(state.path(), message)
            })?;
            if found.shape() != shape {
                let message = format!("\"{name}\" has shape {:?}, expected {shape:?}", found.shape());
                return Err(Error::file(state.path(), message));
            }
            Ok(found.clone())
        };
        let steps = tensor(STEPS, &[1])?.to_i64()[0];
        self.side.restore(&|kind, key, shape| tensor(&format!("{}{key}", kind.prefix()), shape))?;
        self.steps = steps as u64;
        self.batches = 0;
        Ok(())
    }
}
