//! The autoencoder on pictures of any size: whole where its working memory fits a budget, else in
//! exact bands (`bands.rs`).

use std::path::PathBuf;

use crate::bench::predict;
use crate::cancel::Cancel;
use crate::data::pixels::FloatImage;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Executable, Graph, GraphBuilder, Plan, Workspace, passes};
use crate::models::vae::{AutoencoderKl, Layer, record};
use crate::ops::fuse;
use crate::tensor::{DType, HostTensor};
use crate::weights::WeightSet;

mod bands;
mod maps;

use super::device_image::DeviceImage;
use super::tiled::Watch;
use bands::Chain;
use maps::{Ledger, Map};

/// What one half takes on one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct VaePlan {
    /// Bytes of the half's weights in f32.
    pub weights: usize,
    /// Bytes of the largest arena: of the whole plan, or of a band with its operands.
    pub arena: usize,
    /// Bytes of feature maps between bands in memory; 0 for a whole plan.
    pub maps: usize,
    /// Bytes of feature maps in files.
    pub spilled: usize,
    /// Bytes of picture and latent in f32.
    pub pictures: usize,
    /// The most bytes of memory at any time: weights, pictures, and what of arena and maps is there
    /// together.
    pub peak: usize,
    /// Operations.
    pub flops: f64,
    /// Predicted seconds of a whole plan, if the device is a GPU or stands for one.
    pub seconds: Option<f64>,
    /// Bands over all layers; 1 for a whole plan.
    pub bands: usize,
}

/// Encoder and decoder with their weights.
pub struct VaeRunner {
    config: AutoencoderKl,
    weights: WeightSet,
    device: Device,
    workspace: Workspace,
    memory: usize,
    folder: PathBuf,
    band_rows: Option<usize>,
    /// The whole plan of the last half and size: pictures of one job are often alike.
    ready: Option<(Task, Executable)>,
}

/// One half on one size of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Task {
    encode: bool,
    size: [usize; 2],
}

/// The share of the work that is done, for whoever watches.
struct Progress<'a> {
    watch: Watch<'a>,
    done: f64,
    total: f64,
}

impl Progress<'_> {
    fn done(&mut self, flops: f64) {
        self.done += flops;
        (self.watch.progress)((self.done / self.total).min(1.0) as f32);
    }

    /// Runs a plan with one result, telling after each step.
    fn run(&mut self, exe: &mut Executable, inputs: &[(&str, HostTensor)]) -> Result<HostTensor> {
        let mut out = exe.run_observed(inputs, |step, _| {
            self.done(step.cost.flops);
            self.watch.cancel.check()
        })?;
        Ok(out.swap_remove(0).1)
    }
}

impl VaeRunner {
    /// From weights under current names. `memory` is the working memory in bytes beside weights and
    /// pictures: a picture whose whole plan needs more runs in bands, whose maps go to a file where
    /// they, too, do not fit.
    ///
    /// # Errors
    /// If a weight is missing, unknown or of the wrong shape.
    pub fn new(
        config: AutoencoderKl,
        weights: WeightSet,
        device: impl Into<Device>,
        workspace: Workspace,
        memory: usize,
    ) -> Result<Self> {
        let folder = std::env::temp_dir();
        let device = device.into();
        let runner =
            VaeRunner { config, weights, device, workspace, memory, folder, band_rows: None, ready: None };
        let least = runner.config.factor();
        let mut shapes = runner.graph(Task { encode: true, size: [least; 2] })?.param_shapes();
        shapes.extend(runner.graph(Task { encode: false, size: [1; 2] })?.param_shapes());
        runner.weights.check(shapes.iter().map(|(k, s)| (k.as_str(), s.as_slice())), |_| false)?;
        Ok(runner)
    }

    /// Where files for maps are made, instead of the system's folder for temporary files; they have
    /// no name there while in use. Should not be a RAM disk.
    pub fn spill_to(mut self, folder: PathBuf) -> Self {
        self.folder = folder;
        self
    }

    /// Always works in bands of (about) this many rows of each layer's result.
    pub fn in_bands_of(mut self, rows: usize) -> Self {
        self.band_rows = Some(rows);
        self
    }

    /// Another working memory from here on.
    pub fn set_memory(&mut self, memory: usize) {
        if memory != self.memory {
            self.memory = memory;
            self.ready = None;
        }
    }

