//! NVIDIA GPUs, through the driver alone (loaded at run time; nothing of CUDA is linked).
//!
//! One stream a device: launches and copies are ordered as they are called. Memory is the driver's
//! (`cuMemAlloc`), taken once by plans. Kernels come from fatbins embedded by `build.rs`; each says how
//! many threads and how much shared memory it wants in a device variable `<kernel>_info`.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::{Arc, Mutex};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::kernel::{DeviceFacts, KernelDevice, KernelInfo, Launch, Recording};
use crate::error::{Error, Result};

/// Compiled kernels: a family's name and its fatbin.
pub type Fatbin = (&'static str, &'static [u8]);

/// The oldest cards that the kernels run on: compute capability 8.0 (Ampere).
const OLDEST: u32 = 80;

/// One GPU.
pub struct CudaDevice {
    ordinal: usize,
    name: String,
    facts: DeviceFacts,
    /// Bytes of shared memory that a block may have.
    most_shared: u32,
    context: sys::CUcontext,
    device: sys::CUdevice,
    stream: sys::CUstream,
    kernels: HashMap<String, Kernel>,
    /// One caller at a time between making the context current and the call's end; a capture must not be
    /// interleaved with other launches.
    lock: Mutex<()>,
}

struct Kernel {
    function: sys::CUfunction,
    info: KernelInfo,
}

// SAFETY: the driver's handles may be used from any thread while the context is current there, which
// every method sees to.
unsafe impl Send for CudaDevice {}
// SAFETY: as above; `lock` orders calls.
unsafe impl Sync for CudaDevice {}

/// What the driver says of an error, in words.
fn words(e: DriverError) -> String {
    let text = |s: std::result::Result<&std::ffi::CStr, DriverError>| {
        s.ok().map(|s| s.to_string_lossy().into_owned())
    };
    match (text(e.error_name()), text(e.error_string())) {
        (Some(name), Some(what)) => format!("{what} ({name})"),
        _ => format!("error {}", e.0 as u32),
    }
}

fn failed(what: &str) -> impl Fn(DriverError) -> Error + '_ {
    move |e| Error::Run(format!("CUDA could not {what}: {}", words(e)))
}

/// Whether the driver's library is there.
pub fn driver_found() -> bool {
    // SAFETY: only looks for the library by name.
    unsafe { sys::is_culib_present() }
}

/// Starts the driver; how many devices there are.
fn start() -> Result<usize> {
    if !driver_found() {
        return Err(Error::Usage(
            "no NVIDIA driver was found (libcuda.so.1): install it, or use --device cpu".into(),
        ));
    }
    result::init().map_err(|e| match e.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => {
            Error::Usage("the NVIDIA driver is there, but it finds no GPU; use --device cpu".into())
        }
        _ => Error::Usage(format!(
            "the NVIDIA driver does not start: {}; update it (CUDA 12.4 or later is needed), or use --device cpu",
            words(e)
        )),
    })?;
    let count = result::device::get_count().map_err(failed("count devices"))?;
    match count {
        0 => Err(Error::Usage("the NVIDIA driver is there, but it finds no GPU; use --device cpu".into())),
        n => Ok(n as usize),
    }
}

/// Why a card cannot be used, if it is too old.
fn too_old(name: &str, arch: u32) -> Option<Error> {
    (arch < OLDEST).then(|| {
        Error::Usage(format!(
            "{name} has compute capability {}.{}, the kernels need {}.{} (Ampere) or later; use --device cpu",
            arch / 10,
            arch % 10,
            OLDEST / 10,
            OLDEST % 10
        ))
    })
}

/// The sentence for memory that the device does not have.
fn out_of_memory(name: &str, asked: usize, free: usize, total: usize) -> Error {
    let mib = |b: usize| b.div_ceil(1 << 20);
    Error::Run(format!(
        "{name} has no room for {} MiB: {} of its {} MiB are free; close other programs that use it, or set \
         --memory to what is free",
        mib(asked),
        free >> 20,
        mib(total)
    ))
}

