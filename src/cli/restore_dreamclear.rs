//! `dreamclear restore --model dreamclear` and the same in small: the options of the whole pipeline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::restore::Speed;
use crate::data::color_fix::ColorFix;
use crate::data::inputs::Inputs;
use crate::data::pixels::Rounding;
use crate::device::Device;
use crate::diffusion::Guided;
use crate::diffusion::schedule::Span;
use crate::error::{Error, Result};
use crate::pipelines::dreamclear::captions::Source;
use crate::pipelines::dreamclear::components::{Chosen, Sources};
use crate::pipelines::dreamclear::memory::Stage;
use crate::pipelines::dreamclear::noise::{NoiseSource, Replay};
use crate::pipelines::dreamclear::{DreamClearRestorer, Settings, denoise};
use crate::tensor::DType;
use crate::text::vlm;
use crate::weights::embedded::NANO_DIFFUSION;
use crate::weights::hub;

/// The model's name on the command line.
pub const MODEL: &str = "dreamclear";

/// What a whole pipeline does where no option says otherwise.
struct Defaults {
    sampler: &'static str,
    steps: usize,
    /// First timestep of the walk.
    walk_from: usize,
    /// The greatest timestep that the network has learned.
    last: usize,
    cfg: f32,
    /// Side of a latent tile, which is what the network was trained with.
    tile: usize,
    overlap: usize,
    min_size: usize,
    color_fix: &'static str,
}

/// The official numbers.
const OFFICIAL: Defaults = Defaults {
    sampler: "iddpm",
    steps: 50,
    walk_from: 999,
    last: 999,
    cfg: 4.5,
    tile: 128,
    overlap: 32,
    min_size: 1024,
    color_fix: "wavelet",
};

/// Of what is inside this program: it knows no caption, has learned the last 400 timesteps alone
/// (`tools/nano/dreamclear.toml`), and its autoencoder is too small to hold all of a good photo.
const NANO: Defaults = Defaults {
    sampler: "ddim",
    steps: 5,
    walk_from: 249,
    last: 399,
    cfg: 1.0,
    tile: 48,
    overlap: 16,
    min_size: 0,
    color_fix: "residual",
};

