//! Several processes that train together: by MPI under `mpirun` (feature `mpi`), and by NCCL on stand-ins of the
//! driver and the library. What a process does is an ignored test, which the others start.
#![cfg(target_os = "linux")]

#[path = "fake_cuda/mod.rs"]
mod fake_cuda;
#[path = "data_parallel/networks.rs"]
mod networks;
mod support;
#[cfg(feature = "mpi")]
#[path = "data_parallel/whole_run.rs"]
mod whole_run;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dreamclear::device::Device;
use dreamclear::device::cpu::CpuDevice;
use dreamclear::device::cuda::CudaDevice;
use dreamclear::device::kernel::{DeviceMemory, KernelDevice};
use dreamclear::tensor::{DType, HostTensor};
use dreamclear::train::adamw::AdamW;
use dreamclear::train::launch::Launch;
use dreamclear::train::reduce::{Bucket, DeviceRange, Options, Reduce, connect};
use dreamclear::train::{StepOptions, TrainStep};
use dreamclear::weights::{WeightSet, safetensors};
use fake_cuda::{DRIVER, Fake, NCCL, StandIn, child};
use networks::Network;

// ---- A step -------------------------------------------------------------------------------------

/// Some buckets of some tensors each. AdamW divides by the root of a mean of squares plus `eps`: with the usual
/// one, what is rounding in a gradient near zero is a whole step of its parameter. This one keeps proportions.
fn step_options(batch: usize, accumulate: usize) -> StepOptions {
    let optimizer = AdamW { eps: 1e-2, ..AdamW::default() };
    StepOptions {
        batch,
        accumulate,
        optimizer,
        bucket_bytes: 8 << 10,
        clip: Some(0.1),
        ema: Some(0.9),
        ..StepOptions::default()
    }
}

/// Trains for some steps on this process's share of the samples of each: losses and norms, and the state.
fn train(
    network: Network,
    step: &mut TrainStep,
    steps: usize,
    batch: usize,
    accumulate: usize,
) -> Vec<(String, HostTensor)> {
    let (rank, _) = step.rank();
    let mut found = Vec::new();
    for number in 0..steps {
        let mut loss = 0.0;
        for part in 0..accumulate {
            let first = (rank * accumulate + part) * batch;
            let terms = step.accumulate(&network.inputs(number, first, batch)).unwrap();
            loss += terms.loss / accumulate as f64;
        }
        let update = step.update(1e-2).unwrap();
        let terms = dreamclear::train::Terms { loss, terms: vec![] };
        let mean = step.mean(terms).unwrap().loss;
        found.push((format!("loss{number}"), HostTensor::from_f64([2], vec![mean, update.grad_norm])));
    }
    found.extend(step.state().unwrap());
    found
}

/// Trains with others, and leaves what it finds in the folder STATE.
fn train_with(
    all: Box<dyn Reduce>,
    device: &Device,
    steps: usize,
    batch: usize,
    accumulate: usize,
) -> TrainStep {
    let (rank, network) = (all.rank(), Network::from_env());
    // What rank 1 starts from does not count.
    let start = network.weights(if rank == 0 { "" } else { "other" });
    let options = step_options(batch, accumulate);
    let step = TrainStep::new(&*network.objective(), device, &start, options).unwrap();
    let mut step = step.with_processes(all).unwrap();
    let found = train(network, &mut step, steps, batch, accumulate);
    let path = Path::new(&std::env::var_os("STATE").unwrap()).join(format!("{rank}.safetensors"));
    let tensors = found.iter().map(|(name, tensor)| (name.as_str(), tensor));
    safetensors::write(&path, tensors, &Default::default(), None).unwrap();
    step
}

/// What one process finds with the whole batch.
fn train_alone(network: Network, device: &Device, steps: usize, batch: usize) -> Vec<(String, HostTensor)> {
    let options = step_options(batch, 1);
    let mut step = TrainStep::new(&*network.objective(), device, &network.weights(""), options).unwrap();
    train(network, &mut step, steps, batch, 1)
}

