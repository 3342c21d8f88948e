//! What is under way, by flow: a fixed number of values, each with a timer. All memory is reserved at the start, and touched
//! as far as it is used: what is freed last is used first.
//!
//! All timers run for the same time, so that what was started first is due first: a list through the values does, and each
//! step is O(1). Clients choose flows, so the hash is keyed.

use std::hash::{BuildHasher, RandomState};

use ipos_pipelines::table::hash::{FlowHasher, FlowKey};
use ipos_wire::flow::Flow;

/// No place: beyond every capacity.
const NONE: u32 = u32::MAX;

/// Places per chain. A migration takes microseconds, so that a few dozen are under way where 65,536 may be: chains are empty or
/// have one place anyway, and a table of few of them stays in the cache.
const PLACES_PER_CHAIN: usize = 8;

/// Where a value is, for as long as it is under way. Not to be kept: places are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At(u32);

/// The values, by flow.
#[derive(Debug)]
pub struct UnderWay<T> {
    hasher: FlowHasher,
    /// The first place of each chain, by hash.
    chains: Box<[u32]>,
    places: Vec<Place<T>>,
    capacity: usize,
    count: usize,
    first_free: u32,
    delay_ns: u64,
    /// The timers that are due first and last.
    first_due: u32,
    last_due: u32,
}

#[derive(Debug)]
struct Place<T> {
    key: FlowKey,
    in_use: bool,
    is_timed: bool,
    /// The next place of the chain, or of the free ones.
    next: u32,
    /// Neighbours among the timers.
    earlier: u32,
    later: u32,
    due_ns: u64,
    value: T,
}

impl<T> UnderWay<T> {
    /// Nothing under way, at most `capacity`; timers run for `delay_ns`.
    pub fn new(capacity: usize, delay_ns: u64) -> Self {
        // Beyond, a place would have no number.
        let capacity = capacity.min(NONE as usize);
        let random = RandomState::new();
        Self {
            hasher: FlowHasher::new([random.hash_one(0), random.hash_one(1)]),
            chains: vec![NONE; capacity.div_ceil(PLACES_PER_CHAIN).next_power_of_two()].into_boxed_slice(),
            places: Vec::with_capacity(capacity),
            capacity,
            count: 0,
            first_free: NONE,
            delay_ns,
            first_due: NONE,
            last_due: NONE,
        }
    }

    /// How many are under way.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether no further one has room.
    pub fn is_full(&self) -> bool {
        self.count >= self.capacity
    }

    /// Where a flow's value is.
    pub fn find(&self, flow: &Flow) -> Option<At> {
        let key = FlowKey::from(flow);
        let mut at = *self.chains.get(self.chain(&key))?;
        while let Some(place) = self.places.get(at as usize) {
            if place.key == key {
                return Some(At(at));
            }
            at = place.next;
        }
        None
    }

    /// The value there.
    pub fn get(&self, at: At) -> Option<&T> {
        self.places.get(at.0 as usize).filter(|place| place.in_use).map(|place| &place.value)
    }

    /// The value there, to change.
    pub fn get_mut(&mut self, at: At) -> Option<&mut T> {
        self.places.get_mut(at.0 as usize).filter(|place| place.in_use).map(|place| &mut place.value)
    }

    /// The flow of the value there.
    pub fn flow(&self, at: At) -> Option<Flow> {
        self.places.get(at.0 as usize).filter(|place| place.in_use).map(|place| Flow::from(&place.key))
    }

    /// Enters a flow that has no value yet. Its value is a new one, or what an earlier flow left there: it is written where it
    /// lies, since moving a large one in costs more than all else here. `None` when there is no room.
    pub fn enter(&mut self, flow: &Flow, new: impl FnOnce() -> T) -> Option<(At, &mut T)> {
        if self.is_full() {
            return None;
        }
        let key = FlowKey::from(flow);
        let at = match self.places.get(self.first_free as usize) {
            Some(free) => std::mem::replace(&mut self.first_free, free.next),
            None => {
                let at = self.places.len() as u32;
                // Within the capacity that is reserved, so this writes in place.
                self.places.push(Place {
                    key,
                    in_use: false,
                    is_timed: false,
                    next: NONE,
                    earlier: NONE,
                    later: NONE,
                    due_ns: 0,
                    value: new(),
                });
                at
            }
        };
        let chain = self.chain(&key);
        let place = self.places.get_mut(at as usize)?;
        place.next = std::mem::replace(self.chains.get_mut(chain)?, at);
        place.key = key;
        place.in_use = true;
        self.count += 1;
        Some((At(at), &mut place.value))
    }

