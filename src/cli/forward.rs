//! `dreamclear forward`: one network, named tensors in and out.

use std::path::PathBuf;

use super::DeviceArgs;
use crate::error::{Error, Result};
use crate::graph::{Executable, Plan, dump, passes};
use crate::models::load;
use crate::models::network::Given;
use crate::ops::fuse;
use crate::weights::safetensors;

/// Run one network on named tensors, for numerical parity with any other implementation.
///
/// Example: dreamclear forward --model swinir --config swinir.json --weights general_swinir_v1.ckpt
/// --input in.safetensors --output out.safetensors
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The network's name, as `inspect --strict` knows it; an unknown one lists them all.
    #[arg(long)]
    pub model: String,
    /// Its hyper-parameters under their official names (JSON); inferred from the weights if left out.
    #[arg(long, value_name = "C.json")]
    pub config: Option<PathBuf>,
    /// Its weights in any official container.
    #[arg(long, value_name = "PATH")]
    pub weights: PathBuf,
    /// Input tensors under the names of the official forward (`x`, `timestep`, `y`, `mask` …).
    #[arg(long, value_name = "IN.safetensors")]
    pub input: PathBuf,
    /// Where the results go.
    #[arg(long, value_name = "OUT.safetensors")]
    pub output: PathBuf,
    /// Run node by node and stop at the first result that is not finite.
    #[arg(long)]
    pub check: bool,
    /// Write the (first) graph that was run: Graphviz source if the name ends in .dot, else text.
    #[arg(long, value_name = "FILE")]
    pub dump_graph: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub device: DeviceArgs,
}

/// Runs the network once.
pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let model = load::open(&args.model, args.config.as_deref(), &args.weights)?;
    let given = Given::open(&args.input)?;
    let mut graphs = 0;
    let outputs = model.network.forward(&given, &mut |mut graph, inputs| {
        passes::run(&mut graph, fuse::RULES, None)?;
        fuse::for_target(&mut graph, &device)?;
        passes::keep_stored(&mut graph, |key| model.weights.get(key).map(|t| t.dtype()));
        if let (Some(path), 0) = (&args.dump_graph, graphs) {
            let dot = path.extension().is_some_and(|e| e == "dot");
            let text = if dot { dump::dot(&graph) } else { dump::text(&graph) };
            std::fs::write(path, text).map_err(|e| Error::io("write", path, e))?;
        }
        graphs += 1;
        let plan = Plan::new(graph, &device)?;
        let mut exe = Executable::new(plan, device.clone(), |key| model.weights.get(key).cloned())?;
        if args.check { exe.run_checked(inputs) } else { exe.run(inputs) }
    })?;
    safetensors::write(&args.output, outputs.iter().map(|(n, t)| (n.as_str(), t)), &Default::default(), None)
}
