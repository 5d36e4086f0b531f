//! The denoising loop: latents, tiles and guidance halves of several pictures in few launches.
//!
//! One graph is recorded for a launch and split ([`hoist`]) into what a picture needs once (text
//! keys and values, condition embeddings) and what every step computes. A result depends neither
//! on how many tiles share a launch nor on the pictures beside it.

mod on_device;

use std::collections::HashMap;

use super::noise::NoiseSource;
use crate::device::Device;
use crate::diffusion::guidance::{self, Guided};
use crate::diffusion::sampler::{self, Sampler};
use crate::diffusion::schedule::Span;
use crate::error::{Error, Result};
use crate::graph::passes::{self, Split, hoist};
use crate::graph::{Executable, Graph, GraphBuilder, Layout, Outputs, Plan, Workspace};
use crate::models::controlformer::{DreamClear, Inputs};
use crate::models::latent_tiles::{Blend, Grid};
use crate::ops::fuse;
use crate::pipelines::tiled::Watch;
use crate::tensor::{DType, HostTensor};
use crate::trace;
use crate::weights::WeightSet;

/// Channels of the latent.
pub const LATENT: usize = 4;
/// The size and shape that DreamClear tells its network about every picture and tile (quirk 8).
const MICRO_SIZE: f32 = 1024.0;

/// What the loop runs with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `iddpm`, `ddim`, `dpm++` …
    pub sampler: String,
    /// Network calls, and the timestep of the first.
    pub span: Span,
    /// Guidance scale. With 1 there is no guidance, and only the captioned half runs (the official code runs
    /// both, which then meet nowhere but in the cross-attention of the branches).
    pub cfg: f32,
    /// Which latent channels are guided, if not those of the official sampler.
    pub guided: Option<Guided>,
    /// Side of a latent tile and overlap of neighbours.
    pub tile: (usize, usize),
    /// The one latent size that runs whole; every other size is tiled (official behaviour).
    pub untiled: (usize, usize),
}

impl Settings {
    /// Halves of the guidance that the network runs.
    pub fn halves(&self) -> usize {
        if self.cfg == 1.0 { 1 } else { 2 }
    }

    /// Whether the latent of a picture's other half is wanted, and there is one.
    fn keeps_other(&self, subject: &Subject) -> bool {
        subject.keep_other && self.halves() == 2
    }
}

/// The text of a picture: features of the wanted and the unwanted caption.
#[derive(Clone, Debug)]
pub struct Text {
    /// `[2, L, caption channels]`: caption, then null or negative caption.
    pub features: HostTensor,
    /// Valid rows of each half.
    pub lengths: [usize; 2],
}

/// A picture to denoise.
pub struct Subject<'a> {
    /// Latent `[4, h, w]` of the low-quality picture, scaled.
    pub lq: &'a HostTensor,
    /// Latent of the degradation-removed picture.
    pub pre: &'a HostTensor,
    /// Where the loop starts.
    pub start: Vec<f32>,
    /// Its text.
    pub text: &'a Text,
    /// Its noise.
    pub noise: &'a NoiseSource,
    /// Whether the other half's latent is wanted too: it changes nothing, the network only ever
    /// sees the conditional one, but the official code keeps it.
    pub keep_other: bool,
}

/// A denoised picture.
#[derive(Clone, Debug)]
pub struct Denoised {
    /// The latent `[4, h, w]`, scaled.
    pub latent: Vec<f32>,
    /// The other half's, if it was wanted.
    pub other: Option<Vec<f32>>,
}

/// What shapes a launch: equal ones share plans.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LaunchShape {
    /// Height and width of the latent part.
    pub size: (usize, usize),
    /// For each item, which of the launch's pictures it belongs to.
    pub pictures: Vec<usize>,
    /// [`Settings::halves`] of each item.
    pub halves: usize,
}

struct Ready {
    once: Executable,
    each: Executable,
}

/// One part of one picture's latent.
#[derive(Clone, Copy, Debug)]
struct Item {
    subject: usize,
    corner: (usize, usize),
}

/// Items that run together, and what they carry from step to step.
struct Launch {
    shape: LaunchShape,
    items: Vec<Item>,
    carried: Outputs,
}

