//! The command line: one file a command.
//!
//! Names, defaults and exit codes are a contract: 0 all done, 1 failed, 2 bad usage, 3 some
//! inputs failed (listed), 130 interrupted. Results go to stdout, everything else to stderr.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use crate::cancel::EXIT_INTERRUPTED;
use crate::device::cpu::CpuDevice;
use crate::device::cuda::{CudaDevice, MEASURED_CALLS};
use crate::device::kernel::DeviceFacts;
use crate::device::library::KernelChoice;
use crate::device::{Device, fatbin};
use crate::error::{Error, Result};
use crate::tensor::DType;
use crate::weights::hub;

pub mod bench;
pub mod convert;
pub mod degrade;
pub mod fetch;
pub mod forward;
pub mod given;
pub mod info;
pub mod inspect;
pub mod ops;
pub mod restore;
pub mod restore_dreamclear;
mod restore_model;
pub mod train;
pub mod train_pictures;
pub mod train_step;
pub mod verify;

/// Restores real-world low-quality photos.
#[derive(Debug, Parser)]
#[command(
    name = "dreamclear",
    version,
    max_term_width = 100,
    after_help = "Example: dreamclear restore photo.jpg -o restored\n\
                  Exit codes: 0 done, 1 failed, 2 bad usage, 3 some inputs failed (each is listed)"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Say more on stderr (twice: much more).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    Restore(Box<restore::Args>),
    Degrade(Box<degrade::Args>),
    Train(Box<train::Args>),
    Forward(forward::Args),
    TrainStep(train_step::Args),
    Fetch(fetch::Args),
    Inspect(inspect::Args),
    Convert(convert::Args),
    Bench(bench::Args),
    Ops(ops::Args),
    Verify(verify::Args),
    Info(info::Args),
}

/// Where to run, shared by the commands that compute.
#[derive(Debug, Clone, clap::Args)]
pub struct DeviceArgs {
    /// Where to compute: auto, cpu, cuda, cuda:N, or sim (the CUDA kernels, simulated on the host: slow; sim:h100:
    /// those of an H100).
    #[arg(long, default_value = "auto", value_name = "DEVICE", help_heading = "Device")]
    pub device: String,

    /// Number format of large weights: auto (as stored), f32, bf16 or f16. The CPU's arithmetic is f32; CUDA
    /// kernels keep operands of matrix products in this format and add up in f32.
    #[arg(long, default_value = "auto", value_name = "PRECISION", help_heading = "Device")]
    pub precision: String,

    /// Who computes what cuBLASLt or cuDNN can compute too, on a GPU: own (kernels of this program, the same
    /// on every machine), library, or auto (the faster, measured once and remembered). Unless it is given,
    /// $DREAMCLEAR_KERNELS; else auto.
    #[arg(long, value_name = "WHO", help_heading = "Device")]
    pub kernels: Option<String>,

    /// Worker threads; 0 takes all cores.
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Device")]
    pub threads: usize,
}

impl DeviceArgs {
    /// What `--kernels` says, or the environment.
    fn kernel_choice(&self) -> Result<KernelChoice> {
        let said = self.kernels.clone().or_else(|| std::env::var("DREAMCLEAR_KERNELS").ok());
        said.filter(|s| !s.is_empty()).map_or(Ok(KernelChoice::default()), |s| s.parse())
    }

    /// Opens the device for a command that computes in f32 only, where that is a CPU.
    pub fn open(&self) -> Result<Device> {
        let (device, matrices) = self.open_with_precision()?;
        match matrices {
            Some(dtype) if dtype != DType::F32 && device.as_kernels().is_none() => {
                Err(Error::Usage(format!(
                    "--precision {dtype}: this model runs in f32 only; `restore --model dreamclear` takes bf16 and f16"
                )))
            }
            _ => Ok(device),
        }
    }

    /// The element type that is asked for; `None` for `auto`.
    pub fn precision(&self) -> Result<Option<DType>> {
        Ok(match self.precision.as_str() {
            "auto" => None,
            "f32" => Some(DType::F32),
            "bf16" => Some(DType::BF16),
            "f16" => Some(DType::F16),
            p => return Err(Error::Usage(format!("--precision {p}: expected auto, f32, bf16 or f16"))),
        })
    }

