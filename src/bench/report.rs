//! The result of a bench: a table for people, a document for programs, the same numbers.

use std::fmt::Write;

use super::duel::{Outcome, Versus};
use super::machine::Machine;
use super::measure::Stats;
use super::roofline::Roofline;
use super::torch::Info;
use super::work::{Kind, Row};
use crate::graph::Cost;

/// Version of the JSON document; raised when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// Relative distance of two f32 results from which on they do not agree.
const DISAGREES: f64 = 1e-4;

/// Everything that was measured, and on what.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of this program.
    pub version: &'static str,
    /// The machine.
    pub machine: Machine,
    /// Threads that were used.
    pub threads: usize,
    /// What the machine can do at most.
    pub roofs: Roofline,
    /// The other side, if there was one.
    pub torch: Option<Info>,
    /// One entry a row.
    pub rows: Vec<RowReport>,
    /// Doubts about the numbers, as sentences.
    pub warnings: Vec<String>,
}

/// One row.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RowReport {
    /// `op/case` or the model's name.
    pub name: String,
    /// Op or model.
    pub kind: Kind,
    /// Floating-point operations of one run.
    pub flops: f64,
    /// Compulsory bytes of one run: every operand read once, every result written once.
    pub bytes: f64,
    /// Our times.
    pub seconds: Stats,
    /// Operations per second at the median.
    pub flops_per_second: f64,
    /// Compulsory bytes per second at the median.
    pub bytes_per_second: f64,
    /// The least possible time by the roofs, over the median time.
    pub share_of_roofline: f64,
    /// The lower roof: `compute` or `memory`.
    pub bound: &'static str,
    /// Whether the samples scatter widely.
    pub noisy: bool,
    /// PyTorch on the same work.
    pub torch: Option<Versus>,
}

impl Report {
    /// A report without rows.
    pub fn new(machine: Machine, threads: usize, roofs: Roofline, torch: Option<Info>) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let mut warnings = Vec::new();
        if let Some(load) = machine.load.filter(|&load| load > 0.5) {
            warnings.push(format!(
                "the machine was not idle (load {load:.1} on {} processors); above all, threads that wait for \
                 each other are held up, here and in PyTorch",
                machine.cpus
            ));
        }
        Report { schema: SCHEMA, version, machine, threads, roofs, torch, rows: Vec::new(), warnings }
    }

    /// Adds a row and what is doubtful about it.
    pub fn add(&mut self, row: &Row, cost: Cost, outcome: Outcome) {
        let seconds = Stats::of(&outcome.times);
        let name = row.name();
        if seconds.noisy() {
            self.warnings.push(format!(
                "{name}: the samples scatter by {:.0} %; close other programs, or give it more time with --seconds",
                100.0 * seconds.spread
            ));
        }
        match &outcome.versus {
            Some(Versus::Measured { relative_l2, .. }) if !(*relative_l2 <= DISAGREES) => {
                self.warnings.push(format!(
                    "{name}: the results differ by {relative_l2:.1e}; the ratio compares different things"
                ));
            }
            Some(Versus::Absent(why)) => self.warnings.push(format!("{name}: not compared: {why}")),
            _ => {}
        }
        self.rows.push(RowReport {
            kind: row.kind(),
            flops: cost.flops,
            bytes: cost.bytes,
            flops_per_second: cost.flops / seconds.median,
            bytes_per_second: cost.bytes / seconds.median,
            share_of_roofline: self.roofs.least_seconds(cost) / seconds.median,
            bound: self.roofs.bound(cost),
            noisy: seconds.noisy(),
            torch: outcome.versus,
            seconds,
            name,
        });
    }

    /// One JSON document.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report holds plain numbers and text") + "\n"
    }

    /// What the numbers were measured on, as lines of text.
    pub fn header(&self) -> String {
        let (m, r) = (&self.machine, &self.roofs);
        let mut text = format!(
            "dreamclear {} on {} ({} threads of {}, {}, {}), {}\n",
            self.version, m.cpu, self.threads, m.cpus, m.simd, m.platform, m.date
        );
        let _ = writeln!(
            text,
            "roofs: copy {:.1} GB/s, multiply-adds {:.0} GFLOP/s; largest matrix product {:.0} GFLOP/s",
            r.copy_bytes_per_second / 1e9,
            r.fma_flops_per_second / 1e9,
            r.matmul_flops_per_second / 1e9
        );
        if let Some(t) = &self.torch {
            let _ = writeln!(
                text,
                "against PyTorch {} (Python {}), {} threads; a ratio above 1 means that we are faster",
                t.torch, t.python, t.threads
            );
        }
        text
    }

    /// The head of the table; `width` is that of the longest name.
    pub fn columns(&self, width: usize) -> String {
        let mut text = format!(
            "{:<width$}  {:>10}  {:>10}  {:>8}  {:>8}  {:>6}  {:<7}",
            "row", "median", "min", "GFLOP/s", "GB/s", "roof", "bound"
        );
        if self.torch.is_some() {
            let _ = write!(text, "  {:>10}  {:>5}  {:>11}  {:>7}", "torch", "ratio", "min..max", "differs");
        }
        text.trim_end().to_owned() + "\n"
    }

    /// The table's line of a row.
    pub fn line(&self, row: &RowReport, width: usize) -> String {
        let mut text = format!(
            "{:<width$}  {:>10}  {:>10}  {:>8.1}  {:>8.1}  {:>5.0}%  {:<7}",
            row.name,
            duration(row.seconds.median) + if row.noisy { "~" } else { " " },
            duration(row.seconds.min),
            row.flops_per_second / 1e9,
            row.bytes_per_second / 1e9,
            100.0 * row.share_of_roofline,
            row.bound
        );
        match &row.torch {
            Some(Versus::Measured { seconds, ratio, ratio_min, ratio_max, relative_l2, .. }) => {
                let range = format!("{ratio_min:.2}..{ratio_max:.2}");
                let _ = write!(
                    text,
                    "  {:>10}  {ratio:>5.2}  {range:>11}  {relative_l2:>7.0e}",
                    duration(*seconds)
                );
            }
            Some(Versus::Absent(_)) => {
                let _ = write!(text, "  {:>10}", "-");
            }
            None => {}
        }
        text.trim_end().to_owned() + "\n"
    }

    /// The warnings, one a line.
    pub fn footer(&self) -> String {
        let mut text = String::new();
        for w in &self.warnings {
            let _ = writeln!(text, "warning: {w}");
        }
        text
    }
}

