//! What a restoration takes, known before it starts: weights, arenas, operations of every stage.
//!
//! With a limit the plan is made to hold: tiles for SwinIR, bands for the autoencoder, fewer
//! latent parts in a launch, and last the denoiser's weights read from their file at every step. On a
//! device with memory of its own the limit is what that has free; weights must all fit.

use std::collections::HashMap;

use serde::Serialize;

use super::denoise::{LaunchShape, count_parts};
use super::{DreamClearRestorer, FACTOR};
use crate::bench::predict;
use crate::data::resize::Sizes;
use crate::error::{Error, Result};
use crate::graph::Plan;
use crate::graph::plan::Source;

/// Working memory of a stage where the user sets no limit.
const ROOMY: usize = 4 << 30;
/// Most latent parts in a launch where the user sets no number.
const MOST_PARTS: usize = 16;
/// Packed operands and thread buffers of kernels, which plans do not hold.
const KERNELS: usize = 96 << 20;

/// One stage of the pipeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// `swinir`, `text`, `encode`, `denoise`, `decode`.
    pub name: &'static str,
    /// Bytes of the weights that it reads.
    pub weight_bytes: usize,
    /// Bytes of working memory at its peak.
    pub arena_bytes: usize,
    /// Operations.
    pub flops: f64,
    /// Predicted seconds, if the device is a GPU or stands for one and nothing is cut into bands.
    pub seconds: Option<f64>,
    /// How it is cut.
    pub note: String,
}

/// The plan of pictures that are restored together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PictureMemory {
    /// Stages in order.
    pub stages: Vec<Stage>,
    /// Bytes of weights that stay in memory from the first picture to the last.
    pub resident_weight_bytes: usize,
    /// Bytes of pictures and latents.
    pub picture_bytes: usize,
    /// Bytes that the denoiser computes once and keeps for every step.
    pub carried_bytes: usize,
    /// Most bytes at any time.
    pub peak_bytes: usize,
    /// Latent parts in one launch.
    pub tile_batch: usize,
    /// Whether the denoiser's weights are read from the file at every step.
    pub streamed: bool,
    /// Operations of everything.
    pub flops: f64,
}

/// The limits that the last plan set.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    last: Option<(Vec<(usize, usize)>, PictureMemory)>,
}

/// What SwinIR's tiles follow, for the journal: with tiles, the limit changes the result.
pub(super) fn swinir_limit(memory: Option<usize>) -> usize {
    memory.unwrap_or(ROOMY)
}

/// Sets tiles, bands and launches for pictures of these sizes; how many latent parts a launch has.
pub(super) fn choose(r: &mut DreamClearRestorer, inputs: &[(usize, usize)]) -> Result<usize> {
    if let Some((sizes, memory)) = &r.budget.last
        && sizes == inputs
    {
        return Ok(memory.tile_batch);
    }
    let memory = plan(r, inputs)?;
    r.denoiser.stream_weights(memory.streamed);
    let limit = memory.tile_batch;
    r.budget.last = Some((inputs.to_vec(), memory));
    Ok(limit)
}

/// What a plan has to hold to.
struct Limit {
    bytes: usize,
    /// Whether it is the memory of a device beside the host.
    of_device: bool,
}

impl Limit {
    /// The user's, the device's, or the lesser of both.
    fn of(r: &DreamClearRestorer) -> Option<Self> {
        match (r.settings.memory, r.denoiser.device().room()) {
            (None, None) => None,
            (Some(bytes), None) => Some(Limit { bytes, of_device: false }),
            (asked, Some(room)) => {
                Some(Limit { bytes: asked.map_or(room, |bytes| bytes.min(room)), of_device: true })
            }
        }
    }

    fn refuse(&self, r: &DreamClearRestorer, needed: usize) -> Error {
        let mib = |b: usize| b.div_ceil(1 << 20);
        let (have, need) = (mib(self.bytes), mib(needed));
        let smaller = "a smaller --upscale, --batch or --tile";
        Error::Usage(match r.denoiser.device().as_kernels() {
            Some(kernels) if r.settings.memory.is_none_or(|asked| asked > self.bytes) => format!(
                "{} has {have} MiB free for this picture, which needs {need} MiB: close other programs that use it, or \
                 try {smaller}",
                kernels.device.name()
            ),
            _ => format!("--memory {have} MiB does not hold this picture; {need} MiB would (or {smaller})"),
        })
    }
}

