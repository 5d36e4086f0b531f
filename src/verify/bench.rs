//! Times on a device: every bench case of the op registry, and every model at full size with random weights.
//!
//! A kernel is timed by starting it many times at once (as one recording, where the device records) and
//! waiting for the last. Its operands lie in memory several times over and take turns, so that a second-level
//! cache cannot hold them all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::networks::relative;
use super::ops::{Loaded, operands, storage};
use super::{Context, Row};
use crate::bench::attributes;
use crate::bench::measure::{Stats, median};
use crate::bench::models::weight;
use crate::bench::ops::{SEED, draw};
use crate::bench::predict::{self, Card};
use crate::bench::torch::{Loaded as Answer, Torch};
use crate::device::kernel::{DeviceMemory, KernelDevice, Launch};
use crate::error::{Error, Result};
use crate::graph::cuda::{CudaOperand, CudaResult};
use crate::graph::{Cost, Executable, Layout, Plan, TensorType, strided};
use crate::ops::{Case, CaseInput};
use crate::tensor::{DType, HostTensor};

/// Bytes that operands of a case fill together: more than any second-level cache holds.
const SPREAD: f64 = 256.0 * (1 << 20) as f64;
/// Most copies of a case's operands.
const MOST_SETS: usize = 16;
/// Seconds of one sample: long beside the time to start and to wait.
const SAMPLE: f64 = 2e-3;
/// Most launches of one sample.
const MOST_LAUNCHES: usize = 4096;
/// Fewest samples of a row.
const FEWEST: usize = 5;
/// Pairs of slots in a comparison with PyTorch.
const PAIRS: usize = 5;
/// Tokens of a caption of full length.
const CAPTION_TOKENS: i64 = 120;
/// Bytes of each side of the copy that bandwidth is measured with.
const COPY: usize = 512 << 20;

/// Work that can be started again and again without waiting in between.
struct Runs<'a> {
    /// Starts it so many times, then waits for the last.
    start: Box<dyn FnMut(usize) -> Result<()> + 'a>,
    /// How often one start does what is being timed.
    of_one: f64,
    /// Starts of one sample, once that is known.
    times: Option<usize>,
}

impl<'a> Runs<'a> {
    fn new(of_one: usize, start: impl FnMut(usize) -> Result<()> + 'a) -> Self {
        Runs { start: Box::new(start), of_one: of_one as f64, times: None }
    }

    /// Equal lists of launches that take turns; the caller holds the memory of all.
    fn of_kernels(device: &'a Arc<dyn KernelDevice>, sets: &[&[Launch]]) -> Result<Self> {
        let a_turn: Vec<Launch> = sets.iter().flat_map(|s| s.iter().cloned()).collect();
        let launch = move |launches: &[Launch]| {
            // SAFETY: the caller's promise.
            unsafe { device.launch(launches) }
                .map_err(|(i, e)| Error::Run(format!("{}: {e}", launches[i].kernel)))
        };
        launch(&a_turn)?; // the first launch of a kernel loads its code
        device.synchronize()?;
        let start = Instant::now();
        launch(&a_turn)?;
        device.synchronize()?;
        // Long enough to outlast its own start, short enough to be recorded.
        let turns = (SAMPLE / start.elapsed().as_secs_f64()).ceil() as usize;
        let turns = turns.clamp(1, (MOST_LAUNCHES / a_turn.len().max(1)).max(1));
        let all: Vec<Launch> = (0..turns).flat_map(|_| a_turn.iter().cloned()).collect();
        // SAFETY: as above.
        let recording = unsafe { device.record(&all) }.transpose()?;
        Ok(Self::new(turns * sets.len(), move |times| {
            for _ in 0..times {
                match &recording {
                    // SAFETY: as above.
                    Some(recording) => unsafe { recording.start() }?,
                    None => launch(&all)?,
                }
            }
            device.synchronize()
        }))
    }

    /// Times in seconds of what is being timed, each the mean of a sample: for `seconds`, at least `fewest`.
    fn sample(&mut self, seconds: f64, fewest: usize) -> Result<Vec<f64>> {
        let timed = |start: &mut dyn FnMut(usize) -> Result<()>, times: usize| {
            let begin = Instant::now();
            start(times).map(|()| begin.elapsed().as_secs_f64() / times as f64)
        };
        let times = match self.times {
            Some(times) => times,
            None => {
                (self.start)(1)?;
                let one = timed(&mut self.start, 1)?;
                *self.times.insert(((SAMPLE / one).ceil() as usize).clamp(1, 1000))
            }
        };
        let (begin, mut samples) = (Instant::now(), Vec::new());
        while samples.len() < fewest || begin.elapsed().as_secs_f64() < seconds {
            samples.push(timed(&mut self.start, times)? / self.of_one);
        }
        Ok(samples)
    }
}

