//! Entries in fixed slots, found by slot number and protected by a generation.

use std::num::NonZeroU32;

use ipos_dpdk::memory::{Array, OutOfMemory};
use ipos_dpdk::prefetch;

use super::index::SLOTS_MAX;

/// Most slots that a table has: as many as the index can name.
pub const MAX_CAPACITY: u32 = SLOTS_MAX;

/// Names one entry of a [`Slab`] for as long as it lives: when the entry is removed and its slot used again, the
/// generation differs and the reference finds nothing. Safe to keep in messages to the control core and back.
///
/// A slot's generation repeats after 2^32 - 1 uses of that slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EntryRef {
    slot: u32,
    generation: NonZeroU32,
}

const _: () = assert!(size_of::<Option<EntryRef>>() == 8);

impl EntryRef {
    /// The slot number, below the slab's capacity.
    #[inline(always)]
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// Which use of the slot this is, from 1.
    pub fn generation(self) -> u32 {
        self.generation.get()
    }
}

/// One slot; the free list is threaded through the slots that are not in use.
enum Slot<T, K> {
    Free { generation: NonZeroU32, next: u32 },
    Used { generation: NonZeroU32, key: K, value: T },
}

const NONE: u32 = u32::MAX;

// The two cases of a slot are told apart by a value that the generation never has, not by a word of their own.
const _: () = assert!(size_of::<Slot<[u64; 4], u64>>() == 48);

/// A fixed number of slots for values `T`, with a key `K` kept beside each (none by default).
///
/// All memory is taken at construction. Every operation is O(1), and touches the one slot that it is about.
pub struct Slab<T, K = ()> {
    slots: Array<Slot<T, K>>,
    first_free: u32,
    len: u32,
}

impl<T> Slab<T> {
    /// Puts `value` into a free slot; gives it back when there is none.
    ///
    /// # Errors
    /// The value itself, when the slab is full.
    #[inline]
    pub fn insert(&mut self, value: T) -> Result<EntryRef, T> {
        self.insert_keyed((), value)
    }
}

impl<T, K> Slab<T, K> {
    /// Octets of one slot, generation and key included.
    pub const SLOT_OCTETS: usize = size_of::<Slot<T, K>>();

    /// A slab of `capacity` slots.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    ///
    /// # Panics
    /// When `capacity` is above [`MAX_CAPACITY`].
    pub fn new(capacity: u32) -> Result<Self, OutOfMemory> {
        assert!(capacity <= MAX_CAPACITY, "a slab of {capacity} slots: at most {MAX_CAPACITY}");
        let slots = Array::new(capacity as usize, |slot| {
            let next = if slot + 1 < capacity as usize { slot as u32 + 1 } else { NONE };
            Slot::Free { generation: NonZeroU32::MIN, next }
        })?;
        Ok(Self { slots, first_free: if capacity == 0 { NONE } else { 0 }, len: 0 })
    }

    /// Number of slots.
    pub fn capacity(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Number of slots in use.
    #[inline]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every slot is in use.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.first_free == NONE
    }

    /// Puts `value` into a free slot with `key` beside it; gives the value back when there is none.
    ///
    /// # Errors
    /// The value itself, when the slab is full.
    #[inline]
    pub fn insert_keyed(&mut self, key: K, value: T) -> Result<EntryRef, T> {
        let slot = self.first_free;
        let Some(place) = self.slots.get_mut(slot as usize) else { return Err(value) };
        let Slot::Free { generation, next } = *place else {
            unreachable!("the free list names slot {slot}, which is in use");
        };
        *place = Slot::Used { generation, key, value };
        self.first_free = next;
        self.len += 1;
        Ok(EntryRef { slot, generation })
    }

    /// The value, unless the reference is stale.
    #[inline]
    pub fn get(&self, entry: EntryRef) -> Option<&T> {
        match self.slots.get(entry.slot as usize) {
            Some(Slot::Used { generation, value, .. }) if *generation == entry.generation => Some(value),
            _ => None,
        }
    }

    /// The value, for changing it, unless the reference is stale.
    #[inline]
    pub fn get_mut(&mut self, entry: EntryRef) -> Option<&mut T> {
        match self.slots.get_mut(entry.slot as usize) {
            Some(Slot::Used { generation, value, .. }) if *generation == entry.generation => Some(value),
            _ => None,
        }
    }

    /// Key and value, for changing the value, unless the reference is stale.
    #[inline]
    pub fn keyed_mut(&mut self, entry: EntryRef) -> Option<(&K, &mut T)> {
        match self.slots.get_mut(entry.slot as usize) {
            Some(Slot::Used { generation, key, value }) if *generation == entry.generation => {
                Some((key, value))
            }
            _ => None,
        }
    }

    /// The key, unless the reference is stale.
    #[inline]
    pub fn key(&self, entry: EntryRef) -> Option<&K> {
        match self.slots.get(entry.slot as usize) {
            Some(Slot::Used { generation, key, .. }) if *generation == entry.generation => Some(key),
            _ => None,
        }
    }

    /// What is in a slot now, whichever generation it is: reference, key and value; nothing when the slot is free or
    /// does not exist.
    #[inline]
    pub fn at(&self, slot: u32) -> Option<(EntryRef, &K, &T)> {
        match self.slots.get(slot as usize) {
            Some(Slot::Used { generation, key, value }) => {
                Some((EntryRef { slot, generation: *generation }, key, value))
            }
            _ => None,
        }
    }

