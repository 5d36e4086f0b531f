//! NVIDIA GPUs, through the driver alone (loaded at run time; nothing of CUDA is linked).
//!
//! One stream for launches, which are ordered as they are called, and one for copies in each direction
//! (`copies`). Memory is the driver's (`cuMemAlloc`), taken once by plans. Kernels come from fatbins embedded
//! by `build.rs`, or are compiled at first use; each says how many threads and how much shared memory it wants
//! in a device variable `<kernel>_info`.

use std::collections::HashMap;
use std::ffi::c_void;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::{result, sys};
use sha2::{Digest, Sha256};

mod copies;
mod cublaslt;
mod cudnn;
mod driver;
mod dynamic;
pub mod first_use;
mod graph;
pub mod interop;
mod module;
mod nccl;
pub mod nvrtc;
pub mod sources;
mod tensor_map;
mod tune;

pub use driver::driver_found;
pub use module::{Fatbin, runs_on};
pub use tune::{MEASURED_CALLS, libraries_found};

use copies::Copies;
use driver::{does_not_start, failed, no_such_device, out_of_memory, start, too_old, words};
use module::Kernel;
use tune::Tuning;

use super::collective::Collectives;
use super::kernel::{DeviceFacts, KernelDevice, KernelInfo, Launch, Mark, Recording, TensorMapSpec};
use super::library::Libraries;
use crate::error::Result;
use crate::ffi;

/// One GPU.
pub struct CudaDevice {
    ordinal: usize,
    name: String,
    facts: DeviceFacts,
    /// Bytes of shared memory that a block may have.
    most_shared: u32,
    context: sys::CUcontext,
    /// Whether context and stream are our own.
    own: bool,
    stream: sys::CUstream,
    /// Bytes that `allocate` gave out and `free` has not got back.
    allocated: AtomicUsize,
    kernels: HashMap<String, Kernel>,
    /// Of all images that were loaded.
    code: Sha256,
    /// Libraries that compute in place of kernels, if they are wanted.
    tuning: Option<Tuning>,
    /// One caller at a time between making the context current and the call's end; a capture must not be
    /// interleaved with other launches.
    lock: Arc<Mutex<()>>,
    copies: Arc<Copies>,
}

/// What a card says of itself.
struct Card {
    name: String,
    /// Major·10 + minor.
    capability: u32,
    multiprocessors: u32,
    /// Bytes of shared memory that a block may have.
    most_shared: u32,
}

impl Card {
    /// # Errors
    /// If it is too old.
    fn of(device: sys::CUdevice) -> Result<Self> {
        let name = result::device::get_name(device).map_err(failed("read the device's name"))?;
        let attribute = |which| {
            // SAFETY: a device of the driver's.
            unsafe { result::device::get_attribute(device, which) }
                .map_err(failed("read the device's properties"))
        };
        use sys::CUdevice_attribute_enum as A;
        let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let capability = (10 * major + minor) as u32;
        if let Some(e) = too_old(&name, capability) {
            return Err(e);
        }
        Ok(Card {
            name,
            capability,
            multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            most_shared: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as u32,
        })
    }
}

// SAFETY: the driver's handles may be used from any thread while the context is current there, which
// every method sees to.
unsafe impl Send for CudaDevice {}
// SAFETY: as above; `lock` orders calls.
unsafe impl Sync for CudaDevice {}

impl CudaDevice {
    /// Opens GPU `ordinal` with these kernels.
    ///
    /// # Errors
    /// One sentence for each of: no driver, a driver that does not start, no such device, a card older
    /// than compute capability 8.0, code that does not load.
    pub fn open(ordinal: usize, fatbins: &[Fatbin]) -> Result<Self> {
        let mut opened = Self::without_kernels(ordinal)?;
        for (family, image) in fatbins {
            opened.load(family, image)?;
        }
        Ok(opened)
    }

