//! Ten million entries are inserted, put off, and expire, with at most [`BUDGET`] of them handled per poll: no poll ever waits
//! for a scan (design: system.md, roles; the issue of the table). Run it with `--nocapture` to see the polls' work.

use std::net::Ipv4Addr;

use ipos_pipelines::entry::{Entry, State};
use ipos_pipelines::expire::BUDGET;
use ipos_pipelines::table::{Due, Shard};
use ipos_wire::flow::Flow;

const ENTRIES: u32 = 10_000_000;

/// Every entry is first due within so many milliseconds, and once more as much later.
const SPREAD_MS: u32 = 60_000;

fn flow(number: u32) -> Flow {
    Flow {
        client: Ipv4Addr::from_bits(0x0a00_0000 + (number >> 4)),
        client_port: 1024 + (number & 15) as u16,
        endpoint: Ipv4Addr::new(198, 51, 100, 1),
        endpoint_port: 80,
    }
}

/// How many polls handled how many entries.
struct Histogram([u64; BUDGET + 1]);

impl Histogram {
    fn note(&mut self, handled: usize) {
        self.0[handled] += 1;
    }

    fn print(&self) {
        println!("entries handled   polls");
        for (from, to) in
            [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, BUDGET - 1), (BUDGET, BUDGET)]
        {
            println!("{from:>6} ..{to:>4}  {:>9}", self.0[from..=to].iter().sum::<u64>());
        }
    }
}

#[test]
fn ten_million_entries_age_and_expire_at_most_64_per_poll() {
    let mut shard = Shard::<Entry>::new(ENTRIES, [3, 5], 0).expect("800 MB");
    for number in 0..ENTRIES {
        let entry = shard.insert(&flow(number), Entry::new(State::Forward, None), 0).expect("a place");
        assert!(
            shard.schedule(entry, 1 + (u64::from(number) * u64::from(SPREAD_MS) / u64::from(ENTRIES)) as u32)
        );
    }
    assert_eq!(shard.len(), ENTRIES);
    let mut polls = Histogram([0; BUDGET + 1]);
    let (mut put_off, mut expired, mut cascaded) = (0u32, 0u32, 0u64);
    // Ten polls in a millisecond of the wheel's clock: far fewer than a worker makes.
    for poll in 0.. {
        let now_ms = poll / 10;
        let work = shard.expire(now_ms, BUDGET, |_, _, _| {
            // As an active connection the first time, as an idle one the second.
            if now_ms < SPREAD_MS + 500 { Due::Again(now_ms + SPREAD_MS + 1_000) } else { Due::Expire }
        });
        assert!(work.total() <= BUDGET, "{work:?}");
        polls.note(work.total());
        put_off += work.put_off as u32;
        expired += work.expired as u32;
        cascaded += work.cascaded as u64;
        if shard.is_empty() {
            break;
        }
        assert!(now_ms < 4 * SPREAD_MS, "{} entries are left", shard.len());
    }
    polls.print();
    println!("put off {put_off}, expired {expired}, moved to a finer level {cascaded}");
    assert_eq!((put_off, expired), (ENTRIES, ENTRIES), "each came due twice");
    assert!(cascaded <= 6 * u64::from(ENTRIES), "each moves at most three levels down per timer: {cascaded}");
    assert!(polls.0[BUDGET] > 0, "the budget was never the bound");
    assert_eq!(shard.lookup(&flow(7)), None);
    assert!(shard.insert(&flow(7), Entry::new(State::Forward, None), 0).is_ok(), "the slots are free again");
}
