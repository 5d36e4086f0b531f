//! Aligned working memory that is kept for the next call.
//!
//! Packed matrices and padded strips are needed for the length of one call, thousands of times
//! a second; fresh pages from the operating system would cost more than the packing itself.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// One cache line: the alignment that full-width vector loads want.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A buffer of f32, 64-byte aligned, that returns to its thread's pool when dropped.
pub struct Scratch {
    lines: Vec<Line>,
    len: usize,
}

/// How many buffers a thread keeps, and the largest that is worth keeping (in lines: 64 MiB).
const KEPT: usize = 8;
const LARGEST_KEPT: usize = 1 << 20;

thread_local! {
    static POOL: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

impl Scratch {
    /// A buffer of `len` values, whose contents are whatever was left there.
    pub fn new(len: usize) -> Scratch {
        let wanted = len.div_ceil(16);
        let kept = POOL.with_borrow_mut(|pool| {
            let best = (0..pool.len())
                .filter(|&i| pool[i].len() >= wanted && pool[i].len() / 4 <= wanted.max(1024))
                .min_by_key(|&i| pool[i].len());
            best.map(|i| pool.swap_remove(i))
        });
        Scratch { lines: kept.unwrap_or_else(|| vec![Line::zeroed(); wanted]), len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if lines.len() > LARGEST_KEPT {
            return;
        }
        // A thread that is ending has no pool any more; the buffer is then simply freed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() == KEPT {
                pool.remove(0);
            }
            pool.push(lines);
        });
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// A mutable pointer that tasks share; each writes its own part of what it points to.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T);

// SAFETY: a Shared is only a number; the code that writes through it states why its part is its own.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub fn new(slice: &mut [T]) -> Self {
        Shared(slice.as_mut_ptr())
    }

    /// The pointer (a method, so that closures capture the whole of `self`, which is `Sync`).
    #[inline(always)]
    pub fn get(self) -> *mut T {
        self.0
    }
}
