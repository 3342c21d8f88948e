//! Services of kind `l4`: nothing is terminated, and a flow keeps the board that the table gave it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipos_pipelines::by_board::SWEEP_SLOTS;
use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{BoardId, Command, Event, FlowFilter, FlowPage, Holder, Takes, WorkerId};
use ipos_pipelines::layer4::HALF_OPEN_MS;
use ipos_pipelines::maglev::{HashBy, Maglev, Member};
use ipos_pipelines::services::{Kind, Service, Services};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::tcp::Flags;
use ipos_wire::{ethernet, icmp, ipos, ipv4};

use crate::common::client::CLIENT_MAC;
use crate::common::scripts::REQUEST;
use crate::common::setup::plain;
use crate::common::setup::services;
use crate::common::{
    BOARD, BOARD_MAC, Client, MIGRATION, Node, OTHER_BOARD, OTHER_BOARD_MAC, Rig, SERVICE, SERVICE_PORT, Seg,
    Setup, WAN_ADDRESS, WAN_MAC, only,
};

pub const PORT: u16 = 5201;
/// The number of the service at [`PORT`].
pub const L4: u16 = 2;
/// By when boards have been heard of.
const HEARD_MS: u64 = 5_000;

pub fn table(boards: &[BoardId]) -> Arc<Maglev> {
    let member = |board: &BoardId| {
        let address = Ipv4Addr::new(192, 0, 2, 10 + board.0 as u8);
        Member { board: *board, address, weight: 100 }
    };
    Arc::new(Maglev::build(HashBy::Flow, boards.iter().map(member).collect(), 1021))
}

pub fn service(port: u16, kind: Kind) -> Arc<Service> {
    Arc::new(plain(SERVICE, port, kind, 4))
}

/// An `http` service at the usual port, and an `l4` one at another of the same address.
pub fn services_of(boards: &[BoardId]) -> Services {
    let both = vec![(0, service(SERVICE_PORT, Kind::Http)), (L4, service(PORT, Kind::L4))];
    Services::numbered(both, Vec::new()).expect("two ports").with_tables(vec![(L4, table(boards))])
}

pub fn serve(node: &mut Node, boards: &[BoardId]) {
    node.command(Command::Services(Arc::new(services_of(boards))));
}

pub fn takes(node: &mut Node, board: BoardId, takes: Takes) {
    node.command(Command::Standing { service: L4, board, takes });
}

/// Both boards serve.
fn rig() -> Rig {
    with(Setup::default())
}

pub fn with(setup: Setup) -> Rig {
    let mut rig = Rig::with(setup);
    rig.pass(HEARD_MS);
    serve(&mut rig, &[BOARD, OTHER_BOARD]);
    takes(&mut rig, BOARD, Takes::New);
    takes(&mut rig, OTHER_BOARD, Takes::New);
    rig
}

pub fn client(port: u16) -> Client {
    let mut client = Client::stranger(port);
    client.flow.endpoint_port = PORT;
    client
}

/// The board that a segment goes to.
#[track_caller]
pub fn board_of(node: &mut Node, segment: &Seg) -> BoardId {
    assert_eq!(node.client(segment), Verdict::Forwarded);
    went_to(node, segment)
}

/// The board that a segment has just gone to.
#[track_caller]
fn went_to(node: &mut Node, segment: &Seg) -> BoardId {
    let out = node.forwarded();
    assert_eq!(out.packet, segment.frame()[ethernet::HEADER_LEN..], "as it came");
    assert_eq!((out.header.kind, out.header.flow), (ipos::TYPE_PACKET, segment.flow));
    match out.destination_mac {
        BOARD_MAC => BOARD,
        OTHER_BOARD_MAC => OTHER_BOARD,
        other => panic!("no board has {other}"),
    }
}

