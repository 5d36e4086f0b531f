//! The step on a device with memory of its own: parameters, gradients and moments stay there. Forward, backward and
//! the sums of gradients are one list of launches, norm and optimiser another; both are recorded once and replayed.
//! The host gives inputs and a few numbers, and reads the loss and the norm.

use std::collections::HashMap;
use std::sync::Arc;

use super::layout::{GRADIENT, Layout, NEXT, Slot, buffers};
use super::{Kind, Move, Side, StepOptions, Tensors, Update};
use crate::device::Device;
use crate::device::kernel::{DeviceMemory, KernelDevice, Launch, Recording};
use crate::error::{Error, Result};
use crate::graph::cuda::{CudaOperand, CudaResult};
use crate::graph::{Executable, Layout as Strides, Outputs, Plan, ValueId, Workspace, strided};
use crate::tensor::{DType, HostTensor};
use crate::train::adamw::cuda::{self, FACTORS, GlobalNorm};
use crate::train::reduce::{Bucket, DeviceRange, Reduce};
use crate::weights::WeightSet;

/// Where a number lies among those that the host gives: whether gradients are added, and what makes means of them.
const ADD: usize = 0;
const UNIT: usize = 4;
/// Where the factors of the first group lie.
const GROUPS: usize = 256;

pub(super) struct DeviceStep {
    device: Arc<dyn KernelDevice>,
    exe: Executable,
    workspace: Workspace,
    layout: Layout,
    buffers: Vec<(String, Vec<usize>)>,
    /// Where buffers lie, and in which element type.
    buffer_places: Vec<(u64, DType)>,
    /// Parameters in f32: the plan's own memory, or one beside it.
    params: Vec<u64>,
    /// What kernels read of them in half precision.
    copies: Vec<Option<(u64, DType)>>,
    gradients: DeviceMemory,
    moments: [DeviceMemory; 2],
    ema: Option<DeviceMemory>,
    /// Numbers that the host changes from step to step.
    numbers: DeviceMemory,
    /// The norm and the factor of the gradients.
    norm: DeviceMemory,
    inputs: HashMap<ValueId, DeviceMemory>,
    /// Forward and backward. With other processes in parts, each of which completes a bucket of gradients.
    forward: Vec<Launches>,
    /// How many launches complete each bucket.
    complete: Vec<usize>,
    outputs: Vec<(String, CudaResult)>,
    update: Launches,
    /// What the launches point into besides.
    _held: (Option<DeviceMemory>, DeviceMemory, crate::graph::plan::BoundPlan),
}

/// A list of launches, recorded where the device can.
struct Launches {
    launches: Vec<Launch>,
    recording: Option<Arc<dyn Recording>>,
}

impl Launches {
    /// # Safety
    /// What the launches point into must live as long as this.
    unsafe fn new(device: &Arc<dyn KernelDevice>, launches: Vec<Launch>) -> Result<Self> {
        for launch in &launches {
            device.check(launch).map_err(Error::Run)?;
        }
        // SAFETY: the caller's promise.
        let recording = unsafe { device.record(&launches) }.transpose()?;
        Ok(Launches { launches, recording })
    }

    fn start(&self, device: &Arc<dyn KernelDevice>) -> Result<()> {
        // SAFETY: promised when it was made.
        match &self.recording {
            Some(recording) => unsafe { recording.start() },
            None => unsafe { device.launch(&self.launches) }
                .map_err(|(i, message)| Error::Run(format!("{}: {message}", self.launches[i].kernel))),
        }
    }
}

