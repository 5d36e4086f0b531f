//! Degradations against the official functions, on numbers that `tools/golden/degrade.py` wrote; and the
//! `degrade` command.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use dreamclear::data::degrade::config::UnsharpMask;
use dreamclear::data::degrade::filter::Filter;
use dreamclear::data::degrade::jpeg;
use dreamclear::data::degrade::kernels::Kernel;
use dreamclear::data::degrade::resize::{Interpolation, interpolate, interpolate_by};
use dreamclear::data::degrade::{Degradation, Drawn, apply};
use dreamclear::data::image::{Channels, Format, Photo, Samples};
use dreamclear::data::pixels::FloatImage;
use dreamclear::weights::WeightSet;
use serde_json::{Value, json};

struct Golden(WeightSet);

impl Golden {
    fn open() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/degrade.safetensors");
        Golden(WeightSet::open(path).unwrap())
    }

    /// A picture in 0..1; photos are stored in levels of 255.
    fn image(&self, name: &str) -> FloatImage {
        let tensor = self.0.get(name).unwrap_or_else(|| panic!("{name}"));
        let [h, w, c] = tensor.shape()[..] else { panic!("{name} is HWC") };
        let mut data = tensor.to_f32().into_owned();
        if name.starts_with("photo.") {
            data.iter_mut().for_each(|x| *x = (f64::from(*x) / 255.0) as f32);
        }
        FloatImage::new(h, w, c, data)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> T {
        serde_json::from_str(&self.0.metadata()[name]).unwrap()
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        self.0.iter().filter_map(|(n, _)| n.strip_prefix(prefix).map(str::to_owned)).collect()
    }
}

