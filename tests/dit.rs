//! PixArt and DreamClear against the official modules, on the golden files that
//! `tools/golden/dit.py` wrote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use dreamclear::device::cpu::CpuDevice;
use dreamclear::graph::{Executable, Graph, GraphBuilder, Outputs, Plan, passes};
use dreamclear::models::controlformer::{DreamClear, Inputs};
use dreamclear::models::load::{self, Opened};
use dreamclear::models::network::Given;
use dreamclear::models::{Shapes, pixart_names};
use dreamclear::ops::fuse;
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::weights::{WeightSet, safetensors};

mod support;

use support::recipe_tensor;

/// The bar of issue 3, relative L2; each file says how far the official f32 run is from f64.
const TOLERANCE: f64 = 1e-5;

/// One golden file with its tensors generated.
struct Golden {
    name: String,
    network: String,
    config: tempfile::NamedTempFile,
    weights: BTreeMap<String, HostTensor>,
    inputs: BTreeMap<String, HostTensor>,
    out: HostTensor,
    noise: String,
}

impl Golden {
    fn open(name: &str) -> Golden {
        let path = format!("{}/tests/golden/dit_{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let set = WeightSet::open(Path::new(&path)).unwrap();
        let metadata = set.metadata();
        let mut tensors: BTreeMap<_, _> = set.iter().map(|(k, t)| (k.to_owned(), t.clone())).collect();
        let recipe: BTreeMap<String, (Vec<usize>, f32, i32, i32)> =
            serde_json::from_str(&metadata["recipe"]).unwrap();
        for (name, (shape, centre, m, e)) in recipe {
            let tensor = recipe_tensor(&name, &shape, centre, m, e);
            tensors.insert(name, tensor);
        }
        let config = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&config, &metadata["config"]).unwrap();
        let within = |prefix: &str| {
            let strip =
                |(k, t): (&String, &HostTensor)| Some((k.strip_prefix(prefix)?.to_owned(), t.clone()));
            tensors.iter().filter_map(strip).collect()
        };
        Golden {
            name: name.to_owned(),
            network: metadata["network"].clone(),
            config,
            weights: within("weight."),
            inputs: within("input."),
            out: tensors["out"].clone(),
            noise: metadata["f32_noise"].clone(),
        }
    }

    fn set(&self) -> WeightSet {
        WeightSet::from_tensors(self.weights.clone())
    }

    fn fit(&self, weights: WeightSet) -> dreamclear::Result<Opened> {
        load::fit(&self.network, Some(self.config.path()), weights)
    }

    fn forward(&self, model: &Opened) -> dreamclear::Result<HostTensor> {
        let given = Given::from_tensors(self.inputs.clone());
        let mut outputs =
            model.network.forward(&given, &mut |graph, inputs| execute(graph, inputs, &model.weights))?;
        assert_eq!(outputs.len(), 1);
        assert_eq!(outputs[0].0, "out");
        Ok(outputs.swap_remove(0).1)
    }

    /// How far `got` is from the official output.
    fn error(&self, got: &HostTensor) -> f64 {
        assert_eq!(got.shape(), self.out.shape(), "{}", self.name);
        relative_l2(&got.to_f32(), &self.out.to_f32())
    }
}

fn execute(
    mut graph: Graph,
    inputs: &[(&str, HostTensor)],
    weights: &WeightSet,
) -> dreamclear::Result<Outputs> {
    passes::run(&mut graph, fuse::RULES, None)?;
    let device = Arc::new(CpuDevice::new(2)?);
    let mut exe = Executable::new(Plan::new(graph, 2)?, device, |key| weights.get(key).cloned())?;
    exe.run_checked(inputs)
}

fn relative_l2(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(want).map(|(&g, &w)| square(g as f64 - w as f64)).sum();
    let norm: f64 = want.iter().map(|&w| square(w as f64)).sum();
    (error / norm).sqrt()
}

