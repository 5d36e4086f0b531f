//! cuBLASLt and cuDNN in place of own kernels, on stand-ins for the driver and both libraries: that what is
//! asked of them gives the reference's numbers, and that the faster one runs, remembers and repeats.
#![cfg(target_os = "linux")]

#[path = "fake_cuda/mod.rs"]
mod fake_cuda;
#[path = "support/loop_case.rs"]
mod loop_case;
mod support;

use std::path::Path;
use std::sync::Arc;

use dreamclear::cancel::Cancel;
use dreamclear::device::Device;
use dreamclear::device::cpu::CpuDevice;
use dreamclear::device::cuda::CudaDevice;
use dreamclear::device::library::KernelChoice;
use dreamclear::graph::{Array, Executable, Graph, GraphBuilder, Plan};
use dreamclear::ops::case::to_host;
use dreamclear::ops::{Case, registry};
use dreamclear::pipelines::tiled::Watch;
use dreamclear::tensor::{DType, HostTensor};
use fake_cuda::{CUBLASLT, CUDNN, DRIVER, Fake, StandIn, child};
use loop_case::LoopCase;

const ALL: [StandIn; 3] = [DRIVER, CUBLASLT, CUDNN];

fn cuda(choice: KernelChoice, file: Option<&Path>) -> dreamclear::Result<CudaDevice> {
    CudaDevice::open(0, &[("all", b"stand-in")])?.with_libraries(choice, file.map(Path::to_owned))
}

fn device(cuda: CudaDevice, compute: DType) -> Device {
    Device::kernels(Arc::new(CpuDevice::new(1).unwrap()), Arc::new(cuda), compute)
}

// ---- Numbers ------------------------------------------------------------------------------------

#[test]
fn libraries_give_the_numbers_of_the_reference() {
    for op in ["linear", "matmul", "conv2d", "conv2d_grad_input"] {
        child("child_runs_cases", &ALL, &[("CASES_OF", op)]);
    }
}

/// The case as a graph: operand 0 is an input, as are those that must be dense at run time; the others are
/// parameters, as in a model.
fn graph(case: &Case) -> (Graph, Vec<bool>) {
    let mut b = GraphBuilder::new();
    let of_result = |k: usize| k > 0 && case.inputs[k].ty == case.output_types()[0];
    let is_input: Vec<_> = (0..case.inputs.len()).map(|k| k == 0 || of_result(k)).collect();
    let operands: Vec<_> = case
        .inputs
        .iter()
        .zip(&is_input)
        .enumerate()
        .map(|(k, (i, &input))| {
            let name = format!("x{k}");
            let wide = if i.ty.dtype.is_float() { DType::F32 } else { i.ty.dtype };
            match input {
                true => b.input(&name, wide, i.ty.shape.clone()).unwrap(),
                false => b.param(&name, i.ty.shape.clone()).unwrap(),
            }
        })
        .collect();
    let results = b.node_dyn(case.op.clone(), &operands).unwrap();
    b.output("y", results[0]);
    (b.finish(), is_input)
}

fn flops(case: &Case) -> f64 {
    let (inputs, outputs) = (case.input_types(), case.output_types());
    case.op.cost(&inputs, &outputs.iter().collect::<Vec<_>>()).flops
}

/// The result of a case on a device, and whether a library computed it.
fn run(case: &Case, host: &[HostTensor], device: &Device) -> (Vec<f64>, bool) {
    let (graph, is_input) = graph(case);
    let plan = Plan::new(graph, device).unwrap();
    let param = |key: &str| Some(host[key[1..].parse::<usize>().unwrap()].clone());
    let mut exe = Executable::new(plan, device.clone(), param).unwrap();
    let names: Vec<_> = (0..host.len()).map(|k| format!("x{k}")).collect();
    let inputs: Vec<_> =
        (0..host.len()).filter(|&k| is_input[k]).map(|k| (names[k].as_str(), host[k].clone())).collect();
    let first = exe.run(&inputs).unwrap().remove(0).1;
    let again = exe.run(&inputs).unwrap().remove(0).1;
    assert_eq!(first.bytes(), again.bytes(), "{}: a replay gives other bytes", case.name);
    let by_library = exe.launches().unwrap().iter().flatten().any(|l| l.library.is_some());
    (first.to_f64(), by_library)
}