/// Options that only a whole pipeline has.
#[derive(Debug, clap::Args)]
pub struct DreamClearArgs {
    /// Denoising steps. [default: 50; dreamclear-nano-diffusion: 5]
    #[arg(long, value_name = "N", help_heading = "DreamClear")]
    pub steps: Option<usize>,
    /// How the denoiser walks: iddpm, ddim, dpm++, dpm++sde or sa. [default: iddpm, as officially;
    /// dreamclear-nano-diffusion: ddim]
    #[arg(long, value_name = "NAME", help_heading = "DreamClear")]
    pub sampler: Option<String>,
    /// Guidance scale: how hard the caption pulls. [default: 4.5; dreamclear-nano-diffusion: 1]
    #[arg(long, value_name = "SCALE", help_heading = "DreamClear")]
    pub cfg: Option<f32>,
    /// Guide all four latent channels; the official code leaves the last one out.
    #[arg(long, help_heading = "DreamClear")]
    pub cfg_all_channels: bool,
    /// Timestep at which the walk begins, 1 to 999: the less, the more of the reference stays.
    /// [default: 999; dreamclear-nano-diffusion: 249]
    #[arg(long, value_name = "T", help_heading = "DreamClear")]
    pub walk_from: Option<usize>,
    /// Timestep whose noise level the start has (LRE), 0 to 999. [default: where the walk begins]
    #[arg(long, value_name = "T", help_heading = "DreamClear")]
    pub start_point: Option<usize>,
    /// Start from pure noise instead of the noised reference.
    #[arg(long, conflicts_with = "walk_from", help_heading = "DreamClear")]
    pub no_lre: bool,
    /// Take the reference's colours: wavelet, adain or none; or residual, which adds what denoising
    /// changed to the reference, but for colours: what the autoencoder cannot hold stays. [default:
    /// wavelet; dreamclear-nano-diffusion: residual]
    #[arg(long, value_name = "HOW", help_heading = "DreamClear")]
    pub color_fix: Option<String>,
    /// The one latent size that runs whole; all others run in tiles, as in the official code.
    /// [default: 128x128; dreamclear-nano-diffusion: 48x48]
    #[arg(long, value_name = "HxW", value_parser = parse_extent, help_heading = "DreamClear")]
    pub untiled_latent: Option<(usize, usize)>,
    /// Round to integers; the official code truncates, which darkens by half a level.
    #[arg(long, help_heading = "DreamClear")]
    pub round: bool,
    /// Pictures that are denoised together (changes no byte).
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = parse_count, help_heading = "DreamClear")]
    pub batch: usize,
    /// Latent tiles in one launch (changes no byte). [default: as many as the memory allows]
    #[arg(long, value_name = "N", value_parser = parse_count, help_heading = "DreamClear")]
    pub tile_batch: Option<usize>,

    /// What the pictures show.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["captions", "caption_features", "vlm"], help_heading = "Captions")]
    pub caption: Option<String>,
    /// Directory with NAME.txt for each picture.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["caption_features", "vlm"], help_heading = "Captions")]
    pub captions: Option<PathBuf>,
    /// Directory with NAME.npz for each picture (caption_feature, attention_mask), or one such file.
    #[arg(long, value_name = "DIR", conflicts_with = "vlm", help_heading = "Captions")]
    pub caption_features: Option<PathBuf>,
    /// Ask an OpenAI-compatible vision endpoint for captions, as http://localhost:8000/v1.
    #[arg(long, value_name = "URL", help_heading = "Captions")]
    pub vlm: Option<String>,
    /// The model that the endpoint is asked for.
    #[arg(long, default_value = "llava-v1.6-vicuna-13b", value_name = "NAME", help_heading = "Captions")]
    pub vlm_model: String,
    /// Environment variable that holds the endpoint's key, if it wants one.
    #[arg(long, default_value = "OPENAI_API_KEY", value_name = "VAR", help_heading = "Captions")]
    pub vlm_key_env: String,
    /// What the endpoint is asked.
    #[arg(long, default_value = vlm::PROMPT, value_name = "TEXT", help_heading = "Captions")]
    pub vlm_prompt: String,
    /// Seconds to wait for an answer.
    #[arg(long, default_value_t = 120, value_name = "SECONDS", help_heading = "Captions")]
    pub vlm_timeout: u64,
    /// Attempts after the first, where the endpoint is busy or out of reach.
    #[arg(long, default_value_t = 3, value_name = "N", help_heading = "Captions")]
    pub vlm_retries: u32,
    /// Go on with the null caption where a caption cannot be had; the report says so.
    #[arg(long, help_heading = "Captions")]
    pub caption_fallback: bool,
    /// What the pictures should not look like, instead of the null caption.
    #[arg(long, value_name = "TEXT", help_heading = "Captions")]
    pub negative: Option<String>,

    /// SwinIR's weights, instead of those in --weights.
    #[arg(long, value_name = "PATH", help_heading = "Components")]
    pub swinir: Option<PathBuf>,
    /// The autoencoder's directory or file.
    #[arg(long, value_name = "PATH", help_heading = "Components")]
    pub vae: Option<PathBuf>,
    /// The diffusion transformer's weights.
    #[arg(long, value_name = "PATH", help_heading = "Components")]
    pub dreamclear: Option<PathBuf>,
    /// The text encoder's directory, with its tokenizer.
    #[arg(long, value_name = "PATH", help_heading = "Components")]
    pub t5: Option<PathBuf>,

    /// Replay dumped noise (noise_T, noises) for a single picture.
    #[arg(long, value_name = "FILE", help_heading = "Replay")]
    pub noise: Option<PathBuf>,
    /// Write every intermediate of a single picture.
    #[arg(long, value_name = "FILE", help_heading = "Replay")]
    pub dump: Option<PathBuf>,
}

/// `128x96`: height, then width.
fn parse_extent(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once(['x', 'X', '×']).and_then(|(h, w)| Some((h.parse().ok()?, w.parse().ok()?)));
    match parts {
        Some((h, w)) if h > 0 && w > 0 => Ok((h, w)),
        _ => Err(format!("expected HEIGHTxWIDTH as 128x128, found {text:?}")),
    }
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(format!("expected a number from 1 up, found {text:?}")),
    }
}

