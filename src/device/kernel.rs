//! What a kernel launch is, on a GPU or in its simulation, and what runs it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use crate::error::Result;
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
}

impl Launch {
    /// A launch of `kernel` over `grid` blocks.
    pub fn new<P: bytemuck::Pod>(kernel: impl Into<String>, grid: [u32; 3], params: &P) -> Self {
        Launch { kernel: kernel.into(), grid, params: bytemuck::bytes_of(params).to_vec() }
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
}

impl DeviceFacts {
    /// An A100: what the simulator stands for.
    pub const A100: DeviceFacts = DeviceFacts { arch: 80, multiprocessors: 108 };
}

/// A device that runs kernels: a GPU, or the simulator.
pub trait KernelDevice: Send + Sync {
    /// What it is, in words.
    fn name(&self) -> String;

    /// What the choice of kernels may depend on.
    fn facts(&self) -> DeviceFacts;

    /// Takes `bytes` of device memory; the address is a multiple of 256.
    fn allocate(&self, bytes: usize) -> Result<u64>;

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

    /// Copies device memory to the host, after all that was launched before.
    ///
    /// # Safety
    /// The range must be live memory of this device.
    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;

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
        let memory = DeviceMemory::of(device, tensor.cast(dtype).bytes())?;
        let param = Arc::new(DeviceParam { memory, source: tensor.clone() });
        cache.insert(key, Arc::downgrade(&param));
        Ok(param)
    }
}
