//! What a board does not take, and what it drops.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use ipos_wire::{
    flow::Flow,
    ipos::{ClosedReason, Message, Protocol, RefusalReason, UdpConnection},
    seq::Seq,
    tcb::OptionBits,
    tcp::Flags,
};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, sockopt,
};

use crate::{
    appliance::{Answer, Appliance},
    await_listener, board_with_nginx,
    client::{Client, request},
    world::{BOARD, CLIENT, L4_SERVICE, Options, SERVICE, World},
};

fn refusal(appliance: &mut Appliance, client: &Client, id: u64) -> RefusalReason {
    match appliance.answer(client.flow, id) {
        Answer::Refused(reason) => reason,
        other => panic!("{other:?} instead of a refusal"),
    }
}

#[test]
fn without_a_listener_that_covers_the_address_the_board_refuses() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let _elsewhere = world.inside_board(|| TcpListener::bind((BOARD, 8081)).expect("listens"));
    let _loopback = world.inside_board(|| TcpListener::bind(("127.0.0.1", 8082)).expect("listens"));
    let _exact = world.inside_board(|| TcpListener::bind((SERVICE, 8083)).expect("listens"));
    let _dual = world.inside_board(|| TcpListener::bind(("::", 8084)).expect("listens"));
    for (id, port, expected) in [
        (1, 8080, Answer::Refused(RefusalReason::NoListener)),
        (2, 8081, Answer::Refused(RefusalReason::AddressNotCovered)),
        (3, 8082, Answer::Refused(RefusalReason::AddressNotCovered)),
        (4, 8083, Answer::Acknowledged),
        (5, 8084, Answer::Acknowledged),
    ] {
        let client = Client::new(42_001, port);
        appliance.send_connection(&client.connection(id));
        assert_eq!(appliance.answer(client.flow, id), expected, "port {port}");
    }
    let mut elsewhere = Client::new(42_002, 80);
    elsewhere.flow.endpoint = Ipv4Addr::new(198, 51, 100, 77);
    appliance.send_connection(&elsewhere.connection(6));
    assert_eq!(
        refusal(&mut appliance, &elsewhere, 6),
        RefusalReason::AddressNotCovered,
        "no service of this board"
    );
}

#[test]
fn a_full_accept_queue_refuses_until_there_is_room() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let listener = world.inside_board(|| {
        let listener =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).expect("a socket");
        setsockopt(&listener, sockopt::ReuseAddr, &true).expect("set");
        bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &SockaddrIn::from(SocketAddrV4::new(SERVICE, 8085)))
            .expect("bound");
        listen(&listener, Backlog::new(0).expect("a backlog")).expect("listens");
        TcpListener::from(listener)
    });
    let mut waiting = Client::new(42_003, 8085);
    waiting.migrate(&mut appliance, 1);
    waiting.send(&mut appliance, b"hello");
    let segment = appliance.segment(waiting.flow);
    assert_eq!(segment.header.ack, waiting.next, "the kernel has the octets");

    let mut refused = Client::new(42_004, 8085);
    appliance.send_connection(&refused.connection(2));
    assert_eq!(refusal(&mut appliance, &refused, 2), RefusalReason::AcceptQueueFull);

    let (accepted, from) = listener.accept().expect("accepted");
    assert_eq!(from, (CLIENT, 42_003).into());
    appliance.send_connection(&refused.connection(3));
    appliance.await_ack(refused.flow, 3);
    refused.send(&mut appliance, b"hello");
    assert_eq!(appliance.segment(refused.flow).header.ack, refused.next);
    drop(accepted);
}

