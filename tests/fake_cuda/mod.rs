//! Stand-ins for the NVIDIA driver and libraries, and test processes that find them.
#![allow(dead_code)] // each test file uses a part

use std::ffi::{CString, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use dreamclear::device::sim::Simulator;

/// A stand-in: its source in this folder, and the name under which programs look for it.
pub type StandIn = (&'static str, &'static str);

pub const DRIVER: StandIn = ("fake_cuda.cpp", "libcuda.so.1");
pub const CUBLASLT: StandIn = ("fake_cublaslt.cpp", "libcublasLt.so.12");
pub const CUDNN: StandIn = ("fake_cudnn.cpp", "libcudnn.so.9");
pub const NCCL: StandIn = ("fake_nccl.cpp", "libnccl.so.2");

/// The compiled stand-in, made once for what its sources say.
pub fn compiled(source: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_cuda");
    let mut hasher = DefaultHasher::new();
    for file in [source, "library.h"] {
        std::fs::read(folder.join(file)).unwrap().hash(&mut hasher);
    }
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{source}-{:x}.so", hasher.finish()));
    if !library.is_file() {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let made = library.with_extension(format!("{}.part", std::process::id()));
        let out = Command::new(&compiler)
            .args(["-std=c++17", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread", "-o"])
            .args([&made, &folder.join(source)])
            .output()
            .unwrap_or_else(|e| panic!("{compiler}: {e}"));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        std::fs::rename(made, &library).unwrap();
    }
    library
}

/// Runs an ignored test of the calling file in a process that finds these stand-ins; what it printed. None where
/// there is no simulator, without which the stand-in driver runs nothing.
pub fn child(test: &str, libraries: &[StandIn], environment: &[(&str, &str)]) -> Option<String> {
    if let Err(why) = Simulator::new() {
        eprintln!("skipped: no stand-in driver ({why})");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    for (source, name) in libraries {
        std::os::unix::fs::symlink(compiled(source), dir.path().join(name)).unwrap();
        let plain = name.split(".so").next().expect("a shared object").to_owned() + ".so";
        std::os::unix::fs::symlink(name, dir.path().join(plain)).unwrap();
    }
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--nocapture", "--test-threads=1"])
        .env("LD_LIBRARY_PATH", dir.path())
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("1 passed"), "{test} with {environment:?}:\n{text}");
    Some(text)
}

/// A stand-in's own functions, beside those of what it stands for.
pub struct Fake(*mut c_void);

impl Fake {
    /// Opens a stand-in by the name under which the program finds it.
    pub fn open((_, name): StandIn) -> Self {
        let name = CString::new(name).unwrap();
        // SAFETY: a library of ours.
        let fake = Fake(unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) });
        assert!(!fake.0.is_null(), "{name:?} is on LD_LIBRARY_PATH");
        fake
    }

    /// The stand-in driver, with the simulator in it.
    pub fn driver() -> Self {
        let fake = Self::open(DRIVER);
        let [kernels, launch, tensor_map] = Simulator::new().unwrap().raw_functions();
        // SAFETY: the signature is that of fake_cuda.cpp.
        unsafe {
            let install: unsafe extern "C" fn(*const c_void, *const c_void, *const c_void) =
                std::mem::transmute(fake.symbol("fake_cuda_install"));
            install(kernels, launch, tensor_map);
        }
        fake
    }

    fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: an open library.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null(), "{name:?}");
        found
    }

    /// What a function that takes nothing returns.
    ///
    /// # Safety
    /// It must return a T.
    unsafe fn ask<T>(&self, name: &str) -> T {
        // SAFETY: the caller's promise.
        unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> T>(self.symbol(name))() }
    }

    /// Bytes of device memory in use.
    pub fn used(&self) -> usize {
        // SAFETY: see fake_cuda.cpp.
        unsafe { self.ask("fake_cuda_used") }
    }

    /// Graphs started so far.
    pub fn graph_launches(&self) -> u32 {
        // SAFETY: see fake_cuda.cpp.
        unsafe { self.ask("fake_cuda_graph_launches") }
    }

    /// Microseconds that all work so far took.
    pub fn clock(&self) -> f64 {
        // SAFETY: see fake_cuda.cpp.
        unsafe { self.ask("fake_cuda_clock") }
    }

    /// How often cuBLASLt's heuristic was asked.
    pub fn cublaslt_searches(&self) -> u32 {
        // SAFETY: see fake_cublaslt.cpp.
        unsafe { self.ask("fake_cublaslt_searches") }
    }
}
