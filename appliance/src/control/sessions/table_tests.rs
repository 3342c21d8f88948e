use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn key(number: u64) -> SessionKey {
    // Few chains, so that some hold several.
    SessionKey::of(1 << 40 | number << 33 | (number % 3))
}

fn at(board: u16) -> Place {
    Place { board: BoardId(board), address: Ipv4Addr::new(192, 0, 2, board as u8) }
}

#[test]
fn a_full_table_gives_up_what_was_unused_for_longest() {
    let mut table = Table::new(3);
    for number in 0..3 {
        assert_eq!(table.put(key(number), at(1), number), Put::New);
    }
    assert!(table.use_(key(0), 10).is_some());
    assert_eq!(table.put(key(3), at(2), 11), Put::Evicted);
    assert_eq!((table.len(), table.peek(key(1))), (3, None));
    for number in [0, 2, 3] {
        assert!(table.peek(key(number)).is_some(), "{number}");
    }
    assert_eq!(table.slots.capacity(), 3, "it never grows");
}

#[test]
fn a_session_keeps_its_age_and_counts_its_uses() {
    let mut table = Table::new(4);
    assert_eq!(table.put(key(1), at(1), 5), Put::New);
    assert_eq!(table.put(key(1), at(1), 6), Put::Same);
    table.use_(key(1), 7);
    table.use_(key(1), 8);
    assert_eq!(table.put(key(1), at(2), 9), Put::Moved);
    let known = table.peek(key(1)).expect("it is there");
    assert_eq!((known.place, known.since_ns, known.used_ns, known.hits), (at(2), 5, 8, 2));
    assert!(table.use_(key(2), 9).is_none());
}

#[test]
fn ageing_takes_only_what_is_due_and_only_so_much() {
    let mut table = Table::new(8);
    for number in 0..6 {
        let _ = table.put(key(number), at(1), number);
    }
    table.use_(key(0), 100);
    assert_eq!(table.expire(5, 2), 2);
    assert_eq!((table.expire(5, 8), table.len()), (2, 2));
    assert_eq!((table.expire(5, 8), table.peek(key(5)).is_some()), (0, true));
    assert_eq!((table.expire(101, 8), table.is_empty()), (2, true));
    assert_eq!(table.put(key(7), at(1), 200), Put::New);
    assert_eq!((table.slots(), table.rows(0, 6).count()), (6, 1), "slots are used again");
}

#[test]
fn another_size_keeps_the_last_used() {
    let mut table = Table::new(8);
    for number in 0..8 {
        let _ = table.put(key(number), at(1), number);
    }
    table.use_(key(0), 100);
    let small = table.resized(2);
    let kept: Vec<SessionKey> = small.rows(0, 8).map(|entry| entry.key).collect();
    assert_eq!((small.len(), small.capacity()), (2, 2));
    assert!(kept.contains(&key(7)) && kept.contains(&key(0)), "{kept:?}");
    let large = table.resized(64);
    assert_eq!((large.len(), large.peek(key(0)).map(|entry| entry.hits)), (8, Some(1)));
}

/// The table as one would write it without a thought for cost.
#[derive(Default)]
struct Model {
    entries: HashMap<SessionKey, (Place, u64)>,
    /// By last use, the newest last.
    uses: Vec<SessionKey>,
}

impl Model {
    fn used(&mut self, key: SessionKey) {
        self.uses.retain(|other| *other != key);
        self.uses.push(key);
    }

    fn remove_oldest(&mut self) {
        let oldest = self.uses.remove(0);
        self.entries.remove(&oldest);
    }
}

proptest! {
    #[test]
    fn it_holds_what_a_slow_table_holds(
        capacity in 1usize..9,
        steps in prop::collection::vec((0u8..4, 0u64..14, 0u16..3), 0..200),
    ) {
        let (mut table, mut model) = (Table::new(capacity), Model::default());
        for (now, (step, number, board)) in (0u64..).zip(steps) {
            let key = key(number);
            match step {
                0 | 1 => {
                    let wanted = match model.entries.get(&key) {
                        Some((known, _)) if *known == at(board) => Put::Same,
                        Some(_) => Put::Moved,
                        None if model.entries.len() == capacity => Put::Evicted,
                        None => Put::New,
                    };
                    prop_assert_eq!(table.put(key, at(board), now), wanted);
                    if wanted == Put::Evicted {
                        model.remove_oldest();
                    }
                    if matches!(wanted, Put::New | Put::Evicted) {
                        model.used(key);
                        model.entries.insert(key, (at(board), now));
                    } else if let Some(known) = model.entries.get_mut(&key) {
                        known.0 = at(board);
                    }
                }
                2 => {
                    let found = table.use_(key, now).map(|entry| entry.place);
                    prop_assert_eq!(found, model.entries.get(&key).map(|(place, _)| *place));
                    if let Some(known) = model.entries.get_mut(&key) {
                        known.1 = now;
                        model.used(key);
                    }
                }
                _ => {
                    let since = now.saturating_sub(20);
                    let mut wanted = 0;
                    while wanted < 2
                        && model.uses.first().is_some_and(|oldest| model.entries[oldest].1 < since)
                    {
                        model.remove_oldest();
                        wanted += 1;
                    }
                    prop_assert_eq!(table.expire(since, 2), wanted);
                }
            }
            prop_assert_eq!(table.len(), model.entries.len());
            let mut held: Vec<SessionKey> = table.rows(0, capacity).map(|entry| entry.key).collect();
            let mut wanted: Vec<SessionKey> = model.entries.keys().copied().collect();
            held.sort_unstable();
            wanted.sort_unstable();
            prop_assert_eq!(held, wanted);
        }
    }
}
