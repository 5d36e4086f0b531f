//! Sums over GPUs by NCCL, on a stream of their own beside what the device computes.
//!
//! All calls are made without blocking, so that a member which does not come, or goes away, costs the others
//! their patience and not for ever.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use cudarc::driver::{result, sys};
use cudarc::nccl::sys::{ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};

use super::CudaDevice;
use super::copies::Copies;
use super::driver::failed;
use super::dynamic::{self, functions};
use crate::device::collective::{Collectives, Group, GroupId};
use crate::error::{Error, Result};

/// The oldest version that is used, as NCCL counts: 2.18, whose configuration is cudarc's.
const OLDEST: i32 = 21_800;
/// The first word of a configuration (`NCCL_CONFIG_INITIALIZER`), and fields that are left to the library.
const MAGIC: u32 = 0xcafe_beef;
const UNDEFINED: i32 = i32::MIN;
/// Between two looks at what is on its way.
const LOOK: Duration = Duration::from_micros(20);

type Status = u32;
const SUCCESS: Status = 0;
const IN_PROGRESS: Status = 7;
type Comm = *mut c_void;

functions!(Functions {
    fn ncclGetVersion(*mut i32) -> Status;
    fn ncclGetUniqueId(*mut ncclUniqueId) -> Status;
    fn ncclCommInitRankConfig(*mut Comm, i32, ncclUniqueId, i32, *mut ncclConfig_t) -> Status;
    fn ncclCommGetAsyncError(Comm, *mut Status) -> Status;
    fn ncclGetErrorString(Status) -> *const c_char;
    fn ncclCommAbort(Comm) -> Status;
    fn ncclAllReduce(*const c_void, *mut c_void, usize, u32, u32, Comm, *mut c_void) -> Status;
    fn ncclBroadcast(*const c_void, *mut c_void, usize, u32, i32, Comm, *mut c_void) -> Status;
});

impl Functions {
    /// NCCL, opened once.
    fn find() -> Result<&'static Self> {
        static FOUND: OnceLock<Result<Functions, String>> = OnceLock::new();
        FOUND.get_or_init(Self::open).as_ref().map_err(|why| {
            Error::Usage(format!(
                "training on several GPUs needs NCCL 2.18 or later: {why}; install it (`pip install nvidia-nccl-cu12` \
                 has it too), or start one process"
            ))
        })
    }

    fn open() -> Result<Self, String> {
        let library = dynamic::open(&dynamic::names("nccl", 2..=2))?;
        // SAFETY: the signatures are those of nccl.h, which have not changed since 2.14.
        let f = unsafe { Functions::of(library) }?;
        let mut version = 0;
        // SAFETY: writes one integer.
        let status = unsafe { (f.ncclGetVersion)(&mut version) };
        if status != SUCCESS || version < OLDEST {
            return Err(format!("the one that is there has version {version}"));
        }
        Ok(f)
    }

    /// The error for something that NCCL did not do.
    fn failed(&self, what: &str, status: Status) -> Error {
        // SAFETY: returns a text that is always there, for any number.
        let words = unsafe { CStr::from_ptr((self.ncclGetErrorString)(status)) }.to_string_lossy();
        Error::Run(format!(
            "NCCL could not {what}: {words} (status {status}); NCCL_DEBUG=INFO makes it say more"
        ))
    }
}

impl Collectives for CudaDevice {
    fn new_group(&self) -> Result<GroupId> {
        self.make_current()?;
        let f = Functions::find()?;
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: writes an id.
        match unsafe { (f.ncclGetUniqueId)(&mut id) } {
            SUCCESS => Ok(id.internal.map(|c| c as u8)),
            status => Err(f.failed("name a group", status)),
        }
    }

    fn join_group(
        &self,
        id: &GroupId,
        rank: usize,
        world: usize,
        patience: Duration,
    ) -> Result<Box<dyn Group>> {
        self.make_current()?;
        let mut group = NcclGroup {
            f: Functions::find()?,
            comm: null_mut(),
            main: self.stream,
            lock: self.lock.clone(),
            copies: self.copies.clone(),
            stream: result::stream::create(result::stream::StreamKind::NonBlocking)
                .map_err(failed("make a stream"))?,
            ready: null_mut(),
            done: null_mut(),
            rank,
            patience,
        };
        group.ready = event()?;
        group.done = event()?;
        let id = ncclUniqueId { internal: id.map(|b| b as c_char) };
        let mut config = ncclConfig_t {
            size: size_of::<ncclConfig_t>(),
            magic: MAGIC,
            version: OLDEST as u32,
            blocking: 0,
            cgaClusterSize: UNDEFINED,
            minCTAs: UNDEFINED,
            maxCTAs: UNDEFINED,
            netName: std::ptr::null(),
            splitShare: UNDEFINED,
        };
        // SAFETY: writes a handle; the configuration is read before the call returns.
        let status = unsafe {
            (group.f.ncclCommInitRankConfig)(&mut group.comm, world as i32, id, rank as i32, &mut config)
        };
        group.settle("join the other GPUs", status)?;
        Ok(Box::new(group))
    }
}

fn event() -> Result<sys::CUevent> {
    let mut event = null_mut();
    let flags = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
    // SAFETY: the driver writes one handle.
    unsafe { sys::cuEventCreate(&mut event, flags).result() }.map_err(failed("make an event"))?;
    Ok(event)
}

