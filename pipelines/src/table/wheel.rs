//! Timers of the entries: a hierarchical timing wheel whose links are an array beside the entries.
//!
//! Four levels of 256 lists cover 32 bits of ticks. An entry waits on the level of the highest octet in which its due tick
//! differs from the wheel's own tick, and moves down (at most three times) as that octet is reached. A bit per list
//! says which are not empty, so that idle stretches are skipped without looking at lists: the work of a call is
//! bounded by the entries that it handles, whatever time has passed and however many entries wait.
//! (Varghese and Lauck, "Hashed and hierarchical timing wheels", 1987, scheme 7, with the skip.)

use ipos_dpdk::memory::{Array, OutOfMemory};

use super::slab::MAX_CAPACITY;

const LEVELS: usize = 4;
const LISTS: usize = 256;

/// End of a list.
const NONE: u32 = u32::MAX;
/// In `previous`: the entry is the first of the list whose number is in the low bits.
const HEAD: u32 = 1 << 31;

const _: () = assert!(MAX_CAPACITY < HEAD);
const _: () = assert!(LEVELS * LISTS < HEAD as usize);

/// An entry's place among the timers; `previous == NONE` says that it has none.
#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
    due_tick: u32,
}

const _: () = assert!(size_of::<Link>() == 12);

/// What the caller wants with an entry whose time has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// It is over: the timer is gone.
    Expire,
    /// Ask again at this tick (a tick that is not in the future means: at the next one).
    Again(u32),
}

/// What one call of [`Wheel::advance`] did. The sum of the three is at most the call's budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// Entries that the caller let expire.
    pub expired: usize,
    /// Entries that came due and were put off by the caller.
    pub put_off: usize,
    /// Entries that moved to a finer level.
    pub cascaded: usize,
}

impl Work {
    /// Entries handled.
    pub fn total(&self) -> usize {
        self.expired + self.put_off + self.cascaded
    }
}

/// Where the wheel's next work is.
#[derive(Clone, Copy)]
struct Next {
    tick: u32,
    level: usize,
    list: usize,
}

/// At most one timer for each of a fixed number of slots, on 32-bit ticks that wrap around.
///
/// The tick is the caller's unit (the workers use 1 ms). Due ticks are up to 2^31 - 1 ahead (24 days of ms); `schedule`
/// and `cancel` are O(1); one timer is handled at most four times in its life.
pub struct Wheel {
    links: Array<Link>,
    /// First entry of each list, by `level * LISTS + list`.
    heads: [u32; LEVELS * LISTS],
    /// Bit `list % 64` of word `list / 64`: the list is not empty.
    occupied: [[u64; LISTS / 64]; LEVELS],
    /// Everything due before this tick has been handled.
    tick: u32,
    /// And everything due at it: most calls find that.
    is_done: bool,
    len: u32,
}

/// Octet `level` of a tick, which is the number of its list on that level.
#[inline(always)]
fn list_of(tick: u32, level: usize) -> usize {
    (tick >> (8 * level)) as usize % LISTS
}

/// Whether tick `a` is later than `b`, on the circle.
#[inline(always)]
fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

impl Wheel {
    /// Octets per slot.
    pub const SLOT_OCTETS: usize = size_of::<Link>();

    /// A wheel for slots `0..capacity` that starts at tick `now`.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    ///
    /// # Panics
    /// When `capacity` is above [`MAX_CAPACITY`].
    pub fn new(capacity: u32, now: u32) -> Result<Self, OutOfMemory> {
        assert!(capacity <= MAX_CAPACITY, "a wheel for {capacity} slots: at most {MAX_CAPACITY}");
        let idle = Link { previous: NONE, next: NONE, due_tick: 0 };
        Ok(Self {
            links: Array::new(capacity as usize, |_| idle)?,
            heads: [NONE; LEVELS * LISTS],
            occupied: [[0; LISTS / 64]; LEVELS],
            tick: now,
            is_done: false,
            len: 0,
        })
    }