/// The other side of a row: what it builds, from which tensors, and our result to compare with.
struct Opponent<'a> {
    torch: &'a mut Torch,
    work: Value,
    tensors: Vec<(String, HostTensor)>,
    /// `None` where both sides draw weights of their own.
    result: Option<HostTensor>,
}

/// Samples our side, and the other in turns with it where there is one; both go into the row.
fn measure(row: &mut Row, runs: &mut Runs, opponent: Option<Opponent>, context: &Context) -> Result<Stats> {
    let Some(Opponent { torch, work, tensors, result }) = opponent else {
        return Ok(Stats::of(&runs.sample(context.seconds, FEWEST)?));
    };
    let (theirs, how) = match torch.load(&work, &tensors)? {
        Answer::Ready { result, how } => (result, how),
        Answer::Refused(why) => {
            row.found.insert("torch".into(), json!({ "absent": why }));
            return Ok(Stats::of(&runs.sample(context.seconds, FEWEST)?));
        }
    };
    let slot = context.seconds / PAIRS as f64;
    let (mut ours, mut others, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let (a, b) = (runs.sample(slot, 1)?, torch.time(slot, true)?);
        ratios.push(median(&b) / median(&a));
        ours.extend(a);
        others.extend(b);
    }
    let mut found = json!({
        "how": how,
        "seconds": median(&others),
        "ratio": median(&ratios),
        "ratio_min": ratios.iter().copied().fold(f64::INFINITY, f64::min),
        "ratio_max": ratios.iter().copied().fold(0.0, f64::max),
        "pairs": PAIRS,
    });
    if let Some(result) = result {
        found["relative_l2"] = json!(relative(&result, &theirs));
    }
    row.found.insert("torch".into(), found);
    Ok(Stats::of(&ours))
}

/// The card's published peaks, if it is one that the predictions know.
pub fn card(name: &str) -> Option<&'static Card> {
    let name = name.to_lowercase();
    predict::CARDS.iter().find(|c| name.contains(c.name))
}

/// Least seconds for this work on the card, and which roof that is.
fn roof(card: &Card, cost: Cost, half: bool) -> (f64, &'static str) {
    let compute = cost.flops / if half { card.half } else { card.single };
    let memory = cost.bytes / card.bandwidth;
    if compute > memory { (compute, "compute") } else { (memory, "memory") }
}

fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}

/// Whether an op's arithmetic is that of tensor cores, for operands in half precision.
fn on_tensor_cores(op: &str) -> bool {
    ["linear", "matmul", "conv2d", "attention", "window_attention"].iter().any(|kind| op.starts_with(kind))
}

fn timed(row: &mut Row, stats: Stats, cost: Cost, half_products: bool, context: &Context) {
    let entries = [
        ("seconds", json!(stats.median)),
        ("min_seconds", json!(stats.min)),
        ("spread", json!(stats.spread)),
        ("samples", json!(stats.samples)),
        ("flops", json!(cost.flops)),
        ("bytes", json!(cost.bytes)),
        ("bytes_per_second", json!(cost.bytes / stats.median)),
    ];
    row.found.extend(entries.map(|(k, v)| (k.to_owned(), v)));
    if let Some(card) = card(&context.kernels.name()) {
        let (least, bound) = roof(card, cost, half_products);
        row.found.insert("roof".into(), bound.into());
        row.found.insert("roof_seconds".into(), json!(least));
        row.found.insert("roof_share".into(), json!(least / stats.median));
    }
}

/// The largest copy: bytes read and written per second, which memory-bound kernels are compared with.
pub fn copy(context: &Context) -> Result<Row> {
    let device = &context.kernels;
    let bytes = if context.small { 1 << 16 } else { COPY };
    let (from, to) = (DeviceMemory::new(device, bytes)?, DeviceMemory::new(device, bytes)?);
    let ty = TensorType::f32([bytes / DType::F32.size()]);
    let layout = Layout::dense(&ty.shape);
    let from = CudaOperand { ty: ty.clone(), layout: &layout, address: from.address() };
    let to = CudaResult { ty, address: to.address() };
    let launches = strided::cast(&from, &to).map_err(Error::Run)?;
    let stats = Stats::of(&Runs::of_kernels(device, &[&launches])?.sample(context.seconds, FEWEST)?);
    let mut row = Row { kernels: launches.iter().map(|l| l.kernel.clone()).collect(), ..Row::default() };
    timed(&mut row, stats, Cost { flops: 0.0, bytes: 2.0 * bytes as f64 }, false, context);
    Ok(row)
}

