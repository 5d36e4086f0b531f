//! Kernels compiled at first use (`src/device/cuda/first_use.rs`): the cache with a stand-in for NVRTC, the
//! kernels with the real one where there is one.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dreamclear::device::cuda::first_use::{Image, images_by};
use dreamclear::device::cuda::nvrtc::Nvrtc;
use dreamclear::device::cuda::runs_on;
use dreamclear::device::cuda::sources::Sources;
use dreamclear::device::sim::Simulator;
use libloading::Library;

/// A stand-in of a test's own, or None without a C++ compiler.
struct Fake {
    nvrtc: Nvrtc,
    library: Library,
    folder: tempfile::TempDir,
}

impl Fake {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_cuda/fake_nvrtc.cpp");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let path = folder.path().join("libnvrtc.so");
        let mut command = Command::new(&compiler);
        command
            .args(["-std=c++17", "-O1", "-Wall", "-shared", "-fPIC", "-pthread", "-o"])
            .args([&path, &source]);
        let Ok(out) = command.output() else {
            eprintln!("skipped: no C++ compiler ({compiler})");
            return None;
        };
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let nvrtc = Nvrtc::open(&path).unwrap();
        // SAFETY: the library that was just built.
        let library = unsafe { Library::new(&path) }.unwrap();
        Some(Fake { nvrtc, library, folder })
    }

    fn compiled(&self) -> usize {
        // SAFETY: the signatures here and below are those of tests/fake_cuda/fake_nvrtc.cpp.
        unsafe { self.library.get::<extern "C" fn() -> u32>("fake_nvrtc_compiled").unwrap()() as usize }
    }

    /// Another version of the same library.
    fn of_version(&self, minor: i32) -> dreamclear::Result<Nvrtc> {
        unsafe { self.library.get::<extern "C" fn(i32)>("fake_nvrtc_set_minor").unwrap()(minor) };
        Nvrtc::open(&self.folder.path().join("libnvrtc.so"))
    }

    fn refuse(&self, family: &std::ffi::CStr) {
        unsafe {
            self.library.get::<extern "C" fn(*const i8)>("fake_nvrtc_refuse").unwrap()(family.as_ptr().cast())
        };
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }
}

/// How many families a card of this compute capability runs.
fn families(capability: u32) -> usize {
    Sources::embedded().families().filter(|f| runs_on(f, capability)).count()
}

/// Files of a folder of compiled kernels, without the lock.
fn kept(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.file_name().unwrap() != "lock");
    all.sort();
    all
}

#[test]
fn compiled_once_then_read() {
    let Some(fake) = Fake::new() else { return };
    let n = families(80);
    let first = images_by(&fake.nvrtc, 80, &fake.cache()).unwrap();
    assert_eq!((first.len(), fake.compiled()), (n, n));
    let text = |images: &[Image], family: &str| {
        let (_, image) = images.iter().find(|(f, _)| f == family).unwrap();
        String::from_utf8(image.clone()).unwrap()
    };
    let adaln = text(&first, "adaln");
    assert!(
        adaln.starts_with("cuda/adaln.cu --std=c++17 -default-device --gpu-architecture=sm_80 "),
        "{adaln}"
    );
    assert_eq!(images_by(&fake.nvrtc, 80, &fake.cache()).unwrap(), first);
    assert_eq!(fake.compiled(), n, "the second time nothing is compiled");

    let hopper = images_by(&fake.nvrtc, 90, &fake.cache()).unwrap();
    assert!(text(&hopper, "adaln").contains("=sm_90a "));
    let both = n + families(90);
    assert_eq!(fake.compiled(), both, "another card has kernels of its own");

    let lost = kept(&fake.cache().join("kernels/sm_80")).remove(3);
    fs::remove_file(lost).unwrap();
    assert_eq!(images_by(&fake.nvrtc, 80, &fake.cache()).unwrap(), first);
    assert_eq!(fake.compiled(), both + 1, "what is missing, nothing else");

    let newer = fake.of_version(5).unwrap();
    images_by(&newer, 80, &fake.cache()).unwrap();
    assert_eq!(fake.compiled(), both + n + 1, "another compiler may make something else");
    images_by(&newer, 120, &fake.cache()).unwrap();
    assert!(
        fake.cache().join("kernels/compute_90").is_dir(),
        "PTX for a card that the compiler does not know"
    );
}

#[test]
fn processes_that_start_together_compile_once() {
    let Some(fake) = Fake::new() else { return };
    // A lock belongs to an opened file: threads wait for each other as processes do.
    let all: Vec<Vec<Image>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| images_by(&fake.nvrtc, 80, &fake.cache()).unwrap())).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(fake.compiled(), families(80));
    assert!(all.iter().all(|images| images == &all[0]));
    let folder = fake.cache().join("kernels/sm_80");
    assert_eq!(kept(&folder).len(), families(80), "and no temporary file stays");
}