#[test]
fn a_queue_that_fills_between_ack_and_packet_costs_no_connection() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let listener = world.inside_board(|| {
        let listener =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).expect("a socket");
        bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &SockaddrIn::from(SocketAddrV4::new(SERVICE, 8086)))
            .expect("bound");
        listen(&listener, Backlog::new(0).expect("a backlog")).expect("listens");
        TcpListener::from(listener)
    });
    let (mut first, second) = (Client::new(42_005, 8086), Client::new(42_006, 8086));
    first.migrate(&mut appliance, 1);
    second.migrate(&mut appliance, 2);
    first.send(&mut appliance, b"first");
    assert_eq!(appliance.segment(first.flow).header.ack, first.next);
    let packet = second.packet(second.next, Flags::ACK | Flags::PSH, b"second");
    appliance.send_packet(second.flow, &packet);
    // The kernel drops it; the record stays pending and says so.
    let state = appliance.ask_who_holds(second.flow, 3);
    assert_eq!(state, Some((ipos_wire::ipos::HeldState::Pending, 2)));
    assert!(!appliance.saw_reset(second.flow));
    listener.accept().expect("the first is accepted");
    let third = Client::new(42_015, 8086);
    third.migrate(&mut appliance, 4);
    appliance.send_packet(second.flow, &packet);
    assert_eq!(appliance.segment(second.flow).header.ack, second.next + 6);

    // Giving up one that never got its socket must not take the listener for it.
    appliance.send_packet(third.flow, &third.packet(third.next, Flags::ACK | Flags::PSH, b"third"));
    appliance.send_detach(third.flow, 4);
    assert_eq!(appliance.answer(third.flow, 4), Answer::Closed(ClosedReason::Forced));
    listener.accept().expect("the second is accepted");
    let mut fourth = Client::new(42_016, 8086);
    fourth.migrate(&mut appliance, 5);
    fourth.send(&mut appliance, b"fourth");
    assert_eq!(appliance.segment(fourth.flow).header.ack, fourth.next);
}

#[test]
fn a_control_block_that_the_kernel_could_not_continue_is_refused() {
    let (_world, mut appliance) = board_with_nginx(&Options::default());
    let client = Client::new(42_007, 80);
    let mut id = 0;
    let mut refused_with = |change: &dyn Fn(&mut ipos_wire::tcb::Tcb)| {
        id += 1;
        let mut connection = client.connection(id);
        change(&mut connection.tcb);
        appliance.send_connection(&connection);
        appliance.answer(client.flow, id)
    };
    let not_acceptable = Answer::Refused(RefusalReason::ControlBlock);
    assert_eq!(refused_with(&|tcb| tcb.state = 3), not_acceptable);
    assert_eq!(refused_with(&|tcb| tcb.snd_una = Seq(1)), not_acceptable);
    assert_eq!(refused_with(&|tcb| tcb.our_window_scale = 15), not_acceptable);
    assert_eq!(refused_with(&|tcb| tcb.client_mss = 535), Answer::Refused(RefusalReason::MssTooSmall));
    assert_eq!(refused_with(&|tcb| tcb.client_mss = 536), Answer::Acknowledged);
}

#[test]
fn a_full_endpoint_table_refuses() {
    let (_world, mut appliance) = board_with_nginx(&Options { endpoints_max: 16, ..Options::default() });
    let answers: Vec<Answer> = (0u16..17)
        .map(|n| {
            let client = Client::new(43_000 + n, 80);
            appliance.send_connection(&client.connection(u64::from(n) + 1));
            appliance.answer(client.flow, u64::from(n) + 1)
        })
        .collect();
    assert_eq!(answers[..16], [Answer::Acknowledged; 16]);
    assert_eq!(answers[16], Answer::Refused(RefusalReason::EndpointTableFull));
}

#[test]
fn a_listener_that_speaks_multipath_tcp_is_refused_and_reported() {
    let (mut world, mut appliance) = board_with_nginx(&Options::default());
    let mut python = world.on_board("python3");
    python.args([
        "-c",
        "import socket,signal\ns=socket.socket(socket.AF_INET,socket.SOCK_STREAM,262)\n\
         s.bind(('0.0.0.0',8087))\ns.listen(5)\nsignal.pause()",
    ]);
    world.spawn(python);
    let mptcp = appliance.message("a report of the listener", |message| match message {
        Message::Listening(report) => report.rows().find(|row| row.port == 8087).map(|row| row.mptcp),
        _ => None,
    });
    assert!(mptcp, "the report says so");
    let client = Client::new(42_008, 8087);
    appliance.send_connection(&client.connection(1));
    assert_eq!(refusal(&mut appliance, &client, 1), RefusalReason::Mptcp);
}

