//! Sums over processes by MPI, for gradients in host memory.
//!
//! MPI belongs to one thread, which does nothing else: it is woken for each bucket, and looks after the
//! transfers (which make progress only while somebody calls MPI) while the device's threads compute. A process
//! that dies takes the others with it under `mpirun`; where a launcher lets them go on, they notice by the time
//! that a sum takes.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ::mpi::collective::{CommunicatorCollectives, Root, SystemOperation};
use ::mpi::environment::Threading;
use ::mpi::topology::{Communicator, SimpleCommunicator};

use super::{Bucket, Reduce, alone};
use crate::error::{Error, Result};
use crate::train::launch::Launch;

/// Between two looks at a transfer: short beside what a bucket takes, long beside what a look costs the threads
/// that compute.
const LOOK: Duration = Duration::from_micros(50);

/// What the thread of MPI is asked for.
enum Job {
    Sum(Vec<f32>),
    Broadcast(Vec<f32>),
    /// To call MPI's last function and end.
    Close,
}

/// What the thread says when it is there: this process's number and how many there are.
type Joined = Result<(usize, usize), String>;

/// The processes that `mpirun` (or `srun` with an MPI plug-in) started.
pub struct MpiReduce {
    rank: usize,
    world: usize,
    patience: Duration,
    jobs: Sender<Job>,
    done: Receiver<Vec<f32>>,
    /// Buckets that have not come back.
    waiting: usize,
    thread: Option<JoinHandle<()>>,
}

impl MpiReduce {
    /// Joins the others. One process calls this once.
    ///
    /// # Errors
    /// If MPI does not start, others do not come within `patience`, or MPI counts the processes otherwise than
    /// `launch` does.
    pub fn connect(launch: &Launch, patience: Duration) -> Result<Self> {
        let (jobs, to_do) = channel();
        let (finished, done) = channel();
        let (say, joined) = channel();
        let thread = std::thread::Builder::new()
            .name("mpi".into())
            .spawn(move || serve(&say, &to_do, &finished))
            .map_err(|e| Error::Run(format!("cannot start a thread for MPI: {e}")))?;
        let (rank, world) = match joined.recv_timeout(patience) {
            Ok(joined) => joined.map_err(Error::Run)?,
            Err(RecvTimeoutError::Timeout) => return Err(alone(launch.rank, patience, "join MPI")),
            Err(RecvTimeoutError::Disconnected) => return Err(Error::Run("MPI does not start".into())),
        };
        if (rank, world) != (launch.rank, launch.world) {
            return Err(Error::Usage(format!(
                "{} says that this is rank {} of {}, MPI that it is rank {rank} of {world}: on CPUs start the \
                 processes by `mpirun`, or by `srun --mpi=pmix` where Slurm has that",
                launch.launcher.name(),
                launch.rank,
                launch.world
            )));
        }
        Ok(MpiReduce { rank, world, patience, jobs, done, waiting: 0, thread: Some(thread) })
    }

    fn ask(&self, job: Job) -> Result<()> {
        self.jobs.send(job).map_err(|_| self.gone())
    }

    fn answer(&self, what: &str) -> Result<Vec<f32>> {
        self.done.recv_timeout(self.patience).map_err(|e| match e {
            RecvTimeoutError::Timeout => alone(self.rank, self.patience, what),
            RecvTimeoutError::Disconnected => self.gone(),
        })
    }

    fn gone(&self) -> Error {
        Error::Run(format!("rank {} has left MPI before: its thread is gone", self.rank))
    }
}

impl Reduce for MpiReduce {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn start(&mut self, bucket: Bucket) -> Result<()> {
        self.ask(Job::Sum(host(bucket)?))?;
        self.waiting += 1;
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<Bucket>> {
        let mut sums = Vec::with_capacity(self.waiting);
        while self.waiting > 0 {
            sums.push(Bucket::Host(self.answer("add up gradients")?));
            self.waiting -= 1;
        }
        Ok(sums)
    }

    fn broadcast(&mut self, bucket: Bucket) -> Result<Bucket> {
        assert_eq!(self.waiting, 0, "a broadcast between the start and the end of sums");
        self.ask(Job::Broadcast(host(bucket)?))?;
        Ok(Bucket::Host(self.answer("take the parameters of rank 0")?))
    }

    fn close(&mut self) -> Result<()> {
        let dyn_self: &mut dyn Reduce = self;
        dyn_self.barrier()?;
        self.ask(Job::Close)?;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        Ok(())
    }
}

fn host(bucket: Bucket) -> Result<Vec<f32>> {
    match bucket {
        Bucket::Host(values) => Ok(values),
        Bucket::Device(_) => Err(Error::Usage(
            "MPI adds up gradients in the host's memory, these are in a device's: train on --device cpu, or on GPUs \
             with NCCL"
                .into(),
        )),
    }
}

/// All that the thread does. It ends after [`Job::Close`] in good order; where nobody asks any more without
/// that, MPI is left as it is, since its end would wait for all processes.
fn serve(say: &Sender<Joined>, jobs: &Receiver<Job>, finished: &Sender<Vec<f32>>) {
    let Some((universe, _)) = ::mpi::initialize_with_threading(Threading::Funneled) else {
        let _ = say.send(Err("MPI was started before by something else in this process".into()));
        return;
    };
    let world = universe.world();
    let _ = say.send(Ok((world.rank() as usize, world.size() as usize)));
    // Sums need a second place; it becomes the bucket that is given back, and the bucket the next place.
    let mut spare: Vec<f32> = Vec::new();
    loop {
        let result = match jobs.recv() {
            Ok(Job::Sum(values)) => {
                spare.resize(values.len(), 0.0);
                sum(&world, &values, &mut spare);
                std::mem::replace(&mut spare, values)
            }
            Ok(Job::Broadcast(mut values)) => {
                // MPI counts in i32.
                for piece in values.chunks_mut(PIECE) {
                    world.process_at_rank(0).broadcast_into(piece);
                }
                values
            }
            Ok(Job::Close) => return,
            Err(_) => break,
        };
        if finished.send(result).is_err() {
            break;
        }
    }
    std::mem::forget(universe);
}

/// The most numbers that one call moves.
const PIECE: usize = 1 << 28;

fn sum(world: &SimpleCommunicator, values: &[f32], sums: &mut [f32]) {
    for (values, sums) in values.chunks(PIECE).zip(sums.chunks_mut(PIECE)) {
        ::mpi::request::scope(|scope| {
            let mut transfer = world.immediate_all_reduce_into(scope, values, sums, SystemOperation::sum());
            while let Err(still) = transfer.test() {
                std::thread::sleep(LOOK);
                transfer = still;
            }
        });
    }
}