/// The board that a segment goes to once every board has denied to hold its flow.
#[track_caller]
pub fn board_of_unclaimed(node: &mut Node, segment: &Seg) -> BoardId {
    let entry = node.ask_about(segment);
    node.command(Command::Holder { entry, holder: Holder::Nobody });
    went_to(node, segment)
}

/// A client whose flow belongs to this board, from this port on.
#[track_caller]
fn client_of(node: &mut Node, wanted: BoardId, from: u16) -> Client {
    (from..from + 100).map(client).find(|client| board_of(node, &client.syn()) == wanted).expect("one of 100")
}

#[test]
fn every_packet_of_a_flow_goes_to_one_board_and_flows_spread() {
    let mut rig = rig();
    let mut counts = [0; 2];
    for port in 1..=200 {
        let client = client(port);
        let board = board_of(&mut rig, &client.syn());
        for segment in [client.syn(), client.ack(0), client.data(0, b"x"), client.fin(1), client.acks(2, 3)] {
            assert_eq!(board_of(&mut rig, &segment), board);
        }
        assert_eq!(rig.state(&client.flow), Some(State::Layer4));
        counts[usize::from(board == BOARD)] += 1;
    }
    assert!(counts.iter().all(|count| *count > 60), "{counts:?}");
    assert_eq!(rig.happened(Happening::Layer4Placed), 200);
    rig.assert_silent();
}

#[test]
fn a_flow_keeps_its_board_whatever_becomes_of_boards_and_new_flows_do_not_go_there() {
    for change in [Takes::Known, Takes::None] {
        let mut rig = rig();
        let old = client_of(&mut rig, BOARD, 1);
        assert_eq!(board_of(&mut rig, &old.ack(0)), BOARD);
        takes(&mut rig, BOARD, change);
        assert_eq!(board_of(&mut rig, &old.data(0, b"x")), BOARD, "{change:?}");
        for port in 1_000..1_050 {
            assert_eq!(board_of(&mut rig, &client(port).syn()), OTHER_BOARD, "{change:?}");
        }
        // Another table, in which the flow's board is not any more.
        serve(&mut rig, &[OTHER_BOARD]);
        assert_eq!(board_of(&mut rig, &old.data(1, b"y")), BOARD, "{change:?}");
        assert_eq!(board_of(&mut rig, &old.syn()), OTHER_BOARD, "a SYN begins a flow anew, {change:?}");
    }
}

#[test]
fn after_a_restart_packets_go_where_they_went_also_before_any_board_was_heard_of() {
    let mut rig = rig();
    let clients: Vec<Client> = (1..=100).map(client).collect();
    let boards: Vec<BoardId> = clients.iter().map(|client| board_of(&mut rig, &client.syn())).collect();
    let mut new = Rig::new();
    serve(&mut new, &[OTHER_BOARD, BOARD]);
    for (client, board) in clients.iter().zip(&boards) {
        assert_eq!(board_of_unclaimed(&mut new, &client.data(7, b"x")), *board);
        assert_eq!(board_of(&mut new, &client.data(8, b"x")), *board);
    }
    assert_eq!(
        new.client(&client(1_000).syn()),
        Verdict::Drop(Drop::NoBoardYet),
        "the client sends it again"
    );
    takes(&mut new, BOARD, Takes::None);
    assert_eq!(
        board_of_unclaimed(&mut new, &client(2_000).data(0, b"x")),
        OTHER_BOARD,
        "whose kernel says RST"
    );
    new.assert_silent();
}

#[test]
fn after_a_restart_a_flow_that_is_beside_the_table_keeps_its_board() {
    let mut rig = rig();
    let client = client_of(&mut rig, BOARD, 1);
    let mut new = self::rig();
    let entry = new.ask_about(&client.data(7, b"x"));
    assert_eq!(new.client(&client.data(8, b"y")), Verdict::Drop(Drop::AwaitingHolder));
    new.command(Command::Holder { entry, holder: Holder::Board(OTHER_BOARD, 0) });
    assert_eq!(went_to(&mut new, &client.data(7, b"x")), OTHER_BOARD);
    assert_eq!((new.happened(Happening::Originated), new.happened(Happening::HolderFound)), (1, 1));
    assert_eq!(new.state(&client.flow), Some(State::Layer4));
    assert_eq!(board_of(&mut new, &client.data(8, b"y")), OTHER_BOARD);
    // It ends as any other.
    assert_eq!(board_of(&mut new, &client.fin(9)), OTHER_BOARD);
    new.pass(100_000);
    assert_eq!(new.state(&client.flow), None);
    new.assert_silent();
}

