//! One worker's shard: entries by flow, with a timer each.

use std::net::Ipv4Addr;
use std::ops::{Deref, DerefMut};

use arrayvec::ArrayVec;
use ipos_dpdk::memory::{Backing, OutOfMemory};
use ipos_wire::flow::Flow;

use super::endpoints::Endpoints;
use super::hash::{FlowHasher, Key};
use super::hot::Hot;
use super::index::{Index, Indexed, Search};
use super::slab::{EntryRef, Slab};
use super::wheel::{Due, Wheel, Work};
use crate::handoff::BoardId;

/// Flows that a bulk lookup works on at once; longer slices are done in pieces.
pub const LOOKUP_BURST: usize = 32;

/// What a shard keeps by flow.
pub trait Settled {
    /// The board that the flow's packets go to, when that is all that a packet has to know; `None` when it has to look at
    /// the entry.
    fn settled_board(&self) -> Option<BoardId>;
}

/// Why a flow was not entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    /// Every slot is in use (or no place was found in the index, which at its load is not to be expected; or the flow's
    /// endpoint is one more than [`super::endpoints::ENDPOINTS_MAX`]).
    #[error("the shard is full")]
    Full,
    /// The flow has an entry.
    #[error("the flow already has an entry")]
    Occupied(EntryRef),
}

/// An entry that was not entered, given back; the shard is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused<E> {
    /// The entry.
    pub entry: E,
    /// Why.
    pub reason: RefusedReason,
}

/// A fixed number of entries `E` by flow, each with at most one timer. Owned by one worker; nothing is shared, nothing
/// is allocated after construction. `E` is at most 32 octets.
pub struct Shard<E> {
    endpoints: Endpoints,
    index: Index,
    entries: Slab<E, Key>,
    timers: Wheel,
    entered: u32,
}

/// An entry that is being changed. When it is let go, what packets need to know of it is brought up to date.
pub struct EntryMut<'a, E: Settled> {
    index: &'a mut Index,
    key: Key,
    board_before: Option<BoardId>,
    entry: &'a mut E,
}

impl<E: Settled> Deref for EntryMut<'_, E> {
    type Target = E;

    #[inline]
    fn deref(&self) -> &E {
        self.entry
    }
}

impl<E: Settled> DerefMut for EntryMut<'_, E> {
    #[inline]
    fn deref_mut(&mut self) -> &mut E {
        self.entry
    }
}

impl<E: Settled> Drop for EntryMut<'_, E> {
    #[inline]
    fn drop(&mut self) {
        let board = self.entry.settled_board();
        if board != self.board_before
            && let Some(hot) = self.index.hot_mut(&self.index.search(self.key))
        {
            hot.set_board(board);
        }
    }
}

impl<E: Settled> Shard<E> {
    /// A shard for `capacity` flows; `key` is 128 bits from the operating system's random source, `now_tick` the clock at
    /// which the timers start.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    ///
    /// # Panics
    /// When `capacity` is above [`super::MAX_CAPACITY`].
    pub fn new(capacity: u32, key: [u64; 2], now_tick: u32) -> Result<Self, OutOfMemory> {
        const { assert!(Slab::<E, Key>::SLOT_OCTETS <= 48, "an entry is at most 32 octets") };
        Ok(Self {
            endpoints: Endpoints::new(),
            index: Index::new(capacity, FlowHasher::new(key))?,
            entries: Slab::new(capacity)?,
            timers: Wheel::new(capacity, now_tick)?,
            entered: 0,
        })
    }

    /// Most entries.
    pub fn capacity(&self) -> u32 {
        self.entries.capacity()
    }