/// Whether two processes have left the same bytes in a folder, and these are what one finds, within `bar`.
fn compare(folder: &Path, want: &[(String, HostTensor)], bar: f64, what: &str) {
    let file = |rank: usize| folder.join(format!("{rank}.safetensors"));
    let [first, second] = [0, 1].map(|rank| std::fs::read(file(rank)).unwrap());
    assert!(first == second, "{what}: both processes have the same bytes");
    let got = WeightSet::open(file(0)).unwrap();
    let mut worst = 0.0f64;
    for (name, want) in want {
        let got = got.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        let error = match name.as_str() {
            "steps" => f64::from(u8::from(got.to_i64() != want.to_i64())),
            _ => support::relative(got, want),
        };
        worst = worst.max(error);
        assert!(error <= bar, "{what}: {name}: {error:.1e}");
    }
    println!("{what}: largest relative difference {worst:.1e}");
}

// ---- NCCL ---------------------------------------------------------------------------------------

/// Two processes, each with a (stand-in) GPU of its own, run the ignored test `name`; what they printed.
fn two_gpus(name: &'static str, libraries: &'static [StandIn], more: &[(&str, &str)]) -> Option<Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let (folder, meet) = (dir.path().to_str().unwrap().to_owned(), dir.path().join("meet"));
    let meet = meet.to_str().unwrap().to_owned();
    let more: Vec<(String, String)> = more.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let ranks: Vec<_> = ["0", "1"]
        .map(|rank| {
            let (folder, meet, more) = (folder.clone(), meet.clone(), more.clone());
            std::thread::spawn(move || {
                let mut environment = vec![
                    ("RANK", rank),
                    ("WORLD_SIZE", "2"),
                    ("LOCAL_RANK", rank),
                    ("FAKE_NCCL", &folder),
                    ("MEET", &meet),
                ];
                environment.extend(more.iter().map(|(k, v)| (k.as_str(), v.as_str())));
                child(name, libraries, &environment)
            })
        })
        .into_iter()
        .collect();
    let said: Option<Vec<String>> = ranks.into_iter().map(|t| t.join().unwrap()).collect();
    assert!(said.is_none() || !Path::new(&meet).exists(), "the file of the rendezvous is taken away");
    said
}

/// This process's place in the launch, and its GPU.
fn gpu() -> (Launch, Arc<dyn KernelDevice>, Device) {
    let launch = Launch::from_env().unwrap().expect("the variables of a launch");
    let cuda: Arc<dyn KernelDevice> = Arc::new(CudaDevice::open(0, &[("all", b"stand-in")]).unwrap());
    let device = Device::kernels(Arc::new(CpuDevice::new(1).unwrap()), cuda.clone(), DType::F32);
    (launch, cuda, device)
}

fn options(patience: Duration) -> Options {
    Options { patience, rendezvous: Some(std::env::var_os("MEET").unwrap().into()) }
}

#[test]
fn gpus_add_up_by_nccl() {
    two_gpus("child_adds_up_on_a_gpu", &[DRIVER, NCCL], &[]);
}

#[test]
#[ignore = "run by gpus_add_up_by_nccl"]
fn child_adds_up_on_a_gpu() {
    let _driver = Fake::driver();
    let (launch, cuda, device) = gpu();
    let mut all = connect(Some(&launch), &device, &options(Duration::from_secs(60))).unwrap().unwrap();
    assert_eq!((all.rank(), all.world()), (launch.rank, 2));

    let numbers = |rank: usize, bucket: usize, pass: usize| -> Vec<f32> {
        (0..1000).map(|i| (i * (bucket + 2) + pass) as f32 + 0.25 * rank as f32).collect()
    };
    let sum = |bucket, pass| -> Vec<f32> {
        numbers(0, bucket, pass).iter().zip(numbers(1, bucket, pass)).map(|(a, b)| a + b).collect()
    };
    let memory = [(); 2].map(|_| DeviceMemory::new(&cuda, 4000).unwrap());
    let started = |m: &DeviceMemory| {
        // SAFETY: the memory lives longer than the sums take.
        Bucket::Device(unsafe { DeviceRange::new(m.address(), 1000) })
    };
    // Twice, as in two steps: the second pass's numbers come after the first one's sums.
    for pass in 0..2 {
        for (bucket, memory) in memory.iter().enumerate() {
            // Put on the device's stream, which the stand-in is in no hurry to run.
            memory.write(bytemuck::cast_slice(&numbers(launch.rank, bucket, pass))).unwrap();
            all.start(started(memory)).unwrap();
        }
        let back = all.finish().unwrap();
        assert_eq!(
            back,
            memory.iter().map(started).collect::<Vec<_>>(),
            "in the order in which they were started"
        );
        for (bucket, memory) in memory.iter().enumerate() {
            let mut sums = vec![0.0f32; 1000];
            memory.read(0, bytemuck::cast_slice_mut(&mut sums)).unwrap();
            assert_eq!(sums, sum(bucket, pass), "bucket {bucket} of pass {pass}");
        }
    }
    let first = Bucket::Host(numbers(0, 9, 9));
    assert_eq!(all.broadcast(Bucket::Host(numbers(launch.rank, 9, 9))).unwrap(), first);
    assert_eq!(all.sum(vec![1.0, launch.rank as f32]).unwrap(), [2.0, 1.0]);
    assert!(all.any(launch.rank == 1).unwrap() && !all.any(false).unwrap());
    all.close().unwrap();
}