/// Opens the pipeline as the options say: the one inside this program, or that of a weights directory.
pub fn open(
    args: &super::restore::Args,
    inside: bool,
    device: Device,
    matrices: Option<DType>,
) -> Result<DreamClearRestorer> {
    let own = &args.dreamclear;
    let chosen = Chosen {
        swinir: own.swinir.clone(),
        vae: own.vae.clone(),
        dreamclear: own.dreamclear.clone(),
        t5: own.t5.clone(),
    };
    let settings = settings(args, if inside { &NANO } else { &OFFICIAL }, matrices)?;
    let captions = captions(own)?;
    if inside && (own.negative.is_some() || !matches!(captions, Source::Null)) {
        return Err(Error::Usage(format!(
            "{NANO_DIFFUSION} knows no captions, it has learned without; leave them out, or take --model {MODEL}"
        )));
    }
    let sources = if inside {
        Sources::nano(&chosen)?
    } else {
        Sources::new(&chosen, &args.weights.clone().map_or_else(hub::cache_dir, Ok)?)?
    };
    let mut restorer = DreamClearRestorer::new(sources, captions, settings, device)?;
    if let Some(path) = &own.noise {
        restorer.replay(NoiseSource::Replayed(Replay::open(path)?));
    }
    if own.dump.is_some() {
        restorer.keep_intermediates();
    }
    Ok(restorer)
}

/// `--noise` and `--dump` are about one picture.
pub fn check_single(args: &DreamClearArgs, inputs: &Inputs) -> Result<()> {
    let count = inputs.found.len() + inputs.failed.len();
    let option = match (&args.noise, &args.dump) {
        (Some(_), _) => "--noise",
        (_, Some(_)) => "--dump",
        _ => return Ok(()),
    };
    if count == 1 {
        return Ok(());
    }
    Err(Error::Usage(format!("{option} is for a single picture, found {count} inputs")))
}

fn settings(args: &super::restore::Args, defaults: &Defaults, matrices: Option<DType>) -> Result<Settings> {
    let own = &args.dreamclear;
    let upscale = args.upscale.unwrap_or(4.0);
    if !(upscale > 0.0 && upscale <= 64.0) {
        return Err(Error::Usage(format!("--upscale {upscale}: expected a factor above 0 and up to 64")));
    }
    // Pure noise is what the last timestep looks like.
    let first = own.walk_from.unwrap_or(if own.no_lre { 999 } else { defaults.walk_from });
    let last = defaults.last;
    if own.no_lre && first > last {
        return Err(Error::Usage(format!(
            "--no-lre: pure noise is timestep 999, and this network has learned those to {last}"
        )));
    }
    if !(1..=last).contains(&first) {
        return Err(Error::Usage(format!("--walk-from {first}: expected a timestep of 1 to {last}")));
    }
    let span = Span { first, calls: own.steps.unwrap_or(defaults.steps) };
    let start_point = own.start_point.unwrap_or(first);
    if start_point > 999 {
        return Err(Error::Usage(format!("--start-point {start_point}: expected a timestep of 0 to 999")));
    }
    let cfg = own.cfg.unwrap_or(defaults.cfg);
    if !cfg.is_finite() {
        return Err(Error::Usage(format!("--cfg {cfg}: expected a number")));
    }
    let (color_fix, residual) = match own.color_fix.as_deref().unwrap_or(defaults.color_fix) {
        "wavelet" => (ColorFix::Wavelet, false),
        "residual" => (ColorFix::Wavelet, true),
        "adain" => (ColorFix::Adain, false),
        "none" => (ColorFix::None, false),
        other => {
            return Err(Error::Usage(format!(
                "--color-fix {other}: expected wavelet, adain, none or residual"
            )));
        }
    };
    // A wrong name or number of steps is told before weights are opened.
    let sampler = own.sampler.as_deref().unwrap_or(defaults.sampler);
    crate::diffusion::sampler::from_name(sampler, span)?;
    let (tile, overlap) = (args.tile.unwrap_or(defaults.tile), args.tile_overlap.unwrap_or(defaults.overlap));
    if tile % 2 != 0 || tile == 0 || overlap >= tile {
        return Err(Error::Usage(format!(
            "--tile {tile} --tile-overlap {overlap}: expected an even number of latent pixels and an overlap below it"
        )));
    }
    Ok(Settings {
        upscale,
        min_size: args.min_size.unwrap_or(defaults.min_size),
        denoise: denoise::Settings {
            sampler: sampler.to_owned(),
            span,
            cfg,
            guided: own.cfg_all_channels.then_some(Guided::All),
            tile: (tile, overlap),
            untiled: own.untiled_latent.unwrap_or((defaults.tile, defaults.tile)),
        },
        start_point: (!own.no_lre).then_some(start_point),
        color_fix,
        residual,
        rounding: if own.round { Rounding::HalfEven } else { Rounding::Truncate },
        seed: args.seed,
        negative: own.negative.clone(),
        caption_fallback: own.caption_fallback,
        batch: own.batch,
        tile_batch: own.tile_batch,
        memory: args.memory,
        matrices,
    })
}

