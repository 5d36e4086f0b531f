//! The T5 encoder against transformers, on the golden files that `tools/golden/t5.py` wrote.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dreamclear::device::cpu::CpuDevice;
use dreamclear::graph::{Executable, GraphBuilder, Plan, passes};
use dreamclear::models::load::{self, Opened};
use dreamclear::models::network::Given;
use dreamclear::models::t5::T5Encoder;
use dreamclear::ops::fuse;
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::weights::{WeightSet, safetensors};
use support::relative;

mod support;

/// The bar of issue 3, relative L2; each file says how far the official f32 run is from f64.
const TOLERANCE: f64 = 1e-5;

const CASES: [&str; 6] = ["buckets", "gated_gelu", "gated_silu", "long", "masks", "relu"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// One golden file with its weights generated.
struct Golden {
    file: WeightSet,
    config: tempfile::NamedTempFile,
    weights: WeightSet,
}

impl Golden {
    fn open(case: &str) -> Golden {
        let path = golden(&format!("t5_{case}.safetensors"));
        let (tensors, _) = support::golden(&path);
        let file = WeightSet::open(path).unwrap();
        let config = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&config, &file.metadata()["config"]).unwrap();
        let weights =
            tensors.into_iter().filter_map(|(k, t)| Some((k.strip_prefix("weight.")?.to_owned(), t)));
        let weights = WeightSet::from_tensors(weights);
        Golden { file, config, weights }
    }

    fn fit(&self, weights: WeightSet) -> dreamclear::Result<Opened> {
        load::fit("t5-encoder", Some(self.config.path()), weights)
    }
}

/// What a golden file gives as `input.*`.
fn inputs(file: &WeightSet) -> Given {
    let named = file.iter().filter_map(|(n, t)| Some((n.strip_prefix("input.")?.to_owned(), t.clone())));
    Given::from_tensors(named)
}

fn run(model: &Opened, given: &Given) -> dreamclear::Result<HostTensor> {
    let device = Arc::new(CpuDevice::new(2).unwrap());
    let mut outputs = model.network.forward(given, &mut |mut graph, inputs| {
        passes::run(&mut graph, fuse::RULES, None)?;
        let plan = Plan::new(graph, 2)?;
        Executable::new(plan, device.clone(), |key| model.weights.get(key).cloned())?.run_checked(inputs)
    })?;
    assert_eq!(outputs.len(), 1);
    let (name, out) = outputs.swap_remove(0);
    assert_eq!(name, "last_hidden_state");
    Ok(out)
}

#[test]
fn encoder_equals_transformers() {
    for case in CASES {
        let golden = Golden::open(case);
        let model = golden.fit(golden.weights.clone()).unwrap();
        let got = run(&model, &inputs(&golden.file)).unwrap();
        let error = relative(&got, golden.file.get("last_hidden_state").unwrap());
        println!("{case:12} relative L2 {error:.2e} (official: {})", golden.file.metadata()["f32_noise"]);
        assert!(error <= TOLERANCE, "{case}: relative L2 {error:.3e}");
    }
}

/// A folder as the XXL weights are published: torch shards, decoder and both names of the table.
#[test]
fn published_folders_open_as_they_are() {
    let folder = golden("t5_sharded");
    let file = WeightSet::open(folder.join("expected.golden")).unwrap();
    let model = load::open("t5-encoder", None, &folder).unwrap();
    let error = relative(&run(&model, &inputs(&file)).unwrap(), file.get("last_hidden_state").unwrap());
    assert!(error <= TOLERANCE, "relative L2 {error:.3e}");
    assert!(
        model.weights.names().all(|n| n == "shared.weight"
            || n.starts_with("encoder.block")
            || n.starts_with("encoder.final")),
        "{:?}",
        model.weights
    );

    // The same from safetensors shards, without a configuration.
    let other = tempfile::tempdir().unwrap();
    let mut map = serde_json::Map::new();
    for (i, name) in
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].iter().enumerate()
    {
        let part: Vec<_> =
            model.weights.iter().enumerate().filter(|(k, _)| k % 2 == i).map(|(_, t)| t).collect();
        map.extend(part.iter().map(|(n, _)| (n.to_string(), (*name).into())));
        safetensors::write(&other.path().join(name), part, &Default::default(), None).unwrap();
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    std::fs::write(other.path().join("model.safetensors.index.json"), index).unwrap();
    let inferred = load::open("t5-encoder", None, other.path()).unwrap();
    assert_eq!(format!("{:?}", inferred.network), format!("{:?}", model.network));
    let error = relative(&run(&inferred, &inputs(&file)).unwrap(), file.get("last_hidden_state").unwrap());
    assert!(error <= TOLERANCE, "relative L2 {error:.3e}");
}