/// The step whose gradients stay in device memory: parts of its launches in turn with sums of buckets.
#[test]
fn two_gpus_equal_one_with_the_whole_batch() {
    let dir = tempfile::tempdir().unwrap();
    let environment = [("STATE", dir.path().to_str().unwrap())];
    if two_gpus("child_trains_on_a_gpu", &[DRIVER, NCCL], &environment).is_none() {
        return;
    }
    let want = train_alone(Network::SwinIr, &Device::sim(2, DType::F32).unwrap(), 2, 2);
    compare(dir.path(), &want, 1e-5, "2 GPUs × 1");
}

#[test]
#[ignore = "run by two_gpus_equal_one_with_the_whole_batch"]
fn child_trains_on_a_gpu() {
    let _driver = Fake::driver();
    let (launch, _cuda, device) = gpu();
    let all = connect(Some(&launch), &device, &options(Duration::from_secs(250))).unwrap().unwrap();
    train_with(all, &device, 2, 1, 1).leave().unwrap();
}

#[test]
fn a_gpu_whose_process_is_gone_is_not_waited_for_for_ever() {
    two_gpus("child_is_left_alone", &[DRIVER, NCCL], &[]);
}

#[test]
#[ignore = "run by a_gpu_whose_process_is_gone_is_not_waited_for_for_ever"]
fn child_is_left_alone() {
    let _driver = Fake::driver();
    let (launch, _cuda, device) = gpu();
    let patience = Duration::from_secs(if launch.rank == 0 { 2 } else { 60 });
    let mut all = connect(Some(&launch), &device, &options(patience)).unwrap().unwrap();
    if launch.rank == 1 {
        return; // without a word
    }
    let start = Instant::now();
    all.start(Bucket::Host(vec![1.0])).unwrap();
    let e = all.finish().unwrap_err().to_string();
    assert!(
        e.contains("rank 0 waited 2 s") && e.contains("at least one of their processes has stopped"),
        "{e}"
    );
    assert!(start.elapsed() < Duration::from_secs(20));
    let e = all.start(Bucket::Host(vec![1.0])).unwrap_err().to_string();
    assert!(e.contains("given its group of GPUs up"), "{e}");
}

#[test]
fn without_nccl_there_is_one_sentence() {
    let expect = |libraries: &[StandIn], words: &str, version: &str| {
        let environment = [
            ("RANK", "0"),
            ("WORLD_SIZE", "2"),
            ("MEET", "/nonexistent/meet"),
            ("FAKE_NCCL_VERSION", version),
            ("EXPECT", words),
        ];
        child("child_has_no_nccl", libraries, &environment);
    };
    expect(&[DRIVER], "libnccl.so.2", "");
    expect(&[DRIVER, NCCL], "version 21204", "21204");
    expect(&[DRIVER, NCCL], "/nonexistent/meet", "21804");
}

#[test]
#[ignore = "run by without_nccl_there_is_one_sentence"]
fn child_has_no_nccl() {
    let _driver = Fake::driver();
    let (launch, _cuda, device) = gpu();
    let e = connect(Some(&launch), &device, &options(Duration::from_secs(1))).err().unwrap().to_string();
    assert!(e.contains(&std::env::var("EXPECT").unwrap()), "{e}");
    // One process alone loads and looks for nothing.
    let alone = Launch { world: 1, ..launch };
    assert!(connect(Some(&alone), &device, &Options::default()).unwrap().is_none());
    assert!(connect(None, &device, &Options::default()).unwrap().is_none());
}

