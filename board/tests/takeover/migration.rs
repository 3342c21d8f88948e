//! Endpoints that are taken over, and what becomes of them.

use ipos_wire::{
    ipos::{ClosedReason, HeldState},
    tcb::OptionBits,
    tcp::Flags,
};

use crate::{
    appliance::Answer,
    await_listener, board_with_nginx, board_with_python,
    client::{Client, request},
    large_page,
    world::{L4_SERVICE, Options, World},
};

#[test]
fn a_migrated_request_is_answered_by_nginx_and_the_connection_is_kept() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(40_001, 80);
    client.migrate(&mut appliance, 1);
    assert_eq!(client.get(&mut appliance, "/small").0, b"a small page\n");
    assert_eq!(client.get(&mut appliance, "/large").0, large_page());
    assert_eq!(appliance.ask_who_holds(client.flow, 9), Some((HeldState::Live, 1)));
    assert!(!appliance.saw_reset(client.flow));
    assert_eq!((world.counter("assigned"), world.counter("endpoints_held")), (1, 1));
}

#[test]
fn the_figures_ethertype_and_generic_xdp_work_as_well() {
    for (ethertype, xdp_mode) in [(0x0007, "native"), (0x0007, "generic"), (0x88b5, "generic")] {
        let (_world, mut appliance) =
            board_with_nginx(&Options { ethertype, xdp_mode, ..Options::default() });
        let mut client = Client::new(40_002, 80);
        client.migrate(&mut appliance, 1);
        assert_eq!(client.get(&mut appliance, "/large").0, large_page(), "{ethertype:#06x} {xdp_mode}");
    }
}

#[test]
fn every_set_of_options_is_continued_as_it_was_agreed_on() {
    let (_world, mut appliance) = board_with_nginx(&Options::default());
    for (options, window_scale) in (0..16).flat_map(|bits| [(bits, 0), (bits, 14)]) {
        let mut client = Client::new(41_000 + options * 2 + u16::from(window_scale == 14), 80);
        client.options = OptionBits(options);
        client.window_scale = window_scale;
        client.migrate(&mut appliance, u64::from(client.flow.client_port));
        assert_eq!(client.get(&mut appliance, "/large").0, large_page(), "options {options:#b}");
        assert!(!appliance.saw_reset(client.flow));
    }
}

#[test]
fn five_hundred_at_once_are_all_served() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let mut clients: Vec<Client> = (0..500).map(|n| Client::new(45_000 + n, 80)).collect();
    for client in &clients {
        appliance.send_connection(&client.connection(u64::from(client.flow.client_port)));
    }
    for client in &clients {
        appliance.await_ack(client.flow, u64::from(client.flow.client_port));
    }
    for client in &mut clients {
        client.send(&mut appliance, request("/small").as_bytes());
    }
    for client in &mut clients {
        assert_eq!(client.response(&mut appliance).0, b"a small page\n", "{}", client.flow);
        assert!(!appliance.saw_reset(client.flow));
    }
    assert_eq!((world.counter("endpoints_live"), world.counter("endpoints_held")), (500, 500));
}

#[test]
fn pythons_server_takes_over_too_and_its_end_is_told() {
    let (_world, mut appliance) = board_with_python();
    let mut client = Client::new(40_003, 8080);
    client.migrate(&mut appliance, 77);
    let (body, mut ended) = client.get(&mut appliance, "/page");
    assert_eq!(body, b"from python");
    while !ended {
        ended = client.receive(&mut appliance).1;
    }
    client.send_bare(&mut appliance, Flags::FIN | Flags::ACK);
    assert_eq!(appliance.closed(client.flow), (ClosedReason::Closed, 77));
}

