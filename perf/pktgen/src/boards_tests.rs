//! The pretended boards against a scripted appliance.

use std::net::Ipv4Addr;

use ipos_wire::ipos::{NextRequest, ServerState, UdpConnection, encapsulate};
use ipos_wire::seq::Seq;
use ipos_wire::tcb::Tcb;
use ipos_wire::tcp::Options;

use super::*;
use crate::frame::Segment;
use crate::lane::testing::{lane, sent};

const APPLIANCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const APPLIANCE_MAC: Mac = Mac([2, 0, 0, 0, 0xaa, 1]);
const ETHERTYPE: u16 = 0x88b5;

struct Rig {
    boards: Boards,
    lane: Lane,
    flow: Flow,
}

impl Rig {
    fn new() -> Self {
        let clients = Clients::new(Ipv4Addr::new(198, 18, 0, 1), 4, Ipv4Addr::new(198, 51, 100, 1), 80);
        let farm = Farm {
            ethertype: ETHERTYPE,
            boards: 2,
            first_address: Ipv4Addr::new(192, 0, 2, 11),
            appliance: APPLIANCE,
            report_ms: 100,
            response_octets: 500,
        };
        Self { boards: Boards::new(farm, clients, 8, 1), lane: lane(), flow: clients.flow(5) }
    }

    /// The appliance says something to a board; the slot of a client's packet that was in it.
    fn says(&mut self, board: u16, octets: usize, emit: impl FnOnce(&mut [u8])) -> Option<u32> {
        let mut frame = vec![0; 14 + octets];
        ethernet::Repr { dst: board_mac(board), src: APPLIANCE_MAC, ethertype: ETHERTYPE }.emit(&mut frame);
        emit(&mut frame[14..]);
        self.boards.frame(&frame, &mut self.lane).map(|arrived| arrived.slot)
    }

    /// The one answer, and the board it comes from.
    fn answer(&mut self) -> (u16, Vec<u8>) {
        let mut frames = sent(&mut self.lane);
        assert_eq!(frames.len(), 1, "one answer");
        let frame = frames.remove(0);
        let header = ethernet::Repr::parse(&ethernet::Frame::new_checked(&frame[..]).expect("a frame"));
        assert_eq!((header.dst, header.ethertype), (APPLIANCE_MAC, ETHERTYPE));
        (board_of(header.src).expect("a board's address"), frame[14..].to_vec())
    }

    fn take_over(&mut self, board: u16, id: u64) {
        let tcb = Tcb {
            state: tcb::STATE_ESTABLISHED,
            snd_una: Seq(500),
            snd_nxt: Seq(500),
            rcv_nxt: Seq(100),
            migration_id: id,
            ..Tcb::default()
        };
        let server = Ipv4Addr::new(192, 0, 2, 11);
        let connection = TcpConnection { flow: self.flow, server, server_port: 80, tcb };
        self.says(board, TcpConnection::LEN, |body| connection.emit(body));
    }

    /// A client's segment in an ipOS packet; whether it reached an endpoint.
    fn packet(&mut self, board: u16, flags: Flags, payload: &[u8]) -> Option<u32> {
        let way = Way { src: APPLIANCE_MAC, dst: board_mac(board) };
        let segment =
            Segment { flow: self.flow, seq: 100, ack: 500, flags, options: Options::default(), payload };
        let mut frame = vec![0; segment.frame_octets()];
        segment.write(way, &mut frame);
        let (flow, octets) = (self.flow, ipos::HEADER_LEN + frame.len() - 14);
        self.says(board, octets, |body| {
            encapsulate(flow, Protocol::Tcp, body);
            body[ipos::HEADER_LEN..].copy_from_slice(&frame[14..]);
        })
    }
}

fn arp(operation: arp::Operation, target_ip: Ipv4Addr) -> Vec<u8> {
    let target_mac = Mac::default();
    let repr =
        arp::Repr { operation, sender_mac: APPLIANCE_MAC, sender_ip: APPLIANCE, target_mac, target_ip };
    let mut frame = vec![0; ARP_OCTETS];
    write_arp(Way { src: APPLIANCE_MAC, dst: Mac::BROADCAST }, &repr, &mut frame);
    frame
}

#[test]
fn boards_ask_for_the_appliance_and_then_report_each_interval() {
    let mut rig = Rig::new();
    rig.boards.tick(1, &mut rig.lane);
    let asked = sent(&mut rig.lane);
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|frame| parse_arp(&frame[14..]).is_some_and(|ask| ask.target_ip == APPLIANCE)));
    assert!(!rig.boards.knows_appliance());

    rig.boards.frame(&arp(arp::Operation::Reply, Ipv4Addr::new(192, 0, 2, 11)), &mut rig.lane);
    rig.boards.tick(99_000_000, &mut rig.lane);
    assert_eq!(sent(&mut rig.lane).len(), 0, "not yet");
    rig.boards.tick(100_000_001, &mut rig.lane);
    let reports = sent(&mut rig.lane);
    assert_eq!(reports.len(), 4, "0x10 and 0x11 of each board");
    let state = ServerState::parse(&reports[2][14..]).expect("a report");
    assert_eq!((state.board, state.sequence), (Ipv4Addr::new(192, 0, 2, 12), 2));
    let Ok(Some(Message::Listening(sockets))) = Message::parse(&reports[1][14..]) else { panic!("0x11") };
    assert_eq!(sockets.rows().map(|row| row.port).collect::<Vec<_>>(), [80]);
}

