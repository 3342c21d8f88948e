//! Large arrays for tables: memory that is taken once, at start, on the largest pages that the machine gives.
//!
//! A table of millions of flows is touched at random: on 4 KiB pages nearly every access also misses the TLB. So an array
//! of [`HUGE_PAGE_OCTETS`] and more is mapped on reserved hugepages where enough of them are free, otherwise on
//! ordinary memory that the kernel is asked to back with transparent hugepages. It needs no EAL, and lies apart from
//! the EAL's memory: a farm that grows its tables does not have to grow `-m`.

use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;

use thiserror::Error;

/// Octets of the hugepages that are asked for, whatever the kernel's default size is: a table of a few megabytes is not to
/// take gigabytes.
pub const HUGE_PAGE_OCTETS: usize = 2 << 20;

/// The memory for an array could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no {octets} octets of memory for a table; lower its capacity, or reserve more hugepages or memory")]
pub struct OutOfMemory {
    /// Size of the array that was asked for, octets (saturated when it does not fit).
    pub octets: usize,
}

/// What an array's pages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Hugepages that were reserved (`vm.nr_hugepages`).
    Huge,
    /// Ordinary memory; the kernel may still make hugepages of it.
    Ordinary,
}

/// A fixed number of elements, page-aligned, that live as long as the array and are never moved.
pub struct Array<T> {
    start: NonNull<T>,
    len: usize,
    /// Octets that were mapped; 0 when nothing was.
    mapped_octets: usize,
    backing: Backing,
}

// SAFETY: an Array owns its elements, like a boxed slice.
unsafe impl<T: Send> Send for Array<T> {}
// SAFETY: as above; `&Array` only gives out `&[T]`.
unsafe impl<T: Sync> Sync for Array<T> {}

impl<T> Array<T> {
    /// Makes an array of `len` elements, element `i` being `make(i)`. Every page is written, by the calling thread: no
    /// packet ever waits for a page fault, and the pages lie on the NUMA node of the thread that makes them.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(len: usize, mut make: impl FnMut(usize) -> T) -> Result<Self, OutOfMemory> {
        const { assert!(align_of::<T>() <= 4096, "pages are aligned to 4 KiB at least") };
        let octets = len.checked_mul(size_of::<T>()).filter(|octets| *octets <= isize::MAX as usize);
        let octets = octets.ok_or(OutOfMemory { octets: len.saturating_mul(size_of::<T>()) })?;
        let (start, mapped_octets, backing) = if octets == 0 {
            (NonNull::<T>::dangling().cast(), 0, Backing::Ordinary)
        } else {
            map(octets).ok_or(OutOfMemory { octets })?
        };
        // Should `make` panic, the array is dropped with the elements made so far.
        let mut array = Self { start: start.cast(), len: 0, mapped_octets, backing };
        for number in 0..len {
            let element = make(number);
            // SAFETY: `number < len`, and `len` elements fit the mapping, which is aligned to a page; elements without
            // octets may lie anywhere but at null, aligned.
            unsafe { array.start.add(number).write(element) };
            array.len = number + 1;
        }
        Ok(array)
    }

    /// What its pages are.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing
    }
}

impl<T> Deref for Array<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the first `len` elements are initialised, and live as long as `self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Array<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        // SAFETY: the elements are initialised and dropped once; the mapping is the array's own and holds nothing else.
        unsafe {
            ptr::drop_in_place(ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.len));
            if self.mapped_octets > 0 {
                libc::munmap(self.start.as_ptr().cast(), self.mapped_octets);
            }
        }
    }
}

/// Maps zeroed memory; says where, how many octets, and on what.
fn map(octets: usize) -> Option<(NonNull<u8>, usize, Backing)> {
    if octets >= HUGE_PAGE_OCTETS {
        let whole = octets.checked_next_multiple_of(HUGE_PAGE_OCTETS)?;
        if let Some(start) = map_with(whole, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB) {
            if populate(start, whole) {
                return Some((start, whole, Backing::Huge));
            }
            // SAFETY: the mapping that was just made, which nobody has seen yet.
            unsafe { libc::munmap(start.as_ptr().cast(), whole) };
        }
    }
    let start = map_with(octets, 0)?;
    if octets >= HUGE_PAGE_OCTETS {
        // SAFETY: the range is the mapping that was just made. It is advice: a kernel without transparent hugepages
        // refuses, and the memory is as good as before.
        unsafe { libc::madvise(start.as_ptr().cast(), octets, libc::MADV_HUGEPAGE) };
    }
    Some((start, octets, Backing::Ordinary))
}

/// Takes the pages now. A control group may grant a mapping of hugepages and refuse the pages, with a signal that ends
/// the process at the first touch; this says no instead. Kernels before 5.14 do not know how, and get the benefit of the
/// doubt.
fn populate(start: NonNull<u8>, octets: usize) -> bool {
    // SAFETY: the range is a mapping of the caller's, which holds nothing yet.
    let refused = unsafe { libc::madvise(start.as_ptr().cast(), octets, libc::MADV_POPULATE_WRITE) } != 0;
    !refused || std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
}

fn map_with(octets: usize, flags: i32) -> Option<NonNull<u8>> {
    // SAFETY: a new anonymous mapping, at an address of the kernel's choice, touches nothing that exists.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            octets,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::rc::Rc;

    #[test]
    fn an_array_holds_what_make_returned() {
        let mut array = Array::new(5, |i| i * i).unwrap();
        assert_eq!(&array[..], &[0, 1, 4, 9, 16]);
        array[4] = 7;
        assert_eq!(array.iter().sum::<usize>(), 21);
    }

    #[test]
    fn a_large_array_is_page_aligned_and_whole() {
        let len = 3 * HUGE_PAGE_OCTETS / 8 + 1;
        let array = Array::new(len, |i| i as u64).unwrap();
        assert!(array.as_ptr().addr().is_multiple_of(4096));
        assert!(array.iter().enumerate().all(|(i, value)| *value == i as u64));
    }

    #[test]
    fn no_elements_and_elements_of_no_octets_need_no_memory() {
        assert!(Array::new(0, |i| i).unwrap().is_empty());
        assert_eq!(Array::new(1_000, |_| ()).unwrap().len(), 1_000);
    }

    #[test]
    fn an_impossible_size_is_an_error_and_not_an_abort() {
        for len in [usize::MAX / 8, usize::MAX] {
            let refused = Array::new(len, |i| i as u64).map(|_| ());
            assert_eq!(refused, Err(OutOfMemory { octets: len.saturating_mul(8) }));
        }
    }

    #[test]
    fn elements_are_dropped_once_also_when_making_them_panics() {
        let token = Rc::new(());
        drop(Array::new(7, |_| Rc::clone(&token)).unwrap());
        assert_eq!(Rc::strong_count(&token), 1);
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            Array::new(7, |i| if i < 5 { Rc::clone(&token) } else { panic!("on purpose") }).map(|_| ())
        }));
        assert!(unwound.is_err());
        assert_eq!(Rc::strong_count(&token), 1);
    }
}
