//! Copies between host and device through page-locked memory, beside what the device computes.
//!
//! Each direction has a stream of its own, as the hardware has an engine of its own, and two blocks of
//! page-locked memory: the device copies one while the host fills or empties the other. Events order the
//! streams: what is launched after an upload waits for it, a download waits for its mark.

use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use cudarc::driver::{result, sys};

use super::CudaDevice;
use super::driver::failed;
use crate::device::kernel::Mark;
use crate::error::{Error, Result};

/// Bytes of a block: a millisecond of a PCIe 4.0 link, long beside what a copy costs to start.
const BLOCK: usize = 16 << 20;

/// The streams of both directions and their blocks. Keeps the context for as long as the device or a mark
/// needs it.
pub(super) struct Copies {
    pub(super) context: sys::CUcontext,
    device: sys::CUdevice,
    /// Whether the context is our own.
    pub(super) own: bool,
    up: sys::CUstream,
    down: sys::CUstream,
    uploads: Mutex<Blocks>,
    downloads: Mutex<Blocks>,
}

// SAFETY: the driver's handles may be used from any thread while the context is current there; blocks are
// behind locks.
unsafe impl Send for Copies {}
// SAFETY: as above.
unsafe impl Sync for Copies {}

/// Two blocks in turn, made when they are first needed.
#[derive(Default)]
struct Blocks {
    blocks: Vec<Block>,
    next: usize,
}

#[derive(Clone, Copy)]
struct Block {
    memory: *mut c_void,
    /// When the device is done with the block.
    done: sys::CUevent,
}

impl Blocks {
    /// The next block.
    fn take(&mut self) -> Result<Block> {
        while self.blocks.len() < 2 {
            let done = event()?;
            // SAFETY: freed when the device is closed.
            let memory = unsafe { result::malloc_host(BLOCK, 0) }.map_err(failed("page-lock host memory"))?;
            self.blocks.push(Block { memory, done });
        }
        self.next = (self.next + 1) % self.blocks.len();
        Ok(self.blocks[self.next])
    }
}

impl Block {
    /// Waits until the device has copied all it was asked to.
    fn wait(&self, what: &str) -> Result<()> {
        // SAFETY: an event of ours.
        unsafe { result::event::synchronize(self.done) }.map_err(failed(what))
    }

    /// # Safety
    /// Nothing may use the block meanwhile.
    unsafe fn bytes<'a>(&self, len: usize) -> &'a mut [u8] {
        // SAFETY: the caller's promise; pieces are at most a block.
        unsafe { std::slice::from_raw_parts_mut(self.memory.cast(), len) }
    }
}

/// An event that is waited for without spinning and tells no times.
fn event() -> Result<sys::CUevent> {
    use sys::CUevent_flags_enum as F;
    let flags = F::CU_EVENT_BLOCKING_SYNC as u32 | F::CU_EVENT_DISABLE_TIMING as u32;
    let mut event = std::ptr::null_mut();
    // SAFETY: the driver writes one handle.
    unsafe { sys::cuEventCreate(&mut event, flags).result() }.map_err(failed("make an event"))?;
    Ok(event)
}

/// Where pieces of a block's size start, and their lengths.
fn pieces(bytes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..bytes).step_by(BLOCK).map(move |start| (start, BLOCK.min(bytes - start)))
}

