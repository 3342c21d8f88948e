//! An allocator that counts what happens while [`IN_POLL`] is set: for tests of what must neither allocate nor free.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use super::IN_POLL;

thread_local! {
    /// Allocations, reallocations and frees of this thread inside a poll.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// To be made the global allocator of the test.
pub struct Counting;

/// Neither cell has a destructor, so this neither allocates nor fails while a thread ends.
fn count() {
    if IN_POLL.get() {
        COUNT.set(COUNT.get() + 1);
    }
}

// SAFETY: every call is the system allocator's, with the caller's own arguments; counting touches two plain cells.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count();
        // SAFETY: the block came from `System` by one of these methods, with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
        count();
        // SAFETY: as in `dealloc`.
        unsafe { System.realloc(block, layout, new_len) }
    }
}

/// Runs a script, and what it made the worker allocate or free.
pub fn counted(script: impl FnOnce()) -> u64 {
    COUNT.set(0);
    script();
    COUNT.get()
}
