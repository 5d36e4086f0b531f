//! `dreamclear convert SRC DST`: any weight file to safetensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::pipelines::dreamclear::components::{Chosen, Sources};
use crate::tensor::DType;
use crate::weights::{WeightSet, bundle, guess, safetensors};
use crate::{Error, Result};

/// Convert weights to safetensors. Names are kept; nothing in the file is executed.
///
/// A directory with the networks of DreamClear becomes one bundle that `restore --weights` opens in
/// an instant; there, --dtype is that of the large matrices of the diffusion transformer and the
/// text encoder, while SwinIR and the autoencoder keep theirs. ncnn files of Real-ESRGAN networks get the official PyTorch names.
/// Example: dreamclear convert RealESRGAN_x4plus.pth realesrgan-x4plus.safetensors --dtype f16
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A .safetensors, .pth/.ckpt/.pt/.bin, *.index.json or ncnn file, or a directory with one.
    pub src: PathBuf,
    /// The .safetensors file to write.
    pub dst: PathBuf,
    /// Element type of floating-point tensors; others stay as they are.
    #[arg(long, value_enum, default_value_t = Precision::Keep)]
    pub dtype: Precision,
    /// Replace DST if it exists.
    #[arg(long)]
    pub force: bool,
}

/// Choice of `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// As stored.
    Keep,
    /// 32 bits.
    F32,
    /// 16 bits, 10 of them fraction; values beyond 65504 are refused.
    F16,
    /// 16 bits with the exponent of f32.
    Bf16,
}

impl Precision {
    fn dtype(self) -> Option<DType> {
        match self {
            Precision::Keep => None,
            Precision::F32 => Some(DType::F32),
            Precision::F16 => Some(DType::F16),
            Precision::Bf16 => Some(DType::BF16),
        }
    }
}

/// Converts, and says on stderr what was written.
///
/// # Errors
/// If SRC cannot be read, DST exists without `--force`, or a value does not fit the dtype.
pub fn run(args: &Args) -> Result<()> {
    if args.src.is_dir() {
        let sources = Sources::new(&Chosen::default(), &args.src)?;
        if sources.is_pipeline() {
            return bundle_up(&sources, args);
        }
    }
    let weights = WeightSet::open(&args.src)?;
    convert(&weights, &args.dst, args.dtype, args.force)?;
    tracing::info!(
        "wrote {}: {} tensors, {} parameters from {}",
        args.dst.display(),
        weights.len(),
        weights.parameters(),
        args.src.display()
    );
    Ok(())
}

/// One file of all networks that are there.
fn bundle_up(sources: &Sources, args: &Args) -> Result<()> {
    check_destination(&args.dst, args.force)?;
    let parts = sources.parts(args.dtype.dtype())?;
    if args.dtype == Precision::F16 {
        parts.iter().filter(|p| p.matrices.is_some()).try_for_each(|p| refuse_overflow(&p.weights))?;
    }
    bundle::write(&args.dst, &parts)?;
    let names: Vec<_> = parts.iter().map(|p| p.name.as_str()).collect();
    let parameters: usize = parts.iter().map(|p| p.weights.parameters()).sum();
    tracing::info!("wrote {}: {} ({parameters} parameters)", args.dst.display(), names.join(", "));
    Ok(())
}

fn check_destination(dst: &Path, force: bool) -> Result<()> {
    if dst.extension().is_none_or(|e| e != "safetensors") {
        return Err(Error::Usage(format!(
            "expected {} to end in .safetensors, the format written",
            dst.display()
        )));
    }
    if dst.exists() && !force {
        return Err(Error::Usage(format!("{} exists; pass --force to replace it", dst.display())));
    }
    Ok(())
}

fn convert(weights: &WeightSet, dst: &Path, precision: Precision, force: bool) -> Result<()> {
    check_destination(dst, force)?;
    if precision == Precision::F16 {
        refuse_overflow(weights)?;
    }
    let mut metadata: BTreeMap<String, String> = weights.metadata().clone();
    metadata.insert("format".to_owned(), "pt".to_owned());
    let source = weights.path().file_name().unwrap_or_default().to_string_lossy();
    metadata.insert("converted_from".to_owned(), format!("{source} ({})", weights.container()));
    if let Some(section) = weights.section() {
        metadata.insert("section".to_owned(), section.to_owned());
    }
    if let Some(guess) = guess(weights) {
        metadata.entry("architecture".to_owned()).or_insert_with(|| guess.model.to_owned());
    }
    safetensors::write(dst, weights.iter(), &metadata, precision.dtype())
}

/// Half precision ends at 65504; beyond it a finite weight would silently become infinite.
fn refuse_overflow(weights: &WeightSet) -> Result<()> {
    for (name, tensor) in weights.iter().filter(|(_, t)| t.dtype().is_float() && t.dtype() != DType::F16) {
        // 65520 is the first value that rounds to infinity.
        if let Some(x) = tensor.to_f32().iter().find(|x| x.is_finite() && x.abs() >= 65520.0) {
            return Err(Error::Weights(format!(
                "tensor `{name}` holds {x}, which does not fit f16: use --dtype bf16 or f32"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::HostTensor;

    #[test]
    fn converts_keeps_names_and_never_overwrites_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let dst = dir.path().join("w.safetensors");
        let weights = WeightSet::from_tensors([
            ("b".to_owned(), HostTensor::from_i64([1], vec![7])),
            ("a".to_owned(), HostTensor::from_f32([2], vec![0.1, 70000.0])),
        ]);
        let error = convert(&weights, &dst, Precision::F16, false).unwrap_err().to_string();
        assert!(error.contains("`a` holds 70000"), "{error}");
        assert!(!dst.exists());
        convert(&weights, &dst, Precision::Bf16, false).unwrap();
        let back = WeightSet::open(&dst).unwrap();
        assert_eq!(back.get("b").unwrap().to_i64(), [7]);
        assert_eq!(back.get("a").unwrap().dtype(), DType::BF16);
        assert_eq!(back.get("a").unwrap().to_f64()[1], 70144.0);
        assert!(convert(&weights, &dst, Precision::Keep, false).unwrap_err().to_string().contains("--force"));
        convert(&weights, &dst, Precision::Keep, true).unwrap();
        // The old file stays valid for whoever has it mapped.
        assert_eq!(back.get("a").unwrap().to_f64()[1], 70144.0);
        assert!(convert(&weights, &dir.path().join("w.pth"), Precision::Keep, false).is_err());
    }
}
