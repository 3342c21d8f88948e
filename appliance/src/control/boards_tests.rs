//! Tests of [`super`], and farms for those of its neighbours.

use super::super::board::{Need, Unfit};
use super::super::listening::Socket;
use super::super::listening::tests::socket;
use super::super::placement::Limits;
use super::super::placement::rules::Limit;
use super::super::standing::{Drain, Standing, WEIGHT_DEFAULT};
use super::super::state::tests::QUIET;
use super::*;

/// A millisecond.
pub const MS: u64 = MS_NS;

/// The MAC address of a board.
pub fn mac(id: u16) -> Mac {
    Mac([2, 0, 0, 0, 0, id as u8 + 1])
}

/// The address of a board.
pub fn address(id: u16) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 11 + id as u8)
}

/// Clients are offered timestamps, SACK and window scale.
pub const OPTIONS: u16 = 7;

/// Boards behind port 1, none of them heard of.
pub fn unheard(count: u16) -> Boards {
    let settings = (0..count).map(|id| BoardSettings {
        name: format!("board{}", id + 1),
        address: address(id),
        mac: None,
        port: PortIndex(1),
        weight: WEIGHT_DEFAULT,
    });
    Boards::new(settings.collect(), OPTIONS, 0)
}

/// Boards whose MAC addresses are known, and that listen on port 80.
pub fn farm(count: u16) -> Boards {
    let mut boards = unheard(count);
    for id in 0..count {
        assert_eq!(
            boards.learn(0, PortIndex(1), address(id), mac(id)),
            Ok(Learned::Moved(BoardId(id), mac(id)))
        );
        let part = Part { epoch: 1, sequence: 1, part: 0, parts: 1, rows: vec![socket([0; 4], 80)] };
        assert_eq!(boards.sockets(BoardId(id), part), Ok(true));
    }
    boards
}

/// Makes a board report.
pub fn alive(boards: &mut Boards, id: u16, at_ms: u64, connections: u32) {
    let state = State { sequence: at_ms as u32 + 1, connections, ..QUIET };
    assert_eq!(boards.report(at_ms * MS, BoardId(id), state), Ok(()));
}

const ENDPOINT: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 80);
const NEED: Need<'static> = Need {
    options: OPTIONS,
    listener: true,
    endpoint: ENDPOINT,
    limits: &Limits {
        connections: Some(100),
        cpu_percent: None,
        memory_free_mb: None,
        bandwidth_free_mbps: None,
        accept_queue_percent: Some(80),
    },
};

#[test]
fn arp_asks_everybody_until_the_answer_and_the_board_itself_after_it() {
    let mut boards = unheard(1);
    let asked = ArpRequest { port: PortIndex(1), address: address(0), to: None };
    assert_eq!(boards.arp_due(0), [asked]);
    assert_eq!(boards.arp_due(99 * MS), []);
    assert_eq!(boards.arp_due(100 * MS), [asked]);
    let learned = boards.learn(150 * MS, PortIndex(1), address(0), mac(0));
    assert_eq!(learned, Ok(Learned::Moved(BoardId(0), mac(0))));
    alive(&mut boards, 0, 30_000, 0);
    assert_eq!(boards.arp_due(30_149 * MS), []);
    assert_eq!(boards.arp_due(30_150 * MS), [ArpRequest { to: Some(mac(0)), ..asked }]);
    assert_eq!(boards.learn(30_200 * MS, PortIndex(1), address(0), mac(0)), Ok(Learned::Known));
    assert_eq!(boards.arp_due(60_199 * MS), []);
}

#[test]
fn a_board_that_does_not_answer_its_confirmation_is_looked_for_everywhere() {
    let mut boards = farm(1);
    let to = |boards: &mut Boards, at_s: u64| {
        alive(boards, 0, at_s * 1000, 0);
        boards.arp_due(at_s * 1000 * MS).first().map(|request| request.to)
    };
    assert_eq!(to(&mut boards, 29), None);
    assert_eq!([30, 31, 32].map(|at_s| to(&mut boards, at_s)), [Some(Some(mac(0))); 3]);
    assert_eq!(to(&mut boards, 33), Some(None));
}

#[test]
fn a_moved_mac_address_is_learned_and_the_old_one_forgotten() {
    let mut boards = farm(1);
    let new = Mac([2, 0, 0, 0, 9, 9]);
    assert_eq!(boards.learn(0, PortIndex(1), address(0), new), Ok(Learned::Moved(BoardId(0), new)));
    assert_eq!(boards.identify(mac(0), PortIndex(1)), Err(Ignored::UnknownMac));
    assert_eq!(boards.identify(new, PortIndex(1)), Ok(BoardId(0)));
    assert_eq!(boards.identify(new, PortIndex(0)), Err(Ignored::WrongPort));
}

