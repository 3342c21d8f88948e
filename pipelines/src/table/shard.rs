//! One worker's shard: entries by flow, with a timer each.

use std::hint::black_box;
use std::net::Ipv4Addr;

use ipos_wire::flow::Flow;

use super::hash::FlowHasher;
use super::index::{Candidate, Index};
use super::memory::{Heap, Memory, OutOfMemory};
use super::slab::{EntryRef, Slab};
use super::wheel::{Due, Wheel, Work};

/// Flows that a bulk lookup works on at once; longer slices are done in pieces.
pub const LOOKUP_BURST: usize = 32;

/// Why a flow was not entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    /// Every slot is in use, or (a matter of chance beyond 95 % load of the index) no place was found in it.
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

/// A flow in the form in which it is hashed, compared and stored.
type Key = [u8; 12];

fn flow_of(key: &Key) -> Flow {
    let [c0, c1, c2, c3, cp0, cp1, e0, e1, e2, e3, ep0, ep1] = *key;
    Flow {
        client: Ipv4Addr::new(c0, c1, c2, c3),
        client_port: u16::from_be_bytes([cp0, cp1]),
        endpoint: Ipv4Addr::new(e0, e1, e2, e3),
        endpoint_port: u16::from_be_bytes([ep0, ep1]),
    }
}

/// A fixed number of entries `E` by flow, each with at most one timer. Owned by one worker; nothing is shared, nothing
/// is allocated after construction. `E` is at most 48 octets, so that an entry with its key is one cache line.
pub struct Shard<E, M: Memory = Heap> {
    hasher: FlowHasher,
    index: Index<M>,
    entries: Slab<E, Key, M>,
    timers: Wheel<M>,
}

impl<E> Shard<E> {
    /// A shard for `capacity` flows on the heap; `key` is 128 bits from the operating system's random source, `now_tick`
    /// the clock at which the timers start.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    ///
    /// # Panics
    /// When `capacity` is above [`super::MAX_CAPACITY`].
    pub fn new(capacity: u32, key: [u64; 2], now_tick: u32) -> Result<Self, OutOfMemory> {
        Self::with_memory(capacity, key, now_tick, &Heap)
    }
}