impl Copies {
    /// Works in a context that is current; one of our own has been retained, and is taken over.
    pub(super) fn new(context: sys::CUcontext, device: sys::CUdevice, own: bool) -> Result<Arc<Self>> {
        let stream = || {
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed("make a stream"))
        };
        Ok(Arc::new(Copies {
            context,
            device,
            own,
            up: stream()?,
            down: stream()?,
            uploads: Mutex::default(),
            downloads: Mutex::default(),
        }))
    }

    fn make_current(&self) -> Result<()> {
        // SAFETY: retained for as long as the device lives.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("switch to the device"))
    }

    /// Copies `fill`'s bytes on a stream, which others use too if it has a `lock`; the event of the last copy.
    ///
    /// # Safety
    /// As [`KernelDevice::upload`](crate::device::kernel::KernelDevice::upload).
    unsafe fn send(
        &self,
        stream: sys::CUstream,
        lock: Option<&Mutex<()>>,
        to: u64,
        bytes: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<Option<sys::CUevent>> {
        let mut blocks = self.uploads.lock().unwrap_or_else(|e| e.into_inner());
        let what = "copy to the device";
        let mut last = None;
        for (start, len) in pieces(bytes) {
            let block = blocks.take()?;
            block.wait(what)?;
            // SAFETY: the device is done with the block, and it is ours while `blocks` is held.
            unsafe {
                let piece = block.bytes(len);
                fill(start, piece);
                let _held = lock.map(|l| l.lock().unwrap_or_else(|e| e.into_inner()));
                result::memcpy_htod_async(to + start as u64, piece, stream).map_err(failed(what))?;
                result::event::record(block.done, stream).map_err(failed(what))?;
            }
            last = Some(block.done);
        }
        Ok(last)
    }

    /// Copies to the host once `mark` is reached.
    ///
    /// # Safety
    /// As [`Mark::download`].
    unsafe fn receive(&self, mark: sys::CUevent, from: u64, to: &mut [u8]) -> Result<()> {
        self.make_current()?;
        let mut blocks = self.downloads.lock().unwrap_or_else(|e| e.into_inner());
        let what = "copy from the device";
        // SAFETY: streams and events of ours.
        unsafe {
            result::stream::wait_event(self.down, mark, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
        }
        .map_err(failed(what))?;
        let mut copied: Option<(usize, usize, Block)> = None;
        let empty = |(start, len, block): (usize, usize, Block), to: &mut [u8]| {
            block.wait("run the kernels before a copy")?;
            // SAFETY: the device is done with the block, and it is ours while `blocks` is held.
            to[start..start + len].copy_from_slice(unsafe { block.bytes(len) });
            Ok::<_, Error>(())
        };
        for (start, len) in pieces(to.len()) {
            let block = blocks.take()?;
            // SAFETY: the block was emptied two pieces ago; the source is the caller's promise.
            unsafe {
                result::memcpy_dtoh_async(block.bytes(len), from + start as u64, self.down)
                    .map_err(failed(what))?;
                result::event::record(block.done, self.down).map_err(failed(what))?;
            }
            if let Some(before) = copied.replace((start, len, block)) {
                empty(before, to)?;
            }
        }
        copied.map_or(Ok(()), |last| empty(last, to))
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // SAFETY: nothing uses the device any more. Errors at the end change nothing.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            for stream in [self.up, self.down] {
                let _ = result::stream::synchronize(stream);
                let _ = result::stream::destroy(stream);
            }
            for blocks in [&mut self.uploads, &mut self.downloads] {
                for block in blocks.get_mut().unwrap_or_else(|e| e.into_inner()).blocks.drain(..) {
                    let _ = result::event::destroy(block.done);
                    let _ = result::free_host(block.memory);
                }
            }
            if self.own {
                let _ = result::primary_ctx::release(self.device);
            }
        }
    }
}

impl CudaDevice {
    /// # Safety
    /// As [`KernelDevice::upload`](crate::device::kernel::KernelDevice::upload).
    pub(super) unsafe fn upload_in_order(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.make_current()?;
        let mut fill = |start: usize, piece: &mut [u8]| {
            piece.copy_from_slice(&bytes[start..start + piece.len()]);
        };
        // SAFETY: the caller's promise.
        unsafe { self.copies.send(self.stream, Some(&self.lock), to, bytes.len(), &mut fill) }.map(|_| ())
    }

    /// # Safety
    /// As [`KernelDevice::upload_beside`](crate::device::kernel::KernelDevice::upload_beside).
    pub(super) unsafe fn upload_on_own_stream(
        &self,
        to: u64,
        bytes: usize,
        fill: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<()> {
        self.make_current()?;
        // SAFETY: the caller's promise.
        let Some(last) = (unsafe { self.copies.send(self.copies.up, None, to, bytes, fill) })? else {
            return Ok(());
        };
        let _held = self.hold()?;
        // SAFETY: streams and events of ours.
        unsafe {
            result::stream::wait_event(self.stream, last, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
        }
        .map_err(failed("copy to the device"))
    }

    /// Sets a mark behind all that was launched.
    pub(super) fn set_mark(&self) -> Result<CudaMark> {
        self.make_current()?;
        let mark = CudaMark {
            event: event()?,
            stream: self.stream,
            lock: self.lock.clone(),
            copies: self.copies.clone(),
        };
        mark.set()?;
        Ok(mark)
    }
}

/// A recorded event of the stream of launches.
pub(super) struct CudaMark {
    event: sys::CUevent,
    stream: sys::CUstream,
    lock: Arc<Mutex<()>>,
    copies: Arc<Copies>,
}

// SAFETY: as for `Copies`.
unsafe impl Send for CudaMark {}
// SAFETY: as for `Copies`.
unsafe impl Sync for CudaMark {}

impl Mark for CudaMark {
    fn set(&self) -> Result<()> {
        // Not into a recording that another thread makes.
        let _held = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        self.copies.make_current()?;
        // SAFETY: an event and a stream of ours.
        unsafe { result::event::record(self.event, self.stream) }.map_err(failed("set a mark"))
    }

    fn reached(&self) -> Result<bool> {
        self.copies.make_current()?;
        // SAFETY: an event of ours.
        match unsafe { result::event::query(self.event) } {
            Ok(()) => Ok(true),
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            Err(e) => Err(failed("run the kernels")(e)),
        }
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.copies.receive(self.event, from, to) }
    }
}

impl Drop for CudaMark {
    fn drop(&mut self) {
        if self.copies.make_current().is_ok() {
            // SAFETY: an event of ours; the driver keeps it until it is reached.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}