#[test]
#[ignore = "run by libraries_give_the_numbers_of_the_reference"]
fn child_runs_cases() {
    let _driver = Fake::driver();
    let op = std::env::var("CASES_OF").unwrap();
    let entry = registry().find(|e| e.name == op).unwrap();
    let mut by_library = 0;
    for compute in [DType::F32, DType::BF16, DType::F16] {
        let own_device = device(cuda(KernelChoice::Own, None).unwrap(), compute);
        let library_device = device(cuda(KernelChoice::Library, None).unwrap(), compute);
        // Larger cases differ in which of the own kernels' tiles they fill, and take minutes.
        for case in (entry.cases)().iter().filter(|c| !c.bench && flops(c) < 3e7) {
            let drawn = case.draw(1);
            // Values that half precision holds: what is compared is the work, not the rounding of operands.
            let host: Vec<_> = drawn.iter().map(|a| to_host(a, compute).cast(DType::F32)).collect();
            let truth = &case.op.eval_f64(&host.iter().map(Array::from_host).collect::<Vec<_>>())[0];
            let (own, never) = run(case, &host, &own_device);
            let (got, used) = run(case, &host, &library_device);
            assert!(!never, "own means own");
            by_library += usize::from(used);
            let error = |x: &[f64]| {
                let square = |x: f64| x * x;
                let sum: f64 = x.iter().zip(&truth.data).map(|(x, t)| square(x - t)).sum();
                (sum / truth.data.iter().map(|t| square(*t)).sum::<f64>().max(1e-30)).sqrt()
            };
            let (got, own) = (error(&got), error(&own));
            eprintln!("{op} {} {compute}: error {got:.1e}, own {own:.1e}, library {used}", case.name);
            let ok = got <= 2.0 * own + 1e-7;
            assert!(ok, "{op} {} in {compute}: error {got:.2e}, of own kernels {own:.2e}", case.name);
        }
    }
    assert!(by_library >= 12, "{op}: a library computed {by_library} cases only");
}

// ---- Choice -------------------------------------------------------------------------------------

/// A child that runs one product and finds as `expect`ed: who computed it, the microseconds of a run, and how
/// often the library was asked for algorithms. What it logged.
fn product(
    libraries: &[StandIn],
    us: &str,
    file: &Path,
    expect: &str,
    more: &[(&str, &str)],
) -> Option<String> {
    let file = file.to_str().unwrap();
    let mut environment = vec![("FAKE_LIBRARY_US", us), ("CHOICES", file), ("EXPECT", expect)];
    environment.extend(more);
    child("child_runs_a_product", libraries, &environment)
}

#[test]
fn the_faster_runs_and_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let both = [DRIVER, CUBLASLT];
    // Own kernels take 1000 µs here. Expected: who, µs of a run, searches of the heuristic.
    let Some(log) = product(&both, "3000,400,900", &file("a"), "library 400 1", &[]) else { return };
    assert!(log.contains("own 1000.0 µs, cuBLASLt 400.0 µs: cuBLASLt"), "{log}");
    product(&both, "3000,400,900", &file("a"), "library 400 0", &[]);
    product(&both, "3000,990", &file("b"), "own 1000 1", &[]);
    // The library's speed is another now, but what was measured stays.
    product(&both, "3000,5000,900", &file("a"), "library 5000 0", &[]);
    product(&both, "3000,100", &file("b"), "own 1000 0", &[]);
    // The same file serves who wants the library in any case.
    product(&ALL, "3000,990", &file("b"), "library 990 0", &[("CHOICE", "library")]);
    product(&both, "3000,100", &file("c"), "own 1000 0", &[("CHOICE", "own")]);
    assert!(!file("c").exists(), "own kernels need no file");
}

#[test]
fn what_was_measured_holds_for_that_library_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("choices.json");
    let both = [DRIVER, CUBLASLT];
    if product(&both, "400", &file, "library 400 1", &[]).is_none() {
        return;
    }
    product(&both, "4000", &file, "own 1000 1", &[("FAKE_CUBLASLT_VERSION", "130001")]);
    product(&both, "4000", &file, "library 4000 0", &[]);
    // An algorithm that this library does not know (an edited file, say): measured again.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"algorithm\": \"00", "\"algorithm\": \"ff")).unwrap();
    product(&both, "4000", &file, "own 1000 1", &[]);
}