    /// Opens GPU `ordinal`; its kernels are compiled from the sources that this build carries, or come from
    /// the folder `cache` where that was done before.
    ///
    /// # Errors
    /// As [`CudaDevice::open`] and [`first_use::images`].
    pub fn open_compiling(ordinal: usize, cache: &Path) -> Result<Self> {
        let mut opened = Self::without_kernels(ordinal)?;
        for (family, image) in first_use::images(opened.facts.arch, cache)? {
            opened.load(&family, &image)?;
        }
        Ok(opened)
    }

    fn without_kernels(ordinal: usize) -> Result<Self> {
        let count = start()?;
        if ordinal >= count {
            return Err(no_such_device(ordinal, count));
        }
        let device = result::device::get(ordinal as i32).map_err(failed("open the device"))?;
        let card = Card::of(device)?;
        // SAFETY: the context is released when the device is dropped.
        let context =
            unsafe { result::primary_ctx::retain(device) }.map_err(|e| does_not_start(&card.name, e))?;
        // SAFETY: retained above.
        unsafe { result::ctx::set_current(context) }.map_err(failed("switch to the device"))?;
        let mut opened = Self::over(ordinal, card, Copies::new(context, device, true)?);
        opened.stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(failed("make a stream"))?;
        Ok(opened)
    }

    /// Without a stream yet.
    fn over(ordinal: usize, card: Card, copies: Arc<Copies>) -> Self {
        CudaDevice {
            ordinal,
            name: card.name,
            facts: DeviceFacts {
                arch: card.capability,
                multiprocessors: card.multiprocessors,
                hopper: false, // until kernels for it are loaded
            },
            most_shared: card.most_shared,
            context: copies.context,
            own: copies.own,
            stream: std::ptr::null_mut(),
            allocated: AtomicUsize::new(0),
            kernels: HashMap::new(),
            code: Sha256::new(),
            tuning: None,
            lock: Arc::default(),
            copies,
        }
    }

    /// The stream of launches for one caller, with the context current.
    fn hold(&self) -> Result<MutexGuard<'_, ()>> {
        let held = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        self.make_current()?;
        Ok(held)
    }

    fn make_current(&self) -> Result<()> {
        // SAFETY: retained for as long as `self` lives.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("switch to the device"))
    }

    /// All kernels that were loaded.
    pub fn kernels(&self) -> impl Iterator<Item = &KernelInfo> {
        self.kernels.values().map(|k| &k.info)
    }

    /// Free and total bytes of the device's memory.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.make_current()?;
        result::mem_get_info().map_err(failed("ask for free memory"))
    }

    /// # Safety
    /// As [`KernelDevice::launch`].
    unsafe fn start(&self, launches: &[Launch]) -> Result<(), (usize, String)> {
        for (i, launch) in launches.iter().enumerate() {
            if let Some(call) = &launch.library {
                // SAFETY: the caller's promise; our own stream.
                unsafe { call.0.start(self.stream.cast()) }.map_err(|e| (i, e))?;
                continue;
            }
            let kernel = self
                .kernels
                .get(&launch.kernel)
                .ok_or_else(|| (i, format!("there is no kernel {}", launch.kernel)))?;
            let mut params: [*mut c_void; 1] = [launch.params.as_ptr().cast_mut().cast()];
            let [x, y, z] = launch.grid;
            // SAFETY: the function is loaded; the driver copies the parameters before it returns.
            unsafe {
                result::launch_kernel(
                    kernel.function,
                    (x, y, z),
                    (kernel.info.threads, 1, 1),
                    kernel.info.shared_bytes,
                    self.stream,
                    &mut params,
                )
            }
            .map_err(|e| (i, words(e)))?;
        }
        Ok(())
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // SAFETY: nothing uses the device any more. Errors at the end change nothing.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            if !self.stream.is_null() {
                let _ = result::stream::synchronize(self.stream);
            }
            if self.own && !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            // While the context is there: `copies` releases it.
            if let Some(tuning) = &mut self.tuning {
                tuning.release();
            }
        }
    }
}

