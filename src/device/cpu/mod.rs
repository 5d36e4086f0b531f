//! The CPU as a device: a thread pool, arenas, and the primitives that kernels share.

mod arena;
pub mod conv;
mod copy;
pub mod gemm;
pub mod math;
pub(crate) mod scratch;
pub mod share;
pub mod simd;
pub mod tile;

pub use arena::{ALIGN, Arena};
pub use copy::copy_strided;

use crate::error::{Error, Result};

/// A pool of worker threads. Kernels run inside it and use `rayon` as they are.
pub struct CpuDevice {
    pool: rayon::ThreadPool,
}

impl CpuDevice {
    /// A pool of `threads` threads; 0 takes what the machine (or `RAYON_NUM_THREADS`) offers.
    pub fn new(threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("cpu-{i}"))
            .build()
            .map_err(|e| Error::Run(format!("cannot start {threads} worker threads: {e}")))?;
        Ok(CpuDevice { pool })
    }

    /// Threads of the pool.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `f` inside the pool.
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.pool.install(f)
    }
}
