//! Devices: memory, threads, launches. They know no op and no graph.

use std::sync::Arc;

use crate::error::Result;
use crate::tensor::DType;

pub mod collective;
pub mod cpu;
pub mod cuda;
pub mod fatbin;
pub mod kernel;
pub mod library;
pub mod sim;

use cpu::CpuDevice;
use kernel::KernelDevice;

/// Where plans run. Cheap to clone.
#[derive(Clone)]
pub struct Device {
    host: Arc<CpuDevice>,
    kernels: Option<Kernels>,
}

/// A device that runs CUDA kernels, and how plans for it compute.
#[derive(Clone)]
pub struct Kernels {
    /// The device.
    pub device: Arc<dyn KernelDevice>,
    /// The type that operands of matrix products are kept in: f32, bf16 or f16.
    pub compute: DType,
    /// Parameters that live in its memory, shared by all plans.
    pub params: kernel::ParamCache,
}

impl Device {
    /// The CPU, with this many worker threads (0: what the machine offers).
    pub fn cpu(threads: usize) -> Result<Self> {
        Ok(CpuDevice::new(threads)?.into())
    }

    /// A device that runs CUDA kernels; host work is done by `host`.
    pub fn kernels(host: Arc<CpuDevice>, device: Arc<dyn KernelDevice>, compute: DType) -> Self {
        Device { host, kernels: Some(Kernels { device, compute, params: Default::default() }) }
    }

    /// The simulated CUDA device, an A100; its blocks run on the host's threads.
    pub fn sim(threads: usize, compute: DType) -> Result<Self> {
        Self::sim_of(threads, compute, kernel::DeviceFacts::A100)
    }

    /// The simulated CUDA device in the place of another card.
    pub fn sim_of(threads: usize, compute: DType, facts: kernel::DeviceFacts) -> Result<Self> {
        let host = Arc::new(CpuDevice::new(threads)?);
        let device = sim::SimDevice::new(host.threads(), facts)?;
        Ok(Self::kernels(host, Arc::new(device), compute))
    }

    /// The same device for plans that share no parameters with others, since they change theirs.
    pub fn with_own_params(&self) -> Self {
        let mut device = self.clone();
        if let Some(kernels) = &mut device.kernels {
            kernels.params = Default::default();
        }
        device
    }

    /// The host's threads, for work outside of plans.
    pub fn host(&self) -> &Arc<CpuDevice> {
        &self.host
    }

    /// Worker threads of the host.
    pub fn threads(&self) -> usize {
        self.host.threads()
    }

    /// Runs `f` in the host's thread pool.
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.host.run(f)
    }

    /// The same device for networks whose values leave the range of f16 (SwinIR, the SDXL autoencoder):
    /// where it would keep f16, it keeps f32.
    pub fn without_f16(&self) -> Self {
        let mut device = self.clone();
        if let Some(kernels) = device.kernels.as_mut().filter(|k| k.compute == DType::F16) {
            kernels.compute = DType::F32;
        }
        device
    }

    /// Bytes that weights and working memory may take where the device has a memory of its own: all but a
    /// twentieth of what is free, which the driver and other programs need to go on.
    pub fn room(&self) -> Option<usize> {
        self.kernels.as_ref()?.device.room().map(|bytes| bytes / 20 * 19)
    }

    /// The CUDA side, if plans run there.
    pub fn as_kernels(&self) -> Option<&Kernels> {
        self.kernels.as_ref()
    }
}

impl From<CpuDevice> for Device {
    fn from(cpu: CpuDevice) -> Self {
        Arc::new(cpu).into()
    }
}

impl From<Arc<CpuDevice>> for Device {
    fn from(host: Arc<CpuDevice>) -> Self {
        Device { host, kernels: None }
    }
}
