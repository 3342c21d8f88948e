//! Assembly of the client's stream, from IRS+1 on, until the endpoint is migrated.
//!
//! Input: the payloads of one flow's segments with their offsets from IRS+1, in any order, any overlap.
//! Output: the contiguous octets from offset 0, which the head parser reads and the replay sends.
//! Owner: the worker whose shard holds the Temporary entry. Cost: one copy of each new octet and a search among at
//! most 16 ranges. Octets are copied, so a slow client never keeps an RX mbuf.
//!
//! On overlap the octets that arrived first stay: a retransmission with other octets must not change what was already
//! parsed, or a request could be placed by one text and served by another.

/// Octets of the client's stream that an [`Assembly`] holds, and so the most that the window we advertise lets a client
/// send before its endpoint is migrated (design: system.md, step 2).
pub const WINDOW: usize = 16_384;

/// Disjoint ranges past the first gap that one [`Assembly`] keeps (design: system.md, step 4).
pub const MAX_RANGES: usize = 16;

const _: () = assert!(WINDOW <= u16::MAX as usize, "offsets in a range are 16 bits wide");

/// Why a segment was not taken. Nothing of it is stored then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// The octets (or the FIN) lie past the window that was advertised.
    #[error("octets beyond the advertised window of 16384")]
    Beyond,
    /// The octets would open a 17th range past the first gap.
    #[error("more than 16 ranges out of order")]
    TooManyRanges,
    /// Octets after the client's FIN, or a FIN before octets that the client sent: the client contradicts itself.
    #[error("octets after the client's FIN")]
    PastFin,
}

/// What an accepted segment changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inserted {
    /// Octets of the segment that were not held before.
    pub new_octets: usize,
    /// Length of the contiguous stream from IRS+1 now, octets: RCV.NXT is IRS+1 plus this.
    pub contiguous_len: usize,
    /// The segment had octets, and every one was held already: a retransmission.
    pub duplicate: bool,
}

/// A half-open range of offsets from IRS+1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OffsetRange {
    /// Offset of the first octet.
    pub start: u16,
    /// Offset one past the last octet.
    pub end: u16,
}

/// The client's octets from IRS+1 on, each stored at its own offset.
pub struct Assembly {
    contiguous_len: u16,
    range_count: u8,
    fin_at: Option<u16>,
    /// Sorted, disjoint, never touching each other nor the contiguous part; the first `range_count` are in use.
    ranges: [OffsetRange; MAX_RANGES],
    octets: [u8; WINDOW],
}

impl Assembly {
    /// An empty assembly.
    pub const fn new() -> Self {
        Self {
            contiguous_len: 0,
            range_count: 0,
            fin_at: None,
            ranges: [OffsetRange { start: 0, end: 0 }; MAX_RANGES],
            octets: [0; WINDOW],
        }
    }

    /// Forgets everything. The 16 KiB themselves are not cleared: no octet is readable before it is written again.
    pub fn reset(&mut self) {
        self.contiguous_len = 0;
        self.range_count = 0;
        self.fin_at = None;
    }

    /// Takes the payload of a segment; `offset_from_first` is SEG.SEQ - (IRS+1) modulo 2^32.
    ///
    /// # Errors
    /// [`AssemblyError::Beyond`] also for what lies before IRS+1 (keep-alive probes), whose offset wraps to a large one.
    pub fn insert(&mut self, offset_from_first: u32, bytes: &[u8]) -> Result<Inserted, AssemblyError> {
        let (start, end) = bounds(offset_from_first, bytes.len())?;
        if bytes.is_empty() {
            return Ok(self.inserted(0, false));
        }
        if self.fin_at.is_some_and(|fin| end > fin) {
            return Err(AssemblyError::PastFin);
        }
        // The contiguous part is only ever extended, so what lies inside it needs no look at the ranges.
        if end <= self.contiguous_len {
            return Ok(self.inserted(0, true));
        }
        let joins_front = start <= self.contiguous_len;
        let held = self.ranges();
        let first = held.partition_point(|range| range.end < start);
        let last = held.partition_point(|range| range.start <= end);
        if first == last && !joins_front && held.len() == MAX_RANGES {
            return Err(AssemblyError::TooManyRanges);
        }
        let new_octets = self.fill_gaps(start, bytes, first..last);
        self.merge(OffsetRange { start, end }, first, last, joins_front);
        Ok(self.inserted(new_octets, new_octets == 0))
    }

