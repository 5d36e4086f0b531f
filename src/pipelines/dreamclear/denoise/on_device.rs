//! The whole loop on a device that takes kernels: latents, noise, guidance, sampler and tiles stay there.
//!
//! All launches of one step (tiles cut out, the network's plans, tiles blended, guidance, noise, the
//! sampler) are one list that is recorded once and replayed for every step: the step's number, timestep and
//! factors lie in device memory. The host starts steps a little ahead of the device, looks at marks to tell
//! the progress, and neither waits for the stream nor allocates anything until the last step is done.

use std::sync::Arc;
use std::time::Duration;

use super::{Denoised, Denoiser, LATENT, Launch as Group, Parts, Ready, Settings, Subject};
use super::{extent, launches, not_finite};
use crate::cancel::Cancel;
use crate::device::Kernels;
use crate::device::kernel::{DeviceMemory, KernelDevice, Launch, Mark, PinnedMemory, Recording};
use crate::diffusion::cuda::{self, NoiseStep, StepAddresses, Steps};
use crate::diffusion::sampler::{self, Sampler};
use crate::error::{Error, Result};
use crate::graph::cuda::{CudaOperand, CudaResult};
use crate::graph::plan::{BoundPlan, HeldMemory};
use crate::graph::{Executable, Layout, TensorType, strided};
use crate::models::latent_tiles;
use crate::pipelines::dreamclear::noise::NoiseSource;
use crate::pipelines::tiled::Watch;
use crate::tensor::{DType, HostTensor};
use crate::trace;

/// Steps that are started before the oldest of them is done: the device always has a next one.
const AHEAD: usize = 2;
/// How often the host looks whether a step is done: short beside a step.
const GLANCE: Duration = Duration::from_micros(200);
/// Launches between two looks at Ctrl-C, on a device that runs them as they are called.
const PIECE: usize = 8;

/// Channels of a network output: noise and variance of the conditional half, then of the other if it runs.
fn planes(settings: &Settings) -> usize {
    settings.halves() * 2 * LATENT
}

/// What all launches are about, and its memory.
struct Loop {
    device: Arc<dyn KernelDevice>,
    /// Memory that launches point into.
    memory: Vec<DeviceMemory>,
    /// Plans whose parameters and tables they point into.
    plans: Vec<BoundPlan>,
    /// What has to be done before the first step.
    before: Vec<Launch>,
    /// What is done at every step.
    step: Vec<Launch>,
    /// The same as one, where the device can record.
    recording: Option<Arc<dyn Recording>>,
    /// Steps that may be under way, in turn.
    slots: Vec<Slot>,
}

/// A step under way, and what the host will see of it.
struct Slot {
    mark: Box<dyn Mark>,
    faults: PinnedMemory,
}

impl Drop for Loop {
    fn drop(&mut self) {
        // A loop that was given up: steps that were started still use the memory. Its error has been told.
        let _ = self.device.synchronize();
    }
}

/// One latent on its way.
struct Walk {
    state: u64,
    history: Vec<u64>,
}

impl Loop {
    /// Memory with arbitrary contents.
    fn allocate(&mut self, bytes: usize) -> Result<u64> {
        let memory = DeviceMemory::new(&self.device, bytes)?;
        self.memory.push(memory);
        Ok(self.memory.last().expect("just pushed").address())
    }

    /// Memory that holds these bytes.
    fn upload(&mut self, bytes: &[u8]) -> Result<u64> {
        let at = self.allocate(bytes.len())?;
        let mut fill = |start: usize, piece: &mut [u8]| {
            piece.copy_from_slice(&bytes[start..start + piece.len()]);
        };
        // SAFETY: just allocated with this size; nothing uses it yet.
        unsafe { self.device.upload_beside(at, bytes.len(), &mut fill) }?;
        Ok(at)
    }

    fn floats(&mut self, values: &[f32]) -> Result<u64> {
        self.upload(bytemuck::cast_slice(values))
    }

    /// Starts what is to be done before the first step, as far as it is known.
    fn start(&mut self, cancel: &Cancel) -> Result<()> {
        for launches in std::mem::take(&mut self.before).chunks(PIECE) {
            cancel.check()?;
            self.launch(launches)?;
        }
        Ok(())
    }

    fn launch(&self, launches: &[Launch]) -> Result<()> {
        // SAFETY: all addresses are of `memory`, of `plans`, or of the working memory that the caller holds.
        unsafe { self.device.launch(launches) }
            .map_err(|(i, message)| Error::Run(format!("{}: {message}", launches[i].kernel)))
    }
}

