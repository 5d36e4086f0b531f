//! The CUDA device (`src/device/cuda/`) on a stand-in driver: every driver call of the program is made,
//! kernels run in the simulator, and the faults of real machines are played.
#![cfg(target_os = "linux")]

use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use dreamclear::Error;
use dreamclear::cancel::Cancel;
use dreamclear::data::color_fix::ColorFix;
use dreamclear::data::pixels::{FloatImage, Rounding};
use dreamclear::device::Device;
use dreamclear::device::cpu::CpuDevice;
use dreamclear::device::cuda::CudaDevice;
use dreamclear::device::kernel::{DeviceMemory, KernelDevice};
use dreamclear::device::sim::Simulator;
use dreamclear::graph::{Executable, Graph, GraphBuilder, Plan, Workspace};
use dreamclear::models;
use dreamclear::models::load::Loaded;
use dreamclear::pipelines::dreamclear::captions::Source;
use dreamclear::pipelines::dreamclear::components::{Chosen, Sources};
use dreamclear::pipelines::dreamclear::memory::PictureMemory;
use dreamclear::pipelines::dreamclear::{DreamClearRestorer, Settings, denoise};
use dreamclear::pipelines::tiled::{TiledNetwork, Watch};
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::verify::{self, Filter, Options, Place, Slice, What};
use dreamclear::weights::WeightSet;
use loop_case::LoopCase;

#[path = "support/loop_case.rs"]
mod loop_case;
mod support;

/// A folder with a `libcuda.so.1` of our own, or why there is none.
fn fake_driver(dir: &Path) -> Result<PathBuf, String> {
    Simulator::new().map_err(|e| e.to_string())?;
    let library = dir.join("libcuda.so.1");
    compile("tests/fake_cuda/fake_cuda.cpp", &library);
    std::os::unix::fs::symlink("libcuda.so.1", dir.join("libcuda.so")).expect("a link beside it");
    Ok(library)
}

fn compile(source: &str, library: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let out = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-Wall", "-shared", "-fPIC", "-pthread", "-o"])
        .args([library, &source])
        .output()
        .unwrap_or_else(|e| panic!("{compiler}: {e}"));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Runs an ignored test of this file in a process that finds the stand-in driver, which plays this fault.
fn child(test: &str, fault: &str) {
    child_with(test, &[("FAKE_CUDA", fault)]);
}

fn child_with(test: &str, environment: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    match fake_driver(dir.path()) {
        Ok(_) => {}
        Err(why) => return eprintln!("skipped: no stand-in driver ({why})"),
    }
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--nocapture", "--test-threads=1"])
        .env("LD_LIBRARY_PATH", dir.path())
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("1 passed"), "{test} with {environment:?}:\n{text}");
}

#[test]
fn plans_run_through_the_driver() {
    child("child_runs_a_plan", "");
}

#[test]
fn plans_on_hopper_describe_tensors_to_the_driver() {
    child("child_runs_a_product_on_hopper", "hopper");
}

#[test]
fn a_denoising_loop_neither_waits_nor_allocates() {
    child("child_denoises", "");
}

#[test]
fn large_copies_take_turns_through_page_locked_blocks() {
    child("child_copies", "");
}

#[test]
fn the_stand_in_sees_streams_that_nothing_orders() {
    child("child_forgets_an_event", "");
}

#[test]
fn faults_of_machines_are_one_sentence() {
    let faults = ["none", "driver", "behind", "old", "taken", "mig", "newer code", "no code", "full"];
    for fault in faults {
        child("child_meets_a_fault", fault);
    }
}

#[test]
fn a_kernel_that_fails_ends_the_job() {
    child("child_loses_the_device", "broken kernel");
}

#[test]
fn less_memory_is_a_smaller_plan() {
    child_with("child_has_little_memory", &[("FAKE_CUDA_MIB", "4")]);
}

#[test]
fn what_is_verified_runs_through_the_driver() {
    child("child_is_verified", "");
}

