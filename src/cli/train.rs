//! `dreamclear train`: networks learn from photos.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::DeviceArgs;
use super::train_pictures::Pictures;
use crate::atomic_file::discard_unfinished;
use crate::cancel::Cancel;
use crate::device::Device;
use crate::error::Result;
use crate::train::launch::Launch;
use crate::train::reduce;
use crate::train::run::{self, Resume};
use crate::train::settings::Settings;
use crate::train::{config::Config, trainers};

/// Train a network: swinir (stage 1, the degradation remover), autoencoder, dreamclear (the branches that steer
/// PixArt, or all of it), classifier (tells real pictures from synthesised ones).
///
/// Settings are the shipped ones (`--print-config` shows them with comments: the official recipe), those of
/// CONFIG.toml over them, and the flags here over both. Started by torchrun, mpirun or srun, processes share
/// each batch. The output folder gets checkpoints, log.jsonl, event files for TensorBoard, pictures of validations, and
/// exported weights under the official keys. Ctrl-C, SIGTERM and SIGUSR1 end the run with a checkpoint after the update
/// in work (exit code 0).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: dreamclear train swinir --set data.photos=photos/ --set data.place=random --set data.crop=256 \
                  --batch 8 --output runs/swinir --resume auto"
)]
pub struct Args {
    /// What to train: swinir, autoencoder, dreamclear or classifier.
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Settings that differ from the shipped ones.
    #[arg(value_name = "CONFIG.toml")]
    pub config: Option<PathBuf>,
    /// One setting, as optimizer.lr=1e-4; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print all settings that this command would run with, as TOML; train nothing.
    #[arg(long)]
    pub print_config: bool,

    /// Where a run begins: auto (its newest checkpoint, or the beginning) or a checkpoint's file. Without it a
    /// folder with checkpoints is refused.
    #[arg(long, value_name = "auto|PATH", help_heading = "Run")]
    pub resume: Option<Resume>,
    /// The setting `output`: the folder of the run.
    #[arg(short, long, value_name = "DIR", help_heading = "Run")]
    pub output: Option<PathBuf>,
    /// The setting `steps`: updates.
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub steps: Option<u64>,
    /// The setting `batch`: samples of one update.
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub batch: Option<usize>,
    /// The setting `optimizer.lr`: learning rate.
    #[arg(long, value_name = "RATE", help_heading = "Run")]
    pub lr: Option<f64>,
    /// The setting `seed`: equal seeds give equal bytes.
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub seed: Option<u64>,
    /// A file that all processes can reach and that does not exist yet, for GPUs of several processes to find each
    /// other without MPI.
    #[arg(long, value_name = "FILE", help_heading = "Processes")]
    pub rendezvous: Option<PathBuf>,
    /// Seconds that a process waits for the others before it gives up.
    #[arg(long, default_value_t = 1800, value_name = "SECONDS", help_heading = "Processes")]
    pub patience: u64,
    /// Print how the run ended as one JSON document on stdout.
    #[arg(long, help_heading = "Run")]
    pub json: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
}

/// Trains.
pub fn run(args: &Args) -> Result<ExitCode> {
    let settings = settings(args)?;
    if args.print_config {
        super::print(&settings.to_toml())?;
        return Ok(ExitCode::SUCCESS);
    }
    // Before weights are drawn and pictures are listed.
    let config = Config::read(&settings)?;
    let launch = Launch::from_env()?;
    let device = device(&args.device, launch.as_ref())?;
    let options =
        reduce::Options { patience: Duration::from_secs(args.patience), rendezvous: args.rendezvous.clone() };
    let processes = reduce::connect(launch.as_ref(), &device, &options)?;
    let first = processes.as_ref().is_none_or(|p| p.rank() == 0);
    let cancel = Cancel::new();
    cancel.raise_on_signals(discard_unfinished)?;
    let mut trainer = trainers::open(&args.model, &settings, &device)?;
    if args.model == "dreamclear"
        && first
        && let Some(pictures) = Pictures::open(&settings, &device, &cancel)?
    {
        trainer.restore_with(Box::new(pictures));
    }
    let resume = args.resume.clone().unwrap_or(Resume::No);
    let finished = run::run(&settings, &mut *trainer, &device, &resume, processes, &cancel)?;
    if !first {
        return Ok(ExitCode::SUCCESS);
    }
    if args.json {
        let report = serde_json::json!({
            "output": config.output,
            "step": finished.step,
            "steps": config.steps,
            "interrupted": finished.interrupted,
            "skipped": finished.skipped,
        });
        super::print(&format!("{report:#}\n"))?;
    }
    if finished.interrupted {
        eprintln!("stopped after update {} of {}; go on with --resume auto", finished.step, config.steps);
    }
    if finished.skipped > 0 {
        eprintln!("{} item(s) of the training set were left out, see log.jsonl", finished.skipped);
    }
    Ok(ExitCode::SUCCESS)
}

/// Where this process computes: of several on one machine each has a GPU of its own, unless `--device` names one.
fn device(args: &DeviceArgs, launch: Option<&Launch>) -> Result<Device> {
    match launch {
        Some(launch) if args.device == "cuda" => {
            let shown = std::env::var("CUDA_VISIBLE_DEVICES").map_or(usize::MAX, |v| v.split(',').count());
            let gpu = launch.gpu(shown);
            DeviceArgs { device: format!("cuda:{gpu}"), ..args.clone() }.open()
        }
        _ => args.open(),
    }
}

/// The shipped settings, the file's over them, the flags over both.
fn settings(args: &Args) -> Result<Settings> {
    let mut settings = trainers::shipped(&args.model)?;
    if let Some(path) = &args.config {
        settings.merge_file(path)?;
    }
    for assignment in &args.set {
        settings.set(assignment)?;
    }
    let mut flag = |key: &str, value: Option<toml::Value>| value.map_or(Ok(()), |v| settings.put(key, v));
    let whole = |n: u64| toml::Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
    flag("output", args.output.as_ref().map(|p| p.display().to_string().into()))?;
    flag("steps", args.steps.map(whole))?;
    flag("batch", args.batch.map(|n| whole(n as u64)))?;
    flag("optimizer.lr", args.lr.map(toml::Value::Float))?;
    flag("seed", args.seed.map(whole))?;
    Ok(settings)
}
