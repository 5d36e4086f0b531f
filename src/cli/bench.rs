//! `dreamclear bench`: times, roofs, and PyTorch beside them.

use std::path::PathBuf;

use super::{DeviceArgs, print};
use crate::bench::predict::{self, Card};
use crate::bench::{self, Filter, Options, Report, TorchOptions};
use crate::cancel::Cancel;
use crate::error::{Error, Result};

/// Time every op and model against the roofs of this machine, and against PyTorch if asked.
///
/// Example: dreamclear bench linear --vs torch --python venv/bin/python
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Rows to run: a part of their names, or a pattern over the whole name (`linear/*`).
    #[arg(default_value = "", hide_default_value = true)]
    filter: String,

    /// Time for each row, for either side.
    #[arg(long, default_value_t = 1.0, value_name = "S")]
    seconds: f64,

    /// Sweep the caches before every run.
    #[arg(long)]
    flush: bool,

    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,

    /// Print the names of the rows and stop.
    #[arg(long)]
    list: bool,

    /// Run the same work in another implementation, in turns, and print the ratio of times.
    #[arg(long, value_enum)]
    vs: Option<Opponent>,

    /// The Python interpreter for `--vs torch`.
    #[arg(long, default_value = "python3", value_name = "PATH", requires = "vs")]
    python: PathBuf,

    /// A folder with checkouts of BasicSR, SwinIR and DreamClear: times the authors' own modules.
    #[arg(long, value_name = "DIR", requires = "vs")]
    official: Option<PathBuf>,

    /// Predict times on a GPU that is not here instead of measuring: every launch of a plan against the
    /// card's roofs.
    #[arg(long, value_name = "CARD", conflicts_with_all = ["vs", "flush"])]
    predict: Option<String>,

    /// With --predict: print each plan step by step, with its kernels, instead of the table.
    #[arg(long, requires = "predict")]
    explain: bool,

    #[command(flatten)]
    device: DeviceArgs,
}

/// Another implementation.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Opponent {
    /// PyTorch, as a user runs it: eager, contiguous NCHW pictures, inference mode.
    Torch,
}

/// Runs the rows and prints them as they come.
pub fn run(args: &Args) -> Result<()> {
    let filter = Filter::parse(&args.filter)?;
    if let Some(card) = &args.predict {
        return predict(card, &filter, args);
    }
    let names: Vec<String> =
        bench::rows().iter().map(|r| r.name()).filter(|name| filter.matches(name)).collect();
    if args.list {
        return print(&names.iter().map(|n| n.to_owned() + "\n").collect::<String>());
    }
    let cancel = Cancel::new();
    // Where somebody else listens already, Ctrl-C does what they decided.
    let _ = cancel.raise_on_signals(bench::torch::remove_scratch);
    let torch = |Opponent::Torch| TorchOptions {
        python: args.python.clone(),
        official: args.official.clone(),
        gpu: None,
    };
    let options = Options {
        filter,
        device: args.device.open_cpu()?,
        seconds: args.seconds,
        flush: args.flush,
        torch: args.vs.map(torch),
        cancel,
    };
    if args.json {
        return print(&bench::run(&options, |_| Ok(()))?.to_json());
    }
    let width = names.iter().map(|n| n.chars().count()).max().unwrap_or(0).max(3);
    let report = bench::run(&options, |r: &Report| match r.rows.last() {
        None => print(&(r.header() + &r.columns(width))),
        Some(row) => print(&r.line(row, width)),
    })?;
    print(&report.footer())
}

fn predict(card: &str, filter: &Filter, args: &Args) -> Result<()> {
    let card = Card::named(card).ok_or_else(|| {
        let known: Vec<_> = predict::CARDS.iter().map(|c| c.name).collect();
        Error::Usage(format!("--predict {card}: expected {}", known.join(", ")))
    })?;
    let (rows, others): (Vec<_>, Vec<_>) = predict::rows().into_iter().partition(|r| filter.matches(r.name));
    if rows.is_empty() {
        let names: Vec<_> = others.iter().map(|r| r.name).collect();
        return Err(Error::Usage(format!("nothing to predict by that name; there are {}", names.join(", "))));
    }
    if args.explain {
        for row in rows {
            print(&format!("{}: {}\n", row.name, row.plan(card)?.explain()))?;
        }
        return Ok(());
    }
    let all: Vec<_> = rows.iter().map(|r| Ok((r.name, r.predict(card)?))).collect::<Result<_>>()?;
    if args.json {
        let rows: Vec<_> =
            all.iter().map(|(n, p)| serde_json::json!({ "row": n, "prediction": p })).collect();
        let document = serde_json::json!({ "card": card, "shares": predict::SHARES, "rows": rows });
        return print(&format!("{document:#}\n"));
    }
    print(&predict::table(card, &all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Command::try_parse_from(line.split_whitespace()).map(|c| c.args)
    }

    #[test]
    fn the_command_line_is_read() {
        let a = parse("bench conv2d --vs torch --python /opt/python --seconds 0.5 --threads 2").unwrap();
        assert_eq!((a.filter.as_str(), a.device.threads, a.seconds), ("conv2d", 2, 0.5));
        assert_eq!(a.python, PathBuf::from("/opt/python"));
        assert!(a.vs.is_some() && !a.json && !a.flush);
        assert!(parse("bench --vs jax").is_err());
        assert!(parse("bench --official repos").is_err(), "--official means nothing without --vs");
    }

    #[test]
    fn nothing_to_run_is_a_usage_error() {
        let e = run(&parse("bench no_such_row").unwrap()).unwrap_err();
        assert!(matches!(&e, Error::Usage(m) if m.contains("no_such_row") && m.contains("--list")), "{e}");
        let e = run(&parse("bench linear --seconds 0").unwrap()).unwrap_err();
        assert!(matches!(&e, Error::Usage(m) if m.contains("--seconds")), "{e}");
    }

    #[test]
    fn a_missing_python_is_one_sentence() {
        let e = run(&parse("bench linear --vs torch --python /no/such/python").unwrap()).unwrap_err();
        let text = e.to_string();
        assert!(
            matches!(e, Error::Usage(_)) && text.contains("/no/such/python") && text.contains("--python"),
            "{text}"
        );
        assert!(!text.contains('\n'));
    }
}