#[test]
fn a_corrupt_file_is_replaced_with_one_warning() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("choices.json");
    std::fs::write(&file, "{\"format\": 1, \"measured\": {\"x\": ").unwrap();
    let warnings = |log: String| log.matches("calls are measured again").count();
    let run = |expect: &str| product(&[DRIVER, CUBLASLT], "400", &file, expect, &[]);
    let Some(first) = run("library 400 1") else { return };
    let second = run("library 400 0").expect("as before");
    assert_eq!((warnings(first), warnings(second)), (1, 0));
}

#[test]
fn algorithms_that_fail_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    product(&[DRIVER, CUBLASLT], "x,700,x", &dir.path().join("a"), "library 700 1", &[]);
    product(&[DRIVER, CUBLASLT], "x,x", &dir.path().join("b"), "own 1000 1", &[]);
}

#[test]
fn without_a_library_own_kernels_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("choices.json");
    let Some(log) = product(&[DRIVER], "400", &file, "own 1000 -", &[]) else { return };
    assert_eq!(log.matches("cuBLASLt is not used: none of libcublasLt.so.12").count(), 1, "{log}");
    let old = [("FAKE_CUBLASLT_VERSION", "110800")];
    product(&[DRIVER, CUBLASLT], "400", &file, "own 1000 0", &old);
    assert!(!file.exists(), "nothing was measured");
}

#[test]
#[ignore = "run with several environments"]
fn child_runs_a_product() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr).init();
    let driver = Fake::driver();
    let variable = |name: &str| std::env::var(name).ok();
    let choice = variable("CHOICE").map_or(KernelChoice::Auto, |c| c.parse().unwrap());
    let file = variable("CHOICES").unwrap();
    let mut b = GraphBuilder::new();
    let x = b.input("x", DType::F32, [40, 64]).unwrap();
    let w = b.param("w", [24, 64]).unwrap();
    let y = b.linear(x, w, None).unwrap();
    b.output("y", y);
    let opened = cuda(choice, Some(Path::new(&file)));
    let device = device(opened.unwrap(), DType::F32);
    let plan = Plan::new(b.finish(), &device).unwrap();
    assert!(plan.explain().contains(" or cuBLASLt"), "{}", plan.explain());
    let wave = |shape: [usize; 2], step: f32| {
        HostTensor::from_f32(shape, (0..shape[0] * shape[1]).map(|i| (i as f32 * step).sin()).collect())
    };
    let (x, w) = (wave([40, 64], 0.7), wave([24, 64], 0.3));
    let mut exe = Executable::new(plan, device.clone(), |_| Some(w.clone())).unwrap();
    let first = exe.run(&[("x", x.clone())]).unwrap().remove(0).1;
    let before = driver.clock();
    let second = exe.run(&[("x", x.clone())]).unwrap().remove(0).1;
    let us = driver.clock() - before;
    assert_eq!(first.bytes(), second.bytes());
    let by_library = exe.launches().unwrap().iter().flatten().any(|l| l.library.is_some());
    let searches = match variable("LD_LIBRARY_PATH").map(|d| Path::new(&d).join(CUBLASLT.1).exists()) {
        Some(true) => Fake::open(CUBLASLT).cublaslt_searches().to_string(),
        _ => "-".into(),
    };
    let us = (us * 1e6).round() / 1e6; // a difference of sums
    let got = format!("{} {us} {searches}", if by_library { "library" } else { "own" });
    assert_eq!(got, variable("EXPECT").unwrap());
    drop(exe);
    drop(device);
    assert_eq!(driver.used(), 0, "all device memory was given back");
}

#[test]
fn engines_that_differ_from_run_to_run_are_not_used() {
    // Two configurations: the first, faster one is not deterministic (note 4), or cuts f32 to tf32 (note 0).
    let expect = |compute: &str, note: &str, us: &str| {
        let environment =
            [("FAKE_LIBRARY_US", "200,400"), ("FAKE_CUDNN_NOTE", note), ("COMPUTE", compute), ("EXPECT", us)];
        child("child_runs_a_convolution", &ALL, &environment);
    };
    expect("bf16", "4", "400");
    expect("bf16", "0", "200");
    expect("f32", "0", "400");
    expect("f32", "9", "200");
}

