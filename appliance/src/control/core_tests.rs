//! Tests of [`super`]: real frames in, decisions out.

use ipos_pipelines::config::Role;
use ipos_pipelines::handoff::{Answer, BoardId, Counted, Place, Session};
use ipos_wire::flow::Flow;
use ipos_wire::ipos::{
    Ack, ApplicationRow, Applications, Closed, ClosedReason, Detach, HeldState, Holds, Listening,
    ListeningRow, NextRequest, Protocol, RefusalReason, Refused, ReportPart, ServerState, Trailer,
};
use ipos_wire::tcb::OptionBits;
use ipos_wire::{arp, ethernet};

use super::super::boards::tests::unheard;
use super::super::boards::tests::{MS, OPTIONS, address, mac};
use super::super::cookies::tests::counting;
use super::super::placement::{PoolSettings, Rules};
use super::super::snapshot;
use super::super::standing::WEIGHT_DEFAULT;
use super::super::testing::{Recorder, World, flow};
use super::*;

const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const FARM: PortIndex = PortIndex(1);
const ETHERTYPE: u16 = 0x88b5;

/// A control core over two boards and two workers.
pub fn core() -> Core {
    let port = |index, role, address| PortSettings {
        index: PortIndex(index),
        role,
        mac: Mac([2, 0, 0, 0, 1, index]),
        address,
    };
    let boards = (0..2).map(|n| BoardSettings {
        name: format!("board{}", n + 1),
        address: address(n),
        mac: None,
        port: FARM,
        weight: WEIGHT_DEFAULT,
    });
    let settings = CoreSettings {
        ethertype: ETHERTYPE,
        epoch: 5,
        workers: 2,
        owners: Owners::new(2, [1, 2]),
        ports: vec![port(0, Role::Wan, Ipv4Addr::new(192, 0, 2, 130)), port(1, Role::Farm, OURS)],
        boards: boards.collect(),
        options: OPTIONS,
        pools: Pools::new(vec![PoolSettings::equal([BoardId(0), BoardId(1)])], vec![Rules::default()]),
        attempts: AttemptSettings {
            retry_ns: 20 * MS,
            tries: 4,
            deadline_ns: 3000 * MS,
            capacity: 100,
            appliance_id: 1,
        },
        checks: Vec::new(),
        hashed: Vec::new(),
        started_unix_us: 0,
        ask: AskSettings { retry_ns: 50 * MS, tries: 2, outstanding: 10 },
    };
    Core::new(settings, counting(), 0)
}

/// A frame from a board: its Ethernet header, and what `write` puts after it.
fn frame(from: Mac, ethertype: u16, len: usize, write: impl Fn(&mut [u8])) -> Vec<u8> {
    let mut frame = vec![0; (14 + len).max(60)];
    ethernet::Repr { dst: Mac([2, 0, 0, 0, 1, 1]), src: from, ethertype }.emit(&mut frame);
    write(&mut frame[14..]);
    frame
}

pub fn arp_reply(n: u16, from: Mac) -> Vec<u8> {
    let reply = arp::Repr {
        operation: arp::Operation::Reply,
        sender_mac: from,
        sender_ip: address(n),
        target_mac: Mac([2, 0, 0, 0, 1, 1]),
        target_ip: OURS,
    };
    frame(from, ethernet::ETHERTYPE_ARP, arp::LEN, |body| reply.emit(body))
}

pub fn state(n: u16, sequence: u32) -> ServerState {
    ServerState {
        board: address(n),
        appliance: OURS,
        draining: false,
        interval_ms: 100,
        epoch: 1000,
        sequence,
        options: OptionBits(0xf),
        cpu_cores: 2,
        cpu_utilisation: 100,
        established: 1,
        memory: 1 << 30,
        memory_available: 1 << 29,
        link_speed_bps: 0,
        bandwidth_available_bps: 0,
        endpoints_held: 0,
        pressure: None,
        tag: [0; 16],
    }
}

pub fn report(state: &ServerState, from: Mac) -> Vec<u8> {
    frame(from, ETHERTYPE, ServerState::LEN, |body| state.emit(body))
}

fn part_of_report(n: u16, sequence: u32) -> ReportPart {
    ReportPart { board: address(n), appliance: OURS, part: 0, parts: 1, epoch: 1000, sequence }
}

pub fn sockets(n: u16) -> Vec<u8> {
    let row = ListeningRow {
        address: Ipv4Addr::UNSPECIFIED,
        port: 80,
        ipv6: false,
        mptcp: false,
        queue_len: 0,
        queue_max: 511,
        pid: 7,
        name: ListeningRow::name_from("nginx"),
    };
    let mut body = vec![0; 1500];
    let listening = Listening::emit(&part_of_report(n, 1), &[row], &mut body);
    frame(mac(n), ETHERTYPE, listening, |out| out[..listening].copy_from_slice(&body[..listening]))
}