impl CudaDevice {
    /// Opens GPU `ordinal` with these kernels.
    ///
    /// # Errors
    /// One sentence for each of: no driver, a driver that does not start, no such device, a card older
    /// than compute capability 8.0, a build without kernels.
    pub fn open(ordinal: usize, fatbins: &[Fatbin]) -> Result<Self> {
        let count = start()?;
        if ordinal >= count {
            let last = count - 1;
            return Err(Error::Usage(format!("--device cuda:{ordinal}: there are devices 0 to {last}")));
        }
        if fatbins.is_empty() {
            return Err(Error::Usage(
                "this build has no GPU kernels, since nvcc was not found when it was built: run \
                 tools/cuda-toolchain and build again, or use --device cpu"
                    .into(),
            ));
        }
        let device = result::device::get(ordinal as i32).map_err(failed("open the device"))?;
        let name = result::device::get_name(device).map_err(failed("read the device's name"))?;
        let attribute = |which| {
            // SAFETY: a device of the driver's.
            unsafe { result::device::get_attribute(device, which) }
                .map_err(failed("read the device's properties"))
        };
        use sys::CUdevice_attribute_enum as A;
        let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let arch = (10 * major + minor) as u32;
        if let Some(e) = too_old(&name, arch) {
            return Err(e);
        }
        let multiprocessors = attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        let most_shared = attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as u32;
        // SAFETY: the context is released when the device is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::Run(format!(
                "{name} has no room even to start: other programs fill its memory; close them, or use another device"
            )),
            _ => failed("start the device")(e),
        })?;
        let mut opened = CudaDevice {
            ordinal,
            name,
            facts: DeviceFacts { arch, multiprocessors },
            most_shared,
            context,
            device,
            stream: std::ptr::null_mut(),
            kernels: HashMap::new(),
            lock: Mutex::new(()),
        };
        opened.make_current()?;
        opened.stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(failed("make a stream"))?;
        for (family, image) in fatbins {
            opened.load(family, image)?;
        }
        Ok(opened)
    }

    fn make_current(&self) -> Result<()> {
        // SAFETY: retained for as long as `self` lives.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("switch to the device"))
    }

    /// Loads a module and looks at every kernel of it.
    fn load(&mut self, family: &str, image: &'static [u8]) -> Result<()> {
        // SAFETY: a fatbin that build.rs embedded; functions are valid while the context is.
        unsafe {
            let module = result::module::load_data(image.as_ptr().cast()).map_err(|e| {
                Error::Run(format!(
                    "the kernels of {family} do not load on {} (sm_{}): {}",
                    self.name,
                    self.facts.arch,
                    words(e)
                ))
            })?;
            for function in functions(module).map_err(failed("list the kernels"))? {
                let mut raw = std::ptr::null();
                sys::cuFuncGetName(&mut raw, function).result().map_err(failed("list the kernels"))?;
                let name = CStr::from_ptr(raw).to_string_lossy().into_owned();
                let symbol = CString::new(format!("{name}_info")).expect("kernel names hold no zero byte");
                let (address, bytes) = result::module::get_global(module, symbol)
                    .map_err(failed("read a kernel's properties"))?;
                let mut info = [0u32; 3];
                if bytes != size_of_val(&info) {
                    return Err(Error::Run(format!(
                        "{name} was built against another version of cuda/include/dc.cuh"
                    )));
                }
                result::memcpy_dtoh_sync(&mut info, address).map_err(failed("read a kernel's properties"))?;
                let [threads, shared_bytes, param_bytes] = info;
                if shared_bytes > self.most_shared {
                    continue; // of a later architecture: to a plan it is not there
                }
                if shared_bytes > 48 << 10 {
                    use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SIZE;
                    result::function::set_function_attribute(function, SIZE, shared_bytes as i32)
                        .map_err(failed("give a kernel its shared memory"))?;
                }
                let info = KernelInfo {
                    name: name.clone(),
                    param_bytes: param_bytes as usize,
                    threads,
                    shared_bytes,
                };
                self.kernels.insert(name, Kernel { function, info });
            }
        }
        Ok(())
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

/// All kernels of a module.
///
/// # Safety
/// The module must be loaded.
unsafe fn functions(module: sys::CUmodule) -> std::result::Result<Vec<sys::CUfunction>, DriverError> {
    let mut count = 0;
    // SAFETY: the caller's promise; the list has room for as many as were counted.
    unsafe {
        sys::cuModuleGetFunctionCount(&mut count, module).result()?;
        let mut all = vec![std::ptr::null_mut(); count as usize];
        sys::cuModuleEnumerateFunctions(all.as_mut_ptr(), count, module).result()?;
        Ok(all)
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // SAFETY: nothing uses the device any more. Errors at the end change nothing.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            if !self.stream.is_null() {
                let _ = result::stream::synchronize(self.stream);
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
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
        unsafe { result::malloc_sync(bytes) }.map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = result::mem_get_info().unwrap_or((0, 0));
                out_of_memory(&self.name, bytes, free, total)
            }
            _ => failed("allocate memory")(e),
        })
    }

    unsafe fn free(&self, address: u64, _bytes: usize) {
        if self.make_current().is_ok() {
            // SAFETY: the caller's promise. `cuMemFree` waits for work that uses the memory.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    unsafe fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        let _held = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        self.make_current()?;
        // SAFETY: the caller's promise; waiting makes the host bytes free to go.
        unsafe {
            result::memcpy_htod_async(to, bytes, self.stream).map_err(failed("copy to the device"))?;
            result::stream::synchronize(self.stream).map_err(failed("copy to the device"))
        }
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        let _held = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        self.make_current()?;
        // SAFETY: the caller's promise; after waiting the bytes are there.
        unsafe {
            result::memcpy_dtoh_async(to, from, self.stream).map_err(failed("copy from the device"))?;
            result::stream::synchronize(self.stream).map_err(failed("run the kernels before a copy"))
        }
    }

    fn check(&self, launch: &Launch) -> Result<(), String> {
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
        let record = || {
            self.make_current()?;
            let what = failed("record the launches of a plan");
            // SAFETY: our own stream; while it is captured nothing else is launched on it.
            unsafe {
                use sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as MODE;
                result::stream::begin_capture(self.stream, MODE).map_err(&what)?;
                let started = self.start(launches);
                let graph = result::stream::end_capture(self.stream).map_err(&what)?;
                if let Err((i, message)) = started {
                    return Err(Error::Run(format!("{}: {message}", launches[i].kernel)));
                }
                let exec = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)).map_err(&what);
                let _ = result::graph::destroy(graph);
                let (context, stream) = (self.context, self.stream);
                Ok(Arc::new(CudaGraph { exec: exec?, context, stream }) as Arc<dyn Recording>)
            }
        };
        Some(record())
    }

    fn synchronize(&self) -> Result<()> {
        let _held = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        self.make_current()?;
        // SAFETY: our own stream.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("run the kernels"))
    }
}