#[test]
fn less_memory_is_a_smaller_plan_of_the_whole_pipeline() {
    child_with("child_plans_within_the_device", &[("FAKE_CUDA_MIB", "256")]);
}

#[test]
fn plans_run_on_a_stream_of_another_program() {
    child("child_borrows_a_stream", "");
}

#[test]
fn kernels_are_compiled_at_first_use() {
    let dir = tempfile::tempdir().unwrap();
    let library = dir.path().join("libnvrtc.so");
    if Simulator::new().is_err() {
        return eprintln!("skipped: no stand-in driver");
    }
    compile("tests/fake_cuda/fake_nvrtc.cpp", &library);
    child_with(
        "child_compiles_at_first_use",
        &[
            ("DREAMCLEAR_NVRTC", &library.to_string_lossy()),
            ("DREAMCLEAR_CACHE", &dir.path().to_string_lossy()),
        ],
    );
}

/// The library's own functions, beside those of the driver.
struct Fake(*mut c_void);

// SAFETY: a handle of the dynamic loader; the functions behind it take a lock or read a number.
unsafe impl Sync for Fake {}

impl Fake {
    /// Opens the stand-in by the name under which the program finds it, and gives it the simulator.
    fn install() -> Self {
        let simulator = Simulator::new().unwrap();
        // SAFETY: the signatures are those of tests/fake_cuda/fake_cuda.cpp.
        unsafe {
            let fake = Fake(libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW));
            assert!(!fake.0.is_null(), "the stand-in driver is on LD_LIBRARY_PATH");
            let install: unsafe extern "C" fn(*const c_void, *const c_void, *const c_void) =
                std::mem::transmute(fake.symbol("fake_cuda_install"));
            let [kernels, launch, tensor_map] = simulator.raw_functions();
            install(kernels, launch, tensor_map);
            fake
        }
    }

    fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: an open library.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null(), "{name:?}");
        found
    }

    /// Bytes of device memory in use.
    fn used(&self) -> usize {
        // SAFETY: see `install`.
        unsafe {
            std::mem::transmute::<*mut c_void, extern "C" fn() -> usize>(self.symbol("fake_cuda_used"))()
        }
    }

    /// Waits of the host, allocations, and copies of memory that is not page-locked, so far.
    fn counts(&self) -> [u32; 3] {
        let mut counts = [0; 3];
        // SAFETY: see `install`.
        unsafe {
            std::mem::transmute::<*mut c_void, extern "C" fn(&mut [u32; 3])>(self.symbol("fake_cuda_counts"))(
                &mut counts,
            );
        }
        counts
    }

    /// Where the last graph was started.
    fn last_stream(&self) -> *mut c_void {
        // SAFETY: see `install`.
        unsafe {
            std::mem::transmute::<*mut c_void, extern "C" fn() -> *mut c_void>(
                self.symbol("fake_cuda_last_stream"),
            )()
        }
    }

    /// Graphs started so far.
    fn graph_launches(&self) -> u32 {
        // SAFETY: see `install`.
        unsafe {
            std::mem::transmute::<*mut c_void, extern "C" fn() -> u32>(
                self.symbol("fake_cuda_graph_launches"),
            )()
        }
    }
}

/// y = adaln(x) over shift and scale, twice.
fn graph() -> Graph {
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [2, 3, 64]).unwrap();
    let shift = b.param("shift", [1, 1, 64]).unwrap();
    let scale = b.param("scale", [1, 1, 64]).unwrap();
    let y = b.adaln(x, shift, scale, 1e-6).unwrap();
    let y = b.adaln(y, scale, shift, 1e-6).unwrap();
    b.output("y", y);
    b.finish()
}

fn wave(shape: &[usize], step: f32) -> HostTensor {
    let n = shape.iter().product();
    HostTensor::from_f32(shape, (0..n).map(|i| (i as f32 * step).sin()).collect())
}