fn worst(got: &FloatImage, want: &FloatImage) -> f32 {
    assert_eq!((got.height, got.width, got.channels), (want.height, want.width, want.channels));
    let worst = got.data.iter().zip(&want.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(got.data.iter().all(|x| x.is_finite()));
    worst
}

#[track_caller]
fn close(name: &str, got: &FloatImage, want: &FloatImage, bound: f32) {
    let worst = worst(got, want);
    println!("{name}: {worst:.1e}");
    assert!(worst <= bound, "{name}: differs by {worst:.2e}, at most {bound:.0e} allowed");
}

#[test]
fn kernels_and_filtering() {
    let golden = Golden::open();
    let kernels: Vec<Kernel> = golden.json("kernels");
    assert_eq!(kernels.len(), 10);
    for (i, kernel) in kernels.iter().enumerate() {
        let want = golden.0.get(&format!("kernel.{i}")).unwrap().to_f32().into_owned();
        let got = kernel.weights();
        assert_eq!(got.len(), want.len());
        let worst = got.iter().zip(&want).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
        // Half a unit in the last place of f32 weights of at most 1.
        assert!(worst <= 6e-8, "{kernel:?}: {worst:e}");
    }
    let (small, wide) = (golden.image("photo.small"), golden.image("photo.wide"));
    for i in [2, 7, 9] {
        let want = golden.image(&format!("filter.{i}"));
        close(&format!("filter {i}"), &kernels[i].filter().apply(&small), &want, 2e-6);
    }
    close("cv2.filter2D", &kernels[3].filter().apply(&wide), &golden.image("cv2.filter"), 2e-6);
    // A round kernel is applied by rows and columns; its square is the official way.
    for round in [kernels[0], kernels[1]] {
        let square = Filter::square(round.size(), &round.weights()).apply(&small);
        close("separable", &round.filter().apply(&small), &square, 1e-6);
    }
}

#[test]
fn resizing() {
    let golden = Golden::open();
    let small = golden.image("photo.small");
    let mut corner = FloatImage::zeros(24, 31, 3);
    for y in 0..24 {
        corner.row_mut(y).copy_from_slice(&small.row(y)[..31 * 3]);
    }
    let names = golden.names("resize.");
    assert_eq!(names.len(), 21);
    for name in names {
        let (mode, size) = name.split_once('.').unwrap();
        let mode: Interpolation = serde_json::from_value(json!(mode)).unwrap();
        let got = match size.split_once('x') {
            Some((h, w)) => interpolate(&small, h.parse().unwrap(), w.parse().unwrap(), mode),
            None => interpolate_by(&corner, size.parse().unwrap(), mode),
        };
        close(&name, &got, &golden.image(&format!("resize.{name}")), 2e-6);
    }
    let got = interpolate(&golden.image("photo.wide"), 17, 23, Interpolation::Bilinear);
    close("cv2.resize", &got, &golden.image("cv2.resize"), 2e-6);
}

#[test]
fn real_valued_jpeg() {
    let golden = Golden::open();
    let names = golden.names("jpeg.");
    assert_eq!(names.len(), 6);
    for name in names {
        let (photo, quality) = name.split_once('.').unwrap();
        let got = jpeg::compress(&golden.image(&format!("photo.{photo}")), quality.parse().unwrap());
        close(&name, &got, &golden.image(&format!("jpeg.{name}")), 1e-5);
    }
}

#[test]
fn sharpening() {
    let golden = Golden::open();
    let mask = UnsharpMask { taps: 51, sigma: 8.0, weight: 0.5, threshold: 10.0 };
    close("usm", &mask.apply(&golden.image("photo.usm")), &golden.image("usm"), 1e-5);
}

/// Whole chains, with noise: the golden script draws the same fields by its own Philox and distributions.
#[test]
fn the_official_chain_with_the_same_draws() {
    let golden = Golden::open();
    let chains: Vec<Drawn> = golden.json("chains");
    assert_eq!(chains.len(), 4);
    for (i, drawn) in chains.iter().enumerate() {
        drawn.check().unwrap();
        let pair = apply(drawn, &golden.image(&format!("photo.chain{i}"))).unwrap();
        close(&format!("chain {i} lr"), &pair.lr, &golden.image(&format!("realesrgan.{i}.lr")), 1e-5);
        if i == 0 {
            close("chain gt", &pair.gt, &golden.image("realesrgan.0.gt"), 1e-5);
            close("chain sr", &pair.sr_bicubic, &golden.image("realesrgan.0.sr_bicubic"), 1e-5);
        }
    }
}

/// DiffBIR's steps through OpenCV. Encoders and decoders round differently: a level on average.
#[test]
fn the_first_order_chain_of_diffbir() {
    let golden = Golden::open();
    let cases: Vec<(Kernel, f64, f64, f64)> = golden.json("codeformer");
    let image = golden.image("photo.chain0");
    for (i, (blur, shrink, sigma, quality)) in cases.into_iter().enumerate() {
        let mut drawn = serde_json::to_value(Degradation::code_former().draw(11, 0, i as u64)).unwrap();
        drawn["chain"]["blur"] = json!(blur);
        drawn["chain"]["shrink"] = json!(shrink);
        drawn["chain"]["noise"] = json!({"model": "gaussian", "sigma": sigma, "grey": false});
        drawn["chain"]["quality"] = json!(quality);
        let drawn: Drawn = serde_json::from_value(drawn).unwrap();
        let got = apply(&drawn, &image).unwrap().sr_bicubic;
        let want = golden.image(&format!("codeformer.{i}"));
        let squares: f64 = got.data.iter().zip(&want.data).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let rms = (squares / got.data.len() as f64).sqrt() * 255.0;
        println!("codeformer {i}: {rms:.2} levels");
        assert!(rms <= 1.0, "codeformer {i}: {rms} levels");
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dreamclear"));
    command.arg("degrade").args(args).stdin(Stdio::null());
    command
}

#[track_caller]
fn run(args: &[&str], code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = command(args).output().expect("the binary runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert_eq!(status.code(), Some(code), "stdout: {stdout}\nstderr: {stderr}");
    (stdout, stderr)
}

fn s(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A smooth coloured picture.
fn picture(folder: &Path, name: &str, width: usize, height: usize) -> PathBuf {
    let wave = |f: f64, i: usize| (f * (i % width) as f64 + 0.3 * f * (i / width) as f64).sin();
    let pixel = |i: usize| [0.11, 0.23, 0.07].map(|f| (127.5 + 127.5 * wave(f, i)) as u8);
    let pixels = (0..width * height).flat_map(pixel).collect();
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let photo = Photo::new(height, width, Channels::Rgb, Samples::U8(pixels));
    photo.save(&path, Format::from_path(&path).unwrap(), 95).unwrap();
    path
}

/// Every file below a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .map(|e| e.unwrap())
        .filter(|e| e.file_type().is_file())
        .map(|e| {
            let name = e.path().strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(e.path()).unwrap())
        })
        .collect()
}

fn size(path: PathBuf) -> (usize, usize) {
    let photo = Photo::load(path).unwrap();
    (photo.width, photo.height)
}

/// Two passes over a folder with a broken file; then the same bytes by one thread, by a replay, and after an
/// interruption.
#[test]
fn the_command_makes_pairs_that_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    picture(&input, "a.png", 90, 70);
    picture(&input, "deep/b.jpg", 40, 100);
    let whole = std::fs::read(picture(&input, "cut.png", 50, 50)).unwrap();
    std::fs::write(input.join("cut.png"), &whole[..whole.len() / 2]).unwrap();
    let args = |out| [s(&input), "-r", "-o", s(out), "--size", "64", "--epochs", "2", "--seed", "3"];
    let (stdout, stderr) = {
        let args = [&args(&out)[..], &["--json", "--threads", "2"]].concat();
        run(&args, 3)
    };
    assert!(stderr.contains("cut.png") && stderr.contains("4 pairs written"), "{stderr}");
    let summary: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((summary["done"].as_u64(), summary["failed"].as_array().map(Vec::len)), (Some(4), Some(2)));

    // Inputs are a, cut, b: of each pass the second number is missing.
    let made = files(&out);
    let names = ["0000001.png", "0000003.png", "0000004.png", "0000006.png"];
    let expected: Vec<String> =
        ["gt", "lr", "sr_bicubic"].iter().flat_map(|f| names.map(|n| format!("{f}/{n}"))).collect();
    assert_eq!(made.keys().filter(|k| k.ends_with(".png")).cloned().collect::<Vec<_>>(), expected);
    assert_eq!(size(out.join("gt/0000003.png")), (64, 64));
    assert_eq!(size(out.join("lr/0000003.png")), (16, 16));
    assert_eq!(size(out.join("sr_bicubic/0000003.png")), (64, 64));
    assert_ne!(made["lr/0000001.png"], made["lr/0000004.png"]);
    let params = String::from_utf8(made["params.jsonl"].clone()).unwrap();
    assert_eq!(params.lines().count(), 4);
    let line: Value = serde_json::from_str(params.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&line["file"], &line["source"]), (&json!("0000003.png"), &json!("deep/b.jpg")));

    let single = dir.path().join("single");
    run(&[&args(&single)[..], &["--threads", "1"]].concat(), 3);
    assert!(files(&single) == made, "one thread makes other bytes than two");

    let (replayed, list) = (dir.path().join("replayed"), out.join("params.jsonl"));
    run(&[s(&input), "-r", "-o", s(&replayed), "--params", s(&list)], 0);
    assert!(files(&replayed) == made, "the replay makes other bytes");

    // As after a kill: one pair is missing a file, one its line, of which half was written.
    std::fs::remove_file(out.join("lr/0000004.png")).unwrap();
    std::fs::write(&list, &params[..params.len() - 30]).unwrap();
    let (_, stderr) = run(&[&args(&out)[..], &["--resume"]].concat(), 3);
    assert!(stderr.contains("2 pairs written, 2 already done"), "{stderr}");
    assert!(files(&out) == made, "the resumed job makes other bytes");
    // Other draws are not taken for these.
    let (_, stderr) = run(&[&args(&out)[..8], &["--seed", "4", "--resume"]].concat(), 3);
    assert!(stderr.contains("4 pairs written, 2 failed"), "{stderr}");
}