#[test]
fn arp_is_answered_for_boards_alone() {
    let mut rig = Rig::new();
    rig.boards.frame(&arp(arp::Operation::Request, Ipv4Addr::new(192, 0, 2, 12)), &mut rig.lane);
    let answers = sent(&mut rig.lane);
    let reply = parse_arp(&answers[0][14..]).expect("an ARP reply");
    assert_eq!((reply.operation, reply.sender_mac), (arp::Operation::Reply, board_mac(1)));
    for other in [Ipv4Addr::new(192, 0, 2, 10), Ipv4Addr::new(192, 0, 2, 13)] {
        rig.boards.frame(&arp(arp::Operation::Request, other), &mut rig.lane);
        assert_eq!(sent(&mut rig.lane).len(), 0, "{other}");
    }
}

#[test]
fn a_connection_is_acknowledged_with_its_id_and_a_repeated_one_is_the_same() {
    let mut rig = Rig::new();
    for repeated in [0, 1] {
        rig.take_over(1, 77);
        let (board, body) = rig.answer();
        let ack = Ack::parse(&body).expect("0x03");
        assert_eq!((board, ack.flow, ack.trailer), (1, rig.flow, Some(Trailer::open(77))));
        let counters = rig.boards.counters();
        assert_eq!((rig.boards.held(), counters.repeated), (1, repeated));
    }
}

#[test]
fn a_connection_of_strangers_or_in_another_state_is_refused() {
    let mut rig = Rig::new();
    rig.flow.client_port = 9;
    rig.take_over(0, 5);
    let refused = Refused::parse(&rig.answer().1).expect("0x04");
    assert_eq!((refused.reason, refused.trailer.id), (RefusalReason::ControlBlock, 5));
    assert_eq!((rig.boards.held(), rig.boards.counters().refused), (0, 1));
}

#[test]
fn packets_reach_the_holder_and_are_stray_elsewhere() {
    let mut rig = Rig::new();
    rig.take_over(1, 77);
    rig.answer();
    assert_eq!(rig.packet(1, Flags::ACK, b"stamp!"), Some(5));
    assert_eq!(rig.packet(0, Flags::ACK, b"stamp!"), None);
    let (board, body) = rig.answer();
    let closed = Closed::parse(&body).expect("0x07");
    assert_eq!((board, closed.reason, closed.trailer.id), (0, ClosedReason::Stray, 0));
}

#[test]
fn only_the_attempt_named_is_detached_and_either_is_confirmed() {
    let mut rig = Rig::new();
    rig.take_over(1, 77);
    rig.answer();
    for (id, held) in [(76, 1), (77, 0)] {
        let trailer = Trailer::open(id);
        let next = NextRequest::NONE;
        let detach = Detach { flow: rig.flow, protocol: Protocol::Tcp, force: true, next, trailer };
        rig.says(1, Detach::LEN, |body| detach.emit(body));
        let closed = Closed::parse(&rig.answer().1).expect("0x07");
        assert_eq!((closed.reason, closed.trailer.id), (ClosedReason::Forced, id));
        assert_eq!(rig.boards.held(), held);
    }
}

#[test]
fn the_holder_says_so_and_the_others_deny() {
    let mut rig = Rig::new();
    rig.take_over(1, 77);
    rig.answer();
    let trailer = Trailer::open(900);
    let question = WhoHolds { flow: rig.flow, protocol: Protocol::Tcp, trailer };
    rig.says(1, WhoHolds::LEN, |body| question.emit(body));
    let holds = Holds::parse(&rig.answer().1).expect("0x09");
    assert_eq!((holds.state, holds.trailer.id), (HeldState::Live, 77));
    rig.says(0, WhoHolds::LEN, |body| question.emit(body));
    let denied = Closed::parse(&rig.answer().1).expect("0x07");
    assert_eq!((denied.reason, denied.trailer.id), (ClosedReason::NotHeld, 900));
}

#[test]
fn an_endpoint_that_closes_is_told_with_its_id() {
    let mut rig = Rig::new();
    rig.boards.frame(&arp(arp::Operation::Reply, Ipv4Addr::new(192, 0, 2, 11)), &mut rig.lane);
    rig.take_over(1, 77);
    rig.answer();
    let any = Ipv4Addr::UNSPECIFIED;
    let flags = Flags::RST;
    let packet =
        Received { src: any, dst: any, src_port: 0, dst_port: 0, seq: 100, ack: 0, flags, payload: b"" };
    assert_eq!(rig.boards.serve(&Arrived { slot: 5, packet }, &mut rig.lane), None);
    let (board, body) = rig.answer();
    let closed = Closed::parse(&body).expect("0x07");
    assert_eq!((board, closed.reason, closed.trailer.id), (1, ClosedReason::Closed, 77));
    assert_eq!(rig.boards.held(), 0);
}

#[test]
fn a_datagram_flow_is_acknowledged() {
    let mut rig = Rig::new();
    let server = Ipv4Addr::new(192, 0, 2, 11);
    let connection = UdpConnection { flow: rig.flow, server, server_port: 53 };
    rig.says(0, UdpConnection::LEN, |body| connection.emit(body));
    let ack = Ack::parse(&rig.answer().1).expect("0x03");
    assert_eq!((ack.flow, ack.protocol), (rig.flow, Protocol::Udp));
}

#[test]
fn what_is_not_for_a_board_is_counted_and_ignored() {
    let mut rig = Rig::new();
    rig.take_over(2, 1);
    rig.says(0, 30, |body| body.fill(0xff));
    rig.boards.frame(&[0; 13], &mut rig.lane);
    rig.boards.frame(&[0; 60], &mut rig.lane);
    assert_eq!(sent(&mut rig.lane).len(), 0);
    assert_eq!(rig.boards.counters().ignored, 3);
}