fn parity(cases: &[&str]) {
    let mut failures = Vec::new();
    for case in cases {
        let golden = Golden::open(case);
        let model = golden.fit(golden.set()).unwrap_or_else(|e| panic!("{case}: {e}"));
        let got = golden.forward(&model).unwrap_or_else(|e| panic!("{case}: {e}"));
        let error = golden.error(&got);
        println!("{case:24} relative L2 {error:.2e} (official f32 against f64: {})", golden.noise);
        if !(error <= TOLERANCE) {
            failures.push(format!("{case}: relative L2 {error:.3e} > {TOLERANCE:.0e}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn pixart_equals_the_official_module() {
    parity(&["pixart_masks", "pixart_holes", "pixart_no_mask", "pixart_cfg", "pixart_1152"]);
}

#[test]
fn dreamclear_equals_the_official_module() {
    parity(&["dreamclear_all", "dreamclear_some", "dreamclear_1152"]);
}

#[test]
fn guidance_and_latent_tiles_equal_the_official_methods() {
    parity(&["dreamclear_cfg", "dreamclear_tile", "dreamclear_tile_narrow"]);
}

/// The official keys in the names of a diffusers directory: q, k and v apart.
fn as_diffusers(weights: &BTreeMap<String, HostTensor>) -> BTreeMap<String, HostTensor> {
    let modules = [
        ("x_embedder.proj.", "pos_embed.proj."),
        ("y_embedder.y_proj.fc", "caption_projection.linear_"),
        ("t_embedder.mlp.0.", "adaln_single.emb.timestep_embedder.linear_1."),
        ("t_embedder.mlp.2.", "adaln_single.emb.timestep_embedder.linear_2."),
        ("csize_embedder.mlp.0.", "adaln_single.emb.resolution_embedder.linear_1."),
        ("csize_embedder.mlp.2.", "adaln_single.emb.resolution_embedder.linear_2."),
        ("ar_embedder.mlp.0.", "adaln_single.emb.aspect_ratio_embedder.linear_1."),
        ("ar_embedder.mlp.2.", "adaln_single.emb.aspect_ratio_embedder.linear_2."),
        ("t_block.1.", "adaln_single.linear."),
        ("final_layer.linear.", "proj_out."),
        ("final_layer.scale", "scale"),
        ("blocks.", "transformer_blocks."),
    ];
    let inner = [
        (".attn.proj.", ".attn1.to_out.0."),
        (".cross_attn.q_linear.", ".attn2.to_q."),
        (".cross_attn.proj.", ".attn2.to_out.0."),
        (".mlp.fc1.", ".ff.net.0.proj."),
        (".mlp.fc2.", ".ff.net.2."),
    ];
    let mut renamed = BTreeMap::new();
    for (key, tensor) in weights {
        let module = modules.iter().find_map(|(from, to)| Some(format!("{to}{}", key.strip_prefix(from)?)));
        let mut key = module.unwrap_or_else(|| key.clone());
        for (from, to) in inner {
            key = key.replace(from, to);
        }
        let parts: &[&str] = match () {
            () if key.contains(".attn.qkv.") => &["q", "k", "v"],
            () if key.contains(".kv_linear.") => &["k", "v"],
            () => &[],
        };
        let rows = tensor.len() / parts.len().max(1);
        for (part, values) in parts.iter().zip(tensor.to_f32().chunks_exact(rows)) {
            let key = key.replace(".attn.qkv.", &format!(".attn1.to_{part}."));
            let key = key.replace(".cross_attn.kv_linear.", &format!(".attn2.to_{part}."));
            let mut shape = tensor.shape().to_vec();
            shape[0] /= parts.len();
            renamed.insert(key, HostTensor::from_f32(shape, values.to_vec()));
        }
        if parts.is_empty() && key != pixart_names::NULL_CAPTION {
            renamed.insert(key, tensor.clone());
        }
    }
    renamed
}

const DIFFUSERS: &str = r#"{"_class_name": "PixArtTransformer2DModel", "_diffusers_version": "0.25.0",
    "activation_fn": "gelu-approximate", "attention_bias": true, "attention_head_dim": 12,
    "caption_channels": 32, "cross_attention_dim": 48, "in_channels": 4, "norm_elementwise_affine": false,
    "norm_eps": 1e-06, "norm_type": "ada_norm_single", "num_attention_heads": 4, "num_layers": 2,
    "out_channels": 8, "patch_size": 2, "sample_size": 16, "interpolation_scale": 2}"#;

#[test]
fn a_diffusers_directory_gives_the_same_output() {
    let mut golden = Golden::open("pixart_masks");
    std::fs::write(&golden.config, DIFFUSERS).unwrap();
    golden.weights = as_diffusers(&golden.weights);
    assert!(golden.weights.contains_key("transformer_blocks.1.attn2.to_v.bias"));
    assert!(!golden.weights.keys().any(|k| k.starts_with("blocks.") || k.starts_with("final_layer")));
    // Some versions store the position embedding too.
    golden.weights.insert("pos_embed.pos_embed".into(), HostTensor::zeros(DType::F32, [1, 64, 48]));
    let model = golden.fit(golden.set()).unwrap();
    let error = golden.error(&golden.forward(&model).unwrap());
    assert!(error <= TOLERANCE, "relative L2 {error:.3e}");
    let why = pixart_names::null_caption(&golden.set()).unwrap_err().to_string();
    assert!(why.contains("y_embedder.y_embedding") && why.contains("diffusers"), "{why}");
    // A part that is missing is named by its own key.
    golden.weights.remove("transformer_blocks.0.attn1.to_k.weight");
    let why = golden.fit(golden.set()).unwrap_err().to_string();
    for part in ["missing: blocks.0.attn.qkv.weight", "transformer_blocks.0.attn1.to_q.weight"] {
        assert!(why.contains(part), "{why}");
    }
}

/// The base within a DreamClear checkpoint is a PixArt.
#[test]
fn pixart_is_found_within_a_dreamclear_checkpoint() {
    let (pixart, mut control) = (Golden::open("pixart_masks"), Golden::open("dreamclear_all"));
    control.weights.retain(|k, _| !k.starts_with("base_model."));
    control.weights.extend(pixart.weights.iter().map(|(k, t)| (format!("base_model.{k}"), t.clone())));
    let set = control.set();
    assert_eq!(pixart_names::null_caption(&set).unwrap().shape(), [10, 32]);
    let model = pixart.fit(set).unwrap();
    let error = pixart.error(&pixart.forward(&model).unwrap());
    assert!(error <= TOLERANCE, "relative L2 {error:.3e}");
}

/// A file of weights with nothing beside it.
fn write(folder: &Path, weights: &BTreeMap<String, HostTensor>) -> PathBuf {
    let path = folder.join("weights.safetensors");
    let tensors = weights.iter().map(|(k, t)| (k.as_str(), t));
    safetensors::write(&path, tensors, &Default::default(), None).unwrap();
    path
}

#[test]
fn inspect_strict_tells_what_is_wrong_in_one_sentence() {
    let golden = Golden::open("dreamclear_some");
    let folder = tempfile::tempdir().unwrap();
    let inspect = |weights: &BTreeMap<String, HostTensor>| {
        let path = write(folder.path(), weights);
        let args = ["inspect", "--strict", "dreamclear", path.to_str().unwrap()];
        Command::new(env!("CARGO_BIN_EXE_dreamclear")).args(args).output().unwrap()
    };
    // Sizes are inferred; the buffer of positions may be there or not.
    let mut whole = golden.weights.clone();
    assert!(inspect(&whole).status.success());
    whole.insert("base_model.pos_embed".into(), HostTensor::zeros(DType::F32, [1, 64, 48]));
    assert!(inspect(&whole).status.success());

    let gate = "am_lq.0.gate.0.weight";
    type Damage = fn(&mut BTreeMap<String, HostTensor>, &str);
    let damages: [(&str, Damage); 4] = [
        ("1 missing: am_lq.0.gate.0.weight", |w, key| drop(w.remove(key))),
        ("1 missing: base_model.y_embedder.y_embedding", |w, _| {
            drop(w.remove("base_model.y_embedder.y_embedding"))
        }),
        ("1 unexpected: am_lq.0.gate.1.weight", |w, key| {
            let extra = w[key].clone();
            w.insert("am_lq.0.gate.1.weight".into(), extra);
        }),
        ("am_lq.0.gate.0.weight (expected [24, 48], found [48, 24], which looks transposed)", |w, key| {
            let turned = w[key].reshaped([48, 24]);
            w.insert(key.into(), turned);
        }),
    ];
    for (sentence, damage) in damages {
        let mut weights = golden.weights.clone();
        damage(&mut weights, gate);
        let out = inspect(&weights);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains(sentence) && said.trim().lines().count() == 1, "{said}");
    }
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    let mut golden = Golden::open("dreamclear_cfg");
    let model = golden.fit(golden.set()).unwrap();
    let zeros = |shape: &[usize]| Some(HostTensor::zeros(DType::F32, shape));
    let cases: [(&str, Option<HostTensor>, &str); 9] = [
        ("c_lq", None, "\"c_lq\""),
        ("c_pre", zeros(&[1, 4, 8, 16]), "must be like x"),
        ("x", zeros(&[2, 4, 9, 16]), "multiples of 2"),
        ("x", zeros(&[3, 4, 10, 16]), "\"y\" must be [3, 1, tokens, channels]"),
        ("timestep", zeros(&[3]), "\"timestep\" must hold 1 or 2 numbers"),
        ("y", zeros(&[2, 1, 10, 31]), "tokens of 32 channels"),
        ("mask", zeros(&[2, 1, 1, 9]), "\"mask\" must be [2, 1, 1, 10]"),
        ("mask", Some(HostTensor::from_f32([1, 10], vec![0.5; 10])), "zeros and ones, found 0.5"),
        ("latent_tiled_size", Some(HostTensor::from_i64([1], vec![8])), "go together"),
    ];
    for (name, wrong, sentence) in cases {
        let right = match wrong {
            Some(t) => golden.inputs.insert(name.into(), t),
            None => golden.inputs.remove(name),
        };
        let error = golden.forward(&model).expect_err(name).to_string();
        assert!(error.contains(sentence), "{name}: {error}");
        golden.inputs.remove(name);
        golden.inputs.extend(right.map(|t| (name.to_owned(), t)));
    }
    assert!(golden.error(&golden.forward(&model).unwrap()) <= TOLERANCE);
}

#[test]
fn wrong_configurations_are_refused() {
    for (config, sentence) in [
        (r#"{"hidden_size": 50}"#, "multiple of 12"),
        (r#"{"copy_blocks_num": 29}"#, "more than the depth 28"),
        (r#"{"copy_blocks_num": "all"}"#, "must be a count"),
        (r#"{"window_block_indexes": [0, 1]}"#, "window attention"),
        (r#"{"qk_norm": true}"#, "unknown keys: qk_norm"),
        (r#"{"patch_size": 0}"#, "above 0"),
    ] {
        let json = serde_json::from_str(config).unwrap();
        let error = DreamClear::from_config(Some(&json), &Shapes::new()).unwrap_err().to_string();
        assert!(error.contains(sentence), "{config}: {error}");
    }
}

/// Without a configuration the shapes tell everything but heads and positions, for which the
/// published model stands.
#[test]
fn the_published_model_is_inferred_from_its_shapes() {
    let published =
        |copy_blocks_num| DreamClear { base: dreamclear::models::pixart::PixArt::xl_1024(), copy_blocks_num };
    let network: &dyn dreamclear::models::network::Network = &published(28);
    let shapes = network.parameters().unwrap();
    // The counts of the specification, §9: all tensors but the position buffer.
    assert_eq!(shapes.len(), 2412);
    let elements: usize = shapes.values().map(|s| s.iter().product::<usize>()).sum();
    assert_eq!(elements, 2_211_876_212 + 491_520);
    assert_eq!(DreamClear::from_config(None, &shapes).unwrap().0, published(28));
    let (fewer, _) = DreamClear::from_config(None, &network_shapes(&published(13))).unwrap();
    assert_eq!(fewer, published(13));
}

fn network_shapes(model: &DreamClear) -> Shapes {
    dreamclear::models::network::Network::parameters(model).unwrap()
}

/// Several guidance pairs in one launch, one time for all, captions shared by rows: each pair is
/// what it is alone.
#[test]
fn pairs_in_one_batch_do_not_see_each_other() {
    let golden = Golden::open("dreamclear_all");
    let config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(golden.config.path()).unwrap()).unwrap();
    let (net, _) = DreamClear::from_config(Some(&config), &Shapes::new()).unwrap();
    let random = |name: &str, shape: &[usize]| recipe_tensor(name, shape, 0.0, 3, -22);
    let (h, w, pairs) = (6, 10, 3);
    let latents = random("latents", &[pairs, 4, h, w]);
    let (lq, pre) = (random("lq", &[pairs, 4, h, w]), random("pre", &[pairs, 4, h, w]));
    let y = random("captions", &[2, 5, 32]);
    let run = |latents: &HostTensor, lq: &HostTensor, pre: &HostTensor| -> Vec<f32> {
        let n = latents.shape()[0];
        let mut b = GraphBuilder::new();
        let input =
            |b: &mut GraphBuilder, name: &str, t: &HostTensor| b.input(name, t.dtype(), t.shape()).unwrap();
        let x = input(&mut b, "x", latents);
        // Each latent twice, one after the other.
        let x = b.reshape(x, [n, 1, 4, h, w]).unwrap();
        let x = b.broadcast_to(x, &[n, 2, 4, h, w]).unwrap();
        let x = b.reshape(x, [2 * n, 4, h, w]).unwrap();
        let (time, lengths) = (HostTensor::from_f32([1], vec![700.0]), HostTensor::from_i64([2], vec![5, 3]));
        let inputs = Inputs {
            x,
            timestep: input(&mut b, "timestep", &time),
            y: input(&mut b, "y", &y),
            lengths: input(&mut b, "lengths", &lengths),
            kv_rows: [0, 1].repeat(n),
            img_hw: b.constant(HostTensor::from_f32([1, 2], vec![1024.0; 2])),
            aspect_ratio: b.constant(HostTensor::from_f32([1, 1], vec![1.0])),
            c_lq: input(&mut b, "c_lq", lq),
            c_pre: input(&mut b, "c_pre", pre),
            scope: 2,
        };
        let out = net.build(&mut b, &inputs).unwrap();
        b.output("out", out);
        let values = [
            ("x", latents),
            ("timestep", &time),
            ("y", &y),
            ("lengths", &lengths),
            ("c_lq", lq),
            ("c_pre", pre),
        ];
        let values: Vec<_> = values.into_iter().map(|(n, t)| (n, t.clone())).collect();
        let out = execute(b.finish(), &values, &golden.set()).unwrap();
        assert_eq!(out[0].1.shape(), [2 * n, 8, h, w]);
        out[0].1.to_f32().into_owned()
    };
    let together = run(&latents, &lq, &pre);
    let size = 2 * 8 * h * w;
    for pair in 0..pairs {
        let one = |t: &HostTensor| {
            let n = t.len() / pairs;
            HostTensor::from_f32([1, 4, h, w], t.to_f32()[pair * n..][..n].to_vec())
        };
        let alone = run(&one(&latents), &one(&lq), &one(&pre));
        assert_eq!(together[pair * size..][..size], alone[..], "pair {pair}");
        assert_ne!(alone[..size / 2], alone[size / 2..], "the captions differ");
    }
}

/// Every parameter that a forward reads gets a gradient.
#[test]
fn every_parameter_receives_a_gradient() {
    let golden = Golden::open("dreamclear_some");
    let model = golden.fit(golden.set()).unwrap();
    let given = Given::from_tensors(golden.inputs.clone());
    let mut seen = None;
    let stop = model.network.forward(&given, &mut |graph, _| {
        seen = Some(graph);
        Err(dreamclear::Error::Interrupted)
    });
    assert!(stop.is_err());
    let graph = seen.unwrap();
    let out = graph.outputs[0].1;
    let mut b = GraphBuilder::from_graph(graph);
    let shape = b.shape(out).to_vec();
    let dy = b.input("dy", DType::F32, shape).unwrap();
    let params: Vec<_> = b.graph().params().map(|(k, v)| (k.to_owned(), v)).collect();
    let wrt: Vec<_> = params.iter().map(|p| p.1).collect();
    let grads = dreamclear::ops::gradients(&mut b, &[(out, dy)], &wrt).unwrap();
    for ((key, _), grad) in params.iter().zip(grads) {
        assert!(grad.is_some(), "{key} receives no gradient");
    }
}
