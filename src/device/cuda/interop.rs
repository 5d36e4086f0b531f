//! A device on a stream of somebody else's: a program that has its own context, streams and device memory runs
//! plans among its own work, without a copy over the host.
//!
//! A plan's launches over the program's memory come from
//! [`Executable::bind`](crate::graph::Executable::bind); [`KernelDevice::launch`] or
//! [`KernelDevice::record`] put them on the stream. The feature `cust` takes the types of the crate of that
//! name; its last release links libcuda when it is built.
//!
//! [`KernelDevice::launch`]: crate::device::kernel::KernelDevice::launch
//! [`KernelDevice::record`]: crate::device::kernel::KernelDevice::record

use std::ffi::c_void;

use cudarc::driver::sys;

use super::copies::Copies;
use super::driver::{failed, start};
use super::{Card, CudaDevice, Fatbin};
use crate::error::{Error, Result};

impl CudaDevice {
    /// A device whose launches and copies go to `stream`, a `CUstream` of the driver, in the context that the
    /// stream was made in.
    ///
    /// # Errors
    /// As [`CudaDevice::open`]; and for the default stream, which cannot be recorded.
    ///
    /// # Safety
    /// The stream must be live, and outlive the device and all plans on it.
    pub unsafe fn on_stream(stream: *mut c_void, fatbins: &[Fatbin]) -> Result<Self> {
        start()?;
        if stream.is_null() {
            return Err(Error::Usage(
                "plans cannot be recorded on CUDA's default stream: make a stream and give that".into(),
            ));
        }
        let stream: sys::CUstream = stream.cast();
        let (mut context, mut device) = (std::ptr::null_mut(), 0);
        // SAFETY: a live stream by the caller's promise; the driver writes a context and a device.
        unsafe {
            sys::cuStreamGetCtx(stream, &mut context)
                .result()
                .map_err(failed("find the stream's context"))?;
            sys::cuCtxSetCurrent(context).result().map_err(failed("switch to the stream's context"))?;
            sys::cuCtxGetDevice(&mut device).result().map_err(failed("find the stream's device"))?;
        }
        let copies = Copies::new(context, device, false)?;
        let mut opened = Self::over(device as usize, Card::of(device)?, copies);
        opened.stream = stream;
        for (family, image) in fatbins {
            opened.load(family, image)?;
        }
        Ok(opened)
    }

    /// [`CudaDevice::on_stream`] for a stream of `cust`.
    ///
    /// # Errors
    /// As [`CudaDevice::on_stream`].
    ///
    /// # Safety
    /// The stream must outlive the device and all plans on it.
    #[cfg(feature = "cust")]
    pub unsafe fn on_cust_stream(stream: &cust::stream::Stream, fatbins: &[Fatbin]) -> Result<Self> {
        // SAFETY: the caller's promise.
        unsafe { Self::on_stream(stream.as_inner().cast(), fatbins) }
    }
}

/// The address of device memory of `cust`, as [`Executable::bind`](crate::graph::Executable::bind) takes it.
#[cfg(feature = "cust")]
pub fn address<T: cust::memory::DeviceCopy>(memory: &cust::memory::DeviceSlice<T>) -> u64 {
    memory.as_device_ptr().as_raw()
}
