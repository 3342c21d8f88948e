//! Where the arrays of a table come from.
//!
//! A shard of 10 M flows is 830 MB, touched at random: on 4 KiB pages nearly every access also misses the TLB. This
//! crate has no unsafe code and so cannot map hugepages itself; a [`Memory`] made by one that can (the DPDK
//! bindings) is handed to [`super::Shard::with_memory`]. [`Heap`] is for tests and machines without hugepages.

use std::ops::DerefMut;

/// The memory for an array could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no {octets} octets of memory for a table; lower its capacity, or reserve more hugepages or memory")]
pub struct OutOfMemory {
    /// Size of the array that was asked for, octets (saturated when it does not fit).
    pub octets: usize,
}

/// A source of arrays that live as long as the table, are never resized, and are aligned for their element.
pub trait Memory {
    /// An owned array; it drops its elements and returns the memory when it is dropped.
    type Array<T>: DerefMut<Target = [T]>;

    /// Makes an array of `len` elements, element `i` being `make(i)`. Every page is written, so that no packet ever
    /// waits for a page fault.
    ///
    /// # Errors
    /// [`OutOfMemory`] when `len` elements cannot be had.
    fn array<T>(&self, len: usize, make: impl FnMut(usize) -> T) -> Result<Self::Array<T>, OutOfMemory>;
}

/// The process's heap, ordinary pages.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heap;

impl Memory for Heap {
    type Array<T> = Box<[T]>;

    fn array<T>(&self, len: usize, make: impl FnMut(usize) -> T) -> Result<Box<[T]>, OutOfMemory> {
        let mut array = Vec::new();
        array
            .try_reserve_exact(len)
            .map_err(|_| OutOfMemory { octets: len.saturating_mul(size_of::<T>()) })?;
        array.extend((0..len).map(make));
        Ok(array.into_boxed_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_array_holds_what_make_returned() {
        let array = Heap.array(5, |i| i * i).unwrap();
        assert_eq!(&array[..], &[0, 1, 4, 9, 16]);
    }

    #[test]
    fn impossible_size_is_an_error_and_not_an_abort() {
        let refused = Heap.array(usize::MAX / 8, |i| i as u64);
        assert_eq!(refused.map(|_| ()), Err(OutOfMemory { octets: usize::MAX / 8 * 8 }));
    }
}
