//! The simulator as a device: the CUDA kernels, compiled for the host (`cuda/sim/`).
//!
//! `DREAMCLEAR_SIM_LIBRARY` names another build of the simulator as a shared object (one with
//! sanitizers, or with kernels that are being worked on).

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Arc, OnceLock};

use super::cpu::Arena;
use super::kernel::{DeviceFacts, KernelDevice, KernelInfo, Launch, Mark, Recording, TensorMapSpec};
use crate::error::{Error, Result};
use crate::ffi;

/// Environment variable with the path of another build of the simulator.
pub const LIBRARY_VARIABLE: &str = "DREAMCLEAR_SIM_LIBRARY";

/// The order in which the threads of a block (and the blocks) take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// By rising index.
    Forward,
    /// By falling index.
    Reverse,
    /// Another order every turn, drawn from a seed.
    Shuffled(u16),
}

impl Schedule {
    /// What every kernel test runs under.
    pub const ALL: [Schedule; 3] = [Schedule::Forward, Schedule::Reverse, Schedule::Shuffled(1)];

    fn code(self) -> u32 {
        match self {
            Schedule::Forward => 0,
            Schedule::Reverse => 1,
            Schedule::Shuffled(seed) => 2 + u32::from(seed),
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawKernel {
    name: *const c_char,
    param_bytes: u32,
    threads: u32,
    shared_bytes: u32,
}

type Kernels = unsafe extern "C" fn(*mut RawKernel) -> usize;
type TakeMmaFlops = unsafe extern "C" fn() -> u64;
type LaunchFn = unsafe extern "C" fn(
    *const c_char,
    *const u32,
    *const c_void,
    u32,
    u32,
    u32,
    *mut c_char,
    usize,
) -> c_int;

type EncodeTensorMap = unsafe extern "C" fn(*mut u64, u64, u32, u32, *const u64, *const u64, *const u32, u32);

/// The C functions at the end of `cuda/sim/sim.cpp` and `cuda/sim/sm90.cpp`.
#[derive(Clone, Copy)]
struct Functions {
    kernels: Kernels,
    take_mma_flops: TakeMmaFlops,
    launch: LaunchFn,
    tensor_map: EncodeTensorMap,
}

#[cfg(simulator)]
mod linked {
    use super::*;

    unsafe extern "C" {
        pub fn dcsim_kernels(out: *mut RawKernel) -> usize;
        pub fn dcsim_take_mma_flops() -> u64;
        pub fn dcsim_launch(
            name: *const c_char,
            grid: *const u32,
            params: *const c_void,
            param_bytes: u32,
            schedule: u32,
            workers: u32,
            error: *mut c_char,
            error_room: usize,
        ) -> c_int;
        pub fn dcsim_tensor_map(
            out: *mut u64,
            address: u64,
            element_bytes: u32,
            rank: u32,
            extents: *const u64,
            strides: *const u64,
            boxed: *const u32,
            swizzle_bytes: u32,
        );
    }
}

impl Functions {
    fn find() -> Result<Self> {
        if let Some(path) = std::env::var_os(LIBRARY_VARIABLE) {
            return Self::open(&path);
        }
        #[cfg(simulator)]
        return Ok(Functions {
            kernels: linked::dcsim_kernels,
            take_mma_flops: linked::dcsim_take_mma_flops,
            launch: linked::dcsim_launch,
            tensor_map: linked::dcsim_tensor_map,
        });
        #[cfg(not(simulator))]
        Err(Error::Usage(
            "this build has no simulator, since no C++ compiler was found when it was built: install one (g++) \
             and build again, or use --device cpu"
                .into(),
        ))
    }

    fn open(path: &std::ffi::OsStr) -> Result<Self> {
        let shown = std::path::Path::new(path).display().to_string();
        let fail = |what: String| Error::Usage(format!("{LIBRARY_VARIABLE}={shown}: {what}"));
        let name = CString::new(path.as_encoded_bytes()).map_err(|e| fail(e.to_string()))?;
        // SAFETY: plain calls of the dynamic loader; the library stays open for the life of the program.
        unsafe {
            let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            if handle.is_null() {
                let why = libc::dlerror();
                let why = if why.is_null() {
                    "cannot be opened".into()
                } else {
                    CStr::from_ptr(why).to_string_lossy()
                };
                return Err(fail(why.into_owned()));
            }
            let symbol = |name: &CStr| {
                let found = libc::dlsym(handle, name.as_ptr());
                if found.is_null() {
                    Err(fail(format!("has no {}", name.to_string_lossy())))
                } else {
                    Ok(found)
                }
            };
            Ok(Functions {
                kernels: std::mem::transmute::<*mut c_void, Kernels>(symbol(c"dcsim_kernels")?),
                take_mma_flops: std::mem::transmute::<*mut c_void, TakeMmaFlops>(symbol(
                    c"dcsim_take_mma_flops",
                )?),
                launch: std::mem::transmute::<*mut c_void, LaunchFn>(symbol(c"dcsim_launch")?),
                tensor_map: std::mem::transmute::<*mut c_void, EncodeTensorMap>(symbol(c"dcsim_tensor_map")?),
            })
        }
    }
}

/// The simulator: runs launches to their end, one at a time.
#[derive(Clone, Copy)]
pub struct Simulator {
    functions: Functions,
}

impl Simulator {
    /// The simulator, or why this build has none.
    pub fn new() -> Result<Self> {
        static FOUND: OnceLock<std::result::Result<Functions, String>> = OnceLock::new();
        match FOUND.get_or_init(|| Functions::find().map_err(|e| e.to_string())) {
            Ok(functions) => Ok(Simulator { functions: *functions }),
            Err(why) => Err(Error::Usage(why.clone())),
        }
    }

    /// The C functions `dcsim_kernels`, `dcsim_launch` and `dcsim_tensor_map`, for a stand-in driver
    /// (`tests/fake_cuda`).
    pub fn raw_functions(&self) -> [*const c_void; 3] {
        let f = &self.functions;
        [f.kernels as *const c_void, f.launch as *const c_void, f.tensor_map as *const c_void]
    }

    /// The tensor as simulated kernels take it; or why there is none such.
    pub fn tensor_map(&self, spec: &TensorMapSpec) -> Result<ffi::TensorMap, String> {
        spec.check()?;
        let wide = |all: &[usize]| all.iter().map(|&n| n as u64).collect::<Vec<_>>();
        let (extents, strides) = (wide(&spec.extents), wide(&spec.strides));
        let boxed: Vec<u32> = spec.boxed.iter().map(|&n| n as u32).collect();
        let mut map = ffi::TensorMap::default();
        // SAFETY: lists of the lengths that `check` has seen, and room for a whole map.
        unsafe {
            (self.functions.tensor_map)(
                map.opaque.as_mut_ptr(),
                spec.address,
                spec.dtype.size() as u32,
                extents.len() as u32,
                extents.as_ptr(),
                strides.as_ptr(),
                boxed.as_ptr(),
                spec.swizzle.bytes() as u32,
            );
        }
        Ok(map)
    }

    /// All kernels, by name.
    pub fn kernels(&self) -> Vec<KernelInfo> {
        let none = RawKernel { name: std::ptr::null(), param_bytes: 0, threads: 0, shared_bytes: 0 };
        // SAFETY: asked for the count first, then given room for that many.
        let raw = unsafe {
            let mut raw = vec![none; (self.functions.kernels)(std::ptr::null_mut())];
            (self.functions.kernels)(raw.as_mut_ptr());
            raw
        };
        let mut all: Vec<_> = raw
            .iter()
            .map(|k| KernelInfo {
                // SAFETY: names are string literals of the library.
                name: unsafe { CStr::from_ptr(k.name) }.to_string_lossy().into_owned(),
                param_bytes: k.param_bytes as usize,
                threads: k.threads,
                shared_bytes: k.shared_bytes,
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Multiply-adds of tensor-core instructions since the last call (of all threads), times two.
    pub fn take_mma_flops(&self) -> u64 {
        // SAFETY: reads and resets one atomic number.
        unsafe { (self.functions.take_mma_flops)() }
    }

    /// Runs one launch; `workers` threads share its blocks. An error says what the kernel did that a GPU
    /// does not allow or promise.
    ///
    /// # Safety
    /// Addresses in the parameters must be live memory of the extents that the parameters say. (An access
    /// outside any mapping is caught and reported.)
    pub unsafe fn launch(&self, launch: &Launch, schedule: Schedule, workers: usize) -> Result<(), String> {
        let name = CString::new(launch.kernel.as_str()).map_err(|e| e.to_string())?;
        let mut error = [0u8; 1024];
        // SAFETY: the caller vouches for addresses in the parameters; the rest is ours.
        let failed = unsafe {
            (self.functions.launch)(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.params.as_ptr().cast(),
                launch.params.len() as u32,
                schedule.code(),
                workers.max(1) as u32,
                error.as_mut_ptr().cast(),
                error.len(),
            )
        };
        if failed == 0 {
            return Ok(());
        }
        Err(CStr::from_bytes_until_nul(&error)
            .map_or_else(|e| e.to_string(), |s| s.to_string_lossy().into_owned()))
    }
}

/// The simulator as a device for plans: launches run to their end as they are started.
pub struct SimDevice {
    simulator: Simulator,
    kernels: Vec<KernelInfo>,
    workers: usize,
    facts: DeviceFacts,
}

impl SimDevice {
    /// The simulator in the place of this card, with so many threads for the blocks of a launch; or why this
    /// build has none.
    pub fn new(workers: usize, facts: DeviceFacts) -> Result<Self> {
        let simulator = Simulator::new()?;
        Ok(SimDevice { kernels: simulator.kernels(), simulator, workers, facts })
    }
}

impl KernelDevice for SimDevice {
    fn name(&self) -> String {
        format!("simulated CUDA device (sm_{}, {} kernels)", self.facts.arch, self.kernels.len())
    }

    fn facts(&self) -> DeviceFacts {
        self.facts
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        let mut arena =
            Arena::with_align(bytes, 256).map_err(|m| Error::Run(format!("the simulated device: {m}")))?;
        arena.poison();
        Ok(arena.into_raw() as u64)
    }

    unsafe fn free(&self, address: u64, bytes: usize) {
        // SAFETY: made by `allocate` from an arena of this size and alignment.
        drop(unsafe { Arena::from_raw(address as *mut u8, bytes, 256) });
    }

    unsafe fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn upload_beside(
        &self,
        to: u64,
        bytes: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<()> {
        // SAFETY: the caller's promise; device memory is the host's.
        fill(0, unsafe { std::slice::from_raw_parts_mut(to as *mut u8, bytes) });
        Ok(())
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.download_later(from, to.as_mut_ptr(), to.len()) }
    }

    unsafe fn download_later(&self, from: u64, to: *mut u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { (from as *const u8).copy_to_nonoverlapping(to, bytes) };
        Ok(())
    }

    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<ffi::TensorMap, String> {
        self.simulator.tensor_map(spec)
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8> {
        Ok(self.allocate(bytes)? as *mut u8)
    }

    unsafe fn free_pinned(&self, at: *mut u8, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.free(at as u64, bytes) };
    }

    fn mark(&self) -> Result<Box<dyn Mark>> {
        Ok(Box::new(Now))
    }

    fn check(&self, launch: &Launch) -> Result<(), String> {
        let found = self.kernels.binary_search_by(|k| k.name.as_str().cmp(&launch.kernel));
        let kernel = found.map_err(|_| format!("there is no kernel {}", launch.kernel))?;
        let (takes, given) = (self.kernels[kernel].param_bytes, launch.params.len());
        if takes != given {
            return Err(format!("{} takes {takes} bytes of parameters, not {given}", launch.kernel));
        }
        Ok(())
    }

    unsafe fn launch(&self, launches: &[Launch]) -> Result<(), (usize, String)> {
        for (i, launch) in launches.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { self.simulator.launch(launch, Schedule::Forward, self.workers) }.map_err(|e| (i, e))?;
        }
        Ok(())
    }

    unsafe fn record(&self, _launches: &[Launch]) -> Option<Result<Arc<dyn Recording>>> {
        None
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

/// What was launched is done: the simulator waits for every launch.
struct Now;

impl Mark for Now {
    fn set(&self) -> Result<()> {
        Ok(())
    }

    fn reached(&self) -> Result<bool> {
        Ok(true)
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's promise; device memory is the host's.
        unsafe { (from as *const u8).copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
        Ok(())
    }
}

/// Memory between two pages that nobody may touch, filled with 0xFF (every float a NaN, every index
/// absurd). It ends at the upper page, but for what keeps its start aligned to 16 bytes.
pub struct GuardedBuffer {
    map: *mut u8,
    mapped: usize,
    start: *mut u8,
    len: usize,
}

// SAFETY: owns its mapping.
unsafe impl Send for GuardedBuffer {}
// SAFETY: `&GuardedBuffer` only reads.
unsafe impl Sync for GuardedBuffer {}

impl GuardedBuffer {
    /// `len` bytes of poison.
    pub fn new(len: usize) -> Self {
        const PAGE: usize = 4096;
        // SAFETY: an anonymous mapping of our own; its first and last pages are made inaccessible.
        unsafe {
            let page = (libc::sysconf(libc::_SC_PAGESIZE) as usize).max(PAGE);
            let body = len.max(1).div_ceil(page) * page;
            let mapped = body + 2 * page;
            let map = libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert!(map != libc::MAP_FAILED, "the system has no memory for a guarded buffer of {len} bytes");
            let map = map.cast::<u8>();
            libc::mprotect(map.cast(), page, libc::PROT_NONE);
            libc::mprotect(map.add(page + body).cast(), page, libc::PROT_NONE);
            map.add(page).write_bytes(0xFF, body);
            let start = map.add(page + body - len.next_multiple_of(16));
            GuardedBuffer { map, mapped, start, len }
        }
    }

    /// A copy of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut buffer = Self::new(bytes.len());
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    }

    /// Address of the first byte, as kernels take it.
    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: inside the mapping, which lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and held exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// Whether the bytes of the page before the start are still poison.
    pub fn head_is_untouched(&self) -> bool {
        let head = self.start as usize % 4096;
        // SAFETY: inside the mapping: the lower guard page ends at a multiple of 4096 bytes.
        unsafe { std::slice::from_raw_parts(self.start.sub(head), head) }.iter().all(|&b| b == 0xFF)
    }

    /// Whether the bytes between the end and the guard page are still poison.
    pub fn tail_is_untouched(&self) -> bool {
        let tail = self.len.next_multiple_of(16) - self.len;
        // SAFETY: inside the mapping.
        unsafe { std::slice::from_raw_parts(self.start.add(self.len), tail) }.iter().all(|&b| b == 0xFF)
    }
}

impl Drop for GuardedBuffer {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size.
        unsafe { libc::munmap(self.map.cast(), self.mapped) };
    }
}
