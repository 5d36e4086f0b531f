//! Builds what is not Rust, from one set of sources (`cuda/*.cu`):
//! * the simulator of CUDA kernels, by the host's C++ compiler against `cuda/sim/`;
//! * the code for GPUs, by nvcc, if there is one (docs/cuda-build.md);
//! * the sources themselves, packed, for machines that compile them at first use.
//!
//! Every object lies in `<target>/cuda-cache`, shared by all profiles, beside an `.inputs` file with the
//! compiler's version, its flags and every file it read. It is used again while those are byte for byte
//! the same. tools/cuda_kernels.py keeps the same cache by the same rules.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

fn main() {
    println!("cargo:rustc-check-cfg=cfg(simulator)");
    // A folder is looked through by cargo with all that is in it.
    for path in ["build.rs", "cuda", "ffi"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let cache = Cache::new().unwrap_or_else(|e| fail(&e));
    if let Err(e) = simulator(&cache) {
        fail(&format!("the simulator of CUDA kernels does not build: {e}"));
    }
    if let Err(e) = pack_sources(&cache) {
        fail(&format!("the kernels' sources cannot be packed: {e}"));
    }
    if let Err(e) = gpu_code(&cache) {
        fail(&format!("the code for GPUs does not build: {e}\n(DREAMCLEAR_NVCC=off builds without it)"));
    }
}

fn fail(why: &str) -> ! {
    eprintln!("{why}");
    exit(1);
}

type Result<T, E = String> = std::result::Result<T, E>;

/// What went wrong with a file, with its name.
fn at<T>(path: &Path, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|e| format!("{}: {e}", path.display()))
}

/// All files of a folder with this ending (any, if empty), sorted.
fn files(dir: &str, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        Path::new(dir).read_dir().map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    found.retain(|p: &PathBuf| {
        p.is_file() && (ending.is_empty() || p.extension().is_some_and(|e| e == ending))
    });
    found.sort();
    found
}

/// `cuda/<family>.cu`.
fn is_kernel_file(path: &Path) -> bool {
    path.parent() == Some(Path::new("cuda")) && path.extension().is_some_and(|e| e == "cu")
}

/// The stem of `cuda/<family>.cu` or of a file of `cuda/sim/`.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

// ---- Objects that are made once ---------------------------------------------------------------

struct Cache {
    folder: PathBuf,
    /// What objects are made of: path → text, as it was when this build began.
    sources: BTreeMap<String, String>,
    /// Compilers that may run at once.
    jobs: usize,
}