/// Copies a view into dense memory, in the element type that is wanted there.
fn copy(from: &Layout, dtype: DType, address: u64, to: &TensorType, at: u64) -> Result<Vec<Launch>> {
    let operand = CudaOperand { ty: TensorType::new(dtype, from.shape.clone()), layout: from, address };
    let result = CudaResult { ty: TensorType::new(to.dtype, from.shape.clone()), address: at };
    strided::cast(&operand, &result).map_err(|m| Error::Run(format!("copying a latent: {m}")))
}

/// An input of a plan: name, type and address.
type Given = (String, TensorType, u64);

/// As [`Executable::bind`] wants them.
fn addresses(inputs: &[Given]) -> Vec<(&str, u64)> {
    inputs.iter().map(|(name, _, at)| (name.as_str(), *at)).collect()
}

/// The inputs of a plan by name and type.
fn inputs(exe: &Executable) -> impl Iterator<Item = (String, TensorType)> {
    exe.graph().inputs().map(|(name, v)| (name.to_owned(), exe.plan().input_type(v)))
}

/// See [`Denoiser::run`].
pub(super) fn run(
    denoiser: &mut Denoiser,
    kernels: &Kernels,
    subjects: &[Subject],
    settings: &Settings,
    limit: usize,
    watch: Watch,
) -> Result<Vec<Denoised>> {
    let sampler = sampler::from_name(&settings.sampler, settings.span)?;
    let steps = sampler.device_steps();
    let parts: Vec<Parts> =
        subjects.iter().map(|s| Parts::new(extent(s.lq), settings)).collect::<Result<_>>()?;
    let groups = launches(&parts, limit, settings.halves());
    denoiser.ready.retain(|shape, _| groups.iter().any(|g| g.shape == *shape));
    let mut arena = 0;
    for group in &groups {
        let Ready { once, each } = denoiser.ready(&group.shape)?;
        arena = arena.max(once.plan().arena_bytes).max(each.plan().arena_bytes);
    }
    let workspace = denoiser.workspace.clone();
    let working = workspace.hold(&kernels.device, arena)?;
    let mut l = Loop {
        device: kernels.device.clone(),
        memory: Vec::new(),
        plans: Vec::new(),
        before: Vec::new(),
        step: Vec::new(),
        recording: None,
        slots: Vec::new(),
    };
    let control = Control {
        rows: l.upload(&steps.rows)?,
        counter: l.upload(&u32::MAX.to_le_bytes())?,
        timestep: l.allocate(4)?,
        faults: l.upload(&vec![0; 4 * subjects.len()])?,
    };
    l.step.push(steps.begin(control.rows, control.counter, control.timestep));
    let mut pictures: Vec<Picture> = subjects
        .iter()
        .zip(parts)
        .map(|(subject, parts)| Picture::new(&mut l, subject, parts, settings, steps.history))
        .collect::<Result<_>>()?;
    for group in &groups {
        // Binding may run steps in the working memory to measure them. Nothing of value lies there then: what an
        // earlier group computes once was copied out by launches that come first.
        let ready = denoiser.ready.get(&group.shape).expect("made above");
        l.network(group, ready, &working, &mut pictures, control.timestep, group.texts(subjects)?)?;
        l.start(watch.cancel)?;
    }
    for (i, (picture, subject)) in pictures.iter().zip(subjects).enumerate() {
        l.advance(i, picture, subject, settings, (&*sampler, &steps), &control)?;
    }
    replay(&mut l, control.faults, subjects.len(), sampler.len(), watch)?;
    pictures.iter().zip(subjects).map(|(picture, s)| picture.read(&l, s.start.len())).collect()
}

/// Addresses of what tells a step from the next.
struct Control {
    /// The sampler's factors, a row a step.
    rows: u64,
    /// Number of the step.
    counter: u64,
    /// What the network is given.
    timestep: u64,
    /// For each picture, after which step it was not finite.
    faults: u64,
}

/// One picture's memory.
struct Picture {
    parts: Parts,
    /// The latents that the network is steered by.
    lq: u64,
    pre: u64,
    walk: Walk,
    other: Option<Walk>,
    /// What the network answers, part by part, and how many parts have found their place.
    answers: u64,
    placed: usize,
}

impl Picture {
    fn new(
        l: &mut Loop,
        subject: &Subject,
        parts: Parts,
        settings: &Settings,
        history: usize,
    ) -> Result<Self> {
        let (h, w) = parts.size();
        let mut walk = || {
            let state = l.floats(&subject.start)?;
            let history = (0..history).map(|_| l.allocate(4 * subject.start.len())).collect::<Result<_>>()?;
            Ok::<_, Error>(Walk { state, history })
        };
        Ok(Picture {
            walk: walk()?,
            other: settings.keeps_other(subject).then(walk).transpose()?,
            lq: l.floats(&subject.lq.to_f32())?,
            pre: l.floats(&subject.pre.to_f32())?,
            answers: l.allocate(4 * planes(settings) * parts.corners().len() * h * w)?,
            placed: 0,
            parts,
        })
    }