    /// Entries now.
    #[inline]
    pub fn len(&self) -> u32 {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Octets that the shard occupies: index, entries and timers.
    pub fn octets(&self) -> usize {
        let per_slot = Slab::<E, Key>::SLOT_OCTETS + Wheel::SLOT_OCTETS;
        size_of::<Self>()
            + self.endpoints.octets()
            + self.index.octets()
            + self.capacity() as usize * per_slot
    }

    /// What the pages of the index are, which every packet touches.
    pub fn backing(&self) -> Backing {
        self.index.backing()
    }

    /// Most full buckets that an insertion has had to look at so far (see [`Index::longest_search`]).
    pub fn longest_search(&self) -> u32 {
        self.index.longest_search()
    }

    /// Starts a lookup: the line that it needs is on its way then.
    #[inline(always)]
    pub fn begin(&self, flow: &Flow) -> Search {
        let search = self.search(flow);
        self.index.prefetch_first(&search);
        search
    }

    /// Goes on with a lookup whose first line has come: if it needs another, that is on its way then.
    #[inline(always)]
    pub fn go_on(&self, search: &mut Search) {
        if let Some(slot) = self.index.look(search) {
            self.entries.prefetch(slot);
        }
    }

    /// The board that the flow of a lookup that has gone on is settled on, and takes note that a packet of it came; `None`
    /// when the entry has to be looked at, or there is none, or it has moved since.
    #[inline(always)]
    pub fn forward(&mut self, search: &Search, now_ms: u32) -> Option<BoardId> {
        let hot = self.index.seen_hot_mut(search)?;
        let board = hot.board()?;
        hot.see(now_ms);
        Some(board)
    }

    /// Flows entered so far; wraps. While it is the same, no entry has come or moved.
    #[inline(always)]
    pub fn entered(&self) -> u32 {
        self.entered
    }

    /// Whether the flow of a lookup that has gone on has no entry for sure: nothing was entered since it began, when there
    /// were `entered`.
    #[inline(always)]
    pub fn is_absent(&self, search: &Search, entered: u32) -> bool {
        self.entered == entered && self.index.seen(search).is_none()
    }

    #[inline(always)]
    fn search(&self, flow: &Flow) -> Search {
        self.index.search(Key::new(flow, self.endpoints.find(flow)))
    }

    /// The entry of a flow.
    #[inline]
    pub fn lookup(&self, flow: &Flow) -> Option<EntryRef> {
        let found = self.index.find(&self.search(flow))?;
        self.entries.at(found.slot).map(|(entry, _, _)| entry)
    }

    /// What the index holds of a burst of flows: `found[i]` is that of `flows[i]`. Slices of different lengths are used up
    /// to the shorter one. The cache misses of a burst overlap.
    pub fn lookup_burst(&self, flows: &[Flow], found: &mut [Option<Indexed>]) {
        for (flows, found) in flows.chunks(LOOKUP_BURST).zip(found.chunks_mut(LOOKUP_BURST)) {
            let mut searches = [Search::NONE; LOOKUP_BURST];
            for (search, flow) in searches.iter_mut().zip(flows) {
                *search = self.begin(flow);
            }
            for search in &mut searches[..flows.len()] {
                let _ = self.index.look(search);
            }
            for (found, search) in found.iter_mut().zip(&searches[..flows.len()]) {
                *found = self.index.seen(search);
            }
        }
    }

    /// Enters a flow at this time, without a timer.
    ///
    /// # Errors
    /// [`Refused`] with the entry when the flow has one already, or the shard is full. Nothing is changed then.
    #[inline]
    pub fn insert(&mut self, flow: &Flow, entry: E, now_ms: u32) -> Result<EntryRef, Refused<E>> {
        if let Some(present) = self.lookup(flow) {
            return Err(Refused { entry, reason: RefusedReason::Occupied(present) });
        }
        self.entered = self.entered.wrapping_add(1);
        let Some(endpoint) = self.endpoints.enter(flow) else {
            return Err(Refused { entry, reason: RefusedReason::Full });
        };
        let key = Key::new(flow, endpoint);
        let mut hot = Hot::LOOK;
        hot.see(now_ms);
        hot.set_board(entry.settled_board());
        let entered = match self.entries.insert_keyed(key, entry) {
            Ok(entered) => entered,
            Err(entry) => {
                self.endpoints.leave(endpoint);
                return Err(Refused { entry, reason: RefusedReason::Full });
            }
        };
        if self.index.insert(Indexed { key, slot: entered.slot(), hot }).is_err()
            && let Some(entry) = self.entries.remove(entered)
        {
            self.endpoints.leave(endpoint);
            return Err(Refused { entry, reason: RefusedReason::Full });
        }
        Ok(entered)
    }

    /// Removes an entry and its timer; nothing when the reference is stale.
    pub fn remove(&mut self, entry: EntryRef) -> Option<E> {
        let (key, value) = self.entries.remove_keyed(entry)?;
        self.timers.cancel(entry.slot());
        self.index.remove(&self.index.search(key));
        self.endpoints.leave(key.endpoint());
        Some(value)
    }

    /// The entry, unless the reference is stale.
    #[inline]
    pub fn get(&self, entry: EntryRef) -> Option<&E> {
        self.entries.get(entry)
    }

    /// The entry, for changing it, unless the reference is stale.
    #[inline]
    pub fn get_mut(&mut self, entry: EntryRef) -> Option<EntryMut<'_, E>> {
        let Self { index, entries, .. } = self;
        let (key, entry) = entries.keyed_mut(entry)?;
        Some(EntryMut { index, key: *key, board_before: entry.settled_board(), entry })
    }

