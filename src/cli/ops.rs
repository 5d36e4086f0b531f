//! `dreamclear ops`: the op registry.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::device::kernel::DeviceFacts;
use crate::error::Result;
use crate::graph::{Gradient, GradientContext, GraphBuilder, ValueId};
use crate::ops::{Case, OpEntry, check_cuda, registry};
use crate::tensor::DType;

/// List the engine's operations: what each does, its gradient, devices and cases.
///
/// Example: dreamclear ops
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

struct Row {
    entry: &'static OpEntry,
    gradient: String,
    /// Compute types for which the first case has kernels.
    cuda: Vec<DType>,
    /// Architectures of cards on which all kernels of the first case gave the right numbers.
    hardware: Vec<String>,
    tests: usize,
    benches: usize,
}

/// Prints the registry.
pub fn run(args: &Args) -> Result<()> {
    let proven = Hardware::known();
    let rows: Vec<Row> = registry()
        .map(|entry| {
            let cases = (entry.cases)();
            let benches = cases.iter().filter(|c| c.bench).count();
            let first = cases.iter().find(|c| !c.bench).unwrap_or(&cases[0]);
            let hardware = proven.of(first);
            Row {
                entry,
                gradient: gradient(first),
                cuda: cuda(first),
                hardware,
                tests: cases.len() - benches,
                benches,
            }
        })
        .collect();
    let text = if args.json {
        let list: Vec<_> = rows
            .iter()
            .map(|r| {
                json!({
                    "op": r.entry.name,
                    "about": r.entry.about,
                    "gradient": r.gradient,
                    "cpu": true,
                    "cuda": r.cuda.iter().map(|d| d.name()).collect::<Vec<_>>(),
                    "proven_in_simulator": !r.cuda.is_empty(),
                    "verified_on_hardware": r.hardware,
                    "test_cases": r.tests,
                    "bench_cases": r.benches,
                })
            })
            .collect();
        format!("{:#}\n", json!({ "ops": list }))
    } else {
        let mut text = format!(
            "{:<22} {:<10} {:<4} {:<12} {:>5} {:>7}  about\n",
            "op", "gradient", "cpu", "cuda", "tests", "benches"
        );
        for r in &rows {
            let short = if r.gradient == "rule" { "rule" } else { "none" };
            let cuda = r.cuda.iter().map(|d| d.name()).collect::<Vec<_>>().join(",");
            let cuda = if cuda.is_empty() { "-" } else { &cuda };
            text += &format!(
                "{:<22} {:<10} {:<4} {cuda:<12} {:>5} {:>7}  {}\n",
                r.entry.name, short, "yes", r.tests, r.benches, r.entry.about
            );
        }
        text += "CUDA kernels are proven in the simulator; what has run on hardware: docs/verification.md.\n";
        text
    };
    super::print(&text)
}

/// What is known from cards: the committed results of `tools/verify-gpu`.
struct Hardware(BTreeMap<String, BTreeSet<String>>);

impl Hardware {
    fn known() -> Self {
        let json: serde_json::Value = serde_json::from_str(include_str!("../../docs/verification.json"))
            .expect("docs/verification.json is written by tools/verification-report");
        let places = json.as_object().into_iter().flatten().filter(|(place, _)| place.starts_with("sm_"));
        let passed = |part: &serde_json::Value| {
            part["rows"].as_u64() > Some(0) && part["failed"].as_u64().unwrap_or(0) == 0
        };
        let kernels = |known: &serde_json::Value| {
            let all = known["kernels"].as_object().into_iter().flatten();
            all.filter(|(_, parts)| passed(&parts["ops"])).map(|(name, _)| name.clone()).collect()
        };
        Hardware(places.map(|(place, known)| (place.clone(), kernels(known))).collect())
    }

    /// The architectures on which every kernel that `case` launches there has passed.
    fn of(&self, case: &Case) -> Vec<String> {
        let all = |place: &str, passed: &BTreeSet<String>| {
            let facts = if place == "sm_90" { DeviceFacts::H100 } else { DeviceFacts::A100 };
            let launches = check_cuda::storages(case)
                .into_iter()
                .filter_map(|s| check_cuda::launches(case, &s, facts).ok())
                .flatten();
            let mut kernels = launches.map(|l| l.kernel).peekable();
            kernels.peek().is_some() && kernels.all(|k| passed.contains(&*k))
        };
        self.0.iter().filter(|(place, passed)| all(place, passed)).map(|(place, _)| place.clone()).collect()
    }
}

/// The compute types in which a plan may keep this case's operands, as far as there are kernels for them.
fn cuda(case: &Case) -> Vec<DType> {
    let found = check_cuda::storages(case)
        .into_iter()
        .filter(|s| check_cuda::launches(case, s, DeviceFacts::A100).is_ok());
    let mut types: Vec<_> = found
        .flat_map(|s| s.inputs.into_iter().chain(s.outputs))
        .filter(|d| check_cuda::COMPUTE.contains(d))
        .collect();
    types.sort_by_key(|d| check_cuda::COMPUTE.iter().position(|c| c == d));
    types.dedup();
    types
}

/// `rule`, or why there is none.
fn gradient(case: &Case) -> String {
    let probe = || -> Result<String> {
        let mut b = GraphBuilder::new();
        let xs: Vec<ValueId> = case
            .inputs
            .iter()
            .enumerate()
            .map(|(k, i)| b.input(&format!("x{k}"), i.ty.dtype, i.ty.shape.clone()))
            .collect::<Result<_>>()?;
        let ys = b.node_dyn(case.op.clone(), &xs)?;
        let d_outputs = ys
            .iter()
            .enumerate()
            .map(|(k, &y)| {
                let shape = b.shape(y).to_vec();
                b.input(&format!("dy{k}"), DType::F32, shape).map(Some)
            })
            .collect::<Result<Vec<_>>>()?;
        let wanted: Vec<_> = xs.iter().map(|&x| b.ty(x).dtype.is_float()).collect();
        let context = &mut GradientContext {
            b: &mut b,
            inputs: &xs,
            outputs: &ys,
            d_outputs: &d_outputs,
            wanted: &wanted,
        };
        Ok(match case.op.gradient(context)? {
            Gradient::Inputs(_) => "rule".to_owned(),
            Gradient::NotDifferentiable(why) => why.to_owned(),
        })
    };
    probe().unwrap_or_else(|e| e.to_string())
}