#[test]
#[ignore = "run by engines_that_differ_from_run_to_run_are_not_used"]
fn child_runs_a_convolution() {
    let driver = Fake::driver();
    let variable = |name: &str| std::env::var(name).unwrap();
    let compute = if variable("COMPUTE") == "f32" { DType::F32 } else { DType::BF16 };
    let entry = registry().find(|e| e.name == "conv2d").unwrap();
    let case = (entry.cases)().into_iter().find(|c| c.name == "eights").unwrap();
    let host: Vec<_> = case.draw(1).iter().map(|a| to_host(a, DType::F32)).collect();
    let device = device(cuda(KernelChoice::Auto, None).unwrap(), compute);
    let (graph, is_input) = graph(&case);
    let mut exe = Executable::new(Plan::new(graph, &device).unwrap(), device, |key| {
        Some(host[key[1..].parse::<usize>().unwrap()].clone())
    })
    .unwrap();
    assert_eq!(is_input, [true, false, false]);
    exe.run(&[("x0", host[0].clone())]).unwrap();
    let launches = exe.launches().unwrap().iter().flatten();
    let own = launches.filter(|l| l.library.is_none()).count() as f64;
    let before = driver.clock();
    exe.run(&[("x0", host[0].clone())]).unwrap();
    let us = driver.clock() - before - 1000.0 * own; // casts run as they would without
    let us = (us * 1e6).round() / 1e6;
    assert_eq!(format!("{us}"), variable("EXPECT"));
}

#[test]
fn measuring_leaves_the_denoising_loop_alone() {
    child("child_runs_the_denoising_loop", &ALL, &[]);
}

/// Plans of several shapes share their working memory: each is measured there, and the loop on the device gives
/// the bits of the loop on the host, which binds them one by one.
#[test]
#[ignore = "run by measuring_leaves_the_denoising_loop_alone"]
fn child_runs_the_denoising_loop() {
    let driver = Fake::driver();
    let mut case = LoopCase::new();
    case.settings.span = 2.into();
    case.limit = 3;
    let watch = Watch { cancel: &Cancel::new(), progress: &|_| {} };
    let own_device = device(cuda(KernelChoice::Own, None).unwrap(), DType::F32);
    let own = case.denoiser(&own_device).run(&case.subjects(), &case.settings, case.limit, watch).unwrap();
    assert_eq!(Fake::open(CUBLASLT).cublaslt_searches(), 0, "own means own");
    let by_libraries = device(cuda(KernelChoice::Library, None).unwrap(), DType::F32);
    let mut denoiser = case.denoiser(&by_libraries);
    let got = denoiser.run(&case.subjects(), &case.settings, case.limit, watch).unwrap();
    assert!(Fake::open(CUBLASLT).cublaslt_searches() > 0, "products were handed over");
    let host = denoiser.run_on_host(&case.subjects(), &case.settings, case.limit, watch).unwrap();
    for ((g, h), o) in got.iter().zip(&host).zip(&own) {
        assert!(g.latent == h.latent, "the loop on the device is the loop on the host");
        let far = g.latent.iter().zip(&o.latent).map(|(g, o)| (g - o).abs()).fold(0.0, f32::max);
        let large = o.latent.iter().fold(0.0, |m: f32, o| m.max(o.abs()));
        assert!(far < 1e-5 * large, "{far} from own kernels, of {large}"); // f32, in another order
    }
    drop((denoiser, by_libraries, own_device));
    assert_eq!(driver.used(), 0, "all device memory was given back");
}

// ---- Refusals -----------------------------------------------------------------------------------

#[test]
fn a_library_that_is_asked_for_must_be_there() {
    let refuses = |libraries: &[StandIn], more: &[(&str, &str)], expect: &str| {
        let mut environment = vec![("EXPECT", expect)];
        environment.extend(more);
        child("child_is_refused", libraries, &environment);
    };
    refuses(&[DRIVER, CUDNN], &[], "cuBLASLt cannot be used: none of libcublasLt.so.12");
    refuses(&[DRIVER, CUBLASLT], &[], "cuDNN cannot be used: none of libcudnn.so.9");
    let old = [("FAKE_CUDNN_VERSION", "8902")];
    refuses(&ALL, &old, "cuDNN cannot be used: version 8902 is too old, 90000 (9.0) or later is needed");
}

#[test]
#[ignore = "run by a_library_that_is_asked_for_must_be_there"]
fn child_is_refused() {
    let _driver = Fake::driver();
    let e = cuda(KernelChoice::Library, None).err().expect("a library is missing").to_string();
    assert!(e.starts_with("--kernels library: ") && e.ends_with("install it, or use --kernels auto"), "{e}");
    assert!(e.contains(&std::env::var("EXPECT").unwrap()) && !e.contains('\n'), "{e}");
}
