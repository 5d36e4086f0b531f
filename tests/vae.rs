//! AutoencoderKL against diffusers, on the golden files that `tools/golden/vae.py` wrote: every
//! vintage of key names, damaged files, determinism.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dreamclear::cancel::Cancel;
use dreamclear::data::pixels::FloatImage;
use dreamclear::device::cpu::CpuDevice;
use dreamclear::graph::{Executable, GraphBuilder, Outputs, Plan, Workspace, passes};
use dreamclear::models::load;
use dreamclear::models::network::Given;
use dreamclear::models::vae::{AutoencoderKl, record};
use dreamclear::ops::fuse;
use dreamclear::pipelines::tiled::Watch;
use dreamclear::pipelines::vae::VaeRunner;
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::weights::WeightSet;

mod support;

use support::recipe_tensor;

/// The bar of issue 3; each file also says how far diffusers' f32 run is from f64.
const TOLERANCE: f64 = 1e-5;

struct Golden {
    name: String,
    tensors: BTreeMap<String, HostTensor>,
    metadata: BTreeMap<String, String>,
}

impl Golden {
    fn open(name: &str) -> Golden {
        let path = format!("{}/tests/golden/vae_{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        let set = WeightSet::open(Path::new(&path)).unwrap();
        let mut tensors: BTreeMap<_, _> = set.iter().map(|(k, t)| (k.to_owned(), t.clone())).collect();
        let entries: BTreeMap<String, (Vec<usize>, f32, i32, i32)> =
            serde_json::from_str(&set.metadata()["recipe"]).unwrap();
        for (name, (shape, centre, m, e)) in entries {
            let tensor = recipe_tensor(&name, &shape, centre, m, e);
            tensors.insert(name, tensor);
        }
        Golden { name: name.to_owned(), tensors, metadata: set.metadata().clone() }
    }

    fn weights(&self) -> Vec<(String, HostTensor)> {
        let strip = |(k, t): (&String, &HostTensor)| Some((k.strip_prefix("weight.")?.to_owned(), t.clone()));
        self.tensors.iter().filter_map(strip).collect()
    }

    /// The configuration as a file in `dir`.
    fn config(&self, dir: &Path) -> PathBuf {
        let path = dir.join("config.json");
        std::fs::write(&path, &self.metadata["config"]).unwrap();
        path
    }

    fn assert_equal(&self, what: &str, got: &HostTensor) {
        let want = &self.tensors[what];
        assert_eq!(got.shape(), want.shape(), "{} {what}", self.name);
        let error = relative_l2(&got.to_f32(), &want.to_f32());
        let noise = &self.metadata["f32_noise"];
        println!("{:12} {what:16} relative L2 {error:.2e} (diffusers' f32 against f64: {noise})", self.name);
        assert!(error <= TOLERANCE, "{} {what}: relative L2 {error:.3e} > {TOLERANCE:.0e}", self.name);
    }
}

fn relative_l2(got: &[f32], want: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(want).map(|(&g, &w)| square(g as f64 - w as f64)).sum();
    let norm: f64 = want.iter().map(|&w| square(w as f64)).sum();
    (error / norm).sqrt()
}

/// What `dreamclear forward` does.
fn forward(
    model: &str,
    config: Option<&Path>,
    weights: Vec<(String, HostTensor)>,
    inputs: &[(&str, &HostTensor)],
    threads: usize,
) -> dreamclear::Result<Outputs> {
    let opened = load::fit(model, config, WeightSet::from_tensors(weights))?;
    let given = Given::from_tensors(inputs.iter().map(|(n, t)| ((*n).to_owned(), (*t).clone())));
    let device = Arc::new(CpuDevice::new(threads)?);
    opened.network.forward(&given, &mut |mut graph, inputs| {
        passes::run(&mut graph, fuse::RULES, None)?;
        let plan = Plan::new(graph, threads)?;
        Executable::new(plan, device.clone(), |k| opened.weights.get(k).cloned())?.run_checked(inputs)
    })
}

fn output<'a>(outputs: &'a Outputs, name: &str) -> &'a HostTensor {
    &outputs.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no output {name}")).1
}

