//! Runs a plan on a device that takes kernel launches: a GPU, or the simulator.
//!
//! Nothing is decided while it runs: launches are made once, when addresses are known, and replayed by
//! every run (as one recording, where the device can record). A run copies inputs in, starts the launches
//! and copies outputs out; in between nothing is allocated and nobody waits.

use std::collections::HashMap;
use std::sync::Arc;

use super::exec::{Outputs, StepResult, Workspace};
use super::steps::{EarlyOutput, Place, Plan, Source, Step};
use super::target::Target;
use crate::device::Kernels;
use crate::device::kernel::{
    DeviceFacts, DeviceMemory, DeviceParam, KernelDevice, Launch, Recording, TensorMapSpec,
};
use crate::device::library::{Libraries, LibraryCall, Parameter};
use crate::error::{Error, Result};
use crate::ffi;
use crate::graph::Layout;
use crate::graph::cuda::{CudaCall, CudaOperand, CudaResult};
use crate::graph::ir::{Origin, TensorType, ValueId};
use crate::graph::strided;
use crate::tensor::{DType, HostTensor};
use crate::trace;

/// A plan's leaves in device memory, and its launches.
pub(super) struct KernelRun {
    device: Arc<dyn KernelDevice>,
    params: HashMap<ValueId, Arc<DeviceParam>>,
    inputs: HashMap<ValueId, Input>,
    bound: Option<Bound>,
    /// Whether parameters change between runs, so that nothing may read copies of them.
    params_change: bool,
}

/// A graph input's place, from the first run on, and what lies there now: inputs that stay the same from run
/// to run are uploaded once.
#[derive(Default)]
struct Input {
    memory: Option<DeviceMemory>,
    holds: Option<HostTensor>,
}

/// A plan's launches over memory of the caller, to be replayed by it, alone or among others.
pub struct BoundPlan {
    /// The launches in order.
    pub launches: Vec<Launch>,
    /// Results by name: dense, in the working memory, until other launches use it.
    pub outputs: Vec<(String, CudaResult)>,
    /// [`Plan::early`]: after how many launches each is there, and where it is until the next one.
    pub early: Vec<(usize, CudaResult)>,
    /// What the launches point into besides: parameters, as libraries want them too, and tables that ops
    /// brought along.
    _params: Vec<Arc<DeviceParam>>,
    _constants: Vec<DeviceMemory>,
}

/// Launches over an arena at a known address.
struct Bound {
    arena: u64,
    /// Launches of each step.
    steps: Vec<Vec<Launch>>,
    recording: Option<Arc<dyn Recording>>,
    /// Tables that ops brought along, and parameters as libraries want them; the launches point into them.
    _constants: Vec<DeviceMemory>,
}

/// A parameter in another order or element type: which, how it is read, and the copy.
type Copied = ((ValueId, Layout, DType), DeviceMemory);

impl KernelRun {
    /// Uploads parameters and constants.
    pub fn new(plan: &Plan, kernels: &Kernels, leaves: &HashMap<ValueId, HostTensor>) -> Result<Self> {
        let device = kernels.device.clone();
        let mut params = HashMap::new();
        let mut inputs = HashMap::new();
        for (i, v) in plan.graph.values.iter().enumerate() {
            let id = ValueId(i as u32);
            match &v.origin {
                Origin::Param(_) | Origin::Const(_) => {
                    params.insert(id, kernels.params.get(&device, &leaves[&id], plan.leaf_dtype(id))?);
                }
                Origin::Input(_) => {
                    inputs.insert(id, Input::default());
                }
                Origin::Node { .. } => {}
            }
        }
        Ok(KernelRun { device, params, inputs, bound: None, params_change: false })
    }

    /// From here on nothing that is bound reads copies of parameters.
    pub fn params_change(&mut self) {
        self.params_change = true;
        self.bound = None;
    }

    /// Where a parameter lies.
    pub fn param(&self, v: ValueId) -> u64 {
        self.params[&v].memory().address()
    }

