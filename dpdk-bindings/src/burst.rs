//! A fixed-capacity burst of packets: what a queue gives and takes, without allocation.

use std::fmt;
use std::mem::MaybeUninit;
use std::ptr;
use std::slice;

use dpdk_sys as sys;

use crate::mbuf::Mbuf;

/// Up to `N` mbufs, in order, in place. Frees what it still holds when dropped.
pub struct Burst<const N: usize> {
    /// The first `len` are initialised.
    mbufs: [MaybeUninit<Mbuf>; N],
    len: usize,
}

impl<const N: usize> Burst<N> {
    /// An empty burst.
    #[must_use]
    pub const fn new() -> Self {
        // Queues count in 16 bits.
        const { assert!(N > 0 && N <= u16::MAX as usize, "a burst has 1 to 65535 places") };
        Self { mbufs: [const { MaybeUninit::uninit() }; N], len: 0 }
    }

    /// Mbufs in the burst.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is room for no more.
    #[inline]
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len == N
    }

    /// Places that are free.
    #[inline]
    #[must_use]
    pub const fn spare(&self) -> usize {
        N - self.len
    }

    /// Appends one.
    ///
    /// # Errors
    /// Gives the mbuf back when the burst is full.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        match self.mbufs.get_mut(self.len) {
            Some(place) => {
                place.write(mbuf);
                self.len += 1;
                Ok(())
            }
            None => Err(mbuf),
        }
    }

    /// Takes all out, in order. Those that the iterator has not given out when it is dropped are freed.
    #[inline]
    pub fn drain(&mut self) -> Drain<'_, N> {
        let end = self.len;
        // From here on the iterator is responsible, also if it is forgotten: then they leak, and none is freed twice.
        self.len = 0;
        Drain { burst: self, next: 0, end }
    }

    /// All, in order.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[Mbuf] {
        // SAFETY: the first `len` are initialised, and a MaybeUninit has the layout of its content.
        unsafe { slice::from_raw_parts(self.mbufs.as_ptr().cast(), self.len) }
    }

    /// All, in order, to change.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [Mbuf] {
        // SAFETY: as in `as_slice`, and the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.mbufs.as_mut_ptr().cast(), self.len) }
    }

    /// All, in order.
    #[inline]
    pub fn iter(&self) -> slice::Iter<'_, Mbuf> {
        self.as_slice().iter()
    }

    /// All, in order, to change.
    #[inline]
    pub fn iter_mut(&mut self) -> slice::IterMut<'_, Mbuf> {
        self.as_mut_slice().iter_mut()
    }

    /// Frees all.
    #[inline]
    pub fn clear(&mut self) {
        let count = self.len;
        self.len = 0;
        free(&mut self.mbufs, 0, count);
    }

    /// Where the mbufs are, as DPDK's queues want them.
    #[inline]
    pub(crate) fn as_mut_ptr(&mut self) -> *mut *mut sys::rte_mbuf {
        self.mbufs.as_mut_ptr().cast()
    }

    /// Where the free places start.
    #[inline]
    pub(crate) fn spare_ptr(&mut self) -> *mut *mut sys::rte_mbuf {
        self.mbufs.as_mut_ptr().wrapping_add(self.len).cast()
    }

    /// Takes note of `filled` mbufs that were written to the free places.
    ///
    /// # Safety
    /// The first `filled` free places hold mbufs that are the burst's own from now on; there were as many.
    #[inline]
    pub(crate) unsafe fn set_filled(&mut self, filled: usize) {
        debug_assert!(filled <= self.spare());
        self.len += filled;
    }

    /// Takes note that the first `sent` mbufs are another's now, and moves the rest to the front.
    ///
    /// # Safety
    /// There are as many, and something else owns them.
    #[inline]
    pub(crate) unsafe fn forget_front(&mut self, sent: usize) {
        debug_assert!(sent <= self.len);
        let rest = self.len - sent;
        if rest > 0 && sent > 0 {
            let start = self.mbufs.as_mut_ptr();
            // SAFETY: sent + rest == len <= N, so both ranges are within the array; they may overlap.
            unsafe { ptr::copy(start.add(sent), start, rest) };
        }
        self.len = rest;
    }
}

/// Frees the mbufs from `start` to `end`.
#[inline]
fn free<const N: usize>(mbufs: &mut [MaybeUninit<Mbuf>; N], start: usize, end: usize) {
    if let Some(owned) = mbufs.get_mut(start..end).filter(|owned| !owned.is_empty()) {
        // SAFETY: callers pass a range of initialised mbufs and have given up their own claim to it; an Mbuf is
        // exactly one address of an rte_mbuf.
        unsafe { sys::rte_pktmbuf_free_bulk(owned.as_mut_ptr().cast(), owned.len() as u32) };
    }
}

impl<const N: usize> Default for Burst<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Drop for Burst<N> {
    fn drop(&mut self) {
        self.clear();
    }
}

impl<const N: usize> fmt::Debug for Burst<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, const N: usize> IntoIterator for &'a Burst<N> {
    type Item = &'a Mbuf;
    type IntoIter = slice::Iter<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, const N: usize> IntoIterator for &'a mut Burst<N> {
    type Item = &'a mut Mbuf;
    type IntoIter = slice::IterMut<'a, Mbuf>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

/// Takes the mbufs of a burst out, in order.
#[derive(Debug)]
pub struct Drain<'a, const N: usize> {
    burst: &'a mut Burst<N>,
    next: usize,
    end: usize,
}

impl<const N: usize> Iterator for Drain<'_, N> {
    type Item = Mbuf;

    #[inline]
    fn next(&mut self) -> Option<Mbuf> {
        if self.next == self.end {
            return None;
        }
        let place = self.burst.mbufs.get(self.next)?;
        self.next += 1;
        // SAFETY: places from `next` to `end` are initialised, and each is read once.
        Some(unsafe { place.assume_init_read() })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end - self.next;
        (left, Some(left))
    }
}

impl<const N: usize> ExactSizeIterator for Drain<'_, N> {}

impl<const N: usize> Drop for Drain<'_, N> {
    fn drop(&mut self) {
        free(&mut self.burst.mbufs, self.next, self.end);
    }
}
