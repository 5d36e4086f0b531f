//! Training runs: data in every form, resuming to the bit, kills, signals, full disks, bad numbers.

#[path = "training/stages.rs"]
mod stages;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dreamclear::data::dataset::{Crop, Draws, Paired, Photos, Place, Source, Stream};
use dreamclear::data::image::{Channels, Format, Photo, Samples};
use dreamclear::train::checkpoint::Checkpoint;
use dreamclear::train::tensorboard::read_records;
use dreamclear::weights::{WeightSet, npz};
use serde_json::Value;

mod support;

const CROP: Crop = Crop { size: 8, place: Place::Random, flip: true };

fn photo(seed: usize, height: usize, width: usize) -> Photo {
    let level = |i: usize| ((i / 3 % width * 5 + i / (3 * width) * 3 + seed * 29 + i % 3 * 40) % 251) as u8;
    Photo::new(height, width, Channels::Rgb, Samples::U8((0..3 * height * width).map(level).collect()))
}

/// A folder of `count` pictures of 40 × 48.
fn photos(folder: &Path, count: usize) {
    for i in 0..count {
        photo(i, 40, 48).save(folder.join(format!("{i:03}.png")), Format::Png, 95).unwrap();
    }
}

#[test]
fn every_kind_of_place_gives_the_same_samples() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("photos");
    photos(&folder, 3);
    let names = ["000.png", "001.png", "002.png"];
    let list = dir.path().join("list.txt");
    fs::write(&list, names.map(|n| format!("photos/{n}\n")).concat()).unwrap();
    let lines = dir.path().join("list.jsonl");
    fs::write(&lines, names.map(|n| format!("{{\"image\": \"photos/{n}\", \"caption\": \"x\"}}\n")).concat())
        .unwrap();
    let tar = dir.path().join("shard-000.tar");
    let mut archive = tar::Builder::new(fs::File::create(&tar).unwrap());
    for name in names {
        archive.append_path_with_name(folder.join(name), name).unwrap();
    }
    archive.finish().unwrap();

    let samples = |place: &Path| {
        let source = Photos::open(&[place], CROP, 1 << 20).unwrap();
        assert_eq!(source.len(), 3, "{}", place.display());
        let sample = |i| source.sample(i, &Draws { seed: 3, epoch: 1, index: i as u64 }).unwrap().gt;
        (0..3).map(sample).collect::<Vec<_>>()
    };
    let expected = samples(&folder);
    assert!(expected[0] != expected[1]);
    for place in [list, lines, tar, folder.join("*.png"), dir.path().join("shard-*.tar")] {
        assert_eq!(samples(&place), expected, "{}", place.display());
    }
    let none = Photos::open(&[dir.path().join("nowhere")], CROP, 0).unwrap_err().to_string();
    assert!(none.contains("no pictures") && none.contains("nowhere"), "{none}");
}

/// The official layout with `count` pairs and captions' features.
fn official(root: &Path, count: usize) {
    fs::create_dir_all(root.join("npz")).unwrap();
    for i in 0..count {
        let name = format!("{i:07}.png");
        photo(i, 16, 20).save(root.join("gt").join(&name), Format::Png, 95).unwrap();
        photo(i + 100, 16, 20).save(root.join("sr_bicubic").join(&name), Format::Png, 95).unwrap();
        let feature = dreamclear::tensor::HostTensor::from_f32([1, 2, 4], vec![i as f32; 8]);
        npz::write(&root.join(format!("npz/{i:07}.npz")), [("caption_feature", &feature)], true).unwrap();
    }
}