    /// Gives the host's pages of uploaded parameters back.
    pub fn release_sources(&self) {
        self.params.values().for_each(|p| p.release_source());
    }

    /// Runs all steps. With `show`, waits after each and shows its results.
    pub fn run(
        &mut self,
        plan: &Plan,
        inputs: Vec<(ValueId, HostTensor)>,
        workspace: &Workspace,
        show: bool,
        mut observe: impl FnMut(&Step, &[StepResult]) -> Result<()> + Send,
    ) -> Result<Outputs> {
        for (v, tensor) in inputs {
            let input = self.inputs.get_mut(&v).expect("a place for every input");
            let same = |held: &HostTensor| std::ptr::eq(held.bytes(), tensor.bytes());
            if !input.holds.as_ref().is_some_and(same) {
                let dtype = plan.leaf_dtype(v);
                let kept = if tensor.dtype() == dtype { tensor.clone() } else { tensor.cast(dtype) };
                let memory = match &mut input.memory {
                    Some(memory) => memory,
                    none => none.insert(DeviceMemory::new(&self.device, kept.bytes().len())?),
                };
                memory.write(kept.bytes())?;
                input.holds = Some(tensor);
            }
        }
        let mut slot = workspace.device();
        let arena = reserve(&mut slot, &self.device, plan.arena_bytes)?;
        self.start(plan, arena, show, &mut observe)?;
        plan.outputs
            .iter()
            .map(|(name, place)| {
                let mut bytes = vec![0; place.ty.bytes()];
                self.read(plan, arena, place, &mut bytes)?;
                let wide =
                    plan.graph.outputs.iter().find(|(n, _)| n == name).map(|(_, v)| plan.graph.ty(*v).dtype);
                let tensor = HostTensor::copy_of(place.ty.dtype, &place.ty.shape, &bytes);
                Ok((
                    name.clone(),
                    if place.ty.dtype.is_float() { tensor.cast(wide.expect("an output")) } else { tensor },
                ))
            })
            .collect()
    }

    /// Runs all steps over inputs in device memory, and copies results to where they are wanted; waits for
    /// nothing.
    pub fn run_on_device(
        &mut self,
        plan: &Plan,
        inputs: &[(ValueId, CudaOperand)],
        outputs: &[(&Place, CudaResult)],
        workspace: &Workspace,
        mut observe: impl FnMut(&Step, &[StepResult]) -> Result<()> + Send,
    ) -> Result<()> {
        for (v, operand) in inputs {
            let (ty, input) = (plan.input_type(*v), self.inputs.get_mut(v).expect("a place for every input"));
            input.holds = None; // no host tensor's contents from here on
            let memory = match &mut input.memory {
                Some(memory) => memory,
                none => none.insert(DeviceMemory::new(&self.device, ty.bytes())?),
            };
            let address = memory.address();
            self.convert(operand, &CudaResult { ty, address })?;
        }
        let mut slot = workspace.device();
        let arena = reserve(&mut slot, &self.device, plan.arena_bytes)?;
        self.start(plan, arena, false, &mut observe)?;
        for (place, result) in outputs {
            let address = self.address(plan, arena.address(), &|v| self.own_input(v), place);
            let layout = Layout::dense(&place.ty.shape);
            self.convert(&CudaOperand { ty: place.ty.clone(), layout: &layout, address }, result)?;
        }
        Ok(())
    }

    /// Copies a tensor in device memory into another element type or layout.
    fn convert(&self, from: &CudaOperand, to: &CudaResult) -> Result<()> {
        let launches = strided::cast(from, to).map_err(Error::Run)?;
        // SAFETY: the caller's operands, and memory of `self` or of the workspace that is held.
        unsafe { self.device.launch(&launches) }
            .map_err(|(i, message)| Error::Run(format!("{}: {message}", launches[i].kernel)))
    }

