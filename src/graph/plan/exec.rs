//! A plan bound to parameters and memory, ready to run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::exec_kernels::{self, BoundPlan, KernelRun};
use super::steps::{Plan, Source, Step};
use super::{Target, exec_cpu};
use crate::device::Device;
use crate::device::cpu::{Arena, CpuDevice};
use crate::device::kernel::{DeviceMemory, KernelDevice, Launch};
use crate::error::{Error, Result};
use crate::graph::cuda::{CudaOperand, CudaResult};
use crate::graph::ir::{Graph, Origin, TensorType, ValueId};
use crate::tensor::{DType, HostTensor};

/// A plan with parameters bound and its arena allocated: ready to run any number of times.
pub struct Executable {
    plan: Plan,
    workspace: Workspace,
    side: Side,
}

/// What differs between devices.
enum Side {
    Cpu {
        device: Arc<CpuDevice>,
        leaves: HashMap<ValueId, HostTensor>,
        /// Per step the parameters that no later step reads, if their pages are to be given back.
        streamed: Option<Vec<Vec<ValueId>>>,
    },
    Kernels(Box<KernelRun>),
}

/// Working memory that executables which never run at the same time share: as large as the
/// largest arena among those that have run.
#[derive(Clone, Default)]
pub struct Workspace {
    host: Arc<Mutex<Option<Arena>>>,
    device: Arc<Mutex<Option<DeviceMemory>>>,
}

impl Workspace {
    /// No memory yet; the first run takes what it needs.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn host(&self) -> MutexGuard<'_, Option<Arena>> {
        self.host.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn device(&self) -> MutexGuard<'_, Option<DeviceMemory>> {
        self.device.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes at least so many bytes of a device's memory for launches that the holder replays; other
    /// executables of this workspace wait meanwhile.
    pub fn hold(&self, device: &Arc<dyn KernelDevice>, bytes: usize) -> Result<HeldMemory<'_>> {
        let mut slot = self.device();
        exec_kernels::reserve(&mut slot, device, bytes)?;
        Ok(HeldMemory(slot))
    }

    /// Gives the memory back to the system until the next run.
    pub fn release(&self) {
        *self.host() = None;
        *self.device() = None;
    }
}

/// Working memory of a [`Workspace`] in the hands of one owner.
pub struct HeldMemory<'a>(MutexGuard<'a, Option<DeviceMemory>>);

impl HeldMemory<'_> {
    fn memory(&self) -> &DeviceMemory {
        self.0.as_ref().expect("reserved when it was taken")
    }
}

/// At least `size` bytes in `slot`.
pub(super) fn reserve(slot: &mut Option<Arena>, size: usize) -> Result<&mut Arena> {
    if slot.as_ref().is_none_or(|a| a.size() < size) {
        *slot = None; // the old block goes before the new one comes
        let arena =
            Arena::new(size).map_err(|m| Error::Run(format!("cannot allocate the working memory: {m}")))?;
        *slot = Some(arena);
    }
    Ok(slot.as_mut().expect("just set"))
}

/// Named results of a run, in the graph's order.
pub type Outputs = Vec<(String, HostTensor)>;

/// Results of one step as an observer sees them: type and raw bytes.
pub type StepResult<'a> = (&'a TensorType, &'a [u8]);

/// Time of one step of a profiled run.
#[derive(Clone, Debug)]
pub struct StepTime {
    /// Index into [`Plan::steps`].
    pub step: usize,
    /// Wall time.
    pub time: Duration,
}

impl Executable {
    /// Binds parameters by their keys and allocates the arena. `param` is asked once per key; a
    /// tensor in another float dtype than the plan's is converted.
    pub fn new(
        plan: Plan,
        device: impl Into<Device>,
        param: impl FnMut(&str) -> Option<HostTensor>,
    ) -> Result<Self> {
        let workspace = Workspace::new();
        if let Target::Cpu { .. } = plan.target {
            reserve(&mut workspace.host(), plan.arena_bytes)?;
        }
        Self::in_workspace(plan, device, param, &workspace)
    }