#[test]
fn after_a_restart_the_end_of_a_flow_goes_to_its_board_as_well() {
    let mut rig = rig();
    for (end, holder, is_over) in [
        (client(1).fin(7), Holder::Board(OTHER_BOARD, 0), false),
        (client(1).rst(7), Holder::Board(OTHER_BOARD, 0), true),
        (client(1).fin(7), Holder::TimeWait(OTHER_BOARD), true),
    ] {
        let entry = rig.ask_about(&end);
        rig.command(Command::Holder { entry, holder });
        assert_eq!(went_to(&mut rig, &end), OTHER_BOARD, "{holder:?}");
        let found = rig.entry(&end.flow).expect("an entry");
        assert_eq!((found.state, found.closing), (State::Layer4, is_over), "{holder:?}");
        rig.pass(100_000);
        assert_eq!(rig.state(&end.flow), None, "{holder:?}");
    }
}

#[test]
fn a_syn_waits_for_the_answer_about_its_flow_too() {
    for (holder, board) in [(Holder::Board(OTHER_BOARD, 0), OTHER_BOARD), (Holder::Nobody, BOARD)] {
        let mut rig = rig();
        let client = client_of(&mut self::rig(), BOARD, 1);
        let entry = rig.ask_about(&client.data(7, b"x"));
        assert_eq!(rig.client(&client.syn()), Verdict::Drop(Drop::AwaitingHolder), "it may be forged");
        rig.command(Command::Holder { entry, holder });
        assert_eq!(went_to(&mut rig, &client.data(7, b"x")), board);
        assert_eq!(board_of(&mut rig, &client.syn()), board, "its client sends it again");
    }
}

#[test]
fn a_packet_about_which_the_farm_has_not_said_all_is_forgotten_and_the_next_one_is_asked_about() {
    let mut rig = rig();
    let client = client(1);
    let entry = rig.ask_about(&client.data(7, b"x"));
    rig.command(Command::Holder { entry, holder: Holder::Unknown });
    assert_eq!(rig.state(&client.flow), None);
    rig.ask_about(&client.data(7, b"x"));
    rig.pass(10_000);
    assert_eq!(rig.state(&client.flow), None, "the control core has not answered");
    rig.assert_silent();
}

#[test]
fn what_is_too_much_to_ask_about_waits_right_after_the_start_and_goes_by_the_table_later() {
    let mut rig = Rig::with(Setup { events: 1_024, ..Setup::default() });
    serve(&mut rig, &[BOARD, OTHER_BOARD]);
    takes(&mut rig, BOARD, Takes::New);
    takes(&mut rig, OTHER_BOARD, Takes::New);
    let ask = |rig: &mut Rig, ports: std::ops::RangeInclusive<u16>| {
        ports.map(|port| rig.client(&client(port).data(7, b"x"))).collect::<Vec<_>>()
    };
    assert!(ask(&mut rig, 1..=256).iter().all(|verdict| *verdict == Verdict::Held));
    assert_eq!(ask(&mut rig, 257..=257), [Verdict::Drop(Drop::AskLimit)], "its client sends it again");
    assert_eq!(rig.state(&client(257).flow), None);
    assert_eq!(rig.told().len(), 256);
    rig.pass(HEARD_MS);
    while !rig.worker.core().waiting.is_empty() {
        rig.poll();
    }
    assert!(ask(&mut rig, 1..=256).iter().all(|verdict| *verdict == Verdict::Held));
    let board = board_of(&mut rig, &client(257).data(7, b"x"));
    assert_eq!(board_of(&mut rig, &client(257).syn()), board);
    assert_eq!(rig.happened(Happening::Layer4Unasked), 1);
    // Others have room left.
    assert_eq!(rig.client(&Client::stranger(1).data(0, b"x")), Verdict::Held);
}

