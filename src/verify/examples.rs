//! Networks small enough to run anywhere: those of the golden files (`tests/golden/`), which the binary
//! carries, so that a machine with a GPU needs no checkout.

use std::collections::BTreeMap;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Executable, Graph, GraphBuilder, Outputs, Plan, passes};
use crate::models::load::{self, Opened};
use crate::models::network::Given;
use crate::models::{self, Shapes};
use crate::ops::{fuse, gradients};
use crate::tensor::{DType, HostTensor};
use crate::weights::{Blob, WeightSet, safetensors};

/// A golden file, and the network in it that is run.
pub struct Source {
    file: &'static str,
    bytes: &'static [u8],
    /// The name on the command line; the file's own if empty.
    network: &'static str,
    /// Inputs that it is given; all of the file if empty.
    inputs: &'static [&'static str],
    /// Whether its training step is run too.
    trained: bool,
}

macro_rules! source {
    ($file:literal, $network:literal, $inputs:expr, $trained:expr) => {
        Source {
            file: $file,
            bytes: include_bytes!(concat!("../../tests/golden/", $file, ".safetensors")),
            network: $network,
            inputs: $inputs,
            trained: $trained,
        }
    };
}

/// All networks that are verified.
pub static SOURCES: &[Source] = &[
    source!("swinir_general_small", "", &[], true),
    source!("swinir_denoise_gray", "", &[], false),
    source!("rrdbnet_x2", "", &[], false),
    source!("srvgg_prelu_x2", "", &[], false),
    source!("vae_small", "vae-encoder", &["sample"], false),
    source!("vae_small", "vae-decoder", &["z"], true),
    source!("dit_pixart_masks", "", &[], false),
    source!("dit_dreamclear_all", "", &[], true),
    source!("t5_gated_gelu", "", &[], false),
];

impl Source {
    /// `swinir_general_small`, `vae_small/vae-decoder`.
    pub fn name(&self) -> String {
        if self.network.is_empty() { self.file.to_owned() } else { format!("{}/{}", self.file, self.network) }
    }

    /// Whether its training step is run too.
    pub fn trained(&self) -> bool {
        self.trained
    }
}

/// A network with small random weights, and one input.
pub struct Example {
    /// As [`Source::name`].
    pub name: String,
    network: String,
    config: serde_json::Value,
    model: Opened,
    inputs: BTreeMap<String, HostTensor>,
}

/// Results by name, and the kernels of the plans that made them (none on a CPU).
pub struct Results {
    /// In the graph's order.
    pub outputs: Outputs,
    /// Each name once.
    pub kernels: Vec<String>,
}

impl Example {
    /// Reads a golden file: tensors `weight.*` and `input.*`.
    pub fn open(source: &Source) -> Result<Example> {
        let name = source.name();
        let wrong = |what: String| Error::Run(format!("the golden file {}: {what}", source.file));
        let (tensors, metadata) = golden(source.bytes).map_err(wrong)?;
        let within = |prefix: &str| -> BTreeMap<String, HostTensor> {
            let strip =
                |(k, t): (&String, &HostTensor)| Some((k.strip_prefix(prefix)?.to_owned(), t.clone()));
            tensors.iter().filter_map(strip).collect()
        };
        let entry = |key: &str| metadata.get(key).ok_or_else(|| wrong(format!("has no entry `{key}`")));
        let config = serde_json::from_str(entry("config")?).map_err(|e| wrong(e.to_string()))?;
        let network = if source.network.is_empty() { entry("network")? } else { source.network };
        let floats = within("weight.").into_iter().filter(|(_, t)| t.dtype().is_float());
        let weights = WeightSet::from_tensors(floats.map(|(k, t)| (k, t.cast(DType::F32))));
        let (model, _) = load::fit_config(network, Some(&config), weights)?;
        let mut inputs = within("input.");
        inputs.retain(|k, _| source.inputs.is_empty() || source.inputs.contains(&k.as_str()));
        Ok(Example { name, network: network.to_owned(), config, model, inputs })
    }

    /// Its forward.
    pub fn forward(&self, device: &Device) -> Result<Results> {
        self.with(device, Ok, |exe, inputs| exe.run_checked(inputs))
    }

    /// The gradients of Σ dy·y, for a fixed random dy, with respect to every parameter: `grad.KEY`; beside
    /// the forward's results.
    pub fn training_step(&self, device: &Device) -> Result<Results> {
        // What `forward` of a picture network gives is fused already, and a fused graph has no gradient.
        match self.network.as_str() {
            "swinir" | "rrdbnet" | "srvgg" => self.picture_training_step(device),
            _ => self.with(device, with_gradients, |exe, inputs| exe.run_checked(inputs)),
        }
    }