    /// Starts all steps over inputs that are in their places. With `show`, waits after each and shows its
    /// results.
    fn start(
        &mut self,
        plan: &Plan,
        arena: &DeviceMemory,
        show: bool,
        observe: &mut (impl FnMut(&Step, &[StepResult]) -> Result<()> + Send),
    ) -> Result<()> {
        self.bind(plan, arena.address())?;
        let bound = self.bound.as_ref().expect("just bound");
        match &bound.recording {
            Some(recording) if !show && !trace::ops() => {
                // SAFETY: leaves and constants are held by `self`, the arena by `slot`.
                unsafe { recording.start() }?;
                plan.steps.iter().try_for_each(|step| observe(step, &[]))?;
            }
            _ => {
                let mut ranges = trace::Ops::default();
                for (step, launches) in plan.steps.iter().zip(&bound.steps) {
                    let _range = ranges.begin(&step.path, step.name());
                    // SAFETY: as above.
                    unsafe { self.device.launch(launches) }
                        .map_err(|(i, message)| failed(step, format!("{}: {message}", launches[i].kernel)))?;
                    let mut shown = Vec::new();
                    if show {
                        self.device.synchronize().map_err(|e| failed(step, e.to_string()))?;
                        for place in &step.outputs {
                            let mut bytes = vec![0; place.ty.bytes()];
                            self.read(plan, arena, place, &mut bytes)?;
                            shown.push((&place.ty, bytes));
                        }
                    }
                    let results: Vec<StepResult> = shown.iter().map(|(ty, b)| (*ty, b.as_slice())).collect();
                    observe(step, &results)?;
                }
            }
        }
        Ok(())
    }

    /// Starts all launches `times` times over inputs that are in place, then waits.
    ///
    /// # Panics
    /// Before the first run.
    pub fn replay(&self, plan: &Plan, workspace: &Workspace, times: usize) -> Result<()> {
        let slot = workspace.device();
        let bound = self.bound.as_ref().expect("a run came before");
        let arena = slot.as_ref().expect("a run came before");
        assert_eq!(arena.address(), bound.arena, "another plan has moved the workspace");
        for _ in 0..times {
            match &bound.recording {
                // SAFETY: leaves and constants are held by `self`, the arena by `slot`.
                Some(recording) => unsafe { recording.start() }?,
                None => {
                    for (step, launches) in plan.steps.iter().zip(&bound.steps) {
                        // SAFETY: as above.
                        unsafe { self.device.launch(launches) }.map_err(|(i, message)| {
                            failed(step, format!("{}: {message}", launches[i].kernel))
                        })?;
                    }
                }
            }
        }
        self.device.synchronize()
    }

    /// Whether runs start a recording.
    pub fn is_recorded(&self) -> bool {
        self.bound.as_ref().is_some_and(|b| b.recording.is_some())
    }

    /// The device address of an operand's or result's first element; `input` knows those of graph inputs.
    fn address(&self, plan: &Plan, arena: u64, input: &dyn Fn(ValueId) -> u64, place: &Place) -> u64 {
        let start = match place.source {
            Source::Arena(b) => arena + plan.buffers[b].offset as u64,
            Source::Leaf(v) => match self.params.get(&v) {
                Some(param) => param.memory().address(),
                None => input(v),
            },
        };
        start + (place.layout.offset * place.ty.dtype.size()) as u64
    }

    /// Where a graph input lies that a run was given.
    fn own_input(&self, v: ValueId) -> u64 {
        self.inputs[&v].memory.as_ref().expect("uploaded before anything runs").address()
    }

    /// Copies a dense result to the host.
    fn read(&self, plan: &Plan, arena: &DeviceMemory, place: &Place, to: &mut [u8]) -> Result<()> {
        let at = self.address(plan, arena.address(), &|v| self.own_input(v), place);
        // SAFETY: the plan keeps results inside the arena, and leaves are ours.
        unsafe { self.device.download(at, to) }
    }

