//! The `dreamclear` command as its users meet it: exit codes, files, messages.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use dreamclear::data::image::{Channels, Photo, Samples};
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::weights::{WeightSet, safetensors};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn dreamclear(args: &[&str]) -> Output {
    command(args).output().expect("the binary runs")
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dreamclear"));
    command.args(args).stdin(Stdio::null());
    command
}

/// `restore` of one picture on a machine where nothing was fetched.
fn restore_without_cache(photo: &Path, out: &Path, more: &[&str]) -> Output {
    let args = ["restore", s(photo), "-o", s(out)];
    command(&[&args[..], more].concat()).env("DREAMCLEAR_CACHE", "/nonexistent").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_code(out: &Output, code: i32) {
    assert_eq!(out.status.code(), Some(code), "stdout: {}\nstderr: {}", text(&out.stdout), text(&out.stderr));
}

/// The weights of a golden network as a file of their own.
fn weights(folder: &Path, golden: &str) -> PathBuf {
    let path = folder.join(format!("{golden}.weights.safetensors"));
    extract(&format!("tests/golden/{golden}.safetensors"), "weight.", &path);
    path
}

/// The tensors of a file of this repository under a prefix, without it, as a file of their own.
fn extract(from: &str, prefix: &str, to: &Path) {
    let set = WeightSet::open(root().join(from)).unwrap();
    let tensors: Vec<(String, HostTensor)> =
        set.iter().filter_map(|(k, t)| k.strip_prefix(prefix).map(|k| (k.to_owned(), t.clone()))).collect();
    let list = tensors.iter().map(|(k, t)| (k.as_str(), t));
    safetensors::write(to, list, &Default::default(), None).unwrap();
}

fn s(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A smooth coloured picture.
fn picture(folder: &Path, name: &str, width: usize, height: usize) -> PathBuf {
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let wave = |f: f64| (127.5 + 127.5 * (f * x as f64 + 0.3 * f * y as f64).sin()) as u8;
            pixels.extend([wave(0.11), wave(0.23), wave(0.07)]);
        }
    }
    let path = folder.join(name);
    let photo = Photo::new(height, width, Channels::Rgb, Samples::U8(pixels));
    photo.save(&path, dreamclear::data::image::Format::from_path(&path).unwrap(), 95).unwrap();
    path
}

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> = walkdir::WalkDir::new(folder)
        .into_iter()
        .map(|e| e.unwrap())
        .filter(|e| e.file_type().is_file())
        .map(|e| e.path().strip_prefix(folder).unwrap().to_string_lossy().into_owned())
        .collect();
    all.sort();
    all
}

#[test]
fn help_of_every_command_shows_an_example() {
    for name in ["restore", "degrade", "forward", "inspect", "convert", "fetch", "ops", "info"] {
        let out = dreamclear(&[name, "--help"]);
        assert_code(&out, 0);
        assert!(
            text(&out.stdout).contains(&format!("Example: dreamclear {name}")),
            "{name}: {}",
            text(&out.stdout)
        );
    }
    assert_code(&dreamclear(&["no-such-command"]), 2);
    assert_code(&dreamclear(&["restore", "x.png"]), 2); // no -o
}

#[test]
fn reports_are_one_json_document_on_stdout() {
    for args in [&["ops", "--json"][..], &["info", "--json"]] {
        let out = dreamclear(args);
        assert_code(&out, 0);
        serde_json::from_slice::<Value>(&out.stdout).expect("one JSON document");
    }
}

