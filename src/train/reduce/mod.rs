//! Data parallel training: the gradients of several processes, each with its own part of a batch, are added up
//! while the backward pass still makes more of them.
//!
//! [`connect`] finds what to do it with: [NCCL](nccl) for gradients in the memory of GPUs, MPI (feature
//! `mpi`) for those in the host's. No sockets of our own: launching, finding each other and moving bytes is
//! left to these.
//!
//! Every process calls the same functions in the same order. Sums are the same bytes everywhere, so parameters
//! that were equal stay equal.

use std::path::PathBuf;
use std::time::Duration;

use super::launch::Launch;
use crate::device::Device;
use crate::error::{Error, Result};

#[cfg(feature = "mpi")]
pub mod mpi;
pub mod nccl;
pub mod rendezvous;

/// f32 numbers to add up over all processes, where they lie.
#[derive(Debug, PartialEq)]
pub enum Bucket {
    /// In host memory: given away when a sum starts, and had back when it is finished.
    Host(Vec<f32>),
    /// In the memory of the device that trains; changed in place.
    Device(DeviceRange),
}

/// Some f32 numbers in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRange {
    address: u64,
    len: usize,
}

impl DeviceRange {
    /// `len` numbers from `address` on.
    ///
    /// # Safety
    /// They must be live memory of the device that the [`Reduce`] they are given to works on, until that has
    /// finished.
    pub unsafe fn new(address: u64, len: usize) -> Self {
        DeviceRange { address, len }
    }

    /// Device address of the first.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Sums over the processes that train together.
///
/// Each call may fail when another process is gone: after [`Options::patience`] with a sentence. Dropping one
/// without [`Reduce::close`] leaves without waiting for the others, who then fail, too.
pub trait Reduce: Send {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn world(&self) -> usize;

    /// Starts to add up a bucket, beside what this process goes on to compute. On a device: after all that was
    /// launched so far.
    ///
    /// # Errors
    /// If the bucket lies where this cannot read it, or another process is gone.
    fn start(&mut self, bucket: Bucket) -> Result<()>;

    /// Waits for all buckets and gives them back, as sums, in the order in which they were started. A device's
    /// stream waits in the host's place.
    ///
    /// # Errors
    /// If another process is gone.
    fn finish(&mut self) -> Result<Vec<Bucket>>;

    /// The bucket of process 0.
    ///
    /// # Errors
    /// As [`Reduce::start`] and [`Reduce::finish`].
    fn broadcast(&mut self, bucket: Bucket) -> Result<Bucket>;

    /// Leaves in good order, as soon as all do.
    ///
    /// # Errors
    /// If another process is gone.
    fn close(&mut self) -> Result<()>;
}

impl dyn Reduce + '_ {
    /// Sums of a few numbers, such as the terms of a loss. No bucket may be on its way.
    ///
    /// # Errors
    /// If another process is gone.
    pub fn sum(&mut self, values: Vec<f32>) -> Result<Vec<f32>> {
        self.start(Bucket::Host(values))?;
        match self.finish()?.pop() {
            Some(Bucket::Host(sums)) => Ok(sums),
            _ => unreachable!("a bucket comes back as what it was"),
        }
    }

    /// Whether any process says so: to stop all of them after the same step. As `sum`.
    ///
    /// # Errors
    /// If another process is gone.
    pub fn any(&mut self, here: bool) -> Result<bool> {
        Ok(self.sum(vec![f32::from(u8::from(here))])?[0] > 0.0)
    }

    /// Whether all processes have the same number. As `sum`.
    ///
    /// # Errors
    /// If another process is gone.
    pub fn same(&mut self, number: u64) -> Result<bool> {
        // In pieces that f32 holds.
        let mine: Vec<f32> = (0..4).map(|i| f32::from((number >> (16 * i)) as u16)).collect();
        let first = self.broadcast(Bucket::Host(mine.clone()))?;
        Ok(!self.any(first != Bucket::Host(mine))?)
    }

    /// Waits until all processes are here. As `sum`.
    ///
    /// # Errors
    /// If another process is gone.
    pub fn barrier(&mut self) -> Result<()> {
        self.any(false).map(|_| ())
    }
}

/// How processes find each other, and how long they wait.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long one process may be behind the others before they give up. Rank 0 may be validating meanwhile.
    pub patience: Duration,
    /// A file that all processes can reach and that does not exist yet, for GPUs to find each other where MPI
    /// is not at hand (`--rendezvous`).
    pub rendezvous: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options { patience: Duration::from_secs(1800), rendezvous: None }
    }
}

/// Joins the processes of `launch`, to add up what lies in the memory of `device`. One process alone (no
/// launch, or a world of one) gets `None`, and nothing is loaded.
///
/// # Errors
/// If this build or machine has nothing to do it with, or the others do not come.
pub fn connect(
    launch: Option<&Launch>,
    device: &Device,
    options: &Options,
) -> Result<Option<Box<dyn Reduce>>> {
    let Some(launch) = launch.filter(|l| l.world > 1) else { return Ok(None) };
    if let Some(kernels) = device.as_kernels()
        && let Some(collectives) = kernels.device.collectives()
    {
        let reduce = nccl::NcclReduce::connect(launch, &kernels.device, collectives, options)?;
        return Ok(Some(Box::new(reduce)));
    }
    on_host(launch, options)
}

#[cfg(feature = "mpi")]
fn on_host(launch: &Launch, options: &Options) -> Result<Option<Box<dyn Reduce>>> {
    Ok(Some(Box::new(mpi::MpiReduce::connect(launch, options.patience)?)))
}

#[cfg(not(feature = "mpi"))]
fn on_host(launch: &Launch, _options: &Options) -> Result<Option<Box<dyn Reduce>>> {
    Err(Error::Usage(format!(
        "{} started {} processes, but this build cannot train on CPUs with more than one: build it with \
         `--features mpi` (needs Open MPI and libclang), or start one process",
        launch.launcher.name(),
        launch.world
    )))
}

/// The error for processes that do not come.
fn alone(rank: usize, patience: Duration, what: &str) -> Error {
    Error::Run(format!(
        "rank {rank} waited {} s for the other processes to {what}: at least one of them has stopped or hangs; look \
         at its log, then start again (--resume auto goes on from the last checkpoint)",
        patience.as_secs_f32()
    ))
}
