//! `dreamclear verify`: slices of it on the simulator, through both ways of running a case; and that what is
//! wrong is noticed.
#![cfg(not(windows))]

use std::process::{Command, Output};
use std::sync::Arc;

use dreamclear::cancel::Cancel;
use dreamclear::device::Device;
use dreamclear::device::cpu::CpuDevice;
use dreamclear::device::kernel::{DeviceFacts, KernelDevice, Launch, Mark, Recording, TensorMapSpec};
use dreamclear::device::sim::SimDevice;
use dreamclear::ffi::TensorMap;
use dreamclear::tensor::DType;
use dreamclear::verify::{self, Filter, Options, Place, Report, Slice, What};
use serde_json::Value;

/// The simulated device, through its driver-like interface; `None` with a note where there is no simulator.
fn device() -> Option<Arc<SimDevice>> {
    SimDevice::new(2, DeviceFacts::A100).map_err(|why| eprintln!("skipped: {why}")).ok().map(Arc::new)
}

fn run_on(device: Arc<dyn KernelDevice>, place: Place, what: What, only: &[&str]) -> Report {
    let host = Arc::new(CpuDevice::new(2).unwrap());
    verify::run(&Options {
        what,
        slice: Slice::ALL,
        only: only.iter().map(|o| Filter::parse(o).unwrap()).collect(),
        device: Device::kernels(host, device, DType::F32),
        place,
        compute: None,
        small: what == What::Bench,
        seconds: 0.01,
        torch: None,
        cancel: Cancel::new(),
    })
    .unwrap()
}

fn passed(report: &Report) {
    let failures: Vec<_> = report.failures().collect();
    assert!(!report.rows.is_empty() && failures.is_empty(), "{failures:#?}");
    assert!(report.rows.iter().all(|r| !r.kernels.is_empty()), "{report:#?}");
}

#[test]
fn cases_run_under_schedules_and_on_a_device() {
    let Some(device) = device() else { return };
    let ops = ["adaln/*", "softmax/*"];
    let simulated = run_on(device.clone(), Place::Simulator, What::Ops, &ops);
    let on_device = run_on(device, Place::Device, What::Ops, &ops);
    for report in [&simulated, &on_device] {
        passed(report);
        for row in &report.rows {
            let share = row.found["of_allowed"].as_f64().unwrap();
            assert!(share <= 1.0 && row.found["relative_l2"].as_f64().unwrap() < 0.01, "{row:?}");
        }
    }
    // The same launches over the same operands: the same errors.
    let errors = |r: &Report| r.rows.iter().map(|r| r.found["relative_l2"].clone()).collect::<Vec<_>>();
    assert_eq!(errors(&simulated), errors(&on_device));
}

#[test]
fn small_networks_pass() {
    let Some(device) = device() else { return };
    for what in [What::Replay, What::Determinism] {
        passed(&run_on(device.clone(), Place::Device, what, &["srvgg_prelu_x2"]));
    }
    passed(&run_on(device.clone(), Place::Device, What::Networks, &["srvgg_prelu_x2 f32"]));
    passed(&run_on(device, Place::Device, What::Outside, &["guidance"]));
}

#[test]
fn times_are_taken() {
    let Some(device) = device() else { return };
    let report = run_on(device, Place::Device, What::Bench, &["copy", "adaln/*"]);
    passed(&report);
    for row in &report.rows {
        let number = |key: &str| row.found[key].as_f64().unwrap();
        assert!(number("seconds") > 0.0 && number("bytes") > 0.0 && number("samples") >= 5.0, "{row:?}");
        let rate = number("bytes") / number("seconds");
        assert!((rate / number("bytes_per_second") - 1.0).abs() < 1e-9);
    }
}

/// A device that leaves out some of what it is told to do.
struct Broken {
    whole: Arc<SimDevice>,
    fault: Fault,
}

enum Fault {
    /// Every other launch of a kernel is dropped.
    Forgets(std::sync::atomic::AtomicUsize),
    /// A recording is an empty one.
    RecordsNothing,
}