#[test]
#[ignore = "run by plans_run_through_the_driver"]
fn child_runs_a_plan() {
    let fake = Fake::install();
    let host = Arc::new(CpuDevice::new(2).unwrap());
    let run = |device: &Device, x: &HostTensor| {
        let plan = Plan::new(graph(), device).unwrap();
        let mut exe = Executable::new(plan, device.clone(), |key| {
            Some(wave(&[1, 1, 64], if key == "shift" { 0.1 } else { 0.3 }))
        })
        .unwrap();
        let first = exe.run(&[("x", x.clone())]).unwrap().remove(0).1;
        let used = fake.used();
        let second = exe.run(&[("x", x.clone())]).unwrap().remove(0).1;
        assert_eq!(used, fake.used(), "a second run takes no memory");
        assert_eq!(first.bytes(), second.bytes());
        first
    };
    let x = wave(&[2, 3, 64], 0.7);
    let want = run(&Device::from(host.clone()), &x).to_f64();
    assert_eq!(fake.graph_launches(), 0);
    let cuda = CudaDevice::open(0, &[("all", b"stand-in")]).unwrap();
    let all = Simulator::new().unwrap().kernels();
    let missing: Vec<_> = all
        .iter()
        .filter(|k| {
            !k.name.starts_with("fault_")
                && !k.name.ends_with("_sm90")
                && !cuda.kernels().any(|have| have == *k)
        })
        .collect();
    assert!(missing.is_empty(), "an A100 cannot run {missing:?}");
    let device = Device::kernels(host, Arc::new(cuda), DType::F32);
    let got = run(&device, &x).to_f64();
    assert_eq!(fake.graph_launches(), 2, "each run starts one recorded graph");
    for (g, w) in got.iter().zip(&want) {
        assert!((g - w).abs() <= 1e-5, "{g} against {w}");
    }
    drop(device);
    assert_eq!(fake.used(), 0, "all device memory was given back");
}

#[test]
#[ignore = "run by plans_on_hopper_describe_tensors_to_the_driver"]
fn child_runs_a_product_on_hopper() {
    let fake = Fake::install();
    let host = Arc::new(CpuDevice::new(2).unwrap());
    let cuda = CudaDevice::open(0, &[("all", b"stand-in"), ("all_sm90", b"stand-in")]).unwrap();
    let device = Device::kernels(host.clone(), Arc::new(cuda), DType::BF16);
    // So many tiles that Hopper's own are worth it; numbers whose sums are exact in bf16.
    let (m, n, k) = (1024, 640, 64);
    let small = |shape: [usize; 2], turn: usize| {
        let values = (0..shape[0] * shape[1]).map(|i| (i * i / turn % 3) as f32 - 1.0).collect();
        HostTensor::from_f32(shape, values)
    };
    let run = |device: &Device| {
        let mut b = GraphBuilder::new();
        let x = b.input("x", DType::F32, [m, k]).unwrap();
        let w = b.param("w", [n, k]).unwrap();
        let y = b.linear(x, w, None).unwrap();
        b.output("y", y);
        let plan = Plan::new(b.finish(), device).unwrap();
        let kernels: Vec<_> = plan.cuda_launches().unwrap().concat().into_iter().map(|l| l.kernel).collect();
        let mut exe = Executable::new(plan, device.clone(), |_| Some(small([n, k], 5))).unwrap();
        (exe.run(&[("x", small([m, k], 7))]).unwrap().remove(0).1, kernels)
    };
    let (want, _) = run(&Device::from(host));
    let (got, kernels) = run(&device);
    assert!(kernels.iter().any(|k| k.starts_with("gemm_") && k.ends_with("_sm90")), "{kernels:?}");
    assert_eq!(got.to_f64(), want.to_f64());
    drop(device);
    assert_eq!(fake.used(), 0, "all device memory was given back");
}

