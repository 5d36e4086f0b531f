//! The published sizes with random weights: does it fit, does it finish, is the plan right?
//! Takes gigabytes and many minutes, so it runs when asked for:
//! `cargo test --release --test full_size -- --ignored --nocapture`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use dreamclear::data::image::{Channels, Format, Photo, Samples};
use dreamclear::models::controlformer::DreamClear;
use dreamclear::models::network::Network;
use dreamclear::models::pixart::PixArt;
use dreamclear::models::swinir::SwinIr;
use dreamclear::models::{ImageNetwork, vae};
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::weights::safetensors;
use serde_json::Value;

/// Uniform in ±1/√fan-in for matrices, 1 or 0 for vectors: activations stay in range.
fn random(name: &str, shape: &[usize], dtype: DType) -> HostTensor {
    let n: usize = shape.iter().product();
    let fan_in = n / shape[0].max(1);
    let norm = name.contains("norm") || name.contains("patch_embed");
    if shape.len() == 1 {
        let value = if norm && name.ends_with("weight") { 1.0 } else { 0.0 };
        return HostTensor::from_f32(shape, vec![value; n]);
    }
    // Modulators that start near identity, as trained ones do: 28 layers multiply up.
    let small =
        name.contains("proj_mul") || name.contains("proj_add") || name.starts_with("base_model.final_layer");
    let bound = (fan_in as f32).powf(-0.5) * if small { 0.02 } else { 1.0 };
    let mut state =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    HostTensor::from_f32(shape, (0..n).map(|_| bound * next()).collect()).cast(dtype)
}

fn write(path: &Path, shapes: BTreeMap<String, Vec<usize>>, matrices: DType) {
    let random = |(name, shape): (String, Vec<usize>)| {
        let dtype = if shape.len() > 1 { matrices } else { DType::F32 };
        let tensor = random(&name, &shape, dtype);
        (name, tensor)
    };
    let tensors: Vec<(String, HostTensor)> = shapes.into_iter().map(random).collect();
    safetensors::write(path, tensors.iter().map(|(n, t)| (n.as_str(), t)), &Default::default(), None)
        .unwrap();
}

/// Official-shaped files: SwinIR and autoencoder in f32, the diffusion transformer in bf16.
fn files(folder: &Path) {
    let swinir = SwinIr::general();
    let shapes = swinir.graph(1, 64, 64, false).unwrap().param_shapes().into_iter().collect();
    write(&folder.join("swinir.safetensors"), shapes, DType::F32);
    let config = serde_json::json!({
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4, "norm_num_groups": 32,
        "in_channels": 3, "out_channels": 3, "act_fn": "silu", "scaling_factor": 0.18215,
    });
    let (network, _) = vae::VaeNetwork::new(vae::Half::Whole, Some(&config), &Default::default()).unwrap();
    std::fs::create_dir_all(folder.join("vae")).unwrap();
    std::fs::write(folder.join("vae/config.json"), config.to_string()).unwrap();
    write(&folder.join("vae/diffusion_pytorch_model.safetensors"), network.parameters().unwrap(), DType::F32);
    let network = DreamClear { base: PixArt::xl_1024(), copy_blocks_num: 28 };
    let config = serde_json::json!({ "input_size": 128, "lewei_scale": 2.0, "copy_blocks_num": 28 });
    std::fs::create_dir_all(folder.join("dreamclear")).unwrap();
    std::fs::write(folder.join("dreamclear/config.json"), config.to_string()).unwrap();
    write(&folder.join("dreamclear/model.safetensors"), network.parameters().unwrap(), DType::BF16);
}

/// 256×256 to 1024×1024: a full-size step on a 128×128 latent, both halves of the guidance.
#[test]
#[ignore = "gigabytes of weights, many minutes"]
fn a_full_size_picture_fits_and_takes_what_the_plan_says() {
    let folder = std::env::var_os("DREAMCLEAR_FULL_SIZE").map(std::path::PathBuf::from);
    let temporary = tempfile::tempdir().unwrap();
    let folder = folder.unwrap_or_else(|| temporary.path().to_owned());
    if !folder.join("dreamclear/model.safetensors").exists() {
        files(&folder);
    }
    let bytes = (0..256 * 256 * 3).map(|i| (i * 7919 % 251) as u8).collect();
    let photo = Photo::new(256, 256, Channels::Rgb, Samples::U8(bytes));
    photo.save(folder.join("photo.png"), Format::Png, 100).unwrap();
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dreamclear"));
        command.arg("restore").arg(folder.join("photo.png")).arg("-o").arg(folder.join("out.png"));
        command
            .args(["--model", "dreamclear", "--steps", "2", "--json", "--weights"])
            .arg(&folder)
            .args(more);
        let out = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
        assert!(out.status.success());
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    let plan = run(&["--plan"]);
    let planned = plan["images"][0]["peak_bytes"].as_f64().unwrap();
    println!("{plan:#}");
    let start = std::time::Instant::now();
    let report = run(&[]);
    let image = &report["images"][0];
    let peak = image["peak_bytes"].as_f64().unwrap();
    let gib = (1u64 << 30) as f64;
    println!("{:#}", image["stage_seconds"]);
    println!(
        "{:.1} s, peak {:.2} GiB, planned {:.2} GiB",
        start.elapsed().as_secs_f64(),
        peak / gib,
        planned / gib
    );
    assert!(peak <= 16.0 * gib, "peak {peak}");
    assert!((peak / planned - 1.0).abs() <= 0.1, "peak {peak}, planned {planned}");
}