fn closed(n: u16, reason: ClosedReason, flow: Flow, id: u64) -> Vec<u8> {
    let closed = Closed { flow, protocol: Protocol::Tcp, reason, trailer: Trailer::open(id) };
    frame(mac(n), ETHERTYPE, Closed::LEN, |body| closed.emit(body))
}

/// A core that has heard of both boards.
pub fn awake() -> (Core, Recorder) {
    let (mut core, mut out) = (core(), Recorder::default());
    for n in 0..2 {
        for frame in [arp_reply(n, mac(n)), report(&state(n, 1), mac(n)), sockets(n)] {
            assert_eq!(core.frame(0, FARM, &frame, &mut out), Ok(()));
        }
    }
    out.commands();
    out.messages();
    (core, out)
}

fn request() -> Place {
    World::new(unheard(0)).request(1)
}

#[test]
fn a_boards_mac_address_reaches_every_worker() {
    let (mut core, mut out) = (core(), Recorder::default());
    core.tick(0, &mut out);
    let asked = out.messages();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|(port, to, _)| (*port, *to) == (FARM, [0xff; 6])));
    assert_eq!(core.frame(1, FARM, &arp_reply(0, mac(0)), &mut out), Ok(()));
    let command = Command::Board { board: BoardId(0), mac: mac(0), port: FARM };
    assert_eq!(out.commands(), [format!("0 {command:?}"), format!("1 {command:?}")]);
    assert_eq!(core.frame(2, FARM, &arp_reply(0, mac(0)), &mut out), Ok(()));
    assert_eq!(out.commands(), [""; 0], "nothing new");
}

#[test]
fn a_request_travels_from_the_event_to_the_verdict() {
    let (mut core, mut out) = awake();
    let place = request();
    assert!(core.event(MS, WorkerId(1), Event::Place(place, Session::None), &mut out).is_none());
    let messages = out.messages();
    let [(_, to, Message::Connection { tcb, .. })] = &messages[..] else { panic!("{messages:?}") };
    let id = tcb.migration_id;
    let asked = if *to == mac(0).0 { 0 } else { 1 };
    let ack = Ack { flow: place.flow, protocol: Protocol::Tcp, trailer: Some(Trailer::open(id)) };
    let ack = frame(mac(asked), ETHERTYPE, 40, |body| ack.emit(body));
    assert_eq!(core.frame(2 * MS, FARM, &ack, &mut out), Ok(()));
    let (entry, flow) = (place.entry, place.flow);
    let verdict =
        Command::Migrated { entry, flow, board: BoardId(asked), migration_id: id, counted: Counted::No };
    assert_eq!(out.commands(), [format!("1 {verdict:?}")]);
}

#[test]
fn refusals_by_every_board_end_in_503() {
    let (mut core, mut out) = awake();
    let place = request();
    core.event(MS, WorkerId(1), Event::Place(place, Session::None), &mut out);
    for _ in 0..2 {
        let messages = out.messages();
        let [(_, to, Message::Connection { tcb, .. })] = &messages[..] else { panic!("{messages:?}") };
        let trailer = Trailer::open(tcb.migration_id);
        let reason = RefusalReason::AcceptQueueFull;
        let refused = Refused { flow: place.flow, protocol: Protocol::Tcp, reason, trailer };
        let refused = frame(Mac(*to), ETHERTYPE, Refused::LEN, |body| refused.emit(body));
        assert_eq!(core.frame(2 * MS, FARM, &refused, &mut out), Ok(()));
    }
    let verdict = Command::Answer { entry: place.entry, answer: Answer::Unavailable };
    assert_eq!(out.commands(), [format!("1 {verdict:?}")]);
}

#[test]
fn a_holder_is_found_by_the_boards_own_word() {
    let (mut core, mut out) = awake();
    let entry = request().entry;
    core.event(MS, WorkerId(1), Event::WhoHolds { entry, flow: flow(1), board: None }, &mut out);
    assert_eq!(out.messages().len(), 2);
    let holds = |state| Holds { flow: flow(1), protocol: Protocol::Tcp, state, trailer: Trailer::open(77) };
    let unknown = frame(mac(1), ETHERTYPE, Holds::LEN, |body| holds(HeldState::Other(9)).emit(body));
    assert_eq!(core.frame(2 * MS, FARM, &unknown, &mut out), Err(Ignored::BadField));
    let live = frame(mac(1), ETHERTYPE, Holds::LEN, |body| holds(HeldState::Live).emit(body));
    assert_eq!(core.frame(2 * MS, FARM, &live, &mut out), Ok(()));
    let holder = ipos_pipelines::handoff::Holder::Board(BoardId(1), 77);
    assert_eq!(out.commands(), [format!("1 {:?}", Command::Holder { entry, holder })]);
}

