//! What a kernel launch is, on a GPU or in its simulation, and what runs it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use super::collective::Collectives;
use super::library::{Libraries, Prepared};
use crate::error::Result;
use crate::ffi;
use crate::tensor::{DType, HostTensor};

/// One launch of a kernel: everything but the number of threads and of shared bytes, which belong to
/// the kernel itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Name of the kernel: op, what it does, tile, dtypes (`adaln_fwd_f32_bf16`).
    pub kernel: String,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// The parameter struct of `ffi/`, as bytes.
    pub params: Vec<u8>,
    /// Not a kernel of ours: a library's call, which `kernel` names and nothing else here describes.
    pub library: Option<Prepared>,
}

impl Launch {
    /// A launch of `kernel` over `grid` blocks.
    pub fn new<P: bytemuck::Pod>(kernel: impl Into<String>, grid: [u32; 3], params: &P) -> Self {
        Launch { kernel: kernel.into(), grid, params: bytemuck::bytes_of(params).to_vec(), library: None }
    }

    /// A library's call, in place of launches of our own.
    pub fn of_library(name: impl Into<String>, call: Prepared) -> Self {
        Launch { kernel: name.into(), grid: [1; 3], params: vec![], library: Some(call) }
    }
}

/// What a kernel says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Name, as in [`Launch::kernel`].
    pub name: String,
    /// Size of the parameter struct.
    pub param_bytes: usize,
    /// Threads of a block.
    pub threads: u32,
    /// Shared memory of a block.
    pub shared_bytes: u32,
}

/// What the choice of a kernel may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Compute capability, major·10 + minor: 80, 86, 89, 90.
    pub arch: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Whether the kernels `*_sm90` are there, which need what compute capability 9.0 alone has (wgmma, TMA).
    pub hopper: bool,
}

impl DeviceFacts {
    /// An A100: what the simulator stands for unless it is told otherwise.
    pub const A100: DeviceFacts = DeviceFacts { arch: 80, multiprocessors: 108, hopper: false };
    /// An H100 or H200 (SXM).
    pub const H100: DeviceFacts = DeviceFacts { arch: 90, multiprocessors: 132, hopper: true };
}

/// How chunks of 16 bytes change places in the rows of a box in shared memory, so that neither rows nor columns
/// of chunks fall on the same banks. The rows are as long as the name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    /// Not at all.
    None,
    /// Rows of 32 bytes.
    Bytes32,
    /// Rows of 64 bytes.
    Bytes64,
    /// Rows of 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// Bytes of a row; 0 where rows may have any length.
    pub fn bytes(self) -> usize {
        match self {
            Swizzle::None => 0,
            Swizzle::Bytes32 => 32,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes128 => 128,
        }
    }
}

/// A tensor in device memory and the boxes in which kernels `*_sm90` copy it (`cuda/include/sm90.cuh`). Axes are
/// counted from the innermost, whose elements are neighbours.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorMapSpec {
    /// Of the first element; a multiple of 16.
    pub address: u64,
    /// Element type: f32, bf16 or f16.
    pub dtype: DType,
    /// Of each axis, one to five.
    pub extents: Vec<usize>,
    /// Bytes between neighbours along each axis but the innermost: multiples of 16.
    pub strides: Vec<usize>,
    /// Extents of a box, up to 256 each.
    pub boxed: Vec<usize>,
    /// How a box lies in shared memory.
    pub swizzle: Swizzle,
}

impl TensorMapSpec {
    /// Whether tensor copies can do this; or in one sentence why not.
    pub fn check(&self) -> Result<(), String> {
        let rank = self.extents.len();
        if !(1..=5).contains(&rank) || self.strides.len() + 1 != rank || self.boxed.len() != rank {
            return Err(format!(
                "a tensor map of {rank} extents, {} strides and a box of {} axes; expected one to five extents, \
                 strides of all axes but the first, and a box of as many axes",
                self.strides.len(),
                self.boxed.len()
            ));
        }
        if !matches!(self.dtype, DType::F32 | DType::BF16 | DType::F16) {
            return Err(format!("a tensor map of {}; expected f32, bf16 or f16", self.dtype));
        }
        if !self.address.is_multiple_of(16) {
            return Err(format!("a tensor map at address {:#x}; expected a multiple of 16", self.address));
        }
        if let Some(s) = self.strides.iter().find(|s| **s == 0 || !s.is_multiple_of(16) || **s >= 1 << 40) {
            return Err(format!(
                "a tensor map with a stride of {s} bytes; expected a multiple of 16 below 2^40"
            ));
        }
        if let Some(n) = self.extents.iter().find(|n| !(1..=1 << 32).contains(*n)) {
            return Err(format!("a tensor map with an axis of {n} elements; expected 1 to 2^32"));
        }
        if let Some(n) = self.boxed.iter().find(|n| !(1..=256).contains(*n)) {
            return Err(format!("a tensor map with a box of {n} elements along an axis; expected 1 to 256"));
        }
        let (row, span) = (self.boxed[0] * self.dtype.size(), self.swizzle.bytes());
        if !row.is_multiple_of(16) || (span != 0 && row != span) {
            return Err(format!(
                "a tensor map with rows of {row} bytes in a box; expected {}",
                if span == 0 { "a multiple of 16".into() } else { format!("the {span} of its swizzle") }
            ));
        }
        Ok(())
    }

