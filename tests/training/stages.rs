//! All trainers in turn: what one exports the next one reads, and the commands that use it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use dreamclear::data::image::{Channels, Format, Photo, Samples};
use dreamclear::weights::WeightSet;
use serde_json::Value;

use super::{Job, kill, official, photo, wait_for};

/// Runs the command to its end in a folder.
pub fn dreamclear(folder: &Path, arguments: &[&str]) {
    let out =
        Command::new(env!("CARGO_BIN_EXE_dreamclear")).current_dir(folder).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{arguments:?}: {said}");
}

fn updates(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("log.jsonl")).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    lines.filter(|l| l["kind"] == "update").collect()
}

fn validation(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("log.jsonl")).unwrap();
    let mut lines = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    lines.find(|l| l["kind"] == "validation").expect("a validation")
}

const SMALL_VAE: &str = "steps = 2\nbatch = 2\n[model.network]\nblock_out_channels = [4, 4, 8, 8]\nlayers_per_block = 1\n\
    latent_channels = 4\nnorm_num_groups = 4\nmid_block_add_attention = false\nscaling_factor = 0.5\n\
    [data]\nphotos = \"photos\"\ncrop = 16\n[validation]\nphotos = \"photos\"\nevery = 2\npictures = 1\nshow = 1\n";

const SMALL_DREAMCLEAR: &str = "steps = 2\nbatch = 2\nmicro_batch = 2\n[model.network]\ninput_size = 8\nhidden_size = 24\n\
    depth = 1\nnum_heads = 2\ncaption_channels = 4\nmodel_max_length = 2\ncopy_blocks_num = 1\n\
    [frozen]\nswinir = \"swinir/export/swinir.safetensors\"\nvae = \"vae/export/vae.safetensors\"\n\
    [data]\ncrop = 16\n[degradation]\nkind = \"codeformer\"\nblur.sizes = [7]\n[validation]\nevery = 2\npictures = 2\n\
    sampler_steps = 2\n[checkpoint]\nevery = 1\n";