struct Nothing;

impl Recording for Nothing {
    unsafe fn start(&self) -> dreamclear::Result<()> {
        Ok(())
    }
}

impl KernelDevice for Broken {
    fn name(&self) -> String {
        "a broken device".into()
    }
    fn facts(&self) -> DeviceFacts {
        self.whole.facts()
    }
    fn allocate(&self, bytes: usize) -> dreamclear::Result<u64> {
        self.whole.allocate(bytes)
    }
    unsafe fn free(&self, address: u64, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.whole.free(address, bytes) }
    }
    unsafe fn upload(&self, to: u64, bytes: &[u8]) -> dreamclear::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.whole.upload(to, bytes) }
    }
    unsafe fn download(&self, from: u64, to: &mut [u8]) -> dreamclear::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.whole.download(from, to) }
    }
    unsafe fn upload_beside(
        &self,
        to: u64,
        bytes: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> dreamclear::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.whole.upload_beside(to, bytes, fill) }
    }
    unsafe fn download_later(&self, from: u64, to: *mut u8, bytes: usize) -> dreamclear::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.whole.download_later(from, to, bytes) }
    }
    fn allocate_pinned(&self, bytes: usize) -> dreamclear::Result<*mut u8> {
        self.whole.allocate_pinned(bytes)
    }
    unsafe fn free_pinned(&self, at: *mut u8, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.whole.free_pinned(at, bytes) }
    }
    fn mark(&self) -> dreamclear::Result<Box<dyn Mark>> {
        self.whole.mark()
    }
    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap, String> {
        self.whole.tensor_map(spec)
    }
    fn check(&self, launch: &Launch) -> Result<(), String> {
        self.whole.check(launch)
    }
    unsafe fn launch(&self, launches: &[Launch]) -> Result<(), (usize, String)> {
        if let Fault::Forgets(count) = &self.fault
            && count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 2 == 1
        {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.whole.launch(launches) }
    }
    unsafe fn record(&self, _: &[Launch]) -> Option<dreamclear::Result<Arc<dyn Recording>>> {
        matches!(self.fault, Fault::RecordsNothing).then(|| Ok(Arc::new(Nothing) as Arc<dyn Recording>))
    }
    fn synchronize(&self) -> dreamclear::Result<()> {
        self.whole.synchronize()
    }
}

#[test]
fn a_broken_device_is_noticed() {
    let Some(device) = device() else { return };
    let broken = |fault| Arc::new(Broken { whole: device.clone(), fault }) as Arc<dyn KernelDevice>;
    let failure = |report: Report| report.failures().next().and_then(|r| r.failure.clone());

    let forgets = || broken(Fault::Forgets(0.into()));
    let e = failure(run_on(forgets(), Place::Device, What::Ops, &["softmax/*"])).expect("noticed");
    assert!(e.contains("depends on the run") && e.contains("a second run"), "{e}");
    let e = failure(run_on(forgets(), Place::Device, What::Networks, &["srvgg_prelu_x2 f32"]));
    assert!(e.is_some());

    let records = || broken(Fault::RecordsNothing);
    let e = failure(run_on(records(), Place::Device, What::Ops, &["softmax/*"])).expect("noticed");
    assert!(e.contains("depends on the run") && e.contains("a recorded run"), "{e}");
    let e = failure(run_on(records(), Place::Device, What::Replay, &["srvgg_prelu_x2"])).expect("noticed");
    assert!(e.contains("replayed") && e.contains("launch by launch"), "{e}");
}