/// All three networks of one golden, with `weights` of any vintage.
fn assert_parity(golden: &Golden, weights: &[(String, HostTensor)], with_config: bool) {
    let dir = tempfile::tempdir().unwrap();
    let config = with_config.then(|| golden.config(dir.path()));
    let run = |model: &str, input: (&str, &HostTensor)| {
        forward(model, config.as_deref(), weights.to_vec(), &[input], 2)
            .unwrap_or_else(|e| panic!("{}: {e}", golden.name))
    };
    let sample = &golden.tensors["input.sample"];
    let encoded = run("vae-encoder", ("sample", sample));
    golden.assert_equal("moments", output(&encoded, "moments"));
    let [batch, channels, ..] = output(&encoded, "moments").shape()[..] else { panic!("rank") };
    let (moments, mode) = (output(&encoded, "moments").to_f32(), output(&encoded, "mode").to_f32());
    assert_eq!(mode.len() * 2, moments.len());
    let per_sample = moments.len() / batch;
    assert_eq!(channels % 2, 0);
    for (mode, moments) in mode.chunks(per_sample / 2).zip(moments.chunks(per_sample)) {
        assert_eq!(mode, &moments[..per_sample / 2], "the mode is the first half of the moments");
    }
    let by_x = run("vae-encoder", ("x", sample));
    assert_eq!(output(&by_x, "mode").bytes(), output(&encoded, "mode").bytes());
    golden.assert_equal("out", output(&run("vae-decoder", ("z", &golden.tensors["input.z"])), "out"));
    golden.assert_equal("reconstruction", output(&run("vae", ("sample", sample)), "out"));
}

#[test]
fn all_networks_equal_diffusers() {
    for name in ["small", "ragged", "odd_groups", "sdxl", "full"] {
        let golden = Golden::open(name);
        assert_parity(&golden, &golden.weights(), true);
    }
}

#[test]
fn shapes_tell_the_configuration() {
    // Groups leave no trace in the shapes: only those of Stable Diffusion are inferred.
    let golden = Golden::open("sdxl");
    assert_parity(&golden, &golden.weights(), false);
}