#[test]
fn pairs_show_the_same_place_and_keep_the_official_rules() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    official(root, 3);
    let paired = Paired::open(root, CROP, 0).unwrap();
    assert_eq!((paired.len(), paired.stem(2)), (3, "0000002"));
    assert_eq!(paired.companions("npz", "npz").unwrap()[1], root.join("npz/0000001.npz"));
    // Both pictures are the same function of the place, but for a shift of levels.
    let sample = paired.sample(0, &Draws { seed: 0, epoch: 0, index: 0 }).unwrap();
    let lq = sample.lq.unwrap();
    let shift = |(a, b): (&f32, &f32)| ((b - a) * 255.0).round().rem_euclid(251.0) as usize;
    assert!(sample.gt.data.iter().zip(&lq.data).map(shift).all(|s| s == 100 * 29 % 251));

    let error = |paired: &dyn Fn() -> dreamclear::Result<Paired>| paired().unwrap_err().to_string();
    let open = || Paired::open(root, CROP, 0);
    fs::remove_file(root.join("npz/0000001.npz")).unwrap();
    let e = paired.companions("npz", "npz").unwrap_err().to_string();
    assert!(e.contains("as many files in gt as in npz, found 3 and 2"), "{e}");
    fs::copy(root.join("npz/0000000.npz"), root.join("npz/other.npz")).unwrap();
    let e = paired.companions("npz", "npz").unwrap_err().to_string();
    assert!(e.contains("0000001.npz") && e.contains("missing"), "{e}");

    photo(1, 16, 24).save(root.join("sr_bicubic/0000001.png"), Format::Png, 95).unwrap();
    let e = open().unwrap().sample(1, &Draws::fixed(1)).unwrap_err().to_string();
    assert!(e.contains("24×16") && e.contains("20×16") && e.contains("one size"), "{e}");
    fs::copy(root.join("gt/0000000.png"), root.join("sr_bicubic/more.png")).unwrap();
    assert!(error(&open).contains("found 3 and 4"), "{}", error(&open));
    fs::remove_file(root.join("sr_bicubic/0000000.png")).unwrap();
    assert!(error(&open).contains("sr_bicubic/0000000.png"), "{}", error(&open));
    assert!(error(&|| Paired::open(&root.join("gt"), CROP, 0)).contains("gt/gt"));
}

#[test]
fn damaged_pictures_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    photos(dir.path(), 4);
    let whole = fs::read(dir.path().join("000.png")).unwrap();
    fs::write(dir.path().join("cut.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(dir.path().join("empty.jpg"), "").unwrap();
    photo(9, 5, 60).save(dir.path().join("flat.png"), Format::Png, 95).unwrap();
    let source = Photos::open(&[dir.path()], CROP, 0).unwrap();
    let stream = Arc::new(Stream::new(Box::new(source), 5));
    for number in 0..14 {
        let name = stream.sample(number).unwrap().name;
        assert!(!["cut", "empty", "flat"].iter().any(|bad| name.contains(bad)), "{name}");
    }
    let mut reasons: Vec<_> = stream.skipped().into_iter().map(|s| s.reason).collect();
    reasons.sort();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons[0].contains("cut.png") && reasons[1].contains("empty.jpg"), "{reasons:?}");
    assert!(reasons[2].contains("60×5, smaller than a crop of 8×8"), "{reasons:?}");
}

/// A run of the command over a few small pictures.
struct Job {
    dir: tempfile::TempDir,
}

impl Job {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        photos(&dir.path().join("photos"), 5);
        let text = format!(
            "steps = 6\nbatch = 2\nmicro_batch = 1\n\
             [model]\ndrop_path = 0.5\n[model.network]\nembed_dim = 8\ndepths = [2]\nnum_heads = [2]\nwindow_size = 4\nmlp_ratio = 1\n\
             img_size = 16\nunshuffle = true\nunshuffle_scale = 2\nsf = 2\nupsampler = \"pixelshuffledirect\"\n\
             [degradation]\nkind = \"codeformer\"\nblur.sizes = [7]\n\
             [loss]\ndistance = \"l1\"\nreduction = \"mean\"\n\
             [data]\nphotos = [{photos:?}]\ncrop = 16\nplace = \"random\"\nflip = true\nworkers = 2\n\
             [optimizer]\nlr = 1e-3\nema = 0.9\nclip = 1.0\n[schedule]\nkind = \"cosine\"\nwarmup = 2\n\
             [validation]\nphotos = [{photos:?}]\nevery = 3\npictures = 2\nshow = 1\n\
             [checkpoint]\nevery = 2\nkeep = 2\n[log]\nevery = 2\n",
            photos = dir.path().join("photos").display().to_string(),
        );
        fs::write(dir.path().join("config.toml"), text).unwrap();
        Job { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, output: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dreamclear"));
        command.args(["train", "swinir"]).arg(self.path("config.toml"));
        command.args(["--device", "cpu", "--output"]).arg(self.path(output)).args(more);
        command
    }

    fn train(&self, output: &str, more: &[&str]) -> Output {
        self.command(output, more).output().unwrap()
    }