    /// Opens the CPU, for commands that measure it.
    pub fn open_cpu(&self) -> Result<Arc<CpuDevice>> {
        let device = self.open()?;
        match device.as_kernels() {
            None => Ok(device.host().clone()),
            Some(_) => Err(Error::Usage(format!(
                "--device {}: this command knows the CPU only; use cpu",
                self.device
            ))),
        }
    }

    /// Opens the device, or says in one sentence why that cannot be; with the element type that
    /// large weights are kept in, if one is asked for. The CPU's arithmetic is f32 either way.
    pub fn open_with_precision(&self) -> Result<(Device, Option<DType>)> {
        let matrices = self.precision()?;
        let kernels = self.kernel_choice()?;
        if self.kernels.as_deref() == Some("library") && !self.device.starts_with("cuda") {
            return Err(Error::Usage(format!(
                "--kernels library --device {}: libraries run on GPUs only; use --device cuda",
                self.device
            )));
        }
        let device = match self.device.as_str() {
            "auto" | "cpu" => Device::cpu(self.threads)?,
            "sim" => Device::sim(self.threads, matrices.unwrap_or(DType::F32))?,
            "sim:h100" => Device::sim_of(self.threads, matrices.unwrap_or(DType::F32), DeviceFacts::H100)?,
            d if d == "cuda" || d.starts_with("cuda:") => {
                let ordinal = d.strip_prefix("cuda:").map_or(Ok(0), str::parse).map_err(|_| {
                    Error::Usage(format!("--device {d}: expected cuda, or cuda:N with the number of a GPU"))
                })?;
                let gpu = match fatbin::fatbins() {
                    [] => CudaDevice::open_compiling(ordinal, &hub::cache_dir()?)?,
                    fatbins => CudaDevice::open(ordinal, fatbins)?,
                };
                let remembered = hub::cache_dir().ok().map(|d| d.join(MEASURED_CALLS));
                let gpu = gpu.with_libraries(kernels, remembered)?;
                let host = Arc::new(CpuDevice::new(self.threads)?);
                Device::kernels(host, Arc::new(gpu), matrices.unwrap_or(DType::BF16))
            }
            d => {
                return Err(Error::Usage(format!(
                    "--device {d}: expected auto, cpu, cuda, cuda:N, sim or sim:h100"
                )));
            }
        };
        Ok((device, matrices))
    }
}

/// Parses the command line, runs the command, prints errors and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to stdout with code 0, usage errors to stderr with code 2.
            let _ = e.print();
            return ExitCode::from(e.exit_code() as u8);
        }
    };
    log_to_stderr(cli.verbose);
    match run(cli.command) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e}");
            exit_code(&e)
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Restore(args) => return restore::run(&args),
        Command::Degrade(args) => return degrade::run(&args),
        Command::Train(args) => return train::run(&args),
        Command::Forward(args) => forward::run(&args)?,
        Command::TrainStep(args) => train_step::run(&args)?,
        Command::Fetch(args) => fetch::run(&args)?,
        Command::Inspect(args) => inspect::run(&args, &crate::models::load::strict_by_name)?,
        Command::Convert(args) => convert::run(&args)?,
        Command::Bench(args) => bench::run(&args)?,
        Command::Ops(args) => ops::run(&args)?,
        Command::Verify(args) => return verify::run(&args),
        Command::Info(args) => info::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn exit_code(error: &Error) -> ExitCode {
    match error {
        Error::Usage(_) => ExitCode::from(2),
        Error::Interrupted => ExitCode::from(EXIT_INTERRUPTED as u8),
        _ => ExitCode::FAILURE,
    }
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::INFO,
        1 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    let result = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_level(verbose > 0)
        .without_time()
        .try_init();
    debug_assert!(result.is_ok(), "logging is set up once");
}

/// Prints to stdout; a reader that stops early (`| head`) is not an error.
pub(crate) fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::io("write", "stdout", e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(device: &str, kernels: &str) -> Result<Device> {
        let (device, kernels) = (device.to_owned(), Some(kernels.to_owned()));
        DeviceArgs { device, precision: "auto".into(), kernels, threads: 1 }.open()
    }

    #[test]
    fn libraries_are_for_gpus() {
        assert!(open("cpu", "own").is_ok() && open("cpu", "auto").is_ok());
        let e = open("cpu", "library").err().expect("no GPU").to_string();
        assert_eq!(e, "--kernels library --device cpu: libraries run on GPUs only; use --device cuda");
        let e = open("cpu", "fast").err().expect("not a choice").to_string();
        assert_eq!(e, "--kernels fast: expected own, library or auto");
    }
}
