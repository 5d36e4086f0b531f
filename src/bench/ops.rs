//! A bench case of the op registry as [`Work`]: the fast path alone, outside any plan.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use serde_json::{Value, json};

use super::attributes;
use super::work::Work;
use crate::device::cpu::CpuDevice;
use crate::error::{Error, Result};
use crate::graph::op::{CpuCall, Operand, OperandData, Output};
use crate::graph::{Cost, Layout, TensorType};
use crate::ops::case::{Rng, to_host};
use crate::ops::{Case, CaseInput, Fill};
use crate::tensor::HostTensor;

/// Seed of all operands and weights.
pub const SEED: u64 = 20_241_210;

/// A cache line: memory of kernels starts at one.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Aligned memory of a whole number of cache lines.
struct Memory {
    lines: Vec<Line>,
    bytes: usize,
}

impl Memory {
    fn new(bytes: usize) -> Self {
        Memory { lines: vec![Line::zeroed(); bytes.div_ceil(64)], bytes }
    }

    fn of(data: &[u8]) -> Self {
        let mut m = Self::new(data.len());
        m.get_mut().copy_from_slice(data);
        m
    }

    fn get(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.bytes]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.bytes]
    }
}

/// One op on dense operands.
pub struct OpWork {
    case: Case,
    device: Arc<CpuDevice>,
    types: Vec<TensorType>,
    layouts: Vec<Layout>,
    inputs: Vec<Memory>,
    outputs: Vec<Memory>,
    scratch: Memory,
}

impl OpWork {
    /// Draws the operands and allocates results and working memory.
    pub fn new(case: &Case, device: &Arc<CpuDevice>) -> Result<Self> {
        let types = case.output_types();
        let (ins, outs) = (case.input_types(), types.iter().collect::<Vec<_>>());
        let scratch = case.op.cpu_scratch(&ins, &outs, device.threads());
        let seeded = case.inputs.iter().zip(SEED..);
        Ok(OpWork {
            layouts: ins.iter().map(|t| Layout::dense(&t.shape)).collect(),
            inputs: seeded.map(|(input, seed)| Memory::of(draw(input, seed).bytes())).collect(),
            outputs: types.iter().map(|t| Memory::new(t.bytes())).collect(),
            scratch: Memory::new(scratch),
            case: case.clone(),
            device: device.clone(),
            types,
        })
    }
}

impl Work for OpWork {
    fn run(&mut self) -> Result<()> {
        let OpWork { case, device, types, layouts, inputs, outputs, scratch } = self;
        let call = CpuCall {
            inputs: (case.inputs.iter().zip(layouts.iter()).zip(inputs.iter()))
                .map(|((i, layout), m)| Operand { ty: &i.ty, layout, data: OperandData::Apart(m.get()) })
                .collect(),
            outputs: (outputs.iter_mut().zip(types.iter()))
                .map(|(m, ty)| Output { ty, data: m.get_mut() })
                .collect(),
            scratch: scratch.get_mut(),
        };
        device.run(|| case.op.cpu(call)).map_err(|message| Error::Graph {
            path: format!("bench case {}", case.name),
            op: case.op.name().to_owned(),
            message,
        })
    }

    fn cost(&self) -> Cost {
        self.case.op.cost(&self.case.input_types(), &self.types.iter().collect::<Vec<_>>())
    }

    fn describe(&self) -> Value {
        json!({ "op": self.case.op.name(), "attributes": attributes::of(self.case.op.as_ref()) })
    }

    fn inputs(&self) -> Vec<(String, HostTensor)> {
        let tensor = |(i, m): (&CaseInput, &Memory)| HostTensor::copy_of(i.ty.dtype, &i.ty.shape, m.get());
        let tensors = self.case.inputs.iter().zip(&self.inputs).map(tensor);
        tensors.enumerate().map(|(k, t)| (format!("x{k}"), t)).collect()
    }

    fn output(&self) -> HostTensor {
        HostTensor::copy_of(self.types[0].dtype, &self.types[0].shape, self.outputs[0].get())
    }
}

/// Random numbers are drawn once for this many elements (a prime) and then repeat: the time of a
/// kernel does not depend on them, and a billion normal deviates would take longer than it.
const PERIOD: usize = 1_000_003;

/// The contents of an operand.
pub fn draw(input: &CaseInput, seed: u64) -> HostTensor {
    let mut rng = Rng::new(seed);
    let n = input.ty.len();
    let period = n.min(PERIOD);
    let block: Vec<f32> = match (&input.fill, input.ty.dtype) {
        (Fill::Normal, d) if d.is_float() => (0..period).map(|_| rng.normal() as f32).collect(),
        (Fill::Uniform(lo, hi), d) if d.is_float() => {
            (0..period).map(|_| (lo + (hi - lo) * rng.uniform()) as f32).collect()
        }
        (_, dtype) => return to_host(&input.draw(seed), dtype),
    };
    let data = block.into_iter().cycle().take(n).collect();
    HostTensor::from_f32(input.ty.shape.clone(), data).cast(input.ty.dtype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{check, registry};

    /// The bench runs the same thing as the tests.
    #[test]
    fn results_are_those_of_the_checked_path() {
        let device = Arc::new(CpuDevice::new(2).unwrap());
        for entry in registry() {
            let case = &(entry.cases)()[0];
            let mut work = OpWork::new(case, &device).unwrap();
            work.run().unwrap();
            let inputs: Vec<_> = work.inputs().into_iter().map(|(_, t)| t).collect();
            let expected = check::run_fast(case, &inputs, check::Arrangement::Dense, &device).unwrap();
            assert!(work.output().bytes() == expected[0].bytes(), "{}/{}", entry.name, case.name);
        }
    }

    #[test]
    fn long_operands_repeat() {
        let t = draw(&CaseInput::normal([PERIOD + 5]), 1);
        let x = t.to_f32();
        assert_eq!(x[..5], x[PERIOD..]);
        assert!(x[0] != x[1]);
    }
}
