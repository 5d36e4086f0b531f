//! The command under `mpirun`: runs from their settings to exported weights, and how they end early.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dreamclear::data::image::{Channels, Format, Photo, Samples};
use dreamclear::train::checkpoint::Checkpoint;
use dreamclear::weights::WeightSet;
use serde_json::Value;

use super::support;

/// A folder with generated pictures and the settings of a small run: trained by squares and with a large `eps`, so
/// that rounding in a gradient stays rounding in its parameter.
struct Job {
    dir: tempfile::TempDir,
}

impl Job {
    /// None where there is no `mpirun`.
    fn new() -> Option<Self> {
        match Command::new("mpirun").arg("--version").output() {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                eprintln!("skipped: there is no mpirun");
                return None;
            }
            found => found.expect("mpirun --version"),
        };
        let dir = tempfile::tempdir().unwrap();
        for i in 0..5 {
            let level = |p: usize| ((p / 3 % 48 * 5 + p / 144 * 3 + i * 29 + p % 3 * 40) % 251) as u8;
            let photo = Photo::new(40, 48, Channels::Rgb, Samples::U8((0..3 * 40 * 48).map(level).collect()));
            photo.save(dir.path().join(format!("photos/{i}.png")), Format::Png, 95).unwrap();
        }
        let text = "steps = 6\nbatch = 4\n\
            [model]\ndrop_path = 0.5\n[model.network]\nembed_dim = 8\ndepths = [2]\nnum_heads = [2]\nwindow_size = 4\nmlp_ratio = 1\n\
            img_size = 16\nunshuffle = true\nunshuffle_scale = 2\nsf = 2\nupsampler = \"pixelshuffledirect\"\n\
            [degradation]\nkind = \"codeformer\"\nblur.sizes = [7]\n\
            [loss]\ndistance = \"mse\"\nreduction = \"mean\"\n\
            [data]\nphotos = \"photos\"\ncrop = 16\nplace = \"random\"\nflip = true\nworkers = 1\n\
            [optimizer]\nlr = 1e-2\neps = 1e-2\nema = 0.9\nclip = 0.1\n\
            [validation]\nphotos = \"photos\"\nevery = 3\npictures = 2\nshow = 1\n\
            [checkpoint]\nevery = 2\nkeep = 2\n[log]\nevery = 2\n";
        fs::write(dir.path().join("tiny.toml"), text).unwrap();
        Some(Job { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Arguments of a run into a folder.
    fn train<'a>(&self, output: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let base = ["train", "swinir", "tiny.toml", "--device", "cpu", "--threads", "1", "--output", output];
        [&[env!("CARGO_BIN_EXE_dreamclear")][..], &base, more].concat()
    }

    /// One process.
    fn alone(&self, output: &str, more: &[&str]) -> Output {
        let line = self.train(output, more);
        Command::new(line[0]).args(&line[1..]).current_dir(self.dir.path()).output().unwrap()
    }

    /// Two processes.
    fn two(&self, output: &str, more: &[&str]) -> Command {
        let mut command = self.mpirun(&[]);
        command.args(["-n", "2"]).args(self.train(output, more));
        command
    }

    fn mpirun(&self, options: &[&str]) -> Command {
        let mut command = Command::new("mpirun");
        command.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]).args(options);
        command.current_dir(self.dir.path());
        command
    }

    fn log(&self, output: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(output).join("log.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Every file of a run but TensorBoard's, which are counted.
    fn files(&self, output: &str) -> Vec<String> {
        let root = self.path(output);
        let (mut names, mut folders) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                    let events = name.starts_with("events.out.tfevents.");
                    names.push(if events { "events".to_owned() } else { name });
                }
            }
        }
        names.sort();
        names
    }

    fn checkpoint(&self, output: &str, step: u64) -> Checkpoint {
        Checkpoint::open(&self.path(output).join(format!("checkpoints/step-{step:08}.safetensors"))).unwrap()
    }
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// Waits for a run to have made two updates.
fn two_updates(job: &Job, output: &str) {
    let end = Instant::now() + Duration::from_secs(120);
    while job.log(output).len() < 2 {
        assert!(Instant::now() < end, "waited two minutes for two updates");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(process: u32, signal: i32) {
    // SAFETY: plain system call on the id of a process that has not been waited for.
    assert_eq!(unsafe { libc::kill(process as i32, signal) }, 0);
}

/// What a process says until it ends, which it must within a minute. It is read all the while: Open MPI waits for
/// its pipes to be emptied before it ends, and a run of many updates says more than they hold.
fn end_of(mut child: Child) -> Output {
    let start = Instant::now();
    let stdout = read_all(child.stdout.take().unwrap());
    let stderr = read_all(child.stderr.take().unwrap());
    let mut hangs = false;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if !hangs && start.elapsed() > Duration::from_secs(60) {
            hangs = true;
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let out = Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() };
    assert!(!hangs, "the run hangs: {}", said(&out));
    out
}

fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// The process id of a rank that this `mpirun` has started.
fn process_of(mpirun: u32, rank: &str) -> u32 {
    let found = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let id = entry.file_name().to_string_lossy().parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned();
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let variable = format!("OMPI_COMM_WORLD_RANK={rank}");
        let its = environment.split(|&b| b == 0).any(|v| v == variable.as_bytes());
        (its && parent == mpirun.to_string()).then_some(id)
    });
    found.unwrap_or_else(|| panic!("mpirun ({mpirun}) has no rank {rank}"))
}