    /// Number of timers that are set.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The tick that the wheel has come to; behind the caller's clock while the budget does not suffice.
    pub fn tick(&self) -> u32 {
        self.tick
    }

    /// The tick at which the slot's timer is due, if it has one.
    pub fn due_tick(&self, slot: u32) -> Option<u32> {
        self.links.get(slot as usize).filter(|link| link.previous != NONE).map(|link| link.due_tick)
    }

    /// Sets the slot's timer, in place of the one it may have. A due tick in the past is handled by the next call of
    /// `advance`.
    ///
    /// # Panics
    /// When the slot is not below the capacity.
    #[inline]
    pub fn schedule(&mut self, slot: u32, due_tick: u32) {
        self.cancel(slot);
        self.link(slot, due_tick);
        self.len += 1;
    }

    /// Takes the slot's timer away; false when it had none.
    #[inline]
    pub fn cancel(&mut self, slot: u32) -> bool {
        let is_set = self.links.get(slot as usize).is_some_and(|link| link.previous != NONE);
        if is_set {
            self.unlink(slot);
            self.len -= 1;
        }
        is_set
    }

    /// Handles what is due up to and including tick `now`, in order of due ticks, and at most `budget` entries of it; the
    /// rest waits for the next call. `is_due` is told each slot whose time has come and says what happens to its timer.
    /// A `now` behind the wheel's tick does nothing.
    pub fn advance(&mut self, now: u32, budget: usize, mut is_due: impl FnMut(u32) -> Due) -> Work {
        let mut work = Work::default();
        if is_after(self.tick, now) || (self.is_done && self.tick == now) {
            return work;
        }
        self.is_done = false;
        while work.total() < budget {
            let Some(next) = self.next_work().filter(|next| !is_after(next.tick, now)) else {
                // Nothing is due in between, so no entry's level changes by the jump.
                self.tick = now;
                self.is_done = true;
                break;
            };
            self.tick = next.tick;
            let head = next.level * LISTS + next.list;
            while work.total() < budget && self.heads[head] != NONE {
                let slot = self.heads[head];
                let due_tick = self.unlink(slot);
                if next.level > 0 {
                    self.link(slot, due_tick);
                    work.cascaded += 1;
                    continue;
                }
                match is_due(slot) {
                    Due::Expire => {
                        self.len -= 1;
                        work.expired += 1;
                    }
                    Due::Again(tick) => {
                        let soonest = now.wrapping_add(1);
                        self.link(slot, if is_after(tick, now) { tick } else { soonest });
                        work.put_off += 1;
                    }
                }
            }
        }
        work
    }

    /// Puts an idle slot first into the list that its due tick belongs to.
    #[inline]
    fn link(&mut self, slot: u32, due_tick: u32) {
        let is_later = is_after(due_tick, self.tick);
        let due_tick = if is_later { due_tick } else { self.tick };
        self.is_done &= is_later;
        let differing = due_tick ^ self.tick;
        let level = (31 - (differing | 1).leading_zeros()) as usize / 8;
        let list = list_of(due_tick, level);
        let head = level * LISTS + list;
        let next = std::mem::replace(&mut self.heads[head], slot);
        if let Some(follower) = self.links.get_mut(next as usize) {
            follower.previous = slot;
        }
        self.links[slot as usize] = Link { previous: HEAD | head as u32, next, due_tick };
        self.occupied[level][list / 64] |= 1 << (list % 64);
    }

    /// Takes a slot that has a timer out of its list; returns its due tick.
    #[inline]
    fn unlink(&mut self, slot: u32) -> u32 {
        let idle = Link { previous: NONE, next: NONE, due_tick: 0 };
        let Link { previous, next, due_tick } = std::mem::replace(&mut self.links[slot as usize], idle);
        if let Some(follower) = self.links.get_mut(next as usize) {
            follower.previous = previous;
        }
        if previous & HEAD == 0 {
            self.links[previous as usize].next = next;
        } else {
            let head = (previous & !HEAD) as usize;
            self.heads[head] = next;
            if next == NONE {
                let (level, list) = (head / LISTS, head % LISTS);
                self.occupied[level][list / 64] &= !(1 << (list % 64));
            }
        }
        due_tick
    }