#[test]
#[ignore = "run by a_denoising_loop_neither_waits_nor_allocates"]
fn child_denoises() {
    let fake = Fake::install();
    let host = Arc::new(CpuDevice::new(1).unwrap());
    let mut case = LoopCase::new();
    case.settings.sampler = "dpm++sde".into();
    case.settings.span = 4.into();
    case.limit = 3;
    let run = |device: &Device, watch: Watch| {
        let mut denoiser = case.denoiser(device);
        denoiser.run(&case.subjects(), &case.settings, case.limit, watch)
    };
    let quiet = Watch { cancel: &Cancel::new(), progress: &|_| {} };
    let want = run(&Device::sim(1, DType::BF16).unwrap(), quiet).unwrap();
    let gpu = Arc::new(CudaDevice::open(0, &[("all", b"stand-in")]).unwrap());
    let device = Device::kernels(host, gpu, DType::BF16);

    let seen = Mutex::new(Vec::new());
    let progress = |f: f32| seen.lock().unwrap().push((f, fake.counts()));
    let got = run(&device, Watch { cancel: &Cancel::new(), progress: &progress }).unwrap();
    for (g, w) in got.iter().zip(&want) {
        assert!(g.latent == w.latent, "the driver's loop is the simulator's");
    }
    assert_eq!(fake.graph_launches(), 4, "one recording a step");
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), 4, "each step is told: {seen:?}");
    let [waits, allocations, _] = seen[0].1;
    assert!(waits > 0 && allocations > 0, "what is counted happens elsewhere");
    for (f, counts) in &seen {
        assert_eq!(counts[..2], [waits, allocations], "waits and allocations up to {f}");
    }
    assert_eq!(fake.counts()[2], 0, "every copy is from or to page-locked memory");

    // Given up between two steps: what was started ends before its memory goes.
    let cancel = Cancel::new();
    let stop = |_: f32| cancel.cancel();
    let ended = run(&device, Watch { cancel: &cancel, progress: &stop });
    assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
    drop(device);
    assert_eq!(fake.used(), 0, "all device memory was given back");
}

#[test]
#[ignore = "run by large_copies_take_turns_through_page_locked_blocks"]
fn child_copies() {
    let fake = Fake::install();
    let gpu: Arc<dyn KernelDevice> = Arc::new(CudaDevice::open(0, &[("all", b"stand-in")]).unwrap());
    let words: Vec<u32> = (0..(50 << 18) + 7).map(|i: u32| i.wrapping_mul(2_654_435_761)).collect();
    let bytes: &[u8] = bytemuck::cast_slice(&words);
    let memory = DeviceMemory::new(&gpu, bytes.len()).unwrap();
    let mut at = 0;
    let mut fill = |start: usize, piece: &mut [u8]| {
        assert_eq!(start, at, "pieces come in order");
        at += piece.len();
        piece.copy_from_slice(&bytes[start..at]);
    };
    // SAFETY: memory of this size.
    unsafe { gpu.upload_beside(memory.address(), bytes.len(), &mut fill) }.unwrap();
    let mut back = vec![0; bytes.len()];
    memory.read(0, &mut back).unwrap();
    assert!(back == bytes, "up beside, down in order");

    let turned: Vec<u8> = bytes.iter().rev().copied().collect();
    memory.write(&turned).unwrap();
    let mark = gpu.mark().unwrap();
    // SAFETY: inside the memory, to which nothing writes any more.
    unsafe { mark.download(memory.address() + 5, &mut back[5..]) }.unwrap();
    assert!(back[5..] == turned[5..], "up in order, down at a mark");
    assert!(mark.reached().unwrap());
    assert_eq!(fake.counts()[2], 0, "all through page-locked blocks");
}

