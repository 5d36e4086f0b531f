//! A plan's launches captured as one CUDA graph, and its replay.

use std::sync::{Arc, Mutex};

use cudarc::driver::result;
use cudarc::driver::sys;

use super::CudaDevice;
use super::driver::failed;
use crate::device::kernel::{Launch, Recording};
use crate::error::{Error, Result};

impl CudaDevice {
    /// Captures the launches; nothing else may be launched meanwhile.
    ///
    /// # Safety
    /// As [`KernelDevice::record`](crate::device::kernel::KernelDevice::record).
    pub(super) unsafe fn capture(&self, launches: &[Launch]) -> Result<CudaGraph> {
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
            let (context, stream, lock) = (self.context, self.stream, self.lock.clone());
            Ok(CudaGraph { exec: exec?, context, stream, lock })
        }
    }
}

/// A captured plan.
pub(super) struct CudaGraph {
    exec: sys::CUgraphExec,
    context: sys::CUcontext,
    stream: sys::CUstream,
    lock: Arc<Mutex<()>>,
}

// SAFETY: as for `CudaDevice`.
unsafe impl Send for CudaGraph {}
// SAFETY: starts are ordered by the device's lock, and on the device by its stream.
unsafe impl Sync for CudaGraph {}

impl CudaGraph {
    /// [`Recording::start`] for one who holds the device's lock.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn start_held(&self) -> Result<()> {
        // SAFETY: the plan that holds this recording holds the device too.
        unsafe {
            result::ctx::set_current(self.context).map_err(failed("switch to the device"))?;
            result::graph::launch(self.exec, self.stream).map_err(failed("start a recorded plan"))
        }
    }
}

impl Recording for CudaGraph {
    unsafe fn start(&self) -> Result<()> {
        let _held = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: the caller's promise.
        unsafe { self.start_held() }
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