#[test]
fn forward_reproduces_a_golden_network() {
    let dir = tempfile::tempdir().unwrap();
    let golden = WeightSet::open(root().join("tests/golden/rrdbnet_x2.safetensors")).unwrap();
    let weights = weights(dir.path(), "rrdbnet_x2");
    let (config, input, output) =
        (dir.path().join("c.json"), dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    std::fs::write(&config, &golden.metadata()["config"]).unwrap();
    let x = golden.get("input.x").unwrap();
    safetensors::write(&input, [("x", x)], &Default::default(), None).unwrap();
    let args = [
        "forward",
        "--model",
        "rrdbnet",
        "--config",
        s(&config),
        "--weights",
        s(&weights),
        "--input",
        s(&input),
    ];
    let out = command(&args).args(["--output", s(&output)]).output().unwrap();
    assert_code(&out, 0);
    let result = WeightSet::open(&output).unwrap();
    let (got, want) = (result.get("out").unwrap().to_f64(), golden.get("out").unwrap().to_f64());
    assert_eq!(got.len(), want.len());
    assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= 1e-5 * (1.0 + w.abs())));

    // Wrong network, wrong tensor name, and a key too many: each one sentence, nothing written.
    let bad =
        ["forward", "--model", "swinir", "--weights", s(&weights), "--input", s(&input), "--output", "x"];
    let out = dreamclear(&bad);
    assert_code(&out, 1);
    assert!(text(&out.stderr).contains("expected weights of swinir, found rrdbnet"), "{}", text(&out.stderr));
    safetensors::write(&input, [("y", x)], &Default::default(), None).unwrap();
    let out = command(&args).args(["--output", s(&output)]).output().unwrap();
    assert_code(&out, 1);
    assert!(text(&out.stderr).contains("expected a tensor \"x\", found y"), "{}", text(&out.stderr));
}

#[test]
fn weights_that_do_not_fit_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let good = WeightSet::open(weights(dir.path(), "rrdbnet_x4")).unwrap();
    let mut list: Vec<(String, HostTensor)> =
        good.iter().filter(|(k, _)| *k != "conv_hr.bias").map(|(k, t)| (k.to_owned(), t.clone())).collect();
    list.push(("surplus".into(), HostTensor::zeros(DType::F32, [3])));
    let path = dir.path().join("bad.safetensors");
    safetensors::write(&path, list.iter().map(|(k, t)| (k.as_str(), t)), &Default::default(), None).unwrap();
    let photo = picture(dir.path(), "a.png", 8, 8);
    let out = dreamclear(&["restore", s(&photo), "-o", s(&dir.path().join("o")), "--weights", s(&path)]);
    assert_code(&out, 1);
    let err = text(&out.stderr);
    assert!(err.contains("1 missing: conv_hr.bias") && err.contains("1 unexpected: surplus"), "{err}");
    assert!(!dir.path().join("o").exists());
}