/// A time with three digits and its unit.
fn duration(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::work::rows;

    fn report(versus: Option<Versus>) -> Report {
        report_under(versus, None)
    }

    fn report_under(versus: Option<Versus>, load: Option<f64>) -> Report {
        let machine = Machine {
            cpu: "Test CPU".into(),
            platform: "x86_64-linux".into(),
            cpus: 4,
            simd: "avx2",
            load,
            l3_bytes: 1 << 25,
            date: "2025-01-31T12:00:00Z".into(),
        };
        let roofs = Roofline {
            copy_bytes_per_second: 1e10,
            fma_flops_per_second: 1e11,
            matmul_flops_per_second: 8e10,
        };
        let info = Info { torch: "2.0".into(), python: "3.12".into(), threads: 2 };
        let mut r = Report::new(machine, 2, roofs, versus.as_ref().map(|_| info));
        let row = rows().into_iter().find(|r| r.name() == "linear/pixart_mlp_fc1").unwrap();
        let times = vec![0.02, 0.02, 0.025];
        r.add(&row, Cost { flops: 1e9, bytes: 5e7 }, Outcome { times, versus });
        r
    }

    fn keys(v: &serde_json::Value) -> Vec<&str> {
        v.as_object().unwrap().keys().map(String::as_str).collect()
    }

    /// Programs read these names; a change here is a change of [`SCHEMA`].
    #[test]
    fn the_document_keeps_its_fields() {
        let versus = Versus::Measured {
            seconds: 0.03,
            ratio: 1.5,
            ratio_min: 1.4,
            ratio_max: 1.6,
            pairs: 7,
            relative_l2: 1e-7,
        };
        let json: serde_json::Value = serde_json::from_str(&report(Some(versus)).to_json()).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(
            keys(&json),
            ["schema", "version", "machine", "threads", "roofs", "torch", "rows", "warnings"]
        );
        assert_eq!(keys(&json["machine"]), ["cpu", "platform", "cpus", "simd", "load", "l3_bytes", "date"]);
        assert_eq!(
            keys(&json["roofs"]),
            ["copy_bytes_per_second", "fma_flops_per_second", "matmul_flops_per_second"]
        );
        assert_eq!(keys(&json["torch"]), ["torch", "python", "threads"]);
        let row = &json["rows"][0];
        let expected = "name kind flops bytes seconds flops_per_second bytes_per_second share_of_roofline bound noisy torch";
        assert_eq!(keys(row).join(" "), expected);
        assert_eq!(keys(&row["seconds"]), ["median", "min", "spread", "samples"]);
        assert_eq!(
            keys(&row["torch"]["measured"]),
            ["seconds", "ratio", "ratio_min", "ratio_max", "pairs", "relative_l2"]
        );
        assert_eq!((&row["kind"], &row["bound"]), (&"op".into(), &"compute".into()));
        // 1e9 FLOP at 1e11 need 10 ms, half of 20; the bytes need 5 ms.
        assert_eq!(row["share_of_roofline"], 0.5);
    }

    #[test]
    fn doubts_become_warnings() {
        let calm = report(None);
        assert!(
            calm.warnings.len() == 1 && calm.warnings[0].contains("scatter by 12 %"),
            "{:?}",
            calm.warnings
        );
        assert!(report_under(None, Some(0.1)).warnings == calm.warnings);
        assert!(report_under(None, Some(3.0)).warnings[0].contains("load 3.0 on 4"));
        let wrong = Versus::Measured {
            seconds: 0.03,
            ratio: 1.5,
            ratio_min: 1.4,
            ratio_max: 1.6,
            pairs: 7,
            relative_l2: f64::NAN,
        };
        assert!(report(Some(wrong)).footer().contains("compares different things"));
        assert!(
            report(Some(Versus::Absent("no such op".into()))).footer().contains("not compared: no such op")
        );
    }

    #[test]
    fn columns_line_up() {
        let versus = Versus::Measured {
            seconds: 0.03,
            ratio: 1.5,
            ratio_min: 1.4,
            ratio_max: 1.6,
            pairs: 7,
            relative_l2: 1e-7,
        };
        let r = report(Some(versus));
        let width = 24;
        let (head, line) = (r.columns(width), r.line(&r.rows[0], width));
        assert_eq!(head.trim_end().chars().count(), line.trim_end().chars().count(), "\n{head}{line}");
        assert!(line.contains("20.0 ms~") && line.contains("50%") && line.contains("1.40..1.60"), "{line}");
    }

    #[test]
    fn times_have_three_digits() {
        let all = [1.2345, 0.99996, 0.0123, 1e-3, 9.996e-5, 4e-7].map(duration);
        assert_eq!(all, ["1.23 s", "1000 ms", "12.3 ms", "1.00 ms", "100 µs", "0.40 µs"]);
    }
}