    /// Makes the launches, unless they are made for this arena already.
    fn bind(&mut self, plan: &Plan, arena: u64) -> Result<()> {
        if self.bound.as_ref().is_some_and(|b| b.arena == arena) {
            return Ok(());
        }
        self.bound = None;
        let (steps, constants) = self.launches(plan, arena, &|v| self.own_input(v))?;
        let all: Vec<Launch> = steps.iter().flatten().cloned().collect();
        // SAFETY: a recording is started by `run` only, which holds the memory.
        let recording = unsafe { self.device.record(&all) }.transpose()?;
        self.bound = Some(Bound { arena, steps, recording, _constants: constants });
        Ok(())
    }

    /// The launches over inputs that lie where the caller says.
    pub fn bind_to(&self, plan: &Plan, arena: u64, input: &dyn Fn(ValueId) -> u64) -> Result<BoundPlan> {
        let (steps, constants) = self.launches(plan, arena, input)?;
        let result = |(name, place): &(String, Place)| {
            let address = self.address(plan, arena, input, place);
            (name.clone(), CudaResult { ty: place.ty.clone(), address })
        };
        let mut launches_before = vec![0];
        for launches in &steps {
            launches_before.push(launches_before.last().expect("one at least") + launches.len());
        }
        let early = |output: &EarlyOutput| {
            let address = self.address(plan, arena, input, &output.place);
            (launches_before[output.after], CudaResult { ty: output.place.ty.clone(), address })
        };
        Ok(BoundPlan {
            early: plan.early.iter().map(early).collect(),
            launches: steps.into_iter().flatten().collect(),
            outputs: plan.outputs.iter().map(result).collect(),
            _params: self.params.values().cloned().collect(),
            _constants: constants,
        })
    }

