//! Own kernels or a library's, by measurement.
//!
//! For each call of a plan that is described anew, the step's own launches and the library's algorithms are
//! timed on the plan's addresses, in recordings, as they will run. What came of it is kept in a file by
//! everything that it depends on: device, driver, own kernels, the library's version, the call. From then on
//! the choice is the same in every run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use cudarc::driver::{result, sys};
use serde::{Deserialize, Serialize};
use sha2::Digest;

use super::CudaDevice;
use super::cublaslt::CublasLt;
use super::cudnn::Cudnn;
use super::driver::{driver_found, supported, words};
use crate::atomic_file;
use crate::device::kernel::Launch;
use crate::device::library::{KernelChoice, Libraries, LibraryCall, Prepared, PreparedCall};
use crate::error::{Error, Result};

/// Name of the file in the cache folder that keeps what was measured.
pub const MEASURED_CALLS: &str = "measured-calls.json";

/// Working memory of libraries. What cuBLASLt wants for its fastest products on an H100.
const WORKSPACE: usize = 32 << 20;
/// Algorithms of a library that are tried for a call.
const MOST_ALGORITHMS: usize = 8;
/// Runs before the first that is measured, and measured runs, of which the median counts.
const WARM_UP: usize = 2;
const RUNS: usize = 5;
/// Microseconds that a measured run should last at least, and copies that it consists of at most.
const LONG_ENOUGH: f64 = 200.0;
const MOST_COPIES: usize = 20;
/// A library's call must be faster than this share of the own time: less is noise, and own kernels are the
/// same on every machine.
const CLEARLY: f64 = 0.98;

/// A library that computes calls.
pub(super) trait Library: Send + Sync {
    /// Its version, as it counts.
    fn version(&self) -> usize;

    /// Up to `most` ways to compute the call, by names that hold as long as the version does.
    fn algorithms(&'static self, call: &LibraryCall, most: usize) -> Result<Vec<String>, String>;

    /// The call by that algorithm.
    fn prepare(&'static self, call: &LibraryCall, algorithm: &str) -> Result<Arc<dyn PreparedCall>, String>;
}

/// Times of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Measured {
    /// Microseconds of the step's own launches.
    own_us: f64,
    /// The library's fastest algorithm; none if it cannot compute the call.
    library: Option<Fastest>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Fastest {
    algorithm: String,
    us: f64,
}

impl Measured {
    /// The algorithm that is to take the own launches' place.
    fn chosen(&self, choice: KernelChoice) -> Option<&Fastest> {
        self.library.as_ref().filter(|l| match choice {
            KernelChoice::Own => false,
            KernelChoice::Library => true,
            KernelChoice::Auto => l.us < CLEARLY * self.own_us,
        })
    }
}

/// A file of measured calls. Several processes may use it; who writes last keeps what others have added.
#[derive(Default)]
struct Memory {
    path: Option<PathBuf>,
    read: bool,
    entries: BTreeMap<String, Measured>,
    /// Whether there are entries that the file has not.
    new: bool,
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    measured: BTreeMap<String, Measured>,
}

const FORMAT: u32 = 1;

impl Memory {
    /// The entries of a file; a file that is not there has none.
    fn read(path: &Path) -> Result<BTreeMap<String, Measured>, String> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(e) => return Err(e.to_string()),
        };
        let file: File = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
        if file.format != FORMAT {
            return Err(format!("it has format {}, this version writes {FORMAT}", file.format));
        }
        Ok(file.measured)
    }

    fn get(&mut self, key: &str) -> Option<Measured> {
        if let Some(path) = self.path.as_ref().filter(|_| !self.read) {
            self.read = true;
            self.entries = Self::read(path).unwrap_or_else(|why| {
                tracing::warn!("{}: {why}; calls are measured again, and the file replaced", path.display());
                BTreeMap::new()
            });
        }
        self.entries.get(key).cloned()
    }

    fn insert(&mut self, key: String, measured: Measured) {
        self.entries.insert(key, measured);
        self.new = true;
    }

