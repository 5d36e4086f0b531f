//! One step of training: a graph and a plan that are made once, and what they change.

mod device;
mod graph;
mod host;
mod layout;
mod memory;
mod processes;
mod scale;

use std::collections::{BTreeMap, HashSet};

use device::DeviceStep;
use graph::LOSS_SCALE;
use host::HostStep;
use layout::Layout;
use scale::LossScale;

pub use memory::Memory;

use super::Objective;
use super::adamw::AdamW;
use super::reduce::Reduce;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::plan::Target;
use crate::graph::{Executable, Outputs, Plan};
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
    /// The group of a parameter: 0 for those without one of their own.
    fn group(&self, key: &str) -> usize {
        self.groups.iter().position(|g| key.starts_with(&g.prefix)).map_or(0, |i| i + 1)
    }

    /// Optimiser and learning rate of each group.
    fn all(&self, rate: f64) -> Vec<(AdamW, f64)> {
        let group = |g: &Group| (AdamW { decay: g.decay, ..self.optimizer }, rate * g.rate_factor);
        std::iter::once((self.optimizer, rate)).chain(self.groups.iter().map(group)).collect()
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
    const ALL: [Kind; 4] = [Kind::Param, Kind::First, Kind::Second, Kind::Ema];

    fn prefix(self) -> &'static str {
        match self {
            Kind::Param => "param.",
            Kind::First => "first.",
            Kind::Second => "second.",
            Kind::Ema => "ema.",
        }
    }
}

/// What an update is told.
struct Move {
    /// Its number, from 1.
    step: u64,
    rate: f64,
    /// What makes means of the sums of gradients.
    unit: f64,
}

/// A step on one kind of device.
trait Side: Send {
    /// The plan with its parameters.
    fn executable(&self) -> &Executable;

    /// All trained parameters.
    fn layout(&self) -> &Layout;

    /// Keys of parameters that are not trained, but that each batch gives a new value itself, and their shapes.
    fn buffers(&self) -> &[(String, Vec<usize>)];

    /// Runs one batch; its gradients take the place of what was there if it is the first since the last update. If
    /// it is the last before the next, `reduce` gets each bucket as soon as all of it is there.
    fn accumulate(
        &mut self,
        inputs: &[(&str, HostTensor)],
        first: bool,
        reduce: Option<&mut dyn Reduce>,
    ) -> Result<Outputs>;

    /// The parameters that steps change become those of the first process, and averages start as these are.
    fn adopt(&mut self, reduce: &mut dyn Reduce) -> Result<()>;

    /// Gradients become sums over all processes; `started` is whether [`Side::accumulate`] gave them away already.
    fn add_up(&mut self, reduce: &mut dyn Reduce, started: bool) -> Result<()>;

    /// Runs node by node and stops at the first tensor that is not finite.
    fn check(&mut self, inputs: &[(&str, HostTensor)]) -> Result<()>;

    /// Changes the parameters, unless the norm of the gradients is not finite.
    fn update(&mut self, to: &Move, options: &StepOptions) -> Result<Update>;

    /// Sums of gradients times `unit`: `grad.KEY`.
    fn gradients(&self, unit: f64) -> Result<Tensors>;

    /// What belongs to trained parameters, `PREFIX.KEY`, in the order of the layout, and as parameters the buffers
    /// behind them; `None` if it is not kept.
    fn changed(&self, kind: Kind) -> Result<Option<Tensors>>;

    /// Takes over number `key` of what [`Side::changed`] gives.
    fn restore(&mut self, kind: Kind, key: usize, values: &HostTensor) -> Result<()>;
}

/// The name of the number of steps in the state.
const STEPS: &str = "steps";