    /// Bytes of the weights as stored.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &AutoencoderKl {
        &self.config
    }

    /// Means of the latent `[1, L, H/8, W/8]` (for four levels; not scaled) of a picture in −1..1.
    ///
    /// # Errors
    /// If the picture has another number of channels or is smaller than one latent pixel;
    /// `Interrupted` soon after `watch.cancel` is raised.
    pub fn encode_mode(&mut self, picture: &FloatImage, watch: Watch) -> Result<HostTensor> {
        let FloatImage { height, width, channels, .. } = *picture;
        let (wanted, least) = (self.config.in_channels, self.config.factor());
        if channels != wanted || height < least || width < least {
            return Err(Error::Usage(format!(
                "the autoencoder needs a picture of {wanted} channels and at least {least}×{least} pixels, found \
                 {channels} channels and {width}×{height}"
            )));
        }
        let task = Task { encode: true, size: [height, width] };
        let x = HostTensor::from_f32([1, height, width, channels], picture.data.clone());
        let moments = self.run(task, x, watch)?;
        Ok(self.mode(&moments.to_f32(), task))
    }

    /// Means of the moments `[h, w, 2·L]` as a latent.
    fn mode(&self, moments: &[f32], task: Task) -> HostTensor {
        let latent = self.config.latent_channels;
        let mode = (0..latent).flat_map(|c| moments[c..].iter().step_by(2 * latent).copied()).collect();
        let [h, w] = self.latent_size(task.size);
        HostTensor::from_f32([1, latent, h, w], mode)
    }

    /// [`VaeRunner::encode_mode`] of a picture in device memory, where that runs whole.
    pub fn encode_mode_on_device(
        &mut self,
        picture: &DeviceImage,
        watch: Watch,
    ) -> Result<Option<HostTensor>> {
        let [height, width, _] = picture.size();
        let task = Task { encode: true, size: [height, width] };
        let Some(moments) = self.run_on_device(task, picture, watch)? else { return Ok(None) };
        let moments = moments.read(&*moments.mark()?)?;
        Ok(Some(self.mode(&moments.data, task)))
    }

    /// [`VaeRunner::decode`] into device memory, where that runs whole; the device may still be busy when this
    /// returns.
    pub fn decode_on_device(&mut self, latent: &HostTensor, watch: Watch) -> Result<Option<DeviceImage>> {
        let (task, z) = self.latent_pixels(latent)?;
        let Some(kernels) = self.device.as_kernels() else { return Ok(None) };
        let z = DeviceImage::upload(&kernels.device, &z)?;
        let mut picture = self.run_on_device(task, &z, watch)?;
        if let Some(picture) = &mut picture {
            picture.keep(z);
        }
        Ok(picture)
    }

    /// The picture, about −1..1 and not clamped, of a latent `[1, L, h, w]` (not scaled): 8h × 8w
    /// for four levels.
    ///
    /// # Errors
    /// If the latent has another shape; `Interrupted` soon after `watch.cancel` is raised.
    pub fn decode(&mut self, latent: &HostTensor, watch: Watch) -> Result<FloatImage> {
        let (task, z) = self.latent_pixels(latent)?;
        let x = HostTensor::from_f32([1, z.height, z.width, z.channels], z.data);
        let picture = self.run(task, x, watch)?;
        let [_, [height, width, channels]] = self.extents(task);
        Ok(FloatImage::new(height, width, channels, picture.to_f32().into_owned()))
    }

    /// What decoding a latent is, and the latent with its channels last.
    fn latent_pixels(&self, latent: &HostTensor) -> Result<(Task, FloatImage)> {
        let channels = self.config.latent_channels;
        let (height, width) = match *latent.shape() {
            [1, c, h, w] if c == channels && h > 0 && w > 0 => (h, w),
            ref found => {
                return Err(Error::Usage(format!("a latent must be [1, {channels}, h, w], found {found:?}")));
            }
        };
        let task = Task { encode: false, size: [height, width] };
        let (values, pixels) = (latent.to_f32(), height * width);
        let z = (0..pixels).flat_map(|p| values[p..].iter().step_by(pixels).copied()).collect();
        Ok((task, FloatImage::new(height, width, channels, z)))
    }

    /// What encoding a picture of this size takes.
    pub fn plan_encode(&self, height: usize, width: usize) -> Result<VaePlan> {
        self.plan(Task { encode: true, size: [height, width] })
    }

    /// What decoding a latent of this size takes.
    pub fn plan_decode(&self, height: usize, width: usize) -> Result<VaePlan> {
        self.plan(Task { encode: false, size: [height, width] })
    }

    fn latent_size(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        [height / self.config.factor(), width / self.config.factor()]
    }

    fn layers(&self, task: Task) -> Vec<Layer> {
        if task.encode { self.config.encoder() } else { self.config.decoder() }
    }

    /// Extents of what goes in and what comes out.
    fn extents(&self, task: Task) -> [[usize; 3]; 2] {
        let [height, width] = task.size;
        if task.encode {
            let [h, w] = self.latent_size(task.size);
            [[height, width, self.config.in_channels], [h, w, 2 * self.config.latent_channels]]
        } else {
            let f = self.config.factor();
            [[height, width, self.config.latent_channels], [f * height, f * width, self.config.out_channels]]
        }
    }

    /// The whole half: `x` `[1, H, W, C]` to `y`, both NHWC.
    fn graph(&self, task: Task) -> Result<Graph> {
        let mut b = GraphBuilder::new();
        let [[height, width, channels], _] = self.extents(task);
        let x = b.input("x", DType::F32, [1, height, width, channels])?;
        let y = record(&mut b, &self.layers(task), self.config.norm_num_groups, x)?;
        b.output("y", y);
        let mut graph = b.finish();
        passes::run(&mut graph, fuse::RULES, None)?;
        Ok(graph)
    }

    /// The whole plan, if its arena fits the budget.
    fn whole(&self, task: Task) -> Result<Option<Plan>> {
        if self.band_rows.is_some() {
            return Ok(None);
        }
        let mut graph = self.graph(task)?;
        fuse::for_target(&mut graph, &self.device)?;
        let plan = Plan::new(graph, &self.device)?;
        Ok((plan.arena_bytes <= self.memory).then_some(plan))
    }

    /// A chain that stores maps, or with `dry` only counts.
    fn chain<'a>(&'a self, dry: bool, progress: Progress<'a>) -> Chain<'a> {
        Chain {
            runner: self,
            ledger: Ledger::new(
                self.memory - bands::reserve(self.memory),
                (!dry).then(|| self.folder.clone()),
            ),
            band_peak: 0,
            peak: 0,
            bands: 0,
            progress,
        }
    }

    fn plan(&self, task: Task) -> Result<VaePlan> {
        let [input, output] = self.extents(task);
        if output[0] == 0 || output[1] == 0 {
            let [height, width] = task.size;
            return Err(Error::Usage(format!(
                "a picture of {width}×{height} is too small for the autoencoder"
            )));
        }
        let graph = self.graph(task)?;
        let flops = graph.cost().flops;
        let weights = graph.params().map(|(_, v)| 4 * graph.ty(v).len()).sum();
        let pictures = 4 * (input.iter().product::<usize>() + output.iter().product::<usize>());
        if let Some(plan) = self.whole(task)? {
            let arena = plan.arena_bytes;
            let peak = weights + arena + pictures;
            let seconds = predict::seconds(&plan, &self.device)?;
            return Ok(VaePlan {
                weights,
                arena,
                maps: 0,
                spilled: 0,
                pictures,
                peak,
                flops,
                seconds,
                bands: 1,
            });
        }
        let watch = Watch { cancel: &Cancel::new(), progress: &|_| {} };
        let mut chain = self.chain(true, Progress { watch, done: 0.0, total: flops });
        chain.run(&self.layers(task), Map::given(None, input))?;
        Ok(VaePlan {
            weights,
            arena: chain.band_peak,
            maps: chain.ledger.peak[0],
            spilled: chain.ledger.peak[1],
            pictures,
            peak: weights + chain.peak + pictures,
            flops,
            seconds: None,
            bands: chain.bands,
        })
    }

    /// The whole plan, ready to run, if its arena fits the budget.
    fn ready(&mut self, task: Task) -> Result<Option<&mut Executable>> {
        if self.ready.as_ref().is_none_or(|(ready, _)| *ready != task) {
            self.ready = match self.whole(task)? {
                Some(plan) => Some((task, self.executable(plan)?)),
                None => None,
            };
        }
        Ok(self.ready.as_mut().map(|(_, exe)| exe))
    }

    /// A whole half from device memory to device memory; `None` where it does not run whole on such a device.
    fn run_on_device(&mut self, task: Task, x: &DeviceImage, watch: Watch) -> Result<Option<DeviceImage>> {
        watch.cancel.check()?;
        let [_, [height, width, channels]] = self.extents(task);
        let Some(device) = self.device.as_kernels().map(|k| k.device.clone()) else { return Ok(None) };
        let Some(exe) = self.ready(task)? else { return Ok(None) };
        let y = DeviceImage::new(&device, height, width, channels)?;
        exe.run_on_device(&[("x", x.operand())], &[("y", y.result())], |_, _| watch.cancel.check())?;
        Ok(Some(y))
    }

    fn run(&mut self, task: Task, x: HostTensor, watch: Watch) -> Result<HostTensor> {
        watch.cancel.check()?;
        if let Some(exe) = self.ready(task)? {
            let total = exe.plan().cost().flops;
            return Progress { watch, done: 0.0, total }.run(exe, &[("x", x)]);
        }
        let total = self.graph(task)?.cost().flops;
        let [input, _] = self.extents(task);
        let mut chain = self.chain(false, Progress { watch, done: 0.0, total });
        let y = chain.run(&self.layers(task), Map::given(Some(x), input))?;
        (watch.progress)(1.0);
        Ok(y.into_tensor())
    }

    fn executable(&self, plan: Plan) -> Result<Executable> {
        let param = |key: &str| self.weights.get(key).cloned();
        Executable::in_workspace(plan, self.device.clone(), param, &self.workspace)
    }
}