fn captions(own: &DreamClearArgs) -> Result<Source> {
    let exists = |path: &Path, option: &str| match path.exists() {
        true => Ok(path.to_owned()),
        false => {
            Err(Error::Usage(format!("{option} {}: there is no such file or directory", path.display())))
        }
    };
    if let Some(text) = &own.caption {
        return Ok(Source::Text(text.clone()));
    }
    if let Some(directory) = &own.captions {
        return Ok(Source::Files(exists(directory, "--captions")?));
    }
    if let Some(path) = &own.caption_features {
        return Ok(Source::Features(exists(path, "--caption-features")?));
    }
    let Some(url) = &own.vlm else { return Ok(Source::Null) };
    let options = vlm::Options {
        key_env: own.vlm_key_env.clone(),
        prompt: own.vlm_prompt.clone(),
        timeout: Duration::from_secs(own.vlm_timeout.max(1)),
        retries: own.vlm_retries,
        cache_dir: Some(hub::cache_dir()?.join("captions")),
        ..vlm::Options::new(url, &own.vlm_model)
    };
    let identity = format!("{url} {:?} {:?}", own.vlm_model, own.vlm_prompt);
    Ok(Source::Vlm { client: Box::new(vlm::Client::new(options)?), identity })
}

/// `--plan`: what each stage of each picture would take; at what speed where nothing better is known.
pub fn plan(
    restorer: &mut DreamClearRestorer,
    found: Inputs,
    speed: &Speed,
) -> (Vec<serde_json::Value>, String, usize) {
    let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
    let (mut rows, mut text, mut failed) = (Vec::new(), String::new(), found.failed.len());
    for failure in &found.failed {
        eprintln!("{}: {}", failure.name, failure.reason);
    }
    for input in &found.found {
        let photo = input.read().and_then(|b| crate::data::image::Photo::load_bytes(&b, input.location()));
        let planned = photo.and_then(|p| Ok(((p.height, p.width), restorer.memory(&[(p.height, p.width)])?)));
        let ((h, w), memory) = match planned {
            Ok(planned) => planned,
            Err(e) => {
                eprintln!("{}: {e}", input.name);
                failed += 1;
                continue;
            }
        };
        let stage = |s: &Stage| s.seconds.unwrap_or(s.flops / speed.flops_per_second);
        let seconds: f64 = memory.stages.iter().map(stage).sum();
        text += &format!(
            "{}: {w}×{h}, {:.2} TFLOP, about {} s{}, peak {:.0} MiB (weights {:.0}{}, pictures {:.0}, kept between steps {:.0})\n",
            input.name,
            memory.flops / 1e12,
            speed.show(seconds),
            speed.note,
            mib(memory.peak_bytes),
            mib(memory.resident_weight_bytes),
            if memory.streamed { " and the denoiser's read from the file at every step" } else { "" },
            mib(memory.picture_bytes),
            mib(memory.carried_bytes),
        );
        for s in &memory.stages {
            text += &format!(
                "  {:8} weights {:8.1} MiB  arena {:8.1} MiB  {:10.3} TFLOP  about {:>6} s  {}\n",
                s.name,
                mib(s.weight_bytes),
                mib(s.arena_bytes),
                s.flops / 1e12,
                speed.show(stage(s)),
                s.note
            );
        }
        let mut row = json!(memory);
        row["name"] = json!(input.name);
        row["input"] = json!([h, w]);
        row["predicted_seconds"] = json!(seconds);
        row["predicted_for"] = json!(speed.device);
        rows.push(row);
    }
    (rows, text, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_and_counts() {
        assert_eq!(parse_extent("128x96"), Ok((128, 96)));
        assert!(parse_extent("128").is_err() && parse_extent("0x4").is_err());
        assert!(parse_count("0").is_err() && parse_count("3") == Ok(3));
    }
}