#[test]
#[ignore = "run by the_stand_in_sees_streams_that_nothing_orders"]
fn child_forgets_an_event() {
    use cudarc::driver::{result, sys};
    let _fake = Fake::install();
    // SAFETY: plain driver calls on the stand-in, with live streams, events and memory.
    unsafe {
        let stream = || result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        let (one, two) = (stream(), stream());
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
        let memory = result::malloc_sync(64).unwrap();
        let (from, mut to) = ([7u8; 64], [0u8; 64]);
        result::memcpy_htod_async(memory, &from, two).unwrap();
        let e = result::memcpy_dtoh_async(&mut to, memory, one).unwrap_err();
        assert_eq!(e.0, sys::CUresult::CUDA_ERROR_LAUNCH_FAILED, "a copy overtakes another");
        result::event::record(event, two).unwrap();
        result::stream::wait_event(one, event, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT).unwrap();
        result::memcpy_dtoh_async(&mut to, memory, one).unwrap();
        assert_eq!(to, [0; 64], "nothing is done before somebody waits");
        assert!(result::memcpy_htod_async(memory, &from, two).is_err(), "written while it is read");
        result::stream::synchronize(one).unwrap();
        assert_eq!(to, from);
        result::memcpy_htod_async(memory, &from, two).unwrap();
    }
}