/// See [`DreamClearRestorer::memory`]; sets the limits of SwinIR and the autoencoder on its way.
pub(super) fn plan(r: &mut DreamClearRestorer, inputs: &[(usize, usize)]) -> Result<PictureMemory> {
    let sizes = inputs.iter().map(|&s| r.sizes(s)).collect::<Result<Vec<_>>>()?;
    let area = |(h, w): (usize, usize)| h * w;
    // f32 RGB, and integers: enlarged and its reference in work; decoded, colour-fixed with low frequencies and
    // of the output's size where the last one is finished; one enlarged picture waits and one is loaded before,
    // one waits to be finished.
    let all = || sizes.iter().zip(inputs);
    let most = |of: &dyn Fn(&Sizes, (usize, usize)) -> usize| {
        all().map(|(s, &input)| of(s, input)).max().unwrap_or(0)
    };
    // The reference is decoded as well where the difference counts.
    let decodings = 1 + usize::from(r.settings.residual);
    let pictures = all().map(|(s, &input)| 12 * (2 * area(s.working)) + 4 * area(input)).sum::<usize>()
        + most(&|s, _| 12 * ((2 + decodings) * area(s.working) + area(s.output)) + 4 * area(s.output))
        + most(&|s, input| 2 * (12 * area(s.working) + 4 * area(input)))
        + most(&|s, input| 12 * (2 * area(s.working)) + 4 * area(input));
    let swinir_weights = r.swinir.model.weights.bytes();
    let vae_weights = r.vae.weight_bytes();
    let limit = Limit::of(r);
    let on_device = limit.as_ref().is_some_and(|l| l.of_device);
    // On a device: the references in work; and what decoding one leaves there (picture, reference, latent and
    // two scratch pictures) until it is written, which two others may wait for.
    let resident_pictures =
        all().map(|(s, _)| 12 * area(s.working)).sum::<usize>() + 3 * most(&|s, _| 5 * 12 * area(s.working));
    let beside = if on_device { resident_pictures } else { KERNELS + pictures };
    let kept = swinir_weights + vae_weights + beside;

    let mut resident = true;
    let denoise = match &limit {
        None => {
            r.swinir.memory = ROOMY;
            r.vae.set_memory(ROOMY);
            denoise(r, inputs, |_| ROOMY)?
        }
        Some(limit) => {
            let room = |taken: usize| limit.bytes.saturating_sub(taken);
            // Unasked, a large device takes no more than the host would.
            let most = if r.settings.memory.is_some() { usize::MAX } else { ROOMY };
            let kept_whole = r.denoiser.weight_bytes();
            let whole = |on_device_bytes| if on_device { on_device_bytes } else { kept_whole };
            // First with all weights in memory, then, where the host computes, with the large ones streamed.
            let held = denoise(r, inputs, |bytes| room(kept + whole(bytes)).min(most))?;
            let fits = held.arena + held.carried <= room(kept + whole(held.weights));
            let denoise = if fits || on_device {
                held
            } else {
                resident = false;
                denoise(r, inputs, |_| room(kept))?
            };
            let weights = if resident { whole(denoise.weights) } else { denoise.window };
            let needed = kept + denoise.arena + denoise.carried + weights;
            if needed > limit.bytes {
                return Err(limit.refuse(r, needed));
            }
            let rest = room(kept + if resident { whole(denoise.weights) } else { 0 }).min(most);
            r.swinir.memory = rest;
            r.vae.set_memory(rest);
            denoise
        }
    };
    let denoiser_weights = if on_device { denoise.weights } else { r.denoiser.weight_bytes() };

    let mut stages = Vec::new();
    let (mut flops, mut arena, mut note) = (0.0, 0, String::new());
    let mut seconds = Some(0.0);
    for s in &sizes {
        let tiling = r.swinir.tiling(s.working)?;
        flops += tiling.flops;
        arena = arena.max(tiling.arena);
        seconds = both(seconds, r.swinir.seconds(&tiling)?);
        note = format!("{} tile(s) of {}×{}", tiling.tiles, tiling.tile.1, tiling.tile.0);
    }
    stages.push(Stage {
        name: "swinir",
        weight_bytes: swinir_weights,
        arena_bytes: arena,
        flops,
        seconds,
        note,
    });
    if r.needs_t5() {
        let tokens = r.null.shape()[0];
        let plan = r.text.plan(&r.sources, tokens)?;
        stages.push(Stage {
            name: "text",
            weight_bytes: plan.param_bytes(),
            // They come for a caption and go after it: all at once to a device, to the host a step at a time.
            arena_bytes: plan.arena_bytes + if on_device { plan.param_bytes() } else { window(&plan) },
            flops: plan.cost().flops * inputs.len() as f64,
            seconds: predict::seconds(&plan, r.denoiser.device())?.map(|s| s * inputs.len() as f64),
            note: format!("{tokens} tokens; weights read from the file"),
        });
    }
    let vae = |plans: Vec<crate::pipelines::vae::VaePlan>, name, times: f64| {
        let arena = plans.iter().map(|p| p.arena + p.maps).max().unwrap_or(0);
        let bands = plans.iter().map(|p| p.bands).max().unwrap_or(1);
        Stage {
            name,
            weight_bytes: plans.first().map_or(0, |p| p.weights),
            arena_bytes: arena,
            flops: times * plans.iter().map(|p| p.flops).sum::<f64>(),
            seconds: plans.iter().map(|p| p.seconds).fold(Some(0.0), both).map(|s| times * s),
            note: if bands > 1 { format!("{bands} exact bands") } else { "whole".into() },
        }
    };
    let encode =
        sizes.iter().map(|s| r.vae.plan_encode(s.working.0, s.working.1)).collect::<Result<Vec<_>>>()?;
    stages.push(vae(encode, "encode", 2.0));
    stages.push(Stage {
        name: "denoise",
        weight_bytes: denoiser_weights,
        arena_bytes: denoise.arena + if resident { 0 } else { denoise.window },
        flops: denoise.flops,
        seconds: denoise.seconds,
        note: denoise.note.clone(),
    });
    let latent = |s: &Sizes| (s.working.0 / FACTOR, s.working.1 / FACTOR);
    let decode =
        sizes.iter().map(latent).map(|(h, w)| r.vae.plan_decode(h, w)).collect::<Result<Vec<_>>>()?;
    stages.push(vae(decode, "decode", decodings as f64));

    let weights = swinir_weights + vae_weights + if resident { denoiser_weights } else { 0 };
    // All stages work in one block that grows to the largest of them.
    let working = stages.iter().map(|s| s.arena_bytes).max().unwrap_or(0) + denoise.carried;
    let peak = weights + beside + working;
    if let Some(limit) = limit.filter(|l| peak > l.bytes) {
        return Err(limit.refuse(r, peak));
    }
    Ok(PictureMemory {
        flops: stages.iter().map(|s| s.flops).sum(),
        stages,
        resident_weight_bytes: weights,
        picture_bytes: pictures,
        carried_bytes: denoise.carried,
        peak_bytes: peak,
        tile_batch: denoise.limit,
        streamed: !resident,
    })
}