    /// Bytes of a box in shared memory: what a kernel expects of a copy.
    pub fn box_bytes(&self) -> usize {
        self.boxed.iter().product::<usize>() * self.dtype.size()
    }
}

/// A device that runs kernels: a GPU, or the simulator.
pub trait KernelDevice: Send + Sync {
    /// What it is, in words.
    fn name(&self) -> String;

    /// What the choice of kernels may depend on.
    fn facts(&self) -> DeviceFacts;

    /// Takes `bytes` of device memory; the address is a multiple of 256.
    fn allocate(&self, bytes: usize) -> Result<u64>;

    /// Bytes of device memory that this process can have: what is free now and what it holds. None where
    /// that is the host's memory.
    fn room(&self) -> Option<usize> {
        None
    }

    /// Gives memory of [`KernelDevice::allocate`] back.
    ///
    /// # Safety
    /// Nothing may use it any more.
    unsafe fn free(&self, address: u64, bytes: usize);

    /// Copies host bytes to device memory, after all that was launched before.
    ///
    /// # Safety
    /// The range must be live memory of this device.
    unsafe fn upload(&self, to: u64, bytes: &[u8]) -> Result<()>;

    /// Fills device memory that nothing launched so far uses, beside what is running; what is launched later
    /// sees it. `fill` makes the bytes a piece at a time, in order: it is given where the piece starts and
    /// room for it, from which the device copies while the next piece is made.
    ///
    /// # Safety
    /// As [`KernelDevice::upload`].
    unsafe fn upload_beside(
        &self,
        to: u64,
        bytes: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<()>;

    /// Copies device memory to the host, after all that was launched before.
    ///
    /// # Safety
    /// The range must be live memory of this device.
    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;

    /// The tensor as this device's kernels take it; or in one sentence why it has none such.
    fn tensor_map(&self, spec: &TensorMapSpec) -> Result<ffi::TensorMap, String>;

    /// Starts a copy to page-locked memory, after all that was launched before, and waits for nothing: the
    /// bytes are there when a mark that is set later is reached.
    ///
    /// # Safety
    /// The range must be live memory of this device, `to` of [`KernelDevice::allocate_pinned`]; both for as
    /// long as the copy takes.
    unsafe fn download_later(&self, from: u64, to: *mut u8, bytes: usize) -> Result<()>;

    /// Takes page-locked host memory, which a device reads and writes by itself while the host goes on.
    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8>;

    /// Gives memory of [`KernelDevice::allocate_pinned`] back.
    ///
    /// # Safety
    /// Nothing may use it any more.
    unsafe fn free_pinned(&self, at: *mut u8, bytes: usize);

    /// Sets a mark after all that was launched so far.
    fn mark(&self) -> Result<Box<dyn Mark>>;

    /// Whether the device has this kernel, and it takes these parameters; or what is wrong.
    fn check(&self, launch: &Launch) -> Result<(), String>;

    /// Starts the launches in order; a device may still be busy with them when this returns. On failure:
    /// the index of the launch and what happened.
    ///
    /// # Safety
    /// Addresses in the parameters must be live memory of this device, of the extents that they say.
    unsafe fn launch(&self, launches: &[Launch]) -> Result<(), (usize, String)>;

    /// Records the launches, to be started all at once again and again, where the device can.
    ///
    /// # Safety
    /// As [`KernelDevice::launch`], whenever the recording is started.
    unsafe fn record(&self, launches: &[Launch]) -> Option<Result<Arc<dyn Recording>>>;

    /// Waits until all that was launched is done.
    fn synchronize(&self) -> Result<()>;

    /// The libraries that may compute steps in place of own kernels, if there are any and they are wanted.
    fn libraries(&self) -> Option<&dyn Libraries> {
        None
    }

    /// How it adds up with devices of other processes, if its memory is not the host's.
    fn collectives(&self) -> Option<&dyn Collectives> {
        None
    }
}

/// A point in what a device has to do.
pub trait Mark: Send + Sync {
    /// Moves it behind all that was launched so far.
    fn set(&self) -> Result<()>;

    /// Whether all before it is done. Waits for nothing.
    fn reached(&self) -> Result<bool>;