#[test]
fn a_directory_with_bad_files_is_restored_around_them() {
    let dir = tempfile::tempdir().unwrap();
    let weights = weights(dir.path(), "rrdbnet_x4");
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::create_dir_all(input.join("deep/er")).unwrap();
    picture(&input, "a.png", 20, 14);
    picture(&input, "deep/er/b.jpg", 9, 17);
    picture(&input, "one.png", 1, 1);
    picture(&input, "thin.png", 3, 700);
    let whole = std::fs::read(picture(&input, "truncated.png", 30, 30)).unwrap();
    std::fs::write(input.join("truncated.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(input.join("empty.png"), b"").unwrap();
    std::fs::write(input.join("text.png"), b"this is not a picture\n").unwrap();
    let report = dir.path().join("report.json");
    let args = ["restore", s(&input), "-r", "-o", s(&output), "--weights", s(&weights), "--compare"];
    let out = command(&args).args(["--report", s(&report)]).output().unwrap();
    assert_code(&out, 3);
    let err = text(&out.stderr);
    for bad in ["truncated.png", "empty.png", "text.png"] {
        assert!(err.contains(bad), "{bad} is not listed: {err}");
    }
    let want = ["a.png", "deep/er/b.png", "one.png", "thin.png"];
    let made = names(&output);
    for name in want {
        assert!(made.iter().any(|n| n == name), "{name} is missing from {made:?}");
    }
    let photo = Photo::load(output.join("a.png")).unwrap();
    assert_eq!((photo.width, photo.height), (80, 56));
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!((report["done"].as_u64(), report["failed"].as_array().map(Vec::len)), (Some(4), Some(3)));

    // Resume does nothing anew, except for what failed.
    let again = command(&args).arg("--resume").output().unwrap();
    assert_code(&again, 3);
    assert!(text(&again.stderr).contains("0 restored, 4 already done"), "{}", text(&again.stderr));
}

#[test]
fn tiles_change_nothing_when_they_overlap_enough() {
    let dir = tempfile::tempdir().unwrap();
    let weights = weights(dir.path(), "rrdbnet_x4");
    let photo = picture(dir.path(), "a.png", 190, 150);
    let restore = |out: &str, extra: &[&str]| {
        let out = dir.path().join(out);
        let args = ["restore", s(&photo), "-o", s(&out), "--weights", s(&weights)];
        assert_code(&command(&args).args(extra).output().unwrap(), 0);
        Photo::load(out).unwrap()
    };
    let whole = restore("whole.png", &[]);
    // Two blocks see 2·15 + 5 = 35 pixels far; an overlap of 72 covers that on both sides.
    let tiled = restore("tiled.png", &["--tile", "96", "--tile-overlap", "72"]);
    assert_eq!((whole.width, whole.height), (760, 600));
    let (a, b) = (whole.samples_u8(), tiled.samples_u8());
    let worst = a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst <= Some(1), "tiled differs from whole by {worst:?} levels");
}

#[test]
fn the_same_bytes_from_one_and_two_threads() {
    let dir = tempfile::tempdir().unwrap();
    let weights = weights(dir.path(), "rrdbnet_x4");
    let photo = picture(dir.path(), "a.png", 37, 29);
    let bytes = |threads: &str| {
        let out = dir.path().join(format!("{threads}.png"));
        let args = ["restore", s(&photo), "-o", s(&out), "--weights", s(&weights), "--threads", threads];
        assert_code(&dreamclear(&args), 0);
        std::fs::read(out).unwrap()
    };
    assert!(bytes("1") == bytes("2"));
}

#[test]
fn plan_tells_the_peak_and_runs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let weights = weights(dir.path(), "rrdbnet_x4");
    let photo = picture(dir.path(), "a.png", 300, 200);
    let output = dir.path().join("out");
    let args = ["restore", s(&photo), "-o", s(&output), "--weights", s(&weights), "--plan", "--json"];
    let out = command(&args).args(["--memory", "40MiB"]).output().unwrap();
    assert_code(&out, 0);
    let plan: Value = serde_json::from_slice(&out.stdout).unwrap();
    let row = &plan["images"][0];
    assert!(row["predicted_seconds"].as_f64() > Some(0.0), "{row}");
    assert!(row["tiles"].as_u64() > Some(1) && row["arena_bytes"].as_u64() <= Some(40 << 20), "{row}");
    assert!(!output.exists());
    // Too little for any tile: refused with the figure.
    let out = command(&args).args(["--memory", "10KiB"]).output().unwrap();
    assert_code(&out, 3);
    assert!(text(&out.stderr).contains("working memory"), "{}", text(&out.stderr));
}