    /// Starts to load a slot's line, the first one if it has two.
    #[inline(always)]
    pub fn prefetch(&self, slot: u32) {
        if let Some(place) = self.slots.get(slot as usize) {
            prefetch::read(place);
        }
    }

    /// Takes the value out and frees its slot; nothing when the reference is stale.
    #[inline]
    pub fn remove(&mut self, entry: EntryRef) -> Option<T> {
        self.remove_keyed(entry).map(|(_, value)| value)
    }

    /// As [`Slab::remove`], with the key.
    #[inline]
    pub fn remove_keyed(&mut self, entry: EntryRef) -> Option<(K, T)> {
        let place = self.slots.get_mut(entry.slot as usize)?;
        if !matches!(place, Slot::Used { generation, .. } if *generation == entry.generation) {
            return None;
        }
        // Zero would be no generation: the count goes round to 1.
        let generation = entry.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let was = std::mem::replace(place, Slot::Free { generation, next: self.first_free });
        self.first_free = entry.slot;
        self.len -= 1;
        match was {
            Slot::Used { key, value, .. } => Some((key, value)),
            Slot::Free { .. } => None,
        }
    }

    /// Visits the slots in use among the next `chunk` slots from `cursor` on, and returns where to go on, or `None` at
    /// the end. Entries that come and go between two calls may or may not be seen; the rest is seen exactly once.
    pub fn visit_chunk(
        &self,
        cursor: u32,
        chunk: u32,
        mut visit: impl FnMut(EntryRef, &K, &T),
    ) -> Option<u32> {
        let end = cursor.saturating_add(chunk).min(self.capacity());
        for slot in cursor..end {
            if let Some((entry, key, value)) = self.at(slot) {
                visit(entry, key, value);
            }
        }
        (end < self.capacity()).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_reference_finds_nothing_after_the_slot_is_used_again() {
        let mut slab = Slab::new(1).unwrap();
        let old = slab.insert("old").unwrap();
        assert_eq!(slab.remove(old), Some("old"));
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.remove(old), None);
        let new = slab.insert("new").unwrap();
        assert_eq!(new.slot(), old.slot());
        assert_ne!(new, old);
        assert_eq!((slab.get(old), slab.key(old)), (None, None));
        assert_eq!(slab.get_mut(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&"new"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn full_slab_gives_the_value_back_and_keeps_the_others() {
        let mut slab = Slab::new(3).unwrap();
        let refs: Vec<_> = (0..3).map(|n| slab.insert(n).unwrap()).collect();
        assert!(slab.is_full());
        assert_eq!(slab.insert(9), Err(9));
        assert!(refs.iter().enumerate().all(|(n, &entry)| slab.get(entry) == Some(&n)));
        assert_eq!(slab.remove(refs[1]), Some(1));
        assert!(!slab.is_full());
        assert_eq!(slab.insert(7).unwrap().slot(), refs[1].slot());
    }

    #[test]
    fn zero_capacity_refuses() {
        let mut slab = Slab::new(0).unwrap();
        assert!(slab.is_full() && slab.is_empty());
        assert_eq!(slab.insert(1), Err(1));
        assert_eq!(slab.visit_chunk(0, 8, |_, _, _| panic!("nothing is in it")), None);
    }

    #[test]
    fn generation_goes_round_without_zero() {
        let mut slab = Slab::new(1).unwrap();
        slab.slots[0] = Slot::Free { generation: NonZeroU32::MAX, next: NONE };
        let last = slab.insert('a').unwrap();
        assert_eq!(last.generation(), u32::MAX);
        slab.remove(last).unwrap();
        assert_eq!(slab.insert('b').unwrap().generation(), 1);
    }

    #[test]
    fn reference_beyond_the_slab_finds_nothing() {
        let mut large = Slab::new(10).unwrap();
        let far = (0..10).map(|n| large.insert(n).unwrap()).last().unwrap();
        let mut small = Slab::new(2).unwrap();
        small.insert(0).unwrap();
        assert_eq!(small.get(far), None);
        assert_eq!(small.remove(far), None);
    }

    #[test]
    fn chunks_visit_every_entry_once() {
        let mut slab = Slab::new(100).unwrap();
        let refs: Vec<_> = (0..100).map(|n| slab.insert(n).unwrap()).collect();
        refs.iter().skip(1).step_by(3).for_each(|&entry| assert!(slab.remove(entry).is_some()));
        let (mut seen, mut cursor, mut calls) = (Vec::new(), Some(0), 0);
        while let Some(from) = cursor {
            cursor = slab.visit_chunk(from, 7, |_, _, &value| seen.push(value));
            calls += 1;
        }
        assert_eq!(seen, (0..100).filter(|n| n % 3 != 1).collect::<Vec<_>>());
        assert_eq!(calls, 15);
    }

    #[test]
    fn values_are_dropped_exactly_once() {
        let token = std::rc::Rc::new(());
        let mut slab = Slab::new(4).unwrap();
        let first = slab.insert(token.clone()).unwrap();
        slab.insert(token.clone()).unwrap();
        drop(slab.remove(first));
        assert_eq!(std::rc::Rc::strong_count(&token), 2);
        drop(slab);
        assert_eq!(std::rc::Rc::strong_count(&token), 1);
    }
}