    /// Ends what is there, its timer with it.
    pub fn remove(&mut self, at: At) {
        self.stop_timer(at);
        let Some(place) = self.places.get_mut(at.0 as usize).filter(|place| place.in_use) else { return };
        place.in_use = false;
        let (key, next) = (place.key, std::mem::replace(&mut place.next, self.first_free));
        self.first_free = at.0;
        self.count -= 1;
        let chain = self.chain(&key);
        let Some(first) = self.chains.get_mut(chain) else { return };
        if *first == at.0 {
            *first = next;
            return;
        }
        let mut before = *first;
        while let Some(place) = self.places.get_mut(before as usize) {
            if place.next == at.0 {
                place.next = next;
                return;
            }
            before = place.next;
        }
    }

    /// Starts the timer of what is there, anew if it runs.
    pub fn start_timer(&mut self, at: At, now_ns: u64) {
        self.stop_timer(at);
        let (earlier, due_ns) = (self.last_due, now_ns.saturating_add(self.delay_ns));
        let Some(place) = self.places.get_mut(at.0 as usize).filter(|place| place.in_use) else { return };
        (place.earlier, place.later, place.due_ns, place.is_timed) = (earlier, NONE, due_ns, true);
        match self.places.get_mut(earlier as usize) {
            Some(before) => before.later = at.0,
            None => self.first_due = at.0,
        }
        self.last_due = at.0;
    }

    /// Every place that was ever used.
    pub fn places(&self) -> impl Iterator<Item = At> + use<T> {
        (0..self.places.len() as u32).map(At)
    }

    /// The next whose timer is due; the timer is stopped.
    pub fn due(&mut self, now_ns: u64) -> Option<At> {
        let at = At(self.first_due);
        let is_due = self.places.get(at.0 as usize).is_some_and(|place| place.due_ns <= now_ns);
        is_due.then(|| self.stop_timer(at))?;
        Some(at)
    }

    fn stop_timer(&mut self, at: At) {
        let Some(place) = self.places.get_mut(at.0 as usize).filter(|place| place.is_timed) else { return };
        place.is_timed = false;
        let (earlier, later) = (place.earlier, place.later);
        match self.places.get_mut(earlier as usize) {
            Some(before) => before.later = later,
            None => self.first_due = later,
        }
        match self.places.get_mut(later as usize) {
            Some(after) => after.earlier = earlier,
            None => self.last_due = earlier,
        }
    }

    fn chain(&self, key: &FlowKey) -> usize {
        // As many chains as a power of two.
        self.hasher.hash(key) as usize & (self.chains.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::flow;
    use super::*;

    fn with(capacity: usize, flows: std::ops::Range<u16>) -> (UnderWay<u16>, Vec<At>) {
        let mut under_way = UnderWay::new(capacity, 10);
        let places = flows.map(|number| {
            let (at, value) = under_way.enter(&flow(number), || 0).expect("room");
            *value = number;
            at
        });
        let places = places.collect();
        (under_way, places)
    }

    #[test]
    fn each_flow_finds_its_own_whatever_chains_share_a_hash() {
        // More flows than chains, some of which are therefore shared.
        let (mut under_way, places) = with(1000, 0..1000);
        assert!(under_way.is_full() && under_way.enter(&flow(1000), || 0).is_none());
        for number in (0..1000u16).step_by(3) {
            under_way.remove(places[usize::from(number)]);
        }
        for number in 0..1001 {
            let found = under_way.find(&flow(number));
            let is_there = number < 1000 && number % 3 > 0;
            assert_eq!(found.and_then(|at| under_way.get(at)).copied(), is_there.then_some(number));
            assert_eq!(found.and_then(|at| under_way.flow(at)), is_there.then(|| flow(number)));
        }
        assert_eq!(under_way.count(), 666);
    }

    #[test]
    fn a_place_is_used_again_and_what_was_there_is_gone() {
        let (mut under_way, places) = with(2, 0..2);
        under_way.start_timer(places[0], 0);
        under_way.remove(places[0]);
        assert_eq!((under_way.find(&flow(0)), under_way.get(places[0])), (None, None));
        under_way.remove(places[0]);
        let (at, value) = under_way.enter(&flow(7), || 9).expect("room");
        assert_eq!((at, *value), (places[0], 0), "as it was left");
        assert_eq!((under_way.find(&flow(7)), under_way.due(u64::MAX)), (Some(at), None));
    }

    #[test]
    fn timers_are_due_in_the_order_of_their_start_and_not_before_their_time() {
        let (mut under_way, places) = with(3, 0..3);
        for (place, now_ns) in [(0, 0), (1, 1), (2, 2), (0, 3)] {
            under_way.start_timer(places[place], now_ns);
        }
        assert_eq!(under_way.due(10), None, "started anew");
        assert_eq!(under_way.due(11), Some(places[1]));
        under_way.remove(places[2]);
        assert_eq!(under_way.due(12), None);
        assert_eq!((under_way.due(13), under_way.due(13)), (Some(places[0]), None));
    }
}
