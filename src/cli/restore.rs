//! `dreamclear restore`: pictures in, better pictures out.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::DeviceArgs;
use super::given::Given;
use super::restore_dreamclear::{self, DreamClearArgs};
use super::restore_model::Model;
use crate::bench::predict::{Card, SHARES};
use crate::bench::roofline::{Effort, Roofline};
use crate::cancel::Cancel;
use crate::data::image::{Format, Photo};
use crate::data::inputs::{self, Inputs};
use crate::data::pixels::Rounding;
use crate::data::shard::Shard;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::load::Loaded;
use crate::pipelines::batch::{self, Options, Restorer};
use crate::pipelines::naming::Target;
use crate::pipelines::restore::{DEFAULT_MEMORY, NetworkRestorer, Settings};
use crate::tensor::DType;
use crate::weights::safetensors;

/// Restore photos: remove blur, noise and compression, and enlarge.
///
/// INPUT is a picture (PNG, JPEG, WebP, TIFF, BMP), a directory, a glob, a .txt or .jsonl list or a
/// WebDataset .tar. Outputs keep the inputs' names and tree.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: dreamclear restore holiday/ -r -o restored --compare")]
pub struct Args {
    /// Pictures, directories, globs, lists or tar archives.
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Output directory, or with a single input the output file.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Take directories below the given ones too.
    #[arg(short, long)]
    pub recursive: bool,

    /// `dreamclear` for the whole pipeline, `dreamclear-nano` for the small network inside this
    /// program, `dreamclear-nano-diffusion` for the whole pipeline in small, a model's name in the
    /// weights directory (as `realesrgan-x4plus`), or a weight file.
    /// [default: dreamclear where its weights are, else dreamclear-nano]
    #[arg(long, value_name = "MODEL", help_heading = "Model")]
    pub model: Option<String>,
    /// Where weights are: a directory, a file for --model, or a bundle of the whole pipeline.
    /// [default: the cache that fetch fills]
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub weights: Option<PathBuf>,
    /// Hyper-parameters as JSON, for weights that do not say them by their shapes.
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub config: Option<PathBuf>,
    /// Output pixels per input pixel. [default: the model's own factor; 4 for DreamClear and the
    /// general SwinIR, which work at output size]
    #[arg(long, value_name = "X", help_heading = "Model")]
    pub upscale: Option<f64>,
    /// Enlarge to this shorter side before a network that works at output size. [default: 1024 for
    /// DreamClear and its SwinIR, none for dreamclear-nano]
    #[arg(long, value_name = "PIXELS", help_heading = "Model")]
    pub min_size: Option<usize>,
    /// Seed of everything random: equal seeds give equal bytes.
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Model")]
    pub seed: u64,

    /// Tile side: pixels that the network sees [default: the largest that fits --memory], or latent
    /// pixels for DreamClear [default: 128; dreamclear-nano-diffusion: 48].
    #[arg(long, value_name = "PIXELS", help_heading = "Memory")]
    pub tile: Option<usize>,
    /// Overlap of neighbouring tiles. [default: 32; dreamclear-nano-diffusion: 16]
    #[arg(long, value_name = "PIXELS", help_heading = "Memory")]
    pub tile_overlap: Option<usize>,
    /// Working memory for the network, as 1.5GiB or 800MiB; for DreamClear, memory of the whole
    /// process, to which tiles, launches and streaming of weights are fitted. On a GPU: of its memory
    /// [default: 95 % of what is free].
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Memory")]
    pub memory: Option<usize>,
    /// Print tiles, peak memory, FLOPs and predicted time of each picture; restore nothing.
    #[arg(long, help_heading = "Memory")]
    pub plan: bool,

    /// Output format.
    #[arg(long, default_value = "png", value_name = "png|jpg|webp|tiff", help_heading = "Output")]
    pub format: String,
    /// Quality of JPEG output, 1 to 100.
    #[arg(long, default_value_t = 95, value_parser = clap::value_parser!(u8).range(1..=100), help_heading = "Output")]
    pub quality: u8,
    /// Truncate to integers, as DreamClear's own code does, instead of rounding.
    #[arg(long, help_heading = "Output")]
    pub truncate: bool,
    /// Also write input and result side by side (NAME.compare.png).
    #[arg(long, help_heading = "Output")]
    pub compare: bool,
    /// Write what was done to each picture as JSON.
    #[arg(long, value_name = "FILE.json", help_heading = "Output")]
    pub report: Option<PathBuf>,
    /// Print the report (or the plan) as one JSON document on stdout.
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Skip what an earlier run with the same settings has finished.
    #[arg(long, help_heading = "Jobs")]
    pub resume: bool,
    /// This process's part of the job: I/N, or auto to ask Slurm, Kubernetes, MPI or torchrun.
    #[arg(long, value_name = "auto|I/N", help_heading = "Jobs")]
    pub shard: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub dreamclear: Given<DreamClearArgs>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
}