/// A network in training: parameters in f32, their gradients, the optimiser's moments.
///
/// Forward, backward and optimiser are planned once. On a CPU the parameters are the plan's own leaves and are
/// changed in place; on a CUDA device they, their gradients and moments live in its memory, and kernels that compute
/// in half precision read copies that each update refreshes. The same inputs give the same bytes, whatever the
/// number of threads.
pub struct TrainStep {
    options: StepOptions,
    side: Box<dyn Side>,
    /// Parameters that no step changes.
    fixed: BTreeMap<String, HostTensor>,
    /// Updates so far that changed something.
    steps: u64,
    /// Batches since the last update.
    batches: usize,
    /// What the loss is multiplied by, where gradients could else vanish in f16.
    scale: Option<LossScale>,
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
        let plan = memory::planned(graph, target, &options)?;
        let scale = plan.graph.inputs().any(|(name, _)| name == LOSS_SCALE).then(LossScale::default);
        let side: Box<dyn Side> = match target {
            Target::Cpu { .. } => Box::new(HostStep::new(plan, device, weights, &options)?),
            Target::Cuda { .. } => Box::new(DeviceStep::new(plan, device, weights, &options)?),
        };
        let trained = side.layout().slots.iter().map(|slot| slot.key.as_str());
        let changed: HashSet<&str> =
            trained.chain(side.buffers().iter().map(|(key, _)| key.as_str())).collect();
        let fixed = shapes.keys().filter(|key| !changed.contains(key.as_str()));
        let fixed =
            fixed.map(|key| (key.clone(), weights.get(key).expect("checked above").clone())).collect();
        Ok(TrainStep { options, side, fixed, steps: 0, batches: 0, scale, reduce: None })
    }

    /// Runs forward and backward over one batch, whose tensors are given by the names that the objective
    /// declares, and adds its gradients to those since the last update.
    ///
    /// # Errors
    /// If a tensor is missing, unknown or of another shape.
    pub fn accumulate(&mut self, inputs: &[(&str, HostTensor)]) -> Result<Terms> {
        let inputs = self.scaled(inputs);
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
        let outputs = self.side.accumulate(&inputs, self.batches == 0, reduce)?;
        self.batches += 1;
        let mut numbers = outputs.into_iter().map(|(name, t)| (name, t.to_f64()[0]));
        let (_, loss) = numbers.next().expect("the loss comes first");
        Ok(Terms { loss, terms: numbers.collect() })
    }

    /// The inputs, and the scale of the loss where there is one.
    fn scaled<'a>(&self, inputs: &[(&'a str, HostTensor)]) -> Vec<(&'a str, HostTensor)> {
        let scale = self.scale.map(|scale| (LOSS_SCALE, HostTensor::from_f32([], vec![scale.now])));
        inputs.iter().cloned().chain(scale).collect()
    }

    /// What makes means of the sums of gradients.
    fn unit(&self) -> f64 {
        1.0 / (self.batches.max(1) as f64 * self.scale.map_or(1.0, |scale| f64::from(scale.now)))
    }

    /// Changes the parameters by the mean gradient of the batches since the last update. A norm that is not
    /// finite changes nothing: the update is `skipped`, and the gradients are gone. In f16 that happens now and
    /// then, and the next batch is computed with a smaller scale of the loss.
    ///
    /// # Errors
    /// If there was no batch, or the device fails.
    pub fn update(&mut self, rate: f64) -> Result<Update> {
        if self.batches == 0 {
            return Err(Error::Usage("an update without a batch: accumulate one first".into()));
        }
        let mut to = Move { step: self.steps + 1, rate, unit: self.unit() };
        if let Some(reduce) = &mut self.reduce {
            self.side.add_up(&mut **reduce, self.batches == self.options.accumulate)?;
            to.unit /= reduce.world() as f64;
        }
        let update = self.side.update(&to, &self.options)?;
        self.batches = 0;
        self.steps += u64::from(!update.skipped);
        if let Some(scale) = &mut self.scale {
            scale.adapt(update.skipped);
        }
        Ok(update)
    }

    /// Runs the batch node by node and stops at the first tensor that holds NaN or infinity. Changes nothing.
    ///
    /// # Errors
    /// One that names that tensor.
    pub fn check(&mut self, inputs: &[(&str, HostTensor)]) -> Result<()> {
        self.side.check(&self.scaled(inputs))
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

    /// All parameters as they are now, by key: what a weight file holds. On a CPU that is cheap; the next update
    /// makes copies of those that are still held.
    ///
    /// # Errors
    /// If a device fails.
    pub fn parameters(&self) -> Result<Tensors> {
        self.whole(Kind::Param).map(|tensors| tensors.expect("there are always parameters"))
    }

    /// All parameters with the moving averages in the place of those that are trained; `None` if there are none.
    ///
    /// # Errors
    /// If a device fails.
    pub fn ema(&self) -> Result<Option<Tensors>> {
        self.whole(Kind::Ema)
    }

    /// A kind of tensors of trained parameters, and the parameters that are not, by key.
    fn whole(&self, kind: Kind) -> Result<Option<Tensors>> {
        let Some(trained) = self.side.changed(kind)? else { return Ok(None) };
        let mut all = self.fixed.clone();
        all.extend(trained.into_iter().map(|(name, t)| (name[kind.prefix().len()..].to_owned(), t)));
        Ok(Some(all.into_iter().collect()))
    }

    /// The mean gradients of the batches since the last update, `grad.KEY`, in the order of their names.
    ///
    /// # Errors
    /// If a device fails.
    pub fn gradients(&self) -> Result<Tensors> {
        let mut tensors = self.side.gradients(self.unit())?;
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(tensors)
    }

    /// All that an update changes: trained parameters, moments, moving averages, the number of steps, the scale of
    /// the loss. A step that [`restore_state`](Self::restore_state) takes back goes on with the same bytes.
    ///
    /// # Errors
    /// If a device fails.
    pub fn state(&self) -> Result<Tensors> {
        let mut tensors = Tensors::new();
        for kind in Kind::ALL {
            tensors.extend(self.side.changed(kind)?.into_iter().flatten());
        }
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors.push((STEPS.to_owned(), HostTensor::from_i64([1], vec![self.steps as i64])));
        tensors.extend(self.scale.map(|scale| (LOSS_SCALE.to_owned(), scale.state())));
        Ok(tensors)
    }

    /// Takes over what [`state`](Self::state) gave; batches since the last update are forgotten.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape; then nothing is changed. If a device fails.
    pub fn restore_state(&mut self, state: &WeightSet) -> Result<()> {
        let tensor = |name: &str, shape: &[usize]| -> Result<&HostTensor> {
            let found = state.get(name).ok_or_else(|| {
                let message = format!("expected a tensor \"{name}\" of the optimiser's state, found none");
                Error::file(state.path(), message)
            })?;
            if found.shape() != shape {
                let message = format!("\"{name}\" has shape {:?}, expected {shape:?}", found.shape());
                return Err(Error::file(state.path(), message));
            }
            Ok(found)
        };
        let mut found = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Ema || self.options.ema.is_some()) {
            let trained = self.side.layout().slots.iter().map(|slot| (&slot.key, &slot.shape));
            let buffers = self.side.buffers().iter().map(|(key, shape)| (key, shape));
            let buffers = buffers.filter(|_| kind == Kind::Param);
            for (i, (key, shape)) in trained.chain(buffers).enumerate() {
                found.push((kind, i, tensor(&format!("{}{key}", kind.prefix()), shape)?));
            }
        }
        let steps = tensor(STEPS, &[1])?.to_i64()[0] as u64;
        let scale = match self.scale {
            Some(_) => Some(LossScale::of(tensor(LOSS_SCALE, &[2])?)),
            None => None,
        };
        for (kind, i, values) in found {
            self.side.restore(kind, i, values)?;
        }
        (self.steps, self.scale, self.batches) = (steps, scale, 0);
        Ok(())
    }
}
