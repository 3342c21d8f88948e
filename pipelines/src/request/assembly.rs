//! Assembly of the client's stream, from IRS+1 on, until the endpoint is migrated.
//!
//! Input: the payloads of one flow's segments with their offsets from IRS+1, in any order, any overlap. Output: the
//! contiguous octets from offset 0, which the head parser reads and the replay sends. Owner: the worker whose shard
//! holds the Temporary entry. Cost: one copy of each new octet and a search among at most 16 ranges; take, insert 524
//! octets and give 12 ns (release, one AMD EPYC vCPU, measured ad hoc). Octets are copied, so a slow client never
//! keeps an RX mbuf.
//!
//! On overlap the octets that arrived first stay: a retransmission with other octets must not change what was already
//! parsed, or a request could be placed by one text and served by another.

/// Octets of the client's stream that an [`Assembly`] holds, and so the most that the window we advertise lets a
/// client send before its endpoint is migrated (design: system.md, step 2).
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
    /// [`AssemblyError::Beyond`] also for what lies before IRS+1 (keep-alive probes): its offset wraps.
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

    /// Nothing that a replay could carry: no octet up to the first gap, and no FIN right there.
    pub fn is_empty(&self) -> bool {
        self.contiguous_len == 0 && !self.fin_reached()
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

/// An [`Assembly`] taken from an [`AssemblyPool`]. It goes back by [`AssemblyPool::give`]; dropping it instead takes
/// it out of circulation until the pool itself goes.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inserted(
        new_octets: usize,
        contiguous_len: usize,
        duplicate: bool,
    ) -> Result<Inserted, AssemblyError> {
        Ok(Inserted { new_octets, contiguous_len, duplicate })
    }

    fn range(start: u16, end: u16) -> OffsetRange {
        OffsetRange { start, end }
    }

    #[test]
    fn octets_in_order_become_the_stream() {
        let mut assembly = Assembly::new();
        assert_eq!(assembly.insert(0, b"GET "), inserted(4, 4, false));
        assert_eq!(assembly.insert(4, b"/ HT"), inserted(4, 8, false));
        assert_eq!(assembly.contiguous(), b"GET / HT");
    }

    #[test]
    fn a_gap_holds_the_stream_back_until_it_is_filled() {
        let mut assembly = Assembly::new();
        assert_eq!(assembly.insert(3, b"def"), inserted(3, 0, false));
        assert_eq!(assembly.insert(9, b"jk"), inserted(2, 0, false));
        assert_eq!(assembly.ranges(), [range(3, 6), range(9, 11)]);
        assert_eq!(assembly.insert(0, b"abc"), inserted(3, 6, false));
        assert_eq!(assembly.ranges(), [range(9, 11)]);
        assert_eq!(assembly.insert(6, b"ghi"), inserted(3, 11, false));
        assert_eq!(assembly.contiguous(), b"abcdefghijk");
        assert_eq!(assembly.ranges(), []);
    }

    #[test]
    fn ranges_join_as_they_touch() {
        let mut assembly = Assembly::new();
        for start in [40, 20, 30] {
            assembly.insert(start, &[b'x'; 5]).unwrap();
        }
        assert_eq!(assembly.ranges(), [range(20, 25), range(30, 35), range(40, 45)]);
        assert_eq!(assembly.insert(25, &[b'y'; 5]), inserted(5, 0, false));
        assert_eq!(assembly.ranges(), [range(20, 35), range(40, 45)]);
        assert_eq!(assembly.insert(18, &[b'z'; 40]), inserted(20, 0, false));
        assert_eq!(assembly.ranges(), [range(18, 58)]);
    }

    #[test]
    fn octets_that_arrived_first_stay() {
        let mut assembly = Assembly::new();
        assembly.insert(0, b"GET /a").unwrap();
        assembly.insert(8, b"TTP").unwrap();
        assert_eq!(assembly.insert(4, b"/b HXXX/"), inserted(3, 12, false));
        assert_eq!(assembly.contiguous(), b"GET /a HTTP/");
    }

    #[test]
    fn a_retransmission_is_a_duplicate_in_the_stream_and_past_the_gap() {
        let mut assembly = Assembly::new();
        assembly.insert(0, b"abcd").unwrap();
        assembly.insert(10, b"klmn").unwrap();
        assert_eq!(assembly.insert(1, b"bc"), inserted(0, 4, true));
        assert_eq!(assembly.insert(11, b"lm"), inserted(0, 4, true));
        assert_eq!(assembly.insert(2, b""), inserted(0, 4, false));
    }

    #[test]
    fn nothing_beyond_the_window_is_taken() {
        let mut assembly = Assembly::new();
        assert_eq!(assembly.insert(WINDOW as u32 - 2, b"abc"), Err(AssemblyError::Beyond));
        assert_eq!(assembly.insert(u32::MAX, b"a"), Err(AssemblyError::Beyond), "keep-alive probe at IRS");
        assert_eq!(assembly.insert(u32::MAX, b""), Err(AssemblyError::Beyond));
        assert_eq!(assembly.ranges(), []);
        assert_eq!(assembly.insert(0, &[b'a'; WINDOW]), inserted(WINDOW, WINDOW, false));
        assert_eq!(assembly.contiguous(), [b'a'; WINDOW]);
    }

    #[test]
    fn a_seventeenth_range_is_refused_and_the_others_still_grow() {
        let mut assembly = Assembly::new();
        for slot in (1..=MAX_RANGES as u32).rev() {
            assembly.insert(slot * 10, b"ab").unwrap();
        }
        assert_eq!(assembly.insert(500, b"x"), Err(AssemblyError::TooManyRanges));
        assert_eq!(assembly.insert(15, b"x"), Err(AssemblyError::TooManyRanges));
        assert_eq!(assembly.ranges().len(), MAX_RANGES);
        assert_eq!(assembly.insert(12, b"c"), inserted(1, 0, false));
        assert_eq!(assembly.insert(0, &[b'f'; 500]), inserted(500 - 2 * MAX_RANGES - 1, 500, false));
        assert_eq!(assembly.ranges(), []);
        assert_eq!(assembly.contiguous()[10..14], *b"abcf");
    }

    #[test]
    fn a_fin_counts_once_everything_before_it_is_here() {
        let mut assembly = Assembly::new();
        assembly.insert(0, b"ab").unwrap();
        assert_eq!(assembly.note_fin(4), Ok(()));
        assert!(!assembly.fin_reached());
        assembly.insert(2, b"cd").unwrap();
        assert!(assembly.fin_reached());
        assert_eq!(assembly.note_fin(4), Ok(()), "a retransmitted FIN");
    }

    #[test]
    fn a_fin_right_after_the_handshake_counts_at_once() {
        let mut assembly = Assembly::new();
        assert!(!assembly.fin_reached());
        assert_eq!(assembly.note_fin(0), Ok(()));
        assert!(assembly.fin_reached());
    }

    #[test]
    fn octets_and_fins_that_contradict_a_fin_are_refused() {
        let mut assembly = Assembly::new();
        assembly.insert(4, b"ef").unwrap();
        assert_eq!(assembly.note_fin(5), Err(AssemblyError::PastFin));
        assert_eq!(assembly.note_fin(WINDOW as u32 + 1), Err(AssemblyError::Beyond));
        assert_eq!(assembly.note_fin(6), Ok(()));
        assert_eq!(assembly.note_fin(7), Err(AssemblyError::PastFin));
        assert_eq!(assembly.insert(6, b"g"), Err(AssemblyError::PastFin));
        assert_eq!(assembly.ranges(), [range(4, 6)]);
    }

    #[test]
    fn reset_forgets_octets_ranges_and_fin() {
        let mut assembly = Assembly::new();
        assembly.insert(0, b"secret").unwrap();
        assembly.insert(10, b"more").unwrap();
        assembly.note_fin(14).unwrap();
        assembly.reset();
        assert_eq!(assembly.contiguous(), b"");
        assert_eq!(assembly.ranges(), []);
        assert_eq!(assembly.insert(10, b"m"), inserted(1, 0, false));
        assert_eq!(assembly.note_fin(20), Ok(()));
    }

    #[test]
    fn the_pool_gives_out_its_capacity_and_reuses_the_last_given_back() {
        let mut pool = AssemblyPool::with_capacity(2);
        let first = pool.take().unwrap();
        let second = pool.take().unwrap();
        assert_eq!(pool.take(), None);
        assert_eq!((pool.in_use(), pool.capacity()), (2, 2));
        pool.at_mut(&first).insert(0, b"one").unwrap();
        pool.at_mut(&second).insert(0, b"two").unwrap();
        assert_eq!(pool.at(&first).contiguous(), b"one");
        let storage = pool.assemblies.as_ptr();
        pool.give(first);
        assert_eq!(pool.in_use(), 1);
        let again = pool.take().unwrap();
        assert_eq!(pool.at(&again).contiguous(), b"", "what the last owner left is gone");
        assert_eq!(pool.at(&second).contiguous(), b"two");
        assert_eq!(pool.assemblies.as_ptr(), storage, "no allocation after the first");
        pool.give(again);
        pool.give(second);
        assert_eq!(pool.in_use(), 0);
    }

    /// What an assembly must behave as: the first octet to arrive at each offset.
    struct Model(Vec<Option<u8>>);

    impl Model {
        fn contiguous_len(&self) -> usize {
            self.0.iter().take_while(|octet| octet.is_some()).count()
        }

        fn ranges(&self) -> Vec<OffsetRange> {
            let mut ranges: Vec<OffsetRange> = Vec::new();
            for at in (self.contiguous_len()..WINDOW).filter(|at| self.0[*at].is_some()) {
                let at = at as u16;
                match ranges.last_mut() {
                    Some(last) if last.end == at => last.end += 1,
                    _ => ranges.push(range(at, at + 1)),
                }
            }
            ranges
        }

        fn insert(&mut self, offset: usize, bytes: &[u8]) -> Result<usize, AssemblyError> {
            if offset + bytes.len() > WINDOW {
                return Err(AssemblyError::Beyond);
            }
            let before = self.0.clone();
            let mut new_octets = 0;
            for (slot, octet) in self.0[offset..].iter_mut().zip(bytes) {
                if slot.is_none() {
                    *slot = Some(*octet);
                    new_octets += 1;
                }
            }
            if self.ranges().len() > MAX_RANGES {
                self.0 = before;
                return Err(AssemblyError::TooManyRanges);
            }
            Ok(new_octets)
        }
    }

    fn segments() -> impl Strategy<Value = Vec<(u32, Vec<u8>)>> {
        // Short and crowded, so that segments overlap and touch; some at the window's end and far beyond it.
        let crowded = (0..200_u32, prop::collection::vec(any::<u8>(), 0..12));
        let scattered = (0..WINDOW as u32 + 50, prop::collection::vec(any::<u8>(), 0..1600));
        let absurd = (any::<u32>(), prop::collection::vec(any::<u8>(), 0..4));
        prop::collection::vec(prop_oneof![6 => crowded, 2 => scattered, 1 => absurd], 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_assembly_behaves_as_its_model(segments in segments()) {
            let mut assembly = Assembly::new();
            let mut model = Model(vec![None; WINDOW]);
            for (offset, bytes) in segments {
                let expected = model.insert(offset as usize, &bytes).map(|new_octets| Inserted {
                    new_octets,
                    contiguous_len: model.contiguous_len(),
                    duplicate: new_octets == 0 && !bytes.is_empty(),
                });
                prop_assert_eq!(assembly.insert(offset, &bytes), expected);
                prop_assert_eq!(assembly.ranges(), model.ranges());
            }
            let stream: Vec<u8> = model.0.iter().map_while(|octet| *octet).collect();
            prop_assert_eq!(assembly.contiguous(), stream);
        }
    }
}