impl Launch {
    /// Captions of its pictures, each with its halves, and their valid rows: `y` and `lengths` of the graph.
    fn texts(&self, subjects: &[Subject]) -> Result<(HostTensor, HostTensor)> {
        let mut texts: Vec<&Text> = Vec::new();
        for (item, &picture) in self.items.iter().zip(&self.shape.pictures) {
            if picture == texts.len() {
                texts.push(subjects[item.subject].text);
            }
        }
        let [_, rows, channels] = texts[0].features.shape()[..] else {
            return Err(Error::Run(format!("text features {:?}", texts[0].features)));
        };
        let halves = self.shape.halves;
        let first = |t: &&Text| t.features.to_f32()[..halves * rows * channels].to_vec();
        let y = texts.iter().flat_map(first).collect();
        let y = HostTensor::from_f32([halves * texts.len(), rows, channels], y);
        let lengths: Vec<i64> =
            texts.iter().flat_map(|t| t.lengths[..halves].iter().map(|&l| l as i64)).collect();
        Ok((y, HostTensor::from_i64([lengths.len()], lengths)))
    }
}

/// The denoiser with its weights.
pub struct Denoiser {
    /// The network.
    pub model: DreamClear,
    weights: WeightSet,
    matrices: DType,
    device: Device,
    workspace: Workspace,
    stream: bool,
    ready: HashMap<LaunchShape, Ready>,
}

impl Denoiser {
    /// `weights` must hold every parameter in the dtype of [`Denoiser::graph`]'s.
    pub fn new(
        model: DreamClear,
        weights: WeightSet,
        matrices: DType,
        device: Device,
        workspace: Workspace,
    ) -> Self {
        Denoiser { model, weights, matrices, device, workspace, stream: false, ready: HashMap::new() }
    }

    /// Bytes of the weights as they are kept.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Gives up what it has made ready, and the working memory.
    pub fn forget(&mut self) {
        self.ready.clear();
        self.workspace.release();
    }

    /// From here on weights are read from their file at every step instead of staying in memory.
    pub fn stream_weights(&mut self, stream: bool) {
        self.stream = stream;
        self.ready.clear();
    }

    /// The graph of a launch: inputs `x [items, 4, h, w]`, `timestep [1]`, `y [halves·pictures, L, C]`,
    /// `lengths [halves·pictures]`, `c_lq` and `c_pre [items, 4, h, w]`; output `out [halves·items, 8, h, w]`.
    pub fn graph(&self, shape: &LaunchShape) -> Result<Graph> {
        graph(&self.model, self.matrices, shape)
    }

    /// The two plans of a launch: once per picture, and per step.
    pub fn plans(&self, shape: &LaunchShape) -> Result<(Plan, Plan)> {
        let Split { mut once, mut each } = hoist(&self.graph(shape)?, &["x", "timestep"])?;
        passes::run(&mut once, fuse::RULES, None)?;
        passes::run(&mut each, fuse::RULES, None)?;
        Ok((Plan::new(once, &self.device)?, Plan::new(each, &self.device)?))
    }

    fn ready(&mut self, shape: &LaunchShape) -> Result<&mut Ready> {
        if !self.ready.contains_key(shape) {
            let (once, each) = self.plans(shape)?;
            let bind = |plan| {
                let weights = &self.weights;
                let mut exe = Executable::in_workspace(
                    plan,
                    self.device.clone(),
                    |key| weights.get(key).cloned(),
                    &self.workspace,
                )?;
                if self.stream {
                    exe.stream_params();
                }
                Ok::<_, Error>(exe)
            };
            let ready = Ready { once: bind(once)?, each: bind(each)? };
            self.ready.insert(shape.clone(), ready);
        }
        Ok(self.ready.get_mut(shape).expect("just inserted"))
    }

    /// Denoises all `subjects` together, at most `limit` latent parts in a launch. On a device that takes
    /// kernels the whole loop runs there; the result is that of [`Denoiser::run_on_host`] bit for bit.
    ///
    /// # Errors
    /// `Error::Interrupted`; or the step at which a latent stopped being finite.
    pub fn run(
        &mut self,
        subjects: &[Subject],
        settings: &Settings,
        limit: usize,
        watch: Watch,
    ) -> Result<Vec<Denoised>> {
        match self.device.as_kernels().cloned() {
            Some(kernels) => on_device::run(self, &kernels, subjects, settings, limit, watch),
            None => self.run_on_host(subjects, settings, limit, watch),
        }
    }