    /// The results, after the last step.
    fn read(&self, l: &Loop, len: usize) -> Result<Denoised> {
        let read = |walk: &Walk| {
            let mut values = vec![0f32; len];
            // SAFETY: a latent of this length in `l`.
            unsafe { l.device.download(walk.state, bytemuck::cast_slice_mut(&mut values)) }?;
            Ok::<_, Error>(values)
        };
        Ok(Denoised { latent: read(&self.walk)?, other: self.other.as_ref().map(read).transpose()? })
    }
}

impl Loop {
    /// The network over a group of parts: what it computes once goes before the loop, the rest into the step.
    fn network(
        &mut self,
        group: &Group,
        ready: &Ready,
        working: &HeldMemory,
        pictures: &mut [Picture],
        timestep: u64,
        (y, lengths): (HostTensor, HostTensor),
    ) -> Result<()> {
        let (h, w) = group.shape.size;
        // Cuts the group's parts out of planes `[4, h, w]` of each picture.
        let cut = |of: fn(&Picture) -> u64, to: &TensorType, at: u64| -> Result<Vec<Launch>> {
            let mut launches = Vec::new();
            for (i, item) in group.items.iter().enumerate() {
                let picture = &pictures[item.subject];
                let at = at + (i * LATENT * h * w * to.dtype.size()) as u64;
                launches.extend(copy(&picture.parts.view(item.corner), DType::F32, of(picture), to, at)?);
            }
            Ok(launches)
        };
        // Both plans may read an input, each in its own element type.
        let [once_inputs, each_inputs] = [&ready.once, &ready.each].map(|exe| {
            inputs(exe)
                .map(|(name, ty)| {
                    let text = match name.as_str() {
                        "y" => Some(&y),
                        "lengths" => Some(&lengths),
                        _ => None,
                    };
                    let at = match text {
                        Some(t) if ty.dtype.is_float() => self.upload(t.cast(ty.dtype).bytes())?,
                        Some(t) => self.upload(t.bytes())?,
                        None if name == "timestep" && ty.dtype == DType::F32 => timestep,
                        None => self.allocate(ty.bytes())?,
                    };
                    match name.as_str() {
                        "c_lq" => self.before.extend(cut(|p| p.lq, &ty, at)?),
                        "c_pre" => self.before.extend(cut(|p| p.pre, &ty, at)?),
                        "x" => self.step.extend(cut(|p| p.walk.state, &ty, at)?),
                        "timestep" if at != timestep => {
                            self.step.extend(copy(&Layout::dense(&ty.shape), DType::F32, timestep, &ty, at)?);
                        }
                        _ => {} // from the plan that runs once
                    }
                    Ok((name, ty, at))
                })
                .collect::<Result<Vec<Given>>>()
        });
        let (once_inputs, each_inputs) = (once_inputs?, each_inputs?);

        let once = ready.once.bind(working, &addresses(&once_inputs))?;
        self.before.extend(once.launches.iter().cloned());
        for (name, from) in &once.outputs {
            let Some((_, ty, at)) = each_inputs.iter().find(|(n, ..)| n == name) else { continue };
            self.before.extend(copy(&Layout::dense(&ty.shape), from.ty.dtype, from.address, ty, *at)?);
        }

        let each = ready.each.bind(working, &addresses(&each_inputs))?;
        self.step.extend(each.launches.iter().cloned());
        // Each part's answer goes behind those of its picture's earlier parts.
        let [(_, out)] = &each.outputs[..] else { unreachable!("one output: see `graph`") };
        let answer = group.shape.halves * 2 * LATENT * h * w;
        let all = Layout::dense(&[group.items.len(), answer]);
        let mut first = 0;
        for items in group.items.chunk_by(|a, b| a.subject == b.subject) {
            let picture = &mut pictures[items[0].subject];
            let to = picture.answers + (4 * answer * picture.placed) as u64;
            let view = all.slice(0, first, items.len());
            let ty = TensorType::new(DType::F32, view.shape.clone());
            self.step.extend(copy(&view, out.ty.dtype, out.address, &ty, to)?);
            picture.placed += items.len();
            first += items.len();
        }
        self.plans.extend([once, each]);
        Ok(())
    }

