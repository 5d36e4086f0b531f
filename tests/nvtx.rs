//! Ranges on a profiler's timeline, with a stand-in for the profiler.
#![cfg(all(feature = "nvtx", target_os = "linux"))]

use std::path::Path;
use std::process::Command;

use dreamclear::device::Device;
use dreamclear::graph::{Executable, GraphBuilder, Plan};
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::trace;

/// The ranges that `child_runs_a_plan` makes: depth and name, in the order of their beginnings.
fn ranges(nvtx: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let (library, log) = (dir.path().join("profiler.so"), dir.path().join("ranges"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_cuda/fake_nvtx.cpp");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let out = Command::new(compiler)
        .args(["-std=c++17", "-O1", "-Wall", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .output()
        .expect("the feature nvtx was built by a C compiler");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child_runs_a_plan", "--nocapture", "--test-threads=1"])
        .envs([("NVTX_INJECTION64_PATH", &library), ("FAKE_NVTX_LOG", &log)])
        .env("DREAMCLEAR_NVTX", nvtx)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    std::fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn ranges_nest_down_to_ops() {
    // Steps run in the host's thread pool, which has a timeline of its own.
    let host = ["0 run", "1 picture"];
    let pool = [
        "0 blocks.0",
        "1 softmax blocks.0.attn",
        "1 softmax blocks.0.mlp",
        "0 blocks.1",
        "1 softmax blocks.1",
        "0 head",
        "1 softmax head",
    ];
    assert_eq!(ranges("ops"), [&host[..], &pool].concat());
}

#[test]
fn unasked_they_end_above_ops() {
    assert_eq!(ranges(""), ["0 run", "1 picture"]);
}

#[test]
#[ignore = "run by the tests above"]
fn child_runs_a_plan() {
    let device = Device::cpu(1).unwrap();
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [1, 2, 64]).unwrap();
    let y = ["blocks.0.attn", "blocks.0.mlp", "blocks.1", "head"]
        .into_iter()
        .try_fold(x, |x, path| b.scope(path, |b| b.softmax(x)))
        .unwrap();
    b.output("y", y);
    let plan = Plan::new(b.finish(), &device).unwrap();
    let mut exe = Executable::new(plan, device, |_| None).unwrap();
    let _run = trace::range(|| "run");
    let _picture = trace::range(|| format!("pic{}", "ture"));
    exe.run(&[("x", HostTensor::from_f32([1, 2, 64], vec![0.5; 128]))]).unwrap();
}