// ---- MPI ----------------------------------------------------------------------------------------

#[cfg(not(feature = "mpi"))]
#[test]
fn a_build_without_mpi_says_so() {
    let variables = |name: &str| match name {
        "OMPI_COMM_WORLD_RANK" => Some("1".to_owned()),
        "OMPI_COMM_WORLD_SIZE" => Some("2".to_owned()),
        _ => None,
    };
    let launch = Launch::from_variables(&variables).unwrap();
    let device = Device::cpu(1).unwrap();
    let e = connect(launch.as_ref(), &device, &Options::default()).err().unwrap().to_string();
    assert!(e.contains("mpirun started 2 processes") && e.contains("--features mpi"), "{e}");
    assert!(connect(None, &device, &Options::default()).unwrap().is_none());
}

#[cfg(feature = "mpi")]
mod by_mpi {
    use std::process::{Command, Output};

    use super::*;
    /// `ranks` processes under `mpirun` run the ignored test `name`. None where there is no `mpirun`.
    fn mpirun(ranks: usize, name: &str, environment: &[(&str, &str)]) -> Option<(Output, String)> {
        let mut command = Command::new("mpirun");
        command.args(["--allow-run-as-root", "--oversubscribe", "-n", &ranks.to_string()]);
        for (key, value) in environment {
            command.args(["-x", &format!("{key}={value}")]);
        }
        command.arg(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", &format!("by_mpi::{name}"), "--nocapture", "--test-threads=1"]);
        let out = match command.output() {
            Ok(out) => out,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: there is no mpirun");
                return None;
            }
            Err(e) => panic!("mpirun: {e}"),
        };
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        Some((out, said))
    }

    fn join(patience: Duration) -> (Box<dyn Reduce>, Device) {
        let launch = Launch::from_env().unwrap().expect("started by mpirun");
        let device = Device::cpu(1).unwrap();
        let options = Options { patience, ..Options::default() };
        (connect(Some(&launch), &device, &options).unwrap().expect("several processes"), device)
    }

    #[test]
    fn processes_add_up() {
        let Some((out, said)) = mpirun(3, "child_adds_up", &[]) else { return };
        assert!(out.status.success() && said.matches("1 passed").count() == 3, "{said}");
    }

    #[test]
    #[ignore = "run by processes_add_up"]
    fn child_adds_up() {
        let (mut all, _) = join(Duration::from_secs(60));
        let (rank, world) = (all.rank(), all.world());
        assert_eq!(world, 3);
        // Lengths that are no multiples of anything, one of them nothing.
        let numbers = |rank: usize, len: usize| -> Vec<f32> {
            (0..len).map(|i| (i % 1000) as f32 + 0.5 * rank as f32).collect()
        };
        let lengths = [100_003, 0, 1, 77];
        for _pass in 0..2 {
            for len in lengths {
                all.start(Bucket::Host(numbers(rank, len))).unwrap();
            }
            let sums = all.finish().unwrap();
            for (len, sum) in lengths.into_iter().zip(sums) {
                let want = numbers(1, len).into_iter().map(|x| 3.0 * x).collect();
                assert_eq!(sum, Bucket::Host(want), "{len} numbers");
            }
        }
        assert_eq!(all.broadcast(Bucket::Host(numbers(rank, 9))).unwrap(), Bucket::Host(numbers(0, 9)));
        assert!(all.any(rank == 2).unwrap() && !all.any(false).unwrap());
        let large = u64::MAX - 12345;
        assert!(all.same(large).unwrap() && !all.same(large - u64::from(rank == 2)).unwrap());
        all.close().unwrap();
    }

    // ---- A step -----------------------------------------------------------------------------------

    /// Two processes with four samples each, at once or in two batches, make the step that one makes with eight.
    #[test]
    fn two_processes_equal_one_with_the_whole_batch() {
        use Network::{DreamClear, SwinIr};
        for (network, batch, accumulate) in
            [(SwinIr, 4, 1), (SwinIr, 2, 2), (DreamClear, 4, 1), (DreamClear, 2, 2)]
        {
            let want = train_alone(network, &Device::cpu(1).unwrap(), 2, 8);
            let dir = tempfile::tempdir().unwrap();
            let environment = [
                ("STATE", dir.path().to_str().unwrap()),
                ("NETWORK", &format!("{network:?}")),
                ("BATCH", &batch.to_string()),
                ("ACCUMULATE", &accumulate.to_string()),
            ];
            let Some((out, said)) = mpirun(2, "child_trains", &environment) else { return };
            assert!(out.status.success() && said.matches("1 passed").count() == 2, "{said}");
            compare(dir.path(), &want, 1e-5, &format!("{network:?}, 2 processes × {accumulate} × {batch}"));
        }
    }

