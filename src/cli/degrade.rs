//! `dreamclear degrade`: good pictures in, training pairs out.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cancel::Cancel;
use crate::data::degrade::config::{CODEFORMER, Config, REALESRGAN, Scope};
use crate::data::degrade::jpeg::JpegKind;
use crate::data::inputs;
use crate::data::shard::Shard;
use crate::error::{Error, Result};
use crate::pipelines::degrade::{self, Names, Options, Work, params};

/// Make low-quality pictures from good ones, as DreamClear's training does.
///
/// Writes gt/, lr/ and sr_bicubic/ (the low-quality picture enlarged again) as PNG, and params.jsonl: a line
/// for each pair with all that was drawn for it, from which --params makes the same bytes again. Pair i of
/// seed N is the same whatever the number of threads. INPUT is as for `restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: dreamclear degrade photos/ -r -o pairs --seed 7 --epochs 3\n\
                        Test sets: dreamclear degrade photos/ -o pairs --whole --names source")]
pub struct Args {
    /// Pictures, directories, globs, lists or tar archives.
    #[arg(required_unless_present = "print_config", value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Output directory.
    #[arg(short, long, value_name = "DIR", required_unless_present = "print_config")]
    pub output: Option<PathBuf>,
    /// Take directories below the given ones too.
    #[arg(short, long)]
    pub recursive: bool,

    /// Whose settings: realesrgan (second order, DreamClear's) or codeformer (first order, by which DiffBIR
    /// trains SwinIR; lr/ then has pictures of various sizes). [default: realesrgan]
    #[arg(long, value_enum, conflicts_with = "config", help_heading = "Degradation")]
    pub kind: Option<Kind>,
    /// Settings of your own; --print-config shows where to start.
    #[arg(long, value_name = "FILE.toml", help_heading = "Degradation")]
    pub config: Option<PathBuf>,
    /// Print the settings, all options applied, and do nothing.
    #[arg(long, help_heading = "Degradation")]
    pub print_config: bool,
    /// Seed of all draws.
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Degradation")]
    pub seed: u64,
    /// Passes over the inputs, each with other draws.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..1 << 24), help_heading = "Degradation")]
    pub epochs: u32,
    /// Sides of the ground truth over sides of the low-quality picture. [default: 4]
    #[arg(long, value_name = "N", help_heading = "Degradation")]
    pub scale: Option<usize>,
    /// Sharpen the ground truth (and what is degraded) first. [default: on for realesrgan]
    #[arg(long, value_name = "on|off", value_parser = parse_switch, help_heading = "Degradation")]
    pub gt_usm: Option<bool>,
    /// JPEG as the official code computes it (diff), or an encoder and a decoder (real). [default: diff for
    /// realesrgan]
    #[arg(long, value_enum, help_heading = "Degradation")]
    pub jpeg: Option<JpegKind>,
    /// What draws are shared: none (image), or those that the official code draws once a batch. [default: image]
    #[arg(long, value_enum, help_heading = "Degradation")]
    pub scope: Option<Scope>,
    /// Pictures in a batch. [default: 192]
    #[arg(long, value_name = "N", help_heading = "Degradation")]
    pub batch: Option<u64>,
    /// Repeat what this params.jsonl says of the same inputs, to the byte; other settings do not count.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "config", "print_config", "seed", "epochs", "scale",
        "gt_usm", "jpeg", "scope", "batch", "size", "whole", "min_pixels", "min_bytes", "names"], help_heading = "Degradation")]
    pub params: Option<PathBuf>,

    /// Side of the crop that becomes the ground truth; smaller pictures are reflected. [default: 1024, or 512
    /// for codeformer]
    #[arg(long, value_name = "PIXELS", conflicts_with = "whole", help_heading = "Pictures")]
    pub size: Option<usize>,
    /// Take pictures whole, neither cropped nor mirrored. Sides are reflected to multiples of the scale before,
    /// gt/ and sr_bicubic/ cut back to the input's size after.
    #[arg(long, help_heading = "Pictures")]
    pub whole: bool,
    /// Pass over pictures of fewer pixels (the official tool: 147456). [default: 0]
    #[arg(long, value_name = "N", help_heading = "Pictures")]
    pub min_pixels: Option<u64>,
    /// Pass over files of fewer bytes (the official tool: 102400). [default: 0]
    #[arg(long, value_name = "N", help_heading = "Pictures")]
    pub min_bytes: Option<u64>,
    /// What outputs are called: 0000001.png and so on over all passes, or like their inputs.
    #[arg(long, value_enum, default_value_t = Names::Numbers, help_heading = "Pictures")]
    pub names: Names,

    /// Skip pairs that an earlier run has finished with the same draws.
    #[arg(long, help_heading = "Jobs")]
    pub resume: bool,
    /// This process's part of the job: I/N, or auto to ask Slurm, Kubernetes, MPI or torchrun.
    #[arg(long, value_name = "auto|I/N", help_heading = "Jobs")]
    pub shard: Option<String>,
    /// Pictures in work at a time; 0 takes all cores.
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Jobs")]
    pub threads: usize,
    /// Print what was done as one JSON document on stdout.
    #[arg(long, help_heading = "Jobs")]
    pub json: bool,
}