#[test]
#[ignore = "run by faults_of_machines_are_one_sentence"]
fn child_meets_a_fault() {
    let fault = std::env::var("FAKE_CUDA").unwrap();
    let _fake = Fake::install();
    let host = Arc::new(CpuDevice::new(1).unwrap());
    let opened = CudaDevice::open(0, &[("all", b"stand-in")]);
    let message = match fault.as_str() {
        "mig" => {
            opened.unwrap();
            CudaDevice::open(1, &[("all", b"stand-in")]).err().expect("there is one device").to_string()
        }
        "full" => {
            let device = Device::kernels(host, Arc::new(opened.unwrap()), DType::F32);
            let mut b = GraphBuilder::new();
            let big = [1, 1, 1 << 20];
            let x = b.input("x", DType::F32, big).unwrap();
            b.output("y", x);
            let plan = Plan::new(b.finish(), &device).unwrap();
            let mut exe = Executable::new(plan, device, |_| None).unwrap();
            exe.run(&[("x", wave(&big, 0.1))]).expect_err("4 MiB do not fit in 1").to_string()
        }
        _ => opened.err().expect("the device cannot be opened").to_string(),
    };
    let wanted = match fault.as_str() {
        "none" => "finds no GPU",
        "driver" => "does not start: system has unsupported display driver",
        "behind" => "the NVIDIA driver supports CUDA 12.2, the program needs 12.4: update the driver",
        "old" => "Fake T4 has compute capability 7.5",
        "taken" => {
            "Fake A100 is not to be had: another process uses it, and its compute mode lets only one in"
        }
        "mig" => "there is only device 0, the first MIG instance; choose another by CUDA_VISIBLE_DEVICES",
        "newer code" => {
            "the driver supports CUDA 12.4 and the kernels were compiled by a newer one: update the driver"
        }
        "no code" => "Fake A100 (sm_80) does not take the kernels of all: no kernel image is available",
        "full" => "no room for 4 MiB: 1 of its 1 MiB are free",
        other => panic!("{other}"),
    };
    assert!(message.contains(wanted), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

/// A device of the stand-in driver.
fn cuda() -> Device {
    let host = Arc::new(CpuDevice::new(2).unwrap());
    let gpu = CudaDevice::open(0, &[("all", b"stand-in")]).unwrap();
    Device::kernels(host, Arc::new(gpu), DType::F32)
}

#[test]
#[ignore = "run by a_kernel_that_fails_ends_the_job"]
fn child_loses_the_device() {
    let _fake = Fake::install();
    let device = cuda();
    let plan = Plan::new(graph(), &device).unwrap();
    let mut exe = Executable::new(plan, device, |_| Some(wave(&[1, 1, 64], 0.1))).unwrap();
    let x = wave(&[2, 3, 64], 0.7);
    exe.run(&[("x", x.clone())]).unwrap();
    for _ in 0..2 {
        let e = exe.run(&[("x", x.clone())]).unwrap_err();
        assert!(matches!(e, Error::Device(_)), "a batch stops at this sort of error: {e:?}");
        let e = e.to_string();
        assert!(
            e.contains("illegal memory access") && e.contains("does nothing more for this process"),
            "{e}"
        );
    }
}

#[test]
#[ignore = "run by kernels_are_compiled_at_first_use"]
fn child_compiles_at_first_use() {
    let _fake = Fake::install();
    let cache = dreamclear::weights::hub::cache_dir().unwrap();
    let gpu = CudaDevice::open_compiling(0, &cache).unwrap();
    assert!(gpu.kernels().any(|k| k.name.starts_with("adaln_fwd")));
    let kept = std::fs::read_dir(cache.join("kernels/sm_80")).unwrap().count();
    assert!(kept > 20, "{kept} files: a family each and a lock");
}

/// Two convolutions that double the size, 3 → 16 → 3 channels.
fn small_network() -> Loaded {
    let tensors = [
        ("body.0.weight", vec![16, 3, 3, 3]),
        ("body.0.bias", vec![16]),
        ("body.1.weight", vec![16]),
        ("body.2.weight", vec![12, 16, 3, 3]),
        ("body.2.bias", vec![12]),
    ];
    let shapes = tensors.iter().map(|(k, s)| (k.to_string(), s.clone())).collect();
    let network = models::infer(&shapes).unwrap();
    let tensors = tensors.map(|(k, s)| (k.to_owned(), wave(&s, 0.3)));
    Loaded { network, weights: WeightSet::from_tensors(tensors) }
}

#[test]
#[ignore = "run by less_memory_is_a_smaller_plan"]
fn child_has_little_memory() {
    let fake = Fake::install();
    let device = cuda();
    let room = device.room().unwrap();
    assert!((3 << 20..4 << 20).contains(&room), "all but a twentieth of 4 MiB: {room}");
    let held = DeviceMemory::new(&device.as_kernels().unwrap().device, 1 << 20).unwrap();
    assert_eq!(device.room(), Some(room), "what this process holds counts: it can be had for something else");
    assert!(fake.used() >= held.len());
    drop(held);

    // The tile of a whole picture needs more than there is; the user allows a gigabyte.
    let network = |device: &Device| {
        let model = small_network();
        TiledNetwork::new(model, None, None, 1 << 30, device.clone(), Workspace::new()).unwrap()
    };
    let size = (200, 200);
    let whole = network(&Device::cpu(2).unwrap()).tiling(size).unwrap();
    assert_eq!(whole.tiles, 1);
    assert!(whole.arena > room, "{} bytes", whole.arena);
    let mut tiled = network(&device);
    let tiling = tiled.tiling(size).unwrap();
    assert!(tiling.tiles > 1 && tiling.arena + tiling.weights <= room, "{tiling:?}");
    let (cancel, progress) = (Cancel::new(), |_: f32| {});
    let pixels = (0..size.0 * size.1 * 3).map(|i| (i as f32 * 0.01).sin() * 0.5 + 0.5).collect();
    let image = FloatImage::new(size.0, size.1, 3, pixels);
    let watch = Watch { cancel: &cancel, progress: &progress };
    tiled.run(image, &tiling, watch).expect("what was planned fits");
}

/// A slice of each part of `dreamclear verify`, as on a GPU: recorded plans, recorded kernels, times.
#[test]
#[ignore = "run by what_is_verified_runs_through_the_driver"]
fn child_is_verified() {
    let fake = Fake::install();
    let device = cuda();
    for (what, only) in [
        (What::Ops, "softmax/rows"),
        (What::Outside, "guidance"),
        (What::Networks, "srvgg_prelu_x2 bf16"),
        (What::Replay, "srvgg_prelu_x2 bf16"),
        (What::Determinism, "srvgg_prelu_x2 bf16"),
        (What::Bench, "softmax/rows"),
    ] {
        let graphs = fake.graph_launches();
        let report = verify::run(&Options {
            what,
            slice: Slice::ALL,
            only: vec![Filter::parse(only).unwrap()],
            device: device.clone(),
            place: Place::Device,
            compute: None,
            small: what == What::Bench,
            seconds: 0.01,
            torch: None,
            cancel: Cancel::new(),
        })
        .unwrap();
        assert!(!report.rows.is_empty() && report.failures().next().is_none(), "{report:#?}");
        let checked = what == What::Networks; // launch by launch, with a look at each result
        assert_eq!(fake.graph_launches() > graphs, !checked, "{what:?}: graphs were started");
        if what == What::Replay {
            assert_eq!(report.rows[0].found["recorded"], report.rows[0].found["plans"]);
        }
    }
}

/// Device memory of another program: only the driver knows of it.
fn occupy(bytes: usize) {
    // SAFETY: never freed, never touched.
    unsafe { cudarc::driver::result::malloc_sync(bytes) }.unwrap();
}

#[test]
#[ignore = "run by less_memory_is_a_smaller_plan_of_the_whole_pipeline"]
fn child_plans_within_the_device() {
    let _fake = Fake::install();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/restore_tiled.safetensors");
    let (tensors, metadata) = support::golden(&golden);
    let folder = tempfile::tempdir().unwrap();
    let path = |network: &str| folder.path().join(network);
    for network in ["swinir", "vae", "dreamclear"] {
        std::fs::create_dir(path(network)).unwrap();
        std::fs::write(path(network).join("config.json"), &metadata[&format!("{network}_config")]).unwrap();
        let prefix = format!("{network}.");
        let own = tensors.iter().filter_map(|(k, t)| Some((k.strip_prefix(&prefix)?, t)));
        let views = own.map(|(k, t)| (k.to_owned(), View(t)));
        safetensors::serialize_to_file(views, None, &path(network).join("model.safetensors")).unwrap();
    }
    let chosen = Chosen {
        swinir: Some(path("swinir")),
        vae: Some(path("vae")),
        dreamclear: Some(path("dreamclear")),
        ..Chosen::default()
    };
    let case: serde_json::Value = serde_json::from_str(&metadata["case"]).unwrap();
    let options: serde_json::Value = serde_json::from_str(&metadata["options"]).unwrap();
    let number = |of: &serde_json::Value| of.as_f64().unwrap() as usize;
    let settings = Settings {
        upscale: case["upscale"].as_f64().unwrap(),
        min_size: number(&options["min_size"]),
        denoise: denoise::Settings {
            sampler: "iddpm".into(),
            span: 4.into(),
            cfg: 4.0,
            guided: None,
            tile: (number(&options["latent_tiled_size"]), number(&options["latent_tiled_overlap"])),
            untiled: (1, 1),
        },
        start_point: None,
        color_fix: ColorFix::None,
        residual: false,
        rounding: Rounding::Truncate,
        seed: 0,
        negative: None,
        caption_fallback: false,
        batch: 1,
        tile_batch: None,
        memory: None,
        matrices: None,
    };
    let sources = Sources::new(&chosen, folder.path()).unwrap();
    let device = cuda();
    let mut restorer = DreamClearRestorer::new(sources, Source::Null, settings, device.clone()).unwrap();
    let size = [(tensors["image"].shape()[0], tensors["image"].shape()[1])];

    let room = device.room().unwrap();
    let roomy = restorer.memory(&size).unwrap();
    assert!(roomy.peak_bytes < room && roomy.tile_batch > 1 && !roomy.streamed, "{roomy:?}");
    let working = roomy.peak_bytes - roomy.resident_weight_bytes;
    occupy(room - roomy.resident_weight_bytes - working / 2);
    let room = device.room().unwrap();
    assert!(room < roomy.peak_bytes);
    let tight = restorer.memory(&size).unwrap();
    assert!(tight.peak_bytes <= room, "{tight:?} in {room}");
    let cuts = |m: &PictureMemory| m.stages.iter().map(|s| s.note.clone()).collect::<Vec<_>>();
    assert_ne!(cuts(&tight), cuts(&roomy), "some stage is cut finer");

    occupy(room - (1 << 20));
    let e = restorer.memory(&size).unwrap_err().to_string();
    assert!(e.contains("Fake A100") && e.contains("MiB free for this picture, which needs"), "{e}");
    assert!(e.contains("close other programs"), "{e}");
}

/// A tensor as the writer of safetensors wants it.
struct View<'a>(&'a HostTensor);

impl safetensors::View for View<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        safetensors::Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        self.0.shape()
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.0.bytes().into()
    }
    fn data_len(&self) -> usize {
        self.0.bytes().len()
    }
}

