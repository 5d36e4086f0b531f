//! Networks against the official PyTorch modules, on the golden files that
//! `tools/golden/{swinir,rrdbnet,srvgg}.py` wrote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dreamclear::device::cpu::CpuDevice;
use dreamclear::graph::{Executable, Plan};
use dreamclear::models::{self, Shapes};
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::weights::WeightSet;

mod support;

use support::recipe_tensor;

/// The bar of issue 2; each file also says how far the official f32 run is from f64.
const TOLERANCE: f64 = 1e-5;

/// One golden file: tensors by name, generated where the file holds only a recipe.
struct Golden {
    name: String,
    tensors: BTreeMap<String, HostTensor>,
    metadata: BTreeMap<String, String>,
}

impl Golden {
    fn open(path: &Path) -> Golden {
        let set = WeightSet::open(path).unwrap_or_else(|e| panic!("{e}"));
        let metadata = set.metadata().clone();
        let mut tensors: BTreeMap<_, _> =
            set.iter().map(|(k, t)| (k.to_owned(), t.cast(DType::F32))).collect();
        if let Some(recipe) = metadata.get("recipe") {
            let entries: BTreeMap<String, (Vec<usize>, f32, i32, i32)> =
                serde_json::from_str(recipe).expect("recipe");
            for (name, (shape, centre, m, e)) in entries {
                tensors.insert(name.clone(), recipe_tensor(&name, &shape, centre, m, e));
            }
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Golden { name, tensors, metadata }
    }

    fn weights(&self) -> impl Iterator<Item = (&str, &HostTensor)> {
        self.tensors.iter().filter_map(|(k, t)| k.strip_prefix("weight.").map(|k| (k, t)))
    }
}

#[test]
fn recipe_gives_the_published_bits() {
    let bits = |name: &str, shape: &[usize], centre, m, e| -> Vec<u32> {
        recipe_tensor(name, shape, centre, m, e).to_f32()[..4].iter().map(|x| x.to_bits()).collect()
    };
    assert_eq!(
        bits("input.x", &[1, 3, 24, 20], 0.5, 1, -22),
        [0x3f261dc8, 0x3ee7c140, 0x3f309bc8, 0x3e2b37b0]
    );
    assert_eq!(
        bits("weight.norm.bias", &[180], 0.0, 1, -24),
        [0xbdb18c08, 0x3bd73c80, 0xbdedc4e0, 0xbca19ce0]
    );
}

fn goldens(network: &str) -> Vec<Golden> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let of_network = |p: &&PathBuf| {
        let name = p.file_name().unwrap().to_string_lossy();
        name.starts_with(&format!("{network}_")) && name.ends_with(".safetensors")
    };
    let all: Vec<_> = paths.iter().filter(of_network).map(|p| Golden::open(p)).collect();
    assert!(!all.is_empty(), "no golden files of {network}");
    all
}

fn relative_l2(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(want).map(|(&g, &w)| square(g as f64 - w as f64)).sum();
    let norm: f64 = want.iter().map(|&w| square(w as f64)).sum();
    (error / norm).sqrt()
}

/// Runs one golden through graph, fusion, plan and the fast CPU path.
fn run(golden: &Golden, network: &dyn models::ImageNetwork) -> (Vec<usize>, Vec<f32>) {
    let x = &golden.tensors["input.x"];
    let [b, _, h, w] = x.shape()[..] else { panic!("x is NCHW") };
    let graph = network.graph(b, h, w, true).unwrap_or_else(|e| panic!("{}: {e}", golden.name));
    let set = WeightSet::from_tensors(golden.weights().map(|(k, t)| (network.rename(k), t.clone())));
    let shapes = graph.param_shapes();
    set.check(shapes.iter().map(|(k, s)| (k.as_str(), s.as_slice())), |k| network.ignores(k))
        .unwrap_or_else(|e| panic!("{}: {e}", golden.name));
    let device = Arc::new(CpuDevice::new(2).unwrap());
    let plan = Plan::new(graph, 2).unwrap();
    let mut exe = Executable::new(plan, device, |k| set.get(k).cloned()).unwrap();
    let out = exe.run_checked(&[("x", x.clone())]).unwrap_or_else(|e| panic!("{}: {e}", golden.name));
    assert_eq!(out[0].0, "out");
    (out[0].1.shape().to_vec(), out[0].1.to_f32().into_owned())
}

