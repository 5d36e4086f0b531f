//! The whole restoration against the official script, replicated step for step with tiny networks
//! (`tools/golden/restore.py`), and what its users may rely on: same seed same bytes, faults told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use dreamclear::data::color_fix;
use dreamclear::data::image::{Channels, Photo, Samples};
use dreamclear::data::pixels::FloatImage;
use dreamclear::models::network::Network;
use dreamclear::models::t5::T5Encoder;
use dreamclear::tensor::HostTensor;
use dreamclear::weights::{WeightSet, npz, safetensors};
use serde_json::Value;

mod support;

use support::relative;

/// A golden case as files on disk.
struct Case {
    folder: tempfile::TempDir,
    tensors: BTreeMap<String, HostTensor>,
    metadata: BTreeMap<String, String>,
    case: Value,
    options: Value,
}

impl Case {
    fn new(name: &str) -> Case {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/restore_{name}.safetensors"));
        let (tensors, metadata) = support::golden(&path);
        let json = |key: &str| serde_json::from_str(&metadata[key]).unwrap();
        let case = Case {
            folder: tempfile::tempdir().unwrap(),
            case: json("case"),
            options: json("options"),
            tensors,
            metadata,
        };
        for network in ["swinir", "vae", "dreamclear"] {
            let folder = case.path(network);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("config.json"), &case.metadata[&format!("{network}_config")]).unwrap();
            case.write_weights(network, |_| {});
        }
        case.write_picture("picture.png", &case.tensors["image"]);
        let noise = |key: &str| (key.to_owned(), case.tensors[&format!("{name}.{key}")].clone());
        save(&case.path("noise.safetensors"), [noise("noise_T"), noise("noises")]);
        std::fs::create_dir(case.path("features")).unwrap();
        case.write_features("features/picture.npz", |_| {});
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_picture(&self, name: &str, pixels: &HostTensor) {
        let [h, w, _] = pixels.shape()[..] else { panic!("{pixels:?}") };
        let photo = Photo::new(h, w, Channels::Rgb, Samples::U8(pixels.bytes().to_vec()));
        photo.save(self.path(name), dreamclear::data::image::Format::Png, 100).unwrap();
    }

    /// A network's weights, after a change for the worse.
    fn write_weights(&self, network: &str, spoil: impl FnOnce(&mut BTreeMap<String, HostTensor>)) {
        let prefix = format!("{network}.");
        let strip = |(k, t): (&String, &HostTensor)| Some((k.strip_prefix(&prefix)?.to_owned(), t.clone()));
        let mut weights = self.tensors.iter().filter_map(strip).collect();
        spoil(&mut weights);
        save(&self.path(network).join("model.safetensors"), weights);
    }

    fn write_features(&self, name: &str, change: impl FnOnce(&mut BTreeMap<String, HostTensor>)) {
        let mut arrays = BTreeMap::from([
            ("caption_feature".to_owned(), self.tensors["caption_feature"].clone()),
            ("attention_mask".to_owned(), self.tensors["attention_mask"].clone()),
        ]);
        change(&mut arrays);
        npz::write(&self.path(name), arrays.iter().map(|(n, t)| (n.as_str(), t)), true).unwrap();
    }

    /// The arguments that make it the official run, without captions, noise and output.
    fn args(&self) -> Vec<String> {
        let o = |key: &str| self.options[key].to_string();
        let pair = self.options["untiled_latent"].as_array().unwrap();
        let mut args: Vec<String> =
            ["restore", "--model", "dreamclear", "--threads", "2"].map(String::from).into();
        for network in ["swinir", "vae", "dreamclear"] {
            args.extend([format!("--{network}"), self.path(network).display().to_string()]);
        }
        args.extend(["--weights".into(), self.folder.path().display().to_string()]);
        args.extend(["--upscale".into(), self.case["upscale"].to_string()]);
        args.extend(["--steps".into(), self.case["steps"].to_string()]);
        args.extend(["--color-fix".into(), self.case["color_align"].as_str().unwrap().into()]);
        args.extend(["--min-size".into(), o("min_size"), "--cfg".into(), o("cfg_scale")]);
        args.extend([
            "--tile".into(),
            o("latent_tiled_size"),
            "--tile-overlap".into(),
            o("latent_tiled_overlap"),
        ]);
        args.extend(["--untiled-latent".into(), format!("{}x{}", pair[0], pair[1])]);
        args.extend(["--start-point".into(), o("start_point")]);
        args
    }

