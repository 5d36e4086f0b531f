//! Threads that prepare samples ahead of the one who trains on them.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::Sample;
use super::stream::Stream;
use crate::Result;

/// How processes and micro-batches share the sequence of samples: sample `i` of micro-batch `m` on rank `r`
/// has number (m · world + r) · batch + i. An update over all ranks sees the same numbers whatever the world
/// is, as long as world · batch is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// This process, from 0.
    pub rank: usize,
    /// Number of processes.
    pub world: usize,
    /// Samples of a micro-batch on one process.
    pub batch: usize,
}

impl Share {
    /// The number of this process's sample `local`, both counted from the beginning of the run.
    pub fn number(&self, local: u64) -> u64 {
        let batch = self.batch as u64;
        ((local / batch) * self.world as u64 + self.rank as u64) * batch + local % batch
    }
}

/// This process's samples in order, prepared by threads, a bounded number of them ahead.
pub struct Loader {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// A sample is ready.
    ready: Condvar,
    /// There is room for another one, or the work is over.
    room: Condvar,
    ahead: u64,
}

struct State {
    /// The next one to be begun, and the next one to be handed out.
    begin: u64,
    next: u64,
    done: BTreeMap<u64, Result<(u64, Sample)>>,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Loader {
    /// Starts `workers` threads at this process's sample `first`; no more than `ahead` samples are ready or
    /// in work at a time.
    ///
    /// # Panics
    /// If `workers` or `ahead` is 0.
    pub fn start(stream: Arc<Stream>, share: Share, first: u64, workers: usize, ahead: usize) -> Self {
        assert!(workers > 0 && ahead > 0, "{workers} workers, {ahead} samples ahead");
        let state = State { begin: first, next: first, done: BTreeMap::new(), stop: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            ready: Condvar::new(),
            room: Condvar::new(),
            ahead: ahead as u64,
        });
        let worker = || {
            let (shared, stream) = (shared.clone(), stream.clone());
            std::thread::Builder::new()
                .name("loader".into())
                .spawn(move || work(&shared, &stream, &share))
                .expect("a thread for loading")
        };
        let workers = (0..workers).map(|_| worker()).collect();
        Loader { shared, workers }
    }

    /// The next sample with its number; waits until it is ready.
    ///
    /// # Errors
    /// As [`Stream::sample`].
    pub fn next_sample(&mut self) -> Result<(u64, Sample)> {
        let mut state = self.shared.lock();
        loop {
            let next = state.next;
            if let Some(sample) = state.done.remove(&next) {
                state.next += 1;
                drop(state);
                self.shared.room.notify_one();
                return sample;
            }
            state = self.shared.ready.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }
}

fn work(shared: &Shared, stream: &Stream, share: &Share) {
    loop {
        let mut state = shared.lock();
        while !state.stop && state.begin >= state.next + shared.ahead {
            state = shared.room.wait(state).unwrap_or_else(|e| e.into_inner());
        }
        if state.stop {
            return;
        }
        let local = state.begin;
        state.begin += 1;
        drop(state);
        let number = share.number(local);
        let sample = stream.sample(number).map(|sample| (number, sample));
        shared.lock().done.insert(local, sample);
        shared.ready.notify_all();
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.room.notify_all();
        for worker in self.workers.drain(..) {
            // `Stream` turns panics of a source into errors, so none is expected here; nobody waits any more.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_each_micro_batch() {
        let numbers = |rank, world, batch, n| -> Vec<u64> {
            (0..n).map(|i| Share { rank, world, batch }.number(i)).collect()
        };
        assert_eq!(numbers(0, 1, 8, 10), (0..10).collect::<Vec<_>>());
        assert_eq!(numbers(0, 2, 4, 8), [0, 1, 2, 3, 8, 9, 10, 11]);
        assert_eq!(numbers(1, 2, 4, 8), [4, 5, 6, 7, 12, 13, 14, 15]);
    }
}