    #[test]
    #[ignore = "run by two_processes_equal_one_with_the_whole_batch"]
    fn child_trains() {
        let number = |name: &str| std::env::var(name).unwrap().parse().unwrap();
        let (batch, accumulate, network) = (number("BATCH"), number("ACCUMULATE"), Network::from_env());
        let (all, device) = join(Duration::from_secs(120));
        let mut step = train_with(all, &device, 2, batch, accumulate);
        // Sums that are on their way must not be added to.
        for _ in 0..accumulate {
            step.accumulate(&network.inputs(0, 0, batch)).unwrap();
        }
        let e = step.accumulate(&network.inputs(0, 0, batch)).unwrap_err().to_string();
        assert!(e.contains("StepOptions::accumulate"), "{e}");
        step.update(1e-3).unwrap();
        step.leave().unwrap();
    }

    #[test]
    fn processes_that_train_other_things_are_told() {
        let Some((out, said)) = mpirun(2, "child_trains_something_else", &[]) else { return };
        assert!(out.status.success() && said.matches("1 passed").count() == 2, "{said}");
    }

    #[test]
    #[ignore = "run by processes_that_train_other_things_are_told"]
    fn child_trains_something_else() {
        let (all, device) = join(Duration::from_secs(60));
        let (network, options) = (Network::SwinIr, step_options(1, 1 + all.rank()));
        let step = TrainStep::new(&*network.objective(), &device, &network.weights(""), options).unwrap();
        let e = step.with_processes(all).err().unwrap().to_string();
        assert!(e.contains("the same parameters") && e.contains("same configuration"), "{e}");
    }

    // ---- Processes that fail ------------------------------------------------------------------------

    #[test]
    fn a_process_that_fails_ends_the_others() {
        for how in ["dies", "hangs"] {
            let start = Instant::now();
            let Some((out, said)) = mpirun(2, "child_fails", &[("HOW", how)]) else { return };
            assert!(!out.status.success(), "{how}: {said}");
            assert!(start.elapsed() < Duration::from_secs(40), "{how}: {said}");
            if how == "hangs" {
                assert!(
                    said.contains("rank 0 waited 3 s") && said.contains("has stopped or hangs"),
                    "{said}"
                );
            }
        }
    }

    #[test]
    #[ignore = "run by a_process_that_fails_ends_the_others"]
    fn child_fails() {
        let (mut all, _) = join(Duration::from_secs(3));
        all.barrier().unwrap();
        match (all.rank(), std::env::var("HOW").unwrap().as_str()) {
            (1, "dies") => std::process::exit(7),
            (1, _) => std::thread::sleep(Duration::from_secs(600)),
            // Longer than the patience: `mpirun` is to end this process.
            (_, "dies") => std::thread::sleep(Duration::from_secs(600)),
            _ => {
                all.start(Bucket::Host(vec![1.0; 100])).unwrap();
                eprintln!("{}", all.finish().unwrap_err());
                std::process::exit(1);
            }
        }
    }

    /// Variables of a launcher that is not MPI's.
    #[test]
    fn another_launcher_is_told() {
        let out = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "by_mpi::child_is_not_of_mpi", "--nocapture"])
            .envs([("RANK", "1"), ("WORLD_SIZE", "2")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(
            said.contains("torchrun says that this is rank 1 of 2, MPI that it is rank 0 of 1"),
            "{said}"
        );
        assert!(said.contains("`mpirun`"), "{said}");
    }

    #[test]
    #[ignore = "run by another_launcher_is_told"]
    fn child_is_not_of_mpi() {
        let launch = Launch::from_env().unwrap();
        let found = connect(launch.as_ref(), &Device::cpu(1).unwrap(), &Options::default());
        println!("{}", found.err().unwrap());
        std::process::exit(0);
    }
}