    /// What a step does with the network's answers to picture `i`: blend, guidance, noise, the sampler.
    fn advance(
        &mut self,
        i: usize,
        picture: &Picture,
        subject: &Subject,
        settings: &Settings,
        (sampler, steps): (&dyn Sampler, &Steps),
        control: &Control,
    ) -> Result<()> {
        let len = subject.start.len();
        let channels = planes(settings);
        let planes = match &picture.parts {
            Parts::Whole(..) => picture.answers,
            Parts::Tiles(grid) => {
                let weights = self.upload(bytemuck::cast_slice(&grid.weights()))?;
                let out = self.allocate(4 * channels / LATENT * len)?;
                self.step.push(latent_tiles::cuda::blend(grid, picture.answers, weights, channels, out));
                out
            }
        };
        // Planes of a half: noise, then variance.
        let half_at = |half: usize| planes + (4 * 2 * len * half) as u64;
        let guided = settings.guided.unwrap_or(sampler.guided()).count(LATENT) * (len / LATENT);
        if settings.halves() == 2 {
            self.step.extend(cuda::combine(half_at(0), half_at(1), 1, 2 * len, guided, settings.cfg));
        }
        if picture.other.is_some() {
            // Guided channels are common to both halves.
            let ty = TensorType::new(DType::F32, vec![guided]);
            self.step.extend(copy(&Layout::dense(&ty.shape), DType::F32, half_at(0), &ty, half_at(1))?);
        }
        let drawn = match (&subject.noise, steps.noise) {
            (NoiseSource::Drawn(noise), true) => {
                let at = self.allocate(4 * len)?;
                self.step.extend(cuda::fill(noise, NoiseStep::At(control.counter), at, len));
                Some((at, 0))
            }
            _ => None,
        };
        for (half, walk) in [(1, picture.other.as_ref()), (0, Some(&picture.walk))] {
            let Some(walk) = walk else { continue };
            let noise = match subject.noise {
                NoiseSource::Replayed(_) if steps.noise => {
                    let mut all = vec![0.0; sampler.len() * len];
                    for (k, row) in
                        all.chunks_exact_mut(len).enumerate().filter(|(k, _)| sampler.wants_noise(*k))
                    {
                        row.copy_from_slice(&subject.noise.step(k, len, half)?);
                    }
                    Some((self.floats(&all)?, len))
                }
                _ => drawn,
            };
            self.step.extend(steps.step(&StepAddresses {
                x: walk.state,
                eps: half_at(half),
                variance: Some(half_at(half) + 4 * len as u64),
                noise,
                history: walk.history.clone(),
                counter: control.counter,
                rows: control.rows,
                fault: control.faults + 4 * i as u64,
                len,
            }));
        }
        Ok(())
    }
}

/// Runs the step `calls` times.
fn replay(l: &mut Loop, faults: u64, pictures: usize, calls: usize, watch: Watch) -> Result<()> {
    for launch in &l.step {
        l.device.check(launch).map_err(Error::Run)?;
    }
    // SAFETY: the memory is that of `l`, and the caller's working memory.
    l.recording = unsafe { l.device.record(&l.step) }.transpose()?;
    for _ in 0..AHEAD {
        let faults = PinnedMemory::new(&l.device, 4 * pictures)?;
        l.slots.push(Slot { mark: l.device.mark()?, faults });
    }
    let share = |done: f32| (watch.progress)(done / calls as f32);
    for k in 0..calls {
        let _range = trace::range(|| format!("step {}", k + 1));
        let slot = &l.slots[k % AHEAD];
        if let Some(before) = k.checked_sub(AHEAD) {
            finish(slot, calls, watch.cancel)?;
            share((before + 1) as f32);
        }
        watch.cancel.check()?;
        start_step(l, &watch, &|part| share(k as f32 + part))?;
        // SAFETY: `faults` holds a number a picture; `l` keeps both sides until the copy is done.
        unsafe { l.device.download_later(faults, slot.faults.as_mut_ptr(), 4 * pictures) }?;
        slot.mark.set()?;
    }
    for k in calls.saturating_sub(AHEAD)..calls {
        finish(&l.slots[k % AHEAD], calls, watch.cancel)?;
        share((k + 1) as f32);
    }
    Ok(())
}

/// Starts one step; on a device without recordings tells how far it is.
fn start_step(l: &Loop, watch: &Watch, part: &dyn Fn(f32)) -> Result<()> {
    if let Some(recording) = &l.recording {
        // SAFETY: the memory is that of `l`, and the caller's working memory.
        return unsafe { recording.start() };
    }
    for (i, launches) in l.step.chunks(PIECE).enumerate() {
        watch.cancel.check()?;
        l.launch(launches)?;
        part((i * PIECE) as f32 / l.step.len() as f32);
    }
    Ok(())
}

/// Looks at a step until it is done; whether all latents were finite after it.
fn finish(step: &Slot, calls: usize, cancel: &Cancel) -> Result<()> {
    while !step.mark.reached()? {
        cancel.check()?;
        std::thread::sleep(GLANCE);
    }
    let faults: Vec<u32> = bytemuck::pod_collect_to_vec(&step.faults.read());
    match faults.iter().filter(|&&f| f > 0).min() {
        Some(&first) => Err(not_finite(first as usize - 1, calls)),
        None => Ok(()),
    }
}