    /// The loop with the sampler, its noise and the blend of tiles on the host.
    ///
    /// # Errors
    /// As [`Denoiser::run`].
    pub fn run_on_host(
        &mut self,
        subjects: &[Subject],
        settings: &Settings,
        limit: usize,
        watch: Watch,
    ) -> Result<Vec<Denoised>> {
        let parts: Vec<Parts> =
            subjects.iter().map(|s| Parts::new(extent(s.lq), settings)).collect::<Result<_>>()?;
        let walk = |s: &Subject| Walk::new(settings, &s.start);
        let mut walks: Vec<Walk> = subjects.iter().map(walk).collect::<Result<_>>()?;
        let mut others: Vec<Option<Walk>> = subjects
            .iter()
            .map(|s| settings.keeps_other(s).then(|| walk(s)).transpose())
            .collect::<Result<_>>()?;
        // A shape that comes again is kept; others of an earlier job would only hold memory.
        let mut launches = launches(&parts, limit, settings.halves());
        self.ready.retain(|shape, _| launches.iter().any(|l| l.shape == *shape));
        for launch in &mut launches {
            launch.carried = self.prepare(launch, subjects, &parts, watch)?;
        }
        let calls = walks.first().map_or(0, |w| w.sampler.len());
        for k in 0..calls {
            let _range = trace::range(|| format!("step {}", k + 1));
            let time = walks[0].sampler.timestep(k) as f32;
            let planes = settings.halves() * 2 * LATENT;
            let mut results: Vec<Collected> = parts.iter().map(|p| Collected::new(p, planes)).collect();
            for (n, launch) in launches.iter().enumerate() {
                let share = |f: f32| ((n as f32 + f) / launches.len() as f32 + k as f32) / calls as f32;
                let progress = |f: f32| (watch.progress)(share(f));
                let here = Watch { progress: &progress, ..watch };
                let out = self.step(launch, &parts, &walks, time, here)?;
                let per_item = out.len() / launch.items.len();
                for (item, values) in launch.items.iter().zip(out.chunks_exact(per_item)) {
                    results[item.subject].add(item.corner, values);
                }
            }
            for (i, result) in results.into_iter().enumerate() {
                let planes = result.finish();
                let answers = Answers { planes: &planes, noise: subjects[i].noise, settings };
                if let Some(other) = &mut others[i] {
                    answers.advance(other, k, Half::Other)?;
                }
                answers.advance(&mut walks[i], k, Half::Conditional)?;
                if !walks[i].state.iter().all(|x| x.is_finite()) {
                    return Err(not_finite(k, calls));
                }
            }
        }
        let others = others.into_iter().map(|o| o.map(|walk| walk.state));
        Ok(walks
            .into_iter()
            .zip(others)
            .map(|(walk, other)| Denoised { latent: walk.state, other })
            .collect())
    }

    /// Runs the part of a launch that does not change from step to step.
    fn prepare(
        &mut self,
        launch: &Launch,
        subjects: &[Subject],
        parts: &[Parts],
        watch: Watch,
    ) -> Result<Outputs> {
        let (h, w) = launch.shape.size;
        let cut = |of: fn(&Subject) -> HostTensor| {
            let mut data = Vec::with_capacity(launch.items.len() * LATENT * h * w);
            for item in &launch.items {
                let latent = of(&subjects[item.subject]);
                parts[item.subject].crop(&latent.to_f32(), item.corner, &mut data);
            }
            HostTensor::from_f32([launch.items.len(), LATENT, h, w], data)
        };
        let (c_lq, c_pre) = (cut(|s| s.lq.clone()), cut(|s| s.pre.clone()));
        let (y, lengths) = launch.texts(subjects)?;
        let cancel = watch.cancel;
        // Each part takes what it reads.
        let given = [("c_lq", c_lq), ("c_pre", c_pre), ("y", y), ("lengths", lengths)];
        let of = |graph: &Graph| -> Vec<(&str, HostTensor)> {
            let wants = |name: &str| graph.inputs().any(|(n, _)| n == name);
            given.iter().filter(|(n, _)| wants(n)).cloned().collect()
        };
        let Ready { once, each } = self.ready(&launch.shape)?;
        let inputs = of(once.graph());
        let mut carried = once.run_observed(&inputs, |_, _| cancel.check())?;
        carried.extend(of(each.graph()).into_iter().map(|(n, t)| (n.to_owned(), t)));
        Ok(carried)
    }

    fn step(
        &mut self,
        launch: &Launch,
        parts: &[Parts],
        walks: &[Walk],
        time: f32,
        watch: Watch,
    ) -> Result<Vec<f32>> {
        let (h, w) = launch.shape.size;
        let mut x = Vec::with_capacity(launch.items.len() * LATENT * h * w);
        for item in &launch.items {
            parts[item.subject].crop(&walks[item.subject].state, item.corner, &mut x);
        }
        let x = HostTensor::from_f32([launch.items.len(), LATENT, h, w], x);
        let time = HostTensor::from_f32([1], vec![time]);
        let mut inputs = vec![("x", x), ("timestep", time)];
        inputs.extend(launch.carried.iter().map(|(n, t)| (n.as_str(), t.clone())));
        let exe = &mut self.ready(&launch.shape)?.each;
        let whole: f64 = exe.plan().steps.iter().map(|s| s.cost.bytes + s.cost.flops).sum();
        let mut done = 0.0;
        let out = exe.run_observed(&inputs, |step, _| {
            done += step.cost.bytes + step.cost.flops;
            (watch.progress)((done / whole) as f32);
            watch.cancel.check()
        })?;
        Ok(out[0].1.to_f32().into_owned())
    }
}

