//! The autoencoder on pictures of any size: whole where its working memory fits a budget, else in
//! exact bands ([`bands`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::data::pixels::FloatImage;
use crate::device::cpu::CpuDevice;
use crate::error::{Error, Result};
use crate::graph::{Executable, Graph, GraphBuilder, Plan, passes};
use crate::models::vae::{AutoencoderKl, Layer, open, record};
use crate::ops::fuse;
use crate::tensor::{DType, HostTensor};
use crate::weights::WeightSet;

mod bands;
mod maps;

use bands::Chain;
use maps::{Ledger, Map};

/// Working memory unless the user says otherwise.
pub const DEFAULT_MEMORY: usize = 4 << 30;

/// What the user may choose.
#[derive(Clone, Debug)]
pub struct VaeSettings {
    /// Working memory beside weights and pictures, in bytes. A picture whose whole plan needs more
    /// runs in bands, whose maps go to a file where they, too, do not fit.
    pub memory: usize,
    /// Where that file is made (it has no name there while in use). Should not be a RAM disk.
    pub folder: PathBuf,
    /// Always in bands of this many output rows: for tests.
    pub band_rows: Option<usize>,
}

impl Default for VaeSettings {
    fn default() -> Self {
        VaeSettings { memory: DEFAULT_MEMORY, folder: std::env::temp_dir(), band_rows: None }
    }
}

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
    /// Bands over all layers; 1 for a whole plan.
    pub bands: usize,
}

/// Encoder and decoder with their weights.
pub struct VaeRunner {
    net: AutoencoderKl,
    weights: WeightSet,
    device: Arc<CpuDevice>,
    settings: VaeSettings,
    /// The whole plan of the last half and size: pictures of one job are often alike.
    ready: Option<(Task, Executable)>,
}

/// One half on one size of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Task {
    encode: bool,
    size: [usize; 2],
}

/// Who is told how far the work is, and may stop it.
struct Watch<'a> {
    cancel: &'a Cancel,
    progress: &'a (dyn Fn(f32) + Sync),
    done: f64,
    total: f64,
}

impl Watch<'_> {
    fn done(&mut self, flops: f64) {
        self.done += flops;
        (self.progress)((self.done / self.total).min(1.0) as f32);
    }

    /// Runs a plan with one result, telling after each step.
    fn run(&mut self, exe: &mut Executable, inputs: &[(&str, HostTensor)]) -> Result<HostTensor> {
        let mut out = exe.run_observed(inputs, |step, _| {
            self.done(step.cost.flops);
            self.cancel.check()
        })?;
        Ok(out.swap_remove(0).1)
    }
}

/// Binds a plan's weights.
fn executable(plan: Plan, device: &Arc<CpuDevice>, weights: &WeightSet) -> Result<Executable> {
    Executable::new(plan, device.clone(), |key| weights.get(key).cloned())
}

impl VaeRunner {
    /// Opens the whole autoencoder from any official container and vintage of names.
    ///
    /// # Errors
    /// If the files cannot be read, or the weights do not fit exactly.
    pub fn open(
        config: Option<&Path>,
        weights: &Path,
        device: Arc<CpuDevice>,
        settings: VaeSettings,
    ) -> Result<Self> {
        let (net, weights) = open(config, weights)?;
        Ok(Self::new(net, weights, device, settings))
    }

    /// From weights under current names; one that is missing is found when it is needed.
    pub fn new(
        net: AutoencoderKl,
        weights: WeightSet,
        device: Arc<CpuDevice>,
        settings: VaeSettings,
    ) -> Self {
        VaeRunner { net, weights, device, settings, ready: None }
    }

    /// The hyper-parameters.
    pub fn network(&self) -> &AutoencoderKl {
        &self.net
    }

