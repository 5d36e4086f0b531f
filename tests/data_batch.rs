//! The batch runner with a restorer that only enlarges: faults, resume, shards, signals, full disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dreamclear::atomic_file::discard_unfinished;
use dreamclear::cancel::Cancel;
use dreamclear::data::image::{Channels, Format, Photo, Samples};
use dreamclear::data::inputs::collect;
use dreamclear::data::pixels::Rounding;
use dreamclear::data::resize::bicubic_antialias;
use dreamclear::data::shard::Shard;
use dreamclear::pipelines::batch::{Finish, Job, Options, Preparer, Restored, Restorer, run};
use dreamclear::pipelines::naming::Target;
use dreamclear::pipelines::report::{Status, Summary};
use dreamclear::{Error, Result};

/// Doubles pictures; slow, panicking or raising a flag when told.
#[derive(Default)]
struct Double {
    names: Vec<String>,
    pause: Duration,
    panics_on: Option<&'static str>,
    cancels_on: Option<(&'static str, Cancel)>,
    reference: bool,
}

impl Restorer for Double {
    fn settings(&self) -> String {
        format!("double reference={}", self.reference)
    }

    fn restore(&mut self, job: &Job<'_>) -> Result<Restored> {
        self.names.push(job.name.to_owned());
        if self.panics_on == Some(job.name) {
            panic!("a bug in the model");
        }
        if let Some((name, cancel)) = &self.cancels_on
            && *name == job.name
        {
            cancel.cancel();
        }
        let end = Instant::now() + self.pause;
        while Instant::now() < end {
            job.cancel.check()?;
            (job.progress)(0.5);
            std::thread::sleep(Duration::from_millis(2));
        }
        job.cancel.check()?;
        let (h, w) = (job.photo.height * 2, job.photo.width * 2);
        let alpha = job.photo.alpha_f32().map(|a| bicubic_antialias(&a, h, w));
        let rgb = bicubic_antialias(&job.photo.rgb_f32(), h, w);
        let photo = job.photo.with_pixels(&rgb, alpha.as_ref(), Rounding::HalfEven)?;
        let reference = self.reference.then(|| photo.clone());
        Ok(Restored { photo, reference, notes: Vec::new(), details: Default::default() })
    }
}

fn photo(seed: usize, h: usize, w: usize, channels: Channels) -> Photo {
    let n = h * w * channels.count();
    Photo::new(h, w, channels, Samples::U8((0..n).map(|i| ((i + seed) * 37 % 251) as u8).collect()))
}

/// A directory `in` with `count` pictures 0000.png …, and the path of an output directory.
fn job(count: usize) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    for i in 0..count {
        photo(i, 5 + i % 3, 7, Channels::Rgb)
            .save(input.join(format!("{i:04}.png")), Format::Png, 95)
            .unwrap();
    }
    (dir, input, output)
}

fn options(output: &Path) -> Options {
    Options::new(Target::Directory(output.to_owned()))
}

fn restore(input: &Path, restorer: &mut dyn Restorer, options: &Options, cancel: &Cancel) -> Summary {
    let inputs = collect(&[input], true, Some(options.target.directory())).unwrap();
    run(inputs, restorer, options, cancel).unwrap()
}