    /// Takes note that a packet of the entry's flow came.
    #[inline]
    pub fn see(&mut self, entry: EntryRef, now_ms: u32) {
        let Some(key) = self.entries.key(entry) else { return };
        if let Some(hot) = self.index.hot_mut(&self.index.search(*key)) {
            hot.see(now_ms);
        }
    }

    /// How long ago the last packet of the entry's flow came, milliseconds (see [`Hot::idle_ms`]).
    pub fn idle_ms(&self, entry: EntryRef, now_ms: u32) -> Option<u32> {
        self.entries.key(entry).and_then(|key| idle_ms(&self.index, *key, now_ms))
    }

    /// The entry's flow, unless the reference is stale.
    pub fn flow(&self, entry: EntryRef) -> Option<Flow> {
        self.entries.key(entry).map(|key| flow_of(&self.endpoints, *key))
    }

    /// Sets the entry's timer, in place of the one it may have; false when the reference is stale.
    #[inline]
    pub fn schedule(&mut self, entry: EntryRef, due_tick: u32) -> bool {
        let is_current = self.entries.get(entry).is_some();
        if is_current {
            self.timers.schedule(entry.slot(), due_tick);
        }
        is_current
    }

    /// Takes the entry's timer away; false when it has none or the reference is stale.
    #[inline]
    pub fn cancel(&mut self, entry: EntryRef) -> bool {
        self.entries.get(entry).is_some() && self.timers.cancel(entry.slot())
    }

    /// The tick at which the entry's timer is due.
    pub fn due_tick(&self, entry: EntryRef) -> Option<u32> {
        self.entries.get(entry).and_then(|_| self.timers.due_tick(entry.slot()))
    }

    /// Handles timers due up to `now_tick`, at most `budget` of them (see [`Wheel::advance`]). On [`Due::Expire`] the entry
    /// is removed and dropped, on [`Due::Again`] it stays.
    pub fn expire(
        &mut self,
        now_tick: u32,
        budget: usize,
        mut is_due: impl FnMut(EntryRef, &Flow, &E) -> Due,
    ) -> Work {
        let Self { endpoints, index, entries, timers, .. } = self;
        timers.advance(now_tick, budget, |slot| {
            // Removal cancels the timer, so the entry is there.
            let Some((entry, key, value)) = entries.at(slot) else { return Due::Expire };
            let verdict = is_due(entry, &flow_of(endpoints, *key), value);
            if verdict == Due::Expire {
                let search = index.search(*key);
                index.remove(&search);
                endpoints.leave(key.endpoint());
                entries.remove(entry);
            }
            verdict
        })
    }

    /// Visits the entries in the next `chunk` slots from `cursor` (0 at first) on that are wanted, each with its idle time, and
    /// returns where to go on, `None` at the end: a status listing in pieces that a worker can afford (see
    /// [`Slab::visit_chunk`]). The cache misses of the idle times overlap.
    pub fn visit_chunk(
        &self,
        cursor: u32,
        chunk: u32,
        now_ms: u32,
        wanted: impl Fn(&Flow, &E) -> bool,
        mut visit: impl FnMut(EntryRef, &Flow, &E, u32),
    ) -> Option<u32> {
        let end = cursor.saturating_add(chunk);
        let mut next = Some(cursor);
        while let Some(start) = next
            && start < end
        {
            let mut found: ArrayVec<(EntryRef, Flow, Search), LOOKUP_BURST> = ArrayVec::new();
            next = self.entries.visit_chunk(
                start,
                (LOOKUP_BURST as u32).min(end - start),
                |entry, key, value| {
                    let flow = flow_of(&self.endpoints, *key);
                    if wanted(&flow, value) {
                        let search = self.index.search(*key);
                        self.index.prefetch_first(&search);
                        let _ = found.try_push((entry, flow, search));
                    }
                },
            );
            for (entry, flow, search) in &found {
                let idle_ms = self.index.find(search).map_or(0, |found| found.hot.idle_ms(now_ms));
                if let Some(value) = self.entries.get(*entry) {
                    visit(*entry, flow, value, idle_ms);
                }
            }
        }
        next
    }