impl DeviceStep {
    pub fn new(plan: Plan, device: &Device, weights: &WeightSet, options: &StepOptions) -> Result<Self> {
        let device = device.with_own_params();
        let kernels = device.as_kernels().expect("a device with memory of its own").device.clone();
        let (layout, buffers) = (Layout::of(&plan, options.bucket_bytes), buffers(&plan));
        let trained: HashMap<&str, usize> =
            layout.slots.iter().enumerate().map(|(i, slot)| (slot.key.as_str(), i)).collect();
        let workspace = Workspace::new();
        // Trained parameters in memory of their own, even if they begin as the same tensor.
        let param = |key: &str| {
            let tensor = weights.get(key)?;
            let own = |t: &HostTensor| HostTensor::copy_of(DType::F32, t.shape(), t.cast(DType::F32).bytes());
            Some(if trained.contains_key(key) { own(tensor) } else { tensor.clone() })
        };
        let mut exe = Executable::in_workspace(plan, device, param, &workspace)?;
        let places = exe.changing_params();
        let numbers: usize = layout.buckets.iter().sum();
        let room = |floats: usize| {
            let memory = DeviceMemory::new(&kernels, 4 * floats)?;
            memory.write(&vec![0; 4 * floats])?;
            Ok::<_, Error>(memory)
        };
        let half = |slot: &Slot| places[&slot.key].1 != DType::F32;
        let masters = layout.slots.iter().any(half).then(|| room(numbers)).transpose()?;
        let starts = layout.starts();
        let copies: Vec<_> =
            layout.slots.iter().map(|slot| Some(places[&slot.key]).filter(|p| p.1 != DType::F32)).collect();
        let mut params = Vec::with_capacity(layout.slots.len());
        let ema = options.ema.map(|_| room(numbers)).transpose()?;
        for (slot, &start) in layout.slots.iter().zip(&starts) {
            let values = weights.get(&slot.key).expect("checked when the step was made").cast(DType::F32);
            let own = masters.as_ref().filter(|_| half(slot)).map(|m| m.address() + 4 * start as u64);
            for to in own.into_iter().chain(ema.as_ref().map(|m| m.address() + 4 * start as u64)) {
                // SAFETY: inside our own memory, by the layout.
                unsafe { kernels.upload(to, values.bytes()) }?;
            }
            params.push(own.unwrap_or(places[&slot.key].0));
        }
        let groups = options.groups.len() + 1;
        let mut inputs = HashMap::new();
        for (_, v) in exe.graph().inputs() {
            inputs.insert(v, DeviceMemory::new(&kernels, exe.plan().input_type(v).bytes())?);
        }
        let lengths: Vec<_> = layout.slots.iter().map(|slot| slot.len).collect();
        let parts = DeviceMemory::new(&kernels, 4 * GlobalNorm::parts(&lengths))?;
        let (gradients, first, second) = (room(numbers)?, room(numbers)?, room(numbers)?);
        let (numbers, norm) = (DeviceMemory::new(&kernels, GROUPS + groups * FACTORS)?, room(2)?);

        let bound = {
            let held = workspace.hold(&kernels, exe.plan().arena_bytes)?;
            let addresses: Vec<_> =
                exe.graph().inputs().map(|(name, v)| (name, inputs[&v].address())).collect();
            exe.bind(&held, &addresses)?
        };
        let mut forward = Vec::with_capacity(bound.launches.len() + lengths.len());
        let mut launches = bound.launches.iter().cloned().enumerate().peekable();
        let mut complete = Vec::with_capacity(layout.buckets.len());
        for (k, ((after, gradient), (slot, &start))) in
            bound.early.iter().zip(layout.slots.iter().zip(&starts)).enumerate()
        {
            forward.extend(std::iter::from_fn(|| launches.next_if(|(i, _)| i < after)).map(|(_, l)| l));
            let sum = gradients.address() + 4 * start as u64;
            let add = numbers.address() + ADD as u64;
            forward.extend(cuda::accumulate(sum, (gradient.address, gradient.ty.dtype), slot.len, add));
            if layout.completes(k) {
                complete.push(forward.len());
            }
        }
        forward.extend(launches.map(|(_, l)| l));
        let buffer_places: Vec<_> = buffers.iter().map(|(key, _)| places[key]).collect();
        let (next, outputs): (Vec<_>, Vec<_>) =
            bound.outputs.iter().cloned().partition(|(name, _)| name.starts_with(NEXT));
        for ((_, from), &(address, dtype)) in next.iter().zip(&buffer_places) {
            let dense = Strides::dense(&from.ty.shape);
            let from = CudaOperand { ty: from.ty.clone(), layout: &dense, address: from.address };
            let ty = crate::graph::TensorType { dtype, ..from.ty.clone() };
            forward.extend(strided::cast(&from, &CudaResult { ty, address }).map_err(Error::Run)?);
        }

        let at = |memory: &DeviceMemory, start: usize| memory.address() + 4 * start as u64;
        let sums: Vec<_> = layout
            .slots
            .iter()
            .zip(&starts)
            .map(|(slot, &start)| (at(&gradients, start), slot.len))
            .collect();
        let most = options.clip.map_or(f32::INFINITY, |most| most as f32);
        let unit = Some(numbers.address() + UNIT as u64);
        let mut update = GlobalNorm { most, unit }.launches(&sums, parts.address(), norm.address());
        for (((slot, &start), &param), &copy) in layout.slots.iter().zip(&starts).zip(&params).zip(&copies) {
            let tensor = cuda::Tensor {
                param,
                grad: at(&gradients, start),
                moments: [at(&first, start), at(&second, start)],
                ema: ema.as_ref().map(|m| (at(m, start), options.ema.unwrap_or(0.0) as f32)),
                copy,
                len: slot.len,
            };
            let factors = numbers.address() + (GROUPS + options.group(&slot.key) * FACTORS) as u64;
            update.extend(cuda::step(&tensor, factors, Some(norm.address() + 4)));
        }
        // SAFETY: all that they point into is kept in this struct; the arena by the workspace, which is our own.
        let (forward, update) =
            unsafe { (vec![Launches::new(&kernels, forward)?], Launches::new(&kernels, update)?) };
        Ok(DeviceStep {
            device: kernels,
            workspace,
            layout,
            buffers,
            buffer_places,
            params,
            copies,
            gradients,
            moments: [first, second],
            ema,
            numbers,
            norm,
            inputs,
            forward,
            complete,
            outputs,
            update,
            _held: (masters, parts, bound),
            exe,
        })
    }