#[test]
fn a_request_replayed_in_many_segments_is_served_whatever_their_order() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let head = format!("GET /small HTTP/1.1\r\nHost: x\r\nX-Padding: {}\r\n\r\n", "p".repeat(6900));
    let segments: Vec<&[u8]> = head.as_bytes().chunks(1400).collect();

    let mut client = Client::new(40_004, 80);
    client.migrate(&mut appliance, 1);
    for segment in &segments {
        client.send(&mut appliance, segment);
    }
    assert_eq!(client.response(&mut appliance).0, b"a small page\n");

    // The second overtakes the first: it must neither reset the connection nor be lost for good.
    let mut client = Client::new(40_005, 80);
    client.migrate(&mut appliance, 2);
    let (first, second) = (client.next, client.next + 1400);
    let early = client.packet(second, Flags::ACK, segments[1]);
    appliance.send_packet(client.flow, &early);
    let late = client.packet(first, Flags::ACK, segments[0]);
    appliance.send_packet(client.flow, &late);
    client.next = second;
    for segment in &segments[1..] {
        client.send(&mut appliance, segment);
    }
    assert_eq!(client.response(&mut appliance).0, b"a small page\n");
    assert!(!appliance.saw_reset(client.flow));
    assert_eq!(world.counter("first_packet_mismatch"), 1);
}

#[test]
fn a_repeated_attempt_is_acknowledged_again_and_served_once() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(40_006, 80);
    let connection = client.connection(5);
    for _ in 0..2 {
        appliance.send_connection(&connection);
        appliance.await_ack(client.flow, 5);
    }
    let first = client.packet(client.next, Flags::ACK | Flags::PSH, request("/small").as_bytes());
    appliance.send_packet(client.flow, &first);
    // The replay of system.md step 9: block and data again, because the client's acknowledgement was not seen yet.
    appliance.send_connection(&connection);
    appliance.await_ack(client.flow, 5);
    appliance.send_packet(client.flow, &first);
    client.next = client.next + u32::try_from(request("/small").len()).expect("short");
    assert_eq!(client.response(&mut appliance).0, b"a small page\n");
    assert_eq!(
        client.get(&mut appliance, "/small").0,
        b"a small page\n",
        "nothing of a second answer in between"
    );
    assert_eq!((world.counter("acks_repeated"), world.counter("endpoints_live")), (2, 1));
}

#[test]
fn a_closed_endpoint_is_a_tombstone_that_never_runs_the_request_again() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(40_007, 80);
    let connection = client.connection(6);
    client.migrate(&mut appliance, 6);
    client.get(&mut appliance, "/small");
    client.send_bare(&mut appliance, Flags::FIN | Flags::ACK);
    assert!(client.receive(&mut appliance).1, "nginx closes in turn");
    assert_eq!(appliance.closed(client.flow), (ClosedReason::Closed, 6));
    appliance.send_connection(&connection);
    assert_eq!(appliance.answer(client.flow, 6), Answer::Closed(ClosedReason::Closed));
    assert_eq!(appliance.ask_who_holds(client.flow, 60), None);
    assert_eq!((world.counter("tombstone_answers"), world.counter("endpoints_held")), (1, 0));
}

#[test]
fn a_client_that_closes_long_after_its_server_is_still_held_and_acknowledged() {
    let mut world = World::new(&Options::default());
    world.write_page("small", b"a small page\n");
    world.start_nginx("80", "keepalive_timeout 0;");
    let mut appliance = world.appliance();
    world.start_agent();
    await_listener(&mut appliance, 80);
    let mut client = Client::new(40_019, 80);
    client.migrate(&mut appliance, 1);
    let (_, mut ended) = client.get(&mut appliance, "/small");
    while !ended {
        ended = client.receive(&mut appliance).1;
    }
    // The kernel has told of the end already; the appliance forgets its entry, and asks when the client's FIN comes.
    assert_eq!(appliance.closed(client.flow), (ClosedReason::Closed, 1));
    // Not live: another board may hold a newer connection of the same ports.
    assert_eq!(appliance.ask_who_holds(client.flow, 2), Some((HeldState::Pending, 0)));
    appliance.forget();
    client.send_bare(&mut appliance, Flags::FIN | Flags::ACK);
    let last = appliance.segment(client.flow).header;
    assert_eq!((last.flags, last.ack), (Flags::ACK, client.next));
    assert!(!appliance.saw_reset(client.flow));
}

