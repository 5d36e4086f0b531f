//! Whole networks on the simulated CUDA device against the CPU: forward, and every gradient of a training
//! step. The networks are the small ones of the golden files.
#![cfg(not(windows))]

use std::collections::BTreeMap;
use std::path::Path;

use dreamclear::device::Device;
use dreamclear::device::sim::Simulator;
use dreamclear::graph::{Executable, Graph, GraphBuilder, Plan, passes};
use dreamclear::models::network::Given;
use dreamclear::models::{self, Shapes, load};
use dreamclear::ops::{fuse, gradients};
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::weights::WeightSet;

mod support;

use support::relative;

/// A network with small random weights, and one input.
struct Example {
    name: String,
    model: load::Opened,
    given: Given,
}

impl Example {
    /// From a golden file: tensors `weight.*` and, if `inputs` is empty, `input.*`.
    fn open(file: &str, network: &str, inputs: &[&str]) -> Example {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{file}.safetensors"));
        let (tensors, metadata) = support::golden(&path);
        let config = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&config, &metadata["config"]).unwrap();
        let within = |prefix: &str| -> BTreeMap<String, HostTensor> {
            let strip = |(k, t): (&String, &HostTensor)| {
                Some((k.strip_prefix(prefix)?.to_owned(), t.cast(DType::F32)))
            };
            tensors.iter().filter(|(_, t)| t.dtype().is_float()).filter_map(strip).collect()
        };
        let network = if network.is_empty() { &metadata["network"] } else { network };
        let model = load::fit(network, Some(config.path()), WeightSet::from_tensors(within("weight.")))
            .unwrap_or_else(|e| panic!("{file}: {e}"));
        let given =
            tensors.iter().filter_map(|(k, t)| Some((k.strip_prefix("input.")?.to_owned(), t.clone())));
        let given = given.filter(|(k, _)| inputs.is_empty() || inputs.contains(&k.as_str()));
        Example { name: format!("{file} {network}"), model, given: Given::from_tensors(given) }
    }

    /// All results, with the graph changed by `change` before it is fused and run.
    fn run(&self, device: &Device, change: impl Fn(Graph) -> Graph) -> Vec<(String, HostTensor)> {
        let mut all = Vec::new();
        let weights = &self.model.weights;
        let forward = self.model.network.forward(&self.given, &mut |graph, inputs| {
            let before: Vec<String> = graph.inputs().map(|(n, _)| n.to_owned()).collect();
            let mut graph = change(graph);
            passes::run(&mut graph, fuse::RULES, None)?;
            // What a change asks for besides: cotangents.
            let mut inputs = inputs.to_vec();
            let more: Vec<_> = graph
                .inputs()
                .filter(|(n, _)| !before.iter().any(|b| b == n))
                .map(|(n, v)| (n.to_owned(), support::recipe_tensor(n, &graph.ty(v).shape, 0.0, 1, -21)))
                .collect();
            inputs.extend(more.iter().map(|(n, t)| (n.as_str(), t.clone())));
            let plan = Plan::new(graph, device)?;
            let mut exe = Executable::new(plan, device.clone(), |k| weights.get(k).cloned())?;
            let out = exe.run_checked(&inputs)?;
            all.extend(out.iter().cloned());
            Ok(out)
        });
        forward.unwrap_or_else(|e| panic!("{}: {e}", self.name));
        all
    }
}

fn examples() -> Vec<Example> {
    [
        ("swinir_general_small", "swinir", [].as_slice()),
        ("swinir_denoise_gray", "swinir", &[]),
        ("rrdbnet_x2", "rrdbnet", &[]),
        ("srvgg_prelu_x2", "srvgg", &[]),
        ("vae_small", "vae-encoder", &["sample"]),
        ("vae_small", "vae-decoder", &["z"]),
        ("dit_pixart_masks", "", &[]),
        ("dit_dreamclear_all", "", &[]),
        ("t5_gated_gelu", "t5-encoder", &[]),
    ]
    .into_iter()
    .map(|(file, network, inputs)| Example::open(file, network, inputs))
    .collect()
}

/// The simulated device, unless this build has none.
fn sim(compute: DType) -> Option<Device> {
    if let Err(why) = Simulator::new() {
        eprintln!("skipped: {why}");
        return None;
    }
    Some(Device::sim(2, compute).unwrap())
}