#[test]
fn hostile_weight_files_get_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let header = dir.path().join("huge.safetensors");
    std::fs::write(&header, [&(1u64 << 60).to_le_bytes()[..], b"{}"].concat()).unwrap();
    let out = dreamclear(&["inspect", s(&header)]);
    assert_code(&out, 1);
    assert_eq!(text(&out.stderr).lines().count(), 1, "{}", text(&out.stderr));

    let evil = root().join("tests/golden/weights/evil");
    let mut seen = 0;
    for entry in std::fs::read_dir(evil).unwrap() {
        let path = entry.unwrap().path();
        let out = dreamclear(&["inspect", s(&path)]);
        assert_code(&out, 1);
        assert_eq!(text(&out.stderr).lines().count(), 1, "{}: {}", path.display(), text(&out.stderr));
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn missing_weights_say_how_to_get_them() {
    let dir = tempfile::tempdir().unwrap();
    let photo = picture(dir.path(), "a.png", 8, 8);
    let restored = dir.path().join("o");
    let out = restore_without_cache(&photo, &restored, &["--model", "realesrgan-x4plus"]);
    assert_code(&out, 2);
    assert!(text(&out.stderr).contains("tools/fetch-weights realesrgan-x4plus"), "{}", text(&out.stderr));
    let out = restore_without_cache(&photo, &restored, &["--weights", s(dir.path())]);
    assert_code(&out, 2);
    assert!(text(&out.stderr).contains("no whole DreamClear"), "{}", text(&out.stderr));
}

/// Options of the whole pipeline ask for it; a single network refuses them.
#[test]
fn options_of_the_pipeline_are_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let photo = picture(dir.path(), "a.png", 8, 8);
    let restored = dir.path().join("o.png");
    let said = |more: &[&str]| {
        let out = restore_without_cache(&photo, &restored, more);
        assert_code(&out, 2);
        assert!(!restored.exists());
        text(&out.stderr)
    };
    let pipeline = said(&["--caption", "a cat"]);
    assert!(pipeline.contains("swinir") && pipeline.contains("dreamclear fetch"), "{pipeline}");
    let refused = said(&["--caption", "a cat", "--model", "dreamclear-nano"]);
    assert!(refused.contains("--caption is for a whole pipeline"), "{refused}");
    let refused = said(&["--dump", "x", "--model", "realesrgan-x4plus"]);
    assert!(refused.contains("--dump is for a whole pipeline"), "{refused}");
    let refused = said(&["--steps", "50", "--model", "dreamclear-nano"]);
    assert!(refused.contains("--steps is for a whole pipeline"), "{refused}");
    let small = ["--model", "dreamclear-nano-diffusion"];
    let refused = said(&[&small[..], &["--weights", s(dir.path())]].concat());
    assert!(refused.contains("dreamclear-nano-diffusion is inside this program"), "{refused}");
    let refused = said(&[&small[..], &["--walk-from", "3"]].concat());
    assert!(refused.contains("expected 2 to 4 sampling steps, found 5"), "{refused}");
    let refused = said(&[&small[..], &["--walk-from", "400"]].concat());
    assert!(refused.contains("--walk-from 400: expected a timestep of 1 to 399"), "{refused}");
    let refused = said(&[&small[..], &["--no-lre"]].concat());
    assert!(refused.contains("this network has learned those to 399"), "{refused}");
    let refused = said(&[&small[..], &["--caption", "a cat"]].concat());
    assert!(refused.contains("dreamclear-nano-diffusion knows no captions"), "{refused}");
    let refused = said(&[&small[..], &["--walk-from", "500", "--no-lre"]].concat());
    assert!(refused.contains("--no-lre") && refused.contains("cannot be used with"), "{refused}");
    let refused = said(&["--config", "x.json"]);
    assert!(refused.contains("--config x.json is for weight files"), "{refused}");
}

/// Without weights and without asking, the networks inside the program restore; so they do by name.
#[test]
fn the_first_command_needs_no_weights() {
    let dir = tempfile::tempdir().unwrap();
    let photo = picture(dir.path(), "a.png", 40, 24);
    let run = |out: &Path, more: &[&str]| assert_code(&restore_without_cache(&photo, out, more), 0);
    let (by_itself, by_name) = (dir.path().join("1.png"), dir.path().join("2.png"));
    run(&by_itself, &[]);
    run(&by_name, &["--model", "dreamclear-nano"]);
    assert_eq!(std::fs::read(&by_itself).unwrap(), std::fs::read(&by_name).unwrap());
    let enlarged = image::open(&by_itself).unwrap().to_rgb8();
    assert_eq!(enlarged.dimensions(), (160, 96));
    // More than an enlargement, and still the same picture.
    let plain = image::open(&photo).unwrap().to_rgb8();
    let plain = image::imageops::resize(&plain, 160, 96, image::imageops::FilterType::CatmullRom);
    let apart = |a: u8, b: u8| f64::from(a.abs_diff(b));
    let n = enlarged.as_raw().len() as f64;
    let mean = enlarged.iter().zip(plain.iter()).map(|(a, b)| apart(*a, *b)).sum::<f64>() / n;
    assert!(mean > 0.1 && mean < 40.0, "mean difference {mean}");
}