#[test]
fn whole_pictures_keep_their_size_and_name() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    picture(&input, "odd.jpg", 53, 34);
    picture(&input, "tree/even.png", 48, 32);
    let args = [s(&input), "-r", "-o", s(&out), "--whole", "--names", "source"];
    run(&args, 0);
    for (name, full, small) in [("odd.png", (53, 34), (14, 9)), ("tree/even.png", (48, 32), (12, 8))] {
        assert_eq!(size(out.join("gt").join(name)), full);
        assert_eq!(size(out.join("sr_bicubic").join(name)), full);
        assert_eq!(size(out.join("lr").join(name)), small);
    }
    let (_, stderr) = run(&[&args[..], &["--resume"]].concat(), 0);
    assert!(stderr.contains("0 pairs written, 2 already done"), "{stderr}");
    // What was taken whole is no crop.
    let (_, stderr) =
        run(&[s(&input), "-r", "-o", s(&out), "--names", "source", "--size", "32", "--resume"], 0);
    assert!(stderr.contains("2 pairs written in"), "{stderr}");
}

#[test]
fn sharpening_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let photo = picture(dir.path(), "a.png", 40, 40);
    let gt = |out: &str, usm: &str| {
        let out = dir.path().join(out);
        run(&[s(&photo), "-o", s(&out), "--whole", "--gt-usm", usm], 0);
        Photo::load(out.join("gt/0000001.png")).unwrap().samples
    };
    let original = Photo::load(&photo).unwrap().samples;
    assert!(gt("off", "off") == original && gt("on", "on") != original);
}