/// Two processes share each batch of four, and leave what one with the whole batch leaves.
#[test]
fn two_processes_leave_what_one_leaves() {
    let Some(job) = Job::new() else { return };
    let one = job.alone("one", &[]);
    assert!(one.status.success(), "{}", said(&one));
    let two = job.two("two", &["--json"]).output().unwrap();
    assert!(two.status.success(), "{}", said(&two));
    // One report, one line of progress an update that is due.
    assert_eq!(said(&two).matches("\"interrupted\": false").count(), 1, "{}", said(&two));
    assert_eq!(said(&two).matches("4/6 loss").count(), 1, "{}", said(&two));
    assert_eq!(job.files("one"), job.files("two"));
    assert_eq!(job.files("two").iter().filter(|name| *name == "events").count(), 1);

    // Bars are ten times what was measured: 1e-7 for numbers of the log, 5e-7 for tensors.
    let (one, two) = (job.log("one"), job.log("two"));
    assert_eq!(one.len(), two.len());
    let mut worst = 0.0f64;
    for (one, two) in one.iter().zip(&two) {
        for key in ["kind", "step", "epoch", "rate"] {
            assert_eq!(one[key], two[key], "{key} of {two}");
        }
        for key in ["loss", "mse", "grad_norm", "psnr", "psnr_input"] {
            let (Some(one), Some(two)) = (one[key].as_f64(), two[key].as_f64()) else {
                assert!(one[key].is_null() && two[key].is_null(), "{key}: {one} and {two}");
                continue;
            };
            worst = worst.max((one - two).abs() / one);
        }
    }
    println!("numbers of the log: largest relative difference {worst:.1e}");
    assert!(worst < 1e-6, "{worst:.1e}");
    let (one, two) = (job.checkpoint("one", 6), job.checkpoint("two", 6));
    let mut worst = (0.0f64, String::new());
    for (name, want) in one.tensors.iter() {
        let got = two.tensors.get(name).unwrap();
        if want.dtype().is_float() {
            let error = support::relative(got, want);
            worst = if error > worst.0 { (error, name.to_owned()) } else { worst };
        } else {
            assert!(got.bytes() == want.bytes(), "{name}");
        }
    }
    println!("tensors of the checkpoint: largest relative difference {:.1e}, {}", worst.0, worst.1);
    assert!(worst.0 < 5e-6, "{worst:?}");
    let export = WeightSet::open(job.path("two/export/swinir.safetensors")).unwrap();
    for (name, tensor) in export.iter() {
        assert!(tensor.bytes() == two.tensors.get(&format!("ema.{name}")).unwrap().bytes(), "{name}");
    }

    // Both go on from the same checkpoint, and come to the same bytes again.
    let before = fs::read(job.path("two/export/swinir.safetensors")).unwrap();
    fs::remove_file(job.path("two/checkpoints/step-00000006.safetensors")).unwrap();
    let out = job.two("two", &["--resume", "auto"]).output().unwrap();
    assert!(out.status.success(), "{}", said(&out));
    assert_eq!(said(&out).matches("going on after update 4").count(), 1, "{}", said(&out));
    assert!(fs::read(job.path("two/export/swinir.safetensors")).unwrap() == before);
}

/// The second process has a folder of its own to write into, if it wrote.
#[test]
fn only_the_first_process_writes() {
    let Some(job) = Job::new() else { return };
    let more = ["--steps", "3", "--set", "checkpoint.every=1"];
    let mut command = job.mpirun(&["-n", "1"]);
    command.args(job.train("first", &more)).args([":", "-n", "1"]).args(job.train("second", &more));
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", said(&out));
    assert_eq!(job.log("first").len(), 4, "three updates and a validation");
    assert!(job.path("first/export/swinir.safetensors").exists() && !job.path("second").exists());
}

