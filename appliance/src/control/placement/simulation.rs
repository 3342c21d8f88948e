//! The spread in simulated time: four boards that take 1, 2, 4 and 8 ms for a request, one at a time, report every 100 ms and tell
//! of each end, as in the lab (`ipos-bench placement`). Nothing here is random or timed: the same events give the same figures.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::Ipv4Addr;

use ipos_pipelines::handoff::BoardId;
use ipos_wire::flow::Flow;

use super::super::board_set::BoardSet;
use super::super::boards::Boards;
use super::super::boards::tests::farm;
use super::super::counters::Ended;
use super::super::state::State;
use super::super::state::tests::QUIET;
use super::super::testing::flow;
use super::{Member, Policy, PoolSettings, Pools, Rules, Wanted};

const US: u64 = 1_000;
const REPORT_US: u64 = 100_000;
const SERVICE_US: [u64; 4] = [1_000, 2_000, 4_000, 8_000];

/// From the choice to the acknowledgement, and from an end to its notice.
const ROUND_US: u64 = 50;

/// What happens, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrives,
    Acknowledged { board: usize, since_us: u64 },
    Done { board: usize, since_us: u64 },
    EndTold { board: usize },
    Report,
}

/// How requests come.
#[derive(Clone, Copy)]
enum Load {
    /// So many clients, each with its next request as soon as it has its answer.
    Clients(u64),
    /// One after so many microseconds, give or take all of it, whatever becomes of the others.
    Every(u64),
}

struct Farm {
    boards: Boards,
    pools: Pools,
    /// When requests that wait at a board had come, the one that is served first.
    waiting: [VecDeque<u64>; 4],
    open: [u32; 4],
    events: BinaryHeap<Reverse<(u64, u64, What)>>,
    number: u64,
    sequence: u32,
    /// A deterministic generator for what clients and servers vary by (Knuth's MMIX).
    noise: u64,
}

/// What the clients saw.
struct Seen {
    p50_us: u64,
    p99_us: u64,
    /// Requests by board.
    share: [usize; 4],
}

impl Farm {
    fn new(policy: Policy, weights: [u16; 4]) -> Self {
        let members = (0..4).map(BoardId).zip(weights).map(|(board, weight)| Member { board, weight });
        let pool = PoolSettings { service: 0, members: members.collect() };
        let rules = Rules { policy, ..Rules::default() };
        Self {
            boards: farm(4),
            pools: Pools::new(vec![pool], vec![rules]),
            waiting: Default::default(),
            open: [0; 4],
            events: BinaryHeap::new(),
            number: 0,
            sequence: 0,
            noise: 1,
        }
    }

    fn at(&mut self, at_us: u64, what: What) {
        self.number += 1;
        self.events.push(Reverse((at_us, self.number, what)));
    }

    fn noise(&mut self, below: u64) -> u64 {
        self.noise =
            self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.noise >> 33) % below
    }

    /// A service takes its time, give or take a tenth.
    fn serve(&mut self, now_us: u64, board: usize) {
        if let Some(since_us) = self.waiting[board].front().copied() {
            let service_us = SERVICE_US[board];
            let took_us = service_us * 9 / 10 + self.noise(service_us / 5);
            self.at(now_us + took_us, What::Done { board, since_us });
        }
    }

    fn report(&mut self, now_us: u64) {
        self.sequence += 1;
        for board in 0..4 {
            let open = self.open[usize::from(board)];
            let state = State { sequence: self.sequence, connections: open, endpoints: open, ..QUIET };
            assert_eq!(self.boards.report(now_us * US, BoardId(board), state), Ok(()));
        }
        self.at(now_us + REPORT_US, What::Report);
    }

    fn place(&mut self, now_us: u64) {
        let flow = Flow { client: Ipv4Addr::from_bits(self.number as u32), ..flow(1) };
        let tried = BoardSet::default();
        let wanted = Wanted { flow: &flow, pool: 0, tried: &tried, after: None, session: None };
        let board = self.pools.choose(&self.boards, now_us * US, &wanted).expect("boards that live");
        self.boards.board_mut(board).expect("a board of the farm").traffic.in_flight += 1;
        let board = usize::from(board.0);
        self.at(now_us + ROUND_US, What::Acknowledged { board, since_us: now_us });
    }

    /// Serves so many requests, of which the first fifth does not count.
    fn run(mut self, load: Load, requests: usize) -> Seen {
        self.report(0);
        match load {
            Load::Clients(clients) => (0..clients).for_each(|client| self.at(client * 20, What::Arrives)),
            Load::Every(_) => self.at(0, What::Arrives),
        }
        let (mut took_us, mut share) = (Vec::new(), [0; 4]);
        while took_us.len() < requests {
            let Reverse((now_us, _, what)) = self.events.pop().expect("there is always a next event");
            match what {
                What::Report => self.report(now_us),
                What::Arrives => {
                    self.place(now_us);
                    if let Load::Every(every_us) = load {
                        let pause_us = self.noise(2 * every_us);
                        self.at(now_us + pause_us, What::Arrives);
                    }
                }
                What::Acknowledged { board, since_us } => {
                    let known = self.boards.board_mut(BoardId(board as u16)).expect("a board of the farm");
                    known.attempt_ended(now_us * US, Ended::Acknowledged);
                    self.open[board] += 1;
                    share[board] += 1;
                    self.waiting[board].push_back(since_us);
                    if self.waiting[board].len() == 1 {
                        self.serve(now_us, board);
                    }
                }
                What::Done { board, since_us } => {
                    took_us.push(now_us - since_us);
                    self.waiting[board].pop_front();
                    self.open[board] -= 1;
                    self.serve(now_us, board);
                    self.at(now_us + ROUND_US, What::EndTold { board });
                    if let Load::Clients(_) = load {
                        let pause_us = 100 + self.noise(200);
                        self.at(now_us + pause_us, What::Arrives);
                    }
                }
                What::EndTold { board } => {
                    let known = self.boards.board_mut(BoardId(board as u16)).expect("a board of the farm");
                    known.traffic.end(now_us * US);
                }
            }
        }
        let mut took_us = took_us.split_off(requests / 5);
        took_us.sort_unstable();
        let at = |percent: usize| took_us[took_us.len() * percent / 100];
        Seen { p50_us: at(50), p99_us: at(99), share }
    }
}

