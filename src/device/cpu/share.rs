//! Handing work and memory to the threads of the pool when chunks of a slice do not describe it.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// A slice of which several threads write disjoint parts, where the parts are not chunks: rows of
/// one attention head lie between those of the others.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `part`, whose caller promises that parts do not overlap.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the slice over.
    pub fn new(slice: &'a mut [T]) -> Self {
        Disjoint { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// The slice again.
    pub fn into_slice(self) -> &'a mut [T] {
        // SAFETY: taken from such a slice; parts borrowed `self`, so none is left.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// `len` elements from `at`.
    ///
    /// # Panics
    /// If they are not inside the slice.
    ///
    /// # Safety
    /// No other part that overlaps these elements may be alive.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "a part outside its slice");
        // SAFETY: inside the slice by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

/// Runs `task(i, memory)` for every `i` in `0..tasks`, each on whichever thread is free, with one
/// block of `per_worker` elements of `scratch` as its working memory (contents arbitrary). There
/// are as many workers as `scratch` has whole blocks. Results must not depend on which worker ran
/// a task.
///
/// # Panics
/// If `scratch` has not one block.
pub fn work<T: Send>(
    tasks: usize,
    scratch: &mut [T],
    per_worker: usize,
    task: impl Fn(usize, &mut [T]) + Sync,
) {
    let next = AtomicUsize::new(0);
    let run = |memory: &mut [T]| loop {
        let i = next.fetch_add(1, Ordering::Relaxed);
        if i >= tasks {
            break;
        }
        task(i, memory);
    };
    assert!(per_worker > 0 && scratch.len() >= per_worker, "working memory for at least one worker");
    scratch.par_chunks_exact_mut(per_worker).with_max_len(1).for_each(run);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        let mut hits = vec![0u32; 1000];
        let all = Disjoint::new(&mut hits);
        let mut scratch = vec![0u8; 3 * 16];
        work(1000, &mut scratch, 16, |i, memory| {
            assert_eq!(memory.len(), 16);
            // SAFETY: each task has an element of its own.
            unsafe { all.part(i, 1)[0] += 1 };
        });
        assert!(hits.iter().all(|&h| h == 1));
    }

    #[test]
    #[should_panic(expected = "outside its slice")]
    fn parts_stay_inside() {
        let mut x = [0u8; 4];
        // SAFETY: the only part.
        unsafe { Disjoint::new(&mut x).part(3, 2) };
    }
}