    /// As [`Executable::new`], with its arena in memory that other executables use too.
    ///
    /// # Panics
    /// If the plan was made for another kind of device.
    pub fn in_workspace(
        plan: Plan,
        device: impl Into<Device>,
        mut param: impl FnMut(&str) -> Option<HostTensor>,
        workspace: &Workspace,
    ) -> Result<Self> {
        let device = device.into();
        let mut leaves = HashMap::new();
        for (i, v) in plan.graph.values.iter().enumerate() {
            let id = ValueId(i as u32);
            let tensor = match &v.origin {
                Origin::Param(key) => {
                    let t = param(key)
                        .ok_or_else(|| Error::Weights(format!("parameter \"{key}\" is missing")))?;
                    check_shape(&t, plan.leaf_dtype(id), &v.ty.shape)
                        .map_err(|m| Error::Weights(format!("parameter \"{key}\" {m}")))?;
                    t
                }
                Origin::Const(t) => t.clone(),
                _ => continue,
            };
            leaves.insert(id, tensor);
        }
        let side = match (plan.target, device.as_kernels()) {
            (Target::Cpu { .. }, None) => {
                for (v, t) in &mut leaves {
                    *t = convert(t, plan.leaf_dtype(*v));
                }
                Side::Cpu { device: device.host().clone(), leaves, streamed: None }
            }
            (Target::Cuda { .. }, Some(kernels)) => {
                // Floats are converted on their way to the device, once for all plans.
                for (v, t) in leaves.iter_mut().filter(|(_, t)| !t.dtype().is_float()) {
                    *t = convert(t, plan.leaf_dtype(*v));
                }
                Side::Kernels(Box::new(KernelRun::new(&plan, kernels, &leaves)?))
            }
            _ => panic!("a plan for {:?} on another device", plan.target),
        };
        Ok(Executable { plan, workspace: workspace.clone(), side })
    }

    /// From here on parameters that lie in mapped files give their memory back as soon as the
    /// last step that reads them is over; the next run reads them from the file again. On a device with
    /// memory of its own they have been uploaded: the host's pages go now.
    pub fn stream_params(&mut self) {
        let mut last = HashMap::new();
        for (i, step) in self.plan.steps.iter().enumerate() {
            for place in &step.inputs {
                if let Source::Leaf(v) = place.source {
                    last.insert(v, i);
                }
            }
        }
        let mut per_step = vec![Vec::new(); self.plan.steps.len()];
        for (v, i) in last {
            if matches!(self.plan.graph.values[v.index()].origin, Origin::Param(_)) {
                per_step[i].push(v);
            }
        }
        match &mut self.side {
            Side::Cpu { streamed, .. } => *streamed = Some(per_step),
            Side::Kernels(run) => run.release_sources(),
        }
    }

    /// The plan that is run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The graph that is run.
    pub fn graph(&self) -> &Graph {
        &self.plan.graph
    }

    /// On a device that takes launches, those of each step, as the last run started them: which kernels, and
    /// which calls of libraries were chosen in their place.
    pub fn launches(&self) -> Option<&[Vec<Launch>]> {
        match &self.side {
            Side::Cpu { .. } => None,
            Side::Kernels(run) => run.bound_launches(),
        }
    }

    /// Runs all steps; `inputs` are given by name, each exactly once.
    pub fn run(&mut self, inputs: &[(&str, HostTensor)]) -> Result<Outputs> {
        self.run_observed(inputs, |_, _| Ok(()))
    }

    /// Runs over inputs in device memory, given by name, and copies the named results, as f32 or in whatever
    /// type is asked for, to other device memory. The device may still be busy when this returns.
    ///
    /// # Panics
    /// On a CPU, or if an input has no tensor or one of another shape.
    pub fn run_on_device(
        &mut self,
        inputs: &[(&str, CudaOperand)],
        outputs: &[(&str, CudaResult)],
        observe: impl FnMut(&Step, &[StepResult]) -> Result<()> + Send,
    ) -> Result<()> {
        let Executable { plan, workspace, side: Side::Kernels(run) } = self else {
            panic!("a CPU has no device memory")
        };
        let inputs: Vec<_> = plan
            .graph
            .inputs()
            .map(|(name, v)| {
                let found = inputs.iter().find(|(n, _)| *n == name);
                let operand = found.unwrap_or_else(|| panic!("a tensor for input \"{name}\"")).1.clone();
                assert_eq!(operand.ty.shape, plan.graph.ty(v).shape, "input \"{name}\"");
                (v, operand)
            })
            .collect();
        let place = |name: &str| {
            let found = plan.outputs.iter().find(|(n, _)| n == name);
            &found.unwrap_or_else(|| panic!("there is no output \"{name}\"")).1
        };
        let outputs: Vec<_> = outputs.iter().map(|(name, to)| (place(name), to.clone())).collect();
        run.run_on_device(plan, &inputs, &outputs, workspace, observe)
    }