#[test]
fn codeformer_pairs_have_small_pictures_of_their_own_size() {
    let dir = tempfile::tempdir().unwrap();
    let (photo, out) = (picture(dir.path(), "a.png", 64, 64), dir.path().join("out"));
    run(&[s(&photo), "-o", s(&out), "--kind", "codeformer", "--size", "64", "--epochs", "3"], 0);
    let sizes: Vec<_> = (1..=3).map(|i| size(out.join(format!("lr/{i:07}.png")))).collect();
    assert!(sizes.iter().all(|s| s.0 <= 64 && s.0 == s.1) && sizes[0] != sizes[1], "{sizes:?}");
    assert_eq!(size(out.join("sr_bicubic/0000001.png")), (64, 64));
}

#[test]
fn small_pictures_are_passed_over_where_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    picture(&input, "large.png", 64, 64);
    picture(&input, "small.png", 30, 30);
    let args = [s(&input), "-o", s(&out), "--size", "32", "--min-pixels", "1000"];
    let (_, stderr) = run(&args, 0);
    assert!(stderr.contains("1 passed over") && stderr.contains("small.png: it has 900 pixels"), "{stderr}");
    let (_, stderr) = run(&[s(&input), "-o", s(&out), "--size", "32", "--min-bytes", "1000000"], 0);
    assert!(stderr.contains("0 pairs written, 2 passed over"), "{stderr}");
}

#[test]
fn settings_are_printed_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (shipped, _) = run(&["--print-config"], 0);
    assert!(shipped.starts_with("# The second-order degradation") && shipped.contains("[first.blur]"));
    let (changed, _) = run(&["--print-config", "--size", "256", "--scale", "2"], 0);
    assert!(changed.contains("size = 256") && changed.contains("scale = 2"), "{changed}");
    let path = dir.path().join("mine.toml");
    std::fs::write(&path, &changed).unwrap();
    assert_eq!(run(&["--print-config", "--config", s(&path)], 0).0, changed);
    std::fs::write(&path, changed.replace("mirror", "mirrored")).unwrap();
    let (_, stderr) = run(&["--print-config", "--config", s(&path)], 1);
    assert!(stderr.contains("mine.toml") && stderr.contains("`mirrored`, expected one of"), "{stderr}");
}

#[test]
fn wrong_use_is_told_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let (photo, out) = (picture(dir.path(), "gt/0000001.png", 40, 40), dir.path().join("out"));
    for (args, words) in [
        (vec!["--size", "30"], "multiple of the scale"),
        (vec!["--gt-usm", "maybe"], "expected on or off"),
        (vec!["--names", "source", "--epochs", "2"], "--names numbers"),
        (vec!["--kind", "codeformer", "--scale", "2"], "codeformer draws its scale"),
        (vec!["--whole", "--size", "32"], "cannot be used with"),
        (vec!["--shard", "4/4"], "shard 4/4 does not exist"),
    ] {
        let (_, stderr) = run(&[&[s(&photo), "-o", s(&out)], &args[..]].concat(), 2);
        assert!(stderr.contains(words), "{args:?}: {stderr}");
    }
    run(&[s(&photo)], 2);
    run(&[s(&dir.path().join("none.png")), "-o", s(&out)], 3);
    let (_, stderr) = run(&[s(&photo), "-o", s(dir.path()), "--size", "32"], 2);
    assert!(stderr.contains("would overwrite its input"), "{stderr}");
    assert!(!out.join("gt").exists());
}