/// A captured plan.
struct CudaGraph {
    exec: sys::CUgraphExec,
    context: sys::CUcontext,
    stream: sys::CUstream,
}

// SAFETY: as for `CudaDevice`.
unsafe impl Send for CudaGraph {}
// SAFETY: launching a graph twice at once is ordered by its stream.
unsafe impl Sync for CudaGraph {}

impl Recording for CudaGraph {
    unsafe fn start(&self) -> Result<()> {
        // SAFETY: the plan that holds this recording holds the device too.
        unsafe {
            result::ctx::set_current(self.context).map_err(failed("switch to the device"))?;
            result::graph::launch(self.exec, self.stream).map_err(failed("start a recorded plan"))
        }
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::graph::exec_destroy(self.exec);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_say_what_to_do() {
        let e = too_old("Tesla T4", 75).expect("older than Ampere").to_string();
        assert!(
            e.contains("Tesla T4") && e.contains("7.5") && e.contains("8.0") && e.contains("--device cpu"),
            "{e}"
        );
        assert!(too_old("A100", 80).is_none());
        let e = out_of_memory("A100", 10 << 30, 3 << 30, 40 << 30).to_string();
        assert!(e.contains("10240 MiB") && e.contains("3072 of its 40960") && e.contains("--memory"), "{e}");
    }

    #[test]
    fn without_a_driver_one_sentence() {
        if driver_found() {
            return; // a machine with a GPU: `tools/verify-gpu` takes over
        }
        let e = CudaDevice::open(0, &[("none", b"")]).err().expect("no driver").to_string();
        assert!(e.contains("no NVIDIA driver") && e.contains("--device cpu"), "{e}");
    }
}