    /// Trains to the end.
    fn finish(&self, output: &str, more: &[&str]) -> String {
        let out = self.train(output, more);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(0), "{text}");
        text
    }

    fn start(&self, output: &str, more: &[&str]) -> Child {
        self.command(output, more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// The log without what depends on the clock.
    fn log(&self, output: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(output).join("log.jsonl")).unwrap();
        let line = |line: &str| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            let object = value.as_object_mut().unwrap();
            object.remove("images_per_second");
            object.remove("waiting_for_data");
            value
        };
        text.lines().map(line).collect()
    }

    fn checkpoint(&self, output: &str, step: u64) -> Checkpoint {
        Checkpoint::open(&self.path(output).join(format!("checkpoints/step-{step:08}.safetensors"))).unwrap()
    }

    fn checkpoints(&self, output: &str) -> Vec<String> {
        let folder = self.path(output).join("checkpoints");
        let mut names: Vec<_> = fs::read_dir(folder).map_or(Vec::new(), |entries| {
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
        });
        names.sort();
        names
    }

    /// Both runs have the same history, and end with the same bytes.
    fn same(&self, a: &str, b: &str, step: u64) {
        assert_eq!(self.log(a), self.log(b));
        let tensors = |run| {
            let checkpoint = self.checkpoint(run, step);
            let tensors = checkpoint.tensors;
            tensors.iter().map(|(n, t)| (n.to_owned(), t.bytes().to_vec())).collect::<Vec<_>>()
        };
        assert!(tensors(a) == tensors(b), "the last checkpoints differ");
        let export = |run| fs::read(self.path(run).join("export/swinir.safetensors")).unwrap();
        assert!(export(a) == export(b), "the exported weights differ");
    }
}