#[test]
fn two_machines_that_claim_one_address_change_it_once_a_second() {
    let mut boards = farm(1);
    let other = Mac([2, 0, 0, 0, 9, 9]);
    let mut learn = |at_ms: u64, mac| boards.learn(at_ms * MS, PortIndex(1), address(0), mac);
    assert_eq!(learn(10, other), Ok(Learned::Moved(BoardId(0), other)));
    assert_eq!(learn(1_009, mac(0)), Err(Ignored::ForgedArp));
    assert_eq!(learn(1_009, other), Ok(Learned::Known));
    assert_eq!(learn(1_010, mac(0)), Ok(Learned::Moved(BoardId(0), mac(0))));
}

#[test]
fn a_board_that_lives_keeps_its_address_and_its_rival_is_named_once() {
    let mut boards = farm(1);
    alive(&mut boards, 0, 5_000, 0);
    let (first, second) = (Mac([2, 0, 0, 0, 9, 9]), Mac([2, 0, 0, 0, 9, 8]));
    let mut learn = |at_ms: u64, mac| boards.learn(at_ms * MS, PortIndex(1), address(0), mac);
    assert_eq!(learn(5_010, first), Ok(Learned::Contested(BoardId(0), first)));
    assert_eq!(learn(5_020, first), Err(Ignored::AddressConflict), "said, and counted from now on");
    assert_eq!(learn(5_030, mac(0)), Ok(Learned::Known), "it is the board's still");
    assert_eq!(learn(5_040, second), Ok(Learned::Contested(BoardId(0), second)));
    // Its reports have stopped: it may have another card now.
    assert_eq!(learn(5_300, first), Ok(Learned::Moved(BoardId(0), first)));
}

#[test]
fn boards_that_change_places_are_found_once_they_are_dead() {
    let mut boards = farm(2);
    (0..2).for_each(|id| alive(&mut boards, id, 0, 0));
    let learn =
        |boards: &mut Boards, at_ms: u64, id, mac| boards.learn(at_ms * MS, PortIndex(1), address(id), mac);
    assert_eq!(learn(&mut boards, 999, 0, mac(1)), Err(Ignored::ForgedArp));
    assert_eq!(learn(&mut boards, 1_000, 0, mac(1)), Ok(Learned::Moved(BoardId(0), mac(1))));
    assert_eq!(boards.board(BoardId(1)).map(|board| board.mac), Some(None));
    assert_eq!(boards.identify(mac(1), PortIndex(1)), Ok(BoardId(0)));
    assert_eq!(learn(&mut boards, 1_000, 1, mac(0)), Ok(Learned::Moved(BoardId(1), mac(0))));
    assert_eq!(boards.identify(mac(0), PortIndex(1)), Ok(BoardId(1)));
    // A configured address is nobody else's, however dead its board.
    let fixed = |id| BoardSettings {
        name: format!("board{id}"),
        address: address(id),
        mac: (id == 0).then_some(mac(0)),
        port: PortIndex(1),
        weight: WEIGHT_DEFAULT,
    };
    let mut boards = Boards::new(vec![fixed(0), fixed(1)], OPTIONS, 0);
    alive(&mut boards, 0, 0, 0);
    assert_eq!(learn(&mut boards, 5_000, 1, mac(0)), Err(Ignored::ForgedArp));
}

#[test]
fn arp_of_strangers_of_other_ports_and_of_thieves_is_ignored() {
    let mut boards = farm(2);
    let stranger = Ipv4Addr::new(192, 0, 2, 99);
    assert_eq!(boards.learn(0, PortIndex(1), stranger, mac(0)), Err(Ignored::OtherArp));
    assert_eq!(boards.learn(0, PortIndex(0), address(0), mac(0)), Err(Ignored::OtherArp));
    assert_eq!(boards.learn(0, PortIndex(1), address(0), mac(1)), Err(Ignored::ForgedArp));
    let fixed = BoardSettings {
        name: "b".into(),
        address: address(0),
        mac: Some(mac(0)),
        port: PortIndex(1),
        weight: WEIGHT_DEFAULT,
    };
    let mut boards = Boards::new(vec![fixed], OPTIONS, 0);
    assert_eq!(boards.learn(0, PortIndex(1), address(0), mac(5)), Err(Ignored::ForgedArp));
    assert_eq!(boards.learn(0, PortIndex(1), address(0), mac(0)), Ok(Learned::Known));
    assert_eq!(boards.identify(mac(0), PortIndex(1)), Ok(BoardId(0)), "known without any ARP");
    assert_eq!(boards.arp_due(u64::MAX / 2), []);
}