    /// The launches of each step, and the tables and copies that they point into. Steps may run in the arena.
    fn launches(
        &self,
        plan: &Plan,
        arena: u64,
        input: &dyn Fn(ValueId) -> u64,
    ) -> Result<(Vec<Vec<Launch>>, Vec<DeviceMemory>)> {
        let mut constants = Vec::new();
        let mut steps = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let mut refused = None;
            let mut upload = |bytes: &[u8]| match DeviceMemory::of(&self.device, bytes) {
                Ok(memory) => {
                    constants.push(memory);
                    constants.last().expect("just pushed").address()
                }
                Err(e) => {
                    refused.get_or_insert(e);
                    0
                }
            };
            let scratch = step.scratch.map_or(0, |b| arena + plan.buffers[b].offset as u64);
            let address = |place: &Place| self.address(plan, arena, input, place);
            let launches = launches(step, &address, scratch, self.device.facts(), &mut upload, &|spec| {
                self.device.tensor_map(spec)
            });
            if let Some(e) = refused {
                return Err(e);
            }
            let launches = launches?;
            for launch in &launches {
                self.device.check(launch).map_err(|m| failed(step, m))?;
            }
            steps.push(launches);
        }
        if let Some(libraries) = self.device.libraries() {
            constants.extend(self.hand_to_libraries(plan, arena, input, libraries, &mut steps)?);
        }
        Ok((steps, constants))
    }

    /// The launches of each step, if they have been made.
    pub fn bound_launches(&self) -> Option<&[Vec<Launch>]> {
        self.bound.as_ref().map(|b| b.steps.as_slice())
    }

    /// Replaces the launches of steps that libraries are to compute. Nothing in the arena may be of value: both
    /// ways may run to find out which is faster. Returns what the new launches point into.
    fn hand_to_libraries(
        &self,
        plan: &Plan,
        arena: u64,
        input: &dyn Fn(ValueId) -> u64,
        libraries: &dyn Libraries,
        steps: &mut [Vec<Launch>],
    ) -> Result<Vec<DeviceMemory>> {
        let address = |place: &Place| self.address(plan, arena, input, place);
        let (mut copies, mut calls) = (Vec::new(), Vec::new());
        for (i, step) in plan.steps.iter().enumerate().filter(|(i, _)| !steps[*i].is_empty()) {
            let described = library_call(step, &address, self.device.facts());
            let Some(mut call) = described else { continue };
            let mut placed = true;
            for p in call.parameters_mut() {
                placed &= self.place_parameter(step, p, &address, &mut copies)?;
            }
            if placed {
                calls.push((i, call));
            }
        }
        let asked: Vec<_> = calls.iter().map(|(i, call)| (call.clone(), steps[*i].as_slice())).collect();
        // SAFETY: the plan's addresses, live as in `run`; the copies live until the launches go.
        let chosen = unsafe { libraries.choose(&asked) }?;
        let mut used = Vec::new();
        for ((i, mut call), launch) in calls.into_iter().zip(chosen) {
            let Some(launch) = launch else { continue };
            tracing::debug!("{}: {} by {}", plan.steps[i].path, plan.steps[i].name(), call.library());
            used.extend(call.parameters_mut().map(|p| p.address));
            steps[i] = vec![launch];
        }
        Ok(copies.into_iter().map(|(_, m): Copied| m).filter(|m| used.contains(&m.address())).collect())
    }

    /// Puts a parameter where a library can read it as it wants; false if it is none of the plan's parameters
    /// and lies otherwise.
    fn place_parameter(
        &self,
        step: &Step,
        p: &mut Parameter,
        address: &dyn Fn(&Place) -> u64,
        copies: &mut Vec<Copied>,
    ) -> Result<bool> {
        let place = &step.inputs[p.operand];
        let layout = place.layout.permute(&p.order);
        if layout.is_dense() && place.ty.dtype == p.dtype {
            return Ok(true);
        }
        let Source::Leaf(v) = place.source else { return Ok(false) };
        if self.params_change || !self.params.contains_key(&v) {
            return Ok(false);
        }
        let key = (v, layout, p.dtype);
        if let Some((_, memory)) = copies.iter().find(|(k, _)| *k == key) {
            p.address = memory.address();
            return Ok(true);
        }
        let layout = Layout { offset: 0, ..key.1.clone() };
        let ty = |dtype| TensorType { dtype, shape: layout.shape.clone() };
        // A device that has no room for a copy has the step's own launches.
        let Ok(memory) = DeviceMemory::new(&self.device, ty(p.dtype).bytes()) else { return Ok(false) };
        let from = CudaOperand { ty: ty(place.ty.dtype), layout: &layout, address: address(place) };
        let to = CudaResult { ty: ty(p.dtype), address: memory.address() };
        let launches = strided::cast(&from, &to).map_err(|m| failed(step, m))?;
        // SAFETY: a parameter and our own memory.
        unsafe { self.device.launch(&launches) }
            .map_err(|(i, message)| failed(step, format!("{}: {message}", launches[i].kernel)))?;
        p.address = memory.address();
        copies.push((key, memory));
        Ok(true)
    }
}

/// At least `bytes` of device memory in `slot`.
pub(super) fn reserve<'a>(
    slot: &'a mut Option<DeviceMemory>,
    device: &Arc<dyn KernelDevice>,
    bytes: usize,
) -> Result<&'a DeviceMemory> {
    if slot.as_ref().is_none_or(|m| m.len() < bytes) {
        *slot = None; // the old block goes before the new one comes
        *slot = Some(DeviceMemory::new(device, bytes)?);
    }
    Ok(slot.as_ref().expect("just set"))
}

impl Plan {
    /// The type in which a graph input lies in device memory.
    pub fn input_type(&self, v: ValueId) -> TensorType {
        TensorType { dtype: self.leaf_dtype(v), ..self.graph.ty(v).clone() }
    }

