//! The step on the processor: parameters are the plan's own leaves, changed in place between runs.

use std::collections::HashMap;

use rayon::prelude::*;

use super::layout::{GRADIENT, Layout, NEXT};
use super::{StepOptions, Tensors, Update};
use crate::device::Device;
use crate::error::Result;
use crate::graph::{Executable, Outputs, Plan};
use crate::tensor::HostTensor;
use crate::train::adamw;
use crate::train::reduce::{Bucket, Reduce};
use crate::weights::WeightSet;

/// Elements that a thread adds at a time.
const PIECE: usize = 16 * 1024;

pub(super) struct HostStep {
    device: Device,
    exe: Executable,
    layout: Layout,
    /// Keys of parameters that each batch gives a new value itself, and their shapes.
    buffers: Vec<(String, Vec<usize>)>,
    /// Sums over the batches since the last update. A bucket whose sum over processes has started is not here.
    gradients: Vec<Vec<f32>>,
    moments: [Vec<Vec<f32>>; 2],
    ema: Option<Vec<Vec<f32>>>,
}

impl HostStep {
    pub fn new(plan: Plan, device: &Device, weights: &WeightSet, options: &StepOptions) -> Result<Self> {
        let layout = Layout::of(&plan, options.bucket_bytes);
        let next = plan.outputs.iter().filter_map(|(name, place)| Some((name.strip_prefix(NEXT)?, place)));
        let buffers = next.map(|(key, place)| (key.to_owned(), place.ty.shape.clone())).collect();
        let exe = Executable::new(plan, device.clone(), |key| weights.get(key).cloned())?;
        let mut step = HostStep {
            gradients: layout.zeros(),
            moments: [layout.zeros(), layout.zeros()],
            ema: None,
            device: device.clone(),
            layout,
            buffers,
            exe,
        };
        if options.ema.is_some() {
            step.start_ema();
        }
        Ok(step)
    }

    /// Averages start as the parameters are now.
    fn start_ema(&mut self) {
        let mut averages = self.layout.zeros();
        for (slot, average) in self.layout.slots.iter().zip(self.layout.cut_mut(&mut averages)) {
            let param = self.exe.param(&slot.key).expect("a trained parameter is the plan's");
            average.copy_from_slice(&param.to_f32());
        }
        self.ema = Some(averages);
    }

    /// The parameters that steps change become those of the first process.
    pub fn adopt(&mut self, reduce: &mut dyn Reduce) -> Result<()> {
        let mut params: HashMap<&str, &mut HostTensor> = self.exe.params_mut().collect();
        let changed = self.layout.slots.iter().map(|s| &s.key).chain(self.buffers.iter().map(|(key, _)| key));
        for key in changed {
            let param = params.get_mut(key.as_str()).expect("a parameter of the plan").f32_mut();
            if let Bucket::Host(first) = reduce.broadcast(Bucket::Host(param.to_vec()))? {
                param.copy_from_slice(&first);
            }
        }
        if self.ema.is_some() {
            self.start_ema();
        }
        Ok(())
    }

    pub fn executable(&self) -> &Executable {
        &self.exe
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Runs one batch; its gradients replace what was there if it is the first since the last update. If it is the
    /// last before the next, `reduce` gets each bucket as soon as all of it is there.
    pub fn accumulate(
        &mut self,
        inputs: &[(&str, HostTensor)],
        first: bool,
        mut reduce: Option<&mut dyn Reduce>,
    ) -> Result<Outputs> {
        let HostStep { exe, layout, gradients, .. } = self;
        let outputs = exe.run_with_early(inputs, |k, bytes| {
            let slot = &layout.slots[k];
            let from: &[f32] = bytemuck::cast_slice(bytes);
            let pieces =
                gradients[slot.bucket][slot.range()].par_chunks_mut(PIECE).zip(from.par_chunks(PIECE));
            pieces.for_each(|(sum, gradient)| match first {
                true => sum.copy_from_slice(gradient),
                false => sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g),
            });
            let complete = layout.slots.get(k + 1).is_none_or(|next| next.bucket != slot.bucket);
            match &mut reduce {
                Some(reduce) if complete => {
                    reduce.start(Bucket::Host(std::mem::take(&mut gradients[slot.bucket])))
                }
                _ => Ok(()),
            }
        })?;
        let (next, outputs) = outputs.into_iter().partition(|(name, _)| name.starts_with(NEXT));
        self.replace(next);
        Ok(outputs)
    }

    /// Buffers become what the batch has made of them.
    fn replace(&mut self, next: Outputs) {
        if next.is_empty() {
            return;
        }
        let mut params: HashMap<&str, &mut HostTensor> = self.exe.params_mut().collect();
        for (name, value) in next {
            let param = params.get_mut(&name[NEXT.len()..]).expect("a parameter of the plan");
            param.f32_mut().copy_from_slice(&value.to_f32());
        }
    }

    /// Gradients become sums over all processes; `started` is whether [`accumulate`](Self::accumulate) gave them
    /// away already.
    pub fn add_up(&mut self, reduce: &mut dyn Reduce, started: bool) -> Result<()> {
        if !started {
            for bucket in &mut self.gradients {
                reduce.start(Bucket::Host(std::mem::take(bucket)))?;
            }
        }
        for (bucket, sums) in self.gradients.iter_mut().zip(reduce.finish()?) {
            if let Bucket::Host(sums) = sums {
                *bucket = sums;
            }
        }
        Ok(())
    }

    /// Runs node by node and stops at the first tensor that is not finite.
    pub fn check(&mut self, inputs: &[(&str, HostTensor)]) -> Result<()> {
        self.exe.run_checked(inputs).map(drop)
    }

    /// Changes the parameters: step `t`, with gradients that are sums over `batches`.
    pub fn update(&mut self, t: u64, rate: f64, batches: usize, options: &StepOptions) -> Update {
        let HostStep { device, exe, layout, gradients, moments, ema, .. } = self;
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

    /// Keys of parameters that batches change without a gradient.
    pub fn buffers(&self) -> impl Iterator<Item = &String> {
        self.buffers.iter().map(|(key, _)| key)
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
        let HostStep { exe, layout, buffers, moments: [first, second], ema, .. } = self;
        let mut params: HashMap<&str, &mut HostTensor> = exe.params_mut().collect();
        let changed =
            layout.slots.iter().map(|s| (&s.key, &s.shape)).chain(buffers.iter().map(|(k, s)| (k, s)));
        for (key, shape) in changed {
            let found = tensor(Kind::Param, key, shape)?;
            let param = params.get_mut(key.as_str()).expect("a parameter of the plan");
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