/// SwinIR, autoencoder, and with both in the loop DreamClear: each trainer's export is what the next one reads.
#[test]
fn all_stages_train_one_on_the_other() {
    let job = Job::new();
    let folder = job.dir.path();
    job.finish("swinir", &["--steps", "1", "--set", "schedule.warmup=0"]);
    fs::write(folder.join("vae.toml"), SMALL_VAE).unwrap();
    dreamclear(folder, &["train", "autoencoder", "vae.toml", "-o", "vae"]);
    let log = updates(&folder.join("vae"));
    let number = |v: &Value| v.as_f64().unwrap();
    for line in &log {
        let parts = number(&line["l1"]) + 1e-6 * number(&line["kl"]);
        assert!((number(&line["loss"]) - parts).abs() < 1e-6 * parts, "{line}");
    }
    let found = validation(&folder.join("vae"));
    assert!(number(&found["psnr"]) > 0.0 && number(&found["latent_rms"]) > 0.0);
    assert!(folder.join("vae/validation/step-00000002-0.png").exists());

    fs::write(folder.join("dreamclear.toml"), SMALL_DREAMCLEAR).unwrap();
    let photos = [
        "--set",
        "data.photos=photos",
        "--set",
        "captions.features=false",
        "--set",
        "validation.photos=photos",
    ];
    let train = |output: &str, more: &[&str]| {
        let base = ["train", "dreamclear", "dreamclear.toml", "-o", output];
        dreamclear(folder, &[&base[..], more].concat());
    };
    train("one", &photos);
    let log = updates(&folder.join("one"));
    assert_eq!(log.len(), 2);
    // lr is for a batch of 128.
    assert!((number(&log[0]["rate"]) - 5e-5 * (2f64 / 128.0).sqrt()).abs() < 1e-15);
    for line in &log {
        let parts = number(&line["mse"]) + number(&line["vb"]);
        assert!((number(&line["loss"]) - parts).abs() < 1e-6 * parts, "{line}");
    }
    let found = validation(&folder.join("one"));
    assert!(number(&found["mse"]) > 0.0 && number(&found["psnr"]) > 0.0);
    // The base stays as it is drawn, the branches do not.
    let weights = WeightSet::open(folder.join("one/export/dreamclear.safetensors")).unwrap();
    let bytes = |key: &str| weights.get(key).unwrap_or_else(|| panic!("{key}")).bytes().to_vec();
    let copy = bytes("controlnet_lq.0.copied_block.attn.qkv.weight");
    assert!(bytes("base_model.blocks.0.attn.qkv.weight") != copy, "the copy has moved in the second update");
    dreamclear(folder, &["inspect", "one/export/dreamclear.safetensors", "--strict", "dreamclear"]);
    train("other", &[&photos[..], &["--steps", "1"]].concat());
    let other = WeightSet::open(folder.join("other/export/dreamclear.safetensors")).unwrap();
    for (key, tensor) in other.iter().filter(|(key, _)| key.starts_with("base_model.")) {
        assert!(tensor.bytes() == bytes(key), "{key} is frozen");
    }

    // Resumed after the first update: the same.
    fs::remove_file(folder.join("one/checkpoints/step-00000002.safetensors")).unwrap();
    let before = fs::read(folder.join("one/export/dreamclear.safetensors")).unwrap();
    train("one", &[&photos[..], &["--resume", "auto"]].concat());
    assert!(fs::read(folder.join("one/export/dreamclear.safetensors")).unwrap() == before);

    // The official layout with captions, and a base that learns, too.
    official(&folder.join("pairs"), 3);
    let pairs =
        ["--set", "data.paired=pairs", "--set", "validation.paired=pairs", "--set", "train_base=true"];
    train("pairs-run", &pairs);
    let trained = WeightSet::open(folder.join("pairs-run/export/dreamclear.safetensors")).unwrap();
    let key = "base_model.final_layer.linear.weight";
    assert!(trained.get(key).unwrap().to_f32().iter().any(|&x| x != 0.0), "the base has learned");
    // A PixArt to begin with: its blocks are in the base and in both branches.
    let base: Vec<_> = trained
        .iter()
        .filter_map(|(k, t)| Some((k.strip_prefix("base_model.")?.to_owned(), t.clone())))
        .collect();
    let base_file = folder.join("pixart.safetensors");
    let named = base.iter().map(|(k, t)| (k.as_str(), t));
    dreamclear::weights::safetensors::write(&base_file, named, &Default::default(), None).unwrap();
    train(
        "based",
        &[
            &photos[..],
            &["--set", "model.base=pixart.safetensors", "--set", "optimizer.weight_decay=0", "--steps", "1"],
        ]
        .concat(),
    );
    let based = WeightSet::open(folder.join("based/export/dreamclear.safetensors")).unwrap();
    let own = trained.get("base_model.blocks.0.mlp.fc1.weight").unwrap().bytes();
    assert!(based.get("base_model.blocks.0.mlp.fc1.weight").unwrap().bytes() == own);
    // Nothing speaks through the copies before the second update: they are still the base's.
    assert!(based.get("controlnet_pre.0.copied_block.mlp.fc1.weight").unwrap().bytes() == own);
}