    /// The tensors of a kind, from device memory.
    fn download(&self, prefix: &str, place: impl Fn(usize, usize) -> u64) -> Result<Tensors> {
        let slots = self.layout.slots.iter().zip(self.layout.starts()).enumerate();
        slots
            .map(|(i, (slot, start))| {
                let mut values = vec![0.0f32; slot.len];
                // SAFETY: our own memory, by the layout.
                unsafe { self.device.download(place(i, start), bytemuck::cast_slice_mut(&mut values)) }?;
                Ok((format!("{prefix}{}", slot.key), HostTensor::from_f32(slot.shape.clone(), values)))
            })
            .collect()
    }

    /// The gradients of a bucket.
    fn bucket(&self, b: usize) -> Bucket {
        let before: usize = self.layout.buckets[..b].iter().sum();
        let address = self.gradients.address() + 4 * before as u64;
        // SAFETY: our own memory, which stays where it is.
        Bucket::Device(unsafe { DeviceRange::new(address, self.layout.buckets[b]) })
    }

    /// Forward and backward in parts that each complete a bucket, for sums that start in between.
    fn divide(&mut self) -> Result<()> {
        let all: Vec<Launch> = self.forward.iter().flat_map(|part| part.launches.iter().cloned()).collect();
        let mut ends = self.complete.clone();
        *ends.last_mut().expect("a gradient at least") = all.len();
        let mut start = 0;
        self.forward = ends
            .into_iter()
            .map(|end| {
                let part = all[std::mem::replace(&mut start, end)..end].to_vec();
                // SAFETY: as when the whole was made.
                unsafe { Launches::new(&self.device, part) }
            })
            .collect::<Result<_>>()?;
        Ok(())
    }

    fn number(&self, at: usize, x: f32) -> Result<()> {
        // SAFETY: inside our own memory.
        unsafe { self.device.upload(self.numbers.address() + at as u64, &x.to_le_bytes()) }
    }
}