/// Parameters come from files that anyone may have written.
#[test]
fn damaged_parameters_are_refused_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let (photo, out) = (picture(dir.path(), "a.png", 40, 40), dir.path().join("out"));
    run(&[s(&photo), "-o", s(&out), "--size", "32"], 0);
    let list = out.join("params.jsonl");
    let line = std::fs::read_to_string(&list).unwrap();
    let bad = dir.path().join("bad.jsonl");
    let again = dir.path().join("again");
    for (text, words) in [
        ("{}\n".to_owned(), "line 1: missing field"),
        (String::new(), "found none"),
        (format!("{line}{}", line.replace("0000001.png", "../../escaped.png")), "line 2: the file"),
        (line.replace("0000001.png", "/escaped.png"), "outside its folder"),
        (line.replace("\"width\":32", "\"width\":9999999999999"), "cannot be"),
        (line.replace("\"scale\":4", "\"scale\":99"), "scale 99 cannot be"),
    ] {
        assert_ne!(text, line);
        std::fs::write(&bad, &text).unwrap();
        let (_, stderr) = run(&[s(&photo), "-o", s(&again), "--params", s(&bad)], 1);
        assert!(stderr.contains(words), "{stderr}");
        assert!(!again.exists());
    }
    // Another picture under the old name.
    let other = picture(&dir.path().join("other"), "a.png", 44, 40);
    let (_, stderr) = run(&[s(&other), "-o", s(&again), "--params", s(&list)], 3);
    assert!(stderr.contains("that 0000001.png was made from"), "{stderr}");
}

/// Ctrl-C in the middle: exit code 130, no half-written file, and `--resume` completes the same set.
#[cfg(unix)]
#[test]
fn interrupted_in_the_middle() {
    let dir = tempfile::tempdir().unwrap();
    let (photo, out, whole) =
        (picture(dir.path(), "a.png", 70, 70), dir.path().join("out"), dir.path().join("whole"));
    let args = |out| [s(&photo), "-o", s(out), "--size", "32", "--epochs", "60", "--threads", "2"];
    let child = command(&args(&out)).stderr(Stdio::piped()).spawn().unwrap();
    let pairs = |out: &Path| std::fs::read_dir(out.join("gt")).map_or(0, |d| d.count());
    let start = std::time::Instant::now();
    while pairs(&out) < 2 {
        assert!(start.elapsed().as_secs() < 120, "no pair was made");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // SAFETY: a signal to a child that has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("--resume") && pairs(&out) < 60, "{stderr}");
    assert!(files(&out).keys().all(|name| !name.ends_with(".part")));
    run(&[&args(&out)[..], &["--resume"]].concat(), 0);
    run(&args(&whole), 0);
    assert!(files(&out) == files(&whole), "the resumed job makes other bytes");
}

/// A full disk ends the job with one reason; what is there is whole.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let photo = picture(dir.path(), "a.png", 70, 70);
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=128k", "tmpfs"]).arg(&disk).stderr(Stdio::null());
    if !mount.status().is_ok_and(|s| s.success()) {
        eprintln!("skipped: mounting a small tmpfs needs root");
        return;
    }
    let out = disk.join("out");
    let ended = command(&[s(&photo), "-o", s(&out), "--size", "64", "--epochs", "40"]).output().unwrap();
    let made = files(&out);
    let unmounted = Command::new("umount").arg(&disk).status();
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("stopped with") && stderr.contains("No space left"), "{stderr}");
    let photos: Vec<_> = made.iter().filter(|(name, _)| name.ends_with(".png")).collect();
    assert!(photos.len() > 3 && photos.iter().all(|(name, bytes)| Photo::load_bytes(bytes, name).is_ok()));
    assert!(made.keys().all(|name| !name.ends_with(".part")), "{:?}", made.keys());
    assert!(unmounted.is_ok_and(|s| s.success()));
}
