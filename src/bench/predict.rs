//! What a plan would take on a GPU that is not here: every launch against the card's roofs.
//!
//! A step's time is the larger of its arithmetic at the card's rate and its compulsory bytes at the card's
//! bandwidth, each at a share of the published peak that well-made kernels of the kind reach, and a fixed
//! cost for every launch of a recorded plan. The shares are assumptions, stated in [`SHARES`]; a number
//! from here is a prediction, never a measurement.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Value, json};

use super::models::{MODELS, ModelRow};
use crate::device::Device;
use crate::device::kernel::{DeviceFacts, KernelDevice};
use crate::error::Result;
use crate::graph::plan::{Step, Target};
use crate::graph::{Graph, Plan, passes};
use crate::models::Shapes;
use crate::models::controlformer::DreamClear;
use crate::ops::fuse;
use crate::ops::linear_modulate::LinearModulate;
use crate::ops::linear_norm::{LinearNorm, Producer};
use crate::pipelines::dreamclear::denoise::{self, LaunchShape};
use crate::tensor::DType;

/// A GPU by its published peaks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Card {
    /// As given on the command line.
    pub name: &'static str,
    /// Compute capability and multiprocessors.
    #[serde(skip)]
    pub facts: DeviceFacts,
    /// Dense tensor-core rate for bf16 and f16 operands, FLOP/s.
    pub half: f64,
    /// Rate of f32 arithmetic outside of tensor cores, FLOP/s.
    pub single: f64,
    /// Memory bandwidth, bytes/s.
    pub bandwidth: f64,
}

/// The cards that `--predict` knows, with the rates that `shared/spec/restore.md` §14 uses.
pub static CARDS: &[Card] = &[
    Card { name: "a100", facts: DeviceFacts::A100, half: 312e12, single: 19.5e12, bandwidth: 2.0e12 },
    Card { name: "h100", facts: DeviceFacts::H100, half: 790e12, single: 67e12, bandwidth: 3.35e12 },
    Card { name: "h200", facts: DeviceFacts::H100, half: 790e12, single: 67e12, bandwidth: 4.3e12 },
];

impl Card {
    /// By name.
    pub fn named(name: &str) -> Option<&'static Card> {
        CARDS.iter().find(|c| c.name == name)
    }

    /// What a device is: a known card by its name; else the known one of its generation, its rates in
    /// proportion to the number of multiprocessors.
    pub fn of(device: &dyn KernelDevice) -> Card {
        let (name, facts) = (device.name().to_lowercase(), device.facts());
        if let Some(card) = CARDS.iter().find(|c| name.contains(c.name)) {
            return Card { facts, ..*card };
        }
        let generation = CARDS.iter().map(|c| c.facts.arch).filter(|&a| a <= facts.arch).max();
        let like = CARDS.iter().find(|c| Some(c.facts.arch) == generation).unwrap_or(&CARDS[0]);
        let share = f64::from(facts.multiprocessors) / f64::from(like.facts.multiprocessors);
        Card {
            facts,
            half: share * like.half,
            single: share * like.single,
            bandwidth: share * like.bandwidth,
            ..*like
        }
    }
}

/// Predicted seconds of a plan on the device that it was made for, if that is a GPU or stands for one.
///
/// # Errors
/// As [`predict`].
pub fn seconds(plan: &Plan, device: &Device) -> Result<Option<f64>> {
    let Some(kernels) = device.as_kernels() else { return Ok(None) };
    Ok(Some(predict(plan, &Card::of(&*kernels.device), SHARES)?.predicted))
}

/// Share of a peak that kernels of a kind are assumed to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Shares {
    /// Matrix products and convolutions, of the tensor cores' rate.
    pub products: f64,
    /// Attention, of the tensor cores' rate: its exponentials share the issue slots.
    pub attention: f64,
    /// Everything that is bound by memory, of the bandwidth.
    pub memory: f64,
    /// Seconds from the end of one kernel of a recorded plan to the start of the next.
    pub gap: f64,
}

/// What published kernels reach on large sizes: cuBLAS about 0.85 of an A100's tensor cores in bf16,
/// FlashAttention-2 0.6 to 0.7 forward (Dao 2023, arXiv 2307.08691, fig. 5), copies about 0.9 of the
/// bandwidth. FlashAttention-3 says up to 740 TFLOP/s on an H100 (Shah et al. 2024, arXiv 2407.08608,
/// abstract), at larger depths than 72; that our kernels for sm_90a, which have never run on one, reach the
/// same share there as elsewhere is assumed.
pub const SHARES: Shares = Shares { products: 0.85, attention: 0.65, memory: 0.85, gap: 1.5e-6 };

/// The prediction for one plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Prediction {
    /// Kernel launches.
    pub launches: usize,
    /// Arithmetic, FLOP.
    pub flops: f64,
    /// Compulsory bytes of all steps.
    pub bytes: f64,
    /// Seconds if every step ran at its roof: no shares, no gaps.
    pub roofline: f64,
    /// Seconds with [`Shares`].
    pub predicted: f64,
    /// Predicted seconds by op, largest first.
    pub by_op: Vec<(String, usize, f64)>,
}

/// Whether a step's arithmetic is done by tensor cores.
fn on_tensor_cores(step: &Step) -> bool {
    let half = |d: DType| matches!(d, DType::BF16 | DType::F16);
    let kind = ["linear", "matmul", "conv2d", "attention", "window_attention"];
    let Some(op) = &step.op else { return false };
    let modulates = |n: &LinearNorm| matches!(n.producer, Producer::Modulate(_));
    // A stream that is modulated stands in front of what is multiplied.
    let stream =
        op.downcast::<LinearModulate>().is_some() || op.downcast::<LinearNorm>().is_some_and(modulates);
    let multiplied = step.inputs.get(usize::from(stream));
    kind.iter().any(|k| step.name().starts_with(k)) && multiplied.is_some_and(|p| half(p.ty.dtype))
}