    fn picture_training_step(&self, device: &Device) -> Result<Results> {
        let weights = &self.model.weights;
        let shapes: Shapes = weights.iter().map(|(k, t)| (k.to_owned(), t.shape().to_vec())).collect();
        let (network, _) = models::from_config(&self.network, &self.config, &shapes)?;
        let [n, c, h, w] = self.inputs["x"].shape()[..] else { panic!("x is NCHW") };
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [n, h, w, c])?;
        let y = network.build(&mut b, x)?;
        b.output("out", y);
        let given = [("x", recipe_tensor("x", &[n, h, w, c], 0.5, 1, -22))];
        self.execute(with_gradients(b.finish())?, &given, device, &mut |exe, inputs| exe.run_checked(inputs))
    }

    /// All graphs of a forward, each changed by `change` before it is fused, and run by `run`.
    pub fn with(
        &self,
        device: &Device,
        change: impl Fn(Graph) -> Result<Graph>,
        mut run: impl FnMut(&mut Executable, &[(&str, HostTensor)]) -> Result<Outputs>,
    ) -> Result<Results> {
        let mut all = Results { outputs: Vec::new(), kernels: Vec::new() };
        let given = Given::from_tensors(self.inputs.clone());
        self.model.network.forward(&given, &mut |graph, inputs| {
            let results = self.execute(change(graph)?, inputs, device, &mut run)?;
            all.outputs.extend(results.outputs.iter().cloned());
            all.kernels.extend(results.kernels);
            Ok(results.outputs)
        })?;
        all.kernels.sort_unstable();
        all.kernels.dedup();
        Ok(all)
    }

    /// Runs one graph. Inputs that were not given are cotangents (`dy.*`).
    fn execute(
        &self,
        mut graph: Graph,
        given: &[(&str, HostTensor)],
        device: &Device,
        run: Run,
    ) -> Result<Results> {
        passes::run(&mut graph, fuse::RULES, None)?;
        fuse::for_target(&mut graph, device)?;
        let seeds: Vec<(String, HostTensor)> = graph
            .inputs()
            .filter(|(n, _)| n.starts_with("dy."))
            .map(|(n, v)| (n.to_owned(), recipe_tensor(n, &graph.ty(v).shape, 0.0, 1, -21)))
            .collect();
        let mut inputs = given.to_vec();
        inputs.extend(seeds.iter().map(|(n, t)| (n.as_str(), t.clone())));
        let plan = Plan::new(graph, device)?;
        let mut kernels: Vec<String> =
            plan.cuda_launches()?.into_iter().flatten().map(|launch| launch.kernel).collect();
        kernels.sort_unstable();
        kernels.dedup();
        let weights = &self.model.weights;
        let mut exe = Executable::new(plan, device.clone(), |k| weights.get(k).cloned())?;
        Ok(Results { outputs: run(&mut exe, &inputs)?, kernels })
    }
}

/// A graph with `grad.KEY` for every parameter, over cotangents `dy.NAME` of its results.
fn with_gradients(graph: Graph) -> Result<Graph> {
    let outputs = graph.outputs.clone();
    let mut b = GraphBuilder::from_graph(graph);
    let mut seeds = Vec::new();
    for (name, y) in outputs {
        let shape = b.shape(y).to_vec();
        seeds.push((y, b.input(&format!("dy.{name}"), DType::F32, shape)?));
    }
    let params: Vec<_> = b.graph().params().map(|(k, v)| (k.to_owned(), v)).collect();
    let wanted: Vec<_> = params.iter().map(|p| p.1).collect();
    for ((key, _), grad) in params.iter().zip(gradients(&mut b, &seeds, &wanted)?) {
        if let Some(grad) = grad {
            b.output(&format!("grad.{key}"), grad);
        }
    }
    Ok(b.finish())
}

/// How a bound plan is run over its inputs.
type Run<'a> = &'a mut dyn FnMut(&mut Executable, &[(&str, HostTensor)]) -> Result<Outputs>;

/// The tensors of a golden file by name, and its metadata.
pub type Golden = (BTreeMap<String, HostTensor>, BTreeMap<String, String>);

/// All tensors of a golden file, those of its recipe generated, and its metadata.
pub fn golden(bytes: &[u8]) -> Result<Golden, String> {
    let (tensors, metadata) = safetensors::parse(&Blob::from(bytes.to_vec()))?;
    let mut tensors: BTreeMap<_, _> = tensors.into_iter().collect();
    if let Some(recipe) = metadata.get("recipe") {
        let entries: BTreeMap<String, (Vec<usize>, f32, i32, i32)> =
            serde_json::from_str(recipe).map_err(|e| format!("its recipe: {e}"))?;
        for (name, (shape, centre, m, e)) in entries {
            let tensor = recipe_tensor(&name, &shape, centre, m, e);
            tensors.insert(name, tensor);
        }
    }
    Ok((tensors, metadata))
}

/// The pure function of name and entry that `tools/golden/README.md` defines.
pub fn recipe_tensor(name: &str, shape: &[usize], centre: f32, m: i32, e: i32) -> HostTensor {
    let h =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let value = |i: u64| {
        let mut z = h.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let r = (z >> 42) as i32 - (1 << 21);
        centre + (m * r) as f32 * 2f32.powi(e)
    };
    let n: usize = shape.iter().product();
    HostTensor::from_f32(shape, (0..n as u64).map(value).collect())
}