/// Everything below a directory but the journals, sorted.
fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = walkdir::WalkDir::new(dir)
        .into_iter()
        .map(|e| e.unwrap())
        .filter(|e| e.file_type().is_file())
        .map(|e| e.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned())
        .filter(|n| !n.starts_with(".dreamclear-journal-"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_tree_is_restored_compared_and_reported() {
    let (dir, input, output) = job(2);
    photo(9, 3, 4, Channels::Rgba).save(input.join("sub/clear.webp"), Format::WebP, 95).unwrap();
    photo(9, 3, 4, Channels::Grey).save(input.join("sub/grey.tif"), Format::Tiff, 95).unwrap();
    let report = dir.path().join("report.json");
    let options = Options { compare: true, report: Some(report.clone()), ..options(&output) };
    let mut double = Double { reference: true, ..Double::default() };
    let summary = restore(&input, &mut double, &options, &Cancel::new());
    assert_eq!((summary.done, summary.exit_code()), (4, 0), "{}", summary.message());
    let expected: Vec<_> = ["0000", "0001", "sub/clear", "sub/grey"]
        .iter()
        .flat_map(|n| [format!("{n}.compare.png"), format!("{n}.png")])
        .collect();
    assert_eq!(files(&output), expected);
    let clear = Photo::load(output.join("sub/clear.png")).unwrap();
    assert_eq!((clear.height, clear.width, clear.channels), (6, 8, Channels::Rgba));
    assert_eq!(Photo::load(output.join("sub/grey.png")).unwrap().channels, Channels::Grey);
    let compare = Photo::load(output.join("0000.compare.png")).unwrap();
    assert_eq!((compare.height, compare.width), (10, 3 * 14 + 16));

    let json: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(json["done"], 4);
    assert_eq!(json["images"][2]["name"], "sub/clear.webp");
    assert_eq!(json["images"][2]["status"], "done");
    assert_eq!(json["images"][2]["input_size"], serde_json::json!([4, 3]));
    assert_eq!(json["images"][2]["output_size"], serde_json::json!([8, 6]));
    assert!(json["images"][2]["seconds"]["restore"].as_f64().unwrap() > 0.0);
}

#[test]
fn one_named_file() {
    let (dir, input, _) = job(1);
    let path = dir.path().join("new/result.jpg");
    let options = Options { format: Format::Jpeg, ..Options::new(Target::from_output(&path, 1).unwrap()) };
    let summary = restore(&input, &mut Double::default(), &options, &Cancel::new());
    assert_eq!(summary.exit_code(), 0, "{}", summary.message());
    assert_eq!(files(&dir.path().join("new")), ["result.jpg"]);
    assert_eq!(fs::read_dir(dir.path().join("new")).unwrap().count(), 1, "no journal beside a single file");
}

#[test]
fn bad_files_fail_alone() {
    let (_dir, input, output) = job(2);
    fs::write(input.join("empty.png"), "").unwrap();
    fs::write(input.join("text.jpg"), "I am not a picture").unwrap();
    let whole = fs::read(input.join("0000.png")).unwrap();
    fs::write(input.join("cut.png"), &whole[..whole.len() / 2]).unwrap();
    photo(1, 1, 1, Channels::Rgb).save(input.join("panic.png"), Format::Png, 95).unwrap();
    let mut double = Double { panics_on: Some("panic.png"), ..Double::default() };
    let inputs = collect(&[input.clone(), input.join("missing.png")], false, None).unwrap();
    let summary = run(inputs, &mut double, &options(&output), &Cancel::new()).unwrap();
    assert_eq!((summary.done, summary.exit_code()), (2, 3));
    let reason = |name: &str| &summary.failed.iter().find(|f| f.name.ends_with(name)).expect(name).reason;
    assert!(reason("empty.png").contains("0 bytes"));
    assert!(reason("text.jpg").contains("holds text"));
    assert!(reason("cut.png").contains("truncated"));
    assert!(reason("panic.png").contains("a bug in the model"));
    assert!(reason("missing.png").contains("No such file"));
    assert_eq!(summary.failed.len(), 5);
    assert!(summary.message().contains("\n  failed: cut.png: "), "{}", summary.message());
    assert_eq!(files(&output), ["0000.png", "0001.png"]);
}

#[test]
fn nothing_to_do_is_bad_usage() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = collect(&[dir.path()], false, None).unwrap();
    let error = run(inputs, &mut Double::default(), &options(dir.path()), &Cancel::new()).unwrap_err();
    assert!(matches!(error, Error::Usage(_)), "{error}");
}

#[test]
fn an_interrupted_job_resumes_where_it_stopped() {
    let (_dir, input, output) = job(6);
    let cancel = Cancel::new();
    let mut double = Double { cancels_on: Some(("0003.png", cancel.clone())), ..Double::default() };
    let summary = restore(&input, &mut double, &options(&output), &cancel);
    assert_eq!((summary.done, summary.left, summary.exit_code()), (3, 3, 130), "{}", summary.message());
    assert!(summary.message().contains("--resume"), "{}", summary.message());
    assert_eq!(files(&output), ["0000.png", "0001.png", "0002.png"]);

    let resume = Options { resume: true, ..options(&output) };
    let mut double = Double::default();
    let summary = restore(&input, &mut double, &resume, &Cancel::new());
    assert_eq!((summary.done, summary.skipped, summary.exit_code()), (3, 3, 0));
    assert_eq!(double.names, ["0003.png", "0004.png", "0005.png"]);
    assert_eq!(summary.images.iter().filter(|i| i.status == Status::Skipped).count(), 3);

    // Other settings, a changed input and a run without --resume start over.
    let mut other = Double { reference: true, ..Double::default() };
    assert_eq!(restore(&input, &mut other, &resume, &Cancel::new()).done, 6);
    photo(77, 9, 9, Channels::Rgb).save(input.join("0001.png"), Format::Png, 95).unwrap();
    let mut double = Double { reference: true, ..Double::default() };
    assert_eq!(restore(&input, &mut double, &resume, &Cancel::new()).done, 1);
    assert_eq!(double.names, ["0001.png"]);
    assert_eq!(restore(&input, &mut Double::default(), &options(&output), &Cancel::new()).done, 6);
}

#[test]
fn shards_share_the_work_without_overlap() {
    let (_dir, input, output) = job(20);
    let mut all = BTreeSet::new();
    for i in 0..3 {
        let mut double = Double::default();
        let options = Options { shard: Shard::new(i, 3).unwrap(), ..options(&output) };
        let summary = restore(&input, &mut double, &options, &Cancel::new());
        assert_eq!(summary.exit_code(), 0);
        for name in double.names {
            assert!(all.insert(name.clone()), "{name} was restored twice");
        }
    }
    assert_eq!((all.len(), files(&output).len()), (20, 20));
    // The whole job, resumed by one process, has nothing left to do.
    let resume = Options { resume: true, ..options(&output) };
    assert_eq!(restore(&input, &mut Double::default(), &resume, &Cancel::new()).skipped, 20);
}

#[test]
fn loading_and_writing_overlap_restoring() {
    let (_dir, input, output) = job(4);
    let mut double = Double { pause: Duration::from_millis(20), ..Double::default() };
    let summary = restore(&input, &mut double, &options(&output), &Cancel::new());
    assert_eq!(double.names, ["0000.png", "0001.png", "0002.png", "0003.png"], "in order");
    assert_eq!(summary.done, 4);
}

/// A file system of 64 KiB that goes away with the value; none where mounting is not allowed.
#[cfg(target_os = "linux")]
struct SmallDisk(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(dir.path()).stderr(Stdio::null());
        mount.status().is_ok_and(|s| s.success()).then(|| SmallDisk(dir))
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_the_job_and_leaves_nothing_half_written() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: mounting a small tmpfs needs root");
        return;
    };
    let (_dir, input, _) = job(3);
    // Noise of 150×150 enlarges to more than the disk holds.
    let mut state = 1u32;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13; // xorshift32
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    });
    let noise: Vec<u8> = noise.take(150 * 150 * 3).collect();
    Photo::new(150, 150, Channels::Rgb, Samples::U8(noise))
        .save(input.join("0001.png"), Format::Png, 95)
        .unwrap();
    let mut double = Double { pause: Duration::from_secs(1), ..Double::default() };
    let summary = restore(&input, &mut double, &options(disk.0.path()), &Cancel::new());
    assert_eq!((summary.done, summary.exit_code()), (1, 1), "{}", summary.message());
    let reason = summary.stopped.clone().expect("the job gave up");
    assert!(reason.contains("No space left") && reason.contains("0001.png"), "{reason}");
    assert_eq!(summary.left, 1, "{}", summary.message());
    assert_eq!(files(disk.0.path()), ["0000.png"]);
}

