//! Proof that the kernels do on a device what they should, and how fast: what `tools/verify-gpu` runs on a
//! machine with a GPU and nothing else, and what the simulator can show of it anywhere.
//!
//! * [`ops`] runs the cases of the op registry, by the checker of [`crate::ops::check_cuda`];
//! * [`outside`] runs the kernels that no op has;
//! * [`networks`] runs the small networks of [`examples`], forward and training step, recorded and not;
//! * [`mod@bench`] takes times, beside PyTorch in the same run where there is one.
//!
//! All work is cut into items with names, so that it can be done in slices.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Map, Value};

pub use crate::bench::Filter;
use crate::bench::TorchOptions;
use crate::bench::predict;
use crate::bench::torch::Torch;
use crate::cancel::Cancel;
use crate::device::Device;
use crate::device::cpu::CpuDevice;
use crate::device::kernel::KernelDevice;
use crate::error::{Error, Result};
use crate::ops::check_cuda::COMPUTE;
use crate::ops::registry;
use crate::tensor::DType;

pub mod bench;
pub mod examples;
pub mod networks;
pub mod ops;
pub mod outside;

/// A part of the proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Every small case of the op registry, every way in which a plan may run it, against f64.
    Ops,
    /// Kernels outside the registry (samplers, tiles, colour fix, optimiser) against the host's code.
    Outside,
    /// Every case of a model's size against the CPU's fast path.
    Full,
    /// Small networks, forward and gradients, against the CPU.
    Networks,
    /// Recorded plans against launch by launch, bit for bit.
    Replay,
    /// Two runs, bit for bit.
    Determinism,
    /// Times.
    Bench,
}

/// Where kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The simulator: small cases run under all its schedules.
    Simulator,
    /// A device by its driver: small cases run launched twice and recorded.
    Device,
}

/// The items whose number leaves `index` when divided by `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// From 0.
    pub index: usize,
    /// How many slices there are.
    pub count: usize,
}

impl Slice {
    /// Everything.
    pub const ALL: Slice = Slice { index: 0, count: 1 };
}

impl std::str::FromStr for Slice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |t: &str| t.parse::<usize>().ok();
        let numbers = text.split_once('/').and_then(|(i, n)| Some((number(i)?, number(n)?)));
        match numbers {
            Some((i, count)) if 1 <= i && i <= count => Ok(Slice { index: i - 1, count }),
            _ => Err(format!("expected I/N with I from 1 to N, found {text}")),
        }
    }
}

/// What to verify.
pub struct Options {
    /// Which part.
    pub what: What,
    /// Which items of it.
    pub slice: Slice,
    /// Parts of names, or patterns; all if empty.
    pub only: Vec<Filter>,
    /// The device, with the host's threads beside it.
    pub device: Device,
    /// What the device is.
    pub place: Place,
    /// Element types of products; `None` takes all that the part knows (times: bf16).
    pub compute: Option<DType>,
    /// Few and short: the first case of an op, the first networks; benches over small cases.
    pub small: bool,
    /// Time to spend on a row of the bench (and as much again on PyTorch).
    pub seconds: f64,
    /// A Python with PyTorch to compare times with.
    pub torch: Option<TorchOptions>,
    /// Asks to stop; heard between items.
    pub cancel: Cancel,
}

/// What an item runs with.
pub struct Context {
    /// What the device is.
    pub place: Place,
    /// The device.
    pub kernels: Arc<dyn KernelDevice>,
    /// Benches over small cases.
    pub small: bool,
    /// Time to spend on a row of the bench.
    pub seconds: f64,
    host: Arc<CpuDevice>,
}

impl Context {
    /// The host's threads.
    pub fn host(&self) -> &Arc<CpuDevice> {
        &self.host
    }

    /// The device for plans of this compute type, with no parameters on it yet.
    pub fn device(&self, compute: DType) -> Device {
        Device::kernels(self.host.clone(), self.kernels.clone(), compute)
    }
}

/// What was found of an item.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// The item.
    pub name: String,
    /// Kernels that ran.
    pub kernels: Vec<String>,
    /// Numbers and words by name: `relative_l2`, `seconds`, ….
    #[serde(flatten)]
    pub found: Map<String, Value>,
    /// Why nothing was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Row {
    /// Notes something that is wrong.
    pub fn fail(&mut self, what: String) {
        self.failure = Some(self.failure.take().map_or(what.clone(), |before| format!("{before}; {what}")));
    }
}