fn command(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dreamclear")).arg("verify").args(args).output().expect("the binary runs")
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn the_command_writes_what_it_found() {
    if device().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = |k: usize| dir.path().join(format!("{k}.json"));
    let part = |k: usize| -> Value {
        let out = command(&[
            "--device",
            "sim",
            "--what",
            "ops",
            "--only",
            "softmax/",
            "--slice",
            &format!("{k}/2"),
            "--json",
            file(k).to_str().unwrap(),
        ]);
        assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
        assert!(String::from_utf8_lossy(&out.stdout).contains(" 0 failed"));
        serde_json::from_slice(&std::fs::read(file(k)).unwrap()).unwrap()
    };
    let parts = [part(1), part(2)];
    let names = |v: &Value| -> Vec<String> {
        let rows = v["rows"].as_array().unwrap();
        rows.iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect()
    };
    let mut found = [names(&parts[0]), names(&parts[1])].concat();
    found.sort();
    found.dedup();
    let mut all = verify::names(What::Ops, false, None);
    all.retain(|n| n.contains("softmax/"));
    all.sort();
    assert_eq!(found, all, "both slices together are everything");
    assert_eq!(parts[0]["place"], "simulator");
    assert_eq!(parts[0]["arch"], 80);
}

#[test]
fn wrong_usage_is_one_sentence() {
    for (args, says) in [
        (["--device", "cpu", "--what", "ops"].as_slice(), "expected cuda, cuda:N, sim or sim:h100"),
        (&["--device", "sim", "--what", "ops", "--slice", "3/2"], "expected I/N"),
        (&["--device", "sim", "--what", "ops", "--only", "no such op"], "nothing to verify"),
        (&["--device", "sim", "--what", "ops", "--python", "python3"], "goes with --what bench"),
    ] {
        let out = command(args);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {}", stderr(&out));
        let text = stderr(&out) + &String::from_utf8_lossy(&out.stdout);
        assert!(
            text.contains(says) || (says == "nothing to verify" && text.contains("no simulator")),
            "{text}"
        );
    }
}

/// `tools/verify-gpu` over a stand-in for the binary: what is done is not done again, what broke off is.
#[test]
#[cfg(target_os = "linux")]
fn the_tool_goes_on_where_it_stopped() {
    use std::os::unix::fs::PermissionsExt;
    if Command::new("python3").arg("-c").arg("").status().is_err() {
        return eprintln!("skipped: there is no python3");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let script = |name: &str, text: &str| {
        std::fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        std::fs::write(path(name), text).unwrap();
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    script("tools/verify-gpu", include_str!("../tools/verify-gpu"));
    script(
        "dreamclear",
        r#"#!/bin/bash
while [ $# -gt 0 ]; do case $1 in --what) what=$2;; --slice) slice=$2;; --json) file=$2;; esac; shift; done
cd "$(dirname "$0")"
echo "$what $slice" >> calls
[ "$what" = replay ] && ! [ -e repaired ] && { echo "error: it broke" >&2; exit 1; }
failure=$([ "$what" = outside ] && echo ', "failure": "element 3 is NaN"')
echo "{\"what\": \"$what\", \"rows\": [{\"name\": \"a\", \"kernels\": []$failure}]}" > "$file"
"#,
    );
    let run = |parts: &str| {
        let out = Command::new("python3")
            .arg(path("tools/verify-gpu"))
            .args(["--parts", parts, "--binary"])
            .arg(path("dreamclear"))
            .arg("--results")
            .arg(path("results.json"))
            .output()
            .unwrap();
        let calls = std::fs::read_to_string(path("calls")).unwrap_or_default();
        let _ = std::fs::remove_file(path("calls"));
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &stderr(&out);
        (out.status.code(), calls.lines().count(), text)
    };
    assert_eq!(run("ops,determinism").0, Some(0));
    let (code, calls, text) = run("ops,replay");
    assert!(code == Some(1) && calls == 1 && text.contains("it broke"), "{calls}: {text}");
    std::fs::write(path("repaired"), "").unwrap();
    assert_eq!((run("replay").0, run("replay,ops,determinism").1), (Some(0), 0), "all is done");
    let (code, calls, _) = run("outside,ops");
    assert_eq!((code, calls), (Some(1), 1), "a row that fails");
    let (code, _, text) = run("nothing");
    assert!(code == Some(1) && text.contains("--parts nothing: expected"), "{text}");
}
