//! Sums over processes that each have a GPU, by NCCL. Finding each other is MPI's affair where the processes
//! were started by it and this build has it, else that of a file ([`rendezvous`]).

use std::sync::Arc;

use super::{Bucket, DeviceRange, Options, Reduce, rendezvous};
use crate::device::collective::{Collectives, Group, GroupId};
use crate::device::kernel::{DeviceMemory, KernelDevice};
use crate::error::Result;
use crate::train::launch::Launch;

/// The GPUs of the processes that were launched together.
pub struct NcclReduce {
    rank: usize,
    world: usize,
    /// Before the device: it must not outlive it.
    group: Box<dyn Group>,
    device: Arc<dyn KernelDevice>,
    /// Buckets on their way; those of the host with their place on the device.
    waiting: Vec<(Bucket, Option<DeviceMemory>)>,
    /// MPI, if it introduced the processes: they leave it together, too.
    mpi: Option<Box<dyn Reduce>>,
}

impl NcclReduce {
    /// Joins the others. Every process must have another GPU.
    ///
    /// # Errors
    /// If NCCL is not there, the processes cannot find each other, or do not within the options' patience.
    pub fn connect(
        launch: &Launch,
        device: &Arc<dyn KernelDevice>,
        collectives: &dyn Collectives,
        options: &Options,
    ) -> Result<Self> {
        let join = |id: &GroupId| collectives.join_group(id, launch.rank, launch.world, options.patience);
        let mut mpi = mpi(launch, options)?;
        let group = match &mut mpi {
            Some(mpi) => {
                let id = if launch.rank == 0 { collectives.new_group()? } else { [0; 128] };
                let Bucket::Host(words) = mpi.broadcast(Bucket::Host(bytemuck::pod_collect_to_vec(&id)))?
                else {
                    unreachable!("a bucket comes back as what it was");
                };
                join(&bytemuck::cast_slice(&words).try_into().expect("as long as it was"))?
            }
            None => {
                let path = rendezvous::path(launch, options.rendezvous.as_deref())?;
                if launch.rank == 0 {
                    let id = collectives.new_group()?;
                    rendezvous::publish(&path, launch, &id)?;
                    let joined = join(&id);
                    rendezvous::remove(&path);
                    joined?
                } else {
                    let words = rendezvous::fetch(&path, launch, options.patience)?;
                    let found = words.len();
                    join(&words.try_into().map_err(|_| {
                        crate::Error::file(
                            &path,
                            format!("expected a name of 128 bytes, found {found}: start all processes again"),
                        )
                    })?)?
                }
            }
        };
        Ok(NcclReduce {
            rank: launch.rank,
            world: launch.world,
            group,
            device: device.clone(),
            waiting: Vec::new(),
            mpi,
        })
    }

    /// Where a bucket lies on the device; a bucket of the host is copied there.
    fn place(&self, bucket: &Bucket) -> Result<(DeviceRange, Option<DeviceMemory>)> {
        match bucket {
            Bucket::Device(range) => Ok((*range, None)),
            Bucket::Host(values) => {
                let copy = DeviceMemory::of(&self.device, bytemuck::cast_slice(values))?;
                // SAFETY: the copy lives beside its bucket until the sums are there.
                Ok((unsafe { DeviceRange::new(copy.address(), values.len()) }, Some(copy)))
            }
        }
    }
}

/// A bucket of the host takes what its copy on the device has become.
fn taken_back(bucket: Bucket, copy: Option<DeviceMemory>) -> Result<Bucket> {
    match (bucket, copy) {
        (Bucket::Host(mut values), Some(copy)) => {
            copy.read(0, bytemuck::cast_slice_mut(&mut values))?;
            Ok(Bucket::Host(values))
        }
        (bucket, _) => Ok(bucket),
    }
}

#[cfg(feature = "mpi")]
fn mpi(launch: &Launch, options: &Options) -> Result<Option<Box<dyn Reduce>>> {
    use crate::train::launch::Launcher;
    // `srun` may or may not bring MPI's processes together; `mpirun` does for certain.
    if launch.launcher != Launcher::OpenMpi || options.rendezvous.is_some() {
        return Ok(None);
    }
    Ok(Some(Box::new(super::mpi::MpiReduce::connect(launch, options.patience)?)))
}

#[cfg(not(feature = "mpi"))]
fn mpi(_launch: &Launch, _options: &Options) -> Result<Option<Box<dyn Reduce>>> {
    Ok(None)
}

impl Reduce for NcclReduce {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn start(&mut self, bucket: Bucket) -> Result<()> {
        let (range, copy) = self.place(&bucket)?;
        // Kept whatever happens: the group may use it until it has finished.
        self.waiting.push((bucket, copy));
        // SAFETY: who made the range promised it; a copy is kept in `waiting`.
        unsafe { self.group.all_reduce(range.address(), range.len()) }
    }

    fn finish(&mut self) -> Result<Vec<Bucket>> {
        self.group.finish()?;
        self.waiting.drain(..).map(|(bucket, copy)| taken_back(bucket, copy)).collect()
    }

    fn broadcast(&mut self, bucket: Bucket) -> Result<Bucket> {
        assert!(self.waiting.is_empty(), "a broadcast between the start and the end of sums");
        let (range, copy) = self.place(&bucket)?;
        // SAFETY: as in `start`; it is over before this returns.
        unsafe { self.group.broadcast(range.address(), range.len()) }?;
        self.group.finish()?;
        taken_back(bucket, copy)
    }

    fn close(&mut self) -> Result<()> {
        let all: &mut dyn Reduce = self;
        all.barrier()?;
        self.mpi.as_mut().map_or(Ok(()), |mpi| mpi.close())
    }
}