#[test]
fn a_queue_that_is_half_full_is_left_to_others() {
    let mut rig = with(Setup { events: 2, ..Setup::default() });
    rig.ask(&Client::stranger(1));
    assert_eq!(rig.client(&Client::stranger(2).data(0, b"x")), Verdict::Held);
    board_of(&mut rig, &client(1).data(7, b"x"));
    assert_eq!(rig.happened(Happening::Layer4Unasked), 1);
    assert_eq!(rig.told().len(), 1);
    rig.ask_about(&client(2).data(7, b"x"));
}

#[test]
fn a_reload_that_changes_the_kind_while_the_farm_is_asked() {
    let http = || {
        let only = vec![(L4, service(PORT, Kind::Http))];
        Command::Services(Arc::new(Services::numbered(only, Vec::new()).expect("one port")))
    };
    // Not terminated any more: the table's board has what nobody claims, and a migrated endpoint is what it was.
    for (holder, state) in [
        (Holder::Nobody, State::Layer4),
        (Holder::Board(BOARD, 0), State::Layer4),
        (Holder::Board(BOARD, MIGRATION), State::Forward),
    ] {
        let mut rig = rig();
        rig.command(http());
        let entry = rig.ask_about(&client(1).data(7, b"x"));
        serve(&mut rig, &[BOARD]);
        rig.command(Command::Holder { entry, holder });
        assert_eq!(went_to(&mut rig, &client(1).data(7, b"x")), BOARD);
        assert_eq!(rig.state(&client(1).flow), Some(state), "{holder:?}");
    }
    // Terminated from now on: who is denied is answered.
    let mut rig = rig();
    let entry = rig.ask_about(&client(1).data(7, b"x"));
    rig.command(http());
    rig.command(Command::Holder { entry, holder: Holder::Nobody });
    rig.pass(1_100);
    assert!(rig.answer().flags.contains(Flags::RST));
    assert_eq!(rig.state(&client(1).flow), None);
}

#[test]
fn a_packet_that_comes_before_the_boards_place_is_known_makes_no_entry() {
    let mut rig = Rig::with(Setup { boards_known: false, ..Setup::default() });
    serve(&mut rig, &[BOARD]);
    let client = client(1);
    assert_eq!(rig.client(&client.syn()), Verdict::Drop(Drop::NoBoardYet));
    takes(&mut rig, BOARD, Takes::New);
    assert_eq!(rig.client(&client.syn()), Verdict::Drop(Drop::NoBoardMac));
    let entry = rig.ask_about(&client.data(0, b"x"));
    rig.command(Command::Holder { entry, holder: Holder::Nobody });
    assert_eq!((rig.state(&client.flow), rig.happened(Happening::OriginateFailed)), (None, 1));
}

#[test]
fn no_board_left_is_said_by_rst_and_counted() {
    let mut rig = rig();
    takes(&mut rig, BOARD, Takes::Known);
    takes(&mut rig, OTHER_BOARD, Takes::None);
    assert_eq!(rig.client(&client(1).syn()), Verdict::Answered);
    assert!(rig.answer().flags.contains(Flags::RST | Flags::ACK));
    assert_eq!(
        board_of_unclaimed(&mut rig, &client(2).data(0, b"x")),
        BOARD,
        "it may be one of its old flows"
    );
    takes(&mut rig, BOARD, Takes::None);
    for (segment, resets) in [(client(3).data(0, b"x"), 1), (client(4).rst(0), 0)] {
        let entry = rig.ask_about(&segment);
        rig.command(Command::Holder { entry, holder: Holder::Nobody });
        let answers = rig.segments_out();
        assert!(answers.iter().all(|answer| answer.flags.contains(Flags::RST)));
        assert_eq!((answers.len(), rig.state(&segment.flow)), (resets, None));
    }
    assert_eq!(rig.happened(Happening::Layer4NoBoard), 3);
}