/// A GPU among those that add up together.
struct NcclGroup {
    f: &'static Functions,
    /// Null when it was given up.
    comm: Comm,
    /// The device's stream of launches, and who may use it.
    main: sys::CUstream,
    lock: Arc<Mutex<()>>,
    copies: Arc<Copies>,
    stream: sys::CUstream,
    /// On the device's stream: a bucket is there. On our own: it is added up.
    ready: sys::CUevent,
    done: sys::CUevent,
    rank: usize,
    patience: Duration,
}

// SAFETY: one owner uses the handles at a time, with the context current.
unsafe impl Send for NcclGroup {}

impl NcclGroup {
    fn make_current(&self) -> Result<()> {
        // SAFETY: retained as long as `copies` lives.
        unsafe { result::ctx::set_current(self.copies.context) }.map_err(failed("switch to the device"))
    }

    /// Waits until a call that was made with this status is over.
    fn settle(&mut self, what: &str, mut status: Status) -> Result<()> {
        let start = Instant::now();
        while status == IN_PROGRESS {
            if start.elapsed() > self.patience {
                return Err(self.give_up(what));
            }
            std::thread::sleep(LOOK);
            status = self.health();
        }
        if status == SUCCESS { Ok(()) } else { Err(self.f.failed(what, status)) }
    }

    /// How the group is.
    fn health(&self) -> Status {
        let mut status = SUCCESS;
        // SAFETY: a live group; writes one number.
        match unsafe { (self.f.ncclCommGetAsyncError)(self.comm, &mut status) } {
            SUCCESS => status,
            refused => refused,
        }
    }

    /// Ends what others keep waiting, for good.
    fn give_up(&mut self, what: &str) -> Error {
        if !self.comm.is_null() {
            // SAFETY: a live group, not used again.
            let _ = unsafe { (self.f.ncclCommAbort)(self.comm) };
            self.comm = null_mut();
        }
        Error::Run(format!(
            "rank {} waited {} s for the other GPUs to {what}: at least one of their processes has stopped or hangs; \
             look at its log, then start again (--resume auto goes on from the last checkpoint)",
            self.rank,
            self.patience.as_secs_f32()
        ))
    }

    /// A call on our stream after all that the device was given to do.
    fn queue(
        &mut self,
        what: &str,
        call: impl FnOnce(&Functions, Comm, *mut c_void) -> Status,
    ) -> Result<()> {
        if self.comm.is_null() {
            return Err(Error::Run(format!("rank {} has given its group of GPUs up before", self.rank)));
        }
        self.make_current()?;
        {
            // Not into a recording that another thread makes.
            let _held = self.lock.lock().unwrap_or_else(|e| e.into_inner());
            // SAFETY: events and streams of ours and of the device's.
            unsafe {
                result::event::record(self.ready, self.main).map_err(failed("set a mark"))?;
                let usual = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
                result::stream::wait_event(self.stream, self.ready, usual)
                    .map_err(failed("order streams"))?;
            }
        }
        let status = call(self.f, self.comm, self.stream.cast());
        self.settle(what, status)
    }
}

impl Group for NcclGroup {
    unsafe fn all_reduce(&mut self, address: u64, len: usize) -> Result<()> {
        let (kind, sum) = (ncclDataType_t::ncclFloat32 as u32, ncclRedOp_t::ncclSum as u32);
        self.queue("add up gradients", |f, comm, stream| {
            let at = address as *mut c_void;
            // SAFETY: the caller's promise.
            unsafe { (f.ncclAllReduce)(at, at, len, kind, sum, comm, stream) }
        })
    }

    unsafe fn broadcast(&mut self, address: u64, len: usize) -> Result<()> {
        let kind = ncclDataType_t::ncclFloat32 as u32;
        self.queue("take the parameters of rank 0", |f, comm, stream| {
            let at = address as *mut c_void;
            // SAFETY: the caller's promise.
            unsafe { (f.ncclBroadcast)(at, at, len, kind, 0, comm, stream) }
        })
    }

    fn finish(&mut self) -> Result<()> {
        self.make_current()?;
        // SAFETY: an event and a stream of ours.
        unsafe { result::event::record(self.done, self.stream) }.map_err(failed("set a mark"))?;
        let start = Instant::now();
        loop {
            // SAFETY: an event of ours.
            match unsafe { result::event::query(self.done) } {
                Ok(()) => break,
                Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NOT_READY => {}
                Err(e) => return Err(failed("add up gradients")(e)),
            }
            let what = "add up gradients";
            match self.health() {
                SUCCESS | IN_PROGRESS if start.elapsed() <= self.patience => std::thread::sleep(LOOK),
                SUCCESS | IN_PROGRESS => return Err(self.give_up(what)),
                status => {
                    let e = self.f.failed(what, status);
                    self.give_up(what);
                    return Err(e);
                }
            }
        }
        let _held = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        let usual = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: as above.
        unsafe { result::stream::wait_event(self.main, self.done, usual) }.map_err(failed("order streams"))
    }
}

impl Drop for NcclGroup {
    fn drop(&mut self) {
        if self.make_current().is_err() {
            return;
        }
        // SAFETY: nothing uses the handles any more. Errors at the end change nothing. Whether all members are
        // there is not known: an abort waits for nobody.
        unsafe {
            if !self.comm.is_null() {
                let _ = (self.f.ncclCommAbort)(self.comm);
            }
            let _ = result::stream::destroy(self.stream);
            for event in [self.ready, self.done] {
                if !event.is_null() {
                    let _ = result::event::destroy(event);
                }
            }
        }
    }
}