/// `800MiB`, `1.5GiB`, `2G`, or plain bytes.
fn parse_size(text: &str) -> Result<usize, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 =
        text[..digits].parse().map_err(|_| format!("expected a size as 1.5GiB, found {text:?}"))?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1u64,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        other => return Err(format!("unknown unit {other:?}; expected KiB, MiB or GiB")),
    };
    Ok((number * unit as f64) as usize)
}

/// Runs the job.
pub fn run(args: &Args) -> Result<ExitCode> {
    let format = output_format(args)?;
    let found = inputs::collect(&args.inputs, args.recursive, Some(&args.output))?;
    let own = args.dreamclear.first();
    let model = Model::choose(args.model.as_deref(), args.weights.as_deref(), own)?;
    if model.is_pipeline() {
        let (device, matrices) = args.device.open_with_precision()?;
        restore_dreamclear::check_single(&args.dreamclear, &found)?;
        let mut restorer =
            restore_dreamclear::open(args, model == Model::NanoDiffusion, device.clone(), matrices)?;
        if args.plan {
            let (rows, text, failed) = restore_dreamclear::plan(&mut restorer, found, &Speed::of(&device)?);
            return print_plan(rows, text, failed, args.json);
        }
        let code = run_batch(args, format, found, &mut restorer)?;
        if let Some(path) = &args.dreamclear.dump {
            let dump = restorer.take_intermediates();
            let tensors = dump.iter().map(|(n, t)| (n.as_str(), t));
            safetensors::write(path, tensors, &Default::default(), None)?;
        }
        return Ok(code);
    }
    let device = args.device.open()?;
    let loaded = model.open(args.weights.as_deref(), args.config.as_deref())?;
    let settings = settings(args, &model, &loaded)?;
    let mut restorer = NetworkRestorer::new(model.name(), loaded, settings, device.clone())?;
    if args.plan {
        return plan(&restorer, found, &Speed::of(&device)?, args.json);
    }
    run_batch(args, format, found, &mut restorer)
}

fn run_batch(args: &Args, format: Format, found: Inputs, restorer: &mut dyn Restorer) -> Result<ExitCode> {
    let cancel = Cancel::new();
    cancel.raise_on_signals(crate::atomic_file::discard_unfinished)?;
    let shard = match args.shard.as_deref() {
        None => Shard::default(),
        Some("auto") => Shard::from_env(&|name| std::env::var(name).ok())?,
        Some(text) => Shard::parse(text)?,
    };
    let target = Target::from_output(&args.output, found.found.len() + found.failed.len())?;
    let options = Options {
        format,
        quality: args.quality,
        compare: args.compare,
        resume: args.resume,
        shard,
        report: args.report.clone(),
        ..Options::new(target)
    };
    let summary = batch::run(found, restorer, &options, &cancel)?;
    if args.json {
        let text = serde_json::to_string_pretty(&summary).map_err(|e| Error::Run(format!("report: {e}")))?;
        super::print(&format!("{text}\n"))?;
    }
    eprintln!("{}", summary.message());
    Ok(ExitCode::from(summary.exit_code() as u8))
}

fn output_format(args: &Args) -> Result<Format> {
    // A file named by -o decides its own format.
    if !args.output.is_dir()
        && let Some(format) = Format::from_path(&args.output)
    {
        return Ok(format);
    }
    match Format::from_extension(&args.format) {
        Some(format) => Ok(format),
        None => Err(Error::Usage(format!("--format {}: expected png, jpg, webp or tiff", args.format))),
    }
}

fn settings(args: &Args, model: &Model, loaded: &Loaded) -> Result<Settings> {
    let net = &*loaded.network;
    // DreamClear's degradation remover works on the enlarged picture; the original denoising and
    // JPEG networks keep the size.
    let general = net.scale() == 1 && net.multiple() > 8;
    let upscale = args.upscale.unwrap_or(match net.scale() {
        1 if general => 4.0,
        s => s as f64,
    });
    if !(upscale > 0.0 && upscale <= 64.0) {
        return Err(Error::Usage(format!("--upscale {upscale}: expected a factor above 0 and up to 64")));
    }
    if args.tile == Some(0) {
        return Err(Error::Usage("--tile 0: expected at least 1 pixel".into()));
    }
    Ok(Settings {
        upscale,
        tile: args.tile,
        overlap: args.tile_overlap,
        memory: args.memory.unwrap_or(DEFAULT_MEMORY),
        rounding: if args.truncate { Rounding::Truncate } else { Rounding::HalfEven },
        // The general SwinIR was trained for pictures of that size, the small one for any.
        min_size: args.min_size.unwrap_or(if general && *model != Model::Nano { 1024 } else { 0 }),
    })
}

