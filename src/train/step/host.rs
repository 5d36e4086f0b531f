//! The step on the processor: parameters are the plan's own leaves, changed in place between runs.

use std::collections::HashMap;

use rayon::prelude::*;

use super::layout::{GRADIENT, Layout, NEXT, Slot, buffers};
use super::{Kind, Move, Side, StepOptions, Tensors, Update};
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
    buffers: Vec<(String, Vec<usize>)>,
    /// Sums over the batches since the last update. A bucket whose sum over processes has started is not here.
    gradients: Vec<Vec<f32>>,
    moments: [Vec<Vec<f32>>; 2],
    ema: Option<Vec<Vec<f32>>>,
}

impl HostStep {
    pub fn new(plan: Plan, device: &Device, weights: &WeightSet, options: &StepOptions) -> Result<Self> {
        let layout = Layout::of(&plan, options.bucket_bytes);
        let buffers = buffers(&plan);
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
        let params: HashMap<&str, &HostTensor> = self.exe.params().collect();
        for (slot, average) in self.layout.slots.iter().zip(self.layout.cut_mut(&mut averages)) {
            average.copy_from_slice(&params[slot.key.as_str()].to_f32());
        }
        self.ema = Some(averages);
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
}

impl Side for HostStep {
    fn executable(&self) -> &Executable {
        &self.exe
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn buffers(&self) -> &[(String, Vec<usize>)] {
        &self.buffers
    }

    fn accumulate(
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
            match &mut reduce {
                Some(reduce) if layout.completes(k) => {
                    reduce.start(Bucket::Host(std::mem::take(&mut gradients[slot.bucket])))
                }
                _ => Ok(()),
            }
        })?;
        let (next, outputs) = outputs.into_iter().partition(|(name, _)| name.starts_with(NEXT));
        self.replace(next);
        Ok(outputs)
    }

    fn adopt(&mut self, reduce: &mut dyn Reduce) -> Result<()> {
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

    fn add_up(&mut self, reduce: &mut dyn Reduce, started: bool) -> Result<()> {
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

    fn check(&mut self, inputs: &[(&str, HostTensor)]) -> Result<()> {
        self.exe.run_checked(inputs).map(drop)
    }

    fn update(&mut self, to: &Move, options: &StepOptions) -> Result<Update> {
        let HostStep { device, exe, layout, gradients, moments, ema, .. } = self;
        let grad_norm = to.unit * device.run(|| adamw::norm(gradients.iter().map(Vec::as_slice)));
        if !grad_norm.is_finite() {
            return Ok(Update { grad_norm, skipped: true });
        }
        let clip = options.clip.map_or(1.0, |most| adamw::clip_factor(grad_norm, most));
        let groups = options.all(to.rate);
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
                let (adamw, rate) = groups[options.group(&slot.key)];
                let param = params.remove(slot.key.as_str()).expect("a trained parameter is the plan's");
                adamw::Part {
                    param: param.f32_mut(),
                    grad,
                    moments: [first, second],
                    ema: ema.take(),
                    factors: adamw.factors(to.step, rate),
                }
            })
            .collect();
        device.run(|| adamw::step(parts, (to.unit * clip) as f32, options.ema.unwrap_or(0.0) as f32));
        Ok(Update { grad_norm, skipped: false })
    }

    fn gradients(&self, unit: f64) -> Result<Tensors> {
        let slots = self.layout.slots.iter().zip(self.layout.cut(&self.gradients));
        let mean = |(slot, sum): (&Slot, &[f32])| {
            let values = sum.iter().map(|g| g * unit as f32).collect();
            (format!("{GRADIENT}{}", slot.key), HostTensor::from_f32(slot.shape.clone(), values))
        };
        Ok(slots.map(mean).collect())
    }

    fn changed(&self, kind: Kind) -> Result<Option<Tensors>> {
        let name = |key: &str| format!("{}{key}", kind.prefix());
        let buckets = match kind {
            Kind::Param => {
                let params: HashMap<&str, &HostTensor> = self.exe.params().collect();
                let now = |key: &String| (name(key), params[key.as_str()].clone());
                let trained = self.layout.slots.iter().map(|slot| &slot.key);
                let changed = trained.chain(self.buffers.iter().map(|(key, _)| key));
                return Ok(Some(changed.map(now).collect()));
            }
            Kind::First => &self.moments[0],
            Kind::Second => &self.moments[1],
            Kind::Ema => match &self.ema {
                Some(ema) => ema,
                None => return Ok(None),
            },
        };
        let slots = self.layout.slots.iter().zip(self.layout.cut(buckets));
        let copy = |(slot, values): (&Slot, &[f32])| {
            (name(&slot.key), HostTensor::from_f32(slot.shape.clone(), values.to_vec()))
        };
        Ok(Some(slots.map(copy).collect()))
    }

    fn restore(&mut self, kind: Kind, key: usize, values: &HostTensor) -> Result<()> {
        let slot = self.layout.slots.get(key);
        let buckets = match kind {
            Kind::Param => {
                let buffer = || &self.buffers[key - self.layout.slots.len()].0;
                let name = slot.map_or_else(buffer, |slot| &slot.key);
                let found = self.exe.params_mut().find(|(k, _)| k == name);
                let (_, param) = found.expect("a parameter of the plan");
                param.f32_mut().copy_from_slice(&values.to_f32());
                return Ok(());
            }
            Kind::First => &mut self.moments[0],
            Kind::Second => &mut self.moments[1],
            Kind::Ema => self.ema.as_mut().expect("asked for only if there is one"),
        };
        let slot = slot.expect("buffers have no moments");
        buckets[slot.bucket][slot.range()].copy_from_slice(&values.to_f32());
        Ok(())
    }
}
