//! `dreamclear inspect FILE|DIR`: what is in a weight file.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use serde_json::json;

use crate::weights::{WeightSet, guess};
use crate::{Error, Result};

/// Show the tensors in a weight file and which model it is. Nothing in the file is executed.
///
/// Example: dreamclear inspect RealESRGAN_x4plus.pth
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A .safetensors, .pth/.ckpt/.pt/.bin, *.index.json or ncnn file, or a directory with one.
    pub path: PathBuf,
    /// Say which tensors MODEL misses, does not know, or wants in another shape.
    #[arg(long, value_name = "MODEL")]
    pub strict: Option<String>,
    /// Show only tensors whose name contains TEXT.
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// Checks weights against the named model: an error lists what does not fit.
pub type StrictCheck<'a> = &'a dyn Fn(&str, &WeightSet) -> Result<()>;

/// Prints the report on stdout, then runs the strict check if one was asked for.
///
/// # Errors
/// If the file cannot be opened, or does not fit the model of `--strict`.
pub fn run(args: &Args, strict: StrictCheck) -> Result<()> {
    let weights = WeightSet::open(&args.path)?;
    let fit = args.strict.as_deref().map(|model| strict(model, &weights));
    let wanted = |name: &str| args.filter.as_deref().is_none_or(|f| name.contains(f));
    let text = if args.json {
        let problem = fit.as_ref().and_then(|f| f.as_ref().err()).map(ToString::to_string);
        format!("{:#}\n", report_json(&weights, wanted, args.strict.as_deref().map(|m| (m, problem))))
    } else {
        report_text(&weights, wanted)
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads only the beginning (`| head`) has seen what they wanted.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
        Err(e) => return Err(Error::io("write", "stdout", e)),
        Ok(()) => {}
    }
    if let Some(fit) = fit {
        fit?;
        if !args.json {
            println!("fits {} exactly", args.strict.as_deref().unwrap_or_default());
        }
    }
    Ok(())
}

fn report_text(weights: &WeightSet, wanted: impl Fn(&str) -> bool) -> String {
    let rows: Vec<_> = weights.iter().filter(|(name, _)| wanted(name)).collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    // Writing to a String cannot fail.
    for (name, tensor) in &rows {
        // Escaped: a name is the file's, and must not steer the terminal.
        let name = name.escape_debug().to_string();
        let _ = writeln!(out, "{name:width$}  {:4}  {:?}", tensor.dtype().name(), tensor.shape());
    }
    let dtypes: Vec<String> = weights.dtypes().iter().map(|(d, (n, _))| format!("{n} × {d}")).collect();
    let _ = writeln!(out, "\nfile        {}", weights.path().display());
    let _ = write!(out, "container   {}", weights.container());
    let _ = writeln!(out, "{}", weights.section().map_or_else(String::new, |s| format!(", section {s}")));
    let _ = writeln!(
        out,
        "tensors     {} ({}), {} parameters, {}",
        weights.len(),
        dtypes.join(", "),
        grouped(weights.parameters()),
        indicatif::HumanBytes(weights.bytes() as u64)
    );
    for (key, value) in weights.metadata() {
        let _ = writeln!(out, "metadata    {key} = {}", value.escape_debug());
    }
    let model = guess(weights).map_or("unknown".to_owned(), |g| format!("{} ({})", g.model, g.detail));
    let _ = writeln!(out, "model       {model}");
    out
}

fn report_json(
    weights: &WeightSet,
    wanted: impl Fn(&str) -> bool,
    strict: Option<(&str, Option<String>)>,
) -> serde_json::Value {
    let tensors: Vec<_> = weights
        .iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, t)| {
            json!({
                "name": name, "dtype": t.dtype().name(), "shape": t.shape(), "bytes": t.bytes().len(),
                "file": weights.file_of(name).map(|p| p.display().to_string()),
            })
        })
        .collect();
    let dtypes: serde_json::Map<_, _> = weights
        .dtypes()
        .iter()
        .map(|(d, (tensors, elements))| {
            (d.name().into(), json!({"tensors": tensors, "parameters": elements}))
        })
        .collect();
    json!({
        "path": weights.path().display().to_string(),
        "container": weights.container().to_string(),
        "section": weights.section(),
        "model": guess(weights).map(|g| json!({"name": g.model, "detail": g.detail})),
        "totals": {
            "tensors": weights.len(), "parameters": weights.parameters(), "bytes": weights.bytes(), "dtypes": dtypes,
        },
        "metadata": weights.metadata(),
        "strict": strict.map(|(model, problem)| json!({"model": model, "fits": problem.is_none(), "problem": problem})),
        "tensors": tensors,
    })
}

/// 16697987 as `16,697,987`.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::HostTensor;

    #[test]
    fn digits_are_grouped_in_threes() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(16_697_987), "16,697,987");
    }

    #[test]
    fn both_reports_say_the_same() {
        let weights = WeightSet::from_tensors([
            ("body.0.weight".to_owned(), HostTensor::from_f32([2, 1, 1, 1], vec![1.0, 2.0])),
            ("body.1.weight".to_owned(), HostTensor::from_f32([2], vec![1.0, 2.0])),
            ("body.2.weight".to_owned(), HostTensor::from_f32([1, 2, 1, 1], vec![1.0, 2.0])),
        ]);
        let text = report_text(&weights, |n| n != "body.1.weight");
        assert!(text.contains("body.0.weight  f32   [2, 1, 1, 1]") && !text.contains("body.1"), "{text}");
        assert!(
            text.contains("3 (3 × f32), 6 parameters, 24 B") && text.contains("model       srvgg"),
            "{text}"
        );
        let json = report_json(&weights, |_| true, Some(("srvgg", Some("no".into()))));
        assert_eq!(json["totals"]["parameters"], 6);
        assert_eq!(json["tensors"][1]["shape"], json!([2]));
        assert_eq!(json["model"]["name"], "srvgg");
        assert_eq!(json["strict"]["fits"], false);
    }
}