    /// Writes what is new. A file that cannot be written costs the next run its time, nothing else.
    fn save(&mut self) {
        let Some(path) = self.path.as_ref().filter(|_| self.new) else { return };
        let mut measured = Self::read(path).unwrap_or_default();
        measured.extend(self.entries.clone());
        let text = serde_json::to_vec_pretty(&File { format: FORMAT, measured }).expect("plain numbers");
        match atomic_file::write(path, &text) {
            Ok(()) => self.new = false,
            Err(e) => tracing::debug!("measured calls are not remembered: {e}"),
        }
    }
}

/// The libraries of a device, and what is known about them.
pub(super) struct Tuning {
    choice: KernelChoice,
    /// Device, driver and kernels, as part of keys.
    machine: String,
    workspace: OnceLock<Result<u64, String>>,
    cublaslt: OnceLock<Result<&'static CublasLt, String>>,
    cudnn: OnceLock<Result<&'static Cudnn, String>>,
    memory: Mutex<Memory>,
}

impl Tuning {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Bytes of device memory that will be taken when a library is first used.
    pub fn wanted(&self) -> usize {
        if self.workspace.get().is_none() { WORKSPACE } else { 0 }
    }

    /// Gives the working memory back.
    ///
    /// # Safety
    /// The context must be current; no call may run any more.
    pub unsafe fn release(&mut self) {
        if let Some(Ok(address)) = self.workspace.take() {
            // SAFETY: the caller's promise.
            let _ = unsafe { result::free_sync(address) };
        }
    }
}