/// The sentence for a latent that is no number any more after step `k`.
fn not_finite(k: usize, calls: usize) -> Error {
    Error::Run(format!(
        "after denoising step {} of {calls} the latent holds values that are not finite: the weights or the settings \
         do not fit this picture",
        k + 1
    ))
}

/// A latent on its way, and the sampler that moves it.
struct Walk {
    sampler: Box<dyn Sampler>,
    state: Vec<f32>,
}

impl Walk {
    fn new(settings: &Settings, start: &[f32]) -> Result<Self> {
        Ok(Walk { sampler: sampler::from_name(&settings.sampler, settings.span)?, state: start.to_vec() })
    }
}

/// Halves of the guidance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    /// With the caption: the result.
    Conditional,
    /// With the null caption.
    Other,
}

/// What the network said of one picture at one step, blended.
struct Answers<'a> {
    /// Noise and variance channels of the conditional half, then of the other if there is one.
    planes: &'a [f32],
    noise: &'a NoiseSource,
    settings: &'a Settings,
}

impl Answers<'_> {
    /// One step of one half's sampler. Both halves are guided alike; channels that are not guided,
    /// the variance and the noise are each half's own.
    fn advance(&self, walk: &mut Walk, k: usize, half: Half) -> Result<()> {
        let Walk { sampler, state } = walk;
        let area = state.len() / LATENT;
        let (conditional, other) = self.planes.split_at(2 * state.len());
        let guided = self.settings.guided.unwrap_or(sampler.guided());
        let mut answer = conditional.to_vec();
        if !other.is_empty() {
            guidance::combine(&mut answer, other, area, LATENT, self.settings.cfg, guided);
        }
        if half == Half::Other {
            let shared = guided.count(LATENT) * area;
            answer[shared..].copy_from_slice(&other[shared..]);
        }
        let (eps, variance) = answer.split_at(LATENT * area);
        let drawn = match sampler.wants_noise(k) {
            true => Some(self.noise.step(k, state.len(), usize::from(half == Half::Other))?),
            false => None,
        };
        sampler.step(k, state, eps, variance, drawn.as_deref());
        Ok(())
    }
}

/// Rows and columns of a latent `[…, h, w]`.
fn extent(latent: &HostTensor) -> (usize, usize) {
    let shape = latent.shape();
    (shape[shape.len() - 2], shape[shape.len() - 1])
}

/// How one latent is cut: whole, or by the official grid.
enum Parts {
    Whole(usize, usize),
    Tiles(Grid),
}

impl Parts {
    fn new((h, w): (usize, usize), settings: &Settings) -> Result<Self> {
        if (h, w) == settings.untiled {
            return Ok(Parts::Whole(h, w));
        }
        let (tile, overlap) = settings.tile;
        // Tiles of a small latent are as small, down to where the official code has no grid any more.
        let side = tile.min(h).min(w);
        let overlap = if side < tile && overlap >= side { side / 2 } else { overlap };
        Ok(Parts::Tiles(Grid::new(h, w, tile, overlap)?))
    }

    fn size(&self) -> (usize, usize) {
        match self {
            Parts::Whole(h, w) => (*h, *w),
            Parts::Tiles(grid) => (grid.tile, grid.tile),
        }
    }

    fn corners(&self) -> Vec<(usize, usize)> {
        match self {
            Parts::Whole(..) => vec![(0, 0)],
            Parts::Tiles(grid) => grid.corners().collect(),
        }
    }

    /// The part of a latent `[4, h, w]` at `corner`.
    fn view(&self, (top, left): (usize, usize)) -> Layout {
        match self {
            Parts::Whole(h, w) => Layout::dense(&[LATENT, *h, *w]),
            Parts::Tiles(grid) => Layout::dense(&[LATENT, grid.height, grid.width])
                .slice(1, top, grid.tile)
                .slice(2, left, grid.tile),
        }
    }