    /// Means of the latents `[B, L, H/8, W/8]` (for four levels; not scaled) of pictures
    /// `[B, H, W, C]` in −1..1. `progress` is told 0..1.
    ///
    /// # Errors
    /// If the pictures have another number of channels or are smaller than one latent pixel;
    /// `Interrupted` soon after `cancel` is raised.
    pub fn encode_mode(
        &mut self,
        pictures: &HostTensor,
        cancel: &Cancel,
        progress: &(dyn Fn(f32) + Sync),
    ) -> Result<HostTensor> {
        let channels = self.net.in_channels;
        let &[batch, height, width, c] = pictures.shape() else {
            return Err(shape_error("pictures", "[B, H, W, C]", pictures));
        };
        let least = self.net.factor();
        if c != channels || height < least || width < least {
            let expected = format!("[B, H, W, {channels}] with H and W at least {least}");
            return Err(shape_error("pictures", &expected, pictures));
        }
        let task = Task { encode: true, size: [height, width] };
        let values = pictures.to_f32();
        let mut latents = Vec::new();
        for i in 0..batch {
            let n = height * width * c;
            let x = HostTensor::from_f32([1, height, width, c], values[i * n..(i + 1) * n].to_vec());
            let moments = self.run(task, x, cancel, &|f| progress((i as f32 + f) / batch as f32))?;
            let moments = moments.to_f32();
            for channel in 0..self.net.latent_channels {
                latents.extend(moments.iter().skip(channel).step_by(2 * self.net.latent_channels));
            }
        }
        let [h, w] = self.latent_size(task.size);
        Ok(HostTensor::from_f32([batch, self.net.latent_channels, h, w], latents))
    }

    /// Pictures `[B, 8h, 8w, C]` (for four levels), about −1..1 and not clamped, of latents
    /// `[B, L, h, w]` (not scaled). `progress` is told 0..1.
    ///
    /// # Errors
    /// If the latents have another number of channels; `Interrupted` soon after `cancel` is raised.
    pub fn decode(
        &mut self,
        latents: &HostTensor,
        cancel: &Cancel,
        progress: &(dyn Fn(f32) + Sync),
    ) -> Result<HostTensor> {
        let channels = self.net.latent_channels;
        let &[batch, c, height, width] = latents.shape() else {
            return Err(shape_error("latents", "[B, C, h, w]", latents));
        };
        if c != channels || height == 0 || width == 0 {
            return Err(shape_error("latents", &format!("[B, {channels}, h, w]"), latents));
        }
        let task = Task { encode: false, size: [height, width] };
        let (values, pixels) = (latents.to_f32(), height * width);
        let mut pictures = Vec::with_capacity(batch);
        for i in 0..batch {
            let latent = &values[i * c * pixels..(i + 1) * c * pixels];
            let x = (0..pixels).flat_map(|p| latent[p..].iter().step_by(pixels).copied()).collect();
            let x = HostTensor::from_f32([1, height, width, c], x);
            pictures.push(self.run(task, x, cancel, &|f| progress((i as f32 + f) / batch as f32))?);
        }
        if pictures.len() == 1 {
            return Ok(pictures.remove(0));
        }
        let factor = self.net.factor();
        let all = pictures.iter().flat_map(|p| p.to_f32().into_owned()).collect();
        Ok(HostTensor::from_f32([batch, height * factor, width * factor, self.net.out_channels], all))
    }

    /// [`encode_mode`](Self::encode_mode) of one picture in 0..1, scaled as diffusion models see it:
    /// `[1, L, h, w]`.
    pub fn encode_image(
        &mut self,
        image: &FloatImage,
        cancel: &Cancel,
        progress: &(dyn Fn(f32) + Sync),
    ) -> Result<HostTensor> {
        let signed = image.data.iter().map(|x| 2.0 * x - 1.0).collect();
        let x = HostTensor::from_f32([1, image.height, image.width, image.channels], signed);
        let mode = self.encode_mode(&x, cancel, progress)?;
        let scaled = mode.to_f32().iter().map(|&m| self.net.scale(m)).collect();
        Ok(HostTensor::from_f32(mode.shape(), scaled))
    }

    /// The picture, about 0..1 and not clamped, of one scaled latent `[1, L, h, w]`.
    pub fn decode_image(
        &mut self,
        latent: &HostTensor,
        cancel: &Cancel,
        progress: &(dyn Fn(f32) + Sync),
    ) -> Result<FloatImage> {
        if latent.shape().first() != Some(&1) {
            return Err(shape_error("the latent", "[1, C, h, w]", latent));
        }
        let z = latent.to_f32().iter().map(|&z| self.net.unscale(z)).collect();
        let picture = self.decode(&HostTensor::from_f32(latent.shape(), z), cancel, progress)?;
        let &[_, height, width, channels] = picture.shape() else { unreachable!("decode gives four axes") };
        let data = picture.to_f32().iter().map(|x| (x + 1.0) / 2.0).collect();
        Ok(FloatImage::new(height, width, channels, data))
    }

    /// What encoding a picture of this size takes.
    pub fn plan_encode(&self, height: usize, width: usize) -> Result<VaePlan> {
        self.plan(Task { encode: true, size: [height, width] })
    }