    /// Visits the entries in the next `chunk` slots from `cursor` on, as [`Shard::visit_chunk`] does, without their idle times.
    pub fn visit_slots(
        &self,
        cursor: u32,
        chunk: u32,
        mut visit: impl FnMut(EntryRef, &Flow, &E),
    ) -> Option<u32> {
        self.entries.visit_chunk(cursor, chunk, |entry, key, value| {
            visit(entry, &flow_of(&self.endpoints, *key), value);
        })
    }
}

fn idle_ms(index: &Index, key: Key, now_ms: u32) -> Option<u32> {
    index.find(&index.search(key)).map(|found| found.hot.idle_ms(now_ms))
}

fn flow_of(endpoints: &Endpoints, key: Key) -> Flow {
    let endpoint = endpoints.word_of(key.endpoint());
    Flow {
        client: key.client(),
        client_port: key.client_port(),
        endpoint: Ipv4Addr::from_bits((endpoint >> 16) as u32),
        endpoint_port: endpoint as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// As large as an entry may be; its first word is the board when its last one is set.
    type Entry = [u32; 8];

    impl Settled for Entry {
        fn settled_board(&self) -> Option<BoardId> {
            (self[7] == SETTLED).then_some(BoardId(self[0] as u16))
        }
    }

    const SETTLED: u32 = 0xffff_fff0;

    const KEY: [u64; 2] = [0x5bd1_e995_9e37_79b9, 0x0123_4567_89ab_cdef];

    fn flow(number: u32) -> Flow {
        Flow {
            client: Ipv4Addr::from(0xc633_6400 + (number >> 16)),
            client_port: number as u16,
            endpoint: Ipv4Addr::new(203, 0, 113, 1),
            endpoint_port: 80,
        }
    }

    fn slot(found: &Option<Indexed>) -> Option<u32> {
        found.map(|found| found.slot)
    }

    fn shard(capacity: u32) -> Shard<Entry> {
        Shard::new(capacity, KEY, 0).unwrap()
    }

    #[test]
    fn a_million_flows_in_a_full_shard_are_found_and_cost_less_than_96_octets_each() {
        const FLOWS: u32 = 1_000_000;
        let mut shard = shard(FLOWS);
        let refs: Vec<_> = (0..FLOWS).map(|n| shard.insert(&flow(n), [n; 8], 0).unwrap()).collect();
        let full = shard.octets() as f64 / f64::from(FLOWS);
        assert!(full < 80.2, "{full} octets per flow in a full shard");
        assert!(full / 0.9 < 96.0, "{} octets per flow with 90 % of the slots in use", full / 0.9);
        assert_eq!(shard.len(), FLOWS);
        let (mut found, mut flows) = ([None; 100], Vec::new());
        for (piece, expected) in refs.chunks(100).enumerate() {
            flows.clear();
            flows.extend((0..100).map(|n| flow(piece as u32 * 100 + n)));
            shard.lookup_burst(&flows, &mut found);
            assert!(found.iter().zip(expected).all(|(found, expected)| slot(found) == Some(expected.slot())));
        }
        for (number, &entry) in refs.iter().enumerate() {
            assert_eq!(shard.lookup(&flow(number as u32)), Some(entry));
            assert_eq!(shard.get(entry).unwrap()[7], number as u32);
        }
        assert!((FLOWS..FLOWS + 100_000).all(|n| shard.lookup(&flow(n)).is_none()));

        // Full: new flows are refused, and no old one is harmed.
        let refused = shard.insert(&flow(FLOWS), [7; 8], 0).unwrap_err();
        assert_eq!(refused, Refused { entry: [7; 8], reason: RefusedReason::Full });
        assert_eq!(shard.lookup(&flow(FLOWS)), None);
        assert!((0..FLOWS).step_by(1_009).all(|n| shard.lookup(&flow(n)) == Some(refs[n as usize])));
        assert_eq!(shard.remove(refs[3]), Some([3; 8]));
        let entry = shard.insert(&flow(FLOWS), [8; 8], 0).unwrap();
        assert_eq!(shard.lookup(&flow(FLOWS)), Some(entry));
    }

    #[test]
    fn second_entry_for_a_flow_is_refused() {
        let mut shard = shard(8);
        let first = shard.insert(&flow(1), [1; 8], 0).unwrap();
        let refused = shard.insert(&flow(1), [2; 8], 0).unwrap_err();
        assert_eq!(refused, Refused { entry: [2; 8], reason: RefusedReason::Occupied(first) });
        assert_eq!((shard.len(), shard.get(first)), (1, Some(&[1; 8])));
    }

    #[test]
    fn stale_reference_reaches_neither_the_new_entry_nor_its_timer() {
        let mut shard = shard(1);
        let old = shard.insert(&flow(1), [1; 8], 0).unwrap();
        assert!(shard.schedule(old, 10));
        assert_eq!(shard.remove(old), Some([1; 8]));
        let new = shard.insert(&flow(2), [2; 8], 0).unwrap();
        assert_eq!(new.slot(), old.slot());
        assert_eq!(shard.due_tick(new), None, "the timer went with the old entry");
        assert!(shard.schedule(new, 20));
        assert!(!shard.schedule(old, 5) && !shard.cancel(old));
        assert_eq!((shard.due_tick(old), shard.due_tick(new)), (None, Some(20)));
        assert_eq!((shard.get(old), shard.flow(old), shard.lookup(&flow(1))), (None, None, None));
        assert_eq!(shard.remove(old), None);
        assert_eq!(shard.flow(new), Some(flow(2)));
    }

    #[test]
    fn every_port_of_one_client_and_every_client_of_one_port_keep_the_search_short() {
        let ports = |n: u32| Flow { client_port: n as u16, ..flow(0) };
        let clients = |n: u32| Flow { client: Ipv4Addr::from(0x0a00_0000 + n), ..flow(0) };
        // Multiples of a power of two are what defeats hashes that only shift and add.
        let strides = |n: u32| Flow { client: Ipv4Addr::from(n << 16), ..flow(0) };
        for key in 0..4 {
            for pattern in [ports as fn(u32) -> Flow, clients, strides] {
                let mut shard = Shard::<Entry>::new(65_536, [key, 0], 0).unwrap();
                (0..65_536).for_each(|n| assert!(shard.insert(&pattern(n), [n; 8], 0).is_ok()));
                assert!((0..65_536).all(|n| shard.lookup(&pattern(n)).is_some()));
                assert!(shard.longest_search() <= 20, "longest search {}", shard.longest_search());
            }
        }
    }

    #[test]
    fn expired_entries_are_gone_and_put_off_ones_stay() {
        let mut shard = shard(10);
        let refs: Vec<_> = (0..10).map(|n| shard.insert(&flow(n), [n; 8], 0).unwrap()).collect();
        refs.iter().for_each(|&entry| assert!(shard.schedule(entry, 100)));
        assert!(shard.cancel(refs[9]));
        let work = shard.expire(100, 64, |entry, flow_due, value| {
            assert_eq!((entry, *flow_due), (refs[value[0] as usize], flow(value[0])));
            if value[0].is_multiple_of(2) { Due::Expire } else { Due::Again(200) }
        });
        assert_eq!(work, Work { expired: 5, put_off: 4, cascaded: 0 });
        for (number, &entry) in refs.iter().enumerate() {
            let stays = number % 2 == 1;
            assert_eq!(shard.lookup(&flow(number as u32)), stays.then_some(entry));
            assert_eq!(shard.get(entry).is_some(), stays);
        }
        assert_eq!((shard.due_tick(refs[1]), shard.due_tick(refs[9])), (Some(200), None));
        assert_eq!(shard.len(), 5);
    }

    #[test]
    fn listing_in_chunks_shows_every_flow_once() {
        let mut shard = shard(1_000);
        (0..900).for_each(|n| assert!(shard.insert(&flow(n), [n; 8], 0).is_ok()));
        let (mut seen, mut cursor) = (Vec::new(), Some(0));
        while let Some(from) = cursor {
            cursor = shard.visit_chunk(
                from,
                64,
                0,
                |_, _| true,
                |entry, listed, value, _| {
                    assert_eq!((*listed, shard.lookup(listed)), (flow(value[0]), Some(entry)));
                    seen.push(value[0]);
                },
            );
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..900).collect::<Vec<_>>());
    }

    #[test]
    fn burst_of_unequal_slices_uses_the_shorter() {
        let mut shard = shard(100);
        let refs: Vec<_> = (0..100).map(|n| shard.insert(&flow(n), [n; 8], 0).unwrap()).collect();
        let flows: Vec<_> = (0..70).map(flow).collect();
        for len in [0, 1, 31, 32, 33, 64, 70] {
            let mut found = [None; 100];
            shard.lookup_burst(&flows[..len], &mut found);
            assert!((0..100).all(|n| slot(&found[n]) == (n < len).then(|| refs[n].slot())));
            let mut found = vec![None; len];
            shard.lookup_burst(&flows, &mut found);
            assert!((0..len).all(|n| slot(&found[n]) == Some(refs[n].slot())));
        }
    }

    #[test]
    fn a_flow_is_absent_only_while_nothing_is_entered() {
        let mut shard = shard(8);
        let look = |shard: &Shard<Entry>, number| {
            let mut search = shard.begin(&flow(number));
            shard.go_on(&mut search);
            search
        };
        // Before the first flow of an endpoint, too: it has no number then.
        let (entered, early) = (shard.entered(), look(&shard, 1));
        assert!(shard.is_absent(&early, entered));
        shard.insert(&flow(1), [0; 8], 0).unwrap();
        assert!(!shard.is_absent(&early, entered));
        let (entered, one, two) = (shard.entered(), look(&shard, 1), look(&shard, 2));
        assert!(!shard.is_absent(&one, entered) && shard.is_absent(&two, entered));
        shard.insert(&flow(3), [0; 8], 0).unwrap();
        assert!(!shard.is_absent(&two, entered), "it may be another that came");
    }

    #[test]
    fn a_change_to_an_entry_shows_in_the_next_packet() {
        let mut shard = shard(100);
        let refs: Vec<_> = (0..100).map(|n| shard.insert(&flow(n), [n; 8], 0).unwrap()).collect();
        let mut search = shard.begin(&flow(7));
        shard.go_on(&mut search);
        assert_eq!(shard.forward(&search, 1_000), None, "not settled");
        assert_eq!(shard.idle_ms(refs[7], 10_000), Some(10_000));
        let mut entry = shard.get_mut(refs[7]).unwrap();
        (entry[0], entry[7]) = (9, SETTLED);
        drop(entry);
        assert_eq!(shard.forward(&search, 6_400), Some(BoardId(9)));
        assert_eq!(shard.idle_ms(refs[7], 12_800), Some(6_400));
        shard.get_mut(refs[7]).unwrap()[0] = 10;
        assert_eq!(shard.forward(&search, 6_400), Some(BoardId(10)));
        shard.get_mut(refs[7]).unwrap()[7] = 0;
        assert_eq!(shard.forward(&search, 6_400), None);
        assert_eq!(shard.forward(&shard.begin(&flow(100)), 6_400), None, "no such flow");
        shard.remove(refs[7]);
        assert_eq!(shard.forward(&search, 6_400), None, "gone");
        // Entered settled, as flows are that a restarted appliance learns of.
        let entry = shard.insert(&flow(7), [3, 0, 0, 0, 0, 0, 0, SETTLED], 20_000).unwrap();
        let mut search = shard.begin(&flow(7));
        shard.go_on(&mut search);
        assert_eq!(shard.forward(&search, 20_000), Some(BoardId(3)));
        assert_eq!(shard.idle_ms(entry, 20_000), Some(20_000 % 64));
        shard.see(entry, 64_000);
        assert_eq!(shard.idle_ms(entry, 64_064), Some(64));
    }

    #[test]
    fn flows_that_differ_in_the_endpoint_alone_are_apart() {
        let mut shard = shard(10);
        let other = Flow { endpoint_port: 443, ..flow(1) };
        let search = shard.begin(&other);
        let first = shard.insert(&flow(1), [1; 8], 0).unwrap();
        assert_eq!(shard.lookup(&other), None);
        let second = shard.insert(&other, [2; 8], 0).unwrap();
        assert_eq!((shard.lookup(&flow(1)), shard.lookup(&other)), (Some(first), Some(second)));
        assert_eq!((shard.flow(first), shard.flow(second)), (Some(flow(1)), Some(other)));
        assert_eq!(shard.forward(&search, 0), None, "begun before its endpoint was known");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u32, u32),
        Remove(u32),
        Schedule(u32, u32),
        Cancel(u32),
        Lookup(Vec<u32>),
        Expire(u32, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let number = 0..90u32;
        prop_oneof![
            4 => (number.clone(), any::<u32>()).prop_map(|(n, value)| Step::Insert(n, value)),
            2 => number.clone().prop_map(Step::Remove),
            3 => (number.clone(), 0..2_000u32).prop_map(|(n, delay)| Step::Schedule(n, delay)),
            1 => number.clone().prop_map(Step::Cancel),
            2 => prop::collection::vec(number, 0..70).prop_map(Step::Lookup),
            2 => (0..700u32, 0..12usize).prop_map(|(ticks, budget)| Step::Expire(ticks, budget)),
        ]
    }

    struct Modelled {
        entry: EntryRef,
        value: u32,
        due: Option<u64>,
    }

    proptest! {
        /// Against a map of everything, with more flows than slots so that it is full now and then.
        #[test]
        fn behaves_like_a_map_with_deadlines(
            start in prop_oneof![Just(u32::MAX - 500), any::<u32>()],
            steps in prop::collection::vec(step(), 1..400),
        ) {
            let mut shard = Shard::<Entry>::new(64, KEY, start).unwrap();
            let mut model: HashMap<u32, Modelled> = HashMap::new();
            let mut gone: Vec<EntryRef> = Vec::new();
            let mut now = u64::from(start);
            for step in steps {
                match step {
                    Step::Insert(n, value) => match (shard.insert(&flow(n), [value; 8], 0), model.get(&n)) {
                        (Ok(entry), None) => {
                            model.insert(n, Modelled { entry, value, due: None });
                        }
                        (Err(Refused { reason: RefusedReason::Occupied(at), .. }), Some(old)) => {
                            prop_assert_eq!(at, old.entry);
                        }
                        (Err(Refused { reason: RefusedReason::Full, .. }), None) => {
                            prop_assert_eq!(model.len(), 64);
                        }
                        (result, old) => prop_assert!(false, "{:?}, had one: {}", result, old.is_some()),
                    },
                    Step::Remove(n) => if let Some(old) = model.remove(&n) {
                        prop_assert_eq!(shard.remove(old.entry), Some([old.value; 8]));
                        gone.push(old.entry);
                    },
                    Step::Schedule(n, delay) => if let Some(old) = model.get_mut(&n) {
                        prop_assert!(shard.schedule(old.entry, (now as u32).wrapping_add(delay)));
                        old.due = Some(now + u64::from(delay));
                    },
                    Step::Cancel(n) => if let Some(old) = model.get_mut(&n) {
                        prop_assert_eq!(shard.cancel(old.entry), old.due.take().is_some());
                    },
                    Step::Lookup(numbers) => {
                        let flows: Vec<_> = numbers.iter().map(|&n| flow(n)).collect();
                        let mut found = vec![None; flows.len()];
                        shard.lookup_burst(&flows, &mut found);
                        for (n, found) in numbers.iter().zip(found) {
                            let entry = model.get(n).map(|old| old.entry);
                            prop_assert_eq!(slot(&found), entry.map(EntryRef::slot));
                            prop_assert_eq!(shard.lookup(&flow(*n)), entry);
                        }
                    }
                    Step::Expire(ticks, budget) => {
                        now += u64::from(ticks);
                        let mut expired = Vec::new();
                        let work = shard.expire(now as u32, budget, |entry, _, value| {
                            expired.push((entry, value[0]));
                            Due::Expire
                        });
                        prop_assert!(work.total() <= budget && work.expired == expired.len());
                        for (entry, value) in expired {
                            let n = *model.iter().find(|(_, old)| old.entry == entry).unwrap().0;
                            let old = model.remove(&n).unwrap();
                            prop_assert!(old.value == value && old.due.is_some_and(|due| due <= now));
                            gone.push(entry);
                        }
                        if work.total() < budget {
                            prop_assert!(model.values().all(|old| old.due.is_none_or(|due| due > now)));
                        }
                    }
                }
                prop_assert_eq!(shard.len() as usize, model.len());
            }
            prop_assert!(gone.iter().all(|&entry| shard.get(entry).is_none() && shard.remove(entry).is_none()));
            for (n, old) in &model {
                prop_assert_eq!(shard.lookup(&flow(*n)), Some(old.entry));
                prop_assert_eq!(shard.get(old.entry), Some(&[old.value; 8]));
            }
        }
    }
}