impl Cache {
    fn new() -> Result<Self> {
        let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR; build with cargo")?);
        // Cargo marks its target folder with this file.
        let target = out.ancestors().find(|a| a.join("CACHEDIR.TAG").is_file()).unwrap_or(&out);
        let folder = target.join("cuda-cache");
        at(&folder, fs::create_dir_all(&folder))?;
        let mut sources = BTreeMap::new();
        let all = [files("cuda", "cu"), files("cuda/include", ""), files("cuda/sim", ""), files("ffi", "h")];
        for path in all.into_iter().flatten() {
            sources.insert(path.to_string_lossy().into_owned(), at(&path, fs::read_to_string(&path))?);
        }
        let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).clamp(1, 2);
        Ok(Cache { folder, sources, jobs })
    }

    /// Held while objects of one sort are made: other profiles and tools may want them at the same time.
    fn lock(&self, sort: &str) -> Result<fs::File> {
        let path = self.folder.join(format!("{sort}.lock"));
        let file = at(&path, fs::File::options().create(true).append(true).open(&path))?;
        at(&path, file.lock())?;
        Ok(file)
    }

    /// Text of an `.inputs` file; None if a file is gone.
    fn inputs(&self, compiler: &str, flags: &str, paths: &[&str]) -> Option<String> {
        let mut text = format!("{compiler}\nflags {flags}\nfiles {}\n", paths.join(" "));
        for &path in paths {
            text += &format!("--- {path}\n{}", self.sources.get(path)?);
        }
        Some(text)
    }

    /// The object `<kind>/<name>.<ending>`; `make` is asked to write it (first path) and a depfile of
    /// make's kind (second path), and returns what the compiler printed. That is kept as `.log`.
    fn object(
        &self,
        [kind, name, ending]: [&str; 3],
        compiler: &str,
        flags: &str,
        make: impl FnOnce(&Path, &Path) -> Result<String>,
    ) -> Result<PathBuf> {
        let folder = self.folder.join(kind);
        at(&folder, fs::create_dir_all(&folder))?;
        let [object, log, inputs] = [ending, "log", "inputs"].map(|e| folder.join(format!("{name}.{e}")));
        if let Ok(stored) = fs::read_to_string(&inputs)
            && object.is_file()
            && let Some(paths) = stored.lines().nth(2).and_then(|l| l.strip_prefix("files "))
            && self
                .inputs(compiler, flags, &paths.split(' ').collect::<Vec<_>>())
                .is_some_and(|t| t == stored)
        {
            return Ok(object);
        }
        let _ = fs::remove_file(&inputs); // a build that is killed from here on leaves nothing that looks current
        let temporary = |e: &str| folder.join(format!(".{name}.{}.{e}", std::process::id()));
        let (made, depfile) = (temporary(ending), temporary("d"));
        let start = Instant::now();
        let result = make(&made, &depfile).and_then(|said| {
            let dependencies = at(&depfile, fs::read_to_string(&depfile))?;
            let paths = self.ours(&dependencies);
            let text = self.inputs(compiler, flags, &paths).unwrap_or_default();
            at(&object, fs::rename(&made, &object))?;
            at(&log, fs::write(&log, said))?;
            at(&inputs, fs::write(&inputs, text))?;
            Ok(object)
        });
        let _ = fs::remove_file(&made);
        let _ = fs::remove_file(&depfile);
        println!("{kind}/{name}: {:.1} s", start.elapsed().as_secs_f64()); // shown by cargo build -vv
        result
    }

    /// Of the files in a depfile, those of this project, sorted.
    fn ours(&self, depfile: &str) -> Vec<&str> {
        let text = depfile.replace("\\\n", " ");
        let list = text.split_once(": ").map_or("", |(_, l)| l);
        let read: Vec<_> = list.split_whitespace().map(|p| normal(Path::new(p))).collect();
        self.sources.keys().map(String::as_str).filter(|s| read.iter().any(|r| r.ends_with(s))).collect()
    }

    /// Runs `job` over `0..count` on a few threads. All failures are told, not only the first.
    fn in_parallel(&self, count: usize, job: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
        let next = AtomicUsize::new(0);
        let failures = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.min(count) {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= count {
                            break;
                        }
                        if let Err(e) = job(i) {
                            failures.lock().unwrap().push(e);
                        }
                    }
                });
            }
        });
        let failures = failures.into_inner().unwrap();
        if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
    }
}

/// Without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(out.pop()),
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

/// Runs a compiler; what it printed, which on failure is the error.
fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{program} cannot be run: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(said.into_owned())
    } else {
        Err(format!("{program} ({}):\n{said}", output.status))
    }
}

// ---- The simulator ----------------------------------------------------------------------------