#[test]
fn a_flow_of_udp_is_taken_where_a_socket_gets_it_and_refused_elsewhere() {
    let (mut world, mut appliance) = board_with_nginx(&Options::default());
    let flow = Client::new(42_009, 53).flow;
    let mut message = [0; UdpConnection::LEN];
    UdpConnection { flow, server: BOARD, server_port: 53 }.emit(&mut message);
    appliance.send(&message);
    let refused = appliance.message("a refusal", |message| match message {
        Message::Refused(refused) if refused.flow == flow => Some((refused.protocol, refused.reason)),
        _ => None,
    });
    assert_eq!(refused, (Protocol::Udp, RefusalReason::NoListener));
    let mut socket = world.on_board("python3");
    let program = "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                   s.bind(('0.0.0.0', 53))\ntime.sleep(600)";
    socket.args(["-c", program]);
    world.spawn(socket);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while world.counter("udp_acks_sent") == 0 {
        assert!(std::time::Instant::now() < deadline, "the socket is not found");
        appliance.send(&message);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let protocol = appliance.message("an acknowledgement", |message| match message {
        Message::Ack(ack) if ack.flow == flow => Some(ack.protocol),
        _ => None,
    });
    assert_eq!(protocol, Protocol::Udp);
}

#[test]
fn frames_that_are_wrong_or_from_strangers_are_counted_and_ignored() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let client = Client::new(42_010, 80);
    let mut message = [0; ipos_wire::ipos::TcpConnection::LEN];
    client.connection(1).emit(&mut message);
    let mut broken = message;
    broken[40] ^= 1;
    appliance.send(&broken);
    appliance.send(&message[..100]);
    appliance.send(&[0; 4]);
    let mut unknown = message;
    unknown[12] = 0x7f;
    appliance.send(&unknown);
    let mut other_board = client.connection(1);
    other_board.server = Ipv4Addr::new(192, 0, 2, 12);
    let mut other = message;
    other_board.emit(&mut other);
    appliance.send(&other);
    let (own, board) = appliance.macs();
    appliance.send_from_to([2, 0, 0, 0, 0, 9], board, &message);
    appliance.send_from_to(own, [2, 0, 0, 0, 0, 8], &message);
    // A packet for another endpoint than its header says, and one that is cut.
    let packet = client.packet(client.next, Flags::ACK, b"x");
    appliance.send_packet(Flow { endpoint: L4_SERVICE, ..client.flow }, &packet);
    appliance.send_packet(client.flow, &packet[..packet.len() - 1]);
    assert_eq!(appliance.ask_who_holds(client.flow, 2), None, "nothing was stored");
    let counted =
        ["bad_checksum", "malformed", "unknown_type", "not_ours", "unknown_sender", "connections_received"]
            .map(|name| world.counter(name));
    assert_eq!(counted, [1, 4, 1, 2, 1, 0]);
    assert!(
        !appliance.has_unread(|message| matches!(
            message,
            Message::Ack(_) | Message::Refused(_) | Message::Closed(_)
        ))
    );
}

#[test]
fn the_guard_keeps_the_kernel_from_resetting_and_tells_the_appliance() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let client = Client::new(42_011, 80);
    let packet = client.packet(client.next, Flags::ACK | Flags::PSH, request("/small").as_bytes());
    appliance.send_packet(client.flow, &packet);
    assert_eq!(appliance.closed(client.flow), (ClosedReason::Stray, 0));
    for _ in 0..5 {
        appliance.send_packet(client.flow, &packet);
    }
    assert_eq!(appliance.ask_who_holds(client.flow, 1), None);
    assert!(!appliance.saw_reset(client.flow));
    assert_eq!((world.counter("guard_dropped"), world.counter("strays_sent")), (6, 1));

    // A pure ACK for no socket of an exempt address is the kernel's own business.
    let mut exempt = Client::new(42_012, 80);
    exempt.flow.endpoint = L4_SERVICE;
    let packet = exempt.packet(exempt.next, Flags::ACK, b"");
    appliance.send_packet(exempt.flow, &packet);
    assert!(appliance.segment(exempt.flow).header.flags.intersects(Flags::RST));
}

#[test]
fn a_fragment_for_a_guarded_address_is_dropped() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let client = Client::new(42_013, 80);
    let mut packet = client.packet(client.next, Flags::ACK, b"12345678");
    packet[6] = 0x20;
    packet[10..12].fill(0);
    let sum = ipos_wire::checksum::of(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    appliance.send_packet(client.flow, &packet);
    assert_eq!(appliance.ask_who_holds(client.flow, 1), None);
    assert_eq!(world.counter("fragments_dropped"), 1);
}