#[test]
fn reports_out_of_order_and_absurd_ones_are_ignored() {
    let mut boards = farm(1);
    let report = |boards: &mut Boards, at_ms: u64, state| boards.report(at_ms * MS, BoardId(0), state);
    assert_eq!(report(&mut boards, 0, State { sequence: 5, ..QUIET }), Ok(()));
    assert_eq!(report(&mut boards, 1, State { sequence: 5, ..QUIET }), Err(Ignored::StaleReport));
    assert_eq!(
        report(&mut boards, 1, State { sequence: 4, connections: 77, ..QUIET }),
        Err(Ignored::StaleReport)
    );
    assert_eq!(report(&mut boards, 1, State { epoch: 999, sequence: 9, ..QUIET }), Err(Ignored::StaleReport));
    assert_eq!(report(&mut boards, 1, State { sequence: 6, cores: 0, ..QUIET }), Err(Ignored::AbsurdReport));
    assert_eq!(
        boards.board(BoardId(0)).and_then(|b| b.state).map(|s| s.connections),
        Some(QUIET.connections)
    );
    assert_eq!(report(&mut boards, 2, State { epoch: 1001, ..QUIET }), Ok(()), "the agent restarted");
    let older_clock = State { epoch: 5, ..QUIET };
    assert_eq!(report(&mut boards, 900, older_clock), Err(Ignored::StaleReport));
    assert_eq!(report(&mut boards, 1002, older_clock), Ok(()), "believed once the former life is over");
}

#[test]
fn liveness_goes_by_the_age_of_the_last_report_and_each_change_is_said_once() {
    let mut boards = farm(1);
    let liveness = |boards: &Boards, at_ms: u64| boards.board(BoardId(0)).map(|b| b.liveness(at_ms * MS));
    assert_eq!(liveness(&boards, 5), Some(Liveness::Unheard));
    assert_eq!(boards.transitions(5 * MS), []);
    alive(&mut boards, 0, 10, 0);
    let up = Transition { board: BoardId(0), alive: true, kept_back_ns: 0 };
    assert_eq!(boards.transitions(10 * MS), [up]);
    assert_eq!(boards.transitions(11 * MS), []);
    assert_eq!(boards.board(BoardId(0)).and_then(|board| board.standing.joined_at_ns), Some(10 * MS));
    assert_eq!(liveness(&boards, 310), Some(Liveness::Suspect));
    assert_eq!(boards.transitions(310 * MS), []);
    assert_eq!(liveness(&boards, 1010), Some(Liveness::Dead));
    assert_eq!(boards.transitions(1010 * MS), [Transition { alive: false, ..up }]);
    assert_eq!(boards.board(BoardId(0)).map(|b| b.listening.sockets().len()), Some(0));
    alive(&mut boards, 0, 2000, 0);
    assert_eq!(boards.transitions(2000 * MS), [up]);
}

#[test]
fn each_reason_against_a_board_is_named() {
    let mut boards = unheard(1);
    let fit = |boards: &Boards, at_ms: u64| {
        let board = boards.board(BoardId(0))?;
        Some(board.fit(at_ms * MS, &NEED).map(|_| board.connections()))
    };
    assert_eq!(fit(&boards, 0), Some(Err(Unfit::Silent(Liveness::Unheard))));
    alive(&mut boards, 0, 0, 3);
    assert_eq!(fit(&boards, 0), Some(Err(Unfit::NoMac)));
    let mut boards = farm(1);
    alive(&mut boards, 0, 0, 3);
    assert_eq!(fit(&boards, 0), Some(Ok(3)));
    let report = |boards: &mut Boards, state| assert_eq!(boards.report(0, BoardId(0), state), Ok(()));
    report(&mut boards, State { sequence: 2, draining: true, ..QUIET });
    assert_eq!(fit(&boards, 0), Some(Err(Unfit::Draining)));
    report(&mut boards, State { sequence: 3, options: 0b0101, ..QUIET });
    assert_eq!(fit(&boards, 0), Some(Err(Unfit::Options(0b0010))));
    assert!(Unfit::Options(0b0010).reason().ends_with("offered: sack"));
    report(&mut boards, State { sequence: 4, ..QUIET });
    let part = Part { epoch: QUIET.epoch, sequence: 2, part: 0, parts: 1, rows: vec![socket([0; 4], 81)] };
    assert_eq!(boards.sockets(BoardId(0), part), Ok(true));
    assert_eq!(fit(&boards, 0), Some(Err(Unfit::NotListening)));
    let full = Socket { queue: 82, queue_limit: 100, ..socket([0; 4], 80) };
    let part = Part { epoch: QUIET.epoch, sequence: 3, part: 0, parts: 1, rows: vec![full] };
    assert_eq!(boards.sockets(BoardId(0), part), Ok(true));
    assert_eq!(fit(&boards, 0), Some(Err(Unfit::Over(Limit::AcceptQueue))));
    report(&mut boards, State { sequence: 5, connections: 100, ..QUIET });
    let over = fit(&boards, 0).and_then(Result::err).expect("a reason");
    assert_eq!(over.reason(), "beyond the service's limit connections");
}

