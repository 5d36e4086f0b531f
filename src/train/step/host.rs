//! The step on the processor: parameters are the plan's own leaves, changed in place between runs.

use std::collections::HashMap;

use rayon::prelude::*;

use super::layout::{GRADIENT, Layout};
use super::{StepOptions, Tensors, Update};
use crate::device::Device;
use crate::error::Result;
use crate::graph::{Executable, Outputs, Plan};
use crate::tensor::HostTensor;
use crate::train::adamw;
use crate::weights::WeightSet;

/// Elements that a thread adds at a time.
const PIECE: usize = 16 * 1024;

pub(super) struct HostStep {
    device: Device,
    exe: Executable,
    layout: Layout,
    /// Sums over the batches since the last update.
    gradients: Vec<Vec<f32>>,
    moments: [Vec<Vec<f32>>; 2],
    ema: Option<Vec<Vec<f32>>>,
}

impl HostStep {
    pub fn new(plan: Plan, device: &Device, weights: &WeightSet, ema: bool) -> Result<Self> {
        let layout = Layout::of(&plan);
        let exe = Executable::new(plan, device.clone(), |key| weights.get(key).cloned())?;
        let mut step = HostStep {
            gradients: layout.zeros(),
            moments: [layout.zeros(), layout.zeros()],
            ema: None,
            device: device.clone(),
            layout,
            exe,
        };
        if ema {
            let mut averages = step.layout.zeros();
            for (slot, average) in step.layout.slots.iter().zip(step.layout.cut_mut(&mut averages)) {
                let param = step.exe.param(&slot.key).expect("a trained parameter is the plan's");
                average.copy_from_slice(&param.to_f32());
            }
            step.ema = Some(averages);
        }
        Ok(step)
    }

    pub fn executable(&self) -> &Executable {
        &self.exe
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Runs one batch; its gradients replace what was there if it is the first since the last update.
    pub fn accumulate(&mut self, inputs: &[(&str, HostTensor)], first: bool) -> Result<Outputs> {
        let HostStep { exe, layout, gradients, .. } = self;
        exe.run_with_early(inputs, |k, bytes| {
            let slot = &layout.slots[k];
            let from: &[f32] = bytemuck::cast_slice(bytes);
            let pieces =
                gradients[slot.bucket][slot.range()].par_chunks_mut(PIECE).zip(from.par_chunks(PIECE));
            pieces.for_each(|(sum, gradient)| match first {
                true => sum.copy_from_slice(gradient),
                false => sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g),
            });
            Ok(())
        })
    }

    /// Runs node by node and stops at the first tensor that is not finite.
    pub fn check(&mut self, inputs: &[(&str, HostTensor)]) -> Result<()> {
        self.exe.run_checked(inputs).map(drop)
    }

    /// Changes the parameters: step `t`, with gradients that are sums over `batches`.
    pub fn update(&mut self, t: u64, rate: f64, batches: usize, options: &StepOptions) -> Update {
        let HostStep { device, exe, layout, gradients, moments, ema } = self;
        let mean = 1.0 / batches as f64;
        let grad_norm = mean * device.run(|| adamw::norm(gradients.iter().map(Vec::as_slice)));
        if !grad_norm.is_finite() {
            return Update { grad_norm, skipped: true };
        }
        let clip = options.clip.map_or(1.0, |most| adamw::clip_factor(grad_norm, most));
        let mut params: HashMap<&str, &mut HostTensor> = exe.params_mut().collect();
        let [first, second] = moments;
        let moments = layout.cut_mut(first).into_iter().zip(layout.cut_mut(second));
        let mut averages: Vec<Option<&mut [f32]>> = match ema {
            Some(ema) => layout.cut_mut(ema).into_iter().map(Some).collect(),
            None => layout.slots.iter().map(|_| None).collect(),
        };
        let slots = layout.slots.iter().zip(layout.cut(gradients)).zip(moments).zip(&mut averages);
        let parts = slots
            .map(|(((slot, grad), (first, second)), ema)| {
                let (adamw, rate) = options.of(&slot.key, rate);
                adamw::Part {
                    param: params
                        .remove(slot.key.as_str())
                        .expect("a trained parameter is the plan's")
                        .f32_mut(),
                    grad,
                    moments: [first, second],
                    ema: ema.take(),
                    factors: adamw.factors(t, rate),
                }
            })
            .collect();
        device.run(|| adamw::step(parts, (mean * clip) as f32, options.ema.unwrap_or(0.0) as f32));
        Update { grad_norm, skipped: false }
    }

    /// Mean gradients over `batches`: `grad.KEY`.
    pub fn gradients(&self, batches: usize) -> Tensors {
        let mean = 1.0 / batches.max(1) as f32;
        let slots = self.layout.slots.iter().zip(self.layout.cut(&self.gradients));
        slots
            .map(|(slot, sum)| {
                let values = sum.iter().map(|g| g * mean).collect();
                (format!("{GRADIENT}{}", slot.key), HostTensor::from_f32(slot.shape.clone(), values))
            })
            .collect()
    }

    pub fn param(&self, key: &str) -> Option<HostTensor> {
        self.exe.param(key).cloned()
    }

    /// Copies of a kind of tensors: `PREFIX.KEY`.
    fn named(&self, prefix: &str, buckets: &[Vec<f32>]) -> Tensors {
        let slots = self.layout.slots.iter().zip(self.layout.cut(buckets));
        slots
            .map(|(slot, values)| {
                (format!("{prefix}{}", slot.key), HostTensor::from_f32(slot.shape.clone(), values.to_vec()))
            })
            .collect()
    }

    pub fn ema(&self, prefix: &str) -> Option<Tensors> {
        self.ema.as_ref().map(|ema| self.named(prefix, ema))
    }

    pub fn moments(&self, prefixes: [&str; 2]) -> Tensors {
        let [first, second] = &self.moments;
        let mut tensors = self.named(prefixes[0], first);
        tensors.extend(self.named(prefixes[1], second));
        tensors
    }

    /// Takes over parameters, moments and averages; `tensor` gives each by what it is and whose.
    pub fn restore(
        &mut self,
        tensor: &dyn Fn(super::Kind, &str, &[usize]) -> Result<HostTensor>,
    ) -> Result<()> {
        use super::Kind;
        let HostStep { exe, layout, moments: [first, second], ema, .. } = self;
        let mut params: HashMap<&str, &mut HostTensor> = exe.params_mut().collect();
        for slot in &layout.slots {
            let found = tensor(Kind::Param, &slot.key, &slot.shape)?;
            let param = params.get_mut(slot.key.as_str()).expect("a trained parameter is the plan's");
            param.f32_mut().copy_from_slice(&found.to_f32());
        }
        let mut kinds = vec![(Kind::First, first), (Kind::Second, second)];
        kinds.extend(ema.as_mut().map(|ema| (Kind::Ema, ema)));
        for (kind, buckets) in kinds {
            for (slot, values) in layout.slots.iter().zip(layout.cut_mut(buckets)) {
                values.copy_from_slice(&tensor(kind, &slot.key, &slot.shape)?.to_f32());
            }
        }
        Ok(())
    }
}