    /// The launches of a plan whose inputs already are in device memory, each at the address that is given by
    /// name and of type [`Plan::input_type`]. Results stay in device memory; the caller launches. Nothing in
    /// `memory` may be of value any more: a device that has libraries may run steps in it to measure them.
    ///
    /// # Panics
    /// On a CPU, if the memory is too small for the plan, or if an input has no address.
    pub fn bind(&self, memory: &HeldMemory, inputs: &[(&str, u64)]) -> Result<BoundPlan> {
        let Side::Kernels(run) = &self.side else { panic!("a CPU takes no launches") };
        let memory = memory.memory();
        assert!(memory.len() >= self.plan.arena_bytes, "{} bytes of working memory", memory.len());
        let input = |v: ValueId| {
            let Origin::Input(name) = &self.plan.graph.values[v.index()].origin else {
                unreachable!("leaves are inputs, parameters or constants")
            };
            let found = inputs.iter().find(|(n, _)| n == name);
            found.unwrap_or_else(|| panic!("an address for input \"{name}\"")).1
        };
        run.bind_to(&self.plan, memory.address(), &input)
    }

    /// Runs node by node and stops at the first result that holds NaN or infinity, naming it.
    pub fn run_checked(&mut self, inputs: &[(&str, HostTensor)]) -> Result<Outputs> {
        if let Side::Cpu { .. } = self.side {
            reserve(&mut self.workspace.host(), self.plan.arena_bytes)?.poison();
        }
        self.run_steps(inputs, true, |step, results| {
            for (k, (ty, bytes)) in results.iter().enumerate() {
                if !ty.dtype.is_float() {
                    continue;
                }
                let data = HostTensor::copy_of(ty.dtype, &ty.shape, bytes).to_f64();
                if let Some(i) = data.iter().position(|x| !x.is_finite()) {
                    return Err(Error::Graph {
                        path: step.path.to_string(),
                        op: step.name().to_owned(),
                        message: format!("result {k} ({ty}) is {} at element {i}", data[i]),
                    });
                }
            }
            Ok(())
        })
    }

    /// Runs and measures each step.
    pub fn run_profiled(&mut self, inputs: &[(&str, HostTensor)]) -> Result<(Outputs, Vec<StepTime>)> {
        let mut times = Vec::with_capacity(self.plan.steps.len());
        let mut last = Instant::now();
        let out = self.run_observed(inputs, |_, _| {
            let now = Instant::now();
            times.push(StepTime { step: times.len(), time: now - last });
            last = now;
            Ok(())
        })?;
        Ok((out, times))
    }

    /// Runs; after each step calls `observe` with the step and its results, which may stop the
    /// run with an error (Ctrl-C between steps, progress). A device with memory of its own shows no
    /// results.
    pub fn run_observed(
        &mut self,
        inputs: &[(&str, HostTensor)],
        observe: impl FnMut(&Step, &[StepResult]) -> Result<()> + Send,
    ) -> Result<Outputs> {
        self.run_steps(inputs, false, observe)
    }

    /// Runs all steps on the CPU; each of [`Plan::early`] is shown to `take` as soon as it is there: its number
    /// and its bytes.
    ///
    /// # Panics
    /// On a device with memory of its own.
    pub fn run_with_early(
        &mut self,
        inputs: &[(&str, HostTensor)],
        take: impl FnMut(usize, &[u8]) -> Result<()> + Send,
    ) -> Result<Outputs> {
        let inputs = self.given(inputs)?;
        let Executable { plan, workspace, side: Side::Cpu { device, leaves, streamed } } = self else {
            panic!("early outputs of another device stay in its memory")
        };
        leaves.extend(inputs);
        exec_cpu::run(plan, leaves, workspace, device, streamed.as_ref(), |_, _| Ok(()), take)
    }

    /// The parameters of a plan on the CPU, by key, to be changed between runs.
    ///
    /// # Panics
    /// On a device with memory of its own.
    pub fn params_mut(&mut self) -> impl Iterator<Item = (&str, &mut HostTensor)> {
        let Executable { plan, side: Side::Cpu { leaves, .. }, .. } = self else {
            panic!("parameters of another device are in its memory")
        };
        leaves.iter_mut().filter_map(|(v, t)| match &plan.graph.values[v.index()].origin {
            Origin::Param(key) => Some((key.as_str(), t)),
            _ => None,
        })
    }

