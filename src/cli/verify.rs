//! `dreamclear verify`: whether the kernels are right on this machine's GPU, and how fast.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{DeviceArgs, print};
use crate::atomic_file;
use crate::bench::torch::Gpu;
use crate::bench::{Filter, TorchOptions};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::tensor::DType;
use crate::verify::{self, Options, Place, Slice, What};

/// Check the CUDA kernels and networks on a GPU against the CPU, and take times; tools/verify-gpu runs all of it.
///
/// Example: dreamclear verify --device cuda --what ops --slice 1/4 --json ops-1.json
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to verify.
    #[arg(long, value_enum)]
    what: What,

    /// Only slice I of N equal ones.
    #[arg(long, value_name = "I/N", default_value = "1/1")]
    slice: Slice,

    /// Only items with this in their names (or matching the pattern); may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// Few and short cases: for tools that slow a program down a hundred times.
    #[arg(long)]
    small: bool,

    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Print the names of the items and stop.
    #[arg(long)]
    list: bool,

    /// Time for each row of the bench.
    #[arg(long, default_value_t = 0.5, value_name = "S")]
    seconds: f64,

    /// A Python with PyTorch: its times stand beside ours in the bench.
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,

    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs the items; 1 if anything is wrong.
pub fn run(args: &Args) -> Result<ExitCode> {
    if !(args.seconds > 0.0 && args.seconds.is_finite()) {
        return Err(Error::Usage(format!("--seconds must be a positive number, found {}", args.seconds)));
    }
    if args.python.is_some() && args.what != What::Bench {
        return Err(Error::Usage("--python compares times: it goes with --what bench".into()));
    }
    let place = match args.device.device.as_str() {
        "sim" | "sim:h100" => Place::Simulator,
        d if d == "cuda" || d.starts_with("cuda:") => Place::Device,
        d => {
            return Err(Error::Usage(format!(
                "--device {d}: verify runs CUDA kernels; expected cuda, cuda:N, sim or sim:h100"
            )));
        }
    };
    let compute = args.device.precision()?;
    if args.list {
        let names = verify::names(args.what, args.small, compute);
        return print(&names.iter().map(|n| n.to_owned() + "\n").collect::<String>())
            .map(|()| ExitCode::SUCCESS);
    }
    let gpu = Gpu {
        ordinal: args.device.device.strip_prefix("cuda:").map_or(Ok(0), str::parse).unwrap_or(0),
        dtype: compute.unwrap_or(DType::BF16),
    };
    let torch = |python: &PathBuf| TorchOptions {
        python: python.clone(),
        official: None,
        gpu: (place == Place::Device).then_some(gpu),
    };
    let cancel = Cancel::new();
    // Where somebody else listens already, Ctrl-C does what they decided.
    let _ = cancel.raise_on_signals(crate::bench::torch::remove_scratch);
    let report = verify::run(&Options {
        what: args.what,
        slice: args.slice,
        only: args.only.iter().map(|text| Filter::parse(text)).collect::<Result<_>>()?,
        device: args.device.open()?,
        place,
        compute,
        small: args.small,
        seconds: args.seconds,
        torch: args.python.as_ref().map(torch),
        cancel,
    })?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).expect("a report is plain data") + "\n";
        atomic_file::write(path, text.as_bytes())?;
    }
    print(&report.summary())?;
    Ok(if report.failures().next().is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