/// Compares all results of all examples; relative L2 error at most `bar`.
fn compare(compute: DType, bar: f64) {
    let Some(device) = sim(compute) else { return };
    let cpu = Device::cpu(2).unwrap();
    let mut failures = Vec::new();
    for example in examples() {
        let want = example.run(&cpu, |g| g);
        let got = example.run(&device, |g| g);
        for ((name, got), (_, want)) in got.iter().zip(&want) {
            let error = relative(got, want);
            println!("{:40} {name:12} {compute}: relative L2 {error:.2e}", example.name);
            if !(error <= bar) {
                failures.push(format!("{} {name}: relative L2 {error:.3e} > {bar:.0e}", example.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn networks_equal_the_cpu_in_f32() {
    compare(DType::F32, 1e-5);
}

/// A step of rounding to bf16 is 2⁻⁹; these networks round some dozens of times on the way.
#[test]
fn networks_are_near_the_cpu_in_bf16() {
    compare(DType::BF16, 16.0 * 2f64.powi(-9));
}

#[test]
fn networks_are_near_the_cpu_in_f16() {
    compare(DType::F16, 16.0 * 2f64.powi(-12));
}

/// The gradients of Σ dy·y, for a fixed random dy, with respect to every parameter and float input.
fn with_gradients(graph: Graph) -> Graph {
    let outputs = graph.outputs.clone();
    let mut b = GraphBuilder::from_graph(graph);
    let seeds: Vec<_> = outputs
        .iter()
        .map(|(name, y)| {
            let shape = b.shape(*y).to_vec();
            (*y, b.input(&format!("dy.{name}"), DType::F32, shape).unwrap())
        })
        .collect();
    let params: Vec<_> = b.graph().params().map(|(k, v)| (k.to_owned(), v)).collect();
    let wrt: Vec<_> = params.iter().map(|p| p.1).collect();
    let grads = gradients(&mut b, &seeds, &wrt).unwrap();
    for ((key, _), grad) in params.iter().zip(grads) {
        if let Some(grad) = grad {
            b.output(&format!("grad.{key}"), grad);
        }
    }
    b.finish()
}

/// A picture network's plain graph: what `forward` gives is fused already.
fn picture_graph(file: &str, architecture: &str) -> (Graph, WeightSet, HostTensor) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{file}.safetensors"));
    let (tensors, metadata) = support::golden(&path);
    let strip =
        |(k, t): (&String, &HostTensor)| Some((k.strip_prefix("weight.")?.to_owned(), t.cast(DType::F32)));
    let floats = tensors.iter().filter(|(_, t)| t.dtype().is_float());
    let weights: BTreeMap<String, HostTensor> = floats.filter_map(strip).collect();
    let shapes: Shapes = weights.iter().map(|(k, t)| (k.clone(), t.shape().to_vec())).collect();
    let config = serde_json::from_str(&metadata["config"]).unwrap();
    let (network, _) = models::from_config(architecture, &config, &shapes).unwrap();
    let [n, c, h, w] = tensors["input.x"].shape()[..] else { panic!("x is NCHW") };
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [n, h, w, c]).unwrap();
    let y = network.build(&mut b, x).unwrap();
    b.output("out", y);
    (b.finish(), WeightSet::from_tensors(weights), support::recipe_tensor("x", &[n, h, w, c], 0.5, 1, -22))
}

/// All gradients on both devices: relative L2 at most 1e-4 each.
fn compare_gradients(name: &str, want: &[(String, HostTensor)], got: &[(String, HostTensor)]) {
    assert_eq!(want.len(), got.len());
    let grads = want.iter().filter(|(n, _)| n.starts_with("grad.")).count();
    assert!(grads > 20, "{name}: {grads} gradients");
    let mut worst = (0.0, String::new());
    for ((key, got), (_, want)) in got.iter().zip(want) {
        // A gradient that is zero but for rounding (a bias before a norm) has no relative error.
        let norm = want.to_f64().iter().map(|x| x * x).sum::<f64>().sqrt();
        let error = relative(got, want);
        let ok = error <= 1e-4 || norm <= 1e-6;
        assert!(ok, "{name} {key}: relative L2 {error:.3e} (norm {norm:.1e})");
        if norm > 1e-6 && error > worst.0 {
            worst = (error, key.clone());
        }
    }
    println!("{name:40} {grads} gradients, worst relative L2 {:.2e} ({})", worst.0, worst.1);
}

#[test]
fn gradients_of_a_training_step_equal_the_cpu() {
    let Some(device) = sim(DType::F32) else { return };
    let cpu = Device::cpu(2).unwrap();
    for (file, network, inputs) in
        [("dit_dreamclear_all", "", [].as_slice()), ("vae_small", "vae-decoder", &["z"])]
    {
        let example = Example::open(file, network, inputs);
        compare_gradients(
            &example.name,
            &example.run(&cpu, with_gradients),
            &example.run(&device, with_gradients),
        );
    }
}

#[test]
fn gradients_of_swinir_equal_the_cpu() {
    let Some(device) = sim(DType::F32) else { return };
    let (graph, weights, x) = picture_graph("swinir_general_small", "swinir");
    let mut graph = with_gradients(graph);
    passes::run(&mut graph, fuse::RULES, None).unwrap();
    let run = |device: &Device| {
        let plan = Plan::new(graph.clone(), device).unwrap();
        let mut exe = Executable::new(plan, device.clone(), |k| weights.get(k).cloned()).unwrap();
        let shape =
            exe.graph().inputs().find(|(n, _)| *n == "dy.out").map(|(_, v)| exe.graph().ty(v).shape.clone());
        let dy = support::recipe_tensor("dy.out", &shape.unwrap(), 0.0, 1, -21);
        exe.run_checked(&[("x", x.clone()), ("dy.out", dy)]).unwrap()
    };
    compare_gradients("swinir_general_small", &run(&Device::cpu(2).unwrap()), &run(&device));
}