/// The loop of all pictures.
struct Denoise {
    limit: usize,
    arena: usize,
    carried: usize,
    /// Weights of the largest step.
    window: usize,
    /// All weights in the element types that the plans keep them in.
    weights: usize,
    flops: f64,
    seconds: Option<f64>,
    note: String,
}

/// The sum, if both are known.
fn both(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    Some(a? + b?)
}

/// As many latent parts in a launch as there is room for (at least one); `room` is told the bytes of the
/// weights as the plans keep them.
fn denoise(
    r: &DreamClearRestorer,
    inputs: &[(usize, usize)],
    room: impl Fn(usize) -> usize,
) -> Result<Denoise> {
    let settings = &r.settings.denoise;
    let mut parts = Vec::new();
    for &input in inputs {
        let (h, w) = r.sizes(input)?.working;
        parts.push(count_parts((h / FACTOR, w / FACTOR), settings)?);
    }
    let all: usize = parts.iter().map(|(n, _)| n).sum();
    // The largest kind of part decides.
    let size = parts.iter().map(|(_, s)| *s).max_by_key(|s| s.0 * s.1).expect("at least one picture");
    let shape = |items: usize| LaunchShape { size, pictures: vec![0; items], halves: settings.halves() };
    let (once, each) = r.denoiser.plans(&shape(1))?;
    let per_part: usize = each
        .graph
        .inputs()
        .filter(|(n, _)| n.starts_with("hoisted") || n.starts_with("c_"))
        .map(|(_, v)| each.graph.ty(v).bytes())
        .sum();
    let carried = per_part * all;
    let window = window(&each).max(window(&once));
    let weights = param_bytes(&[&once, &each]);
    let one = each.arena_bytes.max(once.arena_bytes);
    let limit = match r.settings.tile_batch {
        Some(n) => n.clamp(1, all),
        None => {
            let held = room(weights).saturating_sub(carried);
            (held / one.max(1)).clamp(1, all.min(MOST_PARTS))
        }
    };
    // Launches are evened out.
    let limit = all.div_ceil(all.div_ceil(limit));
    let steps = settings.span.calls as f64;
    let flops = all as f64 * (each.cost().flops * steps + once.cost().flops);
    let (once, each) = if limit == 1 { (once, each) } else { r.denoiser.plans(&shape(limit))? };
    let device = r.denoiser.device();
    let launch = both(predict::seconds(&each, device)?.map(|s| s * steps), predict::seconds(&once, device)?);
    Ok(Denoise {
        limit,
        arena: each.arena_bytes.max(once.arena_bytes),
        carried,
        window,
        weights,
        flops,
        seconds: launch.map(|s| s * all.div_ceil(limit) as f64),
        note: format!(
            "{} step(s), {all} latent part(s) of {}×{}, {limit} in a launch",
            settings.span.calls, size.1, size.0
        ),
    })
}

/// Bytes of the parameters of plans that share them.
fn param_bytes(plans: &[&Plan]) -> usize {
    let of = |plan: &&Plan| -> Vec<_> {
        let params = plan.graph.params();
        params.map(|(key, v)| ((key.to_owned(), plan.leaf_dtype(v)), plan.graph.ty(v).len())).collect()
    };
    let distinct: HashMap<_, _> = plans.iter().flat_map(of).collect();
    distinct.into_iter().map(|((_, dtype), len)| len * dtype.size()).sum()
}

/// Bytes of parameters that the hungriest step reads.
fn window(plan: &Plan) -> usize {
    let leaf = |p: &crate::graph::plan::Place| match p.source {
        Source::Leaf(_) => p.ty.bytes(),
        Source::Arena(_) => 0,
    };
    plan.steps.iter().map(|s| s.inputs.iter().map(leaf).sum()).max().unwrap_or(0)
}

/// Peak resident memory of this process so far in bytes, where the system tells (Linux).
pub fn process_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
