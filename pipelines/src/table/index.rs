//! From the hash of a flow to its slot: a cuckoo-style table of buckets that are one cache line each.
//!
//! ```text
//! octet 0                     20       22        24                                      64
//!       | tag x 10 (16 bits)  | second | spilled | slot x 10 (32 bits)                   |
//! ```
//!
//! A hash has two candidate buckets. The first comes from its high bits; the second from the first and the tag, so that
//! an entry can be moved to its other bucket without looking at its key ("partial-key cuckoo hashing", Fan et al.,
//! MemC3, 2013). Entries live in their first bucket while it has room, and each bucket counts those that had to go to
//! their second: where the count is zero a lookup ends after one line, hit or miss (the idea of the Bloom filter in
//! Le Scouarnec, Cuckoo++, 2018, as an exact count).

use super::memory::{Heap, Memory, OutOfMemory};
use super::slab::MAX_CAPACITY;

/// Places in a bucket.
pub const WAYS: usize = 10;

/// Share of the places in use when the index holds the number of entries that it was made for, percent.
///
/// Insertion works up to about 98 (see the tests). But at 90, 11 % of the entries are in their second bucket and 40 % of the
/// misses have to ask there; at 80 it is 6 and 22 %, and a removal with an insertion takes 350 instead of 435 ns (1 M
/// flows), all for 0.9 octets per flow.
pub const FULL_LOAD_PERCENT: usize = 80;

/// Full buckets that an insertion looks at before it gives up, and at ten neighbours of each.
const SEARCH_LIMIT: usize = 200;

/// A tag of zero marks a free way; hashes whose tag would be zero get tag 1.
const FREE: u16 = 0;

/// When a bucket's count gets here it stays: only the short cut is lost.
const SPILLED_MAX: u16 = u16::MAX;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u16; WAYS],
    /// Bit `way`: the entry there is in its second bucket.
    second: u16,
    /// Entries whose first bucket this is and that are in their second.
    spilled: u16,
    slots: [u32; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);
const _: () = assert!(WAYS <= u16::BITS as usize);

impl Bucket {
    const EMPTY: Self = Self { tags: [FREE; WAYS], second: 0, spilled: 0, slots: [0; WAYS] };

    /// Bit `way`: that way has this tag.
    #[inline(always)]
    fn matches(&self, tag: u16) -> u32 {
        let mut found = 0;
        for way in 0..WAYS {
            found |= u32::from(self.tags[way] == tag) << way;
        }
        found
    }

    #[inline(always)]
    fn free_way(&self) -> Option<usize> {
        let free = self.matches(FREE);
        (free != 0).then(|| free.trailing_zeros() as usize)
    }

    #[inline(always)]
    fn candidate(&self, tag: u16, otherwise: Candidate) -> Candidate {
        let found = self.matches(tag);
        // Loaded in any case: a branch here would be chance.
        let slot = self.slots[(found | 1 << (WAYS - 1)).trailing_zeros() as usize];
        if found == 0 { otherwise } else { Candidate(slot) }
    }

    /// The way that holds this slot under this tag.
    #[inline]
    fn way_of(&self, tag: u16, slot: u32) -> Option<usize> {
        Ways(self.matches(tag)).find(|&way| self.slots[way] == slot)
    }

    #[inline]
    fn fill(&mut self, way: usize, tag: u16, slot: u32, is_second: bool) {
        self.tags[way] = tag;
        self.slots[way] = slot;
        self.second |= u16::from(is_second) << way;
    }

    /// Frees a way; says whether its entry was in its second bucket.
    #[inline]
    fn clear(&mut self, way: usize) -> bool {
        let was_second = self.second & (1 << way) != 0;
        self.tags[way] = FREE;
        self.second &= !(1 << way);
        was_second
    }
}

/// The set bits of a match mask.
struct Ways(u32);

impl Iterator for Ways {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let way = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(way)
    }
}