#[test]
fn a_run_leaves_checkpoints_logs_pictures_and_weights() {
    let job = Job::new();
    let said = job.finish("run", &["--json"]);
    assert!(said.contains("6/6 loss") && said.contains("images/s"), "{said}");
    assert_eq!(job.checkpoints("run"), ["step-00000004.safetensors", "step-00000006.safetensors"]);
    let log = job.log("run");
    let losses: Vec<_> =
        log.iter().filter(|l| l["kind"] == "update").map(|l| l["loss"].as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 6);
    assert!(log.iter().all(|l| l["kind"] != "update" || l["grad_norm"].as_f64().unwrap() > 0.0));
    assert_eq!(log[0]["rate"], 5e-4);
    let validations: Vec<_> = log.iter().filter(|l| l["kind"] == "validation").collect();
    assert_eq!(validations.iter().map(|l| l["step"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 6]);
    assert!(validations[0]["psnr"].as_f64().unwrap() > 0.0);
    let picture = Photo::load(job.path("run/validation/step-00000006-0.png")).unwrap();
    assert_eq!((picture.height, picture.width), (16, 3 * 16));

    let events: Vec<_> = fs::read_dir(job.path("run"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.display().to_string().contains("tfevents"))
        .collect();
    assert_eq!(events.len(), 1);
    // Version, start, three lines, two validations with a picture each.
    assert_eq!(read_records(&fs::read(&events[0]).unwrap()).unwrap().len(), 2 + 3 + 2 * 2);

    // The exported weights are what `forward` takes as they are, with the hyper-parameters beside them.
    let input = job.path("in.safetensors");
    let x = dreamclear::tensor::HostTensor::zeros(dreamclear::tensor::DType::F32, [1, 3, 16, 16]);
    dreamclear::weights::safetensors::write(&input, [("x", &x)], &Default::default(), None).unwrap();
    let forward = Command::new(env!("CARGO_BIN_EXE_dreamclear"))
        .args(["forward", "--model", "swinir", "--device", "cpu", "--weights"])
        .arg(job.path("run/export/swinir.safetensors"))
        .arg("--input")
        .arg(&input)
        .arg("--output")
        .arg(job.path("out.safetensors"))
        .output()
        .unwrap();
    assert!(forward.status.success(), "{}", String::from_utf8_lossy(&forward.stderr));
    let average = WeightSet::open(job.path("run/export/swinir.safetensors")).unwrap();
    let last = job.checkpoint("run", 6);
    let key = "conv_after_body.weight";
    assert_eq!(average.get(key).unwrap().bytes(), last.tensors.get(&format!("ema.{key}")).unwrap().bytes());
    assert_ne!(average.get(key).unwrap().bytes(), last.tensors.get(&format!("param.{key}")).unwrap().bytes());

    let again = job.train("run", &[]);
    let said = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(2), "{said}");
    assert!(said.contains("already holds a run of 6 updates") && said.contains("--resume auto"), "{said}");
}

#[test]
fn a_resumed_run_is_the_same_to_the_bit() {
    let job = Job::new();
    job.finish("whole", &[]);
    let mut child = job.start("parts", &[]);
    wait_for("the first checkpoint", || job.checkpoints("parts").iter().any(|n| n.contains("00000002.safe")));
    kill(&mut child, libc::SIGKILL);
    job.finish("parts", &["--resume", "auto"]);
    job.same("whole", "parts", 6);

    // Back to an earlier checkpoint, with other threads: the same again.
    let from = job.path("whole/checkpoints/step-00000004.safetensors");
    job.finish("whole", &["--resume", from.to_str().unwrap(), "--set", "data.workers=1", "--threads", "1"]);
    job.same("whole", "parts", 6);

    // Branches were left out on the way.
    job.finish("deep", &["--set", "model.drop_path=0", "--set", "validation.every=0"]);
    assert_ne!(job.log("deep")[0]["loss"], job.log("whole")[0]["loss"]);
}

/// The golden file's narrow VGG19 as a weight file.
fn vgg(path: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/perceptual.safetensors");
    let (tensors, _) = support::golden(&golden);
    let weights = tensors.iter().filter_map(|(key, t)| Some((key.strip_prefix("weight.")?, t)));
    dreamclear::weights::safetensors::write(path, weights, &Default::default(), None).unwrap();
}

#[test]
fn a_perceptual_loss_is_added_and_its_network_stays_out_of_what_is_kept() {
    let job = Job::new();
    let file = job.path("vgg19.safetensors");
    vgg(&file);
    let weights = format!("loss.perceptual.weights={:?}", file.display().to_string());
    let with = ["--set", &weights, "--set", "loss.perceptual.weight=0.01", "--set", "validation.every=0"];
    job.finish("seen", &with);
    let updates: Vec<_> = job.log("seen").into_iter().filter(|l| l["kind"] == "update").collect();
    for line in &updates {
        let number = |key: &str| line[key].as_f64().unwrap();
        let parts = number("l1") + number("perceptual");
        assert!(number("perceptual") > 0.0 && (number("loss") - parts).abs() <= 1e-6 * parts, "{line}");
    }
    job.finish("blind", &with[4..]);
    let blind = job.checkpoint("blind", 6);
    let seen = job.checkpoint("seen", 6);
    let names = |c: &Checkpoint| c.tensors.names().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(&seen), names(&blind));
    let key = "param.conv_after_body.weight";
    assert_ne!(seen.tensors.get(key).unwrap().bytes(), blind.tensors.get(key).unwrap().bytes());
    stages::dreamclear(job.dir.path(), &["inspect", "seen/export/swinir.safetensors", "--strict", "swinir"]);

    let from = job.path("seen/checkpoints/step-00000004.safetensors");
    let again = [&with[..], &["--resume", from.to_str().unwrap()]].concat();
    job.finish("seen", &again);
    assert_eq!(
        seen.tensors.get(key).unwrap().bytes(),
        job.checkpoint("seen", 6).tensors.get(key).unwrap().bytes()
    );

    // Only the layers that are named, and one that is not there.
    let layers =
        ["--set", "loss.perceptual.layers={conv2_2=1}", "--steps", "1", "--set", "schedule.warmup=0"];
    job.finish("one", &[&with[..], &layers].concat());
    let one = job.log("one")[0]["perceptual"].as_f64().unwrap();
    assert!(one > 0.0 && one != updates[0]["perceptual"].as_f64().unwrap());
    let out = job.train("none", &[&with[..], &["--set", "loss.perceptual.layers.conv6_1=1"]].concat());
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "{said}");
    assert!(said.contains("vgg19.safetensors") && said.contains("no layer \"conv6_1\""), "{said}");
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !ready() {
        assert!(Instant::now() < end, "waited two minutes for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn kill(child: &mut Child, signal: i32) -> Option<i32> {
    // SAFETY: plain system call on the id of a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
    child.wait().unwrap().code()
}

#[test]
fn sigterm_ends_with_a_checkpoint_and_code_0() {
    let job = Job::new();
    let long = ["--steps", "400", "--set", "checkpoint.every=1000", "--set", "validation.every=0"];
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let run = format!("run-{signal}");
        let mut child = job.start(&run, &long);
        let log = job.path(&run).join("log.jsonl");
        wait_for("two updates", || fs::read_to_string(&log).is_ok_and(|text| text.lines().count() >= 2));
        assert_eq!(kill(&mut child, signal), Some(0));
        let made = job.log(&run).len() as u64;
        assert!(made < 400);
        assert_eq!(job.checkpoints(&run), [format!("step-{made:08}.safetensors")]);
        assert_eq!(job.checkpoint(&run, made).step, made);
    }
}