#[test]
#[ignore = "run by plans_run_on_a_stream_of_another_program"]
fn child_borrows_a_stream() {
    use cudarc::driver::result;
    let fake = Fake::install();
    result::init().unwrap();
    let card = result::device::get(0).unwrap();
    // SAFETY: another program's own context and stream, kept to the end.
    let stream = unsafe {
        result::ctx::set_current(result::primary_ctx::retain(card).unwrap()).unwrap();
        result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
    };
    // SAFETY: the stream outlives the device.
    let gpu = unsafe { CudaDevice::on_stream(stream.cast(), &[("all", b"stand-in")]) }.unwrap();
    let device = Device::kernels(Arc::new(CpuDevice::new(1).unwrap()), Arc::new(gpu), DType::F32);
    let plan = Plan::new(graph(), &device).unwrap();
    let workspace = Workspace::new();
    let params = |_: &str| Some(wave(&[1, 1, 64], 0.1));
    let mut exe = Executable::in_workspace(plan, device.clone(), params, &workspace).unwrap();
    let x = wave(&[2, 3, 64], 0.7);
    let want = exe.run(&[("x", x.clone())]).unwrap().remove(0).1;
    assert_eq!((fake.graph_launches(), fake.last_stream()), (1, stream.cast()), "launched on that stream");

    // Over that program's memory, where the result stays.
    let kernels = &device.as_kernels().unwrap().device;
    let held = workspace.hold(kernels, exe.plan().arena_bytes).unwrap();
    let mut got = vec![0u8; want.bytes().len()];
    // SAFETY: memory of the sizes that the plan says, kept until the stream is done.
    unsafe {
        let theirs = result::malloc_sync(x.bytes().len()).unwrap();
        result::memcpy_htod_async(theirs, x.bytes(), stream).unwrap();
        let bound = exe.bind(&held, &[("x", theirs)]).unwrap();
        kernels.launch(&bound.launches).unwrap();
        result::memcpy_dtoh_async(&mut got, bound.outputs[0].1.address, stream).unwrap();
        result::stream::synchronize(stream).unwrap();
        result::free_sync(theirs).unwrap();
    }
    assert_eq!(got, want.bytes());
    drop(held);
    drop((exe, workspace, device));
    // SAFETY: the stream was lent only, and is still there.
    unsafe {
        result::stream::synchronize(stream).unwrap();
        result::stream::destroy(stream).unwrap();
    }
    // SAFETY: null is CUDA's default stream.
    let e = unsafe { CudaDevice::on_stream(std::ptr::null_mut(), &[]) }.err().unwrap().to_string();
    assert!(e.contains("default stream: make a stream"), "{e}");
}

#[test]
fn a_device_that_is_not_there() {
    if dreamclear::device::cuda::driver_found() {
        return; // with a GPU `tools/verify-gpu` takes over
    }
    let e = CudaDevice::open(3, &[]).err().unwrap().to_string();
    assert!(e.contains("no NVIDIA driver was found"), "{e}");
}