impl KernelDevice for CudaDevice {
    fn name(&self) -> String {
        format!(
            "cuda:{} {} (sm_{}, {} SMs)",
            self.ordinal, self.name, self.facts.arch, self.facts.multiprocessors
        )
    }

    fn facts(&self) -> DeviceFacts {
        self.facts
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.make_current()?;
        // SAFETY: freed by `free`.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = result::mem_get_info().unwrap_or((0, 0));
                out_of_memory(&self.name, bytes, free, total)
            }
            _ => failed("allocate memory")(e),
        })?;
        self.allocated.fetch_add(bytes, Ordering::Relaxed);
        Ok(address)
    }

    fn room(&self) -> Option<usize> {
        let (free, _) = self.memory().ok()?;
        let libraries = self.tuning.as_ref().map_or(0, Tuning::wanted);
        Some((free + self.allocated.load(Ordering::Relaxed)).saturating_sub(libraries))
    }

    unsafe fn free(&self, address: u64, bytes: usize) {
        self.allocated.fetch_sub(bytes, Ordering::Relaxed);
        if self.make_current().is_ok() {
            // SAFETY: the caller's promise. `cuMemFree` waits for work that uses the memory.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    unsafe fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.upload_in_order(to, bytes) }
    }

    unsafe fn upload_beside(
        &self,
        to: u64,
        bytes: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.upload_on_own_stream(to, bytes, fill) }
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's promise; nothing is launched before the bytes are there.
        unsafe { self.set_mark()?.download(from, to) }
    }

    unsafe fn download_later(&self, from: u64, to: *mut u8, bytes: usize) -> Result<()> {
        let _held = self.hold()?;
        // SAFETY: the caller's promise.
        unsafe {
            let to = std::slice::from_raw_parts_mut(to, bytes);
            result::memcpy_dtoh_async(to, from, self.stream).map_err(failed("copy from the device"))
        }
    }

    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<ffi::TensorMap, String> {
        tensor_map::encode(spec)
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8> {
        self.make_current()?;
        // SAFETY: freed by `free_pinned`.
        let at = unsafe { result::malloc_host(bytes, 0) }.map_err(failed("page-lock host memory"))?;
        Ok(at.cast())
    }

    unsafe fn free_pinned(&self, at: *mut u8, _bytes: usize) {
        if self.make_current().is_ok() {
            // SAFETY: the caller's promise.
            let _ = unsafe { result::free_host(at.cast()) };
        }
    }

    fn mark(&self) -> Result<Box<dyn Mark>> {
        Ok(Box::new(self.set_mark()?))
    }

    fn check(&self, launch: &Launch) -> Result<(), String> {
        if launch.library.is_some() {
            return Ok(()); // the library has checked it
        }
        let kernel = self
            .kernels
            .get(&launch.kernel)
            .ok_or_else(|| format!("there is no kernel {}", launch.kernel))?;
        let (takes, given) = (kernel.info.param_bytes, launch.params.len());
        if takes != given {
            return Err(format!("{} takes {takes} bytes of parameters, not {given}", launch.kernel));
        }
        Ok(())
    }

    unsafe fn launch(&self, launches: &[Launch]) -> Result<(), (usize, String)> {
        let _held = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        self.make_current().map_err(|e| (0, e.to_string()))?;
        // SAFETY: the caller's promise.
        unsafe { self.start(launches) }
    }

    unsafe fn record(&self, launches: &[Launch]) -> Option<Result<Arc<dyn Recording>>> {
        let _held = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: the caller's promise; the lock is held.
        Some(unsafe { self.capture(launches) }.map(|graph| Arc::new(graph) as Arc<dyn Recording>))
    }

    fn synchronize(&self) -> Result<()> {
        let _held = self.hold()?;
        // SAFETY: our own stream.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("run the kernels"))
    }

    fn collectives(&self) -> Option<&dyn Collectives> {
        Some(self)
    }

    fn libraries(&self) -> Option<&dyn Libraries> {
        self.tuning.as_ref().map(|_| self as &dyn Libraries)
    }
}