    /// The earliest list that is not empty, and the tick at which it starts. A list of a coarser level that starts at the
    /// present tick is what an exhausted budget left over: it comes before the finer ones.
    fn next_work(&self) -> Option<Next> {
        for level in (1..LEVELS).rev() {
            let list = list_of(self.tick, level);
            if self.occupied[level][list / 64] & (1 << (list % 64)) != 0 {
                return Some(Next { tick: self.tick, level, list });
            }
        }
        for level in 0..LEVELS {
            let own = list_of(self.tick, level);
            // Below the top, entries differ from the tick in no coarser octet, so none is behind it; on the top, the
            // ticks wrap around.
            let found = self
                .first_occupied(level, own, LISTS)
                .or_else(|| if level == LEVELS - 1 { self.first_occupied(level, 0, own) } else { None });
            if let Some(list) = found {
                let width = 8 * level as u32;
                let coarser =
                    self.tick.checked_shr(width + 8).unwrap_or(0).checked_shl(width + 8).unwrap_or(0);
                return Some(Next { tick: coarser | (list as u32) << width, level, list });
            }
        }
        None
    }

    /// The first list of a level in `from..to` that is not empty.
    fn first_occupied(&self, level: usize, from: usize, to: usize) -> Option<usize> {
        let words = &self.occupied[level];
        let mut list = from;
        while list < to {
            let rest = words[list / 64] >> (list % 64);
            if rest != 0 {
                let found = list + rest.trailing_zeros() as usize;
                return (found < to).then_some(found);
            }
            list = (list / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Runs the wheel up to `now` in calls of `budget` and returns the slots in order of expiry.
    fn expire_all(wheel: &mut Wheel, now: u32, budget: usize) -> Vec<u32> {
        let mut order = Vec::new();
        loop {
            let work = wheel.advance(now, budget, |slot| {
                order.push(slot);
                Due::Expire
            });
            assert!(work.total() <= budget, "{work:?}");
            if work.total() < budget {
                return order;
            }
        }
    }

    #[test]
    fn what_is_set_for_a_tick_that_is_done_comes_with_the_next_call_of_the_same_tick() {
        let mut wheel = Wheel::new(2, 7).unwrap();
        for _ in 0..2 {
            assert_eq!(expire_all(&mut wheel, 9, 8), []);
        }
        // In the past, and now.
        wheel.schedule(0, 3);
        assert_eq!(expire_all(&mut wheel, 9, 8), [0]);
        wheel.schedule(1, 9);
        assert_eq!(expire_all(&mut wheel, 9, 8), [1]);
        wheel.schedule(0, 10);
        assert_eq!(expire_all(&mut wheel, 9, 8), []);
        assert_eq!(expire_all(&mut wheel, 10, 8), [0]);
    }

    #[test]
    fn entries_expire_at_their_tick_and_not_before() {
        for start in [0, 1, 255, 256, 0xffff_ff00, u32::MAX - 70_000, u32::MAX, 0x7fff_fff0] {
            for delay in
                [1, 2, 255, 256, 257, 65_535, 65_536, 65_537, 1 << 24, (1 << 24) + 1, i32::MAX as u32]
            {
                let mut wheel = Wheel::new(1, start).unwrap();
                let due = start.wrapping_add(delay);
                wheel.schedule(0, due);
                assert_eq!(wheel.due_tick(0), Some(due));
                assert_eq!(
                    expire_all(&mut wheel, due.wrapping_sub(1), 8),
                    [],
                    "start {start}, delay {delay}"
                );
                assert_eq!(expire_all(&mut wheel, due, 8), [0], "start {start}, delay {delay}");
                assert!(wheel.is_empty());
            }
        }
    }

    #[test]
    fn a_late_call_expires_in_order_of_due_ticks() {
        let mut wheel = Wheel::new(1_000, u32::MAX - 20_000).unwrap();
        // 7,919 is prime: the due ticks are a permutation, spread over several levels and over the wrap.
        let due = |slot: u32| (u32::MAX - 20_000).wrapping_add(1 + slot * 7_919 % 1_000 * 97);
        (0..1_000).for_each(|slot| wheel.schedule(slot, due(slot)));
        let order = expire_all(&mut wheel, 200_000, 3);
        let mut expected: Vec<u32> = (0..1_000).collect();
        expected.sort_by_key(|&slot| due(slot).wrapping_sub(u32::MAX - 20_000));
        assert_eq!(order, expected);
    }

    #[test]
    fn budget_bounds_each_call_and_loses_nothing() {
        let mut wheel = Wheel::new(1_000, 0).unwrap();
        (0..1_000).for_each(|slot| wheel.schedule(slot, 70_000));
        let (mut expired, mut calls) = (0, 0);
        while expired < 1_000 {
            let work = wheel.advance(70_000, 64, |_| Due::Expire);
            assert!(work.total() == 64 || expired + work.expired == 1_000, "{work:?}");
            expired += work.expired;
            calls += 1;
        }
        // Three levels: two cascades and the expiry of each entry.
        assert_eq!(calls, 3_000usize.div_ceil(64));
    }

    #[test]
    fn no_budget_no_work() {
        let mut wheel = Wheel::new(1, 0).unwrap();
        wheel.schedule(0, 1);
        assert_eq!(wheel.advance(9, 0, |_| panic!("not within the budget")), Work::default());
        assert_eq!(expire_all(&mut wheel, 9, 1), [0]);
    }

    #[test]
    fn past_due_tick_is_handled_at_once() {
        let mut wheel = Wheel::new(2, 1_000).unwrap();
        wheel.schedule(0, 10);
        wheel.schedule(1, 1_000);
        let mut order = expire_all(&mut wheel, 1_000, 8);
        order.sort_unstable();
        assert_eq!(order, [0, 1]);
    }

    #[test]
    fn clock_that_steps_back_does_nothing() {
        let mut wheel = Wheel::new(1, 1_000).unwrap();
        wheel.schedule(0, 1_000);
        assert_eq!(wheel.advance(999, 8, |_| panic!("before its time")), Work::default());
        assert_eq!(wheel.tick(), 1_000);
    }

    #[test]
    fn put_off_entries_come_again_and_never_twice_in_a_call() {
        let mut wheel = Wheel::new(2, 0).unwrap();
        wheel.schedule(0, 5);
        wheel.schedule(1, 5);
        let put_off = |slot| if slot == 0 { Due::Again(300) } else { Due::Again(2) };
        assert_eq!(wheel.advance(10, 64, put_off), Work { put_off: 2, ..Work::default() });
        assert_eq!((wheel.due_tick(0), wheel.due_tick(1)), (Some(300), Some(11)));
        assert_eq!(wheel.len(), 2);
        assert_eq!(expire_all(&mut wheel, 299, 64), [1]);
        assert_eq!(expire_all(&mut wheel, 300, 64), [0]);
    }

    #[test]
    fn entry_scheduled_while_a_cascade_is_unfinished_keeps_the_order() {
        let mut wheel = Wheel::new(4, 0).unwrap();
        (0..3).for_each(|slot| wheel.schedule(slot, 257 + slot));
        assert_eq!(wheel.advance(256, 2, |_| Due::Expire), Work { cascaded: 2, ..Work::default() });
        wheel.schedule(3, 258);
        let order = expire_all(&mut wheel, 600, 1);
        assert_eq!((order[0], order[3]), (0, 2), "{order:?}");
    }

    #[test]
    fn slot_beyond_the_wheel_has_no_timer() {
        let mut wheel = Wheel::new(2, 0).unwrap();
        assert!(!wheel.cancel(2));
        assert_eq!(wheel.due_tick(2), None);
    }

    #[test]
    fn millions_of_reschedules_and_cancels_leave_no_trace() {
        let mut wheel = Wheel::new(1_000, 0).unwrap();
        for round in 0..3_000u32 {
            (0..1_000).for_each(|slot| wheel.schedule(slot, round + 1 + (slot * round) % 100_000));
        }
        assert_eq!(wheel.len(), 1_000);
        assert!((0..1_000).all(|slot| wheel.cancel(slot)));
        assert!((0..1_000).all(|slot| !wheel.cancel(slot)));
        assert!(wheel.is_empty() && wheel.occupied == [[0; 4]; 4] && wheel.heads.iter().all(|&h| h == NONE));
        assert_eq!(wheel.advance(u32::MAX / 3, 64, |_| panic!("cancelled")), Work::default());
    }

    #[test]
    fn a_million_entries_age_and_expire_with_64_handled_per_call() {
        const ENTRIES: u32 = 1_000_000;
        let mut wheel = Wheel::new(ENTRIES, 0).unwrap();
        // Idle time-outs between 60 s and 360 s, a call each 10 ms.
        (0..ENTRIES)
            .for_each(|slot| wheel.schedule(slot, 60_000 + slot.wrapping_mul(2_654_435_761) % 300_000));
        let (mut expired, mut now, mut last_due) = (0, 0, 0);
        let due: Vec<u32> = (0..ENTRIES).map(|slot| wheel.due_tick(slot).unwrap()).collect();
        while expired < ENTRIES as usize {
            now += 10;
            let work = wheel.advance(now, 64, |slot| {
                assert!(due[slot as usize] <= now && due[slot as usize] >= last_due);
                last_due = due[slot as usize];
                Due::Expire
            });
            assert!(work.total() <= 64);
            expired += work.expired;
            assert!(now < 3_000_000, "the backlog is worked off");
        }
        assert!(wheel.is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Schedule(u32, u32),
        Cancel(u32),
        Advance(u32, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let span = prop_oneof![0..4u32, 0..600u32, 0..200_000u32, 0..40_000_000u32, 0..(1u32 << 30)];
        prop_oneof![
            4 => (0..32u32, span.clone()).prop_map(|(slot, delay)| Step::Schedule(slot, delay)),
            1 => (0..32u32).prop_map(Step::Cancel),
            3 => (span, 0..20usize).prop_map(|(ticks, budget)| Step::Advance(ticks, budget)),
        ]
    }

    proptest! {
        /// Against a map from slot to due time on a clock that never wraps.
        #[test]
        fn behaves_like_a_sorted_map(start in any::<u32>(), steps in prop::collection::vec(step(), 1..300)) {
            let mut wheel = Wheel::new(32, start).unwrap();
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = u64::from(start);
            for step in steps {
                match step {
                    Step::Schedule(slot, delay) => {
                        wheel.schedule(slot, (now as u32).wrapping_add(delay));
                        model.insert(slot, now + u64::from(delay));
                    }
                    Step::Cancel(slot) => prop_assert_eq!(wheel.cancel(slot), model.remove(&slot).is_some()),
                    Step::Advance(ticks, budget) => {
                        // A caller that gives no budget for 2^31 ticks is outside of the contract.
                        let ticks = if wheel.tick() == now as u32 { ticks } else { ticks.min(1_000) };
                        now += u64::from(ticks);
                        let mut last = 0;
                        let mut gone = Vec::new();
                        let work = wheel.advance(now as u32, budget, |slot| { gone.push(slot); Due::Expire });
                        prop_assert!(work.total() <= budget);
                        prop_assert_eq!(work.expired, gone.len());
                        for slot in gone {
                            let due = model.remove(&slot).unwrap();
                            prop_assert!(due <= now, "slot {} before its time", slot);
                            prop_assert!(due >= last, "out of order");
                            last = due;
                        }
                        if work.total() < budget {
                            prop_assert!(model.values().all(|&due| due > now), "due entries left");
                        }
                    }
                }
                prop_assert_eq!(wheel.len() as usize, model.len());
            }
        }
    }
}