impl Side for DeviceStep {
    fn executable(&self) -> &Executable {
        &self.exe
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn buffers(&self) -> &[(String, Vec<usize>)] {
        &self.buffers
    }

    fn adopt(&mut self, reduce: &mut dyn Reduce) -> Result<()> {
        let params = self.changed(Kind::Param)?.expect("there are always parameters");
        for (i, (_, param)) in params.into_iter().enumerate() {
            let Bucket::Host(first) = reduce.broadcast(Bucket::Host(param.to_f32().into_owned()))? else {
                unreachable!("a bucket comes back as what it was")
            };
            let first = HostTensor::from_f32(param.shape(), first);
            self.restore(Kind::Param, i, &first)?;
            if self.ema.is_some() && i < self.layout.slots.len() {
                self.restore(Kind::Ema, i, &first)?;
            }
        }
        self.divide()
    }

    fn add_up(&mut self, reduce: &mut dyn Reduce, started: bool) -> Result<()> {
        if !started {
            (0..self.layout.buckets.len()).try_for_each(|b| reduce.start(self.bucket(b)))?;
        }
        reduce.finish().map(drop)
    }

    fn accumulate(
        &mut self,
        inputs: &[(&str, HostTensor)],
        first: bool,
        mut reduce: Option<&mut dyn Reduce>,
    ) -> Result<Outputs> {
        for (v, tensor) in self.exe.given(inputs)? {
            let dtype = self.exe.plan().input_type(v).dtype;
            let kept = if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) };
            self.inputs[&v].write(kept.bytes())?;
        }
        self.number(ADD, if first { 0.0 } else { 1.0 })?;
        // Nothing else is planned in this workspace; the arena stays where it is.
        let _arena = self.workspace.hold(&self.device, self.exe.plan().arena_bytes)?;
        for (b, part) in self.forward.iter().enumerate() {
            part.start(&self.device)?;
            if let Some(reduce) = &mut reduce {
                reduce.start(self.bucket(b))?;
            }
        }
        let number = |(name, place): &(String, CudaResult)| {
            let mut bytes = vec![0; place.ty.bytes()];
            // SAFETY: a result in the arena, which is held.
            unsafe { self.device.download(place.address, &mut bytes) }?;
            Ok((name.clone(), HostTensor::copy_of(place.ty.dtype, &place.ty.shape, &bytes)))
        };
        self.outputs.iter().map(number).collect()
    }

    fn check(&mut self, inputs: &[(&str, HostTensor)]) -> Result<()> {
        self.exe.run_checked(inputs).map(drop)
    }

    fn update(&mut self, to: &Move, options: &StepOptions) -> Result<Update> {
        self.number(UNIT, to.unit as f32)?;
        for (g, (adamw, rate)) in options.all(to.rate).into_iter().enumerate() {
            let factors = adamw.factors(to.step, rate).on_device();
            // SAFETY: inside our own memory, which has room for all groups.
            unsafe { self.device.upload(self.numbers.address() + (GROUPS + g * FACTORS) as u64, &factors) }?;
        }
        self.update.start(&self.device)?;
        let mut norm = [0.0f32];
        self.norm.read(0, bytemuck::cast_slice_mut(&mut norm))?;
        Ok(Update { grad_norm: f64::from(norm[0]), skipped: !norm[0].is_finite() })
    }

    fn gradients(&self, unit: f64) -> Result<Tensors> {
        let sums = self.download(GRADIENT, |_, start| self.gradients.address() + 4 * start as u64)?;
        let mean = |(key, t): (String, HostTensor)| {
            let values = t.to_f32().iter().map(|g| g * unit as f32).collect();
            (key, HostTensor::from_f32(t.shape(), values))
        };
        Ok(sums.into_iter().map(mean).collect())
    }

    fn changed(&self, kind: Kind) -> Result<Option<Tensors>> {
        let memory = match kind {
            Kind::Param => {
                let mut tensors = self.download(kind.prefix(), |i, _| self.params[i])?;
                for ((key, shape), &(address, dtype)) in self.buffers.iter().zip(&self.buffer_places) {
                    let mut bytes = vec![0; shape.iter().product::<usize>() * dtype.size()];
                    // SAFETY: a parameter of this shape and type.
                    unsafe { self.device.download(address, &mut bytes) }?;
                    let tensor = HostTensor::copy_of(dtype, shape, &bytes).cast(DType::F32);
                    tensors.push((format!("{}{key}", kind.prefix()), tensor));
                }
                return Ok(Some(tensors));
            }
            Kind::First => &self.moments[0],
            Kind::Second => &self.moments[1],
            Kind::Ema => match &self.ema {
                Some(memory) => memory,
                None => return Ok(None),
            },
        };
        self.download(kind.prefix(), |_, start| memory.address() + 4 * start as u64).map(Some)
    }

    fn restore(&mut self, kind: Kind, key: usize, values: &HostTensor) -> Result<()> {
        let trained = self.layout.slots.len();
        if key >= trained {
            let (address, dtype) = self.buffer_places[key - trained];
            // SAFETY: a parameter of this shape and type.
            return unsafe { self.device.upload(address, values.cast(dtype).bytes()) };
        }
        let start = 4 * self.layout.starts()[key] as u64;
        let values = values.cast(DType::F32);
        let to = match kind {
            Kind::Param => self.params[key],
            Kind::First => self.moments[0].address() + start,
            Kind::Second => self.moments[1].address() + start,
            Kind::Ema => self.ema.as_ref().expect("asked for only if there is one").address() + start,
        };
        // SAFETY: our own memory, by the layout.
        unsafe { self.device.upload(to, values.bytes()) }?;
        match (kind, self.copies[key]) {
            (Kind::Param, Some((copy, dtype))) => {
                // SAFETY: the parameter as kernels read it, of this shape and type.
                unsafe { self.device.upload(copy, values.cast(dtype).bytes()) }
            }
            _ => Ok(()),
        }
    }
}