/// Predicts a plan that was made for this card.
///
/// # Errors
/// If an op has no kernel for what the plan gives it.
pub fn predict(plan: &Plan, card: &Card, shares: Shares) -> Result<Prediction> {
    let launches = plan.cuda_launches()?;
    let mut p = Prediction::default();
    for (step, launches) in plan.steps.iter().zip(&launches) {
        let bytes = step.cost.bytes;
        let rate = if on_tensor_cores(step) { card.half } else { card.single };
        let share = match step.name() {
            n if n.contains("attention") => shares.attention,
            _ => shares.products,
        };
        let (compute, memory) = (step.cost.flops / rate, bytes / card.bandwidth);
        let time = (compute / share).max(memory / shares.memory) + shares.gap * launches.len() as f64;
        p.launches += launches.len();
        p.flops += step.cost.flops;
        p.bytes += bytes;
        p.roofline += compute.max(memory);
        p.predicted += time;
        match p.by_op.iter_mut().find(|o| o.0 == step.name()) {
            Some(o) => {
                o.1 += launches.len();
                o.2 += time;
            }
            None => p.by_op.push((step.name().to_owned(), launches.len(), time)),
        }
    }
    p.by_op.sort_by(|a, b| b.2.total_cmp(&a.2));
    Ok(p)
}

/// Something to predict: rows of the bench, and the stages of a restoration at 1024×1024.
pub struct Row {
    /// Its name; a filter matches it.
    pub name: &'static str,
    graph: Box<dyn Fn() -> Result<Graph> + Send + Sync>,
    describe: Value,
}

/// All rows.
pub fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = MODELS
        .iter()
        .map(|m| Row { name: m.name, describe: m.describe(), graph: Box::new(|| (m.graph)(m)) })
        .collect();
    let resized = |name, like: &str, size| {
        let model = MODELS.iter().find(|m| m.name == like).expect("a row of the bench");
        let row = ModelRow { name, size, ..*model };
        Row { name, describe: row.describe(), graph: Box::new(move || (row.graph)(&row)) }
    };
    rows.push(resized("swinir_general_1024", "swinir_general_512", [1024, 1024]));
    rows.push(resized("vae_encode_1024", "vae_encode_512", [1024, 1024]));
    rows.push(resized("vae_decode_1024", "vae_decode_512", [128, 128]));
    // Its billions of parameters are not handed from one process to another.
    let describe = json!({ "model": "dreamclear-step", "config": { "depth": 28 }, "own_weights": true });
    rows.push(Row { name: "dreamclear_step_1024", describe, graph: Box::new(dreamclear_step) });
    rows
}

/// One denoising step of the published DreamClear at 1024×1024: what each step computes, its guidance pair
/// together, what a picture needs once left out.
fn dreamclear_step() -> Result<Graph> {
    let (net, _) =
        DreamClear::from_config(Some(&serde_json::json!({ "copy_blocks_num": 28 })), &Shapes::new())?;
    let shape = LaunchShape { size: (128, 128), pictures: vec![0], halves: 2 };
    let graph = denoise::graph(&net, DType::BF16, &shape)?;
    let mut each = passes::hoist(&graph, &["x", "timestep"])?.each;
    passes::run(&mut each, fuse::RULES, None)?;
    Ok(each)
}

impl Row {
    /// The row's graph, fused.
    pub fn graph(&self) -> Result<Graph> {
        (self.graph)()
    }

    /// What another implementation must build to do the same; see [`super::Work::describe`].
    pub fn describe(&self) -> &Value {
        &self.describe
    }

    /// The row's prediction for a card, operands kept in bf16.
    pub fn predict(&self, card: &Card) -> Result<Prediction> {
        predict(&self.plan(card)?, card, SHARES)
    }

    /// The row's plan for a card, operands kept in bf16.
    pub fn plan(&self, card: &Card) -> Result<Plan> {
        let target = Target::Cuda { compute: DType::BF16, facts: card.facts };
        let mut graph = (self.graph)()?;
        fuse::for_target(&mut graph, target)?;
        Plan::new(graph, target)
    }
}

/// A table of predictions.
pub fn table(card: &Card, all: &[(&'static str, Prediction)]) -> String {
    let width = all.iter().map(|(n, _)| n.len()).max().unwrap_or(0).max(3);
    let mut text = format!(
        "predicted, not measured: {} at {:.0} TFLOP/s (bf16) and {:.2} TB/s; assumed shares: products {}, \
         attention {}, memory {}, {:.1} µs a launch\n{:<width$} {:>8} {:>9} {:>9} {:>10} {:>10} {:>6}  most time in\n",
        card.name,
        card.half / 1e12,
        card.bandwidth / 1e12,
        SHARES.products,
        SHARES.attention,
        SHARES.memory,
        SHARES.gap * 1e6,
        "row",
        "launches",
        "TFLOP",
        "GB",
        "roof ms",
        "ms",
        "ratio"
    );
    for (name, p) in all {
        let most: Vec<String> = p
            .by_op
            .iter()
            .take(3)
            .map(|(op, _, t)| format!("{op} {:.0}%", 100.0 * t / p.predicted))
            .collect();
        let _ = writeln!(
            text,
            "{name:<width$} {:>8} {:>9.3} {:>9.2} {:>10.3} {:>10.3} {:>6.2}  {}",
            p.launches,
            p.flops / 1e12,
            p.bytes / 1e9,
            1e3 * p.roofline,
            1e3 * p.predicted,
            p.predicted / p.roofline,
            most.join(", ")
        );
    }
    text
}
