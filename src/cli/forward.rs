//! `dreamclear forward`: one network, named tensors in and out.

use std::path::PathBuf;

use super::DeviceArgs;
use crate::error::{Error, Result};
use crate::graph::{Executable, Plan};
use crate::models::load;
use crate::weights::{WeightSet, safetensors};

/// Run one network on named tensors, for numerical parity with any other implementation.
///
/// Example: dreamclear forward --model swinir --config swinir.json --weights general_swinir_v1.ckpt
/// --input in.safetensors --output out.safetensors
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The network: swinir, rrdbnet or srvgg.
    #[arg(long)]
    pub model: String,
    /// Its hyper-parameters under their official names (JSON); inferred from the weights if left out.
    #[arg(long, value_name = "C.json")]
    pub config: Option<PathBuf>,
    /// Its weights in any official container.
    #[arg(long, value_name = "PATH")]
    pub weights: PathBuf,
    /// Input tensors: `x` as [B, C, H, W], values in 0..1.
    #[arg(long, value_name = "IN.safetensors")]
    pub input: PathBuf,
    /// Where the result `out` goes.
    #[arg(long, value_name = "OUT.safetensors")]
    pub output: PathBuf,
    /// Run node by node and stop at the first result that is not finite.
    #[arg(long)]
    pub check: bool,
    /// Write the graph that was run: Graphviz source if the name ends in .dot, else text.
    #[arg(long, value_name = "FILE")]
    pub dump_graph: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
}

/// Runs the network once.
pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let model = load::network(&args.model, args.config.as_deref(), &args.weights)?;
    let input = WeightSet::open(&args.input)?;
    let x = input.get("x").ok_or_else(|| {
        let names: Vec<_> = input.names().collect();
        Error::file(&args.input, format!("expected a tensor \"x\", found {}", names.join(", ")))
    })?;
    let [batch, channels, height, width] = x.shape()[..] else {
        return Err(Error::file(&args.input, format!("\"x\" must be [B, C, H, W], found {:?}", x.shape())));
    };
    if channels != model.network.channels() {
        let wanted = model.network.channels();
        return Err(Error::file(&args.input, format!("\"x\" must have {wanted} channels, found {channels}")));
    }
    let graph = model.network.graph(batch, height, width, true)?;
    model.check(&graph)?;
    if let Some(path) = &args.dump_graph {
        let dot = path.extension().is_some_and(|e| e == "dot");
        let text = if dot { crate::graph::dump::dot(&graph) } else { crate::graph::dump::text(&graph) };
        std::fs::write(path, text).map_err(|e| Error::io("write", path, e))?;
    }
    let plan = Plan::new(graph, device.threads())?;
    let mut exe = Executable::new(plan, device, |key| model.weights.get(key).cloned())?;
    let inputs = [("x", x.clone())];
    let outputs = if args.check { exe.run_checked(&inputs)? } else { exe.run(&inputs)? };
    safetensors::write(&args.output, outputs.iter().map(|(n, t)| (n.as_str(), t)), &Default::default(), None)
}