fn parity(architecture: &str) {
    let mut failures = Vec::new();
    for golden in goldens(architecture) {
        let shapes: Shapes = golden.weights().map(|(k, t)| (k.to_owned(), t.shape().to_vec())).collect();
        let config = serde_json::from_str(&golden.metadata["config"]).expect("config");
        let (network, _) = models::from_config(architecture, &config, &shapes)
            .unwrap_or_else(|e| panic!("{}: {e}", golden.name));
        let (shape, got) = run(&golden, &*network);
        let want = &golden.tensors["out"];
        assert_eq!(shape, want.shape(), "{}", golden.name);
        let error = relative_l2(&got, &want.to_f32());
        let noise = &golden.metadata["f32_noise"];
        println!("{:28} relative L2 {error:.2e} (official f32 against f64: {noise})", golden.name);
        if !(error <= TOLERANCE) {
            failures.push(format!("{}: relative L2 {error:.3e} > {TOLERANCE:.0e}", golden.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn swinir_equals_the_official_modules() {
    parity("swinir");
}

#[test]
fn rrdbnet_equals_the_official_modules() {
    parity("rrdbnet");
}

#[test]
fn srvgg_equals_the_official_modules() {
    parity("srvgg");
}

/// Without a configuration the shapes alone give the same network, where they can.
#[test]
fn hyper_parameters_are_inferred_from_weights() {
    for architecture in models::ARCHITECTURES {
        for golden in goldens(architecture) {
            let shapes: Shapes = golden.weights().map(|(k, t)| (k.to_owned(), t.shape().to_vec())).collect();
            let inferred = match models::infer(&shapes) {
                Ok(network) => network,
                // ReLU and LeakyReLU leave no trace in an SRVGG file.
                Err(e) if architecture == "srvgg" && !shapes.contains_key("body.1.weight") => {
                    assert!(e.to_string().contains("--config"), "{e}");
                    continue;
                }
                Err(e) => panic!("{}: {e}", golden.name),
            };
            assert_eq!(inferred.architecture(), architecture, "{}", golden.name);
            // A training size no larger than a window turns shifts off; the file does not say so.
            if ["swinir_one_window", "swinir_general_batch"].contains(&golden.name.as_str()) {
                continue;
            }
            let (_, got) = run(&golden, &*inferred);
            let error = relative_l2(&got, &golden.tensors["out"].to_f32());
            assert!(error <= TOLERANCE, "{}: relative L2 {error:.3e} from {:?}", golden.name, inferred);
        }
    }
}

/// Every parameter of every network gets a gradient.
#[test]
fn every_parameter_receives_a_gradient() {
    for architecture in models::ARCHITECTURES {
        for golden in goldens(architecture) {
            if golden.name.contains("full") {
                continue;
            }
            let shapes: Shapes = golden.weights().map(|(k, t)| (k.to_owned(), t.shape().to_vec())).collect();
            let config = serde_json::from_str(&golden.metadata["config"]).expect("config");
            let (network, _) = models::from_config(architecture, &config, &shapes).unwrap();
            let mut b = dreamclear::graph::GraphBuilder::new();
            let x = &golden.tensors["input.x"];
            let [n, c, h, w] = x.shape()[..] else { panic!("x is NCHW") };
            let x = b.input("x", DType::F32, [n, h, w, c]).unwrap();
            let y = network.build(&mut b, x).unwrap();
            let shape = b.shape(y).to_vec();
            let dy = b.input("dy", DType::F32, shape).unwrap();
            let params: Vec<_> = b.graph().params().map(|(k, v)| (k.to_owned(), v)).collect();
            let wrt: Vec<_> = params.iter().map(|p| p.1).collect();
            let grads = dreamclear::ops::gradients(&mut b, &[(y, dy)], &wrt)
                .unwrap_or_else(|e| panic!("{}: {e}", golden.name));
            for ((key, _), grad) in params.iter().zip(grads) {
                assert!(grad.is_some(), "{}: {key} receives no gradient", golden.name);
            }
        }
    }
}