/// A restorer whose device fails at the second picture.
struct Broken(usize);

impl Restorer for Broken {
    fn settings(&self) -> String {
        "broken".into()
    }

    fn restore(&mut self, job: &Job<'_>) -> Result<Restored> {
        self.0 += 1;
        match self.0 {
            1 => Double::default().restore(job),
            _ => Err(Error::Device("the GPU does nothing more".into())),
        }
    }
}

#[test]
fn a_device_that_fails_stops_the_job() {
    let (_dir, input, output) = job(5);
    let summary = restore(&input, &mut Broken(0), &options(&output), &Cancel::new());
    assert_eq!((summary.done, summary.exit_code()), (1, 1), "{}", summary.message());
    let reason = summary.stopped.clone().expect("the job gave up");
    assert!(reason.contains("does nothing more"), "{reason}");
    assert!(summary.left >= 1 && summary.failed.len() <= 3, "the rest was not tried: {}", summary.message());
}

/// Not a test of its own: the process that the signal tests start, interrupt and kill.
#[test]
fn child_process() {
    let Ok(dir) = std::env::var("DREAMCLEAR_TEST_CHILD") else { return };
    let dir = Path::new(&dir);
    let cancel = Cancel::new();
    cancel.raise_on_signals(discard_unfinished).unwrap();
    let obstinate = std::env::var_os("DREAMCLEAR_TEST_OBSTINATE").is_some();
    let mut double = Double { pause: Duration::from_millis(40), ..Double::default() };
    let inputs = collect(&[dir.join("in")], true, None).unwrap();
    let options = Options { resume: true, ..options(&dir.join("out")) };
    let summary = if obstinate {
        run(inputs, &mut Obstinate, &options, &cancel)
    } else {
        run(inputs, &mut double, &options, &cancel)
    };
    std::process::exit(summary.unwrap().exit_code());
}