/// The whole pipeline in small needs no weights either: another picture than its first stage alone makes, the same
/// one each time, another with another seed, and still the picture that went in.
#[test]
fn the_small_pipeline_restores() {
    let dir = tempfile::tempdir().unwrap();
    let photo = picture(dir.path(), "a.png", 72, 40);
    let run = |more: &[&str]| {
        let out = dir.path().join("o.png");
        assert_code(&restore_without_cache(&photo, &out, more), 0);
        image::open(&out).unwrap().to_rgb8()
    };
    let small = |more: &[&str]| run(&[&["--model", "dreamclear-nano-diffusion"], more].concat());
    let (remover, whole) = (run(&["--model", "dreamclear-nano"]), small(&[]));
    assert_eq!(whole.dimensions(), (288, 160));
    let apart = |a: &image::RgbImage, b: &image::RgbImage| {
        let sum: f64 = a.iter().zip(b.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        sum / a.len() as f64
    };
    let change = apart(&whole, &remover);
    assert!(change > 0.1 && change < 40.0, "mean difference {change}");
    assert_eq!(whole, small(&["--batch", "2", "--tile-batch", "1", "--threads", "1"]));
    assert!(apart(&whole, &small(&["--seed", "1"])) > 0.01);
    // The less noise it begins with, the more of the first stage stays; and the decoded picture is another one.
    assert!(apart(&small(&["--walk-from", "20"]), &remover) < change);
    assert!(apart(&small(&["--color-fix", "wavelet"]), &whole) > 0.01);
}

/// What `train` exports is restored with as it was trained: `global_residual` stands in the configuration beside
/// the weights, and nowhere in their shapes.
#[test]
fn exported_weights_bring_their_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let photo = picture(dir.path(), "a.png", 40, 24);
    let exported = dir.path().join("swinir.safetensors");
    extract("assets/nano/dreamclear-nano.safetensors", "swinir.", &exported);
    std::fs::copy(root().join("assets/nano/swinir.json"), exported.with_extension("json")).unwrap();
    // A bundle without a diffusion transformer, as `tools/nano/bundle` writes it for one network: it restores.
    let bundle = dir.path().join("bundle.safetensors");
    let set = WeightSet::open(&exported).unwrap();
    let named: Vec<_> = set.iter().map(|(name, tensor)| (format!("swinir.{name}"), tensor)).collect();
    let config = std::fs::read_to_string(exported.with_extension("json")).unwrap();
    let metadata = [("dreamclear_bundle".to_owned(), format!("{{\"swinir\": {config}}}"))].into();
    let tensors = named.iter().map(|(name, tensor)| (name.as_str(), *tensor));
    safetensors::write(&bundle, tensors, &metadata, None).unwrap();
    let from = [["--model", "dreamclear-nano"], ["--model", s(&exported)], ["--weights", s(&bundle)]];
    let restored = from.map(|from| {
        let out = dir.path().join("out.png");
        assert_code(&restore_without_cache(&photo, &out, &[&from[..], &["--min-size", "0"]].concat()), 0);
        std::fs::read(out).unwrap()
    });
    assert!(restored[0] == restored[1] && restored[0] == restored[2]);
}

/// Ctrl-C in the middle: exit code 130, no half-written file, and `--resume` goes on.
#[cfg(unix)]
#[test]
fn interrupted_in_the_middle() {
    let dir = tempfile::tempdir().unwrap();
    let weights = weights(dir.path(), "rrdbnet_x4");
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::create_dir(&input).unwrap();
    for i in 0..200 {
        picture(&input, &format!("{i:03}.png"), 150, 150);
    }
    let args = ["restore", s(&input), "-o", s(&output), "--weights", s(&weights)];
    let child = command(&args).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    let done = |out: &Path| names(out).iter().filter(|n| n.ends_with(".png")).count();
    while !output.exists() || done(&output) < 2 {
        assert!(start.elapsed() < Duration::from_secs(120), "nothing was restored");
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: a signal to a child that has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let out = child.wait_with_output().unwrap();
    assert_code(&out, 130);
    assert!(text(&out.stderr).contains("--resume"), "{}", text(&out.stderr));
    for name in names(&output).iter().filter(|n| n.ends_with(".png")) {
        Photo::load(output.join(name)).unwrap_or_else(|e| panic!("half-written: {e}"));
    }
    let stray: Vec<_> =
        names(&output).into_iter().filter(|n| !n.ends_with(".png") && !n.contains("journal")).collect();
    assert!(stray.is_empty(), "left behind: {stray:?}");
}

/// A reader that stops early is not an error.
#[test]
fn a_closed_pipe_is_no_crash() {
    let mut child = command(&["ops"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_code(&out, 0);
    assert!(out.stderr.is_empty(), "{}", text(&out.stderr));
}
