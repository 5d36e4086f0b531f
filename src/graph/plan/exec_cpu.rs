//! Walks a plan on the CPU.

use std::collections::HashMap;

use super::exec::Workspace;
use super::steps::{Place, Plan, Source, Step};
use crate::device::cpu::CpuDevice;
use crate::error::{Error, Result};
use crate::graph::ir::ValueId;
use crate::graph::op::{CpuCall, Operand, OperandData, Output};
use crate::tensor::HostTensor;
use crate::trace;

/// Runs all steps over `leaves`; after each step calls `observe` with its results, and `take` with the early
/// outputs that are there by then: their numbers and bytes.
pub(super) fn run(
    plan: &Plan,
    leaves: &HashMap<ValueId, HostTensor>,
    workspace: &Workspace,
    device: &CpuDevice,
    streamed: Option<&Vec<Vec<ValueId>>>,
    mut observe: impl FnMut(&Step, &[super::StepResult]) -> Result<()> + Send,
    mut take: impl FnMut(usize, &[u8]) -> Result<()> + Send,
) -> Result<super::Outputs> {
    let mut slot = workspace.host();
    let base = super::exec::reserve(&mut slot, plan.arena_bytes)?.as_mut_ptr();
    let memory = Memory { plan, leaves, base };
    device.run(|| {
        let mut ranges = trace::Ops::default();
        let mut early = plan.early.iter().enumerate().peekable();
        let mut hand_over = |done: usize| {
            while let Some((k, output)) = early.next_if(|(_, output)| output.after == done) {
                // SAFETY: no step runs now, and none later has written to it.
                take(k, unsafe { memory.bytes(&output.place) })?;
            }
            Ok(())
        };
        hand_over(0)?;
        for (i, step) in plan.steps.iter().enumerate() {
            {
                let _range = ranges.begin(&step.path, step.name());
                run_step(step, &memory)?;
            }
            if let Some(streamed) = streamed {
                streamed[i].iter().for_each(|v| leaves[v].release());
            }
            // SAFETY: the step is over; nothing else touches the arena now.
            let results: Vec<_> = step.outputs.iter().map(|p| (&p.ty, unsafe { memory.bytes(p) })).collect();
            observe(step, &results)?;
            hand_over(i + 1)?;
        }
        // SAFETY: all steps are over.
        Ok(plan.outputs.iter().map(|(n, p)| (n.clone(), unsafe { memory.to_host(p) })).collect())
    })
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