#[test]
fn notices_go_to_the_worker_that_owns_the_flow() {
    let (mut core, mut out) = awake();
    let (flow, board) = (flow(1), BoardId(0));
    let owner = Owners::new(2, [1, 2]).owner(&flow).0;
    assert_eq!(core.frame(MS, FARM, &closed(0, ClosedReason::Closed, flow, 77), &mut out), Ok(()));
    let command = Command::Closed { flow, board, migration_id: 77 };
    assert_eq!(out.commands(), [format!("{owner} {command:?}")]);
    assert_eq!(core.frame(MS, FARM, &closed(0, ClosedReason::Stray, flow, 0), &mut out), Ok(()));
    let command = Command::Closed { flow, board, migration_id: 0 };
    assert_eq!(out.commands(), [format!("{owner} {command:?}")]);
    for (reason, id, why) in [
        (ClosedReason::Closed, 0, Ignored::BadField),
        (ClosedReason::NotHeld, 5, Ignored::LateAnswer),
        (ClosedReason::Other(9), 5, Ignored::BadField),
    ] {
        assert_eq!(core.frame(MS, FARM, &closed(0, reason, flow, id), &mut out), Err(why));
    }
    assert_eq!(out.commands(), [""; 0]);
}

#[test]
fn what_is_no_boards_or_malformed_is_ignored_for_its_reason() {
    let (mut core, mut out) = awake();
    let good = report(&state(0, 2), mac(0));
    let wrong_checksum = {
        let mut frame = good.clone();
        frame[40] ^= 1;
        frame
    };
    let wrong_version = {
        // Changed together with the checksum, which counts 16-bit words.
        let mut frame = good.clone();
        frame[14 + 16] = 2;
        let sum = u16::from_be_bytes([frame[28], frame[29]]);
        frame[28..30].copy_from_slice(&(sum - 0x0100).to_be_bytes());
        frame
    };
    let (next, trailer) = (NextRequest::NONE, Trailer::open(3));
    let detach = Detach { flow: flow(1), protocol: Protocol::Tcp, force: true, next, trailer };
    let stranger = Mac([2, 9, 9, 9, 9, 9]);
    let cases: Vec<(Vec<u8>, PortIndex, Ignored)> = vec![
        (good[..10].to_vec(), FARM, Ignored::BadLength),
        (good[..70].to_vec(), FARM, Ignored::BadLength),
        (wrong_checksum, FARM, Ignored::BadChecksum),
        (wrong_version, FARM, Ignored::BadVersion),
        (report(&state(0, 2), stranger), FARM, Ignored::UnknownMac),
        (good.clone(), PortIndex(0), Ignored::WrongPort),
        (report(&state(1, 2), mac(0)), FARM, Ignored::WrongAddress),
        (report(&ServerState { appliance: address(9), ..state(0, 2) }, mac(0)), FARM, Ignored::WrongAddress),
        (report(&ServerState { cpu_cores: 0, ..state(0, 2) }, mac(0)), FARM, Ignored::AbsurdReport),
        (report(&state(0, 1), mac(0)), FARM, Ignored::StaleReport),
        (frame(mac(0), ETHERTYPE, Detach::LEN, |body| detach.emit(body)), FARM, Ignored::UnknownType),
        (
            frame(mac(0), ETHERTYPE, 40, |body| body[12..14].copy_from_slice(&[0x77, 1])),
            FARM,
            Ignored::UnknownType,
        ),
        (frame(mac(0), 0x1234, 40, |_| ()), FARM, Ignored::UnknownType),
        (arp_reply(9, mac(0)), FARM, Ignored::OtherArp),
        (arp_reply(0, mac(1)), FARM, Ignored::ForgedArp),
        (arp_reply(0, mac(0))[..30].to_vec(), FARM, Ignored::BadArp),
    ];
    for (number, (frame, port, why)) in cases.into_iter().enumerate() {
        assert_eq!(core.frame(MS, port, &frame, &mut out), Err(why), "case {number}");
    }
    assert_eq!(core.frame(MS, FARM, &good, &mut out), Ok(()), "and the good one still counts");
    assert_eq!(out.commands(), [""; 0]);
}