#[test]
fn a_sysctl_switched_off_later_costs_no_reset() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    crate::world::shell(&format!("ip netns exec {} sysctl -qw net.ipv4.tcp_sack=0", world.board_namespace()));
    let mut client = Client::new(42_014, 80);
    client.migrate(&mut appliance, 1);
    client.send(&mut appliance, request("/small").as_bytes());
    assert_eq!(appliance.ask_who_holds(client.flow, 1).map(|held| held.1), Some(1));
    assert!(!appliance.saw_reset(client.flow));
    assert_eq!(world.counter("assign_failed"), 1);
    let offered = appliance.message("a report", |message| match message {
        Message::ServerState(state) if !state.options.contains(OptionBits::SACK) => Some(state.options),
        _ => None,
    });
    assert!(offered.contains(OptionBits::TIMESTAMPS), "and the reports no longer offer it");
}

#[test]
fn an_unreported_listener_is_reported_when_it_appears() {
    let mut world = World::new(&Options::default());
    let mut appliance = world.appliance();
    world.start_agent();
    appliance.message("a report without listeners", |message| match message {
        Message::Listening(report) if report.rows().len() == 0 => Some(()),
        _ => None,
    });
    let _listener = world.inside_board(|| TcpListener::bind((SERVICE, 8088)).expect("listens"));
    assert_eq!(await_listener(&mut appliance, 8088).0, std::process::id());
}

/// A linear congruential generator (Numerical Recipes' numbers): the same frames in every run.
struct Random(u32);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        usize::try_from(self.0 >> 8).expect("24 bits") % limit
    }
}

fn mutate(frame: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(frame.len());
        frame[at] = u8::try_from(random.below(256)).expect("an octet");
    }
    if random.below(3) == 0 {
        frame.truncate(random.below(frame.len()));
    }
    // Half of them get past the checksum.
    if random.below(2) == 0 && frame.len() >= 16 {
        let covered = if frame[12] == 2 { 16 } else { frame.len() };
        frame[14..16].fill(0);
        let sum = ipos_wire::checksum::of(&frame[..covered]);
        frame[14..16].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn mutated_frames_do_no_harm() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let client = Client::new(42_020, 80);
    let mut connection = [0; ipos_wire::ipos::TcpConnection::LEN];
    client.connection(1).emit(&mut connection);
    let packet = client.packet(client.next, Flags::ACK, b"GET / HTTP/1.1");
    let mut encapsulated = vec![0; 16];
    ipos_wire::ipos::encapsulate(client.flow, Protocol::Tcp, &mut encapsulated);
    encapsulated.extend(&packet);
    let mut random = Random(12_345);
    let mut short = 0u64;
    for round in 0..10_000 {
        let mut frame = if round % 2 == 0 { connection.to_vec() } else { encapsulated.clone() };
        mutate(&mut frame, &mut random);
        short += u64::from(frame.len() < 16);
        appliance.send(&frame);
        if round % 100 == 99 {
            appliance.ask_who_holds(client.flow, 99);
            appliance.forget();
        }
    }
    let mut survivor = Client::new(42_021, 80);
    survivor.migrate(&mut appliance, 2);
    assert_eq!(survivor.get(&mut appliance, "/small").0, b"a small page\n");
    appliance.ask_who_holds(survivor.flow, 98);
    let count = |names: &[&str]| names.iter().map(|name| world.counter(name)).sum::<u64>();
    // Frames in = frames dropped, answered, left to the agent or passed on.
    let received = count(&["frames_received"]);
    let outcomes = count(&[
        "malformed",
        "bad_checksum",
        "unknown_type",
        "not_ours",
        "acks_sent",
        "acks_repeated",
        "udp_acks_sent",
        "clears_queued",
        "tombstone_answers",
        "busy_dropped",
        "packets_decapsulated",
        "detached_pending",
        "detaches_queued",
        "detaches_not_held",
        "moves_detached",
        "moves_busy",
        "moves_not_held",
        "questions_received",
        "resize_failed",
        "refused_no_listener",
        "refused_not_covered",
        "refused_queue_full",
        "refused_table_full",
        "refused_control_block",
        "refused_mss",
        "refused_mptcp",
        "refused_held",
        "refused_protocol",
    ]);
    // One too short for the ipOS header is malformed before its sender is looked at.
    assert_eq!(outcomes, received + short);
    assert!(count(&["bad_checksum"]) > 500 && count(&["packets_decapsulated"]) > 100, "the frames reach far");
}