/// Choice of `--kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Second order.
    Realesrgan,
    /// First order.
    Codeformer,
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        other => Err(format!("expected on or off, found {other:?}")),
    }
}

/// Runs the job.
///
/// # Errors
/// If settings are wrong, there is nothing to do, or the output directory cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    let work = match &args.params {
        Some(path) => Work::Replay(params::read(path)?),
        None => {
            let config = settings(args)?;
            if args.print_config {
                super::print(&printed(args, &config)?)?;
                return Ok(ExitCode::SUCCESS);
            }
            if args.names == Names::Source && args.epochs > 1 {
                return Err(Error::Usage(format!(
                    "--names source --epochs {}: each pass would write the same names; use --names numbers",
                    args.epochs
                )));
            }
            Work::Draw { config, seed: args.seed, epochs: args.epochs, whole: args.whole, names: args.names }
        }
    };
    let Some(output) = args.output.clone() else {
        return Err(Error::Usage("expected an output directory: -o DIR".into()));
    };
    let found = inputs::collect(&args.inputs, args.recursive, Some(&output))?;
    let cancel = Cancel::new();
    cancel.raise_on_signals(crate::atomic_file::discard_unfinished)?;
    let shard = args.shard.as_deref().map_or(Ok(Shard::default()), Shard::parse)?;
    let options = Options { output, resume: args.resume, shard, threads: args.threads };
    let summary = degrade::run(found, &work, &options, &cancel)?;
    if args.json {
        let text = serde_json::to_string_pretty(&summary).map_err(|e| Error::Run(format!("report: {e}")))?;
        super::print(&format!("{text}\n"))?;
    }
    eprintln!("{}", summary.message());
    Ok(ExitCode::from(summary.exit_code() as u8))
}

/// The settings' text before options: a file's, or shipped.
fn source(args: &Args) -> Result<String> {
    match (&args.config, args.kind) {
        (Some(path), _) => std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e)),
        (None, Some(Kind::Codeformer)) => Ok(CODEFORMER.into()),
        (None, _) => Ok(REALESRGAN.into()),
    }
}

/// The settings with the command line's options applied.
fn settings(args: &Args) -> Result<Config> {
    let mut config = Config::from_toml(&source(args)?).map_err(|e| match &args.config {
        Some(path) => Error::file(path, e.to_string()),
        None => e,
    })?;
    match &mut config {
        Config::RealEsrgan(c) => {
            c.scale = args.scale.unwrap_or(c.scale);
            c.jpeg = args.jpeg.unwrap_or(c.jpeg);
            c.scope = args.scope.unwrap_or(c.scope);
            c.batch = args.batch.unwrap_or(c.batch);
        }
        Config::CodeFormer(c) => {
            if args.scale.is_some() || args.scope.is_some() || args.batch.is_some() {
                return Err(Error::Usage(
                    "--scale, --scope and --batch are for kind realesrgan: codeformer draws its scale for each \
                     picture"
                        .into(),
                ));
            }
            c.jpeg = args.jpeg.unwrap_or(c.jpeg);
        }
    }
    let sharpen = config.sharpen_mut();
    sharpen.enabled = args.gt_usm.unwrap_or(sharpen.enabled);
    let picture = config.picture_mut();
    picture.size = args.size.unwrap_or(picture.size);
    picture.min_pixels = args.min_pixels.unwrap_or(picture.min_pixels);
    picture.min_bytes = args.min_bytes.unwrap_or(picture.min_bytes);
    config.check()?;
    Ok(config)
}

/// The settings as TOML: with the shipped comments where no option changed anything.
fn printed(args: &Args, config: &Config) -> Result<String> {
    let source = source(args)?;
    if Config::from_toml(&source).is_ok_and(|c| c == *config) {
        return Ok(source);
    }
    toml::to_string(config).map_err(|e| Error::Run(format!("settings: {e}")))
}