#[test]
fn what_does_not_compile_is_named() {
    let Some(fake) = Fake::new() else { return };
    fake.refuse(c"softmax");
    let e = images_by(&fake.nvrtc, 80, &fake.cache()).unwrap_err().to_string();
    assert!(e.contains("cuda/softmax.cu(7): error: expected a declaration") && e.contains("12.4"), "{e}");
    assert!(!e.contains('\n'), "{e}");
    let n = families(80);
    assert_eq!(kept(&fake.cache().join("kernels/sm_80")).len(), n - 1, "the others are kept");
    fake.refuse(c"");
    images_by(&fake.nvrtc, 80, &fake.cache()).unwrap();
    assert_eq!(fake.compiled(), n + 1);
}

#[test]
fn a_cache_that_cannot_be_written_costs_time_only() {
    let Some(fake) = Fake::new() else { return };
    fs::write(fake.cache(), "a file where a folder should be").unwrap();
    let n = families(80);
    assert_eq!(images_by(&fake.nvrtc, 80, &fake.cache()).unwrap().len(), n);
    assert_eq!(images_by(&fake.nvrtc, 80, &fake.cache()).unwrap().len(), n);
    assert_eq!(fake.compiled(), 2 * n);
}

#[test]
fn a_library_that_does_not_fit_is_one_sentence() {
    let Some(fake) = Fake::new() else { return };
    let old = fake.of_version(2).err().unwrap().to_string();
    assert!(old.contains("NVRTC 12.2 is too old") && old.contains("12.4 or later"), "{old}");
    let none = Nvrtc::open(Path::new("/nowhere/libnvrtc.so")).err().unwrap().to_string();
    assert!(
        none.starts_with("/nowhere/libnvrtc.so does not load") && none.contains("DREAMCLEAR_NVRTC"),
        "{none}"
    );
}

/// Compiles families for A100 and H100 with the library of this machine, and reads from the machine code
/// what each kernel will say about itself: the same as in the simulator.
fn real(wanted: impl Fn(&str) -> bool) {
    let Some(nvrtc) = Nvrtc::load().unwrap() else {
        return eprintln!("skipped: no libnvrtc (set DREAMCLEAR_NVRTC to one)");
    };
    let Ok(simulator) = Simulator::new() else { return eprintln!("skipped: no simulator") };
    let simulated = simulator.kernels();
    let sources = Sources::embedded();
    let stdint = sources.file("cuda/include/nvrtc_stdint.h");
    let mut seen = 0;
    for family in sources.families().filter(|f| wanted(f)) {
        for capability in [80, 90].into_iter().filter(|&c| runs_on(family, c)) {
            let target = nvrtc.target(capability);
            let image = nvrtc
                .compile(
                    &format!("cuda/{family}.cu"),
                    &sources.flat(family),
                    &[("stdint.h", stdint)],
                    &target,
                )
                .unwrap_or_else(|said| panic!("{family} for {target:?}: {said}"));
            for (name, [threads, shared_bytes, param_bytes]) in infos(&image) {
                let kernel = simulated.iter().find(|k| k.name == name).unwrap_or_else(|| panic!("{name}"));
                assert_eq!(
                    (threads, shared_bytes, param_bytes as usize),
                    (kernel.threads, kernel.shared_bytes, kernel.param_bytes),
                    "{name}, {target:?}"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 0, "kernels were found in the machine code");
}

#[test]
fn small_families_compile_with_the_real_library() {
    real(|family| ["adamw", "embedding"].contains(&family));
}

#[test]
#[ignore = "minutes: every family for two architectures"]
fn all_families_compile_with_the_real_library() {
    real(|_| true);
}

/// The variables `<kernel>_info` of a cubin, by the kernel's name.
fn infos(elf: &[u8]) -> Vec<(String, [u32; 3])> {
    let number = |at: usize, bytes: usize| {
        elf[at..at + bytes].iter().rev().fold(0usize, |n, &b| n << 8 | usize::from(b))
    };
    assert_eq!(&elf[..5], b"\x7fELF\x02", "a 64-bit ELF file");
    let (sections, size, count) = (number(0x28, 8), number(0x3a, 2), number(0x3c, 2));
    let section = |i: usize| sections + i * size;
    let place = |i: usize| number(section(i) + 0x18, 8);
    let mut found = Vec::new();
    const SYMBOLS: usize = 2;
    for i in (0..count).filter(|&i| number(section(i) + 4, 4) == SYMBOLS) {
        let names = place(number(section(i) + 0x28, 4));
        let (start, bytes) = (place(i), number(section(i) + 0x20, 8));
        for symbol in (start..start + bytes).step_by(24) {
            let name = &elf[names + number(symbol, 4)..];
            let name = std::str::from_utf8(name.split(|&b| b == 0).next().unwrap()).unwrap();
            if let Some(kernel) = name.strip_suffix("_info") {
                let at = place(number(symbol + 6, 2)) + number(symbol + 8, 8);
                found.push((kernel.to_owned(), [0, 4, 8].map(|o| number(at + o, 4) as u32)));
            }
        }
    }
    found
}