    /// Remembers a FIN; `offset_from_first` is the FIN's own sequence number minus (IRS+1): that of the octet after
    /// the last one. It is reported by [`Self::fin_reached`] once every octet before it is here.
    ///
    /// # Errors
    /// [`AssemblyError::Beyond`] past the window; [`AssemblyError::PastFin`] when octets past it are held or another
    /// offset was remembered before.
    pub fn note_fin(&mut self, offset_from_first: u32) -> Result<(), AssemblyError> {
        let (fin, _) = bounds(offset_from_first, 0)?;
        let held_end = self.ranges().last().map_or(self.contiguous_len, |range| range.end);
        if fin < held_end || self.fin_at.is_some_and(|known| known != fin) {
            return Err(AssemblyError::PastFin);
        }
        self.fin_at = Some(fin);
        Ok(())
    }

    /// The client has closed its side and everything it sent before is in [`Self::contiguous`].
    pub fn fin_reached(&self) -> bool {
        self.fin_at == Some(self.contiguous_len)
    }

    /// The stream from IRS+1 to the first gap.
    pub fn contiguous(&self) -> &[u8] {
        self.octets.get(..usize::from(self.contiguous_len)).unwrap_or_default()
    }

    /// Length of [`Self::contiguous`], octets.
    pub fn contiguous_len(&self) -> usize {
        usize::from(self.contiguous_len)
    }

    /// What is held past the first gap, ascending: the blocks for a SACK option (RFC 2018).
    pub fn ranges(&self) -> &[OffsetRange] {
        self.ranges.get(..usize::from(self.range_count)).unwrap_or_default()
    }

    fn inserted(&self, new_octets: usize, duplicate: bool) -> Inserted {
        Inserted { new_octets, contiguous_len: self.contiguous_len(), duplicate }
    }

    /// Copies those of `bytes` (at offset `start`) that neither the contiguous part nor the ranges `overlapped` hold.
    fn fill_gaps(&mut self, start: u16, bytes: &[u8], overlapped: core::ops::Range<usize>) -> usize {
        let Self { octets, ranges, contiguous_len, .. } = self;
        let overlapped = ranges.get(overlapped).unwrap_or_default();
        let end = usize::from(start) + bytes.len();
        let mut from = usize::from(start.max(*contiguous_len));
        let mut copied = 0;
        let gap_ends = overlapped.iter().map(|range| (usize::from(range.start), usize::from(range.end)));
        for (gap_end, next_from) in gap_ends.chain([(end, end)]) {
            let gap_end = gap_end.min(end);
            if from < gap_end {
                let source = bytes.get(from - usize::from(start)..gap_end - usize::from(start));
                if let (Some(source), Some(target)) = (source, octets.get_mut(from..gap_end)) {
                    target.copy_from_slice(source);
                    copied += source.len();
                }
            }
            from = from.max(next_from);
        }
        copied
    }