#[test]
fn a_board_that_dies_again_and_again_is_kept_back_for_longer_each_time() {
    let mut boards = farm(1);
    let mut kept_back_ms = Vec::new();
    for life in 0..4 {
        let at_ms = life * 10_000;
        serving(&mut boards, at_ms);
        let up = boards.transitions(at_ms * MS);
        let kept_back_ns = up.first().map_or(0, |up| up.kept_back_ns);
        kept_back_ms.push(kept_back_ns / MS);
        let board = boards.board(BoardId(0)).expect("the board");
        let kept_back = (kept_back_ns > 0).then_some(Unfit::Flapping(kept_back_ns));
        assert_eq!(board.fit(at_ms * MS, &NEED).err(), kept_back);
        assert_eq!(boards.is_undecided(BoardId(0), at_ms * MS), kept_back.is_some());
        assert!(!boards.transitions((at_ms + 1000) * MS)[0].alive);
    }
    assert_eq!(kept_back_ms, [0, 0, 1000, 2000]);
    for at_ms in (40_000..=44_000).step_by(100) {
        serving(&mut boards, at_ms);
        let fit = boards.board(BoardId(0)).map(|board| board.fit(at_ms * MS, &NEED).is_ok());
        assert_eq!(fit, Some(at_ms == 44_000), "{at_ms} ms");
    }
}

/// Reports, and says that a server listens there.
fn serving(boards: &mut Boards, at_ms: u64) {
    alive(boards, 0, at_ms, 0);
    let (epoch, sequence) = (QUIET.epoch, at_ms as u32 + 1);
    let part = Part { epoch, sequence, part: 0, parts: 1, rows: vec![socket([0; 4], 80)] };
    assert_eq!(boards.sockets(BoardId(0), part), Ok(true));
}

#[test]
fn liveness_is_counted_in_the_boards_own_intervals() {
    let mut boards = farm(1);
    let slow = State { interval_ms: 1000, ..QUIET };
    assert_eq!(boards.report(0, BoardId(0), slow), Ok(()));
    let liveness = |at_ms: u64| boards.board(BoardId(0)).map(|board| board.liveness(at_ms * MS));
    assert_eq!(liveness(2_999), Some(Liveness::Alive));
    assert_eq!(liveness(3_000), Some(Liveness::Suspect));
    assert_eq!(liveness(9_999), Some(Liveness::Suspect));
    assert_eq!(liveness(10_000), Some(Liveness::Dead));
}

#[test]
fn just_after_the_start_an_unheard_board_may_hold_anything() {
    let mut boards = unheard(2);
    alive(&mut boards, 1, 0, 0);
    assert!(boards.may_hold(BoardId(0), 4999 * MS));
    assert!(!boards.may_hold(BoardId(0), 5000 * MS));
    assert!(boards.may_hold(BoardId(1), 999 * MS));
    assert!(!boards.may_hold(BoardId(1), 1000 * MS));
}

#[test]
fn a_board_without_weight_or_that_drains_is_not_fit_and_says_which() {
    let mut boards = farm(1);
    alive(&mut boards, 0, 0, 4);
    let mut fit = |standing: Standing| {
        if let Some(board) = boards.board_mut(BoardId(0)) {
            board.standing = standing;
        }
        boards.board(BoardId(0)).map(|board| board.fit(MS, &NEED).map(|_| board.connections()))
    };
    let takes = Standing::new(WEIGHT_DEFAULT);
    assert_eq!(fit(takes), Some(Ok(4)));
    assert_eq!(fit(Standing::new(0)), Some(Err(Unfit::NoWeight)));
    let drain = Some(Drain::new(0, None));
    assert_eq!(fit(Standing { drain, ..takes }), Some(Err(Unfit::Draining)));
    assert_eq!(fit(Standing { leaving: true, ..takes }), Some(Err(Unfit::Draining)));
}
