//! Kernels compiled at first use: a build without code for GPUs (docs/cuda-build.md) carries their sources,
//! and NVRTC compiles them for the card that is there, once, into the user's cache.
//!
//! All families at once: a plan's kernels are known late, and a run that stops for a compiler between two
//! pictures is worse than one that starts a minute later, once. `<cache>/kernels/<arch>/<family>-<key>`
//! is looked up by everything that decides its bytes; deleting the folder is always safe.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::nvrtc::{Nvrtc, Target};
use super::runs_on;
use super::sources::Sources;
use crate::atomic_file;
use crate::error::{Error, Result};

/// A family's name and its machine code or PTX.
pub type Image = (String, Vec<u8>);

/// A family that is to be had.
struct Wanted<'a> {
    family: &'a str,
    source: String,
    file: PathBuf,
    image: Option<Vec<u8>>,
}

/// The kernels of all families for a card of this compute capability (major·10 + minor), from the folder
/// `cache` or compiled into it.
///
/// # Errors
/// If there is no NVRTC, and as [`images_by`].
pub fn images(capability: u32, cache: &Path) -> Result<Vec<Image>> {
    let nvrtc = Nvrtc::load()?.ok_or_else(|| {
        Error::Usage(
            "this build has no GPU kernels and found no libnvrtc to compile them with: install NVRTC (`pip install \
             nvidia-cuda-nvrtc`) and set DREAMCLEAR_NVRTC to its libnvrtc.so, or build with nvcc (tools/cuda-toolchain), \
             or use --device cpu"
                .into(),
        )
    })?;
    images_by(&nvrtc, capability, cache)
}

/// [`images`] with this compiler.
///
/// # Errors
/// If a family does not compile; a cache that cannot be written only costs a warning.
pub fn images_by(nvrtc: &Nvrtc, capability: u32, cache: &Path) -> Result<Vec<Image>> {
    let sources = Sources::embedded();
    let target = nvrtc.target(capability);
    let folder = cache.join("kernels").join(&target.arch);
    let stdint = sources.file("cuda/include/nvrtc_stdint.h");
    let mut wanted: Vec<_> = sources
        .families()
        .filter(|family| runs_on(family, capability))
        .map(|family| {
            let source = sources.flat(family);
            let parts = [&nvrtc.version(), &Nvrtc::flags(), &target.arch, stdint, &source];
            let file = folder.join(format!("{family}-{}", key(&parts)));
            Wanted { family, source, file, image: None }
        })
        .collect();
    if look_up(&mut wanted) > 0 {
        let _lock = lock(&folder);
        // Another process may have made them while this one waited.
        if look_up(&mut wanted) > 0 {
            compile(nvrtc, &target, &[("stdint.h", stdint)], &folder, &mut wanted)?;
        }
    }
    Ok(wanted.into_iter().map(|w| (w.family.to_owned(), w.image.expect("looked up or compiled"))).collect())
}

/// A name for what these texts decide.
fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..10].iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads what the cache has; how many are still wanted.
fn look_up(wanted: &mut [Wanted]) -> usize {
    for w in wanted.iter_mut().filter(|w| w.image.is_none()) {
        w.image = fs::read(&w.file).ok().filter(|bytes| !bytes.is_empty());
    }
    wanted.iter().filter(|w| w.image.is_none()).count()
}

/// Held while kernels are compiled, so that processes that start together do it once. Where the folder
/// cannot be locked each compiles for itself.
fn lock(folder: &Path) -> Option<File> {
    fs::create_dir_all(folder).ok()?;
    let file = File::options().create(true).append(true).open(folder.join("lock")).ok()?;
    if file.try_lock().is_err() {
        tracing::info!("waiting for another process, which compiles the GPU kernels");
        file.lock().ok()?;
    }
    Some(file)
}

/// Compiles what is still wanted, on all cores.
fn compile(
    nvrtc: &Nvrtc,
    target: &Target,
    headers: &[(&str, &str)],
    folder: &Path,
    wanted: &mut [Wanted],
) -> Result<()> {
    let mut missing: Vec<_> = wanted.iter_mut().filter(|w| w.image.is_none()).collect();
    // Long ones first, so that none is left for the end.
    missing.sort_by_key(|w| std::cmp::Reverse(w.source.len()));
    let count = missing.len();
    tracing::info!(
        "compiling the GPU kernels for {} with NVRTC {}, once: {count} families, a minute or two",
        target.arch,
        nvrtc.version()
    );
    let start = Instant::now();
    let bar = ProgressBar::new(count as u64); // hidden where stderr is no terminal
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} families of kernels {elapsed}") {
        bar.set_style(style);
    }
    let slots: Vec<_> = missing.into_iter().map(Mutex::new).collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let unwritten = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()).min(count) {
            scope.spawn(|| {
                while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut w = slot.lock().unwrap_or_else(|e| e.into_inner());
                    match nvrtc.compile(&format!("cuda/{}.cu", w.family), &w.source, headers, target) {
                        Ok(image) => {
                            if let Err(e) = atomic_file::write(&w.file, &image) {
                                *unwritten.lock().unwrap_or_else(|e| e.into_inner()) = Some(e);
                            }
                            w.image = Some(image);
                        }
                        Err(said) => {
                            let mut all = failures.lock().unwrap_or_else(|e| e.into_inner());
                            all.push(format!("{}: {}", w.family, said.trim()));
                        }
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let failures = failures.into_inner().unwrap_or_else(|e| e.into_inner());
    if !failures.is_empty() {
        tracing::debug!("{}", failures.join("\n"));
        // The compiler's first complaint names file and line.
        let first = failures[0].lines().find(|l| l.contains("error")).unwrap_or(&failures[0]);
        let first = first.split('\n').next().unwrap_or_default();
        return Err(Error::Run(format!(
            "NVRTC {} does not compile {} of {count} families of kernels for {} ({first}): use another version, \
             or build with nvcc (tools/cuda-toolchain)",
            nvrtc.version(),
            failures.len(),
            target.arch
        )));
    }
    if let Some(e) = unwritten.into_inner().unwrap_or_else(|e| e.into_inner()) {
        tracing::warn!("the compiled kernels could not be kept, the next run compiles them again: {e}");
    }
    tracing::info!("compiled in {:.0} s into {}", start.elapsed().as_secs_f64(), folder.display());
    Ok(())
}