fn applications(n: u16, from: Mac, sequence: u32, processes: u16) -> Vec<u8> {
    let row = ApplicationRow {
        pid: 7,
        processes,
        interval_ms: 1000,
        memory: 1 << 20,
        cpu: 250,
        name: ListeningRow::name_from("nginx"),
    };
    frame(from, ETHERTYPE, Applications::buffer_len(1), |body| {
        Applications::emit(&part_of_report(n, sequence), &[row], body);
    })
}

#[test]
fn applications_are_taken_in_order_from_the_board_itself_and_go_with_it() {
    let (mut core, mut out) = awake();
    let rows = |core: &Core| snapshot::of(core, 0, &[]).applications;
    assert_eq!(core.frame(MS, FARM, &applications(0, mac(0), 1, 3), &mut out), Ok(()));
    let row = rows(&core).pop().expect("nginx");
    assert_eq!((row.board.as_str(), row.process.as_str(), row.processes), ("board1", "nginx", 3));
    assert_eq!((row.memory_octets, row.cpu_cores, row.sequence), (1 << 20, Some(0.025), Some(1)));
    for (message, why) in [
        (applications(0, mac(0), 1, 4), Ignored::StaleReport),
        (applications(0, mac(0), 2, 0), Ignored::AbsurdReport),
        (applications(1, mac(0), 2, 4), Ignored::WrongAddress),
        (applications(0, mac(0), 2, 4)[..90].to_vec(), Ignored::BadLength),
    ] {
        assert_eq!(core.frame(MS, FARM, &message, &mut out), Err(why));
    }
    assert_eq!((rows(&core).len(), core.counters.did(Did::ApplicationsTaken)), (1, 1));
    core.tick(0, &mut out);
    core.tick(1010 * MS, &mut out);
    assert_eq!(rows(&core).len(), 0, "the board is dead");
}

#[test]
fn a_second_machine_with_a_boards_address_is_counted_and_moves_nothing() {
    let (mut core, mut out) = awake();
    let rival = arp_reply(0, Mac([2, 0, 0, 0, 9, 9]));
    assert_eq!(core.frame(MS, FARM, &rival, &mut out), Ok(()), "said in the log");
    assert_eq!(core.counters.ignored(Ignored::AddressConflict), 1);
    assert_eq!(core.frame(2 * MS, FARM, &rival, &mut out), Err(Ignored::AddressConflict));
    assert_eq!(core.frame(3 * MS, FARM, &report(&state(0, 2), mac(0)), &mut out), Ok(()));
    assert_eq!(out.commands(), [""; 0], "the workers go on sending to the board");
}

#[test]
fn liveness_and_secrets_change_with_time_alone() {
    let (mut core, mut out) = awake();
    core.tick(0, &mut out);
    assert_eq!(core.counters.did(Did::BoardUp), 2);
    core.tick(999 * MS, &mut out);
    assert_eq!(core.counters.did(Did::BoardDown), 0);
    core.tick(1010 * MS, &mut out);
    assert_eq!(core.counters.did(Did::BoardDown), 2);
    out.commands();
    core.tick(128_000 * MS, &mut out);
    let keys: Vec<String> = out.commands().into_iter().filter(|text| text.contains("CookieKeys")).collect();
    assert_eq!((keys.len(), core.counters.did(Did::CookieRotated)), (2, 1), "one for each worker");
}

#[test]
fn a_stall_of_the_core_kills_no_board_and_refuses_no_request() {
    let (mut core, mut out) = awake();
    core.tick(0, &mut out);
    core.stalled(5_000 * MS);
    // Requests that waited longest are read before the boards' newer reports.
    core.event(5_000 * MS, WorkerId(1), Event::Place(request(), Session::None), &mut out);
    core.tick(5_000 * MS, &mut out);
    assert!(matches!(out.messages()[..], [(_, _, Message::Connection { .. }), ..]));
    assert_eq!((out.commands(), core.counters.did(Did::BoardDown)), (vec![], 0));
    // Silence counts from then on.
    core.tick(6_010 * MS, &mut out);
    assert_eq!(core.counters.did(Did::BoardDown), 2);
}

#[test]
fn a_board_whose_mac_address_is_configured_is_known_from_the_start() {
    let mut settings = core();
    let fixed = BoardSettings {
        name: "b".into(),
        address: address(0),
        mac: Some(mac(0)),
        port: FARM,
        weight: WEIGHT_DEFAULT,
    };
    settings.boards = Boards::new(vec![fixed], OPTIONS, 0);
    let mut out = Recorder::default();
    settings.start(&mut out);
    let command = Command::Board { board: BoardId(0), mac: mac(0), port: FARM };
    assert_eq!(out.commands(), [format!("0 {command:?}"), format!("1 {command:?}")]);
}