/// Without a C++ compiler only `--device sim` is missing.
fn simulator(cache: &Cache) -> Result<()> {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(1)
        .debug(false)
        .warnings(false)
        .flag("-xc++")
        .flag("-ffp-contract=off") // a GPU fuses where nvcc says; the host must not add its own
        .flag("-U_FORTIFY_SOURCE")
        .flag_if_supported("-Wno-unknown-pragmas");
    let Ok(compiler) = build.try_get_compiler() else { return Ok(()) };
    let version = compiler.to_command().arg("--version").output();
    let Some(version) = version.ok().filter(|o| o.status.success()) else { return Ok(()) };
    let version = String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default().to_owned();
    let flags = compiler.args().join(OsStr::new(" ")).to_string_lossy().into_owned();
    let sources: Vec<_> = cache.sources.keys().map(PathBuf::from).collect();
    let sources: Vec<_> = sources
        .into_iter()
        .filter(|p| is_kernel_file(p) || p.extension().is_some_and(|e| e == "cpp"))
        .collect();
    // Flags that differ, as of a cross build, have a folder of their own.
    let target = env::var("TARGET").unwrap_or_default();
    let objects = Mutex::new(vec![PathBuf::new(); sources.len()]);
    let _lock = cache.lock("sim")?;
    cache.in_parallel(sources.len(), |i| {
        let source = &sources[i];
        let kind = format!("sim-{target}");
        let object = cache.object([&kind, &stem(source), "o"], &version, &flags, |made, depfile| {
            let mut command = compiler.to_command();
            run(command.arg("-MMD").arg("-MF").arg(depfile).arg("-c").arg("-o").arg(made).arg(source))
        })?;
        objects.lock().unwrap()[i] = object;
        Ok(())
    })?;
    // Kernels register themselves, nothing refers to them by name: the whole archive is linked.
    cc::Build::new()
        .cpp(true)
        .link_lib_modifier("+whole-archive")
        .objects(objects.into_inner().unwrap())
        .try_compile("dreamclear_sim")
        .map_err(|e| e.to_string())?;
    println!("cargo:rustc-cfg=simulator");
    Ok(())
}

// ---- Sources ----------------------------------------------------------------------------------

/// Writes `kernel_sources.gz`, which src/device/cuda/sources.rs embeds and describes.
fn pack_sources(cache: &Cache) -> Result<()> {
    let path = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("kernel_sources.gz");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for (name, text) in cache.sources.iter().filter(|(name, _)| !name.starts_with("cuda/sim")) {
        at(&path, write!(packed, "{} {}\n{text}", name.replace('\\', "/"), text.len()))?;
    }
    let packed = at(&path, packed.finish())?;
    at(&path, fs::write(&path, packed))
}

// ---- Code for GPUs ----------------------------------------------------------------------------

/// What fatbins hold unless DREAMCLEAR_CUDA_ARCHS says otherwise.
const ARCHS: &str = "80,86,89,90a,compute_90";
const NVCC_FLAGS: [&str; 2] = ["-std=c++17", "-O3"];

/// An image of a fatbin: machine code of `arch`, or PTX that the driver compiles for newer cards.
struct Image<'a> {
    /// `80`, `90a`.
    arch: &'a str,
    ptx: bool,
}

impl Image<'_> {
    /// The architecture as the compiler's front end sees it. One for all sm_8x, whose machine code ptxas
    /// makes from the same PTX: the front end takes most of the time.
    fn front_end(&self) -> &str {
        if !self.ptx && matches!(self.arch, "86" | "89") { "80" } else { self.arch }
    }
    /// Whether it has kernels of this file: those for Hopper's own instructions are for sm_90a alone.
    fn holds(&self, source: &Path) -> bool {
        !stem(source).ends_with("_sm90") || (self.arch == "90a" && !self.ptx)
    }
    /// `sm_90a` counts as 90.
    fn number(&self) -> &str {
        self.arch.trim_end_matches(|c: char| c.is_ascii_alphabetic())
    }
}

/// The path of nvcc, or in one line why there is none.
fn find_nvcc() -> Result<Result<PathBuf>> {
    for variable in ["DREAMCLEAR_NVCC", "DREAMCLEAR_CUDA_ARCHS", "CUDA_HOME", "NVCC_CCBIN"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let said = |variable| env::var_os(variable).filter(|v: &OsString| !v.is_empty());
    if let Some(path) = said("DREAMCLEAR_NVCC") {
        if path == "off" {
            return Ok(Err("DREAMCLEAR_NVCC was `off` when it was built".into()));
        }
        let path = PathBuf::from(path);
        if !path.is_file() {
            return Err(format!(
                "DREAMCLEAR_NVCC is {}, which is not a file; set it to the path of nvcc, or to `off`",
                path.display()
            ));
        }
        return Ok(Ok(path));
    }
    let home = said("CUDA_HOME").map(|h| PathBuf::from(h).join("bin/nvcc"));
    let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|p| p.join("nvcc"))
        .collect::<Vec<_>>();
    let installed =
        Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("target/cuda/bin/nvcc");
    let found = home.into_iter().chain(on_path).chain([installed]).find(|p| p.is_file());
    Ok(found.ok_or_else(|| {
        "nvcc was in none of CUDA_HOME, PATH and target/cuda when it was built (tools/cuda-toolchain installs it)".into()
    }))
}