/// More updates than a test waits for, with next to nothing said about them: `mpirun` that was told to end reads no
/// output while it waits, and who has filled 64 KiB by then hangs in writing.
const LONG: [&str; 8] = [
    "--steps",
    "1000000",
    "--set",
    "checkpoint.every=1000000",
    "--set",
    "validation.every=0",
    "--set",
    "log.every=100000",
];

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// SIGUSR1 to `mpirun`, which hands it on, and SIGTERM to one of the processes end both after the same update; that
/// is a success.
#[test]
fn a_signal_ends_both_with_a_checkpoint() {
    let Some(job) = Job::new() else { return };
    for (output, number) in [("usr1", libc::SIGUSR1), ("term", libc::SIGTERM)] {
        let child = start(job.two(output, &LONG));
        two_updates(&job, output);
        let target = if output == "term" { process_of(child.id(), "1") } else { child.id() };
        signal(target, number);
        let out = end_of(child);
        assert_eq!(out.status.code(), Some(0), "{}", said(&out));
        assert_eq!(said(&out).matches("go on with --resume auto").count(), 1, "{}", said(&out));
        stopped_whole(&job, output);
    }
}

/// SIGTERM to `mpirun` itself: Open MPI sends it to the processes when its time is over, kills them when that has
/// passed once more, and calls the job failed whatever they return.
#[test]
fn sigterm_to_mpirun_leaves_a_checkpoint() {
    let Some(job) = Job::new() else { return };
    let mut command = job.mpirun(&["--mca", "odls_base_sigkill_timeout", "4", "-n", "2"]);
    command.args(job.train("run", &LONG));
    let child = start(command);
    two_updates(&job, "run");
    signal(child.id(), libc::SIGTERM);
    let out = end_of(child);
    assert_eq!(said(&out).matches("go on with --resume auto").count(), 1, "{}", said(&out));
    stopped_whole(&job, "run");
}

/// One checkpoint, of the last update in the log, and weights.
fn stopped_whole(job: &Job, output: &str) {
    let last = job.log(output).last().unwrap()["step"].as_u64().unwrap();
    assert_eq!(job.checkpoint(output, last).step, last);
    assert_eq!(fs::read_dir(job.path(output).join("checkpoints")).unwrap().count(), 1);
    assert!(job.path(output).join("export/swinir.safetensors").exists());
}

/// `mpirun` ends the run of which one process was killed, and says so.
#[test]
fn a_killed_process_ends_the_run() {
    let Some(job) = Job::new() else { return };
    let child = start(job.two("run", &LONG));
    two_updates(&job, "run");
    signal(process_of(child.id(), "1"), libc::SIGKILL);
    let out = end_of(child);
    assert!(!out.status.success(), "{}", said(&out));
    assert!(said(&out).contains("process rank 1") && said(&out).contains("signal 9"), "{}", said(&out));
}

/// One that hangs is waited for no longer than `--patience`.
#[test]
fn a_process_that_hangs_ends_the_run_with_a_sentence() {
    let Some(job) = Job::new() else { return };
    let child = start(job.two("run", &[&LONG[..], &["--patience", "5"]].concat()));
    two_updates(&job, "run");
    signal(process_of(child.id(), "1"), libc::SIGSTOP);
    let out = end_of(child);
    assert!(!out.status.success(), "{}", said(&out));
    let sentences: Vec<_> =
        said(&out).lines().filter(|l| l.contains("rank 0 waited 5 s")).map(str::to_owned).collect();
    assert!(matches!(&sentences[..], [one] if one.contains("has stopped or hangs")), "{}", said(&out));
}

/// One that fails says why, once, and takes the other with it.
#[test]
fn a_process_that_fails_says_why() {
    let Some(job) = Job::new() else { return };
    fs::create_dir(job.path("empty")).unwrap();
    let other = [&LONG[..], &["--set", "data.photos=empty"]].concat();
    let mut command = job.mpirun(&["-n", "1"]);
    command.args(job.train("run", &LONG)).args([":", "-n", "1"]).args(job.train("run", &other));
    let out = end_of(start(command));
    // The code is that of the process which failed.
    assert_eq!(out.status.code(), Some(2), "{}", said(&out));
    assert_eq!(said(&out).matches("no pictures").count(), 1, "{}", said(&out));
}