    fn features(&self) -> [String; 2] {
        ["--caption-features".into(), self.path("features").display().to_string()]
    }

    /// `restore` of `input` with more arguments.
    fn restore(&self, input: &str, output: &str, more: &[&str]) -> Output {
        let mut command = self.command(input, output, more);
        command.output().unwrap()
    }

    fn command(&self, input: &str, output: &str, more: &[&str]) -> Command {
        let mut args = self.args();
        // What is given again replaces the official value.
        for option in more.iter().filter(|a| a.starts_with("--")) {
            if let Some(i) = args.iter().position(|a| a == option) {
                args.drain(i..i + 2);
            }
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_dreamclear"));
        command.args(args).arg(self.path(input)).arg("-o").arg(self.path(output)).args(more);
        command.env("DREAMCLEAR_CACHE", self.path("cache")).stdin(Stdio::null());
        command
    }
}

fn save(path: &Path, tensors: impl IntoIterator<Item = (String, HostTensor)>) {
    let tensors: Vec<_> = tensors.into_iter().collect();
    safetensors::write(path, tensors.iter().map(|(n, t)| (n.as_str(), t)), &Default::default(), None)
        .unwrap();
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn succeeds(out: &Output) {
    assert!(out.status.success(), "{}", stderr(out));
}

/// Values that differ by one, as a share; a greater difference fails.
fn off_by_one(got: &[u8], expected: &[u8]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let differences: Vec<u8> = got.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).collect();
    let worst = differences.iter().max().unwrap();
    assert!(*worst <= 1, "worst difference {worst}");
    differences.iter().filter(|&&d| d == 1).count() as f64 / got.len() as f64
}

/// Replays a case: every intermediate, then the picture.
fn replay(name: &str) {
    let case = Case::new(name);
    let features = case.features();
    let (noise, dump) = (case.path("noise.safetensors"), case.path("dump.safetensors"));
    let more =
        ["--noise", noise.to_str().unwrap(), "--dump", dump.to_str().unwrap(), &features[0], &features[1]];
    succeeds(&case.restore("picture.png", "out.png", &more));
    let dumped = WeightSet::open(&dump).unwrap();
    let noise: BTreeMap<String, String> = serde_json::from_str(&case.metadata["f32_noise"]).unwrap();
    let lq = dumped.get("img_lq_u8").unwrap();
    assert_eq!(lq.bytes(), case.tensors["img_lq_u8"].bytes(), "the resize is PIL's to the bit");
    for key in
        ["img_pre", "latent_lq", "latent_pre", "z_T", "samples", "latent_out", "decoded", "color_fixed"]
    {
        let got = dumped.get(key).unwrap_or_else(|| panic!("{key} is not dumped"));
        // Large intermediates are not in every golden file.
        let Some(expected) = case.tensors.get(key) else { continue };
        let error = relative(got, expected);
        println!("{name:8} {key:12} {error:.1e} (official f32 against f64: {})", noise[key]);
        assert!(error <= 1e-5, "{key}: {error:.2e}");
    }
    let photo = Photo::load(case.path("out.png")).unwrap();
    let expected = &case.tensors["output"];
    assert_eq!([photo.height, photo.width, 3], expected.shape());
    let share = off_by_one(&photo.samples_u8(), expected.bytes());
    println!(
        "{name:8} picture: {share:.1e} off by one (official f32 against f64: {})",
        case.metadata["f32_output_off_by_one"]
    );
    assert!(share <= 1e-3, "{share:.1e} of the values are off by one");
}

#[test]
fn an_untiled_picture_in_fifty_steps_is_the_official_one() {
    replay("untiled");
}

#[test]
fn a_tiled_picture_is_the_official_one() {
    replay("tiled");
}

#[test]
fn a_picture_with_adain_that_is_resized_last_is_the_official_one() {
    replay("adain");
}

/// `--color-fix residual`: the reference, and by its fine scales what denoising changed of it: the difference of
/// both latents, decoded.
#[test]
fn the_residual_is_what_denoising_changed() {
    let case = Case::new("tiled");
    let dump = case.path("dump.safetensors");
    let more = ["--dump", dump.to_str().unwrap(), "--color-fix", "residual", "--steps", "2"];
    succeeds(&case.restore("picture.png", "out.png", &more));
    let dumped = WeightSet::open(&dump).unwrap();
    let get = |key: &str| dumped.get(key).unwrap_or_else(|| panic!("{key} is not dumped"));

    let half = |(k, _): &(&String, &HostTensor)| {
        ["vae.decoder.", "vae.post_quant_conv."].iter().any(|n| k.starts_with(n))
    };
    let weights = case.tensors.iter().filter(half).map(|(k, t)| (k["vae.".len()..].to_owned(), t.clone()));
    save(&case.path("decoder.safetensors"), weights);
    let config: Value = serde_json::from_str(&case.metadata["vae_config"]).unwrap();
    let scale = config["scaling_factor"].as_f64().unwrap_or(0.18215) as f32;
    let (latent, path) = (get("latent_pre"), |name: &str| case.path(name).display().to_string());
    let z = HostTensor::from_f32(latent.shape(), latent.to_f32().iter().map(|x| x / scale).collect());
    save(&case.path("z.safetensors"), [("z".to_owned(), z)]);
    let mut forward = Command::new(env!("CARGO_BIN_EXE_dreamclear"));
    forward.args(["forward", "--model", "vae-decoder", "--config", &path("vae/config.json")]);
    forward.args(["--weights", &path("decoder.safetensors")]);
    forward.args(["--input", &path("z.safetensors"), "--output", &path("decoded.safetensors")]);
    succeeds(&forward.output().unwrap());
    let decoded = WeightSet::open(case.path("decoded.safetensors")).unwrap();
    let (_, before) = decoded.iter().next().expect("one tensor");
    assert!(relative(get("decoded_pre"), before) <= 1e-5);

    let interleaved = |planes: &[f32]| {
        let n = planes.len() / 3;
        (0..3 * n).map(|i| planes[i % 3 * n + i / 3]).collect::<Vec<f32>>()
    };
    let (pre, after) = (get("img_pre").to_f32(), get("decoded").to_f32());
    let before = before.to_f32();
    let changed = pre.iter().zip(after.iter().zip(before.iter()));
    let sum: Vec<f32> = changed.map(|(pre, (after, before))| pre + (after - before) / 2.0).collect();
    let [_, _, h, w] = get("img_pre").shape()[..] else { panic!("four dimensions") };
    let picture = |planes: &[f32]| FloatImage::new(h, w, 3, interleaved(planes));
    let expected = color_fix::wavelet(picture(&sum), &picture(&pre));
    let got = interleaved(&get("color_fixed").to_f32());
    let n = got.len();
    let flat = |data: Vec<f32>| HostTensor::from_f32([n], data);
    assert!(relative(&flat(got), &flat(expected.data)) <= 1e-5);
    // It matters: the decoded picture itself is another one.
    let decoded = after.iter().map(|x| (x + 1.0) / 2.0).collect();
    assert!(relative(&flat(sum), &flat(decoded)) > 0.01);
}

/// The whole pipeline with the CUDA kernels, simulated: tiles, guidance, two steps of the sampler.
#[test]
fn the_simulated_device_restores_as_the_cpu_does() {
    if let Err(why) = dreamclear::device::sim::Simulator::new() {
        return eprintln!("skipped: {why}");
    }
    let case = Case::new("tiled");
    let features = case.features();
    let run = |output: &str, more: &[&str]| {
        let dump = case.path(&format!("{output}.safetensors"));
        let common = ["--steps", "2", "--dump", dump.to_str().unwrap(), &features[0], &features[1]];
        succeeds(&case.restore("picture.png", &format!("{output}.png"), &[&common, more].concat()));
        (WeightSet::open(&dump).unwrap(), pixels(&case, &format!("{output}.png")))
    };
    let (cpu, picture) = run("cpu", &[]);
    let mut exact = BTreeMap::new();
    for precision in ["f32", "bf16"] {
        let (sim, simulated) = run(precision, &["--device", "sim", "--precision", precision]);
        for key in ["img_pre", "latent_lq", "latent_pre", "samples", "latent_out", "decoded", "color_fixed"] {
            let error = relative(sim.get(key).unwrap(), cpu.get(key).unwrap());
            // Rounding to bf16 is 2¹⁵ times as coarse as rounding to f32, and the pipeline makes of the one
            // what it makes of the other: the autoencoder answers to a changed picture (latent_pre) with
            // ten times the change. Some dozens of roundings on the way are allowed in any case.
            let bar = match precision {
                "f32" => 1e-5,
                _ => f64::max(16.0 * 2f64.powi(-9), 2f64.powi(15) * exact[key]),
            };
            println!("{precision:5} {key:12} {error:.1e}");
            assert!(error <= bar, "{precision} {key}: {error:.2e} > {bar:.0e}");
            exact.insert(key, error);
        }
        if precision == "f32" {
            let share = off_by_one(&simulated, &picture);
            println!("{precision:5} picture: {share:.1e} off by one");
            assert!(share <= 1e-3, "{share:.1e} of the values are off by one");
            // Without intermediates to be kept, pictures stay in device memory to the end.
            let more = ["--steps", "2", "--device", "sim", "--precision", "f32", &features[0], &features[1]];
            succeeds(&case.restore("picture.png", "resident.png", &more));
            assert!(pixels(&case, "resident.png") == simulated, "the same bytes, whatever is kept");
            let residual = ["--color-fix", "residual", "--device", "sim", "--precision", "f32"];
            let (cpu, _) = run("residual-cpu", &residual[..2]);
            let (sim, _) = run("residual-sim", &residual);
            for key in ["decoded_pre", "decoded", "color_fixed"] {
                let error = relative(sim.get(key).unwrap(), cpu.get(key).unwrap());
                println!("residual {key:12} {error:.1e}");
                assert!(error <= 1e-5, "{key}: {error:.2e}");
            }
        }
    }
}

/// Pixels of a result.
fn pixels(case: &Case, name: &str) -> Vec<u8> {
    Photo::load(case.path(name)).unwrap().samples_u8().into_owned()
}

/// A job of four pictures of three sizes, two of them in tiles.
fn four_pictures(case: &Case) {
    std::fs::create_dir(case.path("in")).unwrap();
    for (name, height, width) in [("a", 32, 32), ("b", 45, 62), ("c", 33, 31), ("d", 62, 45)] {
        let bytes = (0..height * width * 3).map(|i| (i * 7919 % 251) as u8).collect();
        let photo = Photo::new(height, width, Channels::Rgb, Samples::U8(bytes));
        photo.save(case.path(&format!("in/{name}.png")), dreamclear::data::image::Format::Png, 100).unwrap();
    }
}

#[test]
fn a_seed_means_the_same_bytes_whatever_runs_beside() {
    let case = Case::new("adain");
    four_pictures(&case);
    let run = |output: &str, more: &[&str]| succeeds(&case.restore("in", output, more));
    run("one", &["--batch", "1", "--tile-batch", "1"]);
    run("four", &["--batch", "4"]);
    run("tiles", &["--tile-batch", "8"]);
    run("thread", &["--batch", "3", "--tile-batch", "5", "--threads", "1"]);
    run("shards", &["--shard", "0/2"]);
    run("shards", &["--shard", "1/2"]);
    run("streamed", &["--memory", "160MiB"]);
    run("other", &["--seed", "1"]);
    for name in ["a.png", "b.png", "c.png", "d.png"] {
        let expected = pixels(&case, &format!("one/{name}"));
        for folder in ["four", "tiles", "thread", "shards", "streamed"] {
            assert!(pixels(&case, &format!("{folder}/{name}")) == expected, "{folder}/{name}");
        }
        assert!(pixels(&case, &format!("other/{name}")) != expected, "another seed, another picture");
    }
}

#[test]
fn the_plan_names_every_stage_and_a_limit_too_small_says_what_would_do() {
    let case = Case::new("tiled");
    let out = case.restore("picture.png", "out", &["--plan", "--json"]);
    succeeds(&out);
    let plan: Value = serde_json::from_slice(&out.stdout).unwrap();
    let plan = &plan["images"][0];
    let stages: Vec<_> =
        plan["stages"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(stages, ["swinir", "encode", "denoise", "decode"], "no caption, no text encoder");
    assert!(plan["peak_bytes"].as_u64().unwrap() > plan["resident_weight_bytes"].as_u64().unwrap());
    assert!(plan["flops"].as_f64().unwrap() > 1e9);
    assert_eq!(plan["predicted_for"], "cpu");
    assert!(!case.path("out").exists(), "a plan writes nothing");

    if dreamclear::device::sim::Simulator::new().is_ok() {
        // The simulator stands for an A100: its plan is the card's, and so is the time.
        let more = ["--plan", "--json", "--device", "sim", "--precision", "bf16"];
        let out = case.restore("picture.png", "out", &more);
        succeeds(&out);
        let card: Value = serde_json::from_slice(&out.stdout).unwrap();
        let card = &card["images"][0];
        assert_eq!(card["predicted_for"], "a100");
        let seconds = |v: &Value| v.as_f64().unwrap();
        let stages: f64 = card["stages"].as_array().unwrap().iter().map(|s| seconds(&s["seconds"])).sum();
        let whole = seconds(&card["predicted_seconds"]);
        assert!(whole > 0.0 && (whole - stages).abs() <= 1e-9 * whole, "{whole} of stages {stages}");
        assert!(card["peak_bytes"].as_u64().unwrap() > card["resident_weight_bytes"].as_u64().unwrap());
    }

    let out = case.restore("picture.png", "out", &["--memory", "1MiB"]);
    assert_eq!(out.status.code(), Some(3));
    assert!(
        stderr(&out).contains("--memory 1 MiB does not hold this picture") && stderr(&out).contains("would"),
        "{}",
        stderr(&out)
    );
}

#[test]
fn a_report_tells_the_story_of_each_picture() {
    let case = Case::new("adain");
    let features = case.features();
    let report = case.path("report.json");
    let more = ["--report", report.to_str().unwrap(), "--seed", "7", &features[0], &features[1], "--compare"];
    succeeds(&case.restore("picture.png", "out", &more));
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let image = &report["images"][0];
    assert_eq!(image["seed"], 7);
    assert_eq!(image["caption_source"], "features");
    assert_eq!(image["caption_tokens"], 6);
    assert_eq!(image["working_size"], serde_json::json!([128, 128]));
    assert_eq!(image["latent_size"], serde_json::json!([16, 16]));
    for stage in ["resize", "swinir", "encode", "denoise", "decode", "color_fix", "output"] {
        assert!(image["stage_seconds"][stage].as_f64().unwrap() >= 0.0, "{stage}");
    }
    assert!(image["fidelity"]["psnr_db"].as_f64().unwrap().is_finite());
    assert!(image["peak_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(case.path("out/picture.compare.png").is_file());
}

#[test]
fn weights_that_do_not_fit_are_named_before_anything_runs() {
    let case = Case::new("adain");
    let fails = |words: &[&str]| {
        let out = case.restore("picture.png", "out", &[]);
        assert_eq!(out.status.code(), Some(1), "{}", stderr(&out));
        for word in words {
            assert!(stderr(&out).contains(word), "{word}: {}", stderr(&out));
        }
        assert!(!case.path("out/picture.png").exists());
    };
    let key = "cross_de.1.proj.weight";
    case.write_weights("dreamclear", |w| _ = w.remove(key));
    fails(&["1 missing: cross_de.1.proj.weight", "dreamclear"]);
    case.write_weights("dreamclear", |w| _ = w.insert("surplus".into(), w[key].clone()));
    fails(&["1 unexpected: surplus"]);
    case.write_weights("dreamclear", |w| {
        let t = w["controlnet_lq.0.copied_block.mlp.fc1.weight"].clone();
        let turned = t.reshaped([t.shape()[1], t.shape()[0]]);
        w.insert("controlnet_lq.0.copied_block.mlp.fc1.weight".into(), turned);
    });
    fails(&["looks transposed", "controlnet_lq.0.copied_block.mlp.fc1.weight"]);
    case.write_weights("dreamclear", |w| {
        let mut values = w[key].to_f32().into_owned();
        values[5] = f32::NAN;
        w.insert(key.into(), HostTensor::from_f32(w[key].shape(), values));
    });
    fails(&["`cross_de.1.proj.weight` holds a value that is not finite (element 5)"]);
    case.write_weights("dreamclear", |_| {});
    case.write_weights("vae", |w| _ = w.remove("decoder.conv_in.weight"));
    fails(&["1 missing: decoder.conv_in.weight"]);
}

#[test]
fn caption_features_of_another_shape_are_refused() {
    let case = Case::new("adain");
    let features = case.features();
    let bad: [(&str, Vec<usize>); 3] =
        [("tokens", vec![1, 11, 32]), ("channels", vec![1, 10, 31]), ("axes", vec![2, 10, 32])];
    for (what, shape) in bad {
        case.write_features("features/picture.npz", |a| {
            let n: usize = shape.iter().product();
            a.insert("caption_feature".into(), HostTensor::from_f32(shape, vec![0.5; n]));
            if what == "tokens" {
                a.insert("attention_mask".into(), HostTensor::from_i64([1, 11], vec![1; 11]));
            }
        });
        let out = case.restore("picture.png", "out", &[&features[0], &features[1]]);
        assert_eq!(out.status.code(), Some(3), "{what}: {}", stderr(&out));
        assert!(stderr(&out).contains("caption"), "{what}: {}", stderr(&out));
        // The user may prefer a picture without its caption.
        let fallback = ["--caption-fallback", &features[0], &features[1]];
        if what == "axes" {
            let out = case.restore("picture.png", "fallback", &fallback);
            succeeds(&out);
            assert!(stderr(&out).contains("null caption"), "{}", stderr(&out));
        }
    }
    std::fs::remove_file(case.path("features/picture.npz")).unwrap();
    let out = case.restore("picture.png", "out", &[&features[0], &features[1]]);
    assert_eq!(out.status.code(), Some(3));
    assert!(stderr(&out).contains("picture.npz"), "{}", stderr(&out));
}

/// A text encoder as wide as the golden network's captions, with a tokenizer.
fn tiny_t5(case: &Case) -> String {
    let config = serde_json::json!({
        "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 8192,
        "relative_attention_num_buckets": 32, "feed_forward_proj": "gated-gelu", "model_type": "t5",
    });
    let folder = case.path("t5");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/t5_tokenizer/spiece.model");
    std::fs::copy(golden, folder.join("spiece.model")).unwrap();
    let (model, _) = T5Encoder::from_config(Some(&config), &Default::default()).unwrap();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let centre = if shape.len() == 1 { 1.0 } else { 0.0 };
        let tensor = support::recipe_tensor(&name, &shape, centre, 1, -22);
        (name, tensor)
    };
    save(&folder.join("model.safetensors"), model.parameters().unwrap().into_iter().map(tensor));
    folder.display().to_string()
}

#[test]
fn captions_steer_whichever_way_they_come() {
    let case = Case::new("adain");
    let t5 = tiny_t5(&case);
    let run = |output: &str, more: &[&str]| {
        let out = case.restore("picture.png", output, &[&["--t5", &t5], more].concat());
        succeeds(&out);
        pixels(&case, &format!("{output}/picture.png"))
    };
    let null = run("null", &[]);
    let text = "A photo of the sea at dusk, oil painting";
    let said = run("said", &["--caption", text]);
    assert!(said != null, "a caption changes the picture");
    std::fs::create_dir(case.path("captions")).unwrap();
    // The cleaning takes the difference out: address, case, spaces.
    std::fs::write(case.path("captions/picture.txt"), format!("{}   http://x.org/y \n", text.to_uppercase()))
        .unwrap();
    let captions = case.path("captions").display().to_string();
    assert!(run("file", &["--captions", &captions]) == said);
    assert!(run("negative", &["--caption", text, "--negative", "blurry"]) != said);
    let plan = case.restore("picture.png", "plan", &["--t5", &t5, "--caption", text, "--plan"]);
    assert!(String::from_utf8_lossy(&plan.stdout).contains("text"), "{plan:?}");

    // An endpoint that answers is asked once; then its answer is on disk.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 65536];
        while !request.ends_with(b"}") {
            let n = stream.read(&mut buffer).unwrap();
            request.extend_from_slice(&buffer[..n]);
        }
        let body = format!(r#"{{"choices":[{{"message":{{"role":"assistant","content":"{text}"}}}}]}}"#);
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        String::from_utf8_lossy(&request).into_owned()
    });
    assert!(run("asked", &["--vlm", &url]) == said);
    let request = server.join().unwrap();
    assert!(
        request.contains("Describe this image and its style.") && request.contains("data:image/png;base64,")
    );
    assert!(run("again", &["--vlm", &url]) == said, "nobody listens any more: the answer was kept");
}

#[test]
fn an_endpoint_that_is_down_fails_or_is_done_without() {
    let case = Case::new("adain");
    let t5 = tiny_t5(&case);
    // Nobody listens on port 9 of this machine.
    let vlm = ["--vlm", "http://127.0.0.1:9/v1", "--vlm-retries", "0", "--vlm-timeout", "2", "--t5", &t5];
    let out = case.restore("picture.png", "out", &vlm);
    assert_eq!(out.status.code(), Some(3), "{}", stderr(&out));
    assert!(
        stderr(&out).contains("127.0.0.1:9") && stderr(&out).contains("--caption-fallback"),
        "{}",
        stderr(&out)
    );
    let report = case.path("report.json");
    let fallback = ["--caption-fallback", "--report", report.to_str().unwrap()];
    succeeds(&case.restore("picture.png", "out", &[&vlm[..], &fallback].concat()));
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(report["images"][0]["caption_source"], "null");
    assert!(report["images"][0]["notes"].to_string().contains("null caption"));
}

#[test]
fn a_killed_job_goes_on_where_it_stopped() {
    let case = Case::new("adain");
    four_pictures(&case);
    succeeds(&case.restore("in", "whole", &["--steps", "60"]));
    let mut child = case.command("in", "out", &["--steps", "60"]).spawn().unwrap();
    let start = std::time::Instant::now();
    // The second picture is written after the first one's entry in the journal.
    while !case.path("out/b.png").exists() {
        assert!(start.elapsed().as_secs() < 60, "the first picture takes too long");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    let left: Vec<_> =
        ["a", "b", "c", "d"].iter().filter(|n| !case.path(&format!("out/{n}.png")).exists()).collect();
    assert!(!left.is_empty(), "killed too late to show anything");
    let out = case.restore("in", "out", &["--steps", "60", "--resume"]);
    succeeds(&out);
    assert!(stderr(&out).contains("already done"), "{}", stderr(&out));
    for name in ["a.png", "b.png", "c.png", "d.png"] {
        assert!(pixels(&case, &format!("out/{name}")) == pixels(&case, &format!("whole/{name}")), "{name}");
    }
    let files: Vec<_> =
        std::fs::read_dir(case.path("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!files.iter().any(|f| f.to_string_lossy().contains(".tmp")), "{files:?}");
}

#[test]
fn ctrl_c_stops_between_two_kernels() {
    let case = Case::new("untiled");
    let mut child =
        case.command("picture.png", "out", &["--steps", "1000"]).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    let start = std::time::Instant::now();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(start.elapsed().as_secs() < 5);
    assert!(!case.path("out/picture.png").exists());
}

#[test]
fn a_bundle_restores_the_same_bytes_as_the_files_it_was_made_of() {
    let case = Case::new("adain");
    // The text encoder and its tokenizer travel in the bundle too.
    tiny_t5(&case);
    let bundle = case.path("bundle.safetensors");
    let convert = |dtype: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dreamclear"));
        command.arg("convert").arg(case.folder.path()).arg(&bundle).args(["--dtype", dtype, "--force"]);
        succeeds(&command.output().unwrap());
    };
    let restore = |output: &str, weights: &Path| {
        let args = case.args();
        // Without the components by name: everything comes from --weights.
        let keep: Vec<&String> = args
            .iter()
            .enumerate()
            .filter(|(i, _)| {
                let named = |a: &str| ["--swinir", "--vae", "--dreamclear", "--weights"].contains(&a);
                !named(&args[*i]) && (*i == 0 || !named(&args[*i - 1]))
            })
            .map(|(_, a)| a)
            .collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dreamclear"));
        command
            .args(keep)
            .arg("--weights")
            .arg(weights)
            .arg(case.path("picture.png"))
            .arg("-o")
            .arg(case.path(output))
            .args(["--caption", "the sea at dusk"]);
        succeeds(&command.output().unwrap());
    };
    restore("files", case.folder.path());
    convert("keep");
    restore("kept", &bundle);
    assert!(pixels(&case, "files/picture.png") == pixels(&case, "kept/picture.png"));
    // Half the bytes for the matrices of the two large networks; arithmetic stays f32.
    let before = std::fs::metadata(&bundle).unwrap().len();
    convert("bf16");
    let after = std::fs::metadata(&bundle).unwrap().len();
    let matrices = |tensors: &mut dyn Iterator<Item = &HostTensor>| -> usize {
        tensors.filter(|t| t.shape().len() > 1).map(HostTensor::len).sum()
    };
    let t5 = WeightSet::open(case.path("t5")).unwrap();
    let own = case.tensors.iter().filter(|(k, _)| k.starts_with("dreamclear.")).map(|(_, t)| t);
    let halved = matrices(&mut own.chain(t5.iter().map(|(_, t)| t)));
    let saved = (before - after) as f64 / (2 * halved) as f64;
    assert!((saved - 1.0).abs() < 0.02, "{before} {after}: {saved}");
    restore("half", &bundle);
    let (a, b) = (pixels(&case, "files/picture.png"), pixels(&case, "half/picture.png"));
    let mean = a.iter().zip(&b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64;
    println!("bf16 weights: mean difference {mean:.2} levels");
    assert!(mean > 0.0 && mean < 8.0, "{mean}");
}