/// The libraries that may compute in place of own kernels: name and version, or why there is none.
pub fn libraries_found() -> [(&'static str, Result<usize, String>); 2] {
    // Without a driver any version would do.
    let major = if driver_found() { supported() as u32 / 1000 } else { u32::MAX };
    [("cuBLASLt", CublasLt::found(major)), ("cuDNN", Cudnn::found())]
}

impl CudaDevice {
    /// Lets libraries compute what they can, as `choice` says. What is measured is remembered in `file`.
    ///
    /// # Errors
    /// If a library is asked for that is not there or too old; where the faster is asked for, own kernels are.
    pub fn with_libraries(mut self, choice: KernelChoice, file: Option<PathBuf>) -> Result<Self> {
        if choice == KernelChoice::Own {
            return Ok(self);
        }
        let driver = supported();
        let code: String = self.code.clone().finalize()[..8].iter().map(|b| format!("{b:02x}")).collect();
        let tuning = Tuning {
            choice,
            machine: format!("{} | driver {driver} | kernels {code}", self.name),
            workspace: OnceLock::new(),
            cublaslt: OnceLock::new(),
            cudnn: OnceLock::new(),
            memory: Mutex::new(Memory { path: file, ..Memory::default() }),
        };
        if choice == KernelChoice::Library {
            self.make_current()?;
            let (cublaslt, cudnn) = (self.cublaslt(&tuning).err(), self.cudnn(&tuning).err());
            for (name, why) in [("cuBLASLt", cublaslt), ("cuDNN", cudnn)] {
                if let Some(why) = why {
                    return Err(Error::Usage(format!(
                        "--kernels library: {name} cannot be used: {why}; install it, or use --kernels auto"
                    )));
                }
            }
        }
        self.tuning = Some(tuning);
        Ok(self)
    }

    fn workspace(&self, tuning: &Tuning) -> Result<(u64, usize), String> {
        // SAFETY: given back by `Tuning::release`.
        let taken = || unsafe { result::malloc_sync(WORKSPACE) }.map_err(words);
        tuning.workspace.get_or_init(taken).clone().map(|address| (address, WORKSPACE))
    }

    fn cublaslt(&self, tuning: &Tuning) -> Result<&'static CublasLt, String> {
        let open = || CublasLt::open(supported() as u32 / 1000, self.workspace(tuning)?);
        tuning.cublaslt.get_or_init(|| noted("cuBLASLt", open())).clone()
    }

    fn cudnn(&self, tuning: &Tuning) -> Result<&'static Cudnn, String> {
        let open = || Cudnn::open(self.workspace(tuning)?);
        tuning.cudnn.get_or_init(|| noted("cuDNN", open())).clone()
    }

    /// The call as a launch, if it is to take the place of the launches `own`.
    ///
    /// # Safety
    /// As [`Libraries::choose`], under the device's lock and with its context current.
    unsafe fn choose_one(
        &self,
        tuning: &Tuning,
        call: &LibraryCall,
        own: &[Launch],
    ) -> Result<Option<Launch>> {
        let library: Result<&'static dyn Library, String> = match call {
            LibraryCall::Matmul(_) => self.cublaslt(tuning).map(|l| l as _),
            LibraryCall::Conv(_) => self.cudnn(tuning).map(|l| l as _),
        };
        let Ok(library) = library else { return Ok(None) };
        let version = library.version();
        let key = format!("{} | {} {version} | {}", tuning.machine, call.library(), call.description());
        let prepared = |measured: &Measured| -> Result<Option<Launch>, String> {
            let Some(fastest) = measured.chosen(tuning.choice) else { return Ok(None) };
            let launch =
                Launch::of_library(call.name(), Prepared(library.prepare(call, &fastest.algorithm)?));
            // Once before it is recorded: what a library loads at its first call must not be loaded then.
            // SAFETY: the caller's promise.
            unsafe { self.start(std::slice::from_ref(&launch)) }.map_err(|(_, why)| why)?;
            Ok(Some(launch))
        };
        let known = tuning.memory().get(&key);
        if let Some(measured) = known {
            match prepared(&measured) {
                Ok(launch) => return Ok(launch),
                Err(why) => tracing::debug!("{}: {why}; it is measured again", call.description()),
            }
        }
        // SAFETY: the caller's promise.
        let measured = unsafe { self.measure(library, call, own) }?;
        let ready = prepared(&measured).map_err(|why| Error::Run(format!("{}: {why}", call.name())))?;
        let of_library = match &measured.library {
            Some(fastest) => format!("{} {:.1} µs", call.library(), fastest.us),
            None => format!("{} has no way", call.library()),
        };
        let taken = if ready.is_some() { call.library() } else { "own" };
        tracing::debug!("{}: own {:.1} µs, {of_library}: {taken}", call.description(), measured.own_us);
        tuning.memory().insert(key, measured);
        Ok(ready)
    }

    /// # Safety
    /// As [`CudaDevice::choose_one`].
    unsafe fn measure(
        &self,
        library: &'static dyn Library,
        call: &LibraryCall,
        own: &[Launch],
    ) -> Result<Measured> {
        let mut best: Option<Fastest> = None;
        let refused = |why: String| tracing::trace!("{}: {}: {why}", call.description(), call.library());
        let algorithms = library.algorithms(call, MOST_ALGORITHMS).unwrap_or_else(|why| {
            refused(why);
            vec![]
        });
        for algorithm in algorithms {
            let timed = library.prepare(call, &algorithm).and_then(|p| {
                // SAFETY: the caller's promise.
                unsafe { self.time(&[Launch::of_library(call.name(), Prepared(p))]) }
            });
            match timed {
                Ok(us) if best.as_ref().is_none_or(|b| us < b.us) => best = Some(Fastest { algorithm, us }),
                Ok(_) => {}
                Err(why) => refused(why),
            }
        }
        // SAFETY: the caller's promise.
        let own_us = unsafe { self.time(own) }
            .map_err(|why| Error::Run(format!("{}: {why}", own.first().map_or("", |l| &l.kernel))))?;
        Ok(Measured { own_us, library: best })
    }

    /// Microseconds of the launches: the median of a few recordings of several copies. The device's lock is held.
    ///
    /// # Safety
    /// As [`CudaDevice::choose_one`].
    unsafe fn time(&self, launches: &[Launch]) -> Result<f64, String> {
        let clock = Clock::new(self.stream)?;
        let once = || {
            // SAFETY: the caller's promise.
            unsafe { self.start(launches) }.map_err(|(_, why)| why)
        };
        (0..WARM_UP).try_for_each(|_| once())?;
        let copies = (LONG_ENOUGH / clock.time(once)?.max(1.0)).ceil().clamp(1.0, MOST_COPIES as f64);
        let all = vec![launches; copies as usize].concat();
        // SAFETY: the caller's promise.
        let recording = unsafe { self.capture(&all) }.map_err(|e| e.to_string())?;
        // SAFETY: the caller's promise.
        let run = || unsafe { recording.start_held() }.map_err(|e| e.to_string());
        run()?;
        let mut times = (0..RUNS).map(|_| clock.time(run)).collect::<Result<Vec<_>, _>>()?;
        times.sort_by(f64::total_cmp);
        Ok(times[RUNS / 2] / copies)
    }
}

