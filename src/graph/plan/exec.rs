//! Runs a plan on the CPU device.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::steps::{Place, Plan, Source, Step};
use crate::device::cpu::{Arena, CpuDevice};
use crate::error::{Error, Result};
use crate::graph::ir::{Graph, Origin, TensorType, ValueId};
use crate::graph::op::{CpuCall, Operand, OperandData, Output};
use crate::tensor::{DType, HostTensor};

/// A plan with parameters bound and its arena allocated: ready to run any number of times.
pub struct Executable {
    plan: Plan,
    leaves: HashMap<ValueId, HostTensor>,
    workspace: Workspace,
    device: Arc<CpuDevice>,
    /// Per step the parameters that no later step reads, if their pages are to be given back.
    streamed: Option<Vec<Vec<ValueId>>>,
}

/// Working memory that executables which never run at the same time share: as large as the
/// largest arena among those that have run.
#[derive(Clone, Default)]
pub struct Workspace(Arc<Mutex<Option<Arena>>>);

impl Workspace {
    /// No memory yet; the first run takes what it needs.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arena>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Gives the memory back to the system until the next run.
    pub fn release(&self) {
        *self.lock() = None;
    }
}

/// At least `size` bytes in `slot`.
fn reserve(slot: &mut Option<Arena>, size: usize) -> Result<&mut Arena> {
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
    /// tensor in another float dtype than the graph's is converted.
    pub fn new(
        plan: Plan,
        device: Arc<CpuDevice>,
        param: impl FnMut(&str) -> Option<HostTensor>,
    ) -> Result<Self> {
        let workspace = Workspace::new();
        reserve(&mut workspace.lock(), plan.arena_bytes)?;
        Self::in_workspace(plan, device, param, &workspace)
    }

    /// As [`Executable::new`], with its arena in memory that other executables use too.
    pub fn in_workspace(
        plan: Plan,
        device: Arc<CpuDevice>,
        mut param: impl FnMut(&str) -> Option<HostTensor>,
        workspace: &Workspace,
    ) -> Result<Self> {
        let mut leaves = HashMap::new();
        for (i, v) in plan.graph.values.iter().enumerate() {
            let tensor = match &v.origin {
                Origin::Param(key) => {
                    let t = param(key)
                        .ok_or_else(|| Error::Weights(format!("parameter \"{key}\" is missing")))?;
                    fit(&t, v.ty.dtype, &v.ty.shape)
                        .map_err(|m| Error::Weights(format!("parameter \"{key}\" {m}")))?
                }
                Origin::Const(t) => t.aligned(),
                _ => continue,
            };
            leaves.insert(ValueId(i as u32), tensor);
        }
        Ok(Executable { plan, leaves, workspace: workspace.clone(), device, streamed: None })
    }

    /// From here on parameters that lie in mapped files give their memory back as soon as the
    /// last step that reads them is over; the next run reads them from the file again.
    pub fn stream_params(&mut self) {
        let mut last = HashMap::new();
        for (i, step) in self.plan.steps.iter().enumerate() {
            for place in &step.inputs {
                if let Source::Leaf(v) = place.source {
                    last.insert(v, i);
                }
            }
        }
        let mut streamed = vec![Vec::new(); self.plan.steps.len()];
        for (v, i) in last {
            if matches!(self.plan.graph.values[v.index()].origin, Origin::Param(_)) {
                streamed[i].push(v);
            }
        }
        self.streamed = Some(streamed);
    }

    /// The plan that is run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The graph that is run.
    pub fn graph(&self) -> &Graph {
        &self.plan.graph
    }

    /// Runs all steps; `inputs` are given by name, each exactly once.
    pub fn run(&mut self, inputs: &[(&str, HostTensor)]) -> Result<Outputs> {
        self.run_observed(inputs, |_, _| Ok(()))
    }

    /// Runs node by node and stops at the first result that holds NaN or infinity, naming it.
    pub fn run_checked(&mut self, inputs: &[(&str, HostTensor)]) -> Result<Outputs> {
        reserve(&mut self.workspace.lock(), self.plan.arena_bytes)?.poison();
        self.run_observed(inputs, |step, results| {
            for (k, (ty, bytes)) in results.iter().enumerate() {
                if ty.dtype != DType::F32 {
                    continue;
                }
                let data: &[f32] = bytemuck::cast_slice(bytes);
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
    /// run with an error (Ctrl-C between steps, progress).
    pub fn run_observed(
        &mut self,
        inputs: &[(&str, HostTensor)],
        mut observe: impl FnMut(&Step, &[StepResult]) -> Result<()> + Send,
    ) -> Result<Outputs> {
        self.bind_inputs(inputs)?;
        let Executable { plan, leaves, workspace, device, streamed } = self;
        let mut slot = workspace.lock();
        let base = reserve(&mut slot, plan.arena_bytes)?.as_mut_ptr();
        let memory = Memory { plan, leaves, base };
        device.run(|| {
            for (i, step) in plan.steps.iter().enumerate() {
                run_step(step, &memory)?;
                if let Some(streamed) = streamed {
                    streamed[i].iter().for_each(|v| leaves[v].release());
                }
                // SAFETY: the step is over; nothing else touches the arena now.
                let results: Vec<_> =
                    step.outputs.iter().map(|p| (&p.ty, unsafe { memory.bytes(p) })).collect();
                observe(step, &results)?;
            }
            // SAFETY: all steps are over.
            Ok(plan.outputs.iter().map(|(n, p)| (n.clone(), unsafe { memory.to_host(p) })).collect())
        })
    }

    fn bind_inputs(&mut self, inputs: &[(&str, HostTensor)]) -> Result<()> {
        let wanted: Vec<(String, ValueId)> =
            self.plan.graph.inputs().map(|(n, v)| (n.to_owned(), v)).collect();
        for (name, _) in inputs {
            if !wanted.iter().any(|(n, _)| n == name) {
                let names: Vec<_> = wanted.iter().map(|(n, _)| n.as_str()).collect();
                let names = names.join(", ");
                return Err(Error::Usage(format!("there is no input \"{name}\"; expected {names}")));
            }
        }
        for (name, v) in wanted {
            let Some((_, t)) = inputs.iter().find(|(n, _)| *n == name) else {
                return Err(Error::Usage(format!("input \"{name}\" is missing")));
            };
            let ty = self.plan.graph.ty(v);
            let t = fit(t, ty.dtype, &ty.shape).map_err(|m| Error::Usage(format!("input \"{name}\" {m}")))?;
            self.leaves.insert(v, t);
        }
        Ok(())
    }
}

/// `t` in the dtype and shape that the graph asks for, aligned; or what is wrong with it.
fn fit(t: &HostTensor, dtype: DType, shape: &[usize]) -> Result<HostTensor, String> {
    if t.shape() != shape {
        return Err(format!("has shape {:?}, expected {shape:?}", t.shape()));
    }
    if t.dtype() == dtype {
        return Ok(t.aligned());
    }
    match (t.dtype(), dtype) {
        (from, to) if from.is_float() && to.is_float() => Ok(t.cast(to)),
        (from, DType::I64) if !from.is_float() => Ok(HostTensor::from_i64(shape, t.to_i64())),
        (from, to) => Err(format!("is {from}, expected {to}")),
    }
}

struct Memory<'a> {
    plan: &'a Plan,
    leaves: &'a HashMap<ValueId, HostTensor>,
    base: *mut u8,
}

// SAFETY: the pointer is only used by the one thread that walks the plan; kernels see slices.
unsafe impl Send for Memory<'_> {}
// SAFETY: as above.
unsafe impl Sync for Memory<'_> {}

impl Memory<'_> {
    /// The bytes of an operand from its first to its last element.
    ///
    /// # Safety
    /// No live mutable slice may overlap the operand's buffer.
    unsafe fn bytes(&self, p: &Place) -> &[u8] {
        let size = p.ty.dtype.size();
        let (start, len) = (p.layout.offset * size, p.layout.span() * size);
        match p.source {
            Source::Leaf(v) => &self.leaves[&v].bytes()[start..start + len],
            Source::Arena(b) => {
                let buffer = self.plan.buffers[b];
                assert!(start + len <= buffer.size, "operand outside its buffer");
                // SAFETY: inside the arena by the assertion; aliasing is the caller's promise.
                unsafe { std::slice::from_raw_parts(self.base.add(buffer.offset + start), len) }
            }
        }
    }

    /// The whole of an arena buffer.
    ///
    /// # Safety
    /// No other live slice may overlap it.
    #[allow(clippy::mut_from_ref)]
    unsafe fn bytes_mut(&self, b: usize) -> &mut [u8] {
        let buffer = self.plan.buffers[b];
        // SAFETY: the plan keeps every buffer inside the arena; aliasing is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(buffer.offset), buffer.size) }
    }

    /// # Safety
    /// As for `bytes`.
    unsafe fn to_host(&self, p: &Place) -> HostTensor {
        // SAFETY: passed on.
        let bytes = unsafe { self.bytes(p) };
        HostTensor::copy_of(p.ty.dtype, &p.ty.shape, bytes)
    }
}

fn run_step(step: &Step, memory: &Memory) -> Result<()> {
    // SAFETY: the plan gives operands, results and scratch of one step disjoint arena ranges
    // (their lifetimes overlap at this step), except the in-place operand, which gets no slice.
    unsafe {
        let Some(op) = &step.op else {
            let src = &step.inputs[0];
            let Source::Arena(b) = step.outputs[0].source else { unreachable!("results lie in the arena") };
            crate::device::cpu::copy_strided(
                memory.bytes(src),
                &src.layout.shape,
                &src.layout.strides,
                src.ty.dtype.size(),
                memory.bytes_mut(b),
            );
            return Ok(());
        };
        let locals: Vec<_> =
            step.inputs.iter().map(|p| crate::graph::Layout { offset: 0, ..p.layout.clone() }).collect();
        let inputs = step
            .inputs
            .iter()
            .zip(&locals)
            .enumerate()
            .map(|(k, (p, layout))| Operand {
                ty: &p.ty,
                layout,
                data: if step.in_place == Some(k) {
                    OperandData::InOutput
                } else {
                    OperandData::Apart(memory.bytes(p))
                },
            })
            .collect();
        let outputs = step
            .outputs
            .iter()
            .map(|p| {
                let Source::Arena(b) = p.source else { unreachable!("results lie in the arena") };
                Output { ty: &p.ty, data: memory.bytes_mut(b) }
            })
            .collect();
        let scratch = match step.scratch {
            Some(b) => memory.bytes_mut(b),
            None => &mut [],
        };
        op.cpu(CpuCall { inputs, outputs, scratch }).map_err(|message| Error::Graph {
            path: step.path.to_string(),
            op: op.name().to_owned(),
            message,
        })
    }
}
