//! From a flow's key to its slot: a cuckoo table of buckets that are one cache line each, with the whole key and what a
//! packet of a settled flow needs inside.
//!
//! ```text
//! octet 0                          32                  48                  64
//!       | key x 4 (64 bits)        | slot x 4 (32)     | hot x 4 (32)      |
//!                                    top 6 bits of the first slot: spilled
//! ```
//!
//! A hash has two candidate buckets. Entries live in their first bucket while it has room, and each bucket counts those
//! that had to go to their second: where the count is zero a lookup ends after one line, hit or miss (the idea of the
//! Bloom filter in Le Scouarnec, Cuckoo++, 2018, as an exact count). An insertion into two full buckets moves entries
//! to their other buckets, along the shortest chain there is (Pagh and Rodler, Cuckoo hashing, 2001; breadth first as in
//! MemC3, 2013).

use ipos_dpdk::memory::{Array, Backing, OutOfMemory};
use ipos_dpdk::prefetch;

use super::hash::{FlowHasher, Key};
use super::hot::Hot;

/// Places in a bucket.
pub const WAYS: usize = 4;

/// Most slots that an index can name: slot numbers have 26 bits.
pub const SLOTS_MAX: u32 = 1 << SLOT_BITS;

/// Share of the places in use when the index holds the number of entries that it was made for, percent.
///
/// Insertion works up to about 96 (see the tests). At 80, one lookup in seven needs a second line; at 72, when nine of ten
/// slots are in use, one in ten.
pub const FULL_LOAD_PERCENT: usize = 80;

/// Full buckets that an insertion looks at before it gives up, and at four neighbours of each.
const SEARCH_LIMIT: usize = 250;

const SLOT_BITS: u32 = 26;
const SLOT_MASK: u32 = SLOTS_MAX - 1;

/// When a bucket's count gets here it stays: only the short cut is lost.
const SPILLED_MAX: u32 = u32::MAX >> SLOT_BITS;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    /// [`Key::NONE`] marks a free way.
    keys: [Key; WAYS],
    /// The slot in the lower 26 bits; above them, in the first word, how many entries whose first bucket this is are in
    /// their second.
    slots: [u32; WAYS],
    hot: [Hot; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

impl Bucket {
    const EMPTY: Self = Self { keys: [Key::NONE; WAYS], slots: [0; WAYS], hot: [Hot::LOOK; WAYS] };

    #[inline(always)]
    fn way_of(&self, key: Key) -> Option<usize> {
        let mut found = 0;
        for way in 0..WAYS {
            found |= u32::from(self.keys[way] == key) << way;
        }
        // All four are compared, so that the processor has one branch to guess and not four.
        (found != 0).then(|| found.trailing_zeros() as usize % WAYS)
    }

    #[inline(always)]
    fn spilled(&self) -> u32 {
        self.slots[0] >> SLOT_BITS
    }

    #[inline]
    fn set_spilled(&mut self, spilled: u32) {
        self.slots[0] = self.slots[0] & SLOT_MASK | spilled << SLOT_BITS;
    }

    #[inline(always)]
    fn slot(&self, way: usize) -> u32 {
        self.slots[way] & SLOT_MASK
    }

    #[inline]
    fn fill(&mut self, way: usize, entry: Indexed) {
        self.keys[way] = entry.key;
        self.slots[way] = self.slots[way] & !SLOT_MASK | entry.slot;
        self.hot[way] = entry.hot;
    }

    #[inline]
    fn at(&self, way: usize) -> Indexed {
        Indexed { key: self.keys[way], slot: self.slot(way), hot: self.hot[way] }
    }
}

/// What the index holds of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Indexed {
    /// Its key.
    pub key: Key,
    /// Its entry's slot.
    pub slot: u32,
    /// What a packet of it needs to know, if that is all there is to know.
    pub hot: Hot,
}

/// The index has no place for this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the table is full")]
pub struct Full;