#[test]
fn a_reused_port_replaces_a_time_wait_and_a_forgotten_connection() {
    let (world, mut appliance) = {
        let mut world = World::new(&Options::default());
        world.write_page("small", b"a small page\n");
        world.start_nginx("80", "keepalive_timeout 0;");
        let mut appliance = world.appliance();
        world.start_agent();
        await_listener(&mut appliance, 80);
        (world, appliance)
    };
    // The server closes first, so it is the one that waits.
    let mut client = Client::new(40_008, 80);
    client.migrate(&mut appliance, 1);
    let (_, mut ended) = client.get(&mut appliance, "/small");
    while !ended {
        ended = client.receive(&mut appliance).1;
    }
    client.send_bare(&mut appliance, Flags::FIN | Flags::ACK);
    assert_eq!(appliance.closed(client.flow), (ClosedReason::Closed, 1));

    // A new connection from the same port, numbers below the old ones: the old socket would answer it wrongly.
    let mut second = Client::new(40_008, 80);
    second.next = client.next - 1_000_000;
    second.expected = client.expected - 1_000_000;
    second.established_at_us += 5_000_000;
    second.migrate(&mut appliance, 2);
    let first = second.packet(second.next, Flags::ACK | Flags::PSH, b"GET /small HTTP/1.1\r\n");
    appliance.send_packet(second.flow, &first);
    assert_eq!(world.counter("clears_queued"), 1);

    // That one is forgotten in the middle of its request; its socket is still there.
    let mut third = Client::new(40_008, 80);
    third.next = client.next + 77_000_000;
    third.expected = client.expected + 99_000_000;
    third.established_at_us += 9_000_000;
    assert_eq!(appliance.ask_who_holds(third.flow, 50), Some((HeldState::Live, 2)));
    third.migrate(&mut appliance, 3);
    assert_eq!(third.get(&mut appliance, "/small").0, b"a small page\n");
    assert!(!appliance.saw_reset(third.flow), "the resets of destroyed sockets are hidden");
    assert_eq!(world.counter("clears_queued"), 2);

    // A Connection Packet of the second that was delayed until now must not destroy the third.
    appliance.send_connection(&second.connection(4));
    assert_eq!(
        appliance.answer(second.flow, 4),
        Answer::Refused(ipos_wire::ipos::RefusalReason::HeldByOther)
    );
}

#[test]
fn a_pending_endpoint_is_given_up_in_the_kernel() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let client = Client::new(40_009, 80);
    client.migrate(&mut appliance, 10);
    assert_eq!(appliance.ask_who_holds(client.flow, 1), Some((HeldState::Pending, 10)));
    appliance.send_detach(client.flow, 11);
    assert_eq!(
        appliance.answer(client.flow, 11),
        Answer::Closed(ClosedReason::NotHeld),
        "another attempt's id"
    );
    appliance.send_detach(client.flow, 10);
    assert_eq!(appliance.answer(client.flow, 10), Answer::Closed(ClosedReason::Forced));
    assert_eq!(appliance.ask_who_holds(client.flow, 2), None);
    assert_eq!((world.counter("detached_pending"), world.counter("endpoints_held")), (1, 0));
}

#[test]
fn a_live_endpoint_is_given_up_without_a_word_to_its_client() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(40_010, 80);
    client.migrate(&mut appliance, 12);
    client.get(&mut appliance, "/small");
    appliance.send_detach(client.flow, 12);
    assert_eq!(appliance.answer(client.flow, 12), Answer::Closed(ClosedReason::Forced));
    assert_eq!(appliance.ask_who_holds(client.flow, 3), None);
    assert!(!appliance.saw_reset(client.flow));
    assert!(world.counter("egress_hidden") > 0, "there was a RST to hide");
    // What still arrives for it is stray, and the tombstone speaks of force.
    client.send_bare(&mut appliance, Flags::ACK);
    assert_eq!(appliance.closed(client.flow), (ClosedReason::Stray, 0));
    appliance.send_connection(&client.connection(12));
    assert_eq!(appliance.answer(client.flow, 12), Answer::Closed(ClosedReason::Forced));
}