#[test]
fn either_name_of_the_embedding_will_do() {
    let golden = Golden::open("gated_silu");
    let alias = |n: &str| Some(n.replace("shared.weight", "encoder.embed_tokens.weight"));
    let model = golden.fit(golden.weights.renamed(alias).unwrap()).unwrap();
    let got = run(&model, &inputs(&golden.file)).unwrap();
    let error = relative(&got, golden.file.get("last_hidden_state").unwrap());
    assert!(error <= TOLERANCE, "relative L2 {error:.3e}");
    let neither = golden.weights.renamed(|n| (n != "shared.weight").then(|| n.to_owned())).unwrap();
    let error = golden.fit(neither).unwrap_err().to_string();
    assert!(error.contains("1 missing: shared.weight"), "{error}");
}

#[test]
fn a_pipeline_builds_it_by_lengths_with_matrices_in_bf16() {
    let golden = Golden::open("gated_gelu");
    let config = serde_json::from_str(&golden.file.metadata()["config"]).unwrap();
    let (encoder, _) = T5Encoder::from_config(Some(&config), &Default::default()).unwrap();
    let result = |dtype: DType| {
        let mut b = GraphBuilder::new();
        b.keep_matrices_in(dtype);
        let ids = b.input("input_ids", DType::I64, [2, 37]).unwrap();
        let lengths = b.input("lengths", DType::I64, [2]).unwrap();
        let y = encoder.build(&mut b, ids, lengths).unwrap();
        b.output("y", y);
        let plan = Plan::new(b.finish(), 2).unwrap();
        let rounded = |key: &str| {
            let t = golden.weights.get(key)?;
            // Norms and the position table are no matrices: they stay f32 either way.
            let matrix = t.shape().len() == 2 && !key.contains("relative");
            Some(if matrix { t.cast(DType::BF16) } else { t.clone() })
        };
        let mut exe = Executable::new(plan, Arc::new(CpuDevice::new(2).unwrap()), rounded).unwrap();
        let ids = golden.file.get("input.input_ids").unwrap().clone();
        let lengths = HostTensor::from_i64([2], vec![37, 11]);
        exe.run(&[("input_ids", ids), ("lengths", lengths)]).unwrap().swap_remove(0).1
    };
    let (kept, widened) = (result(DType::BF16), result(DType::F32));
    assert!(relative(&kept, &widened) <= 1e-6);
    let error = relative(&kept, golden.file.get("last_hidden_state").unwrap());
    assert!((1e-4..2e-2).contains(&error), "bf16 weights: relative L2 {error:.3e}");
}

#[test]
fn wrong_inputs_are_refused_with_a_reason() {
    let golden = Golden::open("gated_gelu");
    let model = golden.fit(golden.weights.clone()).unwrap();
    let ids = |shape: [usize; 2], id: i64| HostTensor::from_i64(shape, vec![id; shape[0] * shape[1]]);
    let ones = |shape: &[usize]| HostTensor::from_f32(shape, vec![1.0; shape.iter().product()]);
    for (ids, mask, part) in [
        (ids([1, 3], 61), ones(&[1, 3]), "index 61"),
        (ids([1, 3], -1), ones(&[1, 3]), "index -1"),
        (ids([1, 3], 1), ones(&[1, 4]), "must be like \"input_ids\", [1, 3], found [1, 4]"),
        (ids([1, 3], 1), ones(&[3]), "must be [B, L], found [3]"),
        (ids([1, 1], 1), HostTensor::from_f32([1, 1], vec![0.5]), "zeros and ones, found 0.5"),
        (ids([1, 0], 1), ones(&[1, 0]), "whole numbers"),
        (ones(&[1, 3]), ones(&[1, 3]), "whole numbers"),
    ] {
        let given = [("input_ids".to_owned(), ids), ("attention_mask".to_owned(), mask)];
        let error = run(&model, &Given::from_tensors(given)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