/// How times of `--plan` come about.
pub struct Speed {
    /// Of a large matrix product, which is what the networks come near to: where no cost model knows better.
    pub flops_per_second: f64,
    /// What it is the speed of: `cpu`, or the name of a card.
    pub device: &'static str,
    /// What is said behind a time.
    pub note: &'static str,
}

impl Speed {
    /// Measured on a CPU; of a GPU, or what stands for one, from its published peak.
    pub fn of(device: &Device) -> Result<Self> {
        let Some(kernels) = device.as_kernels() else {
            let roofs = Roofline::measure(device.host(), Effort::quick())?;
            return Ok(Speed { flops_per_second: roofs.matmul_flops_per_second, device: "cpu", note: "" });
        };
        let card = Card::of(&*kernels.device);
        let peak = if kernels.compute == DType::F32 { card.single } else { card.half };
        Ok(Speed {
            flops_per_second: SHARES.products * peak,
            device: card.name,
            note: " (predicted, not measured)",
        })
    }

    /// Seconds as they are printed: a CPU's rounded up, a card's with their tenths.
    pub fn show(&self, seconds: f64) -> String {
        if self.device == "cpu" { format!("{:.0}", seconds.ceil()) } else { format!("{seconds:.1}") }
    }
}

/// `--plan`: what each picture would take.
fn plan(restorer: &NetworkRestorer, found: Inputs, speed: &Speed, as_json: bool) -> Result<ExitCode> {
    let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
    let (mut rows, mut text) = (Vec::new(), String::new());
    let mut failed = found.failed.len();
    for failure in &found.failed {
        eprintln!("{}: {}", failure.name, failure.reason);
    }
    for input in &found.found {
        let photo = input.read().and_then(|bytes| Photo::load_bytes(&bytes, input.location()));
        let layout = match photo.and_then(|p| restorer.layout((p.height, p.width))) {
            Ok(layout) => layout,
            Err(e) => {
                eprintln!("{}: {e}", input.name);
                failed += 1;
                continue;
            }
        };
        let tiling = &layout.tiling;
        let seconds = match restorer.seconds(&layout)? {
            Some(seconds) => seconds,
            None => tiling.flops / speed.flops_per_second,
        };
        text += &format!(
            "{}: {}×{} to {}×{}, {} tile(s) of {}×{} (overlap {}), {:.2} TFLOP, about {} s{}\n  peak {:.0} MiB: working memory {:.0}, weights {:.0}, pictures {:.0}\n",
            input.name,
            layout.input.1,
            layout.input.0,
            layout.output.1,
            layout.output.0,
            tiling.tiles,
            tiling.tile.1,
            tiling.tile.0,
            tiling.overlap,
            tiling.flops / 1e12,
            speed.show(seconds),
            speed.note,
            mib(layout.peak()),
            mib(tiling.arena),
            mib(tiling.weights),
            mib(layout.pictures),
        );
        rows.push(json!({
            "name": input.name,
            "input": [layout.input.0, layout.input.1],
            "output": [layout.output.0, layout.output.1],
            "tile": [tiling.tile.0, tiling.tile.1],
            "tile_overlap": tiling.overlap,
            "tiles": tiling.tiles,
            "exact": tiling.exact,
            "peak_bytes": layout.peak(),
            "arena_bytes": tiling.arena,
            "weight_bytes": tiling.weights,
            "picture_bytes": layout.pictures,
            "flops": tiling.flops,
            "predicted_seconds": seconds,
            "predicted_for": speed.device,
        }));
    }
    print_plan(rows, text, failed, as_json)
}

fn print_plan(rows: Vec<serde_json::Value>, text: String, failed: usize, as_json: bool) -> Result<ExitCode> {
    super::print(&if as_json { format!("{:#}\n", json!({ "images": rows })) } else { text })?;
    Ok(if failed > 0 { ExitCode::from(3) } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("1.5GiB"), Ok(1536 << 20));
        assert_eq!(parse_size("800M"), Ok(800 << 20));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert!(parse_size("many").is_err() && parse_size("3 parsecs").is_err());
    }
}