/// Says once that a library is not used, and why.
fn noted<T>(name: &str, opened: Result<T, String>) -> Result<T, String> {
    opened.inspect_err(|why| tracing::debug!("{name} is not used: {why}"))
}

impl Libraries for CudaDevice {
    unsafe fn choose(&self, calls: &[(LibraryCall, &[Launch])]) -> Result<Vec<Option<Launch>>> {
        let Some(tuning) = &self.tuning else { return Ok(vec![None; calls.len()]) };
        let _held = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        self.make_current()?;
        // SAFETY: the caller's promise.
        let one = |(call, own): &(LibraryCall, &[Launch])| unsafe { self.choose_one(tuning, call, own) };
        let chosen = calls.iter().map(one).collect();
        tuning.memory().save();
        chosen
    }
}

/// A pair of events.
struct Clock {
    stream: sys::CUstream,
    before: sys::CUevent,
    after: sys::CUevent,
}

impl Clock {
    fn new(stream: sys::CUstream) -> Result<Self, String> {
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(words);
        Ok(Clock { stream, before: event()?, after: event()? })
    }

    /// Microseconds of what `work` puts on the stream.
    fn time(&self, work: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
        // SAFETY: our own events and stream.
        unsafe {
            result::event::record(self.before, self.stream).map_err(words)?;
            work()?;
            result::event::record(self.after, self.stream).map_err(words)?;
            result::event::synchronize(self.after).map_err(words)?;
            Ok(f64::from(result::event::elapsed(self.before, self.after).map_err(words)?) * 1e3)
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        for event in [self.before, self.after] {
            // SAFETY: our own events; nothing waits for them.
            let _ = unsafe { result::event::destroy(event) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(own_us: f64, us: f64) -> Measured {
        Measured { own_us, library: Some(Fastest { algorithm: "3".into(), us }) }
    }

    #[test]
    fn the_library_must_be_clearly_faster() {
        let auto = |m: Measured| m.chosen(KernelChoice::Auto).is_some();
        assert!(auto(measured(10.0, 9.0)));
        assert!(!auto(measured(10.0, 9.9)) && !auto(measured(10.0, 11.0)));
        assert!(!auto(Measured { own_us: 10.0, library: None }));
        assert!(measured(10.0, 11.0).chosen(KernelChoice::Library).is_some());
        assert!(measured(10.0, 1.0).chosen(KernelChoice::Own).is_none());
    }

    #[test]
    fn a_file_keeps_what_others_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/choices.json");
        let memory = || Memory { path: Some(path.clone()), ..Memory::default() };
        let (mut one, mut other) = (memory(), memory());
        assert_eq!((one.get("a"), other.get("a")), (None, None));
        one.insert("a".into(), measured(1.0, 2.0));
        one.save();
        other.insert("b".into(), measured(3.0, 4.0));
        other.save();
        let mut third = memory();
        assert_eq!(third.get("a"), Some(measured(1.0, 2.0)));
        assert_eq!(third.get("b"), Some(measured(3.0, 4.0)));
    }

    #[test]
    fn an_unreadable_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("choices.json");
        for bad in ["{ no json", r#"{"format": 99, "measured": {}}"#] {
            std::fs::write(&path, bad).unwrap();
            let mut memory = Memory { path: Some(path.clone()), ..Memory::default() };
            assert_eq!(memory.get("a"), None);
            memory.insert("a".into(), measured(1.0, 2.0));
            memory.save();
            assert_eq!(Memory::read(&path).unwrap().len(), 1);
        }
    }
}