    /// On a device with memory of its own: the caller changes parameters between runs. Returns where each lies,
    /// in the element type of [`Plan::leaf_dtype`], by key.
    ///
    /// # Panics
    /// On a CPU.
    pub fn changing_params(&mut self) -> HashMap<String, (u64, DType)> {
        let Executable { plan, side: Side::Kernels(run), .. } = self else {
            panic!("parameters of a CPU are changed by params_mut")
        };
        run.params_change();
        let place = |(key, v): (&str, ValueId)| (key.to_owned(), (run.param(v), plan.leaf_dtype(v)));
        plan.graph.params().map(place).collect()
    }

    /// The parameters of a plan on the CPU as they are now, by key.
    ///
    /// # Panics
    /// As [`Executable::params_mut`].
    pub fn params(&self) -> impl Iterator<Item = (&str, &HostTensor)> {
        let Side::Cpu { leaves, .. } = &self.side else {
            panic!("parameters of another device are in its memory")
        };
        self.plan.graph.params().map(|(key, v)| (key, &leaves[&v]))
    }

    /// Starts all steps `times` times over the inputs of the last run, then waits: what a bench measures on a
    /// device with memory of its own.
    ///
    /// # Panics
    /// On a CPU, and before the first run.
    pub fn replay(&mut self, times: usize) -> Result<()> {
        match &mut self.side {
            Side::Cpu { .. } => panic!("a CPU has no copies to leave out; use run"),
            Side::Kernels(run) => run.replay(&self.plan, &self.workspace, times),
        }
    }

    /// Whether runs start a recording of all launches, as on a GPU after the first run.
    pub fn is_recorded(&self) -> bool {
        matches!(&self.side, Side::Kernels(run) if run.is_recorded())
    }

    fn run_steps(
        &mut self,
        inputs: &[(&str, HostTensor)],
        show: bool,
        observe: impl FnMut(&Step, &[StepResult]) -> Result<()> + Send,
    ) -> Result<Outputs> {
        let inputs = self.given(inputs)?;
        let Executable { plan, workspace, side } = self;
        match side {
            Side::Cpu { device, leaves, streamed } => {
                leaves.extend(inputs);
                exec_cpu::run(plan, leaves, workspace, device, streamed.as_ref(), observe, |_, _| Ok(()))
            }
            Side::Kernels(run) => run.run(plan, inputs, workspace, show, observe),
        }
    }

    /// The inputs by value, in the graph's types; or which is missing, unknown or unfit.
    pub(crate) fn given(&self, inputs: &[(&str, HostTensor)]) -> Result<Vec<(ValueId, HostTensor)>> {
        let wanted: Vec<(&str, ValueId)> = self.plan.graph.inputs().collect();
        for (name, _) in inputs {
            if !wanted.iter().any(|(n, _)| n == name) {
                let names: Vec<_> = wanted.iter().map(|(n, _)| *n).collect();
                let names = names.join(", ");
                return Err(Error::Usage(format!("there is no input \"{name}\"; expected {names}")));
            }
        }
        wanted
            .into_iter()
            .map(|(name, v)| {
                let Some((_, t)) = inputs.iter().find(|(n, _)| *n == name) else {
                    return Err(Error::Usage(format!("input \"{name}\" is missing")));
                };
                let ty = self.plan.graph.ty(v);
                check_shape(t, ty.dtype, &ty.shape)
                    .map_err(|m| Error::Usage(format!("input \"{name}\" {m}")))?;
                Ok((v, convert(t, ty.dtype)))
            })
            .collect()
    }
}

/// Whether `t` has this shape and can be had in this dtype; or what is wrong with it.
fn check_shape(t: &HostTensor, dtype: DType, shape: &[usize]) -> Result<(), String> {
    if t.shape() != shape {
        return Err(format!("has shape {:?}, expected {shape:?}", t.shape()));
    }
    match (t.dtype(), dtype) {
        (from, to) if from == to || from.is_float() && to.is_float() => Ok(()),
        (from, DType::I64) if !from.is_float() => Ok(()),
        (from, to) => Err(format!("is {from}, expected {to}")),
    }
}

/// `t` in this dtype, which [`check_shape`] allowed, aligned.
fn convert(t: &HostTensor, dtype: DType) -> HostTensor {
    match (t.dtype(), dtype) {
        (from, to) if from == to => t.aligned(),
        (_, DType::I64) => HostTensor::from_i64(t.shape(), t.to_i64()),
        (_, to) => t.cast(to),
    }
}