#[test]
fn the_socket_is_the_truth_when_the_record_is_lost() {
    let (mut world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(40_011, 80);
    client.migrate(&mut appliance, 13);
    client.get(&mut appliance, "/small");
    world.stop_agent();
    assert!(world.agent_command("detach").status().expect("detach runs").success());
    appliance.forget();
    world.start_agent();
    appliance.message("a report of the new agent", |message| match message {
        ipos_wire::ipos::Message::ServerState(state) if state.sequence == 1 && state.endpoints_held == 0 => {
            Some(())
        }
        _ => None,
    });
    assert_eq!(appliance.ask_who_holds(client.flow, 4), Some((HeldState::Live, 0)));
    assert_eq!(client.get(&mut appliance, "/small").0, b"a small page\n");
}

#[test]
fn a_connection_that_the_boards_own_kernel_has_accepted_is_held_as_well() {
    let (world, mut appliance) = board_with_nginx(&Options::default());
    let mut client = Client::new(40_030, 80);
    client.flow.endpoint = L4_SERVICE;
    assert_eq!(appliance.ask_who_holds(client.flow, 1), None);
    appliance.send_packet(client.flow, &client.packet(client.next - 1, Flags::SYN, b""));
    let syn_ack = appliance.segment(client.flow).header;
    assert_eq!((syn_ack.flags, syn_ack.ack), (Flags::SYN | Flags::ACK, client.next));
    assert_eq!(appliance.ask_who_holds(client.flow, 2), Some((HeldState::Live, 0)), "in the making");
    client.expected = syn_ack.seq + 1;
    client.tsecr = syn_ack.options.timestamps.expect("the client has sent some").tsval;
    assert_eq!(client.get(&mut appliance, "/small").0, b"a small page\n");
    assert_eq!(appliance.ask_who_holds(client.flow, 3), Some((HeldState::Live, 0)));
    client.send_bare(&mut appliance, Flags::RST);
    assert_eq!(appliance.ask_who_holds(client.flow, 4), None);
    assert_eq!((world.counter("questions_held"), world.counter("questions_not_held")), (2, 2));
}

#[test]
fn pending_endpoints_and_tombstones_age_out() {
    let options = Options { pending_s: 1, tombstone_s: 1, ..Options::default() };
    let (world, mut appliance) = board_with_nginx(&options);
    let pending = Client::new(40_012, 80);
    pending.migrate(&mut appliance, 1);
    let mut closed = Client::new(40_013, 80);
    let connection = closed.connection(2);
    closed.migrate(&mut appliance, 2);
    closed.get(&mut appliance, "/small");
    closed.send_bare(&mut appliance, Flags::FIN | Flags::ACK);
    assert!(closed.receive(&mut appliance).1, "nginx closes in turn");
    assert_eq!(appliance.closed(closed.flow), (ClosedReason::Closed, 2));
    // Every report is an occasion to look again.
    let await_report = |appliance: &mut crate::appliance::Appliance| {
        appliance.message("a report", |message| match message {
            ipos_wire::ipos::Message::ServerState(state) => Some(state.endpoints_held),
            _ => None,
        })
    };
    while world.counter("pending_expired") == 0 || world.counter("tombstones_expired") == 0 {
        await_report(&mut appliance);
    }
    appliance.forget();
    assert_eq!(await_report(&mut appliance), 0);
    assert_eq!(appliance.ask_who_holds(pending.flow, 3), None);
    appliance.send_connection(&connection);
    assert_eq!(appliance.answer(closed.flow, 2), Answer::Acknowledged, "nothing is known of it any more");
}

#[test]
fn another_boards_socket_of_the_same_flow_is_not_ours() {
    let (_one, mut first) = board_with_nginx(&Options::default());
    let (_other, mut second) = board_with_nginx(&Options::default());
    let mut client = Client::new(40_014, 80);
    client.migrate(&mut first, 1);
    client.migrate(&mut second, 2);
    client.get(&mut first, "/small");
    assert_eq!(first.ask_who_holds(client.flow, 3), Some((HeldState::Live, 1)));
    assert_eq!(second.ask_who_holds(client.flow, 4), Some((HeldState::Pending, 2)));
    client.send_bare(&mut first, Flags::FIN | Flags::ACK);
    assert!(client.receive(&mut first).1);
    assert_eq!(first.closed(client.flow), (ClosedReason::Closed, 1));
    assert_eq!(second.ask_who_holds(client.flow, 5), Some((HeldState::Pending, 2)));
}