    /// Replaces the ranges `first..last`, which `added` overlaps or touches, by one that covers them and `added`.
    fn merge(&mut self, added: OffsetRange, first: usize, last: usize, joins_front: bool) {
        let count = usize::from(self.range_count);
        let Some(joined) = self.ranges.get(first..last) else { return };
        let start = joined.first().map_or(added.start, |range| range.start.min(added.start));
        let end = joined.last().map_or(added.end, |range| range.end.max(added.end));
        let keep_from = if joins_front {
            self.contiguous_len = end;
            first
        } else {
            if first == last {
                // Opens a slot; `insert` has made sure that there is one.
                self.ranges.copy_within(first..count.min(MAX_RANGES - 1), first + 1);
                self.range_count += 1;
            }
            if let Some(slot) = self.ranges.get_mut(first) {
                *slot = OffsetRange { start, end };
            }
            first + 1
        };
        if keep_from < last {
            self.ranges.copy_within(last..count, keep_from);
            self.range_count -= (last - keep_from) as u8;
        }
    }
}

impl Default for Assembly {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Assembly {
    /// Without the octets: they are the client's.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Assembly")
            .field("contiguous_len", &self.contiguous_len)
            .field("ranges", &self.ranges())
            .field("fin_at", &self.fin_at)
            .finish_non_exhaustive()
    }
}

/// Offsets of a segment's first octet and of the one after its last, when both lie in the window.
fn bounds(offset_from_first: u32, len: usize) -> Result<(u16, u16), AssemblyError> {
    let start = usize::try_from(offset_from_first).map_err(|_| AssemblyError::Beyond)?;
    let end = start.checked_add(len).filter(|end| *end <= WINDOW).ok_or(AssemblyError::Beyond)?;
    // WINDOW fits into 16 bits (asserted above), and start <= end <= WINDOW.
    Ok((start as u16, end as u16))
}

/// An [`Assembly`] taken from an [`AssemblyPool`]. It goes back by [`AssemblyPool::give`]; dropping it instead takes it
/// out of circulation until the pool itself goes.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a handle that is dropped is lost to its pool: give it back"]
pub struct Handle(u32);

/// A fixed number of assemblies for one worker, in one allocation made at start.
///
/// The allocation is address space only: an assembly's pages are touched the first time that it is taken, and
/// assemblies given back are taken first, so memory follows the highest number ever in use at once.
pub struct AssemblyPool {
    assemblies: Vec<Assembly>,
    free: Vec<u32>,
    capacity: u32,
}

impl AssemblyPool {
    /// A pool of `capacity` assemblies (16.5 KiB of address space each). Call at start: this allocates.
    pub fn with_capacity(capacity: u32) -> Self {
        let slots = capacity as usize;
        Self { assemblies: Vec::with_capacity(slots), free: Vec::with_capacity(slots), capacity }
    }

    /// An empty assembly, or `None` when all are in use. Never allocates.
    pub fn take(&mut self) -> Option<Handle> {
        if let Some(index) = self.free.pop() {
            return Some(Handle(index));
        }
        let index = u32::try_from(self.assemblies.len()).ok().filter(|index| *index < self.capacity)?;
        // Within the capacity reserved at start, so this writes in place.
        self.assemblies.push(Assembly::new());
        Some(Handle(index))
    }

    /// Takes an assembly back, and forgets what it held.
    pub fn give(&mut self, handle: Handle) {
        self.at_mut(&handle).reset();
        // Handles are not copied, so at most `capacity` are ever given: no growth.
        self.free.push(handle.0);
    }

    /// The assembly of a handle. Panics for a handle of another, larger pool: a fault of the caller, which no packet
    /// can cause.
    pub fn at(&self, handle: &Handle) -> &Assembly {
        &self.assemblies[handle.0 as usize]
    }

    /// The assembly of a handle, to write to. Panics as [`Self::at`].
    pub fn at_mut(&mut self, handle: &Handle) -> &mut Assembly {
        &mut self.assemblies[handle.0 as usize]
    }

    /// Assemblies in use.
    pub fn in_use(&self) -> u32 {
        (self.assemblies.len() - self.free.len()) as u32
    }

    /// Assemblies that can be in use at once.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }
}

impl core::fmt::Debug for AssemblyPool {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("AssemblyPool")
            .field("capacity", &self.capacity)
            .field("in_use", &self.in_use())
            .finish_non_exhaustive()
    }
}