#[test]
fn timers_are_those_of_migrated_flows_and_a_handshake_that_does_not_go_on_is_short() {
    let mut rig = rig();
    let (half_open, open, ended, reset) = (client(1), client(2), client(3), client(4));
    for client in [&half_open, &open, &ended, &reset] {
        board_of(&mut rig, &client.syn());
    }
    for client in [&open, &ended, &reset] {
        board_of(&mut rig, &client.ack(0));
    }
    board_of(&mut rig, &ended.fin(0));
    board_of(&mut rig, &reset.rst(0));
    rig.pass(2_100);
    assert_eq!(rig.state(&reset.flow), None);
    let states = |rig: &Rig| [&half_open, &ended, &open].map(|client| rig.state(&client.flow).is_some());
    assert_eq!(states(&rig), [true, true, true]);
    rig.pass(u64::from(HALF_OPEN_MS));
    assert_eq!(states(&rig), [false, true, true]);
    rig.pass(60_000);
    assert_eq!(states(&rig), [false, false, true]);
    rig.pass(200_000);
    board_of(&mut rig, &open.data(0, b"x"));
    rig.pass(200_000);
    assert_eq!(states(&rig), [false, false, true], "it was not idle for so long");
    rig.pass(110_000);
    assert_eq!(states(&rig), [false; 3]);
    rig.assert_silent();
}

#[test]
fn a_flood_takes_half_of_the_shard_and_other_services_keep_the_rest() {
    let mut rig = with(Setup { entries: 1024, ..Setup::default() });
    for port in 1..=2_000 {
        assert_eq!(rig.client(&client(port).syn()), Verdict::Forwarded);
        rig.packets_out();
    }
    assert_eq!(rig.counters.entries[State::Layer4.index()].read(), 512);
    assert_eq!(rig.happened(Happening::Layer4Unkept), 2_000 - 512);
    let last = client(2_000);
    let board = board_of(&mut rig, &last.syn());
    assert_eq!(board_of(&mut rig, &last.data(0, b"x")), board, "by the table alone");
    rig.request(&mut Client::new(), REQUEST);
}

#[test]
fn a_board_that_is_removed_by_force_takes_its_flows_with_it() {
    let mut rig = rig();
    let old = client_of(&mut rig, BOARD, 1);
    board_of(&mut rig, &old.ack(0));
    rig.command(Command::Forget { board: BOARD });
    let slots = rig.worker.core().shard.capacity() as usize;
    (0..=slots / SWEEP_SLOTS).for_each(|_| {
        rig.poll();
    });
    rig.assert_silent();
    assert_eq!(rig.client(&old.data(0, b"x")), Verdict::Answered);
    assert!(rig.answer().flags.contains(Flags::RST));
}

#[test]
fn a_reload_that_changes_the_kind_leaves_connections_where_they_are() {
    let mut rig = rig();
    let mut http = Client::new();
    rig.settle(&mut http);
    let flow = client_of(&mut rig, OTHER_BOARD, 1);
    board_of(&mut rig, &flow.ack(0));
    // Each is of the other kind now.
    let both = vec![(0, service(SERVICE_PORT, Kind::L4)), (L4, service(PORT, Kind::Http))];
    let changed = Services::numbered(both, Vec::new()).expect("two ports");
    let changed = changed.with_tables(vec![(0, table(&[OTHER_BOARD]))]);
    rig.command(Command::Services(Arc::new(changed)));
    rig.command(Command::Standing { service: 0, board: OTHER_BOARD, takes: Takes::New });
    assert_eq!(board_of(&mut rig, &http.acks(47, 100)), BOARD);
    assert_eq!(board_of(&mut rig, &flow.data(0, b"x")), OTHER_BOARD);
    assert_eq!(board_of(&mut rig, &http.fin(47)), BOARD);
    assert_eq!(board_of(&mut rig, &http.syn()), OTHER_BOARD, "the same ports again");
    assert!(matches!(only(rig.told()), Event::Abandon { migrated: Some((BOARD, _)), .. }));
    rig.command(Command::Services(services()));
    assert_eq!(
        board_of(&mut rig, &flow.data(1, b"x")),
        OTHER_BOARD,
        "the service is closed, the flow goes on"
    );
}