/// Compiles every family of kernels to a fatbin and writes `fatbins.rs`, which embeds them.
fn gpu_code(cache: &Cache) -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let nvcc = match find_nvcc()? {
        Ok(nvcc) => nvcc,
        Err(why) => return write_fatbins_rs(&out, &format!("no code for GPUs: {why}"), &[]),
    };
    println!("cargo:rerun-if-changed={}", nvcc.display());
    let version = run(Command::new(&nvcc).arg("--version"))?;
    let version = version.lines().find_map(|l| l.strip_prefix("Cuda compilation tools, "));
    let version =
        version.ok_or_else(|| format!("{} --version does not say that it is nvcc", nvcc.display()))?;
    let asked = env::var("DREAMCLEAR_CUDA_ARCHS").ok().filter(|a| !a.is_empty());
    let known = run(Command::new(&nvcc).arg("--list-gpu-code"))?;
    let mut images = Vec::new();
    for arch in asked.as_deref().unwrap_or(ARCHS).split(',').map(str::trim) {
        let ptx = arch.starts_with("compute_");
        let image = Image { arch: arch.trim_start_matches("compute_").trim_start_matches("sm_"), ptx };
        if known.lines().any(|l| l.trim().strip_prefix("sm_") == Some(image.number())) {
            images.push(image);
        } else if asked.is_some() {
            return Err(format!(
                "DREAMCLEAR_CUDA_ARCHS asks for {arch}, which {version} does not know; expected some of {ARCHS}"
            ));
        }
    }

    let compiler = format!("nvcc {version}");
    let _lock = cache.lock("nvcc")?;
    // Both sides of ffi/ agree, or this does not compile.
    cache.object(["compute_80", "ffi_layout", "ptx"], &compiler, "ffi_layout", |made, depfile| {
        let mut command = Command::new(&nvcc);
        command.args(["-std=c++17", "-x", "cu", "-ptx", "-arch=compute_80", "-MD", "-MF"]);
        run(command.arg(depfile).arg("-o").arg(made).arg("cuda/sim/ffi_layout.cpp"))
    })?;
    // As seen when this build began: a file that appears meanwhile is the next build's.
    let mut sources: Vec<_> = cache.sources.keys().map(PathBuf::from).filter(|p| is_kernel_file(p)).collect();
    // Large files first, so that no long compilation is left for the end.
    sources.sort_by_key(|p| std::cmp::Reverse(fs::metadata(p).map_or(0, |m| m.len())));
    let front_ends: Vec<_> = sources
        .iter()
        .flat_map(|s| {
            let all = images.iter().filter(|i| i.holds(s)).map(Image::front_end);
            all.collect::<BTreeSet<_>>().into_iter().map(move |f| (s, f))
        })
        .collect();
    cache.in_parallel(front_ends.len(), |i| {
        let (source, front_end) = front_ends[i];
        compile_ptx(cache, &nvcc, &compiler, source, front_end)
    })?;
    let ptx_of = |source: &Path, image: &Image| {
        cache.folder.join(format!("compute_{}", image.front_end())).join(format!("{}.ptx", stem(source)))
    };
    let mut cubins: Vec<_> = sources
        .iter()
        .flat_map(|s| images.iter().filter(|i| !i.ptx && i.holds(s)).map(move |i| (s, i)))
        .collect();
    cubins.sort_by_key(|(s, i)| std::cmp::Reverse(fs::metadata(ptx_of(s, i)).map_or(0, |m| m.len())));
    cache.in_parallel(cubins.len(), |i| {
        let (source, image) = cubins[i];
        assemble(cache, &nvcc, &compiler, source, image, &ptx_of(source, image))
    })?;

    sources.sort();
    sources.retain(|s| images.iter().any(|i| i.holds(s)));
    let mut families = Vec::new();
    for source in &sources {
        let family = stem(source);
        let fatbin = out.join(format!("{family}.fatbin"));
        let mut command = Command::new(nvcc.with_file_name("fatbinary"));
        command.arg(format!("--create={}", fatbin.display())).args(["-64", "--compress-all"]);
        for image in images.iter().filter(|i| i.holds(source)) {
            let (kind, folder, ending) =
                if image.ptx { ("ptx", "compute_", "ptx") } else { ("elf", "sm_", "cubin") };
            let file =
                cache.folder.join(format!("{folder}{}", image.arch)).join(format!("{family}.{ending}"));
            command.arg(format!("--image3=kind={kind},sm={},file={}", image.arch, file.display()));
        }
        run(&mut command)?;
        families.push((family, fatbin));
    }
    let list = images.iter().map(|i| format!("{}{}", if i.ptx { "PTX compute_" } else { "sm_" }, i.arch));
    let list = list.collect::<Vec<_>>().join(", ");
    write_fatbins_rs(
        &out,
        &format!("{} families of kernels for {list} (nvcc {version})", families.len()),
        &families,
    )
}