/// `train dreamclear` shows what `restore` makes of the exported weights.
#[test]
fn pictures_of_a_validation_are_those_of_restore() {
    let job = Job::new();
    let folder = job.dir.path();
    job.finish("swinir", &["--steps", "1", "--set", "schedule.warmup=0"]);
    fs::write(folder.join("vae.toml"), SMALL_VAE).unwrap();
    dreamclear(folder, &["train", "autoencoder", "vae.toml", "-o", "vae"]);
    official(&folder.join("pairs"), 2);
    for i in 0..2 {
        // Of the crop's size, which is one that `restore` works at.
        for (kind, seed) in [("gt", i), ("sr_bicubic", i + 100)] {
            let path = folder.join(format!("pairs/{kind}/{i:07}.png"));
            photo(seed, 64, 64).save(path, Format::Png, 95).unwrap();
        }
    }
    fs::write(folder.join("dreamclear.toml"), SMALL_DREAMCLEAR).unwrap();
    let settings = "data.paired=pairs validation.paired=pairs data.crop=64 validation.every=1 validation.show=2 \
        train_base=true optimizer.lr=1e-1 optimizer.ema=0.5";
    let mut arguments = vec!["train", "dreamclear", "dreamclear.toml", "-o", "run"];
    settings.split_whitespace().for_each(|s| arguments.extend(["--set", s]));
    dreamclear(folder, &arguments);
    let found = validation(&folder.join("run"));
    assert!(found["psnr"].as_f64().unwrap() > 0.0 && found["psnr_input"].as_f64().unwrap() > 0.0, "{found}");

    // Input, output and target side by side.
    let shown = |step: usize, i: usize| {
        Photo::load(folder.join(format!("run/validation/step-{step:08}-{i}.png"))).unwrap()
    };
    let part = |picture: &Photo, n: usize| -> Vec<u8> {
        assert_eq!((picture.height, picture.width), (64, 3 * 64));
        picture.rgb_u8().chunks_exact(9 * 64).flat_map(|row| row[192 * n..192 * (n + 1)].to_vec()).collect()
    };
    for i in 0..2 {
        let picture = shown(2, i);
        let file = |kind: &str| Photo::load(folder.join(format!("pairs/{kind}/{i:07}.png"))).unwrap();
        assert!(part(&picture, 0) == *file("sr_bicubic").rgb_u8());
        assert!(part(&picture, 2) == *file("gt").rgb_u8());
        assert!(part(&picture, 1) != part(&shown(1, i), 1), "it depends on the weights");
        let name = format!("validation-{i}.png");
        file("sr_bicubic").save(folder.join(&name), Format::Png, 95).unwrap();
        let features = format!("pairs/npz/{i:07}.npz");
        let options = "restore --model dreamclear --device cpu --swinir swinir/export/swinir.safetensors --vae \
            vae/export/vae.safetensors --dreamclear run/export/dreamclear.safetensors --weights run --upscale 1 \
            --min-size 64 --steps 2 --untiled-latent 8x8 --round --seed 43 --output restored";
        let mut arguments: Vec<_> = options.split_whitespace().collect();
        arguments.extend(["--caption-features", &features, &name]);
        dreamclear(folder, &arguments);
        let restored = Photo::load(folder.join("restored").join(&name)).unwrap();
        // What is shown was rounded to 16 bits before 8.
        let pairs = part(&picture, 1).into_iter().zip(restored.rgb_u8().iter().copied()).collect::<Vec<_>>();
        assert!(pairs.iter().all(|(a, b)| a.abs_diff(*b) <= 1));
        assert!(pairs.iter().filter(|(a, b)| a != b).count() <= pairs.len() / 100);
    }

    // Latents that are kept are those that would be made again.
    for (output, mib) in [("fresh", "0"), ("kept", "8")] {
        let latents = format!("data.latents_mib={mib}");
        let more = ["--set", &latents, "--set", "validation.every=0", "--steps", "5", "-o", output];
        let run = arguments.iter().filter(|a| !["-o", "run"].contains(a)).chain(&more);
        dreamclear(folder, &run.copied().collect::<Vec<_>>());
    }
    assert_eq!(job.log("fresh"), job.log("kept"));
    let export = |run: &str| fs::read(job.path(run).join("export/dreamclear.safetensors")).unwrap();
    assert!(export("fresh") == export("kept"));

    // A signal does not wait for a validation, which may be long, but for the checkpoint.
    let long = ["--set", "validation.sampler_steps=1000", "--steps", "9", "-o", "stopped"];
    let run: Vec<_> = arguments.iter().filter(|a| !["-o", "run"].contains(a)).chain(&long).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dreamclear"));
    let mut child = command.current_dir(folder).args(run).stderr(Stdio::null()).spawn().unwrap();
    wait_for("an update", || job.path("stopped/log.jsonl").exists() && job.log("stopped").len() == 1);
    assert_eq!(kill(&mut child, libc::SIGTERM), Some(0));
    assert_eq!(job.log("stopped").len(), 1, "there is no validation in it");
    assert_eq!(job.checkpoints("stopped"), ["step-00000001.safetensors"]);

    // An autoencoder that the pipeline does not take is told before the first update.
    let vae = SMALL_VAE.replace("[4, 4, 8, 8]", "[8, 16]");
    fs::write(folder.join("vae.toml"), vae).unwrap();
    dreamclear(folder, &["train", "autoencoder", "vae.toml", "-o", "vae2"]);
    arguments.retain(|a| !["-o", "run"].contains(a));
    arguments.extend(["--set", "frozen.vae=vae2/export/vae.safetensors", "-o", "other"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_dreamclear"));
    let out = command.current_dir(folder).args(&arguments).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("found one of 4 at 1/2") && said.contains("validation.show = 0"), "{said}");
    for (setting, expected) in [
        // Photos are degraded anew each time.
        ("data.latents_mib=8", "data.latents_mib: photos are degraded anew"),
        ("diffusion.timesteps=0", "diffusion.timesteps: expected 1 to 1000, found 0"),
        ("validation.walk_from=1000", "expected a first timestep of 1 to 999, found 1000"),
        // A walk through noise that the network never saw.
        (
            "diffusion.timesteps=400",
            "validation.walk_from: expected a timestep below diffusion.timesteps = 400",
        ),
    ] {
        let mut arguments = vec!["train", "dreamclear", "dreamclear.toml", "-o", "other"];
        let settings = ["data.photos=photos", "captions.features=false", "validation.photos=photos", setting];
        settings.iter().for_each(|s| arguments.extend(["--set", s]));
        let mut command = Command::new(env!("CARGO_BIN_EXE_dreamclear"));
        let out = command.current_dir(folder).args(&arguments).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_classifier_tells_two_kinds_apart() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    for i in 0..4 {
        // Stripes one way, and the other.
        let stripes = |upright: bool| {
            let level =
                |p: usize| if (if upright { p / 3 % 40 } else { p / 120 } + i) % 4 < 2 { 40 } else { 210 };
            Photo::new(40, 40, Channels::Rgb, Samples::U8((0..4800).map(level).collect()))
        };
        stripes(true).save(folder.join(format!("good/{i}.png")), Format::Png, 95).unwrap();
        stripes(false).save(folder.join(format!("bad/{i}.png")), Format::Png, 95).unwrap();
    }
    let text = "steps = 12\nbatch = 8\n[model.network]\nlayers = [1, 1, 1, 1]\ninplanes = 4\n\
        [data]\npositive = \"good\"\nnegative = \"bad\"\ncrop = 32\n[optimizer]\nlr = 1e-2\n\
        [validation]\npositive = \"good\"\nnegative = \"bad\"\nevery = 12\n";
    fs::write(folder.join("c.toml"), text).unwrap();
    dreamclear(folder, &["train", "classifier", "c.toml", "-o", "run"]);
    let losses: Vec<_> = updates(&folder.join("run")).iter().map(|l| l["bce"].as_f64().unwrap()).collect();
    assert!(losses[11] < 0.5 * losses[0], "{losses:?}");
    let found = validation(&folder.join("run"));
    assert!(found["auc"].as_f64().unwrap() > 0.5, "{found}");
    dreamclear(folder, &["inspect", "run/export/classifier.safetensors", "--strict", "resnet50"]);
}