    /// Copies device memory to the host as soon as the mark is reached, beside what was launched later.
    ///
    /// # Safety
    /// The range must be live memory of this device, and nothing launched later may write to it.
    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;
}

/// Launches that are started as one (a CUDA graph).
pub trait Recording: Send + Sync {
    /// Starts them.
    ///
    /// # Safety
    /// Memory that the launches use must still be live.
    unsafe fn start(&self) -> Result<()>;
}

/// Device memory of our own.
pub struct DeviceMemory {
    device: Arc<dyn KernelDevice>,
    address: u64,
    bytes: usize,
}

impl DeviceMemory {
    /// `bytes` of memory with arbitrary contents.
    pub fn new(device: &Arc<dyn KernelDevice>, bytes: usize) -> Result<Self> {
        Ok(DeviceMemory { address: device.allocate(bytes.max(1))?, bytes, device: device.clone() })
    }

    /// A copy of host bytes.
    pub fn of(device: &Arc<dyn KernelDevice>, bytes: &[u8]) -> Result<Self> {
        let memory = Self::new(device, bytes.len())?;
        memory.write(bytes)?;
        Ok(memory)
    }

    /// Device address of the first byte, a multiple of 256.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Copies host bytes to its start.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= self.bytes, "{} bytes into {}", bytes.len(), self.bytes);
        // SAFETY: inside our own allocation.
        unsafe { self.device.upload(self.address, bytes) }
    }

    /// Copies `to.len()` bytes from `offset` to the host.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        assert!(offset + to.len() <= self.bytes, "{} bytes at {offset} of {}", to.len(), self.bytes);
        // SAFETY: inside our own allocation.
        unsafe { self.device.download(self.address + offset as u64, to) }
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this size; the owner is gone.
        unsafe { self.device.free(self.address, self.bytes.max(1)) };
    }
}

/// Page-locked host memory of our own, zeros at first.
pub struct PinnedMemory {
    device: Arc<dyn KernelDevice>,
    at: *mut u8,
    bytes: usize,
}

// SAFETY: owns its memory, which any thread may use.
unsafe impl Send for PinnedMemory {}
// SAFETY: `&PinnedMemory` only reads.
unsafe impl Sync for PinnedMemory {}

impl PinnedMemory {
    /// `bytes` zeros.
    pub fn new(device: &Arc<dyn KernelDevice>, bytes: usize) -> Result<Self> {
        let at = device.allocate_pinned(bytes.max(1))?;
        // SAFETY: just allocated with this size.
        unsafe { at.write_bytes(0, bytes) };
        Ok(PinnedMemory { device: device.clone(), at, bytes })
    }

    /// Where a device may write, between marks.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.at
    }

    /// A copy of the bytes as they are now.
    pub fn read(&self) -> Vec<u8> {
        // SAFETY: our own allocation. A device writes to it behind the compiler's back, so it is read as such.
        (0..self.bytes).map(|i| unsafe { self.at.add(i).read_volatile() }).collect()
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this size; the owner is gone.
        unsafe { self.device.free_pinned(self.at, self.bytes.max(1)) };
    }
}

/// A parameter in device memory.
pub struct DeviceParam {
    memory: DeviceMemory,
    /// Keeps the host bytes, whose place is the parameter's identity.
    source: HostTensor,
}

impl DeviceParam {
    /// Its memory.
    pub fn memory(&self) -> &DeviceMemory {
        &self.memory
    }

    /// Gives the host's pages back where they can be read again from a mapped file.
    pub fn release_source(&self) {
        self.source.release();
    }
}

/// Parameters in device memory: plans that read the same tensor in the same element type share it. A
/// parameter goes when the last plan that reads it does.
#[derive(Clone, Default)]
pub struct ParamCache(Arc<Mutex<HashMap<ParamKey, Weak<DeviceParam>>>>);

/// A host tensor by where its bytes lie, and the element type it is kept in.
type ParamKey = (usize, usize, DType);

impl ParamCache {
    /// The tensor in device memory, in this element type (a float type if the tensor's is).
    pub fn get(
        &self,
        device: &Arc<dyn KernelDevice>,
        tensor: &HostTensor,
        dtype: DType,
    ) -> Result<Arc<DeviceParam>> {
        let key = (tensor.bytes().as_ptr() as usize, tensor.bytes().len(), dtype);
        let mut cache = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(found) = cache.get(&key).and_then(Weak::upgrade) {
            return Ok(found);
        }
        cache.retain(|_, param| param.strong_count() > 0);
        let memory = DeviceMemory::new(device, tensor.len() * dtype.size())?;
        let mut fill = |start: usize, piece: &mut [u8]| tensor.cast_into(dtype, start / dtype.size(), piece);
        // SAFETY: memory of our own that nobody else knows yet.
        unsafe { device.upload_beside(memory.address(), memory.len(), &mut fill) }?;
        let param = Arc::new(DeviceParam { memory, source: tensor.clone() });
        cache.insert(key, Arc::downgrade(&param));
        Ok(param)
    }
}