/// `compute_<front_end>/<family>.ptx`.
fn compile_ptx(cache: &Cache, nvcc: &Path, compiler: &str, source: &Path, front_end: &str) -> Result<()> {
    let kind = format!("compute_{front_end}");
    cache.object([&kind, &stem(source), "ptx"], compiler, &NVCC_FLAGS.join(" "), |made, depfile| {
        let mut command = Command::new(nvcc);
        command.args(NVCC_FLAGS).arg("-ptx").arg(format!("-arch={kind}")).arg("-MD").arg("-MF").arg(depfile);
        run(command.arg("-o").arg(made).arg(source))
    })?;
    Ok(())
}

/// `sm_<arch>/<family>.cubin`, with the report of ptxas as its log.
fn assemble(
    cache: &Cache,
    nvcc: &Path,
    compiler: &str,
    source: &Path,
    image: &Image,
    ptx: &Path,
) -> Result<()> {
    let kind = format!("sm_{}", image.arch);
    cache.object([&kind, &stem(source), "cubin"], compiler, &NVCC_FLAGS.join(" "), |made, depfile| {
        let inputs = ptx.with_extension("inputs");
        let inputs = at(&inputs, fs::read_to_string(&inputs))?;
        let read = inputs.lines().nth(2).and_then(|l| l.strip_prefix("files ")).unwrap_or_default();
        at(depfile, fs::write(depfile, format!("cubin: {read}\n")))?;
        let mut command = Command::new(nvcc.with_file_name("ptxas"));
        run(command.arg("-v").arg(format!("-arch={kind}")).arg("-o").arg(made).arg(ptx))
    })?;
    Ok(())
}

/// What src/device/fatbin.rs includes.
fn write_fatbins_rs(out: &Path, summary: &str, families: &[(String, PathBuf)]) -> Result<()> {
    let mut text = format!("static SUMMARY: &str = {summary:?};\nstatic FATBINS: &[(&str, &[u8])] = &[\n");
    for (family, path) in families {
        let path = path.display().to_string();
        text += &format!("    ({family:?}, &Aligned(*include_bytes!({path:?})).0),\n");
    }
    text += "];\n";
    if !families.is_empty() {
        // The driver reads words of an image; `include_bytes!` promises no alignment.
        text += "#[repr(C, align(64))]\nstruct Aligned<const N: usize>([u8; N]);\n";
    }
    let path = out.join("fatbins.rs");
    at(&path, fs::write(&path, text))
}