    /// Appends the part of `latent` at `corner`.
    fn crop(&self, latent: &[f32], (top, left): (usize, usize), out: &mut Vec<f32>) {
        match self {
            Parts::Whole(..) => out.extend_from_slice(latent),
            Parts::Tiles(grid) => {
                for plane in latent.chunks_exact(grid.height * grid.width) {
                    for y in top..top + grid.tile {
                        out.extend_from_slice(&plane[y * grid.width + left..][..grid.tile]);
                    }
                }
            }
        }
    }
}

/// Results of one picture's parts: of each half, noise and variance channels.
enum Collected {
    Whole(Vec<f32>),
    Tiles(Blend),
}

impl Collected {
    fn new(parts: &Parts, planes: usize) -> Self {
        match parts {
            Parts::Whole(..) => Collected::Whole(Vec::new()),
            Parts::Tiles(grid) => Collected::Tiles(Blend::new(grid, planes)),
        }
    }

    fn add(&mut self, corner: (usize, usize), values: &[f32]) {
        match self {
            Collected::Whole(all) => all.extend_from_slice(values),
            Collected::Tiles(blend) => blend.add(corner, values),
        }
    }

    fn finish(self) -> Vec<f32> {
        match self {
            Collected::Whole(all) => all,
            Collected::Tiles(blend) => blend.finish(),
        }
    }
}

/// Distributes all parts over launches of at most `limit`, equal sizes together, pictures in order.
fn launches(parts: &[Parts], limit: usize, halves: usize) -> Vec<Launch> {
    let mut sizes: Vec<(usize, usize)> = Vec::new();
    for p in parts {
        if !sizes.contains(&p.size()) {
            sizes.push(p.size());
        }
    }
    let mut launches = Vec::new();
    for size in sizes {
        let items: Vec<Item> = parts
            .iter()
            .enumerate()
            .filter(|(_, p)| p.size() == size)
            .flat_map(|(subject, p)| p.corners().into_iter().map(move |corner| Item { subject, corner }))
            .collect();
        // Evened out, so that few shapes of launches need plans.
        let count = items.len().div_ceil(limit.max(1));
        for items in items.chunks(items.len().div_ceil(count)) {
            let mut seen: Vec<usize> = Vec::new();
            let pictures = items
                .iter()
                .map(|item| {
                    seen.iter().position(|&s| s == item.subject).unwrap_or_else(|| {
                        seen.push(item.subject);
                        seen.len() - 1
                    })
                })
                .collect();
            let shape = LaunchShape { size, pictures, halves };
            launches.push(Launch { shape, items: items.to_vec(), carried: Vec::new() });
        }
    }
    launches
}

/// How many latent parts a latent of this size is cut into, and their size.
pub fn count_parts(latent: (usize, usize), settings: &Settings) -> Result<(usize, (usize, usize))> {
    let parts = Parts::new(latent, settings)?;
    Ok((parts.corners().len(), parts.size()))
}

/// See [`Denoiser::graph`].
pub fn graph(model: &DreamClear, matrices: DType, shape: &LaunchShape) -> Result<Graph> {
    let (h, w) = shape.size;
    let (items, halves) = (shape.pictures.len(), shape.halves);
    let pictures = shape.pictures.iter().max().map_or(0, |&p| p + 1);
    let mut b = GraphBuilder::new();
    b.keep_matrices_in(matrices);
    let latent = [items, LATENT, h, w];
    let x = b.input("x", DType::F32, latent)?;
    let timestep = b.input("timestep", DType::F32, [1])?;
    let (tokens, channels) = (model.base.model_max_length, model.base.caption_channels);
    let y = b.input("y", DType::F32, [halves * pictures, tokens, channels])?;
    let lengths = b.input("lengths", DType::I64, [halves * pictures])?;
    let c_lq = b.input("c_lq", DType::F32, latent)?;
    let c_pre = b.input("c_pre", DType::F32, latent)?;
    // Both halves of the guidance see the same latent.
    let x = b.reshape(x, [items, 1, LATENT, h, w])?;
    let x = b.broadcast_to(x, &[items, halves, LATENT, h, w])?;
    let x = b.reshape(x, [halves * items, LATENT, h, w])?;
    let img_hw = b.constant(HostTensor::from_f32([1, 2], vec![MICRO_SIZE; 2]));
    let aspect_ratio = b.constant(HostTensor::from_f32([1, 1], vec![1.0]));
    let kv_rows = shape.pictures.iter().flat_map(|&p| halves * p..halves * (p + 1)).collect();
    let out = model.build(
        &mut b,
        &Inputs { x, timestep, y, lengths, c_lq, c_pre, img_hw, aspect_ratio, kv_rows, scope: halves },
    )?;
    b.output("out", out);
    Ok(b.finish())
}