/// The names of diffusers in 2022.
fn old_name(key: &str) -> String {
    [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")]
        .iter()
        .fold(key.to_owned(), |key, (new, old)| key.replace(new, old))
}

/// The names of LDM, with `levels` levels.
fn ldm_name(key: &str, levels: usize) -> String {
    let mut key = key.to_owned();
    if let Some(rest) = key.strip_prefix("decoder.up_blocks.") {
        let (level, rest) = rest.split_once('.').unwrap();
        key = format!("decoder.up.{}.{rest}", levels - 1 - level.parse::<usize>().unwrap());
    }
    let parts = [
        ("encoder.down_blocks", "encoder.down"),
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        ("mid_block.attentions.0.to_", "mid.attn_1."),
        ("resnets", "block"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ];
    parts.iter().fold(key, |key, (new, old)| key.replace(new, old))
}

/// Weights under LDM's names, attention as 1×1 convolutions.
fn ldm(golden: &Golden, prefix: &str) -> Vec<(String, HostTensor)> {
    let convert = |(key, t): (String, HostTensor)| {
        let matrix = key.contains("attentions") && t.shape().len() == 2;
        let t = if matrix { t.reshaped([t.shape(), &[1, 1]].concat()) } else { t };
        (format!("{prefix}{}", ldm_name(&key, 4)), t)
    };
    golden.weights().into_iter().map(convert).collect()
}

#[test]
fn every_vintage_of_names_is_the_same_network() {
    let golden = Golden::open("sdxl");
    let old: Vec<_> = golden.weights().into_iter().map(|(k, t)| (old_name(&k), t)).collect();
    assert!(old.iter().any(|(k, _)| k == "encoder.mid_block.attentions.0.query.weight"));
    assert_parity(&golden, &old, true);

    let bare = ldm(&golden, "");
    for expected in [
        "encoder.down.0.block.0.conv1.weight",
        "encoder.mid.attn_1.q.weight",
        "decoder.up.3.block.0.norm1.weight",
        "decoder.up.0.block.0.nin_shortcut.weight",
    ] {
        assert!(bare.iter().any(|(k, _)| k == expected), "{expected}");
    }
    assert_parity(&golden, &bare, true);
    assert_parity(&golden, &bare, false);

    let mut single_file = ldm(&golden, "first_stage_model.");
    single_file.push(("model.diffusion_model.out.2.weight".into(), HostTensor::zeros(DType::F32, [4, 4])));
    single_file.push(("cond_stage_model.logit_scale".into(), HostTensor::zeros(DType::F32, [])));
    single_file.push(("first_stage_model.loss.logvar".into(), HostTensor::zeros(DType::F32, [])));
    assert_parity(&golden, &single_file, true);
}

#[test]
fn half_a_file_serves_its_half() {
    let golden = Golden::open("small");
    let dir = tempfile::tempdir().unwrap();
    let config = golden.config(dir.path());
    let half = |names: [&str; 2]| {
        let wanted = |(k, _): &(String, HostTensor)| names.iter().any(|n| k.starts_with(n));
        golden.weights().into_iter().filter(wanted).collect::<Vec<_>>()
    };
    let (encoder, decoder) = (half(["encoder.", "quant_conv."]), half(["decoder.", "post_quant_conv."]));
    let (sample, z) = (&golden.tensors["input.sample"], &golden.tensors["input.z"]);
    let moments = forward("vae-encoder", Some(&config), encoder, &[("sample", sample)], 2).unwrap();
    golden.assert_equal("moments", output(&moments, "moments"));
    let out = forward("vae-decoder", Some(&config), decoder.clone(), &[("z", z)], 2).unwrap();
    golden.assert_equal("out", output(&out, "out"));
    let e = forward("vae-encoder", Some(&config), decoder, &[("sample", sample)], 2).unwrap_err().to_string();
    assert!(e.contains("missing: encoder.conv_in.bias"), "{e}");
}

#[test]
fn a_damaged_file_is_one_sentence() {
    let golden = Golden::open("small");
    let dir = tempfile::tempdir().unwrap();
    let config = golden.config(dir.path());
    let z = &golden.tensors["input.z"];
    // Whichever half is damaged: a file of the whole must be whole.
    for half in ["vae-encoder", "vae-decoder", "vae"] {
        let fails = |weights: Vec<(String, HostTensor)>, sentence: &str| {
            let e = forward(half, Some(&config), weights, &[("z", z)], 1).unwrap_err().to_string();
            assert!(e.contains(sentence) && !e.contains('\n') && e.len() < 400, "{half}: {e}");
        };
        for key in ["encoder.down_blocks.1.resnets.0.conv_shortcut.weight", "decoder.conv_norm_out.bias"] {
            let without = golden.weights().into_iter().filter(|(k, _)| k != key).collect();
            fails(without, &format!("1 missing: {key}"));
        }
        for key in ["decoder.up_blocks.0.attentions.0.to_q.weight", "vocabulary"] {
            let mut more = golden.weights();
            more.push((key.into(), HostTensor::zeros(DType::F32, [2, 2])));
            fails(more, &format!("1 unexpected: {key}"));
        }
        let mut turned = golden.weights();
        let key = "decoder.up_blocks.2.resnets.0.conv1.weight";
        let t = &mut turned.iter_mut().find(|(k, _)| k == key).unwrap().1;
        *t = t.reshaped([64, 32, 3, 3]);
        fails(
            turned,
            "1 of the wrong shape: decoder.up_blocks.2.resnets.0.conv1.weight (expected [32, 64, 3, 3], found [64, 32, 3, 3], which looks transposed)",
        );
        let mut twice = golden.weights();
        twice.push((
            "encoder.mid_block.attentions.0.query.weight".into(),
            HostTensor::zeros(DType::F32, [64, 64]),
        ));
        fails(twice, "two tensors would be named `encoder.mid_block.attentions.0.to_q.weight`");
    }
}

#[test]
fn wrong_inputs_and_configurations_are_refused() {
    let golden = Golden::open("small");
    let dir = tempfile::tempdir().unwrap();
    let config = golden.config(dir.path());
    let error = |model: &str, input: (&str, &HostTensor)| {
        forward(model, Some(&config), golden.weights(), &[input], 1).unwrap_err().to_string()
    };
    let grey = HostTensor::zeros(DType::F32, [1, 1, 16, 16]);
    let expected = "\"sample\" must have 3 channels, found 1";
    assert!(error("vae-encoder", ("sample", &grey)).contains(expected));
    assert!(error("vae-decoder", ("z", &grey)).contains("\"z\" must have 4 channels, found 1"));
    assert!(error("vae-decoder", ("latent", &grey)).contains("expected a tensor \"z\""));
    let tiny = HostTensor::zeros(DType::F32, [1, 3, 3, 16]);
    assert!(error("vae-encoder", ("sample", &tiny)).contains("encoder.down_blocks.1"));

    let refused = |change: &dyn Fn(&mut serde_json::Value), part: &str| {
        let mut json: serde_json::Value = serde_json::from_str(&golden.metadata["config"]).unwrap();
        change(&mut json);
        let e = AutoencoderKl::from_config(&json, &Default::default()).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    };
    refused(&|c| c["norm_num_groups"] = 7.into(), "multiples of norm_num_groups (7), found 32");
    refused(&|c| c["act_fn"] = "relu".into(), "act_fn must be silu");
    refused(&|c| c["down_block_types"][1] = "AttnDownEncoderBlock2D".into(), "found AttnDownEncoderBlock2D");
    refused(
        &|c| c["block_out_channels"] = vec![32, 64].into(),
        "3 down_block_types but 2 block_out_channels",
    );
    refused(&|c| c["latent_chanels"] = 4.into(), "unknown keys: latent_chanels");
    refused(
        &|c| c["layers_per_block"] = 0.into(),
        "layers_per_block of a vae must be from 1 to 65536, found 0",
    );
}

#[test]
fn threads_and_batch_do_not_change_a_byte() {
    let golden = Golden::open("small");
    let dir = tempfile::tempdir().unwrap();
    let config = golden.config(dir.path());
    let (sample, z) = (&golden.tensors["input.sample"], &golden.tensors["input.z"]);
    for (model, name, x, out) in
        [("vae-encoder", "sample", sample, "moments"), ("vae-decoder", "z", z, "out")]
    {
        let run = |x: &HostTensor, threads| {
            let all = forward(model, Some(&config), golden.weights(), &[(name, x)], threads).unwrap();
            output(&all, out).to_f32().into_owned()
        };
        let both = run(x, 2);
        assert!(both == run(x, 1), "{model}: threads");
        let shape = [&[1], &x.shape()[1..]].concat();
        let values = x.to_f32();
        let alone: Vec<f32> = values
            .chunks(values.len() / 2)
            .flat_map(|part| run(&HostTensor::from_f32(shape.clone(), part.to_vec()), 2))
            .collect();
        assert!(both == alone, "{model}: batch");
    }
}

#[test]
fn every_parameter_receives_a_gradient() {
    let golden = Golden::open("small");
    let json = serde_json::from_str(&golden.metadata["config"]).unwrap();
    let (net, _) = AutoencoderKl::from_config(&json, &Default::default()).unwrap();
    let mut b = GraphBuilder::new();
    let x = b.input("sample", DType::F32, [1, 16, 16, 3]).unwrap();
    let moments = record(&mut b, &net.encoder(), net.norm_num_groups, x).unwrap();
    let dm = b.input("dm", DType::F32, b.shape(moments).to_vec()).unwrap();
    let z = b.slice(moments, 3, 0, net.latent_channels).unwrap();
    let out = record(&mut b, &net.decoder(), net.norm_num_groups, z).unwrap();
    let dy = b.input("dy", DType::F32, b.shape(out).to_vec()).unwrap();
    let params: Vec<_> = b.graph().params().map(|(k, v)| (k.to_owned(), v)).collect();
    assert_eq!(params.len(), golden.weights().len());
    let wrt: Vec<_> = params.iter().map(|p| p.1).collect();
    let grads = dreamclear::ops::gradients(&mut b, &[(out, dy), (moments, dm)], &wrt).unwrap();
    for ((key, _), grad) in params.iter().zip(grads) {
        assert!(grad.is_some(), "{key} receives no gradient");
    }
}

/// A runner on the golden's network.
fn runner(golden: &Golden, memory: usize) -> VaeRunner {
    let json = serde_json::from_str(&golden.metadata["config"]).unwrap();
    let (net, _) = AutoencoderKl::from_config(&json, &Default::default()).unwrap();
    let device = Arc::new(CpuDevice::new(2).unwrap());
    let weights = WeightSet::from_tensors(golden.weights());
    VaeRunner::new(net, weights, device, Workspace::new(), memory).unwrap()
}

/// The first of `[B, C, H, W]` as a picture.
fn picture(x: &HostTensor) -> FloatImage {
    let &[_, c, h, w] = x.shape() else { panic!("four axes") };
    let v = x.to_f32();
    FloatImage::new(h, w, c, (0..c * h * w).map(|i| v[i % c * h * w + i / c]).collect())
}

/// The first of a batch.
fn first(x: &HostTensor) -> HostTensor {
    let shape = [&[1], &x.shape()[1..]].concat();
    let n = shape.iter().product();
    HostTensor::from_f32(shape, x.to_f32()[..n].to_vec())
}

fn encode(runner: &mut VaeRunner, picture: &FloatImage) -> HostTensor {
    runner.encode_mode(picture, Watch { cancel: &Cancel::new(), progress: &|_| {} }).unwrap()
}

fn decode(runner: &mut VaeRunner, z: &HostTensor) -> dreamclear::Result<FloatImage> {
    runner.decode(z, Watch { cancel: &Cancel::new(), progress: &|_| {} })
}

fn largest_relative(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
    assert!(got.iter().all(|x| x.is_finite()));
    let error = got.iter().zip(want.iter()).map(|(g, w)| (g - w).abs());
    f64::from(error.fold(0.0, f32::max) / scale)
}

#[test]
fn bands_equal_the_whole() {
    for name in ["small", "ragged", "odd_groups", "sdxl"] {
        let golden = Golden::open(name);
        let (sample, z) = (picture(&golden.tensors["input.sample"]), first(&golden.tensors["input.z"]));
        let mut whole = runner(&golden, usize::MAX);
        let (mode, out) = (encode(&mut whole, &sample), decode(&mut whole, &z).unwrap());
        assert!(relative_l2(&out.data, &picture(&golden.tensors["out"]).data) <= TOLERANCE);
        let moments = first(&golden.tensors["moments"]);
        assert!(relative_l2(&mode.to_f32(), &moments.to_f32()[..mode.len()]) <= TOLERANCE);
        let mut same: Option<(HostTensor, FloatImage)> = None;
        for rows in [1, 3, 7, 1000] {
            let mut banded = runner(&golden, usize::MAX).in_bands_of(rows);
            let (m, o) = (encode(&mut banded, &sample), decode(&mut banded, &z).unwrap());
            let errors =
                [largest_relative(&m.to_f32(), &mode.to_f32()), largest_relative(&o.data, &out.data)];
            println!("{name:12} bands of {rows:4} rows against whole: {:.1e} {:.1e}", errors[0], errors[1]);
            assert!(errors.iter().all(|&e| e <= 1e-5), "{name} in bands of {rows}: {errors:?}");
            let (m1, o1) = same.get_or_insert((m.clone(), o.clone()));
            assert!(m.bytes() == m1.bytes() && o == *o1, "{name}: the band height shows");
        }
    }
}

#[test]
fn a_small_budget_spills_to_a_file_and_changes_nothing() {
    let golden = Golden::open("sdxl");
    let z = &golden.tensors["input.z"];
    let folder = tempfile::tempdir().unwrap();
    let roomy = decode(&mut runner(&golden, usize::MAX).in_bands_of(5), z).unwrap();
    let mut tight = runner(&golden, 256 << 10).in_bands_of(5).spill_to(folder.path().to_owned());
    let plan = tight.plan_decode(6, 4).unwrap();
    assert!(plan.spilled >= 384 << 10 && plan.maps <= 256 << 10 && plan.bands > 50, "{plan:?}");
    assert!(decode(&mut tight, z).unwrap() == roomy);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let nowhere = folder.path().join("missing");
    let e = decode(&mut runner(&golden, 0).spill_to(nowhere), z).unwrap_err().to_string();
    assert!(e.contains("cannot make the scratch file"), "{e}");
}

#[test]
fn plans_are_consistent_and_fall_with_the_budget() {
    let golden = Golden::open("full");
    let at = |memory| runner(&golden, memory).plan_decode(128, 128).unwrap();
    let (whole, bands, file) = (at(64 << 30), at(1900 << 20), at(600 << 20));
    println!("whole {whole:?}\nbands {bands:?}\nfile {file:?}");
    assert_eq!((whole.bands, whole.spilled, bands.spilled), (1, 0, 0));
    // 10.47 TFLOP and 49,490,199 parameters are those of the official module.
    assert!((whole.flops / 10.47e12 - 1.0).abs() < 0.02, "{}", whole.flops);
    assert_eq!(whole.weights, 4 * 49_490_199);
    assert_eq!((whole.flops, whole.weights), (bands.flops, file.weights));
    assert!(bands.peak < whole.peak && file.peak < bands.peak, "{bands:?}");
    assert!(file.maps <= 600 << 20 && file.spilled > 1 << 30, "{file:?}");
    for plan in [&bands, &file] {
        assert!(plan.peak <= plan.weights + plan.pictures + plan.maps + plan.arena, "{plan:?}");
    }
}

#[test]
fn progress_rises_to_one_and_work_stops_on_demand() {
    let golden = Golden::open("small");
    let z = first(&golden.tensors["input.z"]);
    for mut runner in [runner(&golden, usize::MAX), runner(&golden, usize::MAX).in_bands_of(4)] {
        let told = std::sync::Mutex::new(vec![0.0f32]);
        let progress = |f| told.lock().unwrap().push(f);
        runner.decode(&z, Watch { cancel: &Cancel::new(), progress: &progress }).unwrap();
        let told = told.into_inner().unwrap();
        assert!(told.len() > 10 && told.is_sorted(), "{told:?}");
        assert!((told[told.len() - 1] - 1.0).abs() < 1e-3, "{told:?}");

        let cancel = Cancel::new();
        let stop = |f| {
            if f > 0.3 {
                cancel.cancel()
            }
        };
        let stopped = runner.decode(&z, Watch { cancel: &cancel, progress: &stop });
        assert!(matches!(stopped, Err(dreamclear::Error::Interrupted)));
    }
}

#[test]
fn a_runner_refuses_what_does_not_fit() {
    let golden = Golden::open("sdxl");
    let mut runner = runner(&golden, usize::MAX);
    let watch = Watch { cancel: &Cancel::new(), progress: &|_| {} };
    let e = runner.encode_mode(&FloatImage::zeros(16, 7, 3), watch).unwrap_err().to_string();
    assert!(e.contains("3 channels and at least 8×8 pixels, found 3 channels and 7×16"), "{e}");
    let e = decode(&mut runner, &HostTensor::zeros(DType::F32, [2, 4, 2, 2])).unwrap_err().to_string();
    assert_eq!(e, "a latent must be [1, 4, h, w], found [2, 4, 2, 2]");
    let weights = golden.weights().into_iter().filter(|(k, _)| k != "quant_conv.bias");
    let device = Arc::new(CpuDevice::new(1).unwrap());
    let weights = WeightSet::from_tensors(weights);
    let e = VaeRunner::new(runner.config().clone(), weights, device, Workspace::new(), 0).err().unwrap();
    assert!(e.to_string().contains("1 missing: quant_conv.bias"), "{e}");
}
