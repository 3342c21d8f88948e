//! A table of sessions: which board a hash belongs to. Fixed in size, the longest unused first to go.
//!
//! Entries lie in an array of their own; each is in the chain of its hash and in the list of uses. The hashes are keyed where they are
//! made, so that nobody can fill one chain. Cost: a look-up is a cache line or two; see `ipos-bench cookies`.

use std::net::Ipv4Addr;

use ipos_pipelines::handoff::{BoardId, SessionKey};

/// No entry.
const NONE: u32 = u32::MAX;

/// Where a session lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The board's number.
    pub board: BoardId,
    /// Its address: a number is given to another board when its own is gone.
    pub address: Ipv4Addr,
}

/// A session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The hash of the cookie's value.
    pub key: SessionKey,
    /// The board.
    pub place: Place,
    /// When it was first seen, nanoseconds.
    pub since_ns: u64,
    /// When it was last asked for, nanoseconds.
    pub used_ns: u64,
    /// How often it was found.
    pub hits: u32,
}

/// An entry with its place in the lists.
#[derive(Clone, Copy, Debug)]
struct Slot {
    entry: Entry,
    /// The one used next after it, and the one used before it.
    newer: u32,
    older: u32,
    /// The next of its chain; of one that is free the next that is.
    next: u32,
    is_used: bool,
}

/// What became of a session that was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is new.
    New,
    /// It is new, and the one that was unused for longest had to go.
    Evicted,
    /// It was there, at the same board.
    Same,
    /// It was there, at another board.
    Moved,
}

/// The table.
#[derive(Debug)]
pub struct Table {
    capacity: usize,
    slots: Vec<Slot>,
    /// The first entry of each chain; a power of two of them.
    chains: Box<[u32]>,
    newest: u32,
    oldest: u32,
    free: u32,
    len: usize,
}

impl Table {
    /// An empty table of so many entries, at least one. Allocates what it will ever need; memory is touched as it fills.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, NONE as usize / 2);
        Self {
            capacity,
            slots: Vec::with_capacity(capacity),
            chains: vec![NONE; capacity.next_power_of_two()].into(),
            newest: NONE,
            oldest: NONE,
            free: NONE,
            len: 0,
        }
    }

    /// Sessions in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sessions that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The same sessions in a table of another size; of too many the last used stay.
    pub fn resized(&self, capacity: usize) -> Self {
        let mut table = Self::new(capacity);
        let mut at = self.oldest;
        while let Some(slot) = self.slots.get(at as usize) {
            table.insert(slot.entry);
            at = slot.newer;
        }
        table
    }

    /// Looks a session up, without using it.
    pub fn peek(&self, key: SessionKey) -> Option<&Entry> {
        let at = self.find(key)?;
        self.slots.get(at as usize).map(|slot| &slot.entry)
    }

    /// Looks a session up and uses it.
    pub fn use_(&mut self, key: SessionKey, now_ns: u64) -> Option<Entry> {
        let at = self.find(key)?;
        self.unlink(at);
        self.link_newest(at);
        let entry = &mut self.slots.get_mut(at as usize)?.entry;
        entry.used_ns = now_ns;
        entry.hits = entry.hits.saturating_add(1);
        Some(*entry)
    }

    /// Puts a session in, or takes note of its board.
    pub fn put(&mut self, key: SessionKey, place: Place, now_ns: u64) -> Put {
        let known = self.find(key);
        if let Some(slot) = known.and_then(|at| self.slots.get_mut(at as usize)) {
            let before = std::mem::replace(&mut slot.entry.place, place);
            return if before == place { Put::Same } else { Put::Moved };
        }
        self.insert(Entry { key, place, since_ns: now_ns, used_ns: now_ns, hits: 0 })
    }

    /// Takes out sessions that were not used since then, at most so many. How many that were.
    pub fn expire(&mut self, unused_since_ns: u64, most: usize) -> usize {
        let mut count = 0;
        while count < most
            && let Some(slot) = self.slots.get(self.oldest as usize)
            && slot.entry.used_ns < unused_since_ns
        {
            self.remove(self.oldest);
            count += 1;
        }
        count
    }

    /// The sessions in `count` slots from one on; a listing that goes on so sees each that stays once.
    pub fn rows(&self, from: usize, count: usize) -> impl Iterator<Item = &Entry> {
        let slots = self.slots.iter().skip(from).take(count);
        slots.filter(|slot| slot.is_used).map(|slot| &slot.entry)
    }

    /// Slots that were ever used: where a listing ends.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    fn chain(&self, key: SessionKey) -> usize {
        key.bits() as usize & (self.chains.len() - 1)
    }

    fn find(&self, key: SessionKey) -> Option<u32> {
        let mut at = *self.chains.get(self.chain(key))?;
        loop {
            let slot = self.slots.get(at as usize)?;
            if slot.entry.key == key {
                return Some(at);
            }
            at = slot.next;
        }
    }

    /// Puts in one that is not there.
    fn insert(&mut self, entry: Entry) -> Put {
        let is_full = self.len == self.capacity;
        if is_full {
            self.remove(self.oldest);
        }
        let chain = self.chain(entry.key);
        let Some(first) = self.chains.get_mut(chain) else { return Put::New };
        let slot = Slot { entry, newer: NONE, older: NONE, next: *first, is_used: true };
        let at = match self.slots.get_mut(self.free as usize) {
            Some(free) => {
                let at = std::mem::replace(&mut self.free, free.next);
                *free = slot;
                at
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        *first = at;
        self.len += 1;
        self.link_newest(at);
        if is_full { Put::Evicted } else { Put::New }
    }

    fn remove(&mut self, at: u32) {
        let Some(slot) = self.slots.get(at as usize).copied().filter(|slot| slot.is_used) else { return };
        self.unlink(at);
        self.unchain(at, &slot);
        if let Some(gone) = self.slots.get_mut(at as usize) {
            gone.is_used = false;
            gone.next = std::mem::replace(&mut self.free, at);
        }
        self.len -= 1;
    }

    /// Takes an entry out of its chain.
    fn unchain(&mut self, at: u32, slot: &Slot) {
        let chain = self.chain(slot.entry.key);
        let Some(first) = self.chains.get_mut(chain) else { return };
        if *first == at {
            *first = slot.next;
            return;
        }
        let mut before = *first;
        while let Some(link) = self.slots.get_mut(before as usize) {
            if link.next == at {
                link.next = slot.next;
                return;
            }
            before = link.next;
        }
    }

    /// Takes an entry out of the list of uses.
    fn unlink(&mut self, at: u32) {
        let Some(slot) = self.slots.get(at as usize).copied() else { return };
        match self.slots.get_mut(slot.newer as usize) {
            Some(newer) => newer.older = slot.older,
            None => self.newest = slot.older,
        }
        match self.slots.get_mut(slot.older as usize) {
            Some(older) => older.newer = slot.newer,
            None => self.oldest = slot.newer,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let before = std::mem::replace(&mut self.newest, at);
        if let Some(slot) = self.slots.get_mut(at as usize) {
            (slot.newer, slot.older) = (NONE, before);
        }
        match self.slots.get_mut(before as usize) {
            Some(older) => older.newer = at,
            None => self.oldest = at,
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