impl<E, M: Memory> Shard<E, M> {
    /// As [`Shard::new`], in the given memory.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    ///
    /// # Panics
    /// When `capacity` is above [`super::MAX_CAPACITY`].
    pub fn with_memory(capacity: u32, key: [u64; 2], now_tick: u32, memory: &M) -> Result<Self, OutOfMemory> {
        const { assert!(Slab::<E, Key, M>::SLOT_OCTETS == 64, "an entry is at most 48 octets") };
        Ok(Self {
            hasher: FlowHasher::new(key),
            index: Index::with_memory(capacity, memory)?,
            entries: Slab::with_memory(capacity, memory)?,
            timers: Wheel::with_memory(capacity, now_tick, memory)?,
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
        let per_slot = Slab::<E, Key, M>::SLOT_OCTETS + Wheel::<M>::SLOT_OCTETS;
        size_of::<Self>() + self.index.octets() + self.capacity() as usize * per_slot
    }

    /// Most full buckets that an insertion has had to look at so far (see [`Index::longest_search`]).
    pub fn longest_search(&self) -> u32 {
        self.index.longest_search()
    }

    /// The entry of a flow.
    #[inline]
    pub fn lookup(&self, flow: &Flow) -> Option<EntryRef> {
        let key = flow.to_octets();
        self.find(&key, self.hasher.hash(&key))
    }

    #[inline]
    fn find(&self, key: &Key, hash: u64) -> Option<EntryRef> {
        let slot = self.index.lookup(hash, |slot| self.entry_in(slot, key).is_some())?;
        self.entry_in(slot, key)
    }

    /// The entry in a slot, if its key is this one.
    #[inline(always)]
    fn entry_in(&self, slot: u32, key: &Key) -> Option<EntryRef> {
        self.entries.at(slot).filter(|(_, stored, _)| *stored == key).map(|(entry, _, _)| entry)
    }

    /// The entries of a burst of flows: `found[i]` is that of `flows[i]`. Slices of different lengths are used up to the
    /// shorter one.
    ///
    /// The cache misses of a burst overlap: one pass hashes, one loads all buckets, one picks the slots from them and
    /// loads those, the last compares keys.
    pub fn lookup_burst(&self, flows: &[Flow], found: &mut [Option<EntryRef>]) {
        for (flows, found) in flows.chunks(LOOKUP_BURST).zip(found.chunks_mut(LOOKUP_BURST)) {
            self.lookup_piece(flows, found);
        }
    }

    fn lookup_piece(&self, flows: &[Flow], found: &mut [Option<EntryRef>]) {
        let mut keys = [([0; 12], 0); LOOKUP_BURST];
        let mut candidates = [Candidate::Absent; LOOKUP_BURST];
        let count = flows.len().min(found.len()).min(LOOKUP_BURST);
        let (keys, candidates) = (&mut keys[..count], &mut candidates[..count]);
        for ((key, hash), flow) in keys.iter_mut().zip(flows) {
            *key = flow.to_octets();
            *hash = self.hasher.hash(key);
        }
        black_box(keys.iter().fold(0, |sum, (_, hash)| sum ^ self.index.touch(*hash)));
        for (candidate, (_, hash)) in candidates.iter_mut().zip(keys.iter()) {
            *candidate = self.index.candidate(*hash);
        }
        black_box(candidates.iter().zip(keys.iter()).fold(
            0,
            |sum, (candidate, (_, hash))| match candidate {
                Candidate::Slot(slot) => sum ^ self.entries.touch(*slot),
                Candidate::Second => sum ^ u32::from(self.index.touch_second(*hash)),
                Candidate::Absent => sum,
            },
        ));
        for ((found, candidate), (key, hash)) in found.iter_mut().zip(candidates.iter()).zip(keys.iter()) {
            *found = match *candidate {
                Candidate::Slot(slot) => self.entry_in(slot, key).or_else(|| self.find(key, *hash)),
                Candidate::Second => self.find(key, *hash),
                Candidate::Absent => None,
            };
        }
    }

    /// Enters a flow, without a timer.
    ///
    /// # Errors
    /// [`Refused`] with the entry when the flow has one already, or the shard is full. Nothing is changed then.
    pub fn insert(&mut self, flow: &Flow, entry: E) -> Result<EntryRef, Refused<E>> {
        let key = flow.to_octets();
        let hash = self.hasher.hash(&key);
        if let Some(present) = self.find(&key, hash) {
            return Err(Refused { entry, reason: RefusedReason::Occupied(present) });
        }
        let entered = match self.entries.insert_keyed(key, entry) {
            Ok(entered) => entered,
            Err(entry) => return Err(Refused { entry, reason: RefusedReason::Full }),
        };
        if self.index.insert(hash, entered.slot()).is_err()
            && let Some(entry) = self.entries.remove(entered)
        {
            return Err(Refused { entry, reason: RefusedReason::Full });
        }
        Ok(entered)
    }

    /// Removes an entry and its timer; nothing when the reference is stale.
    pub fn remove(&mut self, entry: EntryRef) -> Option<E> {
        let (key, value) = self.entries.remove_keyed(entry)?;
        self.timers.cancel(entry.slot());
        self.index.remove(self.hasher.hash(&key), entry.slot());
        Some(value)
    }

    /// The entry, unless the reference is stale.
    #[inline]
    pub fn get(&self, entry: EntryRef) -> Option<&E> {
        self.entries.get(entry)
    }

    /// The entry, for changing it, unless the reference is stale.
    #[inline]
    pub fn get_mut(&mut self, entry: EntryRef) -> Option<&mut E> {
        self.entries.get_mut(entry)
    }

    /// The entry's flow, unless the reference is stale.
    pub fn flow(&self, entry: EntryRef) -> Option<Flow> {
        self.entries.key(entry).map(flow_of)
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

    /// Handles timers due up to `now_tick`, at most `budget` of them (see [`Wheel::advance`]). `is_due` sees the entry and
    /// may take out of it what it owns; on [`Due::Expire`] the entry is removed and dropped, on [`Due::Again`] it stays.
    pub fn expire(
        &mut self,
        now_tick: u32,
        budget: usize,
        mut is_due: impl FnMut(EntryRef, &Flow, &mut E) -> Due,
    ) -> Work {
        let Self { hasher, index, entries, timers } = self;
        timers.advance(now_tick, budget, |slot| {
            // Removal cancels the timer, so the entry is there.
            let Some((entry, key, value)) = entries.at_mut(slot) else { return Due::Expire };
            let verdict = is_due(entry, &flow_of(key), value);
            if verdict == Due::Expire {
                let hash = hasher.hash(key);
                index.remove(hash, slot);
                entries.remove(entry);
            }
            verdict
        })
    }

    /// Visits the entries in the next `chunk` slots from `cursor` (0 at first) on and returns where to go on, `None` at
    /// the end: a status listing in pieces that a worker can afford (see [`Slab::visit_chunk`]).
    pub fn visit_chunk(
        &self,
        cursor: u32,
        chunk: u32,
        mut visit: impl FnMut(EntryRef, &Flow, &E),
    ) -> Option<u32> {
        self.entries.visit_chunk(cursor, chunk, |entry, key, value| visit(entry, &flow_of(key), value))
    }
}