/// In proportion to speed: what an operator who has measured the boards would write.
const BY_SPEED: [u16; 4] = [800, 400, 200, 100];
const EQUAL: [u16; 4] = [100; 4];

fn p99_us(policy: Policy, weights: [u16; 4], load: Load) -> u64 {
    let seen = Farm::new(policy, weights).run(load, 20_000);
    println!("{policy:?} {weights:?}: p50 {} p99 {} {:?}", seen.p50_us, seen.p99_us, seen.share);
    seen.p99_us
}

#[test]
fn least_load_comes_near_the_best_weights_and_far_below_round_robin() {
    for clients in [8, 16, 32, 64] {
        let load = Load::Clients(clients);
        let best = p99_us(Policy::RoundRobin, BY_SPEED, load);
        let turns = p99_us(Policy::RoundRobin, EQUAL, load);
        let connections = p99_us(Policy::LeastConnections, EQUAL, load);
        let least = p99_us(Policy::LeastLoad, EQUAL, load);
        assert!(least * 10 <= best * 13, "{clients}: {least} us beside the best weights' {best} us");
        assert!(least * 5 <= turns, "{clients}: {least} us beside round-robin's {turns} us");
        assert!(least * 4 <= connections * 3, "{clients}: {least} us, least-connections' {connections} us");
    }
}

#[test]
fn at_a_load_that_round_robin_cannot_carry_least_load_keeps_the_slow_board_for_what_the_others_leave() {
    // 1,500 a second, of 1,875 that the boards can do; an equal share is thrice what the slowest can.
    let load = Load::Every(667);
    let best = p99_us(Policy::RoundRobin, BY_SPEED, load);
    let least = p99_us(Policy::LeastLoad, EQUAL, load);
    assert!(least * 10 <= best * 13, "{least} us beside the best weights' {best} us");
    assert!(p99_us(Policy::RoundRobin, EQUAL, load) > 100 * least, "its queue only grows");
    assert!(
        least * 4 <= p99_us(Policy::LeastConnections, EQUAL, load) * 3,
        "its slow board is used too often"
    );
}

#[test]
fn equal_boards_get_equal_shares() {
    let mut farm = Farm::new(Policy::LeastLoad, EQUAL);
    farm.noise = 7;
    // Held for so long that nobody ends: only what was placed tells the boards apart.
    farm.report(0);
    let mut got = [0; 4];
    for now_us in 1..=400 {
        farm.place(now_us);
        while farm.events.peek().is_some_and(|Reverse((at_us, _, _))| *at_us <= now_us) {
            let Some(Reverse((_, _, What::Acknowledged { board, .. }))) = farm.events.pop() else { continue };
            let known = farm.boards.board_mut(BoardId(board as u16)).expect("a board of the farm");
            known.attempt_ended(now_us * US, Ended::Acknowledged);
            got[board] += 1;
        }
    }
    assert!(got.iter().all(|got| (85..=101).contains(got)), "a burst between two reports: {got:?}");
}