#[test]
fn flows_are_listed_with_their_board() {
    let mut rig = rig();
    let client = client_of(&mut rig, OTHER_BOARD, 1);
    let filter =
        FlowFilter { board: Some(OTHER_BOARD), endpoint: Some((SERVICE, PORT)), ..FlowFilter::default() };
    let rows = Vec::with_capacity(64);
    let page = FlowPage { request: 1, worker: WorkerId(0), cursor: Some(0), filter, rows };
    rig.command(Command::ListFlows(Box::new(page)));
    let Event::Flows(page) = only(rig.told()) else { panic!("a page") };
    let row = page.rows.iter().find(|row| row.flow == client.flow).expect("the flow");
    assert_eq!(row.board, Some(OTHER_BOARD));
}

#[test]
fn what_does_not_fit_the_farm_is_answered_by_icmp_on_either_path() {
    let mut rig = rig();
    let client = client(1);
    let board = board_of(&mut rig, &client.syn());
    // Octets of data that fill 1500 - 16 octets with the IPv4 and TCP headers and 12 octets of time stamps.
    let fits = 1500 - 16 - 20 - 32;
    for is_settled in [false, true] {
        assert_eq!(rig.entry(&client.flow).expect("an entry").syn_irs.is_none(), is_settled);
        let big = client.data(0, &vec![0x61; fits + 1]);
        assert_eq!(rig.client(&big), Verdict::Answered);
        let frame = only(rig.wan_frames());
        let view = ethernet::Frame::new_checked(&frame[..]).expect("a frame");
        assert_eq!((view.src(), view.dst()), (WAN_MAC, CLIENT_MAC));
        let packet = ipv4::Packet::new_checked(view.payload()).expect("IPv4");
        assert!(packet.checksum_ok());
        assert_eq!((packet.src(), packet.dst()), (WAN_ADDRESS, client.flow.client));
        let message = icmp::Packet::new_checked(packet.payload()).expect("ICMP");
        assert!(message.checksum_ok());
        assert_eq!((message.kind(), message.code(), message.next_hop_mtu()), (3, 4, Some(1484)));
        let quoted = message.quoted().expect("a quote");
        assert_eq!((quoted.src, quoted.src_port), (client.flow.client, client.flow.client_port));
        assert_eq!((quoted.dst, quoted.dst_port), (SERVICE, PORT));
        assert_eq!(board_of(&mut rig, &client.data(0, &vec![0x61; fits])), board);
    }
    assert_eq!(rig.happened(Happening::TooBigTold), 2);
    // What may be fragmented is not told; and not more are told than a thousand a second.
    let mut frame = client.data(0, &vec![0x61; fits + 1]).frame();
    frame[20] &= !0x40;
    ipv4::Packet::new_checked(&mut frame[14..]).expect("IPv4").fill_checksum();
    assert_eq!(rig.on_wan(&frame), Verdict::Drop(Drop::TooBig));
    let big = client.data(0, &vec![0x61; fits + 1]);
    let told = (0..1_100).filter(|_| rig.client(&big) == Verdict::Answered).count();
    rig.wan_frames();
    assert_eq!((told, rig.client(&big)), (1_000 - 2, Verdict::Drop(Drop::TooBig)));
}
