//! One aligned block of memory.

use std::alloc::{Layout, alloc_zeroed, dealloc};

/// One cache line, one AVX-512 register.
pub const ALIGN: usize = 64;

/// Bytes aligned for any kernel, zeroed once when allocated.
pub struct Arena {
    ptr: *mut u8,
    layout: Layout,
}

// SAFETY: the arena owns its memory; access goes through `&mut self` or the plan's promises.
unsafe impl Send for Arena {}
// SAFETY: `&Arena` gives no access to the memory.
unsafe impl Sync for Arena {}

impl Arena {
    /// `size` bytes; the system may refuse.
    pub fn new(size: usize) -> Result<Self, String> {
        Self::with_align(size, ALIGN)
    }

    /// `size` bytes whose start is a multiple of `align`, a power of two.
    pub fn with_align(size: usize, align: usize) -> Result<Self, String> {
        let layout = Layout::from_size_align(size.max(1), align).map_err(|e| e.to_string())?;
        // SAFETY: the size is not zero. Zeroed pages come lazily from the system at no cost.
        let ptr = unsafe { alloc_zeroed(layout) };
        if ptr.is_null() {
            return Err(format!("the system refused {size} bytes"));
        }
        Ok(Arena { ptr, layout })
    }

    /// Bytes of the block.
    pub fn size(&self) -> usize {
        self.layout.size()
    }

    /// Start of the memory.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.ptr
    }

    /// The memory without its owner; [`Arena::from_raw`] takes it back.
    pub fn into_raw(self) -> *mut u8 {
        std::mem::ManuallyDrop::new(self).ptr
    }

    /// Takes memory of [`Arena::into_raw`] back.
    ///
    /// # Safety
    /// Size and alignment must be those it was made with, and nothing else may own it.
    pub unsafe fn from_raw(ptr: *mut u8, size: usize, align: usize) -> Self {
        let layout = Layout::from_size_align(size.max(1), align).expect("it was allocated so");
        Arena { ptr, layout }
    }

    /// Fills everything with 0xFF: every f32 a NaN, so that reading what was never written shows.
    pub fn poison(&mut self) {
        // SAFETY: the block has this size and we hold it exclusively.
        unsafe { self.ptr.write_bytes(0xFF, self.layout.size()) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.ptr, self.layout) }
    }
}