/// The index has no place for this hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the table is full")]
pub struct Full;

/// What a bucket says about a hash, without any key being looked at: a slot, nearly always the right one, or one of two
/// values that are no slot. One word and not an enum, so that it is chosen without a branch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate(u32);

const _: () = assert!(Candidate::SECOND.0 > MAX_CAPACITY);

impl Candidate {
    /// Not in the table.
    pub const ABSENT: Self = Self(u32::MAX);
    /// Not in the first bucket; the second has to be asked.
    pub const SECOND: Self = Self(u32::MAX - 1);

    /// The slot whose key is to be compared; above every capacity when there is none.
    #[inline(always)]
    pub fn slot(self) -> u32 {
        self.0
    }
}

/// A step of the search for room: a full bucket, and the way in its parent whose entry could move here.
#[derive(Clone, Copy)]
struct Node {
    bucket: u32,
    parent: u16,
    way_in_parent: u8,
}

/// Parent of the two buckets where a search starts.
const ROOT: u16 = u16::MAX;

const _: () = assert!(SEARCH_LIMIT < ROOT as usize);

/// A hash index of fixed size. Keys are the caller's: it knows hashes and slots only.
pub struct Index<M: Memory = Heap> {
    buckets: M::Array<Bucket>,
    /// Number of buckets, at least 2.
    count: u32,
    len: u32,
    longest_search: u32,
}

impl Index {
    /// An index on the heap that is [`FULL_LOAD_PERCENT`] full with `capacity` entries.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(capacity: u32) -> Result<Self, OutOfMemory> {
        Self::with_memory(capacity, &Heap)
    }
}