/// All rows of a slice.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The part.
    pub what: What,
    /// Number of the slice, from 1, and how many there are.
    pub slice: [usize; 2],
    /// Whether only small cases ran.
    pub small: bool,
    /// What the device is.
    pub place: Place,
    /// Its name.
    pub device: String,
    /// Its compute capability, major·10 + minor.
    pub arch: u32,
    /// Version of the program.
    pub version: &'static str,
    /// PyTorch's version, where times were compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torch: Option<String>,
    /// How long the slice took.
    pub seconds: f64,
    /// In the order of their names in the part.
    pub rows: Vec<Row>,
}

impl Report {
    /// Rows with something wrong.
    pub fn failures(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|r| r.failure.is_some())
    }

    /// A line for each failure, each row that was left out, and the sum.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            if let Some(why) = &row.failure {
                let _ = writeln!(text, "FAILED   {}{}: {why}", row.name, detail(row));
            }
            if let Some(why) = &row.skipped {
                let _ = writeln!(text, "skipped  {}: {why}", row.name);
            }
        }
        let [slice, of] = self.slice;
        let what = serde_json::to_value(self.what).expect("a word");
        let _ = writeln!(
            text,
            "{} {slice}/{of} on {}: {} rows, {} failed, {:.1} s",
            what.as_str().expect("a word"),
            self.device,
            self.rows.len(),
            self.failures().count(),
            self.seconds
        );
        text
    }
}

/// The storage and arrangement of a row that has them.
fn detail(row: &Row) -> String {
    let word = |key: &str| row.found.get(key).and_then(Value::as_str);
    match (word("storage"), word("arrangement")) {
        (Some(storage), Some(how)) => format!(" ({storage}, {how})"),
        _ => String::new(),
    }
}

type Run = dyn Fn(&Context, Option<&mut Torch>) -> Result<Vec<Row>> + Send + Sync;

/// Something to verify, by name.
struct Item {
    name: String,
    run: Box<Run>,
}

impl Item {
    fn new(name: String, run: impl Fn(&Context) -> Result<Row> + Send + Sync + 'static) -> Self {
        Item { name, run: Box::new(move |context, _| Ok(vec![run(context)?])) }
    }
}

/// Names of all items of a part, in order.
pub fn names(what: What, small: bool, compute: Option<DType>) -> Vec<String> {
    items(what, small, compute).into_iter().map(|i| i.name).collect()
}

fn items(what: What, small: bool, compute: Option<DType>) -> Vec<Item> {
    let all = |types: &[DType]| compute.map_or_else(|| types.to_vec(), |c| vec![c]);
    match what {
        What::Ops => op_items(small),
        What::Outside => outside::NAMES
            .into_iter()
            .map(|name| Item::new(name.into(), move |context| ops::outside(context, name)))
            .collect(),
        What::Full => cases(true)
            .flat_map(|(op, case)| {
                all(&COMPUTE).into_iter().map(move |compute| {
                    let case = case.clone();
                    Item::new(format!("{op}/{} {compute}", case.name), move |c| ops::full(c, &case, compute))
                })
            })
            .collect(),
        What::Networks => {
            let mut items = network_items(&all(&COMPUTE), networks::forward);
            let steps = examples::SOURCES.iter().filter(|s| s.trained()).map(|source| {
                Item::new(format!("{} training step", source.name()), |c| networks::training_step(c, source))
            });
            items.extend(steps.filter(|_| compute.is_none_or(|c| c == DType::F32)));
            // All networks but two, in one compute type each.
            if small { items.into_iter().step_by(4).collect() } else { items }
        }
        What::Replay => first_if(small, network_items(&all(&[DType::F32, DType::BF16]), networks::replay)),
        What::Determinism => first_if(small, network_items(&all(&[DType::BF16]), networks::determinism)),
        What::Bench => bench_items(small, compute.unwrap_or(DType::BF16)),
    }
}

fn first_if(small: bool, mut items: Vec<Item>) -> Vec<Item> {
    if small {
        items.truncate(2);
    }
    items
}

/// All cases of the registry: those of models' sizes, or the small ones.
fn cases(bench: bool) -> impl Iterator<Item = (&'static str, crate::ops::Case)> {
    registry().flat_map(move |e| {
        (e.cases)().into_iter().filter(move |c| c.bench == bench).map(move |c| (e.name, c))
    })
}

fn op_items(small: bool) -> Vec<Item> {
    let mut last = "";
    cases(false)
        .filter(|(op, _)| !small || std::mem::replace(&mut last, op) != *op)
        .map(|(op, case)| Item {
            name: format!("{op}/{}", case.name),
            run: Box::new(move |context, _| ops::small(context, &case)),
        })
        .collect()
}

