//! Benches of every op and model, against the roofs of this machine and against PyTorch.
//!
//! * [`rows`] lists what can be benched: the bench cases of the op registry and a few models.
//! * [`roofline`] measures on the spot what the machine can do at most; [`measure`] takes
//!   samples and doubts them; [`report`] is the result, for people and as JSON.
//! * [`torch`] runs the same work in a Python process that stays alive beside this one, so that
//!   both sides take turns in the same minute of the same machine.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::device::cpu::CpuDevice;
use crate::error::{Error, Result};

pub mod attributes;
mod dit;
pub mod duel;
pub mod filter;
pub mod machine;
pub mod measure;
pub mod models;
pub mod ops;
pub mod predict;
pub mod report;
pub mod roofline;
pub mod torch;
pub mod train;
pub mod work;

pub use filter::Filter;
pub use report::{Report, RowReport};
pub use work::{Kind, Row, Work, rows};

/// What to run and how long.
pub struct Options {
    /// Which rows.
    pub filter: Filter,
    /// Where to run; PyTorch gets as many threads.
    pub device: Arc<CpuDevice>,
    /// Time to spend on a row (and as much again on its PyTorch side).
    pub seconds: f64,
    /// Sweep the caches before every run, so that all data come from main memory.
    pub flush: bool,
    /// A Python with PyTorch to compare with.
    pub torch: Option<TorchOptions>,
    /// Asks to stop; heard between runs.
    pub cancel: Cancel,
}

/// The other side of a comparison.
#[derive(Clone, Debug)]
pub struct TorchOptions {
    /// The interpreter.
    pub python: PathBuf,
    /// A folder with checkouts of the official repositories `BasicSR`, `SwinIR`, `DreamClear`, to
    /// time the authors' own modules instead of this crate's plain rewriting of them.
    pub official: Option<PathBuf>,
    /// The GPU that it computes on; else the CPU.
    pub gpu: Option<torch::Gpu>,
}

/// Runs all selected rows. `progress` hears the report so far after the roofs are known, and again
/// after every row; an error of its ends the bench.
pub fn run(options: &Options, mut progress: impl FnMut(&Report) -> Result<()>) -> Result<Report> {
    let rows: Vec<Row> = rows().into_iter().filter(|r| options.filter.matches(&r.name())).collect();
    if rows.is_empty() {
        return Err(Error::Usage(format!(
            "no bench row matches \"{}\"; see `dreamclear bench --list`",
            options.filter
        )));
    }
    if !(options.seconds > 0.0 && options.seconds.is_finite()) {
        return Err(Error::Usage(format!("--seconds must be a positive number, found {}", options.seconds)));
    }
    let device = &options.device;
    let mut torch = match &options.torch {
        Some(t) => Some(torch::Torch::start(t, device.threads(), options.flush)?),
        None => None,
    };
    let machine = machine::Machine::detect();
    let roofs = roofline::Roofline::measure(device, roofline::Effort::full(&machine))?;
    let mut report = Report::new(machine, device.threads(), roofs, torch.as_ref().map(|t| t.info().clone()));
    progress(&report)?;
    let mut flusher = options.flush.then(|| measure::Flusher::new(report.machine.l3_bytes));
    for row in rows {
        options.cancel.check()?;
        let mut work = row.prepare(device)?;
        let result = match &mut torch {
            Some(torch) => duel::run(&row, work.as_mut(), torch, options, flusher.as_mut()),
            None => duel::alone(&row, work.as_mut(), options, flusher.as_mut()),
        };
        // Ctrl-C reaches the Python process too; its end is not the news then.
        options.cancel.check()?;
        let result = result?;
        report.add(&row, work.cost(), result);
        progress(&report)?;
    }
    Ok(report)
}