/// A lookup under way: where it looks, and what it has seen.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    key: Key,
    first: u32,
    second: u32,
    /// The way of the first bucket that has the key, [`SECOND`] when that bucket has not.
    seen_way: u32,
}

/// The key can only be in the second bucket.
const SECOND: u32 = WAYS as u32;

impl Search {
    /// One that finds nothing.
    pub const NONE: Self = Self { key: Key::NONE, first: 0, second: 0, seen_way: SECOND };

    /// Whether it finds nothing, whatever the index holds.
    #[inline(always)]
    pub fn is_none(&self) -> bool {
        self.key == Key::NONE
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

/// A hash index of fixed size.
pub struct Index {
    buckets: Array<Bucket>,
    /// Number of buckets.
    count: u32,
    len: u32,
    longest_search: u32,
    hasher: FlowHasher,
}

impl Index {
    /// An index that is [`FULL_LOAD_PERCENT`] full with `capacity` entries.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(capacity: u32, hasher: FlowHasher) -> Result<Self, OutOfMemory> {
        let places = capacity as usize * 100 / FULL_LOAD_PERCENT;
        // Some more than needed: in a very small table chance fills buckets unevenly.
        let count = places / WAYS + 8;
        let buckets = Array::new(count, |_| Bucket::EMPTY)?;
        Ok(Self { buckets, count: count as u32, len: 0, longest_search: 0, hasher })
    }

    /// Number of entries.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What its pages are.
    pub fn backing(&self) -> Backing {
        self.buckets.backing()
    }

    /// Octets that the index occupies.
    pub fn octets(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }

    /// Most full buckets that an insertion has had to look at so far: its worst case in cache misses is four times that.
    pub fn longest_search(&self) -> u32 {
        self.longest_search
    }

    /// Where a key is to be looked for.
    #[inline(always)]
    pub fn search(&self, key: Key) -> Search {
        let hash = self.hasher.hash_key(key);
        let scaled = |half: u64| ((half * u64::from(self.count)) >> 32) as u32;
        Search { key, first: scaled(hash >> 32), second: scaled(hash & 0xffff_ffff), seen_way: SECOND }
    }

    /// The index is never empty of buckets, and searches name buckets below their count.
    #[inline(always)]
    fn bucket(&self, number: u32) -> &Bucket {
        &self.buckets[number as usize]
    }

    /// Starts to load the line that the search looks at first.
    #[inline(always)]
    pub fn prefetch_first(&self, search: &Search) {
        prefetch::read(self.bucket(search.first));
    }

    /// Looks at the first bucket, and starts to load the line that the search needs besides, if it does. Where the bucket
    /// has the key, and says that the entry has to be looked at, that is the entry's: returns its slot.
    #[inline(always)]
    pub fn look(&self, search: &mut Search) -> Option<u32> {
        if search.is_none() {
            return None;
        }
        let bucket = self.bucket(search.first);
        match bucket.way_of(search.key) {
            Some(way) => {
                search.seen_way = way as u32;
                (bucket.hot[way].board().is_none()).then(|| bucket.slot(way))
            }
            None if bucket.spilled() == 0 => {
                *search = Search::NONE;
                None
            }
            None => {
                prefetch::read(self.bucket(search.second));
                None
            }
        }
    }

    /// Where a search that has looked has seen its key. What has moved since it may miss.
    #[inline(always)]
    fn place_seen(&self, search: &Search) -> Option<(u32, usize)> {
        if search.seen_way < SECOND {
            let way = search.seen_way as usize % WAYS;
            return (self.bucket(search.first).keys[way] == search.key).then_some((search.first, way));
        }
        if search.is_none() {
            return None;
        }
        self.bucket(search.second).way_of(search.key).map(|way| (search.second, way))
    }

    /// What the index holds of the key of a search that has looked; what has moved since it may miss.
    #[inline(always)]
    pub fn seen(&self, search: &Search) -> Option<Indexed> {
        self.place_seen(search).map(|(bucket, way)| self.bucket(bucket).at(way))
    }

    /// The hot word of the key of a search that has looked, to change; what has moved since it may miss.
    #[inline(always)]
    pub fn seen_hot_mut(&mut self, search: &Search) -> Option<&mut Hot> {
        let (bucket, way) = self.place_seen(search)?;
        Some(&mut self.buckets[bucket as usize].hot[way])
    }

    /// Bucket and way of a key.
    #[inline]
    fn place_of(&self, search: &Search) -> Option<(u32, usize)> {
        if search.key == Key::NONE {
            return None;
        }
        let bucket = self.bucket(search.first);
        if let Some(way) = bucket.way_of(search.key) {
            return Some((search.first, way));
        }
        if bucket.spilled() == 0 {
            return None;
        }
        self.bucket(search.second).way_of(search.key).map(|way| (search.second, way))
    }

    /// What the index holds of a key.
    #[inline]
    pub fn find(&self, search: &Search) -> Option<Indexed> {
        self.place_of(search).map(|(bucket, way)| self.bucket(bucket).at(way))
    }

    /// The hot word of a key, to change.
    #[inline]
    pub fn hot_mut(&mut self, search: &Search) -> Option<&mut Hot> {
        let (bucket, way) = self.place_of(search)?;
        Some(&mut self.buckets[bucket as usize].hot[way])
    }

    /// Adds an entry. The caller has made sure that its key is not in the index.
    ///
    /// # Errors
    /// [`Full`], with nothing changed.
    pub fn insert(&mut self, entry: Indexed) -> Result<(), Full> {
        let Search { first, second, .. } = self.search(entry.key);
        let free = |bucket: u32| self.bucket(bucket).way_of(Key::NONE).map(|way| (bucket, way));
        let (bucket, way) = match free(first).or_else(|| free(second)) {
            Some(place) => place,
            None => self.make_room(first, second)?,
        };
        self.place(bucket, way, entry);
        self.len += 1;
        Ok(())
    }

    /// Takes a key out; false when it is not there.
    pub fn remove(&mut self, search: &Search) -> bool {
        let Some((bucket, way)) = self.place_of(search) else { return false };
        self.displace(bucket, way);
        self.len -= 1;
        true
    }

    /// Fills a free way.
    fn place(&mut self, bucket: u32, way: usize, entry: Indexed) {
        self.buckets[bucket as usize].fill(way, entry);
        let first = self.search(entry.key).first;
        if bucket != first {
            let home = &mut self.buckets[first as usize];
            home.set_spilled((home.spilled() + 1).min(SPILLED_MAX));
        }
    }

    /// Frees a way; returns what was there.
    fn displace(&mut self, bucket: u32, way: usize) -> Indexed {
        let entry = self.bucket(bucket).at(way);
        let free = Indexed { key: Key::NONE, slot: 0, hot: Hot::LOOK };
        self.buckets[bucket as usize].fill(way, free);
        let first = self.search(entry.key).first;
        if bucket != first {
            let home = &mut self.buckets[first as usize];
            if home.spilled() != SPILLED_MAX {
                home.set_spilled(home.spilled() - 1);
            }
        }
        entry
    }

    /// The other bucket of the entry in this way.
    fn other_bucket(&self, bucket: u32, way: usize) -> u32 {
        let Search { first, second, .. } = self.search(self.bucket(bucket).keys[way]);
        if bucket == first { second } else { first }
    }

    /// Frees a way in one of two full buckets by moving entries to their other buckets along the shortest chain there is,
    /// found breadth first. Nothing is moved before the chain is known.
    #[cold]
    fn make_room(&mut self, first: u32, second: u32) -> Result<(u32, usize), Full> {
        let root = |bucket: u32| Node { bucket, parent: ROOT, way_in_parent: 0 };
        let mut nodes = [root(first); SEARCH_LIMIT];
        nodes[1] = root(second);
        let mut found = if first == second { 1 } else { 2 };
        let mut here = 0;
        while here < found {
            let bucket = nodes[here].bucket;
            for way in 0..WAYS {
                let other = self.other_bucket(bucket, way);
                if let Some(free) = self.bucket(other).way_of(Key::NONE) {
                    self.longest_search = self.longest_search.max(here as u32 + 1);
                    return Ok(self.shift(&nodes, here, way, (other, free)));
                }
                // A chain that comes back to a bucket would move entries that are no longer where it saw them.
                if found < SEARCH_LIMIT && !Self::is_on_chain(&nodes, here, other) {
                    nodes[found] = Node { bucket: other, parent: here as u16, way_in_parent: way as u8 };
                    found += 1;
                }
            }
            here += 1;
        }
        self.longest_search = self.longest_search.max(found as u32);
        Err(Full)
    }

    fn is_on_chain(nodes: &[Node; SEARCH_LIMIT], mut node: usize, bucket: u32) -> bool {
        loop {
            if nodes[node].bucket == bucket {
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
        mut free: (u32, usize),
    ) -> (u32, usize) {
        loop {
            let Node { bucket, parent, way_in_parent } = nodes[node];
            let entry = self.displace(bucket, way);
            self.place(free.0, free.1, entry);
            free = (bucket, way);
            if parent == ROOT {
                return free;
            }
            (node, way) = (usize::from(parent), usize::from(way_in_parent));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(capacity: u32) -> Index {
        Index::new(capacity, FlowHasher::new([0x5bd1_e995, 7])).unwrap()
    }

    fn key(number: u32) -> Key {
        Key::of(u64::from(number) << 16 | 1)
    }

    fn indexed(number: u32) -> Indexed {
        Indexed { key: key(number), slot: number & SLOT_MASK, hot: Hot::LOOK }
    }

    impl Index {
        fn put(&mut self, number: u32) -> Result<(), Full> {
            self.insert(indexed(number))
        }

        fn take(&mut self, number: u32) -> bool {
            self.remove(&self.search(key(number)))
        }

        fn holds(&self, number: u32) -> bool {
            self.find(&self.search(key(number))) == Some(indexed(number))
        }

        /// The counts are what the entries say, and every entry is in a bucket of its own.
        fn check(&self) {
            let mut spilled = vec![0; self.buckets.len()];
            let mut len = 0;
            for (number, bucket) in self.buckets.iter().enumerate() {
                for key in bucket.keys.into_iter().filter(|key| *key != Key::NONE) {
                    let Search { first, second, .. } = self.search(key);
                    assert!([first, second].contains(&(number as u32)));
                    spilled[first as usize] += u32::from(first != number as u32);
                    len += 1;
                }
            }
            assert_eq!(len, self.len);
            assert!(self.buckets.iter().map(Bucket::spilled).eq(spilled));
        }
    }

    #[test]
    fn a_million_entries_at_90_percent_are_all_found() {
        const ENTRIES: u32 = 1_000_000;
        let mut index = index(ENTRIES / 90 * FULL_LOAD_PERCENT as u32);
        (0..ENTRIES).for_each(|number| index.put(number).unwrap());
        let load = f64::from(ENTRIES) / (index.buckets.len() * WAYS) as f64;
        assert!((0.899..0.901).contains(&load), "load {load}");
        index.check();
        assert!((0..ENTRIES).all(|number| index.holds(number)));
        assert!((ENTRIES..2 * ENTRIES).all(|number| index.find(&index.search(key(number))).is_none()));
        assert!(index.longest_search() < 100, "longest search {}", index.longest_search());
    }

    #[test]
    fn most_lookups_end_in_the_first_bucket() {
        const ENTRIES: u32 = 900_000;
        let mut index = index(1_000_000);
        (0..ENTRIES).for_each(|number| index.put(number).unwrap());
        let in_first = |n: &u32| {
            let search = index.search(key(*n));
            index.bucket(search.first).way_of(search.key).is_some()
        };
        let found = (0..ENTRIES).filter(in_first).count();
        assert!(found as f64 > 0.88 * f64::from(ENTRIES), "{found} in their first bucket");
        let ends = |n: &u32| index.bucket(index.search(key(*n)).first).spilled() == 0;
        let ended = (ENTRIES..2 * ENTRIES).filter(ends).count();
        assert!(ended as f64 > 0.75 * f64::from(ENTRIES), "{ended} misses ended in one");
    }

    #[test]
    fn a_full_index_refuses_and_keeps_what_it_has() {
        let mut index = index(50_000);
        let places = index.buckets.len() * WAYS;
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        for number in 0..2 * places as u32 {
            match index.put(number) {
                Ok(()) => accepted.push(number),
                Err(Full) => refused.push(number),
            }
        }
        assert!(accepted.len() * 100 > 96 * places, "{} of {places} places used", accepted.len());
        assert!(index.longest_search() as usize <= SEARCH_LIMIT);
        index.check();
        assert!(accepted.iter().all(|&number| index.holds(number)));
        assert!(refused[0] as usize * 100 > 93 * places, "first refusal at {} of {places}", refused[0]);
    }

    #[test]
    fn removal_frees_the_place_and_nothing_else() {
        let mut index = index(10_000);
        (0..10_000).for_each(|number| index.put(number).unwrap());
        for base in (10_000..200_000).step_by(10_000) {
            for number in 0..10_000 {
                assert!(index.take(base - 10_000 + number));
                index.put(base + number).unwrap();
            }
            index.check();
        }
        assert!((190_000..200_000).all(|number| index.holds(number)));
        assert!(!index.take(5));
        (190_000..200_000).for_each(|number| assert!(index.take(number)));
        assert!(index.is_empty());
        index.check();
    }

    #[test]
    fn the_hot_word_moves_with_its_entry() {
        use crate::handoff::BoardId;
        let mut index = index(5_000);
        for number in 0..5_000 {
            index.put(number).unwrap();
            let search = index.search(key(number));
            index.hot_mut(&search).unwrap().set_board(Some(BoardId(number as u16 % 1000)));
        }
        assert!(index.longest_search() > 0, "entries were moved");
        let board = |n: u32| index.find(&index.search(key(n))).and_then(|found| found.hot.board());
        assert!((0..5_000).all(|n| board(n) == Some(BoardId(n as u16 % 1000))));
    }

    #[test]
    fn a_search_that_has_looked_sees_what_is_there_and_no_other() {
        let mut index = index(20_000);
        (0..20_000).for_each(|number| index.put(number).unwrap());
        let looked = |index: &Index, number: u32| {
            let mut search = index.search(key(number));
            index.look(&mut search);
            search
        };
        assert!((0..20_000).all(|n| index.seen(&looked(&index, n)) == Some(indexed(n))));
        assert!((20_000..60_000).all(|n| index.seen(&looked(&index, n)).is_none()));
        // What has gone, or has come to the same place, is not taken for it.
        let searches: Vec<_> = (0..20_000).map(|n| looked(&index, n)).collect();
        for number in 0..10_000 {
            assert!(index.take(number));
            index.put(20_000 + number).unwrap();
        }
        assert!((0..10_000).all(|n| index.seen(&searches[n]).is_none()));
        let seen = |n: usize| index.seen(&searches[n]).is_none_or(|found| found == indexed(n as u32));
        assert!((10_000..20_000).all(seen));
    }

    #[test]
    fn no_key_finds_nothing() {
        let mut index = index(100);
        assert_eq!(index.find(&Search::NONE), None);
        assert_eq!(index.find(&index.search(Key::NONE)), None);
        assert!(!index.remove(&Search::NONE));
        assert!(index.hot_mut(&Search::NONE).is_none());
        index.prefetch_first(&Search::NONE);
        // A hint only: any line will do.
        let _ = index.look(&mut { Search::NONE });
        assert_eq!(index.seen(&Search::NONE), None);
    }

    #[test]
    fn tiny_indexes_hold_what_they_are_made_for() {
        for capacity in 0..200 {
            let mut index = index(capacity);
            (0..capacity).for_each(|number| index.put(number).unwrap());
            assert!((0..capacity).all(|number| index.holds(number)), "capacity {capacity}");
        }
    }
}