/// A case of the op registry.
pub fn op(context: &Context, case: &Case, compute: DType, torch: Option<&mut Torch>) -> Result<Row> {
    let storage = storage(case, compute);
    let operands = operands(case, &storage);
    let first = Loaded::new(case, &operands, &storage, &context.kernels)?;
    let cost = first.cost();
    let copies = ((SPREAD / cost.bytes.max(1.0)).ceil() as usize).clamp(1, MOST_SETS);
    let copies = if context.small { 1 } else { copies };
    let mut sets = vec![first];
    while sets.len() < copies {
        sets.push(Loaded::new(case, &operands, &storage, &context.kernels)?);
    }
    let mut row = Row { kernels: sets[0].kernels(), ..Row::default() };
    row.found.insert("launches".into(), sets[0].launches().len().into());
    let half = is_half(compute) && on_tensor_cores(case.op.name());
    let turns: Vec<&[Launch]> = sets.iter().map(|s| s.launches()).collect();
    let mut runs = Runs::of_kernels(&context.kernels, &turns)?;
    // PyTorch's backward takes the log-sum-exp of its own forward, where the case draws one: nothing to compare.
    let result = if case.op.name() == "attention_grad" { None } else { Some(sets[0].result(0)?) };
    let opponent = torch.map(|torch| Opponent {
        torch,
        work: json!({
            "op": case.op.name(), "attributes": attributes::of(case.op.as_ref()), "sets": copies,
        }),
        tensors: operands.into_iter().enumerate().map(|(k, t)| (format!("x{k}"), t)).collect(),
        result,
    });
    let stats = measure(&mut row, &mut runs, opponent, context)?;
    timed(&mut row, stats, cost, half, context);
    Ok(row)
}

/// A whole network with random weights, or a stage of a restoration: its plan replayed over inputs that are in
/// place already.
pub fn model(
    context: &Context,
    model: &predict::Row,
    compute: DType,
    torch: Option<&mut Torch>,
) -> Result<Row> {
    let device = context.device(compute);
    let plan = Plan::new(model.graph()?, &device)?;
    let cost: Cost = plan.steps.iter().map(|s| s.cost).sum();
    let launches = plan.cuda_launches()?;
    let kernels = launches.iter().flatten().map(|l| l.kernel.clone()).collect();
    let mut row = Row { kernels, ..Row::default() };
    row.kernels.sort_unstable();
    row.kernels.dedup();
    row.found.insert("launches".into(), launches.iter().flatten().count().into());
    let bytes = |ty: &TensorType, dtype: DType| ty.len() * dtype.size();
    let leaves = plan.graph.params().chain(plan.graph.inputs());
    let held: usize = leaves.map(|(_, v)| bytes(plan.graph.ty(v), plan.leaf_dtype(v))).sum();
    let wanted = held + plan.arena_bytes;
    row.found.insert("device_bytes".into(), wanted.into());
    if let Some(free) = context.kernels.room().filter(|&free| free < wanted) {
        row.skipped =
            Some(format!("needs {} MiB of device memory, {} are to be had", wanted >> 20, free >> 20));
        return Ok(row);
    }
    if let Some(card) = card(&context.kernels.name()) {
        let prediction = predict::predict(&plan, card, predict::SHARES)?;
        row.found.insert("roofline_seconds".into(), json!(prediction.roofline));
        row.found.insert("predicted_seconds".into(), json!(prediction.predicted));
    }
    let inputs: Vec<(String, HostTensor)> =
        plan.graph.inputs().map(|(name, v)| (name.to_owned(), contents(plan.graph.ty(v)))).collect();
    let weights: HashMap<String, HostTensor> = plan
        .graph
        .params()
        .zip(SEED + 1..)
        .map(|((key, v), seed)| {
            let ty = plan.graph.ty(v);
            (key.to_owned(), draw(&weight(key, &ty.shape).stored_as(ty.dtype), seed))
        })
        .collect();
    let mut exe = Executable::new(plan, device, |key| weights.get(key).cloned())?;
    let named: Vec<(&str, HostTensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    let mut results = exe.run(&named)?;
    let (name, result) = results.swap_remove(0);
    if let Some(i) = result.to_f32().iter().position(|x| !x.is_finite()) {
        row.fail(format!("{name}: element {i} is not finite"));
    }
    let opponent = torch.map(|torch| {
        let work = model.describe().clone();
        // A model of billions of parameters is not handed over: both sides draw their own.
        let own = work.get("own_weights").is_some();
        let tensors = if own { inputs.clone() } else { inputs.iter().cloned().chain(weights).collect() };
        Opponent { torch, work, tensors, result: (!own).then_some(result) }
    });
    let stats = measure(&mut row, &mut Runs::new(1, |times| exe.replay(times)), opponent, context)?;
    timed(&mut row, stats, cost, is_half(compute), context);
    Ok(row)
}

/// What an input of a model holds: noise; of whole numbers (lengths of captions) as many as captions have.
fn contents(ty: &TensorType) -> HostTensor {
    if ty.dtype.is_float() {
        return draw(&CaseInput::uniform(ty.shape.clone(), 0.0, 1.0).stored_as(ty.dtype), SEED);
    }
    HostTensor::from_i64(ty.shape.clone(), vec![CAPTION_TOKENS; ty.len()])
}