/// Never looks at the flag.
struct Obstinate;

impl Restorer for Obstinate {
    fn settings(&self) -> String {
        "obstinate".into()
    }

    fn restore(&mut self, job: &Job<'_>) -> Result<Restored> {
        std::thread::sleep(Duration::from_secs(60));
        Ok(Restored {
            photo: job.photo.clone(),
            reference: None,
            notes: Vec::new(),
            details: Default::default(),
        })
    }
}

#[cfg(unix)]
fn start(dir: &Path, obstinate: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_process", "--nocapture"]).env("DREAMCLEAR_TEST_CHILD", dir);
    if obstinate {
        command.env("DREAMCLEAR_TEST_OBSTINATE", "1");
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[cfg(unix)]
fn signal(child: &Child, signal: i32) {
    // SAFETY: plain system call on the id of a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

#[cfg(unix)]
fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !ready() {
        assert!(Instant::now() < end, "waited 30 s for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every output is whole and the next run finishes the rest without redoing them.
#[cfg(unix)]
fn finish_and_check(input: &Path, output: &Path, count: usize) {
    let before = files(output).into_iter().filter(|n| !n.ends_with(".part")).collect::<Vec<_>>();
    assert!(!before.is_empty() && before.len() < count, "stopped in the middle: {before:?}");
    for name in &before {
        Photo::load(output.join(name)).expect("only whole pictures");
    }
    let resume = Options { resume: true, ..options(output) };
    let summary = restore(input, &mut Double::default(), &resume, &Cancel::new());
    assert_eq!(summary.done + summary.skipped, count);
    // A kill between the rename and the journal's line costs at most that one picture.
    assert!(
        summary.skipped + 1 >= before.len(),
        "{} of {} were redone",
        before.len() - summary.skipped,
        before.len()
    );
    assert_eq!(files(output).len(), count, "{:?}", files(output));
}

#[cfg(unix)]
#[test]
fn ctrl_c_and_sigterm_stop_cleanly() {
    for number in [libc::SIGINT, libc::SIGTERM] {
        let (dir, input, output) = job(40);
        let mut child = start(dir.path(), false);
        wait_for("the second output", || output.join("0001.png").exists());
        signal(&child, number);
        assert_eq!(child.wait().unwrap().code(), Some(130), "signal {number}");
        assert!(files(&output).iter().all(|n| n.ends_with("png")), "{:?}", files(&output));
        finish_and_check(&input, &output, 40);
    }
}

#[cfg(unix)]
#[test]
fn a_second_ctrl_c_exits_at_once() {
    let (dir, _input, output) = job(2);
    let mut child = start(dir.path(), true);
    wait_for("the journal", || output.join(".dreamclear-journal-0-of-1.jsonl").exists());
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, libc::SIGINT);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(child.try_wait().unwrap(), None, "this restorer ignores the first one");
    let start = Instant::now();
    signal(&child, libc::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(files(&output), Vec::<String>::new());
}

#[cfg(unix)]
#[test]
fn kill_9_loses_at_most_the_picture_in_flight() {
    for wait in [1, 4, 7] {
        let (dir, input, output) = job(40);
        let mut child = start(dir.path(), false);
        wait_for("an output", || output.join(format!("{wait:04}.png")).exists());
        signal(&child, libc::SIGKILL);
        child.wait().unwrap();
        finish_and_check(&input, &output, 40);
    }
}

/// Three pictures in three hands: makes the next one ready and finishes the last one while one is restored.
#[derive(Default)]
struct Staged {
    restored: usize,
    prepared: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
}

/// Waits until others have counted so far.
fn until(counter: &AtomicUsize, least: usize, what: &str) {
    let start = Instant::now();
    while counter.load(Ordering::SeqCst) < least {
        assert!(start.elapsed() < Duration::from_secs(30), "{what} does not go on beside");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const STAGED: usize = 6;

impl Restorer for Staged {
    fn settings(&self) -> String {
        "staged".into()
    }

    fn preparer(&self) -> Option<Preparer> {
        let prepared = self.prepared.clone();
        Some(Box::new(move |photo| {
            if photo.height == 1 {
                return Err(Error::Run("too flat".into()));
            }
            prepared.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new((photo.height, std::thread::current().id())))
        }))
    }

    fn restore(&mut self, _: &Job<'_>) -> Result<Restored> {
        unreachable!("the batch asks for several at a time")
    }

    fn restore_all(&mut self, jobs: &[Job<'_>]) -> Vec<Result<Finish>> {
        let [job] = jobs else { panic!("{} at a time", jobs.len()) };
        let here = std::thread::current().id();
        let (height, loader) =
            job.prepared.unwrap().downcast_ref::<(usize, std::thread::ThreadId)>().unwrap();
        assert!(*height == job.photo.height && *loader != here);
        // While this one is in work: the next is made ready, the last but one is finished.
        until(&self.prepared, STAGED.min(self.restored + 2), "loading");
        until(&self.finished, self.restored.saturating_sub(1), "writing");
        self.restored += 1;
        let (name, finished) = (job.name.to_owned(), self.finished.clone());
        vec![Ok(Box::new(move |photo| {
            assert_ne!(std::thread::current().id(), here);
            finished.fetch_add(1, Ordering::SeqCst);
            match name.as_str() {
                "0001.png" => panic!("a bug in the end of it"),
                "0002.png" => return Err(Error::Run("no colours".into())),
                _ => {}
            }
            Ok(Restored {
                photo: photo.clone(),
                reference: None,
                notes: Vec::new(),
                details: Default::default(),
            })
        }))]
    }
}

#[test]
fn loading_restoring_and_finishing_overlap_and_fail_alone() {
    let (_dir, input, output) = job(STAGED);
    photo(1, 1, 9, Channels::Rgb).save(input.join("flat.png"), Format::Png, 95).unwrap();
    let inputs = collect(&[&input], true, Some(&output)).unwrap();
    let summary = run(inputs, &mut Staged::default(), &options(&output), &Cancel::new()).unwrap();
    assert_eq!((summary.done, summary.exit_code()), (STAGED - 2, 3), "{}", summary.message());
    let reasons: Vec<_> = summary.failed.iter().map(|f| (f.name.as_str(), f.reason.as_str())).collect();
    assert_eq!(reasons.len(), 3);
    assert!(reasons[0].0 == "0001.png" && reasons[0].1.contains("finishing: a bug in the end of it"));
    assert_eq!(reasons[1..], [("0002.png", "no colours"), ("flat.png", "too flat")]);
    assert_eq!(files(&output), ["0000.png", "0003.png", "0004.png", "0005.png"]);
}