    /// What decoding a latent of this size takes.
    pub fn plan_decode(&self, height: usize, width: usize) -> Result<VaePlan> {
        self.plan(Task { encode: false, size: [height, width] })
    }

    /// Gives the working memory back that is kept for the next picture of the same size.
    pub fn release(&mut self) {
        self.ready = None;
    }

    fn latent_size(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        [height / self.net.factor(), width / self.net.factor()]
    }

    fn layers(&self, task: Task) -> Vec<Layer> {
        if task.encode { self.net.encoder() } else { self.net.decoder() }
    }

    /// Extents of what goes in and what comes out.
    fn extents(&self, task: Task) -> [[usize; 3]; 2] {
        let [height, width] = task.size;
        if task.encode {
            let [h, w] = self.latent_size(task.size);
            [[height, width, self.net.in_channels], [h, w, 2 * self.net.latent_channels]]
        } else {
            let f = self.net.factor();
            [[height, width, self.net.latent_channels], [f * height, f * width, self.net.out_channels]]
        }
    }

    /// The whole half: `x` `[1, H, W, C]` to `y`, both NHWC.
    fn graph(&self, task: Task) -> Result<Graph> {
        let mut b = GraphBuilder::new();
        let [[height, width, channels], _] = self.extents(task);
        let x = b.input("x", DType::F32, [1, height, width, channels])?;
        let y = record(&mut b, &self.layers(task), self.net.norm_num_groups, x)?;
        b.output("y", y);
        let mut graph = b.finish();
        passes::run(&mut graph, fuse::RULES, None)?;
        Ok(graph)
    }

    /// The whole plan, if its arena fits the budget.
    fn whole(&self, task: Task) -> Result<Option<Plan>> {
        if self.settings.band_rows.is_some() {
            return Ok(None);
        }
        let plan = Plan::new(self.graph(task)?, self.device.threads())?;
        Ok((plan.arena_bytes <= self.settings.memory).then_some(plan))
    }

    /// A chain that stores maps, or with `dry` only counts.
    fn chain<'a>(&'a self, dry: bool, watch: Watch<'a>) -> Chain<'a> {
        Chain {
            weights: &self.weights,
            device: &self.device,
            groups: self.net.norm_num_groups,
            rows: self.settings.band_rows,
            memory: self.settings.memory,
            ledger: Ledger::new(
                self.settings.memory - bands::reserve(self.settings.memory),
                (!dry).then(|| self.settings.folder.clone()),
            ),
            band_peak: 0,
            peak: 0,
            bands: 0,
            watch,
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
            return Ok(VaePlan { weights, arena, maps: 0, spilled: 0, pictures, peak, flops, bands: 1 });
        }
        let watch = Watch { cancel: &Cancel::new(), progress: &|_| {}, done: 0.0, total: flops };
        let mut chain = self.chain(true, watch);
        chain.run(&self.layers(task), Map::given(None, input))?;
        Ok(VaePlan {
            weights,
            arena: chain.band_peak,
            maps: chain.ledger.peak[0],
            spilled: chain.ledger.peak[1],
            pictures,
            peak: weights + chain.peak + pictures,
            flops,
            bands: chain.bands,
        })
    }

    fn run(
        &mut self,
        task: Task,
        x: HostTensor,
        cancel: &Cancel,
        progress: &(dyn Fn(f32) + Sync),
    ) -> Result<HostTensor> {
        cancel.check()?;
        if self.ready.as_ref().is_none_or(|(ready, _)| *ready != task) {
            self.ready = None; // give the old arena back first
            if let Some(plan) = self.whole(task)? {
                self.ready = Some((task, executable(plan, &self.device, &self.weights)?));
            }
        }
        let watch = |total| Watch { cancel, progress, done: 0.0, total };
        if let Some((_, exe)) = &mut self.ready {
            let total = exe.plan().cost().flops;
            return watch(total).run(exe, &[("x", x)]);
        }
        let total = self.graph(task)?.cost().flops;
        let [input, _] = self.extents(task);
        let y = self.chain(false, watch(total)).run(&self.layers(task), Map::given(Some(x), input))?;
        progress(1.0);
        Ok(y.into_tensor())
    }
}

fn shape_error(what: &str, expected: &str, found: &HostTensor) -> Error {
    Error::Usage(format!("{what} must be {expected}, found {:?}", found.shape()))
}