    /// The launches of each step, over addresses that mean nothing: to count them, and to see which kernels
    /// a plan chose.
    ///
    /// # Errors
    /// If an op has no kernel for what it is given here.
    pub fn cuda_launches(&self) -> Result<Vec<Vec<Launch>>> {
        let Target::Cuda { facts, .. } = self.target else { return Ok(vec![vec![]; self.steps.len()]) };
        let address = |place: &Place| self.imagined(place);
        self.steps
            .iter()
            .map(|step| {
                let scratch = step.scratch.map_or(0, |b| (1 << 40) + self.buffers[b].offset as u64);
                launches(step, &address, scratch, facts, &mut |_| 1 << 60, &no_map)
            })
            .collect()
    }

    /// What libraries can compute in place of a step's own launches, over the same addresses. Which of both
    /// runs is measured on a device that has the library.
    pub fn library_calls(&self) -> Vec<Option<LibraryCall>> {
        let Target::Cuda { facts, .. } = self.target else { return vec![None; self.steps.len()] };
        self.steps.iter().map(|step| library_call(step, &|place| self.imagined(place), facts)).collect()
    }

    /// An address that means nothing: buffers far apart, so that no two look alike; leaves above all of them.
    fn imagined(&self, place: &Place) -> u64 {
        let start = match place.source {
            Source::Arena(b) => (1 << 40) + self.buffers[b].offset as u64,
            Source::Leaf(v) => (1 << 50) + ((v.index() as u64) << 36),
        };
        start + (place.layout.offset * place.ty.dtype.size()) as u64
    }
}

/// Shows a step to `look` as its op sees it on a device. `constants` takes tables to device memory.
fn as_call<R>(
    step: &Step,
    address: &dyn Fn(&Place) -> u64,
    scratch: u64,
    device: DeviceFacts,
    constants: &mut dyn FnMut(&[u8]) -> u64,
    tensor_map: &dyn Fn(&TensorMapSpec) -> Result<ffi::TensorMap, String>,
    look: impl FnOnce(&mut CudaCall) -> R,
) -> R {
    let locals: Vec<_> = step.inputs.iter().map(|p| Layout { offset: 0, ..p.layout.clone() }).collect();
    let operands = step.inputs.iter().zip(&locals);
    let inputs: Vec<_> =
        operands.map(|(p, layout)| CudaOperand { ty: p.ty.clone(), layout, address: address(p) }).collect();
    let outputs: Vec<_> =
        step.outputs.iter().map(|p| CudaResult { ty: p.ty.clone(), address: address(p) }).collect();
    look(&mut CudaCall { inputs, outputs, scratch, device, constants, tensor_map })
}

/// Turns a step into launches. `constants` takes tables to device memory.
fn launches(
    step: &Step,
    address: &dyn Fn(&Place) -> u64,
    scratch: u64,
    device: DeviceFacts,
    constants: &mut dyn FnMut(&[u8]) -> u64,
    tensor_map: &dyn Fn(&TensorMapSpec) -> Result<ffi::TensorMap, String>,
) -> Result<Vec<Launch>> {
    as_call(step, address, scratch, device, constants, tensor_map, |call| match &step.op {
        Some(op) => op.cuda(call),
        // The same copies and conversions, whether an op asks for them or the plan.
        None => strided::cast(&call.inputs[0], &call.outputs[0]),
    })
    .map_err(|m| failed(step, m))
}

/// What a library can compute in place of a step's launches.
fn library_call(step: &Step, address: &dyn Fn(&Place) -> u64, device: DeviceFacts) -> Option<LibraryCall> {
    let op = step.op.as_ref()?;
    as_call(step, address, 0, device, &mut |_| 0, &no_map, |call| op.cuda_library(call))
}

/// A tensor map of nothing, where addresses mean nothing.
fn no_map(spec: &TensorMapSpec) -> Result<ffi::TensorMap, String> {
    spec.check().map(|()| Default::default())
}

fn failed(step: &Step, message: String) -> Error {
    Error::Graph { path: step.path.to_string(), op: step.name().to_owned(), message }
}