fn network_items(types: &[DType], run: fn(&Context, &examples::Source, DType) -> Result<Row>) -> Vec<Item> {
    let of = |source: &'static examples::Source| {
        let item = move |&compute: &DType| {
            Item::new(format!("{} {compute}", source.name()), move |c| run(c, source, compute))
        };
        types.iter().map(item)
    };
    examples::SOURCES.iter().flat_map(of).collect()
}

fn bench_items(small: bool, compute: DType) -> Vec<Item> {
    let mut items = vec![Item::new("copy".into(), bench::copy)];
    items.extend(cases(!small).map(|(op, case)| Item {
        name: format!("{op}/{} {compute}", case.name),
        run: Box::new(move |context, torch| Ok(vec![bench::op(context, &case, compute, torch)?])),
    }));
    if !small {
        items.extend(predict::rows().into_iter().map(|model| Item {
            name: format!("{} {compute}", model.name),
            run: Box::new(move |context, torch| Ok(vec![bench::model(context, &model, compute, torch)?])),
        }));
    }
    items
}

/// Runs the selected items of a part. An item that fails is a row with a failure, not an error.
///
/// # Errors
/// If nothing is selected, PyTorch cannot be started, or on an interrupt.
pub fn run(options: &Options) -> Result<Report> {
    let start = Instant::now();
    let kernels = options.device.as_kernels().ok_or_else(|| {
        Error::Usage("verify runs CUDA kernels: give --device cuda, or sim for the simulator".into())
    })?;
    let context = Context {
        place: options.place,
        kernels: kernels.device.clone(),
        small: options.small,
        seconds: options.seconds,
        host: options.device.host().clone(),
    };
    let selected = |name: &str| options.only.is_empty() || options.only.iter().any(|f| f.matches(name));
    let items: Vec<Item> = items(options.what, options.small, options.compute)
        .into_iter()
        .filter(|item| selected(&item.name))
        .collect();
    if items.is_empty() {
        let only: Vec<_> = options.only.iter().map(Filter::to_string).collect();
        return Err(Error::Usage(format!("nothing to verify by the name {}; see --list", only.join(", "))));
    }
    let Slice { index, count } = options.slice;
    let items: Vec<Item> = items.into_iter().skip(index).step_by(count).collect();
    let mut torch = match &options.torch {
        Some(t) => Some(Torch::start(t, context.host.threads(), false)?),
        None => None,
    };
    let rows: Vec<Vec<Row>> = match options.what {
        // References in f64 take longer than the kernels, and one thread each.
        What::Ops => context
            .host
            .run(|| items.par_iter().map(|item| rows(item, &context, None, &options.cancel)).collect()),
        _ => items.iter().map(|item| rows(item, &context, torch.as_mut(), &options.cancel)).collect(),
    };
    options.cancel.check()?;
    Ok(Report {
        what: options.what,
        slice: [index + 1, count],
        small: options.small,
        place: context.place,
        device: context.kernels.name(),
        arch: context.kernels.facts().arch,
        version: env!("CARGO_PKG_VERSION"),
        torch: torch.map(|t| t.info().torch.clone()),
        seconds: start.elapsed().as_secs_f64(),
        rows: rows.into_iter().flatten().collect(),
    })
}

/// The rows of an item, under its name.
fn rows(item: &Item, context: &Context, torch: Option<&mut Torch>, cancel: &Cancel) -> Vec<Row> {
    let run = || cancel.check().and_then(|()| (item.run)(context, torch));
    let mut rows = run().unwrap_or_else(|e| vec![Row { failure: Some(e.to_string()), ..Row::default() }]);
    rows.iter_mut().for_each(|row| row.name.clone_from(&item.name));
    tracing::debug!(
        "{}: {}",
        item.name,
        if rows.iter().any(|r| r.failure.is_some()) { "FAILED" } else { "ok" }
    );
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_read_and_part_everything() {
        assert_eq!("2/3".parse(), Ok(Slice { index: 1, count: 3 }));
        for wrong in ["0/3", "4/3", "3", "a/b", "1/0"] {
            let e = wrong.parse::<Slice>().unwrap_err();
            assert!(e.contains(wrong), "{e}");
        }
    }

    #[test]
    fn items_have_different_names() {
        use clap::ValueEnum;
        for what in What::value_variants() {
            let mut all = names(*what, false, None);
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count, "{what:?}");
            let small = names(*what, true, None);
            assert!(!small.is_empty(), "{what:?}");
        }
    }
}