impl<M: Memory> Index<M> {
    /// An index in the given memory that is [`FULL_LOAD_PERCENT`] full with `capacity` entries.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn with_memory(capacity: u32, memory: &M) -> Result<Self, OutOfMemory> {
        let places = capacity as usize * 100 / FULL_LOAD_PERCENT;
        // Two more than needed: in a very small table chance fills buckets unevenly.
        let count = places / WAYS + 2;
        let buckets = memory.array(count, |_| Bucket::EMPTY)?;
        Ok(Self { buckets, count: count as u32, len: 0, longest_search: 0 })
    }

    /// Number of entries.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Octets that the index occupies.
    pub fn octets(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }

    /// Most full buckets that an insertion has had to look at so far: its worst case in cache misses is ten times that.
    pub fn longest_search(&self) -> u32 {
        self.longest_search
    }

    #[inline(always)]
    fn first_bucket(&self, hash: u64) -> usize {
        (((hash >> 32) * u64::from(self.count)) >> 32) as usize
    }

    #[inline(always)]
    fn tag(hash: u64) -> u16 {
        (hash as u16).max(1)
    }

    /// The other bucket of an entry with this tag in this bucket; its own inverse.
    #[inline(always)]
    fn other_bucket(&self, bucket: usize, tag: u16) -> usize {
        // Multiples of the golden ratio spread the tags over all buckets.
        let spread = u32::from(tag).wrapping_mul(0x9e37_79b1);
        let sum = ((u64::from(spread) * u64::from(self.count)) >> 32) as usize;
        if sum >= bucket { sum - bucket } else { sum + self.count as usize - bucket }
    }

    /// Loads the line of the first bucket. The result means nothing; a burst adds the results up and hands the sum to
    /// `black_box`, so that the loads are made, and all at once: a loop of them is short enough for the processor to have
    /// the whole burst under way. Measured at 1 M flows, per hit: no such pass 47 ns, with it 26 ns, with the prefetch
    /// instruction (which safe code does not have) 23 ns.
    #[inline(always)]
    pub fn touch(&self, hash: u64) -> u16 {
        self.buckets[self.first_bucket(hash)].spilled
    }

    /// What the first bucket says. A slot is to be confirmed by its key; if that differs, use [`Index::lookup`].
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Candidate {
        let bucket = &self.buckets[self.first_bucket(hash)];
        let otherwise = if bucket.spilled == 0 { Candidate::ABSENT } else { Candidate::SECOND };
        bucket.candidate(Self::tag(hash), otherwise)
    }

    /// As [`Index::candidate`], for the second bucket.
    #[inline(always)]
    pub fn candidate_in_second(&self, hash: u64) -> Candidate {
        let tag = Self::tag(hash);
        self.buckets[self.other_bucket(self.first_bucket(hash), tag)].candidate(tag, Candidate::ABSENT)
    }

    /// The slot for this hash whose key is the right one, as `is_key` tells.
    #[inline]
    pub fn lookup(&self, hash: u64, mut is_key: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = Self::tag(hash);
        let first = self.first_bucket(hash);
        let bucket = &self.buckets[first];
        for way in Ways(bucket.matches(tag)) {
            let slot = bucket.slots[way % WAYS];
            if is_key(slot) {
                return Some(slot);
            }
        }
        if bucket.spilled == 0 {
            return None;
        }
        self.lookup_second(hash, is_key)
    }

    /// As [`Index::lookup`], in the second bucket only.
    #[inline]
    pub fn lookup_second(&self, hash: u64, mut is_key: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = Self::tag(hash);
        let bucket = &self.buckets[self.other_bucket(self.first_bucket(hash), tag)];
        Ways(bucket.matches(tag)).map(|way| bucket.slots[way % WAYS]).find(|&slot| is_key(slot))
    }

    /// Adds a slot under a hash. The caller has made sure that its key is not in the table and its slot not under
    /// another hash.
    ///
    /// # Errors
    /// [`Full`], with nothing changed.
    pub fn insert(&mut self, hash: u64, slot: u32) -> Result<(), Full> {
        let tag = Self::tag(hash);
        let first = self.first_bucket(hash);
        let second = self.other_bucket(first, tag);
        let (bucket, way) = if let Some(way) = self.buckets[first].free_way() {
            (first, way)
        } else if let Some(way) = self.buckets[second].free_way() {
            (second, way)
        } else {
            self.make_room(first, second)?
        };
        self.place(bucket, way, tag, slot, first);
        self.len += 1;
        Ok(())
    }

    /// Takes a slot out from under its hash; false when it is not there.
    pub fn remove(&mut self, hash: u64, slot: u32) -> bool {
        let tag = Self::tag(hash);
        let first = self.first_bucket(hash);
        for bucket in [first, self.other_bucket(first, tag)] {
            if let Some(way) = self.buckets[bucket].way_of(tag, slot) {
                self.displace(bucket, way);
                self.len -= 1;
                return true;
            }
        }
        false
    }

    /// Fills a free way with an entry whose first bucket is `first`.
    fn place(&mut self, bucket: usize, way: usize, tag: u16, slot: u32, first: usize) {
        self.buckets[bucket].fill(way, tag, slot, bucket != first);
        if bucket != first {
            let spilled = &mut self.buckets[first].spilled;
            *spilled = spilled.saturating_add(1);
        }
    }

    /// Frees a way; returns the entry's tag, slot and first bucket.
    fn displace(&mut self, bucket: usize, way: usize) -> (u16, u32, usize) {
        let (tag, slot) = (self.buckets[bucket].tags[way], self.buckets[bucket].slots[way]);
        if !self.buckets[bucket].clear(way) {
            return (tag, slot, bucket);
        }
        let first = self.other_bucket(bucket, tag);
        let spilled = &mut self.buckets[first].spilled;
        if *spilled != SPILLED_MAX {
            *spilled -= 1;
        }
        (tag, slot, first)
    }

    /// Frees a way in one of two full buckets by moving entries to their other buckets along the shortest chain there is,
    /// found breadth first. Nothing is moved before the chain is known.
    #[cold]
    fn make_room(&mut self, first: usize, second: usize) -> Result<(usize, usize), Full> {
        let root = |bucket: usize| Node { bucket: bucket as u32, parent: ROOT, way_in_parent: 0 };
        let mut nodes = [root(first); SEARCH_LIMIT];
        nodes[1] = root(second);
        let mut found = if first == second { 1 } else { 2 };
        let mut here = 0;
        while here < found {
            let bucket = nodes[here].bucket as usize;
            for way in 0..WAYS {
                let other = self.other_bucket(bucket, self.buckets[bucket].tags[way]);
                if let Some(free) = self.buckets[other].free_way() {
                    self.longest_search = self.longest_search.max(here as u32 + 1);
                    return Ok(self.shift(&nodes, here, way, (other, free)));
                }
                // A chain that comes back to a bucket would move entries that are no longer where it saw them.
                if found < SEARCH_LIMIT && !Self::is_on_chain(&nodes, here, other) {
                    nodes[found] =
                        Node { bucket: other as u32, parent: here as u16, way_in_parent: way as u8 };
                    found += 1;
                }
            }
            here += 1;
        }
        self.longest_search = self.longest_search.max(found as u32);
        Err(Full)
    }

    fn is_on_chain(nodes: &[Node; SEARCH_LIMIT], mut node: usize, bucket: usize) -> bool {
        loop {
            if nodes[node].bucket as usize == bucket {
                return true;
            }
            if nodes[node].parent == ROOT {
                return false;
            }
            node = nodes[node].parent as usize;
        }
    }

    /// Moves the entries of a chain, the last one first; returns the place that got free at its start.
    fn shift(
        &mut self,
        nodes: &[Node; SEARCH_LIMIT],
        mut node: usize,
        mut way: usize,
        mut free: (usize, usize),
    ) -> (usize, usize) {
        loop {
            let Node { bucket, parent, way_in_parent } = nodes[node];
            let (tag, slot, first) = self.displace(bucket as usize, way);
            self.place(free.0, free.1, tag, slot, first);
            free = (bucket as usize, way);
            if parent == ROOT {
                return free;
            }
            (node, way) = (parent as usize, way_in_parent as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash of its own for every number.
    fn hash(number: u32) -> u64 {
        let mut z = u64::from(number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    impl Index {
        /// The counts and marks are what the entries say, and every entry is in a bucket of its own.
        fn check(&self) {
            let mut spilled = vec![0u16; self.buckets.len()];
            let mut len = 0;
            for (number, bucket) in self.buckets.iter().enumerate() {
                for way in 0..WAYS {
                    let is_second = bucket.second & (1 << way) != 0;
                    if bucket.tags[way] == FREE {
                        assert!(!is_second);
                        continue;
                    }
                    len += 1;
                    if is_second {
                        spilled[self.other_bucket(number, bucket.tags[way])] += 1;
                    }
                }
            }
            assert_eq!(len, self.len);
            assert!(self.buckets.iter().map(|bucket| bucket.spilled).eq(spilled));
        }

        fn holds(&self, number: u32) -> bool {
            self.lookup(hash(number), |slot| slot == number) == Some(number)
        }
    }

    #[test]
    fn other_bucket_is_its_own_inverse() {
        for capacity in [1, 7, 100, 12_345] {
            let index = Index::new(capacity).unwrap();
            for bucket in 0..index.buckets.len() {
                for tag in (1..=u16::MAX).step_by(997) {
                    let other = index.other_bucket(bucket, tag);
                    assert!(other < index.buckets.len());
                    assert_eq!(index.other_bucket(other, tag), bucket);
                }
            }
        }
    }

    #[test]
    fn a_million_entries_at_90_percent_are_all_found() {
        const ENTRIES: u32 = 1_000_000;
        let mut index = Index::new(ENTRIES / 90 * FULL_LOAD_PERCENT as u32).unwrap();
        (0..ENTRIES).for_each(|number| index.insert(hash(number), number).unwrap());
        let load = f64::from(ENTRIES) / (index.buckets.len() * WAYS) as f64;
        assert!((0.899..0.901).contains(&load), "load {load}");
        index.check();
        assert!((0..ENTRIES).all(|number| index.holds(number)));
        assert!(
            (ENTRIES..2 * ENTRIES).all(|number| index.lookup(hash(number), |slot| slot == number).is_none())
        );
        assert!(index.longest_search() < 30, "longest search {}", index.longest_search());
        // Most lookups end in the first bucket.
        let in_first = (0..ENTRIES).filter(|&n| index.candidate(hash(n)) != Candidate::SECOND).count();
        assert!(in_first as f64 > 0.85 * f64::from(ENTRIES), "{in_first} in their first bucket");
    }

    #[test]
    fn a_full_index_refuses_and_keeps_what_it_has() {
        let mut index = Index::new(50_000).unwrap();
        let places = index.buckets.len() * WAYS;
        let (mut accepted, mut refused) = (Vec::new(), 0);
        for number in 0..2 * places as u32 {
            match index.insert(hash(number), number) {
                Ok(()) => accepted.push(number),
                Err(Full) => refused += 1,
            }
        }
        assert!(refused > 0);
        assert!(accepted.len() * 100 > 98 * places, "{} of {places} places used", accepted.len());
        assert!(index.longest_search() as usize <= SEARCH_LIMIT);
        index.check();
        assert!(accepted.iter().all(|&number| index.holds(number)));
        let first_refusal = (0..).find(|number| !accepted.contains(number)).unwrap();
        assert!(first_refusal as usize * 100 > 95 * places, "first refusal at {first_refusal} of {places}");
    }

    #[test]
    fn removal_frees_the_place_and_nothing_else() {
        let mut index = Index::new(10_000).unwrap();
        (0..10_000).for_each(|number| index.insert(hash(number), number).unwrap());
        for round in 1..20 {
            let base = round * 10_000;
            for number in 0..10_000 {
                assert!(index.remove(hash(base - 10_000 + number), base - 10_000 + number));
                index.insert(hash(base + number), base + number).unwrap();
            }
            index.check();
        }
        assert!((190_000..200_000).all(|number| index.holds(number)));
        assert!(!index.remove(hash(5), 5));
        (190_000..200_000).for_each(|number| assert!(index.remove(hash(number), number)));
        assert!(index.is_empty());
        assert!(index.buckets.iter().all(|bucket| bucket.tags == [FREE; WAYS] && bucket.spilled == 0));
    }

    #[test]
    fn equal_hashes_are_told_apart_by_the_key_until_both_buckets_are_full() {
        let mut index = Index::new(1_000).unwrap();
        (0..20).for_each(|slot| index.insert(77 << 32 | 5, slot).unwrap());
        assert_eq!(index.insert(77 << 32 | 5, 20), Err(Full));
        index.check();
        for wanted in 0..20 {
            assert_eq!(index.lookup(77 << 32 | 5, |slot| slot == wanted), Some(wanted));
        }
        assert!(index.remove(77 << 32 | 5, 3));
        index.insert(77 << 32 | 5, 20).unwrap();
        assert_eq!(index.lookup(77 << 32 | 5, |slot| slot == 20), Some(20));
        // Others pass by the two full buckets.
        (100..1_000).for_each(|number| index.insert(hash(number), number).unwrap());
        assert!((100..1_000).all(|number| index.holds(number)));
    }

    #[test]
    fn tiny_indexes_hold_what_they_are_made_for() {
        for capacity in 0..200 {
            let mut index = Index::new(capacity).unwrap();
            (0..capacity).for_each(|number| index.insert(hash(number), number).unwrap());
            assert!((0..capacity).all(|number| index.holds(number)), "capacity {capacity}");
        }
    }
}