#[test]
fn broken_items_are_counted_in_the_log_and_nothing_but_broken_ones_is_an_error() {
    let job = Job::new();
    fs::write(job.path("photos/bad.png"), b"\x89PNG\r\n\x1a\nand no more").unwrap();
    let said = job.finish("run", &["--steps", "3", "--set", "validation.photos=[]"]);
    assert!(said.contains("left out of training (1 so far)") && said.contains("bad.png"), "{said}");
    let log = job.log("run");
    let skipped: Vec<_> = log.iter().filter(|l| l["kind"] == "skipped").collect();
    assert_eq!(skipped.len(), 1);
    assert!(skipped[0]["name"].as_str().unwrap().ends_with("bad.png"));

    for i in 0..5 {
        fs::write(job.path(&format!("photos/{i:03}.png")), "none").unwrap();
    }
    let out = job.train("none", &["--set", "validation.photos=[]"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("none of the 6 items of the training set can be used"), "{said}");
}

/// A picture to look at that cannot be read ends the run, not without a checkpoint of what was learned by then.
#[test]
fn a_failed_validation_loses_no_update() {
    let job = Job::new();
    fs::create_dir(job.path("look")).unwrap();
    fs::write(job.path("look/bad.png"), b"\x89PNG\r\n\x1a\nand no more").unwrap();
    let look = format!("validation.photos=[{:?}]", job.path("look").display().to_string());
    let more = ["--set", &look, "--set", "checkpoint.every=100"];
    let out = job.train("run", &more);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("bad.png"), "{said}");
    assert_eq!(job.checkpoints("run"), ["step-00000003.safetensors"]);
}

#[test]
fn numbers_that_go_bad_name_the_first_tensor() {
    let job = Job::new();
    let out =
        job.train("run", &["--lr", "1e30", "--set", "optimizer.clip=0", "--set", "validation.photos=[]"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("the first tensor that went bad: ") && said.contains("result 0"), "{said}");
    assert!(said.contains("lower optimizer.lr"), "{said}");
}

#[test]
fn wrong_settings_are_refused_before_anything_is_done() {
    let job = Job::new();
    let cases = [
        (&["--set", "optimizer.lrr=1"][..], "did you mean optimizer.lr?"),
        (&["--set", "data.crop=17"], "data.crop: expected a multiple of 8"),
        (&["--set", "micro_batch=3"], "cannot be shared out"),
        (&["--set", "schedule.warmup=7"], "schedule.warmup"),
        (&["--set", "degradation.blurr=1"], "degradation: there is no key blurr; did you mean blur?"),
        (&["--set", "data.paired=x"], "not both"),
        (&["--lr=-1"], "optimizer.lr: expected a positive number"),
    ];
    for (more, expected) in cases {
        let out = job.train("run", more);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{more:?}: {said}");
        assert!(said.contains(expected), "{more:?}: {said}");
        assert!(!job.path("run").exists(), "{more:?}");
    }
    let print = |more: &[&str]| String::from_utf8(job.train("run", more).stdout).unwrap();
    let text = print(&["--print-config", "--lr", "3e-4"]);
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table["optimizer"]["lr"].as_float(), Some(3e-4));
    assert_eq!(table["data"]["crop"].as_integer(), Some(16));
    let shipped = Command::new(env!("CARGO_BIN_EXE_dreamclear"))
        .args(["train", "swinir", "--print-config"])
        .output()
        .unwrap();
    assert_eq!(shipped.stdout, include_bytes!("../src/train/settings/swinir.toml"));
}

/// A mounted file system of so many bytes, if this process may make one.
#[cfg(target_os = "linux")]
struct Disk(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl Disk {
    fn new(kib: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null());
        mount.status().is_ok_and(|s| s.success()).then_some(Disk(dir))
    }
}

#[cfg(target_os = "linux")]
impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_costs_no_checkpoint_that_is_there() {
    let job = Job::new();
    job.finish("elsewhere", &["--steps", "2", "--set", "validation.photos=[]"]);
    let size = fs::metadata(job.path("elsewhere/checkpoints/step-00000002.safetensors")).unwrap().len();
    // Room for one checkpoint and a half.
    let Some(disk) = Disk::new(size as usize * 3 / 2 / 1024 + 40) else {
        eprintln!("skipped: mounting a small tmpfs needs root");
        return;
    };
    let output = disk.0.path().join("run");
    let more = ["--set", "validation.photos=[]", "--output", output.to_str().unwrap()];
    let mut command = Command::new(env!("CARGO_BIN_EXE_dreamclear"));
    command.args(["train", "swinir"]).arg(job.path("config.toml")).args(["--device", "cpu"]).args(more);
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write this checkpoint") && said.contains("training goes on"), "{said}");
    assert!(said.contains("No space left on device") && said.contains("make room"), "{said}");
    let folder = output.join("checkpoints");
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["step-00000002.safetensors"]);
    assert_eq!(Checkpoint::open(&folder.join("step-00000002.safetensors")).unwrap().step, 2);
}
